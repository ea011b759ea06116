"""The connection between the fronts of a pair: made, kept, made again (docs/bgp-front.md).

node 0: connect ─┐
node 1: accept ──┴▶ TLS: a key of the pair's? ─▶ up ─▶ messages both ways ─▶ down
"""

import asyncio
import contextlib
import hmac
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from prl.bgpfront.messages import Alive, ChannelError, Message, decode, encode
from prl.bindings.tls import Stream, TlsError
from prl.config import Link, link_key
from prl.daemon.link import sockets
from prl.daemon.link.handshake import HANDSHAKES_MAX, proven
from prl.errors import ConfigError, PrlError

ALIVE_S = 1.0
SILENCE_MAX_S = 3.0
"""Without a message for so long the connection is given up."""
BACKOFF_S = 0.5
CONNECT_TIMEOUT_S = 2.0
BACKLOG = 8
OUT_HIGH_BYTES = 1 << 20
"""While so much waits, no further piece of a table is said."""
OUT_MAX_BYTES = 64 << 20
"""Beyond it the other front does not read: the connection is given up."""
_LABEL = b"prl-bgp channel"
_READ_BYTES = 1 << 18


class _Bytes(Protocol):
    """What carries them: TLS, or plain TCP."""

    def fileno(self) -> int: ...

    def read(self) -> bytes: ...

    def write(self, data: bytes | bytearray) -> int: ...

    @property
    def unsent(self) -> bool: ...

    @property
    def unread(self) -> bool: ...

    def close(self) -> None: ...


class _Plain:
    """A link that is in clear has its fronts talk in clear, too."""

    unsent = unread = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> bytes:
        return self._sock.recv(_READ_BYTES)

    def write(self, data: bytes | bytearray) -> int:
        return self._sock.send(data) if data else 0

    def close(self) -> None:
        self._sock.close()


def channel_key(pair_key: bytes) -> bytes:
    """What both nodes make of a pair key, so that neither connection passes for the other."""
    return hmac.digest(pair_key, _LABEL, "sha256")


class Channel:
    """See the module; run() is a task for the front's whole life.

    Args:
        link: prld's, on which it goes.
        index: this node's, 0 or 1.
        port: that node 1 listens on.
        heard: called with every message.
        up: called when the other front is there.
        down: called with the reason when it is there no more.
        room: called when has_room may have become true.
    """

    def __init__(
        self,
        link: Link,
        index: int,
        port: int,
        *,
        heard: Callable[[Message], None],
        up: Callable[[], None],
        down: Callable[[str], None],
        room: Callable[[], None],
    ) -> None:
        self._link, self._index, self._port = link, index, port
        self._heard, self._up, self._down = heard, up, down
        self._room = room
        self._bytes: _Bytes | None = None
        self._out = bytearray()
        self._in = bytearray()
        self._heard_at = 0.0
        self._calls = 0
        self._over = asyncio.Event()
        self._handshakes: dict[asyncio.Task[None], socket.socket] = {}
        self.why_down = "not connected yet"

    @property
    def is_up(self) -> bool:
        """Whether the other front is there."""
        return self._bytes is not None

    @property
    def has_room(self) -> bool:
        """Whether a piece of a table may be said."""
        return self.is_up and len(self._out) < OUT_HIGH_BYTES

    def send(self, message: Message) -> None:
        """Say it, if the other front is there."""
        if self._bytes is None:
            return
        self._out += encode(message)
        if len(self._out) > OUT_MAX_BYTES:
            self.give_up("the other front does not read what it is told")
        else:
            self._flush()

    def give_up(self, why: str) -> None:
        """End the connection; another one is made."""
        if self._bytes is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._bytes.fileno())
        loop.remove_writer(self._bytes.fileno())
        self._bytes.close()
        self._bytes = None
        self.why_down = why
        self._over.set()
        self._down(why)

    async def run(self) -> None:
        """Keep it up until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch())
                group.create_task(self._call() if self._index == 0 else self._listen())
        finally:
            for task in self._handshakes:
                task.cancel()
            self.give_up("the front ends")

    # -- made

    def _keys(self) -> list[bytes]:
        return [channel_key(key) for key in link_key.load(Path(self._link.key))]

    async def _call(self) -> None:
        while True:
            if self._bytes is None:
                try:
                    await self._connect()
                except (PrlError, OSError) as error:  # TimeoutError, too
                    self.why_down = str(error) or "the other front does not answer"
            self._over.clear()
            if self._bytes is not None:
                await self._over.wait()
            await asyncio.sleep(BACKOFF_S)

    async def _connect(self) -> None:
        sock = sockets.make(self._link)
        try:
            sock.bind((str(self._link.local), 0))
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                target = (str(self._link.remote), self._port)
                await asyncio.get_running_loop().sock_connect(sock, target)
            sockets.guard(sock, self._link)
            keys = [] if self._link.plain else self._keys()
        except BaseException:
            sock.close()
            raise
        if not keys:
            self._begin(_Plain(sock))
            return
        key = keys[self._calls % len(keys)]
        self._calls += 1
        self._begin(Stream(await proven(sock, [key], server=False)))

    async def _listen(self) -> None:
        while True:
            try:
                with sockets.make(self._link) as listener:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind((str(self._link.local), self._port))
                    sockets.guard(listener, self._link)
                    listener.listen(BACKLOG)
                    await self._accept(listener)
            except OSError as error:
                self.why_down = f"cannot listen for the other front: {error.strerror}"
            await asyncio.sleep(BACKOFF_S)

    async def _accept(self, listener: socket.socket) -> None:
        # Not sock_accept(): a connection that comes as it is cancelled is nobody's.
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._take, listener)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(listener)

    def _take(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except OSError as error:  # BlockingIOError: it has gone again
            if not isinstance(error, BlockingIOError):
                self.why_down = f"the other front's connection is not accepted: {error.strerror}"
            return
        is_crowded = len(self._handshakes) >= HANDSHAKES_MAX
        if ip_address(address[0]) != self._link.remote or is_crowded:
            sock.close()
            return
        sock.setblocking(False)
        if self._link.plain:
            self._begin(_Plain(sock))
            return
        task = asyncio.create_task(self._prove(sock))
        self._handshakes[task] = sock
        task.add_done_callback(self._proved)

    def _proved(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task).close()  # unless it is somebody else's now

    async def _prove(self, sock: socket.socket) -> None:
        try:
            keys = self._keys()
        except ConfigError as error:
            sock.close()
            self.why_down = str(error)
            return
        try:
            self._begin(Stream(await proven(sock, keys, server=True)))
        except (TlsError, TimeoutError) as error:
            if not self.is_up:
                self.why_down = str(error) or "the other front takes too long for its handshake"

    def _begin(self, carrier: _Bytes) -> None:
        """The other front is there; whoever was there before is it no more."""
        self.give_up("the other front has connected again")
        self._bytes = carrier
        self._out.clear()
        self._in.clear()
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        loop.add_reader(carrier.fileno(), self._read)
        self.why_down = ""
        self._up()

    # -- kept

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ALIVE_S)
            if self._bytes is not None and loop.time() > self._heard_at + SILENCE_MAX_S:
                self.give_up("the other front is silent")
            self.send(Alive())

    def _read(self) -> None:
        if self._bytes is None:
            return
        try:
            data = self._bytes.read()
        except BlockingIOError:
            return
        except OSError as error:
            self.give_up(f"the connection to the other front ended: {error.strerror}")
            return
        if not data:
            self.give_up("the other front has ended")
            return
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        if self._bytes.unread:
            loop.call_soon(self._read)
        self._in += data
        carrier = self._bytes
        try:
            for message in decode(self._in):
                if not isinstance(message, Alive):
                    self._heard(message)
                if self._bytes is not carrier:  # whoever heard it gave it up
                    return
        except ChannelError as error:
            self.give_up(f"the other front sent nonsense: {error}")

    def _flush(self) -> None:
        if self._bytes is None:
            return
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(BlockingIOError):
                while self._out:
                    del self._out[: self._bytes.write(self._out)]
                if self._bytes.unsent:
                    self._bytes.write(b"")
        except OSError as error:
            loop.call_soon(
                self.give_up, f"the connection to the other front ended: {error.strerror}"
            )
            return
        if self._out or self._bytes.unsent:
            loop.add_writer(self._bytes.fileno(), self._go_on)
        else:
            loop.remove_writer(self._bytes.fileno())

    def _go_on(self) -> None:
        self._flush()
        if self.has_room:
            self._room()
