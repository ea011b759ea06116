"""A session that is this node's: what the standby's front is told, and what may be written.

No socket, no clock: whoever has them tells of bytes and time, sends what ``send`` is given to the
other front in order, and writes to the peer no more than ``writable()``.
"""

from collections.abc import Callable, Iterator

from prl.bgpfront.ahead import Sayer
from prl.bgpfront.messages import (
    All,
    Answered,
    Begin,
    Message,
    Routes,
    Said,
    Say,
    Table,
)
from prl.bgpfront.opening import encode
from prl.bgpfront.session import Session
from prl.bindings.bgp_rib import Column, Family
from prl.endpoint import Address

SAID_MAX_S = 1.0
"""A standby that takes longer to acknowledge what it is told is waited for no longer."""


class Owner:
    """See the module.

    Args:
        number: the session's.
        peer: its address.
        session: in any state.
        send: takes a message for the other front.
        read: how much of the peer's stream was read before.
        written: how much the peer was written before.
    """

    def __init__(
        self,
        number: int,
        peer: Address,
        session: Session,
        send: Callable[[Message], None],
        *,
        read: int = 0,
        written: int = 0,
    ) -> None:
        self.number = number
        self.session = session
        self.why_not_ready = "it has not been told of the session"
        """Of the standby; "" when it could go on."""
        self._peer = peer
        self._send = send
        self._read = read
        self._sayer = Sayer(session.peer.out, written)
        self._bulk: Iterator[Routes] | None = None
        self._answered: dict[Family, int] = {}
        self._waits_since: float | None = None

    @property
    def is_followed(self) -> bool:
        """Whether there is a standby that is waited for."""
        return self._sayer.standby

    def received(self, data: bytes, now: float) -> None:
        """The peer has sent this."""
        self._read += len(data)
        self.session.received(self.session.peer, data, now)

    def writable(self) -> int:
        """How many bytes of ``session.peer.out`` may be written."""
        return self._sayer.writable()

    def wrote(self, count: int, now: float) -> None:
        """So many have been, and were taken off."""
        self._sayer.wrote(count)
        self.session.written(now)

    def join(self) -> bool:
        """Begin the session for the standby, as it is now. Returns whether that can be."""
        session = self.session
        heard, told, opens = session.heard, session.told, session.opens
        if opens is None or heard is None or told is None:
            return False
        if heard.incomplete or told.incomplete or session.peer.unreadable:
            self.why_not_ready = "the owner's tables are too small or of no use"
            return False
        self.why_not_ready = "it is being told of the session"
        self._waits_since = None
        self._answered = dict(told.answered)
        self._bulk = (
            Routes(self.number, table, piece)
            for table, direction, column in (
                (Table.HEARD, heard, Column.SOURCE),
                (Table.TOLD, told, Column.SENT),
            )
            for piece in direction.walk(column)
            if piece
        )
        self._send(
            Begin(
                self.number,
                self._peer,
                encode(opens[0]),
                encode(opens[1]),
                self._read,
                bytes(session.peer.received),
                self._sayer.joined(),
                tuple(told.asked.items()),
            )
        )
        return True

    def left(self, why: str) -> None:
        """The standby is waited for no longer."""
        self._sayer.left()
        self._bulk = self._waits_since = None
        self.why_not_ready = why

    def pump(self, now: float) -> None:
        """Tell the standby what there is to be said."""
        for position, data in self._sayer.offer():
            self._send(Say(self.number, position, data))
            if self._waits_since is None:
                self._waits_since = now
        told = self.session.told
        if not self.is_followed or told is None:
            return
        for family, count in told.answered.items():
            if more := count - self._answered.get(family, 0):
                self._send(Answered(self.number, self._sayer.end, family, more))
            self._answered[family] = count

    def pump_bulk(self) -> bool:
        """Tell the standby a piece of the tables; whether there are more."""
        if self._bulk is None:
            return False
        piece = next(self._bulk, None)
        if piece is None:
            self._bulk = None
            self._send(All(self.number, self._sayer.end))
            return False
        self._send(piece)
        return True

    def said(self, message: Said, now: float) -> None:
        """The standby has acknowledged. Raises PositionError: what it was never told."""
        self._sayer.said(message.position)
        self._waits_since = now if self._sayer.is_waiting else None

    def late(self, now: float) -> float | None:
        """When the standby is to be given up unless it acknowledges; None: it owes nothing."""
        if self._waits_since is None or not self.is_followed:
            return None
        return max(self._waits_since + SAID_MAX_S, now)
