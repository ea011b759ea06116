"""Cloning a session, be it TCP or UDP: the set-up is frozen on one node and thawed on the other.

The primary calls spec_of() and freeze(), later has_moved(); the secondary thaw() and build(), later
give() (SPEC R17, R18).
"""

import asyncio
import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from prl.bindings.datapath import FlowSpec, Ready, Replay, Rest, Tuple
from prl.control import input_history
from prl.daemon.session.streams import Streams
from prl.daemon.session.transfer import Setup
from prl.endpoint import ADDRESSES_SHARED, Address, mapped, unmapped, unspecified
from prl.kernel.descriptors import Filter, filter_of
from prl.shadow import (
    OPTIONS_KINDS,
    ApplicationOptions,
    Endpoint,
    Fixed,
    SnapshotError,
    TcpSnapshot,
    UdpSnapshot,
    UnreadError,
    at_rest,
    decode,
    decode_udp,
    encode,
    encode_udp,
    enlarge,
    outline,
    ready,
    restore,
    restore_udp,
    take,
    take_udp,
)
from prl.shadow.sockopt import Negotiated, Tcp, get_int, tcp_info

SNAPSHOT_ATTEMPTS: Final = 5
BUFFER_BYTES: Final = 4 << 20
"""A TCP shadow's buffers (the kernel doubles it): its application may lag, nothing may be lost."""
UNREAD_POLLS_MAX: Final = 20
UNREAD_POLL_S: Final = 0.001
"""A UDP application that is just reading has so much time to empty its queue; nothing tells us."""
PORTS_SHARED: Final = 1024
"""Likewise, our own ports."""
_UDP_MSS: Final = 0xFFFF  # datagrams are never cut

Snapshot = TcpSnapshot | UdpSnapshot


@dataclass(frozen=True, slots=True)
class Frozen:
    """A session on its way."""

    setup: Setup
    segs_in: int
    """TCP: segments that the original had received."""


def filter_error(ends: Tuple, how: str) -> SnapshotError:
    """That the application has a filter of its own, attached by the option ``how``."""
    return SnapshotError(
        f"{ends}: its application has attached a socket filter ({how}), in whose place prl's own "
        "would come; detach it first"
    )


def spec_of(ends: Tuple, sock: socket.socket, handle: int, fixed: Fixed | None) -> FlowSpec:
    """What the primary's datapath must know; ``fixed`` of TCP. Raises SnapshotError, CallError."""
    if filter_of(sock) == Filter.CLASSIC:
        raise filter_error(ends, "SO_ATTACH_FILTER")
    if fixed is None:
        enlarge(sock)
        return FlowSpec(ends, sock.fileno(), _UDP_MSS, 0, 0, timestamps=False, handle=handle)
    info = tcp_info(sock)
    return FlowSpec(
        ends=ends,
        fd=sock.fileno(),
        mss=get_int(sock, Tcp.MAXSEG),
        rcv_wscale=info.rcv_wscale,
        snd_wscale=info.snd_wscale,
        timestamps=Negotiated.TIMESTAMPS in Negotiated(info.options),
        handle=handle,
        md5_key=fixed.md5_key or b"",
    )


@dataclass(frozen=True, slots=True)
class Order:
    """What a set-up takes from elsewhere than the socket."""

    ends: Tuple
    streams: Streams
    application: bytes
    renew: bool
    next_hop: str
    """Empty when it is not known, and its MAC with it."""
    next_hop_mac: str


async def freeze_udp(sock: socket.socket, order: Order) -> Frozen:
    """Take the snapshot; the input is redirected already. Raises SnapshotError, CallError."""
    snapshot = await _take_udp(sock)
    ends = order.ends
    if ends_of(snapshot, ends.instance) != ends:
        raise SnapshotError(f"{ends}: its application connected the socket anew: {snapshot}")
    setup = Setup(
        udp=True,
        instance=ends.instance,
        snapshot=encode_udp(snapshot),
        mss=_UDP_MSS,
        rcv_wscale=0,
        snd_wscale=0,
        committed=0,
        timestamps=False,
        application=order.application,
        renew=order.renew,
        next_hop=order.next_hop,
        next_hop_mac=order.next_hop_mac,
    )
    return Frozen(setup, 0)


def freeze_tcp(sock: socket.socket, order: Order, fixed: Fixed) -> Frozen:
    """Likewise, of TCP: its application stands still. Raises SnapshotError, CallError."""
    mss = get_int(sock, Tcp.MAXSEG)
    tcp = take(sock, attempts=SNAPSHOT_ATTEMPTS, fixed=fixed)
    return Frozen(_setup_of(order, tcp, mss, order.streams.of(tcp)), tcp.segs_in)


def freeze_at_rest(sock: socket.socket, order: Order, fixed: Fixed, rest: Rest) -> Frozen:
    """Likewise, of TCP that is at rest: its application may run on. Raises CallError."""
    tcp = at_rest(sock, fixed, rest.moment, rest.segs_in)
    setup = _setup_of(order, tcp, get_int(sock, Tcp.MAXSEG), order.streams.of(tcp))
    return Frozen(setup, tcp.segs_in)


def outline_of(sock: socket.socket, order: Order, fixed: Fixed) -> Setup | None:
    """The set-up of TCP as far as it does not move, to be said ahead; None: it cannot be.

    Raises CallError, SnapshotError.
    """
    tcp = outline(sock, fixed)
    return None if tcp is None else _setup_of(order, tcp, tcp.mss, (0, 0))


def _setup_of(order: Order, tcp: TcpSnapshot, mss: int, positions: tuple[int, int]) -> Setup:
    in_bytes, out_bytes = positions
    return Setup(
        instance=order.ends.instance,
        snapshot=encode(tcp),
        mss=mss,
        rcv_wscale=tcp.rcv_wscale,
        snd_wscale=tcp.snd_wscale,
        committed=tcp.committed,
        timestamps=tcp.timestamps,
        application=order.application,
        renew=order.renew,
        in_bytes=in_bytes,
        out_bytes=out_bytes,
        next_hop=order.next_hop,
        next_hop_mac=order.next_hop_mac,
    )


async def _take_udp(sock: socket.socket) -> UdpSnapshot:
    for _ in range(UNREAD_POLLS_MAX):
        try:
            return take_udp(sock)
        except UnreadError:
            await asyncio.sleep(UNREAD_POLL_S)
    return take_udp(sock)


def has_moved(ends: Tuple, sock: socket.socket, segs_in: int) -> bool:
    """Whether a segment slipped in behind the snapshot; a datagram would not pass the gate.

    Raises CallError.
    """
    return not ends.is_udp and tcp_info(sock).segs_in != segs_in


def thaw(setup: Setup) -> Snapshot:
    """The snapshot in a set-up. Raises SnapshotError."""
    return decode_udp(setup.snapshot) if setup.udp else decode(setup.snapshot)


def ends_of(snapshot: Snapshot, instance: str) -> Tuple:
    """The session's ends."""
    local, remote = snapshot.local, snapshot.remote
    address, port = _address(local), shared_port(local.port)
    if remote is None:
        return Tuple(address, port, unspecified(address), 0, socket.IPPROTO_UDP, instance)
    proto = socket.IPPROTO_UDP if isinstance(snapshot, UdpSnapshot) else socket.IPPROTO_TCP
    return Tuple(address, port, _address(remote), remote.port, proto, instance)


def _address(end: Endpoint) -> Address:
    return shared_address(end.packed)


@lru_cache(ADDRESSES_SHARED)
def shared_address(address: bytes | str) -> Address:
    """The address, IPv4 as such even if mapped; one object for all sessions that have it."""
    return unmapped(mapped(ip_address(address)))


@lru_cache(PORTS_SHARED)
def shared_port(port: int) -> int:
    """The port of an endpoint of ours; one object for all sessions that have it."""
    return port


def shared_ends(ends: Tuple) -> Tuple:
    """The same, of objects that other sessions have, too: the datapath's addresses are such."""
    return Tuple(
        ends.local,
        shared_port(ends.local_port),
        ends.remote,
        ends.remote_port,
        ends.proto,
        ends.instance,
    )


def build(snapshot: Snapshot, congestion: str | None, elapsed_ms: int) -> socket.socket:
    """The shadow's socket, ``elapsed_ms`` after the snapshot. Raises SnapshotError."""
    if isinstance(snapshot, UdpSnapshot):
        return restore_udp(snapshot)
    return restore(
        snapshot,
        congestion=congestion,
        rcvbuf_bytes=BUFFER_BYTES,
        sndbuf_bytes=BUFFER_BYTES,
        elapsed_ms=elapsed_ms,
    )


def build_ready(snapshot: TcpSnapshot, congestion: str | None) -> tuple[socket.socket, Ready]:
    """A socket for which the moment may come. Raises SnapshotError, CallError."""
    return ready(
        snapshot, congestion=congestion, rcvbuf_bytes=BUFFER_BYTES, sndbuf_bytes=BUFFER_BYTES
    )


def shadow_spec(
    ends: Tuple, snapshot: Snapshot, setup: Setup, fd: int, handle: int, generation: int
) -> FlowSpec:
    """What the secondary's datapath must know."""
    tcp = snapshot if isinstance(snapshot, TcpSnapshot) else None
    return FlowSpec(
        ends=ends,
        fd=fd,
        mss=setup.mss,
        rcv_wscale=setup.rcv_wscale,
        snd_wscale=setup.snd_wscale,
        timestamps=setup.timestamps,
        handle=handle,
        generation=generation,
        committed=setup.committed,
        congestion=tcp.options.congestion if tcp else "",
        md5_key=tcp.md5_key if tcp else b"",
        replay=replay_of(tcp) if tcp else None,
        # A program that begins anew is to be found out when it gives other output (R20).
        hash_output=not setup.udp and input_history.unpack(setup.application) is not None,
    )


def replay_of(snapshot: TcpSnapshot) -> Replay:
    """What had ended before the snapshot."""
    return Replay(
        peer_ended=snapshot.peer_ended,
        own_ended=snapshot.own_ended,
        own_end_acked=snapshot.own_end_acked,
        peer_seq=snapshot.rcv_seq,
        peer_window=snapshot.peer_window,
    )


@lru_cache(OPTIONS_KINDS)
def _shared(options: ApplicationOptions) -> ApplicationOptions:
    return options


def options_of(snapshot: Snapshot) -> ApplicationOptions | None:
    """TCP: the application's options, one object for all sessions that have the same."""
    return _shared(snapshot.options) if isinstance(snapshot, TcpSnapshot) else None


def unread_bytes(snapshot: Snapshot) -> int:
    """What of the input the shadow starts with."""
    return len(snapshot.unread) if isinstance(snapshot, TcpSnapshot) else 0
