"""Two fronts and the channel between them: a standby joins at any time, the owner fails at any.

What prl gives is taken as given, as in test_bgpfront_pair.py; the channel is a stream of bytes that
comes in pieces, and may break and be made again.
"""

from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prl.bgpfront import direction, messages
from prl.bgpfront.ahead import PositionError
from prl.bgpfront.front import SETTLE_S
from prl.bgpfront.messages import (
    Alive,
    All,
    Answered,
    Begin,
    ChannelError,
    End,
    Message,
    Ready,
    Routes,
    Said,
    Say,
    Table,
    decode,
    encode,
)
from prl.bgpfront.owner import SAID_MAX_S, Owner
from prl.bgpfront.session import AGE_S, ALIVE, State
from prl.bgpfront.standby import Standby
from prl.bindings.bgp_rib import Family
from tests.bgp_updates import Route, message
from tests.bgp_updates import Said as SaidOf
from tests.unit.test_bgpfront_pair import Node
from tests.unit.test_bgpfront_session import (
    FEW_ROUTES,
    KINDS,
    OTHERS,
    PEER,
    ROUTES,
    Speaker,
    said_in_kind,
    said_of,
)

ADDRESS = IPv4Address("192.0.2.10")
NUMBERS = st.integers(0, (1 << 64) - 1)
SOME = st.binary(max_size=300)
FAMILIES = st.sampled_from(Family)
MESSAGES = st.one_of(
    st.builds(
        Begin,
        NUMBERS,
        st.ip_addresses(v=4),
        SOME,
        SOME,
        NUMBERS,
        SOME,
        NUMBERS,
        st.lists(st.tuples(FAMILIES, NUMBERS), max_size=5).map(tuple),
    ),
    st.builds(Routes, NUMBERS, st.sampled_from(Table), SOME),
    st.builds(All, NUMBERS, NUMBERS),
    st.builds(Say, NUMBERS, NUMBERS, SOME),
    st.builds(Said, NUMBERS, NUMBERS),
    st.builds(Answered, NUMBERS, NUMBERS, FAMILIES, NUMBERS),
    st.builds(Ready, NUMBERS, st.text(max_size=50)),
    st.builds(End, NUMBERS, st.text(max_size=50)),
    st.just(Alive()),
)


@given(st.lists(MESSAGES, max_size=8), st.integers(1, 40))
def test_messages_come_as_they_were_in_any_pieces(said: list[Message], size: int) -> None:
    raw, stream, heard = b"".join(map(encode, said)), bytearray(), []
    for at in range(0, len(raw), size):
        stream += raw[at : at + size]
        heard += decode(stream)
    assert heard == said
    assert not stream


@given(st.binary(max_size=100), MESSAGES, st.integers(0, 400), st.integers(0, 255))
def test_nonsense_is_refused(noise: bytes, good: Message, at: int, value: int) -> None:
    raw = bytearray(encode(good))
    raw[at % len(raw)] = value
    for stream in (bytearray(noise), raw):
        with suppress(ChannelError):
            list(decode(stream))


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\0\0\14\4" + bytes(8),
        (messages.MESSAGE_MAX_BYTES + 1).to_bytes(4, "big") + bytes(9),
        b"\0\0\0\15\x63" + bytes(8),
        b"\0\0\0\15\3" + bytes(8),
        b"\0\0\0\16\x09" + bytes(9),
        b"\0\0\0\16\2" + bytes(8) + b"\2",
        b"\0\0\0\40\6" + bytes(16) + b"\0\1\5" + bytes(8),
    ],
)
def test_what_is_no_message(raw: bytes) -> None:
    with pytest.raises(ChannelError):
        list(decode(bytearray(raw)))


class Fronts:
    """The owner, the standby, the channel, the peer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.nodes = [Node(), Node()]
        self.peer = Speaker(PEER)
        self.stream = bytearray()
        """What the peer has sent."""
        self.to_standby, self.to_owner = bytearray(), bytearray()
        self.standby: Standby | None = None
        self.owner = Owner(7, ADDRESS, self.nodes[0].session, self._to_standby)
        self.written = 0
        self.is_over = False

    def _to_standby(self, one: Message) -> None:
        self.to_standby += encode(one)

    def _to_owner(self, one: Message) -> None:
        self.to_owner += encode(one)

    def say(self, route: Route, said: SaidOf | None) -> None:
        for node in self.nodes:
            node.daemon.say(route, said)

    def open(self) -> None:
        node = self.nodes[0]
        node.connect_daemon(self.now)
        self.peer.connect()
        node.session.connected(node.session.peer, self.now)

    def join(self) -> bool:
        """The channel is made: whatever was on it before is lost."""
        self.to_standby.clear()
        self.to_owner.clear()
        return self.owner.join()

    def cut(self) -> None:
        self.to_standby.clear()
        self.to_owner.clear()
        self.owner.left("the channel is down")

    def carry(self, size: int) -> bool:
        """Move the channel."""
        moved = False
        piece, rest = self.to_standby[:size], self.to_standby[size:]
        del self.to_standby[:size]
        if piece:
            stream = getattr(self, "_standby_stream", bytearray())
            stream += piece
            self._standby_stream = stream
            for one in decode(stream):
                self._hear(one)
            moved = True
        del rest
        for one in decode(self.to_owner):
            assert isinstance(one, Said)
            self.owner.said(one, self.now)
            moved = True
        return moved

    def _hear(self, one: Message) -> None:
        if isinstance(one, Begin):
            if self.standby is not None and self.standby.session.told is not None:
                self.standby.begin_again(one)
            else:
                self.standby = Standby(one, self.nodes[1].session, self._to_owner, self.now)
        elif self.standby is not None:
            self.standby.hear(one, self.now)

    def from_peer(self, size: int) -> bool:
        self.stream += self.peer.out
        self.peer.out.clear()
        data = bytes(self.stream[self.owner._read : self.owner._read + size])
        if data:
            self.owner.received(data, self.now)
        return bool(data)

    def from_shadow(self, size: int) -> bool:
        if self.standby is None or not self.standby.reads:
            return False
        data = bytes(self.stream[self.standby.read : self.standby.read + size])
        if data:
            self.standby.received(data, self.now)
        return bool(data)

    def write(self, size: int) -> bool:
        out = self.owner.session.peer.out
        count = min(size, self.owner.writable())
        data = bytes(out[:count])
        del out[:count]
        self.peer.take(data)
        self.written += count
        self.owner.wrote(count, self.now)
        return bool(count)

    def commit(self) -> None:
        if self.standby is not None:
            self.standby.committed(self.written)

    def pump(self) -> bool:
        before = len(self.to_standby)
        self.owner.pump_bulk()
        self.owner.pump(self.now)
        return len(self.to_standby) > before

    def move(self, size: int = 1 << 20) -> bool:
        moved = self.from_peer(size)
        self._daemon_comes(self.nodes[0])  # the owner may have failed before the standby's did
        moved |= self.nodes[0].move_daemon(size, self.now)
        moved |= self.pump()
        moved |= self.carry(size)
        moved |= self.from_shadow(size)
        if self.standby is not None and self.standby.is_whole:
            self._daemon_comes(self.nodes[1])
            moved |= self.nodes[1].move_daemon(size, self.now)
        elif self.nodes[1].session.has_parted:
            moved |= self.nodes[1].move_daemon(size, self.now)
        moved |= self.write(size)
        self.commit()
        return moved

    def _daemon_comes(self, node: Node) -> None:
        if not node.session.daemon.connected and node.session.state is State.ABSENT:
            node.connect_daemon(self.now)

    def settle(self, size: int = 1 << 20) -> None:
        for _ in range(200_000):
            if self.move(size):
                continue
            due = [node.front.tick(self.now) for node in self.nodes]
            if self.move(size):
                continue
            soon = [at for at in due if at is not None and at <= self.now + SETTLE_S]
            if not soon:
                return
            self.now = min(soon)
        raise AssertionError("it never ends")

    def fail(self) -> None:
        """The owner is gone; what was on the channel reached the standby."""
        self._swap()
        self._new_node()

    def hand_over(self) -> None:
        """The service is moved: the owner lives, and so does its daemon."""
        former = self.owner.session
        self._swap()
        if not former.part(self.now):
            self._new_node()

    def _new_node(self) -> None:
        self.nodes[1] = Node()
        self.nodes[1].daemon.own = dict(self.nodes[0].daemon.own)

    def _swap(self) -> None:
        assert self.standby is not None
        self.carry(1 << 30)
        self.standby.take_over(self.written, self.now)
        taken, self.standby = self.standby, None
        self.nodes.reverse()
        self.to_standby.clear()
        self.to_owner.clear()
        self._standby_stream = bytearray()
        self.owner = Owner(
            7, ADDRESS, taken.session, self._to_standby, read=taken.read, written=self.written
        )


def a_pair(ours: int = 400, theirs: int = 100) -> Fronts:
    one = Fronts()
    for node in one.nodes:
        node.daemon.own = {route: said_of(route) for route in [*ROUTES[:ours], *OTHERS[:40]]}
    one.peer.own = {r: said_of(r) for r in [*ROUTES[ours : ours + theirs], *OTHERS[40:50]]}
    one.open()
    return one


def followed() -> Fronts:
    """The standby could go on."""
    one = a_pair()
    one.settle()
    one.join()
    one.settle()
    assert one.standby is not None
    assert one.standby.not_ready() == ""
    return one


def in_order(one: Fronts) -> None:
    assert one.owner.session.state is State.RELAY
    assert one.peer.ended is None
    assert one.peer.learnt == one.nodes[0].daemon.own
    assert one.nodes[0].daemon.learnt == one.peer.own


def test_a_front_joins_in_the_middle_and_goes_on() -> None:
    one = a_pair()
    assert not one.join(), "there is no session yet"
    one.settle()
    assert one.join()
    one.settle()
    assert one.standby is not None
    assert one.standby.not_ready() == ""
    assert one.nodes[1].daemon.learnt == one.peer.own
    one.fail()
    one.settle()
    in_order(one)
    assert one.peer.withdrawn == one.peer.repeated == 0


def test_the_nodes_fail_in_turns() -> None:
    one = a_pair()
    one.settle()
    for number in range(4):
        assert one.join()
        one.settle()
        one.say(ROUTES[number], None)
        one.peer.say(ROUTES[400 + number], None)
        one.settle()
        assert one.standby is not None
        assert one.standby.not_ready() == ""
        one.fail()
        one.settle()
        in_order(one)
    assert (one.peer.withdrawn, one.peer.repeated) == (4, 0)


def test_the_peer_stands_in_the_middle_of_a_message_when_a_front_joins() -> None:
    one = a_pair()
    one.settle()
    one.peer.say(ROUTES[400], None)
    one.from_peer(25)
    assert one.join()
    one.settle()
    one.fail()
    one.settle()
    in_order(one)


def test_an_owner_that_has_not_told_all_cannot_be_followed() -> None:
    one = a_pair()
    one.settle()
    one.join()
    one.pump()
    one.carry(1 << 20)
    assert one.standby is not None
    assert "not been told" in one.standby.not_ready()
    assert not one.from_shadow(1 << 20), "what comes before ALL is in the tables"
    with pytest.raises(PositionError):
        one.fail()


def test_what_was_only_to_be_said_when_a_front_joined_is_not_counted_on() -> None:
    """The tables that it is given have what waits for the peer: until that is on its way, no."""
    one = a_pair()
    one.settle()
    one.say(ROUTES[0], None)
    one.nodes[0].move_daemon(1 << 20, one.now)
    one.join()
    while one.pump():
        one.carry(1 << 20)
    assert one.standby is not None
    assert one.standby.is_whole
    with pytest.raises(PositionError):
        one.standby.take_over(one.written, one.now)
    one.settle()
    assert one.standby.not_ready() == ""
    one.fail()
    one.settle()
    in_order(one)


def test_a_channel_that_is_made_again() -> None:
    one = followed()
    one.cut()
    one.say(ROUTES[0], None)
    one.peer.say(ROUTES[400], None)
    one.settle()
    assert one.standby is not None
    assert one.peer.learnt == one.nodes[0].daemon.own, "nobody waits for a standby that is away"
    assert one.nodes[1].daemon.learnt == one.peer.own, "the shadow goes on"
    for _ in range(2):
        one.now += AGE_S
        one.settle()
    assert one.standby.not_ready() != ""
    one.join()
    one.settle()
    assert one.standby.not_ready() == ""
    one.fail()
    one.settle()
    in_order(one)
    assert (one.peer.withdrawn, one.peer.repeated) == (1, 0)


def test_a_channel_that_breaks_again_before_all_has_been_told() -> None:
    """What was heard came from the shadow all the same: it is kept, and the shadow is read."""
    one = followed()
    one.join()
    one.pump()
    one.carry(400)
    assert one.standby is not None
    assert not one.standby.is_whole
    one._standby_stream = bytearray()
    one.cut()
    one.join()
    one.pump()
    one.carry(400)
    assert not one.standby.is_whole
    one.peer.say(ROUTES[400], None)
    one.from_peer(1 << 20)
    assert one.from_shadow(1 << 20), "unread, it would hold up the peer"
    one.settle()
    assert one.standby.not_ready() == ""
    assert one.nodes[1].daemon.learnt == one.peer.own
    assert one.nodes[1].daemon.repeated == 0
    one.fail()
    one.settle()
    in_order(one)


def moved(one: Fronts) -> None:
    one.hand_over()
    one.join()
    one.settle()


def test_what_the_former_owner_did_not_come_to_say_was_not_told() -> None:
    """Its daemon alone wanted it, for a moment; the peer has never heard of it."""
    one = followed()
    one.nodes[0].daemon.say(ROUTES[450], said_of(ROUTES[450]))
    one.nodes[0].move_daemon(1 << 20, one.now)
    one.nodes[0].daemon.say(ROUTES[450], None)
    assert one.owner.session.peer.out
    moved(one)
    for _ in range(2):
        one.now += AGE_S
        one.settle()
    assert one.standby is not None
    assert one.standby.not_ready() == ""
    one.fail()
    one.settle()
    in_order(one)
    assert (one.peer.withdrawn, one.peer.repeated) == (0, 0)


def test_a_daemon_that_stays_is_given_nothing_before_all_has_been_told() -> None:
    one = followed()
    one.hand_over()
    one.join()
    daemon = one.nodes[1].daemon
    for _ in range(8):
        one.pump()
        one.carry(40)
        daemon.out += message(5, b"\0\1\0\1")
        one.nodes[1].move_daemon(1 << 20, one.now)
    assert one.standby is not None
    assert not one.standby.is_whole
    one.settle()
    assert one.standby.not_ready() == ""
    assert daemon.withdrawn == 0


def test_an_answer_that_comes_when_the_service_is_back_is_no_news() -> None:
    """A slow daemon was asked for all it wants; meanwhile the service went away and came back."""
    one = followed()
    slow = one.nodes[0].daemon
    slow.unread = []
    one.owner.session.hold(one.now)
    one.settle()
    assert slow.unread
    moved(one)
    asked, slow.unread = slow.unread, None
    moved(one)
    for question in asked:
        slow._refresh(question)
    one.settle()
    in_order(one)
    assert (one.peer.withdrawn, one.peer.repeated) == (0, 0)


def test_a_standby_that_does_not_acknowledge_is_late() -> None:
    one = followed()
    assert one.owner.late(one.now) is None
    one.say(ROUTES[0], None)
    one.nodes[0].move_daemon(1 << 20, one.now)
    one.pump()
    assert one.owner.late(one.now) == one.now + SAID_MAX_S
    assert not one.write(1 << 20)
    one.owner.left("it does not answer")
    assert one.owner.late(one.now) is None
    assert one.write(1 << 20)


def test_a_route_refresh_is_answered_once_whoever_answers() -> None:
    for when in ("not", "in part", "whole"):
        one = a_pair()
        one.settle()
        one.join()
        one.settle()
        one.peer.out += message(5, b"\0\1\0\1")
        if when == "not":
            one.stream += one.peer.out
            one.peer.out.clear()
        elif when == "in part":
            one.from_peer(1 << 20)
            one.pump()
            one.carry(1 << 20)
            one.write(1000)
        else:
            one.settle()
        one.from_shadow(1 << 20)
        one.commit()
        one.fail()
        one.settle()
        in_order(one)
        repeated = one.peer.repeated
        assert repeated == 400 if when != "in part" else repeated > 400, when


def test_a_peer_that_asks_without_end_and_reads_nothing_is_answered_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the standby joins, and behind it."""
    monkeypatch.setattr(direction, "OUT_LOW_BYTES", 1000)
    one = a_pair()
    one.settle()
    told = one.owner.session.told
    assert told is not None

    def ask(count: int) -> None:
        one.peer.out += message(5, b"\0\1\0\1") * count
        one.from_peer(1 << 20)

    ask(10_000)
    assert len(told._answers) == 2
    assert one.join()
    ask(10_000)
    assert len(told._answers) == 2
    one.settle()
    assert one.standby is not None
    assert not any(one.standby.session._asked_again.values())
    assert one.peer.repeated == 2 * 400
    one.fail()
    one.settle()
    in_order(one)
    assert one.peer.repeated == 2 * 400


def test_a_table_of_no_use_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    one = a_pair()
    one.settle()
    assert one.owner.session.heard is not None
    monkeypatch.setattr(one.owner.session.heard, "incomplete", True)
    assert not one.join()
    assert "of no use" in one.owner.why_not_ready


def test_what_makes_no_sense_is_refused() -> None:
    one = a_pair()
    one.settle()
    one.join()
    one.pump()
    one.carry(1 << 20)
    standby = one.standby
    assert standby is not None
    for updates in (b"\0" * 30, ALIVE[:10]):
        with pytest.raises(ChannelError):
            standby.hear(Routes(7, Table.HEARD, updates), one.now)
    with pytest.raises(PositionError):
        standby.hear(Say(7, 1 << 40, ALIVE), one.now)
    one.settle()
    with pytest.raises(ChannelError):
        standby.hear(Routes(7, Table.TOLD, b""), one.now)


class Life(RuleBasedStateMachine):
    """Whatever is said and however it moves; fronts join, channels break, owners fail."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Fronts()
        self.one.open()
        self.one.settle()

    @rule(route=FEW_ROUTES, kind=KINDS)
    def daemons_say(self, route: Route, kind: int) -> None:
        self.one.say(route, said_in_kind(route, kind))

    @rule(route=FEW_ROUTES, kind=KINDS)
    def peer_says(self, route: Route, kind: int) -> None:
        self.one.peer.say(route, said_in_kind(route, kind))

    @rule(size=st.integers(1, 200), times=st.integers(1, 20))
    def move(self, size: int, times: int) -> None:
        for _ in range(times):
            self.one.move(size)

    @rule(size=st.integers(1, 100), what=st.integers(0, 6))
    def move_one(self, size: int, what: int) -> None:
        one = self.one
        (
            lambda: one.from_peer(size),
            lambda: one.from_shadow(size),
            one.pump,
            lambda: one.carry(size),
            lambda: one.write(size),
            lambda: one.nodes[0].move_daemon(size, one.now),
            one.commit,
        )[what]()

    @rule()
    def the_channel_is_made(self) -> None:
        self.one._standby_stream = bytearray()
        self.one.join()

    @rule()
    def the_channel_breaks(self) -> None:
        self.one._standby_stream = bytearray()
        self.one.cut()

    @rule()
    def the_peer_asks_again(self) -> None:
        self.one.peer.out += message(5, b"\0\1\0\1")

    @rule()
    def a_daemon_restarts(self) -> None:
        self.one.nodes[0].kill_daemon(self.one.now)
        self.one.nodes[0].connect_daemon(self.one.now)

    @rule(lives=st.booleans())
    def the_owner_fails_or_hands_over(self, lives: bool) -> None:
        one = self.one
        if one.standby is not None and one.owner.is_followed:
            one.carry(1 << 30)
            if one.standby.is_whole and one.standby._ahead.is_exact:
                one.hand_over() if lives else one.fail()

    @rule()
    def time_passes(self) -> None:
        self.one.settle(size=100)

    @invariant()
    def the_peer_never_notices(self) -> None:
        assert self.one.peer.ended is None
        assert self.one.peer.is_up
        if self.one.standby is not None:
            assert not self.one.standby.session.peer.out

    def teardown(self) -> None:
        self.one.settle()
        in_order(self.one)


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
