"""What an asyncio application has: sessions of its own, and shadows of the other node's."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from prl.client.aio.waiting import Bell, Stream
from prl.client.flows import VOID_WORD_TIMEOUT_S, Flow, SessionFlow, ShadowFlow
from prl.client.shadow_socket import Committed, ShadowVoid, Takeover
from prl.control.protocol import Given
from prl.errors import HungDaemonError, NoDaemonError, PrlError, UsageError

STATES_KEPT: Final = 64
"""Changes that states() keeps for a reader that is behind; of more, the oldest are lost."""


class Connection(Protocol):
    """What a flow needs of its AsyncNode."""

    async def request(
        self, request: dict[str, Any], *fds: int, of: Flow | None = None
    ) -> dict[str, Any]:
        """Ask prld, of a flow. Raises PrlError."""

    async def request_with(
        self, request: dict[str, Any], data: bytes, *fds: int, of: Flow | None = None
    ) -> dict[str, Any]:
        """Ask prld, with application bytes. Raises PrlError."""

    @property
    def reconnects(self) -> bool:
        """Whether a next prld is waited for when this one is gone."""

    def forget(self, what: "AsyncSession | AsyncShadow") -> None:
        """Stop following a flow."""

    def leave(self, session: "AsyncSession", word: dict[str, Any]) -> None:
        """Hand a session to no further prld; ``word`` is for one that has it all the same."""


class Followed(Flow):
    """Waited for in an event loop; the last states are kept for those who follow them."""

    def __init__(self) -> None:
        self._bell = Bell()
        self._past: deque[tuple[str, str]] = deque([(self._state, self._reason)], STATES_KEPT)
        self._count = 1

    def become(self, state: str, reason: str, *, over: bool = False) -> None:
        """Called by the AsyncNode: a new state, and whether it is the last one."""
        super().become(state, reason, over=over)
        if (self._state, self._reason) != self._past[-1]:
            self._past.append((self._state, self._reason))
            self._count += 1

    async def states(self) -> AsyncIterator[tuple[str, str]]:
        """Each state and its reason, from the first one on, until it is over.

        A reader that falls more than STATES_KEPT changes behind misses the oldest.
        """
        seen = 0
        while not (self._over and seen == self._count):
            await self._bell.wait_for(self._beyond(seen))
            seen = max(seen, self._count - len(self._past))
            past = self._past[seen - self._count]
            seen += 1
            yield past

    async def _wait(self, states: tuple[str, ...]) -> str:
        beyond = self._beyond(self._count)
        await self._bell.wait_for(lambda: self._state in states if states else beyond())
        return self._state

    def _beyond(self, seen: int) -> Callable[[], bool]:
        return lambda: self._count > seen or self._over

    def _has_changed(self) -> None:
        self._bell.ring()


class AsyncSession(Followed, SessionFlow):
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
        SessionFlow.__init__(self, answer, sock, data, renew=renew)
        Followed.__init__(self)
        self._node = node
        self._stream = stream or Stream(sock)

    async def wait_state(self, *states: str) -> str:
        """Wait until the state is one of ``states`` (without any: until it changes); return it."""
        return await self._wait(states)

    async def wait_protectable(self) -> bool:
        """Wait until prld asks for renew(); False when the session is over."""
        await self._bell.wait_for(lambda: self.protectable or self._over)
        return self.protectable

    async def renew(self, data: bytes) -> str:
        """Give the application's bytes as of now; protect the session with them if that can be.

        The socket must not be read or written before it returns: so the bytes and the shadow's
        position in both streams belong together. Returns the state: ``active``, or another one, and
        ``reason`` says why; prld asks again when that may help, and if it is gone meanwhile
        (``lost``), so does the next one. A session that is protected keeps its shadow, and the
        bytes are for the next one.

        Raises:
            UsageError: more than 1 MiB, or the session is over.
            HungDaemonError: prld does not answer.
            NoDaemonError: it is gone, and no other is waited for.
        """
        self._protectable = False
        self.application = data
        try:
            answer = await self._node.request_with({"op": "renew"}, data, of=self)
        except NoDaemonError as error:
            if isinstance(error, HungDaemonError) or not self._node.reconnects:
                raise
            return "lost"
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
        word = {"op": "close"}
        try:
            await self._node.request(word, of=self)
        except NoDaemonError as error:  # nor shall the next prld have it
            if not isinstance(error, HungDaemonError):
                self._node.leave(self, word)
            self.become("closed", "closed by its application")
        except UsageError:  # it has ended already
            pass


class AsyncShadow(Followed, ShadowFlow[AsyncSession]):
    """A session that lives on the other node; this application stands by for it."""

    def __init__(self, node: Connection, given: Given) -> None:
        ShadowFlow.__init__(self, given)
        Followed.__init__(self)
        self._node = node
        self._sock.setblocking(False)
        self._stream = Stream(self._sock)

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
        if self._is_dead(data):
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
        await self._bell.wait_for(lambda: self._over)
        if self._takeover is None:
            raise ShadowVoid(f"{self.remote}: {self.reason}")
        return self._takeover

    async def committed(self) -> Committed:
        """How far the owner's output is for good.

        Raises:
            UsageError: it is no shadow any more; its fate is told.
            NoDaemonError: prld is gone.
        """
        answer = await self._node.request({"op": "committed"}, of=self)
        return Committed(answer["out_bytes"], answer["out_hash"])

    async def close(self) -> None:
        """Give the shadow up, or, once it is owned, end the session; closes the socket."""
        try:
            if self._session is not None:
                await self._session.close()
            else:
                with contextlib.suppress(PrlError):  # it has ended already
                    await self._node.request({"op": "close"}, of=self)
        finally:
            self.discard("closed by its application")

    def discard(self, reason: str) -> None:
        """Close the socket without a word to prld; it learns when the AsyncNode is closed."""
        self._node.forget(self._session or self)
        self.become("void", reason, over=True)
        self._stream.close()

    async def _is_void(self) -> bool:
        """Its socket dies a moment before the word of it comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VOID_WORD_TIMEOUT_S):
                await self._wait(("void",))
        return self.state == "void"

    def _begin(self, answer: dict[str, Any]) -> AsyncSession:
        return AsyncSession(
            self._node,
            answer,
            self._sock,
            self.application,
            renew=self._renews,
            stream=self._stream,
        )
