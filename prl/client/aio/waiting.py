"""Waiting in an event loop, so that a wait which is cancelled leaves nothing behind."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class Bell:
    """Wakes whoever waits for a change."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def ring(self) -> None:
        """Let everybody who waits look again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Wait for the next ring()."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    async def wait_for(self, found: Callable[[], bool]) -> None:
        """Wait until ``found()``, which is asked now and at every ring()."""
        while not found():
            await self.wait()


class Polled:
    """A socket whose readiness is awaited; the loop watches it only while somebody does."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._input, self._output = Bell(), Bell()

    async def readable(self) -> None:
        """Wait until it may be read, or close()."""
        if self._sock.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._input.ring)
        try:
            await self._input.wait()
        finally:
            if not self._input.is_awaited and self._sock.fileno() >= 0:
                loop.remove_reader(self._sock)

    async def writable(self) -> None:
        """Wait until it may be written, or close()."""
        if self._sock.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        loop.add_writer(self._sock, self._output.ring)
        try:
            await self._output.wait()
        finally:
            if not self._output.is_awaited and self._sock.fileno() >= 0:
                loop.remove_writer(self._sock)

    def close(self) -> None:
        """Close the socket; whoever waits for it finds it closed."""
        if self._sock.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._sock)
            loop.remove_writer(self._sock)
            self._sock.close()
        self._input.ring()
        self._output.ring()


class Stream(Polled):
    """A socket that is read and written without losing a byte when a wait is cancelled.

    The socket's own blocking mode does not matter. loop.sock_recv() and its kin must not be used
    beside it: the loop has one watcher for a descriptor.
    """

    async def recvfrom(self, size: int) -> tuple[bytes, Any]:
        """As socket.recvfrom()."""
        return await self._try(
            lambda: self._sock.recvfrom(size, socket.MSG_DONTWAIT), self.readable
        )

    async def send(self, data: bytes | bytearray | memoryview) -> int:
        """As socket.send(): how much was taken; it waits until that is something."""
        return await self._try(lambda: self._sock.send(data, socket.MSG_DONTWAIT), self.writable)

    async def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """As socket.sendall(): when it is cancelled, a part may have been sent."""
        left = memoryview(data).cast("B")
        while len(left):
            left = left[await self.send(left) :]

    async def _try(
        self, call: Callable[[], _Result], ready: Callable[[], Awaitable[None]]
    ) -> _Result:
        while True:
            try:
                return call()
            except BlockingIOError:
                await ready()
