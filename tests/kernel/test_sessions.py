"""What TCP tells of the sessions of service addresses (bpf/sessions.bpf.c, SPEC R31)."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from prl._core import ffi, lib

from tests.kernel.bpf_lab import PEER4, PORT, SERVICE4, Address, Bench, inside, ip, until

pytestmark = pytest.mark.needs("root", "bpf")

OTHER4 = PEER4 + 5
"""An address of the node's that is no service's."""


@dataclass
class Lab:
    """A bench whose kernel tells, and connections through it."""

    bench: Bench
    stack: ExitStack

    def connect(self, to: Address = SERVICE4, port: int = PORT) -> tuple[socket.socket, ...]:
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

    def news(self) -> list[tuple[int, ...]]:
        """All that was told: kind, slot, handle, cookie."""
        told, found = ffi.new("struct prl_news *"), []
        while lib.prl_kernel_sessions_news(self.bench.kernel, told):
            found.append((told.kind, told.slot, told.handle, told.cookie))
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
    told: list[tuple[int, ...]] = []
    until(lambda: told.extend(lab.news()) or told)
    assert told == [(lib.PRL_NEWS_ENDED, 3, flow.handle, cookie)]


def test_a_reset_and_a_time_wait_are_ends(lab: Lab) -> None:
    server, peer = lab.connect()
    other, waiting = lab.connect(port=PORT + 1)
    lab.bench.flow(1, 0, ports=(PORT, peer.getsockname()[1]))
    lab.bench.flow(2, 0, ports=(PORT + 1, waiting.getsockname()[1]))
    cookies = [lab.gate(server, 1), lab.gate(other, 2)]
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    told: list[tuple[int, ...]] = []
    until(lambda: told.extend(lab.news()) or len(told) == 1)
    other.close()  # first of the two: it is the node's end that waits
    assert waiting.recv(1) == b""
    waiting.close()
    until(lambda: told.extend(lab.news()) or len(told) == 2)
    assert [entry[3] for entry in told] == cookies


def test_other_sessions_are_nobodys_news(lab: Lab) -> None:
    end(*lab.connect())  # of the service, but no flow
    server, peer = lab.connect(OTHER4)
    lab.bench.flow(1, 0)
    lab.gate(server, 1)
    end(server, peer)  # its address is no service's: nobody asked TCP to tell
    last, peer = lab.connect(port=PORT + 1)
    lab.bench.flow(2, 0, ports=(PORT + 1, peer.getsockname()[1]))
    lab.gate(last, 2)
    end(last, peer)
    told: list[tuple[int, ...]] = []
    until(lambda: told.extend(lab.news()) or told)
    assert [entry[1] for entry in told] == [2]


def test_sessions_of_another_network_namespace_are_nobodys_news(lab: Lab) -> None:
    """The program is called for all of the host's, and the same address may be there twice."""
    lab.bench.node.netns_cookie += 1
    server, peer = lab.connect()
    lab.bench.flow(1, 0)
    lab.gate(server, 1)
    end(server, peer)
    lab.bench.node.netns_cookie -= 1
    last, peer = lab.connect(port=PORT + 1)
    lab.bench.flow(2, 0, ports=(PORT + 1, peer.getsockname()[1]))
    lab.gate(last, 2)
    end(last, peer)
    told: list[tuple[int, ...]] = []
    until(lambda: told.extend(lab.news()) or told)
    assert [entry[1] for entry in told] == [2]


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
