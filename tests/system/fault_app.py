"""A server on prl.client for the fault tests: ``python fault_app.py KIND --listen ADDR:PORT``.

The same line on both nodes; it serves any number of sessions. One line of JSON on standard output
tells each thing that happens, with the peer's port as ``peer``.
"""

import argparse
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prl.client import Node, NotProtectedError, Session, Shadow, ShadowVoid
from prl.control.protocol import OVER
from prl.demo.payload import Payload
from prl.endpoint import Endpoint
from prl.errors import PrlError

SESSION_STATES = ("active", "setup", "voiding", "open", "lost", *OVER)
PROGRESS_EVERY_BYTES = 1 << 20
READ_BYTES = 1 << 18

_telling = threading.Lock()


def tell(event: str, **facts: Any) -> None:
    line = json.dumps({"event": event, "at_ns": time.monotonic_ns(), **facts}) + "\n"
    with _telling:
        os.write(sys.stdout.fileno(), line.encode())


class Input:
    """What the peer sent, read by a thread of its own."""

    def __init__(self, peer: int, receive: Callable[[int], bytes], began: int = 0) -> None:
        self._peer, self._receive, self.began = peer, receive, began
        self._changed = threading.Condition()
        self._hash = hashlib.sha256()
        self.data = bytearray()
        self.ended = False
        self.error = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        told = 0
        while not self.ended:
            error, chunk = "", b""
            try:
                chunk = self._receive(READ_BYTES)
            except ShadowVoid as void:
                error = f"void: {void}"
            except OSError as failure:
                error = failure.strerror or str(failure)
            with self._changed:
                self.data += chunk
                self._hash.update(chunk)
                self.error = error
                self.ended = not chunk
                self._changed.notify_all()
            if self.ended or len(self.data) - told >= PROGRESS_EVERY_BYTES:
                told = len(self.data)
                facts = {"began": self.began, "bytes": told, "sha256": self._hash.hexdigest()}
                tell("read", peer=self._peer, **facts)

    def wait_beyond(self, count: int) -> bool:
        """Wait until more than ``count`` bytes are there; False when there will not be more."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or len(self.data) > count)
            return len(self.data) > count

    def sha256(self) -> str:
        return self._hash.hexdigest()


class Service:
    """What the server does with one session: ``kind`` is sink, source, echo or obey."""

    def __init__(self, kind: str, size_bytes: int) -> None:
        self._kind, self._size_bytes = kind, size_bytes

    def play(
        self,
        peer: int,
        sock: socket.socket,
        inside: Input,
        end: Callable[[], None],
        at: int = 0,
        joined: tuple[int, int] = (0, 0),
    ) -> None:
        """Speak from output byte ``at`` on, until the session is over.

        ``joined``: how much input and output there was before ``inside`` begins.
        """
        self._in_before, self._out_before = joined
        try:
            at += getattr(self, f"_{self._kind}")(sock, inside, end, at)
            while inside.wait_beyond(len(inside.data)):
                pass
        except OSError as error:
            inside.error = inside.error or error.strerror or str(error)
        facts = {"began": inside.began, "bytes": len(inside.data), "sha256": inside.sha256()}
        tell("end", peer=peer, written=at, error=inside.error, **facts)
        if not inside.error:
            end()

    def _sink(self, _sock: socket.socket, inside: Input, _end: Callable[[], None], _at: int) -> int:
        while inside.wait_beyond(len(inside.data)):
            pass
        return 0

    def _source(self, sock: socket.socket, _in: Input, _end: Callable[[], None], at: int) -> int:
        payload = Payload(self._size_bytes)
        began = at
        while data := payload.at(at, READ_BYTES):
            at += sock.send(data)
        sock.shutdown(socket.SHUT_WR)
        return at - began

    def _echo(self, sock: socket.socket, inside: Input, _end: Callable[[], None], at: int) -> int:
        began, before = at, self._in_before
        while inside.wait_beyond(at - before):
            at += sock.send(bytes(inside.data[at - before : at - before + READ_BYTES]))
        if not inside.error:
            sock.shutdown(socket.SHUT_WR)
        return at - began

    def _obey(self, sock: socket.socket, inside: Input, end: Callable[[], None], at: int) -> int:
        """Lines from the peer: ``say X`` is answered with X, ``half`` and ``close`` done."""
        began, line_at, said = at, 0, self._out_before
        while inside.wait_beyond(line_at):
            newline = inside.data.find(b"\n", line_at)
            if newline < 0:
                continue
            word, _, rest = inside.data[line_at:newline].decode().partition(" ")
            line_at = newline + 1
            if word == "say":
                answer = rest.encode() + b"\n"
                skip = max(0, min(len(answer), began - said))
                said += len(answer)
                if skip < len(answer):  # the predecessor may have ended this direction since
                    sock.sendall(answer[skip:])
                at += len(answer) - skip
            elif word == "half":
                with suppress(OSError):  # the predecessor did, and the peer has ended its own since
                    sock.shutdown(socket.SHUT_WR)
            elif word == "close":
                end()
        return at - began


def accept(listener: socket.socket, node: Node, service: Callable[[], Service]) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=own, args=(sock, node, service()), daemon=True).start()


def own(sock: socket.socket, node: Node, service: Service) -> None:
    peer = sock.getpeername()[1]
    session: Session | None = None
    try:
        session = node.replicate(sock)  # follow() tells that it is active
    except NotProtectedError as error:
        session = error.session
        tell("unprotected", peer=peer, reason=str(error))
    except PrlError as error:
        tell("unprotected", peer=peer, reason=str(error))
    if session is not None:
        threading.Thread(target=follow, args=(peer, session), daemon=True).start()

    def end() -> None:
        if session is not None:
            session.close()
        sock.close()

    service.play(peer, sock, Input(peer, sock.recv), end)


def follow(peer: int, session: Session, event: str = "protected") -> None:
    state = "setup"
    while state not in OVER:
        state = session.wait_state(*(set(SESSION_STATES) - {state}))
        if state == "active" and event == "protected":
            tell(event, peer=peer, handle=session.handle)
            event = "state"
        else:
            tell("state", peer=peer, state=state, reason=session.reason)


def stand_by(shadow: Shadow, service: Service) -> None:
    peer = int(shadow.remote.rpartition(":")[2])
    tell("standby", peer=peer, handle=shadow.handle, in_bytes=shadow.in_bytes)
    inside = Input(peer, shadow.recv, shadow.in_bytes)
    try:
        taken = shadow.wait_taken_over()
    except ShadowVoid as void:
        tell("void", peer=peer, reason=str(void), bytes=len(inside.data), sha256=inside.sha256())
        return
    tell("taken_over", peer=peer, out_bytes=taken.out_bytes, monotonic_ns=taken.monotonic_ns)
    threading.Thread(target=follow, args=(peer, shadow.session, "state"), daemon=True).start()
    joined = (shadow.in_bytes, shadow.out_bytes)
    service.play(peer, shadow.sock, inside, shadow.close, taken.out_bytes, joined)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("sink", "source", "echo", "obey"))
    parser.add_argument("--listen", type=Endpoint.parse, required=True)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--device", default="", help="bind to it")
    parser.add_argument("--instance", default="", help="behind the endpoint that is offered")
    options = parser.parse_args()

    def service() -> Service:
        return Service(options.kind, options.size)

    with Node() as node:
        listener = options.listen.listen(8, options.device)
        threading.Thread(target=accept, args=(listener, node, service), daemon=True).start()
        node.offer(f"{options.listen}{options.instance}")
        tell("listening")
        for shadow in node.shadows():
            threading.Thread(target=stand_by, args=(shadow, service()), daemon=True).start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
