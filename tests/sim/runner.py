"""Many seeds at once, on every processor."""

import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from tests.sim.build import build, product
from tests.sim.core import Core
from tests.sim.world import World

BLOCK = 50
"""Seeds that a worker takes at once."""


@dataclass(slots=True)
class Report:
    """What some seeds came to."""

    seeds: int = 0
    events: int = 0
    cpu_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Take another report in."""
        self.seeds += other.seeds
        self.events += other.events
        self.cpu_s += other.cpu_s
        self.counts.update(other.counts)
        self.failures += other.failures

    def lines(self) -> list[str]:
        """The report, to be read; a failure comes with the command that replays it."""
        faults = {k[7:]: n for k, n in self.counts.items() if k.startswith("fault: ")}
        other = {k: n for k, n in self.counts.items() if not k.startswith("fault: ") and n}
        rate = self.seeds / max(self.cpu_s, 1e-9)  # per second of one processor
        lines = [
            f"seeds: {self.seeds}, events: {self.events}",
            f"speed: {rate:.0f} seeds per second of one processor",
            f"faults injected: {sum(faults.values())}: {_by_number(faults)}",
            f"what happened: {_by_number(other)}",
        ]
        lines += [f"python -m tests.sim {seed}    # {why}" for seed, why in self.failures[:10]]
        return lines


def _by_number(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda c: -c[1]))


def run_block(
    seeds: range,
    core: Core | None = None,
    *,
    faults: tuple[str, ...] = (),
    stop_at_first: bool = False,
    patient: bool = False,
) -> Report:
    """Run ``seeds`` one after the other; ``faults`` are the only kinds, where given."""
    report = Report()
    began_s = time.process_time()
    for seed in seeds:
        world = World(seed, core or product(), faults=faults, patient=patient)
        try:
            world.run()
        except AssertionError as failure:  # a violation, or the model's own doubt
            report.failures.append((seed, str(failure) or "an assertion of the simulator"))
        report.seeds += 1
        report.events += world.events_run
        report.counts.update(world.counts)
        if stop_at_first and report.failures:
            break
    report.cpu_s = time.process_time() - began_s
    return report


def run(seeds: range, *, patient: bool = False) -> Report:
    """Run ``seeds`` on all processors."""
    blocks = [seeds[at : at + BLOCK] for at in range(0, len(seeds), BLOCK)]
    report = Report()
    context = multiprocessing.get_context("spawn")
    build()  # before all of them do
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(blocks)), context) as pool:
        for part in pool.map(partial(run_block, patient=patient), blocks):
            report.add(part)
    report.failures.sort()
    return report
