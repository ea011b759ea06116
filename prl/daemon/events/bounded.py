"""How much of something that is bounded is used, as metrics tell it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounded:
    """What is used now, of how much, and how often more was wanted."""

    used: int
    limit: int
    refused: int | None = None
    """None: that is not counted."""
