"""One direction of a session: whose UPDATEs they are, who reads them, what is known of both."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from prl.bindings.bgp_rib import (
    EXTENDED_MAX_BYTES,
    HEADER_BYTES,
    MESSAGE_MAX_BYTES,
    Column,
    Family,
    Rib,
    RibIncompleteError,
    RouteTooLongError,
    UpdateError,
)
from prl.errors import PrlError

OUT_HIGH_BYTES = 1 << 20
"""So much waits for who is to read it before routes are kept, and only their newest is sent."""
OUT_LOW_BYTES = 1 << 18
"""From here on the difference is sent, a piece at a time."""
_PIECE_BYTES = 1 << 17
_UPDATE, _ROUTE_REFRESH = 2, 5
_BEGIN, _END = 1, 2
"""RFC 7313: the bounds of an answer to a ROUTE-REFRESH."""
AFI_SAFI = {
    Family.IPV4_UNICAST: (1, 1),
    Family.IPV6_UNICAST: (2, 1),
    Family.IPV4_MULTICAST: (1, 2),
    Family.IPV6_MULTICAST: (2, 2),
}


class DirectionLostError(PrlError):
    """What the reader still has to be told is not known any more: the session cannot go on."""


def message(kind: int, body: bytes) -> bytes:
    """A whole message."""
    return b"\xff" * 16 + (HEADER_BYTES + len(body)).to_bytes(2, "big") + bytes([kind]) + body


def end_of_rib(family: Family) -> bytes:
    """RFC 4724 section 2."""
    if family is Family.IPV4_UNICAST:
        return message(_UPDATE, bytes(4))
    afi, safi = AFI_SAFI[family]
    return message(_UPDATE, b"\0\0\0\6\x80\x0f\3" + afi.to_bytes(2, "big") + bytes([safi]))


def route_refresh(family: Family, subtype: int = 0) -> bytes:
    """RFC 2918, and the bounds of its answer (RFC 7313)."""
    afi, safi = AFI_SAFI[family]
    return message(_ROUTE_REFRESH, afi.to_bytes(2, "big") + bytes([subtype, safi]))


@dataclass
class _Answer:
    """To ``count`` ROUTE-REFRESHes of a family: one that is not begun is for further ones, too."""

    family: Family
    pieces: Iterator[bytes]
    count: int = 1
    is_begun: bool = False


class Direction:
    """The routes of one direction, and the bytes that go out to their reader.

    While the reader keeps up it gets every message with its own bytes. Else, and while it is
    ``held``, only what the source says is kept: the difference follows when there is room.

    Args:
        out: bytes for the reader; only appended to here.
        rib: the table.
        extended: messages of up to 65,535 octets.

    Attributes:
        held: nothing of the source goes on to the reader.
        repeats: the source may say again what it has said: the difference alone goes on.
        incomplete: the table was too small, or memory was: messages pass, nothing is known.
        answered: how many ROUTE-REFRESHes of the reader, of each family, were answered: all of the
            answer is in ``out``, or was.
    """

    def __init__(self, out: bytearray, rib: Rib, *, extended: bool) -> None:
        self.out = out
        self.rib = rib
        self.held = self.repeats = False
        self.incomplete = False
        self.answered: Counter[Family] = Counter()
        self._message_max = EXTENDED_MAX_BYTES if extended else MESSAGE_MAX_BYTES
        self._piece_bytes = max(_PIECE_BYTES, self._message_max)
        self._ended: set[Family] = set()
        """Families of which the source has said that it has said all."""
        self._end_told: set[Family] = set()
        self._answers: deque[_Answer] = deque()
        """Of each family at most one that is not begun, behind one that is: a reader may ask
        without end, and read nothing."""

    @property
    def behind(self) -> bool:
        """Whether the reader has not been given all that the source says."""
        return not self.incomplete and (self.rib.differing > 0 or not self._ended <= self._end_told)

    @property
    def overdue(self) -> int:
        """Routes that differ for longer than a message is on its way (``age()``)."""
        return self.rib.lasting

    def age(self) -> None:
        """A while has passed. What differs, and is not said anew, is overdue after two of them."""
        self.rib.age()

    def no_news(self) -> None:
        """What differs by now is overdue: nobody is about to say it."""
        self.rib.age()
        self.rib.age()

    @property
    def keeps_up(self) -> bool:
        """Whether the reader gets messages as they come."""
        return not (self.held or self.repeats or self.behind or self._answers)

    def take(self, update: bytes) -> None:
        """An UPDATE of the source.

        Raises:
            UpdateError: its routes cannot be located; nothing has changed, nothing was passed on.
            DirectionLostError: the table cannot take it, and the reader does not keep up.
        """
        if self.incomplete:
            self.out += update
            return
        passes = self.keeps_up and len(self.out) < OUT_HIGH_BYTES
        columns = (Column.SOURCE, Column.SENT) if passes else (Column.SOURCE,)
        try:
            said = self.rib.apply(update, *columns)
        except RibIncompleteError as error:
            self.lose(str(error))
        else:
            if said.end_of_rib is not None:
                self._ended.add(said.end_of_rib)
                if passes:
                    self._end_told.add(said.end_of_rib)
        if passes:
            self.out += update
        elif self.repeats:
            self.pump()

    def was_told(self, update: bytes) -> None:
        """The reader was told this by the other node."""
        if self.incomplete:
            return
        try:
            said = self.rib.apply(update, Column.SENT)
        except (RibIncompleteError, UpdateError):
            self.incomplete = True
        else:
            if said.end_of_rib is not None:
                self._end_told.add(said.end_of_rib)

    def lose(self, why: str) -> None:
        """Give the table up.

        Raises:
            DirectionLostError: the reader has not been told all of it.
        """
        kept_up = self.keeps_up
        self.incomplete = True
        if not kept_up:
            raise DirectionLostError(why)

    def pump(self) -> None:
        """Let more go out, as far as there is room; to be called when there may be.

        Raises:
            DirectionLostError: a route does not fit into a message.
        """
        while len(self.out) < OUT_LOW_BYTES and not self.incomplete:
            if self._answers:
                answer = self._answers[0]
                answer.is_begun = True
                if (piece := next(answer.pieces, None)) is None:
                    self._answers.popleft()
                    self.answered[answer.family] += answer.count
                else:
                    self.out += piece
            elif self.held:
                return
            elif self.rib.differing:
                self._say_difference()
            else:
                for family in sorted(self._ended - self._end_told):
                    self.out += end_of_rib(family)
                self._end_told |= self._ended
                return

    def _say_difference(self) -> None:
        try:
            self.out += self.rib.difference(self._message_max, self._piece_bytes)
        except RouteTooLongError as error:
            self.incomplete = True
            raise DirectionLostError(str(error)) from error

    def answer(self, families: Iterable[Family], *, bounds: bool) -> None:
        """Say again what the reader has been told: it has asked by ROUTE-REFRESH.

        What changes meanwhile is said as ever; at the end the reader has all as it is.
        """
        waiting = {one.family: one for one in self._answers if not one.is_begun}
        for family in families:
            if (answer := waiting.get(family)) is not None:
                answer.count += 1
            else:
                self._answers.append(_Answer(family, self._answer(family, bounds=bounds)))
        self.pump()

    @property
    def asked(self) -> dict[Family, int]:
        """How many ROUTE-REFRESHes of each family are still being answered."""
        asked: Counter[Family] = Counter()
        for one in self._answers:
            asked[one.family] += one.count
        return dict(asked)

    def _answer(self, family: Family, *, bounds: bool) -> Iterator[bytes]:
        if bounds:
            yield route_refresh(family, _BEGIN)
        yield from self.rib.walk(Column.SENT, self._message_max, self._piece_bytes, [family])
        if bounds:
            yield route_refresh(family, _END)

    def walk(self, column: Column) -> Iterator[bytes]:
        """Yield a column as UPDATEs, a piece at a time, with the End-of-RIBs that belong to it.

        As Rib.walk(): between two pieces all may go on.
        """
        ended = self._ended if column is Column.SOURCE else self._end_told
        routes = self.rib.walk(column, self._message_max, self._piece_bytes)
        return chain(routes, (end_of_rib(family) for family in sorted(ended)))

    def reader_restarted(self) -> None:
        """The reader knows nothing any more, and is to be told everything."""
        self.rib.clear(Column.SENT)
        self._end_told.clear()
        self._answers.clear()

    def source_restarted(self) -> None:
        """The source says everything anew; what the reader was told stays told."""
        self.rib.clear(Column.SOURCE)
        self._ended.clear()
