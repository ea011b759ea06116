"""prl_mirrored on the cable's interface: where it is, and what it lets by (docs/mirror.md).

Checks R33.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from prl.bindings.programs import Guard, Kernel
from prl.daemon.events.log import EventLog
from prl.daemon.host import xdp
from prl.daemon.host.xdp import Choice
from prl.kernel.features import Mode
from prl.lab.netns import Namespace
from tests.internet import checksum

pytestmark = [pytest.mark.kernel, pytest.mark.needs("root", "netns", "bpf")]

OWN, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
MIRRORED = bytes.fromhex("726000000001")
PORT = 9
PATIENCE_S = 10.0


@pytest.fixture
def place() -> Iterator[Namespace]:
    """A host with an interface towards peers and a cable, whose other end is here, too."""
    made = Namespace(f"prl-mirror-{os.getpid()}")
    made.create()
    try:
        for line in (
            "link add lan0 type veth peer name far0",
            f"link add link0 address {OWN} type veth peer name end0 address {OTHER}",
            "addr add 198.51.100.10/24 dev link0",
            "link set lan0 up",
            "link set far0 up",
            "link set link0 up",
            "link set end0 up",
        ):
            subprocess.run(["ip", "-n", made.name, *line.split()], check=True, capture_output=True)
        yield made
    finally:
        made.remove()


def attached(place: Namespace, mode: Mode) -> Kernel:
    def make() -> Kernel:
        made = Kernel(
            instance=place.name,
            flows_max=16,
            mode=mode,
            lan_ifindexes=[socket.if_nametoindex("lan0")],
            inject_ifindex=0,
            hold_ifindex=0,
            link_ifindex=socket.if_nametoindex("link0"),
            stale_ms=200,
        )
        xdp.attach(made, Choice(mode, None, "", ""), EventLog(lambda _: None))
        return made

    return place.call(make)


def filters(place: Namespace) -> str:
    command = place.command(["tc", "filter", "show", "dev", "link0", "ingress"])
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def datagram(source: bytes, text: bytes) -> bytes:
    """A UDP datagram to the cable's interface, from this MAC address."""
    udp = PORT.to_bytes(2) * 2 + (8 + len(text)).to_bytes(2) + b"\0\0" + text
    ends = IPv4Address("198.51.100.11").packed + IPv4Address("198.51.100.10").packed
    ip = bytearray(b"\x45\0" + (20 + len(udp)).to_bytes(2) + bytes(4) + b"\x40\x11\0\0" + ends)
    ip[10:12] = checksum(bytes(ip)).to_bytes(2)
    return bytes.fromhex(OWN.replace(":", "")) + source + b"\x08\0" + bytes(ip) + udp


def test_it_is_there_with_its_carrier_and_no_other(place: Namespace) -> None:
    made = attached(place, "mirror")
    assert "prl_mirrored" in filters(place)
    link = place.call(lambda: socket.if_nametoindex("link0"))
    subprocess.run(place.command(["tc", "filter", "del", "dev", "link0", "ingress"]), check=True)
    assert place.call(lambda: made.guard(link))[0] == Guard.MISSING
    assert "prl_mirrored" in filters(place)
    assert place.call(lambda: made.guard(link))[0] == Guard.KEPT
    place.call(lambda: made.close(keep_silence=True))
    assert "prl_mirrored" in filters(place), "of a prld that has died it stays"
    made = attached(place, "kernel")
    assert "prl_mirrored" not in filters(place)
    place.call(made.close)
    made = attached(place, "mirror")
    place.call(made.close)
    assert "prl_mirrored" not in filters(place)


def test_nothing_that_looks_like_a_mirrored_frame_reaches_the_stack(place: Namespace) -> None:
    made = attached(place, "mirror")
    with (
        place.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as heard,
        place.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as wire,
    ):
        heard.bind(("198.51.100.10", PORT))
        heard.settimeout(PATIENCE_S)
        wire.bind(("end0", 0))

        def say(source: bytes, text: bytes) -> None:
            wire.send(datagram(source, text))

        other = bytes.fromhex(OTHER.replace(":", ""))
        say(MIRRORED, b"of no shadow")
        say(other, b"of the other node")
        assert heard.recv(64) == b"of the other node"
        deadline = time.monotonic() + PATIENCE_S
        while made.mirror_counters()["refused"] < 1:
            assert time.monotonic() < deadline
        # Where the other node's own address looks like that, it is the other node all the same.
        made.mirror_to(MIRRORED)
        say(MIRRORED, b"of the other node, by this address")
        assert heard.recv(64) == b"of the other node, by this address"
        assert made.mirror_counters()["refused"] == 1
        assert made.mirror_counters()["taken"] == 0
    place.call(made.close)
