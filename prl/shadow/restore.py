"""Make a socket of a snapshot: the shadow of a connection (SPEC R17, R18).

    ready       closed socket: what must be set first; then TCP_REPAIR = 1, bind
    the moment  established, nothing sent, by the datapath's own code (userspace/tcp/moment.h)
    FIN         what each end has ended already is replayed by the datapath, as it happened

A shadow keeps on sending and its timers run: what is in front of its output must already be silent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Final, NamedTuple

from prl.bindings.datapath import Ready
from prl.bindings.native import ffi, lib, text_of
from prl.shadow.capture import enter_repair, ip_options
from prl.shadow.md5 import set_key
from prl.shadow.snapshot import (
    ApplicationOptions,
    Endpoint,
    NetworkOptions,
    SnapshotError,
    TcpSnapshot,
)
from prl.shadow.sockopt import (
    INTEGER_MAX,
    CallError,
    Ip,
    Ipv6,
    Negotiated,
    Option,
    So,
    Tcp,
    interface_index,
    level_of,
    option_name,
    set_bytes,
    set_int,
    set_u32,
)

SHADOW_USER_TIMEOUT_MS = INTEGER_MAX
"""0 would leave tcp_retries2 in force, which ends a shadow whose output goes nowhere."""
DEFAULT_RTO_MAX_MS = 120_000
"""The kernel's own bound on the retransmission timeout (TCP_RTO_MAX), and the most it accepts."""
SHADOW_RTO_MAX_MS = DEFAULT_RTO_MAX_MS
"""A peer whose window is closed says something when the owner asks it, which may be as seldom as
this; a socket that has heard nothing for twice its own bound is ended by the kernel
(net/ipv4/tcp_timer.c, tcp_rtx_probe0_timed_out). So a shadow's is no smaller than any owner's."""
OPTIONS_KINDS: Final = 256
"""Different sets of options of which sessions share one object, and the form that the kernel takes;
the others have their own."""
_MAY_LACK: Final = frozenset({Tcp.RTO_MAX_MS, So.BUF_LOCK})
"""Options that Linux has since 6.15 and 5.14: on an older kernel restore() has left them, too."""
USER_MSS_MAX_BYTES = 32767
"""Most that TCP_MAXSEG accepts (MAX_TCP_WINDOW)."""

HINTS = {
    errno.EADDRNOTAVAIL: "; the address is not on this node, or the connection already exists here",
    errno.EPERM: "; CAP_NET_ADMIN is needed",
    errno.ENOENT: "; this node lacks what the original uses",
    errno.EAGAIN: "; give the clone larger buffers",
    errno.ENOMEM: "; give the clone larger buffers",
    errno.ENODEV: "; this node has no interface of that name",
    errno.EPROTONOSUPPORT: "; this node's kernel lacks what the original's uses",
}


def restore(
    snapshot: TcpSnapshot,
    *,
    congestion: str | None,
    rcvbuf_bytes: int,
    sndbuf_bytes: int,
    elapsed_ms: int = 0,
) -> socket.socket:
    """A non-blocking socket that continues the connection; call it in its network namespace.

    congestion      congestion control while it is a shadow; None leaves the system's default
    rcvbuf_bytes    as given to SO_RCVBUFFORCE (the kernel doubles it); a longer queue raises it,
    sndbuf_bytes    likewise; 0 keeps autotuning where the queue is empty
    elapsed_ms      time since the snapshot was taken, by which the timestamp clock is advanced

    It cannot die by its own timers: no keepalive, no user timeout; adopt() gives it the
    application's options. Raises SnapshotError that names the call that failed, and leaves nothing.
    """
    sock, made = ready(
        snapshot, congestion=congestion, rcvbuf_bytes=rcvbuf_bytes, sndbuf_bytes=sndbuf_bytes
    )
    with _made(sock, snapshot):
        call = ffi.new("const char **")
        failed = lib.prl_moment_restore(
            *(sock.fileno(), made.native(), snapshot.snd_wscale, snapshot.rcv_wscale),
            *(_moment_of(snapshot), snapshot.unread + snapshot.unacked, elapsed_ms),
            *(ffi.new("struct prl_moment_counts *"), call),
        )
        if failed:
            raise CallError(OSError(-failed, os.strerror(-failed)), text_of(call[0]))
    return sock


def ready(
    snapshot: TcpSnapshot, *, congestion: str | None, rcvbuf_bytes: int, sndbuf_bytes: int
) -> tuple[socket.socket, Ready]:
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
        for option, size_bytes in ((So.RCVBUFFORCE, rcvbuf_bytes), (So.SNDBUFFORCE, sndbuf_bytes)):
            if size_bytes:
                set_int(sock, option, size_bytes)
        enter_repair(sock)
        # Without it the send MSS is the default 524, whatever the options say later.
        set_int(sock, Tcp.MAXSEG, min(snapshot.mss, USER_MSS_MAX_BYTES))
        named_call(lambda: sock.bind(sockaddr_of(sock, snapshot.local)), f"bind({snapshot.local})")
        remote, negotiated = raw_sockaddr(sock, snapshot.remote), negotiated_of(snapshot)
    return sock, Ready(remote, negotiated, rcvbuf_bytes, sndbuf_bytes)


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


def _moment_of(snapshot: TcpSnapshot) -> Any:
    """As struct prl_moment; what only its own socket's counters say is 0."""
    window, moment = snapshot.repair_window, ffi.new("struct prl_moment *")
    moment.state, moment.mss, moment.tsval = snapshot.state, snapshot.mss, snapshot.tsval
    moment.rcv_seq, moment.snd_seq = snapshot.rcv_seq, snapshot.snd_seq
    moment.unread_bytes, moment.unacked_bytes = len(snapshot.unread), len(snapshot.unacked)
    moment.snd_wl1, moment.snd_wnd, moment.max_window = (
        window.snd_wl1,
        window.snd_wnd,
        window.max_window,
    )
    moment.rcv_wnd, moment.rcv_wup, moment.rcv_edge = window.rcv_wnd, window.rcv_wup, window.edge
    return moment


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


def negotiated_of(snapshot: TcpSnapshot) -> int:
    """What the clone must have, in the bits of TCP_INFO (Negotiated)."""
    return (
        Negotiated.TIMESTAMPS * snapshot.timestamps
        | Negotiated.SACK * snapshot.sack
        | Negotiated.WINDOW_SCALE * snapshot.window_scaling
        | Negotiated.USEC_TIMESTAMPS * snapshot.timestamps_us
    )


def adopt(sock: socket.socket, snapshot: TcpSnapshot) -> tuple[str, ...]:
    """Give a shadow that takes over the options its application had chosen (SPEC R18).

    Never fails: each returned line tells of an option that this node could not set and why.
    """
    return tuple(f"{snapshot}: {failure}" for failure in give(sock.fileno(), snapshot.options))


class _Chosen(NamedTuple):
    """What setsockopt() is given, as prl_sock_options_set() takes it."""

    options: tuple[Option, ...]
    native: Any
    errors: Any
    """Room for what was refused."""


@lru_cache(OPTIONS_KINDS)
def _chosen(options: ApplicationOptions) -> _Chosen:
    linger = struct.pack("=ii", options.linger, options.linger_s)
    wanted: tuple[tuple[Option, int | bytes], ...] = (  # options of two levels may be equal numbers
        (Tcp.CONGESTION, options.congestion.encode()),
        (Tcp.RTO_MAX_MS, options.rto_max_ms or DEFAULT_RTO_MAX_MS),
        (Tcp.USER_TIMEOUT, options.user_timeout_ms),
        (Tcp.KEEPIDLE, options.keepidle_s),
        (Tcp.KEEPINTVL, options.keepintvl_s),
        (Tcp.KEEPCNT, options.keepcnt),
        (So.KEEPALIVE, options.keepalive),
        (Tcp.NODELAY, options.nodelay),
        (Tcp.CORK, options.cork),
        (Tcp.NOTSENT_LOWAT, options.notsent_lowat),
        (Tcp.LINGER2, options.linger2_s),
        (So.RCVLOWAT, options.rcvlowat),
        (So.LINGER, linger),
        (So.BUF_LOCK, options.buffer_lock),
    )
    native = ffi.new("struct prl_sock_option[]", len(wanted))
    for one, (option, value) in zip(native, wanted, strict=True):
        raw = value if isinstance(value, bytes) else struct.pack("=i", value)
        one.level, one.option, one.bytes = level_of(option), option, len(raw)
        ffi.memmove(one.value, raw, len(raw))
    return _Chosen(tuple(option for option, _ in wanted), native, ffi.new("int32_t[]", len(wanted)))


def give(fd: int, options: ApplicationOptions) -> tuple[str, ...]:
    """As adopt(), of a descriptor. In one thread at a time."""
    chosen = _chosen(options)
    if not lib.prl_sock_options_set(fd, chosen.native, len(chosen.options), chosen.errors):
        return ()
    refused = zip(chosen.options, chosen.errors, strict=True)
    return tuple(
        f"setsockopt({option_name(option)}) failed: {os.strerror(-error)}"
        for option, error in refused
        if error and option not in _MAY_LACK
    )


def discard(sock: socket.socket) -> None:
    """Close a socket without a word to its peer; other holders of it keep a dead one.

    In repair mode close() sends neither FIN nor RST. Raises SnapshotError, with the socket still
    open, if it cannot be put into repair mode: closing it would not be silent.
    """
    enter_repair(sock)
    sock.close()
