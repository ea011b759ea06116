"""What leaves for a service address by an interface that is not its own; first in line (I4)."""

import errno
import json
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from fcntl import ioctl
from ipaddress import IPv4Address

import pytest
from prl._core import ffi, lib

from prl.bench import tcx, xdp_pass
from prl.lab.netns import Namespace
from tests.kernel.bpf_lab import (
    ACK,
    ETH_IP,
    ETH_IP6,
    ETH_SENTINEL,
    NODE4,
    NODE6,
    PEER4,
    PEER6,
    PORT,
    SERVICE4,
    SERVICE6,
    TCP,
    UDP,
    Address,
    Bench,
    Packets,
    Segment,
    arp,
    ethernet,
    extension,
    inside,
    ip,
    ipv4,
    ipv6,
    neighbour,
    output,
)
from tests.passing import add_filter, passing, put_in_front, take_off_all

pytestmark = [pytest.mark.kernel, pytest.mark.needs("root", "netns", "bpf", "af_xdp", "bpftool")]

NODE_MAC1 = bytes.fromhex("02000000001a")
PEER_MAC1 = bytes.fromhex("020000000011")
OTHER4 = IPv4Address("192.0.2.77")


class Elsewhere:
    """A second interface of the node, towards the same peer."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        ip(
            *("-n", bench.node_ns, "link", "add", "lan1", "address", NODE_MAC1.hex(":")),
            *("type", "veth", "peer", "name", "lan1", "address", PEER_MAC1.hex(":")),
            *("netns", bench.peer_ns),
        )
        for namespace in (bench.node_ns, bench.peer_ns):
            ip("-n", namespace, "link", "set", "lan1", "up")
        with inside(bench.node_ns):
            self.index = socket.if_nametoindex("lan1")
            self._out = Packets("lan1")
        with inside(bench.peer_ns):
            self._peer = Packets("lan1")

    def guard(self, index: int = 0) -> tuple[int, str]:
        words = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        with inside(self.bench.node_ns):
            code = lib.prl_kernel_guard(self.bench.kernel, index or self.index, 1, words)
        return code, ffi.string(words).decode()

    def leaves(self, frame: bytes) -> bool:
        self._out.send(frame)
        self._out.send(ethernet(bytes(50), ETH_SENTINEL, source=NODE_MAC1, target=PEER_MAC1))
        got = self._peer.until_sentinel()
        assert got in ([], [frame])
        return bool(got)

    def close(self) -> None:
        self._out.socket.close()
        self._peer.socket.close()


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    with Bench(lib.PRL_XDP_NATIVE) as made:
        yield made


@pytest.fixture(name="lan1")
def _lan1(bench: Bench) -> Iterator[Elsewhere]:
    made = Elsewhere(bench)
    assert made.guard() == (lib.PRL_GUARD_MISSING, "")
    assert made.guard() == (lib.PRL_GUARD_KEPT, "")
    yield made
    made.close()


def from_here(payload: bytes, kind: int) -> bytes:
    return ethernet(payload, kind, source=NODE_MAC1, target=PEER_MAC1)


def segment6(source: Address = SERVICE6) -> bytes:
    made = Segment(source=source, target=PEER6, source_port=PORT, target_port=40000, flags=ACK)
    return made.frame(source=NODE_MAC1, target=PEER_MAC1)


def segment4(payload: bytes = b"") -> bytes:
    return output(1, payload).frame(source=NODE_MAC1, target=PEER_MAC1)


WORDS: dict[str, Callable[[], bytes]] = {
    "arp answer": lambda: arp(2, SERVICE4, PEER4),
    "arp request": lambda: arp(1, SERVICE4, PEER4),
    "advertisement": lambda: from_here(neighbour(136, SERVICE6, SERVICE6), ETH_IP6),
    "advertisement from another address": lambda: from_here(
        neighbour(136, SERVICE6, NODE6), ETH_IP6
    ),
}
PACKETS: dict[str, Callable[[], bytes]] = {
    "tcp": segment4,
    "tcp6": segment6,
    "udp": lambda: from_here(ipv4(bytes(8), SERVICE4, PEER4, UDP), ETH_IP),
    "icmp": lambda: from_here(ipv4(bytes(8), SERVICE4, PEER4, 1), ETH_IP),
}


def fragment6(next_header: int, offset: int, payload: bytes) -> bytes:
    more = offset == 0
    header = struct.pack("!BBHI", next_header, 0, offset << 3 | more, 1)
    return from_here(ipv6(header + payload, SERVICE6, PEER6, 44), ETH_IP6)


TCP_HEADER = Segment(source=SERVICE6, target=PEER6, source_port=PORT, target_port=40000).pack()
NUMBERS = {"gre": 47, "esp": 50, "ospf": 89, "sctp": 132}
FRAMES6 = {
    **{n: from_here(ipv6(bytes(16), SERVICE6, PEER6, NUMBERS[n]), ETH_IP6) for n in NUMBERS},
    "first fragment": fragment6(TCP, 0, TCP_HEADER),
    "later fragment": fragment6(TCP, 1, bytes(8)),
}


def own_both(bench: Bench, state: int) -> None:
    bench.own(SERVICE4, state)
    bench.own(SERVICE6, state)


@pytest.mark.parametrize("form", [*WORDS, *PACKETS])
def test_a_standby_says_nothing_there(bench: Bench, lan1: Elsewhere, form: str) -> None:
    frame = (WORDS | PACKETS)[form]()
    assert lan1.leaves(frame)  # nobody's service
    own_both(bench, lib.PRL_ADDR_STANDBY)
    assert not lan1.leaves(frame)
    assert bench.node.elsewhere_silenced == 1


def test_an_owner_speaks_there_but_does_not_say_that_it_is_there(
    bench: Bench, lan1: Elsewhere
) -> None:
    own_both(bench, lib.PRL_ADDR_OWNER)
    for form, word in WORDS.items():
        assert not lan1.leaves(word()), form
    for form, packet in PACKETS.items():
        assert lan1.leaves(packet()), form


@pytest.mark.parametrize("form", FRAMES6)
def test_what_a_service_says_over_ipv6_leaves_there_whatever_it_is(
    bench: Bench, lan1: Elsewhere, form: str
) -> None:
    frame = FRAMES6[form]
    own_both(bench, lib.PRL_ADDR_OWNER)
    assert lan1.leaves(frame)
    own_both(bench, lib.PRL_ADDR_STANDBY)
    assert not lan1.leaves(frame)


def test_what_ipv6_hides_behind_other_headers_does_not_leave(bench: Bench, lan1: Elsewhere) -> None:
    own_both(bench, lib.PRL_ADDR_OWNER)
    hidden = extension(0, TCP) + TCP_HEADER
    assert not lan1.leaves(from_here(ipv6(hidden, SERVICE6, PEER6, 0), ETH_IP6))
    assert not lan1.leaves(fragment6(60, 0, extension(60, TCP) + TCP_HEADER))


def test_a_fragment_of_a_held_session_over_ipv6_is_one_of_it(bench: Bench, lan1: Elsewhere) -> None:
    own_both(bench, lib.PRL_ADDR_OWNER)
    flow = bench.flow(1, local=SERVICE6, remote=PEER6, ports=(PORT, 40000))
    assert not lan1.leaves(fragment6(TCP, 0, TCP_HEADER))
    assert flow.stray & lib.PRL_STRAY_OUT


def test_what_would_have_to_be_held_does_not_leave_and_userspace_is_told(
    bench: Bench, lan1: Elsewhere
) -> None:
    bench.own(SERVICE4)
    flow = bench.flow(1)
    for payload in (b"", b"data"):
        assert not lan1.leaves(segment4(payload))
    assert flow.stray & lib.PRL_STRAY_OUT
    assert bench.node.strays == 2
    assert bench.hold.read() == []
    flow.flags = lib.PRL_FLOW_OPEN
    assert lan1.leaves(segment4(b"data"))


def test_a_shadow_is_silent_there_and_its_way_is_noted(bench: Bench, lan1: Elsewhere) -> None:
    bench.own(SERVICE4)  # even so
    bench.flow(1, lib.PRL_FLOW_SECONDARY | lib.PRL_FLOW_ACTIVE)
    assert not lan1.leaves(segment4(b"data"))
    assert bench.node.shadow_stray_ifindex == lan1.index
    assert bench.node.strays == 0


def test_others_leave_untouched(bench: Bench, lan1: Elsewhere) -> None:
    own_both(bench, lib.PRL_ADDR_STANDBY)
    frames = [
        from_here(ipv4(bytes(8), NODE4, PEER4, UDP), ETH_IP),
        from_here(ipv4(bytes(8), OTHER4, PEER4, 1), ETH_IP),
        from_here(neighbour(136, NODE6, NODE6), ETH_IP6),
        from_here(neighbour(135, SERVICE6, NODE6), ETH_IP6),
        segment6(NODE6),
        arp(1, NODE4, SERVICE4),
        from_here(bytes(60), 0x88CC),
    ]
    for frame in frames:
        assert lan1.leaves(frame)
    assert bench.node.elsewhere_silenced == 0


def test_a_tunnel_without_ethernet_headers_is_silent_too(bench: Bench, lan1: Elsewhere) -> None:
    with inside(bench.node_ns):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # IFF_TUN | IFF_NO_PI
        ip("-n", bench.node_ns, "link", "set", "tun0", "up")
        index = socket.if_nametoindex("tun0")
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        out.bind(("tun0", ETH_IP))
    try:
        assert lan1.guard(index)[0] == lib.PRL_GUARD_MISSING
        bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
        for source in (SERVICE4, NODE4):
            out.send(ipv4(bytes(8), source, PEER4, UDP))
        assert os.read(tun, 2000) == ipv4(bytes(8), NODE4, PEER4, UDP)
    finally:
        out.close()
        os.close(tun)


def test_first_in_line_whoever_comes_later(bench: Bench, lan1: Elsewhere) -> None:
    bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
    with inside(bench.node_ns), passing() as program:
        put_in_front(lan1.index, program)
        assert lan1.leaves(segment4())
        code, words = lan1.guard()
        assert (code, "prl_" in words) == (lib.PRL_GUARD_PASSED_BY, False)
        assert words
        assert not lan1.leaves(segment4())
        assert lan1.guard() == (lib.PRL_GUARD_KEPT, "")


def mute_of(bench: Bench) -> int:
    """A descriptor of this life's prl_mute: it is on the TAP, too."""
    shown = ["tc", "-j", "filter", "show", "dev", "inject0", "egress"]
    filters = json.loads(subprocess.run(shown, check=True, capture_output=True).stdout)
    (found,) = [one["options"]["prog"]["id"] for one in filters if "options" in one]
    assert found not in (tcx.programs(bench.lan_ifindex) or [])
    return tcx.open_program(found)


def test_a_mute_that_a_dead_prld_left_is_taken_off(bench: Bench) -> None:
    """It was killed with its program back in front, and prl_mute behind."""
    lan = bench.lan_ifindex
    bench.own(SERVICE4)
    frame = output(1, b"x").frame(source=bytes.fromhex("02000000000a"))
    with inside(bench.node_ns):
        mute, order = mute_of(bench), tcx.programs(lan)
        if order is not None:
            egress = tcx.open_program(order[0])
            tcx.take_off(lan, egress)
            for program in (mute, egress):
                tcx.put_first(lan, program)
            os.close(egress)
        else:
            add_filter(lan, mute, handle=0x7073)
        os.close(mute)
        bench.stop(keep_silence=True)
        bench.start()
        bench.alive()
        assert bench.emit(frame)[0] == [frame]


def test_what_was_taken_off_is_put_back(bench: Bench) -> None:
    lan0 = Elsewhere(bench)
    bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
    frame = output(1, b"x").frame(source=bytes.fromhex("02000000000a"))
    with inside(bench.node_ns):
        take_off_all(bench.lan_ifindex)
        assert bench.emit(frame)[0]
        assert lan0.guard(bench.lan_ifindex)[0] == lib.PRL_GUARD_MISSING
        assert bench.emit(frame) == ([], [])
        ip("link", "set", "dev", "lan0", "xdp", "off")
        assert lan0.guard(bench.lan_ifindex)[0] == lib.PRL_GUARD_MISSING
        for tap in (bench.hold.ifindex, bench.inject.ifindex):
            assert lan0.guard(tap)[0] == lib.PRL_GUARD_KEPT
    lan0.close()


def has_filter(device: str) -> bool:
    shown = subprocess.run(
        ["tc", "filter", "show", "dev", device, "egress"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return "passing" in shown


@pytest.mark.parametrize("device", ["hold0", "inject0", "lan0"])
def test_the_end_takes_nobody_s_filter_along(bench: Bench, device: str) -> None:
    """Also not with the clsact that was made for prl: on TAPs, before Linux 6.6 everywhere."""
    with inside(bench.node_ns), passing() as program:
        add_filter(socket.if_nametoindex(device), program)
        bench.stop(keep_silence=False)
        assert has_filter(device)


def test_an_interface_that_needs_no_silence_keeps_its_other_filters(
    bench: Bench, lan1: Elsewhere
) -> None:
    with inside(bench.node_ns), passing() as program:
        add_filter(lan1.index, program)
        lib.prl_kernel_unguard(bench.kernel, lan1.index)
        assert has_filter("lan1")


def test_somebody_else_s_xdp_program_is_told_of_and_not_replaced(bench: Bench) -> None:
    lan0 = Elsewhere(bench)
    with inside(bench.node_ns):
        ip("link", "set", "dev", "lan0", "xdp", "off")
    xdp_pass.attach(Namespace(bench.node_ns), "lan0", "native")
    for _ in range(2):
        code, words = lan0.guard(bench.lan_ifindex)
        assert (code, "somebody else's XDP program is there" in words) == (-errno.EBUSY, True)
    with inside(bench.node_ns):
        ip("link", "set", "dev", "lan0", "xdp", "off")
    assert lan0.guard(bench.lan_ifindex)[0] == lib.PRL_GUARD_MISSING
    lan0.close()
