"""From the program's stdout to the connection: at once on the owner, cut off on the standby."""

import os
import select
import socket
from typing import Protocol

from prl import tcp
from prl.serve.command import Command
from prl.serve.cutoff import CutOff
from prl.serve.relay import CHUNK_BYTES, Interest, Moved, Relay

# What the standby's program may be ahead of what the peer has acknowledged.
HELD_OUTPUT_MAX_BYTES = 64 << 20
# Nothing wakes us when the peer acknowledges, so a full buffer is looked at this often.
TRIM_INTERVAL_S = 0.02
_TRIM_FROM_BYTES = 1 << 20
_SEND_BYTES = 256 << 10


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


class DirectOutbound:
    """The owner's: straight into the socket."""

    def __init__(self, command: Command, sock: socket.socket) -> None:
        self._relay = Relay(command.stdout, sock.fileno())
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


class HeldOutbound:
    """The standby's: kept while the peer may still need it, sent once we have taken over."""

    def __init__(self, command: Command, shadow: socket.socket) -> None:
        """``shadow`` is only looked at (TCP_INFO) until ``take_over``."""
        self._command = command
        self._socket = shadow
        # What was acknowledged before we looked is never cut, which is safe.
        self._acked_before = tcp.bytes_acked(shadow)
        self._cutoff = CutOff(HELD_OUTPUT_MAX_BYTES)
        self._program_has_ended = False
        self._may_send = False

    @property
    def has_ended(self) -> bool:
        """See ``Outbound``."""
        return self._may_send and self._program_has_ended and not self._cutoff.pending_bytes

    def take_over(self, sock: socket.socket, out_bytes: int) -> None:
        """Go on at byte ``out_bytes`` of the output, on ``sock``, which is non-blocking.

        Raises:
            CutOffError: that byte is gone.
        """
        self._socket = sock
        self._cutoff.go_on_at(out_bytes)
        self._may_send = True

    def interests(self) -> list[Interest]:
        """See ``Outbound``."""
        found: list[Interest] = []
        if not self._program_has_ended and not self._cutoff.is_full:
            found.append((self._command.stdout, select.POLLIN))
        if self._may_send and self._cutoff.pending_bytes:
            found.append((self._socket.fileno(), select.POLLOUT))
        return found

    def timeout_s(self) -> float | None:
        """See ``Outbound``."""
        return TRIM_INTERVAL_S if self._cutoff.is_full and not self._may_send else None

    def step(self, events: dict[int, int]) -> None:
        """See ``Outbound``."""
        if not self._program_has_ended and self._command.stdout in events:
            self._collect()
        if self._may_send:
            self._send()
        elif self._cutoff.pending_bytes >= _TRIM_FROM_BYTES:
            # The shadow's peer acknowledges only what the primary has committed (I3).
            self._cutoff.raise_floor(tcp.bytes_acked(self._socket) - self._acked_before)

    def _collect(self) -> None:
        try:
            data = os.read(self._command.stdout, CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self._cutoff.append(data)
        else:
            self._program_has_ended = True

    def _send(self) -> None:
        while data := self._cutoff.peek(_SEND_BYTES):
            try:
                self._cutoff.consume(self._socket.send(data))
            except BlockingIOError:
                return
