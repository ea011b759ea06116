"""An echo server that goes from failure to failure: ``python healing_app.py --listen ADDR:PORT``.

One text for both roles: it serves what connects, and follows what the other node serves. Whoever
joins in mid-stream gets what was read and is not yet written (Session.renew).
"""

import argparse
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from prl.client import Node, NotProtectedError, Session, Shadow
from prl.control.protocol import OVER
from prl.endpoint import Endpoint
from prl.errors import NoDaemonError, PrlError

READ_BYTES = 1 << 16

_telling = threading.Lock()


def tell(event: str, **facts: Any) -> None:
    with _telling:
        os.write(sys.stdout.fileno(), (json.dumps({"event": event, **facts}) + "\n").encode())


class Echo:
    """One session; ``unsaid`` is what was read and is not written yet."""

    def __init__(self, sock: socket.socket, peer: int, unsaid: bytes = b"") -> None:
        self.sock = sock
        self.peer = peer
        self.unsaid = bytearray(unsaid)
        self.ended = False

    def own(self, session: Session) -> None:
        """Serve it until it is over."""
        told = ""
        while True:
            session.clear()  # before it is looked at: what is said from here on ends the wait
            if session.state in OVER or (self.ended and not self.unsaid):
                break
            if session.protectable:
                session.renew(bytes(self.unsaid))
            if session.state != told:
                told = session.state
                tell(told, peer=self.peer, reason=session.reason)
            self._turn(session.descriptor, speaks=True)
        if session.state not in OVER:
            session.close()
            self.sock.close()
        tell("over", peer=self.peer, state=session.state)

    def stand_by(self, shadow: Shadow) -> None:
        """Follow it; serve it when it is taken over."""
        said = shadow.out_bytes
        while True:
            shadow.clear()  # likewise
            if shadow.takeover is not None or shadow.void_reason is not None:
                break
            self._turn(shadow.descriptor, speaks=False)
        if shadow.takeover is None:
            tell("void", peer=self.peer, reason=shadow.void_reason)
            shadow.close()
            return
        tell("taken_over", peer=self.peer, out_bytes=shadow.takeover.out_bytes)
        while not self.ended and len(self.unsaid) < shadow.takeover.out_bytes - said:
            self._turn(-1, speaks=False)  # the other one was ahead of us
        del self.unsaid[: shadow.takeover.out_bytes - said]
        self.own(shadow.session)

    def _turn(self, also: int, *, speaks: bool) -> None:
        poller = select.poll()
        wanted = 0 if self.ended else select.POLLIN
        wanted |= select.POLLOUT if speaks and self.unsaid else 0
        if wanted:
            poller.register(self.sock, wanted)
        if also >= 0:
            poller.register(also, select.POLLIN)
        ready = dict(poller.poll()).get(self.sock.fileno(), 0)
        try:
            if ready & ~select.POLLOUT:
                data = self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
                self.unsaid += data
                self.ended = not data
            if ready & select.POLLOUT and speaks and self.unsaid:
                del self.unsaid[: self.sock.send(self.unsaid, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
            self.unsaid.clear()


def accept(listener: socket.socket, node: Node) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, node), daemon=True).start()


def serve(sock: socket.socket, node: Node) -> None:
    session: Session | None = None
    try:
        session = node.replicate(sock, renew=True)
    except NotProtectedError as error:
        session = error.session
    except NoDaemonError:  # nobody would protect it, later either
        sock.close()
    if session is not None:
        Echo(sock, sock.getpeername()[1]).own(session)


def start(work: Callable[..., None], *args: object) -> None:
    def run() -> None:
        try:
            work(*args)
        except (PrlError, OSError) as error:
            tell("failed", error=repr(error))

    threading.Thread(target=run, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=Endpoint.parse, required=True)
    options = parser.parse_args()
    node = Node()
    listener = options.listen.listen(128)
    start(accept, listener, node)
    node.offer(str(options.listen))
    tell("listening")
    for shadow in node.shadows():
        peer = int(shadow.remote.rpartition(":")[2])  # a void one's socket has no peer
        tell("standby", peer=peer, in_bytes=shadow.in_bytes)
        start(Echo(shadow.sock, peer, shadow.application).stand_by, shadow)


if __name__ == "__main__":
    main()
