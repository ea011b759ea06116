"""A daemon that knows nothing of it speaks with the front alone, in any state of the front."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

import pytest

from prl.bgpfront.wiring import BGP_PORT, Wire, Wiring
from prl.bindings.steer import Listener, Steering
from prl.errors import KernelError
from prl.lab.netns import Namespace

pytestmark = pytest.mark.kernel

PEER, SERVICE = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.100")
NOBODY = 65534
TABLE = 1790
PATIENCE_S = 20.0
NO_ANSWER_S = 1.5
IP_TRANSPARENT = 19
SPEAK = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
sock = socket.socket()
sock.settimeout(float(sys.argv[3]))
if sys.argv[4]:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[4].encode())
try:
    sock.connect((sys.argv[2], 179))
    sock.send(b"OPEN")
    print(sock.getsockname()[0], sock.recv(4).decode())
except OSError as error:
    print(type(error).__name__)
"""


class Host:
    """A node's namespace and its peer's, joined by a cable."""

    def __init__(self) -> None:
        self.near, self.far = (Namespace(f"bgpw-{end}-{os.getpid()}") for end in ("n", "f"))
        for place in (self.near, self.far):
            place.create()
        with self.near.netlink() as near, self.far.netlink() as far:
            descriptor = os.open(self.far.path, os.O_RDONLY | os.O_CLOEXEC)
            cable = {"ifname": "lan0", "net_ns_fd": descriptor}
            near.link("add", kind="veth", ifname="lan0", peer=cable)
            os.close(descriptor)
            for netlink, address in ((near, SERVICE), (far, PEER)):
                for name in ("lan0", "lo"):
                    netlink.link("set", index=netlink.link_lookup(ifname=name)[0], state="up")
                own = IPv4Interface(f"{address}/24")
                index = netlink.link_lookup(ifname="lan0")[0]
                netlink.addr("add", index=index, address=str(own.ip), prefixlen=24)
        self.daemon = self.near.call(lambda: _listener("", BGP_PORT))
        self.peer = self.far.call(lambda: _listener(str(PEER), BGP_PORT))
        self.inner = self.near.call(lambda: _listener("127.0.0.1", 0, transparent=True))
        self.outer = self.near.call(lambda: _listener("127.0.0.1", 0))

    def wiring(self) -> Wiring:
        wires = [Wire(PEER, SERVICE)]
        return self.near.call(lambda: Wiring(wires, uid=NOBODY, interface="lan0", table=TABLE))

    def steering(self) -> Steering:
        steering = Steering()
        steering.add(PEER, SERVICE)
        steering.to(Listener.INNER, self.inner)
        steering.to(Listener.OUTER, self.outer)
        self.near.call(steering.attach)
        return steering

    def speak(
        self, uid: int, place: Namespace, to: IPv4Address, device: str = "", wait_s: float = 20.0
    ) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-c", SPEAK, str(uid), str(to), str(wait_s), device]
        return subprocess.Popen(place.command(argv), stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        for sock in (self.daemon, self.peer, self.inner, self.outer):
            sock.close()
        for place in (self.near, self.far):
            place.remove()


def _listener(address: str, port: int, *, transparent: bool = False) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if transparent:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    sock.bind((address, port))
    sock.listen()
    return sock


def taken(listener: socket.socket) -> tuple[str, str]:
    """Whose connection came, and to what; it is answered."""
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    assert poller.poll(PATIENCE_S * 1000)
    sock, remote = listener.accept()
    with sock:
        assert sock.getsockname()[1] == BGP_PORT
        assert sock.recv(4) == b"OPEN"
        sock.send(b"fine")
        return remote[0], sock.getsockname()[0]


def said(speaker: "subprocess.Popen[str]") -> str:
    return speaker.communicate(timeout=PATIENCE_S)[0].strip()


@pytest.fixture
def host() -> Iterator[Host]:
    one = Host()
    yield one
    one.close()


def test_both_ends_meet_the_front(host: Host) -> None:
    wiring, steering = host.wiring(), None
    try:
        host.near.call(wiring.build)
        host.near.call(wiring.build)  # as it is
        steering = host.steering()
        for device in ("", "lan0"):
            daemon = host.speak(NOBODY, host.near, PEER, device)
            assert taken(host.inner) == (str(SERVICE), str(PEER))
            assert said(daemon) == f"{SERVICE} fine"
        peer = host.speak(0, host.far, SERVICE)
        assert taken(host.outer) == (str(PEER), str(SERVICE))
        assert said(peer) == f"{PEER} fine"
        somebody = host.speak(0, host.near, PEER)
        assert taken(host.peer) == (str(SERVICE), str(PEER)), "others are not concerned"
        said(somebody)
    finally:
        wiring.close()
        if steering is not None:
            steering.close()


def test_without_a_front_they_do_not_meet(host: Host) -> None:
    """The front has died: its program went with it, rules and routes stay."""
    wiring = host.wiring()
    host.near.call(wiring.build)
    wiring.close()
    peer = host.speak(0, host.far, SERVICE, wait_s=NO_ANSWER_S)
    daemon = host.speak(NOBODY, host.near, PEER, wait_s=NO_ANSWER_S)
    assert said(peer) == "TimeoutError"
    assert said(daemon) != f"{SERVICE} fine"
    for listener in (host.peer, host.outer, host.inner):
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_without_its_listeners_the_program_lets_nothing_through(host: Host) -> None:
    steering = Steering()
    steering.add(PEER, SERVICE)
    host.near.call(steering.attach)
    peer = host.speak(0, host.far, SERVICE)
    assert said(peer) == "ConnectionRefusedError"
    steering.close()
    steering.close()
    peer = host.speak(0, host.far, SERVICE)
    assert taken(host.daemon) == (str(PEER), str(SERVICE))
    assert said(peer) == f"{PEER} fine"


def test_what_others_change_is_put_right_until_it_is_removed(host: Host) -> None:
    wiring = host.wiring()
    steering = host.steering()
    host.near.call(wiring.build)
    host.near.call(wiring.repair)
    poller = select.poll()
    poller.register(wiring, select.POLLIN)
    assert not poller.poll(0), "its own changes are no news"
    for command in (
        ["ip", "rule", "del", "priority", str(TABLE)],
        ["ip", "route", "flush", "table", str(TABLE)],
    ):
        subprocess.run(host.near.command(command), check=True)
        assert poller.poll(PATIENCE_S * 1000)
        host.near.call(wiring.repair)
        daemon = host.speak(NOBODY, host.near, PEER)
        assert taken(host.inner) == (str(SERVICE), str(PEER))
        said(daemon)
        host.near.call(wiring.repair)
    host.near.call(wiring.remove)
    host.near.call(wiring.remove)
    shown = subprocess.run(
        host.near.command(["ip", "rule"]), check=True, capture_output=True, text=True
    ).stdout
    assert str(TABLE) not in shown
    daemon = host.speak(NOBODY, host.near, PEER)
    assert taken(host.peer) == (str(SERVICE), str(PEER))
    said(daemon)
    steering.close()
    wiring.close()


def test_what_cannot_be_wired(host: Host) -> None:
    with pytest.raises(KernelError, match="no interface"):
        host.near.call(lambda: Wiring([], uid=NOBODY, interface="none0", table=TABLE))
    elsewhere = [Wire(PEER, IPv4Address("198.51.100.1"))]
    wiring = host.near.call(lambda: Wiring(elsewhere, uid=NOBODY, interface="lan0", table=TABLE))
    with pytest.raises(KernelError, match="is the service address on this host"):
        host.near.call(wiring.build)
    wiring.close()
