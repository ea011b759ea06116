"""A connected socket in the event loop: bytes come by call, and go out of its user's buffer."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from prl.endpoint import Side

READ_BYTES = 1 << 16
"""What one turn reads, so that the loop's other work is not kept waiting."""
REPAIR_LOOK_S = 0.02
"""When a socket that prld has in repair mode is tried again."""
REPAIR_MAX_S = 5.0
"""By then prld has said that it is another node's, or has given it back."""


class Pipe:
    """See the module. It owns the socket, and belongs to the loop that runs when it is made.

    Args:
        sock: connected.
        received: called with bytes that have come.
        ended: called once, with the reason: no more will come, or nothing can be written.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        received: Callable[[bytes], None],
        ended: Callable[[str], None],
    ) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a shadow's owner has set it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._received, self._ended = received, ended
        self._out = bytearray()
        self._writable: Callable[[], int] = lambda: 0
        self._wrote: Callable[[int], None] = lambda _: None
        self._loop = asyncio.get_running_loop()
        self._reads = self._writes = self._is_over = False
        self._in_repair_since: float | None = None
        self._repair_timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether close() was not called."""
        return self._sock.fileno() >= 0

    @property
    def has_ended(self) -> bool:
        """Whether ``ended`` was called, or close()."""
        return self._is_over

    @property
    def remote(self) -> Side | None:
        """The other end; None: there is no connection any more."""
        return _side(self._sock.getpeername)

    @property
    def local(self) -> Side | None:
        """Its own end, likewise."""
        return _side(self._sock.getsockname)

    def read(self, *, on: bool) -> None:
        """Whether bytes are to come."""
        if not self.is_open or self._is_over or on is self._reads:
            return
        self._reads = on
        if self._repair_timer is not None:
            return
        if on:
            self._loop.add_reader(self._sock, self._readable)
        else:
            self._loop.remove_reader(self._sock)

    def writes(
        self, out: bytearray, writable: Callable[[], int], wrote: Callable[[int], None]
    ) -> None:
        """Write from ``out`` from now on.

        Args:
            out: what is to be written; what was is taken off its front.
            writable: how much of it may be written now.
            wrote: called with how much has been.
        """
        self._out, self._writable, self._wrote = out, writable, wrote

    def flush(self) -> None:
        """Write what may be written, now and when there is room."""
        if not self.is_open or self._is_over or self._repair_timer is not None:
            return
        is_full = False
        while not is_full and (count := min(self._writable(), len(self._out))):
            try:
                done = self._sock.send(memoryview(self._out)[:count])
            except BlockingIOError:
                is_full = True
            except OSError as error:
                self._fail(error)
                return
            else:
                del self._out[:done]
                self._wrote(done)
        if is_full is not self._writes:
            self._writes = is_full
            if is_full:
                self._loop.add_writer(self._sock, self.flush)
            else:
                self._loop.remove_writer(self._sock)

    def close(self) -> None:
        """Close the socket; nothing is called any more. Idempotent."""
        self._is_over = True
        if self.is_open:
            self._unwatch()
            self._sock.close()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if data:
            self._received(data)
        else:
            self._end("it was closed")

    def _fail(self, error: OSError) -> None:
        if isinstance(error, PermissionError):
            self._wait_for_prld()
        else:
            self._end(error.strerror or str(error))

    def _wait_for_prld(self) -> None:
        """It has the socket in repair mode: for a moment, or because another node has the session.

        Which of the two, it says by itself; an end that were told of here would be none.
        """
        now = self._loop.time()
        self._in_repair_since = now if self._in_repair_since is None else self._in_repair_since
        if now >= self._in_repair_since + REPAIR_MAX_S:
            self._end("prld has taken the socket out of use")
            return
        reads = self._reads
        self._unwatch()
        self._reads = reads
        self._repair_timer = self._loop.call_later(REPAIR_LOOK_S, self._try_again)

    def _try_again(self) -> None:
        self._repair_timer = None
        if self._reads:
            self._loop.add_reader(self._sock, self._readable)
            self._readable()
        self.flush()
        if self._repair_timer is None:
            self._in_repair_since = None

    def _end(self, why: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._unwatch()
            self._ended(why)

    def _unwatch(self) -> None:
        if self._repair_timer is not None:
            self._repair_timer.cancel()
            self._repair_timer = None
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._reads = self._writes = False


def _side(name: Callable[[], tuple[Any, ...]]) -> Side | None:
    try:
        address, port = name()[:2]
    except OSError:
        return None
    return ip_address(address), port
