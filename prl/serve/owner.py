"""A connection on the node that owns the address: protect it, then let the program serve it."""

import logging
import socket
from contextlib import ExitStack, suppress
from ipaddress import ip_address

from prl.client import Node, NotProtectedError, Session, tcp
from prl.control import input_history
from prl.control.protocol import OVER
from prl.endpoint import show_endpoint
from prl.errors import PrlError
from prl.serve.command import Command, describe_status
from prl.serve.conversation import Watchers, converse
from prl.serve.history import History
from prl.serve.inbound import Inbound
from prl.serve.options import Options
from prl.serve.outbound import DirectOutbound
from prl.serve.protection import Protection

_WORD_TIMEOUT_S = 1.0

_log = logging.getLogger("prl.serve")


def serve_connection(sock: socket.socket, options: Options, stop: int) -> None:
    """Serve an accepted connection to its end.

    Each connection has its own control connection to prld: ending that one without a word is how
    the death of one session's program is told from that of others (SPEC R19).

    Args:
        sock: the accepted socket; closed on return.
        options: the program, and limits.
        stop: becomes readable when serving stops.
    """
    who = _name(sock)
    with sock, ExitStack() as at_end:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session = _protect(sock, who, options, at_end)
            with Command(options.argv, who) as command:
                # Without Session.close before the control connection ends, this is the death of
                # the session's application: the other node goes on with it if it can.
                _serve(sock, command, session, who, options, stop)
        except OSError as error:
            _log.warning("%s: %s", who, tcp.why_ended(error))
        except PrlError as error:
            _log.warning("%s: %s", who, error)


def _serve(
    sock: socket.socket,
    command: Command,
    session: Session | None,
    who: str,
    options: Options,
    stop: int,
) -> None:
    sock.setblocking(False)
    history = History(options.history_bytes)
    watchers: Watchers = {stop: lambda: True}
    if session is not None:
        protection = Protection(session, history, who)
        watchers = {stop: lambda: True, protection.descriptor: protection.step}
    try:
        inbound = Inbound(sock.fileno(), command, history)
        status = converse(command, inbound, DirectOutbound(command, sock), watchers)
        is_taken = status != 0 or tcp.finish(sock)
    except OSError as error:
        _end_broken(session, who, error)
        return
    if status == 0:
        if not is_taken:
            _log.warning("%s: the peer does not take the rest of the output", who)
        if session is not None:
            session.close()
        _log.info("%s: ended", who)
    elif status is None:
        if session is None or session.state != "demoted":
            _log.warning("%s: given up, as serving stops", who)
    else:
        is_safe = session is not None and session.state == "active"
        fate = "the other node goes on if it can" if is_safe else "the session ends"
        _log.error("%s: the program %s: %s", who, describe_status(status), fate)


def _end_broken(session: Session | None, who: str, error: OSError) -> None:
    if session is not None:
        with suppress(TimeoutError):  # prld's word can come a little after the socket's
            session.wait_state("lost", *OVER, timeout=_WORD_TIMEOUT_S)
        if session.state == "demoted":
            _log.warning("%s: the other node has the session now", who)
            return
        session.close()
    _log.warning("%s: %s", who, tcp.why_ended(error))


def _protect(sock: socket.socket, who: str, options: Options, at_end: ExitStack) -> Session | None:
    try:
        node = at_end.enter_context(Node(options.socket_path))
        return node.replicate(sock, input_history.pack(b""), renew=True)
    except NotProtectedError as error:
        session: Session = error.session  # prld tries again; Protection tells how that goes
        return session
    except PrlError as error:
        _log.warning("%s: served without protection: %s", who, error)
        return None


def _name(sock: socket.socket) -> str:
    with suppress(OSError):
        address = sock.getpeername()
        return f"connection from {show_endpoint(ip_address(address[0]), address[1])}"
    return "connection that ended at once"
