"""The serving end of a bench: ``python -m prl.bench.server ROLE --listen ADDR:PORT``.

Accepts, protects and takes over; the bytes are moved by ``prl-load server``, which is given every
socket. A line on standard input is an order, a line of JSON on standard output an answer or event:

    protect     replicate every accepted connection that is not; answered when all are done
    count       what went through
    snapshot F  write a snapshot of the oldest connection to the file F
    shadow F    read (and only read) a socket restored from the snapshot in F
"""

import argparse
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prl.bench.programs import program
from prl.client import Node, NotProtectedError
from prl.client.aio import AsyncNode, AsyncShadow
from prl.endpoint import Endpoint
from prl.errors import PrlError
from prl.lab import stretch
from prl.shadow import restore, snapshot, take

ROLES = ("echo", "sink", "source", "push")
BACKLOG = 16384
AT_ONCE = 48
"""Requests under way; prld takes 64 of one connection."""
SHADOW_BUFFER_BYTES = 16 << 20
RETRY_S = 20.0
"""How long a session that was not protected at once may take until it is."""
REASONS_MAX = 5
_THREAD_STACK_BYTES = 256 << 10
_ORDER = struct.Struct("=IIIIQ")  # struct order in userspace/bench/load.c
_COUNT = struct.Struct("=QQQQ")
_ADD, _ADD_SHADOW, _OWN, _COUNTS = 1, 2, 3, 4


class Mover:
    """The ``prl-load server`` that moves the bytes. Safe to be used by several threads."""

    def __init__(self, role: int) -> None:
        self._role = role
        self._lock = threading.Lock()
        self._given = 0
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            command = [program("load"), "server", str(number)]
            self.process = subprocess.Popen(command, pass_fds=[number])

    def add(self, descriptor: int, *, shadow: bool) -> int:
        """Give it a socket; returns the number by which it is called from then on."""
        with self._lock:
            order = _ORDER.pack(_ADD_SHADOW if shadow else _ADD, self._role, 0, 0, 0)
            socket.send_fds(self._control, [order], [descriptor])
            self._given += 1
            return self._given - 1

    def own(self, number: int, out_bytes: int) -> None:
        """A shadow is ours: output goes on behind ``out_bytes``."""
        with self._lock:
            self._control.send(_ORDER.pack(_OWN, self._role, number, 0, out_bytes))

    def count(self) -> dict[str, int]:
        """What went through all sockets."""
        with self._lock:
            self._control.send(_ORDER.pack(_COUNTS, 0, 0, 0, 0))
            found = _COUNT.unpack(self._control.recv(_COUNT.size))
        return dict(zip(("sessions", "in_bytes", "out_bytes", "ended"), found, strict=True))


class Server:
    """Connections of one endpoint, ours and shadows."""

    def __init__(
        self,
        endpoint: Endpoint,
        mover: Mover,
        node: Node | None,
        *,
        listens: bool,
        at_once: bool = False,
    ) -> None:
        self._endpoint, self._mover, self._node = endpoint, mover, node
        self._listens = listens
        self._at_once = ThreadPoolExecutor(AT_ONCE) if at_once else None
        self._unprotected: list[socket.socket] = []
        self._changed = threading.Condition()
        self._telling = threading.Lock()
        self._shadows = 0
        self._retried = 0

    def tell(self, event: str, **facts: Any) -> None:
        """One line of JSON on standard output."""
        with self._telling:
            os.write(sys.stdout.fileno(), (json.dumps({"event": event, **facts}) + "\n").encode())

    def run(self) -> None:
        """Serve until standard input ends."""
        with ExitStack() as stack:
            if self._listens:
                listener = stack.enter_context(self._endpoint.listen(BACKLOG))
                threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            if self._node is not None:
                offered = threading.Event()
                threading.Thread(target=self._stand_by, args=(offered,), daemon=True).start()
                offered.wait()
            self.tell("listening", mover=self._mover.process.pid)
            for line in sys.stdin:
                match line.split():
                    case ["protect", count]:
                        self._protect(int(count))
                    case ["snapshot", path]:
                        self._snapshot(Path(path))
                    case ["shadow", path]:
                        self._shadow(Path(path))
                    case ["count"]:
                        self.tell("count", **self._mover.count(), shadows=self._shadows)
                    case _:
                        self.tell("error", reason=f"what is {line!r}?")

    def _snapshot(self, path: Path) -> None:
        """The oldest connection, for shadow() on the other node."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._unprotected))
            sock = self._unprotected.pop(0)
        with sock:
            path.write_bytes(snapshot.encode(take(sock)))
        self.tell("snapshot")

    def _shadow(self, path: Path) -> None:
        """A shadow of the snapshot, with nothing but the kernel's own memory limits."""
        taken = snapshot.decode(path.read_bytes())
        with restore(
            taken,
            congestion=None,
            rcvbuf_bytes=SHADOW_BUFFER_BYTES,
            sndbuf_bytes=SHADOW_BUFFER_BYTES,
        ) as sock:
            self._mover.add(sock.fileno(), shadow=True)
        self.tell("shadow")

    def _accept(self, listener: socket.socket) -> None:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._at_once is not None:
                self._at_once.submit(self._protect_first, sock)
                continue
            self._mover.add(sock.fileno(), shadow=False)
            with self._changed:
                self._unprotected.append(sock)
                self._changed.notify_all()

    def _protect_first(self, sock: socket.socket) -> None:
        """Whoever asks has no answer before it is protected."""
        duplicate = sock.dup()
        why_not = self._replicate(sock)
        with duplicate:
            if why_not:
                self.tell("unprotected", reason=why_not)
            self._mover.add(duplicate.fileno(), shadow=False)

    def _protect(self, count: int) -> None:
        """Replicate the next ``count`` connections, waiting until they are accepted."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._unprotected) >= count)
            chosen = self._unprotected[:count]
            del self._unprotected[:count]
        begun, self._retried = time.monotonic(), 0
        reasons: list[str] = []
        if self._node is not None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                reasons = [why for why in pool.map(self._replicate, chosen) if why]
        self.tell(
            "protected",
            count=len(chosen) - len(reasons),
            failed=len(reasons),
            retried=self._retried,
            reasons=reasons[:REASONS_MAX],
            seconds=time.monotonic() - begun,
        )

    def _replicate(self, sock: socket.socket) -> str:
        """Protect one connection; returns why not, or nothing."""
        try:
            assert self._node is not None
            self._node.replicate(sock)
        except NotProtectedError as error:  # prld goes on trying
            with self._changed:
                self._retried += 1
            return _await_protection(error)
        except PrlError as error:
            return str(error)
        finally:
            sock.close()  # the mover and prld have it
        return ""

    def _stand_by(self, offered: threading.Event) -> None:
        """One thread for all shadows, of which there may be more than a host may have threads."""
        try:
            asyncio.run(self._take_shadows(offered))
        except PrlError as error:
            self.tell("lost", reason=str(error))
        finally:
            offered.set()

    async def _take_shadows(self, offered: threading.Event) -> None:
        waiting: set[asyncio.Task[None]] = set()
        async with AsyncNode(reconnect=False) as node:
            await node.offer(str(self._endpoint))
            offered.set()
            async for shadow in node.shadows():
                number = self._mover.add(shadow.fileno(), shadow=True)
                self._shadows += 1
                task = asyncio.create_task(self._await(shadow, number))
                waiting.add(task)
                task.add_done_callback(waiting.discard)

    async def _await(self, shadow: AsyncShadow, number: int) -> None:
        try:
            taken = await shadow.wait_taken_over()
        except PrlError as error:
            self.tell("void", reason=str(error))
            return
        self._mover.own(number, taken.out_bytes)


def _await_protection(error: NotProtectedError) -> str:
    """Wait until prld succeeds after all; returns why not, or nothing."""
    try:
        error.session.wait_state("active", timeout=RETRY_S * stretch.factor())
    except TimeoutError as late:
        return f"{error}, and {late} after {RETRY_S * stretch.factor()} s"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="prl.bench.server", description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--listen", type=Endpoint.parse, required=True)
    parser.add_argument("--plain", action="store_true", help="no prld here")
    parser.add_argument("--at-once", action="store_true", help="protect all that is accepted")
    parser.add_argument("--deaf", action="store_true", help="shadows alone, no listener")
    options = parser.parse_args(argv)
    threading.stack_size(_THREAD_STACK_BYTES)
    mover = Mover(ROLES.index(options.role))
    try:
        node = None if options.plain else Node()
        Server(options.listen, mover, node, listens=not options.deaf, at_once=options.at_once).run()
    except PrlError as error:
        sys.stderr.write(f"prl.bench.server: {error}\n")
        return error.exit_code
    finally:
        mover.process.kill()
        mover.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
