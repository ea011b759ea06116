"""Take the snapshot of a live TCP socket without disturbing it (SPEC R17).

    state, options      outside repair mode: they do not move
    the moment          in it, by the datapath's own code (userspace/tcp/moment.c)

Input still arrives and timers still run in repair mode (net/ipv4/tcp.c), and even MSG_PEEK may send
a window update (tcp_cleanup_rbuf), so a snapshot counts only if the segment counters stood still;
whoever wants more than luck redirects the input first.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from prl.bindings.native import ffi, lib, text_of
from prl.kernel.tcp_info import TcpInfo, TcpState
from prl.shadow.md5 import KeyUnknownError, key_of
from prl.shadow.snapshot import (
    CLONEABLE_STATES,
    QUEUES_LIMIT_BYTES,
    SNAPSHOT_VERSION,
    SNAPSHOT_VERSION_SIGNED,
    ApplicationOptions,
    Endpoint,
    NetworkOptions,
    RepairWindow,
    SnapshotError,
    TcpSnapshot,
)
from prl.shadow.sockopt import (
    CallError,
    Ip,
    Ipv6,
    Negotiated,
    Repair,
    So,
    Tcp,
    get_bytes,
    get_int,
    get_int_or,
    get_name,
    get_u32,
    interface_name,
    set_int,
    tcp_info,
)

IPPROTO_MPTCP = 262
_ENDING = frozenset({TcpState.CLOSING, TcpState.LAST_ACK, TcpState.TIME_WAIT})
_MOVED = (
    "the connection moved while it was being copied, {attempts} times; "
    "redirect its input first or try again"
)


class SnapshotMovedError(SnapshotError):
    """Segments came or went during every attempt; trying again may succeed."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What does not move with the connection's segments: read before its input is made to wait."""

    local: Endpoint
    remote: Endpoint
    options: ApplicationOptions
    network: NetworkOptions
    md5_key: bytes = field(repr=False)


def fixed_of(sock: socket.socket) -> Fixed:
    """For take(). Raises SnapshotError, CallError."""
    refuse_other_protocols(sock)
    try:
        key = md5_key(sock)
        local, remote = endpoint_of(sock, sock.getsockname()), endpoint_of(sock, sock.getpeername())
    except CallError:
        raise
    except OSError as error:
        raise SnapshotError(f"{name_of(sock)}: the connection has gone") from error
    return Fixed(local, remote, _application_options(sock), network_options(sock, local), key)


def outline(sock: socket.socket, fixed: Fixed) -> TcpSnapshot | None:
    """A snapshot of which all that moves is zero; None when only take() can copy the connection.

    Raises CallError.
    """
    info = tcp_info(sock)
    if info.state != TcpState.ESTABLISHED:
        return None
    moment = ffi.new("struct prl_moment *")
    moment.state, moment.mss = info.state, get_int(sock, Tcp.MAXSEG)
    return _snapshot(sock, fixed, info, moment)


def at_rest(sock: socket.socket, fixed: Fixed, moment: Any, segs_in: int) -> TcpSnapshot:
    """A snapshot of which all that moves is known: its queues are empty. Raises CallError."""
    return _snapshot(sock, fixed, tcp_info(sock), moment, segs_in=segs_in)


def take(sock: socket.socket, *, attempts: int = 3, fixed: Fixed | None = None) -> TcpSnapshot:
    """Copy the state of a live TCP connection; the socket is as before afterwards.

    While it lasts (tens of microseconds) other threads' recv() and send() on the socket fail with
    EPERM and EINVAL: stop a program that does not know. Needs CAP_NET_ADMIN. ``fixed`` saves the
    time to read that now.

    Raises SnapshotError for a socket that cannot be cloned, SnapshotMovedError when no attempt
    found it at rest.
    """
    try:
        if fixed is None:
            refuse_other_protocols(sock)
            _refuse_state(sock, tcp_info(sock))
            fixed = fixed_of(sock)
        for _ in range(attempts):
            snapshot = _copy(sock, fixed)
            if snapshot is not None:
                return snapshot
    except CallError as error:
        raise SnapshotError(f"{name_of(sock)}: cannot be cloned: {error}") from error
    raise SnapshotMovedError(f"{name_of(sock)}: {_MOVED.format(attempts=attempts)}")


def name_of(sock: socket.socket) -> str:
    """The socket for a message: its addresses, so far as it has any."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return f"socket {sock.fileno()}"
    try:
        local, remote = endpoint_of(sock, sock.getsockname()), endpoint_of(sock, sock.getpeername())
    except OSError:  # not connected
        return f"socket {sock.fileno()}"
    return f"{local} <-> {remote}"


def endpoint_of(sock: socket.socket, name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """An endpoint from what getsockname() and getpeername() give; IPv6 has flow label and scope."""
    host, port, *ipv6 = name
    scope_index = ipv6[1] if ipv6 else 0
    scope = interface_name(sock, scope_index) if scope_index else ""
    return Endpoint.of(ip_address(host.partition("%")[0]), port, scope)


def md5_key(sock: socket.socket) -> bytes:
    """The key of RFC 2385, empty when there is none. Raises SnapshotError, CallError."""
    try:
        return key_of(sock)
    except KeyUnknownError as error:
        raise SnapshotError(f"{name_of(sock)}: cannot be cloned: {error}") from error


def refuse_other_protocols(sock: socket.socket) -> None:
    """Raise SnapshotError, which says what to do, for what can never be cloned."""
    protocol = get_int(sock, So.PROTOCOL)
    family = get_int(sock, So.DOMAIN)
    if protocol == IPPROTO_MPTCP:
        raise SnapshotError(
            f"{name_of(sock)}: an MPTCP socket cannot be cloned; make the listener plain TCP "
            "(Go: GODEBUG=multipathtcp=0)"
        )
    if protocol != socket.IPPROTO_TCP or family not in (socket.AF_INET, socket.AF_INET6):
        kind = {socket.IPPROTO_UDP: "UDP"}.get(protocol, f"protocol {protocol}")
        raise SnapshotError(f"{name_of(sock)}: a {kind} socket has no TCP state to be cloned")
    if get_name(sock, Tcp.ULP):
        raise SnapshotError(f"{name_of(sock)}: kernel TLS cannot be cloned; turn it off")
    try:
        get_bytes(sock, Tcp.AO_INFO, 64)
    except CallError:
        return  # no TCP-AO on this socket, or none in this kernel
    raise SnapshotError(f"{name_of(sock)}: a TCP-AO socket cannot be cloned; use MD5 or neither")


def _refuse_state(sock: socket.socket, info: TcpInfo) -> None:
    if info.state in CLONEABLE_STATES:
        return
    state = TcpState(info.state)
    why = "only a live one can be cloned"
    if state in _ENDING:
        why = "both directions have been ended, so there is nothing left to protect"
    raise SnapshotError(f"{name_of(sock)}: the connection is in state {state.name}; {why}")


def enter_repair(sock: socket.socket) -> None:
    """TCP_REPAIR = 1. Raises SnapshotError that says what is missing."""
    try:
        set_int(sock, Tcp.REPAIR, Repair.ON)
    except CallError as error:
        raise _no_repair(sock, error) from error


def _no_repair(sock: socket.socket, error: CallError) -> SnapshotError:
    reason = {
        errno.EPERM: "TCP_REPAIR needs CAP_NET_ADMIN in the socket's network namespace",
        errno.ENOPROTOOPT: "this kernel has no TCP_REPAIR; it needs CONFIG_CHECKPOINT_RESTORE",
        errno.EOPNOTSUPP: "this kind of socket has no TCP_REPAIR",
    }.get(error.errno or 0, str(error))
    return SnapshotError(f"{name_of(sock)}: {reason}")


_room: Final = ffi.new_allocator(should_clear_after_alloc=False)


def _copy(sock: socket.socket, fixed: Fixed) -> TcpSnapshot | None:
    """One attempt; None if the connection moved meanwhile."""
    moment, counts = ffi.new("struct prl_moment *"), ffi.new("struct prl_moment_counts *")
    call = ffi.new("const char **")
    room_bytes = int(lib.PRL_MOMENT_PIECE)
    while True:
        queues = _room("uint8_t[]", room_bytes + lib.PRL_MOMENT_SLACK)
        failed = lib.prl_moment_copy(sock.fileno(), moment, queues, room_bytes, counts, call)
        if failed != -errno.EMSGSIZE or call[0]:
            break
        room_bytes = moment.unread_bytes + moment.unacked_bytes
        _refuse_size(sock, room_bytes)
    if failed == -errno.EAGAIN and not call[0]:
        return None
    if failed:
        raise _refusal(sock, -failed, text_of(call[0]) if call[0] else "")
    both = memoryview(ffi.buffer(queues, moment.unread_bytes + moment.unacked_bytes))
    unread, unacked = both[: moment.unread_bytes], both[moment.unread_bytes :]
    return _snapshot(
        sock, fixed, tcp_info(sock), moment, bytes(unread), bytes(unacked), counts.segs_in
    )


def _refusal(sock: socket.socket, number: int, call: str) -> Exception:
    """Why there is no copy: an error of ``call``, or a connection that cannot be copied."""
    if call:
        error = CallError(OSError(number, os.strerror(number)), call)
        return _no_repair(sock, error) if call == "TCP_REPAIR" else error
    if number == errno.EBUSY:
        return SnapshotError(
            f"{name_of(sock)}: urgent data is pending, which cannot be cloned; "
            "replicate the session when the application has read it"
        )
    _refuse_state(sock, tcp_info(sock))
    return SnapshotMovedError(f"{name_of(sock)}: {_MOVED.format(attempts=1)}")


def _refuse_size(sock: socket.socket, queued_bytes: int) -> None:
    if queued_bytes > QUEUES_LIMIT_BYTES:
        raise SnapshotError(
            f"{name_of(sock)}: {queued_bytes} bytes are queued, more than {QUEUES_LIMIT_BYTES}; "
            "replicate the session when less is"
        )


def _snapshot(
    sock: socket.socket,
    fixed: Fixed,
    info: TcpInfo,
    moment: Any,
    unread: bytes = b"",
    unacked: bytes = b"",
    segs_in: int = 0,
) -> TcpSnapshot:
    """``moment`` is a struct prl_moment; ``info`` tells what was agreed upon in the handshake."""
    negotiated = Negotiated(info.options)
    return TcpSnapshot(
        version=SNAPSHOT_VERSION_SIGNED if fixed.md5_key else SNAPSHOT_VERSION,
        family=sock.family,
        state=moment.state,
        local=fixed.local,
        remote=fixed.remote,
        rcv_seq=moment.rcv_seq,
        snd_seq=moment.snd_seq,
        unread=unread,
        unacked=unacked,
        mss=moment.mss,
        window_scaling=Negotiated.WINDOW_SCALE in negotiated,
        snd_wscale=info.snd_wscale,
        rcv_wscale=info.rcv_wscale,
        sack=Negotiated.SACK in negotiated,
        ecn=Negotiated.ECN in negotiated,
        timestamps=Negotiated.TIMESTAMPS in negotiated,
        timestamps_us=Negotiated.USEC_TIMESTAMPS in negotiated,
        tsval=moment.tsval,
        repair_window=_window_of(moment),
        options=fixed.options,
        network=fixed.network,
        md5_key=fixed.md5_key,
        segs_in=segs_in,
        in_bytes=moment.in_bytes,
        out_bytes=moment.out_bytes,
    )


def _window_of(moment: Any) -> RepairWindow:
    known = moment.snd_wl1, moment.snd_wnd, moment.max_window, moment.rcv_wnd, moment.rcv_wup
    window = RepairWindow(*known)
    return window if moment.rcv_edge == window.edge else RepairWindow(*known, (moment.rcv_edge,))


_LINGER = struct.Struct("=ii")  # struct linger: on, seconds


def _application_options(sock: socket.socket) -> ApplicationOptions:
    linger, linger_s = _LINGER.unpack(get_bytes(sock, So.LINGER, _LINGER.size))
    return ApplicationOptions(
        congestion=get_name(sock, Tcp.CONGESTION),
        nodelay=bool(get_int(sock, Tcp.NODELAY)),
        keepalive=bool(get_int(sock, So.KEEPALIVE)),
        keepidle_s=get_int(sock, Tcp.KEEPIDLE),
        keepintvl_s=get_int(sock, Tcp.KEEPINTVL),
        keepcnt=get_int(sock, Tcp.KEEPCNT),
        user_timeout_ms=get_int(sock, Tcp.USER_TIMEOUT),
        rto_max_ms=get_int_or(sock, Tcp.RTO_MAX_MS, 0),
        buffer_lock=get_int_or(sock, So.BUF_LOCK, 0),
        oob_inline=bool(get_int(sock, So.OOBINLINE)),
        linger=bool(linger),
        linger_s=linger_s,
        linger2_s=get_int(sock, Tcp.LINGER2),
        notsent_lowat=get_int(sock, Tcp.NOTSENT_LOWAT),
        rcvlowat=get_int(sock, So.RCVLOWAT),
        cork=bool(get_int(sock, Tcp.CORK)),
    )


def network_options(sock: socket.socket, local: Endpoint) -> NetworkOptions:
    """The socket's options below TCP and UDP. Raises CallError."""
    tos, ttl, min_ttl, discover = ip_options(local)
    return NetworkOptions(
        tos=get_int(sock, tos),
        ttl=get_int(sock, ttl),
        min_ttl=get_int(sock, min_ttl),
        bound_device=get_name(sock, So.BINDTODEVICE),
        mark=get_u32(sock, So.MARK),
        priority=get_int(sock, So.PRIORITY),
        mtu_discover=get_int(sock, discover),
        ip_options=get_bytes(sock, Ip.OPTIONS, 40) if tos is Ip.TOS else b"",
    )


def ip_options(
    local: Endpoint,
) -> tuple[Ip | Ipv6, Ip | Ipv6, Ip | Ipv6, Ip | Ipv6]:
    """The options for (TOS, TTL, lowest TTL, path MTU); an IPv4-mapped connection speaks IPv4."""
    if isinstance(local.address, IPv6Address) and local.address.ipv4_mapped is None:
        return Ipv6.TCLASS, Ipv6.UNICAST_HOPS, Ipv6.MINHOPCOUNT, Ipv6.MTU_DISCOVER
    return Ip.TOS, Ip.TTL, Ip.MINTTL, Ip.MTU_DISCOVER
