"""A socket of a session that prld may take out of use, in the loop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from prl.bgpfront import pipe as module
from prl.bgpfront.pipe import Pipe

TIMEOUT_S = 60.0


class InRepair(socket.socket):
    """Every call fails as in repair mode (tcp_recvmsg, tcp_sendmsg), as long as it is so."""

    in_repair = False

    def recv(self, *given: Any) -> bytes:
        if self.in_repair:
            raise PermissionError(1, "Operation not permitted")
        return super().recv(*given)

    def send(self, *given: Any) -> int:
        if self.in_repair:
            raise PermissionError(1, "Operation not permitted")
        return super().send(*given)


class Both:
    """The pipe, and who is at its other end."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.near = InRepair(fileno=near.detach())
        self.got = bytearray()
        self.ends: list[str] = []
        self.out = bytearray()
        self.changed = asyncio.Event()
        self.pipe = Pipe(self.near, received=self._received, ended=self._ended)
        self.pipe.writes(self.out, lambda: len(self.out), lambda _: self.changed.set())
        self.pipe.read(on=True)

    def _received(self, data: bytes) -> None:
        self.got += data
        self.changed.set()

    def _ended(self, why: str) -> None:
        self.ends.append(why)
        self.changed.set()

    async def until(self, good: Callable[[], bool]) -> None:
        while not good():
            self.changed.clear()
            await self.changed.wait()


def play(story: Callable[[Both], Awaitable[None]]) -> None:
    async def run() -> None:
        both = Both()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await story(both)
        finally:
            both.pipe.close()
            both.far.close()

    asyncio.run(run())


def test_a_moment_of_repair_mode_is_no_end() -> None:
    async def story(both: Both) -> None:
        both.near.in_repair = True
        both.far.send(b"heard")
        both.out += b"said"
        both.pipe.flush()
        await asyncio.sleep(3 * module.REPAIR_LOOK_S)
        assert (both.got, both.ends, both.out) == (b"", [], b"said")
        both.near.in_repair = False
        await both.until(lambda: both.got == b"heard" and not both.out)
        assert both.far.recv(9) == b"said"
        both.near.in_repair = True
        both.far.close()
        await asyncio.sleep(3 * module.REPAIR_LOOK_S)
        assert not both.ends
        both.near.in_repair = False
        await both.until(lambda: both.ends == ["it was closed"])

    play(story)


def test_what_is_not_wanted_does_not_come_afterwards() -> None:
    async def story(both: Both) -> None:
        both.near.in_repair = True
        both.far.send(b"heard")
        await asyncio.sleep(2 * module.REPAIR_LOOK_S)
        both.pipe.read(on=False)
        both.near.in_repair = False
        await asyncio.sleep(2 * module.REPAIR_LOOK_S)
        assert not both.got
        both.pipe.read(on=True)
        await both.until(lambda: both.got == b"heard")

    play(story)


def test_a_socket_that_nobody_gives_back_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPAIR_MAX_S", 0.1)

    async def story(both: Both) -> None:
        both.near.in_repair = True
        both.far.send(b"heard")
        await both.until(lambda: bool(both.ends))
        assert both.ends == ["prld has taken the socket out of use"]

    play(story)


def test_each_time_has_the_whole_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nothing was read or written in between, by which the first one would have ended."""
    monkeypatch.setattr(module, "REPAIR_MAX_S", 0.2)

    async def story(both: Both) -> None:
        both.near.in_repair = True
        both.far.send(b"heard")
        await asyncio.sleep(2 * module.REPAIR_LOOK_S)
        both.pipe.read(on=False)
        both.near.in_repair = False
        await asyncio.sleep(2 * module.REPAIR_MAX_S)
        both.near.in_repair = True
        both.pipe.read(on=True)
        await asyncio.sleep(2 * module.REPAIR_LOOK_S)
        assert not both.ends
        both.near.in_repair = False
        await both.until(lambda: both.got == b"heard")

    play(story)


def test_it_may_be_closed_meanwhile() -> None:
    async def story(both: Both) -> None:
        both.near.in_repair = True
        both.far.send(b"heard")
        await asyncio.sleep(0)
        both.pipe.close()
        await asyncio.sleep(2 * module.REPAIR_LOOK_S)
        assert not both.ends

    play(story)
