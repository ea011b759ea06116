"""Who has a socket, of all processes of the host; looks through /proc are shared.

Checks R17.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from prl.kernel import scan
from prl.kernel.scan import Held, SocketHolders

WAITS = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture(name="sock")
def _sock() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        yield sock


@pytest.fixture(name="other")
def _other(sock: socket.socket) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has it twice."""
    twice = os.dup(sock.fileno())
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[sock.fileno(), twice],
    ) as process:
        os.close(twice)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process
        process.kill()


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_whoever_has_it_is_found_and_we_are_not(
    sock: socket.socket, other: "subprocess.Popen[bytes]"
) -> None:
    async def story() -> None:
        found = SocketHolders()
        assert await found.of(inode(sock)) == [other.pid]
        other.kill()
        other.wait()
        assert await SocketHolders().of(inode(sock)) == []

    asyncio.run(story())


def test_what_a_look_has_found_is_kept_by_socket() -> None:
    highest = (1 << 22) - 1
    pairs = [(7, 30), (9, highest), (8, 1), (7, 20), (7, 30), (2**32 - 1, 5)]
    held = Held(pairs)
    assert [held.by(number) for number in (6, 7, 8, 9, 10)] == [[], [20, 30], [1], [highest], []]
    assert held.by(2**32 - 1) == [5]
    assert Held(()).by(7) == []


class Looks:
    """In place of /proc: says what it is told, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[int, list[int]] = {1: [10]}
        self.count = 0
        monkeypatch.setattr(scan, "sockets_of_processes", self._look)

    def _look(self) -> Held:
        self.count += 1
        return Held((inode, pid) for inode, pids in self.found.items() for pid in pids)


def test_who_asks_at_the_same_time_shares_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)

    async def story() -> list[list[int]]:
        found = SocketHolders()
        return await asyncio.gather(*(found.of(number) for number in (1, 1, 2, 1)))

    assert asyncio.run(story()) == [[10], [10], [], [10]]
    assert looks.count <= 2  # that of the first, and one for whoever asked while it was made


def test_what_was_not_found_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)

    async def story() -> None:
        found = SocketHolders()
        assert await found.of(2) == []
        looks.found[2] = [20]
        assert await found.of(2) == [20]

    asyncio.run(story())


def test_a_look_is_not_used_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    monkeypatch.setattr(scan, "LOOK_SHARE", 0)

    async def story() -> None:
        found = SocketHolders()
        assert await found.of(1) == [10]
        looks.found[1] = [10, 11]
        assert await found.of(1) == [10, 11]

    asyncio.run(story())
