"""Many sessions, IPv4 and IPv6, talking while their host loses its power: all go on, exactly.

Checks R22.
"""

import json
import os
import subprocess

import pytest

from prl.client import NotProtectedError
from prl.demo.records import RECORD_BYTES, record, stream_sha256
from prl.errors import ReplicationError
from prl.lab import Lab
from tests.system import support
from tests.system.support import PRLCTL, left_behind
from tests.system.tcp_pair import Pair

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops")

COUNT = 300
NAME = f"many-{os.getpid()}"
TIMES = ("protect_ms", "in_force_ms", "first_segment_ms", "told_ms", "pause_ms")


def test_all_of_many_sessions_go_on() -> None:
    argv = ["-j", "demo", "sessions", "--count", str(COUNT), "--family", "both"]
    done = subprocess.run(
        [PRLCTL, *argv, "--lab-name", NAME],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    facts = json.loads(done.stdout)
    assert facts["survived"], f"{facts['why']}\n{done.stderr}"
    assert done.returncode == 0
    assert (facts["scenario"], facts["family"]) == ("sessions", "both")
    assert facts["bytes"]["sent"] == facts["bytes"]["received"]
    assert facts["bytes"]["sent"] % RECORD_BYTES == 0
    assert 0 < facts["bytes"]["primary"] < facts["bytes"]["sent"]
    assert facts["sha256"]["sent"] == facts["sha256"]["received"]
    assert facts["primary_prefix"] is True
    sessions = facts["sessions"]
    assert sessions["count"] == sessions["continued"] == COUNT
    assert all(sessions[name]["max"] > 0 for name in TIMES)
    assert not left_behind(Lab(NAME).topology)


def test_one_more_than_there_may_be_is_refused_with_what_to_do() -> None:
    with support.pair("f8m", flows_max=1) as lab, Pair(lab) as pair:
        _, first = pair.connect(4)
        with pytest.raises(NotProtectedError):  # nobody shadows it over there; its flow is there
            pair.node("re0").replicate(first)
        _, second = pair.connect(4)
        with pytest.raises(ReplicationError, match="flows_max"):
            pair.node("re0").replicate(second)


def test_no_two_sessions_say_the_same() -> None:
    said = {record(session, number) for session in range(20) for number in range(20)}
    assert len(said) == 400
    assert {len(one) for one in said} == {RECORD_BYTES}
    assert stream_sha256(1, 300) != stream_sha256(2, 300)
