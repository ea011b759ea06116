"""What the kernel tells of a session's socket: who has it, and whether it is at rest (SPEC R17)."""

import array
import ctypes
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from errno import EBUSY, ENOENT
from typing import Any

import pytest
from prl._core import ffi, lib

from prl.lab import blackhole
from tests.kernel.bpf_lab import (
    PEER4,
    PEER6,
    PORT,
    SERVICE4,
    SERVICE6,
    TCP,
    Address,
    Bench,
    inside,
    ip,
    mapped,
)
from tests.system.support import eventually

pytestmark = pytest.mark.needs("root", "bpf")

WAITS = "import sys; print(flush=True); sys.stdin.read()"
SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_ATTACH_BPF = 26, 27, 50  # asm-generic/socket.h
FAMILIES = pytest.mark.parametrize("service", [SERVICE4, SERVICE6], ids=["4", "6"])


@dataclass
class Lab:
    """A bench, and connections through it."""

    bench: Bench
    stack: ExitStack
    peers: list[socket.socket] = field(default_factory=list)
    """The other ends of its connections."""

    def connect(self, service: Address, port: int) -> tuple[socket.socket, Any]:
        """A connection of the peer's: the node's end, and its flow's key."""
        family = socket.AF_INET if service.version == 4 else socket.AF_INET6
        with inside(self.bench.node_ns):
            listener = self.stack.enter_context(
                socket.create_server((str(service), port), family=family)
            )
        with inside(self.bench.peer_ns):
            peer = self.stack.enter_context(socket.create_connection((str(service), port)))
        self.peers.append(peer)
        remote = PEER4 if service.version == 4 else PEER6
        return self.stack.enter_context(listener.accept()[0]), self.key(
            service, port, remote, peer.getsockname()[1]
        )

    def key(self, service: Address, port: int, remote: Address, remote_port: int) -> Any:
        made = {"local": list(mapped(service)), "remote": list(mapped(remote)), "proto": TCP}
        ports = {"local_port": socket.htons(port), "remote_port": socket.htons(remote_port)}
        return ffi.new("struct prl_flow_key *", {**made, **ports})

    def references(self, sock: socket.socket, key: Any) -> int:
        with inside(self.bench.node_ns):
            return int(lib.prl_kernel_references(self.bench.kernel, key, sock.fileno()))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Bench(mode=lib.PRL_XDP_GENERIC) as bench, ExitStack() as stack:
        for namespace, four, six in (
            (bench.node_ns, SERVICE4, SERVICE6),
            (bench.peer_ns, PEER4, PEER6),
        ):
            ip("-n", namespace, "address", "add", f"{four}/24", "dev", "lan0")
            ip("-n", namespace, "address", "add", f"{six}/64", "dev", "lan0", "nodad")
        yield Lab(bench, stack)


@FAMILIES
def test_every_descriptor_counts_whoever_has_it(lab: Lab, service: Address) -> None:
    sock, key = lab.connect(service, PORT)
    assert lab.references(sock, key) == 1
    with sock.dup():
        assert lab.references(sock, key) == 2
        with subprocess.Popen(
            [sys.executable, "-c", WAITS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[sock.fileno()],
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"\n"
            assert lab.references(sock, key) == 3
            other.kill()
        assert lab.references(sock, key) == 2
    assert lab.references(sock, key) == 1


def test_one_in_a_message_that_nobody_has_received_counts(lab: Lab) -> None:
    """No folder of /proc has it, and whoever receives it has the socket."""
    sock, key = lab.connect(SERVICE4, PORT)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [sock.fileno()])
        assert lab.references(sock, key) == 2
        _, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
        assert lab.references(sock, key) == 2
        os.close(array.array("i", ancillary[0][2])[0])
    assert lab.references(sock, key) == 1


def test_what_is_another_socket_or_none_is_not_counted(lab: Lab) -> None:
    """Of what has the same ends in another namespace, or listens there, the count says nothing."""
    sock, key = lab.connect(SERVICE4, PORT)
    other, _ = lab.connect(SERVICE4, PORT + 1)
    assert lab.references(other, key) == -ENOENT
    unknown = lab.key(SERVICE4, PORT, PEER4, 9)
    assert lab.references(sock, unknown) == -ENOENT  # the look-up falls back to the listener
    elsewhere = lib.prl_kernel_references(lab.bench.kernel, key, sock.fileno())
    assert elsewhere < 0  # in this test's own network namespace, be it for want of the interface


@FAMILIES
def test_a_filter_of_prl_s_is_told_from_all_others(lab: Lab, service: Address) -> None:
    """Also one that a prld before has left, of which no map knows any more."""
    sock, key = lab.connect(service, PORT)

    def is_filtered() -> int:
        with inside(lab.bench.node_ns):
            return int(lib.prl_kernel_is_filtered(lab.bench.kernel, key, sock.fileno()))

    def attach(option: int, value: bytes | int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, option, value)

    assert is_filtered() == 0
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF), 8)
    attach(SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(instruction)))
    assert is_filtered() == 1
    program = blackhole.load_let_in()
    attach(SO_ATTACH_BPF, program)
    os.close(program)
    assert is_filtered() == 1
    attach(SO_DETACH_FILTER, 0)
    assert lib.prl_kernel_gate_attach(lab.bench.kernel, sock.fileno(), 1) == 0
    assert is_filtered() == 0
    cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 57, 8), "little")  # SO_COOKIE
    assert lib.prl_kernel_gate_forget(lab.bench.kernel, cookie) == 0
    assert is_filtered() == 0
    with inside(lab.bench.node_ns), socket.socket() as other:
        found = lib.prl_kernel_is_filtered(lab.bench.kernel, key, other.fileno())
    assert found == -ENOENT


class Rest:
    """A look at a socket that may be at rest."""

    def __init__(self, lab: Lab, sock: socket.socket, key: Any) -> None:
        self.moment = ffi.new("struct prl_moment *")
        self.counts = ffi.new("struct prl_moment_counts *")
        with inside(lab.bench.node_ns):
            self.error = int(
                lib.prl_kernel_rest(lab.bench.kernel, key, sock.fileno(), self.moment, self.counts)
            )


@dataclass
class Talk:
    """A connection, both ends."""

    lab: Lab
    sock: socket.socket
    peer: socket.socket
    key: Any

    def look(self) -> Rest:
        return Rest(self.lab, self.sock, self.key)

    def await_rest(self) -> Rest:
        """What was said is acknowledged, be it by a delayed acknowledgement."""
        eventually("it is at rest", lambda: self.look().error == 0)
        return self.look()

    def await_stir(self) -> None:
        eventually("it is not at rest", lambda: self.look().error == -EBUSY)


def talk(lab: Lab, service: Address) -> Talk:
    sock, key = lab.connect(service, PORT)
    return Talk(lab, sock, lab.peers[-1], key)


def fields(struct: Any) -> dict[str, int]:
    return {name: int(getattr(struct, name)) for name in dir(struct)}


@FAMILIES
def test_what_is_at_rest_is_copied_as_in_repair_mode(lab: Lab, service: Address) -> None:
    """All that moves, the clock of the timestamps aside."""
    both = talk(lab, service)
    assert both.look().error == 0  # as its handshake left it
    both.peer.sendall(b"a question")
    assert both.sock.recv(64) == b"a question"
    both.sock.sendall(b"an answer, which is longer")
    rest = both.await_rest()
    moment, counts = ffi.new("struct prl_moment *"), ffi.new("struct prl_moment_counts *")
    queues = ffi.new("uint8_t[]", lib.PRL_MOMENT_SLACK)
    call = ffi.new("const char **")
    fd = both.sock.fileno()
    assert lib.prl_moment_copy(fd, moment, queues, 0, counts, call) == 0
    assert fields(rest.counts) == fields(counts)
    since = int(moment.tsval) - int(rest.moment.tsval)
    rest.moment.tsval = moment.tsval
    assert fields(rest.moment) == fields(moment)
    assert 0 <= since < 1 << 31
    assert (moment.in_bytes, moment.out_bytes) == (10, 26)


@FAMILIES
def test_what_waits_to_be_read_is_not_at_rest(lab: Lab, service: Address) -> None:
    both = talk(lab, service)
    both.peer.sendall(b"x")
    both.await_stir()
    assert both.sock.recv(1) == b"x"
    both.sock.sendall(b"y")  # it acknowledges, too
    assert both.peer.recv(1) == b"y"
    both.await_rest()


def test_what_the_peer_has_not_acknowledged_is_not_at_rest(lab: Lab) -> None:
    both = talk(lab, SERVICE4)
    ip("-n", lab.bench.peer_ns, "link", "set", "lan0", "down")
    both.sock.sendall(b"x")
    assert both.look().error == -EBUSY


def test_what_has_an_urgent_byte_is_not_at_rest(lab: Lab) -> None:
    """Nor is it once that is read: the mark is there until something has come beyond it."""
    both = talk(lab, SERVICE4)
    both.peer.send(b"!", socket.MSG_OOB)
    both.await_stir()


def test_what_its_peer_has_ended_is_not_at_rest(lab: Lab) -> None:
    both = talk(lab, SERVICE4)
    both.peer.shutdown(socket.SHUT_WR)
    both.await_stir()


def test_what_is_no_such_socket_is_not_at_rest(lab: Lab) -> None:
    sock, key = lab.connect(SERVICE4, PORT)
    other, _ = lab.connect(SERVICE4, PORT + 1)
    assert Rest(lab, other, key).error == -ENOENT
    assert Rest(lab, sock, lab.key(SERVICE4, PORT, PEER4, 9)).error == -ENOENT
