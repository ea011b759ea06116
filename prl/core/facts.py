"""Facts of the C headers; written by userspace/facts.py, which `make build` calls."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Self


class Message(IntEnum):
    """Types of message on the link: enum prl_msg_type."""

    HELLO = 1
    LEASE = 2
    REPLICATE = 3
    ACK = 4
    FLOWCTL = 5
    OUTPUT = 6
    OUTPUT_ACK = 7
    SETUP = 8
    SETUP_DONE = 9
    VOID = 10
    VOID_ACK = 11
    CLOSE = 12
    ERROR = 13
    RENOUNCE = 14
    OFFER = 15
    COMPARE = 16
    SWITCHOVER = 17
    RELAY = 18


class Tlv(IntEnum):
    """Types of element (TLV): enum prl_tlv_type."""

    PACKET = 1
    PAYLOAD = 2
    SNAPSHOT = 3
    NODE_NAME = 4
    EPOCH = 5
    CAPABILITIES = 6
    CLAIM_TOKEN = 7
    LAN_KEY = 8
    SERVICE = 9
    APPLICATION = 10
    ENDPOINT = 11
    TEXT = 12
    ELIDED = 13
    MOMENT = 14
    ECHO_WAIT = 15
    TIMING = 16


class Reason(IntEnum):
    """Why something was refused or ended: enum prl_reason."""

    OK = 0
    NO_SPACE = 1
    INVALID_HANDLE = 2
    NOT_ACTIVE = 3
    TIMEOUT = 4
    LINK_LOST = 5
    NO_APPLICATION = 6
    APPLICATION_GONE = 7
    RESTORE_FAILED = 8
    DIVERGED = 9
    REQUESTED = 10
    ENDED = 11
    NO_MEMORY = 12
    MALFORMED = 13
    OUTPUT_DIFFERS = 14
    MID_STREAM = 15
    NOT_OWNER = 16
    UNPROTECTED = 17
    BUSY = 18
    LEASE_OVER = 19
    NO_LAN = 20
    NOT_HELD = 21
    STRAY_IN = 22
    STRAY_OUT = 23


class Capability(IntFlag):
    """What a node can do beyond the least: enum prl_capability."""

    OUTPUT = 1
    UDP = 2
    NACK_RETRY = 4
    COMPARE = 8
    L3_ELISION = 16
    SWITCHOVER = 32
    PREPARE = 64
    CLAIM_MAC = 128


class Owner(IntEnum):
    """What a node is for a service address (SPEC L1): enum prl_owner_state."""

    NONE = 0
    STANDBY = 1
    OWNER = 2
    FENCED = 3


class LinkState(IntEnum):
    """State of the link: enum prl_link_state."""

    DOWN = 0
    UP = 1
    SUSPECT = 2


class Primary(IntEnum):
    """State of a flow whose application is here: enum prl_primary_state."""

    GONE = 0
    SETUP = 1
    ACTIVE = 2
    VOIDING = 3
    OPEN = 4
    MOVED = 5


class Secondary(IntEnum):
    """State of a flow whose shadow is here: enum prl_secondary_state."""

    GONE = 0
    ACTIVE = 1
    VOID = 2
    OWNER = 3


class Refused(IntEnum):
    """Why a take-over was refused: enum prl_refused."""

    NOT = 0
    OWNER = 1
    LEASE_OVER = 2
    NO_LINK_YET = 3
    HEARD = 4


class Fenced(IntEnum):
    """Who vouches that the other node is dead (SPEC L5): enum prl_fenced."""

    NOT = 0
    BY_OPERATOR = 1
    BY_HOOK = 2


class Silence(IntEnum):
    """Why an owner emits nothing (SPEC L6): enum prl_silence."""

    NOT = 0
    NO_LAN = 1
    FROZEN = 2
    STOP = 3


class Moved(IntEnum):
    """How a move ended (SPEC R21): enum prl_move_outcome."""

    DONE = 1
    UNDONE = 2
    UNSURE = 3
    RESUMED = 4


class EventKind(IntEnum):
    """What the datapath tells of: enum prl_event_kind."""

    MESSAGE = 1
    LINK_DOWN = 2
    PRIMARY = 3
    SECONDARY = 4
    TAKEOVER = 5
    FENCED = 6
    RENOUNCED = 7
    ENDED = 8
    ALARM = 9
    TAKEN_FLOW = 10
    SILENT = 11
    EXPIRED = 12
    MOVE = 13
    PROBE = 14
    RESTORED = 15
    HOLE = 16


class FlowFlag(IntFlag):
    """Flags of a flow in the kernel: enum prl_flow_flag."""

    SETUP = 1
    ACTIVE = 2
    SECONDARY = 4
    VOID = 8
    OPEN = 16
    CLAMP = 32
    MD5 = 64
    RELAY = 128


@dataclass(frozen=True, slots=True)
class Status:
    """The node as a whole; times are CLOCK_BOOTTIME, ns: struct prl_dp_status."""

    now_ns: int
    epoch: int
    rtt_ns: int
    rtt_min_ns: int
    takeover_until_ns: int
    open_at_ns: int
    last_heard_ns: int
    last_lan_ns: int
    link_attached: bool
    link_up: bool
    link_state: LinkState
    silence: Silence
    silent_mask: int
    unheard: bool
    expired: bool
    policy_stop: bool
    neighbours: int
    services: tuple[Owner, ...]
    flows_primary: int
    flows_secondary: int
    flows_active: int
    frames_free: int
    holds_used: int
    behind_packets: int
    behind_bytes: int
    oldest_unanswered_ns: int
    received: tuple[int, ...]
    sent: tuple[int, ...]
    received_bytes: tuple[int, ...]
    sent_bytes: tuple[int, ...]
    counters: dict[str, int]

    @classmethod
    def of(cls, struct: Any, **more: Any) -> Self:
        """Read cffi's structure; ``more``: members that a subclass adds."""
        return cls(
            now_ns=struct.now_ns,
            epoch=struct.epoch,
            rtt_ns=struct.rtt_ns,
            rtt_min_ns=struct.rtt_min_ns,
            takeover_until_ns=struct.takeover_until_ns,
            open_at_ns=struct.open_at_ns,
            last_heard_ns=struct.last_heard_ns,
            last_lan_ns=struct.last_lan_ns,
            link_attached=struct.link_attached,
            link_up=struct.link_up,
            link_state=LinkState(struct.link_state),
            silence=Silence(struct.silence),
            silent_mask=struct.silent_mask,
            unheard=struct.unheard,
            expired=struct.expired,
            policy_stop=struct.policy_stop,
            neighbours=struct.neighbours,
            services=tuple(Owner(one) for one in struct.services),
            flows_primary=struct.flows_primary,
            flows_secondary=struct.flows_secondary,
            flows_active=struct.flows_active,
            frames_free=struct.frames_free,
            holds_used=struct.holds_used,
            behind_packets=struct.behind_packets,
            behind_bytes=struct.behind_bytes,
            oldest_unanswered_ns=struct.oldest_unanswered_ns,
            received=tuple(struct.received),
            sent=tuple(struct.sent),
            received_bytes=tuple(struct.received_bytes),
            sent_bytes=tuple(struct.sent_bytes),
            counters={
                name: getattr(struct.counters, name)
                for name in [
                    "wakeups",
                    "rx_packets",
                    "rx_bytes",
                    "rx_bad_checksum",
                    "rx_malformed",
                    "rx_unknown_flow",
                    "rx_no_frame",
                    "rx_no_hold",
                    "reinjected_packets",
                    "reinjected_bytes",
                    "reinject_failed",
                    "held_out_packets",
                    "held_out_bytes",
                    "released_out_packets",
                    "release_failed",
                    "link_rx_bytes",
                    "link_tx_bytes",
                    "link_refused",
                    "link_tx_full",
                    "link_records_sent",
                    "link_records_received",
                    "link_key_updates",
                    "link_forged",
                    "link_truncated",
                    "link_elided_packets",
                    "link_elided_bytes",
                    "lan_rx",
                    "lan_tx",
                    "lan_refused",
                    "claims_sent",
                    "crafted_acks",
                    "events_lost",
                    "append_short",
                    "asks_sent",
                    "defences",
                    "over_share",
                    "reinject_writes",
                    "link_writes",
                    "polls_given_up",
                    "kept_packets",
                    "refed_packets",
                    "holes",
                    "compared",
                    "differences",
                    "signed_again",
                    "foreign_signatures",
                    "moments_sent",
                    "moments_late",
                    "moments_restored",
                    "moments_refused",
                    "prepared_dropped",
                    "relayed_packets",
                    "relayed_late",
                ]
            },
            **more,
        )


@dataclass(frozen=True, slots=True)
class EventHead:
    """One event of the datapath; ``kind`` tells what it says: struct prl_event."""

    kind: EventKind
    handle: int = 0
    seq: int = 0
    generation: int = 0
    space: int = 0
    service: int = 0
    type: int = 0
    state: int = 0
    reason: int = 0
    bits: int = 0
    version_min: int = 0
    version_max: int = 0
    node_index: int = 0
    value: int = 0
    value2: int = 0

    @classmethod
    def of(cls, struct: Any, **more: Any) -> Self:
        """Read cffi's structure; ``more``: members that a subclass adds."""
        return cls(
            kind=EventKind(struct.kind),
            handle=struct.handle,
            seq=struct.seq,
            generation=struct.generation,
            space=struct.space,
            service=struct.service,
            type=struct.type,
            state=struct.state,
            reason=struct.reason,
            bits=struct.bits,
            version_min=struct.version_min,
            version_max=struct.version_max,
            node_index=struct.node_index,
            value=struct.value,
            value2=struct.value2,
            **more,
        )
