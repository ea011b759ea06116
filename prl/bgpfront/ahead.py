"""What a peer is told is known to the standby first, so that a take-over repeats nothing.

    owner:   session ─▶ peer.out ── SAY ─▶ standby, which says SAID ─▶ then to the wire
    standby: SAY ─▶ kept ── committed ─▶ told; at a take-over the rest of the message that was cut

Positions count the bytes that went to the peer since its session began (``out_bytes`` of prld).
"""

from collections.abc import Iterator

from prl.bgpfront.direction import Direction
from prl.bindings.bgp_rib import HEADER_BYTES, messages
from prl.errors import PrlError

SAY_MAX_BYTES = 1 << 20
"""So many bytes are ahead of what the standby has acknowledged."""
_SAY_PIECE_BYTES = 1 << 16
_UPDATE = 2


class PositionError(PrlError):
    """Positions of owner and standby do not fit together: the standby cannot go on from here."""


class Sayer:
    """The owner's part, for one session.

    Args:
        out: what is to be written to the peer, whole messages; the writer takes from its front.
        position: of its first byte.

    Attributes:
        standby: whether there is one to be waited for.
    """

    def __init__(self, out: bytearray, position: int = 0) -> None:
        self._out = out
        self._written = self._offered = self._said = position
        self.standby = False

    @property
    def position(self) -> int:
        """Of the next byte for the wire."""
        return self._written

    @property
    def end(self) -> int:
        """Position behind all that is to be written."""
        return self._written + len(self._out)

    @property
    def is_waiting(self) -> bool:
        """Whether the standby has not acknowledged all that was offered to it."""
        return self._said < self._offered

    def joined(self) -> int:
        """A standby has the tables as they are now. Return from which position on it is told more.

        What waits to be written before that is in its tables already: until it is written the
        standby cannot go on (``Ahead.take_over``).
        """
        self.standby = True
        self._offered = self._said = self.end
        return self._offered

    def left(self) -> None:
        """It is waited for no longer."""
        self.standby = False

    def offer(self) -> Iterator[tuple[int, bytes]]:
        """Yield what is to be said to the standby: a position, and whole messages from there on."""
        while self.standby:
            begin = end = self._offered - self._written
            while end < len(self._out):
                length = int.from_bytes(self._out[end + 16 : end + 18], "big")
                if self._written + end + length > self._said + SAY_MAX_BYTES:
                    break
                end += length
                if end - begin >= _SAY_PIECE_BYTES:
                    break
            if begin == end:
                return
            position, self._offered = self._offered, self._written + end
            yield position, bytes(self._out[begin:end])

    def said(self, position: int) -> None:
        """The standby has all bytes before ``position``.

        Raises:
            PositionError: they were not all offered to it.
        """
        if position > self._offered:
            raise PositionError(f"the standby says {position}, and {self._offered} was offered")
        self._said = max(self._said, position)

    def writable(self) -> int:
        """How many bytes of ``out`` may be written."""
        return max(self._said - self._written, 0) if self.standby else len(self._out)

    def wrote(self, count: int) -> None:
        """So many bytes have been written, and taken from ``out``."""
        self._written += count
        if not self.standby:
            self._offered = self._said = self._written


class Ahead:
    """The standby's part, for one session.

    Args:
        told: the direction to the peer, whose SENT is the owner's.
        position: of the first byte that ``say()`` will bring; a message begins there.
        extended: messages of up to 65,535 octets.
    """

    def __init__(self, told: Direction, position: int, *, extended: bool) -> None:
        self._told = told
        self._extended = extended
        self._begin = self._enough = position
        """Of the first byte kept; and from where on what is known of ``told`` is exact."""
        self._kept = bytearray()
        self._committed = 0

    @property
    def position(self) -> int:
        """Up to which all is here: what the owner is told by SAID."""
        return self._begin + len(self._kept)

    def say(self, position: int, data: bytes) -> None:
        """The owner will write this.

        Raises:
            PositionError: something between is missing.
        """
        if position != self.position:
            raise PositionError(f"bytes from {position} on, and {self.position} comes next")
        self._kept += data

    def exact_from(self, position: int) -> None:
        """What was put into ``told`` besides may not have been written before ``position`` is."""
        self._enough = position

    @property
    def is_exact(self) -> bool:
        """Whether the peer was told all that ``told`` has."""
        return self._committed >= self._enough

    @property
    def waits(self) -> bool:
        """Whether more will be known when the owner has written more."""
        return bool(self._kept) or not self.is_exact

    def committed(self, position: int) -> None:
        """All before ``position`` has been written: messages that end by then count as told."""
        self._committed = max(self._committed, position)
        count = min(position - self._begin, len(self._kept))
        if count <= 0:
            return
        whole = self._kept[:count]
        for one in messages(whole, extended=self._extended):
            self._told_one(one)
        done = count - len(whole)
        del self._kept[:done]
        self._begin += done

    def take_over(self, position: int) -> bytes:
        """The owner has written all before ``position``, and nothing else.

        Returns what is to be written first: the rest of the message that was cut. It counts as
        told; what the owner said it would write behind it does not.

        Raises:
            PositionError: it wrote what it had not said: the peer's stream cannot be continued.
        """
        first = max(self._begin, self._enough)
        if not first <= position <= self.position:
            raise PositionError(
                f"{position} bytes were written, known are {first} to {self.position}"
            )
        self.committed(position)
        cut = position - self._begin
        if not cut:
            return b""
        message = next(messages(bytearray(self._kept), extended=self._extended))
        self._told_one(message)
        return message[cut:]

    def _told_one(self, one: bytes) -> None:
        if one[HEADER_BYTES - 1] == _UPDATE:
            self._told.was_told(one)
