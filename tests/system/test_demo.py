"""The demos, as a user runs them: a session survives, and every field of the verdict is exact.

Checks R22.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prl.demo.payload import Payload

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "socat")

SIZE = 64 << 20  # half of it takes longer than a failure takes to come about
NAME = f"dtest-{os.getpid()}"
PRLCTL = str(Path(sys.executable).with_name("prlctl"))
KEYS = {
    *("schema", "scenario", "peer", "family", "mode", "survived", "inconclusive"),
    *("bytes", "sha256", "primary_prefix", "gap_ms", "detect_ms", "takeover_ms", "why"),
}


def demo(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [PRLCTL, "-j", "demo", *arguments], capture_output=True, text=True, timeout=150, check=False
    )
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["survived"], f"{facts['why']}\n{done.stderr}"
    assert done.returncode == 0
    return facts


def nothing_is_left() -> bool:
    left = list(Path("/run/netns").glob(f"{NAME}*"))
    return not left and not list(Path("/run/prl").glob(f"{NAME}*"))


@pytest.mark.parametrize("scenario", ["upload", "download", "echo"])
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("4", "native"),
        pytest.param("6", "generic", marks=pytest.mark.needs("long_packets")),
        pytest.param("6", "kernel", marks=pytest.mark.needs("nfqueue")),
    ],
)
def test_a_session_survives_the_loss_of_power(scenario: str, family: str, mode: str) -> None:
    size = SIZE // 4 if scenario == "echo" else SIZE
    facts = demo(
        scenario, "--size", str(size), "--family", family, "--mode", mode, "--lab-name", NAME
    )
    digest = Payload(size).sha256()
    assert facts.keys() == KEYS
    assert facts["schema"] == 1
    assert (facts["scenario"], facts["family"], facts["mode"]) == (scenario, int(family), mode)
    assert facts["bytes"]["sent"] == facts["bytes"]["received"] == size
    assert 0 < facts["bytes"]["primary"] < size
    assert facts["sha256"] == {"sent": digest, "received": digest}
    assert facts["primary_prefix"] is True
    assert facts["gap_ms"] > 0
    assert facts["why"] is None
    assert nothing_is_left()


@pytest.mark.parametrize("how", ["kill-app", "kill-prld"])
def test_a_session_survives_the_death_of_a_process(how: str) -> None:
    facts = demo("upload", "--size", str(SIZE), "--how", how, "--lab-name", NAME)
    assert facts["bytes"]["received"] == SIZE
    assert nothing_is_left()


def test_the_story_ends_with_a_verdict() -> None:
    done = subprocess.run(
        [PRLCTL, "demo", "echo", "--size", "16M"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("SURVIVED echo with socat over IPv4 (native)")


def test_a_transfer_that_is_over_before_the_failure_is_no_loss() -> None:
    done = subprocess.run(
        [PRLCTL, "demo", "upload", "--size", "1M", "--lab-name", NAME],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("INCONCLUSIVE: upload with socat over IPv4")
    assert nothing_is_left()


def test_a_failed_set_up_is_one_line_and_leaves_nothing() -> None:
    done = subprocess.run(
        [PRLCTL, "demo", "echo", "--lab-name", "Not/A/Name"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "bad lab name" in done.stderr
