"""An echo server whose sessions outlive its host, with asyncio: ``echo_asyncio.py ADDRESS:PORT``.

The same as echo_threads.py, which says what happens on which node.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable

from prl import tcp
from prl.aio import AsyncNode, AsyncShadow, NotProtectedError, PrlError
from prl.endpoint import Endpoint

HELD_MAX_BYTES = 4 << 20
READ_BYTES = 64 << 10


def tell(event: str, **facts: object) -> None:
    """One line of JSON on standard output."""
    os.write(sys.stdout.fileno(), (json.dumps({"event": event, **facts}) + "\n").encode())


class Output:
    """What is to be sent, from byte ``start`` on."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._held = bytearray()
        self._start = 0
        self._done = 0
        self._ended = False

    async def append(self, data: bytes, *, ended: bool) -> None:
        """Take in more; waits while too much is held."""
        async with self._changed:
            self._held += data
            self._ended = ended
            self._drop()
            await self._changed.wait_for(lambda: len(self._held) < HELD_MAX_BYTES)

    async def done(self, offset: int) -> None:
        """Output before ``offset`` will never be asked for: somebody has sent it."""
        async with self._changed:
            self._done = max(self._done, offset)
            self._drop()

    def _drop(self) -> None:
        count = min(len(self._held), max(0, self._done - self._start))
        del self._held[:count]
        self._start += count
        self._changed.notify_all()

    async def speak(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send everything, to the end of the input."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._held or self._ended)
                start, data = self._start, bytes(self._held[:READ_BYTES])
            if not data:
                return
            await send(data)
            await self.done(start + len(data))


class Server:
    """Serves sessions of this node's, and stands by for the other's."""

    def answers(self, peer: int, role: str) -> Callable[[bytes], bytes]:  # noqa: ARG002
        """What turns a new session's input into its output, on both nodes alike: here an echo."""
        return bytes

    async def serve(self, endpoint: Endpoint) -> None:
        """Serve until prld is gone."""
        with endpoint.listen(64) as listener:
            listener.setblocking(False)
            async with AsyncNode() as node, asyncio.TaskGroup() as group:
                group.create_task(self._accept(listener, node, group))
                await node.offer(str(endpoint))
                tell("listening")
                async for shadow in node.shadows():
                    group.create_task(self._stand_by(shadow))

    async def _accept(
        self, listener: socket.socket, node: AsyncNode, group: asyncio.TaskGroup
    ) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            group.create_task(self._own(sock, node))

    async def _own(self, sock: socket.socket, node: AsyncNode) -> None:
        loop = asyncio.get_running_loop()
        peer = sock.getpeername()[1]
        session = None
        try:
            session = await node.replicate(sock)
            tell("protected", peer=peer)
        except NotProtectedError as error:  # prld tries again: error.session.states() would tell
            session = error.session
            tell("unprotected", peer=peer, reason=str(error))
        except PrlError as error:
            tell("unprotected", peer=peer, reason=str(error))
        output, answers, broken = Output(), self.answers(peer, "owner"), ""
        with sock:
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(
                        read_all(lambda size: loop.sock_recv(sock, size), output, answers)
                    )
                    both.create_task(output.speak(lambda data: loop.sock_sendall(sock, data)))
                sock.shutdown(socket.SHUT_WR)
            except* OSError as errors:  # also when the session is demoted: the other node has it
                broken = str(errors.exceptions[0])
            if session is not None and not broken:
                await session.close()
        tell("broken" if broken else "end", peer=peer, reason=broken)

    async def _stand_by(self, shadow: AsyncShadow) -> None:
        peer = int(shadow.remote.rpartition(":")[2])
        tell("standby", peer=peer)
        output, answers = Output(), self.answers(peer, "standby")
        before = tcp.bytes_acked(shadow.sock)

        def acked() -> int:
            return 0 if shadow.owned else tcp.bytes_acked(shadow.sock) - before

        reading = asyncio.create_task(read_all(shadow.recv, output, answers, acked))
        try:
            taken = await shadow.wait_taken_over()
            tell("taken_over", peer=peer, bytes=taken.out_bytes)
            await output.done(taken.out_bytes)
            await output.speak(shadow.sendall)
            shadow.sock.shutdown(socket.SHUT_WR)
            tell("end", peer=peer)
        except (OSError, PrlError) as error:
            tell("void", peer=peer, reason=str(error))
        finally:
            reading.cancel()
            await shadow.close()


async def read_all(
    receive: Callable[[int], Awaitable[bytes]],
    output: Output,
    answers: Callable[[bytes], bytes],
    acked: Callable[[], int] = int,
) -> None:
    """Read to the end; ``acked`` tells how much output the peer has acknowledged."""
    while True:
        try:
            data = await receive(READ_BYTES)
            await output.done(acked())
        except (OSError, PrlError):  # whoever speaks, or awaits the take-over, is told why
            data = b""
        await output.append(answers(data), ended=not data)
        if not data:
            return


def main(server: Server) -> None:
    """Run until prld is gone."""
    try:
        asyncio.run(server.serve(Endpoint.parse(sys.argv[1])))
    except* PrlError as errors:
        sys.exit(f"{sys.argv[0]}: {errors.exceptions[0]}")


if __name__ == "__main__":
    main(Server())
