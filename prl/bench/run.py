"""What every bench has in common: rigs measured in turns, and what a bench finds."""

import os
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from prl.bench.baseline import Baseline
from prl.bench.rig import Recipe, Rig
from prl.bench.stats import counted, summary
from prl.bench.targets import TARGETS
from prl.errors import PrlError

S = TypeVar("S")
T = TypeVar("T")
Narrator = Callable[[str], None]
_GOALS = frozenset(target.figure for target in TARGETS)


@dataclass(slots=True)
class Part:
    """What one bench found.

    ``figures`` are what the goals are compared with (prl.bench.targets), ``facts`` all that was
    measured, ``curves`` what a picture can be made of: name, and its points or bars.
    """

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_whole: bool = True
    """False: something could not be measured; ``notes`` say what and why."""

    def lacks(self, what: str, why: object) -> None:
        """Note that ``what`` could not be measured."""
        self.is_whole = False
        self.notes.append(f"{what}: not measured: {why}")

    def series(self, name: str, values: Mapping[str, Sequence[float]], unit: str) -> None:
        """Note the medians and quartiles of each way, in ``unit``."""
        self.facts[name] = {"unit": unit} | {
            way: summary(one).facts() for way, one in values.items() if counted(one)
        }

    def ratios(self, values: Mapping[str, Sequence[float]]) -> None:
        """Note the medians and quartiles of ratios; those that are called as a goal are figures."""
        found = {name: summary(one) for name, one in values.items() if one}
        self.facts.setdefault("ratios", {}).update(
            {name: one.facts() for name, one in found.items()}
        )
        self.figures |= {name: one.median for name, one in found.items() if name in _GOALS}


@dataclass(frozen=True, slots=True)
class Bench:
    """One run: how thorough it is, where it tells, and where it may write."""

    quick: bool
    narrate: Narrator
    scratch: Path

    def rounds(self, quick: int, full: int) -> int:
        """How often to go round."""
        return quick if self.quick else full

    @contextmanager
    def rigs(self, part: Part, recipes: Sequence[Recipe]) -> Iterator[dict[str, Rig]]:
        """Set all of them up at once; one that this host cannot have is left out, with a note."""
        with ExitStack() as stack:
            found = {}
            for recipe in recipes:
                try:
                    found[recipe.name] = stack.enter_context(Rig(recipe, self.scratch))
                except PrlError as error:
                    self._lacks(part, recipe.name, error)
            yield found

    @contextmanager
    def stage(self, part: Part, what: str) -> Iterator[None]:
        """A piece of a bench whose others are worth having without it: its failure is noted."""
        try:
            yield
        except PrlError as error:
            self._lacks(part, what, error)

    def _lacks(self, part: Part, what: str, error: PrlError) -> None:
        part.lacks(what, error)
        self.narrate(f"{what}: {error}")

    def take_turns(
        self, part: Part, rigs: Mapping[str, Rig], rounds: int, measure: Callable[[Rig], T]
    ) -> dict[str, list[T | None]]:
        """Measure every rig once a round, each round beginning with another one.

        A first round that is thrown away warms everything up. None: the rig was not what it is
        called any more, or failed; ``part`` has a note then. One that failed has no more turns.
        """
        return self.alternate(part, rigs, rigs, rounds, measure)

    def alternate(
        self,
        part: Part,
        ways: Mapping[str, S],
        rigs: Mapping[str, Rig],
        rounds: int,
        measure: Callable[[S], T],
    ) -> dict[str, list[T | None]]:
        """The same with ways that are no rigs; ``rigs`` says on which each of them runs."""
        names = list(ways)
        found: dict[str, list[T | None]] = {name: [] for name in names}
        with ExitStack() as stack:
            watched = {
                name: stack.enter_context(_Watched(part, name, rigs[name])) for name in names
            }
            for number in range(rounds + 1):
                at = number % max(len(names), 1)
                for name in names[at:] + names[:at]:
                    value = watched[name].measured(number, partial(measure, ways[name]))
                    if number > 0:
                        found[name].append(value)
        return found


class _Watched:
    """A way in its turns: what is measured while it is not what it is called does not count."""

    def __init__(self, part: Part, name: str, rig: Rig) -> None:
        self._part = part
        self._name = f"{name} ({rig.recipe.role})"
        """A bench has ways of one name and several roles, one set behind the other."""
        self._baseline: Baseline | None = None
        self._lost: list[str] = []
        try:
            self._baseline = Baseline(rig)
        except PrlError as error:
            part.lacks(self._name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lost:
            many = f"{len(self._lost)} round{'s' * (len(self._lost) > 1)} not counted"
            self._part.notes.append(f"{self._name}: {many}, the first of them {self._lost[0]}")

    def measured(self, number: int, measure: Callable[[], T]) -> T | None:
        """Its value of a round; None: it does not count, or there is none any more."""
        if self._baseline is None:
            return None
        try:
            value = measure()
        except PrlError as error:
            self._baseline = None
            self._part.lacks(f"{self._name}, from round {number} on", error)
            return None
        reasons = self._baseline.lost()
        if reasons:
            self._lost.append(f"round {number}: {'; '.join(reasons)}")
        return None if reasons else value


@contextmanager
def bench(*, quick: bool, narrate: Narrator) -> Iterator[Bench]:
    """A run with a scratch directory of its own."""
    with tempfile.TemporaryDirectory(prefix="prl-bench-") as scratch:
        yield Bench(quick, narrate, Path(scratch))


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """What is started meanwhile runs on the last of this process's CPUs, as does this process."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def read_columns(path: Path, kind: str, columns: int) -> list[Sequence[int]]:
    """The columns of a file of ``columns`` numbers a row, as `prl-load` writes them."""
    flat: Any = array(kind)
    flat.frombytes(path.read_bytes())
    path.unlink()
    return [flat[column::columns] for column in range(columns)]
