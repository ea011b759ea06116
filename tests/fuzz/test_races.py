"""The datapath's threads against calls of the control plane, under the thread sanitizer."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.fuzz.targets import KEPT, RACES, build

CALLS = 50_000
pytestmark = pytest.mark.needs("tsan")


@pytest.fixture(scope="module")
def program() -> Path:
    return build([RACES], KEPT / "build")[RACES]


def race(program: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The sanitizer wants its addresses where they were before they were randomized so much."""
    return subprocess.run(
        ["setarch", "-R", str(program), str(CALLS), *words],
        env=os.environ | {"TSAN_OPTIONS": "halt_on_error=1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_call_races_with_the_datapath_s_thread(program: Path) -> None:
    done = race(program)
    assert done.returncode == 0, done.stderr[-5000:]
    counts = dict(re.findall(r"(\w+) (\d+)", done.stdout))
    assert all(int(counts[what]) > 0 for what in ("passes", "events", "protected")), counts


def test_who_looks_without_the_lock_is_found(program: Path) -> None:
    done = race(program, "unlocked")
    assert done.returncode != 0
    assert "data race" in done.stderr
    assert "look_without_lock" in done.stderr
