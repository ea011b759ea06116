"""BGP messages and their encoding (RFC 4271 section 4)."""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address

from prl.bgp import attributes, prefixes
from prl.bgp.attributes import AFI_IPV4, AFI_IPV6, SAFI_UNICAST, Attributes
from prl.bgp.errors import BgpError, Code
from prl.bgp.prefixes import Prefix

VERSION = 4
HEADER_BYTES = 19
MESSAGE_MAX_BYTES = 4096
AS_TRANS = 23456  # RFC 6793: stands for a number that does not fit into 2 octets
AS2_MAX = 0xFFFF
HOLD_TIME_MIN_S = 3
_MARKER = b"\xff" * 16
_OPEN = struct.Struct("!BHH4sB")
_CAPABILITIES = 2  # RFC 5492
_MULTIPROTOCOL = 1
_FOUR_OCTET_AS = 65
_EXTENDED_PARAMETERS = 255  # RFC 9072
_FAMILIES = {(AFI_IPV4, SAFI_UNICAST): 4, (AFI_IPV6, SAFI_UNICAST): 6}


class Type(IntEnum):
    """Message types."""

    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4


# The smallest whole message of each type.
_MIN_BYTES = {Type.OPEN: 29, Type.UPDATE: 23, Type.NOTIFICATION: 21, Type.KEEPALIVE: 19}


@dataclass(frozen=True, slots=True)
class Open:
    """What one end proposes: who it is, and what it can do."""

    asn: int
    hold_time_s: int
    router_id: IPv4Address
    families: frozenset[int] = frozenset({4})  # versions of IP, unicast (RFC 4760)
    as4: bool = True  # RFC 6793


@dataclass(frozen=True, slots=True)
class Update:
    """Routes withdrawn and announced. All empty: End-of-RIB for IPv4 (RFC 4724)."""

    withdrawn: tuple[Prefix, ...] = ()
    attributes: Attributes = field(default_factory=Attributes)
    announced: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Notification:
    """Why the sender ends the session."""

    code: int
    subcode: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The sender is alive."""


Message = Open | Update | Notification | Keepalive


def frame(kind: Type, body: bytes) -> bytes:
    """A whole message with its header."""
    length = HEADER_BYTES + len(body)
    if length > MESSAGE_MAX_BYTES:
        raise ValueError(f"a BGP message of {length} bytes is too long")
    return _MARKER + struct.pack("!HB", length, kind) + body


KEEPALIVE = frame(Type.KEEPALIVE, b"")


def encode(message: Message, as_bytes: int = 4) -> bytes:
    """The whole message as bytes."""
    match message:
        case Open():
            return frame(Type.OPEN, _encode_open(message))
        case Update():
            withdrawn = prefixes.encode(message.withdrawn)
            about = attributes.encode(message.attributes, as_bytes)
            body = struct.pack("!H", len(withdrawn)) + withdrawn
            body += struct.pack("!H", len(about)) + about + prefixes.encode(message.announced)
            return frame(Type.UPDATE, body)
        case Notification():
            return frame(Type.NOTIFICATION, bytes((message.code, message.subcode)) + message.data)
        case Keepalive():
            return KEEPALIVE


def decode_header(data: bytes) -> tuple[Type, int]:
    """Read a header of ``HEADER_BYTES``: the message's type and whole length.

    Raises:
        BgpError: it is not one.
    """
    length, kind = struct.unpack_from("!HB", data, len(_MARKER))
    if data[: len(_MARKER)] != _MARKER:
        raise BgpError(Code.HEADER, 1, "not synchronized: the marker is missing")
    if kind not in _MIN_BYTES:
        raise BgpError(Code.HEADER, 3, f"message type {kind} is not known", bytes((kind,)))
    is_odd_keepalive = kind == Type.KEEPALIVE and length != HEADER_BYTES
    if not _MIN_BYTES[Type(kind)] <= length <= MESSAGE_MAX_BYTES or is_odd_keepalive:
        raise BgpError(Code.HEADER, 2, f"bad message length {length}", struct.pack("!H", length))
    return Type(kind), length


def decode(kind: Type, body: bytes, as_bytes: int = 4) -> Message:
    """Read the body of a message of type ``kind``.

    Raises:
        BgpError: it is malformed.
    """
    match kind:
        case Type.OPEN:
            return _decode_open(body)
        case Type.UPDATE:
            return _decode_update(body, as_bytes)
        case Type.NOTIFICATION:
            return Notification(body[0], body[1], body[2:])
        case Type.KEEPALIVE:
            return Keepalive()


def _encode_open(message: Open) -> bytes:
    capabilities = b"".join(
        struct.pack("!BBHBB", _MULTIPROTOCOL, 4, afi, 0, safi)
        for (afi, safi), version in _FAMILIES.items()
        if version in message.families
    )
    if message.as4:
        capabilities += struct.pack("!BBI", _FOUR_OCTET_AS, 4, message.asn)
    parameters = bytes((_CAPABILITIES, len(capabilities))) + capabilities
    asn = message.asn if message.asn <= AS2_MAX else AS_TRANS
    fixed = _OPEN.pack(VERSION, asn, message.hold_time_s, message.router_id.packed, len(parameters))
    return fixed + parameters


def _decode_open(body: bytes) -> Open:
    version, asn, hold_time_s, router_id, length = _OPEN.unpack_from(body)
    if version != VERSION:
        raise BgpError(Code.OPEN, 1, f"version {version}", struct.pack("!H", VERSION))
    parameters = body[_OPEN.size :]
    if length == _EXTENDED_PARAMETERS or length != len(parameters):
        raise BgpError(Code.OPEN, 0, "the optional parameters have a bad length")
    families: set[int] = set()
    as4 = False
    for code, value in _capabilities(parameters):
        if code == _MULTIPROTOCOL and len(value) == 4:  # noqa: PLR2004 - RFC 4760 section 8
            family = _FAMILIES.get((int.from_bytes(value[:2], "big"), value[3]))
            if family is not None:
                families.add(family)
        elif code == _FOUR_OCTET_AS and len(value) == 4:  # noqa: PLR2004 - RFC 6793
            asn = int.from_bytes(value, "big")
            as4 = True
    if hold_time_s in {1, 2}:
        raise BgpError(Code.OPEN, 6, f"hold time of {hold_time_s} s")
    if router_id == b"\0\0\0\0":
        raise BgpError(Code.OPEN, 3, "the router id is zero")
    return Open(asn, hold_time_s, IPv4Address(router_id), frozenset(families or {4}), as4)


def _capabilities(parameters: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for kind, value in _pairs(parameters):
        if kind != _CAPABILITIES:
            raise BgpError(Code.OPEN, 4, f"optional parameter {kind} is not known")
        found += _pairs(value)
    return found


def _pairs(data: bytes) -> list[tuple[int, bytes]]:
    """Type, length, value, to the end."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            raise BgpError(Code.OPEN, 0, "an optional parameter is cut off")
        found.append((data[at], data[at + 2 : at + 2 + data[at + 1]]))
        at += 2 + data[at + 1]
    return found


def _decode_update(body: bytes, as_bytes: int) -> Update:
    (withdrawn_bytes,) = struct.unpack_from("!H", body)
    at = 2 + withdrawn_bytes
    if at + 2 > len(body):
        raise BgpError(Code.UPDATE, 1, "the withdrawn routes do not fit into the message")
    (attribute_bytes,) = struct.unpack_from("!H", body, at)
    end = at + 2 + attribute_bytes
    if end > len(body):
        raise BgpError(Code.UPDATE, 1, "the attributes do not fit into the message")
    about = attributes.decode(body[at + 2 : end], as_bytes)
    announced = tuple(prefixes.decode(body[end:], 4))
    if announced and about.next_hop is None:
        absent = attributes.Kind.NEXT_HOP
        raise BgpError(Code.UPDATE, 3, f"attribute {absent.name} is missing", bytes((absent,)))
    return Update(tuple(prefixes.decode(body[2:at], 4)), about, announced)
