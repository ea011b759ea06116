"""The pair's one record in the arbiter's store, and the steps that change it (docs/arbiter.md).

    holder: "" ── claim(), of one ──▶ its name ── release(), of the same ──▶ ""

Whoever is named may go on without the other node. The steps are generators, that whatever does the
reading and the replacing (prld's thread; the simulator, with time between) is none of their affair:

    Read()               ─▶ Record
    Replace(record, who) ─▶ whether nobody had written since `record` was read
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

STEPS_MAX: Final = 8
"""Only two nodes write, one at a time each: whoever is disturbed more often is not in this pair."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a read has found."""

    revision: int
    """Of the newest write; 0: there was none."""
    holder: str
    """The node that may go on alone; empty: neither."""


@dataclass(frozen=True, slots=True)
class Read:
    """Read the record, as a majority of the store has it."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Write it, if nobody has written since."""

    record: Record
    holder: str


Step = Read | Replace
Steps = Generator[Step, Record | bool, bool]


class ContendedError(Exception):
    """Somebody else writes the record all the time."""


def claim(node: str) -> Steps:
    """Be the one that goes on alone; returns whether ``node`` is.

    It is written anew where it was there: a release() of before that is late finds that it is.
    """
    for _ in range(STEPS_MAX):
        record = yield Read()
        assert isinstance(record, Record)
        if record.holder not in {"", node}:
            return False
        if (yield Replace(record, node)):
            return True
    raise ContendedError


def release(node: str, *, asked: bool) -> Steps:
    """Together again: let the next one who is alone go on; returns whether nobody is named.

    ``asked``: a claim() of this node's may still be on its way, whose end nobody waited for. What
    is written here makes it too late. What the other node holds is the other node's to release.
    """
    for _ in range(STEPS_MAX):
        record = yield Read()
        assert isinstance(record, Record)
        if record.holder not in {"", node}:
            return False
        if not record.holder and not asked:
            return True
        if (yield Replace(record, "")):
            return True
    raise ContendedError


def seize(node: str, still: Callable[[], bool] = lambda: True) -> Steps:
    """Be it whoever is named: somebody has vouched that the other node does not speak.

    ``still``: whether that word counts yet. What the other node writes meanwhile makes it too late.
    """
    for _ in range(STEPS_MAX):
        record = yield Read()
        assert isinstance(record, Record)
        if not still():
            return False
        if (yield Replace(record, node)):
            return True
    raise ContendedError
