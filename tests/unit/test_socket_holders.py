"""Who has a socket, of all processes of the host; looks through /proc are shared.

Checks R17.
"""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from prl.kernel import scan
from prl.kernel.descriptors import Holder, references_by
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


def test_whoever_has_it_is_found_and_we_are_not(
    sock: socket.socket, other: "subprocess.Popen[bytes]"
) -> None:
    async def story() -> None:
        found = await SocketHolders().of(sock)
        assert [one.pid for one in found] == [other.pid] * 2
        assert sock.fileno() in [one.fd for one in found]
        assert references_by(found, sock.fileno()) == len(found)
        other.kill()
        other.wait()
        assert references_by(found, sock.fileno()) is None
        assert await SocketHolders().of(sock) == []

    asyncio.run(story())


def test_who_most_likely_has_it_is_looked_at_first(
    sock: socket.socket, other: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        looked: list[object] = []
        real = scan.sockets_of_processes

        def look(pids: object = None) -> Held:
            looked.append(pids)
            return real(cast(Any, pids))

        monkeypatch.setattr(scan, "sockets_of_processes", look)
        holders = SocketHolders()
        assert {one.pid for one in await holders.of(sock, [other.pid])} == {other.pid}
        assert looked == [[other.pid]]
        assert await holders.of(sock, [other.pid])
        assert len(looked) == 1, "it is known by now"
        with socket.socket() as another:
            assert await holders.of(another, [other.pid]) == []
        assert looked == [[other.pid], [other.pid], None]

    asyncio.run(story())


def test_a_table_of_descriptors_that_is_shared_counts_once(
    sock: socket.socket, other: "subprocess.Popen[bytes]"
) -> None:
    """As threads do, and processes may: each has a folder in /proc with the same descriptors."""
    end = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ident = pool.submit(threading.get_native_id).result()
        pool.submit(end.wait)
        fd = sock.fileno()
        ours, threads, theirs = (Holder(pid, fd) for pid in (os.getpid(), ident, other.pid))
        assert references_by([ours, threads], fd) == 1
        assert references_by([ours, threads, theirs], fd) == references_by([theirs, ours], fd) == 2
        end.set()


def test_a_descriptor_of_another_socket_is_not_one_of_it(sock: socket.socket) -> None:
    with socket.socket() as another:
        ours = Holder(os.getpid(), sock.fileno())
        assert references_by([ours], sock.fileno()) == 1
        assert references_by([ours, Holder(os.getpid(), another.fileno())], sock.fileno()) is None
    assert references_by([], sock.fileno()) == 0


def test_what_a_look_has_found_is_kept_by_socket() -> None:
    highest = (1 << 22) - 1
    found = [
        (7, 30, 4),
        (9, highest, 2**31 - 1),
        (8, 1, 0),
        (7, 20, 9),
        (7, 30, 3),
        (2**32 - 1, 5, 6),
    ]
    held = Held(found)
    assert [held.by(number) for number in (6, 8, 10, 7 + 1024)] == [[], [Holder(1, 0)], [], []]
    assert set(held.by(7)) == {Holder(20, 9), Holder(30, 3), Holder(30, 4)}
    assert held.by(9) == [Holder(highest, 2**31 - 1)]
    assert held.by(2**32 - 1) == [Holder(5, 6)]
    assert Held(()).by(7) == []


class Looks:
    """In place of /proc: says that this process has some sockets, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *known: socket.socket) -> None:
        self.known = list(known)
        self.count = 0
        monkeypatch.setattr(scan, "sockets_of_processes", self._look)

    def holders(self, sock: socket.socket) -> list[Holder]:
        return [Holder(os.getpid(), sock.fileno())] if sock in self.known else []

    def _look(self) -> Held:
        self.count += 1
        return Held(
            (os.fstat(one.fileno()).st_ino, os.getpid(), one.fileno()) for one in self.known
        )


@pytest.fixture(name="another")
def _another() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        yield sock


def test_who_asks_at_the_same_time_shares_a_look(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, another: socket.socket
) -> None:
    looks = Looks(monkeypatch, sock)

    async def story() -> None:
        found = SocketHolders()
        asked = (sock, sock, another, sock)
        has = await asyncio.gather(*map(found.of, asked))
        assert has == [looks.holders(one) for one in asked]
        assert looks.count == 2  # that of all who asked at first, and one for who was not found
        has = await asyncio.gather(*map(found.look, asked))
        assert has == [looks.holders(one) for one in asked]
        assert looks.count <= 4

    asyncio.run(story())


def test_what_was_not_found_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket
) -> None:
    looks = Looks(monkeypatch)

    async def story() -> None:
        found = SocketHolders()
        assert await found.of(sock) == []
        looks.known.append(sock)
        assert await found.of(sock) == looks.holders(sock) != []

    asyncio.run(story())


def test_whoever_has_closed_it_since_is_not_believed_to_have_it(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket
) -> None:
    looks = Looks(monkeypatch, sock)
    again = sock.dup()

    async def story() -> None:
        found = SocketHolders()
        assert await found.of(again) == looks.holders(sock)
        looks.known.clear()
        assert await found.of(again) != []  # kept: it is so still
        sock.close()
        assert await found.of(again) == []

    with again:
        asyncio.run(story())


def test_what_nobody_asks_for_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket
) -> None:
    looks = Looks(monkeypatch, sock)
    monkeypatch.setattr(scan, "KEPT_S", 0.0)

    async def story() -> None:
        found = SocketHolders()
        assert await found.of(sock) == looks.holders(sock)
        looks.known.clear()
        loop = asyncio.get_running_loop()
        later = loop.create_future()
        loop.call_later(0.001, later.set_result, None)  # behind what was to be done before
        await later
        assert await found.of(sock) == []

    asyncio.run(story())
