"""An echo server whose sessions outlive its host, with asyncio: ``echo_asyncio.py ADDRESS:PORT``.

The same line on both nodes. The node that owns the address accepts connections and has each
protected. The other one gets their shadows, reads the same input from them, and remembers the
output that it would have sent until the peer has acknowledged it. Told that a session is its own,
it goes on at exactly the byte that it is told. From then on prld wants to protect the session
again: it asks for the state of the conversation, with which another node can join in.
"""

import asyncio
import json
import os
import socket
import sys

from prl.client import tcp
from prl.client.aio import AsyncNode, AsyncSession, AsyncShadow, NotProtectedError, PrlError
from prl.endpoint import Endpoint

UNSAID_MAX_BYTES = 512 << 10  # it must fit into the application bytes: 1 MiB
READ_BYTES = 64 << 10


def tell(event: str, **facts: object) -> None:
    """One line of JSON on standard output."""
    os.write(sys.stdout.fileno(), (json.dumps({"event": event, **facts}) + "\n").encode())


class Talk:
    """One session's conversation: the same input, in whatever pieces, makes the same output."""

    def __init__(self, peer: int, role: str, state: bytes = b"", out_bytes: int = 0) -> None:
        """``state``: as state() was at byte ``out_bytes`` of the output."""
        self.peer, self.role = peer, role
        self._unsaid = bytearray()
        self._start = self._done = out_bytes
        self._input_ended = False
        self._changed = asyncio.Event()
        self.resume(state)

    # -- what this server is about; another one answers and keeps something else

    def answer(self, data: bytes) -> bytes:
        """What is said to that; here an echo."""
        return data

    def state(self) -> bytes:
        """All that another node must know to go on from here."""
        return bytes(self._unsaid)

    def resume(self, state: bytes) -> None:
        """The inverse of state()."""
        self._unsaid[:] = state

    # -- input and output; each wait may be cancelled, and is, before state() is asked for

    async def listen(self, stream: AsyncSession | AsyncShadow) -> None:
        """Read to the end, as far as there is room for the answers."""
        while not self._input_ended:
            while len(self._unsaid) >= UNSAID_MAX_BYTES:
                self._changed.clear()
                await self._changed.wait()
            data = await stream.recv(READ_BYTES)
            self._unsaid += self.answer(data)
            self._input_ended = not data
            self.said_until(self._done)

    async def speak(self, session: AsyncSession) -> None:
        """Say everything, to the end."""
        while self._unsaid or not self._input_ended:
            if self._unsaid:
                self.said_until(self._start + await session.send(self._unsaid[:READ_BYTES]))
            else:
                self._changed.clear()
                await self._changed.wait()

    def said_until(self, offset: int) -> None:
        """Output before ``offset`` will never be asked for: somebody has said it."""
        self._done = max(self._done, offset)
        count = min(len(self._unsaid), self._done - self._start)
        del self._unsaid[:count]
        self._start += count
        self._changed.set()


class Server:
    """Serves sessions of this node's, and stands by for the other's."""

    talk: type[Talk] = Talk

    async def serve(self, endpoint: Endpoint) -> None:
        """Serve until it is cancelled; prld may come and go."""
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
        talk = self.talk(sock.getpeername()[1], "owner")
        with sock:
            try:
                session = await node.replicate(sock, talk.state(), renew=True)
                tell("protected", peer=talk.peer)
            except NotProtectedError as error:  # prld asks for the state when it can be
                session = error.session
                tell("unprotected", peer=talk.peer, reason=str(error))
            except PrlError as error:
                tell("refused", peer=talk.peer, reason=str(error))
                return
            await self._converse(session, talk)

    async def _converse(self, session: AsyncSession, talk: Talk) -> None:
        """Until the session is over; whenever prld wants to protect it, hold on and say where."""
        while True:
            asked = asyncio.create_task(session.wait_protectable())
            talking = asyncio.create_task(self._talk(session, talk))
            try:
                await asyncio.wait({talking, asked}, return_when=asyncio.FIRST_COMPLETED)
                if talking.done() or not asked.result():
                    await talking
                    session.sock.shutdown(socket.SHUT_WR)
                    await session.close()
                    tell("end", peer=talk.peer)
                    return
                talking.cancel()
                await asyncio.wait({talking})
                if await session.renew(talk.state()) == "active":
                    tell("protected", peer=talk.peer)
            except (OSError, PrlError) as error:  # also when the other node has the session
                tell("broken", peer=talk.peer, reason=str(error))
                return
            finally:
                asked.cancel()
                talking.cancel()
                await asyncio.gather(asked, talking, return_exceptions=True)

    async def _talk(self, session: AsyncSession, talk: Talk) -> None:
        await asyncio.gather(talk.listen(session), talk.speak(session))

    async def _stand_by(self, shadow: AsyncShadow) -> None:
        peer = int(shadow.remote.rpartition(":")[2])
        tell("standby", peer=peer)
        talk = self.talk(peer, "standby", shadow.application, shadow.out_bytes)
        listening = asyncio.ensure_future(talk.listen(shadow))
        trimming = asyncio.ensure_future(_trim(shadow, talk))
        try:
            taken = await shadow.wait_taken_over()
            tell("taken_over", peer=peer, bytes=taken.out_bytes)
            for task in (listening, trimming):
                task.cancel()
            await asyncio.gather(listening, trimming, return_exceptions=True)
            talk.role = "owner"
            talk.said_until(taken.out_bytes)
            await self._converse(shadow.session, talk)
        except PrlError as error:
            tell("void", peer=peer, reason=str(error))
        finally:
            for task in (listening, trimming):
                task.cancel()
            await asyncio.gather(listening, trimming, return_exceptions=True)
            await shadow.close()


async def _trim(shadow: AsyncShadow, talk: Talk) -> None:
    """What the peer has acknowledged need not be remembered; nothing but the socket tells."""
    before = tcp.bytes_acked(shadow.sock)
    while True:
        talk.said_until(shadow.out_bytes + tcp.bytes_acked(shadow.sock) - before)
        await asyncio.sleep(0.02)


def main(server: Server) -> None:
    """Run until it is ended."""
    try:
        asyncio.run(server.serve(Endpoint.parse(sys.argv[1])))
    except* PrlError as errors:
        sys.exit(f"{sys.argv[0]}: {errors.exceptions[0]}")


if __name__ == "__main__":
    main(Server())
