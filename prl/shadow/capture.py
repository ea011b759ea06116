"""Take the snapshot of a live TCP socket without disturbing it (SPEC R17).

    state, options      outside repair mode: they do not move
    TCP_REPAIR = 1      the socket is no longer the application's; recv() and send() fail
      windows, clock, queue lengths, then the contents of each queue (MSG_PEEK)
    TCP_REPAIR = -1     back, without a window probe; SO_REUSEADDR again, which this clears

Input still arrives and timers still run in repair mode (net/ipv4/tcp.c), and even MSG_PEEK may send
a window update (tcp_cleanup_rbuf), so a snapshot counts only if the segment counters stood still;
whoever wants more than luck redirects the input first.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from prl.shadow.md5 import KeyUnknownError, key_of
from prl.shadow.snapshot import (
    CLONEABLE_STATES,
    QUEUES_LIMIT_BYTES,
    REPAIR_WINDOW_WORDS_LIMIT,
    REPAIR_WINDOW_WORDS_MIN,
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
    Queue,
    Repair,
    RepairQueue,
    So,
    Tcp,
    get_bytes,
    get_int,
    get_int_or,
    get_name,
    get_u32,
    interface_name,
    queue_bytes,
    set_int,
    tcp_info,
)
from prl.tcp import TcpInfo, TcpState

IPPROTO_MPTCP = 262
_ENDING = frozenset({TcpState.CLOSING, TcpState.LAST_ACK, TcpState.TIME_WAIT})
PEEK_SLACK_BYTES = 128 << 10
"""Room for data in front of the send queue that is acknowledged but still kept (see _peek)."""

_MOVED = (
    "the connection moved while it was being copied, {attempts} times; "
    "redirect its input first or try again"
)


class SnapshotMovedError(SnapshotError):
    """Segments came or went during every attempt; trying again may succeed."""


def _without_timeout(sock: socket.socket) -> socket.socket:
    """A duplicate: with a timeout of Python's, recv() would wait for readability."""
    return socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))


@dataclass(frozen=True, slots=True)
class Fixed:
    """What does not move with the connection's segments: read before its input is made to wait."""

    local: Endpoint
    remote: Endpoint
    options: ApplicationOptions
    network: NetworkOptions
    md5_key: bytes | None = field(repr=False)
    """None: not read yet."""


def fixed_of(sock: socket.socket) -> Fixed:
    """For take(). Raises SnapshotError, CallError."""
    refuse_other_protocols(sock)
    return _fixed(sock, md5_key(sock))


def _fixed(sock: socket.socket, key: bytes | None) -> Fixed:
    try:
        local, remote = endpoint_of(sock, sock.getsockname()), endpoint_of(sock, sock.getpeername())
    except CallError:
        raise
    except OSError as error:
        raise SnapshotError(f"{name_of(sock)}: the connection has gone") from error
    inline = bool(get_int(sock, So.OOBINLINE))
    options = _application_options(sock, oob_inline=inline)
    return Fixed(local, remote, options, network_options(sock, local), key)


def outline(sock: socket.socket, fixed: Fixed) -> TcpSnapshot | None:
    """A snapshot of which all that moves is zero; None when only take() can copy the connection.

    Raises CallError.
    """
    info = tcp_info(sock)
    if info.state != TcpState.ESTABLISHED or fixed.md5_key is None:
        return None
    nothing = RepairWindow(0, 0, 0, 0, 0)
    mss = get_int(sock, Tcp.MAXSEG)
    return _snapshot(sock, fixed, info, fixed.md5_key, _Copied(mss, 0, nothing))


def take(
    sock: socket.socket,
    *,
    attempts: int = 3,
    pause: Callable[[], AbstractContextManager[None]] = nullcontext,
    fixed: Fixed | None = None,
) -> TcpSnapshot:
    """Copy the state of a live TCP connection; the socket is as before afterwards.

    While it lasts (tens of microseconds) other threads' recv() and send() on the socket fail with
    EPERM and EINVAL: ``pause`` stops a program that does not know. Needs CAP_NET_ADMIN. ``fixed``
    saves the time to read that now.

    Raises SnapshotError for a socket that cannot be cloned, SnapshotMovedError when no attempt
    found it at rest.
    """
    with nullcontext(sock) if sock.gettimeout() is None else _without_timeout(sock) as dup:
        try:
            return _take(dup, attempts, pause, fixed)
        except CallError as error:
            raise SnapshotError(f"{name_of(dup)}: cannot be cloned: {error}") from error


def _take(
    sock: socket.socket,
    attempts: int,
    pause: Callable[[], AbstractContextManager[None]],
    fixed: Fixed | None,
) -> TcpSnapshot:
    if fixed is None:
        refuse_other_protocols(sock)
        _refuse_state(sock, tcp_info(sock))
        fixed = _fixed(sock, None)
    for _ in range(attempts):
        snapshot = _copy(sock, pause, fixed)
        if snapshot is not None:
            return snapshot
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


@contextmanager
def repair_mode(sock: socket.socket) -> Iterator[None]:
    """Put the socket into repair mode and take it out again, whatever happens.

    Raises SnapshotError if the caller may not, or the kernel cannot.
    """
    reuse = get_int(sock, So.REUSEADDR)
    enter_repair(sock)
    try:
        yield
    finally:
        set_int(sock, Tcp.REPAIR, Repair.OFF_NO_WINDOW_PROBE)
        set_int(sock, So.REUSEADDR, reuse)  # repair mode leaves it at 0 (net/ipv4/tcp.c)


def enter_repair(sock: socket.socket) -> None:
    """TCP_REPAIR = 1. Raises SnapshotError that says what is missing."""
    try:
        set_int(sock, Tcp.REPAIR, Repair.ON)
    except CallError as error:
        reason = {
            errno.EPERM: "TCP_REPAIR needs CAP_NET_ADMIN in the socket's network namespace",
            errno.ENOPROTOOPT: "this kernel has no TCP_REPAIR; it needs CONFIG_CHECKPOINT_RESTORE",
            errno.EOPNOTSUPP: "this kind of socket has no TCP_REPAIR",
        }.get(error.errno or 0, str(error))
        raise SnapshotError(f"{name_of(sock)}: {reason}") from error


def _copy(
    sock: socket.socket, pause: Callable[[], AbstractContextManager[None]], fixed: Fixed
) -> TcpSnapshot | None:
    """One attempt; None if the connection moved meanwhile."""
    peek_offset = get_int_or(sock, So.PEEK_OFF, -1)
    try:
        if peek_offset >= 0:
            set_int(sock, So.PEEK_OFF, -1)
        with pause(), repair_mode(sock):
            before = tcp_info(sock)
            _refuse_state(sock, before)
            window = RepairWindow.from_bytes(_repair_window(sock))
            tsval = get_u32(sock, Tcp.TIMESTAMP)
            mss = get_int(sock, Tcp.MAXSEG)
            _refuse_urgent(sock, fixed.options.oob_inline)
            # An unacknowledged FIN counts in the ioctls of the send queue (tcp_ioctl).
            own_fin = int(before.state == TcpState.FIN_WAIT1)
            unread_bytes = queue_bytes(sock, Queue.UNREAD)
            unacked_bytes = max(queue_bytes(sock, Queue.UNACKED) - own_fin, 0)
            unsent_bytes = max(queue_bytes(sock, Queue.UNSENT) - own_fin, 0)
            _refuse_size(sock, unread_bytes + unacked_bytes)
            rcv_seq, unread = _peek(sock, RepairQueue.RECV, unread_bytes)
            snd_seq, unacked = _peek(sock, RepairQueue.SEND, unacked_bytes)
            after = tcp_info(sock)
    finally:
        if peek_offset >= 0:
            set_int(sock, So.PEEK_OFF, peek_offset)
    if unread is None or unacked is None or before.movement != after.movement:
        return None
    key = md5_key(sock) if fixed.md5_key is None else fixed.md5_key
    peer_fin = before.state == TcpState.CLOSE_WAIT
    own_fin = before.state in {TcpState.FIN_WAIT1, TcpState.FIN_WAIT2}
    copied = _Copied(
        mss,
        tsval,
        window,
        rcv_seq=(rcv_seq - peer_fin) & 0xFFFFFFFF,
        snd_seq=(snd_seq - own_fin) & 0xFFFFFFFF,
        unread=unread,
        unacked=unacked,
        unsent_bytes=unsent_bytes,
    )
    return _snapshot(sock, fixed, before, key, copied)


@dataclass(frozen=True, slots=True)
class _Copied:
    """What moves, as in TcpSnapshot."""

    mss: int
    tsval: int
    window: RepairWindow
    rcv_seq: int = 0
    snd_seq: int = 0
    unread: bytes = field(default=b"", repr=False)
    unacked: bytes = field(default=b"", repr=False)
    unsent_bytes: int = 0


def _snapshot(
    sock: socket.socket, fixed: Fixed, info: TcpInfo, key: bytes, copied: _Copied
) -> TcpSnapshot:
    negotiated = Negotiated(info.options)
    return TcpSnapshot(
        version=SNAPSHOT_VERSION_SIGNED if key else SNAPSHOT_VERSION,
        family=sock.family,
        state=info.state,
        local=fixed.local,
        remote=fixed.remote,
        rcv_seq=copied.rcv_seq,
        snd_seq=copied.snd_seq,
        unread=copied.unread,
        unacked=copied.unacked,
        unsent_bytes=copied.unsent_bytes,
        mss=copied.mss,
        window_scaling=Negotiated.WINDOW_SCALE in negotiated,
        snd_wscale=info.snd_wscale,
        rcv_wscale=info.rcv_wscale,
        sack=Negotiated.SACK in negotiated,
        ecn=Negotiated.ECN in negotiated,
        timestamps=Negotiated.TIMESTAMPS in negotiated,
        timestamps_us=Negotiated.USEC_TIMESTAMPS in negotiated,
        tsval=copied.tsval,
        repair_window=copied.window,
        options=fixed.options,
        network=fixed.network,
        md5_key=key,
        segs_in=info.segs_in,
        ooo_segments=info.ooo_segments,
        bytes_received=info.bytes_received,
        bytes_acked=info.bytes_acked,
    )


_LINGER = struct.Struct("=ii")  # struct linger: on, seconds


def _application_options(sock: socket.socket, *, oob_inline: bool) -> ApplicationOptions:
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
        oob_inline=oob_inline,
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


_REPAIR_WINDOW_SIZES_BYTES = tuple(
    words * 4 for words in range(REPAIR_WINDOW_WORDS_LIMIT, REPAIR_WINDOW_WORDS_MIN - 1, -1)
)
_known_sizes_bytes: list[int] = []


def _repair_window(sock: socket.socket) -> bytes:
    """This kernel's struct tcp_repair_window; it must be asked for in its exact length."""
    for size_bytes in _known_sizes_bytes or _REPAIR_WINDOW_SIZES_BYTES:
        try:
            raw = get_bytes(sock, Tcp.REPAIR_WINDOW, size_bytes)
        except CallError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            _known_sizes_bytes[:] = [len(raw)]
            return raw
    raise SnapshotError("this kernel's struct tcp_repair_window is larger than prl knows; upgrade")


def repair_window_size_bytes(sock: socket.socket) -> int:
    """Length of this kernel's struct tcp_repair_window; `sock` must be in repair mode."""
    return _known_sizes_bytes[0] if _known_sizes_bytes else len(_repair_window(sock))


def _refuse_urgent(sock: socket.socket, inline: bool) -> None:
    """Refuse a connection with an urgent byte that is announced, or kept apart from the data.

    The second is seen only as a difference: SIOCINQ stops at the urgent byte, unless it is inline.
    """
    try:
        if inline:
            set_int(sock, So.OOBINLINE, 0)
        up_to_mark = queue_bytes(sock, Queue.UNREAD)
        pending = _urgent_byte(sock)
        set_int(sock, So.OOBINLINE, 1)
        pending = pending or queue_bytes(sock, Queue.UNREAD) != up_to_mark
    finally:
        set_int(sock, So.OOBINLINE, int(inline))
    if pending:
        raise SnapshotError(
            f"{name_of(sock)}: urgent data is pending, which cannot be cloned; "
            "replicate the session when the application has read it"
        )


def _urgent_byte(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_OOB | socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True  # announced, not yet arrived
    except OSError:
        return False
    return True


def _refuse_size(sock: socket.socket, queued_bytes: int) -> None:
    if queued_bytes > QUEUES_LIMIT_BYTES:
        raise SnapshotError(
            f"{name_of(sock)}: {queued_bytes} bytes are queued, more than {QUEUES_LIMIT_BYTES}; "
            "replicate the session when less is"
        )


def _peek(sock: socket.socket, queue: RepairQueue, length_bytes: int) -> tuple[int, bytes | None]:
    """The sequence number at a queue's end and its contents, None if its length has changed.

    The kernel keeps a segment whole until all of it is acknowledged and shows the acknowledged
    part too (tcp_clean_rtx_queue, tcp_peek_sndq): the send queue's last bytes are what counts.
    """
    set_int(sock, Tcp.REPAIR_QUEUE, queue)
    end_seq = get_u32(sock, Tcp.QUEUE_SEQ)
    if not length_bytes:
        return end_seq, b""
    slack_bytes = PEEK_SLACK_BYTES if queue == RepairQueue.SEND else 0
    room = bytearray(length_bytes + slack_bytes)
    try:
        count = sock.recv_into(room, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return end_seq, None
    except OSError as error:
        raise CallError(error, f"recv({queue.name.lower()} queue, MSG_PEEK)") from error
    if not length_bytes <= count <= len(room):
        return end_seq, None
    return end_seq, bytes(memoryview(room)[count - length_bytes : count])
