"""As much of TCP as the invariants need: sequence numbers without end, in-order receivers.

A stream's bytes are a function of their offsets, so that offsets alone tell what was lost. The
core sees the lower 32 bits.
"""

from dataclasses import dataclass, field

BUFFER_BYTES = 20_000
SEGMENT_MAX = 1400
BURST_MAX = 8_000
"""Unacknowledged bytes in one direction."""
RTO_NS = 80_000_000


class ViolationError(AssertionError):
    """An invariant of SPEC section 2 does not hold."""


@dataclass(slots=True)
class Packet:
    """A segment of the peer's (input) or of the application's (output)."""

    name: int
    session: "Session"
    seq: int
    end: int
    """Behind the payload; of output, a FIN counts one."""
    ack: int = 0
    fin: bool = False
    rst: bool = False


@dataclass(slots=True)
class Sock:
    """One node's socket of a session: the session itself, or its shadow."""

    rcv_nxt: int
    read: int
    snd_una: int
    snd_nxt: int
    fin_at: int | None = None
    """``snd_nxt`` behind the FIN of the application."""
    peer_fin: bool = False
    slow: bool = False
    progress_ns: int = 0
    pushed: int = 0
    edge_told: int = 0

    @property
    def edge(self) -> int:
        """Right edge of what it would take."""
        return self.read + BUFFER_BYTES

    def clone(self) -> "Sock":
        """What a snapshot restores."""
        return Sock(self.rcv_nxt, self.read, self.snd_una, self.snd_nxt, self.fin_at, self.peer_fin)

    def receive(self, packet: Packet) -> None:
        """A segment reached this L4. Raises ViolationError when it acknowledges the unsent."""
        if packet.ack > self.snd_nxt:
            raise ViolationError(
                f"I3: session {packet.session.number}: the peer acknowledges {packet.ack}, "
                f"this socket has sent up to {self.snd_nxt}: Linux would throw the segment away"
            )
        if packet.seq <= self.rcv_nxt <= packet.end:
            self.rcv_nxt = packet.end
            self.peer_fin |= packet.fin
        self.snd_una = max(self.snd_una, packet.ack)


@dataclass(slots=True)
class Session:
    """A session as its peer has it."""

    number: int
    service: int
    snd_una: int
    snd_nxt: int
    rcv_nxt: int
    edge: int
    progress_ns: int = 0
    timer_ns: int = 0
    """Since when the oldest unacknowledged segment waits for an answer."""
    over: str = ""
    """Why it has ended: fin, rst, or lost (it was not protected when its host died)."""
    fin_sent: bool = False
    heard: set[int] = field(default_factory=set)
    """Nodes that spoke for it since the faults ended."""
