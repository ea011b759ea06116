"""The tables of a BGP front: what a source says, what was sent, what is to be said."""

import contextlib
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prl._core import lib

from prl.bindings import bgp_rib
from prl.bindings.bgp_rib import (
    EXTENDED_MAX_BYTES,
    MESSAGE_MAX_BYTES,
    Column,
    Family,
    FramingError,
    Rib,
    RibIncompleteError,
    RouteTooLongError,
    UpdateError,
)
from tests.bgp_updates import (
    AS_PATH,
    COLUMNS,
    COMMUNITIES,
    EXTENDED,
    NEXT_HOP,
    OPTIONAL,
    ORIGIN,
    PARTIAL,
    TRANSITIVE,
    V4,
    Attribute,
    Route,
    Said,
    Table,
    announce,
    apply,
    attribute,
    message,
    mp_reach,
    mp_unreach,
    read,
    split,
    update,
    withdraw,
)

SOURCE, SENT = Column.SOURCE, Column.SENT
V6 = Family.IPV6_UNICAST
WELL_KNOWN: tuple[Attribute, ...] = (
    (TRANSITIVE, ORIGIN, b"\0"),
    (TRANSITIVE, AS_PATH, b"\2\1\0\0\xfd\xe9"),
)
FIELDS = Said((*WELL_KNOWN, (TRANSITIVE, NEXT_HOP, b"\xc0\0\2\x0a")))
REACH = Said(WELL_KNOWN, b"\x20\1\x0d\xb8".ljust(16, b"\1"))
KEEPALIVE = message(4, b"")


def rib(
    paths: Iterable[Family] = (), routes_max: int = 10_000_000, attributes: int = 1 << 30
) -> Rib:
    return Rib(routes_max=routes_max, attributes_max_bytes=attributes, paths=paths)


def table_of(one: Rib, column: Column, paths: Iterable[Family] = ()) -> Table:
    found: Table = {}
    for piece in one.walk(column, EXTENDED_MAX_BYTES):
        for whole in split(piece):
            said = read(whole, paths)
            assert not said.withdrawn
            assert not found.keys() & {route for route, _ in said.announced}, "said twice"
            found.update(said.announced)
    return found


def whole_difference(one: Rib, message_max: int = MESSAGE_MAX_BYTES, room: int = 1 << 16) -> bytes:
    pieces = []
    while one.differing:
        pieces.append(one.difference(message_max, room))
    return b"".join(pieces)


# What only one node has

GLOBAL, LINK_LOCAL = REACH.next_hop or b"", b"\xfe\x80".ljust(16, b"\2")


@pytest.mark.parametrize("flags", [OPTIONAL, OPTIONAL | EXTENDED])
@pytest.mark.parametrize("count", [1, 40])
def test_a_link_local_next_hop_is_taken_out(flags: int, count: int) -> None:
    nlri = b"".join(Route(V6, f"2001:db8:{n:x}::/48").nlri(paths=False) for n in range(count))
    rest = b"".join(attribute(*one) for one in WELL_KNOWN)

    def said(next_hop: bytes, flags: int) -> bytes:
        return update(attributes=rest + mp_reach(V6, next_hop, nlri, flags) + rest[:4])

    # Of more routes the length has two octets in any case, also where one would do afterwards.
    kept = flags | EXTENDED if len(nlri) > 200 else flags
    assert bgp_rib.without_link_local(said(GLOBAL + LINK_LOCAL, flags)) == said(GLOBAL, kept)


@pytest.mark.parametrize(
    "whole",
    [
        announce([Route(V4, "10.0.0.0/8")], FIELDS),
        announce([Route(V6, "2001:db8::/32")], REACH),
        announce([Route(V6, "2001:db8::/32")], Said(WELL_KNOWN, LINK_LOCAL)),
        announce([Route(V6, "2001:db8::/32")], Said(WELL_KNOWN, LINK_LOCAL + LINK_LOCAL)),
        announce([Route(V6, "2001:db8::/32")], Said(WELL_KNOWN, GLOBAL + GLOBAL)),
        withdraw([Route(V6, "2001:db8::/32")]),
        update(attributes=b"\x80\x0e\xff\0\2\1\x20"),
        message(2, b"\0\7\0\0"),
    ],
)
def test_all_else_stays_as_it_is(whole: bytes) -> None:
    assert bgp_rib.without_link_local(whole) is whole


# Framing


@pytest.mark.parametrize("extended", [False, True])
def test_messages_come_out_of_a_stream_however_it_is_cut(extended: bool) -> None:
    whole = [
        KEEPALIVE,
        announce([Route(V4, "10.0.0.0/8")], FIELDS),
        message(3, b"\6\2"),
        message(5, b"\0\1\0\1"),
        message(5, b"\0"),  # whose length the daemon objects to (RFC 7313 section 5)
        message(77, b"unknown"),
        message(2, bytes(4077)),
        *([message(2, bytes(65_000))] if extended else []),
        KEEPALIVE,
    ]
    stream = b"".join(whole)
    for cut in [*range(1, 80), 4095, len(stream)]:
        buffer = bytearray()
        found: list[bytes] = []
        for start in range(0, len(stream), cut):
            buffer += stream[start : start + cut]
            found += bgp_rib.messages(buffer, extended=extended)
        assert found == whole
        assert not buffer


@pytest.mark.parametrize(
    ("stream", "subcode", "extended"),
    [
        (b"\xff" * 15 + b"\0", 1, False),
        (b"GET / HTTP/1.1", 1, False),
        (b"\xff" * 16 + b"\0\x12\4", 2, False),
        (b"\xff" * 16 + b"\0\x14\4", 2, True),  # no KEEPALIVE has a body
        (b"\xff" * 16 + b"\0\x16\2", 2, False),
        (b"\xff" * 16 + b"\0\x14\3", 2, False),
        (b"\xff" * 16 + b"\0\x1c\1", 2, False),
        (b"\xff" * 16 + b"\x10\1\2", 2, False),
        (b"\xff" * 16 + b"\x10\1\1", 2, True),  # no OPEN is extended (RFC 8654 section 3)
    ],
)
def test_what_is_no_message_is_said_by_its_subcode(
    stream: bytes, subcode: int, extended: bool
) -> None:
    buffer = bytearray(KEEPALIVE + stream)
    found: list[bytes] = []
    with pytest.raises(FramingError) as refused:
        found.extend(bgp_rib.messages(buffer, extended=extended))
    assert refused.value.subcode == subcode
    assert buffer == stream
    assert bytes(found[0] if found else KEEPALIVE) == KEEPALIVE


# What an UPDATE says


@pytest.mark.parametrize("paths", [(), tuple(Family)])
@pytest.mark.parametrize("family", Family)
def test_an_update_is_kept_and_withdrawn(family: Family, paths: tuple[Family, ...]) -> None:
    one = rib(paths)
    four = family in {V4, Family.IPV4_MULTICAST}
    prefixes = (
        ["0.0.0.0/0", "10.0.0.0/8", "10.128.0.0/9", "192.0.2.1/32"]
        if four
        else ["::/0", "2001:db8::/32", "2001:db8::/33", "2001:db8::1/128"]
    )
    routes = [Route(family, prefix, 7 if paths else 0) for prefix in prefixes]
    said = FIELDS if family is V4 else REACH
    done = one.apply(announce(routes, said, paths=bool(paths)), *COLUMNS)
    assert (done.announced, done.withdrawn, done.end_of_rib) == (4, 0, None)
    assert table_of(one, SOURCE, paths) == table_of(one, SENT, paths) == dict.fromkeys(routes, said)
    assert one.status().sets == 1
    done = one.apply(withdraw(routes[1:3], paths=bool(paths)), SOURCE)
    assert (done.announced, done.withdrawn) == (0, 2)
    assert table_of(one, SOURCE, paths) == {routes[0]: said, routes[3]: said}
    assert one.differing == 2
    assert one.status().routes == {
        SOURCE: {f: 2 if f is family else 0 for f in Family},
        SENT: {f: 4 if f is family else 0 for f in Family},
    }


def test_paths_of_one_prefix_are_routes_of_their_own() -> None:
    one = rib([V4])
    routes = [Route(V4, "10.0.0.0/8", path) for path in (1, 2)]
    one.apply(announce(routes, FIELDS, paths=True), SOURCE)
    one.apply(withdraw(routes[:1], paths=True), SOURCE)
    assert table_of(one, SOURCE, [V4]) == {routes[1]: FIELDS}


def test_ipv4_in_mp_reach_and_in_its_fields_is_one_route() -> None:
    """RFC 8950: IPv4 with an IPv6 next hop."""
    one, route = rib(), Route(V4, "10.0.0.0/8")
    one.apply(announce([route], FIELDS), SOURCE)
    one.apply(announce([route], REACH), SOURCE)
    assert table_of(one, SOURCE) == {route: REACH}
    one.apply(withdraw([route]), SOURCE)
    assert table_of(one, SOURCE) == {}


@pytest.mark.parametrize("said", [FIELDS, REACH])
def test_a_route_is_withdrawn_as_it_was_announced(said: Said) -> None:
    one, route = rib(), Route(V4, "10.0.0.0/8")
    one.apply(announce([route], said), SENT)
    assert one.difference() == withdraw([route], mp=said is REACH)


def test_what_an_update_withdraws_and_announces_is_announced() -> None:
    """RFC 4271 section 4.3."""
    one, route = rib(), Route(V4, "10.0.0.0/8")
    nlri = route.nlri(paths=False)
    listed = b"".join(attribute(*each) for each in FIELDS.attributes)
    one.apply(update(nlri, listed, nlri), SOURCE)
    assert table_of(one, SOURCE) == {route: FIELDS}


def test_one_update_may_speak_of_three_things() -> None:
    one = rib()
    gone, gone6 = Route(V4, "10.0.0.0/8"), Route(V6, "2001:db8::/32")
    new, new6 = Route(V4, "11.0.0.0/8"), Route(V6, "2001:db8:1::/48")
    one.apply(announce([gone], FIELDS), SOURCE)
    one.apply(announce([gone6], REACH), SOURCE)
    assert REACH.next_hop is not None
    listed = (
        mp_unreach(V6, gone6.nlri(paths=False))
        + mp_reach(V6, REACH.next_hop, new6.nlri(paths=False))
        + b"".join(attribute(*each) for each in FIELDS.attributes)
    )
    both = update(gone.nlri(paths=False), listed, new.nlri(paths=False))
    done = one.apply(both, SOURCE)
    assert (done.withdrawn, done.announced) == (2, 2)
    assert table_of(one, SOURCE) == {new: FIELDS, new6: REACH}, "NEXT_HOP is none of IPv6's"


@pytest.mark.parametrize(
    ("family", "whole"),
    [(V4, update()), *((family, update(attributes=mp_unreach(family))) for family in Family)],
)
def test_end_of_rib(family: Family, whole: bytes) -> None:
    """RFC 4724 section 2."""
    one = rib()
    assert one.apply(whole, *COLUMNS).end_of_rib is family
    assert one.status().memory_bytes == rib().status().memory_bytes


def test_no_end_of_rib() -> None:
    for whole in (
        update(attributes=attribute(*WELL_KNOWN[0])),
        update(attributes=mp_unreach(V6) + attribute(*WELL_KNOWN[0])),
        update(attributes=mp_unreach(V6, b"\x00")),
        update(withdrawn=b"\0", attributes=mp_unreach(V6)),
        update(attributes=attribute(OPTIONAL, 15, b"\0\x19\x46")),  # EVPN's
    ):
        assert rib().apply(whole, SOURCE).end_of_rib is None


def test_families_that_are_not_kept_change_nothing() -> None:
    one = rib()
    evpn = b"\0\x19\x46"
    nlri = Route(V4, "10.0.0.0/8").nlri(paths=False)
    listed = attribute(OPTIONAL, 14, evpn + b"\4\1\1\1\1\0\2\x21") + attribute(
        OPTIONAL, 15, evpn + b"\2\x21"
    )
    listed += b"".join(attribute(*each) for each in FIELDS.attributes)
    done = one.apply(update(attributes=listed, announced=nlri), SOURCE)
    assert (done.families_unknown, done.announced, done.withdrawn) == (2, 1, 0)
    assert table_of(one, SOURCE) == {Route(V4, "10.0.0.0/8"): FIELDS}


# What means nothing, and what is malformed


def test_sets_are_equal_where_their_meaning_is() -> None:
    plain = [attribute(*each) for each in FIELDS.attributes]
    many = attribute(OPTIONAL | TRANSITIVE, COMMUNITIES, b"\0\1\0\2")
    spellings = [
        b"".join([*plain, many]),
        b"".join([many, *reversed(plain)]),
        b"".join([*plain, attribute(OPTIONAL | TRANSITIVE | EXTENDED, COMMUNITIES, b"\0\1\0\2")]),
        b"".join([*plain, attribute(OPTIONAL | TRANSITIVE | 0x0F, COMMUNITIES, b"\0\1\0\2")]),
        b"".join([*plain, many, attribute(OPTIONAL | TRANSITIVE, COMMUNITIES, b"\0\1\0\3")]),
    ]
    one = rib()
    for number, listed in enumerate(spellings):
        one.apply(update(attributes=listed, announced=bytes([8, number])), SOURCE)
    assert one.status().sets == 1
    others = (
        [*plain, attribute(OPTIONAL | TRANSITIVE | PARTIAL, COMMUNITIES, b"\0\1\0\2")],
        [*plain, attribute(OPTIONAL | TRANSITIVE, COMMUNITIES, b"\0\1\0\3")],
        plain,
    )
    for number, parts in enumerate(others):
        one.apply(update(attributes=b"".join(parts), announced=bytes([8, number])), SENT)
        assert one.status().sets == number + 2


def test_bits_behind_the_length_of_a_prefix_mean_nothing() -> None:
    one = rib()
    listed = b"".join(attribute(*each) for each in FIELDS.attributes)
    one.apply(update(attributes=listed, announced=b"\x09\x0a\xff"), SOURCE)
    one.apply(update(attributes=listed, announced=b"\x09\x0a\x80"), SENT)
    assert one.differing == 0
    assert table_of(one, SOURCE) == {Route(V4, "10.128.0.0/9"): FIELDS}


HOP6 = bytes(16)
MALFORMED = {
    "not an UPDATE": message(5, b"\0\1\0\1"),
    "withdrawn routes beyond the end": message(2, b"\0\1\0\0"),
    "attributes beyond the end": message(2, b"\0\0\0\1"),
    "a withdrawn prefix of 33 bits": update(withdrawn=b"\x21\1\2\3\4\5"),
    "a withdrawn prefix that ends early": update(withdrawn=b"\x18\1\2"),
    "an announced prefix of 33 bits": update(announced=b"\x21\1\2\3\4\5"),
    "an announced prefix that ends early": update(announced=b"\x18\1\2"),
    "a prefix of 129 bits": update(attributes=mp_reach(V6, HOP6, b"\x81" + bytes(17))),
    "a prefix of 129 bits withdrawn": update(attributes=mp_unreach(V6, b"\x81" + bytes(17))),
    "two MP_REACH_NLRI": update(attributes=mp_reach(V6, HOP6, b"\0") * 2),
    "two MP_UNREACH_NLRI": update(attributes=mp_unreach(V6, b"\0") * 2),
    "MP_REACH_NLRI too short": update(attributes=attribute(OPTIONAL, 14, b"\0\2\1\0")),
    "a next hop beyond its end": update(attributes=attribute(OPTIONAL, 14, b"\0\2\1\x10\0\0")),
    "MP_UNREACH_NLRI too short": update(attributes=attribute(OPTIONAL, 15, b"\0\2")),
}


@pytest.mark.parametrize("whole", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_update_changes_nothing(whole: bytes) -> None:
    one = rib()
    one.apply(announce([Route(V4, "10.0.0.0/8")], FIELDS), *COLUMNS)
    one.apply(announce([Route(V6, "2001:db8::/32")], REACH), *COLUMNS)
    before = table_of(one, SOURCE)
    with pytest.raises(UpdateError):
        one.apply(whole, *COLUMNS)
    assert table_of(one, SOURCE) == table_of(one, SENT) == before
    one.apply(update(), *COLUMNS)


def test_attributes_that_end_early_withdraw_what_was_located() -> None:
    """RFC 7606 section 4."""
    one = rib()
    old, old6 = Route(V4, "10.0.0.0/8"), Route(V6, "2001:db8::/32")
    kept = Route(V4, "11.0.0.0/8")
    one.apply(announce([old, kept], FIELDS), SOURCE)
    one.apply(announce([old6], REACH), SOURCE)
    listed = mp_reach(V6, HOP6, old6.nlri(paths=False)) + b"\x40\1\5\0"
    done = one.apply(update(attributes=listed, announced=old.nlri(paths=False)), SOURCE)
    assert done.as_withdrawn
    assert (done.withdrawn, done.announced) == (2, 0)
    assert table_of(one, SOURCE) == {kept: FIELDS}


# Limits


def test_more_routes_than_there_may_be_leave_the_rib_incomplete() -> None:
    one = rib(routes_max=3)
    routes = [Route(V4, f"10.{n}.0.0/16") for n in range(4)]
    one.apply(announce(routes[:3], FIELDS), SOURCE)
    one.apply(announce(routes[:3], FIELDS), SENT)
    assert not one.status().incomplete
    with pytest.raises(RibIncompleteError):
        one.apply(announce(routes[3:], FIELDS), SENT)
    assert one.status().incomplete
    with pytest.raises(RibIncompleteError):
        one.apply(withdraw(routes), SOURCE)
    with pytest.raises(RibIncompleteError):
        one.difference()
    with pytest.raises(RibIncompleteError):
        list(one.walk(SOURCE))
    one.clear(SOURCE)
    assert one.status().incomplete
    one.clear(*COLUMNS)
    one.apply(announce(routes[3:], FIELDS), SOURCE)
    assert table_of(one, SOURCE) == {routes[3]: FIELDS}


def test_attributes_have_a_limit_in_bytes() -> None:
    one = rib(attributes=10_000)
    taken = 0
    with contextlib.suppress(RibIncompleteError):
        for taken in range(1000):
            said = Said((*FIELDS.attributes, (OPTIONAL, 99, struct.pack("!I", taken))))
            one.apply(announce([Route(V4, f"10.0.{taken % 256}.0/24")], said), SOURCE)
    assert 100 < taken < 999
    assert one.status().incomplete
    assert one.status().attribute_bytes <= 10_000
    one.clear(*COLUMNS)
    assert one.status().attribute_bytes == 0


def test_limits_that_make_no_sense() -> None:
    for routes in (0, 2_000_000_000):
        with pytest.raises(ValueError, match="routes"):
            rib(routes_max=routes)
    for message_max, room in ((100, 1 << 16), (70_000, 1 << 20), (4096, 4095)):
        with pytest.raises(ValueError, match="room"):
            rib().difference(message_max, room)


def test_nothing_is_left_of_what_has_gone() -> None:
    one = rib()
    empty = one.status()
    for number in range(5000):
        said = Said((*FIELDS.attributes, (OPTIONAL, 99, struct.pack("!I", number))))
        one.apply(announce([Route(V4, f"10.{number >> 8}.{number & 255}.0/24")], said), *COLUMNS)
    assert one.status().sets == 5000
    one.clear(SOURCE)
    assert one.differing == 5000
    one.clear(SENT)
    assert one.status().sets == one.status().attribute_bytes == 0
    assert one.status().memory_bytes < empty.memory_bytes + 400_000, "what finds sets stays"


# The difference


def test_the_difference_is_packed_and_says_withdrawals_first() -> None:
    one = rib()
    gone = [Route(V4, f"11.{n >> 8}.{n & 255}.0/24") for n in range(2000)]
    new = [Route(V4, f"10.{n >> 8}.{n & 255}.0/24") for n in range(2000)]
    for at in range(0, 2000, 500):
        one.apply(announce(gone[at : at + 500], FIELDS), SENT)
    other = Said((*FIELDS.attributes, (OPTIONAL, 99, b"x")))
    for n, route in enumerate(new):  # the two sets take turns
        one.apply(announce([route], FIELDS if n % 2 else other), SOURCE)
    found = list(split(whole_difference(one, room=1 << 20)))
    assert max(map(len, found)) <= MESSAGE_MAX_BYTES
    # 8,000 bytes of each set's and 8,000 of withdrawn NLRI, sorted a thousand routes at a time
    assert len(found) <= 3 + 2 * 3
    table = dict.fromkeys(gone, FIELDS)
    for whole in found:
        apply(table, whole)
    assert table == table_of(one, SOURCE) == table_of(one, SENT)
    one = rib()
    one.apply(announce([gone[0]], FIELDS), SENT)
    one.apply(announce([new[0]], FIELDS), SOURCE)
    assert [len(read(whole).withdrawn) for whole in split(one.difference())] == [1, 0]


def test_a_difference_that_has_no_room_goes_on_with_the_next_call() -> None:
    one = rib()
    big = [Said((*FIELDS.attributes, (OPTIONAL, 99, bytes([n]) * 3500))) for n in range(20)]
    for n, said in enumerate(big):
        one.apply(announce([Route(V4, f"{n}.0.0.0/8")], said), SOURCE)
    pieces = []
    while one.differing:
        pieces.append(one.difference(MESSAGE_MAX_BYTES, 2 * MESSAGE_MAX_BYTES))
    assert [len(list(split(piece))) for piece in pieces] == [2] * 10


def test_one_call_looks_at_a_bounded_number_of_rows() -> None:
    one = rib()
    at = 0
    while at < 200_000:  # equal rows all, but the last
        batch = [Route(V4, f"{n >> 16}.{n >> 8 & 255}.{n & 255}.0/24") for n in range(at, at + 500)]
        one.apply(announce(batch, FIELDS), *COLUMNS)
        at += 500
    one.apply(announce([Route(V4, "99.0.0.0/8")], FIELDS), SOURCE)
    calls = 0
    while not (said := one.difference()):
        calls += 1
    assert calls == 200_000 // lib.PRL_BGP_LOOK_MAX
    assert said == announce([Route(V4, "99.0.0.0/8")], FIELDS)
    one.apply(withdraw([Route(V4, "0.0.1.0/24")]), SOURCE)  # before where it ended
    assert whole_difference(one) == withdraw([Route(V4, "0.0.1.0/24")])


def test_a_walk_over_one_family_says_nothing_of_others() -> None:
    """The answer to a ROUTE-REFRESH."""
    one = rib()
    routes = [
        Route(f, "10.0.0.0/8" if f in {V4, Family.IPV4_MULTICAST} else "::/0") for f in Family
    ]
    for route in routes:
        one.apply(announce([route], FIELDS if route.family is V4 else REACH), SENT)
    for route in routes:
        (whole,) = split(b"".join(one.walk(SENT, families=[route.family])))
        assert [found for found, _ in read(whole).announced] == [route]


def test_a_set_that_fits_into_no_message_is_an_error_and_not_a_loop() -> None:
    one = rib()
    large = Said((*FIELDS.attributes, (OPTIONAL, 99, bytes(5000))))
    one.apply(announce([Route(V4, "10.0.0.0/8")], FIELDS), SOURCE)
    one.apply(announce([Route(V4, "11.0.0.0/8")], large), SOURCE)
    assert one.difference() == announce([Route(V4, "10.0.0.0/8")], FIELDS)
    with pytest.raises(RouteTooLongError):
        one.difference()
    assert table_of(one, SOURCE)[Route(V4, "11.0.0.0/8")] == large
    assert whole_difference(one, EXTENDED_MAX_BYTES) == announce([Route(V4, "11.0.0.0/8")], large)


@pytest.mark.parametrize("spare", range(5))
@pytest.mark.parametrize("said", [FIELDS, REACH])
@pytest.mark.parametrize("longest", [MESSAGE_MAX_BYTES, EXTENDED_MAX_BYTES])
def test_what_came_in_one_message_fits_into_one(longest: int, said: Said, spare: int) -> None:
    """The longest UPDATE of one route, and some that are a little shorter."""
    family, prefix = (V4, "10.0.0.0/8") if said is FIELDS else (V6, "2001:db8::/32")
    room = longest - len(announce([Route(family, prefix)], said)) - spare
    full = Said((*said.attributes, (OPTIONAL, 99, bytes(room - 4))), said.next_hop)
    whole = announce([Route(family, prefix)], full)
    assert len(whole) == longest - spare
    one = rib()
    one.apply(whole, SOURCE)
    assert one.difference(longest) == whole


def test_a_million_routes_take_little_memory() -> None:
    """A tenth of them, by what is allocated: rows of IPv4, and an index as empty as it ever is."""
    one = rib()
    for block in range(200):
        nlri = b"".join(b"\x18" + struct.pack("!HB", block, n) for n in range(250))
        nlri += b"".join(b"\x18" + struct.pack("!HB", 1000 + block, n) for n in range(250))
        listed = b"".join(attribute(*each) for each in FIELDS.attributes)
        one.apply(update(attributes=listed, announced=nlri), *COLUMNS)
    status = one.status()
    assert status.routes[SOURCE][V4] == 100_000
    assert status.memory_bytes < 100_000 * 40


# Any sequence of all that


PREFIXES = {
    V4: ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/24", "10.0.0.1/32"],
    V6: ["::/0", "2001:db8::/32", "2001:db8::/64", "2001:db8::1/128"],
    Family.IPV4_MULTICAST: ["224.0.0.0/4", "10.0.0.0/8"],
    Family.IPV6_MULTICAST: ["ff00::/8"],
}
PATHS = (V6, Family.IPV4_MULTICAST)
"""Families with path identifiers."""


@st.composite
def routes_of_one_family(draw: st.DrawFn) -> list[Route]:
    family = draw(st.sampled_from(list(Family)))
    known = [Route(family, prefix) for prefix in PREFIXES[family]]
    if family in PATHS:
        known = [Route(r.family, r.prefix, path) for r in known for path in (1, 2)]
    many = st.integers(0, 2000).map(
        lambda n: [Route(V4, f"20.{i >> 8}.{i & 255}.0/24") for i in range(n)]
    )
    few = st.lists(st.sampled_from(known), min_size=1, unique=True)
    return draw(few | (many.filter(bool) if family is V4 else few))


def sayings(family: Family) -> st.SearchStrategy[Said]:
    extra: st.SearchStrategy[tuple[Attribute, ...]] = st.lists(
        st.tuples(
            st.sampled_from([OPTIONAL, OPTIONAL | TRANSITIVE]),
            st.integers(30, 40),
            st.binary(max_size=2) | st.just(bytes(300)),
        ),
        max_size=2,
        unique_by=lambda one: one[1],
    ).map(lambda found: tuple(sorted(found, key=lambda one: one[1])))
    reach = st.builds(lambda more: Said((*WELL_KNOWN, *more), REACH.next_hop), extra)
    fields = st.builds(lambda more: Said((*FIELDS.attributes, *more)), extra)
    return fields | reach if family is V4 else reach


class Life(RuleBasedStateMachine):
    """A RIB beside two dictionaries, whatever comes in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.rib = rib(PATHS)
        self.tables: dict[Column, Table] = {SOURCE: {}, SENT: {}}
        self.walks: list[tuple[Column, Table, object]] = []
        self.ages = 0
        self.said_in: dict[Route, tuple[int, tuple[Said | None, ...]]] = {}
        """In which age something was said of a route, and what both columns had then."""

    def _apply(self, whole: bytes, columns: list[Column]) -> None:
        if len(whole) > EXTENDED_MAX_BYTES:
            return
        self.rib.apply(whole, *columns)
        for column in columns:
            apply(self.tables[column], whole, PATHS)
        for column, copy, _ in self.walks:
            if column in columns:
                apply(copy, whole, PATHS)

    @rule(data=st.data(), routes=routes_of_one_family(), columns=st.sets(st.sampled_from(COLUMNS)))
    def announced(self, data: st.DataObject, routes: list[Route], columns: set[Column]) -> None:
        said = data.draw(sayings(routes[0].family))
        paths = routes[0].family in PATHS
        self._apply(announce(routes, said, paths=paths), list(columns))

    @rule(
        routes=routes_of_one_family(), columns=st.sets(st.sampled_from(COLUMNS)), mp=st.booleans()
    )
    def withdrawn(self, routes: list[Route], columns: set[Column], mp: bool) -> None:
        paths = routes[0].family in PATHS
        self._apply(withdraw(routes, paths=paths, mp=mp), list(columns))

    @rule(room=st.integers(MESSAGE_MAX_BYTES, 20_000))
    def difference(self, room: int) -> None:
        before = self.rib.differing
        piece = self.rib.difference(room_bytes=room)
        assert len(piece) <= room
        said = 0
        for whole in split(piece):
            assert len(whole) <= MESSAGE_MAX_BYTES
            one = read(whole, PATHS)
            said += len(one.withdrawn) + len(one.announced)
        assert before - self.rib.differing == said, "what is said, is said once"
        apply(self.tables[SENT], piece, PATHS)
        for column, copy, _ in self.walks:
            if column is SENT:
                apply(copy, piece, PATHS)

    @rule(column=st.sampled_from(COLUMNS))
    def clear(self, column: Column) -> None:
        self.rib.clear(column)
        self.tables[column].clear()
        self.walks = [walk for walk in self.walks if walk[0] is not column]

    @rule()
    def a_while_passes(self) -> None:
        self.rib.age()
        self.ages += 1

    @rule(column=st.sampled_from(COLUMNS))
    def begin_a_walk(self, column: Column) -> None:
        walk = self.rib.walk(column, room_bytes=MESSAGE_MAX_BYTES)
        self.walks = [*self.walks[-1:], (column, {}, walk)]

    @rule()
    def walk_on(self) -> None:
        if not self.walks:
            return
        column, copy, walk = self.walks[0]
        with contextlib.suppress(StopIteration):
            apply(copy, next(walk), PATHS)  # type: ignore[call-overload]
            return
        assert copy == self.tables[column], "of what changes meanwhile nothing is lost"
        self.walks.pop(0)

    @invariant()
    def counts_are_those_of_the_tables(self) -> None:
        status = self.rib.status()
        for column in COLUMNS:
            for family in Family:
                mine = sum(route.family is family for route in self.tables[column])
                assert status.routes[column][family] == mine
        source, sent = self.tables[SOURCE], self.tables[SENT]
        assert status.differing == sum(
            source.get(route) != sent.get(route) for route in source.keys() | sent.keys()
        )
        for route in source.keys() | sent.keys() | self.said_in.keys():
            both = (source.get(route), sent.get(route))
            if self.said_in.get(route, (0, (None, None)))[1] != both:
                self.said_in[route] = (self.ages, both)
        assert status.lasting == sum(
            both[0] != both[1] and age <= self.ages - 2 for age, both in self.said_in.values()
        )
        assert status.sets == len({*source.values(), *sent.values()})

    def teardown(self) -> None:
        for column in COLUMNS:
            assert table_of(self.rib, column, PATHS) == self.tables[column]
        apply(self.tables[SENT], whole_difference(self.rib), PATHS)
        assert self.tables[SENT] == self.tables[SOURCE]


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase


def test_a_difference_lasts_however_much_time_passes() -> None:
    """The numbers of ages come round, but not to one that rows still have."""
    one = rib()
    one.apply(announce([Route(V4, "198.51.100.0/24")], FIELDS), SOURCE)
    for _ in range(600):
        one.age()
        one.apply(announce([Route(V4, "203.0.113.0/24")], FIELDS), SOURCE)
        one.apply(withdraw([Route(V4, "203.0.113.0/24")]), SOURCE)
    one.age()
    assert (one.differing, one.lasting) == (1, 1)
    for number in range(300):
        one.apply(announce([Route(V4, f"10.{number >> 8}.{number & 255}.0/24")], FIELDS), SOURCE)
        one.age()
    assert one.lasting >= 250, "all numbers are taken: the last age goes on"
    while one.differing:
        one.difference()
    assert one.lasting == 0


@given(st.binary(max_size=200), st.integers(0, 15))
def test_any_bytes_are_taken_or_refused(body: bytes, paths: int) -> None:
    one = rib([family for family in Family if paths >> family & 1])
    whole = message(2, body)
    if len(whole) < 23:
        return
    with contextlib.suppress(UpdateError):
        one.apply(whole, SOURCE)
    assert one.differing == sum(one.status().routes[SOURCE].values())
