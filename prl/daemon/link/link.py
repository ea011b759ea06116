"""The connection between the two nodes: made, greeted, watched, made again (SPEC section 3, L10).

    node 0: connect ─┐                ┌▶ the datapath's ┬─ both HELLOs checked ─▶ up ──┐
    node 1: accept ──┴▶ TLS: the key? ┤                 └─ they do not agree ───────────┴▶ down
                                      └─ not the other node: counted, closed

The datapath owns the connection from attach() on; what happens to it comes back as events. Until
then nothing that came is parsed but TLS (docs/link-security.md).
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from prl.bindings import wire
from prl.bindings.datapath import Datapath, DatapathError, Event
from prl.bindings.facts import Capability, Message, Owner
from prl.bindings.tls import Channel, TlsError
from prl.config import Config, link_key
from prl.daemon.events.log import EventLog
from prl.daemon.host import ports
from prl.daemon.link import hello as greeting
from prl.daemon.link import sockets
from prl.daemon.link.handshake import HANDSHAKE_TIMEOUT_S, HANDSHAKES_MAX, Refusals, proven
from prl.daemon.link.hello import Hello, HelloError, ServiceState
from prl.errors import ConfigError, KernelError

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.05, 1.0
MISMATCH_BACKOFF_S = 1.0
CONNECT_TIMEOUT_S = 1.0
HELLO_TIMEOUT_S = 1.0
DETACH_TIMEOUT_S = 1.0
FAREWELL_S = 0.1
"""How long the node that finds a mismatch leaves the connection open, so that the other one reads
its HELLO and can say what is wrong, too."""
BACKLOG = 64
"""Connections that wait to be accepted, strangers' too."""
LISTEN_AGAIN_S = 1.0
INTERFACE_LOOK_S = 1.0
"""How soon a listener follows its interface, when another one gets the name."""
UNANSWERED_S = 10.0
"""After so long without a connection the log and `status` say what may be in the way."""
Connection = Channel | socket.socket
"""One that has shown the pair key; or, of a plain link, any."""
SERVICES_TYPE = tuple[ServiceState, ...]


class Describe(Protocol):
    """Ownership.describe()."""

    def __call__(self, *, counted: bool = True) -> SERVICES_TYPE:
        """The services as they are now. Raises KernelError."""


class Link:
    """Keeps the link up; run() is a task for the daemon's whole life.

    ``describe`` gives the services as they are now, for HELLO; ``heard`` is told what the other
    node says of them, also where no epoch comes of it; ``settled`` what both have said when they
    agree, before the epoch begins; ``raised`` and ``lost`` are called when it has begun and when
    it has ended.
    """

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        log: EventLog,
        *,
        describe: Describe,
        heard: Callable[[SERVICES_TYPE], None],
        settled: Callable[[SERVICES_TYPE, SERVICES_TYPE], None],
        greets: Callable[[], None],
        raised: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._config, self._dp, self._log = config, datapath, log
        self._describe, self._heard, self._settled = describe, heard, settled
        self._greets, self._raised, self._lost = greets, raised, lost
        self._hello: asyncio.Queue[Event] = asyncio.Queue(maxsize=4)
        self._down = asyncio.Event()
        self._attached = False
        self._connections: asyncio.Queue[Connection] = asyncio.Queue(maxsize=1)
        self._listener: socket.socket | None = None
        self._listens_on = 0
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._calls = 0
        self.refusals = Refusals(log)
        self.key = ""
        """Name of the pair key that the connection was made with; empty: plain, or none was yet."""
        self._complaint = ""
        self._alone_since_s = 0.0
        self._closed = ""
        self._opened = asyncio.Event()
        self.up = False
        self.ups = 0
        """How often it came up."""
        self.other: Hello | None = None
        """The other node, as it said in its last good HELLO."""
        self.version = 0
        """Protocol version that the pair runs."""
        self.capabilities = Capability(0)
        """What both nodes can do: what the pair runs with (SPEC R14)."""
        self.why_down = "not connected yet"

    # -- events of the datapath

    def on_hello(self, event: Event) -> None:
        """A HELLO arrived."""
        if not self._hello.full():
            self._hello.put_nowait(event)

    def on_down(self, event: Event) -> None:
        """The datapath gave the connection up."""
        was_up, self.up = self.up, False
        self._attached = False
        self._alone_since_s = asyncio.get_running_loop().time()
        self.why_down = event.text or wire.reason_text(event.reason)
        self._down.set()
        if was_up:
            self._log.error("link_down", f"the link is down: {self.why_down}", reason=self.why_down)
            self._lost()

    # -- life

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        self._alone_since_s = asyncio.get_running_loop().time()
        if self._config.link.plain:
            words = "link.plain: whoever is on the link's network can read and be the other node"
            self._log.warning("link_plain", words)
        listening = asyncio.create_task(self._accept()) if self._config.index == 1 else None
        backoff_s = BACKOFF_MIN_S
        try:
            while True:
                if self._closed:
                    await self._opened.wait()
                connection = await self._connection()
                if connection is not None and self._closed:
                    connection.close()
                elif connection is not None:
                    backoff_s = await self._life(connection, backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
        finally:
            if listening is not None:
                listening.cancel()
            for handshake in self._handshakes:
                handshake.cancel()
            while not self._connections.empty():
                self._connections.get_nowait().close()
            if self._listener is not None:
                self._listener.close()

    def close(self, why: str) -> None:
        """Have no link until open()."""
        self._closed = self.why_down = why
        self._opened.clear()
        if self._attached:
            self._dp.link_drop(why)

    def open(self) -> None:
        """Have one again."""
        self._closed = ""
        self._opened.set()

    def listen(self) -> None:
        """Node 1: claim the link's port; while somebody else has it, run() tries again.

        Raises:
            KernelError: it cannot be had.
        """
        if self._config.index == 0:
            return
        link = self._config.link
        try:
            listener = sockets.make(link)
            self._listens_on = socket.if_nametoindex(link.interface)
            sockets.guard(listener, link)
        except OSError as error:
            raise KernelError(
                f"link.interface {link.interface}: {error.strerror}; "
                "correct [link] in the configuration"
            ) from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((str(link.local), link.port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise KernelError(
                    f"link.local {link.local} port {link.port}: {error.strerror}; "
                    "correct [link] in the configuration"
                ) from error
            self._complain(
                f"TCP port {link.port} is taken by {ports.user_of('tcp', link.port)}; stop that, "
                "or set another link.port on both nodes"
            )
            return
        self._listener = listener

    async def _life(self, connection: Connection, backoff_s: float) -> float:
        """One connection from attach to its end; returns how long to wait before the next."""
        self._down.clear()
        while not self._hello.empty():
            self._hello.get_nowait()
        try:
            if isinstance(connection, Channel):
                self.key = connection.key
                self._dp.link_attach_tls(connection)
            else:
                self._dp.link_attach(connection.fileno())
                connection.detach()  # the datapath's now
        except DatapathError as error:
            connection.close()
            self._complain(str(error))
            self._dp.link_drop("a new connection was refused")
            return backoff_s
        self._attached = True
        try:
            await self._greet()
            backoff_s = BACKOFF_MIN_S
            self._complaint = ""
            await self._down.wait()
        except HelloError as error:
            self._complain(str(error))
            await asyncio.sleep(FAREWELL_S)
            backoff_s = MISMATCH_BACKOFF_S
        except (DatapathError, KernelError, TimeoutError, wire.WireError) as error:
            self._complain(str(error) or f"no HELLO within {HELLO_TIMEOUT_S:.0f} s")
        finally:
            await self._detach()
        return backoff_s

    async def _greet(self) -> None:
        """Exchange HELLOs and begin an epoch. Node 0 speaks first: it proposes the epoch."""
        services = self._describe()
        own: Hello | None = None
        if self._config.index == 0:
            own = greeting.create(self._config, services)
            self._send_hello(own)
        event = await self._next_hello()
        if self._closed:  # meanwhile; the datapath's word that it is down may be behind the HELLO
            raise HelloError(self._closed)
        other = greeting.decode(event)
        if own is None:
            services = self._describe()
            own = greeting.create(self._config, services, other.epoch)
            self._send_hello(own)
        version = greeting.check(own, other)
        self._heard(other.services)
        if other.epoch != own.epoch:
            raise HelloError(f"{other.node} answered for another epoch; trying again")
        if _states(self._describe(counted=False)) != _states(services):
            raise HelloError("a service changed hands during HELLO; trying again")
        self.other, self.version = other, version
        self.capabilities = greeting.common_capabilities(own, other)
        self._settled(services, other.services)
        self._dp.link_up(
            own.epoch,
            self.capabilities,
            greeting.lan_key(own, other),
            own.claim_token,
            other.claim_token,
        )
        self.up = True
        self.ups += 1
        self._log.info(
            "link_up",
            f"the link to {other.node} is up",
            other=other.node,
            epoch=f"{own.epoch:016x}",
        )
        self._raised()

    def _send_hello(self, hello: Hello) -> None:
        self._greets()
        self._dp.link_hello()
        self._dp.send(
            Message.HELLO,
            greeting.encode(hello),
            versions=hello.versions,
            node_index=hello.index,
        )

    async def _next_hello(self) -> Event:
        arrival = asyncio.create_task(self._hello.get())
        end = asyncio.create_task(self._down.wait())
        done, _ = await asyncio.wait(
            {arrival, end}, timeout=HELLO_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        arrival.cancel()
        end.cancel()
        if arrival in done:
            return arrival.result()
        if end in done:
            hint = "; is link.plain the same on both nodes?" * self._config.link.plain
            raise HelloError(f"the connection ended before HELLO: {self.why_down}{hint}")
        raise TimeoutError

    async def _detach(self) -> None:
        if self._attached:
            self._dp.link_drop(self._complaint or "prld closes the link")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DETACH_TIMEOUT_S):
                    await self._down.wait()
            self._attached = False
        self.up = False

    def _complain(self, why: str) -> None:
        """Post an error once, not at every attempt."""
        self.why_down = why
        if why != self._complaint:
            self._complaint = why
            self._log.error("link_refused", f"link: {why}")

    # -- connections

    async def _connection(self) -> Connection | None:
        if self._config.index == 0:
            return await self._connect()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNANSWERED_S):
                    return await self._connections.get()
            if self._listener is not None:  # otherwise there is a better word already
                link = self._config.link
                self._complain(
                    f"{link.remote} has not called TCP port {link.port} for {UNANSWERED_S:.0f} s: "
                    f"is prld up there, and does this host's firewall let TCP {link.port} in?"
                )

    async def _connect(self) -> Connection | None:
        link = self._config.link
        try:
            sock = sockets.make(link)
        except OSError as error:
            self._complain(f"link.interface {link.interface}: {error.strerror}")
            return None
        try:
            sock.bind((str(link.local), 0))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_connect(sock, (str(link.remote), link.port))
            sockets.guard(sock, link)
        except (OSError, TimeoutError) as error:
            sock.close()
            words = getattr(error, "strerror", None) or "no answer"
            self.why_down = f"{link.remote} port {link.port}: {words}"
            if asyncio.get_running_loop().time() - self._alone_since_s >= UNANSWERED_S:
                self._complain(
                    f"{words} from {link.remote} TCP port {link.port} for {UNANSWERED_S:.0f} s: is "
                    f"prld up there, and does its firewall let TCP {link.port} in?"
                )
            return None
        except BaseException:
            sock.close()
            raise
        return await self._proven(sock)

    async def _proven(self, sock: socket.socket) -> Connection | None:
        """The connection once the other side has shown the pair key; None: it has not."""
        if self._config.link.plain:
            return sock
        who = f"who answers on {self._config.link.remote}"
        server = self._config.index == 1
        if server:
            who = f"who calls from {self._config.link.remote}"
        try:
            return await proven(sock, self._keys(), server=server)
        except TlsError as error:
            kind, why = error.refusal.name.lower(), str(error)
        except TimeoutError:
            kind = "silent"
            why = f"has not shown the pair key within {HANDSHAKE_TIMEOUT_S:.0f} s"
        except ConfigError as error:
            sock.close()
            self._complain(str(error))
            return None
        if not self.up:
            self.why_down = f"{who} {why}"
        self.refusals.note(kind, who, why)
        return None

    def _keys(self) -> list[bytes]:
        """As they are in the file now. The node that calls shows each in turn (key change)."""
        keys = link_key.load(Path(self._config.link.key))
        if self._config.index == 0:
            first = self._calls % len(keys)
            self._calls += 1
            keys = keys[first:] + keys[:first]
        return keys

    async def _accept(self) -> None:
        """Take connections from the other node's address alone; the newest one counts."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._listens():
                try:
                    self.listen()
                except KernelError as error:  # its address is away, while networkd starts again
                    self._complain(str(error))
            if self._listener is None:
                await asyncio.sleep(LISTEN_AGAIN_S)
                continue
            try:
                async with asyncio.timeout(INTERFACE_LOOK_S):
                    sock, source = await loop.sock_accept(self._listener)
            except TimeoutError:
                continue
            except OSError:  # the caller hung up first, or there are no descriptors
                await asyncio.sleep(BACKOFF_MIN_S)
                continue
            if source[0] != str(self._config.link.remote):
                self.refusals.note("stranger", f"{source[0]}, which is not link.remote,", "calls")
                sock.close()
            elif self._in_use():
                self.refusals.count("in_use")  # it may be the other node: that is no news
                sock.close()
            else:
                self._begin_handshake(sock)
            # While connections wait, accepting one does not: handshakes and all else get a turn.
            await asyncio.sleep(0)

    def _listens(self) -> bool:
        """Whether the listener is of the interface that has the name now; otherwise it goes."""
        if self._listener is None:
            return False
        with contextlib.suppress(OSError):
            if socket.if_nametoindex(self._config.link.interface) == self._listens_on:
                return True
        self._listener.close()
        self._listener = None
        return False

    def _begin_handshake(self, sock: socket.socket) -> None:
        """One that says nothing holds up neither the listener nor those that come behind it."""
        if len(self._handshakes) >= HANDSHAKES_MAX:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
            self.refusals.note("crowded", "a caller", "makes room for a newer one")
        task = asyncio.create_task(self._answer(sock))
        self._handshakes[task] = None
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _answer(self, sock: socket.socket) -> None:
        try:
            sockets.guard(sock, self._config.link)  # its network may have come up just now
        except OSError:
            sock.close()
            return
        connection = await self._proven(sock)
        if connection is None:
            return
        if self._in_use():
            self.refusals.count("in_use")
            connection.close()
            return
        while not self._connections.empty():
            self._connections.get_nowait().close()
        self._connections.put_nowait(connection)
        if self._attached:
            # The other node would not call again if the old connection were alive.
            self._dp.link_drop("the other node connected anew")

    def _in_use(self) -> bool:
        """Whether the present connection is alive: something was heard on it just now."""
        if not self.up:
            return False
        status = self._dp.status()
        silence_ns = status.now_ns - status.last_heard_ns
        return silence_ns < self._config.timing.suspect_ms * 1_000_000


def _states(services: SERVICES_TYPE) -> list[tuple[Owner, int, bool]]:
    return [(Owner(service.state), service.term, service.out) for service in services]
