"""Path attributes of an UPDATE (RFC 4271 section 4.3, RFC 4760, RFC 6793)."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from prl.bgp import prefixes
from prl.bgp.errors import BgpError, Code
from prl.bgp.prefixes import Prefix

AFI_IPV4 = 1
AFI_IPV6 = 2
SAFI_UNICAST = 1
_OPTIONAL = 0x80
_TRANSITIVE = 0x40
_EXTENDED_LENGTH = 0x10
_SHORT_LENGTH_MAX = 0xFF
_IPV6_BYTES = 16
_SEGMENT_TYPES = frozenset({1, 2, 3, 4})  # AS_SET, AS_SEQUENCE, and RFC 5065's
_AS_SEQUENCE = 2
_ORIGINS = 3


class Kind(IntEnum):
    """The attributes that the speaker reads or writes; others are passed over."""

    ORIGIN = 1
    AS_PATH = 2
    NEXT_HOP = 3
    MP_REACH_NLRI = 14
    MP_UNREACH_NLRI = 15


class Subcode(IntEnum):
    """UPDATE error subcodes (RFC 4271 section 6.3)."""

    MALFORMED_LIST = 1
    LENGTH = 5
    ORIGIN = 6
    OPTIONAL = 9
    AS_PATH = 11


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an UPDATE says of the routes it carries."""

    origin: int = 0
    as_path: tuple[int, ...] = ()
    next_hop: IPv4Address | None = None
    reach6: tuple[Prefix, ...] = ()
    next_hop6: IPv6Address | None = None
    unreach6: tuple[Prefix, ...] = ()
    ends_rib6: bool = False  # an empty MP_UNREACH_NLRI: End-of-RIB (RFC 4724)


def decode(data: bytes, as_bytes: int) -> Attributes:
    """Read the attributes of an UPDATE; ``as_bytes`` is 4 if both ends speak RFC 6793, else 2.

    Raises:
        BgpError: they are malformed.
    """
    values = _split(data)
    reach6, next_hop6 = _reach6(values.get(Kind.MP_REACH_NLRI))
    unreach6, ends_rib6 = _unreach6(values.get(Kind.MP_UNREACH_NLRI))
    return Attributes(
        origin=_origin(values.get(Kind.ORIGIN)),
        as_path=_as_path(values.get(Kind.AS_PATH, b""), as_bytes),
        next_hop=_next_hop(values.get(Kind.NEXT_HOP)),
        reach6=reach6,
        next_hop6=next_hop6,
        unreach6=unreach6,
        ends_rib6=ends_rib6,
    )


def encode(attributes: Attributes, as_bytes: int) -> bytes:
    """The attributes in the order that RFC 4271 asks for: by type."""
    segment = b""
    if attributes.as_path:
        form = f"!{len(attributes.as_path)}{'I' if as_bytes == 4 else 'H'}"  # noqa: PLR2004
        segment = bytes((_AS_SEQUENCE, len(attributes.as_path)))
        segment += struct.pack(form, *attributes.as_path)
    encoded = b""
    if attributes.next_hop is not None or attributes.reach6:
        encoded += _one(_TRANSITIVE, Kind.ORIGIN, bytes((attributes.origin,)))
        encoded += _one(_TRANSITIVE, Kind.AS_PATH, segment)
    if attributes.next_hop is not None:
        encoded += _one(_TRANSITIVE, Kind.NEXT_HOP, attributes.next_hop.packed)
    if attributes.reach6:
        assert attributes.next_hop6 is not None
        value = struct.pack("!HBB", AFI_IPV6, SAFI_UNICAST, _IPV6_BYTES)
        value += attributes.next_hop6.packed + b"\0" + prefixes.encode(attributes.reach6)
        encoded += _one(_OPTIONAL, Kind.MP_REACH_NLRI, value)
    if attributes.unreach6 or attributes.ends_rib6:
        value = struct.pack("!HB", AFI_IPV6, SAFI_UNICAST) + prefixes.encode(attributes.unreach6)
        encoded += _one(_OPTIONAL, Kind.MP_UNREACH_NLRI, value)
    return encoded


def _one(flags: int, kind: int, value: bytes) -> bytes:
    if len(value) > _SHORT_LENGTH_MAX:
        return struct.pack("!BBH", flags | _EXTENDED_LENGTH, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


def _split(data: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        is_long = bool(data[at] & _EXTENDED_LENGTH)
        head = 4 if is_long else 3
        if at + head > len(data):
            raise BgpError(Code.UPDATE, Subcode.MALFORMED_LIST, "an attribute is cut off")
        kind = data[at + 1]
        length = int.from_bytes(data[at + 2 : at + head], "big")
        at += head
        if at + length > len(data):
            raise BgpError(Code.UPDATE, Subcode.MALFORMED_LIST, f"attribute {kind} is cut off")
        if kind in values:
            raise BgpError(Code.UPDATE, Subcode.MALFORMED_LIST, f"attribute {kind} comes twice")
        values[kind] = data[at : at + length]
        at += length
    return values


def _origin(value: bytes | None) -> int:
    if value is None:
        return 0
    if len(value) != 1:
        raise BgpError(Code.UPDATE, Subcode.LENGTH, "ORIGIN has a bad length")
    if value[0] >= _ORIGINS:
        raise BgpError(Code.UPDATE, Subcode.ORIGIN, f"ORIGIN {value[0]} is not known")
    return value[0]


def _as_path(value: bytes, as_bytes: int) -> tuple[int, ...]:
    path: list[int] = []
    at = 0
    while at < len(value):
        if at + 2 > len(value) or value[at] not in _SEGMENT_TYPES:
            raise BgpError(Code.UPDATE, Subcode.AS_PATH, "AS_PATH is malformed")
        end = at + 2 + value[at + 1] * as_bytes
        if end > len(value):
            raise BgpError(Code.UPDATE, Subcode.AS_PATH, "AS_PATH is cut off")
        path += [
            int.from_bytes(value[start : start + as_bytes], "big")
            for start in range(at + 2, end, as_bytes)
        ]
        at = end
    return tuple(path)


def _next_hop(value: bytes | None) -> IPv4Address | None:
    if value is None:
        return None
    try:
        return IPv4Address(value)
    except ValueError:
        raise BgpError(Code.UPDATE, Subcode.LENGTH, "NEXT_HOP has a bad length") from None


def _reach6(value: bytes | None) -> tuple[tuple[Prefix, ...], IPv6Address | None]:
    if value is None:
        return (), None
    if len(value) < 5 or len(value) < 5 + value[3]:  # noqa: PLR2004 - AFI, SAFI, length, reserved
        raise BgpError(Code.UPDATE, Subcode.OPTIONAL, "MP_REACH_NLRI is cut off")
    if value[:3] != struct.pack("!HB", AFI_IPV6, SAFI_UNICAST):
        return (), None  # an address family that nobody agreed on
    length = value[3]
    if length not in {_IPV6_BYTES, 2 * _IPV6_BYTES}:  # RFC 2545: global, or global and link-local
        raise BgpError(Code.UPDATE, Subcode.OPTIONAL, f"MP_REACH_NLRI: next hop of {length} bytes")
    next_hop = IPv6Address(value[4 : 4 + _IPV6_BYTES])
    return tuple(prefixes.decode(value[5 + length :], 6)), next_hop


def _unreach6(value: bytes | None) -> tuple[tuple[Prefix, ...], bool]:
    if value is None:
        return (), False
    if len(value) < 3:  # noqa: PLR2004 - AFI, SAFI
        raise BgpError(Code.UPDATE, Subcode.OPTIONAL, "MP_UNREACH_NLRI is cut off")
    if value[:3] != struct.pack("!HB", AFI_IPV6, SAFI_UNICAST):
        return (), False
    return tuple(prefixes.decode(value[3:], 6)), len(value) == 3  # noqa: PLR2004
