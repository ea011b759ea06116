"""One look through /proc for all who ask at the same time (R29)."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack

import pytest

from prl.kernel import descriptors
from prl.kernel.descriptors import Holder
from prl.kernel.scan import Scan

PEERS = 300


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sockets each look was for."""
    made: list[int] = []
    look: Callable[..., dict[int, list[Holder]]] = descriptors.holders_of_each

    def counted(
        inodes: Collection[int], among: Iterable[int] | None = None
    ) -> dict[int, list[Holder]]:
        made.append(len(inodes))
        return look(inodes, among)

    monkeypatch.setattr(descriptors, "holders_of_each", counted)
    return made


def test_many_connections_at_once_take_a_look_or_two(looks: list[int]) -> None:
    program = "import sys; sys.stdin.read()"
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(PEERS)]
        fds = [sock.fileno() for sock in socks]
        having = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, pass_fds=fds)
        )
        inodes = [os.fstat(fd).st_ino for fd in fds]

        async def ask() -> list[list[Holder]]:
            scan = Scan()
            return await asyncio.gather(
                *(scan.holders_of(inode) for inode in inodes),
                *(scan.holders_of(inode, [having.pid]) for inode in inodes),
                *(scan.holders_of(inode, [os.getppid()]) for inode in inodes),
            )

        found = asyncio.run(ask())
        having.communicate()
    theirs = [[Holder(having.pid, fd)] for fd in fds]
    assert found == [*theirs, *theirs, *([] for _ in fds)]
    assert looks == [PEERS, PEERS]


def test_who_asks_during_a_look_is_answered_by_the_next(
    looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection may have been accepted behind the place that the look has reached."""

    async def story() -> None:
        loop, scan = asyncio.get_running_loop(), Scan()
        later: list[asyncio.Task[list[Holder]]] = []
        asked = asyncio.Event()

        def during() -> None:
            later.extend(asyncio.ensure_future(scan.holders_of(n, [])) for n in (2, 3))
            asked.set()

        inner: Callable[..., dict[int, list[Holder]]] = descriptors.holders_of_each

        def look(inodes: Collection[int], among: Iterable[int]) -> dict[int, list[Holder]]:
            if not later:
                loop.call_soon_threadsafe(during)
            return inner(inodes, among)

        monkeypatch.setattr(descriptors, "holders_of_each", look)
        assert await scan.holders_of(1, []) == []
        await asked.wait()
        later[0].cancel()  # whoever waits no more is no question any more
        assert await later[1] == []

    asyncio.run(story())
    assert looks[0] == 1


def test_a_look_that_fails_fails_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[int, list[Holder]]:
        raise OSError("no /proc")

    async def story() -> None:
        scan = Scan()
        for _ in range(2):  # and the next one is not kept from asking
            with pytest.raises(OSError, match="no /proc"):
                await scan.holders_of(1)

    monkeypatch.setattr(descriptors, "holders_of_each", fail)
    asyncio.run(story())
