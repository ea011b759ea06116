"""UDP flows: both nodes' applications read the very same datagrams, and one goes on alone.

Checks R1a, R17.
"""

import ctypes
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from prl.client import Node, NotProtectedError, Session, Shadow, ShadowNotOwned, ShadowVoid
from prl.errors import PrlError, UsageError
from prl.lab import Lab, stretch
from prl.lab.netns import Namespace
from tests.system.serving import lab_name
from tests.system.support import MODE, newest_shadow, protect

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops")

PATIENCE_S = 20.0 * stretch.factor()
POLL_S = 0.01
PORT = 7100
NUMBER = struct.Struct("!I")
BURST = 32  # the peer waits for the application after so many: nothing on the way is full
MTU_BYTES = 1500
SO_ATTACH_FILTER = 26
FAMILIES = (4, 6)
IN_EACH_MODE = [
    *((family, "native") for family in FAMILIES),
    *(pytest.param(f, "generic", marks=pytest.mark.needs("long_packets")) for f in FAMILIES),
    *(pytest.param(f, "kernel", marks=pytest.mark.needs("nfqueue")) for f in FAMILIES),
]
IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h
UDP_SEGMENT = 103  # linux/udp.h
SEGMENT_BYTES = 1400


def numbered(number: int) -> bytes:
    """Datagram ``number``: of every size that fits into a packet, the smallest of 4 bytes."""
    return NUMBER.pack(number) + bytes([number & 0xFF]) * (number * 37 % 1400)


class Reader:
    """An application that reads in a thread of its own, until its socket is no more."""

    def __init__(self, source: socket.socket | Shadow) -> None:
        self.got: list[bytes] = []
        self.senders: list[Any] = []
        self.error: BaseException | None = None
        self._sock = source.sock if isinstance(source, Shadow) else source
        self._recv = source.recvfrom
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while True:
                data, sender = self._recv(65536)
                if self._stopping:
                    return
                with self._changed:
                    self.got.append(data)
                    self.senders.append(sender)
                    self._changed.notify_all()
        except (OSError, PrlError) as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def stop(self) -> None:
        self._stopping = True
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._sock.close()

    def await_last(self, data: bytes) -> None:
        """Wait until ``data`` was read."""
        with self._changed:
            found = self._changed.wait_for(lambda: data in self.got[-1:], PATIENCE_S)
        assert found, f"{data[:20]!r} is not the last of {len(self.got)}; {self.error}"

    def await_error(self) -> BaseException:
        """Wait until the socket has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.error is not None, PATIENCE_S)
        assert self.error is not None
        return self.error


class Scene:
    """A lab, an application on each node, and a peer; all sockets are the test's own."""

    def __init__(self, lab: Lab, family: int, stack: ExitStack) -> None:
        self.lab = lab
        self._stack = stack
        topology = lab.topology
        service = topology.service
        self.address = str(service.ipv4 if family == 4 else service.ipv6)
        self.kind = socket.AF_INET if family == 4 else socket.AF_INET6
        lan = topology.peer.lan
        peer_address = str(lan.ipv4.ip if family == 4 or lan.ipv6 is None else lan.ipv6.ip)
        self._peer_address = peer_address
        self.peer = self.new_peer()
        self.nodes = [
            stack.enter_context(closing(Node(lab.state.socket(node)))) for node in topology.nodes
        ]
        self.sock = self.new_socket()
        for node, state in zip(self.nodes, ("owner", "standby"), strict=True):
            self._await_state(node, state)

    def unbound(self) -> socket.socket:
        """A socket of the application's, as it came."""
        return self._stack.enter_context(self._socket("re0"))

    def new_socket(self) -> socket.socket:
        """A socket of the application's at the service's port."""
        sock = self.unbound()
        sock.bind((self.address, PORT))
        return sock

    def new_peer(self) -> socket.socket:
        """A socket of the peer's host with a port of its own."""
        peer = self._stack.enter_context(self._socket("peer"))
        peer.bind((self._peer_address, 0))
        peer.connect((self.address, PORT))
        peer.settimeout(PATIENCE_S)
        return peer

    def _await_state(self, node: Node, state: str) -> None:
        until(lambda: node.request({"op": "status"})["services"][0]["state"] == state, state)

    def _socket(self, where: str) -> socket.socket:
        place = Namespace(self.lab.topology.namespaces[where])
        sock = place.call(lambda: socket.socket(self.kind, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock

    @property
    def endpoint(self) -> str:
        host = self.address if self.kind == socket.AF_INET else f"[{self.address}]"
        return f"udp:{host}:{PORT}"

    def offer(self) -> None:
        self.nodes[1].offer(self.endpoint)

    def connect(self) -> None:
        self.sock.connect(self.peer.getsockname())

    def protect(self) -> tuple[Session, Shadow]:
        self.connect()
        return self.protect_unconnected()

    def protect_unconnected(self) -> tuple[Session, Shadow]:
        self.offer()
        session = protect(self.nodes[0], self.sock, b"opaque")
        return session, self.shadow()

    def shadow(self) -> Shadow:
        shadow = newest_shadow(self.nodes[1])
        self._stack.callback(shadow.sock.close)
        return shadow

    def read(self, source: socket.socket | Shadow) -> Reader:
        reader = Reader(source)
        self._stack.callback(reader.stop)
        return reader

    def send(self, first: int, count: int, reader: Reader, *more: socket.socket) -> None:
        """Datagrams from the peer, and by turns from ``more`` of its sockets."""
        peers = (self.peer, *more)
        for number in range(first, first + count):
            peers[number % len(peers)].send(numbered(number))
            if (number + 1 - first) % BURST == 0:
                reader.await_last(numbered(number))
        reader.await_last(numbered(first + count - 1))

    def flow(self, node: int, handle: int) -> dict[str, Any]:
        found: dict[str, Any] = self.nodes[node].request({"op": "flow_show", "handle": handle})
        return dict(found["flow"])

    def fragments(self) -> int:
        return int(self.nodes[0].request({"op": "stats"})["kernel"]["fragments"])


@pytest.fixture
def make_scene(request: pytest.FixtureRequest) -> Iterator[Callable[..., Scene]]:
    with ExitStack() as stack:

        def make(family: int = 4, mode: str = MODE) -> Scene:
            lab = Lab(lab_name("u13" + request.node.originalname.removeprefix("test_")))
            stack.callback(lab.down)
            lab.up(mode)
            return Scene(lab, family, stack)

        yield make


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(POLL_S)


@pytest.mark.parametrize(("family", "mode"), IN_EACH_MODE)
def test_both_read_the_same_and_one_goes_on(
    make_scene: Callable[..., Scene], family: int, mode: str
) -> None:
    scene = make_scene(family, mode)
    session, shadow = scene.protect()
    assert session.state == "active"
    assert shadow.application == b"opaque"
    assert shadow.local == scene.endpoint.removeprefix("udp:")
    assert scene.flow(0, session.handle)["protocol"] == "udp"
    primary, standby = scene.read(scene.sock), scene.read(shadow)

    scene.send(0, 1000, primary)
    scene.peer.send(b"")  # an empty datagram is one
    scene.send(1000, 1000, primary)
    standby.await_last(numbered(1999))
    assert primary.got == standby.got
    assert primary.got == [*map(numbered, range(1000)), b"", *map(numbered, range(1000, 2000))]

    with pytest.raises(ShadowNotOwned):
        shadow.sock.sendto(b"no", ("192.0.2.1", 1))
    socket.socket.send(shadow.sock, b"silenced")  # what an application does that does not care
    scene.sock.send(b"output")
    assert scene.peer.recv(100) == b"output"

    scene.lab.fail("re0", "power")
    assert shadow.wait_taken_over(PATIENCE_S).out_bytes == 0
    scene.send(2000, 500, standby)
    assert standby.got[-500:] == [numbered(n) for n in range(2000, 2500)]
    shadow.sock.send(b"from the other node")
    assert scene.peer.recv(100) == b"from the other node"
    handle = shadow.handle
    standby.stop()
    shadow.close()
    with pytest.raises(UsageError, match="no flow"):
        scene.flow(1, handle)


def test_fragments_are_refused_at_the_gate_and_counted(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(6)
    session, shadow = scene.protect()
    primary, standby = scene.read(scene.sock), scene.read(shadow)
    scene.peer.send(b"before")
    scene.peer.send(bytes(3 * MTU_BYTES))
    until(lambda: scene.flow(0, session.handle)["counters"]["gate_refused"] == 1, "no refusal")
    assert scene.fragments() >= 3
    scene.peer.send(b"after")
    for reader in (primary, standby):
        reader.await_last(b"after")
        assert reader.got == [b"before", b"after"]
    # A refusal at the gate is no difference: longer than the datapath takes to look for one.
    until(
        lambda: scene.flow(0, session.handle)["socket"]["drops"] >= 1, "not counted by the socket"
    )
    time.sleep(0.5)
    assert session.state == "active"

    session.close()  # not replicated any more, the socket gets whole what is cut on the way
    until(lambda: session.state == "closed", "it is not closed")
    scene.peer.send(bytes(3 * MTU_BYTES))
    primary.await_last(bytes(3 * MTU_BYTES))
    assert isinstance(standby.await_error(), ShadowVoid)


def test_datagrams_that_come_several_in_a_packet_end_the_protection(
    make_scene: Callable[..., Scene],
) -> None:
    """Of UDP_SEGMENT: the owner's kernel cuts the packet, the standby's would not (I1)."""
    scene = make_scene(4, "kernel")
    session, shadow = scene.protect()
    primary, standby = scene.read(scene.sock), scene.read(shadow)
    scene.send(0, 10, primary)
    standby.await_last(numbered(9))
    datagrams = [bytes([number]) * SEGMENT_BYTES for number in range(40)]
    scene.peer.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT_BYTES)
    scene.peer.send(b"".join(datagrams))
    primary.await_last(datagrams[-1])
    assert primary.got[10:] == datagrams
    assert isinstance(standby.await_error(), ShadowVoid)
    assert standby.got == primary.got[:10]
    assert scene.nodes[0].request({"op": "stats"})["datapath"]["rx_uncut"] == 1
    scene.peer.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    until(lambda: session.state == "active", "it is not protected again")
    scene.shadow()  # closed at the end


@pytest.mark.parametrize(("family", "mode"), IN_EACH_MODE)
def test_a_socket_with_many_peers(make_scene: Callable[..., Scene], family: int, mode: str) -> None:
    scene = make_scene(family, mode)
    session, shadow = scene.protect_unconnected()
    assert session.state == "active"
    assert (shadow.local, shadow.remote) == (scene.endpoint.removeprefix("udp:"), "*")
    for node in scene.nodes:
        (flow,) = node.request({"op": "flow_list"})["flows"]
        assert (flow["protocol"], flow["remote"]) == ("udp", "*")
    other = scene.new_peer()
    ends = [scene.peer.getsockname(), other.getsockname()]
    primary, standby = scene.read(scene.sock), scene.read(shadow)

    scene.send(0, 2000, primary, other)
    other.send(b"")
    other.send(b"last")
    for reader in (primary, standby):
        reader.await_last(b"last")
        assert reader.got == [*map(numbered, range(2000)), b"", b"last"]
        assert reader.senders == [*(ends * 1000), ends[1], ends[1]]
    assert scene.nodes[0].request({"op": "stats"})["datapath"]["link_elided_packets"] == 0

    for peer, end in zip((scene.peer, other), ends, strict=True):
        with pytest.raises(ShadowNotOwned):
            shadow.sock.sendto(b"no", end)
        socket.socket.sendto(shadow.sock, b"silenced", end)
        scene.sock.sendto(b"output", end)
        assert peer.recv(100) == b"output"

    scene.lab.fail("re0", "power")
    shadow.wait_taken_over(PATIENCE_S)
    late = scene.new_peer()  # nobody knew it before
    scene.send(2000, 500, standby, other, late)
    assert standby.got[-500:] == [*map(numbered, range(2000, 2500))]
    assert set(standby.senders[-500:]) == {*ends, late.getsockname()}
    for peer in (scene.peer, other, late):
        shadow.sock.sendto(b"from the other node", peer.getsockname())
        assert peer.recv(100) == b"from the other node"


def test_a_shadow_without_a_peer_ends_with_its_session(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    session, shadow = scene.protect_unconnected()
    primary = scene.read(scene.sock)
    scene.send(0, 1, primary)
    assert shadow.recv(100) == numbered(0)
    standby = scene.read(shadow)
    session.close()
    assert isinstance(standby.await_error(), ShadowVoid)
    scene.send(1, 1, primary)  # whose socket is as it was


@pytest.mark.parametrize("family", FAMILIES)
def test_a_socket_with_many_peers_reads_icmp_errors_that_it_asked_for(
    make_scene: Callable[..., Scene], family: int
) -> None:
    scene = make_scene(family)
    level, option = (
        (socket.IPPROTO_IP, IP_RECVERR) if family == 4 else (socket.IPPROTO_IPV6, IPV6_RECVERR)
    )
    session, shadow = scene.protect_unconnected()
    for sock in (scene.sock, shadow.sock):
        sock.setsockopt(level, option, 1)
    primary, standby = scene.read(scene.sock), scene.read(shadow)
    scene.send(0, 10, primary)
    gone = scene.peer.getsockname()
    scene.peer.close()
    scene.sock.sendto(b"to nobody", gone)
    assert isinstance(primary.await_error(), ConnectionRefusedError)
    assert isinstance(standby.await_error(), ConnectionRefusedError)
    assert session.state == "active"


def test_what_shares_its_port_with_a_socket_of_many_peers_is_refused(
    make_scene: Callable[..., Scene],
) -> None:
    scene = make_scene()
    scene.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with pytest.raises(UsageError, match="SO_REUSEPORT"):
        scene.nodes[0].replicate(scene.sock)
    scene.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    scene.protect_unconnected()
    connected = scene.new_socket()
    connected.connect(scene.peer.getsockname())
    with pytest.raises(UsageError, match="another socket of that port"):
        scene.nodes[0].replicate(connected)
    with pytest.raises(UsageError, match="no service address; bind to one"):
        scene.nodes[0].replicate(scene.unbound())


def test_unread_datagrams_delay_the_protection(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    scene.connect()
    scene.offer()
    scene.peer.send(b"unread")
    until(lambda: scene.sock.recv(100, socket.MSG_PEEK) == b"unread", "it did not come")
    with pytest.raises(NotProtectedError, match="empty receive queue") as caught:
        scene.nodes[0].replicate(scene.sock)
    session = caught.value.session
    assert session is not None
    primary = scene.read(scene.sock)
    session.wait_state("active", timeout=PATIENCE_S)
    standby = scene.read(scene.shadow())
    scene.send(0, 100, primary)
    standby.await_last(numbered(99))
    assert primary.got == [b"unread", *standby.got]


def test_what_one_side_has_no_room_for_neither_gets(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    session, shadow = scene.protect()
    primary = scene.read(scene.sock)
    big = bytes(1400)

    def refused() -> int:
        return int(scene.flow(0, session.handle)["counters"]["dropped_nack"])

    sent = 0
    while refused() < 100:  # the standby does not read
        for _ in range(BURST):
            scene.peer.send(NUMBER.pack(sent) + big)
            sent += 1
        assert sent < 100_000, "there is room without end"
    standby = scene.read(shadow)
    until(lambda: len(standby.got) > 1000, "the standby reads nothing")
    while True:  # until one gets through behind all others
        scene.peer.send(last := NUMBER.pack(sent))
        sent += 1
        time.sleep(POLL_S)
        if primary.got[-1] == last and standby.got[-1] == last:
            break
        assert sent < 200_000
    assert primary.got == standby.got
    assert len(primary.got) < sent
    assert session.state == "active"


def test_a_socket_that_lost_a_datagram_ends_the_replication(
    make_scene: Callable[..., Scene],
) -> None:
    scene = make_scene()
    session, shadow = scene.protect()
    primary, standby = scene.read(scene.sock), scene.read(shadow)
    # struct sock_fprog of one instruction, "return 0": in place of the gate it drops everything.
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(instruction))
    shadow.sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    scene.peer.send(b"lost")
    assert re.search("differ|diverged", str(standby.await_error()))
    primary.await_last(b"lost")
    # A new snapshot follows by itself.
    again = scene.shadow()
    session.wait_state("active", timeout=PATIENCE_S)
    standby = scene.read(again)
    scene.send(0, 10, primary)
    standby.await_last(numbered(9))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_icmp_error_is_read_by_both(make_scene: Callable[..., Scene], family: int) -> None:
    scene = make_scene(family)
    session, shadow = scene.protect()
    primary, standby = scene.read(scene.sock), scene.read(shadow)
    scene.send(0, 10, primary)
    scene.peer.close()
    scene.sock.send(b"to nobody")
    assert isinstance(primary.await_error(), ConnectionRefusedError)
    assert isinstance(standby.await_error(), ConnectionRefusedError)
    assert session.state == "active"


@pytest.mark.parametrize("connected", [True, False])
def test_the_death_of_the_application_is_no_end(
    make_scene: Callable[..., Scene], *, connected: bool
) -> None:
    scene = make_scene()
    _, shadow = scene.protect() if connected else scene.protect_unconnected()
    primary, standby = scene.read(scene.sock), scene.read(shadow)
    scene.send(0, 10, primary)
    scene.nodes[0].close()  # as the kernel does for a process that dies
    shadow.wait_taken_over(PATIENCE_S)
    scene.send(10, 100, standby)
    assert standby.got == [*map(numbered, range(110))]
