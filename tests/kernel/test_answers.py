"""What the kernel answers to the other node's probes by itself, and what it answers nothing to.

Checks L3a.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Self

import pytest
from prl._core import ffi, lib

from tests.kernel.bpf_lab import (
    EPOCH,
    ETH_IP,
    ETH_IP6,
    ETH_SENTINEL,
    ETH_VLAN,
    NODE4,
    NODE6,
    NODE_MAC,
    PEER4,
    PEER6,
    PEER_MAC,
    SERVICE4,
    TCP,
    TERM,
    UDP,
    Bench,
    Probe,
    ethernet,
    ipv4,
    ipv6,
    l4_sum,
    probe_mac,
)

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp")

PORT = 7078
BYTES = ffi.sizeof("struct prl_probe")
MS = 1_000_000


@pytest.fixture(params=["native", "generic"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    mode = {"native": lib.PRL_XDP_NATIVE, "generic": lib.PRL_XDP_GENERIC}[request.param]
    with Bench(mode) as made:
        made.agree()
        made.node.claimant = 1
        made.node.heartbeat_ns = made.now()
        yield made


def datagram(payload: bytes, *, family: int = 4, protocol: int = UDP, **how: Any) -> bytes:
    """From the other node to this one; with a checksum."""
    source, target = (PEER4, NODE4) if family == 4 else (PEER6, NODE6)
    data = struct.pack("!HHHH", PORT, PORT, 8 + len(payload), 0) + payload
    data = data[:6] + struct.pack("!H", l4_sum(source, target, UDP, data)) + data[8:]
    if family == 4:
        return ethernet(ipv4(data, source, target, protocol, **how), ETH_IP)
    return ethernet(ipv6(data, source, target, protocol), ETH_IP6)


@dataclass(frozen=True)
class Answer:
    """An answer, as it came."""

    flags: int
    number: int
    confirms: int
    at_ns: int
    pass_ns: int
    known_ns: int
    owned: int
    fenced: int
    silent: int
    terms: bytes

    @classmethod
    def read(cls, payload: bytes) -> Self:
        found = struct.unpack("!IBBBBQQQQQQHHHH16s", payload[:-8])
        magic, kind, _, asker, flags, epoch, *numbers, owned, fenced, silent, zero, terms = found
        assert (magic, kind, asker, epoch, zero) == (
            lib.PRL_PROBE_MAGIC, lib.PRL_PROBE_ANSWERS, 1, EPOCH, 0,
        )  # fmt: skip
        assert probe_mac(payload[:-8]) == payload[-8:]
        return cls(flags, *numbers, owned, fenced, silent, terms)


def answers(bench: Bench, frame: bytes) -> list[bytes]:
    """What comes back at once, without any thread of the node's."""
    bench.peer.send(frame)
    bench.out.send(ethernet(bytes(50), ETH_SENTINEL, source=NODE_MAC, target=PEER_MAC))
    return bench.peer.until_sentinel()


def ask(bench: Bench, probe: Probe, *, family: int = 4) -> Answer | None:
    """The answer to a question, if it is good."""
    came = answers(bench, datagram(probe.pack(), family=family))
    if not came:
        return None
    (frame,) = came
    head = 34 if family == 4 else 54
    assert frame[:12] == PEER_MAC + NODE_MAC
    data = frame[head:]
    addresses: tuple[IPv4Address | IPv6Address, ...]
    addresses = (NODE4, PEER4) if family == 4 else (NODE6, PEER6)
    at = 26 if family == 4 else 22
    assert frame[at:head] == b"".join(one.packed for one in addresses)
    assert l4_sum(*addresses, UDP, data) == 0, "wrong checksum"
    assert struct.unpack("!HHH", data[:6]) == (PORT, PORT, 8 + BYTES)
    return Answer.read(data[8:])


@pytest.mark.parametrize("family", [4, 6])
def test_a_question_is_answered_with_what_the_kernel_knows(bench: Bench, family: int) -> None:
    bench.own(SERVICE4)
    node = bench.node
    node.owned, node.silent, node.terms[3] = 0b101, 0b1000, 0x1FE
    node.fenced = 0b100
    node.heartbeat_ns = bench.now() - 700 * MS
    before = bench.now()
    path = lib.PRL_PROBE_LINK if family == 6 else lib.PRL_PROBE_LAN
    answer = ask(bench, Probe(number=5, path=path), family=family)
    assert answer is not None
    assert before <= answer.at_ns <= bench.now()
    assert answer.pass_ns == answer.at_ns - node.heartbeat_ns
    assert (answer.owned, answer.fenced, answer.silent) == (0b101, 0b100, 0b1000)
    assert answer.terms == bytes([TERM, 0, 0, 0xFE]) + bytes(12)
    assert (answer.number, answer.confirms, answer.known_ns, answer.flags) == (5, 0, 0, 0)
    assert (node.probes_answered, node.probes_refused) == (1, 0)
    assert node.lan_probed_ns == (0 if family == 6 else answer.at_ns)


def test_what_is_not_a_good_question_is_answered_with_nothing(bench: Bench) -> None:
    good = Probe(number=10)
    forged = [
        bytes([*good.pack()[:at], good.pack()[at] ^ 1, *good.pack()[at + 1 :]])
        for at in (6, 7, 8, 16, 24, 60, BYTES - 1)
    ]
    forged += [
        replace(good, **how).pack()
        for how in ({"epoch": EPOCH + 1}, {"asker": 0}, {"path": 2}, {"key": bytes(16)})
    ]
    for number, payload in enumerate(forged, 1):
        assert not answers(bench, datagram(payload)), number
        assert bench.node.probes_refused == number
    bench.node.probe_key = [0, 0]  # between two epochs
    assert not answers(bench, datagram(replace(good, key=bytes(16)).pack()))
    assert (bench.node.probes_answered, bench.node.confirmed_ns) == (0, 0)


def test_what_is_no_question_goes_its_way(bench: Bench) -> None:
    payload = Probe().pack()
    refused = bench.node.probes_refused
    frames = [
        datagram(payload[:-1]),
        datagram(payload + b"x"),
        datagram(payload, options=b"\1" * 4),
        datagram(payload[4:], options=b"\1" * 4),
        datagram(payload, fragment=0x2000),
        datagram(payload, fragment=1),
        datagram(payload, protocol=TCP),
        datagram(Probe(kind=lib.PRL_PROBE_ANSWERS).pack()),
        datagram(b"PRLH" + payload[4:]),
        ethernet(datagram(payload)[14:], ETH_IP, tags=((ETH_VLAN, 5),)),
    ]
    for number, frame in enumerate(frames):
        assert not answers(bench, frame), number
    assert (bench.node.probes_answered, bench.node.probes_refused) == (0, refused)


def test_a_question_is_answered_once(bench: Bench) -> None:
    assert ask(bench, Probe(number=7))
    assert ask(bench, Probe(number=7)) is None
    assert ask(bench, Probe(number=6)) is None
    assert bench.node.probes_refused == 2
    assert ask(bench, Probe(number=6, path=lib.PRL_PROBE_LINK)), "the ways are counted apart"
    assert ask(bench, Probe(number=8))


def test_an_answer_renews_the_lease_as_long_as_nothing_can_open(bench: Bench) -> None:
    node = bench.node
    numbers = iter(range(1, 100))

    def renews(flags: int = lib.PRL_PROBE_LINKED) -> bool:
        answer = ask(bench, Probe(number=next(numbers), flags=flags))
        assert answer is not None
        assert bool(answer.flags & lib.PRL_PROBE_BYPASSED) == bool(node.bypassed)
        return bool(answer.flags & lib.PRL_PROBE_LEASES)

    assert not renews(), "the link is down"
    assert node.answered_ns == 0
    node.leases = 1
    assert not renews(0), "the asker does not hear the link"
    before, open_at_ns = bench.now(), node.open_at_ns
    assert renews()
    assert before <= node.answered_ns <= bench.now()
    assert node.open_at_ns == open_at_ns, "which userspace alone writes"
    answered_ns = node.answered_ns
    node.heartbeat_ns = bench.now() - 400 * MS
    assert not renews(), "the datapath hangs"
    node.heartbeat_ns = bench.now() - 10 * MS
    node.bypassed = 1
    assert not renews()
    assert node.answered_ns == answered_ns
    node.bypassed = 0
    assert renews()


def test_what_the_asker_has_had_is_noted_while_it_hears_the_link(bench: Bench) -> None:
    first = ask(bench, Probe(number=1))
    assert first is not None
    unlinked = ask(bench, Probe(number=2, confirms=first.at_ns, flags=0))
    assert unlinked is not None
    assert (unlinked.confirms, unlinked.known_ns) == (first.at_ns, 0)
    later = ask(bench, Probe(number=3, confirms=bench.now() + 3600 * 1000 * MS))
    assert later is not None
    assert later.known_ns == 0
    known = ask(bench, Probe(number=4, confirms=first.at_ns))
    assert known is not None
    assert known.known_ns == first.at_ns == bench.node.confirmed_ns
    older = ask(bench, Probe(number=5, confirms=first.at_ns - 1))
    assert older is not None
    assert older.known_ns == first.at_ns
