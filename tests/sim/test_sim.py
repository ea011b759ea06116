"""Seeds of the simulator, its mutants, and ten thousand flows at once.

Checks I1, I2, I3, I5, I6, I7, L1, L2, L3, L4, L5, L6, L10, L11, R5, R12, R21, R26, R30.
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.sim import mutants
from tests.sim.core import product
from tests.sim.many import ManyFlows
from tests.sim.runner import Report, run, run_block

SEEDS = int(os.environ.get("PRL_SIM_SEEDS", "10000"))
FIRST_SEED = int(os.environ.get("PRL_SIM_FIRST", "0"))
MUTANT_SEEDS = 250
"""A mutant that lives longer than this is a hole in the simulator."""
REACHED = (
    "session taken over", "packets opened", "bypassed", "fenced", "renounced",
    "renounced over the LAN", "shadows voided", "void sent", "nack", "dropped_nack", "retried",
    "dropped_full", "dropped_space", "link ring full", "receive ring full", "no hold entry",
    "setup refused", "setup answer lost", "output sent again", "input sent again", "fin", "rst",
    "restarted", "prld restarted", "handle reused in a new epoch", "takeover on request",
    "too late to take over", "started alone", "silent", "speaks again", "shadows expired",
    "moved", "move undone", "move in doubt", "handed over for want of a LAN",
    "move resumed", "relayed", "relayed after the claim", "resumed after a probe", "word too late",
)  # fmt: skip


def test_invariants_hold_in_every_seed(capsys: pytest.CaptureFixture[str]) -> None:
    report = run(range(FIRST_SEED, FIRST_SEED + SEEDS))
    with capsys.disabled():
        sys.stdout.write("\nsimulator: " + "\n  ".join([*report.lines(), ""]))
    assert not report.failures, "\n".join(report.lines()[4:])
    if SEEDS >= 5000:
        missing = [name for name in REACHED if not report.counts[name]]
        assert not missing, f"no seed reached: {missing}"


def _hunt(number: int, folder: str) -> Report:
    core = mutants.load(mutants.build(Path(folder), mutants.MUTANTS[number]))
    faults = mutants.MUTANTS[number].faults
    return run_block(range(MUTANT_SEEDS), core, faults=faults, stop_at_first=True)


def test_every_mutant_is_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / f"mutant{number}" for number in range(len(mutants.MUTANTS))]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        reports = list(pool.map(_hunt, range(len(folders)), map(str, folders)))
    with capsys.disabled():
        for mutant, report in zip(mutants.MUTANTS, reports, strict=True):
            seed, why = report.failures[0] if report.failures else (-1, "NOT CAUGHT")
            sys.stdout.write(f"\nmutant: {mutant.name}: seed {seed}: {why}")
    survivors = [m.name for m, r in zip(mutants.MUTANTS, reports, strict=True) if not r.failures]
    assert not survivors


def test_a_seed_is_the_same_run_every_time() -> None:
    core = product()
    first, second = (run_block(range(5, 10), core) for _ in range(2))
    assert (first.events, first.counts) == (second.events, second.counts)


def test_ten_thousand_flows_survive_the_losses_of_their_link() -> None:
    many = ManyFlows(product(), 10_000, seed=1)
    many.run(epochs=3)
    assert many.losses == 5
    assert many.opened > 25_000
