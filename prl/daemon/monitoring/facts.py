"""The facts that prlctl prints, as plain values (SPEC section 8)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prl import __version__
from prl.bindings import wire
from prl.bindings.datapath import Datapath, FlowInfo, UdpPath
from prl.bindings.facts import Capability, Message, Owner, Status
from prl.bindings.programs import Kernel, Strangers
from prl.config import Config
from prl.daemon.link.link import Link
from prl.daemon.monitoring.remedies import cause_of
from prl.daemon.ownership.ownership import SILENCE, Ownership
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session
from prl.endpoint import Address, show_endpoint, unmapped
from prl.errors import KernelError

if TYPE_CHECKING:
    from prl.daemon.host.cable import Cable
    from prl.daemon.ownership.arbiter import Arbiter

_NS_PER_MS = 1e6


@dataclass(frozen=True)
class NodeView:
    """What facts are made of."""

    config: Config
    kernel: Kernel
    datapath: Datapath
    link: Link
    ownership: Ownership
    primaries: Primaries
    arbiter: "Arbiter | None"
    cable: "Cable | None"
    """Of the carrier "mirror"."""
    ailments: Callable[[], list[str]]
    """What of this host is not as it must be, in words; empty ones count for nothing."""

    @property
    def addresses(self) -> list[Address]:
        """All service addresses."""
        return [address for service in self.config.service for address in service.addresses]


def status(view: NodeView) -> dict[str, Any]:
    """The node, and whether it could be switched over without loss."""
    found = view.datapath.status()
    strangers, uncounted = strangers_of(view)
    unsafe = verdict(view, found, strangers)
    unsafe = unsafe if unsafe.cause else uncounted
    return {
        "version": __version__,
        "node": view.config.node,
        "index": view.config.index,
        "mode": view.config.mode,
        "mode_because": view.kernel.mode_because,
        "mirror": view.cable.facts() if view.cable is not None else None,
        "switchover_safe": not unsafe.cause,
        "cause": unsafe.cause,
        "because": unsafe.words or "every session has a good shadow or its owner next to it",
        "link": _link_state(view, found),
        "epoch": f"{found.epoch:016x}",
        "bypassed": view.kernel.bypassed,
        "services": [
            {
                "name": service.name,
                "addresses": [str(address) for address in service.addresses],
                "state": found.services[number].name.lower(),
                "silent": (
                    SILENCE[found.silence]
                    if found.services[number] == Owner.OWNER and found.silent_mask >> number & 1
                    else ""
                ),
                "term": view.ownership.terms[number],
                "configured_owner": service.owner,
                "instance": service.instance,
            }
            for number, service in enumerate(view.config.service)
        ],
        "other_node": _other_node(view, found),
        "lease": {
            "takeover_for_ms": _left_ms(found.takeover_until_ns, found.now_ns),
            "open_in_ms": _left_ms(found.open_at_ns, found.now_ns),
            "over": shadows_wait(found),
        },
        "policy": {
            "configured": view.config.policy,
            "in_force": "stop" if found.policy_stop else "continue",
        },
        "arbiter": _arbiter(view, found),
        "neighbours": found.neighbours,
        "flows": _flow_counts(view, found, strangers),
        "unprotected": view.primaries.unprotected(),
        "behind": {"packets": found.behind_packets, "bytes": found.behind_bytes},
        "oldest_unacknowledged_ms": round(found.oldest_unanswered_ns / _NS_PER_MS, 3),
    }


def _arbiter(view: NodeView, found: Status) -> dict[str, Any] | None:
    """None: there is none."""
    if (arbiter := view.arbiter) is None:
        return None
    return {
        "pair": view.config.arbiter.pair,
        "policy": view.config.arbiter.policy,
        "state": found.arbiter.name.lower(),
        "reached": arbiter.reached,
        "reason": arbiter.why,
        "holder": arbiter.holder,
    }


def _other_node(view: NodeView, found: Status) -> dict[str, Any]:
    """What the other node's kernel says of it (L3a)."""
    timing = view.config.timing
    newest_ns = max(found.answered_ns)
    pass_ms = found.pass_ns / _NS_PER_MS
    if not newest_ns:
        state = "unknown"
    elif found.now_ns - newest_ns >= timing.dead_ms * _NS_PER_MS:
        state = "silent"
    else:
        state = "late" if pass_ms >= timing.suspect_ms else "alive"
    return {
        "state": state,
        "answered_ms": {
            path.name.lower(): (
                round((found.now_ns - found.answered_ns[path]) / _NS_PER_MS, 3)
                if found.answered_ns[path]
                else None
            )
            for path in UdpPath
        },
        "pass_ms": round(pass_ms, 3) if newest_ns else None,
        "services": [
            {
                "name": service.name,
                "owned": bool(found.other_owned >> number & 1),
                "fenced": bool(found.other_fenced >> number & 1),
                "silent": bool(found.other_silent >> number & 1),
                "term": found.other_term[number],
            }
            for number, service in enumerate(view.config.service)
        ]
        if newest_ns
        else [],
    }


def _flow_counts(view: NodeView, found: Status, strangers: Strangers) -> dict[str, int]:
    states = [session.state for session in view.primaries.in_hand()]
    return {
        "primary": found.flows_primary,
        "secondary": found.flows_secondary,
        "active": found.flows_active,
        "unprotected": sum(state != "active" for state in states),
        "strangers": strangers.count,
    }


def shadows_wait(found: Status) -> bool:
    """Whether only fencing lets this node take a service over: the lease of its shadows is over."""
    return found.expired and Owner.STANDBY in found.services


CAUSES: Final = ("link", "bypassed", "host", "service", "session")
"""Why a node is not safe, by name, the gravest first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a switchover would be safe now: both are empty if it would."""

    cause: str = ""
    """One of CAUSES."""
    words: str = ""


def verdict(view: NodeView, found: Status, strangers: Strangers) -> Verdict:
    """Whether a switchover would be safe now, as far as it can be told from this node."""
    if (grave := verdict_of_node(view, found.services, link_up=found.link_up)).cause:
        return grave
    for session in view.primaries.in_hand():
        if session.state != "active":
            why = view.primaries.why_not(session)
            return Verdict("session", f"{session.ends} is not protected: {why}")
    return verdict_of_strangers(strangers)


def strangers_of(view: NodeView) -> tuple[Strangers, Verdict]:
    """Sessions that prld was not asked for; with a cause, that they cannot be counted."""
    try:
        return view.kernel.strangers(), Verdict()
    except KernelError as error:
        return Strangers(0, ()), Verdict("host", str(error))


def verdict_of_strangers(strangers: Strangers) -> Verdict:
    """Sessions that no application has handed to prld would be lost, like any unprotected one."""
    if not strangers.count:
        return Verdict()
    first, others = strangers.named[0], strangers.count - 1
    ends = show_endpoint(unmapped(first.local), first.local_port)
    ends += f" <-> {show_endpoint(unmapped(first.remote), first.remote_port)}"
    more = f" (and {others} more)" if others else ""
    return Verdict("session", f"{ends}{more} is not protected: prld was not asked for it")


def verdict_of_node(view: NodeView, states: Sequence[Owner], *, link_up: bool) -> Verdict:
    """The same, but for single sessions; ``states``: this node's part in each service."""
    if not link_up:
        return Verdict("link", f"the link is down: {view.link.why_down}")
    if view.kernel.bypassed:
        return Verdict("bypassed", "the datapath was bypassed")
    if ailing := next(filter(None, view.ailments()), ""):
        return Verdict("host", ailing)
    for number, service in enumerate(view.config.service):
        if states[number] not in {Owner.OWNER, Owner.STANDBY}:
            state = states[number].name.lower()
            return Verdict("service", f"service {service.name} is {state} here")
    return Verdict()


def _left_ms(until_ns: int, now_ns: int) -> float:
    return round(max(until_ns - now_ns, 0) / _NS_PER_MS, 3) if until_ns else 0.0


def _link_state(view: NodeView, found: Status) -> dict[str, Any]:
    other = view.link.other
    return {
        "state": found.link_state.name.lower() if found.link_up else "down",
        "other": other.node if other else None,
        "reason": "" if found.link_up else view.link.why_down,
        "rtt_ms": round(found.rtt_ns / _NS_PER_MS, 3),
        "plain": view.config.link.plain,
    }


def link(view: NodeView) -> dict[str, Any]:
    """The link."""
    found = view.datapath.status()
    other = view.link.other
    return _link_state(view, found) | {
        "local": str(view.config.link.local),
        "remote": str(view.config.link.remote),
        "port": view.config.link.port,
        "version": view.link.version,
        "capabilities": _capabilities(view.link.capabilities),
        "other_versions": list(other.versions) if other else [],
        "other_capabilities": _capabilities(other.capabilities) if other else [],
        "epoch": f"{found.epoch:016x}",
        "rtt_min_ms": round(found.rtt_min_ns / _NS_PER_MS, 3),
        "resync_ms": round(found.resync_ns / _NS_PER_MS, 3),
        "reconnects": max(view.link.ups - 1, 0),
        "received": {kind.name: found.received[kind] for kind in Message},
        "sent": {kind.name: found.sent[kind] for kind in Message},
        "received_bytes_by_type": {kind.name: found.received_bytes[kind] for kind in Message},
        "sent_bytes_by_type": {kind.name: found.sent_bytes[kind] for kind in Message},
        "received_bytes": found.counters["link_rx_bytes"],
        "sent_bytes": found.counters["link_tx_bytes"],
        "elided_packets": found.counters["link_elided_packets"],
        "elided_bytes": found.counters["link_elided_bytes"],
        "refused": found.counters["link_refused"],
        "key": view.link.key,
        "refused_connections": dict(view.link.refusals.counts),
        "forged": found.counters["link_forged"],
        "truncated": found.counters["link_truncated"],
        "key_updates": found.counters["link_key_updates"],
        "sent_records": found.counters["link_records_sent"],
        "received_records": found.counters["link_records_received"],
        "send_queue_full": found.counters["link_tx_full"],
    }


def _capabilities(bits: int) -> list[str]:
    """Names; bits of a later version by their number."""
    known = [str(one.name).lower() for one in Capability if one & bits]
    later = bits & ~sum(Capability)
    return known + [f"bit_{n}" for n in range(later.bit_length()) if later >> n & 1]


def stats(view: NodeView) -> dict[str, Any]:
    """Every counter of the node."""
    found = view.datapath.status()
    return {
        "datapath": found.counters,
        "kernel": view.kernel.node_counters(),
        "attempts": view.primaries.counts(),
        "frames_free": found.frames_free,
        "holds_used": found.holds_used,
    }


def handles(view: NodeView, after: int, count: int) -> list[int]:
    """Some of the flows here, by the order of their handles, from behind ``after`` on."""
    return view.datapath.flow_page(after, count)


def flow(view: NodeView, handle: int, *, whole: bool = False) -> dict[str, Any] | None:
    """One flow; None when it is not here."""
    info = view.datapath.flow_info(handle)
    if info is None:
        return None
    session = view.primaries.find(handle) if whole else view.primaries.peek(handle)
    reason = view.primaries.why_not(session) if session and session.state != "active" else ""
    facts: dict[str, Any] = {
        "handle": info.handle,
        "protocol": "udp" if info.ends.is_udp else "tcp",
        "local": show_endpoint(info.ends.local, info.ends.local_port),
        "remote": info.ends.peer_end,
        "instance": info.ends.instance,
        "service": _service_of(view, info),
        "role": _role(info),
        "state": info.state_name,
        "reason": reason or (wire.reason_text(info.reason) if info.reason else ""),
        "generation": info.generation,
        "queue": {"packets": info.held_packets, "bytes": info.held_bytes},
    }
    if whole:
        facts |= _cause(view, info, session)
        facts |= {
            "application": session.client.name if session else "",
            "flags": [str(flag.name).lower() for flag in type(info.flags) if flag in info.flags],
            "input": {"next": info.in_seq, "acknowledged": info.in_acked},
            "output": {"next": info.out_seq, "acknowledged": info.out_acked},
            "out_bytes": info.out_bytes,
            "receive_space": {"own_edge": info.own_edge, "other_edge": info.peer_edge},
            "socket": info.socket,
            "counters": info.counters,
        }
    return facts


def _cause(view: NodeView, info: FlowInfo, session: Session | None) -> dict[str, str]:
    """Why it is not protected, by name and in words, and what would help; empty where it is."""
    if info.state_name == "active":
        return {"cause": "", "meaning": "", "remedy": ""}
    reason = view.primaries.cause(session, info.reason) if session else info.reason
    meaning, remedy = cause_of(reason)
    return {"cause": wire.reason_name(reason), "meaning": meaning, "remedy": remedy}


def _service_of(view: NodeView, info: FlowInfo) -> str:
    """The name of the service that the flow's own end is an address of."""
    return next(
        service.name
        for service in view.config.service
        if service.instance == info.ends.instance and info.ends.local in service.addresses
    )


def _role(info: FlowInfo) -> str:
    if not info.is_secondary:
        return "primary"
    return "primary" if info.state_name == "owner" else "secondary"
