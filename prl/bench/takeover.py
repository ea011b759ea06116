"""`prlctl bench takeover` (T10, T12): the primary loses its power, and what the peer sees of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from prl.bench.errors import BenchError
from prl.bench.rig import Recipe, Rig, Way, events
from prl.bench.run import Bench, Part, read_columns
from prl.bench.stats import quantile, significant, summary
from prl.demo.pauses import boottime_ns

MANY, MOST = 1000, 10_000
RATE = 1000
"""Requests a second, whether or not they are answered: a pause delays all that fall into it."""
_BEFORE_S, _WHOLE_MS = 0.6, 2600
_WATCH_MS = 4000
_TELL_S, _POLL_S = 30.0, 0.1
_NS_PER_MS = 1e6


def takeover(bench: Bench) -> Part:
    """Fresh labs, one failure each."""
    part = Part("takeover")
    with bench.stage(part, "pauses"):
        _pauses(bench, part)
    with bench.stage(part, "first segments"):
        _speaking(bench, part)
    if not bench.quick:
        with bench.stage(part, f"{MOST} sessions"):
            _most(bench, part)
    return part


def _pauses(bench: Bench, part: Part) -> None:
    pauses, detects, broken = [], [], 0
    rounds = bench.rounds(5, 100)
    bench.narrate(f"{rounds} times power off under {RATE} requests a second")
    for _ in range(rounds):
        failure = fail_under_load(bench)
        pauses.append(failure.pause_ms)
        detects.append(failure.detect_ms)
        broken += failure.broken
    part.series("pause", {"pause at the peer": pauses, "detected after": detects}, "ms")
    part.curves["pauses_ms"] = {f"failure {n}": pause for n, pause in enumerate(pauses, 1)}
    part.figures |= {
        "t12_median_ms": quantile(pauses, 0.5),
        "t12_p99_ms": quantile(pauses, 0.99),
        "t12_broken": float(broken),
    }


def _speaking(bench: Bench, part: Part) -> None:
    bench.narrate(f"power off with 1 and with {MANY} sessions")
    ones = [_first_segments(bench, 1) for _ in range(bench.rounds(2, 5))]
    many = [_first_segments(bench, MANY) for _ in range(bench.rounds(1, 3))]
    part.facts["first_segment"] = {
        "unit": "ms",
        "one session": summary([one.last_ms for one in ones]).facts(),
        f"{MANY} sessions, last of them": summary([one.last_ms for one in many]).facts(),
        f"{MANY} sessions, median of them": significant(
            quantile(list(many[0].first_ms.values()), 0.5)
        ),
    }
    told_ms = quantile([one.told_ms for one in many], 0.5)
    part.facts["last_told"] = {"unit": "ms", f"of {MANY} sessions": significant(told_ms)}
    part.figures["t10_one_ms"] = quantile([one.last_ms for one in ones], 0.5)
    part.figures["t10_told_ms"] = told_ms
    if any(len(one.first_ms) < MANY for one in many):
        fewest = min(len(one.first_ms) for one in many)
        part.notes.append(f"of {MANY} sessions only {fewest} spoke after take-over")
    else:
        part.figures["t10_many_ms"] = quantile([one.last_ms for one in many], 0.5)


def _most(bench: Bench, part: Part) -> None:
    """In full alone: to connect and protect so many takes a minute."""
    bench.narrate(f"power off with {MOST} sessions")
    most = _first_segments(bench, MOST)
    spoke = len(most.first_ms)
    part.facts.setdefault("first_segment", {"unit": "ms"})[f"{MOST} sessions, last of {spoke}"] = (
        significant(most.last_ms)
    )
    part.facts.setdefault("last_told", {"unit": "ms"})[f"of {MOST} sessions"] = significant(
        most.told_ms
    )
    part.figures["t10_told_ms"] = max(part.figures.get("t10_told_ms", 0.0), most.told_ms)
    if spoke == MOST:
        part.figures["t10_most_ms"] = most.last_ms
    else:
        part.notes.append(f"of {MOST} sessions only {spoke} spoke after take-over")


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure as the peer saw it. ``detect_ms``: until the other node decided."""

    pause_ms: float
    detect_ms: float
    broken: int


def fail_under_load(bench: Bench) -> Failure:
    """One power failure under an open loop. Raises BenchError: re1 did not take over."""
    with Rig(Recipe("prl", Way.PRL), bench.scratch) as rig:
        path = rig.file("open")
        rig.client.ask(f"ping 200 {path}")
        rig.client.tell(f"open {RATE} {_WHOLE_MS} 1 {path}")
        time.sleep(_BEFORE_S)  # a stretch of undisturbed service is part of the scenario
        failed_ns = rig.lab.fail("re0", "power") * 1e9
        found = rig.client.answer(60.0, "open")
        due, latencies = read_columns(path, "q", 2)
        broken = found["failed"] or found["answered"] < found["asked"]
        waits = [
            wait for at, wait in zip(due, latencies, strict=True) if at + max(wait, 0) > failed_ns
        ]
        longest = max((wait for wait in waits if wait >= 0), default=0)
        return Failure(
            longest / _NS_PER_MS, (_decided_ns(rig) - failed_ns) / _NS_PER_MS, int(bool(broken))
        )


@dataclass(frozen=True, slots=True)
class Spoken:
    """Milliseconds from the decision: to the first segment of each session, by the peer's port.

    ``told_ms``: until prld has told the last application.
    """

    first_ms: Mapping[int, float]
    told_ms: float

    @property
    def last_ms(self) -> float:
        """To the first segment of the last session."""
        return max(self.first_ms.values())


def _first_segments(bench: Bench, sessions: int) -> Spoken:
    """One power failure.

    The servers push a message a tenth of a second, so that all of them are live.
    """
    recipe = Recipe("prl", Way.PRL, role="push", connections=sessions)
    with Rig(recipe, bench.scratch) as rig, rig.another("peer") as watcher:
        path, topology = rig.file("segments"), rig.lab.topology
        rig.client.tell(f"absorb {_WATCH_MS}")
        watcher.tell(f"segments {rig.address} {_WATCH_MS - 1000} {path}")
        time.sleep(_BEFORE_S)
        rig.lab.fail("re0", "power")
        watcher.answer(60.0, "segments")
        decided_ns = _decided_ns(rig)
        last_byte = topology.re1.lan.ipv4.ip.packed[-1]
        first: dict[int, float] = {}
        for at_ns, port, mac in zip(*read_columns(path, "q", 3), strict=True):
            if mac == last_byte and at_ns >= decided_ns and port not in first:
                first[port] = (at_ns - decided_ns) / _NS_PER_MS
        rig.client.answer(60.0, "absorb")
        if not first:
            raise BenchError("no session spoke after the take-over")
        return Spoken(first, (_told_ns(rig, sessions) - decided_ns) / _NS_PER_MS)


def _decided_ns(rig: Rig) -> int:
    found = [one["facts"]["decided_ns"] for one in events(rig, "re1") if one["event"] == "takeover"]
    if not found:
        raise BenchError("re1 did not take over")
    return int(found[-1])


def _told_ns(rig: Rig, sessions: int) -> int:
    """When the last application was told, CLOCK_BOOTTIME; events are on CLOCK_MONOTONIC."""
    ahead_ns = boottime_ns() - time.monotonic_ns()
    end_s = time.monotonic() + _TELL_S
    while True:
        told = [one["monotonic_ns"] for one in events(rig, "re1") if one["event"] == "taken_over"]
        if len(told) == sessions:
            return int(max(told)) + ahead_ns
        if time.monotonic() > end_s:
            raise BenchError(f"re1 told {len(told)} of {sessions} applications in {_TELL_S:g} s")
        time.sleep(_POLL_S)
