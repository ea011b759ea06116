"""Sessions that wait, from their handshake on, to be protected (SPEC R31)."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prl._core import ffi, lib

from tests.kernel.bpf_lab import (
    ACK,
    FIN,
    PEER4,
    PEER_MAC,
    PEER_PORT,
    PORT,
    RST,
    SERVICE4,
    SERVICE6,
    SYN,
    Bench,
    Segment,
    inside,
    ip,
    newborn_key,
    outgoing,
    output,
    put_newborn,
    until,
)

pytestmark = pytest.mark.needs("root", "bpf", "bpftool")

ISS = 5000
WAIT_NS = 3600 * 10**9
MSS_SACK_STAMPS = struct.pack("!BBHBBBBII", 2, 4, 1460, 4, 2, 8, 10, 71, 72)
STAMPS = struct.pack("!BBBBII", 1, 1, 8, 10, 81, 82)
MD5 = struct.pack("!BBBB16s", 1, 1, 19, 18, bytes(16))
SHUT, OPEN = 0, 1000
GOES_UP, DROPPED = True, False


class Births(Bench):
    """A bench of whose endpoint the sessions wait."""

    def await_sessions(self, wait_ns: int = WAIT_NS, endpoint: Any = None) -> None:
        endpoint = endpoint or newborn_key(0)
        assert lib.prl_kernel_await(self.kernel, endpoint, wait_ns) == 0

    def end(self) -> Any:
        """What was known of the session that waits no more; None: it has not waited."""
        found = ffi.new("struct prl_newborn *")
        return found if lib.prl_kernel_newborn_end(self.kernel, newborn_key(), found) else None

    def says(self, flags: int = ACK, seq: int = ISS, options: bytes = b"") -> int:
        """The window that the peer is told."""
        (frame,) = self.reaches(with_options(output(seq, flags=flags), options))
        return Segment.read(frame).window

    def takes(self, payload: bytes = b"x", flags: int = ACK) -> bool:
        """Where tc drops it, packet sockets have seen it before."""
        before = self.node.births_dropped
        up, captured = self.receive(Segment(payload=payload, flags=flags).frame())
        assert not captured
        taken: bool = self.node.births_dropped == before
        assert bool(up) == taken or self.mode == lib.PRL_XDP_KERNEL
        return taken


def with_options(segment: Segment, options: bytes) -> bytes:
    """They stand in front of what would be its payload."""
    segment.payload = options + segment.payload
    packed = segment.pack
    words = 5 + len(options) // 4

    def pack() -> bytes:
        data = packed()
        return data[:12] + bytes([words << 4]) + data[13:]

    segment.pack = pack  # type: ignore[method-assign]
    frame = bytearray(outgoing(segment))
    change = (words - 5) << 12  # the checksum, by RFC 1624
    check = int.from_bytes(frame[50:52]) ^ 0xFFFF
    check += change
    check = (check & 0xFFFF) + (check >> 16)
    frame[50:52] = (check ^ 0xFFFF).to_bytes(2)
    return bytes(frame)


@pytest.fixture(params=["generic", "kernel"])
def bench(request: pytest.FixtureRequest) -> Iterator[Births]:
    mode = {"generic": lib.PRL_XDP_GENERIC, "kernel": lib.PRL_XDP_KERNEL}[request.param]
    with Births(mode) as made:
        made.own(SERVICE4)
        made.own(SERVICE6)
        yield made


def test_a_session_waits_from_its_syn_ack_on(bench: Births) -> None:
    assert bench.says(SYN | ACK) == OPEN
    assert bench.takes() == GOES_UP
    bench.await_sessions()
    assert bench.says(SYN | ACK, options=MSS_SACK_STAMPS) == SHUT
    assert bench.says() == SHUT
    assert bench.takes() == DROPPED
    assert bench.takes(b"", FIN | ACK) == DROPPED
    assert bench.node.births_dropped == 2
    assert bench.takes(b"") == GOES_UP
    assert bench.takes(b"", RST | ACK) == GOES_UP
    found = bench.end()
    assert (found.iss, found.tsval, found.tsecr) == (ISS, 71, 72)
    assert bytes(ffi.buffer(found.peer_mac)) == PEER_MAC
    assert bench.says() == OPEN
    assert bench.takes() == GOES_UP
    assert bench.end() is None
    assert bench.node.births_late == 0


def test_what_a_session_says_while_it_waits_is_not_older_than_what_is_said_of_it(
    bench: Births,
) -> None:
    bench.await_sessions()
    bench.says(SYN | ACK, options=MSS_SACK_STAMPS)
    assert bench.says(seq=ISS + 1, options=STAMPS) == SHUT
    bench.says(SYN | ACK, options=MSS_SACK_STAMPS)
    found = bench.end()
    assert (found.tsval, found.tsecr) == (81, 82)


def test_a_session_that_is_opened_here_waits_from_its_syn_on(bench: Births) -> None:
    bench.await_sessions()  # what peers open
    assert bench.says(SYN) == OPEN
    assert bench.says() == OPEN
    bench.await_sessions(endpoint=newborn_key(port=0))
    assert bench.says(SYN, options=MSS_SACK_STAMPS) == OPEN, "nobody sends on a SYN"
    assert bench.takes(b"x", SYN | ACK) == DROPPED
    assert bench.takes(b"", SYN | ACK) == GOES_UP
    assert bench.says(options=STAMPS) == SHUT
    assert bench.takes() == DROPPED
    found = bench.end()
    assert (found.iss, found.tsval, found.tsecr) == (ISS, 81, 82)
    assert bench.takes() == GOES_UP


def test_an_endpoint_whose_sessions_nobody_has_protected_is_awaited_no_more(
    bench: Births,
) -> None:
    bench.await_sessions()
    over = ffi.new("struct prl_newborn *")
    for number in range(lib.PRL_BIRTHS_LATE_MAX):
        assert bench.says(SYN | ACK, seq=ISS + number) == SHUT
        over.until_ns = bench.now()
        put_newborn(bench, newborn_key(), over)
        assert bench.takes() == GOES_UP
    assert bench.node.births_late == lib.PRL_BIRTHS_LATE_MAX
    assert bench.says(SYN | ACK) == OPEN
    assert bench.takes(b"x", SYN) == GOES_UP
    assert bench.end() is None  # but one is set up now
    assert bench.says(SYN | ACK) == SHUT


def test_a_flow_that_is_open_waits_as_well_and_one_that_is_captured_does_not(
    bench: Births,
) -> None:
    bench.await_sessions()
    bench.says(SYN | ACK)
    flow = bench.flow(1, lib.PRL_FLOW_OPEN)
    assert bench.says() == SHUT
    assert flow.last_window == OPEN, "what the stack has to say is kept for later"
    assert flow.last_edge == Segment().ack, "what the peer was told is kept, too"
    assert bench.takes() == DROPPED
    flow.flags = lib.PRL_FLOW_SETUP
    assert bench.says() == OPEN
    up, captured = bench.receive(Segment(payload=b"x").frame())
    if bench.mode == lib.PRL_XDP_GENERIC:
        assert (up, len(captured)) == ([], 1)
    assert bench.node.births_dropped == 1


def test_its_time_ends_and_a_syn_ack_that_is_sent_again_does_not_begin_it_anew(
    bench: Births,
) -> None:
    bench.await_sessions()
    bench.says(SYN | ACK)
    entry = bench.end()
    entry.until_ns = bench.now()
    put_newborn(bench, newborn_key(), entry)
    assert bench.says(SYN | ACK) == OPEN
    assert bench.takes() == GOES_UP
    assert bench.takes() == GOES_UP
    assert bench.node.births_late == 1
    assert bench.says(SYN | ACK, seq=ISS + 1) == SHUT, "another session of the same ends"


def test_a_signed_window_stays_as_it_is(bench: Births) -> None:
    bench.await_sessions()
    assert bench.says(SYN | ACK, options=MD5) == OPEN
    assert bench.takes() == DROPPED, "it is sent again all the same"


def test_payload_of_a_syn_waits_as_well(bench: Births) -> None:
    assert bench.takes(b"x", SYN) == GOES_UP
    bench.await_sessions()
    assert bench.takes(b"x", SYN) == DROPPED
    assert bench.takes(b"", SYN) == GOES_UP


@pytest.mark.parametrize("way", ["stale", "bypassed", "not awaited"])
def test_nothing_waits_without_a_datapath_or_without_the_other_node(
    bench: Births, way: str
) -> None:
    bench.await_sessions()
    bench.says(SYN | ACK)
    if way == "stale":
        bench.alive(-1)
    elif way == "bypassed":
        bench.node.bypassed = 1
    else:
        bench.await_sessions(0)
    assert bench.says() == OPEN
    assert bench.says(SYN | ACK) == OPEN
    assert bench.takes() == GOES_UP


def test_other_endpoints_do_not_wait(bench: Births) -> None:
    for other in (newborn_key(0, port=PORT + 1), newborn_key(0, lif=1), newborn_key(port=0)):
        bench.await_sessions(endpoint=other)
    assert bench.says(SYN | ACK) == OPEN
    assert bench.takes() == GOES_UP


def test_there_is_room_for_so_many_endpoints(bench: Births) -> None:
    for port in range(1, lib.PRL_AWAITED_MAX + 1):
        bench.await_sessions(endpoint=newborn_key(0, port=port))
    assert lib.prl_kernel_await(bench.kernel, newborn_key(0), WAIT_NS) < 0
    assert bench.node.awaited == lib.PRL_AWAITED_MAX
    lib.prl_kernel_forget(bench.kernel)  # as a new prld does
    assert bench.node.awaited == 0
    bench.await_sessions()
    assert bench.node.awaited == 1


# -- with TCP


@pytest.fixture
def ends(bench: Births) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection that waits: the node's end, the peer's."""
    for namespace, address in ((bench.node_ns, SERVICE4), (bench.peer_ns, PEER4)):
        ip("-n", namespace, "address", "add", f"{address}/24", "dev", "lan0")
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    bench.await_sessions()
    with ExitStack() as stack, inside(bench.node_ns):
        assert lib.prl_kernel_sessions_attach(bench.kernel, error) == 0, ffi.string(error)
        listener = stack.enter_context(socket.create_server((str(SERVICE4), PORT)))
        with inside(bench.peer_ns):
            peer = stack.enter_context(socket.socket())
            peer.bind((str(PEER4), PEER_PORT))
            peer.connect((str(SERVICE4), PORT))
            peer.sendall(b"at once")
        yield stack.enter_context(listener.accept()[0]), peer


@pytest.fixture
def opened(bench: Births) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection that the node has opened, and that waits; its peer speaks first."""
    for namespace, address in ((bench.node_ns, SERVICE4), (bench.peer_ns, PEER4)):
        ip("-n", namespace, "address", "add", f"{address}/24", "dev", "lan0")
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    bench.await_sessions(endpoint=newborn_key(port=0))
    with ExitStack() as stack, inside(bench.node_ns):
        assert lib.prl_kernel_sessions_attach(bench.kernel, error) == 0, ffi.string(error)
        with inside(bench.peer_ns):
            listener = stack.enter_context(socket.create_server((str(PEER4), PEER_PORT)))
        node = stack.enter_context(socket.socket())
        node.bind((str(SERVICE4), PORT))
        node.connect((str(PEER4), PEER_PORT))
        peer = stack.enter_context(listener.accept()[0])
        peer.sendall(b"at once")
        yield node, peer


def received(sock: socket.socket) -> int:
    """Bytes that its kernel has taken, read or not: tcpi_bytes_received."""
    return int(struct.unpack_from("Q", sock.getsockopt(6, 11, 232), 128)[0])


def test_a_request_at_the_handshakes_end_is_taken_once_it_waits_no_more(
    bench: Births, ends: tuple[socket.socket, socket.socket]
) -> None:
    server, peer = ends
    assert (bench.node.births, bench.node.births_evicted) == (1, 0)
    peer.sendall(b", and more")
    server.sendall(b"a greeting")  # what has no input behind it leaves
    assert peer.recv(100) == b"a greeting"
    assert received(server) == 0
    found = bench.end()
    assert found.until_ns > bench.now() + WAIT_NS - 60 * 10**9
    assert found.tsval
    assert bytes(ffi.buffer(found.peer_mac)) == PEER_MAC
    until(lambda: received(server) == len(b"at once, and more"))
    assert server.recv(100) == b"at once, and more"


def test_a_session_that_was_forgotten_during_its_handshake_is_counted_and_waits(
    bench: Births,
) -> None:
    """As a flood of SYNs has it: the table keeps what was heard of last."""
    for namespace, address in ((bench.node_ns, SERVICE4), (bench.peer_ns, PEER4)):
        ip("-n", namespace, "address", "add", f"{address}/24", "dev", "lan0")
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    with ExitStack() as stack, inside(bench.node_ns):
        assert lib.prl_kernel_sessions_attach(bench.kernel, error) == 0, ffi.string(error)
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
        listener.bind((str(SERVICE4), PORT))
        listener.listen()
        with inside(bench.peer_ns):
            peer = stack.enter_context(socket.socket())
            peer.bind((str(PEER4), PEER_PORT))
            peer.connect((str(SERVICE4), PORT))
        bench.await_sessions()  # nothing is known of its SYN-ACK, as where others have evicted it
        assert bench.node.births_evicted == 0
        peer.sendall(b"at once")
        stack.enter_context(listener.accept()[0])
        assert (bench.node.births, bench.node.births_evicted) == (1, 1)
        assert bench.end() is not None


def test_so_is_what_the_peer_says_of_a_session_that_was_opened_here(
    bench: Births, opened: tuple[socket.socket, socket.socket]
) -> None:
    node, peer = opened
    assert bench.node.births == 1
    node.sendall(b"who is there?")
    assert peer.recv(100) == b"who is there?"
    assert received(node) == 0
    found = bench.end()
    assert found.until_ns > bench.now() + WAIT_NS - 60 * 10**9
    assert bytes(ffi.buffer(found.peer_mac)) == PEER_MAC
    until(lambda: received(node) == len(b"at once"))


def test_a_socket_that_is_restored_has_opened_nothing(bench: Births) -> None:
    ip("-n", bench.node_ns, "address", "add", f"{SERVICE4}/24", "dev", "lan0")
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    bench.await_sessions(endpoint=newborn_key(port=0))
    with inside(bench.node_ns), socket.socket() as shadow:
        assert lib.prl_kernel_sessions_attach(bench.kernel, error) == 0, ffi.string(error)
        shadow.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
        shadow.bind((str(SERVICE4), PORT))
        shadow.connect((str(PEER4), PEER_PORT))
        assert bench.node.births == 0
        assert bench.end() is None
