"""The BPF programs in the running kernel: what the wire, the stack and userspace got to see.

Checks I4, L7, L9, R1, R1a, R2, R10, R19, R24.
"""

import errno
import itertools
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from prl._core import ffi, lib

from prl.bench import tcx
from tests.kernel.bpf_lab import (
    ACK,
    BROADCAST,
    EPOCH,
    ETH_IP,
    ETH_IP6,
    ETH_QINQ,
    ETH_VLAN,
    FIN,
    ICMP,
    ICMP6,
    NODE4,
    NODE6,
    NODE_MAC,
    PEER4,
    PEER6,
    PEER_MAC,
    PEER_PORT,
    PORT,
    RST,
    SERVICE4,
    SERVICE6,
    SYN,
    TCP,
    TERM,
    UDP,
    Address,
    Bench,
    Claim,
    QueueBench,
    Segment,
    arp,
    checksum,
    claim_token,
    ethernet,
    extension,
    inside,
    ip,
    ipv4,
    ipv6,
    mapped,
    neighbour,
    outgoing,
    output,
    until,
)
from tests.tcp_info import snd_cwnd

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp")

TOKEN = bytes(range(1, 17))
SOLICIT, ADVERT = 135, 136
SEGMENT4 = Segment()
SEGMENT6 = Segment(source=PEER6, target=SERVICE6)


@pytest.fixture(
    params=["native", "generic", pytest.param("kernel", marks=pytest.mark.needs("nft"))]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    mode = {"native": lib.PRL_XDP_NATIVE, "generic": lib.PRL_XDP_GENERIC}.get(request.param)
    with QueueBench() if mode is None else Bench(mode) as made:
        yield made


@pytest.fixture
def egress() -> Iterator[Bench]:
    with Bench(lib.PRL_XDP_GENERIC) as made:
        made.own(SERVICE4)
        made.own(SERVICE6)
        yield made


def in4(payload: bytes, **how: Any) -> bytes:
    return ethernet(ipv4(payload, **how), ETH_IP)


def chain6(*kinds: tuple[int, int], last: int = TCP) -> tuple[int, bytes]:
    """Return the first header's number and the chain of extension headers before ``last``."""
    numbers = [kind for kind, _ in kinds] + [last]
    parts = (
        extension(kind, after, words=words)
        for (kind, words), after in zip(kinds, numbers[1:], strict=True)
    )
    return numbers[0], b"".join(parts)


def in6(first: int, extensions: bytes, payload: bytes) -> bytes:
    return ethernet(ipv6(extensions + payload, protocol=first), ETH_IP6)


def fragment6(offset_more: int, after: int = TCP) -> bytes:
    return struct.pack("!BBHI", after, 0, offset_more, 7)


UDP_DATA = struct.pack("!HHHH", PEER_PORT, PORT, 12, 0) + b"data"
EXT = chain6((0, 0), (60, 2), (43, 1), (51, 1))
CAPTURED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "ipv4": (SEGMENT4.frame(), {}),
    "ipv6": (SEGMENT6.frame(), {"local": SERVICE6, "remote": PEER6}),
    "payload": (Segment(payload=b"x" * 1400, stamps=(1, 2)).frame(), {}),
    "options": (in4(SEGMENT4.pack(), options=b"\x01" * 40), {}),
    "vlan": (SEGMENT4.frame(tags=((ETH_VLAN, 5),)), {"vlans": 5}),
    "priority tag": (SEGMENT4.frame(tags=((ETH_VLAN, 0xE000),)), {}),
    "qinq": (SEGMENT4.frame(tags=((ETH_QINQ, 7), (ETH_VLAN, 5))), {"vlans": 7 << 12 | 5}),
    "vlan ipv6": (
        SEGMENT6.frame(tags=((ETH_VLAN, 9),)),
        {"local": SERVICE6, "remote": PEER6, "vlans": 9},
    ),
    "extensions": (in6(*EXT, SEGMENT6.pack()), {"local": SERVICE6, "remote": PEER6}),
    "atomic fragment": (
        in6(44, fragment6(0), SEGMENT6.pack()),
        {"local": SERVICE6, "remote": PEER6},
    ),
    "udp": (in4(UDP_DATA, protocol=UDP), {"proto": UDP}),
    "udp ipv6": (
        ethernet(ipv6(UDP_DATA, protocol=UDP), ETH_IP6),
        {"proto": UDP, "local": SERVICE6, "remote": PEER6},
    ),
}


@pytest.mark.parametrize("form", CAPTURED)
def test_frames_of_a_flow_go_to_userspace_with_its_slot(bench: Bench, form: str) -> None:
    frame, key = CAPTURED[form]
    bench.own(SERVICE4)
    bench.own(SERVICE6)
    flow = bench.flow(3, **key)
    up, captured = bench.receive(frame)
    assert (up, captured) == ([], [(0x1003, 3, frame)])
    assert flow.in_redirected == 1


def test_what_a_switch_floods_is_captured_and_no_sign_that_a_claim_was_heard(bench: Bench) -> None:
    """It is addressed to the machine that the peer still takes for the owner (L7)."""
    bench.own(SERVICE4)
    flow = bench.flow(3)
    frame = SEGMENT4.frame(target=PEER_MAC)
    assert bench.receive(frame) == ([], [(0x1003, 3, frame)])
    assert (flow.in_redirected, flow.in_passed) == (0, 0)


def quote4(kind: int, quoted: bytes, target: Any = SERVICE4) -> bytes:
    data = struct.pack("!BBHI", kind, 4, 0, 1400) + quoted
    data = data[:2] + struct.pack("!H", checksum(data)) + data[4:]
    return in4(data, protocol=ICMP, target=target)


def test_icmp_errors_that_quote_a_flow_are_its_packets(bench: Bench) -> None:
    bench.own(SERVICE4)
    bench.own(SERVICE6)
    bench.flow(1)
    bench.flow(2, local=SERVICE6, remote=PEER6)
    sent = output(77, b"").pack()[:8]
    quoted = ipv4(sent, SERVICE4, PEER4, options=b"\x01" * 4)
    assert bench.receive(quote4(3, quoted))[1][0][:2] == (0x1001, 1)
    assert bench.receive(quote4(11, quoted))[1][0][:2] == (0x1001, 1)
    first, extensions = chain6((60, 0))
    inner = ipv6(extensions + sent, SERVICE6, PEER6, first)
    too_big = ethernet(ipv6(struct.pack("!BBHI", 2, 0, 0, 1280) + inner, protocol=ICMP6), ETH_IP6)
    assert bench.receive(too_big)[1][0][:2] == (0x1002, 2)
    assert bench.node.icmp_quoted == 3

    other = ipv4(sent, IPv4Address("192.0.2.99"), PEER4)
    redirect_message, echo = quote4(5, quoted), quote4(8, quoted)
    for frame in (quote4(3, other), redirect_message, echo, quote4(3, quoted[:20])):
        assert bench.passes(frame)


def test_what_is_not_replicated_passes_untouched(bench: Bench) -> None:
    bench.own(SERVICE4)
    bench.own(SERVICE6)
    flow = bench.flow(1)
    others = [
        Segment(target=NODE4).frame(),
        Segment(source_port=1).frame(),
        Segment(source=IPv4Address("192.0.2.2")).frame(),
        SEGMENT4.frame(tags=((ETH_VLAN, 5),)),
        in4(UDP_DATA, protocol=UDP),
        in4(b"\0" * 20, protocol=47),
        SEGMENT6.frame(),
    ]
    for frame in others:
        assert bench.passes(frame)
    for flags in (0, lib.PRL_FLOW_OPEN):
        flow.flags = flags
        assert bench.passes(SEGMENT4.frame())
    assert flow.in_passed == 2


def enter(bench: Bench, table: str, key: bytes, value: bytes) -> None:
    """Write into a table past prl, and so past what says that nothing is in there."""
    path = f"/sys/fs/bpf/prl/{bench.name}/{table}"
    words = ["key", *map(str, key), "value", *map(str, value)]
    subprocess.run(["bpftool", "map", "update", "pinned", path, *words], check=True)


@pytest.mark.needs("bpftool")
def test_nothing_is_looked_up_for_a_stranger(bench: Bench) -> None:
    """What stands in the tables alone is not found: neither an address nor a flow was asked for."""
    key = struct.pack("=16sI", mapped(SERVICE4), bench.lan_ifindex)
    silent = struct.pack("=I", lib.PRL_ADDR_STANDBY).ljust(ffi.sizeof("struct prl_addr"), b"\0")
    enter(bench, "prl_addrs", key, silent)
    assert bench.passes(SEGMENT4.frame())
    bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
    assert not bench.passes(SEGMENT4.frame())
    bench.own(SERVICE4)
    enter(bench, "prl_addrs", key, silent)
    assert bench.passes(SEGMENT4.frame())
    bench.own(SERVICE4)

    flow = bench.flow(1)
    ref = struct.pack("=II", 0x1001, 1)
    assert bench.receive(SEGMENT4.frame())[1] != []
    key_of_flow = bytes(ffi.buffer(ffi.addressof(flow, "key")))
    assert lib.prl_kernel_flow_del(bench.kernel, ffi.addressof(flow, "key")) == 0
    enter(bench, "prl_flows", key_of_flow, ref)
    assert bench.passes(SEGMENT4.frame())
    assert bench.emit(outgoing(output(1, b"x"))) == ([outgoing(output(1, b"x"))], [])


def test_addresses_that_share_a_bit_are_told_apart(egress: Bench) -> None:
    """More addresses than bits, so that some share one; every other is owned, before or after."""
    first = int(IPv6Address("2001:db8:0:2::"))
    addresses = [IPv6Address(first + 7 * n) for n in range(lib.PRL_ADDR_BITS + 44)]
    for n, address in enumerate(addresses):
        egress.own(address, lib.PRL_ADDR_OWNER if n % 2 else lib.PRL_ADDR_STANDBY)
    found = [egress.passes(Segment(source=PEER6, target=one).frame()) for one in addresses]
    assert found == [bool(n % 2) for n in range(len(addresses))]
    for n, address in enumerate(addresses):
        egress.own(address, lib.PRL_ADDR_STANDBY if n % 2 else lib.PRL_ADDR_OWNER)
    found = [egress.passes(Segment(source=PEER6, target=one).frame()) for one in addresses]
    assert found == [not n % 2 for n in range(len(addresses))]


def test_flows_that_share_a_cell_are_counted(egress: Bench) -> None:
    """Of two flows in one cell one goes: the other is still captured. Both gone: none is."""
    cells: dict[int, tuple[int, int]] = {}
    for ports in itertools.product(range(7000, 7256), range(40000, 40256)):
        key = ffi.new("struct prl_flow_key *", {"proto": TCP})
        ffi.buffer(key.local)[:], ffi.buffer(key.remote)[:] = mapped(SERVICE4), mapped(PEER4)
        key.local_port, key.remote_port = map(socket.htons, ports)
        other = cells.setdefault(lib.prl_kernel_sieve_cell(key), ports)
        if other != ports:
            break
    else:
        pytest.fail("no two of these share a cell")
    egress.own(SERVICE4)
    one, two = (egress.flow(n, ports=pair) for n, pair in enumerate((other, ports)))
    segments = [Segment(target_port=to, source_port=by).frame() for to, by in (other, ports)]
    assert lib.prl_kernel_flow_del(egress.kernel, ffi.addressof(one, "key")) == 0
    assert egress.receive(segments[1])[1] != []
    assert egress.passes(segments[0])
    assert lib.prl_kernel_flow_del(egress.kernel, ffi.addressof(two, "key")) == 0
    assert egress.passes(segments[1])


def test_fragments_and_deep_tunnels_are_left_to_the_mark_gate(bench: Bench) -> None:
    bench.own(SERVICE4)
    bench.own(SERVICE6)
    bench.flow(1)
    bench.flow(2, local=SERVICE6, remote=PEER6)
    fragments = [
        in4(SEGMENT4.pack(), fragment=0x2000),
        in4(b"x" * 40, fragment=5),
        in6(44, fragment6(1), SEGMENT6.pack()),
        in6(44, fragment6(0x50), b"x" * 40),
    ]
    for frame in fragments:
        assert bench.passes(frame)
    assert bench.node.fragments == len(fragments)
    deep = [
        SEGMENT4.frame(tags=((ETH_QINQ, 1), (ETH_VLAN, 2), (ETH_VLAN, 3))),
        in6(*chain6(*[(60, 0)] * 7), SEGMENT6.pack()),
        in6(*chain6((60, 120), (60, 20)), SEGMENT6.pack()),
    ]
    for frame in deep:
        assert bench.passes(frame)
    assert bench.node.tunnelled == len(deep)


def test_truncated_and_contradictory_frames_are_counted_and_never_captured(bench: Bench) -> None:
    bench.own(SERVICE4)
    bench.own(SERVICE6)
    bench.flow(1)
    bench.flow(2, local=SERVICE6, remote=PEER6)
    whole = {name: CAPTURED[name][0] for name in ("ipv4", "ipv6", "qinq", "options", "extensions")}
    cut = 0
    for name, frame in whole.items():
        for size in range(15, len(frame) - 1, 3):
            captured = bench.receive(frame[:size])[1]
            assert captured == [], f"{name} cut to {size}"
            cut += 1
    assert cut > 50
    assert bench.node.malformed > 30
    before = bench.node.malformed
    good = SEGMENT4.frame()
    bench.receive(good[:14] + b"\x44" + good[15:])  # header of 16 bytes
    bench.receive(good[:14] + b"\x45\0\0\x13" + good[18:])  # packet of 19 bytes
    assert bench.node.malformed == before + 2


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_of_no_connected_flow_is_one_of_the_socket_without_a_peer(
    bench: Bench, version: int
) -> None:
    nobody = IPv6Address(0)  # all zero, for both
    local, remote, name = (
        (SERVICE4, PEER4, "udp") if version == 4 else (SERVICE6, PEER6, "udp ipv6")
    )
    frame = CAPTURED[name][0]
    bench.own(local)
    unconnected = bench.flow(1, local=local, remote=nobody, proto=UDP, ports=(PORT, 0))
    bench.flow(2, local=local, remote=nobody, proto=TCP, ports=(PORT, 0))
    ((handle, slot, _),) = bench.receive(frame)[1]
    assert (handle, slot) == (0x1001, 1)
    assert bench.passes((SEGMENT4 if version == 4 else SEGMENT6).frame())  # TCP has no such flows
    other = bytearray(frame)
    other[-10:-8] = (PORT + 1).to_bytes(2, "big")  # the destination port
    assert bench.passes(bytes(other))

    connected = bench.flow(3, local=local, remote=remote, proto=UDP)
    ((handle, slot, _),) = bench.receive(frame)[1]
    assert (handle, slot) == (0x1003, 3)
    connected.flags = lib.PRL_FLOW_OPEN
    assert bench.passes(frame)  # of the connected one still
    assert (unconnected.in_redirected, unconnected.in_passed) == (1, 0)
    bench.own(local, lib.PRL_ADDR_STANDBY)
    assert not bench.passes(frame)


def test_a_shadow_hears_nothing_from_the_network(bench: Bench) -> None:
    solicit = ethernet(neighbour(SOLICIT, SERVICE6, PEER6), ETH_IP6, target=BROADCAST)
    probes = [
        *(SEGMENT4.frame(), SEGMENT6.frame(), in4(b"x" * 40, fragment=5)),
        *(quote4(8, b"ping"), SEGMENT4.frame()[:40]),
        *(arp(1, PEER4, SERVICE4), arp(1, IPv4Address(0), SERVICE4), solicit),
    ]
    for state in (lib.PRL_ADDR_STANDBY, lib.PRL_ADDR_FENCED, lib.PRL_ADDR_NONE):
        bench.own(SERVICE4, state)
        bench.own(SERVICE6, state)
        for frame in probes:
            assert not bench.passes(frame)
        dropped = bench.address(SERVICE4).in_dropped + bench.address(SERVICE6).in_dropped
        assert dropped == len(probes)
    for frame in (arp(1, PEER4, NODE4), arp(2, SERVICE4, NODE4), Segment(target=NODE4).frame()):
        assert bench.passes(frame)

    bench.own(SERVICE4)
    for frame in (arp(1, PEER4, SERVICE4), SEGMENT4.frame()):
        assert bench.passes(frame)
    flow = bench.flow(1, lib.PRL_FLOW_ACTIVE | lib.PRL_FLOW_SECONDARY)
    assert not bench.passes(SEGMENT4.frame())
    assert flow.in_dropped == 1


KINDS = ("arp request", "arp reply", "advertisement")


def address_of(kind: str) -> Address:
    return SERVICE6 if kind == "advertisement" else SERVICE4


def saying(kind: str, trailer: bytes, sender: bytes = PEER_MAC) -> bytes:
    """A frame by which somebody says that a service address is his."""
    if kind != "advertisement":
        frame = arp(1 if kind == "arp request" else 2, SERVICE4, SERVICE4, trailer=trailer)
    else:
        packet = neighbour(ADVERT, SERVICE6, SERVICE6, options=b"\x02\x01" + PEER_MAC + trailer)
        frame = ethernet(packet, ETH_IP6, target=BROADCAST)
    return frame[:6] + sender + frame[12:]


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_claim_with_a_mac_of_now_silences(bench: Bench, kind: str) -> None:
    address = address_of(kind)
    good = Claim(address=address)

    def is_obeyed(trailer: bytes) -> bool:
        up = bench.passes(saying(kind, trailer))
        assert up == (bench.address(address).state == lib.PRL_ADDR_OWNER)
        return not up

    bench.own(address)
    nothing = replace(good, epoch=0, claimant=0, key=bytes(16)).trailer()
    for trailer in (b"", nothing, good.trailer()):  # no key is agreed: nothing is a claim
        assert not is_obeyed(trailer)
    bench.agree()
    other = SERVICE4 if address == SERVICE6 else SERVICE6
    forged = [
        *(replace(good, **{name: 999}).trailer() for name in ("epoch", "service", "claimant")),
        *(replace(good, address=other).trailer(), replace(good, key=bytes(16)).trailer()),
        *(claim_token(bytes(16)), claim_token(good.trailer()[-16:])),
        *(good.trailer()[:-1], bytes(32), good.trailer()[:8] + bytes(8) + good.trailer()[16:]),
    ]
    forged += [
        (int.from_bytes(good.trailer()) ^ 1 << bit).to_bytes(32)
        for bit in (0, 63, 64, 127, 128, 191)
    ]
    for trailer in forged:
        assert not is_obeyed(trailer)
    assert bench.node.claims_foreign == bench.address(address).foreign_claims == 3 + len(forged)
    for term in (0, 1, TERM - 1, TERM):  # of a former owner, or of this one
        assert not is_obeyed(replace(good, term=term, number=2**63).trailer())
    assert bench.node.claims_replayed == 4

    bench.receive(saying(kind, good.trailer(), NODE_MAC))  # looped back by the network
    assert bench.address(address).state == lib.PRL_ADDR_OWNER
    before = bench.now()
    assert is_obeyed(good.trailer())
    fenced = bench.address(address)
    assert before <= fenced.fenced_by_ns <= bench.now()
    noted = (fenced.claim_epoch, fenced.claim_term, fenced.claim_number)
    assert noted == (EPOCH, good.term, good.number)
    assert (bench.node.claims_obeyed, bench.node.fenced) == (1, 1)
    if address == SERVICE4:
        assert bench.emit(outgoing(output(1, b"late"))) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_is_good_once(bench: Bench, kind: str) -> None:
    """Even for a node whose term says nothing against it."""
    address = address_of(kind)
    bench.agree()
    bench.own(address)
    first = Claim(address=address, number=100)
    assert not bench.passes(saying(kind, first.trailer()))
    noted = bench.address(address)
    more = {name: getattr(noted, name) for name in ("claim_epoch", "claim_number")}
    bench.own(address, **more)  # it is this node's again
    for number in (1, 99, 100):
        assert bench.passes(saying(kind, replace(first, number=number).trailer()))
    assert bench.node.claims_replayed == 3
    assert not bench.passes(saying(kind, replace(first, number=101).trailer()))
    bench.own(address, **more | {"claim_epoch": EPOCH - 1})  # a claimant that was booted anew
    assert not bench.passes(saying(kind, replace(first, number=1).trailer()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_without_macs_is_obeyed_by_its_token(bench: Bench, kind: str) -> None:
    address = address_of(kind)
    bench.own(address)
    for token in (bytes(16), TOKEN):
        assert bench.passes(saying(kind, claim_token(token)))
    ffi.buffer(bench.node.claim_token)[:] = TOKEN
    for trailer in (b"", claim_token(bytes(16)), claim_token(TOKEN[:15] + b"\0")):
        assert bench.passes(saying(kind, trailer))
    assert not bench.passes(saying(kind, claim_token(TOKEN)))
    assert bench.address(address).state == lib.PRL_ADDR_FENCED


def test_who_gives_a_service_away_notes_claims_in_any_order(bench: Bench) -> None:
    bench.agree()
    bench.own(SERVICE4, lib.PRL_ADDR_LEAVING)
    for number in (5, 3, 5):
        assert not bench.passes(arp(1, SERVICE4, SERVICE4, trailer=Claim(number=number).trailer()))
    found = bench.address(SERVICE4)
    assert found.state == lib.PRL_ADDR_LEAVING
    assert found.fenced_by_ns
    assert (bench.node.claims_obeyed, bench.node.claims_replayed, bench.node.fenced) == (3, 0, 0)


def test_what_a_program_has_taken_away_no_write_of_userspace_gives_back(bench: Bench) -> None:
    """F24: an entry of the table is replaced as a whole, by what userspace read a moment ago."""
    bench.agree()
    bench.own(SERVICE4)
    bench.flow(1)
    before = bench.address(SERVICE4)
    assert not bench.passes(arp(1, SERVICE4, SERVICE4, trailer=Claim().trailer()))
    key = bench._address_key(SERVICE4)
    assert lib.prl_kernel_addr_set(bench.kernel, key, before) == 0
    assert bench.address(SERVICE4).state == lib.PRL_ADDR_OWNER
    for frame in (SEGMENT4.frame(), arp(1, PEER4, SERVICE4)):
        assert not bench.passes(frame)
    assert bench.emit(outgoing(output(1, b"late"))) == ([], [])


def test_own_reinjected_frames_pass_generic_xdp(bench: Bench) -> None:
    bench.own(SERVICE4)
    bench.flow(1)
    cookie = bytes(bench.node.cookie)
    assert cookie[0] & 3 == 2
    assert bench.passes(SEGMENT4.frame(source=cookie))
    assert bench.node.reentered == 1


def without_mirror(bench: Bench) -> None:
    """As on a kernel without act_mirred: ``prl_lif.mirrored`` of the first interface is 0."""
    lif = bench.lan_ifindex.to_bytes(4, "little") + NODE_MAC + bytes(2)
    subprocess.run(
        [
            *("bpftool", "map", "update", "pinned", str(pins(bench) / "prl_lifs"), "key", "hex"),
            *("00", "00", "00", "00", "value", "hex", *(f"{byte:02x}" for byte in lif)),
        ],
        check=True,
    )


@pytest.mark.needs("bpftool")
@pytest.mark.parametrize("mirrored", [True, False])
def test_reinjection_appears_on_the_interface_marked_as_released(
    bench: Bench, *, mirrored: bool
) -> None:
    if not mirrored:
        without_mirror(bench)
    bench.own(SERVICE4)
    bench.flow(1)
    ip("-n", bench.node_ns, "address", "add", f"{SERVICE4}/24", "dev", "lan0")
    with inside(bench.node_ns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((str(SERVICE4), PORT))
        receiver.settimeout(5)
        bench.flow(2, proto=UDP)
        assert lib.prl_kernel_gate_attach(bench.kernel, receiver.fileno(), 2) == 0
        bench.inject.write(
            ethernet(
                ipv4(UDP_DATA, protocol=UDP),
                ETH_IP,
                target=b"\x02prl\0\0",
                source=bytes(6),
            )
        )
        assert receiver.recvfrom(100) == (b"data", (str(PEER4), PEER_PORT))
        bench.inject.write(SEGMENT4.frame(target=b"\x02prl\0\x09"))  # no such interface
        bench.inject.write(SEGMENT4.frame())  # not a frame of prl's
    assert bench.xsk.read() == []
    # What goes by act_mirred, generic XDP does not even see; tc does.
    unseen = {lib.PRL_XDP_NATIVE: True, lib.PRL_XDP_GENERIC: mirrored, lib.PRL_XDP_KERNEL: False}
    assert (bench.node.reentered == 0) == unseen[bench.mode]


def set_settle(bench: Bench, since_ns: int, tick_ns: int) -> None:
    """Since when the flows of a stale datapath wait, and when the machine was last seen running."""
    timer = bytes(16)  # struct bpf_timer, which no update touches
    enter(bench, "prl_settle", bytes(4), timer + struct.pack("=QQ", since_ns, tick_ns))


_BPDU = b"\x42\x42\3" + bytes(35)  # LLC of IEEE 802.1D
OF_A_SWITCH = (
    ethernet(_BPDU, len(_BPDU), target=b"\1\x80\xc2\0\0\0"),
    ethernet(bytes(46), 0x88CC, target=b"\1\x80\xc2\0\0\x0e"),  # LLDP
)
"""What a switch says by a port by which it passes nothing on yet."""


@pytest.mark.needs("bpftool")
def test_a_dead_datapath_drops_then_opens_and_stays_open(bench: Bench) -> None:
    bench.own(SERVICE4)
    flow = bench.flow(1)
    bench.node.open_at_ns = bench.now() + 3600 * 10**9
    bench.alive(-1)
    assert not bench.passes(SEGMENT4.frame())
    assert bench.node.stale_dropped == 1
    bench.node.open_at_ns = bench.now() - 1
    bench.node.policy_stop = 1
    assert not bench.passes(SEGMENT4.frame())
    bench.node.policy_stop = 0
    assert bench.emit(outgoing(output(1, b"dead"))) == ([], [])  # egress never opens by itself
    assert (bench.node.bypassed, bench.node.open_wanted) == (0, 1)
    for frame in OF_A_SWITCH:
        assert bench.passes(frame)
    assert bench.node.lan_first_ns == 0
    assert bench.passes(arp(1, PEER4, PEER4))  # any machine's frame is evidence of the LAN …
    assert (bench.node.bypassed, bench.node.open_wanted) == (0, 1)
    bench.alive(-10)
    bench.node.lan_first_ns -= 10**9  # … once a new owner's claim would have come …
    set_settle(bench, bench.now() - 10**9, bench.now() - 10**9)
    assert bench.passes(arp(1, PEER4, PEER4))
    assert (bench.node.bypassed, bench.node.open_wanted) == (0, 1)  # … to a machine that ran
    set_settle(bench, bench.now() - 10**9, bench.now() + 10**9)
    bench.node.answered_ns, bench.node.hold_ns = bench.now(), 3600 * 10**9
    assert bench.passes(arp(1, PEER4, PEER4))
    assert (bench.node.bypassed, bench.node.open_wanted) == (0, 1)  # its kernel's answer, too
    bench.node.answered_ns = 0
    assert bench.passes(arp(1, PEER4, PEER4))
    assert (bench.node.bypassed, bench.node.open_wanted) == (1, 0)
    segment = outgoing(output(1, b"dead"))
    assert bench.emit(segment) == ([segment], [])
    assert bench.passes(SEGMENT4.frame())
    bench.alive()  # a datapath that was only hung: what passed is not replicated
    assert bench.passes(SEGMENT4.frame())
    assert bench.emit(segment) == ([segment], [])
    bench.node.bypassed = 0
    assert bench.receive(SEGMENT4.frame())[1] != []
    assert flow.in_redirected == 1


def test_frames_from_the_lan_are_noted_while_somebody_watches(bench: Bench) -> None:
    bench.own(SERVICE4)
    assert bench.passes(arp(1, PEER4, PEER4))
    assert (bench.node.lan_first_ns, bench.node.lan_seen_ns) == (0, 0)
    bench.node.watch = lib.PRL_WATCH_FRAMES
    assert bench.passes(arp(1, PEER4, PEER4))
    first = bench.node.lan_first_ns
    assert first
    assert bench.passes(arp(1, PEER4, PEER4))
    seen = bench.node.lan_seen_ns
    assert (bench.node.lan_first_ns == first, seen > first) == (True, True)
    for frame in OF_A_SWITCH:
        assert bench.passes(frame)
    assert bench.node.lan_seen_ns == seen
    bench.receive(SEGMENT4.frame(tags=((ETH_VLAN, 5),)))
    assert bench.node.lan_seen_ns > seen


def test_an_answer_alone_shows_that_what_this_node_sends_is_heard(bench: Bench) -> None:
    """A node that is mute hears the rest of the LAN all the same."""
    bench.node.watch = lib.PRL_WATCH_ANSWERS
    echo_reply = ipv6(struct.pack("!BBHI", 129, 0, 0, 0), PEER6, NODE6, ICMP6)
    answers = (
        NODE_MAC + arp(2, PEER4, NODE4)[6:],
        ethernet(neighbour(ADVERT, PEER6, PEER6), ETH_IP6),
        ethernet(echo_reply, ETH_IP6),
    )
    others = (
        SEGMENT4.frame(),
        arp(2, PEER4, NODE4),  # to all
        NODE_MAC + arp(1, PEER4, NODE4)[6:],
        ethernet(neighbour(ADVERT, PEER6, PEER6), ETH_IP6, target=BROADCAST),
        ethernet(neighbour(SOLICIT, NODE6, PEER6), ETH_IP6),
    )
    for frame in others:
        bench.receive(frame)
        assert (bench.node.lan_first_ns, bench.node.lan_seen_ns) == (0, 0)
    for frame in answers:
        before = bench.node.lan_seen_ns
        bench.receive(frame)
        assert bench.node.lan_seen_ns > before


def test_where_there_are_witnesses_their_answers_alone_count(bench: Bench) -> None:
    """Two racks that are cut off from each other have neighbours on both sides (F19)."""
    bench.node.watch = lib.PRL_WATCH_ANSWERS
    answers = {
        mapped(PEER4): NODE_MAC + arp(2, PEER4, NODE4)[6:],
        mapped(PEER6): ethernet(neighbour(ADVERT, PEER6, PEER6), ETH_IP6),
    }
    for witness, its_answer in answers.items():
        bench.node.witnesses = lib.PRL_WITNESSES_MAX
        for place in range(lib.PRL_WITNESSES_MAX):
            ffi.buffer(bench.node.witness[place])[:] = mapped(SERVICE4)
        ffi.buffer(bench.node.witness[lib.PRL_WITNESSES_MAX - 1])[:] = witness
        for who, frame in answers.items():
            before = bench.node.lan_seen_ns
            bench.receive(frame)
            assert (bench.node.lan_seen_ns > before) == (who == witness)
        bench.node.witnesses -= 1
        before = bench.node.lan_seen_ns
        bench.receive(its_answer)
        assert bench.node.lan_seen_ns == before


def test_a_stale_flow_opens_with_its_own_input(bench: Bench) -> None:
    bench.own(SERVICE4)
    bench.flow(1)
    bench.alive(-1)
    began_ns = bench.now()
    assert not bench.passes(SEGMENT4.frame())  # a claim may wait behind it in the network card
    until(lambda: bench.passes(SEGMENT4.frame()))
    assert bench.node.bypassed == 1
    assert bench.now() - began_ns >= 300_000_000  # PRL_SETTLE_NS


@pytest.mark.needs("bpftool")
def test_input_that_waited_while_the_machine_stood_still_opens_nothing(bench: Bench) -> None:
    """Its clock has run on, the lease is long over; the claim comes behind the peer's frames."""
    bench.agree()
    bench.own(SERVICE4)
    bench.flow(1)
    bench.alive(-4)
    set_settle(bench, bench.now() - 5 * 10**9, bench.now() - 4 * 10**9)  # hung before, too
    assert not bench.passes(SEGMENT4.frame())
    assert bench.emit(outgoing(output(1, b"stale"))) == ([], [])
    assert not bench.passes(arp(1, SERVICE4, SERVICE4, trailer=Claim().trailer()))
    assert bench.address(SERVICE4).state == lib.PRL_ADDR_FENCED
    assert bench.node.bypassed == 0
    set_settle(bench, bench.now() - 10**9, bench.now() + 10**9)
    assert not bench.passes(SEGMENT4.frame())


def test_without_a_receiver_nothing_of_a_flow_goes_up(bench: Bench) -> None:
    bench.own(SERVICE4)
    bench.flow(1)
    bench.has_no_receiver()
    assert not bench.passes(SEGMENT4.frame())
    assert bench.node.redirect_failed == 1


def from_service(frame: bytes) -> bytes:
    return PEER_MAC + NODE_MAC + frame[12:]


EMISSIONS = {
    "tcp": outgoing(output(1, b"x")),
    "tcp vlan": output(1, b"x").frame(source=NODE_MAC, tags=((ETH_VLAN, 5),)),
    "ipv6": Segment(source=SERVICE6, target=PEER6).frame(source=NODE_MAC),
    "udp": from_service(in4(UDP_DATA, source=SERVICE4, target=PEER4, protocol=UDP)),
    "icmp": from_service(in4(b"\0" * 16, source=SERVICE4, target=PEER4, protocol=ICMP)),
    "fragment": from_service(in4(b"x" * 40, source=SERVICE4, target=PEER4, fragment=5)),
    "arp request": from_service(arp(1, SERVICE4, PEER4)),
    "arp reply": from_service(arp(2, SERVICE4, PEER4)),
    "advertisement": from_service(ethernet(neighbour(ADVERT, SERVICE6, NODE6), ETH_IP6)),
    "solicitation": from_service(ethernet(neighbour(SOLICIT, PEER6, SERVICE6), ETH_IP6)),
    "router solicitation": from_service(ethernet(neighbour(133, PEER6, SERVICE6), ETH_IP6)),
}


@pytest.mark.parametrize("form", EMISSIONS)
def test_a_standby_says_nothing_for_the_service_address(egress: Bench, form: str) -> None:
    frame = EMISSIONS[form]
    for state in (lib.PRL_ADDR_STANDBY, lib.PRL_ADDR_FENCED, lib.PRL_ADDR_NONE):
        egress.own(SERVICE4, state)
        egress.own(SERVICE6, state)
        assert egress.emit(frame) == ([], [])
        silenced = egress.address(SERVICE4).out_silenced + egress.address(SERVICE6).out_silenced
        assert silenced == 1
    egress.own(SERVICE4)
    egress.own(SERVICE6)
    (seen,), held = egress.emit(frame)
    assert frame.endswith(seen[14:])  # AF_PACKET gets a frame without its outer tag
    assert held == []


def test_a_standby_speaks_for_itself(egress: Bench) -> None:
    egress.own(SERVICE4, lib.PRL_ADDR_STANDBY)
    egress.own(SERVICE6, lib.PRL_ADDR_STANDBY)
    own = [
        outgoing(Segment(source=NODE4, target=PEER4)),
        from_service(arp(1, NODE4, SERVICE4)),
        from_service(
            arp(1, IPv4Address(0), SERVICE4)
        ),  # RFC 5227 probe before it takes the address
        from_service(ethernet(neighbour(SOLICIT, SERVICE6, ip_address("::")), ETH_IP6)),  # DAD
    ]
    for frame in own:
        assert egress.emit(frame) == ([frame], [])


@pytest.mark.parametrize("form", EMISSIONS)
def test_a_new_owner_says_nothing_before_its_claim(egress: Bench, form: str) -> None:
    """The old owner may live, and speaks until it hears that."""
    frame = EMISSIONS[form]
    egress.own(SERVICE4)
    egress.own(SERVICE6)
    egress.node.claiming = 1
    assert egress.emit(frame) == ([], [])
    egress.out.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, lib.PRL_MARK_WORD)
    egress.out.send(frame)  # as the datapath sends a claim
    egress.out.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0)
    (seen,), held = egress.emit(frame)
    assert frame.endswith(seen[14:])
    assert held == []
    egress.node.claiming = 0
    (seen,), held = egress.emit(frame)
    assert frame.endswith(seen[14:])
    assert held == []


def test_the_first_word_as_owner_has_a_deadline(egress: Bench) -> None:
    frame = outgoing(output(1, b"x"))
    egress.own(SERVICE4, first_by_ns=egress.now() - 1)
    assert egress.emit(frame) == ([], [])
    assert egress.address(SERVICE4).state == lib.PRL_ADDR_FENCED
    egress.own(SERVICE4, first_by_ns=egress.now() + 3600 * 10**9)
    assert egress.emit(frame) == ([frame], [])
    assert egress.address(SERVICE4).spoken == lib.PRL_SPOKEN_IN_TIME
    egress.node.lan_first_ns = egress.now()
    egress.own(SERVICE4, first_by_ns=egress.now() - 1, spoken=lib.PRL_SPOKEN_IN_TIME)
    assert egress.emit(frame) == ([frame], [])  # the LAN was there in time (L6)
    assert egress.address(SERVICE4).spoken == lib.PRL_SPOKEN_FOR_GOOD
    egress.node.lan_first_ns = 0
    egress.own(SERVICE4, first_by_ns=egress.now() - 1, spoken=lib.PRL_SPOKEN_IN_TIME)
    assert egress.emit(frame) == ([], [])
    egress.node.word_ns = egress.now()
    assert egress.emit(frame) == ([frame], [])


def test_a_silent_owner_hears_and_does_not_speak(egress: Bench) -> None:
    frame = outgoing(output(1, b"x"))
    answer = from_service(arp(2, SERVICE4, PEER4))
    egress.own(SERVICE4, service=3)
    egress.node.silent = 1 << 3
    assert egress.emit(frame) == ([], [])
    assert egress.emit(answer) == ([], [])
    egress.node.silent = 1 << 2
    assert egress.emit(frame) == ([frame], [])
    assert egress.emit(answer) == ([answer], [])


def test_an_owner_whose_datapath_hangs_answers_who_asks_for_its_address(egress: Bench) -> None:
    """Or the other node, which has just started, would take it for free."""
    answer = from_service(arp(2, SERVICE4, PEER4))
    egress.own(SERVICE4)
    egress.alive(-1)
    assert egress.emit(answer) == ([answer], [])


def test_an_owner_whose_time_is_over_is_silent_whatever_becomes_of_its_userspace(
    egress: Bench,
) -> None:
    """Where an arbiter decides (L12)."""
    frame = outgoing(output(1, b"x"))
    answer = from_service(arp(2, SERVICE4, PEER4))
    egress.own(SERVICE4)
    egress.node.speak_by_ns = egress.now() + 60_000_000_000
    assert egress.emit(frame) == ([frame], [])
    egress.node.speak_by_ns = egress.now() - 1
    assert egress.emit(frame) == ([], [])
    assert egress.emit(answer) == ([], [])
    egress.node.speak_by_ns = 0
    assert egress.emit(answer) == ([answer], [])


def test_output_waits_until_it_is_committed(egress: Bench) -> None:
    flow = egress.flow(1)
    flow.generation = 4
    flow.out_committed = 1000
    committed, held = outgoing(output(990, b"0123456789")), outgoing(output(990, b"0123456789a"))
    assert egress.emit(committed) == ([committed], [])
    assert egress.emit(held) == ([], [held])
    assert (flow.out_held, flow.out_valid) == (1001, 5)
    assert egress.emit(held) == ([], [])
    assert (flow.out_duplicates, flow.out_held_packets) == (1, 1)
    for segment in (output(1001), output(1001, flags=ACK | SYN)):
        assert egress.emit(outgoing(segment))[0] == [outgoing(segment)]
    fin = outgoing(output(1001, flags=FIN | ACK))
    assert egress.emit(fin) == ([], [fin])
    assert egress.emit(fin) == ([], [])
    rst = outgoing(output(900, flags=RST))
    assert egress.emit(rst) == ([], [rst])
    assert egress.emit(rst) == ([], [rst])
    flow.out_committed = 1002
    assert egress.emit(fin) == ([fin], [])

    flow.generation = 5  # a new snapshot: what was held for the old one is held anew
    flow.out_committed = 900
    assert egress.emit(held) == ([], [held])
    flow.flags = lib.PRL_FLOW_SETUP  # nothing is committed yet
    assert egress.emit(committed) == ([], [])
    later = outgoing(output(1001, b"b"))
    assert egress.emit(later) == ([], [later])
    flow.flags = lib.PRL_FLOW_OPEN
    assert egress.emit(later) == ([later], [])


def test_sequence_numbers_wrap(egress: Bench) -> None:
    flow = egress.flow(1)
    flow.out_committed = 0xFFFFFFF0
    crossing = outgoing(output(0xFFFFFFF0, b"x" * 32))
    assert egress.emit(crossing) == ([], [crossing])
    assert flow.out_held == 16
    assert egress.emit(crossing) == ([], [])
    flow.out_committed = 16
    assert egress.emit(crossing) == ([crossing], [])


def test_held_output_ipv6_and_vlan(egress: Bench) -> None:
    egress.flow(1, local=SERVICE6, remote=PEER6)
    egress.flow(2, vlans=5)
    six = Segment(
        1, 1, payload=b"six", source=SERVICE6, target=PEER6, source_port=PORT, target_port=PEER_PORT
    )
    assert egress.emit(outgoing(six)) == ([], [outgoing(six)])
    tagged = output(1, b"tag").frame(source=NODE_MAC, target=PEER_MAC, tags=((ETH_VLAN, 5),))
    assert egress.emit(tagged) == ([], [tagged])


def test_a_full_hold_device_loses_nothing(egress: Bench) -> None:
    flow = egress.flow(1)
    ip("-n", egress.node_ns, "link", "set", "hold0", "txqueuelen", "4")
    segments = [outgoing(output(1000 + i, b"x")) for i in range(6)]
    for segment in segments:
        egress.out.send(segment)
    assert flow.out_held == 1004
    assert egress.node.redirect_failed == 2
    held = [frame[10:] for frame in egress.hold.read()]
    for segment in segments:  # the stack sends again what nobody acknowledged
        held += egress.emit(segment)[1]
    assert held == segments
    assert flow.out_duplicates == 4

    more = [outgoing(output(1006 + i, b"x")) for i in range(6)]
    for segment in more[:5]:
        egress.out.send(segment)
    assert len(egress.hold.read()) == 4
    assert egress.emit(more[5]) == ([], [])  # there is room, but not for what is behind the hole
    assert egress.emit(more[4]) == ([], [more[4]])
    assert egress.emit(more[5]) == ([], [more[5]])


def test_what_a_full_hold_device_refuses_begins_behind_what_it_has(egress: Bench) -> None:
    flow = egress.flow(1)
    ip("-n", egress.node_ns, "link", "set", "hold0", "txqueuelen", "4")
    for i in range(4):
        egress.out.send(outgoing(output(1000 + i, b"x")))
    egress.out.send(outgoing(output(1000, b"xxxxxx")))  # again, and two bytes more
    assert (flow.out_held, flow.out_hole) == (1004, 1004)
    assert len(egress.hold.read()) == 4
    rest = outgoing(output(1002, b"xxxx"))  # the peer has acknowledged the first two
    assert egress.emit(rest) == ([], [rest])


def test_a_hold_device_that_is_down_holds_later(egress: Bench) -> None:
    flow = egress.flow(1)
    ip("-n", egress.node_ns, "link", "set", "hold0", "down")
    frame = outgoing(output(1, b"x"))
    assert egress.emit(frame) == ([], [])
    assert egress.node.redirect_failed == 1
    ip("-n", egress.node_ns, "link", "set", "hold0", "up")
    assert egress.emit(frame) == ([], [frame])
    assert flow.out_held_packets == 1


def test_udp_and_foreign_flows_are_not_held(egress: Bench) -> None:
    egress.flow(1)
    egress.flow(2, proto=UDP)
    udp = from_service(
        in4(
            struct.pack("!HHHH", PORT, PEER_PORT, 8, 0), source=SERVICE4, target=PEER4, protocol=UDP
        )
    )
    other = outgoing(Segment(1, payload=b"x", source=SERVICE4, target=PEER4))
    for frame in (udp, other):
        assert egress.emit(frame) == ([frame], [])
    piece = from_service(
        in4(output(1, b"x").pack(), source=SERVICE4, target=PEER4, fragment=0x2000)
    )
    assert egress.emit(piece) == ([], [])


def test_what_a_shadow_sent_stays_unsent_when_it_is_owned_later(egress: Bench) -> None:
    flow = egress.flow(1, remote=IPv6Address(0), proto=UDP, ports=(PORT, 0))
    frame = from_service(
        in4(
            struct.pack("!HHHH", PORT, PEER_PORT, 8, 0), source=SERVICE4, target=PEER4, protocol=UDP
        )
    )
    for mark, seen in ((lib.PRL_MARK_SHADOW, []), (0, [frame])):
        egress.out.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        egress.out.socket.send(frame)
        egress.out.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0)
        assert egress.emit(frame) == ([*seen, frame], [])
    assert flow.out_passed == 3


def test_what_a_shadow_left_behind_sends_is_unsent_whoever_owns(egress: Bench) -> None:
    """Of a session that has ended nothing but its mark is known (_let_read())."""
    frame = outgoing(output(1, b"x"))
    for mark, seen in ((lib.PRL_MARK_SHADOW, []), (0, [frame])):
        egress.out.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        egress.out.socket.send(frame)
        egress.out.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0)
        assert egress.emit(frame) == ([*seen, frame], [])


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("fragment", [0, 0x2000])
def test_udp_output_of_a_shadow_or_of_a_dead_datapath_is_silent(
    egress: Bench, fragment: int, *, connected: bool
) -> None:
    if connected:
        flow = egress.flow(1, proto=UDP)
    else:
        flow = egress.flow(1, remote=IPv6Address(0), proto=UDP, ports=(PORT, 0))
    header = struct.pack("!HHHH", PORT, PEER_PORT, 8, 0)
    frame = from_service(
        in4(header, source=SERVICE4, target=PEER4, protocol=UDP, fragment=fragment)
    )
    assert egress.emit(frame) == ([frame], [])
    for flags in (lib.PRL_FLOW_ACTIVE | lib.PRL_FLOW_SECONDARY, lib.PRL_FLOW_VOID):
        flow.flags = flags
        assert egress.emit(frame) == ([], [])
    flow.flags = lib.PRL_FLOW_SETUP | lib.PRL_FLOW_ACTIVE
    egress.alive(-1)
    assert egress.emit(frame) == ([], [])
    assert egress.node.open_wanted == 1
    flow.flags = lib.PRL_FLOW_OPEN
    assert egress.emit(frame) == ([frame], [])
    assert (flow.out_passed, flow.out_silenced) == (2, 3)


def test_released_output_carries_the_newest_ack_window_and_timestamp(egress: Bench) -> None:
    egress.flow(1)
    old = outgoing(output(1000, b"held", ack=500, window=100, stamps=(10, 20)))
    assert egress.emit(old) == ([], [old])
    newer = outgoing(output(1004, ack=900, window=90, stamps=(15, 25)))
    assert egress.emit(newer) == ([newer], [])
    egress.hold.write(old)
    egress.out.send(ethernet(bytes(50), 0x88B5, source=NODE_MAC, target=PEER_MAC))
    (released,) = egress.peer.until_sentinel()
    assert Segment.read(released) == output(1000, b"held", ack=900, window=90, stamps=(15, 25))

    newest = outgoing(output(1004, b"own", ack=950, window=80, stamps=(18, 26)))
    failed = int(egress.node.redirect_failed)
    egress.hold.write(newest)
    egress.hold.write(newest[:6] + PEER_MAC + newest[12:])  # no interface has this address
    egress.out.send(ethernet(bytes(50), 0x88B5, source=NODE_MAC, target=PEER_MAC))
    assert egress.peer.until_sentinel() == [newest]
    assert egress.node.redirect_failed == failed + 1


def test_signed_headers_are_left_to_userspace(egress: Bench) -> None:
    flow = egress.flow(1, lib.PRL_FLOW_ACTIVE | lib.PRL_FLOW_MD5 | lib.PRL_FLOW_CLAMP)
    flow.edge_limit = 1000
    fits = outgoing(output(1004, ack=900, window=90))
    assert egress.emit(fits) == ([fits], [])
    wide = outgoing(output(1004, ack=910, window=100))
    assert egress.emit(wide) == ([], [wide])  # its window must be lowered, and it is signed
    assert (flow.last_ack, flow.last_window, flow.last_edge) == (910, 100, 990)
    held = outgoing(output(1000, b"held", ack=920, window=70))
    assert egress.emit(held) == ([], [held])
    assert (flow.last_ack, flow.last_window) == (920, 70)
    old = outgoing(output(1000, b"held", ack=500, window=700))
    egress.hold.write(old)
    egress.out.send(ethernet(bytes(50), 0x88B5, source=NODE_MAC, target=PEER_MAC))
    assert egress.peer.until_sentinel() == [old]
    assert (flow.last_ack, flow.last_edge) == (920, 1200)
    egress.node.bypassed = 1
    assert egress.emit(wide) == ([wide], [])  # nobody is there to sign


def test_a_dead_datapath_does_not_close_the_window(egress: Bench) -> None:
    flow = egress.flow(1, lib.PRL_FLOW_ACTIVE | lib.PRL_FLOW_CLAMP)
    flow.edge_limit = 600
    frame = outgoing(output(1, ack=900, window=90))
    assert Segment.read(egress.emit(frame)[0][0]).window == 0
    egress.node.bypassed = 1
    assert egress.emit(frame) == ([frame], [])


def test_released_output_is_silent_after_the_address_is_lost(egress: Bench) -> None:
    egress.flow(1)
    egress.own(SERVICE4, lib.PRL_ADDR_FENCED)
    egress.hold.write(outgoing(output(1, b"x")))
    egress.out.send(ethernet(bytes(50), 0x88B5, source=NODE_MAC, target=PEER_MAC))
    assert egress.peer.until_sentinel() == []


def test_the_window_is_clamped_and_never_moves_back(egress: Bench) -> None:
    flow = egress.flow(1, lib.PRL_FLOW_ACTIVE | lib.PRL_FLOW_CLAMP)
    flow.rcv_wscale = 3

    def edge(ack: int, window: int) -> int:
        (frame,) = egress.emit(outgoing(output(1, ack=ack, window=window)))[0]
        seen = Segment.read(frame)
        assert seen.ack == ack
        return seen.ack + (seen.window << 3)

    flow.edge_limit = 100_000
    assert edge(1000, 500) == 5000
    assert flow.clamped == 0
    flow.edge_limit = 8002
    assert edge(2000, 1000) == 8000  # rounded down to the window's unit
    assert flow.clamped == 1
    for ack in range(2001, 2020):  # and it does not creep with the acks
        assert 8002 - 8 < edge(ack, 1000) <= 8002
    flow.edge_limit = 7000
    assert edge(2000, 1000) == 8000
    assert edge(8000, 1000) == 8000  # closed
    assert flow.last_edge <= 8002
    flow.edge_limit = 20_000
    assert edge(8000, 1000) == 16_000
    (syn,) = egress.emit(outgoing(output(1, ack=1, window=65535, flags=SYN | ACK)))[0]
    assert Segment.read(syn).window == 65535


@pytest.fixture
def session(egress: Bench) -> Iterator[tuple[Bench, socket.socket, socket.socket]]:
    """A real connection: (bench, the node's end, the peer's end); the flow's slot is 1, flags 0."""
    for namespace, address in ((egress.node_ns, SERVICE4), (egress.peer_ns, PEER4)):
        ip("-n", namespace, "address", "add", f"{address}/24", "dev", "lan0")
    with inside(egress.node_ns):
        listener = socket.create_server((str(SERVICE4), PORT))
    with inside(egress.peer_ns):
        peer = socket.socket()
        peer.bind((str(PEER4), PEER_PORT))
    with listener, peer:
        peer.settimeout(5)
        peer.connect((str(SERVICE4), PORT))
        server, _ = listener.accept()
        server.settimeout(5)
        with server:
            egress.flow(1, 0)
            yield egress, server, peer


def sample(bench: Bench, slot: int = 1) -> Any:
    with inside(bench.node_ns):
        assert lib.prl_kernel_sample(bench.kernel, [slot], 1) == 0
    view = lib.prl_kernel_flow(bench.kernel, slot).sock
    assert view.stamp_ns
    return view


def test_sample_reads_a_live_socket(
    session: tuple[Bench, socket.socket, socket.socket],
) -> None:
    bench, server, peer = session
    before = sample(bench)
    assert before.state == 1
    assert before.rcvbuf_bytes == server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    start, window, sent = before.rcv_nxt, before.rcv_wnd, before.snd_nxt
    peer.sendall(b"x" * 3000)
    server.recv(1, socket.MSG_PEEK)
    until(lambda: sample(bench).rcv_nxt == start + 3000)
    view = sample(bench)
    assert view.rcv_wup + view.rcv_wnd >= start + window
    assert view.rmem_bytes >= 3000
    assert (view.has_ooo, view.drops) == (0, 0)
    assert view.segs_in >= 3
    server.sendall(b"y" * 10)
    assert peer.recv(10) == b"y" * 10
    view = sample(bench)
    assert (view.snd_nxt, view.write_seq) == (sent + 10, sent + 10)


def test_sample_tells_sockets_that_are_gone(
    session: tuple[Bench, socket.socket, socket.socket],
) -> None:
    bench, server, peer = session
    bench.flow(2, ports=(PORT, 1))
    assert sample(bench, 2).state == 0  # the listener is not the flow's socket
    bench.flow(3, local=SERVICE6, remote=PEER6)
    assert sample(bench, 3).state == 0
    server.close()
    assert peer.recv(1) == b""
    peer.close()
    until(lambda: sample(bench).state not in {4, 5})  # FIN_WAIT1, FIN_WAIT2
    assert sample(bench).state == 6  # TIME_WAIT


def test_the_mark_gate_refuses_what_prl_did_not_release(
    session: tuple[Bench, socket.socket, socket.socket],
) -> None:
    bench, server, peer = session
    flow = lib.prl_kernel_flow(bench.kernel, 1)
    assert lib.prl_kernel_gate_attach(bench.kernel, server.fileno(), 1) == 0
    peer.sendall(b"plain")
    assert server.recv(10) == b"plain"
    start = sample(bench).rcv_nxt

    flow.flags = lib.PRL_FLOW_ACTIVE  # classify captures, egress holds
    peer.sendall(b"held")
    captured: list[tuple[int, int, bytes]] = []

    def arrived() -> bool:
        captured.extend(bench.xsk.read())
        return bool(captured)

    until(arrived)
    frame = captured[0][2]
    assert frame.endswith(b"held")
    flow.flags = lib.PRL_FLOW_ACTIVE | lib.PRL_FLOW_SECONDARY
    assert sample(bench).rcv_nxt == start

    # A straggler behind the classifier, unmarked: over a path that XDP does not see.
    flow.flags = lib.PRL_FLOW_ACTIVE
    with inside(bench.node_ns):
        subprocess.run(["ip", "link", "set", "lan0", "xdpgeneric", "off"], check=True)
    bench.peer.send(frame)
    until(lambda: flow.gate_refused)
    assert sample(bench).rcv_nxt == start

    header = struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 16)  # NEEDS_CSUM: veth left it partial
    bench.inject.write(b"\x02prl\0\0" + frame[6:], header)
    assert server.recv(10) == b"held"
    flow.flags = lib.PRL_FLOW_OPEN
    peer.sendall(b"open")
    assert server.recv(10) == b"open"
    refused = flow.gate_refused
    flow.flags = lib.PRL_FLOW_ACTIVE
    bench.node.bypassed = 1
    peer.sendall(b"bypassed")
    assert server.recv(10) == b"bypassed"
    assert flow.gate_refused == refused
    flow.flags = lib.PRL_FLOW_OPEN
    assert lib.prl_kernel_gate_detach(bench.kernel, server.fileno()) == 0
    assert lib.prl_kernel_gate_detach(bench.kernel, server.fileno()) == 0


def test_only_refusals_that_go_on_make_a_stray(
    session: tuple[Bench, socket.socket, socket.socket],
) -> None:
    bench, server, peer = session
    flow = lib.prl_kernel_flow(bench.kernel, 1)
    assert lib.prl_kernel_gate_attach(bench.kernel, server.fileno(), 1) == 0
    with inside(bench.node_ns):
        subprocess.run(["ip", "link", "set", "lan0", "xdpgeneric", "off"], check=True)
    flow.flags = lib.PRL_FLOW_ACTIVE
    stray = Segment(
        seq=sample(bench).rcv_nxt, payload=b"x", source_port=peer.getsockname()[1]
    ).frame()

    def refuse_after(ago_s: float) -> int:
        first = (bench.now() - int(ago_s * 1e9)) // lib.PRL_STRAY_UNIT_NS
        before = first << lib.PRL_STRAY_BITS & 0xFFFFFFFF
        flow.stray = before
        bench.peer.send(stray)
        until(lambda: flow.stray != before)
        return int(flow.stray & (lib.PRL_STRAY_IN | lib.PRL_STRAY_OUT))

    assert refuse_after(3600) == 0
    assert bench.node.strays == 0
    until(lambda: refuse_after(0.5) == lib.PRL_STRAY_IN)
    assert bench.node.strays == 1
    flow.flags = lib.PRL_FLOW_OPEN


def test_real_output_is_held_with_its_offload_and_released(
    session: tuple[Bench, socket.socket, socket.socket],
) -> None:
    bench, server, peer = session
    flow = lib.prl_kernel_flow(bench.kernel, 1)
    server.sendall(b"before")
    assert peer.recv(10) == b"before"
    flow.out_committed = sample(bench).snd_nxt
    peer.settimeout(0)
    bench.xsk.read()
    flow.flags = lib.PRL_FLOW_ACTIVE
    server.sendall(b"h" * 6000)
    frames = bench.hold.read()
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    assert sum(len(frame) - 10 - 66 for frame in frames) == 6000
    assert flow.out_held == flow.out_committed + 6000
    assert flow.sock.stamp_ns
    assert flow.sock.write_seq == flow.out_committed + 6000
    assert any(frame[1] for frame in frames), "the hold keeps whole TSO packets"
    peer.settimeout(5)
    for frame in frames:
        os.write(bench.hold.fd, frame)
    got = b""
    while len(got) < 6000:
        got += peer.recv(6000)
    assert got == b"h" * 6000
    flow.flags = lib.PRL_FLOW_OPEN


def test_a_silent_shadow_shows_its_socket(
    session: tuple[Bench, socket.socket, socket.socket],
) -> None:
    bench, server, _ = session
    flow = lib.prl_kernel_flow(bench.kernel, 1)
    flow.flags = lib.PRL_FLOW_SECONDARY
    bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
    server.sendall(b"shadow")
    assert flow.out_silenced >= 1
    assert flow.sock.write_seq == sample(bench).write_seq
    assert bench.hold.read() == []
    bench.own(SERVICE4)
    flow.flags = 0


def test_the_shadow_congestion_control_ignores_the_window_of_congestion(
    session: tuple[Bench, socket.socket, socket.socket],
) -> None:
    bench, server, peer = session
    name = ffi.string(lib.prl_kernel_shadow_cc(bench.kernel))
    assert name.startswith(b"prl_")
    assert len(name) == 12

    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
    assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).strip(b"\0") == name
    server.sendall(b"x" * 100_000)
    got = 0
    while got < 100_000:
        got += len(peer.recv(100_000))
    assert snd_cwnd(server) == 1_000_000
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    assert snd_cwnd(server) == 10


def pins(bench: Bench) -> Path:
    return Path("/sys/fs/bpf/prl") / bench.name


def attached(bench: Bench) -> str:
    shown = ""
    with inside(bench.node_ns):
        for command in (["tc", "filter", "show", "dev", "lan0", "egress"], ["ip", "link"]):
            shown += subprocess.run(command, check=True, capture_output=True, text=True).stdout
        shown += " ".join(map(tcx.name, tcx.programs(bench.lan_ifindex) or []))
    return shown


def test_silence_outlives_prld_and_scrub_removes_it(bench: Bench) -> None:
    bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
    name = ffi.string(lib.prl_kernel_shadow_cc(bench.kernel))
    bench.stop(keep_silence=True)
    assert bench.emit(outgoing(output(1, b"x"))) == ([], [])
    assert not bench.passes(SEGMENT4.frame())
    assert pins(bench).stat().st_mode & 0o777 == 0o700
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    with inside(bench.node_ns):
        assert lib.prl_kernel_scrub(bench.name.encode(), 1, error) == 0
        assert lib.prl_kernel_scrub(bench.name.encode(), 1, error) == 0
    assert not pins(bench).exists()
    assert "prl_" not in attached(bench)
    assert "prog/xdp" not in attached(bench)
    with socket.socket() as any_socket, pytest.raises(OSError, match="No such file"):
        any_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)


def test_who_cleans_up_beside_a_prld_leaves_its_silence(bench: Bench) -> None:
    """As `prlctl lab down` does, on a host that is itself a node."""
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    with inside(bench.node_ns):
        assert lib.prl_kernel_scrub(b"another", 0, error) == 0
    assert "prl_egress" in attached(bench)


def test_a_start_that_fails_leaves_the_silence_that_it_found(bench: Bench) -> None:
    bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
    bench.stop(keep_silence=True)
    hold, bench.config.hold_ifindex = bench.config.hold_ifindex, 9999
    with pytest.raises(AssertionError, match="hold device 9999"):
        bench.start()
    bench.stop(keep_silence=True)
    assert bench.emit(outgoing(output(1, b"x"))) == ([], [])
    bench.config.hold_ifindex = hold
    bench.start()
    assert bench.address(SERVICE4).state == lib.PRL_ADDR_STANDBY


def test_a_new_prld_finds_what_the_dead_one_left(bench: Bench) -> None:
    bench.own(SERVICE4, lib.PRL_ADDR_STANDBY)
    bench.flow(1)
    cookie = bytes(bench.node.cookie)
    bench.stop(keep_silence=True)
    bench.config.flows_max = 32
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    assert lib.prl_kernel_open(bench.config, error) == ffi.NULL
    assert b"pins of an earlier run" in ffi.string(error)
    bench.config.flows_max = 16
    bench.config.mode = lib.PRL_XDP_GENERIC  # whichever it was
    bench.start()
    assert bytes(bench.node.cookie) == cookie
    assert lib.prl_kernel_flow(bench.kernel, 1).flags == lib.PRL_FLOW_ACTIVE
    assert bench.address(SERVICE4).state == lib.PRL_ADDR_STANDBY
    assert bench.emit(outgoing(output(1, b"x"))) == ([], [])
    assert not bench.passes(SEGMENT4.frame())
    assert lib.prl_kernel_shadow_cc(bench.kernel) != ffi.NULL


def test_close_leaves_nothing(bench: Bench) -> None:
    assert "prl_egress" in attached(bench)
    bench.stop(keep_silence=False)
    assert not pins(bench).exists()
    assert "prl_" not in attached(bench)
    assert with_clsact(bench) == set()


def with_clsact(bench: Bench) -> set[str]:
    with inside(bench.node_ns):
        shown = subprocess.run(["tc", "-j", "qdisc"], check=True, capture_output=True).stdout
    return {one["dev"] for one in json.loads(shown) if one["kind"] == "clsact"}


def test_the_successor_of_a_killed_prld_leaves_nothing_either(bench: Bench) -> None:
    bench.stop(keep_silence=True)
    assert with_clsact(bench) >= {"hold0", "inject0"}
    bench.start()
    bench.stop(keep_silence=False)
    assert with_clsact(bench) == set()


@pytest.mark.parametrize("is_there", [True, False])
def test_nor_does_who_cleans_up_after_it(bench: Bench, is_there: bool) -> None:
    """In its network namespace: in another one the same numbers are other devices."""
    bench.stop(keep_silence=True)
    before = with_clsact(bench)
    assert before >= {"hold0", "inject0"}
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    with inside(bench.node_ns if is_there else bench.peer_ns):
        assert lib.prl_kernel_scrub(bench.name.encode(), 1, error) == 0
    left = with_clsact(bench)
    # Filters of the TAPs go with the TAPs.
    assert left == (before & {"hold0", "inject0"} if is_there else before)


def test_a_clsact_that_was_there_before_prl_stays(bench: Bench) -> None:
    bench.stop(keep_silence=False)
    with inside(bench.node_ns):
        subprocess.run(["tc", "qdisc", "add", "dev", "lan0", "clsact"], check=True)
    bench.start()
    bench.stop(keep_silence=True)
    bench.start()
    bench.stop(keep_silence=False)
    assert with_clsact(bench) == {"lan0"}


def test_failures_are_told_and_leave_nothing() -> None:
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    folder = ffi.new("char[]", b"/nonexistent")

    def attempt(**change: Any) -> str:
        wanted = {
            "object_dir": folder,
            "instance": ffi.new("char[]", b"h4.none"),
            "flows_max": 8,
            "mode": lib.PRL_XDP_NATIVE,
        }
        config = ffi.new("struct prl_kernel_config *", wanted | change)
        assert lib.prl_kernel_open(config, error) == ffi.NULL
        return str(ffi.string(error).decode())

    assert "/nonexistent/egress.bpf.o: No such file" in attempt()
    assert not Path("/sys/fs/bpf/prl/h4,none").exists()
    assert "flows_max 0" in attempt(flows_max=0)
    assert "at most 16" in attempt(lifs=17)
    assert "XDP mode 9" in attempt(mode=9)
    slash = ffi.new("char[]", b"../x")
    assert "only [A-Za-z0-9._-]" in attempt(instance=slash)


def test_limits_of_the_tables(egress: Bench) -> None:
    key = ffi.new("struct prl_flow_key *")
    assert lib.prl_kernel_flow(egress.kernel, egress.flows_max) == ffi.NULL
    assert lib.prl_kernel_flow_add(egress.kernel, key, 1, egress.flows_max) == -errno.EINVAL
    assert lib.prl_kernel_flow_add(egress.kernel, key, 1, 0) == 0
    assert lib.prl_kernel_flow_add(egress.kernel, key, 1, 0) == -errno.EEXIST
    assert lib.prl_kernel_flow_del(egress.kernel, key) == 0
    assert lib.prl_kernel_flow_del(egress.kernel, key) == -errno.ENOENT
    assert lib.prl_kernel_xsk_set(egress.kernel, 0, 64, 0) == -errno.EINVAL
    assert lib.prl_kernel_gate_attach(egress.kernel, -1, 1) == -errno.EBADF
    slots = list(range(16)) * 10
    with inside(egress.node_ns):
        assert lib.prl_kernel_sample(egress.kernel, slots, len(slots)) == 0
