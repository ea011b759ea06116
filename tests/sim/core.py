"""The C core that a world runs on: the product's, or a copy that was broken on purpose."""

from dataclasses import dataclass
from typing import Any

MASK = 0xFFFFFFFF
MS = 1_000_000
"""Nanoseconds in a millisecond."""
NEVER = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Core:
    """The compiled state machines and codec."""

    ffi: Any
    lib: Any


def product() -> Core:
    """The object code that the datapath runs."""
    from prl._core import ffi, lib  # noqa: PLC0415 - a broken copy is tried without it

    return Core(ffi, lib)


def near(reference: int, low32: int) -> int:
    """The number closest to ``reference`` whose lower 32 bits are ``low32`` (RFC 1982)."""
    distance = (low32 - reference) & MASK
    return reference + (distance - (1 << 32) if distance >> 31 else distance)
