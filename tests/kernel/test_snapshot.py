"""Clone live TCP connections: whatever was in flight, both ends go on byte for byte (R17, R18)."""

import ctypes
import dataclasses
import errno
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prl.bindings.native import ffi, lib, text_of
from prl.kernel.tcp_info import TcpState
from prl.lab import stretch
from prl.shadow import (
    Endpoint,
    SnapshotError,
    SnapshotMovedError,
    TcpSnapshot,
    adopt,
    decode,
    discard,
    encode,
    fixed_of,
    outline,
    ready,
    restore,
)
from prl.shadow import take as take_here
from prl.shadow.sockopt import (
    Ip,
    Option,
    Queue,
    So,
    Tcp,
    get_int,
    get_int_or,
    get_name,
    queue_bytes,
    set_bytes,
    set_int,
    tcp_info,
)

pytestmark = pytest.mark.needs("root", "netns")

NODE, PEER = f"h3-node-{os.getpid()}", f"h3-peer-{os.getpid()}"
PATIENCE_S = 20 * stretch.factor()
RACES = 5000
BUFFER_BYTES = 4 << 20
CLONE_NEWNET = 0x40000000
NODE_ADDRESSES = {
    "ipv4": "192.0.2.100",
    "ipv6": "2001:db8:0:1::100",
    "mapped": "::ffff:192.0.2.100",
    "link-local": "fe80::100%lan0",
}
HANDSHAKES = {
    "all options": {},
    "no timestamps": {"tcp_timestamps": 0},
    "no window scale": {"tcp_window_scaling": 0},
    "no sack": {"tcp_sack": 0},
    "bare": {"tcp_timestamps": 0, "tcp_window_scaling": 0, "tcp_sack": 0},
}

libc = ctypes.CDLL(None, use_errno=True)
rng = random.Random(1)


def run(*command: str, stdin: str = "") -> None:
    subprocess.run(command, input=stdin, text=True, check=True, timeout=PATIENCE_S)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have the calling thread in a network namespace; sockets made there stay there."""
    with Path("/proc/thread-self/ns/net").open() as home:
        with Path("/run/netns", namespace).open() as away:
            assert libc.setns(away.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


@pytest.fixture(scope="module", autouse=True)
def lab() -> Iterator[None]:
    """Two namespaces and the wire between them."""
    with ExitStack() as undo:
        for name in (NODE, PEER):
            run("ip", "netns", "add", name)
            undo.callback(run, "ip", "netns", "del", name)
        pair = ("link", "add", "lan0", "netns", NODE, "type", "veth", "peer", "lan0")
        run("ip", *pair, "netns", PEER)
        for name, number in ((NODE, "100"), (PEER, "1")):
            for address in (
                f"192.0.2.{number}/24",
                f"2001:db8:0:1::{number}/64",
                f"fe80::{number}/64",
            ):
                nodad = ("nodad",) if ":" in address else ()
                run("ip", "-n", name, "addr", "add", address, "dev", "lan0", *nodad)
            for device in ("lo", "lan0"):
                run("ip", "-n", name, "link", "set", device, "up")
        yield


@contextmanager
def peer_sysctls(values: dict[str, int]) -> Iterator[None]:
    with inside(PEER):
        files = {Path("/proc/sys/net/ipv4", name): value for name, value in values.items()}
        before = {file: file.read_text() for file in files}
        for file, value in files.items():
            file.write_text(str(value))
    try:
        yield
    finally:
        with inside(PEER):
            for file, text in before.items():
                file.write_text(text)


@contextmanager
def peer_hears_nothing() -> Iterator[None]:
    """What the node sends is lost for a while, as on a broken wire."""
    in_peer = ("nsenter", f"--net=/run/netns/{PEER}", "nft")
    rule = "type filter hook input priority 0; policy drop;"
    run(*in_peer, "-f", "-", stdin=f"table inet h3 {{\n chain lost {{\n {rule}\n }}\n}}\n")
    try:
        yield
    finally:
        run(*in_peer, "delete", "table", "inet", "h3")


@dataclass
class Session:
    """A connection between the peer and a server on the node."""

    peer: socket.socket
    node: socket.socket


@contextmanager
def connected(
    kind: str = "ipv4", prepare: Callable[[socket.socket], None] = lambda _listener: None
) -> Iterator[Session]:
    ipv4 = kind == "ipv4"
    with ExitStack() as stack:
        with inside(NODE):
            listener = stack.enter_context(
                socket.socket(socket.AF_INET if ipv4 else socket.AF_INET6)
            )
            prepare(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == "mapped":
                listener.bind(("::", 0))
            else:
                info = socket.getaddrinfo(NODE_ADDRESSES[kind], 0, type=socket.SOCK_STREAM)
                listener.bind(info[0][4])
            listener.listen()
        with inside(PEER):
            host = NODE_ADDRESSES["ipv4" if kind == "mapped" else kind]
            port = listener.getsockname()[1]
            peer = stack.enter_context(socket.create_connection((host, port), timeout=PATIENCE_S))
        session = Session(peer, listener.accept()[0])
        try:
            yield session
        finally:
            session.node.close()


def receive(sock: socket.socket, length_bytes: int) -> bytes:
    """Exactly so many bytes, or fewer if the stream ends."""
    sock.settimeout(PATIENCE_S)
    data = bytearray()
    while len(data) < length_bytes and (more := sock.recv(length_bytes - len(data))):
        data += more
    return bytes(data)


def await_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        select.select([], [], [], 0.001)


def await_unread(sock: socket.socket, length_bytes: int) -> None:
    await_until(lambda: queue_bytes(sock, Queue.UNREAD) == length_bytes)


def exchange(session: Session, to_node: bytes, to_peer: bytes) -> tuple[bytes, bytes]:
    """Write both ways at once; what each end has read when all has arrived or the stream ended."""
    ends = {session.node: bytearray(to_peer), session.peer: bytearray(to_node)}
    read = {session.node: bytearray(), session.peer: bytearray()}
    for sock in ends:
        sock.setblocking(False)
    open_for_writing, open_for_reading = set(ends), set(ends)
    while open_for_reading or open_for_writing:
        readable, writable, _ = select.select(open_for_reading, open_for_writing, [], PATIENCE_S)
        assert readable or writable, "the connection stalled"
        for sock in writable:
            if ends[sock]:
                del ends[sock][: sock.send(ends[sock])]
            if not ends[sock]:
                sock.shutdown(socket.SHUT_WR)
                open_for_writing.discard(sock)
        for sock in readable:
            data = sock.recv(1 << 20)
            read[sock] += data
            if not data:
                open_for_reading.discard(sock)
    return bytes(read[session.node]), bytes(read[session.peer])


def take(sock: socket.socket, **how: int) -> TcpSnapshot:
    with inside(NODE):  # sock_diag looks in the caller's namespace
        return take_here(sock, **how)


def clone(snapshot: TcpSnapshot) -> socket.socket:
    with inside(NODE):
        return restore(
            snapshot, congestion=None, rcvbuf_bytes=BUFFER_BYTES, sndbuf_bytes=BUFFER_BYTES
        )


class Moment:
    """What moves of a connection, as the datapath copies it (userspace/tcp/moment.h)."""

    def __init__(self, sock: socket.socket) -> None:
        self.value: Any = ffi.new("struct prl_moment *")
        self.counts: Any = ffi.new("struct prl_moment_counts *")
        room: int = lib.PRL_MOMENT_PIECE
        self._queues: Any = ffi.new("uint8_t[]", room + lib.PRL_MOMENT_SLACK)
        call = ffi.new("const char **")
        self.error = lib.prl_moment_copy(
            *(sock.fileno(), self.value, self._queues, room, self.counts, call)
        )
        self.call = text_of(call[0])

    @property
    def unread(self) -> bytes:
        return bytes(ffi.buffer(self._queues, self.value.unread_bytes))

    @property
    def unacked(self) -> bytes:
        both = self.value.unread_bytes + self.value.unacked_bytes
        return bytes(ffi.buffer(self._queues, both))[self.value.unread_bytes :]

    def restored(self, outline: TcpSnapshot) -> socket.socket:
        """The clone, by way of the element's bytes."""
        fields = ffi.new("uint8_t[]", lib.PRL_MOMENT_FIELDS)
        lib.prl_moment_encode(self.value, fields)
        element = bytes(ffi.buffer(fields)) + self.unread + self.unacked
        moment = ffi.new("struct prl_moment *")
        assert lib.prl_moment_decode(ffi.from_buffer(element), len(element), 0, moment) == 0
        with inside(NODE):
            sock, made = ready(
                outline, congestion=None, rcvbuf_bytes=BUFFER_BYTES, sndbuf_bytes=BUFFER_BYTES
            )
        call = ffi.new("const char **")
        error = lib.prl_moment_restore(
            *(sock.fileno(), made.native(), outline.snd_wscale, outline.rcv_wscale, moment),
            *(element[lib.PRL_MOMENT_FIELDS :], 0, self.counts, call),
        )
        assert error == 0, (os.strerror(-error), text_of(call[0]))
        return sock


def outline_of(sock: socket.socket) -> TcpSnapshot:
    with inside(NODE):
        found = outline(sock, fixed_of(sock))
    assert found is not None
    return decode(encode(found))


def node_segments_sent() -> int:
    with inside(NODE):
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("OutSegs")])


def peer_paws_drops() -> int:
    """Segments that the peer has thrown away for their timestamps (RFC 7323, 5)."""
    with inside(PEER):
        lines = Path("/proc/thread-self/net/netstat").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(values[names.index("PAWSEstab")])


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("behind_ms", [11_000, 5 * 60_000])
def test_a_clone_whose_clock_was_left_behind_is_heard_at_once(behind_ms: int) -> None:
    with connected() as session:
        session.node.sendall(b"what the peer has seen")
        receive(session.peer, 22)
        taken = take(session.node)
        discard(session.node)
        behind = (taken.tsval - behind_ms) % 2**32
        session.node = clone(dataclasses.replace(taken, tsval=behind))
        session.node.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        before = peer_paws_drops()
        session.node.sendall(b"unheard ")
        await_until(lambda: peer_paws_drops() > before)

        assert lib.prl_moment_keep_ahead(session.node.fileno(), taken.tsval, 0) == 1
        dropped = peer_paws_drops()
        session.node.sendall(b"and heard")
        session.peer.sendall(b"answered")
        assert receive(session.peer, 17) == b"unheard and heard"
        assert receive(session.node, 8) == b"answered"
        assert peer_paws_drops() == dropped
        said = get_int(session.node, Tcp.TIMESTAMP)
        assert lib.prl_moment_keep_ahead(session.node.fileno(), taken.tsval, 0) == 0
        assert 0 < (said - taken.tsval) % 2**32 < lib.PRL_TSVAL_AHEAD_MS + PATIENCE_S * 1000
        assert get_int(session.node, So.REUSEADDR) == 1


def test_a_clone_on_a_slow_clock_is_heard_after_a_silence() -> None:
    """The peer's last echo is long ago by the owner's clock, and less long by the standby's."""
    silence_ms, by_slow_clock_ms = 42_000, 40_000
    with connected() as session:
        session.node.sendall(b"what the peer has echoed ")
        receive(session.peer, 25)
        echoed = take(session.node)
        discard(session.node)
        last = dataclasses.replace(echoed, tsval=(echoed.tsval + silence_ms) % 2**32)
        session.node = clone(last)
        session.node.sendall(b"what it has seen")
        receive(session.peer, 16)
        taken = take(session.node)
        discard(session.node)
        behind = (taken.tsval - silence_ms) % 2**32
        session.node = clone(dataclasses.replace(taken, tsval=behind))

        fd = session.node.fileno()
        assert lib.prl_moment_keep_ahead(fd, echoed.tsval, by_slow_clock_ms) == 1
        dropped = peer_paws_drops()
        session.node.sendall(b"heard")
        assert receive(session.peer, 5) == b"heard"
        assert peer_paws_drops() == dropped


def test_an_echo_of_what_no_clock_was_ever_ahead_is_not_believed() -> None:
    """Whoever can guess a segment of the peer's could make the peer deaf to the new owner."""
    with connected() as session:
        said = get_int(session.node, Tcp.TIMESTAMP)
        echoed = (said + lib.PRL_TSVAL_DRIFT_MAX_MS + PATIENCE_S * 1000) % 2**32
        assert lib.prl_moment_keep_ahead(session.node.fileno(), echoed, 0) == 0
        session.node.sendall(b"heard")
        assert receive(session.peer, 5) == b"heard"
        assert 0 <= (get_int(session.node, Tcp.TIMESTAMP) - said) % 2**32 < PATIENCE_S * 1000


@pytest.mark.parametrize("handshake", HANDSHAKES)
@pytest.mark.parametrize("kind", NODE_ADDRESSES)
def test_session_continues_in_its_clone(kind: str, handshake: str) -> None:
    inbound, outbound = rng.randbytes(300_000), rng.randbytes(600_000)
    with peer_sysctls(HANDSHAKES[handshake]), connected(kind) as session:
        session.peer.sendall(inbound[:30_000])
        assert receive(session.node, 10_000) == inbound[:10_000]
        await_unread(session.node, 20_000)
        session.node.sendall(outbound[:5_000])
        assert receive(session.peer, 5_000) == outbound[:5_000]
        with peer_hears_nothing():
            session.node.setblocking(False)
            queued = 5_000 + session.node.send(outbound[5_000:300_000])
            taken = take(session.node)
            assert taken.unread == inbound[10_000:30_000]
            assert taken.unacked == outbound[5_000:queued]
            assert 0 < queue_bytes(session.node, Queue.UNSENT) < len(taken.unacked)
            disabled = HANDSHAKES[handshake]
            assert taken.timestamps == ("tcp_timestamps" not in disabled)
            assert taken.sack == ("tcp_sack" not in disabled)
            assert taken.window_scaling == ("tcp_window_scaling" not in disabled)
            discard(session.node)
            session.node = clone(decode(encode(taken)))
        assert adopt(session.node, taken) == ()
        read_by_node, read_by_peer = exchange(session, inbound[30_000:], outbound[queued:])
    assert read_by_node == inbound[10_000:]
    assert read_by_peer == outbound[5_000:]


@pytest.mark.parametrize("handshake", HANDSHAKES)
@pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
def test_clone_is_in_the_originals_state(kind: str, handshake: str) -> None:
    with peer_sysctls(HANDSHAKES[handshake]), connected(kind) as session:
        session.peer.sendall(b"question")
        await_unread(session.node, 8)
        with peer_hears_nothing():
            session.node.sendall(b"answer")
            original, send_mss = take(session.node), get_int(session.node, Tcp.MAXSEG)
            discard(session.node)
            with inside(NODE):  # with a larger buffer the second take() announces a wider window
                session.node = restore(original, congestion=None, rcvbuf_bytes=0, sndbuf_bytes=0)
            copy = take(session.node)
            # Without timestamps the kernel still counts their 12 bytes here, but does not use them.
            assert (
                0 <= send_mss - get_int(session.node, Tcp.MAXSEG) <= 12 * (not original.timestamps)
            )
    lead_ms = (copy.tsval - original.tsval) % 2**32
    assert not original.timestamps or 2 <= lead_ms < PATIENCE_S * 1000
    like_original = dataclasses.replace(
        copy, segs_in=original.segs_in, tsval=original.tsval, options=original.options
    )
    assert like_original == original


@pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
def test_a_snapshot_leaves_the_original_as_it_was(kind: str) -> None:
    inbound, outbound = rng.randbytes(200_000), rng.randbytes(200_000)
    with connected(kind) as session:
        session.peer.sendall(inbound[:1000])
        await_unread(session.node, 1000)
        for reuse in (0, 1):
            set_int(session.node, So.REUSEADDR, reuse)
            sent = node_segments_sent()
            session.node.settimeout(PATIENCE_S)  # a timeout of Python's must not make it wait
            assert take(session.node).unread == inbound[:1000]
            assert node_segments_sent() == sent
            assert get_int(session.node, So.REUSEADDR) == reuse
            assert get_int(session.node, Tcp.REPAIR) == 0
            assert session.node.gettimeout() == PATIENCE_S
        assert exchange(session, inbound[1000:], outbound) == (inbound, outbound)


@pytest.mark.parametrize("handshake", HANDSHAKES)
@pytest.mark.parametrize("kind", NODE_ADDRESSES)
def test_a_moment_is_what_a_snapshot_says_and_the_session_goes_on_from_it(
    kind: str, handshake: str
) -> None:
    inbound, outbound = rng.randbytes(200_000), rng.randbytes(200_000)
    with peer_sysctls(HANDSHAKES[handshake]), connected(kind) as session:
        session.peer.sendall(inbound[:12_000])
        assert receive(session.node, 10_000) == inbound[:10_000]
        await_unread(session.node, 2_000)
        known = outline_of(session.node)
        with peer_hears_nothing():
            session.node.sendall(outbound[:3_000])
            taken, sent = take(session.node), node_segments_sent()
            moment = Moment(session.node)
            assert moment.error == 0
            assert node_segments_sent() == sent
            assert get_int(session.node, Tcp.REPAIR) == 0
            said = moment.value
            assert (said.rcv_seq, said.snd_seq) == (taken.rcv_seq, taken.snd_seq)
            assert (moment.unread, moment.unacked) == (taken.unread, taken.unacked)
            window = taken.repair_window
            assert (said.snd_wl1, said.snd_wnd, said.max_window, said.rcv_wnd, said.rcv_wup) == (
                *(window.snd_wl1, window.snd_wnd, window.max_window),
                *(window.rcv_wnd, window.rcv_wup),
            )
            assert said.mss == taken.mss
            assert (said.in_bytes, said.out_bytes) == (10_000, 3_000)
            assert moment.counts.segs_in == taken.segs_in
            assert 0 <= said.tsval - taken.tsval < PATIENCE_S * 1000 or not taken.timestamps
            discard(session.node)
            session.node = moment.restored(known)
            copy = take(session.node)
            assert 2 <= copy.tsval - said.tsval < PATIENCE_S * 1000 or not taken.timestamps
            # What follows from the buffers, the clock and the counters is a clone's own.
            assert copy == dataclasses.replace(
                taken,
                tsval=copy.tsval,
                segs_in=copy.segs_in,
                options=copy.options,
                in_bytes=0,
                out_bytes=len(taken.unacked),
                repair_window=copy.repair_window,
            )
            assert moment.counts.bytes_received == 2_000
        read_by_node, read_by_peer = exchange(session, inbound[12_000:], outbound[3_000:])
    assert read_by_node == inbound[10_000:]
    assert read_by_peer == outbound


def test_what_has_no_moment_is_told_apart_and_left_as_it_was() -> None:
    with connected() as session:
        session.peer.send(b"!", socket.MSG_OOB)
        urgent = select.poll()
        urgent.register(session.node, select.POLLPRI)
        assert urgent.poll(PATIENCE_S * 1000)
        assert Moment(session.node).error == -errno.EBUSY
        assert session.node.recv(1, socket.MSG_OOB) == b"!"
        session.peer.sendall(b"behind it")
        assert receive(session.node, 9) == b"behind it"
        assert Moment(session.node).error == 0
        session.peer.sendall(bytes(lib.PRL_MOMENT_PIECE + 1))
        await_unread(session.node, lib.PRL_MOMENT_PIECE + 1)
        too_much = Moment(session.node)
        assert too_much.error == -errno.EMSGSIZE
        assert too_much.value.unread_bytes == lib.PRL_MOMENT_PIECE + 1
        receive(session.node, lib.PRL_MOMENT_PIECE + 1)
        session.peer.shutdown(socket.SHUT_WR)
        assert session.node.recv(1) == b""
        assert Moment(session.node).value.state == TcpState.CLOSE_WAIT
        with inside(NODE):
            assert outline(session.node, fixed_of(session.node)) is None
        assert get_int(session.node, Tcp.REPAIR) == 0
        session.node.sendall(b"goes on")
        assert receive(session.peer, 7) == b"goes on"
        with peer_hears_nothing():
            session.node.shutdown(socket.SHUT_WR)
            refused = Moment(session.node)
            assert (refused.error, refused.call) == (-errno.ENOTSUP, "")
            assert get_int(session.node, Tcp.REPAIR) == 0
    with socket.socket() as unconnected_socket:
        failed = Moment(unconnected_socket)
        assert (failed.error, failed.call) == (-errno.ENOTSUP, "")


def test_the_positions_in_the_streams_count_no_fin() -> None:
    with connected() as session:
        session.peer.sendall(b"read, unread")
        assert receive(session.node, 6) == b"read, "
        session.node.sendall(b"acknowledged")
        receive(session.peer, 12)
        await_until(lambda: queue_bytes(session.node, Queue.UNACKED) == 0)
        with peer_hears_nothing():
            session.node.sendall(b" or not")
            session.node.shutdown(socket.SHUT_WR)
            taken = take(session.node)
            assert taken.state == TcpState.FIN_WAIT1
            assert (taken.in_bytes, taken.out_bytes) == (6, 19)
            assert (taken.unread, taken.unacked) == (b"unread", b" or not")
        await_until(lambda: tcp_info(session.node).state == TcpState.FIN_WAIT2)
        taken = take(session.node)
        assert (taken.in_bytes, taken.out_bytes, taken.unacked) == (6, 19, b"")
    with connected() as session:
        session.peer.sendall(b"read, unread")
        session.peer.shutdown(socket.SHUT_WR)
        assert receive(session.node, 6) == b"read, "
        await_until(lambda: tcp_info(session.node).state == TcpState.CLOSE_WAIT)
        session.node.sendall(b"answer")
        receive(session.peer, 6)
        await_until(lambda: queue_bytes(session.node, Queue.UNACKED) == 0)
        taken = take(session.node)
        assert (taken.in_bytes, taken.out_bytes, taken.unread) == (6, 6, b"unread")


def test_large_queues() -> None:
    inbound = rng.randbytes(3 << 20)

    def roomy(listener: socket.socket) -> None:
        set_int(listener, So.RCVBUFFORCE, 8 << 20)

    with connected("ipv4", roomy) as session:
        session.peer.sendall(inbound)
        await_unread(session.node, len(inbound))
        taken = take(session.node)
        assert taken.unread == inbound
        discard(session.node)
        with inside(NODE):  # buffers too small for what is queued grow by themselves
            session.node = restore(taken, congestion=None, rcvbuf_bytes=0, sndbuf_bytes=0)
        assert exchange(session, b"more", b"answer") == (inbound + b"more", b"answer")


def test_half_acknowledged_segment_is_not_sent_again_from_its_start() -> None:
    """The kernel shows the acknowledged half too, in front of what SIOCOUTQ counts."""
    outbound = rng.randbytes(1000)
    with peer_sysctls({"tcp_timestamps": 0}), connected() as session, peer_hears_nothing():
        session.node.sendall(outbound)
        first = take(session.node)
        una = (first.snd_seq - len(outbound)) & 0xFFFFFFFF
        send_bare_ack(first, seq=first.rcv_seq, ack=(una + 400) & 0xFFFFFFFF)
        await_until(lambda: queue_bytes(session.node, Queue.UNACKED) == 600)
        second = take(session.node)
        discard(session.node)
    assert (second.snd_seq, second.unacked) == (first.snd_seq, outbound[400:])


def send_bare_ack(snapshot: TcpSnapshot, *, seq: int, ack: int) -> None:
    """Forge an acknowledgement from the peer."""
    ends = struct.pack("!HH", snapshot.remote.port, snapshot.local.port)
    header = ends + struct.pack("!IIBBHHH", seq, ack, 5 << 4, 0x10, 500, 0, 0)
    pseudo = snapshot.remote.packed + snapshot.local.packed + struct.pack("!HH", 6, len(header))
    total = sum(struct.unpack(f"!{len(pseudo + header) // 2}H", pseudo + header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    with inside(PEER), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        segment = header[:16] + struct.pack("!H", checksum) + header[18:]
        raw.sendto(segment, (str(snapshot.local.address), 0))


@pytest.mark.needs("peek_off")
def test_peek_offset_of_the_application_survives() -> None:
    with connected() as session:
        session.peer.sendall(b"abcdef")
        await_unread(session.node, 6)
        set_int(session.node, So.PEEK_OFF, 2)
        assert take(session.node).unread == b"abcdef"
        assert session.node.recv(2, socket.MSG_PEEK) == b"cd"


# No dictionaries: options of different levels are equal as numbers.
APPLICATION: tuple[tuple[Option, int], ...] = (
    (Tcp.NODELAY, 0),
    (So.KEEPALIVE, 1),
    (Tcp.KEEPIDLE, 30),
    (Tcp.KEEPINTVL, 7),
    (Tcp.KEEPCNT, 3),
    (Tcp.USER_TIMEOUT, 12_345),
)
NETWORK: tuple[tuple[Option, int], ...] = ((Ip.TOS, 0xC0), (Ip.TTL, 3), (Ip.MINTTL, 60))


def read_again(
    sock: socket.socket, options: tuple[tuple[Option, int], ...]
) -> tuple[tuple[Option, int], ...]:
    return tuple((option, get_int(sock, option)) for option, _ in options)


def test_shadow_outlives_its_timers_and_gets_the_applications_options_at_take_over() -> None:
    with connected() as session:
        for option, value in APPLICATION + NETWORK:
            set_int(session.node, option, value)
        set_bytes(session.node, Tcp.CONGESTION, b"reno")
        set_bytes(session.node, So.BINDTODEVICE, b"lan0")
        rto_max_ms = get_int_or(session.node, Tcp.RTO_MAX_MS, 0)
        taken = take(session.node)
        discard(session.node)
        with inside(NODE):
            shadow = restore(
                taken, congestion="cubic", rcvbuf_bytes=BUFFER_BYTES, sndbuf_bytes=BUFFER_BYTES
            )
        session.node = shadow

        assert not shadow.getblocking()
        assert get_name(shadow, Tcp.CONGESTION) == "cubic"
        assert get_int(shadow, Tcp.USER_TIMEOUT) == 2**31 - 1
        assert get_int(shadow, So.KEEPALIVE) == 0
        assert get_int(shadow, Tcp.NODELAY) == 1
        assert get_int_or(shadow, Tcp.RTO_MAX_MS, 0) == (120_000 if rto_max_ms else 0)
        assert get_name(shadow, So.BINDTODEVICE) == "lan0"
        assert read_again(shadow, NETWORK) == NETWORK

        assert adopt(shadow, taken) == ()
        assert get_name(shadow, Tcp.CONGESTION) == "reno"
        assert read_again(shadow, APPLICATION) == APPLICATION
        assert get_int_or(shadow, Tcp.RTO_MAX_MS, 0) == rto_max_ms
        assert exchange(session, b"question", b"answer") == (b"question", b"answer")


def test_adopt_tells_what_this_node_cannot_set() -> None:
    with connected() as session:
        taken = take(session.node)
        elsewhere = dataclasses.replace(taken.options, congestion="nosuch")
        (failure,) = adopt(session.node, dataclasses.replace(taken, options=elsewhere))
    assert "TCP_CONGESTION" in failure


def test_discard_is_silent() -> None:
    with connected() as session:
        session.peer.sendall(b"never read: an ordinary close would reset")
        await_unread(session.node, 41)
        sent = node_segments_sent()
        discard(session.node)
        assert node_segments_sent() == sent
        assert tcp_info(session.peer).state == TcpState.ESTABLISHED


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("in_front", [b"", b"before"])
def test_pending_urgent_data_is_refused_until_it_is_read(*, inline: bool, in_front: bytes) -> None:
    with connected() as session:
        set_int(session.node, So.OOBINLINE, int(inline))
        session.peer.sendall(in_front)
        session.peer.send(b"!", socket.MSG_OOB)
        urgent = select.poll()
        urgent.register(session.node, select.POLLPRI)
        assert urgent.poll(PATIENCE_S * 1000)
        with pytest.raises(SnapshotError, match="urgent data is pending"):
            take(session.node)
        assert get_int(session.node, So.OOBINLINE) == inline
        assert get_int(session.node, Tcp.REPAIR) == 0
        if not inline:
            assert session.node.recv(1, socket.MSG_OOB) == b"!"
            with pytest.raises(SnapshotError, match="urgent data is pending"):
                take(session.node)  # its mark is still in the stream
        session.peer.sendall(b"after")
        ordinary = in_front + b"!" * inline
        assert receive(session.node, len(ordinary)) == ordinary
        assert receive(session.node, 1) == b"a"
        await_unread(session.node, 4)
        assert take(session.node).unread == b"fter"


def unconnected() -> socket.socket:
    return socket.socket()


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def datagram() -> socket.socket:
    return socket.socket(type=socket.SOCK_DGRAM)


def local() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


def multipath() -> socket.socket:
    return socket.socket(proto=socket.IPPROTO_MPTCP)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (unconnected, "state CLOSE;"),
        (listening, "state LISTEN;"),
        (datagram, "UDP"),
        (local, "protocol 0"),
        pytest.param(multipath, "MPTCP", marks=pytest.mark.needs("mptcp")),
    ],
)
def test_what_is_no_established_tcp_is_refused(make: Callable[[], socket.socket], why: str) -> None:
    with make() as sock, pytest.raises(SnapshotError, match=why):
        take(sock)


def test_a_connection_that_both_have_ended_is_refused() -> None:
    with connected() as session:
        session.peer.shutdown(socket.SHUT_WR)
        assert receive(session.node, 1) == b""
        assert take(session.node).peer_ended
        with peer_hears_nothing():
            session.node.shutdown(socket.SHUT_WR)
            with pytest.raises(SnapshotError, match="state LAST_ACK; both directions"):
                take(session.node)


def test_missing_capability_is_named() -> None:
    with connected() as session:
        session.node.set_inheritable(True)
        fd = session.node.fileno()
        script = (
            "import socket; from prl.shadow import take, SnapshotError\n"
            f"try: take(socket.socket(fileno={fd}))\n"
            "except SnapshotError as error: print(error)"
        )
        inside_node = ("nsenter", f"--net=/run/netns/{NODE}")
        drop = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
        done = subprocess.run(
            (*inside_node, *drop, sys.executable, "-c", script),
            cwd=Path(__file__).parents[2],
            pass_fds=(fd,),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        )
        assert "CAP_NET_ADMIN" in done.stdout
        assert exchange(session, b"question", b"answer") == (b"question", b"answer")


def test_connection_that_moves_is_not_cloned() -> None:
    """Megabytes are copied while a byte comes at a time: one of the segments falls in between."""

    def roomy(listener: socket.socket) -> None:
        set_int(listener, So.RCVBUFFORCE, 16 << 20)

    def trickle(sock: socket.socket, over: threading.Event) -> None:
        while not over.is_set():
            sock.send(b"x")

    over = threading.Event()
    with connected("ipv4", roomy) as session:
        session.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session.peer.sendall(bytes(4 << 20))
        await_unread(session.node, 4 << 20)
        with ThreadPoolExecutor(1) as pool:
            trickling = pool.submit(trickle, session.peer, over)
            try:
                await_until(lambda: moves(session.node))
            finally:
                over.set()
            trickling.result()
        assert get_int(session.node, Tcp.REPAIR) == 0
        assert get_int(session.node, So.REUSEADDR) == 1


def test_bytes_that_come_during_a_copy_are_not_taken_for_urgent_data() -> None:
    """Urgent data shows as a difference of two counts, between which others may arrive."""
    over = threading.Event()

    def trickle(sock: socket.socket) -> None:
        while not over.is_set():
            sock.send(b"x")

    with connected("ipv4") as session, ThreadPoolExecutor(1) as pool:
        session.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trickling = pool.submit(trickle, session.peer)
        try:
            for _ in range(RACES):
                moves(session.node)
                with suppress(BlockingIOError):
                    session.node.recv(1 << 20, socket.MSG_DONTWAIT)
        finally:
            over.set()
        trickling.result()


def moves(sock: socket.socket) -> bool:
    try:
        take(sock, attempts=1)
    except SnapshotMovedError:
        return True
    return False


def elsewhere(snapshot: TcpSnapshot) -> TcpSnapshot:
    away = Endpoint(b"\xc6\x33\x64\x63", snapshot.local.port)
    return dataclasses.replace(snapshot, local=away)


def no_such_device(snapshot: TcpSnapshot) -> TcpSnapshot:
    network = dataclasses.replace(snapshot.network, bound_device="nosuch0")
    return dataclasses.replace(snapshot, network=network)


def impossible_window(snapshot: TcpSnapshot) -> TcpSnapshot:
    window = dataclasses.replace(snapshot.repair_window, snd_wnd=9, max_window=8)
    return dataclasses.replace(snapshot, repair_window=window)


@pytest.mark.parametrize(
    ("spoil", "congestion", "why"),
    [
        (lambda snapshot: snapshot, None, "connect .*exists here"),
        (elsewhere, None, r"bind\(198.51.100.99:.*not on this node"),
        (no_such_device, None, "SO_BINDTODEVICE.*no interface"),
        (impossible_window, None, "TCP_REPAIR_WINDOW failed: Invalid"),
        (lambda snapshot: snapshot, "nosuch", "TCP_CONGESTION.*lacks"),
    ],
)
def test_failed_restore_names_the_call_and_leaves_nothing(
    spoil: Callable[[TcpSnapshot], TcpSnapshot], congestion: str | None, why: str
) -> None:
    with connected() as session:
        taken = take(session.node)
        if spoil is impossible_window:
            discard(session.node)
        before, sent = open_descriptors(), node_segments_sent()
        with inside(NODE), pytest.raises(SnapshotError, match=why):
            restore(
                spoil(taken),
                congestion=congestion,
                rcvbuf_bytes=BUFFER_BYTES,
                sndbuf_bytes=BUFFER_BYTES,
            )
        assert (open_descriptors(), node_segments_sent()) == (before, sent)
