"""``python -m tests.chaos``: a campaign, bounded by time and seed (docs/chaos.md)."""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from prl.lab.lab import Mode
from tests.chaos.episode import Episode, Outcome
from tests.chaos.plan import draw

KEPT = Path(__file__).parents[2] / ".chaos"
SEED_BITS = 24


def campaign(
    seed: int, seconds: float, folder: Path, *, loud: bool, mode: str = ""
) -> list[Outcome]:
    """Episodes of the seeds ``seed``, ``seed + 1``, …; none begins after ``seconds``.

    With ``mode`` all their labs have that one. What an episode left stays in ``folder/SEED`` if
    something is wrong in it.
    """
    ends = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    again = f" CHAOS_MODE={mode}" if mode else ""
    while not outcomes or time.monotonic() < ends:
        own = folder / str(seed)
        shutil.rmtree(own, ignore_errors=True)
        _say(f"-- episode of seed {seed}")
        plan = replace(draw(seed), mode=mode) if mode else draw(seed)
        outcome = Episode(plan, own, _say if loud else _keep).run()
        outcomes.append(outcome)
        if outcome.violations:
            for words in outcome.violations:
                _say(f"WRONG: {words}")
            _say(f"kept in {own}; again: make chaos CHAOS_SEED={seed} CHAOS_SECONDS=0{again}")
        else:
            shutil.rmtree(own)
        seed += 1
    return outcomes


def summary(outcomes: list[Outcome]) -> list[str]:
    """What a campaign came to, to be read."""
    lost: Counter[int] = Counter()
    for outcome in outcomes:
        lost.update(outcome.lost)
    wrong = sum(bool(outcome.violations) for outcome in outcomes)
    faults = Counter(str(f.kind) for o in outcomes for a in o.plan.acts[: o.acts] for f in a.faults)
    moments = Counter(act.moment for o in outcomes for act in o.plan.acts[: o.acts])
    modes = Counter(o.plan.mode for o in outcomes)
    return [
        f"{len(outcomes)} episodes, {sum(o.acts for o in outcomes)} acts",
        "modes: " + ", ".join(f"{name} {count}" for name, count in modes.most_common()),
        f"{sum(o.sessions for o in outcomes)} sessions, {sum(o.rounds for o in outcomes)} answers",
        f"the service changed hands {sum(o.changes for o in outcomes)} times",
        "faults: " + ", ".join(f"{name} {count}" for name, count in faults.most_common()),
        "moments: " + ", ".join(f"{name} {count}" for name, count in moments.most_common()),
        "lost by rules: " + (", ".join(f"{r}: {n}" for r, n in sorted(lost.items())) or "none"),
        f"longest wait beside a single fault: {max(o.longest_calm_s for o in outcomes):.2f} s",
        f"{wrong} episodes with something wrong",
    ]


def main() -> int:
    """See the module. Exit status 1: something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, help="the first episode's; otherwise by chance")
    parser.add_argument("--mode", choices=list(Mode), default="", help="otherwise by the seed")
    parser.add_argument("--folder", type=Path, default=KEPT, help="for what is wrong")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, partial(_end, os.getpid()))
    seed = (
        options.seed if options.seed is not None else random.SystemRandom().getrandbits(SEED_BITS)
    )
    _say(f"chaos: seed {seed}, {options.seconds:.0f} s")
    outcomes = campaign(seed, options.seconds, options.folder, loud=True, mode=options.mode)
    for line in summary(outcomes):
        _say(line)
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def _end(campaign: int, number: int, _: object) -> None:
    """The lab under way is taken down, but not by a child that building a lab has forked."""
    if os.getpid() == campaign:
        sys.exit(128 + number)
    os._exit(128 + number)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _keep(_: str) -> None:
    """The timeline is in the episode's folder."""


if __name__ == "__main__":
    sys.exit(main())
