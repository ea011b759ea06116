"""Every event there is: its name, what it means, and its facts (docs/events.md).

A test compares this table with what the daemon posts and with the document.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """What an event means; ``facts`` says so of each fact that it may bring."""

    meaning: str
    facts: Mapping[str, str] = field(default_factory=dict)


_HANDLE: Final = {"handle": "the session"}
_SERVICE: Final = {"service": "its name"}
_ENDPOINT: Final = {"endpoint": "what `prlctl replicate --listen` names"}

STATE: Final[dict[str, Kind]] = {
    "exists": Kind(
        "one thing that is there as a follower begins; `object` says of which kind, see below",
        {
            "object": "`node`, `link`, `service`, `session`, or `end` when all has been told",
            "name": "node, service: its name",
            "safe": "node: whether a switchover would lose nothing",
            "cause": "node: why it is not safe, one of the causes of `unsafe`",
            "link": "link: `up`, `suspect` or `down`",
            "other": "link: the other node's name",
            "state": "service, session: its state",
            "term": "service: how often it has changed hands",
            "silent": "service: why its owner sends nothing",
            "addresses": "service: its addresses",
            "handle": "session: its number",
            "protocol": "session: `tcp` or `udp`",
            "local": "session: the service's end",
            "remote": "session: the peer's end",
            "instance": "session: its routing instance",
            "role": "session: `primary` or `secondary`",
            "reason": "link: why it is down. Session: why it is not protected",
            "sessions": "end: how many were told",
        },
    ),
    "missed": Kind(
        "the follower read too slowly: so many events before this one were dropped",
        {"count": "how many"},
    ),
}
"""What only followers are told."""

HAPPENED: Final[dict[str, Kind]] = {
    # the node
    "ready": Kind("prld answers requests"),
    "failed": Kind("prld ends: the datapath or a task of its own failed"),
    "safe": Kind("from now on a switchover would lose nothing"),
    "unsafe": Kind(
        "a failure or a switchover would lose something now",
        {
            "cause": "`link` (it is down), `bypassed` (the kernel opened the flows), `host` (what "
            "of this host is not as it must be), `service` (this node is neither owner nor "
            "standby), `session` (one has been without protection for a second)"
        },
    ),
    "configuration_deprecated": Kind("a key of the configuration goes with the next version"),
    "xdp_mode": Kind(
        "who captures, and why",
        {"mode": "`native` or `generic` XDP, or `kernel` and `mirror`: input waits there"},
    ),
    "mirror_on": Kind("long packets go by the cable to the other node"),
    "mirror_off": Kind("they cannot: all input goes over the link"),
    "no_struct_ops": Kind("this kernel cannot keep shadows"),
    "no_sock_ops": Kind("TCP does not tell prld of sessions: their ends are looked for"),
    "late_among_others": Kind("prld may not come before other programs: late on a busy host"),
    "heartbeat_port": Kind("LAN heartbeats cannot be sent, or can again"),
    "probe_port": Kind("the link cannot be probed, or can again"),
    "host_changed": Kind("interfaces or addresses are not as they must be"),
    "host_restored": Kind("they are again"),
    "put_back": Kind("somebody took away addresses or settings of prl's: put back"),
    "alarm": Kind(
        "something foreign or a limit is in the way: a claim, a filter in front, a table that is "
        "full, a packet that goes past",
        {"handle": "the session, if it is about one"},
    ),
    "metrics": Kind("metrics cannot be served, or are again; or a fault while they were made"),
    "hook_done": Kind("a hook has succeeded", {"hook": "`role`, `safety` or `lost`"}),
    "hook_failed": Kind(
        "a hook could not be run, failed, or was killed at its deadline",
        {"hook": "`role`, `safety` or `lost`"},
    ),
    "client_dropped": Kind("a client of the control socket did not read, and was disconnected"),
    "request_failed": Kind("a request on the control socket met a fault of prld's own"),
    "event_failed": Kind(
        "an event of the datapath could not be handled",
        {"kind": "its number", "handle": "the session"},
    ),
    "left_out": Kind(
        "in the log alone: so many records before this one were not written there",
        {"count": "how many"},
    ),
    # the link and the other node
    "link_up": Kind("the nodes have agreed", {"other": "the other node", "epoch": "of the link"}),
    "link_down": Kind("the link is lost; replication ends", {"reason": "why"}),
    "link_refused": Kind("a connection on the link was refused"),
    "link_stranger": Kind(
        "connections of somebody without the pair key were refused; once in ten seconds at most",
        {"refused": "how many up to now, by why"},
    ),
    "link_plain": Kind("the link is in clear, as the configuration says"),
    "policy_differs": Kind("the nodes are configured with different policies"),
    "arbiter_won": Kind("the arbiter says that this node goes on, without the other one"),
    "arbiter_lost": Kind(
        "it says that the other one does: this node is silent, its shadows are void"
    ),
    "arbiter_unreached": Kind("it does not answer, or not as it should"),
    "arbiter_reached": Kind("it does again"),
    "renounced": Kind(
        "the other node goes on: it was heard on the LAN, or an application here died",
        _SERVICE | _HANDLE,
    ),
    "lease_over": Kind("standby: too late to take over without fencing"),
    "fencing": Kind("the fence command was started"),
    "fence_confirmed": Kind("it says that the other node is dead"),
    "fence_failed": Kind("it could not say so"),
    "fenced_in_vain": Kind("the other node is fenced, and a service still is not taken"),
    # services
    "ownership": Kind(
        "this node's part in a service changed",
        {"service": "its name", "state": "`owner`, `standby`, `fenced` or `none`", "term": "since"},
    ),
    "takeover": Kind(
        "the standby became owner",
        {
            "service": "its name",
            "decided_ns": "when that was decided, CLOCK_BOOTTIME",
            "speaking_ns": "when the first segment could leave",
            "lost": "sessions that could not go on",
        },
    ),
    "switchover": Kind("a planned move of a service has ended, or is in doubt", _SERVICE),
    "strangers_lost": Kind(
        "a move has cost sessions that prld was not asked for",
        _SERVICE | {"lost": "how many"},
    ),
    "silent": Kind(
        "an owner sends nothing for now", {"why": "`no_lan`, `frozen`, `stop` or `arbiter`"}
    ),
    "speaks": Kind("it sends again"),
    "address_in_use": Kind("somebody else answers for a service address", _SERVICE),
    "probe_failed": Kind("the LAN could not be asked who has an address"),
    "adopted": Kind("a new prld owns what the one before it owned"),
    "not_inherited": Kind("what a former life left in the kernel is of no use"),
    "ghosts_ended": Kind("sockets that nobody owns any more are ended"),
    "repair_mode_left": Kind(
        "a former prld was killed while it copied sockets, with which their programs go on now"
    ),
    "ghosts_left": Kind("they could not be"),
    "left_behind": Kind("prld ends, and sessions go on without protection"),
    "withdrawing": Kind("this node gives its services away: silence and hold cannot be kept"),
    "withdrawn": Kind("it has no part in a service for now"),
    "returned": Kind("it takes part again"),
    # sessions
    "active": Kind(
        "a session is protected",
        _HANDLE | {"frozen_us": "how long its input waited for that"},
    ),
    "resumed": Kind(
        "a session is protected again, without a new snapshot: the link is back, and nothing is "
        "missing over there",
        _HANDLE,
    ),
    "born_unprotected": Kind(
        "new sessions waited for `service.birth_ms`, and were not protected in time",
        {"sessions": "how many since the last such event"},
    ),
    "not_protected": Kind("an attempt to protect a session failed", _HANDLE),
    "exposed_untold": Kind(
        "more sessions are not protected than the other node is told of: peers that wait in the "
        "rest do not hear of the end of this one"
    ),
    "offer_refused": Kind("the other node offers more endpoints than there may be"),
    "replication_ended": Kind("a session goes on without protection", _HANDLE),
    "session_ended": Kind("a session is over, or its shadow is of no use any more", _HANDLE),
    "session_lost": Kind(
        "a session could not go on: its peer is reset",
        {
            "handle": "the session, if it was this node's",
            "local": "else the service's end,",
            "remote": "the peer's end,",
            "reason": "and why it had no good shadow",
        },
    ),
    "session_aborted": Kind("its application could not continue it", _HANDLE),
    "renounce_failed": Kind(
        "sessions whose application died end here: the other node does not go on", _SERVICE
    ),
    "demoted": Kind("the other node has the session now", _HANDLE),
    "shadow": Kind("standby: a session is shadowed", _HANDLE),
    "shadow_refused": Kind("standby: it could not be", _HANDLE),
    "shadow_rejected": Kind("standby: the application cannot serve it", _HANDLE),
    "shadow_void": Kind("standby: a shadow may have missed something", _HANDLE),
    "taken_over": Kind(
        "a session goes on here",
        _HANDLE
        | {
            "former": "the handle of the shadow that it was",
            "out_bytes": "output that the other node had committed",
            "in_force_ns": "since when, CLOCK_BOOTTIME",
        },
    ),
    "option_lost": Kind("a socket option could not be set again after the take-over", _HANDLE),
    "conntrack": Kind("connection tracking could not be told of a session"),
    "program_died": Kind("an unchanged program's session has lost its program", _HANDLE),
    "replicated": Kind(
        "a connection of an unchanged server was found, and is protected or not",
        _HANDLE | _ENDPOINT,
    ),
    "not_heard": Kind("connections of an unchanged server may have been overlooked", _ENDPOINT),
}
"""What is posted: to the log, to `prlctl events`, and to followers."""

EVENTS: Final = STATE | HAPPENED
