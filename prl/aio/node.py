"""An asyncio application's connection to prld."""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

from prl.aio.flows import AsyncSession, AsyncShadow
from prl.aio.waiting import Bell, Polled
from prl.dialogue import FDS_MAX, Answer, Dialogue, Given, replicate_request
from prl.errors import NoDaemonError, PrlError, ReplicationError, UsageError
from prl.messages import MESSAGE_MAX_BYTES, REQUESTS_MAX, MessageError, default_socket

ANSWER_TIMEOUT_S: Final = 30.0
"""How long prld may take for an answer before it counts as hung."""
CONNECT_TIMEOUT_S: Final = 10.0
READS_MAX: Final = 64
"""Messages read at a time, so that the loop's other work is not kept waiting."""
_CONNECT_RETRY_S: Final = 0.01


class NotProtectedError(ReplicationError):
    """The session goes on unprotected; prld tries again, and ``session`` tells how that goes."""

    def __init__(self, reason: str, session: AsyncSession) -> None:
        super().__init__(f"not protected: {reason}")
        self.session = session


class AsyncNode:
    """A connection to this host's prld, made by ``async with`` or connect(); for one event loop."""

    def __init__(self, socket_path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(socket_path) if socket_path is not None else default_socket()
        self._dialogue = Dialogue()
        self._sock: socket.socket | None = None
        self._polled: Polled | None = None
        self._under_way: dict[int, asyncio.Future[dict[str, Any]]] = {}
        """Every request that prld has and has not answered, be it that nobody waits any more."""
        self._replicates: set[int] = set()
        self._flows: dict[int, AsyncSession | AsyncShadow] = {}
        self._given: deque[AsyncShadow] = deque()
        self._bell = Bell()
        self._sending = asyncio.Lock()
        self._lost: PrlError | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def connect(self) -> None:
        """Connect.

        Raises:
            NoDaemonError: nobody answers on ``socket_path`` (default: $PRL_SOCKET, or
                /run/prl/prld.sock).
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                # A Unix socket connects at once or, its backlog being full, not yet.
                while not _has_connected(sock, self.path):  # noqa: ASYNC110
                    await asyncio.sleep(_CONNECT_RETRY_S)
        except OSError as error:  # TimeoutError, too
            sock.close()
            raise NoDaemonError(
                f"no prld answers on {self.path}: {error.strerror or 'it is too busy'}; start it, "
                "or name another socket with $PRL_SOCKET"
            ) from error
        except BaseException:
            sock.close()
            raise
        self._sock, self._polled = sock, Polled(sock)
        asyncio.get_running_loop().add_reader(sock, self._read)

    def close(self) -> None:
        """Disconnect. For sessions that were not closed this is the death of the application."""
        self._give_up(NoDaemonError(f"the connection to prld on {self.path} was closed"))
        while self._given:  # nobody will ask for them
            self._given.popleft().discard("nobody asked for it")

    async def replicate(self, sock: socket.socket, application: bytes = b"") -> AsyncSession:
        """Protect a TCP or UDP socket; returns once the other node has its shadow.

        As prl.client.Node.replicate(), which says what can be protected. When the wait is
        cancelled, protection that comes about all the same is given up again.

        Raises:
            NotProtectedError: it is not protected, and why. It goes on unprotected, prld tries
                again, and the error's ``session`` tells how that goes.
            ReplicationError: it can not be protected as things are; it goes on unprotected.
            UsageError: this is no socket that can be protected.
            NoDaemonError: prld is gone.
        """
        answer = await self.request(replicate_request(application), sock.fileno())
        session = AsyncSession(self, answer["handle"], answer["state"], answer["reason"])
        self._follow(session)
        if answer["state"] != "active":
            raise NotProtectedError(answer["reason"] or answer["state"], session)
        return session

    async def offer(self, endpoint: str) -> None:
        """Offer to take shadows of sessions whose local end is ``endpoint``.

        "addr:port" means TCP, "udp:addr:port" UDP.

        Raises:
            UsageError: that is no service address here.
        """
        await self.request({"op": "offer", "endpoint": endpoint})

    async def next_shadow(self) -> AsyncShadow:
        """The next shadow given to this application.

        Raises:
            NoDaemonError: prld is gone.
        """
        await self._bell.wait_for(lambda: bool(self._given) or self._lost is not None)
        if self._given:
            return self._given.popleft()
        assert self._lost is not None
        raise self._lost

    async def shadows(self) -> AsyncIterator[AsyncShadow]:
        """Shadows as they come.

        Raises:
            NoDaemonError: prld is gone.
        """
        while True:
            yield await self.next_shadow()

    async def request(self, request: dict[str, Any], fd: int | None = None) -> dict[str, Any]:
        """Ask prld; returns the answer without ``id`` and ``ok`` (docs/control.md).

        Waits for its turn when REQUESTS_MAX are under way.

        Raises:
            PrlError: prld's own error, of the class that its exit status belongs to.
            NoDaemonError: prld is gone or hangs.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._ask(request, fd)
        except TimeoutError:
            raise NoDaemonError(f"prld on {self.path} does not answer; is it frozen?") from None

    def forget(self, what: AsyncSession | AsyncShadow) -> None:
        """Stop following a flow."""
        if self._flows.get(what.handle) is what:
            self._dialogue.forget(what.handle)
            del self._flows[what.handle]

    # -- requests

    async def _ask(self, request: dict[str, Any], fd: int | None) -> dict[str, Any]:
        number, raw = self._dialogue.ask(request)
        async with self._sending:
            await self._bell.wait_for(
                lambda: len(self._under_way) < REQUESTS_MAX or self._lost is not None
            )
            while not self._try_send(raw, fd):
                assert self._polled is not None
                await self._polled.writable()
            answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            self._under_way[number] = answer
            if request["op"] == "replicate":
                self._replicates.add(number)
        try:
            fields = await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._undo(number, answer.result())  # it came at the very same moment
            raise
        self._replicates.discard(number)
        return fields

    def _try_send(self, raw: bytes, fd: int | None) -> bool:
        if self._lost is not None:
            raise self._lost
        if self._sock is None:
            raise UsageError("this AsyncNode is not connected: use `async with`, or connect()")
        fds = [] if fd is None else [fd]
        try:
            socket.send_fds(self._sock, [raw], fds, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            raise NoDaemonError(f"prld on {self.path} is gone: {error.strerror}") from error
        return True

    def _on_answer(self, answer: Answer) -> None:
        future = self._under_way.pop(answer.number, None)
        is_awaited = future is not None and not future.done()
        if answer.error is not None:
            self._replicates.discard(answer.number)
            if future is not None and is_awaited:
                future.set_exception(answer.error)
        elif future is not None and is_awaited:
            future.set_result(answer.fields)
        else:
            self._undo(answer.number, answer.fields)
        self._bell.ring()

    def _undo(self, number: int, fields: dict[str, Any]) -> None:
        """Nobody will know the flow of that replicate(): end its protection, not its session."""
        if number not in self._replicates:
            return
        self._replicates.discard(number)
        number, raw = self._dialogue.ask({"op": "flow_del", "handle": fields["handle"]})
        with contextlib.suppress(PrlError):
            if self._try_send(raw, None):
                self._under_way[number] = future = asyncio.get_running_loop().create_future()
                future.cancel()

    # -- the reader

    def _follow(self, what: AsyncSession | AsyncShadow) -> None:
        self._flows[what.handle] = what
        early = self._dialogue.follow(what.handle)
        if early is not None:
            what.on_news(early)
        if self._lost is not None:
            what.on_lost(str(self._lost))

    def _read(self) -> None:
        for _ in range(READS_MAX):
            if self._sock is None:
                return
            try:
                raw, fds, flags, _ = socket.recv_fds(
                    self._sock, MESSAGE_MAX_BYTES, FDS_MAX, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._give_up(NoDaemonError(f"prld on {self.path} is gone: {error.strerror}"))
                return
            if not raw:
                self._give_up(NoDaemonError(f"prld on {self.path} ended the connection"))
                return
            self._understand(raw, fds, flags)

    def _understand(self, raw: bytes, fds: list[int], flags: int) -> None:
        try:
            cut = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
            heard = self._dialogue.hear(raw, fds, cut=cut)
        except MessageError as error:
            self._give_up(
                PrlError(f"prld on {self.path} sent nonsense ({error}); is it another version?")
            )
            return
        finally:
            for fd in fds:
                os.close(fd)
        if isinstance(heard, Answer):
            self._on_answer(heard)
        elif isinstance(heard, Given):
            shadow = AsyncShadow(self, heard)
            self._follow(shadow)
            self._given.append(shadow)
            self._bell.ring()
        elif heard is not None and (what := self._flows.get(heard.handle)) is not None:
            what.on_news(heard)

    def _give_up(self, error: PrlError) -> None:
        if self._lost is not None:
            return
        self._lost = error
        if self._polled is not None:
            self._polled.close()
        self._sock = None
        for future in self._under_way.values():
            if not future.done():
                future.set_exception(error)
        self._under_way.clear()
        for what in list(self._flows.values()):
            what.on_lost(str(error))
        self._bell.ring()


def _has_connected(sock: socket.socket, path: Path) -> bool:
    try:
        sock.connect(str(path))
    except BlockingIOError:
        return False
    return True
