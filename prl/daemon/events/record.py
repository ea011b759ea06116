"""One thing that happened, and its line in a log."""

import json
from typing import Any, Literal

import msgspec

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

    @property
    def line(self) -> str:
        """All of it but the numbers, for people and for ``grep``."""
        facts = "".join(f" {name}={_value(value)}" for name, value in self.facts.items())
        return f"{self.time} {self.level} {self.event} {_value(self.text)}{facts}"


def _value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and " " not in text and '"' not in text and "=" not in text
    return text if plain and text else json.dumps(text)
