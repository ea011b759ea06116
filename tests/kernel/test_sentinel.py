"""prld ends, or is stopped, while it copies a program's socket: the program goes on (SPEC R17)."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from prl.daemon.programs import sentinel
from prl.daemon.programs.sentinel import leave_repair_mode
from prl.kernel.freezer import FreezeError
from prl.lab import stretch
from prl.shadow.sockopt import Repair, So, Tcp, get_int, set_int

pytestmark = pytest.mark.needs("root")

SERVICE, OTHER = "127.0.0.77", "127.0.0.78"
HANGS = 0
"""In place of a signal."""
PATIENCE_S = 20 * stretch.factor()
ECHO = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
while data := sock.recv(100):
    sock.send(data)
"""
PRLD = """
import os, signal, sys
from ipaddress import ip_address
from prl.daemon.programs import sentinel
from prl.kernel.descriptors import Holder, duplicate
from prl.shadow.sockopt import Repair, Tcp, set_int
address, pid, fd, number = sys.argv[1], *map(int, sys.argv[2:])
with sentinel.posted([ip_address(address)]) as posted:
    sock = duplicate(Holder(pid, fd), os.pidfd_open(pid))
    posted.stop([pid])
    set_int(sock, Tcp.REPAIR, Repair.ON)
    print(posted.pid, flush=True)
    if number:
        os.kill(os.getpid(), number)
    while True:
        pass
"""
"""What a prld does, as far as it gets."""


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The peer's end, and the program's."""
    with socket.create_server((SERVICE, 0)) as listener:
        peer = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
        accepted = listener.accept()[0]
    with peer, accepted:
        yield peer, accepted


@contextlib.contextmanager
def echoing(sock: socket.socket) -> Iterator["subprocess.Popen[bytes]"]:
    fd = sock.fileno()
    program = subprocess.Popen((sys.executable, "-c", ECHO, str(fd)), pass_fds=[fd])
    try:
        yield program
    finally:
        program.kill()
        program.wait()


def echo(peer: socket.socket) -> bytes:
    peer.send(b"?")
    return peer.recv(1)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL, HANGS])
def test_a_program_goes_on_whatever_happens_to_prld(
    connection: tuple[socket.socket, socket.socket], number: int
) -> None:
    """It is killed, stopped, or hangs. The program sees no error.

    Its socket has left repair mode before it goes on.
    """
    peer, accepted = connection
    fd = accepted.fileno()
    with echoing(accepted) as program:
        accepted.close()
        assert echo(peer) == b"?"
        prld = subprocess.Popen(
            (sys.executable, "-c", PRLD, SERVICE, *map(str, (program.pid, fd, int(number)))),
            stdout=subprocess.PIPE,
        )
        with prld:
            assert prld.stdout is not None
            its_pid = int(prld.stdout.readline())
            assert prld.wait(PATIENCE_S) == -signal.SIGKILL
        assert echo(peer) == b"?"
        assert program.poll() is None
        await_until(lambda: not is_alive(its_pid))


def await_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        select.select([], [], [], 0.01)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_it_goes_with_prld(connection: tuple[socket.socket, socket.socket]) -> None:
    """In order, nothing is looked for: a socket may be in repair mode for other reasons."""
    _, accepted = connection
    set_int(accepted, Tcp.REPAIR, Repair.ON)
    with sentinel.posted([ip_address(SERVICE)]) as posted:
        assert is_alive(posted.pid)
    assert not is_alive(posted.pid)
    assert get_int(accepted, Tcp.REPAIR) == Repair.ON


def test_without_it_nothing_is_stopped(connection: tuple[socket.socket, socket.socket]) -> None:
    _, accepted = connection
    with echoing(accepted) as program, sentinel.posted(()) as posted:
        os.kill(posted.pid, signal.SIGKILL)
        with pytest.raises(FreezeError, match="does not answer"):
            posted.stop([program.pid])


@pytest.mark.parametrize("address", [SERVICE, OTHER])
def test_a_new_prld_finds_what_a_former_one_left(
    connection: tuple[socket.socket, socket.socket], address: str
) -> None:
    """Of its own addresses, and no others: CRIU has sockets in repair mode, too."""
    peer, accepted = connection
    with echoing(accepted) as program:
        assert echo(peer) == b"?"
        os.kill(program.pid, signal.SIGSTOP)
        set_int(accepted, Tcp.REPAIR, Repair.ON)
        is_its = address == SERVICE
        assert leave_repair_mode({ip_address(address)}) == is_its
        assert get_int(accepted, Tcp.REPAIR) == (not is_its)
        if is_its:
            assert get_int(accepted, So.REUSEADDR) == 1
            os.kill(program.pid, signal.SIGCONT)
            assert echo(peer) == b"?"
