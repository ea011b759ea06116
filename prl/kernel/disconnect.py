"""connect() to AF_UNSPEC, which Python has no words for."""

import ctypes
import socket
import struct

_AF_UNSPEC = struct.pack("=H14x", socket.AF_UNSPEC)
_libc = ctypes.CDLL(None, use_errno=True)


def disconnect(sock: socket.socket) -> None:
    """Take its peer away from a socket, for every process that holds it.

    A TCP connection ends by RST, in repair mode without a word (tcp_disconnect in net/ipv4/tcp.c).
    """
    _libc.connect(sock.fileno(), _AF_UNSPEC, len(_AF_UNSPEC))
