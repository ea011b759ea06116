"""What happened, for the log (prl.daemon.outlet) and for ``prlctl events`` (R5, R6)."""

import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from prl.daemon.outlet import outlet
from prl.daemon.record import Level, Record

EVENTS_MAX = 16384
"""Events kept for ``prlctl events``, those of a take-over of very many sessions, too; older ones
are in the log alone."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, str, int, Level, str, str, dict[str, Any]])


class EventLog:
    """A bounded ring of records; each goes to a log, too: the lines to ``write``, if given."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._ring: deque[bytes] = deque(maxlen=EVENTS_MAX)
        """Encoded: very many sessions make very many records, which nearly nobody reads."""
        self._seq = 0
        self._emit: Callable[[Record], object] = outlet()
        if write is not None:
            self._emit = lambda record: write(record.line)

    def post(self, level: Level, event: str, text: str, **facts: Any) -> None:
        """Record that ``event`` happened: ``text`` is for people, ``facts`` for programs."""
        self._seq += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = Record(self._seq, now, time.monotonic_ns(), level, event, text, facts)
        self._ring.append(_encoder.encode(msgspec.structs.astuple(record)))
        self._emit(record)

    def info(self, event: str, text: str, **facts: Any) -> None:
        """A state changed as it should."""
        self.post("info", event, text, **facts)

    def warning(self, event: str, text: str, **facts: Any) -> None:
        """Something is not as it should be; it may mend itself."""
        self.post("warning", event, text, **facts)

    def error(self, event: str, text: str, **facts: Any) -> None:
        """Something failed."""
        self.post("error", event, text, **facts)

    def after(self, seq: int, count: int) -> list[Record]:
        """At most ``count`` records that came after number ``seq``, oldest first."""
        first = self._seq - len(self._ring)  # their numbers have no gaps
        start = max(seq - first, 0)
        chosen = islice(self._ring, start, start + count)
        return [Record(*_decoder.decode(raw)) for raw in chosen]

    def size_bytes(self) -> int:
        """Memory that the ring takes now; it ends growing at EVENTS_MAX."""
        return sys.getsizeof(self._ring) + sum(map(sys.getsizeof, self._ring))
