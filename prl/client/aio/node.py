"""An asyncio application's connection to prld."""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

from prl.client.aio.sessions import AsyncSession, AsyncShadow
from prl.client.aio.waiting import Bell, Polled
from prl.client.flows import (
    ANSWER_TIMEOUT_S,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
    REJOINS_MAX,
    Flow,
    Following,
    nobody_answers,
    not_sent,
)
from prl.control import application
from prl.control.messages import MESSAGE_MAX_BYTES, REQUESTS_MAX, default_socket
from prl.control.protocol import FDS_MAX, Answer, Given, Unheld
from prl.errors import HungDaemonError, NoDaemonError, NotProtectedError, PrlError, UsageError
from prl.kernel.inotify import Appearance

CONNECT_TIMEOUT_S: Final = 10.0
READS_MAX: Final = 64
"""Messages read at a time, so that the loop's other work is not kept waiting."""
_CONNECT_RETRY_S: Final = 0.01


class AsyncNode:
    """A connection to this host's prld, made by ``async with`` or connect(); for one event loop.

    With ``reconnect``, the end of prld is not the end of this object: sessions are ``lost`` for a
    while, and handed to the next prld with its offers. Shadows are void.
    """

    def __init__(
        self, socket_path: str | os.PathLike[str] | None = None, *, reconnect: bool = True
    ) -> None:
        self.path = Path(socket_path) if socket_path is not None else default_socket()
        self.reconnects = reconnect
        """Whether a next prld is waited for when this one is gone."""
        self._returning: asyncio.Task[None] | None = None
        self._following = Following[AsyncSession, AsyncShadow](self.path)
        self._sock: socket.socket | None = None
        self._polled: Polled | None = None
        self._under_way: dict[int, asyncio.Future[dict[str, Any]]] = {}
        """Every request that prld has and has not answered, be it that nobody waits any more."""
        self._replicates: set[int] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._given: deque[AsyncShadow] = deque()
        self._bell = Bell()
        self._sending = asyncio.Lock()
        self._closed = False

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
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError as error:  # EMFILE
            raise NoDaemonError(nobody_answers(self.path, error.strerror)) from error
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                # A Unix socket connects at once or, its backlog being full, not yet.
                while not _has_connected(sock, self.path):  # noqa: ASYNC110
                    await asyncio.sleep(_CONNECT_RETRY_S)
        except OSError as error:  # TimeoutError, too
            sock.close()
            raise NoDaemonError(nobody_answers(self.path, error.strerror)) from error
        except BaseException:
            sock.close()
            raise
        self._sock, self._polled = sock, Polled(sock)
        self._following.lost = None
        asyncio.get_running_loop().add_reader(sock, self._read)

    def close(self) -> None:
        """Disconnect. For sessions that were not closed this is the death of the application."""
        self._closed = True
        self._give_up(NoDaemonError(f"the connection to prld on {self.path} was closed"))
        while self._given:  # nobody will ask for them
            self._given.popleft().discard("nobody asked for it")

    async def replicate(
        self, sock: socket.socket, data: bytes = b"", *, renew: bool = False
    ) -> AsyncSession:
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
        request = {"op": "replicate", "renew": renew}
        answer = await self.request_with(request, data, sock.fileno())
        session = AsyncSession(self, answer, sock, data, renew=renew)
        self._following.follow(session)
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
        self._following.offers[endpoint] = None

    async def next_shadow(self) -> AsyncShadow:
        """The next shadow given to this application.

        Raises:
            NoDaemonError: prld is gone, and no other is waited for.
        """
        await self._bell.wait_for(lambda: bool(self._given) or self._is_over)
        if self._given:
            return self._given.popleft()
        assert self._following.lost is not None
        raise self._following.lost

    async def shadows(self) -> AsyncIterator[AsyncShadow]:
        """Shadows as they come.

        Raises:
            NoDaemonError: prld is gone, and no other is waited for.
        """
        while True:
            yield await self.next_shadow()

    async def request(
        self, request: dict[str, Any], *fds: int, of: Flow | None = None
    ) -> dict[str, Any]:
        """Ask prld; returns the answer without ``id`` and ``ok`` (docs/control.md).

        ``of`` is the flow that it is about: the request names it. Waits for its turn when
        REQUESTS_MAX are under way.

        Raises:
            PrlError: prld's own error, of the class that its exit status belongs to.
            UsageError: the flow is over, or a descriptor is none.
            NoDaemonError: prld is gone or hangs, or does not have the flow.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._ask(request, fds, of)
        except TimeoutError:
            raise HungDaemonError(f"prld on {self.path} does not answer; is it frozen?") from None

    async def request_with(
        self, request: dict[str, Any], data: bytes, *fds: int, of: Flow | None = None
    ) -> dict[str, Any]:
        """As request(), with application bytes (at most 1 MiB). Raises UsageError, too."""
        members, memory = application.pack(data)
        try:
            return await self.request(request | members, *fds, *memory, of=of)
        finally:
            for fd in memory:
                os.close(fd)

    def forget(self, what: AsyncSession | AsyncShadow) -> None:
        """Stop following a flow."""
        self._following.forget(what)

    def leave(self, session: AsyncSession, word: dict[str, Any]) -> None:
        """Hand a session to no further prld; ``word`` is for one that has it all the same."""
        if self._following.leave(session, word):
            self._tell(word, session)

    @property
    def _is_over(self) -> bool:
        return self._closed or (self._following.lost is not None and not self.reconnects)

    # -- requests

    async def _ask(
        self, request: dict[str, Any], fds: tuple[int, ...], of: Flow | None
    ) -> dict[str, Any]:
        async with self._sending:
            await self._bell.wait_for(
                lambda: len(self._under_way) < REQUESTS_MAX or self._following.lost is not None
            )
            # Named at the last moment: by then the flow may be over, or another prld may have it.
            while True:
                number, raw = self._following.ask(request, of)
                if self._try_send(raw, fds):
                    break
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

    def _try_send(self, raw: bytes, fds: tuple[int, ...]) -> bool:
        if self._sock is None:
            raise UsageError("this AsyncNode is not connected: use `async with`, or connect()")
        try:
            socket.send_fds(self._sock, [raw], fds, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            raise not_sent(self.path, error) from error
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
        """Nobody will know the flow of that replicate(): prld is to let go of its socket."""
        if number not in self._replicates:
            return
        self._replicates.discard(number)
        self._tell({"op": "release", "handle": fields["handle"]})

    def _tell(self, word: dict[str, Any], of: Flow | None = None) -> None:
        """Ask prld, whatever it answers."""

        async def ask() -> None:
            with contextlib.suppress(PrlError):
                await self.request(word, of=of)

        task = asyncio.get_running_loop().create_task(ask())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    # -- the reader

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
            if self._understand(raw, fds, flags):
                return  # whoever waited for the answer acts on it before later news is heard

    def _understand(self, raw: bytes, fds: list[int], flags: int) -> bool:
        """Act on a message; returns whether it was an answer."""
        try:
            heard = self._following.hear(raw, fds, flags)
        except PrlError as error:
            self._give_up(error)
            return False
        finally:
            for fd in fds:
                os.close(fd)
        if isinstance(heard, Answer):
            self._on_answer(heard)
        elif isinstance(heard, Given):
            shadow = AsyncShadow(self, heard)
            self._following.follow(shadow)
            self._given.append(shadow)
            self._bell.ring()
        elif isinstance(heard, Unheld):
            self._tell(heard.refusal)
        return isinstance(heard, Answer)

    # -- prld goes and comes

    def _give_up(self, error: PrlError) -> None:
        if self._following.lost is not None and not self._closed:
            return
        if self._polled is not None:
            self._polled.close()
        self._sock = None
        for future in self._under_way.values():
            if not future.done():
                future.set_exception(error)
        self._under_way.clear()
        self._replicates.clear()
        self._following.lose(error, for_good=self._closed or not self.reconnects)
        self._bell.ring()
        if self._returning is not None:
            self._returning.cancel()
        if not self._is_over:
            self._returning = asyncio.get_running_loop().create_task(self._return())

    async def _return(self) -> None:
        """Connect to the next prld; hand offers and sessions to it."""
        wait_s = RECONNECT_MIN_S
        while self._following.lost is not None:
            with contextlib.closing(Appearance(self.path)) as appearance:
                await _await_appearance(appearance, wait_s)
            wait_s = min(2 * wait_s, RECONNECT_MAX_S)
            with contextlib.suppress(NoDaemonError):
                await self.connect()
        for endpoint in tuple(self._following.offers):
            with contextlib.suppress(PrlError):  # refused; gone again: _give_up() has begun anew
                await self.request({"op": "offer", "endpoint": endpoint})
        waiting = self._following.to_hand_over()
        async with asyncio.TaskGroup() as group:
            for _ in range(REJOINS_MAX):
                group.create_task(self._rejoin(waiting))

    async def _rejoin(self, waiting: deque[AsyncSession]) -> None:
        while self._following.lost is None and (session := self._following.next_of(waiting)):
            try:
                answer = await self.request_with(
                    session.rejoin_request(), session.application, session.sock.fileno()
                )
            except (PrlError, OSError) as error:
                is_gone = isinstance(error, NoDaemonError) and not isinstance(
                    error, HungDaemonError
                )
                if is_gone or self._following.lost is not None:
                    return  # the reader notices, and the next one is asked
                self._following.refused(session, str(error))
                continue
            if word := self._following.handed_over(session, answer):
                self._tell(word)


async def _await_appearance(appearance: Appearance, timeout_s: float) -> None:
    """Wait until something has appeared, or so long."""
    bell, loop = Bell(), asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            appearance.arm()
            if appearance.descriptor >= 0:
                loop.add_reader(appearance.descriptor, bell.ring)
            try:
                await bell.wait()
            finally:
                if appearance.descriptor >= 0:
                    loop.remove_reader(appearance.descriptor)


def _has_connected(sock: socket.socket, path: Path) -> bool:
    try:
        sock.connect(str(path))
    except BlockingIOError:
        return False
    return True
