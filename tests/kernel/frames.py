"""Frames of every shape, and a reference that says what the BPF programs must make of each.

The reference is written from the RFCs and the comments of ``bpf/parse.h``, and reads bytes as
Python does: what is not there is :class:`Short`. :class:`Frames` makes the frames from a seed.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import ip_address

from tests.kernel.bpf_lab import (
    ETH_ARP,
    ETH_IP,
    ETH_IP6,
    ETH_QINQ,
    ETH_VLAN,
    ICMP,
    ICMP6,
    NODE4,
    NODE6,
    NODE_MAC,
    PEER4,
    PEER6,
    PEER_MAC,
    SERVICE4,
    SERVICE6,
    TCP,
    UDP,
    Address,
    ethernet,
    ipv4,
    ipv6,
    mapped,
)

STANDBY4, STANDBY6 = ip_address("192.0.2.101"), ip_address("2001:db8:0:1::101")
HOP, ROUTING, FRAGMENT, AH, OPTIONS, ESP, MOBILITY = 0, 43, 44, 51, 60, 50, 135
STEPPED_OVER = frozenset({HOP, ROUTING, FRAGMENT, AH, OPTIONS})
TAGS = frozenset({ETH_VLAN, ETH_QINQ})
VLANS_MAX, EXTENSIONS_MAX, L4_OFFSET_MAX = 2, 6, 1023
ARP_BYTES, IP4_BYTES, IP6_BYTES, TCP_BYTES, UDP_BYTES = 28, 20, 40, 20, 8
SOLICIT, ADVERT = 135, 136
ERRORS = {4: {3, 11, 12}, 6: {1, 2, 3, 4}}
QUOTED_AT = 8
"""Where in an ICMP error what it quotes begins."""


class Short(Exception):  # noqa: N818 - it is no error: most frames that are tried are short
    """The bytes that were asked for are not there."""


def part(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise Short
    return data[at : at + size]


def number(data: bytes, at: int, size: int = 2) -> int:
    return int.from_bytes(part(data, at, size))


class Kind(Enum):
    """enum prl_kind."""

    OTHER = auto()
    MALFORMED = auto()
    TUNNELLED = auto()
    ARP = auto()
    IP = auto()
    FRAGMENT = auto()
    FLOW = auto()
    ICMP = auto()
    ICMP6 = auto()


@dataclass
class Parsed:
    """What a frame says of itself."""

    kind: Kind = Kind.OTHER
    version: int = 0
    source: bytes = b""
    target: bytes = b""
    protocol: int = 0
    ports: tuple[int, int] = (0, 0)
    vlans: int = 0
    l3: int = 14
    l4: int = 0
    end: int = 0
    """Behind the IP packet; 0: it does not say."""
    first: bool = False
    icmp_type: int = 0


def v4_mapped(raw: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + raw


def walk(frame: bytes, at: int, following: int) -> tuple[Kind | None, bool, int, int]:
    """Step over extension headers: what it is if no transport header is reached (or a fragment's),
    whether that fragment is the first, where the transport header is, and its protocol."""
    kind, first = None, False
    for _ in range(EXTENSIONS_MAX):
        if following not in STEPPED_OVER or at > L4_OFFSET_MAX:
            break
        head = part(frame, at, 8)
        size = {FRAGMENT: 8, AH: (head[1] + 2) * 4}.get(following, (head[1] + 1) * 8)
        if following == FRAGMENT and struct.unpack_from("!H", head, 2)[0] & 0xFFF9:
            kind, first = Kind.FRAGMENT, struct.unpack_from("!H", head, 2)[0] & 0xFFF8 == 0
        following, at = head[0], at + size
        if kind and not first:
            return kind, False, at, following
    if at > L4_OFFSET_MAX or following in STEPPED_OVER:
        return Kind.TUNNELLED, False, at, following
    return kind, first, at, following


def parse(frame: bytes) -> Parsed:
    """What ``prl_parse()`` must find."""
    found = Parsed()
    try:
        _parse(frame, found)
    except Short:
        found.kind = Kind.MALFORMED
    return found


def _parse(frame: bytes, found: Parsed) -> None:
    ether_type = number(frame, 12)
    for _ in range(VLANS_MAX):
        if ether_type not in TAGS:
            break
        found.vlans = found.vlans << 12 | number(frame, found.l3) & 0xFFF
        ether_type = number(frame, found.l3 + 2)
        found.l3 += 4
    if ether_type == ETH_IP:
        done = _ip4(frame, found)
    elif ether_type == ETH_IP6:
        done = _ip6(frame, found)
    else:
        if ether_type == ETH_ARP:
            found.kind = Kind.ARP
        elif ether_type in TAGS:
            found.kind = Kind.TUNNELLED
        return
    if not done:
        _l4(frame, found)


def _ip4(frame: bytes, found: Parsed) -> bool:
    """Whether nothing more can be said."""
    header = part(frame, found.l3, IP4_BYTES)
    words, size = header[0] & 15, struct.unpack_from("!H", header, 2)[0]
    if header[0] >> 4 != 4 or words < IP4_BYTES // 4:
        found.kind = Kind.MALFORMED
        return True
    found.version, found.protocol = 4, header[9]
    found.source, found.target = v4_mapped(header[12:16]), v4_mapped(header[16:20])
    found.l4 = found.l3 + words * 4
    found.end = found.l3 + size if size else 0
    if size and size < words * 4:
        found.kind = Kind.MALFORMED
        return True
    offset_more = struct.unpack_from("!H", header, 6)[0] & 0x3FFF
    if offset_more:
        found.kind, found.first = Kind.FRAGMENT, not offset_more & 0x1FFF
    return bool(offset_more) and not found.first


def _ip6(frame: bytes, found: Parsed) -> bool:
    header = part(frame, found.l3, IP6_BYTES)
    if header[0] >> 4 != 6:
        found.kind = Kind.MALFORMED
        return True
    found.version, found.source, found.target = 6, header[8:24], header[24:40]
    found.l4 = found.l3 + IP6_BYTES
    size = struct.unpack_from("!H", header, 4)[0]
    found.end = found.l4 + size if size else 0
    kind, found.first, found.l4, found.protocol = walk(frame, found.l4, header[6])
    if kind:
        found.kind = kind
    return kind is not None and not found.first


def _l4(frame: bytes, found: Parsed) -> None:
    has_ports = found.protocol in {TCP, UDP}
    if not has_ports and found.protocol != {4: ICMP, 6: ICMP6}[found.version]:
        if found.kind is not Kind.FRAGMENT:
            found.kind = Kind.IP
        return
    need = TCP_BYTES if found.protocol == TCP else UDP_BYTES
    head = part(frame, found.l4, need)
    if found.end and found.l4 + need > found.end:
        raise Short
    if has_ports:
        found.ports = struct.unpack_from("!HH", head)
    else:
        found.icmp_type = head[0]
    if found.kind is not Kind.FRAGMENT:
        icmp = Kind.ICMP if found.version == 4 else Kind.ICMP6
        found.kind = Kind.FLOW if has_ports else icmp


@dataclass(frozen=True)
class Flow:
    """A row of the flow table; ``remote`` zero and port 0: a UDP socket without a peer."""

    slot: int
    local: bytes
    remote: bytes
    ports: tuple[int, int]
    """Local, remote."""
    protocol: int = TCP
    vlans: int = 0
    what: str = "active"


@dataclass
class Node:
    """What the tables say: addresses that it owns and that it stands by for, and flows."""

    owned: frozenset[bytes]
    standby: frozenset[bytes]
    flows: tuple[Flow, ...]
    ifindex: int = 1
    """Where the addresses are."""
    committed: int = 0
    """Of every flow: payload up to this sequence number may leave."""

    def bit(self, address: bytes) -> int:
        """``prl_addr_bit()``: a frame to a strange address that shares it is counted, too."""
        one, two, three, four = struct.unpack("=4I", address)
        mixed = (one ^ two ^ three ^ four) + self.ifindex * 0x85EBCA6B
        return (mixed * 0x9E3779B1 & 0xFFFFFFFF) >> 24

    def find(
        self, local: bytes, remote: bytes, ports: tuple[int, int], protocol: int, vlans: int
    ) -> Flow | None:
        wanted = [(remote, ports)]
        if protocol == UDP:
            wanted.append((bytes(16), (ports[0], 0)))
        for far, pair in wanted:
            for flow in self.flows:
                if (flow.local, flow.remote, flow.ports) == (local, far, pair) and (
                    flow.protocol,
                    flow.vlans,
                ) == (protocol, vlans):
                    return flow
        return None


@dataclass
class Verdict:
    """What becomes of a frame, and what is counted."""

    action: str = "pass"
    flow: Flow | None = None
    counted: dict[str, int] = field(default_factory=dict)

    def count(self, name: str) -> None:
        self.counted[name] = self.counted.get(name, 0) + 1


def classify(node: Node, frame: bytes) -> Verdict:  # noqa: C901, PLR0911 - rule by rule
    """What ``prl_classify`` must do with a frame from the network."""
    found, verdict = parse(frame), Verdict()
    is_own = frame[6:12] == NODE_MAC
    if found.kind is Kind.ARP:
        _claim_arp(node, frame, found, verdict, is_own=is_own)
        return verdict
    is_nd = found.kind is Kind.ICMP6 and found.icmp_type in {SOLICIT, ADVERT}
    if is_nd and _claim_nd(node, frame, found, verdict, is_own=is_own):
        return verdict
    if not found.version:
        if found.kind in {Kind.MALFORMED, Kind.TUNNELLED}:
            verdict.count(found.kind.name.lower())
        return verdict
    is_like_owned = node.bit(found.target) in map(node.bit, node.owned)
    if found.target not in node.standby and not is_like_owned:
        return verdict
    verdict.count("frames")
    if found.target in node.standby:
        verdict.action = "drop"
        return verdict
    name = {Kind.FRAGMENT: "fragments"}.get(found.kind, found.kind.name.lower())
    if found.kind in {Kind.FRAGMENT, Kind.MALFORMED, Kind.TUNNELLED}:
        verdict.count(name)
    flow = _flow_of(node, frame, found)
    if flow is None:
        return verdict
    if found.kind is not Kind.FLOW:
        verdict.count("icmp_quoted")
    if flow.what == "active":
        verdict.action, verdict.flow = "redirect", flow
    elif flow.what == "shadow":
        verdict.action = "drop"
    return verdict


def _flow_of(node: Node, frame: bytes, found: Parsed) -> Flow | None:
    if found.kind is Kind.FLOW:
        near, far = found.ports[1], found.ports[0]
        return node.find(found.target, found.source, (near, far), found.protocol, found.vlans)
    if found.kind in {Kind.ICMP, Kind.ICMP6} and found.icmp_type in ERRORS[found.version]:
        try:
            return _quoted(node, frame, found)
        except Short:
            return None
    return None


def _quoted(node: Node, frame: bytes, found: Parsed) -> Flow | None:
    at = found.l4 + QUOTED_AT
    if found.version == 4:
        header = part(frame, at, IP4_BYTES)
        if (
            header[0] >> 4 != 4
            or header[0] & 15 < 5
            or struct.unpack_from("!H", header, 6)[0] & 0x1FFF
        ):
            return None
        source, target = v4_mapped(header[12:16]), v4_mapped(header[16:20])
        protocol, at = header[9], at + (header[0] & 15) * 4
    else:
        header = part(frame, at, IP6_BYTES)
        if header[0] >> 4 != 6:
            return None
        source, target = header[8:24], header[24:40]
        kind, first, at, protocol = walk(frame, at + IP6_BYTES, header[6])
        if kind and not first:
            return None
    if protocol not in {TCP, UDP} or source != found.target:
        return None
    if found.end and at + 4 > found.end:
        return None
    return node.find(
        source, target, (number(frame, at), number(frame, at + 2)), protocol, found.vlans
    )


def _claim_arp(node: Node, frame: bytes, found: Parsed, verdict: Verdict, *, is_own: bool) -> None:
    try:
        arp = part(frame, found.l3, ARP_BYTES)
    except Short:
        verdict.count("malformed")
        return
    if arp[:6] != struct.pack("!HHBB", 1, ETH_IP, 6, 4):
        return
    if v4_mapped(arp[14:18]) in node.owned and not is_own:
        verdict.count("claims_foreign")
    elif v4_mapped(arp[24:28]) in node.standby and arp[6:8] == b"\0\1":
        verdict.action = "drop"


def _claim_nd(node: Node, frame: bytes, found: Parsed, verdict: Verdict, *, is_own: bool) -> bool:
    """Whether that decides."""
    try:
        target = part(frame, found.l4 + 8, 16)
    except Short:
        verdict.count("malformed")
        return False
    if found.icmp_type == SOLICIT and target in node.standby:
        verdict.action = "drop"
        return True
    if found.icmp_type == ADVERT and target in node.owned and not is_own:
        verdict.count("claims_foreign")
        return True
    return False


def is_whole(frame: bytes) -> bool:
    """Whether the datapath may take a captured frame for a packet (``prl_packet_parse()``): all of
    what its headers claim is there, and none of them contradicts another."""
    found = parse(frame)
    if not found.end or found.end > len(frame) or found.l4 > found.end:
        return False
    if found.protocol != TCP:
        return True
    header = (frame[found.l4 + 12] >> 4) * 4
    return TCP_BYTES <= header <= found.end - found.l4


def egress(node: Node, frame: bytes) -> Verdict:  # noqa: C901, PLR0911 - rule by rule
    """What ``prl_egress`` must do with a frame of the stack's, by the services' own interface."""
    found, verdict = parse(frame), Verdict()
    steal = Verdict("steal")
    if found.kind is Kind.ARP:
        return steal if _arp_sender(frame, found) in node.standby else verdict
    is_advert = found.kind is Kind.ICMP6 and found.icmp_type == ADVERT
    if is_advert and frame[found.l4 + 8 : found.l4 + 24] in node.standby:
        return steal
    if not found.version or found.source not in node.owned | node.standby:
        return verdict
    if found.source in node.standby:
        return steal
    if found.kind not in {Kind.FLOW, Kind.FRAGMENT} or found.protocol not in {TCP, UDP}:
        return verdict
    if found.kind is Kind.FRAGMENT and not found.first:
        return verdict
    flow = node.find(found.source, found.target, found.ports, found.protocol, found.vlans)
    if flow is None or flow.what == "open":
        # A header that contradicts itself is not taken to be any flow's segment.
        return steal if flow and found.protocol == TCP and _breaks(frame, found) else verdict
    if flow.what == "shadow":
        return steal
    if found.protocol == UDP:
        return verdict
    if found.kind is Kind.FRAGMENT or _breaks(frame, found):
        return steal
    return _segment(node, frame, found, flow)


def _arp_sender(frame: bytes, found: Parsed) -> bytes:
    arp = frame[found.l3 : found.l3 + ARP_BYTES]
    if len(arp) < ARP_BYTES or arp[:6] != struct.pack("!HHBB", 1, ETH_IP, 6, 4):
        return b""
    return v4_mapped(arp[14:18])


def _breaks(frame: bytes, found: Parsed) -> bool:
    header = (frame[found.l4 + 12] >> 4) * 4
    is_whole_segment = found.kind is Kind.FLOW
    return is_whole_segment and not TCP_BYTES <= header <= (found.end or len(frame)) - found.l4


def _segment(node: Node, frame: bytes, found: Parsed, flow: Flow) -> Verdict:
    flags = frame[found.l4 + 13]
    fin, syn, rst = flags & 1, flags & 2, flags & 4
    payload = (found.end or len(frame)) - found.l4 - (frame[found.l4 + 12] >> 4) * 4
    end = (number(frame, found.l4 + 4, 4) + payload + fin) & 0xFFFFFFFF
    is_later = 0 < (end - node.committed & 0xFFFFFFFF) < 1 << 31
    if syn or not (payload or fin or rst) or (not rst and not is_later):
        return Verdict()
    return Verdict("hold", flow)


def elsewhere(node: Node, frame: bytes) -> Verdict:  # noqa: PLR0911 - rule by rule
    """What ``prl_silence`` must do with a frame that leaves by an interface of no service."""
    steal, rest = Verdict("steal"), frame[14:]
    services = node.owned | node.standby
    try:
        match number(frame, 12):
            case 0x0806:
                return steal if v4_mapped(part(rest, 14, 4)) in services else Verdict()
            case 0x0800:
                source = v4_mapped(part(rest, 12, 4))
            case 0x86DD:
                source = part(rest, 8, 16)
                if (
                    source not in services
                    and rest[6:7] == bytes([ICMP6])
                    and rest[40:41] == bytes([ADVERT])
                ):
                    return steal if part(rest, 48, 16) in services else Verdict()
            case _:
                return Verdict()
    except Short:
        return Verdict()
    if source in node.standby:
        return steal
    if source not in node.owned:
        return Verdict()
    try:
        return steal if _may_not_leave(node, rest, source) else Verdict()
    except Short:  # not understood
        return steal


def _may_not_leave(node: Node, packet: bytes, source: bytes) -> bool:
    """Of a packet from an address that is owned: is it to be held, or not understood?"""
    if len(source.lstrip(b"\0")) == 6 and source.startswith(v4_mapped(b"")):
        header = part(packet, 0, IP4_BYTES)
        if struct.unpack_from("!H", header, 6)[0] & 0x1FFF:
            return False
        target, protocol, at = v4_mapped(header[16:20]), header[9], (header[0] & 15) * 4
    else:
        header = part(packet, 0, IP6_BYTES)
        target, protocol, at = header[24:40], header[6], IP6_BYTES
        if protocol == FRAGMENT:
            extension = part(packet, at, 8)
            protocol, at = extension[0], at + 8
            if struct.unpack_from("!H", extension, 2)[0] & 0xFFF8:
                return False
        if protocol in STEPPED_OVER:
            return True
        if protocol == ICMP6:
            return packet[at : at + 1] == bytes([ADVERT])
    if protocol not in {TCP, UDP}:
        return False
    flow = node.find(source, target, (number(packet, at), number(packet, at + 2)), protocol, 0)
    return flow is not None and (
        flow.what == "shadow" or (flow.what == "active" and protocol == TCP)
    )


# ---- making frames ----

SERVICES4: tuple[Address, ...] = (SERVICE4, SERVICE4, SERVICE4, STANDBY4, NODE4)
SERVICES6: tuple[Address, ...] = (SERVICE6, SERVICE6, SERVICE6, STANDBY6, NODE6)
PEERS4: tuple[Address, ...] = (PEER4, PEER4, PEER4, ip_address("192.0.2.2"))
PEERS6: tuple[Address, ...] = (PEER6, PEER6, PEER6, ip_address("2001:db8:0:1::2"))
PORTS, PEER_PORTS = (7000, 7000, 7001, 7002, 9), (40000, 40000, 40001, 9)


FRAME_MAX = 3000
"""What the kernel lets an XDP program see in one piece, at least."""
CUTS_MAX = 240
"""Most bytes at which one frame is cut."""
CUT_SHARE = 0.03


class Frames:
    """Frames between services and peers; ``out``: those of the services."""

    def __init__(self, seed: int, *, out: bool = False) -> None:
        self.chance = random.Random(seed)
        self.out = out

    def __iter__(self) -> Iterator[bytes]:
        """Without end: good ones, then each cut and changed, or at every byte."""
        while True:
            frame = self.frame()
            if len(frame) > FRAME_MAX:
                continue
            yield frame
            if self.chance.random() < CUT_SHARE:
                yield from (frame[:size] for size in range(14, min(len(frame), CUTS_MAX)))
            for _ in range(4):
                yield self.changed(frame)

    def changed(self, frame: bytes) -> bytes:
        """Cut, longer, or with a few other bytes, most of them in the headers."""
        raw = bytearray(frame)
        for _ in range(self.chance.choice((0, 1, 1, 2, 4))):
            at = self.chance.randrange(12, min(len(raw), self.chance.choice((38, 70, 150))))
            raw[at] = self.chance.choice((0, 1, raw[at] ^ 1 << self.chance.randrange(8), 0xFF))
        if self.chance.random() < 0.4:
            del raw[self.chance.randrange(14, len(raw) + 1) :]
        elif self.chance.random() < 0.2:
            raw += self.chance.randbytes(self.chance.randrange(1, 40))
        return bytes(raw)

    def frame(self) -> bytes:
        """One frame that is as it should be, however odd."""
        pick = self.chance.choice
        six = self.chance.random() < 0.5
        service = pick(SERVICES6 if six else SERVICES4)
        peer = pick(PEERS6 if six else PEERS4)
        vids = pick(((), (), (), (5,), (0,), (7, 5), (7, 5), (5, 7, 1)))
        tags = tuple((pick((ETH_VLAN, ETH_QINQ)), vid) for vid in vids)
        source, target = (service, peer) if self.out else (peer, service)
        if self.chance.random() < 0.06:
            kind, payload = ETH_ARP, self._arp(pick(SERVICES4), pick(PEERS4))
        elif six:
            kind, payload = ETH_IP6, self._six(source, target)
        else:
            kind, payload = ETH_IP, self._four(source, target)
        macs = (
            (NODE_MAC, PEER_MAC)
            if self.out != (self.chance.random() < 0.03)
            else (PEER_MAC, NODE_MAC)
        )
        return ethernet(payload, kind, source=macs[0], target=macs[1], tags=tags)

    def _arp(self, service: Address, peer: Address) -> bytes:
        ends = [service, peer]
        self.chance.shuffle(ends)
        head = struct.pack("!HHBBH", 1, ETH_IP, 6, 4, self.chance.choice((1, 2)))
        return head + PEER_MAC + ends[0].packed + bytes(6) + ends[1].packed

    def _four(self, source: Address, target: Address) -> bytes:
        options = b"\x01" * (4 * self.chance.choice((0, 0, 0, 1, 3, 10)))
        fragment = self.chance.choice((0, 0, 0, 0, 0, 0x4000, 0x2000, 0x2005, 5))
        protocol, payload = self._payload(source, target)
        return ipv4(payload, source, target, protocol, options=options, fragment=fragment)

    def _six(self, source: Address, target: Address) -> bytes:
        protocol, payload = self._payload(source, target)
        first, extensions = self._extensions(protocol)
        return ipv6(extensions + payload, source, target, first)

    def _extensions(self, protocol: int) -> tuple[int, bytes]:
        pick = self.chance.choice
        kinds = [
            pick((HOP, ROUTING, OPTIONS, OPTIONS, AH, FRAGMENT, FRAGMENT, ESP, MOBILITY))
            for _ in range(pick((0, 0, 0, 0, 1, 1, 2, 3, 6, 7, 8)))
        ]
        following, whole = protocol, b""
        for kind in reversed(kinds):
            words = pick((0, 0, 0, 0, 1, 2, 30, 120)) if kind != FRAGMENT else 0
            if kind == FRAGMENT:
                body = struct.pack("!BBHI", following, 0, pick((0, 0, 0, 1, 0x50, 0x51)), 7)
            elif kind == AH:
                body = struct.pack("!BB", following, words) + bytes((words + 2) * 4 - 2)
            else:
                body = struct.pack("!BB", following, words) + bytes((words + 1) * 8 - 2)
            following, whole = kind, body + whole
        return following, whole

    def _payload(self, source: Address, target: Address) -> tuple[int, bytes]:
        """Protocol and what follows the network header."""
        shape = self.chance.random()
        if shape < 0.5:
            return TCP, self._tcp(*self._ports())
        if shape < 0.65:
            return UDP, self._udp(*self._ports())
        if shape < 0.85:
            return self._icmp(source, target)
        if source.version == 6 and shape < 0.93:
            return ICMP6, self._neighbour()
        return self.chance.choice((47, 132, 4, 41)), self.chance.randbytes(24)

    def _ports(self) -> tuple[int, int]:
        near, far = self.chance.choice(PORTS), self.chance.choice(PEER_PORTS)
        return (near, far) if self.out else (far, near)

    def _tcp(self, source: int, target: int) -> bytes:
        pick = self.chance.choice
        options = b"\x01" * (4 * pick((0, 0, 3, 5, 10)))
        words = pick((5 + len(options) // 4,) * 9 + (self.chance.randrange(16),))
        head = struct.pack(
            "!HHIIBBHHH",
            *(source, target, pick((1000, 1001, 0xFFFFFFFF, 0x80000000)), 500),
            *(words << 4, pick((0x10, 0x10, 0x18, 0x11, 0x14, 0x02, 0x12, 0x31)), 1000, 0, 0),
        )
        return head + options + bytes(pick((0, 0, 1, 7, 100)))

    def _udp(self, source: int, target: int) -> bytes:
        data = bytes(self.chance.choice((0, 4, 90)))
        return struct.pack("!HHHH", source, target, 8 + len(data), 0) + data

    def _icmp(self, source: Address, target: Address) -> tuple[int, bytes]:
        """An error that quotes what went the other way, or something else."""
        six = source.version == 6
        near, far = self._ports()
        protocol = self.chance.choice((TCP, TCP, UDP, 47))
        l4 = self._udp(far, near) if protocol == UDP else self._tcp(far, near)
        if six:
            first, extensions = self._extensions(protocol)
            quoted = ipv6(extensions + l4, target, source, first)
        else:
            options = b"\x01" * (4 * self.chance.choice((0, 0, 2)))
            fragment = self.chance.choice((0, 0, 0, 0x2000, 5))
            quoted = ipv4(l4, target, source, protocol, options=options, fragment=fragment)
        kind = self.chance.choice((1, 2, 3, 4, 128) if six else (3, 3, 11, 12, 5, 8, 0))
        return ICMP6 if six else ICMP, struct.pack("!BBHI", kind, 0, 0, 1280) + quoted

    def _neighbour(self) -> bytes:
        kind = self.chance.choice((SOLICIT, ADVERT))
        target = self.chance.choice(SERVICES6)
        options = b"\x02\x01" + PEER_MAC if self.chance.random() < 0.5 else b""
        return struct.pack("!BBHI", kind, 0, 0, 0) + target.packed + options


def table() -> Node:
    """The node of these tests: a flow of each kind, on both services."""
    none = bytes(16)
    flows = [
        Flow(1, mapped(SERVICE4), mapped(PEER4), (7000, 40000)),
        Flow(2, mapped(SERVICE6), mapped(PEER6), (7000, 40000)),
        Flow(3, mapped(SERVICE4), mapped(PEER4), (7000, 40000), vlans=5),
        Flow(4, mapped(SERVICE6), mapped(PEER6), (7000, 40000), vlans=7 << 12 | 5),
        Flow(5, mapped(SERVICE4), mapped(PEER4), (7000, 40000), UDP),
        Flow(6, mapped(SERVICE4), none, (7000, 0), UDP),
        Flow(7, mapped(SERVICE6), none, (7001, 0), UDP),
        Flow(8, mapped(SERVICE4), mapped(PEER4), (7001, 40000), what="open"),
        Flow(9, mapped(SERVICE6), mapped(PEER6), (7001, 40000), what="open"),
        Flow(10, mapped(SERVICE4), mapped(PEER4), (7002, 40000), what="shadow"),
        Flow(11, mapped(SERVICE6), mapped(PEER6), (7002, 40000), what="shadow"),
        Flow(12, mapped(SERVICE6), mapped(PEER6), (7000, 40001), UDP),
    ]
    return Node(
        owned=frozenset({mapped(SERVICE4), mapped(SERVICE6)}),
        standby=frozenset({mapped(STANDBY4), mapped(STANDBY6)}),
        flows=tuple(flows),
        committed=1001,
    )
