"""The link from an attacker's place: a man in the middle, and strangers on node 0's host (R27)."""

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from prl.bindings.tls import key_name
from prl.config import link_key
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.lab.topology import LINK_PORT
from tests.link_capture import await_link, start
from tests.system import support
from tests.system.support import Applications, eventually
from tests.system.test_versions_lab import link

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]

HELLO = (Path(__file__).parents[1] / "unit/golden/exchanges/v1-node0.bin").read_bytes()[:500]
"""As a node said it that knew no TLS."""
PORT = 7177
"""Node 0 is told that node 1 listens here: where the man in the middle does."""
TTL = 255
TAKE_BYTES = 1 << 16
Change = Callable[[bytes], bytes]
Wire = tuple[socket.socket, socket.socket]


class Middle:
    """Takes node 0's connections on re1, and calls node 1 from re0, as though it were a cable."""

    def __init__(self, lab: Lab) -> None:
        self.re0, self.re1 = (Namespace(node.namespace) for node in lab.topology.nodes)
        self.here = str(lab.topology.re0.link.ipv4.ip)
        self.there = str(lab.topology.re1.link.ipv4.ip)
        self.changes: dict[int, Change] = {}
        self.recordings: list[tuple[bytearray, bytearray]] = []
        self._listener = self.re1.call(self._listen)
        self._wires: list[Wire] = []
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run)

    def _listen(self) -> socket.socket:
        listener = socket.create_server((self.there, PORT))
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
        return listener

    def call(self) -> socket.socket:
        """A connection to node 1's prld, from node 0's address."""

        def connect() -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
            sock.settimeout(support.PATIENCE_S)
            try:
                sock.bind((self.here, 0))
                sock.connect((self.there, LINK_PORT))
            except OSError:
                sock.close()
                raise
            return sock

        return self.re0.call(connect)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        for sock in (self._listener, self._woken, *(one for wire in self._wires for one in wire)):
            sock.close()

    def once(self, side: int, change: Change) -> None:
        """What node ``side`` sends next is changed so."""
        self.changes[side] = change

    def _run(self) -> None:
        while True:
            sources = [one for wire in self._wires for one in wire]
            for sock in select.select([self._listener, self._woken, *sources], [], [])[0]:
                if sock is self._woken:
                    return
                if sock is self._listener:
                    self._join()
                else:
                    self._carry(sock)

    def _join(self) -> None:
        near, _ = self._listener.accept()
        try:
            self._wires.append((near, self.call()))
            self.recordings.append((bytearray(), bytearray()))
        except OSError:
            near.close()

    def _carry(self, source: socket.socket) -> None:
        wire = next((one for one in self._wires if source in one), None)
        if wire is None:  # it was cut just now
            return
        side = wire.index(source)
        data = b""
        with suppress(OSError):
            data = source.recv(TAKE_BYTES)
        self.recordings[-1][side].extend(data)
        change = self.changes.pop(side, None) if data else None
        try:
            if not data:
                raise ConnectionAbortedError
            wire[1 - side].sendall(change(data) if change else data)
        except OSError:
            self._wires.remove(wire)
            for sock in wire:
                sock.close()


@pytest.fixture(scope="module")
def middle() -> Iterator[tuple[Lab, Middle]]:
    lab = Lab(f"mitm-{os.getpid()}")
    lab.up(start_prld=False)
    try:
        re0 = lab.state.config(lab.topology.re0)
        re0.write_text(re0.read_text().replace(f"port = {LINK_PORT}", f"port = {PORT}"))
        with Middle(lab) as made:
            start(lab)
            await_link(lab)
            yield lab, made
    finally:
        lab.down()


def cut(_: bytes) -> bytes:
    raise ConnectionAbortedError


CHANGES: dict[str, tuple[Change, str]] = {
    "flips a bit": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "forged"),
    "drops a part": (lambda _: b"", "forged"),
    "repeats a part": (lambda data: data + data, "forged"),
    "inserts a record": (lambda data: b"\x17\x03\x03\x00\x20" + bytes(32) + data, "forged"),
    "speaks in clear": (lambda data: b"\x01" * 64 + data, "forged"),
    "cuts": (cut, "truncated"),
}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("what", CHANGES)
def test_a_man_in_the_middle_ends_the_connection_and_nothing_else(
    middle: tuple[Lab, Middle], what: str, side: int
) -> None:
    lab, man = middle
    change, counter = CHANGES[what]
    receiver = f"re{1 - side}"
    apps = Applications(lab, "obey")
    with apps.connect() as peer:
        assert peer.ask("before") == "before"
        before = {node: link(lab, node) for node in ("re0", "re1")}
        man.once(side, change)
        eventually("counted", lambda: link(lab, receiver)[counter] != before[receiver][counter])
        assert peer.ask("meanwhile") == "meanwhile"
        await_link(lab)
        for node in ("re0", "re1"):
            assert link(lab, node)["reconnects"] == int(str(before[node]["reconnects"])) + 1
        apps.expect("protected", "re0", peer=peer.port)
        assert peer.ask("after") == "after"
    words = "not authentic" if counter == "forged" else "Connection reset"
    assert any(
        words in e["text"] for e in support.events(lab, receiver) if e["event"] == "link_down"
    )
    lab.fail("re1", "kill-app")
    eventually(
        "re0 knows", lambda: not any(f["state"] == "active" for f in support.flows(lab, "re0"))
    )
    lab.fail("re0", "kill-app")


def test_what_crosses_is_of_no_use_to_who_records_it(middle: tuple[Lab, Middle]) -> None:
    lab, man = middle
    apps = Applications(lab, "obey")
    with apps.connect() as peer:
        assert peer.ask("a word that is easily found") == "a word that is easily found"
    for recording in man.recordings:
        assert b"easily found" not in recording[0] + recording[1]
    lab.fail("re0", "kill-app")
    lab.fail("re1", "kill-app")


def refused(lab: Lab) -> dict[str, int]:
    found: Any = link(lab, "re1")["refused_connections"]
    return dict(found)


def heard(lab: Lab) -> int:
    found: Any = link(lab, "re1")["received"]
    return int(found["HELLO"])


def s_client(lab: Lab, *options: str) -> int:
    command = ["openssl", "s_client", "-connect", f"{lab.topology.re1.link.ipv4.ip}:{LINK_PORT}"]
    command += ["-tls1_3", "-quiet", *options]
    return lab.run("re0", command, input=b"", capture_output=True, timeout=60).returncode


def test_strangers_on_the_other_node_s_host_are_not_the_other_node(
    middle: tuple[Lab, Middle],
) -> None:
    """prld of re0 is down; whoever is there, or has its address, calls re1 instead."""
    lab, man = middle
    (secret,) = link_key.load(lab.state.link_key)
    recording = bytes(max((one[0] for one in man.recordings), key=len))
    lab.run("re0", ["sysctl", "-qw", f"net.ipv4.ip_default_ttl={TTL}"], check=True)
    lab.fail("re0", "kill-prld")
    eventually("re1 is alone", lambda: support.status(lab, "re1")["link"]["state"] == "down")
    before, hellos = refused(lab), heard(lab)
    for said in (HELLO, b"GET / HTTP/1.1\r\n\r\n", recording[:7], recording):
        with man.call() as stranger, suppress(ConnectionError):
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(TAKE_BYTES):
                pass
    assert s_client(lab) != 0
    assert s_client(lab, "-psk_identity", key_name(secret), "-psk", "00" * 32) != 0
    expected = {"plain": 2, "ended": 1, "forged": 1, "key": 2}
    wanted = {kind: n + expected.get(kind, 0) for kind, n in before.items()}
    eventually("all are counted", lambda: refused(lab) == wanted)
    assert heard(lab) == hellos, "nothing that they said was parsed"
    lab._start_prld(lab.topology.re0)
    await_link(lab)
    assert heard(lab) == hellos + 1
