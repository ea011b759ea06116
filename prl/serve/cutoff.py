"""An output that is compared with the owner's on its way out of the standby's copy.

Each word of prld's about how much of the owner's output is committed comes with a hash of it, and
our own must have it, too: a program that gives other output for the same input is found out, be it
ahead of the owner's or behind.
"""

import zlib
from collections import deque

from prl.client.replay_buffer import CutOff
from prl.errors import PrlError

EXPECTED_MAX = 64
"""Hashes that wait for a program that is behind; of more, only the newest is kept."""


class OutputDiffersError(PrlError):
    """The program gave other output than the owner's: this stream must never be heard."""


class ComparedCutOff(CutOff):
    """A copy that is cut where hashes are to be compared, one after the other."""

    def __init__(self, limit_bytes: int, start: int = 0) -> None:
        """What comes before byte ``start`` is dropped unseen; hashes begin there."""
        super().__init__(limit_bytes)
        self._hashes_from = start
        self._hash = 0
        self._expected: deque[tuple[int, int]] = deque()
        self.raise_floor(start)

    @property
    def floor(self) -> int:
        """Bytes before this one are not needed; it may lie ahead of ``end``."""
        return self._expected[-1][0] if self._expected else super().floor

    def append(self, data: bytes | memoryview) -> None:
        """Add the stream's next bytes. Raises OutputDiffersError."""
        super().append(data)
        self._settle()

    def expect(self, offset: int, crc: int) -> None:
        """The owner's output before byte ``offset`` is committed; from ``start`` on it hashes so.

        Raises:
            OutputDiffersError: ours does not.
        """
        if offset < self.floor:
            return  # an older word
        if len(self._expected) == EXPECTED_MAX:
            self._expected.pop()
        self._expected.append((offset, crc))
        self._settle()

    def _settle(self) -> None:
        """Cut what is before each floor in turn, and compare where we have come so far."""
        while self._expected:
            offset, crc = self._expected[0]
            self.raise_floor(offset)
            if self.end < offset:
                return
            self._expected.popleft()
            if self._hash != crc:
                raise OutputDiffersError(
                    f"the program gave other output than the owner's, somewhere in the first "
                    f"{offset} bytes: it is not deterministic"
                )

    def _on_cut(self, data: memoryview, at: int) -> None:
        unseen = min(len(data), max(0, self._hashes_from - at))
        self._hash = zlib.crc32(data[unseen:], self._hash)

    def require_whole(self) -> None:
        """The program gives no more. Raises OutputDiffersError if the owner's gave more."""
        if self.is_behind:
            raise OutputDiffersError(
                f"the program ended after {self.end} bytes of output, of which the owner's gave "
                f"{self.floor}: it is not deterministic"
            )
