"""What Prometheus is told of a front: what its status says, and how often things have happened."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

COUNTED: Final = {
    "takeovers": "Times that this node took the session over, or was given it.",
    "daemon_losses": "Times that the daemon went while the session was this node's.",
    "daemon_dials": "Times that the front has connected to a daemon that did not by itself.",
    "ends": "Sessions of this node that have ended.",
}
"""By peer, in its status under "counts"."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is told, gathered at one moment: a status."""

    status: dict[str, Any]

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client's renderers ask for it."""
        status, peers = self.status, self.status["peers"]
        yield _gauge(
            "ready", "Whether the other node could go on with every session.", status["ready"]
        )
        yield _gauge("channel_up", "Whether the other front is there.", status["channel"] == "up")
        moves = CounterMetricFamily(
            "prl_bgp_moves", "Times that the services were moved because the daemon had gone."
        )
        moves.add_metric([], status["moves"])
        yield moves
        yield _of_peers(
            "session_ready",
            "Whether the other node could go on with this session.",
            ["peer"],
            [([peer["peer"]], not peer["because"]) for peer in peers],
        )
        yield _of_peers(
            "session_owned",
            "Whether the session is this node's.",
            ["peer"],
            [([peer["peer"]], peer["role"] == "owner") for peer in peers],
        )
        yield _of_peers(
            "session_state",
            "1 for what it is.",
            ["peer", "state"],
            [([peer["peer"], peer["state"]], True) for peer in peers],
        )
        yield _of_peers(
            "routes",
            "Routes that a column has: heard and fed, wanted and told.",
            ["peer", "column"],
            [
                ([peer["peer"], column], peer[direction][column])
                for peer in peers
                for direction, columns in (("in", ("heard", "fed")), ("out", ("wanted", "told")))
                if direction in peer
                for column in columns
            ],
        )
        yield _of_peers(
            "routes_differing",
            "Of these, those that are not the same in both columns of a direction.",
            ["peer", "direction"],
            [
                ([peer["peer"], direction], peer[direction]["differing"])
                for peer in peers
                for direction in ("in", "out")
                if direction in peer
            ],
        )
        for name, words in COUNTED.items():
            counter = CounterMetricFamily(f"prl_bgp_{name}", words, labels=["peer"])
            for peer in peers:
                counter.add_metric([peer["peer"]], peer["counts"][name])
            yield counter


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"prl_bgp_{name}", words, value=float(value))


def _of_peers(
    name: str, words: str, labels: list[str], rows: list[tuple[list[str], float]]
) -> Metric:
    family = GaugeMetricFamily(f"prl_bgp_{name}", words, labels=labels)
    for values, value in rows:
        family.add_metric(values, float(value))
    return family
