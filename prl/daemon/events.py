"""What happened, for the log on standard error and for ``prlctl events`` (R5, R6)."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

import msgspec

EVENTS_MAX = 16384
"""Events kept for ``prlctl events``, those of a take-over of very many sessions, too; older ones
are in the log alone."""

Level = Literal["info", "warning", "error"]


class Record(msgspec.Struct, frozen=True):
    """One thing that happened."""

    seq: int
    time: str
    """UTC, ISO 8601."""
    monotonic_ns: int
    level: Level
    event: str
    text: str
    facts: dict[str, Any]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, str, int, Level, str, str, dict[str, Any]])


class EventLog:
    """A bounded ring of records; each is one line on standard error, too."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._ring: deque[bytes] = deque(maxlen=EVENTS_MAX)
        """Encoded: very many sessions make very many records, which nearly nobody reads."""
        self._seq = 0
        self._write = write or _to_stderr

    def post(self, level: Level, event: str, text: str, **facts: Any) -> None:
        """Record that ``event`` happened: ``text`` is for people, ``facts`` for programs."""
        self._seq += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = Record(self._seq, now, time.monotonic_ns(), level, event, text, facts)
        self._ring.append(_encoder.encode(msgspec.structs.astuple(record)))
        self._write(_line(record))

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


def _line(record: Record) -> str:
    facts = "".join(f" {name}={_value(value)}" for name, value in record.facts.items())
    return f"{record.time} {record.level} {record.event} {_value(record.text)}{facts}"


def _value(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(char in text for char in ' "=')
    return text if plain else json.dumps(text)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
