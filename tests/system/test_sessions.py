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
from tests.system.support import PATIENCE_S, PRLCTL, eventually, left_behind
from tests.system.tcp_pair import Live, Pair, receive

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


def objects(pair: Pair) -> tuple[dict[str, int], dict[str, int]]:
    """Of the owner's sessions, and of the shadows."""
    return pair.ask(pair.owner, "stats")["sessions"], pair.ask(pair.other, "stats")["shadows"]


def await_idle(pair: Pair, count: int) -> None:
    """Until prld has no object of so many sessions, and there are no others."""
    idle = {"in_hand": 0, "noted": count}
    eventually(f"{count} sessions need no object", lambda: objects(pair) == (idle, idle))


def talk(*lives: Live) -> None:
    """A request and an answer of each, read by both applications."""
    for live in lives:
        live.peer.sendall(b"to you")
        for sock in (live.app, live.standby):
            assert receive(sock, 6) == b"to you"
        live.app.sendall(b"and back")
        assert receive(live.peer, 8) == b"and back"


def test_sessions_that_nothing_happens_to_need_no_object() -> None:
    """What is asked of them, what happens to them and what ends them finds them all the same."""
    with support.pair("idle") as lab, Pair(lab) as pair:
        first, second, third, last = lives = [pair.session(family) for family in (4, 6, 4, 6)]
        talk(first, last)
        await_idle(pair, 4)
        talk(*lives)
        await_idle(pair, 4)  # packets need none
        for name in (pair.owner, pair.other):
            assert [flow["state"] for flow in support.flows(lab, name)] == ["active"] * 4
        assert objects(pair)[0]["noted"] == 4  # nor does a list
        assert pair.ask(pair.owner, "status")["switchover_safe"]
        shown = pair.ask(pair.owner, "flow_show", handle=third.session.handle)["flow"]
        assert (shown["state"], shown["application"] != "") == ("active", True)
        assert objects(pair)[0] == {"in_hand": 1, "noted": 3}
        pair.ask(pair.owner, "flow_resync", handle=third.session.handle)
        third.shadow = pair.next_shadow()
        await_idle(pair, 4)
        # Two end: by its peer, and by its application.
        first.peer.close()
        first.app.close()
        first.session.close()
        second.session.close()
        second.peer.close()
        second.app.close()
        await_idle(pair, 2)
        assert last.shadow.committed().out_bytes == 2 * len(b"and back")
        await_idle(pair, 2)
        out_bytes = {third.peer: len(b"and back"), last.peer: 2 * len(b"and back")}
        pair.fail_over()
        for live in (third, last):
            assert live.shadow.wait_taken_over(PATIENCE_S).out_bytes == out_bytes[live.peer]
            live.peer.sendall(b"again")
            assert receive(live.standby, 5) == b"again"


def test_a_session_that_is_released_is_its_application_s_alone() -> None:
    with support.pair("release") as lab, Pair(lab) as pair:
        live = pair.session(4)
        talk(live)
        await_idle(pair, 1)
        pair.node(pair.owner).request({"op": "release"}, of=live.session)
        assert live.session.wait_state("closed", timeout=PATIENCE_S) == "closed"
        assert not support.flows(lab, pair.owner)
        live.peer.sendall(b"on")
        assert receive(live.app, 2) == b"on"
        live.app.close()
        assert live.peer.recv(1) == b""  # prld has no duplicate that keeps the FIN back


def test_no_two_sessions_say_the_same() -> None:
    said = {record(session, number) for session in range(20) for number in range(20)}
    assert len(said) == 400
    assert {len(one) for one in said} == {RECORD_BYTES}
    assert stream_sha256(1, 300) != stream_sha256(2, 300)
