"""The standby's copy of an output stream, of which the peer has some front part already.

::

            start        floor              end
              |            |                 |
    ----------[ to be cut ][ still needed    ]
              ^ kept from here               ^ produced so far

The floor only rises: by what is known of the owner's output while we are the standby, and to the
exact byte at which its committed output ended once we have taken over.
"""

from prl.errors import PrlError


class CutOffError(PrlError):
    """Output that is needed is not there any more: the stream cannot go on without a gap."""


class CutOff:
    """Bytes of an output stream, numbered from the stream's first byte, cut at the front."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._end = 0
        self._floor = 0

    @property
    def end(self) -> int:
        """How many bytes the stream has had so far."""
        return self._end

    @property
    def start(self) -> int:
        """The number of the first byte that is kept; all before it are gone."""
        return self._end - len(self._buffer)

    @property
    def floor(self) -> int:
        """Bytes before this one are not needed; it may lie ahead of ``end``."""
        return self._floor

    @property
    def is_behind(self) -> bool:
        """Whether the owner's output is further than ours."""
        return self._end < self.floor

    @property
    def pending_bytes(self) -> int:
        """How many bytes are kept."""
        return len(self._buffer)

    @property
    def is_full(self) -> bool:
        """Whether no more should be appended for now; one append may overshoot the limit."""
        return len(self._buffer) >= self._limit_bytes

    def append(self, data: bytes | memoryview) -> None:
        """Add the stream's next bytes; those below the floor are cut at once."""
        view = memoryview(data)
        cut = min(len(view), max(0, self._floor - self._end))
        self._on_cut(view[:cut], self._end)
        self._end += len(view)
        self._buffer += view[cut:]

    def raise_floor(self, offset: int) -> None:
        """Bytes before ``offset`` will not be needed, be they here or still to come."""
        if offset <= self._floor:
            return
        self._floor = offset
        cut = max(0, min(offset, self._end) - self.start)
        with memoryview(self._buffer) as view:
            self._on_cut(view[:cut], self.start)
        del self._buffer[:cut]

    def go_on_at(self, offset: int) -> None:
        """The stream goes on at byte ``offset`` exactly.

        Raises:
            CutOffError: that byte has been given up already.
        """
        if offset < self._floor:
            raise CutOffError(
                f"the output should go on at byte {offset}, but the peer acknowledged "
                f"{self._floor} bytes: the session cannot go on"
            )
        self.raise_floor(offset)

    def peek(self, limit_bytes: int) -> bytes:
        """The next bytes to send, at most ``limit_bytes``; empty when there are none now."""
        return bytes(self._buffer[:limit_bytes])

    def consume(self, count: int) -> None:
        """``count`` bytes from the front have been sent."""
        del self._buffer[:count]
        self._floor = max(self._floor, self.start)

    def _on_cut(self, data: memoryview, at: int) -> None:
        """The bytes from number ``at`` on go unsent."""
