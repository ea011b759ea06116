"""Members of struct tcp_info that only tests look at (include/uapi/linux/tcp.h)."""

import socket
import struct


def snd_cwnd(sock: socket.socket) -> int:
    """Congestion window, in segments."""
    return _member(sock, "=I", 80)


def total_retrans(sock: socket.socket) -> int:
    """Segments sent again, ever."""
    return _member(sock, "=I", 100)


def segs_in(sock: socket.socket) -> int:
    """Segments received, ever."""
    return _member(sock, "=I", 140)


def rwnd_limited_us(sock: socket.socket) -> int:
    """How long it has waited for the other end's window."""
    return _member(sock, "=Q", 176)


def _member(sock: socket.socket, kind: str, at: int) -> int:
    layout = struct.Struct(kind)
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, at + layout.size)
    return int(layout.unpack_from(raw, at)[0])
