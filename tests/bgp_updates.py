"""UPDATEs written and read by a second codec, which knows the RFCs and nothing of prl's."""

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from prl.bindings.bgp_rib import Column, Family

AFI_SAFI = {
    Family.IPV4_UNICAST: (1, 1),
    Family.IPV6_UNICAST: (2, 1),
    Family.IPV4_MULTICAST: (1, 2),
    Family.IPV6_MULTICAST: (2, 2),
}
FAMILIES = {value: key for key, value in AFI_SAFI.items()}
ORIGIN, AS_PATH, NEXT_HOP, COMMUNITIES, MP_REACH, MP_UNREACH = 1, 2, 3, 8, 14, 15
OPTIONAL, TRANSITIVE, PARTIAL, EXTENDED = 0x80, 0x40, 0x20, 0x10
V4 = Family.IPV4_UNICAST

Attribute = tuple[int, int, bytes]
"""Flags, type, value."""


@dataclass(frozen=True, order=True)
class Route:
    """What a route is known by."""

    family: Family
    prefix: str
    path: int = 0

    @property
    def network(self) -> "ipaddress.IPv4Network | ipaddress.IPv6Network":
        return ipaddress.ip_network(self.prefix)

    def nlri(self, *, paths: bool) -> bytes:
        network = self.network
        octets = network.network_address.packed[: (network.prefixlen + 7) // 8]
        head = struct.pack("!I", self.path) if paths else b""
        return head + bytes([network.prefixlen]) + octets


@dataclass(frozen=True)
class Said:
    """What is said of a route: the attributes as meant, and the next hop of MP_REACH_NLRI."""

    attributes: tuple[Attribute, ...]
    next_hop: bytes | None = None


Table = dict[Route, Said]


def attribute(flags: int, kind: int, value: bytes) -> bytes:
    if flags & EXTENDED or len(value) > 255:
        return struct.pack("!BBH", flags | EXTENDED, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


def message(kind: int, body: bytes) -> bytes:
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def update(withdrawn: bytes = b"", attributes: bytes = b"", announced: bytes = b"") -> bytes:
    body = struct.pack("!H", len(withdrawn)) + withdrawn
    return message(2, body + struct.pack("!H", len(attributes)) + attributes + announced)


def mp_reach(family: Family, next_hop: bytes, nlri: bytes, flags: int = OPTIONAL) -> bytes:
    afi, safi = AFI_SAFI[family]
    head = struct.pack("!HBB", afi, safi, len(next_hop)) + next_hop + b"\0"
    return attribute(flags, MP_REACH, head + nlri)


def mp_unreach(family: Family, nlri: bytes = b"") -> bytes:
    return attribute(OPTIONAL, MP_UNREACH, struct.pack("!HB", *AFI_SAFI[family]) + nlri)


def announce(routes: Iterable[Route], said: Said, *, paths: bool = False) -> bytes:
    """One UPDATE; the routes are of one family."""
    routes = list(routes)
    nlri = b"".join(route.nlri(paths=paths) for route in routes)
    attributes = b"".join(attribute(*one) for one in said.attributes)
    if said.next_hop is None:
        return update(attributes=attributes, announced=nlri)
    return update(attributes=mp_reach(routes[0].family, said.next_hop, nlri) + attributes)


def withdraw(routes: Iterable[Route], *, paths: bool = False, mp: bool = False) -> bytes:
    routes = list(routes)
    nlri = b"".join(route.nlri(paths=paths) for route in routes)
    if routes[0].family is V4 and not mp:
        return update(withdrawn=nlri)
    return update(attributes=mp_unreach(routes[0].family, nlri))


def take_messages(received: bytearray) -> Iterator[bytes]:
    """The whole messages off the front of it; what is unfinished stays."""
    while len(received) >= 19:
        length = int.from_bytes(received[16:18], "big")
        if len(received) < length:
            return
        one = bytes(received[:length])
        del received[:length]
        yield one


def split(stream: bytes) -> Iterator[bytes]:
    while stream:
        assert stream[:16] == b"\xff" * 16
        (length,) = struct.unpack_from("!H", stream, 16)
        assert 19 <= length <= len(stream)
        yield stream[:length]
        stream = stream[length:]


def _routes(family: Family, nlri: bytes, *, paths: bool) -> Iterator[Route]:
    width = 4 if family in {V4, Family.IPV4_MULTICAST} else 16
    while nlri:
        path = 0
        if paths:
            (path,), nlri = struct.unpack("!I", nlri[:4]), nlri[4:]
        bits, size = nlri[0], (nlri[0] + 7) // 8
        assert bits <= 8 * width
        assert len(nlri) > size
        octets = nlri[1 : 1 + size].ljust(width, b"\0")
        whole = ipaddress.ip_network((octets, bits), strict=False)
        yield Route(family, str(whole), path)
        nlri = nlri[1 + size :]


@dataclass
class Read:
    """An UPDATE, read."""

    withdrawn: list[Route] = field(default_factory=list)
    announced: list[tuple[Route, Said]] = field(default_factory=list)


def read(whole: bytes, paths: Iterable[Family] = ()) -> Read:
    """Read a good UPDATE. What of its encoding means nothing is left out of what was said."""
    with_paths = set(paths)
    done = Read()
    (count,) = struct.unpack_from("!H", whole, 19)
    done.withdrawn += _routes(V4, whole[21 : 21 + count], paths=V4 in with_paths)
    at = 21 + count
    (count,) = struct.unpack_from("!H", whole, at)
    listed, announced = whole[at + 2 : at + 2 + count], whole[at + 2 + count :]
    meant: dict[int, Attribute] = {}
    reach: tuple[Family, bytes, bytes] | None = None
    while listed:
        flags, kind = listed[0], listed[1]
        head = 4 if flags & EXTENDED else 3
        size = int.from_bytes(listed[2:head], "big")
        value, listed = listed[head : head + size], listed[head + size :]
        assert len(value) == size
        if kind == MP_REACH:
            family, hop = FAMILIES[struct.unpack("!HB", value[:3])], value[3]
            reach = family, value[4 : 4 + hop], value[5 + hop :]
        elif kind == MP_UNREACH:
            family = FAMILIES[struct.unpack("!HB", value[:3])]
            done.withdrawn += _routes(family, value[3:], paths=family in with_paths)
        else:
            meant.setdefault(kind, (flags & 0xE0, kind, value))
    said = Said(tuple(meant[kind] for kind in sorted(meant)))
    done.announced += ((r, said) for r in _routes(V4, announced, paths=V4 in with_paths))
    if reach is not None:
        family, hop_octets, nlri = reach
        others = tuple(one for one in said.attributes if one[1] != NEXT_HOP)
        said = replace(said, attributes=others, next_hop=hop_octets)
        done.announced += ((r, said) for r in _routes(family, nlri, paths=family in with_paths))
    return done


def apply(table: Table, stream: bytes, paths: Iterable[Family] = ()) -> None:
    """Do to a table what UPDATEs say."""
    for whole in split(stream):
        one = read(whole, paths)
        for route in one.withdrawn:
            table.pop(route, None)
        table.update(one.announced)


COLUMNS = (Column.SOURCE, Column.SENT)
