"""The standby's copy of an output stream, of which the peer has some front part already.

::

            start          floor              end
              |              |                 |
    ----------[ hashed, gone ][ still needed   ]
                                               ^ produced so far

The floor only rises: with every word of prld's about how much of the owner's output is committed,
and to the exact byte at which that ended once we have taken over. Each such word comes with a hash
of the committed output, and our own must have it, too: a program that gives other output for the
same input is found out, be it ahead of the owner's or behind.
"""

import zlib
from collections import deque

from prl.errors import PrlError

EXPECTED_MAX = 64
"""Hashes that wait for a program that is behind; of more, only the newest is kept."""


class OutputDiffersError(PrlError):
    """The program gave other output than the owner's: this stream must never be heard."""


class CutOff:
    """Bytes of an output stream, numbered from the stream's first byte, cut at the front."""

    def __init__(self, limit_bytes: int, start: int = 0) -> None:
        """What comes before byte ``start`` is dropped unseen; hashes begin there."""
        self._limit_bytes = limit_bytes
        self._start = start
        self._floor = start
        self._end = 0
        self._hash = 0
        self._buffer = bytearray()
        self._expected: deque[tuple[int, int]] = deque()

    @property
    def end(self) -> int:
        """How many bytes the stream has had so far."""
        return self._end

    @property
    def floor(self) -> int:
        """Bytes before this one are not needed; it may lie ahead of ``end``."""
        return self._floor

    @property
    def is_behind(self) -> bool:
        """Whether the owner's output is further than ours."""
        return self._end < self._floor

    @property
    def pending_bytes(self) -> int:
        """How many bytes wait to be sent, or to be compared."""
        return len(self._buffer)

    @property
    def is_full(self) -> bool:
        """Whether no more should be appended for now; one append may overshoot the limit."""
        return len(self._buffer) >= self._limit_bytes

    def append(self, data: bytes | memoryview) -> None:
        """Add the stream's next bytes. Raises OutputDiffersError."""
        unseen = min(len(data), max(0, self._start - self._end))
        self._end += len(data)
        self._buffer += memoryview(data)[unseen:]
        self._settle()

    def expect(self, offset: int, crc: int) -> None:
        """The owner's output before byte ``offset`` is committed; from ``start`` on it hashes so.

        Raises:
            OutputDiffersError: ours does not.
        """
        if offset < self._floor:
            return  # an older word
        self._floor = offset
        if len(self._expected) == EXPECTED_MAX:
            self._expected.pop()
        self._expected.append((offset, crc))
        self._settle()

    def _settle(self) -> None:
        """Hash what is before the floor, and compare where there is something to compare with."""
        while self._expected and self._end >= self._expected[0][0]:
            offset, crc = self._expected.popleft()
            self._take(offset - (self._end - len(self._buffer)))
            if self._hash != crc:
                raise OutputDiffersError(
                    f"the program gave other output than the owner's, somewhere in the first "
                    f"{offset} bytes: it is not deterministic"
                )
        if self._expected:
            self._take(len(self._buffer))

    def _take(self, count: int) -> None:
        with memoryview(self._buffer) as view:
            self._hash = zlib.crc32(view[:count], self._hash)
        del self._buffer[:count]

    def peek(self, limit_bytes: int) -> bytes:
        """The next bytes to send, at most ``limit_bytes``; empty when there are none now."""
        return b"" if self.is_behind else bytes(self._buffer[:limit_bytes])

    def consume(self, count: int) -> None:
        """``count`` bytes from the front have been sent."""
        del self._buffer[:count]
        self._floor += count

    def require_whole(self) -> None:
        """The program gives no more. Raises OutputDiffersError if the owner's gave more."""
        if self.is_behind:
            raise OutputDiffersError(
                f"the program ended after {self._end} bytes of output, of which the owner's gave "
                f"{self._floor}: it is not deterministic"
            )
