"""TCP over a bad wire: lost, doubled, reordered, overlapping segments change nothing (issue 3).

Checks R8, R12a.
"""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from prl.client import Node, Session, Shadow
from prl.demo.payload import Payload
from prl.lab import Lab, stretch
from prl.lab.netns import Namespace
from prl.shadow.sockopt import tcp_info
from tests.system.impair import CHANCES, Impaired, impaired
from tests.system.serving import lab_name
from tests.system.support import MODE, newest_shadow, protect
from tests.tcp_info import total_retrans

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops")

PATIENCE_S = 60.0 * stretch.factor()
POLL_S = 0.01
PORT = 7200
SIZE = 12 << 20
FAIL_AT = SIZE // 2
LAST_AT = SIZE - (1 << 20)  # from here on it is sent after the failure
READ_BYTES = 1 << 17
ECHO_CHUNK = 1 << 16
SEED = 20261122
DATA = b"".join(bytes(Payload(SIZE).at(offset)) for offset in range(0, SIZE, 1 << 20))


class Stream:
    """What one program has read of a connection, byte for byte."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def add(self, data: bytes) -> None:
        with self.changed:
            self.data += data
            self.ended |= not data
            self.changed.notify_all()

    def wait(self, done: Callable[[], bool], what: str) -> None:
        with self.changed:
            reached = self.changed.wait_for(lambda: done() or self.error is not None, PATIENCE_S)
        assert self.error is None, f"{what}: {self.error}"
        assert reached, f"{what}: {len(self.data)} bytes so far"

    def await_bytes(self, count: int) -> None:
        self.wait(lambda: len(self.data) >= count, f"{count} bytes")

    def await_more(self, count: int) -> None:
        """Wait until there are more than ``count`` bytes, or the end."""
        self.wait(lambda: self.ended or len(self.data) > count, f"more than {count} bytes")

    def await_end(self) -> None:
        self.wait(lambda: self.ended, "the end")


class Scene:
    """A protected connection over a bad wire; all sockets and programs are the test's own."""

    def __init__(self, family: int, ways: tuple[str, ...], stack: ExitStack) -> None:
        self._stack = stack
        self.failed = threading.Event()
        self.lab = Lab(lab_name(f"u12imp{family}{len(ways)}"))
        stack.callback(self.lab.down)
        self.lab.up(MODE)
        service = self.lab.topology.service
        self.address = str(service.ipv4 if family == 4 else service.ipv6)
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        self.wire: Impaired = stack.enter_context(impaired(self.lab, SEED, *ways))
        self.nodes = [
            stack.enter_context(closing(Node(self.lab.state.socket(node))))
            for node in self.lab.topology.nodes
        ]
        self._await_roles()
        host = self.address if family == 4 else f"[{self.address}]"
        self.nodes[1].offer(f"{host}:{PORT}")
        there = (self.address, PORT)
        server = self._inside("re0", lambda: socket.create_server(there, family=kind))
        with server:
            self.peer = self._own(
                self._inside("peer", lambda: socket.create_connection(there, PATIENCE_S))
            )
            self.sock = self._own(server.accept()[0])
        self.peer.settimeout(PATIENCE_S)
        self.session: Session = protect(self.nodes[0], self.sock)
        self.shadow: Shadow = newest_shadow(self.nodes[1])
        self._generation = self._flow()["generation"]
        self._own(self.shadow.sock)

    def _inside(self, where: str, work: Callable[[], socket.socket]) -> socket.socket:
        return Namespace(self.lab.topology.namespaces[where]).call(work)

    def _own(self, sock: socket.socket) -> socket.socket:
        self._stack.callback(sock.close)
        return sock

    def _await_roles(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        for node, role in zip(self.nodes, ("owner", "standby"), strict=True):
            while node.request({"op": "status"})["services"][0]["state"] != role:
                assert time.monotonic() < deadline, f"not {role}"
                time.sleep(POLL_S)

    def start(self, stream: Stream, work: Callable[[], None], sock: socket.socket) -> None:
        """Run ``work`` in a thread, until it is done or the scene is over."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - whoever waits is told
                with stream.changed:
                    stream.error = error
                    stream.changed.notify_all()

        def stop() -> None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            thread.join(PATIENCE_S)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._stack.callback(stop)

    def read(self, source: socket.socket | Shadow) -> Stream:
        """A program that only reads."""
        stream = Stream()

        def work() -> None:
            while not stream.ended:
                stream.add(source.recv(READ_BYTES))

        sock = source.sock if isinstance(source, Shadow) else source
        self.start(stream, work, sock)
        return stream

    def _flow(self) -> dict[str, Any]:
        asked = {"op": "flow_show", "handle": self.session.handle}
        return dict(self.nodes[0].request(asked)["flow"])

    def power(self) -> None:
        """Cut it off, protected by the very first snapshot that there was a shadow of."""
        flow = self._flow()
        assert (flow["state"], flow["generation"]) == ("active", self._generation), flow
        self.lab.fail("re0", "power")
        self.failed.set()

    def assert_bad(self, *ways: str) -> None:
        """The wire was bad indeed."""
        counters = self.wire.end()
        for way in ways:
            for kind in CHANCES:
                assert counters[way][kind] > 0, f"{way}: nothing was {kind}: {counters}"


@pytest.fixture
def make_scene() -> Iterator[Callable[..., Scene]]:
    with ExitStack() as stack:
        yield lambda family, *ways: Scene(family, ways, stack)


def same(got: bytes | bytearray, wanted: bytes) -> bool:
    return hashlib.sha256(got).digest() == hashlib.sha256(wanted).digest()


@pytest.mark.parametrize("family", [4, 6])
def test_upload(make_scene: Callable[..., Scene], family: int) -> None:
    scene = make_scene(family, "from_peer")
    primary, standby = scene.read(scene.sock), scene.read(scene.shadow)
    sent = Stream()

    def upload() -> None:
        scene.peer.sendall(DATA[:FAIL_AT])
        primary.await_bytes(FAIL_AT)
        standby.await_bytes(FAIL_AT)
        sent.add(b"half")
        scene.peer.sendall(DATA[FAIL_AT:LAST_AT])
        scene.failed.wait(PATIENCE_S)
        scene.peer.sendall(DATA[LAST_AT:])
        scene.peer.shutdown(socket.SHUT_WR)

    scene.start(sent, upload, scene.peer)
    sent.await_bytes(1)
    assert same(primary.data[:FAIL_AT], DATA[:FAIL_AT])
    assert tcp_info(scene.sock).ooo_segments > 0
    assert tcp_info(scene.shadow.sock).ooo_segments > 0
    primary.await_bytes(FAIL_AT + SIZE // 8)  # under way again
    scene.power()
    scene.shadow.wait_taken_over(PATIENCE_S)
    standby.await_end()
    assert same(standby.data, DATA)
    assert same(primary.data, DATA[: len(primary.data)])
    assert total_retrans(scene.peer) > 0
    scene.assert_bad("from_peer")


def test_download_with_both_directions_bad(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(4, "from_peer", "to_peer")
    peer, primary, standby = scene.read(scene.peer), Stream(), Stream()

    def first() -> None:
        with suppress(OSError):  # it loses its power in the middle of this
            scene.sock.sendall(DATA[:LAST_AT])

    def second() -> None:
        taken = scene.shadow.wait_taken_over(PATIENCE_S)
        scene.shadow.sock.sendall(DATA[taken.out_bytes :])
        scene.shadow.sock.shutdown(socket.SHUT_WR)

    scene.start(primary, first, scene.sock)
    scene.start(standby, second, scene.shadow.sock)
    peer.await_bytes(FAIL_AT)
    assert tcp_info(scene.peer).ooo_segments > 0
    assert total_retrans(scene.sock) > 0
    scene.power()
    peer.await_end()
    assert standby.error is None
    assert same(peer.data, DATA)
    scene.assert_bad("to_peer")  # from the peer come pure ACKs, which are left alone


def test_echo_with_both_directions_bad(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(6, "from_peer", "to_peer")
    peer, primary, answers = Stream(), Stream(), Stream()
    standby = scene.read(scene.shadow)

    def converse() -> None:
        for offset in range(0, SIZE, ECHO_CHUNK):
            if offset == LAST_AT:
                scene.failed.wait(PATIENCE_S)
            scene.peer.sendall(DATA[offset : offset + ECHO_CHUNK])
            while len(peer.data) < offset + ECHO_CHUNK:
                data = scene.peer.recv(READ_BYTES)
                assert data, "ended early"
                peer.add(data)
        scene.peer.shutdown(socket.SHUT_WR)
        peer.add(scene.peer.recv(1))

    def echo() -> None:
        with suppress(OSError):  # it loses its power in the middle of this
            while data := scene.sock.recv(READ_BYTES):
                primary.add(data)
                scene.sock.sendall(data)

    def go_on() -> None:
        """Answer what was not answered yet, then all that comes."""
        answered = scene.shadow.wait_taken_over(PATIENCE_S).out_bytes
        while not (standby.ended and answered == len(standby.data)):
            standby.await_more(answered)
            data = bytes(standby.data[answered:])
            scene.shadow.sock.sendall(data)
            answered += len(data)
        scene.shadow.sock.shutdown(socket.SHUT_WR)

    scene.start(primary, echo, scene.sock)
    scene.start(answers, go_on, scene.shadow.sock)
    scene.start(peer, converse, scene.peer)
    peer.await_bytes(FAIL_AT)
    scene.power()
    peer.await_end()
    assert answers.error is None
    assert same(peer.data, DATA)
    assert same(standby.data, DATA)
    assert same(primary.data, DATA[: len(primary.data)])
    assert tcp_info(scene.peer).ooo_segments > 0
    scene.assert_bad("from_peer", "to_peer")
