"""The control socket for one asyncio program with very many sessions (docs/control.md)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from prl.client import Takeover
from prl.errors import NoDaemonError, PrlError, ReplicationError
from prl.messages import MESSAGE_MAX_BYTES, decode, default_socket, encode

ACTIVE_TIMEOUT_S = 20.0
_READS_MAX = 64
_FDS_MAX = 4


@dataclass(eq=False, slots=True)
class Given:
    """A shadow; ``fate`` is its take-over, or why it is void."""

    handle: int
    sock: socket.socket
    fate: "asyncio.Future[Takeover | str]"


class Control:
    """A connection to this host's prld. Raises NoDaemonError when nobody answers."""

    def __init__(self) -> None:
        path = default_socket()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.connect(str(path))
        except OSError as error:
            raise NoDaemonError(f"no prld answers on {path}: {error.strerror}") from error
        self._sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._next = 1
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._given: dict[int, Given] = {}
        self._active: dict[int, asyncio.Future[None]] = {}
        self._shadows: asyncio.Queue[Given | None] = asyncio.Queue()
        self._loop.add_reader(self._sock, self._read)

    async def replicate(self, sock: socket.socket) -> int:
        """Protect a socket; returns its handle. Raises PrlError: it cannot be protected, and why.

        An attempt that fails is one that prld repeats by itself: this waits for it.
        """
        answer = await self._ask({"op": "replicate"}, sock.fileno())
        handle, reason = int(answer["handle"]), answer["reason"]
        if answer["state"] != "active":
            active = self._active[handle] = self._loop.create_future()
            try:
                await asyncio.wait_for(active, ACTIVE_TIMEOUT_S)
            except TimeoutError:
                raise ReplicationError(reason) from None
            finally:
                self._active.pop(handle, None)
        return handle

    async def offer(self, endpoint: str) -> None:
        """Take shadows of ``endpoint``. Raises PrlError."""
        await self._ask({"op": "offer", "endpoint": endpoint})

    async def close_session(self, handle: int) -> None:
        """End a session deliberately. Raises PrlError."""
        self._given.pop(handle, None)
        await self._ask({"op": "close", "handle": handle})

    async def shadows(self) -> AsyncIterator[Given]:
        """Shadows as they come, until prld is gone."""
        while (given := await self._shadows.get()) is not None:
            yield given

    async def _ask(self, request: dict[str, Any], fd: int | None = None) -> dict[str, Any]:
        number, self._next = self._next, self._next + 1
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[number] = answer
        raw = encode(request | {"id": number})
        try:
            async with self._sending:
                await self._send(raw, fd)
            found = await answer
        except OSError as error:
            raise NoDaemonError(f"prld is gone: {error.strerror}") from error
        finally:
            self._answers.pop(number, None)
        if not found.get("ok"):
            raise PrlError(str(found.get("error")))
        return found

    async def _send(self, raw: bytes, fd: int | None) -> None:
        while True:
            try:
                socket.send_fds(self._sock, [raw], [] if fd is None else [fd])
            except BlockingIOError:
                ready = asyncio.Event()
                self._loop.add_writer(self._sock, ready.set)
                await ready.wait()
                self._loop.remove_writer(self._sock)
            else:
                return

    def _read(self) -> None:
        for _ in range(_READS_MAX):
            try:
                raw, fds, _, _ = socket.recv_fds(
                    self._sock, MESSAGE_MAX_BYTES, _FDS_MAX, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                raw, fds = b"", []
            if not raw:
                self._end()
                return
            self._hear(decode(raw), list(fds))

    def _hear(self, message: dict[str, Any], fds: list[int]) -> None:
        kind, handle = message.get("event"), message.get("handle", 0)
        if kind is None:
            answer = self._answers.get(message["id"])
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif kind == "shadow" and fds:
            sock = socket.socket(fileno=fds.pop())
            sock.setblocking(False)
            given = self._given[handle] = Given(handle, sock, self._loop.create_future())
            self._shadows.put_nowait(given)
        elif kind == "state" and handle in self._active:
            if message["state"] == "active" and not self._active[handle].done():
                self._active[handle].set_result(None)
        elif kind == "taken_over" and handle in self._given:
            takeover = Takeover(message["out_bytes"], message["monotonic_ns"])
            self._resolve(self._given[handle], takeover)
        elif kind == "void" and handle in self._given:
            self._resolve(self._given.pop(handle), message["reason"])
        for fd in fds:
            os.close(fd)

    def _resolve(self, given: Given, fate: Takeover | str) -> None:
        if not given.fate.done():
            given.fate.set_result(fate)

    def _end(self) -> None:
        self._loop.remove_reader(self._sock)
        for answer in self._answers.values():
            answer.set_exception(NoDaemonError("prld ended the connection"))
        for given in self._given.values():
            self._resolve(given, "prld is gone")
        self._shadows.put_nowait(None)
