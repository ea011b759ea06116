"""What TCP tells of the sessions of service addresses (SPEC R31)."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from prl._core import ffi, lib

from prl.bindings.steer import DIAL_PORTS
from prl.endpoint import mapped, unmapped
from tests.kernel.bpf_lab import (
    PEER4,
    PEER6,
    PORT,
    SERVICE4,
    SERVICE6,
    Address,
    Bench,
    inside,
    ip,
    until,
)

pytestmark = pytest.mark.needs("root", "bpf")

OTHER4 = PEER4 + 5
"""An address of the node's that is no service's."""


@dataclass
class Lab:
    """A bench whose kernel tells, and connections through it."""

    bench: Bench
    stack: ExitStack
    born: list[int] = field(default_factory=list)
    """Cookies of the sockets that were told to be established."""

    def connect(
        self, to: Address = SERVICE4, port: int = PORT
    ) -> tuple[socket.socket, socket.socket]:
        """A connection of the peer's: the node's end, the peer's end."""
        with inside(self.bench.node_ns):
            listener = self.stack.enter_context(socket.create_server((str(to), port)))
        with inside(self.bench.peer_ns):
            peer = self.stack.enter_context(socket.create_connection((str(to), port)))
        return self.stack.enter_context(listener.accept()[0]), peer

    def gate(self, sock: socket.socket, slot: int) -> int:
        """Have it guarded for the flow of a slot; its cookie."""
        assert lib.prl_kernel_gate_attach(self.bench.kernel, sock.fileno(), slot) == 0
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 57, 8), "little")  # SO_COOKIE

    def news(self) -> list[tuple[int, int, int, int]]:
        """All ends that were told: kind, slot, handle, cookie."""
        told, found = ffi.new("struct prl_news *"), []
        while lib.prl_kernel_sessions_news(self.bench.kernel, told):
            if told.kind == lib.PRL_NEWS_BORN:
                self.born.append(told.cookie)
            else:
                found.append((told.kind, told.slot, told.handle, told.cookie))
        return found

    def await_news(self, count: int = 1) -> list[tuple[int, int, int, int]]:
        """The next of it, so many."""
        found: list[tuple[int, int, int, int]] = []

        def have_come() -> bool:
            found.extend(self.news())
            return len(found) >= count

        until(have_come)
        return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Bench(mode=lib.PRL_XDP_GENERIC) as bench, ExitStack() as stack:
        for address in (SERVICE4, OTHER4):
            ip("-n", bench.node_ns, "address", "add", f"{address}/24", "dev", "lan0")
        ip("-n", bench.peer_ns, "address", "add", f"{PEER4}/24", "dev", "lan0")
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        with inside(bench.node_ns):
            assert lib.prl_kernel_sessions_attach(bench.kernel, error) == 0, ffi.string(error)
        bench.own(SERVICE4)
        yield Lab(bench, stack)


def end(server: socket.socket, peer: socket.socket) -> None:
    """The peer ends first, so that no TIME_WAIT is left on the node."""
    peer.close()
    assert server.recv(1) == b""
    server.close()


def test_the_end_of_a_flow_is_told_and_nothing_before(lab: Lab) -> None:
    server, peer = lab.connect()
    flow = lab.bench.flow(3, 0)
    cookie = lab.gate(server, 3)
    peer.sendall(b"x")
    assert server.recv(1) == b"x"
    assert lab.news() == []
    peer.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    assert lab.news() == []
    server.close()
    assert lab.await_news() == [(lib.PRL_NEWS_ENDED, 3, flow.handle, cookie)]


def test_the_beginning_of_a_session_of_a_service_is_told(lab: Lab) -> None:
    """Nobody has asked prld for it yet: the other node is to know of it all the same."""
    lab.connect(OTHER4)
    server, _ = lab.connect()
    assert lab.news() == []
    assert lab.born == [int.from_bytes(server.getsockopt(socket.SOL_SOCKET, 57, 8), "little")]


def test_a_reset_and_a_time_wait_are_ends(lab: Lab) -> None:
    server, peer = lab.connect()
    other, waiting = lab.connect(port=PORT + 1)
    lab.bench.flow(1, 0, ports=(PORT, peer.getsockname()[1]))
    lab.bench.flow(2, 0, ports=(PORT + 1, waiting.getsockname()[1]))
    cookies = [lab.gate(server, 1), lab.gate(other, 2)]
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    told = lab.await_news()
    other.close()  # first of the two: it is the node's end that waits
    assert waiting.recv(1) == b""
    waiting.close()
    told += lab.await_news()
    assert [entry[3] for entry in told] == cookies


def only_another_is_told(lab: Lab) -> None:
    """A flow that ends after what was nobody's news is the first that is told."""
    last, peer = lab.connect(port=PORT + 1)
    lab.bench.flow(2, 0, ports=(PORT + 1, peer.getsockname()[1]))
    lab.gate(last, 2)
    end(last, peer)
    assert [entry[1] for entry in lab.await_news()] == [2]


def test_other_sessions_are_nobodys_news(lab: Lab) -> None:
    end(*lab.connect())  # of the service, but no flow
    server, peer = lab.connect(OTHER4)
    lab.bench.flow(1, 0)
    lab.gate(server, 1)
    end(server, peer)  # its address is no service's: nobody asked TCP to tell
    only_another_is_told(lab)


def test_sessions_of_another_network_namespace_are_nobodys_news(lab: Lab) -> None:
    """The program is called for all of the host's, and the same address may be there twice."""
    lab.bench.node.netns_cookie += 1
    server, peer = lab.connect()
    lab.bench.flow(1, 0)
    lab.gate(server, 1)
    end(server, peer)
    lab.bench.node.netns_cookie -= 1
    only_another_is_told(lab)


def test_nothing_is_told_any_more_once_prld_has_gone(lab: Lab) -> None:
    """The program goes with whoever loaded it: a dead prld's sessions cost nothing."""
    lab.bench.stop(keep_silence=True)
    lab.bench.start()
    server, peer = lab.connect()
    lab.bench.flow(1, 0)
    lab.gate(server, 1)
    end(server, peer)
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    with inside(lab.bench.node_ns):
        assert lib.prl_kernel_sessions_attach(lab.bench.kernel, error) == 0, ffi.string(error)
    assert lab.news() == []


def strangers(lab: Lab) -> set[tuple[str, int, int]]:
    """Local address, its port and the peer's of the sessions that no flow has."""
    found = ffi.new("struct prl_stranger[]", 8)
    with inside(lab.bench.node_ns):
        count = lib.prl_kernel_strangers(lab.bench.kernel, ffi.NULL, 0, found, len(found))
    assert 0 <= count <= len(found)
    return {
        (
            str(unmapped(bytes(ffi.buffer(one.local)))),
            socket.ntohs(one.local_port),
            socket.ntohs(one.remote_port),
        )
        for one in found[0:count]
    }


def test_sessions_that_nobody_asked_prld_for_are_counted(lab: Lab) -> None:
    """Established ones of a service's address; not a listener, not a flow, not one that is over."""
    assert strangers(lab) == set()
    server, peer = lab.connect()
    lab.connect(OTHER4)
    asked, of_asked = lab.connect(port=PORT + 1)
    lab.bench.flow(1, 0, ports=(PORT + 1, of_asked.getsockname()[1]))
    lab.gate(asked, 1)
    assert strangers(lab) == {(str(SERVICE4), PORT, peer.getsockname()[1])}
    peer.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    assert len(strangers(lab)) == 1  # the node's program may still say something
    server.shutdown(socket.SHUT_WR)
    assert strangers(lab) == set()


def test_who_calls_his_own_host_is_not_counted(lab: Lab) -> None:
    """Both ends go with it; a health check of the host's own must not make it unsafe."""
    with inside(lab.bench.node_ns):
        listener = lab.stack.enter_context(socket.create_server((str(SERVICE4), PORT)))
        lab.stack.enter_context(socket.create_connection((str(SERVICE4), PORT)))
    lab.stack.enter_context(listener.accept()[0])
    assert strangers(lab) == set()


def test_whoever_talks_to_a_peer_that_is_really_here_is_not_counted(lab: Lab) -> None:
    """A BGP daemon, whose peer's address is its front's, on the loopback (docs/bgp-front.md)."""
    peer = "203.0.113.5"
    ip("-n", lab.bench.node_ns, "route", "add", "local", peer, "dev", "lan0")
    with inside(lab.bench.node_ns):
        listener = lab.stack.enter_context(socket.create_server((peer, PORT)))
        daemon = lab.stack.enter_context(
            socket.create_connection((peer, PORT), source_address=(str(SERVICE4), 0))
        )
    front = lab.stack.enter_context(listener.accept()[0])
    daemon.sendall(b"x")
    assert front.recv(1) == b"x"
    assert strangers(lab) == set()


def test_of_very_many_the_first_are_named_and_all_are_counted(lab: Lab) -> None:
    for number in range(70):  # more than are read at a time
        lab.connect(port=PORT + number)
    found = ffi.new("struct prl_stranger[]", 2)
    with inside(lab.bench.node_ns):
        assert lib.prl_kernel_strangers(lab.bench.kernel, ffi.NULL, 0, found, len(found)) == 70
    assert all(unmapped(bytes(ffi.buffer(one.local))) == SERVICE4 for one in found)


def test_of_one_service_s_addresses_alone_they_are_counted(lab: Lab) -> None:
    """On any device, or on one; who is bound to none may be of each."""
    lab.connect()
    found = ffi.new("struct prl_stranger[]", 1)
    with inside(lab.bench.node_ns):
        device = socket.if_nametoindex("lan0")
        for address, ifindex, count in (
            (SERVICE4, 0, 1),
            (SERVICE4, device, 1),
            (SERVICE6, 0, 0),
            (OTHER4, device, 0),
        ):
            of = ffi.new("struct prl_addr_key[]", 1)
            ffi.buffer(of[0].addr)[:] = mapped(address)
            of[0].ifindex = ifindex
            assert lib.prl_kernel_strangers(lab.bench.kernel, of, 1, found, 1) == count


def test_sessions_of_ipv6_are_counted_likewise(lab: Lab) -> None:
    for namespace, address in ((lab.bench.node_ns, SERVICE6), (lab.bench.peer_ns, PEER6)):
        ip("-n", namespace, "address", "add", f"{address}/64", "dev", "lan0", "nodad")
    lab.bench.own(SERVICE6)
    with inside(lab.bench.node_ns):
        listener = lab.stack.enter_context(
            socket.create_server((str(SERVICE6), PORT), family=socket.AF_INET6)
        )
    with inside(lab.bench.peer_ns):
        peer = lab.stack.enter_context(socket.create_connection((str(SERVICE6), PORT)))
    lab.stack.enter_context(listener.accept()[0])
    assert strangers(lab) == {(str(SERVICE6), PORT, peer.getsockname()[1])}


def test_a_front_s_daemon_is_called_on_a_standby_too_and_not_counted(lab: Lab) -> None:
    """From the peer's address, and from a port that nobody else calls from."""
    node, table = lab.bench.node_ns, "1790"
    answers = ["to", str(PEER4), "ipproto", "tcp", "sport", "179", "lookup", table]
    ip("-n", node, "rule", "add", *answers)
    ip("-n", node, "route", "add", "local", str(PEER4), "dev", "lan0", "table", table)
    with inside(node):
        listener = lab.stack.enter_context(socket.create_server(("", 179)))
        for port in (*DIAL_PORTS[:1], *DIAL_PORTS[-1:]):
            for state in (lib.PRL_ADDR_STANDBY, lib.PRL_ADDR_OWNER):
                lab.bench.own(SERVICE4, state)
                with call(port) as front, listener.accept()[0]:
                    assert front.getpeername()[0] == str(SERVICE4)
                    assert strangers(lab) == set()
        lab.bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
        for port in (DIAL_PORTS[0] - 1, DIAL_PORTS[-1] + 1):
            with pytest.raises(ConnectionRefusedError):
                call(port)


def call(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.settimeout(20.0)
    sock.bind((str(PEER4), port))
    try:
        sock.connect((str(SERVICE4), 179))
    except OSError:
        sock.close()
        raise
    return sock
