"""A daemon that knows nothing of it speaks with the front alone, in any state of the front."""

import itertools
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec import convert

from prl.bgpfront.config import Peer
from prl.bgpfront.shell import Listeners, inner_socket
from prl.bgpfront.wiring import BGP_PORT, Wire, Wiring
from prl.bindings.steer import DIAL_PORTS, Steering
from prl.endpoint import Address
from prl.errors import KernelError
from prl.lab.netns import Namespace

pytestmark = pytest.mark.kernel


class Net(NamedTuple):
    """A network of the peer and the service address."""

    peer: Address
    service: Address
    prefixlen: int


NETS = {
    "ipv4": Net(ip_address("192.0.2.1"), ip_address("192.0.2.100"), 24),
    "ipv6": Net(ip_address("2001:db8::1"), ip_address("2001:db8::100"), 64),
}
NOBODY = 65534
NUMBERS = itertools.count()
TABLE = 1790
PATIENCE_S = 20.0
NO_ANSWER_S = 1.5
PORT = DIAL_PORTS[0]
IFA_F_NODAD = 0x02  # linux/if_addr.h
ELSEWHERE = {4: ip_address("198.51.100.1"), 6: ip_address("2001:db8:9::1")}
SPEAK = """
import os, socket, sys
from ipaddress import ip_address
from prl.shadow.md5 import set_key
uid, to, wait_s, device, key, hops, port = sys.argv[1:]
os.setuid(int(uid))
is_v4 = ip_address(to).version == 4
sock = socket.socket(socket.AF_INET if is_v4 else socket.AF_INET6)
if int(port):
    sock.bind(("", int(port)))
sock.settimeout(float(wait_s))
if key:
    set_key(sock, to, key.encode())
if device:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
if int(hops):  # of RFC 5082: how far away it seems to be, and that it hears only neighbours
    level, ttl, least = (0, 2, 21) if is_v4 else (41, 16, 73)
    sock.setsockopt(level, ttl, 256 - int(hops))
    sock.setsockopt(level, least, 255)
try:
    sock.connect((to, 179))
    sock.send(b"OPEN")
    print(sock.getsockname()[0], sock.recv(4).decode())
except OSError as error:
    print(type(error).__name__)
"""

LISTEN = """
import os, socket, sys
from ipaddress import ip_address
from prl.shadow.md5 import set_key
uid, peer, key, hops = sys.argv[1:]
is_v4 = ip_address(peer).version == 4
os.seteuid(int(uid))  # it is the user's socket, which root binds
sock = socket.socket(socket.AF_INET if is_v4 else socket.AF_INET6)
os.seteuid(0)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if key:
    set_key(sock, peer, key.encode())
if int(hops):
    level, ttl, least = (0, 2, 21) if is_v4 else (41, 16, 73)
    sock.setsockopt(level, ttl, 255)
    sock.setsockopt(level, least, 255)
sock.bind(("", 179))
sock.listen()
print("listens", flush=True)
one, remote = sock.accept()
one.send(b"OPEN")
print(remote[0], remote[1], one.getsockname()[0], one.recv(4).decode())
"""


class Host:
    """A node's namespace and its peer's, joined by a cable."""

    def __init__(self, net: Net) -> None:
        self.net = net
        name = f"bgpw-{os.getpid()}-{next(NUMBERS)}"
        self.near, self.far = Namespace(f"{name}n"), Namespace(f"{name}f")
        self.front: Listeners | None = None
        self._stack = ExitStack()
        with ExitStack() as made:
            self._make(made)
            self._stack = made.pop_all()

    def _make(self, made: ExitStack) -> None:
        net = self.net
        for place in (self.near, self.far):
            made.callback(place.remove)
            place.create()
        with self.near.netlink() as near, self.far.netlink() as far:
            descriptor = os.open(self.far.path, os.O_RDONLY | os.O_CLOEXEC)
            cable = {"ifname": "lan0", "net_ns_fd": descriptor}
            near.link("add", kind="veth", ifname="lan0", peer=cable)
            os.close(descriptor)
            for netlink, address in ((near, net.service), (far, net.peer)):
                for name in ("lan0", "lo"):
                    netlink.link("set", index=netlink.link_lookup(ifname=name)[0], state="up")
                index = netlink.link_lookup(ifname="lan0")[0]
                flags = IFA_F_NODAD if address.version == 6 else 0
                more = {"address": str(address), "prefixlen": net.prefixlen, "flags": flags}
                netlink.addr("add", index=index, **more)
        self.daemon = made.enter_context(self.near.call(lambda: _listener(net, "", BGP_PORT)))
        self.peer = made.enter_context(
            self.far.call(lambda: _listener(net, str(net.peer), BGP_PORT))
        )

    def wiring(self) -> Wiring:
        wires = [Wire(self.net.peer, self.net.service)]
        return self.near.call(lambda: Wiring(wires, uid=NOBODY, interface="lan0", table=TABLE))

    def steering(self, **options: str | int) -> Steering:
        """With listeners; ``options``: as in bgp.toml."""
        peer = convert({"address": self.net.peer, "local": self.net.service} | options, Peer)
        front = self.front = self.near.call(lambda: Listeners(peer))
        front.inner.setblocking(True)
        front.outer.setblocking(True)
        steering = Steering()
        steering.add(self.net.peer, self.net.service, front.inner, front.outer)
        self.near.call(steering.attach)
        return steering

    @property
    def inner(self) -> socket.socket:
        """Takes what the daemon opens."""
        assert self.front is not None
        return self.front.inner

    @property
    def outer(self) -> socket.socket:
        """Takes what the peer opens."""
        assert self.front is not None
        return self.front.outer

    def daemon_speaks(
        self,
        uid: int = NOBODY,
        *,
        device: str = "",
        wait_s: float = PATIENCE_S,
        key: str = "",
        hops: int = 0,
    ) -> "subprocess.Popen[str]":
        """Who has that user connects to the peer, from this host."""
        return _speak(self.near, uid, self.net.peer, wait_s, device, key, hops)

    def peer_speaks(
        self, *, wait_s: float = PATIENCE_S, key: str = "", hops: int = 0, port: int = 0
    ) -> "subprocess.Popen[str]":
        """The peer connects; ``port``: from there."""
        return _speak(self.far, 0, self.net.service, wait_s, "", key, hops, port)

    def front_speaks(self, **options: str | int) -> "socket.socket":
        """What the front connects to the daemon by, bound."""
        peer = convert({"address": self.net.peer, "local": self.net.service} | options, Peer)
        sock = self.near.call(lambda: inner_socket(peer, peer.key()))
        sock.settimeout(PATIENCE_S)
        sock.bind((str(self.net.peer), PORT))
        return sock

    def passive_daemon(self, key: str = "", *, hops: int = 0) -> "subprocess.Popen[str]":
        """The daemon, which listens, and takes one connection."""
        self.daemon.close()
        argv = [sys.executable, "-c", LISTEN, str(NOBODY), str(self.net.peer), key, str(hops)]
        daemon = subprocess.Popen(self.near.command(argv), stdout=subprocess.PIPE, text=True)
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "listens\n"
        return daemon

    def close(self) -> None:
        if self.front is not None:
            self.front.__exit__()
        self._stack.close()


def _speak(
    place: Namespace,
    uid: int,
    to: Address,
    wait_s: float,
    device: str,
    key: str,
    hops: int,
    port: int = 0,
) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", SPEAK, str(uid), str(to), str(wait_s), device, key]
    argv += [str(hops), str(port)]
    return subprocess.Popen(place.command(argv), stdout=subprocess.PIPE, text=True)


def _listener(net: Net, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET if net.peer.version == 4 else socket.AF_INET6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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


@pytest.fixture(params=list(NETS.values()), ids=list(NETS))
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    one = Host(request.param)
    yield one
    one.close()


def test_both_ends_meet_the_front(host: Host) -> None:
    wiring, steering = host.wiring(), None
    peer, service = map(str, host.net[:2])
    try:
        host.near.call(wiring.build)
        host.near.call(wiring.build)  # as it is
        steering = host.steering()
        for device in ("", "lan0"):
            daemon = host.daemon_speaks(device=device)
            assert taken(host.inner) == (service, peer)
            assert said(daemon) == f"{service} fine"
        caller = host.peer_speaks()
        assert taken(host.outer) == (peer, service)
        assert said(caller) == f"{peer} fine"
        somebody = host.daemon_speaks(uid=0)
        assert taken(host.peer) == (service, peer), "others are not concerned"
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
    daemon = host.daemon_speaks(wait_s=NO_ANSWER_S)
    assert said(daemon) != f"{host.net.service} fine"
    listener = host.passive_daemon()
    caller = host.peer_speaks(wait_s=NO_ANSWER_S)
    assert said(caller) == "TimeoutError"
    assert listener.poll() is None, "it has met nobody"
    listener.kill()
    listener.communicate()
    host.peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        host.peer.accept()


def test_without_its_listeners_the_program_lets_nothing_through(host: Host) -> None:
    steering = host.steering()
    assert host.front is not None
    host.front.__exit__()
    caller = host.peer_speaks()
    assert said(caller) == "ConnectionRefusedError"
    steering.close()
    steering.close()
    caller = host.peer_speaks()
    assert taken(host.daemon) == (str(host.net.peer), str(host.net.service))
    assert said(caller) == f"{host.net.peer} fine"


def test_both_ends_sign_and_nobody_else_is_heard(host: Host, tmp_path: Path) -> None:
    """The key of bgp.toml is that of both connections (RFC 2385)."""
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text("secret\n")
    wiring = host.wiring()
    host.near.call(wiring.build)
    steering = host.steering(md5_key=str(file))
    strangers = [host.daemon_speaks(wait_s=NO_ANSWER_S), host.peer_speaks(wait_s=NO_ANSWER_S)]
    strangers.append(host.peer_speaks(wait_s=NO_ANSWER_S, key="guess"))
    assert [said(one) for one in strangers] == ["TimeoutError"] * 3
    daemon = host.daemon_speaks(key="secret")
    assert taken(host.inner) == (str(host.net.service), str(host.net.peer))
    assert said(daemon) == f"{host.net.service} fine"
    caller = host.peer_speaks(key="secret")
    assert taken(host.outer) == (str(host.net.peer), str(host.net.service))
    assert said(caller) == f"{host.net.peer} fine"
    steering.close()
    wiring.close()


def test_a_peer_that_is_too_far_away_is_not_heard(host: Host) -> None:
    """And the front is heard by daemon and peer if they want the same of it (RFC 5082)."""
    wiring = host.wiring()
    host.near.call(wiring.build)
    steering = host.steering(ttl_security_hops=1)
    for hops in (0, 2):
        assert said(host.peer_speaks(hops=hops, wait_s=NO_ANSWER_S)) == "TimeoutError"
    daemon = host.daemon_speaks(hops=1)
    assert taken(host.inner) == (str(host.net.service), str(host.net.peer))
    assert said(daemon) == f"{host.net.service} fine"
    caller = host.peer_speaks(hops=1)
    assert taken(host.outer) == (str(host.net.peer), str(host.net.service))
    assert said(caller) == f"{host.net.peer} fine"
    steering.close()
    wiring.close()


def test_what_others_change_is_put_right_until_it_is_removed(host: Host) -> None:
    ip = ["ip", f"-{host.net.peer.version}"]
    ends = (str(host.net.service), str(host.net.peer))
    wiring = host.wiring()
    steering = host.steering()
    host.near.call(wiring.build)
    host.near.call(wiring.repair)
    poller = select.poll()
    poller.register(wiring, select.POLLIN)
    assert not poller.poll(0), "its own changes are no news"
    for command in (
        [*ip, "rule", "del", "priority", str(TABLE)],
        [*ip, "route", "flush", "table", str(TABLE)],
    ):
        subprocess.run(host.near.command(command), check=True)
        assert poller.poll(PATIENCE_S * 1000)
        host.near.call(wiring.repair)
        daemon = host.daemon_speaks()
        assert taken(host.inner) == ends
        said(daemon)
        host.near.call(wiring.repair)
    host.near.call(wiring.remove)
    host.near.call(wiring.remove)
    shown = subprocess.run(
        host.near.command([*ip, "rule"]), check=True, capture_output=True, text=True
    ).stdout
    assert str(TABLE) not in shown
    daemon = host.daemon_speaks()
    assert taken(host.peer) == ends
    said(daemon)
    steering.close()
    wiring.close()


def test_what_cannot_be_wired(host: Host) -> None:
    with pytest.raises(KernelError, match="no interface"):
        host.near.call(lambda: Wiring([], uid=NOBODY, interface="none0", table=TABLE))
    elsewhere = [Wire(host.net.peer, ELSEWHERE[host.net.peer.version])]
    wiring = host.near.call(lambda: Wiring(elsewhere, uid=NOBODY, interface="lan0", table=TABLE))
    with pytest.raises(KernelError, match="is the service address on this host"):
        host.near.call(wiring.build)
    wiring.close()


def test_the_front_connects_to_a_daemon_that_does_not_connect(host: Host, tmp_path: Path) -> None:
    """From the peer's address, and it is no listener of its own that it meets."""
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text("secret\n")
    wiring = host.wiring()
    host.near.call(wiring.build)
    steering = host.steering(md5_key=str(file), ttl_security_hops=1)
    ends = host.net.peer, host.net.service
    daemon = host.passive_daemon("secret", hops=1)
    with host.front_speaks(md5_key=str(file)) as sock, steering.dial(*ends, PORT):
        sock.connect((str(host.net.service), BGP_PORT))
        assert sock.getpeername()[:2] == (str(host.net.service), BGP_PORT)
        assert sock.recv(4) == b"OPEN"
        sock.send(b"fine")
        assert said(daemon) == f"{host.net.peer} {PORT} {host.net.service} fine"
    steering.close()
    wiring.close()


def test_the_peer_does_not_meet_a_daemon_that_is_connected_to(host: Host) -> None:
    """But from the very port, at that very moment; and whose answer stays on this host, then."""
    wiring = host.wiring()
    host.near.call(wiring.build)
    steering = host.steering()
    daemon = host.passive_daemon()
    with steering.dial(host.net.peer, host.net.service, PORT):
        other = host.peer_speaks(port=PORT + 1)
        assert taken(host.outer) == (str(host.net.peer), str(host.net.service))
        assert said(other) == f"{host.net.peer} fine"
        same = host.peer_speaks(port=PORT, wait_s=NO_ANSWER_S)
        assert said(same) == "TimeoutError"
    assert daemon.poll() is None, "it has met nobody"
    with steering.dial(host.net.peer, host.net.service, PORT + 2):
        pass
    same = host.peer_speaks(port=PORT + 2)
    assert taken(host.outer) == (str(host.net.peer), str(host.net.service))
    assert said(same) == f"{host.net.peer} fine"
    daemon.kill()
    daemon.communicate()
    steering.close()
    wiring.close()


def test_who_is_no_peer_cannot_be_connected_as(host: Host) -> None:
    steering = host.steering()
    with (
        pytest.raises(KernelError, match="No such file"),
        steering.dial(ELSEWHERE[host.net.peer.version], host.net.service, PORT),
    ):
        pass
    steering.close()


@pytest.mark.needs("vrf")
def test_a_network_in_a_vrf_is_refused(host: Host) -> None:
    """Rules for a user do not hold there: the daemon meets the peer."""
    wiring = host.wiring()
    host.near.call(wiring.build)
    ip = host.near.command(["ip"])
    service, version = f"{host.net.service}/{host.net.prefixlen}", f"-{host.net.peer.version}"
    for command in (
        [*ip, "link", "add", "red", "type", "vrf", "table", "100"],
        [*ip, "link", "set", "red", "up"],
        [*ip, "link", "set", "lan0", "master", "red"],
        [*ip, version, "addr", "replace", service, "dev", "lan0", *["nodad"] * (version == "-6")],
    ):
        subprocess.run(command, check=True)
    with pytest.raises(KernelError, match="lan0 is in a VRF"):
        host.near.call(wiring.repair)
    daemon = host.daemon_speaks(device="red")
    assert taken(host.peer) == (str(host.net.service), str(host.net.peer))
    said(daemon)
    host.near.call(wiring.remove)
    wiring.close()
