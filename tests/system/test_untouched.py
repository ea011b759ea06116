"""Sessions that nobody asked to replicate: byte for byte as though prl were not there (R1)."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Self

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab
from prl.lab.netns import Namespace
from tests.system import support
from tests.system.support import PATIENCE_S, Applications, Peer, service_address

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

PLAIN_PORT = 7777
SIZE_BYTES = 1 << 20
DATAGRAM_BYTES = (1, 100, 1400, 4000, 20_000)  # the last two come in fragments
OWN = {4: "192.0.2.10", 6: "2001:db8:0:1::10"}


@pytest.fixture(
    params=[
        "native",
        pytest.param("generic", marks=pytest.mark.needs("long_packets")),
        pytest.param("kernel", marks=pytest.mark.needs("nfqueue")),
    ]
)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with support.pair("f8b", request.param) as made:
        yield made


class PlainEcho:
    """TCP and UDP echo on one address of a node, that knows nothing of prl."""

    def __init__(self, lab: Lab, node: str, address: str) -> None:
        place = Namespace(lab.topology.member(node).namespace)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._tcp = place.call(lambda: socket.create_server((address, PLAIN_PORT), family=family))
        self._udp = place.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._udp.bind((address, PLAIN_PORT))
        for work in (self._serve_tcp, self._serve_udp):
            threading.Thread(target=work, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._tcp, self._udp):
            # A close alone does not wake the thread that waits in it.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _serve_tcp(self) -> None:
        while True:
            try:
                sock, _ = self._tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(sock,), daemon=True).start()

    @staticmethod
    def _echo(sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(1 << 16):
                    sock.sendall(data)
            except OSError:
                return

    def _serve_udp(self) -> None:
        while True:
            try:
                data, source = self._udp.recvfrom(1 << 16)
            except OSError:
                return
            if not data:  # shut down
                return
            self._udp.sendto(data, source)


def transfer(lab: Lab, address: str) -> None:
    """A TCP session from its beginning to its end."""
    payload = Payload(SIZE_BYTES)
    with Peer(lab, port=PLAIN_PORT, to=address) as peer:
        peer.converse(payload, 50_000)
        peer.finish()
        assert (peer.received, peer.sha256()) == (SIZE_BYTES, payload.sha256())


def exchange_datagrams(lab: Lab, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = Namespace(lab.topology.peer.namespace)
    with place.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((address, PLAIN_PORT))
        for size in DATAGRAM_BYTES:
            data = bytes(Payload(size).at(0, size))
            sock.send(data)
            assert sock.recv(1 << 16) == data


def ping(lab: Lab, address: str, size: int) -> None:
    argv = ["ping", "-n", "-c", "3", "-i", "0.05", "-W", "5", "-s", str(size), address]
    done = lab.run("peer", argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0% packet loss" in done.stdout


def everything_passes(lab: Lab, addresses: list[str]) -> None:
    for address in addresses:
        transfer(lab, address)
        exchange_datagrams(lab, address)
        for size in (56, 4000):
            ping(lab, address, size)


def test_nobody_notices_prl(lab: Lab) -> None:
    """Before, during and after a protected session; a long one goes on all the time."""
    addresses = [service_address(4), service_address(6), OWN[4], OWN[6]]
    with ExitStack() as stack:
        for address in addresses:
            stack.enter_context(PlainEcho(lab, "re0", address))
        everything_passes(lab, addresses)
        apps = Applications(lab, "obey")
        long = [stack.enter_context(Peer(lab, port=PLAIN_PORT, to=a)) for a in addresses]
        with apps.connect() as peer:
            assert peer.ask("protected") == "protected"
            everything_passes(lab, addresses)
            for other in long:
                other.send(b"still here")
                assert other.receive() == b"still here"
            assert peer.ask("undisturbed") == "undisturbed"
            (flow,) = support.flows(lab, "re0")
            assert flow["remote"].endswith(f":{peer.port}")
        apps.expect("end", "re0", peer=peer.port)
        everything_passes(lab, addresses)
        for other in long:
            other.send(b"and now")
            assert other.receive() == b"and now"


def test_a_node_that_stands_by_serves_its_own_address() -> None:
    """The node's own sessions outlive its prld and a take-over, too."""
    with support.pair("f8c") as lab, PlainEcho(lab, "re1", "192.0.2.11"):
        apps = Applications(lab, "obey")
        own = "192.0.2.11"
        with apps.connect() as peer, Peer(lab, port=PLAIN_PORT, to=own) as other:
            everything_passes(lab, [own])
            lab.fail("re0", "power")
            other.send(b"not concerned")
            assert other.receive() == b"not concerned"
            assert peer.ask("moved") == "moved"
            everything_passes(lab, [own])
            lab.fail("re1", "kill-prld")
            other.send(b"still not")
            assert other.receive() == b"still not"
            everything_passes(lab, [own])


def test_the_old_owners_plain_connections_end_at_once() -> None:
    """What lived on the service address and was not protected is void once it has moved (L8)."""
    with support.pair("f8d") as lab, PlainEcho(lab, "re0", service_address(4)):
        apps = Applications(lab, "obey")
        with apps.connect() as peer, Peer(lab, port=PLAIN_PORT) as plain:
            plain.send(b"here")
            assert plain.receive() == b"here"
            lab.fail("re0", "freeze")
            assert peer.ask("moved") == "moved"
            lab.heal("re0")
            apps.expect("state", "re0", peer=peer.port, state="demoted")
            # The protected one may be back already, as a shadow (R23).
            argv = [
                "ss",
                "-Htn",
                "state",
                "established",
                "src",
                f"{service_address(4)}:{PLAIN_PORT}",
            ]
            support.eventually(
                "the plain connection has ended on re0",
                lambda: not subprocess.check_output(lab.command("re0", argv)).strip(),
            )
            assert peer.ask("undisturbed") == "undisturbed"
