"""The switchover demo's application: ``python -m prl.demo.traveller KIND`` on both nodes.

One session, moved back and forth: it is served while this node has it, and followed while the
other one does. ``sink`` compares every byte that it reads with the payload; ``source`` writes the
payload until the file ``--until`` exists. One line of JSON on standard output tells each thing that
happens.
"""

import argparse
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prl.client import Node, NotProtectedError, Session, Shadow, tcp
from prl.control.protocol import OVER
from prl.demo.apps import tell
from prl.demo.pauses import Gaps
from prl.demo.payload import BLOCK_BYTES, Payload
from prl.endpoint import Endpoint
from prl.errors import PrlError
from prl.lab import stretch

_RATE_BYTES_PER_S = 125_000_000
ENDLESS_BYTES = 1 << 50
_READ_BYTES = 1 << 18
_SEND_BYTES = 1 << 17


def rate_bytes_per_s() -> float:
    """A source writes no faster: 1 Gb/s, less on an emulated machine.

    Faster, TCP's own losses in the lab hide what moves cause.
    """
    return _RATE_BYTES_PER_S / stretch.factor()


class Pace:
    """Keeps a writer to that rate."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._rate = rate_bytes_per_s()

    def wait(self, count: int) -> None:
        """``count`` bytes were written."""
        now_s = time.monotonic()
        self._next_s = max(self._next_s, now_s - 0.01) + count / self._rate
        if self._next_s > now_s:
            time.sleep(self._next_s - now_s)


class Traveller:
    """What this node knows of the session."""

    def __init__(self, kind: str, until: Path) -> None:
        self._is_sink = kind == "sink"
        self._until = until
        self._payload = Payload(ENDLESS_BYTES)
        self._pace = Pace()
        self.gaps = Gaps()
        self.at = 0
        """Offset of the next byte: of the input (sink), of the output (source)."""
        self.wrong_at: int | None = None
        self._ended = False

    def own(self, sock: socket.socket, session: Session) -> None:
        """Serve it for as long as it is here."""
        told = ""
        while session.state not in {*OVER, "lost"} and not self._ended:
            session.clear()
            if session.state != told:
                told = session.state
                tell(told, reason=session.reason)
            self._turn(sock, session.descriptor, speaks=True)
        if self._ended:
            tcp.finish(sock)
            session.close()
            tell("end", bytes=self.at, wrong_at=self.wrong_at, gaps=self.gaps.spans)

    def stand_by(self, shadow: Shadow) -> None:
        """Follow it; serve it when it moves here."""
        self._ended = False
        self.at = shadow.in_bytes if self._is_sink else shadow.out_bytes
        tell("standby", at=self.at)
        while shadow.takeover is None and shadow.void_reason is None:
            shadow.clear()
            self._turn(shadow.sock, shadow.descriptor, speaks=False)
        if shadow.takeover is None:
            tell("void", reason=shadow.void_reason, bytes=self.at, wrong_at=self.wrong_at)
            shadow.close()
            return
        if not self._is_sink:
            self.at = shadow.takeover.out_bytes
        tell("taken_over", at=self.at)
        self.own(shadow.sock, shadow.session)

    def _turn(self, sock: socket.socket, also: int, *, speaks: bool) -> None:
        poller = select.poll()
        poller.register(also, select.POLLIN)
        if self._is_sink and not self._ended:
            poller.register(sock, select.POLLIN)
        elif speaks and not self._is_sink:
            poller.register(sock, select.POLLOUT)
        ready = dict(poller.poll())
        if not ready.get(sock.fileno(), 0):
            return
        try:
            if self._is_sink:
                self._read(sock)
            else:
                self._write(sock)
        except BlockingIOError:
            pass
        except OSError:  # ended here: the session is the other node's now
            time.sleep(0.001)

    def _read(self, sock: socket.socket) -> None:
        data = memoryview(sock.recv(_READ_BYTES, socket.MSG_DONTWAIT))
        if not data:
            self._ended = True
            return
        self.gaps.note()
        while data:
            part = self._payload.at(self.at, min(len(data), BLOCK_BYTES))
            if data[: len(part)] != part and self.wrong_at is None:
                self.wrong_at = self.at
            self.at += len(part)
            data = data[len(part) :]

    def _write(self, sock: socket.socket) -> None:
        if self._until.exists():
            self._ended = True
            return
        count = sock.send(self._payload.at(self.at, _SEND_BYTES), socket.MSG_DONTWAIT)
        self.at += count
        self._pace.wait(count)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one session, here and there, then end."""
    parser = argparse.ArgumentParser(prog="prl.demo.traveller", description=__doc__)
    parser.add_argument("kind", choices=("sink", "source"))
    parser.add_argument("--listen", type=Endpoint.parse, required=True)
    parser.add_argument("--until", type=Path, required=True)
    options = parser.parse_args(argv)
    traveller = Traveller(options.kind, options.until)
    with options.listen.listen(1) as listener:
        node = Node()

        def accept() -> None:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                session = node.replicate(sock)
            except NotProtectedError as error:
                session = error.session
            traveller.own(sock, session)

        threading.Thread(target=_guarded, args=(accept,), daemon=True).start()
        node.offer(str(options.listen))
        tell("listening")
        try:
            for shadow in node.shadows():
                traveller.stand_by(shadow)
        except (OSError, PrlError) as error:
            tell("lost", reason=str(error))
            return 1
    return 0


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except (OSError, PrlError) as error:
        tell("lost", reason=str(error))


if __name__ == "__main__":
    sys.exit(main())
