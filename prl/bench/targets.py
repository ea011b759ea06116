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

    @property
    def goal(self) -> str:
        """The condition in words."""
        sign = "≤" if self.compare is le else "≥"
        return f"{sign} {self.limit:g} {self.unit}".rstrip()


TARGETS = (
    Target("T1", "64 B ping-pong p50, polling, input held / none", "t1_input", le, 2.0),
    Target("T1", "64 B ping-pong p50, polling, input and output held / none", "t1_both", le, 3.0),
    Target("T2", "64 B ping-pong p50, blocking, on one CPU / (none + 2 bare)", "t2_bare", le, 1.15),
    Target("T2", "64 B ping-pong p50, blocking, on one CPU / NFQUEUE holds", "t2_nfqueue", le, 1.0),
    Target("T3", "bulk, native XDP / XDP_PASS + GRO", "t3_pass", ge, 0.9),
    Target("T4", "bulk, generic-SG / none", "t4_none", ge, 0.6),
    Target("T4", "bulk, generic-SG / NFQUEUE hold that stores", "t4_nfqueue", ge, 1.1),
    Target("T4", "bulk, generic-SG / NFQUEUE hold that feeds a shadow", "t4_fed", ge, 1.1),
    Target("T4s", "bulk, generic-SG, link with TLS / link in clear", "t4s_tls", ge, 0.6),
    Target("T5", "CPU per GB, all hosts / NFQUEUE hold that stores", "t5_nfqueue", le, 0.91),
    Target("T5", "CPU per GB, all hosts / NFQUEUE hold that feeds a shadow", "t5_fed", le, 0.91),
    Target("T6", "datapath cost per packet, many flows / one flow", "t6_growth", le, 1.3),
    Target("T7", "memory of an idle flow, per node", "t7_bytes", le, 1024, "bytes"),
    Target("T8", "not replicated traffic, no flow / XDP_PASS", "t8_flows_0", ge, 0.97),
    Target("T8", "not replicated traffic, 1 flow / XDP_PASS", "t8_flows_1", ge, 0.97),
    Target("T8", "not replicated traffic, 100,000 flows / XDP_PASS", "t8_flows_100000", ge, 0.97),
    Target("T9", "protect a live session: input frozen, in bare round trips", "t9_trips", le, 30),
    Target("T9", "protect 1,000 sessions", "t9_seconds", le, 3.0, "s"),
    Target("T10", "take-over of one flow, decision to first segment", "t10_one_ms", le, 2.0, "ms"),
    Target("T10", "take-over of 1,000 flows", "t10_many_ms", le, 100.0, "ms"),
    Target("T11", "sessions held", "t11_held", ge, 10_000, "sessions"),
    Target("T11", "sessions busy at a time", "t11_busy", ge, 1_000, "sessions"),
    Target("T12", "pause at the peer, median", "t12_median_ms", le, 300.0, "ms"),
    Target("T12", "pause at the peer, longest", "t12_max_ms", le, 1000.0, "ms"),
    Target("T12", "sessions reset or bytes lost", "t12_broken", le, 0, ""),
)


def verdicts(figures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Every condition with its goal, what was measured (None: not), and whether it is met."""
    rows = []
    for target in TARGETS:
        value = figures.get(target.figure)
        rows.append(
            {
                "id": target.ident,
                "what": target.what,
                "goal": target.goal,
                "measured": None if value is None else significant(value),
                "unit": target.unit,
                "met": value is not None and target.compare(value, target.limit),
            }
        )
    return rows


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those rows that a run has a figure for."""
    return [row for row in rows if row["measured"] is not None]


assert {target.compare for target in TARGETS} == {le, ge}
