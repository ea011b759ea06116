"""The application of a crowd: ``python -m prl.demo.crowd_app``, the same line on both nodes.

Echoes any number of sessions in one process: as their owner, when peers connect to this node, or
from shadows, when they connect to the other one. One line of JSON on standard output tells each
thing that happens.
"""

import argparse
import asyncio
import contextlib
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from prl.client import tcp
from prl.client.aio import AsyncNode, AsyncSession, AsyncShadow, NotProtectedError, ShadowVoid
from prl.control.protocol import OVER
from prl.demo.crowd_peer import name_of, tell
from prl.demo.progress import Progress
from prl.demo.roles import Echo
from prl.endpoint import Endpoint
from prl.errors import PrlError
from prl.lab import stretch

BACKLOG = 1024
PROTECTED_AT_ONCE = 32
PROTECT_TIMEOUT_S = 20.0
_READ_BYTES = 1 << 16
_TRIM_EVERY_BYTES = 1 << 16


def peer_of(sock: socket.socket) -> str:
    """The peer's end, as the peer calls it: a port may be in use with either version of IP."""
    address, port, *_ = sock.getpeername()
    return name_of(address, port)


class Conversation:
    """One session, echoed; heard by the peer only while ``speaks``."""

    def __init__(
        self, sock: socket.socket, peer: str, *, speaks: bool, progress: Progress | None
    ) -> None:
        self.peer = peer
        self.done = asyncio.Event()
        self.trouble = ""
        self._sock, self._speaks, self._progress = sock, speaks, progress
        self._role = Echo()
        self._loop = asyncio.get_running_loop()
        self._acked_before = 0 if speaks else tcp.bytes_acked(sock)
        self._untrimmed = 0
        self._loop.add_reader(sock, self._read)

    @property
    def echoed(self) -> int:
        """Bytes that the peer has had, or will get."""
        return self._role.reached()[0]

    def go_on_at(self, offset: int) -> None:
        """The session is ours: speak from byte ``offset`` of the output on."""
        self._speaks = True
        self._role.go_on_at(offset)
        self._write()

    def stop(self, trouble: str = "") -> None:
        """Neither read nor write any more; the socket stays open."""
        if self.done.is_set():
            return
        self.trouble = trouble
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self.done.set()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.stop(error.strerror or str(error))
            return
        if data:
            self._role.take(memoryview(data))
            self._trim(len(data))
        else:
            self._role.input_ended()
            self._loop.remove_reader(self._sock)
        if self._speaks:
            self._write()

    def _trim(self, count: int) -> None:
        """Nobody will ask for what the peer has acknowledged to the other node."""
        self._untrimmed += count
        if not self._speaks and self._untrimmed >= _TRIM_EVERY_BYTES:
            self._untrimmed = 0
            self._role.acknowledged(tcp.bytes_acked(self._sock) - self._acked_before)

    def _write(self) -> None:
        try:
            while due := self._role.due():
                self._role.sent(self._sock.send(due))
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._write)
            return
        except OSError as error:
            self.stop(error.strerror or str(error))
            return
        self._loop.remove_writer(self._sock)
        if self._progress is not None:
            self._progress.note(*self._role.reached())
        if self._role.is_done():
            self.stop()


class Application:
    """All sessions of this node."""

    def __init__(self, node: AsyncNode, progress: Path) -> None:
        self._node, self._progress = node, progress
        self._limit = asyncio.Semaphore(PROTECTED_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Any) -> None:
        """Run ``work`` beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def accept(self, listener: socket.socket) -> None:
        """Own every session that a peer opens."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.start(self._own(sock))

    async def _own(self, sock: socket.socket) -> None:
        peer = peer_of(sock)
        async with self._limit:
            asked_ns = time.monotonic_ns()
            try:
                session = await self._protect(sock)
            except (PrlError, TimeoutError) as error:
                tell("unprotected", peer=peer, reason=str(error))
                return
            at_ns = time.monotonic_ns()
        tell("protected", peer=peer, handle=session.handle, took_ns=at_ns - asked_ns, at_ns=at_ns)
        progress = Progress(self._progress / peer)
        conversation = Conversation(sock, peer_of(sock), speaks=True, progress=progress)
        await self._converse(conversation, session)
        sock.close()

    async def _protect(self, sock: socket.socket) -> AsyncSession:
        """Protected at the first attempt, or by one of those that prld makes by itself."""
        try:
            return await self._node.replicate(sock)
        except NotProtectedError as error:
            session: AsyncSession = error.session
            async with asyncio.timeout(PROTECT_TIMEOUT_S * stretch.factor()):
                if await session.wait_state("active", "lost", *OVER) != "active":
                    raise
            return session

    async def stand_by(self, shadow: AsyncShadow) -> None:
        """Follow a session of the other node's, and go on with it when it is taken over."""
        address, _, port = shadow.remote.rpartition(":")  # a void one's socket has no peer
        peer = name_of(address, int(port))
        conversation = Conversation(shadow.sock, peer, speaks=False, progress=None)
        try:
            taken = await shadow.wait_taken_over()
        except ShadowVoid as void:
            conversation.stop()
            tell("void", peer=conversation.peer, reason=str(void), at_ns=time.monotonic_ns())
            await shadow.close()
            return
        conversation.go_on_at(taken.out_bytes)
        tell("taken_over", peer=conversation.peer, heard_ns=time.monotonic_ns())
        await self._converse(conversation, shadow)

    async def _converse(self, conversation: Conversation, it: AsyncSession | AsyncShadow) -> None:
        await conversation.done.wait()
        tell(
            "over",
            peer=conversation.peer,
            echoed=conversation.echoed,
            trouble=conversation.trouble,
        )
        with contextlib.suppress(PrlError):
            await it.close()


async def run(endpoints: list[Endpoint], progress: Path) -> None:
    """Serve until killed."""
    async with AsyncNode() as node:
        application = Application(node, progress)
        for endpoint in endpoints:
            application.start(application.accept(endpoint.listen(BACKLOG)))
            await node.offer(str(endpoint))
        tell("listening")
        async for shadow in node.shadows():
            application.start(application.stand_by(shadow))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=Endpoint.parse, nargs="+", required=True)
    parser.add_argument("--progress", type=Path, required=True, help="a folder")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    options.progress.mkdir(exist_ok=True)
    try:
        asyncio.run(run(options.listen, options.progress))
    except PrlError as error:
        sys.stderr.write(f"crowd: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
