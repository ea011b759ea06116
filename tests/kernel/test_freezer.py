"""Programs are stopped for a moment, see nothing of it, and always go on (R17)."""

import asyncio
import errno
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from prl.daemon.programs import sentinel
from prl.kernel.freezer import SHARED_MAX, FreezeError, Freezer, Tracer
from prl.kernel.tracing import THREADS_MAX

pytestmark = pytest.mark.needs("root")

PROGRAM = str(Path(__file__).with_name("stoppable.py"))
ROUNDS = 100
LONG_S = 0.05
PIECES = SHARED_MAX + 3
FORGOTTEN, FAILS = 2, 5
CONNECT = {"x86_64": 42, "aarch64": 203}[platform.machine()]
TRACER = """
import os, sys
from prl.daemon.programs import sentinel
with sentinel.posted(()) as posted:
    posted.stop([int(sys.argv[1])])
    os.write(1, b"stopped")
    os.read(0, 1)
"""

TRACED = """
import ctypes, time
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0  # PTRACE_TRACEME
print("traced", flush=True)
time.sleep(600)
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


@pytest.fixture(scope="module", name="tracer")
def of_a_process() -> Iterator[Tracer]:
    with sentinel.posted(()) as posted:
        yield posted


def is_counting(process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    """Whether it says something from now on."""
    assert process.stdout is not None
    while select.select([process.stdout], [], [], 0)[0]:
        os.read(process.stdout.fileno(), 1 << 16)
    return bool(select.select([process.stdout], [], [], timeout_s)[0])


def test_nothing_of_it_runs_meanwhile_and_nothing_notices(
    program: "subprocess.Popen[bytes]",
    tracer: Tracer,
    record_property: Callable[[str, object], None],
) -> None:
    freezer = Freezer(lambda: [program.pid])
    stood_ns = []
    for _ in range(ROUNDS):
        with freezer.paused(tracer):
            pass
        stood_ns.append(freezer.last_ns)
    with freezer.paused(tracer):
        assert not is_counting(program, LONG_S)
    assert is_counting(program, 10.0)
    assert program.poll() is None
    record_property("stood_us", statistics.median(stood_ns) / 1000)


CONNECTING = """
import ctypes, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
listener = socket.create_server(("127.0.0.1", 0), backlog=0)
full = [socket.socket() for _ in range(8)]  # nobody accepts: further SYNs go unanswered
for sock in full:
    sock.setblocking(False)
    sock.connect_ex(listener.getsockname())
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 600, 0))
host, port = listener.getsockname()
where = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(host))
print("ready", flush=True)
libc.connect(one.fileno(), where, len(where))
print(ctypes.get_errno(), flush=True)
"""


def test_a_call_that_is_not_the_same_again_is_not_begun_again(tracer: Tracer) -> None:
    """As close(), whose descriptor is another one by then; of connect() it shows in the result."""
    with subprocess.Popen(
        [sys.executable, "-c", CONNECTING], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until_it_waits(process.pid)
        with Freezer(lambda: [process.pid]).paused(tracer):
            pass
        assert int(process.stdout.readline()) == errno.EINTR


def wait_until_it_waits(pid: int) -> None:
    """Until its main thread is in connect()."""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/syscall").read_text().split()[0] != str(CONNECT):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_it_goes_on_when_the_work_fails(program: "subprocess.Popen[bytes]", tracer: Tracer) -> None:
    with pytest.raises(RuntimeError), Freezer(lambda: [program.pid]).paused(tracer):
        raise RuntimeError
    assert is_counting(program, 10.0)


def test_what_is_asked_for_at_the_same_time_shares_a_stop(
    program: "subprocess.Popen[bytes]", tracer: Tracer
) -> None:
    """Each gets its own result; one that nobody waits for any more is not done."""
    done: list[int] = []
    stops = 0

    def pids() -> list[int]:
        nonlocal stops
        stops += 1
        return [program.pid]

    def piece(number: int) -> int:
        done.append(number)
        if number == FAILS:
            raise RuntimeError
        return number

    async def story() -> list[int | BaseException]:
        freezer = Freezer(pids)
        asked = [
            asyncio.ensure_future(freezer.share(tracer, partial(piece, n))) for n in range(PIECES)
        ]
        await asyncio.sleep(0)
        asked[FORGOTTEN].cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(story())
    assert done == [n for n in range(PIECES) if n != FORGOTTEN]
    assert isinstance(results.pop(FAILS), RuntimeError)
    assert isinstance(results.pop(FORGOTTEN), asyncio.CancelledError)
    assert results == [n for n in range(PIECES) if n not in {FORGOTTEN, FAILS}]
    assert stops == 2
    assert is_counting(program, 10.0)


def test_all_are_told_when_it_cannot_be_stopped(tracer: Tracer) -> None:
    async def story() -> list[int | BaseException]:
        freezer = Freezer(lambda: range(1, THREADS_MAX + 2))
        return await asyncio.gather(
            *(freezer.share(tracer, lambda: 1) for _ in range(2)), return_exceptions=True
        )

    results = asyncio.run(story())
    assert [type(result) for result in results] == [FreezeError, FreezeError]


def test_others_that_have_the_socket_stand_too_and_one_that_cannot_costs_only_its_own(
    program: "subprocess.Popen[bytes]", tracer: Tracer
) -> None:
    """A stranger is traced already: by us, as a debugger would."""
    with subprocess.Popen([sys.executable, "-c", TRACED], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"traced\n"

        async def story() -> list[str | BaseException]:
            freezer = Freezer(list)
            return await asyncio.gather(
                freezer.share(tracer, lambda: state_of(program.pid), [program.pid]),
                freezer.share(tracer, lambda: state_of(stranger.pid), [program.pid, stranger.pid]),
                freezer.share(tracer, lambda: state_of(program.pid), [program.pid]),
                return_exceptions=True,
            )

        first, refused, last = asyncio.run(story())
        stranger.kill()
    assert (first, last) == ("t", "t")
    assert isinstance(refused, FreezeError)
    assert f"process {stranger.pid} (" in str(refused)
    assert "traced" in str(refused)
    assert is_counting(program, 10.0)


def state_of(pid: int) -> str:
    """As in proc(5): t is a tracing stop."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2]


def test_it_goes_on_when_who_stopped_it_is_killed(
    program: "subprocess.Popen[bytes]", tracer: Tracer
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRACER, str(program.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.read(7) == b"stopped"
        assert not is_counting(program, LONG_S)
        with pytest.raises(FreezeError, match="is it being traced"):
            tracer.stop([program.pid])
        other.send_signal(signal.SIGKILL)
    assert is_counting(program, 10.0)
    assert program.poll() is None


def test_a_signal_is_not_lost(program: "subprocess.Popen[bytes]", tracer: Tracer) -> None:
    with Freezer(lambda: [program.pid]).paused(tracer):
        program.terminate()
        assert program.poll() is None
    assert program.wait(10) == -signal.SIGTERM


def test_who_is_killed_while_it_stands_is_over_for_its_parent(
    program: "subprocess.Popen[bytes]", tracer: Tracer
) -> None:
    """What a tracer does not wait for stays a zombie, and its parent waits in vain."""
    with Freezer(lambda: [program.pid]).paused(tracer):
        program.kill()
    assert program.wait(10) == -signal.SIGKILL
