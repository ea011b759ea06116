"""A connection on the node that owns the address: protect it, then let the program serve it."""

import logging
import secrets
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path

from prl import tcp
from prl.client import Node, NotProtectedError, Session
from prl.errors import PrlError
from prl.messages import show_endpoint
from prl.serve.command import Command, describe_status
from prl.serve.conversation import converse
from prl.serve.inbound import Inbound
from prl.serve.outbound import DirectOutbound

# Given with the shadow: the standby's program can only begin with the first byte of the input, so a
# second snapshot of one connection is of no use to it. The nonce tells the two apart.
APPLICATION_TAG = b"prl-serve-1:"
_NONCE_BYTES = 16
_WORD_TIMEOUT_S = 1.0

_log = logging.getLogger("prl.serve")


def serve_connection(
    sock: socket.socket, argv: Sequence[str], socket_path: Path | None, stop: int
) -> None:
    """Serve an accepted connection to its end.

    Each connection has its own control connection to prld: ending that one without a word is how
    the death of one session's program is told from that of others (SPEC R19).

    Args:
        sock: the accepted socket; closed on return.
        argv: the program.
        socket_path: prld's control socket, None for the default.
        stop: becomes readable when serving stops.
    """
    who = _name(sock)
    with sock, ExitStack() as at_end:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session = _protect(sock, who, socket_path, at_end)
            with Command(argv) as command:
                # Without Session.close before the control connection ends, this is the death of
                # the session's application: the other node goes on with it if it can.
                _serve(sock, command, session, who, stop)
        except (OSError, PrlError) as error:
            _log.warning("%s: %s", who, error)


def _serve(
    sock: socket.socket, command: Command, session: Session | None, who: str, stop: int
) -> None:
    sock.setblocking(False)
    try:
        status = converse(
            command,
            Inbound(sock.fileno(), command),
            DirectOutbound(command, sock),
            {stop: lambda: True},
        )
    except OSError as error:
        _end_broken(session, who, error)
        return
    if status == 0:
        if not tcp.finish(sock):
            _log.warning("%s: the peer does not take the rest of the output", who)
        if session is not None:
            session.close()
        _log.info("%s: ended", who)
    elif status is None:
        _log.warning("%s: given up, as serving stops", who)
    else:
        is_safe = session is not None and session.state == "active"
        fate = "left to the other node" if is_safe else "the session ends"
        _log.error("%s: the program %s: %s", who, describe_status(status), fate)


def _end_broken(session: Session | None, who: str, error: OSError) -> None:
    if session is not None:
        with suppress(TimeoutError):  # prld's word can come a little after the socket's
            session.wait_state("demoted", "ended", "closed", "lost", timeout=_WORD_TIMEOUT_S)
        if session.state == "demoted":
            _log.warning("%s: the other node has the session now", who)
            return
        session.close()
    _log.warning("%s: the connection ended: %s", who, error.strerror)


def _protect(
    sock: socket.socket, who: str, socket_path: Path | None, at_end: ExitStack
) -> Session | None:
    try:
        node = at_end.enter_context(Node(socket_path, reconnect=False))
    except PrlError as error:
        _log.warning("%s: served without protection: %s", who, error)
        return None
    try:
        session = node.replicate(sock, APPLICATION_TAG + secrets.token_bytes(_NONCE_BYTES))
    except NotProtectedError as error:
        _log.warning("%s: served without protection: %s", who, error)
        if error.session is not None:
            _give_protection_up(node, error.session)
        return error.session
    except PrlError as error:
        _log.warning("%s: served without protection: %s", who, error)
        return None
    _log.info("%s: protected", who)
    threading.Thread(target=_watch, args=(node, session, who), daemon=True).start()
    return session


def _watch(node: Node, session: Session, who: str) -> None:
    """A session that loses its protection never gets it back: the program cannot begin anew."""
    state = session.wait_state("open", "voiding", "demoted", "ended", "closed", "lost")
    if state in {"open", "voiding"}:
        _give_protection_up(node, session)
    if state in {"open", "voiding", "lost"}:
        _log.warning("%s: goes on without protection: %s", who, session.reason)


def _give_protection_up(node: Node, session: Session) -> None:
    with suppress(PrlError):  # it has ended meanwhile
        node.request({"op": "flow_del", "handle": session.handle})


def _name(sock: socket.socket) -> str:
    with suppress(OSError):
        address = sock.getpeername()
        return f"connection from {show_endpoint(ip_address(address[0]), address[1])}"
    return "connection that ended at once"
