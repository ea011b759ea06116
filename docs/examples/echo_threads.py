"""An echo server whose sessions outlive its host, with threads: ``echo_threads.py ADDRESS:PORT``.

The same line on both nodes. The node that owns the address accepts connections and has each
protected before it reads a byte. The other one gets their shadows, reads the same input from them,
and remembers the output that it would have sent until the peer has acknowledged it. Told that a
session is its own, it goes on at exactly the byte that it is told.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Callable

from prl import tcp
from prl.client import Node, NotProtectedError, Shadow, ShadowVoid
from prl.endpoint import Endpoint
from prl.errors import PrlError

HELD_MAX_BYTES = 4 << 20
READ_BYTES = 64 << 10


def tell(event: str, **facts: object) -> None:
    """One line of JSON on standard output."""
    os.write(sys.stdout.fileno(), (json.dumps({"event": event, **facts}) + "\n").encode())


class Output:
    """What is to be sent, from byte ``start`` on; one thread appends, another one sends."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = bytearray()
        self._start = 0
        self._done = 0
        self._ended = False

    def append(self, data: bytes) -> None:
        """Take in what was read, nothing being the end; waits while too much is held."""
        with self._changed:
            self._held += data
            self._ended = not data
            self._drop()
            self._changed.wait_for(lambda: len(self._held) < HELD_MAX_BYTES)

    def done(self, offset: int) -> None:
        """Output before ``offset`` will never be asked for: somebody has sent it."""
        with self._changed:
            self._done = max(self._done, offset)
            self._drop()

    def _drop(self) -> None:
        count = min(len(self._held), max(0, self._done - self._start))
        del self._held[:count]
        self._start += count
        self._changed.notify_all()

    def speak(self, sock: socket.socket) -> None:
        """Send everything, to the end of the input."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held or self._ended)
                start, data = self._start, bytes(self._held[:READ_BYTES])
            if not data:
                return
            self.done(start + sock.send(data))


def read_all(receive: Callable[[int], bytes], output: Output, acked: Callable[[], int]) -> None:
    """Read to the end; an echo's input is its output."""
    data = b"?"
    while data:
        try:
            data = receive(READ_BYTES)
            output.done(acked())
        except (OSError, ShadowVoid):  # whoever speaks, or awaits the take-over, is told why
            data = b""
        output.append(data)


def own(sock: socket.socket, node: Node) -> None:
    """Serve a connection of this node's."""
    peer = sock.getpeername()[1]
    session = None
    try:
        session = node.replicate(sock)
        tell("protected", peer=peer)
    except NotProtectedError as error:  # prld tries again: error.session would tell
        session = error.session
        tell("unprotected", peer=peer, reason=str(error))
    except PrlError as error:
        tell("unprotected", peer=peer, reason=str(error))
    output = Output()
    reader = threading.Thread(target=read_all, args=(sock.recv, output, lambda: 0), daemon=True)
    reader.start()
    try:
        output.speak(sock)
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:  # also when the session is demoted: the other node has it
        tell("broken", peer=peer, reason=str(error))
    else:
        if session is not None:
            session.close()
        tell("end", peer=peer)
    sock.close()


def stand_by(shadow: Shadow) -> None:
    """Follow a session of the other node's; serve it once it is ours."""
    peer = int(shadow.remote.rpartition(":")[2])
    tell("standby", peer=peer)
    output, before = Output(), tcp.bytes_acked(shadow.sock)

    def acked() -> int:
        return 0 if shadow.owned else tcp.bytes_acked(shadow.sock) - before

    threading.Thread(target=read_all, args=(shadow.recv, output, acked), daemon=True).start()
    try:
        taken = shadow.wait_taken_over()
        tell("taken_over", peer=peer, bytes=taken.out_bytes)
        output.done(taken.out_bytes)
        output.speak(shadow.sock)
        shadow.sock.shutdown(socket.SHUT_WR)
        tell("end", peer=peer)
    except (OSError, PrlError) as error:
        tell("void", peer=peer, reason=str(error))
    shadow.close()


def accept(listener: socket.socket, node: Node) -> None:
    """Serve every connection in a thread."""
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=own, args=(sock, node), daemon=True).start()


def main() -> int:
    """Serve until prld is gone."""
    endpoint = Endpoint.parse(sys.argv[1])
    with Node() as node, endpoint.listen(64) as listener:
        threading.Thread(target=accept, args=(listener, node), daemon=True).start()
        node.offer(str(endpoint))
        tell("listening")
        for shadow in node.shadows():
            threading.Thread(target=stand_by, args=(shadow,), daemon=True).start()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PrlError as error:
        sys.exit(f"echo: {error}")
