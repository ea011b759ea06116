"""Somebody else's queue of netfilter's."""

import socket
import struct

_NETLINK_NETFILTER = 12
_CONFIG = 3 << 8 | 2  # NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG
_REQUEST, _ACKNOWLEDGED, _COMMAND, _BIND = 1, 4, 1, 1


def bind(number: int) -> socket.socket:
    """Take a queue in the caller's network namespace, until the socket is closed."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    head = struct.pack("=IHHII", 28, _CONFIG, _REQUEST | _ACKNOWLEDGED, 1, 0)
    generic = struct.pack("!BBH", 0, 0, number)
    sock.sendall(head + generic + struct.pack("=HH4B", 8, _COMMAND, _BIND, 0, 0, 0))
    (error,) = struct.unpack_from("=i", sock.recv(4096), 16)
    assert error == 0
    return sock
