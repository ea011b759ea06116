"""Ending a socket for all who hold it: so that its peer hears nothing of it (SPEC L8), or does."""

import contextlib
import socket

from prl.kernel.disconnect import disconnect
from prl.shadow import SnapshotError, discard
from prl.shadow.capture import enter_repair
from prl.shadow.sockopt import Repair, Tcp, set_int


def end_silently(sock: socket.socket) -> None:
    """Close ``sock`` without FIN or RST, for every process that holds it.

    UDP sends nothing at its end: such a socket loses its peer, if it has one, then all who
    wait in it are woken.
    TCP: in repair mode a disconnect empties the socket and sends nothing (tcp_disconnect in
    net/ipv4/tcp.c); a kernel that refuses it because somebody waits in recv() leaves a socket in
    repair mode, whose close is silent too. A socket that has ended already is just closed.
    """
    if sock.type == socket.SOCK_DGRAM:
        disconnect(sock)
        with contextlib.suppress(OSError):  # ENOTCONN, but done (inet_shutdown, af_inet.c)
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        return
    with contextlib.suppress(SnapshotError, OSError):
        enter_repair(sock)
        disconnect(sock)
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
    disconnect(sock)
    set_int(sock, Tcp.REPAIR, Repair.OFF_NO_WINDOW_PROBE)
    sock.close()
