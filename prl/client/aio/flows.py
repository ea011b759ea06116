"""What an asyncio application has: sessions of its own, and shadows of the other node's."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from prl.client.aio.waiting import Bell, Stream
from prl.client.shadow_socket import ShadowNotOwned, ShadowSocket, ShadowVoid, Takeover
from prl.control.protocol import (
    OVER,
    Demoted,
    Given,
    Introduced,
    News,
    Protectable,
    State,
    TakenOver,
)
from prl.errors import NoDaemonError, PrlError, UsageError

STATES_KEPT: Final = 64
"""Changes that states() keeps for a reader that is behind; of more, the oldest are lost."""
VOID_WORD_TIMEOUT_S: Final = 1.0


class Connection(Protocol):
    """What a flow needs of its AsyncNode."""

    async def request(self, request: dict[str, Any], *fds: int) -> dict[str, Any]:
        """Ask prld. Raises PrlError."""

    async def request_with(self, request: dict[str, Any], data: bytes, *fds: int) -> dict[str, Any]:
        """Ask prld, with application bytes. Raises PrlError."""

    def forget(self, what: "AsyncSession | AsyncShadow") -> None:
        """Stop following a flow."""


class _Life:
    """The states of one flow: the present one, and the last ones for those who follow them."""

    def __init__(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason
        self.over = False
        self.bell = Bell()
        self._past: deque[tuple[str, str]] = deque([(state, reason)], STATES_KEPT)
        self._count = 1

    def become(self, state: str, reason: str, *, over: bool = False) -> None:
        if self.over:
            return
        self.state, self.reason, self.over = state, reason, over or state == "void" or state in OVER
        self._past.append((state, reason))
        self._count += 1
        self.bell.ring()

    async def wait(self, states: tuple[str, ...]) -> str:
        beyond = self._beyond(self._count)
        await self.bell.wait_for(lambda: self.state in states if states else beyond())
        return self.state

    def _beyond(self, seen: int) -> Callable[[], bool]:
        return lambda: self._count > seen or self.over

    async def states(self) -> AsyncIterator[tuple[str, str]]:
        seen = 0
        while not (self.over and seen == self._count):
            await self.bell.wait_for(self._beyond(seen))
            seen = max(seen, self._count - len(self._past))
            past = self._past[seen - self._count]
            seen += 1
            yield past


class AsyncSession:
    """A session of this application's; from AsyncNode.replicate(), or AsyncShadow.session."""

    def __init__(
        self,
        node: Connection,
        answer: dict[str, Any],
        sock: socket.socket,
        data: bytes = b"",
        *,
        renew: bool = False,
        stream: Stream | None = None,
    ) -> None:
        self._node = node
        self._stream = stream or Stream(sock)
        self._life = _Life(answer["state"], answer["reason"])
        self._protectable = False
        self.sock = sock
        """The application's socket."""
        self.handle: int = answer["handle"]
        """Its 32-bit number, as prlctl shows it; a new one when prld has started anew."""
        self.application = data
        """What is given to the application on the other node with the next shadow."""
        self.renews = renew
        """Whether the application is asked for new bytes before each new shadow."""
        self.streams: list[int] = answer.get("streams", [])
        """prld's own; kept for a prld that starts anew."""

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

    @property
    def over(self) -> bool:
        """Whether it is not this application's any more, or no prld will ever tell."""
        return self._life.over

    @property
    def protectable(self) -> bool:
        """Whether prld could protect the session now, and waits for renew()."""
        return self._protectable and self.state == "open"

    async def wait_state(self, *states: str) -> str:
        """Wait until the state is one of ``states`` (without any: until it changes); return it."""
        return await self._life.wait(states)

    def states(self) -> AsyncIterator[tuple[str, str]]:
        """Each state and its reason, from the first one on; ends when the session is over.

        A reader that falls more than STATES_KEPT changes behind misses the oldest.
        """
        return self._life.states()

    async def wait_protectable(self) -> bool:
        """Wait until prld asks for renew(); False when the session is over."""
        await self._life.bell.wait_for(lambda: self.protectable or self.over)
        return self.protectable

    async def renew(self, data: bytes) -> str:
        """Give the application's bytes as of now; protect the session with them if that can be.

        The socket must not be read or written before it returns: so the bytes and the shadow's
        position in both streams belong together. Returns the state: ``active``, or another one, and
        ``reason`` says why; prld asks again when that may help. A session that is protected keeps
        its shadow, and the bytes are for the next one.

        Raises:
            UsageError: more than 1 MiB, or the session is over.
            NoDaemonError: prld is gone.
        """
        self._protectable = False
        self.application = data
        answer = await self._node.request_with({"op": "renew", "handle": self.handle}, data)
        self.become(answer["state"], answer["reason"])
        return self.state

    async def recv(self, size: int) -> bytes:
        """Read what the peer sent, as socket.recv(); nothing is lost when it is cancelled."""
        return (await self._stream.recvfrom(size))[0]

    async def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send some of it; returns how much. Cancelled, it has sent nothing."""
        return await self._stream.send(data)

    async def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Cancelled, it may have sent a part."""
        await self._stream.sendall(data)

    async def close(self) -> None:
        """End the session deliberately, on both nodes; close the socket as well."""
        try:
            await self._node.request({"op": "close", "handle": self.handle})
        except NoDaemonError:  # nor shall the next prld have it
            self.become("closed", "closed by its application")
        except UsageError:  # it has ended already
            pass

    def on_news(self, news: News) -> None:
        """Called by the AsyncNode."""
        if isinstance(news, State):
            self.become(news.state, news.reason)
        elif isinstance(news, Demoted):
            self.become("demoted", "the other node has the session now")
        elif isinstance(news, Protectable):
            self._protectable = True
            self._life.bell.ring()

    def on_lost(self, reason: str, *, for_good: bool) -> None:
        """Called by the AsyncNode when prld is gone."""
        self._life.become("lost", reason, over=for_good)

    def become(self, state: str, reason: str) -> None:
        """Called by the AsyncNode: prld's word."""
        if (state, reason) != (self.state, self.reason):
            self._life.become(state, reason)


class AsyncShadow(Introduced):
    """A session that lives on the other node; this application stands by for it."""

    def __init__(self, node: Connection, given: Given) -> None:
        super().__init__(given)
        self._node = node
        self._life = _Life("standby", "")
        self._takeover: Takeover | None = None
        self._session: AsyncSession | None = None
        self._renews = given.renew
        self._sock = ShadowSocket(fileno=given.fd)
        self._sock.setblocking(False)
        self._stream = Stream(self._sock)
        self.handle = given.handle
        """Its 32-bit number, as prlctl shows it."""

    @property
    def state(self) -> str:
        """``standby``, ``owned`` (it is ``session`` now), or ``void``."""
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
    def session(self) -> AsyncSession:
        """The session, once it is owned. Raises ShadowNotOwned before."""
        if self._session is None:
            raise ShadowNotOwned("this shadow is not taken over: it is no session of ours")
        return self._session

    @property
    def sock(self) -> socket.socket:
        """The socket, non-blocking: for reading alone until it is taken over."""
        return self._sock

    def fileno(self) -> int:
        """The socket's descriptor, for polling."""
        return self._sock.fileno()

    def states(self) -> AsyncIterator[tuple[str, str]]:
        """Each state and its reason, from ``standby`` on; ends with ``owned`` or ``void``."""
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
            data, sender = await self._stream.recvfrom(size)
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
        await self._stream.sendall(data)

    async def wait_taken_over(self) -> Takeover:
        """Wait until the session is this application's.

        Raises:
            ShadowVoid: it never will be; the message says why.
        """
        await self._life.wait(("owned", "void"))
        if self._takeover is None:
            raise ShadowVoid(f"{self.remote}: {self.reason}")
        return self._takeover

    async def close(self) -> None:
        """Give the shadow up, or, once it is owned, end the session; closes the socket."""
        try:
            if self._session is not None:
                await self._session.close()
            elif self.state != "void":  # else the handle may be a newer shadow's
                with contextlib.suppress(PrlError):  # it has ended already
                    await self._node.request({"op": "close", "handle": self.handle})
        finally:
            self.discard("closed by its application")

    def discard(self, reason: str) -> None:
        """Close the socket without a word to prld; it learns when the AsyncNode is closed."""
        self._node.forget(self._session or self)
        self._life.become("void", reason)
        self._stream.close()

    async def _is_void(self) -> bool:
        """Its socket dies a moment before the word of it comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VOID_WORD_TIMEOUT_S):
                await self._life.wait(("void",))
        return self.state == "void"

    def on_void(self, reason: str) -> None:
        """Called by the AsyncNode, also when prld is gone: a shadow goes with it."""
        self._life.become("void", reason)

    def on_taken_over(self, news: TakenOver) -> AsyncSession:
        """Called by the AsyncNode."""
        self.handle = news.becomes
        answer = {
            "handle": news.becomes,
            "state": "open",
            "reason": "it was taken over, and is not protected yet",
            "streams": news.streams,
        }
        self._session = AsyncSession(
            self._node,
            answer,
            self._sock,
            self.application,
            renew=self._renews,
            stream=self._stream,
        )
        self._takeover = Takeover(news.out_bytes, news.monotonic_ns, news.out_hash)
        self._sock.owned = True
        self._life.become("owned", "", over=True)
        return self._session
