"""What an application needs to know of its TCP socket: TCP_INFO, and an end that loses nothing."""

import errno
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

END_TIMEOUT_S = 30.0
_DISCARD_BYTES = 1 << 16
INFO_MAX_BYTES = 512
"""Longest TCP_INFO that is read; today's kernels fill about 280 bytes."""

# struct tcp_info up to tcpi_rcv_wnd; `x` skips what nobody here reads.
_LAYOUT = struct.Struct("=B4xBBxI12xI40xI32x16xQQII8xII64xIII")
_HIGH_NIBBLE_FIRST = sys.byteorder == "big"


class TcpState(IntEnum):
    """States of a connection (include/net/tcp_states.h)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """What prl needs of TCP_INFO (struct tcp_info). Times are in microseconds."""

    state: int
    options: int
    snd_wscale: int
    rcv_wscale: int
    rto_us: int
    unacked_segments: int
    rtt_us: int
    bytes_acked: int
    bytes_received: int
    segs_out: int
    segs_in: int
    data_segs_in: int
    data_segs_out: int
    ooo_segments: int
    """Segments that ever arrived out of order: a counter, it does not tell what is queued now."""
    snd_wnd: int
    rcv_wnd: int
    """Receive window left, in bytes; 0 before Linux 6.2, which does not tell."""

    @classmethod
    def of(cls, raw: bytes) -> Self:
        """What the option's value says; what an older kernel does not tell is 0."""
        state, options, scales, *figures = _LAYOUT.unpack_from(raw.ljust(_LAYOUT.size, b"\0"))
        first, second = scales & 0x0F, scales >> 4
        snd_wscale, rcv_wscale = (second, first) if _HIGH_NIBBLE_FIRST else (first, second)
        return cls(state, options, snd_wscale, rcv_wscale, *figures)


_CLOSED_STATES = frozenset({TcpState.TIME_WAIT, TcpState.CLOSE})  # both sides have ended
_WAITS_FOR_ACK = frozenset(
    {
        TcpState.ESTABLISHED,
        TcpState.FIN_WAIT1,
        TcpState.CLOSE_WAIT,
        TcpState.LAST_ACK,
        TcpState.CLOSING,
    }
)


def state(sock: socket.socket) -> int:
    """The socket's state, numbered as in net/tcp_states.h."""
    return _info(sock).state


def bytes_acked(sock: socket.socket) -> int:
    """Bytes the peer has acknowledged since the socket was made or restored; a FIN counts 1."""
    return _info(sock).bytes_acked


def _info(sock: socket.socket) -> TcpInfo:
    return TcpInfo.of(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_MAX_BYTES))


def why_ended(error: Exception) -> str:
    """An error of a protected socket in words.

    prld empties a socket that may not speak any more in repair mode, where every call of its
    program fails with EPERM (tcp_recvmsg, tcp_sendmsg in net/ipv4/tcp.c).
    """
    if not isinstance(error, OSError):
        return str(error)
    if error.errno == errno.EPERM:
        return "prld has taken the socket out of use: this node does not have the session any more"
    return f"the connection ended: {error.strerror}"


def finish(sock: socket.socket, timeout_s: float = END_TIMEOUT_S) -> bool:
    """End our direction and wait until the peer has acknowledged all and ended its own.

    What the peer still sends is thrown away, as closing with unread input would reset the
    connection and could cost the peer output of ours.

    Returns:
        Whether all our output was acknowledged within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    with suppress(OSError):  # the peer has gone already
        sock.shutdown(socket.SHUT_WR)
    sock.setblocking(False)
    with select.epoll() as poller:
        # Edge-triggered: the kernel wakes us when the state changes (sk_state_change), though
        # neither readability nor writability do.
        poller.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        while True:
            ended = _discard(sock)
            now = state(sock)
            if now in _CLOSED_STATES or (ended and now not in _WAITS_FOR_ACK):
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return now not in _WAITS_FOR_ACK
            poller.poll(left_s)


def _discard(sock: socket.socket) -> bool:
    """Throw away what has arrived; return whether the peer has ended its direction."""
    while True:
        try:
            if not sock.recv(_DISCARD_BYTES):
                return True
        except BlockingIOError:
            return False
        except OSError:
            return True
