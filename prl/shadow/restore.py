"""Make a socket of a snapshot: the shadow of a connection (SPEC R17, R18).

    closed socket       what must be set first: congestion control, buffers, device, MSS
    TCP_REPAIR = 1, bind, TCP_QUEUE_SEQ (start of each queue), connect: established, nothing sent
    options, clock, receive queue, send queue, window
    TCP_REPAIR = -1     alive, without a window probe
    FIN                 what each end has ended already is replayed by the datapath, as it happened

The order is the kernel's: TCP_QUEUE_SEQ is refused after connect(), options and window before it,
and the window is judged by the sequence numbers that the queues lead to (net/ipv4/tcp.c). A shadow
keeps on sending and its timers run: what is in front of its output must already be silent.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv6Address

from prl.shadow.capture import enter_repair, ip_options, repair_window_size_bytes
from prl.shadow.md5 import set_key
from prl.shadow.snapshot import (
    ApplicationOptions,
    Endpoint,
    NetworkOptions,
    RepairWindow,
    SnapshotError,
    TcpSnapshot,
)
from prl.shadow.sockopt import (
    INTEGER_MAX,
    CallError,
    Ip,
    Ipv6,
    Negotiated,
    OptionKind,
    Queue,
    Repair,
    RepairQueue,
    So,
    Tcp,
    interface_index,
    queue_bytes,
    set_bytes,
    set_int,
    set_u32,
    tcp_info,
)

SHADOW_USER_TIMEOUT_MS = INTEGER_MAX
"""0 would leave tcp_retries2 in force, which ends a shadow whose output goes nowhere."""
SHADOW_RTO_MAX_MS = 1000
"""Bounds the back-off that a shadow collects before it takes over; the least the kernel accepts."""
DEFAULT_RTO_MAX_MS = 120_000
"""The kernel's own bound on the retransmission timeout (TCP_RTO_MAX)."""
TSVAL_LEAD_MS = 2
"""A clone's timestamp clock must not be behind the original's (PAWS), nor far ahead (RTT)."""
USER_MSS_MAX_BYTES = 32767
"""Most that TCP_MAXSEG accepts (MAX_TCP_WINDOW)."""
APPEND_BYTES = 64 << 10
"""Queue contents go in by pieces of this; a larger one needs contiguous kernel memory."""
BUFFER_MAX_BYTES = INTEGER_MAX // 2 - (64 << 10)
"""Most that can be asked for: the kernel doubles it."""
QUEUE_OVERHEAD_BYTES = 64 << 10
"""Room in a buffer beyond its queue's contents, for the kernel's own structures."""

HINTS = {
    errno.EADDRNOTAVAIL: "; the address is not on this node, or the connection already exists here",
    errno.EPERM: "; CAP_NET_ADMIN is needed",
    errno.ENOENT: "; this node lacks what the original uses",
    errno.EAGAIN: "; give the clone larger buffers",
    errno.ENOMEM: "; give the clone larger buffers",
    errno.ENODEV: "; this node has no interface of that name",
}


def restore(
    snapshot: TcpSnapshot,
    *,
    congestion: str | None,
    rcvbuf_bytes: int,
    sndbuf_bytes: int,
    include_unsent: bool = True,
    elapsed_ms: int = 0,
) -> socket.socket:
    """A non-blocking socket that continues the connection; call it in its network namespace.

    congestion      congestion control while it is a shadow; None leaves the system's default
    rcvbuf_bytes    as given to SO_RCVBUFFORCE (the kernel doubles it); a longer queue raises it,
    sndbuf_bytes    likewise; 0 keeps autotuning where the queue is empty
    include_unsent  whether data that the original had not yet sent goes into the send queue too; if
                    not, whoever feeds the shadow must append it once the original has sent it
    elapsed_ms      time since the snapshot was taken, by which the timestamp clock is advanced

    It cannot die by its own timers: no keepalive, no user timeout; adopt() gives it the
    application's options. Raises SnapshotError that names the call that failed, and leaves nothing.
    """
    sock = ready(
        snapshot, congestion=congestion, rcvbuf_bytes=rcvbuf_bytes, sndbuf_bytes=sndbuf_bytes
    )
    with _made(sock, snapshot):
        _connect(sock, snapshot)
        _negotiate(sock, snapshot, elapsed_ms)
        _append(sock, RepairQueue.RECV, snapshot.unread)
        _append(sock, RepairQueue.SEND, _sent_part(snapshot, include_unsent))
        _check_all_sent(sock, snapshot)
        window = _window_of(snapshot).to_bytes(repair_window_size_bytes(sock))
        set_bytes(sock, Tcp.REPAIR_WINDOW, window)
        _check_negotiated(sock, snapshot)
        set_int(sock, Tcp.REPAIR, Repair.OFF_NO_WINDOW_PROBE)
        set_int(sock, So.REUSEADDR, 1)  # cleared by leaving repair mode
    return sock


def ready(
    snapshot: TcpSnapshot, *, congestion: str | None, rcvbuf_bytes: int, sndbuf_bytes: int
) -> socket.socket:
    """A socket for which the connection's moment may come: in repair mode, bound, not connected.

    Has what does not move of ``snapshot``; arguments and errors as of restore().
    """
    try:
        sock = socket.socket(
            snapshot.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP
        )
    except OSError as error:
        raise SnapshotError(f"{snapshot}: no socket for the clone: {error.strerror}") from error
    with _made(sock, snapshot):
        _prepare(sock, snapshot, congestion)
        _set_buffers(sock, snapshot, rcvbuf_bytes, sndbuf_bytes)
        enter_repair(sock)
        # Without it the send MSS is the default 524, whatever the options say later.
        set_int(sock, Tcp.MAXSEG, min(snapshot.mss, USER_MSS_MAX_BYTES))
        named_call(lambda: sock.bind(sockaddr_of(sock, snapshot.local)), f"bind({snapshot.local})")
    return sock


@contextlib.contextmanager
def _made(sock: socket.socket, snapshot: TcpSnapshot) -> Iterator[None]:
    """On failure nothing is left of it."""
    try:
        yield
    except BaseException as error:
        abandon(sock)
        if isinstance(error, CallError):
            hint = HINTS.get(error.errno or 0, "")
            raise SnapshotError(f"{snapshot}: cannot be restored: {error}{hint}") from error
        raise


def _window_of(snapshot: TcpSnapshot) -> RepairWindow:
    """The window, as it was in front of the peer's FIN if there was one: same right edge."""
    window = snapshot.repair_window
    if not snapshot.peer_ended:
        return window
    beyond = int(window.rcv_wup == (snapshot.rcv_seq + 1) & 0xFFFFFFFF)
    return replace(
        window,
        snd_wl1=snapshot.rcv_seq,
        rcv_wup=(window.rcv_wup - beyond) & 0xFFFFFFFF,
        rcv_wnd=window.rcv_wnd + beyond,
    )


def abandon(sock: socket.socket) -> None:
    """Close a clone that is not finished: silently, wherever its making stopped."""
    with contextlib.suppress(SnapshotError):  # refused: then it was never connected either
        enter_repair(sock)
    sock.close()


def _prepare(sock: socket.socket, snapshot: TcpSnapshot, congestion: str | None) -> None:
    """All that is set on the closed socket, outside repair mode."""
    if congestion is not None:
        set_bytes(sock, Tcp.CONGESTION, congestion.encode())
    set_int(sock, So.REUSEADDR, 1)
    set_int(sock, Tcp.USER_TIMEOUT, SHADOW_USER_TIMEOUT_MS)
    with contextlib.suppress(CallError):  # Linux 6.15 and later
        set_int(sock, Tcp.RTO_MAX_MS, SHADOW_RTO_MAX_MS)
    set_int(sock, Tcp.NODELAY, 1)
    if snapshot.options.oob_inline:
        set_int(sock, So.OOBINLINE, 1)
    set_network(sock, snapshot.local, snapshot.network)
    if snapshot.md5_key:
        set_key(sock, str(snapshot.remote.address), snapshot.md5_key)


def set_network(sock: socket.socket, local: Endpoint, network: NetworkOptions) -> None:
    """Options below TCP and UDP, before bind(). Raises CallError."""
    tos, ttl, min_ttl, discover = ip_options(local)
    if isinstance(local.address, IPv6Address) and local.address.ipv4_mapped:
        set_int(sock, Ipv6.V6ONLY, 0)
    set_int(sock, tos, network.tos)
    set_int(sock, ttl, network.ttl)
    if network.min_ttl:
        set_int(sock, min_ttl, network.min_ttl)
    if network.bound_device:
        set_bytes(sock, So.BINDTODEVICE, network.bound_device.encode())
    if network.mark:
        set_u32(sock, So.MARK, network.mark)
    if not isinstance(local.address, IPv6Address) or network.priority:
        set_int(sock, So.PRIORITY, network.priority)  # the TOS has just set it
    if network.mtu_discover is not None:
        set_int(sock, discover, network.mtu_discover)
    if network.ip_options:
        set_bytes(sock, Ip.OPTIONS, network.ip_options)


def _set_buffers(
    sock: socket.socket, snapshot: TcpSnapshot, rcvbuf_bytes: int, sndbuf_bytes: int
) -> None:
    """Before connect(), which derives the receive window's bound from the buffer."""
    for option, wanted_bytes, queued_bytes in (
        (So.RCVBUFFORCE, rcvbuf_bytes, max(len(snapshot.unread), _advertised_bytes(snapshot))),
        (So.SNDBUFFORCE, sndbuf_bytes, len(snapshot.unacked)),
    ):
        needed_bytes = queued_bytes + QUEUE_OVERHEAD_BYTES if queued_bytes else 0
        size_bytes = max(wanted_bytes, needed_bytes)
        if size_bytes:
            set_int(sock, option, size_bytes)


def _advertised_bytes(snapshot: TcpSnapshot) -> int:
    """What the peer may send, after its window was granted, and what is still unread."""
    window = snapshot.repair_window
    left = (window.rcv_wup + window.rcv_wnd - snapshot.rcv_seq) & 0xFFFFFFFF
    return min(len(snapshot.unread) + left, BUFFER_MAX_BYTES) if left <= INTEGER_MAX else 0


def _sent_part(snapshot: TcpSnapshot, include_unsent: bool) -> memoryview:
    unsent_bytes = 0 if include_unsent else snapshot.unsent_bytes
    return memoryview(snapshot.unacked)[: len(snapshot.unacked) - unsent_bytes]


def _connect(sock: socket.socket, snapshot: TcpSnapshot) -> None:
    """Established without a handshake: in repair mode connect() sends nothing."""
    set_int(sock, Tcp.REPAIR_QUEUE, RepairQueue.RECV)
    set_u32(sock, Tcp.QUEUE_SEQ, (snapshot.rcv_seq - len(snapshot.unread)) & 0xFFFFFFFF)
    set_int(sock, Tcp.REPAIR_QUEUE, RepairQueue.SEND)
    set_u32(sock, Tcp.QUEUE_SEQ, (snapshot.snd_seq - len(snapshot.unacked)) & 0xFFFFFFFF)
    named_call(
        lambda: sock.connect(sockaddr_of(sock, snapshot.remote)), f"connect({snapshot.remote})"
    )


def sockaddr_of(sock: socket.socket, end: Endpoint) -> tuple[str, int] | tuple[str, int, int, int]:
    """The endpoint as bind() and connect() take it. Raises CallError for an unknown scope."""
    if not isinstance(end.address, IPv6Address):
        return str(end.address), end.port
    return str(end.address), end.port, 0, interface_index(sock, end.scope) if end.scope else 0


def raw_sockaddr(sock: socket.socket, end: Endpoint) -> bytes:
    """The endpoint as struct sockaddr. Raises CallError for an unknown scope."""
    port = socket.htons(end.port)
    if not isinstance(end.address, IPv6Address):
        return struct.pack("=HH4s8x", socket.AF_INET, port, end.packed)
    scope = interface_index(sock, end.scope) if end.scope else 0
    return struct.pack("=HHI16sI", socket.AF_INET6, port, 0, end.packed, scope)


def named_call(call: Callable[[], object], name: str) -> None:
    """Call; an OSError becomes a CallError that names the call."""
    try:
        call()
    except CallError:
        raise
    except OSError as error:
        raise CallError(error, name) from error


def _negotiate(sock: socket.socket, snapshot: TcpSnapshot, elapsed_ms: int) -> None:
    """Put in force what the two ends had agreed upon in their handshake."""
    agreed = [(OptionKind.MSS, snapshot.mss)]
    if snapshot.window_scaling:
        scales = snapshot.snd_wscale | snapshot.rcv_wscale << 16
        agreed.append((OptionKind.WINDOW_SCALE, scales))
    if snapshot.sack:
        agreed.append((OptionKind.SACK_PERMITTED, 0))
    if snapshot.timestamps:
        agreed.append((OptionKind.TIMESTAMPS, 0))
    set_bytes(sock, Tcp.REPAIR_OPTIONS, b"".join(struct.pack("=II", *pair) for pair in agreed))
    if snapshot.timestamps:
        set_u32(sock, Tcp.TIMESTAMP, next_tsval(snapshot, elapsed_ms))


def next_tsval(snapshot: TcpSnapshot, elapsed_ms: int) -> int:
    """The clone's timestamp clock, `elapsed_ms` after the snapshot.

    An odd value would switch it to microseconds (since Linux 6.7); older kernels give out odd ones
    that mean nothing.
    """
    lead_ms = TSVAL_LEAD_MS + elapsed_ms
    if snapshot.timestamps_us:
        return (snapshot.tsval + lead_ms * 1000) & 0xFFFFFFFF | 1
    return (snapshot.tsval + lead_ms + 1) & 0xFFFFFFFE


def _append(sock: socket.socket, queue: RepairQueue, data: bytes | memoryview) -> None:
    """Put data into a queue as though it had been received, or sent."""
    if not data:
        return
    set_int(sock, Tcp.REPAIR_QUEUE, queue)
    view = memoryview(data)
    done = 0
    while done < len(view):
        try:
            done += sock.send(view[done : done + APPEND_BYTES])
        except OSError as error:
            where = f"send({queue.name.lower()} queue, byte {done} of {len(view)})"
            raise CallError(error, where) from error


def _check_all_sent(sock: socket.socket, snapshot: TcpSnapshot) -> None:
    """An acknowledgement of data not yet 'sent' makes the kernel drop the whole segment."""
    if not queue_bytes(sock, Queue.UNSENT):
        return
    set_int(sock, Tcp.NODELAY, 1)  # pushes what autocorking kept back
    left_bytes = queue_bytes(sock, Queue.UNSENT)
    if left_bytes:
        raise SnapshotError(
            f"{snapshot}: {left_bytes} bytes of the clone's send queue stay unsent; "
            "set net.ipv4.tcp_autocorking=0 on this node"
        )


def negotiated_of(snapshot: TcpSnapshot) -> int:
    """What the clone must have, in the bits of TCP_INFO (Negotiated)."""
    return (
        Negotiated.TIMESTAMPS * snapshot.timestamps
        | Negotiated.SACK * snapshot.sack
        | Negotiated.WINDOW_SCALE * snapshot.window_scaling
        | Negotiated.USEC_TIMESTAMPS * snapshot.timestamps_us
    )


def _check_negotiated(sock: socket.socket, snapshot: TcpSnapshot) -> None:
    """What an older kernel silently leaves out must not be found out by the peer."""
    wanted = negotiated_of(snapshot)
    got = tcp_info(sock).options & (
        Negotiated.TIMESTAMPS
        | Negotiated.SACK
        | Negotiated.WINDOW_SCALE
        | Negotiated.USEC_TIMESTAMPS
    )
    if got != wanted:
        raise SnapshotError(
            f"{snapshot}: the clone has TCP options {Negotiated(got)!s} instead of "
            f"{Negotiated(wanted)!s}; this node's kernel lacks what the original's uses"
        )


def adopt(sock: socket.socket, snapshot: TcpSnapshot) -> tuple[str, ...]:
    """Give a shadow that takes over the options its application had chosen (SPEC R18).

    Never fails: each returned line tells of an option that this node could not set and why.
    """
    return give(sock, snapshot.options, str(snapshot))


def give(sock: socket.socket, options: ApplicationOptions, name: str) -> tuple[str, ...]:
    """As adopt(), of a session called ``name`` in what is returned."""
    rto_max_ms = options.rto_max_ms or DEFAULT_RTO_MAX_MS
    failures: list[str] = []

    def attempt(call: Callable[[], None]) -> None:
        try:
            call()
        except CallError as error:
            failures.append(f"{name}: {error}")

    attempt(lambda: set_bytes(sock, Tcp.CONGESTION, options.congestion.encode()))
    with contextlib.suppress(CallError):  # Linux 6.15 and later; restore() has not set it either
        set_int(sock, Tcp.RTO_MAX_MS, rto_max_ms)
    attempt(lambda: set_int(sock, Tcp.USER_TIMEOUT, options.user_timeout_ms))
    attempt(lambda: set_int(sock, Tcp.KEEPIDLE, options.keepidle_s))
    attempt(lambda: set_int(sock, Tcp.KEEPINTVL, options.keepintvl_s))
    attempt(lambda: set_int(sock, Tcp.KEEPCNT, options.keepcnt))
    attempt(lambda: set_int(sock, So.KEEPALIVE, int(options.keepalive)))
    attempt(lambda: set_int(sock, Tcp.NODELAY, int(options.nodelay)))
    attempt(lambda: set_int(sock, Tcp.CORK, int(options.cork)))
    attempt(lambda: set_int(sock, Tcp.NOTSENT_LOWAT, options.notsent_lowat))
    attempt(lambda: set_int(sock, Tcp.LINGER2, options.linger2_s))
    attempt(lambda: set_int(sock, So.RCVLOWAT, options.rcvlowat))
    linger = struct.pack("=ii", options.linger, options.linger_s)
    attempt(lambda: set_bytes(sock, So.LINGER, linger))
    with contextlib.suppress(CallError):  # Linux 5.14 and later
        set_int(sock, So.BUF_LOCK, options.buffer_lock)
    return tuple(failures)


def discard(sock: socket.socket) -> None:
    """Close a socket without a word to its peer; other holders of it keep a dead one.

    In repair mode close() sends neither FIN nor RST. Raises SnapshotError, with the socket still
    open, if it cannot be put into repair mode: closing it would not be silent.
    """
    enter_repair(sock)
    sock.close()
