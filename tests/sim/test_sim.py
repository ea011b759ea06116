"""Seeds of the simulator, its mutants, and ten thousand flows at once.

Checks I1, I2, I3, I5, I6, I7, L1, L2, L3, L4, L5, L6, L10, L11, L12, R5, R12, R21, R26, R30.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sim import build, mutants
from tests.sim.core import product as core_of_the_product
from tests.sim.many import ManyFlows
from tests.sim.runner import run, run_block

SEEDS = int(os.environ.get("PRL_SIM_SEEDS", "2500"))
FIRST_SEED = int(os.environ.get("PRL_SIM_FIRST", "0"))
PATIENT_SEEDS = SEEDS // 20
BUSY_S = 1200
"""Where others want the processors: alone it takes some two and a half minutes."""
MUTANT_SEEDS = 1000
"""A mutant that lives longer than this is a hole in the simulator."""
REACHED = (
    "session taken over", "bypassed", "fenced", "renounced", "renounced over the LAN",
    "shadows voided", "void sent", "retried", "dropped_nack", "dropped_full", "dropped_space",
    "dropped: captured", "dropped: held", "rx_no_hold", "setup refused", "setup answer lost",
    "moment restored", "moment at rest", "output sent again", "input sent again", "fin", "rst",
    "restarted", "prld restarted", "handle reused in a new epoch", "takeover on request",
    "started alone", "silent", "speaks again", "shadows expired", "moved", "move undone",
    "move in doubt", "move resumed", "resumed after a probe", "relayed_packets",
    "handed over for want of a LAN", "stalled in a pass",
    "wake-up lost", "dropped by the kernel", "kept_packets",
    "claim obeyed", "replay refused", "replay obeyed, and rightly",
    "refed_packets", "link queue filled", "takeover_shares",
    "mirror_fed", "mirror_lost", "mirror_dropped", "mirror_unnamed",
)  # fmt: skip


@pytest.mark.timeout(BUSY_S)
def test_invariants_hold_in_every_seed(summary: Callable[[str], None]) -> None:
    report = run(range(FIRST_SEED, FIRST_SEED + SEEDS))
    summary("simulator: " + "\n  ".join(report.lines()))
    assert not report.failures, "\n".join(report.lines()[4:])
    if SEEDS >= 5000:
        missing = [name for name in REACHED if not report.counts[name]]
        assert not missing, f"no seed reached: {missing}"


def test_all_that_can_be_is_protected_long_after_the_last_fault() -> None:
    report = run(range(FIRST_SEED, FIRST_SEED + PATIENT_SEEDS), patient=True)
    assert not report.failures, "\n".join(report.lines()[4:])


@pytest.mark.timeout(BUSY_S)
def test_every_mutant_is_caught(tmp_path: Path, summary: Callable[[str], None]) -> None:
    build.objects()  # before all of them do

    def hunt(number: int) -> str:
        return mutants.hunt(number, tmp_path / f"mutant{number}", MUTANT_SEEDS)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(hunt, range(len(mutants.MUTANTS))))
    survivors = [m.name for m, how in zip(mutants.MUTANTS, found, strict=True) if not how]
    summary(f"mutants: {len(found) - len(survivors)} of {len(found)} are caught")
    assert not survivors


def test_a_seed_is_the_same_run_every_time() -> None:
    core = build.product()
    first, second = (run_block(range(5, 10), core) for _ in range(2))
    assert (first.events, first.counts) == (second.events, second.counts)


def test_ten_thousand_flows_survive_the_losses_of_their_link() -> None:
    many = ManyFlows(core_of_the_product(), 10_000, seed=1)
    many.run(epochs=3)
    assert many.losses == 5
    assert many.opened > 25_000
