"""Programs are stopped for a moment, see nothing of it, and always go on (R17)."""

import os
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prl.daemon.freezer import FreezeError, Freezer

pytestmark = pytest.mark.needs("root")

PROGRAM = str(Path(__file__).with_name("stoppable.py"))
ROUNDS = 100
LONG_S = 0.05
TRACER = """
import os, sys
from prl.daemon.freezer import Freezer
def work(pause):
    with pause():
        os.write(1, b"stopped")
        os.read(0, 1)
Freezer(lambda: [int(sys.argv[1])]).run(work)
"""


@pytest.fixture
def program() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def is_counting(process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    """Whether it says something from now on."""
    assert process.stdout is not None
    while select.select([process.stdout], [], [], 0)[0]:
        os.read(process.stdout.fileno(), 1 << 16)
    return bool(select.select([process.stdout], [], [], timeout_s)[0])


def test_nothing_of_it_runs_meanwhile_and_nothing_notices(
    program: "subprocess.Popen[bytes]", record_property: Callable[[str, object], None]
) -> None:
    freezer = Freezer(lambda: [program.pid])
    stood_ns = []
    for _ in range(ROUNDS):
        freezer.run(lambda pause: _pass_through(pause()))
        stood_ns.append(freezer.last_ns)

    def look(pause: object) -> bool:
        with pause():  # type: ignore[operator]
            return is_counting(program, LONG_S)

    assert not freezer.run(look)
    assert is_counting(program, 10.0)
    assert program.poll() is None
    record_property("stood_us", statistics.median(stood_ns) / 1000)


def _pass_through(pause: object) -> None:
    with pause:  # type: ignore[attr-defined]
        pass


def test_it_goes_on_when_the_work_fails(program: "subprocess.Popen[bytes]") -> None:
    def work(pause: object) -> None:
        with pause():  # type: ignore[operator]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        Freezer(lambda: [program.pid]).run(work)
    assert is_counting(program, 10.0)


def test_it_goes_on_when_who_stopped_it_is_killed(program: "subprocess.Popen[bytes]") -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRACER, str(program.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.read(7) == b"stopped"
        assert not is_counting(program, LONG_S)
        with pytest.raises(FreezeError, match="is it being traced"):
            Freezer(lambda: [program.pid]).run(lambda pause: _pass_through(pause()))
        tracer.send_signal(signal.SIGKILL)
    assert is_counting(program, 10.0)
    assert program.poll() is None


def test_a_signal_is_not_lost(program: "subprocess.Popen[bytes]") -> None:
    def work(pause: object) -> None:
        with pause():  # type: ignore[operator]
            program.terminate()
            assert program.poll() is None

    Freezer(lambda: [program.pid]).run(work)
    assert program.wait(10) == -signal.SIGTERM
