"""OPENs on their way through a front: what passes, what both ends agreed on, what differs."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.bgpfront.opening import (
    Agreed,
    Capability,
    NoFamilyError,
    Open,
    OpenError,
    Towards,
    agreed,
    decode,
    differences,
    encode,
    normalised,
)
from prl.bindings.bgp_rib import Family
from tests.bgp_updates import message

V4, V6 = Family.IPV4_UNICAST, Family.IPV6_UNICAST
MP4, MP6, MP_EVPN = (1, b"\0\1\0\1"), (1, b"\0\2\0\1"), (1, b"\0\x19\0\x46")
ROUTER = IPv4Address("192.0.2.1")

FRR = message(
    1,
    b"\x04\xfd\xe9\x00\xb4\xc0\x00\x02\x01"
    b"\x43"  # the optional parameters, as FRR 8.4 writes them
    b"\x02\x06\x01\x04\x00\x01\x00\x01"
    b"\x02\x02\x80\x00\x02\x02\x02\x00\x02\x02\x46\x00"
    b"\x02\x06\x41\x04\x00\x00\xfd\xe9"
    b"\x02\x02\x06\x00"
    b"\x02\x06\x45\x04\x00\x01\x01\x01"
    b"\x02\x0d\x49\x0b\x03re0\x06lab.in"
    b"\x02\x04\x40\x02\xc0\x78",
)


def an_open(*capabilities: tuple[int, bytes]) -> Open:
    return Open(65001, 90, ROUTER, capabilities)


def test_what_frr_says_is_read_and_loses_its_name_and_that_it_has_restarted() -> None:
    body = bytearray(FRR)
    body[28] = len(FRR) - 29
    found = decode(bytes(body))
    assert (found.asn, found.hold_s, found.router_id) == (65001, 180, ROUTER)
    assert found.families == {V4}
    passed = normalised(found, Towards.PEER)
    assert not passed.has(Capability.HOST_NAME)
    assert dict(passed.capabilities)[Capability.GRACEFUL_RESTART] == b"\x40\x78"
    assert decode(encode(passed)) == passed
    same = tuple(c for c in found.capabilities if c[0] not in {64, 73})
    assert tuple(c for c in passed.capabilities if c[0] != 64) == same


capabilities = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=255)), max_size=20)


@given(capabilities, st.integers(0, 65535), st.integers(0, 65535))
def test_what_is_written_is_read(found: list[tuple[int, bytes]], asn: int, hold_s: int) -> None:
    """Also with more optional parameters than one octet counts (RFC 9072)."""
    one = Open(asn, hold_s, ROUTER, tuple(found))
    assert decode(encode(one)) == one


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        one = decode(message(1, body))
        for towards in Towards:
            assert decode(encode(normalised(one, towards))) == normalised(one, towards)
    except (OpenError, NoFamilyError):
        pass


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\4\xfd\xe9\0\x5a\xc0\0\2\1\1",  # the parameters are longer than what is there
        b"\4\xfd\xe9\0\x5a\xc0\0\2\1\0\0",
        b"\4\xfd\xe9\0\x5a\xc0\0\2\1\2\2\1",  # one is cut off
        b"\4\xfd\xe9\0\x5a\xc0\0\2\1\4\2\2\1\4",  # a capability is
        b"\4\xfd\xe9\0\x5a\xc0\0\2\1\2\1\0",  # authentication: RFC 4271 has it no more
    ],
)
def test_malformed(body: bytes) -> None:
    with pytest.raises(OpenError):
        decode(message(1, body))


def test_families_that_are_not_kept_are_taken_out_everywhere() -> None:
    full = an_open(
        MP4,
        MP_EVPN,
        (64, b"\x80\x78\0\1\1\x80\0\x19\x46\x80"),
        (71, b"\0\1\1\x80\0\0\x10\0\x19\x46\x80\0\0\x10"),
        (69, b"\0\1\1\3\0\x19\x46\3"),
        (3, b"\0\1\0\1\1\x40\3"),
    )
    assert normalised(full, Towards.PEER).capabilities == (
        MP4,
        (64, b"\x00\x78\0\1\1\x80"),
        (71, b"\0\1\1\x80\0\0\x10"),
        (69, b"\0\1\1\1"),
    )


def test_without_a_family_there_is_no_session() -> None:
    for towards in Towards:
        with pytest.raises(NoFamilyError, match="add one of them"):
            normalised(an_open(MP_EVPN), towards)
        assert normalised(an_open(), towards).families == {V4}


def test_several_paths_go_from_the_peer_to_the_daemon_only() -> None:
    def add(direction: int) -> Open:
        return an_open(MP4, MP6, (69, bytes([0, 1, 1, direction, 0, 2, 1, direction])))

    both = [normalised(add(3), towards) for towards in (Towards.PEER, Towards.DAEMON)]
    assert agreed(*both).paths == {V4, V6}
    assert not both[0].paths(2)
    assert not both[1].paths(1)
    for daemon, peer in ((2, 3), (3, 1)):
        ends = normalised(add(daemon), Towards.PEER), normalised(add(peer), Towards.DAEMON)
        assert agreed(*ends).paths == frozenset()
    assert not normalised(add(2), Towards.PEER).has(Capability.ADD_PATH)


def test_the_daemon_is_told_that_its_peer_knows_how_to_refresh() -> None:
    """And End-of-RIB: without that FRR never ends the answer that the barrier waits for."""
    passed = normalised(an_open(MP4, (2, b"")), Towards.DAEMON)
    assert passed.capabilities == (MP4, (2, b""), (70, b""), (64, b"\0\0"))
    assert normalised(an_open(MP4), Towards.PEER).capabilities == (MP4,)
    restarts = an_open(MP4, (64, b"\x00\x78\0\1\1\x80"))
    assert normalised(restarts, Towards.DAEMON).capabilities[:2] == restarts.capabilities


def test_what_both_agreed_on() -> None:
    daemon = an_open(MP4, MP6, (6, b""), (65, b"\0\1\0\0"))
    peer = replace(an_open(MP6, (6, b""), (2, b"")), hold_s=30)
    assert agreed(daemon, peer) == Agreed(frozenset({V6}), frozenset(), True, 30)
    assert daemon.asn == 65536
    assert agreed(an_open(MP6), an_open()) == Agreed(frozenset(), frozenset(), False, 90)


def test_what_differs_between_two_daemons_is_named() -> None:
    owner = an_open(MP4, MP6, (2, b""))
    assert differences(owner, replace(owner, capabilities=owner.capabilities[::-1])) == []
    other = Open(65002, 30, IPv4Address("192.0.2.2"), (MP4, (2, b""), (200, b"\1")))
    assert differences(owner, other) == [
        "AS: 65001 on the owner, 65002 on the standby",
        "router id: 192.0.2.1 on the owner, 192.0.2.2 on the standby",
        "hold time: 90 on the owner, 30 on the standby",
        "only the owner has the family ipv6 unicast",
        "only the standby has capability 200 (unknown) 01",
    ]


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        (64, b"\x00\x78\0\1\1\x00", b"\x00\x78\0\1\1\x80"),
        (64, b"\x00\x78\0\1\1\x00\0\2\1\x80", b"\x00\x78\0\1\1\x80\0\2\1\x00"),
        (71, b"\0\1\1\x00\0\x0e\x10", b"\0\1\1\x80\0\x0e\x10"),
    ],
)
def test_whether_routes_were_kept_in_the_kernel_is_no_other_configuration(
    code: int, before: bytes, after: bytes
) -> None:
    """A BIRD that is started again with -R says of each family that they were."""
    one, other = (
        normalised(an_open(MP4, MP6, (code, value)), Towards.PEER) for value in (before, after)
    )
    assert differences(one, other) == []
    assert one != other, "the peer is told"
    changed = replace(other, capabilities=(MP4, MP6, (code, after[:-1] + b"\1")))
    assert len(differences(one, changed)) == 2
