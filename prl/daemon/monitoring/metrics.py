"""What Prometheus is told of this node, of facts that prld has anyway (docs/metrics.md)."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from prl.bindings.datapath import HOLD_BOUNDS_S, Figures, HoldTimes
from prl.bindings.facts import Owner, Status
from prl.bindings.native import lib
from prl.daemon.events.bounded import Bounded
from prl.daemon.events.catalogue import HAPPENED
from prl.daemon.events.log import EventLog
from prl.daemon.events.record import Record
from prl.daemon.monitoring import facts
from prl.daemon.monitoring.facts import CAUSES, NodeView
from prl.daemon.monitoring.hooks import KINDS, RESULTS, Hooks
from prl.daemon.monitoring.safety import Look, Safety
from prl.daemon.session.sessions import LIVE

SESSIONS_LABELLED_MAX: Final = 1000
"""With ``metrics.sessions``: flows that have labels of their own; the others are counted alone."""
_NS_PER_S: Final = 1e9

DROPS: Final = {
    "bad_checksum": "rx_bad_checksum",
    "malformed": "rx_malformed",
    "unknown_flow": "rx_unknown_flow",
    "no_frame": "rx_no_frame",
    "no_hold": "rx_no_hold",
    "reinject_failed": "reinject_failed",
    "release_failed": "release_failed",
    "relayed_late": "relayed_late",
}
"""Why packets are dropped, and the datapath's counter of it."""
KERNEL_DROPS: Final = {"redirect_failed": "redirect_failed", "stale": "stale_dropped"}
"""The same of the programs in the kernel."""

_OWNER: Final = {
    "takeovers": "Services taken over because the other node was silent.",
    "suspicions": "Times that the other node was not heard on the link for suspect_ms.",
    "false_suspicions": "Suspicions after which it was heard again, and the link was kept.",
    "silences": "Times that this node fell silent as owner, because it may have been replaced.",
    "late_ticks": "Times that the datapath came to run too late to trust its clock.",
    "arbiter_asks": "Questions to the arbiter.",
    "arbiter_unreached": "Of these, those that it did not answer in time.",
    "hand_overs": "Times that this node handed its services over because its LAN was cut.",
}
_COUNTED: Final = {"suspicions": "suspects", "false_suspicions": "false_suspects"}
"""Those that struct prl_owner calls otherwise."""


class Tally:
    """How often each event was posted."""

    def __init__(self, log: EventLog) -> None:
        self._counts: Counter[str] = Counter()
        log.listeners.append(self._on_event)

    def _on_event(self, record: Record) -> None:
        self._counts[record.event] += 1

    def counts(self) -> dict[str, int]:
        """By name; those of the catalogue that have not happened, too."""
        return {name: self._counts[name] for name in HAPPENED}


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is told, gathered at one moment."""

    view: NodeView
    status: Status
    figures: Figures
    kernel: Mapping[str, int]
    look: Look
    events: Mapping[str, int]
    hooks: Hooks
    used: Mapping[str, Bounded]
    """Bounded resources of the control plane."""
    flows: list[dict[str, Any]]
    """With labels of their own."""

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client's renderers ask for it."""
        yield from self._node()
        yield from self._services()
        yield from self._sessions()
        yield from self._link()
        yield from self._packets()
        yield from self._resources()
        runs = CounterMetricFamily(
            "prl_hook_runs", "Hooks that were run, by result.", labels=["hook", "result"]
        )
        for hook, result in itertools.product(KINDS, RESULTS):
            runs.add_metric([hook, result], self.hooks.runs[hook, result])
        yield runs
        words = "Changes that a hook was not told, because a later one came first."
        counts = {hook: self.hooks.superseded[hook] for hook in KINDS}
        yield _counters("prl_hook_superseded", words, "hook", counts)
        name = "prl_events"
        yield _counters(name, "Events that were posted, by name.", "event", self.events)

    def _node(self) -> Iterator[Metric]:
        config, verdict = self.view.config, self.look.verdict
        info = InfoMetricFamily("prl_node", "This node.")
        info.add_metric([], {"node": config.node, "mode": self.view.kernel.mode})
        yield info
        yield _gauge("prl_safe", "Whether a failure now would lose nothing.", not verdict.cause)
        causes = {cause: cause == verdict.cause for cause in CAUSES}
        yield _gauges("prl_unsafe", "Why it is not safe: 1 for the cause.", "cause", causes)
        yield _gauge("prl_bypassed", "Whether the kernel opened the flows.", self._bypassed)
        yield _gauge(
            "prl_lease_over",
            "Standby: too late to take over without fencing.",
            facts.shadows_wait(self.status),
        )
        arbiter = self.view.arbiter
        yield _gauge(
            "prl_arbiter_reached",
            "Whether the arbiter answered last; without one, 0.",
            arbiter is not None and bool(arbiter.reached),
        )
        for name, words in _OWNER.items():
            counted = self.figures.owner[_COUNTED.get(name, name)]
            yield CounterMetricFamily(f"prl_{name}", words, value=counted)

    @property
    def _bypassed(self) -> bool:
        return self.view.kernel.bypassed

    def _services(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "prl_service_state", "1 for what this node is.", labels=["service", "state"]
        )
        silent = GaugeMetricFamily(
            "prl_service_silent", "Whether its owner sends nothing.", labels=["service"]
        )
        term = GaugeMetricFamily(
            "prl_service_term", "How often it has changed hands.", labels=["service"]
        )
        for number, service in enumerate(self.view.config.service):
            mine = self.status.services[number]
            for one in Owner:
                state.add_metric([service.name, one.name.lower()], float(one == mine))
            is_silent = mine == Owner.OWNER and self.status.silent_mask >> number & 1
            silent.add_metric([service.name], float(is_silent))
            term.add_metric([service.name], self.view.ownership.terms[number])
        yield from (state, silent, term)

    def _sessions(self) -> Iterator[Metric]:
        sessions = GaugeMetricFamily(
            "prl_sessions", "Sessions by role and state.", labels=["role", "state"]
        )
        for state in sorted(LIVE):
            sessions.add_metric(["primary", state], self.look.states.get(state, 0))
        sessions.add_metric(["secondary", "shadow"], self.status.flows_secondary)
        yield sessions
        yield _gauge(
            "prl_unprotected_seconds",
            "How long the session has been without protection that has been so the longest.",
            self.look.oldest_s,
            unit="seconds",
        )
        yield _gauge(
            "prl_behind_packets",
            "Packets that the other node has not acknowledged yet.",
            self.status.behind_packets,
        )
        yield _gauge("prl_behind_bytes", "Their bytes.", self.status.behind_bytes, unit="bytes")
        yield _gauge(
            "prl_oldest_unacknowledged_seconds",
            "How long the oldest of them has waited.",
            self.status.oldest_unanswered_ns / _NS_PER_S,
            unit="seconds",
        )
        if self.view.config.metrics.sessions:
            yield from self._labelled()

    def _labelled(self) -> Iterator[Metric]:
        labels = ["handle", "role", "local", "remote"]
        active = GaugeMetricFamily(
            "prl_session_protected", "Whether this session is protected.", labels=labels
        )
        queue = GaugeMetricFamily(
            "prl_session_held_bytes", "What it holds.", labels=labels, unit="bytes"
        )
        for flow in self.flows:
            values = [f"{flow['handle']:#x}", *(str(flow[name]) for name in labels[1:])]
            active.add_metric(values, float(flow["state"] == "active"))
            queue.add_metric(values, flow["queue"]["bytes"])
        yield from (active, queue)

    def _link(self) -> Iterator[Metric]:
        status, counters = self.status, self.status.counters
        yield _gauge("prl_link_up", "Whether the nodes have agreed.", status.link_up)
        yield _gauge(
            "prl_link_round_trip_seconds",
            "Smoothed, with the other node's wait for its next lease message.",
            status.rtt_ns / _NS_PER_S,
            unit="seconds",
        )
        yield _gauge(
            "prl_link_round_trip_min_seconds",
            "The shortest one.",
            status.rtt_min_ns / _NS_PER_S,
            unit="seconds",
        )
        lost = self.events["link_down"]
        yield CounterMetricFamily("prl_link_losses", "Times that the link was lost.", value=lost)
        words = "Messages on the link, by direction."
        counts = {"received": sum(status.received), "sent": sum(status.sent)}
        yield _counters("prl_link_messages", words, "direction", counts)
        counts = {"received": counters["link_rx_bytes"], "sent": counters["link_tx_bytes"]}
        words = "Bytes on the link, by direction."
        yield _counters("prl_link_bytes", words, "direction", counts, unit="bytes")
        yield CounterMetricFamily(
            "prl_link_refused_messages",
            "Messages that were no part of the protocol.",
            value=counters["link_refused"],
        )
        words = "Connections that were refused before HELLO, by why."
        refused = self.view.link.refusals.counts
        yield _counters("prl_link_refused_connections", words, "reason", refused)
        words = "Connections that ended with a record that was not authentic, or without a word."
        counts = {reason: counters[f"link_{reason}"] for reason in ("forged", "truncated")}
        yield _counters("prl_link_broken_connections", words, "reason", counts)
        words = "Whether the link is in clear, as the configuration says."
        yield _gauge("prl_link_plain", words, self.view.config.link.plain)
        yield CounterMetricFamily(
            "prl_link_queue_full",
            "Times that the queue towards the other node was full.",
            value=counters["link_tx_full"],
        )

    def _packets(self) -> Iterator[Metric]:
        counters = self.status.counters
        held = HistogramMetricFamily(
            "prl_hold_seconds",
            "How long packets were held until the other node had them.",
            labels=["direction"],
            unit="seconds",
        )
        for direction, times in (
            ("input", self.figures.held_in),
            ("output", self.figures.held_out),
        ):
            held.add_metric([direction], _buckets(times), times.sum_s)
        yield held
        for name, words in (("packets", "Packets"), ("bytes", "Bytes")):
            yield CounterMetricFamily(
                f"prl_input_{name}",
                f"{words} of peers that were captured.",
                value=counters[f"rx_{name}"],
            )
            yield CounterMetricFamily(
                f"prl_output_{name}",
                f"{words} to peers that were held.",
                value=counters[f"held_out_{name}"],
            )
        drops = {reason: counters[name] for reason, name in DROPS.items()}
        drops |= {reason: self.kernel[name] for reason, name in KERNEL_DROPS.items()}
        yield _counters("prl_dropped_packets", "Packets dropped, by reason.", "reason", drops)

    def _resources(self) -> Iterator[Metric]:
        status = self.status
        flows = status.flows_primary + status.flows_secondary
        counters = status.counters
        frames = lib.PRL_DP_FRAMES - status.frames_free
        bounded = {
            "flows": Bounded(flows, self.view.config.flows_max),
            "frames": Bounded(frames, lib.PRL_DP_FRAMES, counters["rx_no_frame"]),
            "holds": Bounded(status.holds_used, lib.PRL_DP_HOLDS, counters["rx_no_hold"]),
            **self.used,
        }
        label = "resource"
        used = {resource: found.used for resource, found in bounded.items()}
        yield _gauges("prl_resource_used", "What is used of a bounded resource.", label, used)
        limits = {resource: found.limit for resource, found in bounded.items()}
        yield _gauges("prl_resource_limit", "The limit of a bounded resource.", label, limits)
        refused = {
            resource: found.refused
            for resource, found in bounded.items()
            if found.refused is not None
        }
        words = "Times that more was wanted than there is, where that is counted."
        yield _counters("prl_resource_refused", words, label, refused)


def gather(
    view: NodeView,
    safety: Safety,
    tally: Tally,
    hooks: Hooks,
    used: Callable[[], dict[str, Bounded]],
) -> Facts:
    """What there is to tell now."""
    labelled = view.config.metrics.sessions
    handles = facts.handles(view, 0, SESSIONS_LABELLED_MAX) if labelled else []
    flows = [flow for handle in handles if (flow := facts.flow(view, handle)) is not None]
    return Facts(
        view=view,
        status=view.datapath.status(),
        figures=view.datapath.figures(),
        kernel=view.kernel.node_counters(),
        look=safety.last,
        events=tally.counts(),
        hooks=hooks,
        used=used(),
        flows=flows,
    )


def _gauge(name: str, words: str, value: float, unit: str = "") -> Metric:
    return GaugeMetricFamily(name, words, value=float(value), unit=unit)


def _gauges(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family


def _counters(
    name: str, words: str, label: str, values: Mapping[str, int], unit: str = ""
) -> Metric:
    family = CounterMetricFamily(name, words, labels=[label], unit=unit)
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _buckets(times: HoldTimes) -> list[tuple[str, float]]:
    """Cumulative, as OpenMetrics has them."""
    bounds = [*(repr(bound) for bound in HOLD_BOUNDS_S), "+Inf"]
    total, found = 0, []
    for bound, count in zip(bounds, times.buckets, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
