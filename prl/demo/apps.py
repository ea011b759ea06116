"""The applications of the demo: ``python -m prl.demo.apps KIND``, the same line on both nodes.

Small programs on the public API. Each serves one session: as its owner, when the peer connects to
this node, or from a shadow, when it connects to the other one. One line of JSON on standard output
tells each thing that happens.
"""

import argparse
import contextlib
import json
import os
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prl.client import Node, NotProtectedError, Session, Shadow, ShadowVoid, tcp
from prl.control.protocol import OVER
from prl.demo.payload import Payload
from prl.demo.progress import Progress
from prl.demo.roles import Echo, Role, Sink, Source
from prl.endpoint import Endpoint
from prl.errors import PrlError
from prl.lab import stretch

KINDS = ("sink", "source", "echo")
BACKLOG = 8
_READ_BYTES = 1 << 20
_WORD_TIMEOUT_S = 1.0
_PROTECT_TIMEOUT_S = 10.0
_PACE_S = 0.002
_TRIM_EVERY_BYTES = 1 << 20


def tell(event: str, **facts: Any) -> None:
    """One line of JSON on standard output."""
    os.write(sys.stdout.fileno(), (json.dumps({"event": event, **facts}) + "\n").encode())


class Application:
    """One session of one role, heard or not."""

    def __init__(self, role: Role, progress: Progress, mark_bytes: int) -> None:
        self._role = role
        self._progress = progress
        self._mark_bytes = mark_bytes
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._input_has_ended = False
        self._is_marked = False
        self._taken_bytes = 0

    def own(self, sock: socket.socket, node: Node) -> None:
        """Serve an accepted connection, protected if that can be had."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = _protect(sock, node)
        sock.setblocking(False)
        while not self._role.is_done():
            self._wait(sock, speaks=True)
            self._note()
        tcp.finish(sock)
        if session is not None:
            session.close()
        self._end()

    def stand_by(self, shadow: Shadow) -> None:
        """Follow a shadow; go on with the session if it is taken over."""
        sock = shadow.sock
        sock.setblocking(False)
        acked_before = tcp.bytes_acked(sock)
        trimmed = 0
        while not shadow.over:
            self._wait(sock, speaks=False, also=shadow.descriptor)
            shadow.clear()
            if self._taken_bytes - trimmed >= _TRIM_EVERY_BYTES:
                trimmed = self._taken_bytes
                self._role.acknowledged(tcp.bytes_acked(sock) - acked_before)
        if shadow.takeover is None:
            tell("void", reason=shadow.reason)
            return
        self._role.go_on_at(shadow.takeover.out_bytes)
        tell("taken_over", out_bytes=shadow.takeover.out_bytes)
        while not self._role.is_done():
            self._wait(sock, speaks=True)
        tcp.finish(sock)
        shadow.close()
        self._end()

    def _wait(self, sock: socket.socket, *, speaks: bool, also: int | None = None) -> None:
        """One round of input and output, or until ``also`` is readable."""
        events = 0 if self._input_has_ended else select.POLLIN
        if speaks and len(self._role.due()):
            events |= select.POLLOUT
        poller = select.poll()
        if events:
            poller.register(sock, events)
        if also is not None:
            poller.register(also, select.POLLIN)
        found = dict(poller.poll()).get(sock.fileno(), 0)
        if found and not self._input_has_ended:
            self._read(sock)
        if found and speaks:
            self._write(sock)

    def _read(self, sock: socket.socket) -> None:
        try:
            count = sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        if count:
            self._taken_bytes += count
            self._role.take(self._buffer[:count])
        else:
            self._input_has_ended = True
            self._role.input_ended()

    def _write(self, sock: socket.socket) -> None:
        data = self._role.due()
        if len(data):
            try:
                self._role.sent(sock.send(data))
            except BlockingIOError:
                return

    def _note(self) -> None:
        count, digest = self._role.reached()
        self._progress.note(count, digest)
        if self._mark_bytes and count >= self._mark_bytes:
            if not self._is_marked:
                self._is_marked = True
                tell("mark", bytes=count)
            time.sleep(_PACE_S)  # lest all is over before the failure that the mark calls for

    def _end(self) -> None:
        count, digest = self._role.reached()
        tell("end", bytes=count, sha256=digest.hex(), pauses=self._role.pauses.spans())


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one session, then end."""
    parser = argparse.ArgumentParser(prog="prl.demo.apps", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--listen", type=Endpoint.parse, required=True)
    parser.add_argument("--size", type=int, default=0, help="bytes that a source writes")
    parser.add_argument("--mark", type=int, default=0, help="tell when so many bytes have passed")
    parser.add_argument("--progress", type=Path, required=True)
    parser.add_argument("--socket", help="prld's control socket")
    options = parser.parse_args(argv)
    roles: dict[str, Callable[[], Role]] = {
        "sink": Sink,
        "echo": Echo,
        "source": lambda: Source(Payload(options.size)),
    }
    application = Application(roles[options.kind](), Progress(options.progress), options.mark)
    try:
        return _serve(application, options.listen, options.socket)
    except PrlError as error:
        sys.stderr.write(f"{options.kind}: {error}\n")
        return error.exit_code


def _protect(sock: socket.socket, node: Node) -> Session | None:
    """Have the session protected before anything is read; on a busy host that takes some tries."""
    try:
        try:
            session = node.replicate(sock)
        except NotProtectedError as error:
            session = error.session
            with contextlib.suppress(TimeoutError):
                session.wait_state("active", *OVER, timeout=_PROTECT_TIMEOUT_S * stretch.factor())
    except PrlError as error:
        tell("unprotected", reason=str(error))
        return None
    if session.state == "active":
        tell("protected", handle=session.handle)
    else:
        tell("unprotected", reason=session.reason or session.state)
    return session


def _serve(application: Application, endpoint: Endpoint, socket_path: str | None) -> int:
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except (OSError, PrlError) as error:
                tell("lost", reason=str(error))
            ended.put("")

        return run

    with endpoint.listen(BACKLOG) as listener:
        node = Node(socket_path)
        node.offer(str(endpoint))
        threads = (
            guarded(lambda: application.own(listener.accept()[0], node)),
            guarded(lambda: _stand_by(application, node)),
        )
        for work in threads:
            threading.Thread(target=work, daemon=True).start()
        tell("listening")
        ended.get()
    return 0


def _stand_by(application: Application, node: Node) -> None:
    shadow = node.next_shadow()
    tell("standby", remote=str(shadow.remote))
    try:
        application.stand_by(shadow)
    except OSError:  # the socket of a void shadow dies before the word of it comes
        with contextlib.suppress(TimeoutError, ShadowVoid):
            shadow.wait_taken_over(_WORD_TIMEOUT_S)
        if shadow.void_reason is None:
            raise
        tell("void", reason=shadow.reason)


if __name__ == "__main__":
    sys.exit(main())
