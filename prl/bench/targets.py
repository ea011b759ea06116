"""The figures of SPEC section 9 and what counts as having reached them: one table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import ge, le
from typing import Any

from prl.bench.stats import significant


@dataclass(frozen=True, slots=True)
class Target:
    """One condition of one T-figure. ``limit`` is what ``figure`` is compared with."""

    ident: str
    what: str
    figure: str
    """Key of the measured value among the figures of a run."""
    compare: Callable[[float, float], bool]
    limit: float
    unit: str = "x"
    full_only: bool = False
    """`--quick` does not measure it: it takes too long."""

    @property
    def goal(self) -> str:
        """The condition in words."""
        sign = "≤" if self.compare is le else "≥"
        return f"{sign} {self.limit:g} {self.unit}".rstrip()


TARGETS = (
    Target("T1", "64 B ping-pong p50, polling, input held / none", "t1_input", le, 1.9),
    Target("T1", "64 B ping-pong p50, polling, input and output held / none", "t1_both", le, 2.8),
    Target("T2", "64 B ping-pong p50, on one CPU, copy / NFQUEUE holds", "t2_copy", le, 1.2),
    Target("T2", "64 B ping-pong p50, on one CPU, mirror / NFQUEUE holds", "t2_mirror", le, 1.0),
    Target("T3", "bulk, native XDP / XDP_PASS + GRO", "t3_pass", ge, 0.9),
    Target("T4", "bulk, copy / NFQUEUE hold that feeds a shadow", "t4_fed", ge, 0.95),
    Target("T4", "bulk, mirror / none", "t4_mirror_none", ge, 0.6),
    Target("T4", "bulk, mirror / NFQUEUE hold that feeds a shadow", "t4_mirror_fed", ge, 1.3),
    Target("T4s", "bulk, copy, link with TLS / link in clear", "t4s_tls", ge, 0.6),
    Target("T5", "CPU per GB, all hosts, copy / the same hold", "t5_fed", le, 1.1),
    Target("T5", "CPU per GB, all hosts, mirror / the same hold", "t5_mirror_fed", le, 0.75),
    Target("T6", "datapath cost per packet, many flows / one flow", "t6_growth", le, 1.2),
    Target("T7", "memory of an idle flow, per node", "t7_bytes", le, 1024, "bytes"),
    Target("T8", "not replicated traffic, native, no flow / XDP_PASS", "t8_flows_0", ge, 0.97),
    Target("T8", "not replicated traffic, native, 1 flow / XDP_PASS", "t8_flows_1", ge, 0.97),
    Target(
        "T8",
        "not replicated traffic, native, 100,000 flows / XDP_PASS",
        "t8_flows_100000",
        ge,
        0.97,
    ),
    Target("T8", "not replicated traffic, whole packets, no flow / none", "t8_whole_0", ge, 0.97),
    Target("T8", "not replicated traffic, whole packets, 1 flow / none", "t8_whole_1", ge, 0.97),
    Target(
        "T8",
        "not replicated traffic, whole packets, 100,000 flows / none",
        "t8_whole_100000",
        ge,
        0.97,
    ),
    Target("T9", "protect a live session: input frozen, in bare round trips", "t9_trips", le, 12),
    Target("T9", "protect 1,000 sessions", "t9_seconds", le, 1.5, "s"),
    Target("T9b", "born protected: connect to first answer / none, p50", "t9b_median", le, 3.0),
    Target("T9b", "born protected: connect to first answer / none, p99", "t9b_p99", le, 5.0),
    Target("T10", "take-over of one flow, decision to first segment", "t10_one_ms", le, 0.5, "ms"),
    Target("T10", "take-over of 1,000 flows", "t10_many_ms", le, 20.0, "ms"),
    Target("T10", "take-over of 10,000 flows", "t10_most_ms", le, 200.0, "ms", full_only=True),
    Target("T10", "the last application of many is told", "t10_told_ms", le, 500.0, "ms"),
    Target("T11", "sessions held", "t11_held", ge, 100_000, "sessions"),
    Target("T11", "sessions busy at a time", "t11_busy", ge, 10_000, "sessions"),
    Target("T12", "pause at the peer, median", "t12_median_ms", le, 60.0, "ms"),
    Target("T12", "pause at the peer, 99 of 100 failures", "t12_p99_ms", le, 150.0, "ms"),
    Target("T12", "sessions reset or bytes lost", "t12_broken", le, 0, ""),
    Target("T12f", "take-overs without a failure, on a busy machine", "t12f_takeovers", le, 0, ""),
    Target("T13", "segments behind a later one that moves cause", "t13_behind", le, 0, ""),
    Target("T13", "segments that moves cause to be sent again", "t13_again", le, 0, ""),
)


LIMITS = {target.figure: target.limit for target in TARGETS}


def verdicts(figures: Mapping[str, float], *, quick: bool = False) -> list[dict[str, Any]]:
    """Every condition with its goal, what was measured (None: not), whether it is met, in words."""
    rows = []
    for target in TARGETS:
        value = figures.get(target.figure)
        met = value is not None and target.compare(value, target.limit)
        if value is None:
            verdict = "full run only" if quick and target.full_only else "no figure"
        else:
            verdict = "met" if met else "missed"
        rows.append(
            {
                "id": target.ident,
                "what": target.what,
                "goal": target.goal,
                "measured": None if value is None else significant(value),
                "unit": target.unit,
                "met": met,
                "verdict": verdict,
            }
        )
    return rows


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those rows that a run has a figure for."""
    return [row for row in rows if row["measured"] is not None]


assert {target.compare for target in TARGETS} == {le, ge}
