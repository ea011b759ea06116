"""What an application needs of its TCP socket: how far it is, and an end that loses nothing."""

import errno
import select
import socket
import time
from contextlib import suppress

from prl.kernel.tcp_info import INFO_MAX_BYTES, TcpInfo, TcpState

END_TIMEOUT_S = 30.0
_DISCARD_BYTES = 1 << 16

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
