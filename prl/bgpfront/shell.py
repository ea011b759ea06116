"""The front of a node: listeners, the other front, prld, and a seat for each peer."""

import asyncio
import contextlib
import errno
import itertools
import json
import logging
import secrets
import socket
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from prl import config as prld_config
from prl.bgpfront.ahead import PositionError
from prl.bgpfront.channel import Channel
from prl.bgpfront.config import Config, Peer, errors
from prl.bgpfront.front import Front
from prl.bgpfront.messages import Begin, ChannelError, Message
from prl.bgpfront.metrics import Facts
from prl.bgpfront.seat import Seat, offers
from prl.bgpfront.session import Settings
from prl.bgpfront.wiring import BGP_PORT, Wire, Wiring
from prl.bindings.steer import DIAL_PORTS, Steering
from prl.client.aio import AsyncNode
from prl.daemon.events.log import EventLog
from prl.daemon.monitoring.exporter import Exporter
from prl.endpoint import Address, Side, parse_endpoint, show_endpoint
from prl.errors import KernelError, PrlError
from prl.kernel import sock_diag
from prl.shadow.md5 import set_key
from prl.shadow.sockopt import CallError

BACKLOG = 64
CLIENTS_MAX = 16
"""Of status, at a time."""
DIAL_TIMEOUT_S = 4.0
DAEMON_DIAL_TIMEOUT_S = 1.0
"""It is on this host: what is not answered by then is not signed as the daemon wants it."""
ACCEPTS_MAX = 16
"""Connections that one turn accepts."""
TTL_MAX = 255
_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73  # linux/in.h, linux/in6.h
_TTL = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL, _IP_MINTTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _IPV6_MINHOPCOUNT),
}
_TRANSPARENT = {
    socket.AF_INET: (socket.IPPROTO_IP, 19),  # IP_TRANSPARENT, linux/in.h
    socket.AF_INET6: (socket.IPPROTO_IPV6, 75),  # IPV6_TRANSPARENT, linux/in6.h
}
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_PASSING = frozenset({errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger("prl.bgp")


class Shell:
    """See the module; run() is its life.

    Args:
        config: the front's.
        daemon: prld's.
        node: prld.

    Raises:
        PrlError: it cannot be wired as things are.
    """

    def __init__(self, config: Config, daemon: prld_config.Config, node: AsyncNode) -> None:
        self._config, self._daemon, self._node = config, daemon, node
        self._seats: dict[Address, Seat] = {}
        self._front = Front([], self._is_unread)
        self._steering: Steering | None = None
        first = secrets.randbelow(len(DIAL_PORTS))
        self._ports = itertools.cycle([*DIAL_PORTS[first:], *DIAL_PORTS[:first]])
        """In turns: what the last connections have left (TIME_WAIT) is not met."""
        self._turns = False
        self._timer: asyncio.TimerHandle | None = None
        self._clients = 0
        self._moves = False
        self._moved = 0
        self._channel = Channel(
            daemon.link,
            daemon.index,
            config.channel_port,
            heard=self._hear,
            up=lambda: self._channel_changed("the other front is there"),
            down=self._on_down,
            room=self._changed,
        )
        check(config, daemon)

    async def run(self, ready: Callable[[], None]) -> None:
        """Until it is cancelled. ``ready`` is called when connections are taken."""
        loop = asyncio.get_running_loop()
        config = self._config
        async with contextlib.AsyncExitStack() as stack:
            wiring = Wiring(
                [Wire(peer.address, peer.local) for peer in config.peer],
                uid=config.uid(),
                interface=self._daemon.lan.interface,
                table=config.table,
            )
            stack.callback(wiring.close)
            wiring.build()
            steering = self._steering = Steering()
            stack.callback(steering.close)
            listeners = [stack.enter_context(Listeners(peer)) for peer in config.peer]
            for each in listeners:
                steering.add(each.peer.address, each.peer.local, each.inner, each.outer)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            settings = Settings(
                routes_max=config.routes_max,
                attributes_max_bytes=config.attributes_max_bytes,
                absorbed=errors(config),
                daemon_return_s=config.daemon_return_s,
            )
            for peer in config.peer:
                self._seats[peer.address] = Seat(
                    peer,
                    settings,
                    node=self._node,
                    channel=self._channel,
                    tasks=tasks,
                    changed=self._changed,
                    tell=_teller(str(peer.address)),
                    dial=self._dial,
                    dial_daemon=self._dial_daemon,
                    daemon_lost=lambda: self._on_daemon_lost(tasks),
                )
            for offer in dict.fromkeys(one for peer in config.peer for one in offers(peer)):
                await self._node.offer(offer)
            tasks.create_task(self._take_shadows())
            tasks.create_task(self._channel.run())
            loop.add_reader(wiring, self._repair, wiring)
            stack.callback(loop.remove_reader, wiring)
            for each in listeners:
                seat = self._seats[each.peer.address]
                self._accept(stack, each.inner, each.ends_of_inner, seat.daemon_connected)
                self._accept(stack, each.outer, each.ends_of_outer, seat.peer_connected)
            steering.attach()
            tasks.create_task(self._serve_status())
            if (listen := self._daemon.metrics.listen) is not None:
                address, _ = parse_endpoint(listen)
                where = show_endpoint(address, config.metrics_port)
                exporter = Exporter(where, EventLog(_log.warning), lambda: Facts(self.status()))
                tasks.create_task(exporter.run())
            ready()
            await asyncio.Event().wait()

    # -- connections

    def _accept(
        self,
        stack: contextlib.AsyncExitStack,
        listener: socket.socket,
        ends: tuple[Address, Address],
        on: Callable[[socket.socket], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._take_connections, listener, ends, on)
        stack.callback(loop.remove_reader, listener)

    def _take_connections(
        self,
        listener: socket.socket,
        ends: tuple[Address, Address],
        on: Callable[[socket.socket], None],
    ) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                sock, remote = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                _log.warning("a connection is not accepted: %s", error.strerror)
                return
            if (_address(sock.getsockname()), _address(remote)) == ends:
                on(sock)
            else:  # somebody on this host has found the listener itself
                sock.close()

    async def _dial(self, peer: Peer) -> socket.socket | None:
        """As a seat asks for it: only who owns the service may speak from its address."""
        try:
            status = await self._node.request({"op": "status"})
            owned = {one["name"] for one in status["services"] if one["state"] == "owner"}
            if owned.isdisjoint(services_of(self._daemon, {peer.local})):
                return None
            sock = outer_socket(peer, peer.key())
        except PrlError as error:
            _log.warning("%s: not connected to: %s", peer.address, error)
            return None
        return await _connect(sock, (peer.local, 0), peer.address, DIAL_TIMEOUT_S)

    async def _dial_daemon(self, peer: Peer) -> socket.socket | None:
        """As a seat asks for it: from the peer's address to the service address."""
        assert self._steering is not None
        port = next(self._ports)
        try:
            sock = inner_socket(peer, peer.key())
            with self._steering.dial(peer.address, peer.local, port):
                source = (peer.address, port)
                return await _connect(sock, source, peer.local, DAEMON_DIAL_TIMEOUT_S)
        except PrlError as error:
            _log.warning("%s: the daemon is not connected to: %s", peer.address, error)
            return None

    async def _take_shadows(self) -> None:
        async for shadow in self._node.shadows():
            seat = self._seats.get(parse_endpoint(shadow.remote)[0])
            if seat is None:
                _log.warning("%s: a session of no peer of ours: not stood by", shadow.remote)
                await shadow.close()
            else:
                seat.given(shadow)

    def _repair(self, wiring: Wiring) -> None:
        try:
            wiring.repair()
        except (KernelError, OSError) as error:
            _log.error("rules and routes cannot be put right: %s", error)

    def _is_unread(self) -> bool:
        """Whether a daemon has not read all: what is its own in its sockets' receive queues."""
        with sock_diag.SockDiag() as diag:
            for seat in self._seats.values():
                sides = seat.daemon_sides
                session = seat.session
                if sides is None or session is None or not session.daemon.connected:
                    continue
                if session.daemon.out:
                    return True
                with contextlib.suppress(OSError):  # it has just ended
                    if diag.find(seat.peer.family, sock_diag.identity(*sides)).unread_bytes:
                        return True
        return False

    # -- the other front

    def _hear(self, message: Message) -> None:
        try:
            if isinstance(message, Begin):
                seat = self._seats.get(message.peer)
                if seat is None:
                    raise ChannelError(f"{message.peer} is no peer here: give both the same file")
                seat.hear(message)
                return
            for seat in self._seats.values():
                if seat.knows(message.session):
                    seat.hear(message)
                    return
        except PositionError as error:
            self._channel.give_up(f"the other front and this one do not fit together: {error}")

    def _on_down(self, why: str) -> None:
        for seat in self._seats.values():
            seat.channel_is_down(why)
        self._channel_changed(why)

    def _channel_changed(self, why: str) -> None:
        _log.warning("channel: %s", why)
        self._changed()

    # -- the daemon's death

    def _on_daemon_lost(self, tasks: asyncio.TaskGroup) -> None:
        if self._config.move_on_death and not self._moves:
            self._moves = True
            tasks.create_task(self._move())

    async def _move(self) -> None:
        """Give the other node the services, if no session has a daemon here, and all would go on.

        As long as one has, the daemon lives: an administrator has cleared the others.
        """
        seats = self._seats.values()
        owned = [seat for seat in seats if seat.is_owner]
        try:
            if any(seat.has_daemon for seat in seats) or any(seat.because for seat in owned):
                return
            for service in services_of(self._daemon, {seat.peer.local for seat in owned}):
                _log.warning("the daemon is gone, the other node's is ready: %s moves", service)
                await self._node.request({"op": "switchover", "service": service, "forced": False})
                self._moved += 1
        except PrlError as error:
            _log.warning("the service stays: %s", error)
        finally:
            self._moves = False

    # -- turns

    def _changed(self) -> None:
        if not self._turns:
            self._turns = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turns = False
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._front.sessions = [
            session for seat in self._seats.values() if (session := seat.session) is not None
        ]
        due = [self._front.tick(now), *(seat.turn(now) for seat in self._seats.values())]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if times := [at for at in due if at is not None]:
            self._timer = loop.call_at(min(times), self._changed)

    # -- status

    async def _serve_status(self) -> None:
        sock = _control_socket(Path(self._config.socket))
        async with await asyncio.start_unix_server(self._answer, sock=sock) as server:
            await server.serve_forever()

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients < CLIENTS_MAX:
            self._clients += 1
            try:
                writer.write(json.dumps(self.status()).encode())
                await writer.drain()
            except OSError:
                pass
            finally:
                self._clients -= 1
        writer.close()

    def status(self) -> dict[str, object]:
        """What an operator is shown."""
        up = self._channel.is_up
        peers = [seat.status() for seat in self._seats.values()]
        return {
            "ready": up and not any(peer["because"] for peer in peers),
            "channel": "up" if up else "down",
            "channel_why": "" if up else self._channel.why_down,
            "moves": self._moved,
            "peers": peers,
        }

    def summary(self) -> str:
        """In a line, for the service manager."""
        up = self._channel.is_up
        owned = sum(seat.is_owner for seat in self._seats.values())
        return f"{len(self._seats)} peers, {owned} sessions are this node's; channel " + (
            "up" if up else f"down: {self._channel.why_down}"
        )


def services_of(daemon: prld_config.Config, addresses: AbstractSet[Address]) -> list[str]:
    """Names of the services that have these addresses."""
    return [
        service.name
        for service in daemon.service
        if not service.instance and addresses & set(service.addresses)
    ]


def check(config: Config, daemon: prld_config.Config) -> None:
    """Refuse what cannot be, with the reason. Raises PrlError."""
    for peer in config.peer:
        if not services_of(daemon, {peer.local}):
            raise PrlError(
                f"peer.local: {peer.local} is no service address of prld's on the network of "
                "[lan]; give one (peers in routing instances are not supported yet)"
            )


def _control_socket(path: Path) -> socket.socket:
    """Where status is asked for: root's alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.bind(str(path))
    path.chmod(0o600)
    return sock


def _teller(who: str) -> Callable[[str], None]:
    return lambda words: _log.warning("%s: %s", who, words)


class Listeners:
    """The two of a peer, on the loopback; what they take is steered to them.

    Attributes:
        peer: whose.
        inner: takes the daemon's connections; its own speak from the peer's address.
        outer: takes the peer's.

    Raises:
        PrlError: there is no such key, or the kernel refuses.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        key = peer.key()
        with contextlib.ExitStack() as stack:
            self.inner = stack.enter_context(inner_socket(peer, key))
            self.outer = stack.enter_context(outer_socket(peer, key))
            for listener in (self.inner, self.outer):
                listener.bind((_LOOPBACK[peer.family], 0))
                listener.listen(BACKLOG)
            self._stack = stack.pop_all()

    @property
    def ends_of_inner(self) -> tuple[Address, Address]:
        """Local and remote address of what ``inner`` takes."""
        return self.peer.address, self.peer.local

    @property
    def ends_of_outer(self) -> tuple[Address, Address]:
        """Local and remote address of what ``outer`` takes."""
        return self.peer.local, self.peer.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def inner_socket(peer: Peer, key: bytes) -> socket.socket:
    """Towards the daemon; it may have the peer's address. Raises KernelError."""
    sock = _socket(peer, key, peer.local)
    sock.setsockopt(*_TRANSPARENT[peer.family], 1)
    return sock


def outer_socket(peer: Peer, key: bytes) -> socket.socket:
    """Towards the peer. Raises KernelError."""
    sock = _socket(peer, key, peer.address)
    if peer.ttl_security_hops:
        level, _, least = _TTL[peer.family]
        sock.setsockopt(level, least, TTL_MAX + 1 - peer.ttl_security_hops)
    return sock


def _socket(peer: Peer, key: bytes, remote: Address) -> socket.socket:
    sock = socket.socket(peer.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # What a listener accepts has all of it, too. SO_REUSEADDR: else a daemon that starts could
        # not bind to the port. The greatest TTL: daemon and peer may both want it (RFC 5082).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        level, ttl, _ = _TTL[peer.family]
        sock.setsockopt(level, ttl, TTL_MAX)
        if peer.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if key:
            set_key(sock, str(remote), key)
    except (OSError, CallError) as error:
        sock.close()
        raise KernelError(f"{peer.address}: no socket for it: {error}") from error
    return sock


async def _connect(
    sock: socket.socket, source: Side, target: Address, timeout_s: float
) -> socket.socket | None:
    """To BGP's port; None, with the socket closed: it cannot be now."""
    try:
        sock.bind((str(source[0]), source[1]))
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, (str(target), BGP_PORT))
    except (OSError, TimeoutError):  # it is not there, or does not want to: as ever with BGP
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


def _address(name: tuple[Any, ...]) -> Address:
    return ip_address(name[0])
