"""What an asyncio application has: sessions of its own, and shadows of the other node's."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from prl.aio.waiting import Bell, Polled
from prl.dialogue import Demoted, Given, News, State, TakenOver, Void
from prl.errors import NoDaemonError, PrlError, UsageError
from prl.shadow_socket import ShadowSocket, ShadowVoid, Takeover

STATES_KEPT: Final = 64
"""Changes that states() keeps for a reader that is behind; of more, the oldest are lost."""
VOID_WORD_TIMEOUT_S: Final = 1.0
_OVER: Final = frozenset({"demoted", "ended", "closed", "lost", "void"})

_Result = TypeVar("_Result")


class Connection(Protocol):
    """What a flow needs of its AsyncNode."""

    async def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask prld. Raises PrlError."""

    def forget(self, what: "AsyncSession | AsyncShadow") -> None:
        """Stop following a flow."""


class _Life:
    """The states of one flow: the present one, and the last ones for those who follow them."""

    def __init__(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason
        self._bell = Bell()
        self._past: deque[tuple[str, str]] = deque([(state, reason)], STATES_KEPT)
        self._count = 1

    def become(self, state: str, reason: str) -> None:
        if self.state in _OVER:
            return
        self.state, self.reason = state, reason
        self._past.append((state, reason))
        self._count += 1
        self._bell.ring()

    async def wait(self, states: tuple[str, ...]) -> str:
        beyond = self._beyond(self._count)
        await self._bell.wait_for(lambda: self.state in states if states else beyond())
        return self.state

    def _beyond(self, seen: int) -> Callable[[], bool]:
        return lambda: self._count > seen

    async def states(self) -> AsyncIterator[tuple[str, str]]:
        seen = 0
        state = ""
        while state not in _OVER:
            await self._bell.wait_for(self._beyond(seen))
            seen = max(seen, self._count - len(self._past))
            state, reason = self._past[seen - self._count]
            seen += 1
            yield state, reason


class AsyncSession:
    """A session that this application has on the owning node. Made by AsyncNode.replicate()."""

    def __init__(self, node: Connection, handle: int, state: str, reason: str) -> None:
        self._node = node
        self._life = _Life(state, reason)
        self.handle = handle
        """Its 32-bit number, as prlctl shows it."""

    @property
    def state(self) -> str:
        """One word.

        ``active`` (protected), ``setup``, ``voiding``, ``open`` (goes on, not protected),
        ``demoted`` (the other node has it), ``ended``, ``closed``, or ``lost`` (prld is gone).
        """
        return self._life.state

    @property
    def reason(self) -> str:
        """Why it is not active, in words."""
        return self._life.reason

    async def wait_state(self, *states: str) -> str:
        """Wait until the state is one of ``states`` (without any: until it changes); return it."""
        return await self._life.wait(states)

    def states(self) -> AsyncIterator[tuple[str, str]]:
        """Each state and its reason, from the first one on; ends when the session is over.

        A reader that falls more than STATES_KEPT changes behind misses the oldest.
        """
        return self._life.states()

    async def close(self) -> None:
        """End the session deliberately, on both nodes; close the socket as well."""
        with contextlib.suppress(UsageError, NoDaemonError):  # it has ended already
            await self._node.request({"op": "close", "handle": self.handle})

    def on_news(self, news: News) -> None:
        """Called by the AsyncNode."""
        if isinstance(news, State):
            self._life.become(news.state, news.reason)
        elif isinstance(news, Demoted):
            self._life.become("demoted", "the other node has the session now")

    def on_lost(self, reason: str) -> None:
        """Called by the AsyncNode when prld is gone."""
        self._life.become("lost", reason)


class AsyncShadow:
    """A session that lives on the other node; this application stands by for it."""

    def __init__(self, node: Connection, given: Given) -> None:
        self._node = node
        self._life = _Life("standby", "")
        self._takeover: Takeover | None = None
        self._sock = ShadowSocket(fileno=given.fd)
        self._sock.setblocking(False)
        self._polled = Polled(self._sock)
        self.handle = given.handle
        """Its 32-bit number, as prlctl shows it."""
        self.local = given.local
        """The service's end, ``addr:port``."""
        self.remote = given.remote
        """The peer's end, ``addr:port``; ``*`` for a UDP socket that is not connected."""
        self.application = given.application
        """What the other application gave to AsyncNode.replicate()."""

    @property
    def state(self) -> str:
        """One word.

        ``standby``, ``owned`` (the session is this application's), ``void``, ``ended``, or, when
        prld is gone while it is owned, ``lost``.
        """
        return self._life.state

    @property
    def reason(self) -> str:
        """Why it is void, in words."""
        return self._life.reason

    @property
    def owned(self) -> bool:
        """Whether the session is this application's now."""
        return self._takeover is not None

    @property
    def sock(self) -> socket.socket:
        """The socket, non-blocking: for reading alone until it is taken over."""
        return self._sock

    def fileno(self) -> int:
        """The socket's descriptor, for polling."""
        return self._sock.fileno()

    def states(self) -> AsyncIterator[tuple[str, str]]:
        """Each state and its reason, from ``standby`` on; ends when the shadow is over."""
        return self._life.states()

    async def recv(self, size: int) -> bytes:
        """Read what the peer sent, as socket.recv(): bytes of the stream, or a UDP datagram.

        Raises:
            ShadowVoid: the shadow was given up, so that nothing more comes.
        """
        return (await self.recvfrom(size))[0]

    async def recvfrom(self, size: int) -> tuple[bytes, Any]:
        """As recv(), and who sent it, as socket.recvfrom() gives it (UDP).

        Raises:
            ShadowVoid: the shadow was given up, so that nothing more comes.
        """
        try:
            data, sender = await self._try(lambda: self._sock.recvfrom(size), self._polled.readable)
        except OSError as error:
            if self._sock.is_live_udp(self.remote) or not await self._is_void():
                raise  # UDP: an ICMP error, which the first application reads, too
            raise ShadowVoid(f"{self.remote}: {self.reason}") from error
        is_udp = self._sock.type == socket.SOCK_DGRAM
        if not data and is_udp and not self._sock.is_live_udp(self.remote):
            await self._is_void()
            raise ShadowVoid(f"{self.remote}: {self.reason or 'the socket was ended'}")
        return data, sender

    async def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it to the peer.

        A wait that is cancelled may have sent a part, as with socket.sendall().

        Raises:
            ShadowNotOwned: not before it is taken over.
        """
        left = memoryview(data).cast("B")
        while len(left):
            chunk = left
            sent = await self._try(lambda: self._sock.send(chunk), self._polled.writable)  # noqa: B023
            left = left[sent:]

    async def _try(
        self, call: Callable[[], _Result], ready: Callable[[], Awaitable[None]]
    ) -> _Result:
        while True:
            try:
                return call()
            except BlockingIOError:
                await ready()

    async def wait_taken_over(self) -> Takeover:
        """Wait until the session is this application's.

        Raises:
            ShadowVoid: it never will be; the message says why.
        """
        await self._life.wait(("owned", *_OVER))
        if self._takeover is None:
            raise ShadowVoid(f"{self.remote}: {self.reason}")
        return self._takeover

    async def close(self) -> None:
        """Give the shadow up, or, once it is owned, end the session; closes the socket."""
        try:
            if self.state != "void":  # else the handle may be a newer shadow's
                with contextlib.suppress(PrlError):  # it has ended already
                    await self._node.request({"op": "close", "handle": self.handle})
        finally:
            self.discard("closed by its application")

    def discard(self, reason: str) -> None:
        """Close the socket without a word to prld; it learns when the AsyncNode is closed."""
        self._node.forget(self)
        self._life.become("ended" if self.owned else "void", reason)
        self._polled.close()

    async def _is_void(self) -> bool:
        """Its socket dies a moment before the word of it comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VOID_WORD_TIMEOUT_S):
                await self._life.wait(("void",))
        return self.state == "void"

    def on_news(self, news: News) -> None:
        """Called by the AsyncNode."""
        if isinstance(news, TakenOver):
            self._takeover = Takeover(news.out_bytes, news.monotonic_ns)
            self._sock.owned = True
            self._life.become("owned", "")
        elif isinstance(news, Void):
            self._life.become("void", news.reason)
        elif isinstance(news, State) and news.state in _OVER:
            self._life.become(news.state, news.reason)

    def on_lost(self, reason: str) -> None:
        """Called by the AsyncNode when prld is gone: a shadow goes with it."""
        self._life.become("lost" if self.owned else "void", reason)
