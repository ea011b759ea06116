"""From the program's stdout to the connection: at once on the owner, cut off on the standby."""

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from prl.serve.command import Command
from prl.serve.cutoff import ComparedCutOff
from prl.serve.relay import CHUNK_BYTES, Interest, Moved, Relay

HELD_OUTPUT_MAX_BYTES = 16 << 20
"""What the standby's program may be ahead of the owner's; then it has to wait."""
COMPARE_INTERVAL_S = 0.25
"""How long output of the standby's program stays uncompared at most."""
COMPARE_FULL_INTERVAL_S = 0.02
_COMPARE_FROM_BYTES = 1 << 20
_SEND_BYTES = 256 << 10

Committed = Callable[[], tuple[int, int]]
"""Asks how much of the owner's output is committed, and its hash."""


class Outbound(Protocol):
    """Where the output of a program goes."""

    @property
    def has_ended(self) -> bool:
        """Whether the program's output has ended and all of it has been given on."""

    def interests(self) -> list[Interest]:
        """What to wait for before the next ``step``."""

    def timeout_s(self) -> float | None:
        """How long to wait for it at most."""

    def step(self, events: dict[int, int]) -> None:
        """Move what is there. Errors of the connection are raised as OSError."""

    def end_direction(self) -> None:
        """The program lives and has ended its output: so do we."""


class DirectOutbound:
    """The owner's: straight into the socket."""

    def __init__(self, command: Command, sock: socket.socket) -> None:
        self._relay = Relay(command.stdout, sock.fileno())
        self._socket = sock
        self.has_ended = False

    def interests(self) -> list[Interest]:
        """See ``Outbound``."""
        return [] if self.has_ended else [self._relay.interest()]

    def timeout_s(self) -> float | None:
        """See ``Outbound``."""
        return None

    def step(self, events: dict[int, int]) -> None:
        """See ``Outbound``."""
        if not any(descriptor in events for descriptor, _ in self.interests()):
            return
        moved = self._relay.move()
        if moved is Moved.REFUSED:
            raise BrokenPipeError("the connection takes no more output")
        self.has_ended = moved is Moved.END

    def end_direction(self) -> None:
        """See ``Outbound``."""
        _end_direction(self._socket)


class HeldOutbound:
    """The standby's: compared with the owner's, and sent from where that ended."""

    def __init__(self, command: Command, start: int, committed: Committed) -> None:
        """Output before byte ``start`` was committed before we came."""
        self._command = command
        self._committed = committed
        self._cutoff = ComparedCutOff(HELD_OUTPUT_MAX_BYTES, start)
        self._program_has_ended = False
        self._socket: socket.socket | None = None
        self._asked_at_s = 0.0

    @property
    def has_ended(self) -> bool:
        """See ``Outbound``."""
        return (
            self._socket is not None and self._program_has_ended and not self._cutoff.pending_bytes
        )

    def take_over(self, sock: socket.socket, out_bytes: int, out_hash: int) -> None:
        """Go on at byte ``out_bytes`` of the output, on ``sock``, which is non-blocking.

        Raises:
            OutputDiffersError: what the peer has had is not what our program gave.
        """
        self._cutoff.expect(out_bytes, out_hash)
        self._socket = sock
        if self._program_has_ended:
            self._cutoff.require_whole()

    def interests(self) -> list[Interest]:
        """See ``Outbound``."""
        found: list[Interest] = []
        if not self._program_has_ended and not self._cutoff.is_full:
            found.append((self._command.stdout, select.POLLIN))
        if self._socket is not None and self._cutoff.peek(1):
            found.append((self._socket.fileno(), select.POLLOUT))
        return found

    def timeout_s(self) -> float | None:
        """See ``Outbound``."""
        if self._socket is not None or not self._cutoff.pending_bytes:
            return None
        return max(0.0, self._asked_at_s + self._interval_s() - time.monotonic())

    def _interval_s(self) -> float:
        is_much = self._cutoff.pending_bytes >= _COMPARE_FROM_BYTES
        return COMPARE_FULL_INTERVAL_S if is_much else COMPARE_INTERVAL_S

    def step(self, events: dict[int, int]) -> None:
        """See ``Outbound``. Raises OutputDiffersError."""
        if not self._program_has_ended and self._command.stdout in events:
            self._collect()
        if self._socket is not None:
            self._send(self._socket)
        elif self.timeout_s() == 0.0:
            self._asked_at_s = time.monotonic()
            self._cutoff.expect(*self._committed())

    def end_direction(self) -> None:
        """See ``Outbound``."""
        if self._socket is not None:
            _end_direction(self._socket)

    def _collect(self) -> None:
        try:
            data = os.read(self._command.stdout, CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self._cutoff.append(data)
            return
        self._program_has_ended = True
        if self._socket is not None:
            self._cutoff.require_whole()

    def _send(self, sock: socket.socket) -> None:
        while data := self._cutoff.peek(_SEND_BYTES):
            try:
                self._cutoff.consume(sock.send(data))
            except BlockingIOError:
                return


def _end_direction(sock: socket.socket) -> None:
    with suppress(OSError):  # the peer has gone already
        sock.shutdown(socket.SHUT_WR)
