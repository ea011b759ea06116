"""What happened, for the log (prl.daemon.events.outlet) and for ``prlctl events`` (R5, R6).

The events themselves are in prl.daemon.events.catalogue.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from prl.daemon.events.outlet import outlet
from prl.daemon.events.record import Level, Record

EVENTS_MAX = 16384
"""Events kept for ``prlctl events``, those of a take-over of very many sessions, too; older ones
are in the log alone."""
TEXT_MAX_CHARS = 1000
"""What an event says to people; more of it is cut off."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, str, int, Level, str, str, dict[str, Any]])


class EventLog:
    """A bounded ring of records; each goes to a log, too: the lines to ``write``, if given."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._ring: deque[bytes] = deque(maxlen=EVENTS_MAX)
        """Encoded: very many sessions make very many records, which nearly nobody reads."""
        self._seq = 0
        self.listeners: list[Callable[[Record], None]] = []
        """Told of each event at once; they neither raise nor wait."""
        self._emit: Callable[[Record], object] = outlet()
        if write is not None:
            self._emit = lambda record: write(record.line)

    def post(self, level: Level, event: str, text: str, **facts: Any) -> None:
        """Record that ``event`` happened: ``text`` is for people, ``facts`` for programs."""
        self._seq += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        words = text if len(text) <= TEXT_MAX_CHARS else text[: TEXT_MAX_CHARS - 1] + "…"
        record = Record(self._seq, now, time.monotonic_ns(), level, event, words, facts)
        self._ring.append(_encoder.encode(msgspec.structs.astuple(record)))
        self._emit(record)
        for listener in self.listeners:
            listener(record)

    def info(self, event: str, text: str, **facts: Any) -> None:
        """A state changed as it should."""
        self.post("info", event, text, **facts)

    def warning(self, event: str, text: str, **facts: Any) -> None:
        """Something is not as it should be; it may mend itself."""
        self.post("warning", event, text, **facts)

    def error(self, event: str, text: str, **facts: Any) -> None:
        """Something failed."""
        self.post("error", event, text, **facts)

    @property
    def newest(self) -> int:
        """The number of the last event; 0 before the first."""
        return self._seq

    @property
    def oldest(self) -> int:
        """The number of the oldest event that is kept."""
        return self._seq - len(self._ring) + 1

    def after(self, seq: int, count: int) -> list[Record]:
        """At most ``count`` records that came after number ``seq``, oldest first."""
        start = max(seq + 1 - self.oldest, 0)  # their numbers have no gaps
        chosen = islice(self._ring, start, start + count)
        return [Record(*_decoder.decode(raw)) for raw in chosen]

    def size_bytes(self) -> int:
        """Memory that the ring takes now; it ends growing at EVENTS_MAX."""
        return sys.getsizeof(self._ring) + sum(map(sys.getsizeof, self._ring))
