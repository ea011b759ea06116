"""What every bench has in common: rigs measured in turns, and what a bench finds."""

import os
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from prl.bench.errors import BenchError
from prl.bench.rig import Recipe, Rig
from prl.bench.stats import summary

S = TypeVar("S")
T = TypeVar("T")
Narrator = Callable[[str], None]


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

    def series(self, name: str, values: Mapping[str, Sequence[float]], unit: str) -> None:
        """Note the medians and quartiles of each way, in ``unit``."""
        self.facts[name] = {"unit": unit} | {
            way: summary(one).facts() for way, one in values.items() if one
        }


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
                except BenchError as error:
                    part.notes.append(f"{recipe.name}: not measured: {error}")
                    self.narrate(f"{recipe.name}: {error}")
            yield found

    def take_turns(
        self, ways: Mapping[str, S], rounds: int, measure: Callable[[S], T]
    ) -> dict[str, list[T]]:
        """Measure every way (a rig, mostly) once a round, each round beginning with another one.

        A first round that is thrown away warms everything up.
        """
        names = list(ways)
        found: dict[str, list[T]] = {name: [] for name in names}
        for number in range(rounds + 1):
            at = number % len(names)
            for name in names[at:] + names[:at]:
                value = measure(ways[name])
                if number > 0:
                    found[name].append(value)
        return found


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


def ratio_facts(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians and quartiles of several ratios."""
    return {name: summary(one).facts() for name, one in values.items() if one}
