"""An echo server whose sessions outlive its host, with threads: ``echo_threads.py ADDRESS:PORT``.

The same as echo_asyncio.py, which says what happens on which node. A thread has a session; it polls
the socket and, beside it, the descriptor that tells of prld's word.
"""

import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable

from prl.client import Node, NotProtectedError, Session, Shadow, tcp
from prl.endpoint import Endpoint
from prl.errors import PrlError

UNSAID_MAX_BYTES = 512 << 10  # it must fit into the application bytes: 1 MiB
READ_BYTES = 64 << 10
OVER = frozenset({"demoted", "ended", "closed"})


def tell(event: str, **facts: object) -> None:
    """One line of JSON on standard output."""
    os.write(sys.stdout.fileno(), (json.dumps({"event": event, **facts}) + "\n").encode())


class Talk:
    """One session; ``unsaid`` is what was read and is not said yet, from byte ``start`` on."""

    def __init__(self, sock: socket.socket, peer: int, unsaid: bytes = b"", start: int = 0) -> None:
        self.sock = sock
        self.peer = peer
        self.unsaid = bytearray(unsaid)
        self.start = self.done = start
        self.input_ended = False
        self.broken = ""

    def own(self, session: Session) -> None:
        """Serve it until it is over."""
        told = ""
        while True:
            session.clear()  # before it is looked at: what is said from here on ends the wait
            if session.state in OVER or self.broken:
                break
            if session.protectable:  # nothing is read or written meanwhile: there is one thread
                session.renew(bytes(self.unsaid))
            if session.state != told:
                told = session.state
                tell("protected" if told == "active" else told, peer=self.peer)
            if self.input_ended and not self.unsaid:
                self.sock.shutdown(socket.SHUT_WR)
                session.close()
                break
            self._turn(session.descriptor, speaks=True)
        self.sock.close()
        tell("end", peer=self.peer, reason=self.broken or session.state)

    def stand_by(self, shadow: Shadow) -> None:
        """Follow it; serve it when it is taken over."""
        tell("standby", peer=self.peer)
        before = tcp.bytes_acked(self.sock)
        while True:
            shadow.clear()  # likewise
            if shadow.takeover is not None or shadow.void_reason is not None:
                break
            self._turn(shadow.descriptor, speaks=False)
            if not self.broken:  # what the peer has acknowledged need not be remembered
                self.said_until(shadow.out_bytes + tcp.bytes_acked(self.sock) - before)
        if shadow.takeover is None:
            tell("void", peer=self.peer, reason=shadow.void_reason)
            shadow.close()
            return
        tell("taken_over", peer=self.peer, bytes=shadow.takeover.out_bytes)
        self.said_until(shadow.takeover.out_bytes)
        self.own(shadow.session)

    def said_until(self, offset: int) -> None:
        """Output before ``offset`` will never be asked for: somebody has said it."""
        self.done = max(self.done, offset)
        count = min(len(self.unsaid), self.done - self.start)
        del self.unsaid[:count]
        self.start += count

    def _turn(self, also: int, *, speaks: bool) -> None:
        """Wait for the socket or prld's word; read and write what can be."""
        poller = select.poll()
        poller.register(also, select.POLLIN)
        is_full = len(self.unsaid) >= UNSAID_MAX_BYTES
        wanted = 0 if self.input_ended or is_full or self.broken else select.POLLIN
        wanted |= select.POLLOUT if speaks and self.unsaid else 0
        if wanted:
            poller.register(self.sock, wanted)
        # A standby that remembers too much looks now and then what has been acknowledged.
        ready = dict(poller.poll(20 if is_full and not speaks else None))
        try:
            if wanted & select.POLLIN and ready.get(self.sock.fileno(), 0) & ~select.POLLOUT:
                data = self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
                self.unsaid += data  # an echo: the input is the output
                self.input_ended = not data
                self.said_until(self.done)
            if wanted & select.POLLOUT and ready.get(self.sock.fileno(), 0) and self.unsaid:
                sent = self.sock.send(self.unsaid[:READ_BYTES], socket.MSG_DONTWAIT)
                self.said_until(self.start + sent)
        except BlockingIOError:
            pass
        except OSError as error:  # prld's word about it comes a moment later
            self.broken = str(error)


def serve(sock: socket.socket, node: Node) -> None:
    """Serve a connection of this node's."""
    talk = Talk(sock, sock.getpeername()[1])
    try:
        session: Session | None = node.replicate(sock, renew=True)
    except NotProtectedError as error:  # prld asks for the state when it can be
        session = error.session
    if session is not None:
        talk.own(session)


def accept(listener: socket.socket, node: Node) -> None:
    """Serve every connection in a thread."""
    while True:
        sock, _ = listener.accept()
        start(serve, sock, node)


def start(work: Callable[..., None], *args: object) -> None:
    """Do it in a thread."""

    def run() -> None:
        try:
            work(*args)
        except (PrlError, OSError) as error:
            tell("failed", reason=str(error))

    threading.Thread(target=run, daemon=True).start()


def main() -> None:
    """Serve until it is ended; prld may come and go."""
    endpoint = Endpoint.parse(sys.argv[1])
    with Node() as node, endpoint.listen(64) as listener:
        start(accept, listener, node)
        node.offer(str(endpoint))
        tell("listening")
        for shadow in node.shadows():
            peer = int(shadow.remote.rpartition(":")[2])  # a void one's socket has no peer
            talk = Talk(shadow.sock, peer, shadow.application, shadow.out_bytes)
            start(talk.stand_by, shadow)


if __name__ == "__main__":
    try:
        main()
    except PrlError as error:
        sys.exit(f"echo: {error}")
