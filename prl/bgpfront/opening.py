"""OPENs: what a front lets through, what both ends agreed on, and whether two daemons say the same.

A session that two daemons take turns in must not depend on which of them has it. What of an OPEN
only names a host or its program is taken out on the way, as is what a front cannot keep a session
with (docs/bgp-front.md, B5). What else differs between two daemons is named by ``differences()``.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from ipaddress import IPv4Address

from prl.bindings.bgp_rib import HEADER_BYTES, Family
from prl.errors import PrlError

AS_TRANS = 23456
_FIXED = struct.Struct("!BHH4sB")
_CAPABILITIES = 2
"""The optional parameter (RFC 5492)."""
_EXTENDED = 255
"""RFC 9072: this in place of a length and of a type says that lengths have two octets."""
_OPEN = 1
_FAMILIES = {
    (1, 1): Family.IPV4_UNICAST,
    (2, 1): Family.IPV6_UNICAST,
    (1, 2): Family.IPV4_MULTICAST,
    (2, 2): Family.IPV6_MULTICAST,
}
_RECEIVE, _SEND = 1, 2
"""RFC 7911 section 4."""
_RESTARTED = 0x80
"""RFC 4724 section 3."""
_END_OF_RIB_ALONE = bytes(2)
"""No time, no family: whoever says so keeps no routes, and knows End-of-RIB (likewise)."""
_FORWARDING = 0x80
"""Of a family in the same two capabilities: routes were kept in the kernel over a restart (RFC 4724
section 3, RFC 9494 section 3.1)."""


class Capability(IntEnum):
    """Capability codes, of those that mean something to a front (IANA)."""

    MULTIPROTOCOL = 1  # RFC 4760
    ROUTE_REFRESH = 2  # RFC 2918
    ORF = 3  # RFC 5291
    EXTENDED_MESSAGE = 6  # RFC 8654
    GRACEFUL_RESTART = 64  # RFC 4724
    AS4 = 65  # RFC 6793
    DYNAMIC = 67
    MULTISESSION = 68
    ADD_PATH = 69  # RFC 7911
    ENHANCED_REFRESH = 70  # RFC 7313
    LLGR = 71  # RFC 9494
    HOST_NAME = 73
    SOFTWARE_VERSION = 75
    OLD_ORF = 130
    OLD_MULTISESSION = 131


_SAID_BESIDES = (
    (Capability.ROUTE_REFRESH, b""),
    (Capability.ENHANCED_REFRESH, b""),
    (Capability.GRACEFUL_RESTART, _END_OF_RIB_ALONE),
)


class Towards(Enum):
    """Which way an OPEN goes."""

    PEER = "peer"
    DAEMON = "daemon"


class OpenError(PrlError):
    """An OPEN that cannot be read: whom it is for finds the fault, too, and ends the session."""


class NoFamilyError(PrlError):
    """No family is left of which a front can keep the routes."""


@dataclass(frozen=True, slots=True)
class Open:
    """An OPEN (RFC 4271 section 4.2).

    Attributes:
        as_field: the number in its two octets.
        hold_s: the proposed hold time.
        router_id: the BGP identifier.
        capabilities: code and value, in their order.
        version: 4.
    """

    as_field: int
    hold_s: int
    router_id: IPv4Address
    capabilities: tuple[tuple[int, bytes], ...] = ()
    version: int = 4

    @property
    def asn(self) -> int:
        """The number of the autonomous system (RFC 6793)."""
        for code, value in self.capabilities:
            if code == Capability.AS4 and len(value) == 4:  # noqa: PLR2004 - its size
                return int.from_bytes(value, "big")
        return self.as_field

    @property
    def families(self) -> frozenset[Family]:
        """Those that it proposes and that are kept: without the capability IPv4 unicast."""
        values = [v for code, v in self.capabilities if code == Capability.MULTIPROTOCOL]
        if not values:
            return frozenset({Family.IPV4_UNICAST})
        return frozenset(family for family in map(_family, values) if family is not None)

    def has(self, capability: Capability) -> bool:
        """Whether it has that capability."""
        return any(code == capability for code, _ in self.capabilities)

    def paths(self, direction: int) -> frozenset[Family]:
        """Families of which it would receive, or send, several paths."""
        found = {
            _FAMILIES.get(struct.unpack("!HB", entry[:3]))
            for code, value in self.capabilities
            if code == Capability.ADD_PATH
            for entry in _entries(value, 0, 4)
            if entry[3] & direction
        }
        return frozenset(family for family in found if family is not None)


def decode(message: bytes) -> Open:
    """Read a whole OPEN.

    Raises:
        OpenError: it is malformed, or has optional parameters other than capabilities.
    """
    try:
        version, asn, hold_s, router_id, length = _FIXED.unpack_from(message, HEADER_BYTES)
    except struct.error as error:
        raise OpenError("an OPEN that is too short") from error
    rest = message[HEADER_BYTES + _FIXED.size :]
    octets = 1
    if length == _EXTENDED and rest[:1] == bytes([_EXTENDED]):
        octets, length, rest = 2, int.from_bytes(rest[1:3], "big"), rest[3:]
    if length != len(rest):
        raise OpenError("an OPEN whose optional parameters have a bad length")
    capabilities: list[tuple[int, bytes]] = []
    for kind, value in _pairs(rest, octets):
        if kind != _CAPABILITIES:
            raise OpenError(f"an OPEN with the optional parameter {kind}")
        capabilities += _pairs(value, 1)
    return Open(asn, hold_s, IPv4Address(router_id), tuple(capabilities), version)


def encode(message: Open) -> bytes:
    """Write it, each capability in a parameter of its own, as every daemon reads it."""
    one = [bytes([code, len(value)]) + value for code, value in message.capabilities]
    fixed = (message.version, message.as_field, message.hold_s, message.router_id.packed)
    if sum(2 + len(each) for each in one) < _EXTENDED:
        rest = b"".join(bytes([_CAPABILITIES, len(each)]) + each for each in one)
        body = _FIXED.pack(*fixed, len(rest)) + rest
    else:
        rest = b"".join(struct.pack("!BH", _CAPABILITIES, len(each)) + each for each in one)
        body = _FIXED.pack(*fixed, _EXTENDED) + struct.pack("!BH", _EXTENDED, len(rest)) + rest
    return b"\xff" * 16 + struct.pack("!HB", HEADER_BYTES + len(body), _OPEN) + body


def normalised(message: Open, towards: Towards) -> Open:
    """What a front passes on of an OPEN.

    To the daemon it says besides that its peer knows ROUTE-REFRESH, plain and enhanced, and
    End-of-RIB: the front answers the first, and by the others it learns that a daemon has announced
    all that it will. FRR answers no ROUTE-REFRESH with an End-of-RR before it has said End-of-RIB,
    which it says to those alone who know graceful restart.

    Raises:
        NoFamilyError: the session would have no routes.
    """
    found = [
        kept
        for code, value in message.capabilities
        if (kept := _KEEP.get(code, _as_it_is)(code, value, towards)) is not None
    ]
    if towards is Towards.DAEMON:
        had = {code for code, _ in found}
        found += [(int(code), value) for code, value in _SAID_BESIDES if code not in had]
    passed = replace(message, capabilities=tuple(found))
    proposed = message.has(Capability.MULTIPROTOCOL)
    if proposed and not passed.has(Capability.MULTIPROTOCOL):
        raise NoFamilyError(
            "the session has none of IPv4 and IPv6 unicast and multicast; add one of them to it"
        )
    return passed


@dataclass(frozen=True, slots=True)
class Agreed:
    """What holds for a session by both OPENs.

    Attributes:
        families: of which there are routes.
        paths: of those, with path identifiers from the peer.
        extended: messages of up to 65,535 octets (RFC 8654).
        hold_s: the hold time; 0: none.
    """

    families: frozenset[Family]
    paths: frozenset[Family]
    extended: bool
    hold_s: int


def agreed(daemon: Open, peer: Open) -> Agreed:
    """What both OPENs, each normalised towards the other end, make of a session."""
    families = daemon.families & peer.families
    return Agreed(
        families,
        daemon.paths(_RECEIVE) & peer.paths(_SEND) & families,
        daemon.has(Capability.EXTENDED_MESSAGE) and peer.has(Capability.EXTENDED_MESSAGE),
        min(daemon.hold_s, peer.hold_s),
    )


def differences(owner: Open, standby: Open) -> list[str]:
    """What keeps the daemon of the standby from going on with the session of the owner's, in words.

    Both are normalised towards the peer. The order of capabilities means nothing, and neither does
    whether a daemon has found its routes in the kernel: BIRD says so after a start with -R.
    """
    found = [
        f"{name}: {mine} on the owner, {other} on the standby"
        for name, mine, other in (
            ("AS", owner.asn, standby.asn),
            ("router id", owner.router_id, standby.router_id),
            ("hold time", owner.hold_s, standby.hold_s),
        )
        if mine != other
    ]
    mine, other = (
        {(code, _without_forwarding(code, value)) for code, value in one.capabilities}
        for one in (owner, standby)
    )
    for node, only in (("owner", mine - other), ("standby", other - mine)):
        found += [f"only the {node} has {_words(code, value)}" for code, value in sorted(only)]
    return found


def _without_forwarding(code: int, value: bytes) -> bytes:
    if code == Capability.GRACEFUL_RESTART:
        head, size = 2, 4
    elif code == Capability.LLGR:
        head, size = 0, 7
    else:
        return value
    entries = (e[:3] + bytes([e[3] & ~_FORWARDING]) + e[4:] for e in _entries(value, head, size))
    return value[:head] + b"".join(entries)


def _words(code: int, value: bytes) -> str:
    if code == Capability.MULTIPROTOCOL and (family := _family(value)) is not None:
        return f"the family {family.name.lower().replace('_', ' ')}"
    known = {int(each): each.name.lower().replace("_", " ") for each in Capability}
    return f"capability {code} ({known.get(code, 'unknown')}) {value.hex()}".rstrip()


def _pairs(data: bytes, octets: int) -> Iterator[tuple[int, bytes]]:
    while data:
        length = int.from_bytes(data[1 : 1 + octets], "big")
        if len(data) < 1 + octets + length:
            raise OpenError("an OPEN with an optional parameter that is cut off")
        yield data[0], data[1 + octets : 1 + octets + length]
        data = data[1 + octets + length :]


def _entries(value: bytes, head: int, size: int) -> Iterator[bytes]:
    """The entries of one size behind the head; one that is cut off is none."""
    for at in range(head, len(value) - size + 1, size):
        yield value[at : at + size]


def _family(value: bytes) -> Family | None:
    """AFI, reserved, SAFI (RFC 4760 section 8)."""
    if len(value) != 4:  # noqa: PLR2004 - its size
        return None
    return _FAMILIES.get((int.from_bytes(value[:2], "big"), value[3]))


_Kept = tuple[int, bytes] | None


def _as_it_is(code: int, value: bytes, _towards: Towards) -> _Kept:
    return code, value


def _never(_code: int, _value: bytes, _towards: Towards) -> _Kept:
    return None


def _multiprotocol(code: int, value: bytes, _towards: Towards) -> _Kept:
    return (code, value) if _family(value) is not None else None


def _graceful_restart(code: int, value: bytes, _towards: Towards) -> _Kept:
    """Without that it has restarted: the session has not; families that are kept."""
    if len(value) < 2:  # noqa: PLR2004 - flags and time
        return code, value
    families = b"".join(e for e in _entries(value, 2, 4) if _of_kept_family(e))
    return code, bytes([value[0] & ~_RESTARTED, value[1]]) + families


def _llgr(code: int, value: bytes, _towards: Towards) -> _Kept:
    return code, b"".join(e for e in _entries(value, 0, 7) if _of_kept_family(e))


def _add_path(code: int, value: bytes, towards: Towards) -> _Kept:
    """Several paths go from the peer to the daemon only."""
    allowed = _RECEIVE if towards is Towards.PEER else _SEND
    found = [
        e[:3] + bytes([e[3] & allowed])
        for e in _entries(value, 0, 4)
        if _of_kept_family(e) and e[3] & allowed
    ]
    return (code, b"".join(found)) if found else None


def _of_kept_family(entry: bytes) -> bool:
    return struct.unpack("!HB", entry[:3]) in _FAMILIES


_KEEP: dict[int, Callable[[int, bytes, Towards], _Kept]] = {
    Capability.MULTIPROTOCOL: _multiprotocol,
    Capability.GRACEFUL_RESTART: _graceful_restart,
    Capability.LLGR: _llgr,
    Capability.ADD_PATH: _add_path,
    Capability.ORF: _never,  # a filter of one daemon's that the other would not know
    Capability.OLD_ORF: _never,
    Capability.DYNAMIC: _never,  # would change what was agreed on
    Capability.MULTISESSION: _never,
    Capability.OLD_MULTISESSION: _never,
    Capability.HOST_NAME: _never,  # names the host
    Capability.SOFTWARE_VERSION: _never,
}
