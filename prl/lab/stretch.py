"""How much longer things may take than on a usual machine: for labs in emulated ones."""

import os
from functools import lru_cache

from prl.config import Timing
from prl.lab.errors import LabError

VARIABLE = "PRL_LAB_STRETCH"
"""Multiplies [timing] of the lab's nodes, and what the lab and the demos wait for at most."""
_MAX = 100


@lru_cache(1)
def factor() -> int:
    """What the environment says; 1 without a word.

    Raises:
        LabError: it is no such number.
    """
    word = os.environ.get(VARIABLE, "1")
    if not (word.isascii() and word.isdigit() and 1 <= int(word) <= _MAX):
        raise LabError(f"{VARIABLE}={word}: give a whole number from 1 to {_MAX}")
    return int(word)


def timing() -> dict[str, int]:
    """What the configuration of a node says in [timing]: nothing where the defaults do."""
    if factor() == 1:
        return {}
    return {name: getattr(Timing(), name) * factor() for name in Timing.__struct_fields__}
