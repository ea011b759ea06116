"""Ending a socket for all who hold it: so that its peer hears nothing of it (SPEC L8), or does."""

import contextlib
import ctypes
import socket
import struct

from prl.shadow import SnapshotError, discard
from prl.shadow.capture import enter_repair
from prl.shadow.sockopt import Repair, Tcp, set_int

_AF_UNSPEC = struct.pack("=H14x", socket.AF_UNSPEC)
_libc = ctypes.CDLL(None, use_errno=True)


def end_silently(sock: socket.socket) -> None:
    """Close ``sock`` without FIN or RST, for every process that holds it.

    UDP sends nothing at its end: such a socket loses its peer, if it has one, then all who
    wait in it are woken.
    TCP: in repair mode a disconnect empties the socket and sends nothing (tcp_disconnect in
    net/ipv4/tcp.c); a kernel that refuses it because somebody waits in recv() leaves a socket in
    repair mode, whose close is silent too. A socket that has ended already is just closed.
    """
    if sock.type == socket.SOCK_DGRAM:
        _libc.connect(sock.fileno(), _AF_UNSPEC, len(_AF_UNSPEC))
        with contextlib.suppress(OSError):  # ENOTCONN, but done (inet_shutdown, af_inet.c)
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        return
    with contextlib.suppress(SnapshotError, OSError):
        enter_repair(sock)
        _libc.connect(sock.fileno(), _AF_UNSPEC, len(_AF_UNSPEC))
    try:
        discard(sock)
    except (SnapshotError, OSError):
        sock.close()


def abort_silently(sock: socket.socket) -> None:
    """Like end_silently(), for a TCP socket that a program has which does not know of prl.

    The program gets ECONNABORTED (tcp_disconnect), and must stand still meanwhile. Raises
    SnapshotError, CallError.
    """
    enter_repair(sock)
    _libc.connect(sock.fileno(), _AF_UNSPEC, len(_AF_UNSPEC))
    set_int(sock, Tcp.REPAIR, Repair.OFF_NO_WINDOW_PROBE)
    sock.close()


def reset(sock: socket.socket) -> None:
    """End a TCP connection by RST, for every process that holds it (tcp_disconnect)."""
    _libc.connect(sock.fileno(), _AF_UNSPEC, len(_AF_UNSPEC))
