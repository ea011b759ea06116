"""One lab for many sessions, whose applications are the test itself.

The application on the owning node dies by closing its connection to prld: the other node goes on at
once (SPEC R22), and is the owner of the next session. So a failover costs no more than its bytes.
"""

import ctypes
import json
import random
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Self

from prl.client import Node, Session, Shadow
from prl.endpoint import show_endpoint
from prl.kernel.tcp_info import TcpState
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.shadow import TcpSnapshot, adopt, discard, restore, take
from prl.shadow.md5 import key_of, set_key
from prl.shadow.snapshot import RepairWindow
from prl.shadow.sockopt import tcp_info
from tests.system.support import (
    PATIENCE_S,
    eventually,
    newest_shadow,
    protect,
    service_address,
)

rng = random.Random(793)
ABORT = struct.pack("=ii", 1, 0)  # struct linger: close() resets
_libc = ctypes.CDLL(None, use_errno=True)
_AF_UNSPEC = struct.pack("=H14x", socket.AF_UNSPEC)

Prepare = Callable[[socket.socket], None]


def nothing(_: socket.socket) -> None:
    """No preparation."""


def state_of(sock: socket.socket) -> TcpState:
    return TcpState(tcp_info(sock).state)


def await_state(sock: socket.socket, *states: TcpState) -> None:
    eventually(f"a socket in {states}", lambda: state_of(sock) in states)


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    found = bytearray()
    while len(found) < count:
        data = sock.recv(count - len(found))
        assert data, f"the stream ended after {len(found)} of {count} bytes"
        found += data
    return bytes(found)


def abort(sock: socket.socket) -> None:
    """RST, though somebody else holds the socket too (tcp_disconnect, net/ipv4/tcp.c)."""
    assert _libc.connect(sock.fileno(), _AF_UNSPEC, len(_AF_UNSPEC)) == 0


@dataclass
class Live:
    """A session and its three sockets."""

    pair: "Pair"
    peer: socket.socket
    app: socket.socket
    session: Session
    shadow: Shadow

    @property
    def standby(self) -> socket.socket:
        """The shadow's socket."""
        return self.shadow.sock

    def states(self) -> tuple[str, str, str]:
        """Of peer, primary and shadow."""
        return tuple(state_of(s).name for s in (self.peer, self.app, self.standby))

    def are(self, peer: str, primary: str, shadow: str) -> None:
        """Wait until the three states are these."""
        wanted = (peer, primary, shadow)
        try:
            eventually("", lambda: self.states() == wanted)
        except AssertionError:
            raise AssertionError(f"{self.states()} instead of {wanted}") from None

    def shadow_state(self) -> str:
        return state_of(self.standby).name

    def went_on(self, peer: str, owner: str) -> None:
        """Wait until the two that are left after a failover are in these states."""
        wanted = (peer, owner)

        def found() -> tuple[str, str]:
            return state_of(self.peer).name, state_of(self.standby).name

        try:
            eventually("", lambda: found() == wanted)
        except AssertionError:
            raise AssertionError(f"{found()} instead of {wanted}") from None

    def fail_over(self) -> None:
        """The application dies; what was the shadow is the session."""
        self.pair.fail_over()
        self.shadow.wait_taken_over(PATIENCE_S)
        self.app.close()

    def close(self) -> None:
        """Both ends, after a failover: what died with its application has no socket, either."""
        self.peer.close()
        self.standby.close()


class Pair:
    """The lab, and an application's connection to prld on each node."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.owner, self.other = "re0", "re1"
        self._nodes: dict[str, Node] = {}
        self._open: list[socket.socket] = []
        self.peer_place = Namespace(lab.topology.peer.namespace)

    def __enter__(self) -> Self:
        for name in (self.owner, self.other):
            self._connect(name)
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sockets()
        for node in self._nodes.values():
            node.close()

    def _connect(self, name: str) -> None:
        node = Node(self.lab.state.socket(self.lab.topology.node(name)))
        self._nodes[name] = node

    def place(self, name: str) -> Namespace:
        return Namespace(self.lab.topology.node(name).namespace)

    def node(self, name: str) -> Node:
        return self._nodes[name]

    def fail_over(self) -> None:
        """The application on the owner dies, with all its sessions; the roles change."""
        self._nodes[self.owner].close()
        self._connect(self.owner)
        self.owner, self.other = self.other, self.owner

    def key_of(self, name: str, sock: socket.socket) -> bytes:
        """The key of a socket of that node's."""
        return self.place(name).call(lambda: key_of(sock))

    # -- sessions

    def connect(
        self,
        family: int,
        *,
        listener: Prepare = nothing,
        peer: Prepare = nothing,
        key: bytes = b"",
        protocol: int = socket.IPPROTO_TCP,
    ) -> tuple[socket.socket, socket.socket]:
        """A connection of the peer's and the owner's, not protected yet."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        service, client = service_address(family), self._peer_address(family)

        def listen() -> socket.socket:
            made = socket.socket(kind, socket.SOCK_STREAM, protocol)
            made.settimeout(PATIENCE_S)
            if key:
                set_key(made, client, key)
            listener(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((service, 0))
            made.listen(1)
            return made

        def call(port: int) -> socket.socket:
            made = socket.socket(kind, socket.SOCK_STREAM, protocol)
            made.settimeout(PATIENCE_S)
            if key:
                set_key(made, service, key)
            peer(made)
            made.connect((service, port))
            return made

        with self.place(self.owner).call(listen) as listening:
            port = listening.getsockname()[1]
            there = self.peer_place.call(lambda: call(port))
            here, _ = listening.accept()
        here.settimeout(PATIENCE_S)
        self._open += [there, here]
        return there, here

    def open(self, family: int, *, key: bytes = b"") -> tuple[socket.socket, socket.socket]:
        """A connection that the owner opens to the peer, from the service address."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        service, client = service_address(family), self._peer_address(family)

        def listen() -> socket.socket:
            made = socket.socket(kind, socket.SOCK_STREAM)
            made.settimeout(PATIENCE_S)
            if key:
                set_key(made, service, key)
            made.bind((client, 0))
            made.listen(1)
            return made

        def call(port: int) -> socket.socket:
            made = socket.socket(kind, socket.SOCK_STREAM)
            made.settimeout(PATIENCE_S)
            if key:
                set_key(made, client, key)
            made.bind((service, 0))
            made.connect((client, port))
            return made

        with self.peer_place.call(listen) as listening:
            port = listening.getsockname()[1]
            here = self.place(self.owner).call(lambda: call(port))
            there, _ = listening.accept()
        there.settimeout(PATIENCE_S)
        self._open += [there, here]
        return there, here

    def _peer_address(self, family: int) -> str:
        lan = self.lab.topology.peer.lan
        return str(lan.ipv4.ip if family == 4 or lan.ipv6 is None else lan.ipv6.ip)

    def protect(
        self,
        peer: socket.socket,
        app: socket.socket,
        *,
        patient: bool = True,
        opened: bool = False,
    ) -> Live:
        """Have the session shadowed. Raises what Node.replicate() raises.

        A set-up that takes too long on a busy machine is tried again by prld, if ``patient``.
        ``opened``: the other node's application waits for it by the peer's end.
        """
        local, remote = (
            (ip_address(name[0]), name[1]) for name in (app.getsockname(), app.getpeername())
        )
        waits_for = f"{local[0]}>{show_endpoint(*remote)}" if opened else show_endpoint(*local)
        self.node(self.other).offer(waits_for)
        node = self.node(self.owner)
        session = protect(node, app) if patient else node.replicate(app)
        return Live(self, peer, app, session, self.next_shadow())

    def next_shadow(self) -> Shadow:
        """What the standby's application is given."""
        shadow = newest_shadow(self.node(self.other))
        shadow.sock.settimeout(PATIENCE_S)
        self._open.append(shadow.sock)
        return shadow

    def session(self, family: int, **how: Any) -> Live:
        """A protected session."""
        return self.protect(*self.connect(family, **how))

    def forge(
        self, family: int, peer_seq: int, app_seq: int, *, key: bytes = b"", stamps: bool = False
    ) -> tuple[socket.socket, socket.socket]:
        """A connection that no handshake makes: its streams begin at these numbers.

        With timestamps beside a signature, too, which Linux never agrees upon but other stacks do.
        """
        peer, app = self.connect(family)
        places = self.peer_place, self.place(self.owner)
        taken = [
            place.call(lambda sock=sock: take(sock))
            for place, sock in zip(places, (peer, app), strict=True)
        ]
        for sock in (peer, app):
            discard(sock)

        def make(before: TcpSnapshot, snd: int, rcv: int) -> socket.socket:
            forged = replace(
                before,
                rcv_seq=rcv,
                snd_seq=snd,
                mss=1400,
                window_scaling=True,
                snd_wscale=7,
                rcv_wscale=7,
                sack=False,
                timestamps=stamps,
                repair_window=RepairWindow(rcv, 60_000, 60_000, 60_000, rcv),
                md5_key=key,
            )
            made = restore(forged, congestion=None, rcvbuf_bytes=0, sndbuf_bytes=0)
            adopt(made, forged)
            made.settimeout(PATIENCE_S)
            return made

        peer = places[0].call(lambda: make(taken[0], peer_seq, app_seq))
        app = places[1].call(lambda: make(taken[1], app_seq, peer_seq))
        self._open += [peer, app]
        return peer, app

    # -- what is told

    def ask(self, name: str, operation: str, **arguments: Any) -> dict[str, Any]:
        return self.node(name).request({"op": operation, **arguments})

    def stats(self, name: str) -> dict[str, int]:
        counters: dict[str, int] = self.ask(name, "stats")["datapath"]
        return counters

    def link(self, name: str) -> dict[str, Any]:
        return self.ask(name, "link_show")

    def everything_said(self, name: str, live: Live) -> str:
        """All that this node tells of a session, and its log."""
        handle = live.session.handle
        told = [
            self.ask(name, op) for op in ("status", "stats", "flow_list", "link_show", "events")
        ]
        told.append(self.ask(name, "flow_show", handle=handle))
        log = self.lab.state.log(self.lab.topology.node(name))
        return json.dumps(told) + log.read_text(errors="replace")

    def close_sockets(self) -> None:
        """Away with all, whatever state they are in."""
        while self._open:
            self._open.pop().close()

    # -- the network

    @contextmanager
    def peer_hears_nothing(self) -> Iterator[None]:
        """What the service sends to the peer is lost for a while."""
        rules = "type filter hook input priority 0; policy accept;\nmeta l4proto tcp drop"
        self._nft("-f", "-", stdin=f"table inet prltest {{\nchain lost {{\n{rules}\n}}\n}}\n")
        try:
            yield
        finally:
            self._nft("delete", "table", "inet", "prltest")

    def _nft(self, *words: str, stdin: str = "") -> None:
        argv = self.peer_place.command(["nft", *words])
        subprocess.run(argv, input=stdin, text=True, check=True, timeout=PATIENCE_S)

    @contextmanager
    def peer_sysctls(self, values: Mapping[str, int]) -> Iterator[None]:
        """net.ipv4 sysctls of the peer's, for connections made meanwhile; each is 1 otherwise."""
        self.peer_place.set_sysctls({f"net/ipv4/{name}": value for name, value in values.items()})
        try:
            yield
        finally:
            self.peer_place.set_sysctls({f"net/ipv4/{name}": 1 for name in values})


def exchange(left: socket.socket, right: socket.socket, count: int) -> None:
    """Random bytes in both directions at once; each end must read what the other wrote."""
    due = {left: rng.randbytes(count), right: rng.randbytes(count)}
    other = {left: right, right: left}
    written, read = {left: 0, right: 0}, {left: bytearray(), right: bytearray()}
    patience = {sock: sock.gettimeout() for sock in due}
    for sock in due:
        sock.setblocking(False)
    try:
        while any(len(data) < count for data in read.values()):
            writers = [sock for sock in due if written[sock] < count]
            readable, writable, _ = select.select(list(due), writers, [], PATIENCE_S)
            progress = {s.getsockname()[1]: (written[s], len(read[s])) for s in due}
            assert readable or writable, f"stalled: (written, read) by port {progress} of {count}"
            for sock in writable:
                written[sock] += sock.send(due[sock][written[sock] : written[sock] + 65536])
            for sock in readable:
                data = sock.recv(65536)
                assert data, "the stream ended early"
                read[sock] += data
    finally:
        for sock, timeout in patience.items():
            sock.settimeout(timeout)
    for sock in due:
        assert read[sock] == due[other[sock]]


def traffic(live: Live, count: int) -> None:
    """Both directions before a failover, what the shadow's application reads, and both after it."""
    assert carry(live.peer, live.app, count) == receive(live.standby, count)
    carry(live.app, live.peer, count)
    live.are("ESTABLISHED", "ESTABLISHED", "ESTABLISHED")
    live.fail_over()
    exchange(live.peer, live.standby, count)
    live.went_on("ESTABLISHED", "ESTABLISHED")


def carry(source: socket.socket, target: socket.socket, count: int) -> bytes:
    """Random bytes in one direction; what was written is what is read."""
    data = rng.randbytes(count)
    with ThreadPoolExecutor(1) as executor:
        writing = executor.submit(source.sendall, data)
        assert receive(target, count) == data
        writing.result()
    return data
