"""The tables of a BGP front (docs/bgp-front.md): what a source says, and what was sent on."""

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from prl.bindings.native import ffi, lib
from prl.errors import PrlError

HEADER_BYTES: int = lib.PRL_BGP_HEADER
MESSAGE_MAX_BYTES: int = lib.PRL_BGP_MESSAGE_MAX
EXTENDED_MAX_BYTES: int = lib.PRL_BGP_EXTENDED_MAX
"""RFC 8654."""
ROOM_BYTES = 1 << 20
"""What one call of difference or walk writes at most, unless it is told otherwise."""


class Family(IntEnum):
    """AFI/SAFI of which the routes are kept."""

    IPV4_UNICAST = lib.PRL_BGP_IPV4_UNICAST
    IPV6_UNICAST = lib.PRL_BGP_IPV6_UNICAST
    IPV4_MULTICAST = lib.PRL_BGP_IPV4_MULTICAST
    IPV6_MULTICAST = lib.PRL_BGP_IPV6_MULTICAST


class Column(IntEnum):
    """What the source says, and what was sent on."""

    SOURCE = lib.PRL_BGP_SOURCE
    SENT = lib.PRL_BGP_SENT


class FramingError(PrlError):
    """What comes in a stream is no message; nothing behind it can be told apart.

    Attributes:
        subcode: of the NOTIFICATION 1 that says so (RFC 4271 section 6.1).
    """

    def __init__(self, subcode: int) -> None:
        super().__init__(f"a BGP stream goes on with no message (RFC 4271 section 6.1, {subcode})")
        self.subcode = subcode


class UpdateError(PrlError):
    """An UPDATE whose routes cannot be located; the tables are as they were."""


class RibIncompleteError(PrlError):
    """A limit was reached, or memory: the tables are of no use until they have been cleared."""


class RouteTooLongError(PrlError):
    """A route's attributes do not fit into a message of the session's size (RFC 8654 section 5)."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an UPDATE has said.

    Attributes:
        withdrawn: routes that it withdraws, whether or not they were there.
        announced: routes that it announces.
        end_of_rib: the family of which it is the End-of-RIB.
        families_unknown: of its MP_REACH_NLRI and MP_UNREACH_NLRI, those of families not kept.
        as_withdrawn: what it announced counts as withdrawn (RFC 7606 section 4).
    """

    withdrawn: int
    announced: int
    end_of_rib: Family | None
    families_unknown: int
    as_withdrawn: bool


@dataclass(frozen=True, slots=True)
class RibStatus:
    """How much a RIB has.

    Attributes:
        routes: of each column and family.
        differing: routes of which the columns are not equal.
        lasting: of these, those of which nothing has been said for a while (``age()``).
        sets: different sets of attributes.
        attribute_bytes: memory of those.
        memory_bytes: of all, about.
        incomplete: a limit was reached.
    """

    routes: dict[Column, dict[Family, int]]
    differing: int
    lasting: int
    sets: int
    attribute_bytes: int
    memory_bytes: int
    incomplete: bool


def messages(stream: bytearray, *, extended: bool = False) -> Iterator[bytes]:
    """Take the whole messages off the front of ``stream``; what is unfinished stays in it.

    Raises:
        FramingError: what ``stream`` begins with now is no message.
    """
    while stream:
        length = lib.prl_bgp_frame(ffi.from_buffer(stream), len(stream), extended)
        if length < 0:
            raise FramingError(-length)
        if not length:
            return
        message = bytes(stream[:length])
        del stream[:length]
        yield message


def without_link_local(update: bytes) -> bytes:
    """An UPDATE whose next hops are no address that only one node has (RFC 2545 section 3)."""
    room = bytearray(update)
    length = lib.prl_bgp_cut_link_local(ffi.from_buffer(room), len(room))
    return update if length == len(update) else bytes(room[:length])


class Rib:
    """The routes of one direction of a session.

    Args:
        routes_max: rows; a route that only one column has takes one, too.
        attributes_max_bytes: of memory, for all sets of attributes.
        paths: families whose routes have path identifiers (RFC 7911).

    Raises:
        OSError: no memory.
        ValueError: limits that make no sense.
    """

    def __init__(
        self, *, routes_max: int, attributes_max_bytes: int, paths: Iterable[Family] = ()
    ) -> None:
        bits = sum(1 << family for family in set(paths))
        limits = ffi.new("struct prl_bgp_limits *", (routes_max, bits, attributes_max_bytes))
        rib = ffi.new("struct prl_bgp_rib **")
        error = -lib.prl_bgp_rib_open(rib, limits)
        if error == errno.EINVAL:
            raise ValueError(f"a RIB of {routes_max} routes")
        if error:
            raise OSError(error, os.strerror(error))
        self._rib: Any = ffi.gc(rib[0], lib.prl_bgp_rib_close)
        self._applied: Any = ffi.new("struct prl_bgp_applied *")
        self._status: Any = ffi.new("struct prl_bgp_rib_status *")
        self._room: Any = ffi.NULL
        self._room_bytes = 0

    def apply(self, message: bytes, *columns: Column) -> Applied:
        """Take a whole UPDATE into these columns.

        Raises:
            UpdateError: nothing has changed.
            RibIncompleteError: now, or before.
        """
        bits = sum(1 << column for column in columns)
        done = lib.prl_bgp_rib_apply(
            self._rib, bits, ffi.from_buffer(message), len(message), self._applied
        )
        if done == -errno.EBADMSG:
            raise UpdateError("the routes of an UPDATE cannot be located")
        if done < 0:
            raise RibIncompleteError(f"a BGP table is incomplete: {os.strerror(-done)}")
        said = self._applied
        return Applied(
            said.withdrawn,
            said.announced,
            Family(said.end_of_rib) if said.end_of_rib < lib.PRL_BGP_FAMILIES else None,
            said.families_unknown,
            done == lib.PRL_BGP_AS_WITHDRAWN,
        )

    def clear(self, *columns: Column) -> None:
        """Empty columns. With both of them the RIB is complete again."""
        lib.prl_bgp_rib_clear(self._rib, sum(1 << column for column in columns))

    def difference(
        self, message_max_bytes: int = MESSAGE_MAX_BYTES, room_bytes: int = ROOM_BYTES
    ) -> bytes:
        """Return UPDATEs that make SENT more like SOURCE, and count them as sent.

        There is more as long as ``differing`` is not 0, also after none was returned.

        Raises:
            RouteTooLongError: the next route fits into no message.
            RibIncompleteError: see there.
        """
        room = self._room_of(room_bytes)
        return self._written(
            lib.prl_bgp_rib_difference(self._rib, message_max_bytes, room, room_bytes)
        )

    def walk(
        self,
        column: Column,
        message_max_bytes: int = MESSAGE_MAX_BYTES,
        room_bytes: int = ROOM_BYTES,
        families: Iterable[Family] = tuple(Family),
    ) -> Iterator[bytes]:
        """Yield a column as UPDATEs, a piece at a time, which may be empty.

        Between two pieces apply() may be called. Whoever reads the pieces, and in their order with
        them what was applied, has the column as it is.

        Raises:
            RouteTooLongError: the next route fits into no message.
            RibIncompleteError: see there.
        """
        place = ffi.new("struct prl_bgp_place *")
        for family in families:
            place.family = family
            while place.family == family:
                room = self._room_of(room_bytes)
                done = lib.prl_bgp_rib_walk(
                    self._rib, column, place, message_max_bytes, room, room_bytes
                )
                yield self._written(done)

    @property
    def differing(self) -> int:
        """Routes of which SOURCE and SENT are not equal."""
        lib.prl_bgp_rib_status(self._rib, self._status)
        return int(self._status.differing)

    @property
    def lasting(self) -> int:
        """Routes that differ since before the last but one ``age()``, and were not said since."""
        lib.prl_bgp_rib_status(self._rib, self._status)
        return int(self._status.lasting)

    def age(self) -> None:
        """Begin a new age: a while has passed."""
        lib.prl_bgp_rib_age(self._rib)

    def status(self) -> RibStatus:
        """How much it has."""
        status = self._status
        lib.prl_bgp_rib_status(self._rib, status)
        columns = {Column.SOURCE: status.source, Column.SENT: status.sent}
        return RibStatus(
            {column: {f: int(counts[f]) for f in Family} for column, counts in columns.items()},
            status.differing,
            status.lasting,
            status.sets,
            status.attribute_bytes,
            status.bytes,
            bool(status.incomplete),
        )

    def _room_of(self, room_bytes: int) -> Any:
        if room_bytes > self._room_bytes:
            self._room, self._room_bytes = ffi.new("uint8_t[]", room_bytes), room_bytes
        return self._room

    def _written(self, done: int) -> bytes:
        if done == -errno.EMSGSIZE:
            raise RouteTooLongError("the attributes of a route do not fit into one message")
        if done == -errno.EINVAL:
            raise ValueError("no room for one message, or none of that length")
        if done < 0:
            raise RibIncompleteError("a BGP table is incomplete: a limit was reached before")
        return bytes(ffi.buffer(self._room, done))
