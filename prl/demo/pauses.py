"""The longest pauses between bytes, kept while the bytes pass."""

import heapq
import time
from collections.abc import Iterable

KEPT = 32
GAP_MIN_NS = 1_000_000


def boottime_ns() -> int:
    """CLOCK_BOOTTIME, the same in all namespaces of the lab."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Pauses:
    """Remembers the ``KEPT`` longest, each as its start and end on CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._heap: list[tuple[int, int, int]] = []

    def note(self) -> None:
        """Bytes pass now."""
        now_ns = boottime_ns()
        if self._last_ns is not None:
            self.add(self._last_ns, now_ns)
        self._last_ns = now_ns

    def add(self, start_ns: int, end_ns: int) -> None:
        """A pause of which both ends are known."""
        entry = (end_ns - start_ns, start_ns, end_ns)
        if len(self._heap) < KEPT:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each, longest first."""
        return [(start, end) for _, start, end in sorted(self._heap, reverse=True)]


class Gaps:
    """Every pause of at least ``GAP_MIN_NS``, in order."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self.spans: list[tuple[int, int]] = []

    def note(self) -> None:
        """Bytes pass now."""
        now_ns = boottime_ns()
        if self._last_ns is not None and now_ns - self._last_ns >= GAP_MIN_NS:
            self.spans.append((self._last_ns, now_ns))
        self._last_ns = now_ns


def longest_ms(spans: Iterable[tuple[int, int]], after_ns: int) -> float | None:
    """The longest pause that ended after ``after_ns``, in milliseconds; None if there is none."""
    lengths = [end - start for start, end in spans if end > after_ns]
    return round(max(lengths) / 1e6, 3) if lengths else None
