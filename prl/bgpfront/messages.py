"""What the fronts of a pair say to one another (docs/bgp-front.md), as bytes.

A message is its length, its type, the session's number and a body; numbers are big-endian.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from prl.bgpfront.direction import AFI_SAFI
from prl.bindings.bgp_rib import Family
from prl.endpoint import Address, mapped, unmapped
from prl.errors import PrlError

MESSAGE_MAX_BYTES = 1 << 18
"""Longer than any: a piece of a table, or of what is said, and a BGP message."""
_HEAD = struct.Struct("!IBQ")
_POSITION = struct.Struct("!Q")
_BEGIN = struct.Struct("!QQ16sHHHB")
_QUESTIONS = struct.Struct("!HBQ")
"""ROUTE-REFRESHes: of which family, and how many."""
_FAMILIES = {pair: family for family, pair in AFI_SAFI.items()}


class ChannelError(PrlError):
    """What came on the channel is nothing that a front says."""


class Table(IntEnum):
    """Which column a standby is given."""

    HEARD = 0
    TOLD = 1


@dataclass(frozen=True, slots=True)
class Begin:
    """A session begins, or is begun again, for the standby.

    Attributes:
        session: its number.
        peer: its peer's address.
        daemon_open, peer_open: the OPENs as they came, whole messages.
        read: position in the peer's stream up to which the owner has read.
        part: of a message, what comes before that position.
        told: position in what goes to the peer; ``Say`` goes on from there.
        asked: of which families the peer's ROUTE-REFRESHes are still being answered, and how many.
    """

    KIND: ClassVar[int] = 1
    session: int
    peer: Address
    daemon_open: bytes
    peer_open: bytes
    read: int
    part: bytes
    told: int
    asked: tuple[tuple[Family, int], ...]

    def body(self) -> bytes:
        """Without the head."""
        parts = (self.daemon_open, self.peer_open, self.part)
        lengths = map(len, parts)
        fixed = _BEGIN.pack(self.read, self.told, mapped(self.peer), *lengths, len(self.asked))
        asked = (_questions_bytes(family, count) for family, count in self.asked)
        return fixed + b"".join((*parts, *asked))

    @classmethod
    def of(cls, session: int, body: bytes) -> "Begin":
        """Raises ChannelError."""
        read, told, peer, *lengths, asked = _unpack(_BEGIN, body)
        at, parts = _BEGIN.size, []
        for length in lengths:
            parts.append(body[at : at + length])
            at += length
        size = _QUESTIONS.size
        if len(body) != at + asked * size:
            raise ChannelError("a BEGIN whose lengths do not add up")
        questions = tuple(_questions(body[i : i + size]) for i in range(at, len(body), size))
        one, other, part = parts
        return cls(session, unmapped(peer), one, other, read, part, told, questions)


@dataclass(frozen=True, slots=True)
class Routes:
    """Routes of one column, as whole UPDATEs."""

    KIND: ClassVar[int] = 2
    session: int
    table: Table
    updates: bytes

    def body(self) -> bytes:
        """Without the head."""
        return bytes([self.table]) + self.updates

    @classmethod
    def of(cls, session: int, body: bytes) -> "Routes":
        """Raises ChannelError."""
        if not body or body[0] not in set(Table):
            raise ChannelError("ROUTES of no column")
        return cls(session, Table(body[0]), body[1:])


@dataclass(frozen=True, slots=True)
class All:
    """Those were all routes; enough to go on, once all before ``position`` has been written."""

    KIND: ClassVar[int] = 3
    session: int
    position: int

    def body(self) -> bytes:
        """Without the head."""
        return _POSITION.pack(self.position)

    @classmethod
    def of(cls, session: int, body: bytes) -> "All":
        """Raises ChannelError."""
        return cls(session, *_unpack(_POSITION, body, whole=True))


@dataclass(frozen=True, slots=True)
class Say:
    """What will go to the peer from ``position`` on: whole messages."""

    KIND: ClassVar[int] = 4
    session: int
    position: int
    data: bytes

    def body(self) -> bytes:
        """Without the head."""
        return _POSITION.pack(self.position) + self.data

    @classmethod
    def of(cls, session: int, body: bytes) -> "Say":
        """Raises ChannelError."""
        (position,) = _unpack(_POSITION, body)
        return cls(session, position, body[_POSITION.size :])


@dataclass(frozen=True, slots=True)
class Said:
    """The standby has all that ``Say`` brought before ``position``."""

    KIND: ClassVar[int] = 5
    session: int
    position: int

    def body(self) -> bytes:
        """Without the head."""
        return _POSITION.pack(self.position)

    @classmethod
    def of(cls, session: int, body: bytes) -> "Said":
        """Raises ChannelError."""
        return cls(session, *_unpack(_POSITION, body, whole=True))


@dataclass(frozen=True, slots=True)
class Answered:
    """``count`` ROUTE-REFRESHes of the peer are answered by what comes before ``position``."""

    KIND: ClassVar[int] = 6
    session: int
    position: int
    family: Family
    count: int

    def body(self) -> bytes:
        """Without the head."""
        return _POSITION.pack(self.position) + _questions_bytes(self.family, self.count)

    @classmethod
    def of(cls, session: int, body: bytes) -> "Answered":
        """Raises ChannelError."""
        (position,) = _unpack(_POSITION, body)
        return cls(session, position, *_questions(body[_POSITION.size :]))


@dataclass(frozen=True, slots=True)
class Ready:
    """The standby could go on, or ``why`` not."""

    KIND: ClassVar[int] = 7
    session: int
    why: str

    def body(self) -> bytes:
        """Without the head."""
        return self.why.encode()

    @classmethod
    def of(cls, session: int, body: bytes) -> "Ready":
        """Raises ChannelError."""
        return cls(session, _text(body))


@dataclass(frozen=True, slots=True)
class End:
    """The session is over, or cannot be followed, and why."""

    KIND: ClassVar[int] = 8
    session: int
    why: str

    def body(self) -> bytes:
        """Without the head."""
        return self.why.encode()

    @classmethod
    def of(cls, session: int, body: bytes) -> "End":
        """Raises ChannelError."""
        return cls(session, _text(body))


@dataclass(frozen=True, slots=True)
class Alive:
    """The front is there; of no session."""

    KIND: ClassVar[int] = 9
    session: int = 0

    def body(self) -> bytes:
        """Without the head."""
        return b""

    @classmethod
    def of(cls, session: int, body: bytes) -> "Alive":
        """Raises ChannelError."""
        if body:
            raise ChannelError("an ALIVE with a body")
        return cls(session)


Message = Begin | Routes | All | Say | Said | Answered | Ready | End | Alive
_KINDS: dict[int, type[Message]] = {
    kind.KIND: kind for kind in (Begin, Routes, All, Say, Said, Answered, Ready, End, Alive)
}


def encode(message: Message) -> bytes:
    """The whole message."""
    body = message.body()
    return _HEAD.pack(_HEAD.size + len(body), message.KIND, message.session) + body


def decode(stream: bytearray) -> Iterator[Message]:
    """Take the whole messages off the front of ``stream``; what is unfinished stays in it.

    Raises:
        ChannelError: this is no message.
    """
    while len(stream) >= _HEAD.size:
        length, number, session = _HEAD.unpack_from(stream)
        if not _HEAD.size <= length <= MESSAGE_MAX_BYTES:
            raise ChannelError(f"a message of {length} bytes")
        if (kind := _KINDS.get(number)) is None:
            raise ChannelError(f"a message of type {number}; do both nodes run the same version?")
        if len(stream) < length:
            return
        body = bytes(stream[_HEAD.size : length])
        del stream[:length]
        yield kind.of(session, body)


def _unpack(layout: struct.Struct, body: bytes, *, whole: bool = False) -> tuple[Any, ...]:
    if len(body) < layout.size or (whole and len(body) > layout.size):
        raise ChannelError(f"a message of {len(body)} bytes, where {layout.size} are needed")
    return layout.unpack_from(body)


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def _questions_bytes(family: Family, count: int) -> bytes:
    return _QUESTIONS.pack(*AFI_SAFI[family], count)


def _questions(raw: bytes) -> tuple[Family, int]:
    afi, safi, count = _unpack(_QUESTIONS, raw, whole=True)
    if (family := _FAMILIES.get((afi, safi))) is None:
        raise ChannelError(f"AFI/SAFI {afi}/{safi}, which no front keeps")
    return family, count
