"""Waiting in an event loop, so that a wait which is cancelled leaves nothing behind."""

import asyncio
import socket
from collections.abc import Callable


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
