"""The BGP codec, the state machine, and the byte at which the other node goes on."""

import random
import zlib
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.bgp import attributes, memory, prefixes
from prl.bgp.attributes import Attributes
from prl.bgp.errors import BgpError, MemoryLostError, PeerEndedError
from prl.bgp.framing import Framing
from prl.bgp.messages import (
    HEADER_BYTES,
    KEEPALIVE,
    Keepalive,
    Message,
    Notification,
    Open,
    Type,
    Update,
    decode,
    encode,
    frame,
)
from prl.bgp.output import Output
from prl.bgp.session import Session, Settings, State

ROUTER = IPv4Address("192.0.2.1")
OURS = Settings(
    asn=65001,
    router_id=IPv4Address("192.0.2.100"),
    next_hop=IPv4Address("192.0.2.100"),
    peer_asn=65000,
    announced=(ip_network("203.0.113.0/25"), ip_network("203.0.113.128/25")),
)
V4 = ip_network("198.18.1.0/24")
V6 = ip_network("2001:db8:ffff::/48")


def only(data: bytes) -> tuple[Type, bytes]:
    (message,) = Framing().feed(data)
    return message


def peer_input(*updates: Update, asn: int = 65000) -> bytes:
    opened = Open(asn, 9, ROUTER, frozenset({4}))
    messages: list[Message] = [opened, Keepalive(), *updates]
    return b"".join(map(encode, messages))


def announce(*routes: Any) -> Update:
    return Update(attributes=Attributes(as_path=(65000,), next_hop=ROUTER), announced=routes)


@pytest.mark.parametrize(
    "message",
    [
        Open(65001, 90, ROUTER),
        Open(4_200_000_000, 0, ROUTER, frozenset({4, 6})),
        Open(65001, 9, ROUTER, as4=False),
        Keepalive(),
        Notification(6, 2, b"bye"),
        Update(),
        Update(withdrawn=(V4, ip_network("0.0.0.0/0"))),
        announce(V4, ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32")),
        Update(
            attributes=Attributes(
                as_path=(1, 4_200_000_000), reach6=(V6,), next_hop6=IPv6Address("2001:db8::1")
            )
        ),
        Update(attributes=Attributes(unreach6=(V6,))),
        Update(attributes=Attributes(ends_rib6=True)),
    ],
)
def test_a_message_survives_the_wire(message: Message) -> None:
    kind, body = only(encode(message))
    assert decode(kind, body) == message


def test_a_long_as_path_needs_an_extended_length_and_two_octets_are_read() -> None:
    path = tuple(range(1, 201))
    update = Update(attributes=Attributes(as_path=path, next_hop=ROUTER), announced=(V4,))
    for as_bytes in (2, 4):
        kind, body = only(encode(update, as_bytes))
        assert decode(kind, body, as_bytes) == update


def test_messages_are_found_whatever_the_segmentation() -> None:
    stream = peer_input(announce(V4))
    framing = Framing()
    kinds = [kind for at in range(len(stream)) for kind, _ in framing.feed(stream[at : at + 1])]
    assert kinds == [Type.OPEN, Type.KEEPALIVE, Type.UPDATE]


@pytest.mark.parametrize(
    ("data", "code", "subcode"),
    [
        (b"\0" * HEADER_BYTES, 1, 1),
        (b"\xff" * 16 + b"\x00\x12\x04", 1, 2),
        (b"\xff" * 16 + b"\x00\x14\x04", 1, 2),
        (b"\xff" * 16 + b"\x10\x01\x02", 1, 2),
        (b"\xff" * 16 + b"\x00\x13\x07", 1, 3),
        (b"\xff" * 16 + b"\x00\x13\x01", 1, 2),
    ],
)
def test_a_bad_header_is_refused(data: bytes, code: int, subcode: int) -> None:
    with pytest.raises(BgpError) as caught:
        list(Framing().feed(data))
    assert (caught.value.code, caught.value.subcode) == (code, subcode)


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\xff\x00\x00",  # withdrawn routes beyond the message
        b"\x00\x00\x00\xff",  # attributes beyond the message
        b"\x00\x00\x00\x00\x18\xc6\x12\x01",  # a route without NEXT_HOP
        b"\x00\x02\x21\x00\x00\x00",  # prefix of 33 bits
        b"\x00\x00\x00\x02\x40\x01",  # attribute cut off
        b"\x00\x00\x00\x04\x40\x01\x01\x07",  # unknown ORIGIN
        b"\x00\x00\x00\x08\x40\x01\x01\x00\x40\x01\x01\x00",  # the same attribute twice
        b"\x00\x00\x00\x05\x40\x02\x02\x02\x09",  # AS_PATH cut off
        b"\x00\x00\x00\x05\x40\x03\x02\x01\x02",  # NEXT_HOP of two bytes
        b"\x00\x00\x00\x08\x80\x0e\x05\x00\x02\x01\x07\x00",  # next hop of seven bytes
    ],
)
def test_a_malformed_update_is_refused(body: bytes) -> None:
    with pytest.raises(BgpError):
        decode(Type.UPDATE, body)


@given(kind=st.sampled_from(list(Type)), body=st.binary(max_size=300))
def test_hostile_bodies_end_in_a_message_or_a_bgp_error(kind: Type, body: bytes) -> None:
    try:
        framed = frame(kind, body)
        for found, payload in Framing().feed(framed):
            decode(found, payload)
    except BgpError:
        pass


@given(st.binary(max_size=64))
def test_hostile_prefixes_and_attributes_raise_nothing_else(data: bytes) -> None:
    for parse in (
        lambda: prefixes.decode(data, 4),
        lambda: prefixes.decode(data, 6),
        lambda: attributes.decode(data, 4),
        lambda: attributes.decode(data, 2),
    ):
        try:
            parse()
        except BgpError:
            continue


def test_routes_are_learnt_and_withdrawn() -> None:
    session = Session(OURS)
    session.feed(peer_input(announce(V4, ip_network("10.0.0.0/8"))))
    assert session.state is State.ESTABLISHED
    assert session.hold_time_s == 9
    assert set(session.routes) == {V4, ip_network("10.0.0.0/8")}
    session.feed(encode(Update(withdrawn=(V4,))))
    assert set(session.routes) == {ip_network("10.0.0.0/8")}


def test_a_route_that_went_through_us_is_not_learnt() -> None:
    session = Session(OURS)
    about = Attributes(as_path=(65000, 65001), next_hop=ROUTER)
    session.feed(peer_input(announce(V4), Update(attributes=about, announced=(V4,))))
    assert not session.routes


@pytest.mark.parametrize(
    "data",
    [
        encode(Keepalive()),
        encode(announce(V4)),
        encode(Open(65000, 9, ROUTER)) * 2,
        encode(Open(65000, 1, ROUTER)),
        encode(Open(64999, 9, ROUTER)),
    ],
    ids=["keepalive first", "update first", "two opens", "hold time", "wrong as"],
)
def test_what_does_not_belong_ends_the_session_with_a_notification(data: bytes) -> None:
    session = Session(OURS)
    session.output.go_on_at(0)
    with pytest.raises(BgpError):
        session.feed(data)
    messages = list(Framing().feed(session.output.take()))
    assert messages[-1][0] is Type.NOTIFICATION
    assert session.state is State.IDLE


def test_a_notification_ends_the_session() -> None:
    with pytest.raises(PeerEndedError, match="6/4"):
        Session(OURS).feed(encode(Notification(6, 4)))


def primary_stream(keepalives: int) -> bytes:
    session = Session(OURS)
    session.output.go_on_at(0)
    stream = session.output.take()
    session.feed(peer_input())
    stream += session.output.take()
    for _ in range(keepalives):
        session.output.keepalive()
        stream += session.output.take()
    return stream


def test_the_output_goes_on_at_any_byte_of_the_primary_s() -> None:
    stream = primary_stream(4)
    for cut in range(len(stream) + 1):
        standby = Session(OURS)
        assert standby.output.take() == b""
        standby.feed(peer_input())
        standby.output.go_on_at(cut)
        rest = standby.output.take()
        plan = standby.output.plan_bytes
        expected = stream[cut:plan] if cut <= plan else KEEPALIVE[(cut - plan) % 19 or 19 :]
        assert rest == expected
        whole = list(Framing().feed(stream[:cut] + rest))
        assert sum(HEADER_BYTES + len(body) for _, body in whole) == cut + len(rest)


def test_a_standby_that_has_read_less_input_catches_up_before_it_speaks() -> None:
    stream = primary_stream(2)
    rng = random.Random(20)
    fed = peer_input()
    for _ in range(200):
        cut, read = rng.randrange(len(stream) + 1), rng.randrange(len(fed) + 1)
        standby = Session(OURS)
        standby.feed(fed[:read])
        standby.output.go_on_at(cut)
        standby.output.keepalive()
        early = standby.output.take()
        standby.feed(fed[read:])
        standby.output.keepalive()
        total = stream[:cut] + early + standby.output.take()
        plan = stream[: standby.output.plan_bytes]
        assert total.startswith(plan)
        assert set(Framing().feed(total[len(plan) :])) == {(Type.KEEPALIVE, b"")}
        assert (len(total) - len(plan)) % 19 == 0


def test_nothing_is_sent_before_the_plan_is_complete_but_the_plan() -> None:
    output = Output()
    output.go_on_at(0)
    output.plan(b"abc")
    output.keepalive()
    assert output.take() == b"abc"
    assert output.take() == b""


@given(joined=st.integers(0, 400), cut=st.integers(0, 400))
def test_a_speaker_joins_in_at_any_byte_with_the_other_one_s_memory(joined: int, cut: int) -> None:
    stream = peer_input(announce(V4), announce(ip_network("198.18.2.0/23")), Update())
    joined = min(joined, len(stream))
    first = Session(OURS)
    first.output.go_on_at(0)
    first.feed(stream[:joined])
    said = first.output.take()
    second, since = memory.decode(memory.encode(first, "then"), OURS)
    assert since == "then"
    first.feed(stream[joined:])
    said += first.output.take()
    second.feed(stream[joined:])
    assert (second.state, second.peer, second.routes) == (first.state, first.peer, first.routes)
    assert second.received == first.received
    third, _ = memory.decode(memory.encode(second, None), OURS)
    cut = min(cut, len(said))
    third.output.go_on_at(cut)
    assert said[:cut] + third.output.take() == said


@pytest.mark.parametrize("data", [b"", b"x", zlib.compress(b"x"), zlib.compress(b"\x80")])
def test_what_is_no_memory_is_refused(data: bytes) -> None:
    with pytest.raises(MemoryLostError):
        memory.decode(data, OURS)
