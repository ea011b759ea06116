"""The snapshot: all of a live TCP connection that its clone on the other node needs (SPEC R17).

Only types and the encoding live here; capture.take() fills a snapshot from a socket and
restore.restore() makes a socket of it. The encoding is one msgpack map, so that nodes of different
versions understand each other: unknown members are skipped, missing ones take their default.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from prl.errors import PrlError
from prl.kernel.tcp_info import TcpState
from prl.shadow.md5 import KEY_MAX_BYTES

SNAPSHOT_VERSION = 1
SNAPSHOT_VERSION_SIGNED = 2
"""Of a snapshot with a key: whoever does not know it would build a shadow that cannot speak."""
CLONEABLE_STATES = frozenset(
    {TcpState.ESTABLISHED, TcpState.CLOSE_WAIT, TcpState.FIN_WAIT1, TcpState.FIN_WAIT2}
)
"""In the others the connection is about to be over, or not yet made."""
SNAPSHOT_LIMIT_BYTES = 16 << 20
"""Largest encoded snapshot."""
QUEUES_LIMIT_BYTES = SNAPSHOT_LIMIT_BYTES - (64 << 10)
"""Unread and unacknowledged data together; the rest is for everything else."""
REPAIR_WINDOW_WORDS_LIMIT = 16
"""Most words of a struct tcp_repair_window that a snapshot may have."""

U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
U64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # msgspec knows no larger bound
OptionInt = Annotated[int, Meta(ge=0, le=2**31 - 1)]
SignedInt = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Port = Annotated[int, Meta(ge=1, le=0xFFFF)]
Scale = Annotated[int, Meta(ge=0, le=14)]
Name = Annotated[str, Meta(max_length=15, pattern=r"^[A-Za-z0-9_.@:-]*\Z")]
Data = Annotated[bytes, Meta(max_length=QUEUES_LIMIT_BYTES)]
Address = IPv4Address | IPv6Address


class SnapshotError(PrlError):
    """A connection cannot be cloned, or a snapshot cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection."""

    packed: Annotated[bytes, Meta(max_length=16)]
    """The address in network order: 4 bytes or 16."""
    port: Port
    scope: Name = ""
    """Of a link-local address: the interface's name, as its index differs on the other node."""

    def __post_init__(self) -> None:
        """Refuse what is no address: ValueError."""
        ip_address(self.packed)

    @classmethod
    def of(cls, address: Address, port: int, scope: str = "") -> Endpoint:
        """The endpoint of an address."""
        return cls(address.packed, port, scope)

    @property
    def address(self) -> Address:
        """The address, without its scope."""
        return ip_address(self.packed)

    def __str__(self) -> str:
        address = self.address
        if isinstance(address, IPv4Address):
            return f"{address}:{self.port}"
        return f"[{address}%{self.scope}]:{self.port}" if self.scope else f"[{address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class RepairWindow:
    """struct tcp_repair_window, Tcp.REPAIR_WINDOW."""

    snd_wl1: U32
    snd_wnd: U32
    max_window: U32
    rcv_wnd: U32
    rcv_wup: U32
    extra: Annotated[tuple[U32, ...], Meta(max_length=REPAIR_WINDOW_WORDS_LIMIT - 5)] = ()
    """The highest right edge ever advertised, where that is not the present one; more is skipped.
    """

    @property
    def edge(self) -> int:
        """The highest right edge ever advertised."""
        return self.extra[0] if self.extra else (self.rcv_wup + self.rcv_wnd) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationOptions:
    """Options that the application chose.

    A shadow runs without those that could end it; adopt() gives it all at take-over (SPEC R18).
    """

    congestion: Name
    nodelay: bool
    keepalive: bool
    keepidle_s: OptionInt
    keepintvl_s: OptionInt
    keepcnt: OptionInt
    user_timeout_ms: OptionInt
    rto_max_ms: OptionInt = 0
    """0: the primary's kernel has no such option."""
    buffer_lock: OptionInt = 0
    """SO_BUF_LOCK: which buffers the application sized itself, so that they do not autotune."""
    oob_inline: bool = False
    linger: bool = False
    linger_s: OptionInt = 0
    """SO_LINGER: how long close() waits; with `linger` and 0 it resets."""
    linger2_s: SignedInt = 0
    """TCP_LINGER2: how long an orphan stays in FIN_WAIT2; 0 is the system's value."""
    notsent_lowat: SignedInt = 0
    """TCP_NOTSENT_LOWAT; 0 is the system's value."""
    rcvlowat: OptionInt = 1
    cork: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """Options below TCP; a shadow has them from the start, as they decide what it accepts too."""

    tos: OptionInt
    """IPv4 type of service or IPv6 traffic class."""
    ttl: OptionInt
    """IPv4 time to live or IPv6 hop limit."""
    min_ttl: OptionInt = 0
    """Lowest time to live that is accepted (RFC 5082); 0 is any."""
    bound_device: Name = ""
    """Interface or VRF that the socket is bound to."""
    mark: U32 = 0
    """SO_MARK, by which routes are chosen."""
    priority: OptionInt = 0
    mtu_discover: U8 | None = None
    """IP_MTU_DISCOVER or IPV6_MTU_DISCOVER; None leaves the system's."""
    ip_options: Annotated[bytes, Meta(max_length=40)] = b""
    """IPv4 options of what is sent (IP_OPTIONS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSnapshot:
    """One connection at one moment. Sequence numbers and windows are as the kernel keeps them.

    Not part of it: the out-of-order queue (replay the frames). ECN cannot be restored: the clone
    never answers congestion marks. A FIN counts in neither queue, nor in the numbers of their ends:
    it is replayed after the restore (peer_ended, own_ended).
    """

    version: U16 = SNAPSHOT_VERSION
    family: OptionInt
    state: U8
    local: Endpoint
    remote: Endpoint

    rcv_seq: U32
    """Next sequence number expected: the end of `unread`."""
    snd_seq: U32
    """Next sequence number to be written: the end of `unacked`."""
    unread: Data = field(repr=False)
    """Received, not yet read by the application."""
    unacked: Data = field(repr=False)
    """The whole send queue: sent but not acknowledged, then not yet sent."""
    unsent_bytes: U32 = 0
    """Not used; version 0.1.0 refuses a snapshot without it."""

    mss: Annotated[int, Meta(ge=1, le=0xFFFF)]
    """The peer's maximum segment size (mss_clamp), bytes."""
    window_scaling: bool
    snd_wscale: Scale
    rcv_wscale: Scale
    sack: bool
    ecn: bool = False
    timestamps: bool
    timestamps_us: bool = False
    """TSval counts microseconds instead of milliseconds."""
    tsval: U32
    """The timestamp clock of the connection when the snapshot was taken."""
    repair_window: RepairWindow

    options: ApplicationOptions
    network: NetworkOptions

    md5_key: Annotated[bytes, Meta(max_length=KEY_MAX_BYTES)] = field(default=b"", repr=False)
    """What the connection's segments are signed with (RFC 2385); empty when they are not."""

    segs_in: U32
    """Segments received so far; to tell whether anything arrived since."""
    in_bytes: U64 = 0
    """Bytes in front of `unread`, by the original's own counters: so it is of use there alone."""
    out_bytes: U64 = 0
    """Bytes in front of `snd_seq`, likewise."""

    def __str__(self) -> str:
        return f"{self.local} <-> {self.remote}"

    @property
    def peer_ended(self) -> bool:
        """The peer's FIN has been received; its sequence number is `rcv_seq`."""
        return self.state == TcpState.CLOSE_WAIT

    @property
    def own_ended(self) -> bool:
        """The application has ended its direction; the FIN's sequence number is `snd_seq`."""
        return self.state in {TcpState.FIN_WAIT1, TcpState.FIN_WAIT2}

    @property
    def own_end_acked(self) -> bool:
        """The peer has acknowledged that."""
        return self.state == TcpState.FIN_WAIT2

    @property
    def committed(self) -> int:
        """The end of the output that the clone has, FIN included."""
        return (self.snd_seq + self.own_ended) & 0xFFFFFFFF

    @property
    def peer_window(self) -> int:
        """The peer's window as its segments' headers say it."""
        return self.repair_window.snd_wnd >> self.snd_wscale & 0xFFFF


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TcpSnapshot)
Read = TypeVar("Read")


def encode(snapshot: TcpSnapshot) -> bytes:
    """The snapshot as one blob of at most SNAPSHOT_LIMIT_BYTES. Raises SnapshotError beyond it."""
    blob = _encoder.encode(snapshot)
    if len(blob) > SNAPSHOT_LIMIT_BYTES:
        raise SnapshotError(
            f"{snapshot}: the snapshot of {len(blob)} bytes exceeds {SNAPSHOT_LIMIT_BYTES}; "
            "replicate the session when less data is queued"
        )
    return blob


def decode(blob: bytes | bytearray | memoryview) -> TcpSnapshot:
    """Read what encode() wrote, on this or another version. Never trusts it.

    Raises SnapshotError for anything that is no consistent snapshot of a live connection.
    """
    snapshot = read_blob(_decoder, blob)
    _check(snapshot)
    return snapshot


def read_blob(decoder: msgspec.msgpack.Decoder[Read], blob: bytes | bytearray | memoryview) -> Read:
    """Read a snapshot of either kind, bounded. Raises SnapshotError."""
    if len(blob) > SNAPSHOT_LIMIT_BYTES:
        raise SnapshotError(f"snapshot of {len(blob)} bytes exceeds {SNAPSHOT_LIMIT_BYTES}")
    try:
        return decoder.decode(blob)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SnapshotError(f"malformed snapshot: {error}") from error


def check_head(snapshot: object, family: int, version: int, ends: Iterable[Endpoint]) -> None:
    """Version and addresses of a snapshot of either kind. Raises SnapshotError."""
    if not SNAPSHOT_VERSION <= version <= SNAPSHOT_VERSION_SIGNED:
        raise SnapshotError(
            f"snapshot version {version} is not known here (only {SNAPSHOT_VERSION} to "
            f"{SNAPSHOT_VERSION_SIGNED}); upgrade this node"
        )
    address_bytes = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}.get(family)
    if any(len(end.packed) != address_bytes for end in ends):
        raise SnapshotError(f"{snapshot}: addresses do not fit address family {family}")


def _check(snapshot: TcpSnapshot) -> None:
    """What the types alone do not say. Raises SnapshotError."""
    ends = (snapshot.local, snapshot.remote)
    check_head(snapshot, snapshot.family, snapshot.version, ends)
    if snapshot.state not in CLONEABLE_STATES:
        raise SnapshotError(f"{snapshot}: a connection in state {snapshot.state} has no clone")
    if len(snapshot.unread) + len(snapshot.unacked) > QUEUES_LIMIT_BYTES:
        raise SnapshotError(f"{snapshot}: queues exceed {QUEUES_LIMIT_BYTES} bytes")
