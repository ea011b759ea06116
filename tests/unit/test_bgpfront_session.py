"""A front's session between a daemon that dies and comes back and a peer that must not notice.

Both ends are speakers that know the RFCs and nothing of prl; bytes go in pieces of any size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prl.bgpfront import direction
from prl.bgpfront.front import LEFT_MAX_S, READ_MAX_S, SETTLE_MAX_S, SETTLE_S, Front
from prl.bgpfront.opening import Open, decode, encode
from prl.bgpfront.session import (
    ABSORBED,
    ALIVE,
    ANSWER_MAX_S,
    ASK_AGAIN_S,
    End,
    Session,
    Settings,
    State,
)
from prl.bindings.bgp_rib import Family
from tests.bgp_updates import (
    V4,
    Route,
    Said,
    Table,
    announce,
    message,
    mp_unreach,
    read,
    take_messages,
    update,
    withdraw,
)
from tests.unit.test_bgp_rib import FIELDS, MALFORMED, REACH

V6 = Family.IPV6_UNICAST
MP4, MP6 = (1, b"\0\1\0\1"), (1, b"\0\2\0\1")
DAEMON = Open(65001, 9, IPv4Address("192.0.2.100"), (MP4, MP6, (2, b""), (70, b""), (73, b"\2re")))
PEER = Open(65002, 9, IPv4Address("192.0.2.10"), (MP4, MP6, (2, b"")))


@dataclass
class Speaker:
    """An end of a BGP session; ``own`` is what it announces, ``learnt`` what it was told."""

    opens: Open
    own: Table = field(default_factory=dict)
    learnt: Table = field(default_factory=dict)
    out: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    is_up: bool = False
    other: Open | None = None
    ended: tuple[int, int] | None = None
    withdrawn: int = 0
    repeated: int = 0
    """Routes that it was told again as it had them."""
    refreshed: list[bytes] = field(default_factory=list)
    is_silent: bool = False
    deaf_to: int = 0
    """So many ROUTE-REFRESHes are not answered."""
    unread: list[bytes] | None = None
    """ROUTE-REFRESHes that it comes to later, if it is slow."""
    sees: list[int] = field(default_factory=list)
    """Types of messages."""

    def connect(self) -> None:
        self.out[:] = encode(self.opens)
        self.received.clear()
        self.learnt.clear()
        self.is_up, self.other, self.ended = False, None, None

    def say(self, route: Route, said: Said | None) -> None:
        if said is None:
            if self.own.pop(route, None) is not None and self.is_up:
                self.out += withdraw([route])
        else:
            self.own[route] = said
            if self.is_up:
                self.out += announce([route], said)

    def announce_all(self) -> None:
        for route, said in self.own.items():
            self.out += announce([route], said)
        self.out += update() + update(attributes=mp_unreach(V6))

    def take(self, data: bytes) -> None:
        self.received += data
        for one in take_messages(self.received):
            self._message(one)

    def _message(self, one: bytes) -> None:
        kind = one[18]
        self.sees.append(kind)
        if kind == 1:
            self.other = decode(one)
            self.out += ALIVE
        elif kind == 2:
            assert self.is_up
            self._update(one)
        elif kind == 3:
            self.ended, self.is_up = (one[19], one[20]), False
        elif kind == 4 and not self.is_up:
            self.is_up = True
            self.announce_all()
        elif kind == 5:
            self._refresh(one)

    def _update(self, one: bytes) -> None:
        said = read(one)
        for route in said.withdrawn:
            self.withdrawn += 1
            self.learnt.pop(route, None)
        for route, what in said.announced:
            self.repeated += self.learnt.get(route) == what
            self.learnt[route] = what

    def _refresh(self, one: bytes) -> None:
        self.refreshed.append(one[19:])
        if self.unread is not None:
            self.unread.append(one)
        elif self.deaf_to:
            self.deaf_to -= 1
        elif one[21] == 0:
            family = {(0, 1): V4, (0, 2): V6}[one[19], one[20]]
            self.out += message(5, one[19:21] + b"\1" + one[22:])
            for route, said in self.own.items():
                if route.family is family:
                    self.out += announce([route], said)
            self.out += message(5, one[19:21] + b"\2" + one[22:])


class Rig:
    """One session, its front, and what its two connections carry."""

    def __init__(self, daemon: Open = DAEMON, peer: Open = PEER, **more: object) -> None:
        self.now = 100.0
        self.told: list[str] = []
        self.session = Session(replace(Settings(), **more), self.told.append)  # type: ignore[arg-type]
        self.front = Front([self.session], lambda: bool(self.daemon.received))
        self.daemon, self.peer = Speaker(daemon), Speaker(peer)
        self.reads_peer = True

    def state(self) -> State:
        return self.session.state

    def connect_peer(self) -> None:
        self.peer.connect()
        self.session.connected(self.session.peer, self.now)

    def connect_daemon(self) -> None:
        self.daemon.connect()
        self.session.connected(self.session.daemon, self.now)

    def open(self) -> None:
        self.connect_daemon()
        self.connect_peer()
        self.settle()
        assert self.session.state is State.RELAY
        assert self.daemon.is_up
        assert self.peer.is_up

    def kill_daemon(self) -> None:
        if self.session.daemon.connected:
            self.daemon.is_up = False
            self.session.closed(self.session.daemon, self.now)

    def move(self, size: int = 1 << 20) -> bool:
        """A piece in each direction of each connection; whether anything moved."""
        moved = False
        pairs: tuple[tuple[End, Speaker, Callable[[], bool]], ...] = (
            (self.session.peer, self.peer, lambda: self.reads_peer),
            (self.session.daemon, self.daemon, lambda: True),
        )
        for end, speaker, reads in pairs:
            if not end.connected:
                continue
            if speaker.out:
                data = bytes(speaker.out[:size])
                del speaker.out[:size]
                self.session.received(end, data, self.now)
                moved = True
            if end.out and reads():
                data = bytes(end.out[:size])
                del end.out[:size]
                speaker.take(data)
                self.session.written(self.now)
                moved = True
            if end.closing and not end.out:
                speaker.is_up = False
                self.session.closed(end, self.now)
                moved = True
        return moved

    def settle(self, size: int = 1 << 20) -> None:
        for _ in range(200_000):
            if self.move(size):
                continue
            due = self.front.tick(self.now)
            if self.move(size):
                continue
            if due is None or due > self.now + SETTLE_S:
                return
            self.now = due
        raise AssertionError("it never ends")

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.5)
            for speaker in (self.daemon, self.peer):
                if speaker.is_up and not speaker.is_silent:
                    speaker.out += ALIVE
            self.front.tick(self.now)
            while self.move():
                pass


ROUTES = [Route(V4, f"10.{n >> 8}.{n & 255}.0/24") for n in range(3000)]
OTHERS = [Route(V6, f"2001:db8:{n:x}::/48") for n in range(1, 301)]


def said_of(route: Route) -> Said:
    return FIELDS if route.family is V4 else REACH


@pytest.fixture
def rig() -> Rig:
    one = Rig()
    one.daemon.own = {route: said_of(route) for route in [*ROUTES[:1000], *OTHERS[:100]]}
    one.peer.own = {route: said_of(route) for route in [*ROUTES[1000:], *OTHERS[100:]]}
    one.open()
    return one


def test_a_session_opens_through_the_front(rig: Rig) -> None:
    assert rig.peer.learnt == rig.daemon.own
    assert rig.daemon.learnt == rig.peer.own
    assert rig.peer.other is not None
    assert rig.daemon.other is not None
    assert rig.peer.other.capabilities == DAEMON.capabilities[:-1], "without the host's name"
    assert rig.daemon.other.capabilities == (*PEER.capabilities, (70, b""), (64, b"\0\0"))
    assert (rig.peer.other.asn, rig.daemon.other.asn) == (65001, 65002)


def test_a_daemon_that_dies_and_comes_back_is_not_noticed(rig: Rig) -> None:
    before = len(rig.peer.sees)
    rig.kill_daemon()
    rig.sleep(30)
    assert rig.state() is State.ABSENT
    assert rig.peer.is_up
    assert set(rig.peer.sees[before:]) == {4}, "KEEPALIVEs, and nothing else"
    rig.connect_daemon()
    rig.settle()
    assert rig.state() is State.RELAY
    assert set(rig.peer.sees[before:]) == {4}
    assert rig.daemon.learnt == rig.peer.own
    assert rig.peer.learnt == rig.daemon.own
    assert rig.peer.withdrawn == rig.peer.repeated == 0
    assert len(rig.daemon.refreshed) == 2, "the barrier"


def test_only_the_difference_is_told(rig: Rig) -> None:
    rig.kill_daemon()
    rig.daemon.own.pop(ROUTES[0])
    new = Route(V4, "192.0.2.0/24")
    rig.daemon.own[new] = FIELDS
    rig.peer.say(Route(V4, "198.51.100.0/24"), FIELDS)
    rig.peer.say(ROUTES[1000], None)
    rig.connect_daemon()
    rig.settle()
    assert rig.peer.learnt == rig.daemon.own
    assert rig.daemon.learnt == rig.peer.own
    assert (rig.peer.withdrawn, rig.peer.repeated) == (1, 0)


def test_a_daemon_that_announces_slowly_withdraws_nothing(rig: Rig) -> None:
    """Its End-of-RIB, and quiet, come long before it has said all."""
    all_of_it = dict(rig.daemon.own)
    rig.kill_daemon()
    rig.daemon.own = {}
    rig.connect_daemon()
    for _ in range(50):  # it opens, and says End-of-RIB of nothing
        rig.move()
    assert rig.daemon.is_up
    rig.now += 10 * SETTLE_S
    rig.daemon.own = all_of_it  # before it answers the ROUTE-REFRESH
    rig.daemon.out += b"".join(announce([r], s) for r, s in list(all_of_it.items())[:500])
    rig.settle()
    assert rig.peer.withdrawn == rig.peer.repeated == 0
    assert rig.state() is State.RELAY


@pytest.mark.parametrize("answers_after_s", [0.0, 8.0])
def test_a_daemon_that_is_never_quiet_is_heard_all_the_same(
    rig: Rig, answers_after_s: float
) -> None:
    """Its peers change their minds all the time: a while after its answer is enough."""
    rig.kill_daemon()
    rig.daemon.unread = []
    rig.connect_daemon()
    for _ in range(50):
        rig.move()
    assert rig.state() is State.BARRIER

    def talk(seconds: float) -> None:
        for number in range(int(seconds / 0.1)):
            rig.daemon.say(ROUTES[0], said_in_kind(ROUTES[0], 1 + number % 2))
            rig.now += 0.1
            rig.peer.out += ALIVE
            rig.front.tick(rig.now)
            rig.move()

    talk(answers_after_s + 0.1)
    asked, rig.daemon.unread = rig.daemon.unread, None
    assert asked
    for one in asked:
        rig.daemon._refresh(one)
    talk(max(SETTLE_MAX_S, answers_after_s) - 0.5)
    assert rig.state() is State.BARRIER
    talk(1.5)
    assert rig.state() is State.RELAY
    rig.settle()
    assert rig.peer.learnt == rig.daemon.own
    assert rig.peer.withdrawn == 0


def test_a_daemon_that_never_has_read_all_is_asked_all_the_same(rig: Rig) -> None:
    rig.kill_daemon()
    rig.front._unread = lambda: True
    rig.connect_daemon()
    for _ in range(50):
        rig.move()
    rig.sleep(READ_MAX_S - 5)
    assert not rig.daemon.refreshed
    rig.sleep(5 + SETTLE_MAX_S + 1)
    assert rig.daemon.refreshed
    assert rig.state() is State.RELAY


def test_a_daemon_that_loses_the_question_is_asked_again(rig: Rig) -> None:
    """As BIRD does that is asked before it has begun to announce: no End-of-RR ever comes."""
    rig.kill_daemon()
    rig.daemon.deaf_to = 4  # both families, twice
    rig.connect_daemon()
    rig.settle()
    assert rig.state() is State.BARRIER
    rig.sleep(3 * ASK_AGAIN_S)
    assert rig.state() is State.RELAY
    assert len(rig.daemon.refreshed) == 6
    assert rig.peer.withdrawn == rig.peer.repeated == 0
    assert rig.peer.learnt == rig.daemon.own


def test_a_question_that_was_lost_is_forgotten(rig: Rig) -> None:
    """Its answer would be no news; what the daemon says must not be looked at so for ever."""
    rig.kill_daemon()
    rig.daemon.deaf_to = 1
    rig.connect_daemon()
    rig.settle()
    rig.sleep(2 * ASK_AGAIN_S)
    assert rig.state() is State.RELAY
    assert rig.session.told is not None
    assert not rig.session.told.keeps_up, "the answer may be late"
    rig.sleep(ANSWER_MAX_S)
    assert rig.state() is State.RELAY
    assert rig.session.told.keeps_up
    assert rig.peer.withdrawn == rig.peer.repeated == 0


def test_a_slow_daemon_answers_twice_and_the_peer_is_told_nothing_again(rig: Rig) -> None:
    rig.kill_daemon()
    rig.daemon.unread = []
    rig.connect_daemon()
    rig.settle()
    rig.sleep(ASK_AGAIN_S + 1)
    first, again = rig.daemon.unread[:2], rig.daemon.unread[2:]
    assert len(first) == len(again) == 2
    rig.daemon.unread = None
    for one in first:
        rig.daemon._refresh(one)
    rig.settle()
    assert rig.state() is State.RELAY
    late = Route(V4, "192.0.2.0/24")
    rig.daemon.own[late] = FIELDS
    for one in again:
        rig.daemon._refresh(one)
    rig.settle()
    assert rig.peer.withdrawn == rig.peer.repeated == 0
    assert rig.peer.learnt == rig.daemon.own
    rig.daemon.say(late, None)
    rig.settle()
    assert rig.peer.learnt == rig.daemon.own


def test_a_daemon_that_never_answers_is_reset(rig: Rig) -> None:
    rig.session.settings = replace(Settings(), daemon_return_s=2 * ANSWER_MAX_S)
    rig.kill_daemon()
    rig.daemon.deaf_to = 1 << 30
    rig.connect_daemon()
    rig.settle()
    rig.sleep(ANSWER_MAX_S + 1)
    assert rig.state() is State.ABSENT
    assert rig.daemon.ended == (6, 4)
    assert rig.peer.is_up
    assert "the daemon does not answer a ROUTE-REFRESH" in rig.told
    rig.daemon.deaf_to = 0
    rig.connect_daemon()
    rig.settle()
    assert rig.state() is State.RELAY


@pytest.mark.parametrize("body", [*map(bytes, sorted(ABSORBED)), b"\6\x09\6\3", b"\6\x09\6\2bye"])
def test_notifications_of_a_daemon_that_stops_are_kept(rig: Rig, body: bytes) -> None:
    """Also those that a Hard Reset wraps (RFC 8538)."""
    rig.daemon.out += message(3, body)
    rig.settle()
    assert rig.state() is State.ABSENT
    assert not rig.session.daemon.connected
    assert rig.peer.ended is None
    rig.connect_daemon()
    rig.settle()
    assert rig.state() is State.RELAY
    assert rig.peer.withdrawn == rig.peer.repeated == 0


@pytest.mark.parametrize("body", [b"\6\1", b"\3\1", b"\6\5", b"\6\x09", b"\6\x09\6\1"])
def test_other_notifications_end_the_session(rig: Rig, body: bytes) -> None:
    rig.daemon.out += message(3, body)
    rig.settle()
    assert rig.peer.ended == (body[0], body[1])
    assert rig.state() is State.DOWN
    assert not rig.session.peer.connected
    rig.open()
    assert rig.peer.learnt == rig.daemon.own


def test_which_of_two_connections_the_daemon_keeps_is_between_it_and_the_front() -> None:
    rig = Rig(absorbed=frozenset())
    rig.open()
    rig.daemon.out += message(3, b"\6\7")
    rig.settle()
    assert rig.state() is State.ABSENT
    assert rig.peer.ended is None


def test_the_daemon_keeps_the_connection_that_stands_or_of_the_greater_identifier() -> None:
    """RFC 4271 section 6.8, of a daemon that the front has connected to, and that connects."""
    greater = replace(PEER, router_id=IPv4Address("192.0.2.200"))
    for peer, is_kept in ((PEER, False), (greater, True)):
        rig = Rig(peer=peer)
        assert not rig.session.keeps_incoming()
        rig.connect_daemon()
        rig.connect_peer()
        rig.session.received(rig.session.daemon, encode(DAEMON), rig.now)
        assert not rig.session.keeps_incoming(), "the peer has not said who it is"
        rig.session.received(rig.session.peer, encode(peer), rig.now)
        assert rig.session.keeps_incoming() is is_kept
        rig.session.received(rig.session.daemon, ALIVE, rig.now)
        assert rig.session.keeps_incoming(), "it stands"
        rig.session.received(rig.session.peer, ALIVE, rig.now)
        rig.kill_daemon()
        rig.connect_daemon()
        assert not rig.session.keeps_incoming(), "it may be another daemon"
        rig.session.received(rig.session.daemon, encode(DAEMON), rig.now)
        assert rig.session.keeps_incoming() is is_kept


def test_what_is_absorbed_is_a_setting() -> None:
    rig = Rig(absorbed=frozenset())
    rig.open()
    rig.daemon.out += message(3, b"\6\2")
    rig.settle()
    assert rig.peer.ended == (6, 2)


def test_the_peer_ends_the_session(rig: Rig) -> None:
    rig.peer.out += message(3, b"\6\4")
    rig.settle()
    assert rig.daemon.ended == (6, 4)
    assert rig.state() is State.DOWN
    rig.open()


def test_the_end_of_the_peers_connection_is_the_daemons(rig: Rig) -> None:
    rig.session.closed(rig.session.peer, rig.now)
    rig.settle()
    assert rig.state() is State.DOWN
    assert not rig.session.daemon.connected


def test_a_daemon_that_does_not_come_back_takes_its_session_with_it(rig: Rig) -> None:
    rig.kill_daemon()
    rig.sleep(Settings().daemon_return_s + 1)
    assert rig.state() is State.DOWN
    assert not rig.session.peer.connected
    assert rig.peer.ended is None, "as though it had died: a peer may know graceful restart"


def test_a_daemon_that_crashes_again_and_again_takes_its_session_with_it(rig: Rig) -> None:
    """It never comes to say what it wants: what the peer was told is as old as the first crash."""
    rig.daemon.deaf_to = 1 << 30
    began = rig.now
    while rig.now < began + Settings().daemon_return_s:
        assert rig.peer.is_up
        rig.kill_daemon()
        rig.sleep(1)
        rig.connect_daemon()
        rig.sleep(19)
        assert rig.state() is State.BARRIER
    rig.sleep(20)
    assert rig.state() is State.BARRIER, "one that stays is waited for"
    rig.kill_daemon()
    rig.sleep(1)
    assert rig.state() is State.DOWN


def test_each_crash_has_its_time(rig: Rig) -> None:
    """Once the daemon has said all that it wants."""
    for _ in range(3):
        rig.kill_daemon()
        rig.sleep(Settings().daemon_return_s - 10)
        rig.connect_daemon()
        rig.settle()
        assert rig.state() is State.RELAY


def test_a_daemon_that_hangs_is_dropped_and_its_session_is_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.daemon, "take", lambda _data: None)
    rig.daemon.is_silent = True
    rig.sleep(20)
    assert rig.state() is State.ABSENT
    assert rig.peer.is_up
    assert any("hangs" in one for one in rig.told)


def test_a_silent_peer_is_told_so(rig: Rig) -> None:
    rig.peer.is_silent = True
    rig.sleep(20)
    assert rig.peer.ended == (4, 0)
    assert rig.state() is State.DOWN


def test_a_daemon_with_another_configuration_ends_the_session(rig: Rig) -> None:
    rig.kill_daemon()
    rig.daemon.opens = replace(DAEMON, router_id=IPv4Address("192.0.2.101"))
    rig.connect_daemon()
    rig.settle()
    assert rig.peer.ended == (6, 6)
    assert any("router id" in one for one in rig.told)
    rig.open()


def test_a_name_is_no_other_configuration(rig: Rig) -> None:
    rig.kill_daemon()
    rig.daemon.opens = replace(DAEMON, capabilities=(*DAEMON.capabilities[:-1], (73, b"\1x")))
    rig.connect_daemon()
    rig.settle()
    assert rig.state() is State.RELAY


def test_a_route_refresh_is_answered_with_what_was_told(rig: Rig) -> None:
    rig.peer.out += message(5, b"\0\1\0\1")
    rig.settle()
    assert rig.peer.repeated == 1000
    assert rig.peer.refreshed == [], "it does not know the bounds of RFC 7313"
    rig.daemon.out += message(5, b"\0\2\0\1")
    rig.settle()
    assert rig.daemon.repeated == 200
    assert rig.daemon.refreshed == [b"\0\2\1\1", b"\0\2\2\1"]


def test_a_route_refresh_while_the_daemon_is_away(rig: Rig) -> None:
    rig.kill_daemon()
    rig.peer.out += message(5, b"\0\1\0\1")
    rig.settle()
    assert rig.peer.repeated == 1000
    assert rig.peer.learnt == rig.daemon.own


def test_a_slow_peer_gets_only_the_newest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direction, "OUT_HIGH_BYTES", 2000)
    monkeypatch.setattr(direction, "OUT_LOW_BYTES", 1000)
    rig.reads_peer = False
    route = ROUTES[0]
    for number in range(500):
        rig.daemon.say(
            route, replace(FIELDS, attributes=(*FIELDS.attributes, (0x80, 99, bytes(number))))
        )
        rig.move()
    assert len(rig.session.peer.out) < 4000
    assert rig.session.told is not None
    assert rig.session.told.behind
    rig.peer.sees.clear()
    rig.reads_peer = True
    rig.settle()
    assert rig.peer.learnt == rig.daemon.own
    assert rig.peer.sees.count(2) < 50


@pytest.mark.parametrize("whole", list(MALFORMED.values())[1:], ids=list(MALFORMED)[1:])
def test_a_malformed_update_of_the_peer_is_the_daemons_to_refuse(
    rig: Rig, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(rig.daemon, "_update", seen.append)
    rig.peer.out += whole
    rig.settle()
    assert seen == [whole]
    assert rig.state() is State.RELAY
    rig.kill_daemon()  # it might go on: but then nobody knows what it has
    rig.settle()
    assert rig.state() is State.DOWN


def test_a_malformed_update_that_nobody_can_refuse_ends_the_session(rig: Rig) -> None:
    rig.kill_daemon()
    rig.peer.out += MALFORMED["an announced prefix of 33 bits"]
    rig.settle()
    assert rig.state() is State.DOWN
    assert rig.peer.ended == (6, 8)


def test_a_malformed_update_of_the_daemon_does_not_reach_the_peer(rig: Rig) -> None:
    rig.daemon.out += MALFORMED["an announced prefix of 33 bits"]
    rig.settle()
    assert rig.daemon.ended == (3, 1)
    assert rig.state() is State.ABSENT
    assert rig.peer.is_up


def test_what_is_no_message_is_the_daemons_to_refuse(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = bytearray()
    monkeypatch.setattr(rig.daemon, "take", got.extend)
    rig.peer.out += b"GET / HTTP/1.1\r\n\r\n"
    rig.settle()
    assert got.endswith(b"GET / HTTP/1.1\r\n\r\n")


def test_a_table_that_is_too_small_lets_a_session_go_on_unprotected() -> None:
    rig = Rig(routes_max=100)
    rig.daemon.own = dict.fromkeys(ROUTES[:1000], FIELDS)
    rig.open()
    assert rig.peer.learnt == rig.daemon.own
    rig.kill_daemon()
    rig.settle()
    assert rig.state() is State.DOWN


def test_opening_that_does_not_end() -> None:
    rig = Rig()
    rig.connect_daemon()
    rig.sleep(239)
    assert rig.state() is State.OPENING
    rig.sleep(2)
    assert rig.state() is State.DOWN


def test_no_session_without_a_family_that_is_kept() -> None:
    evpn = replace(PEER, capabilities=((1, b"\0\x19\0\x46"),))
    rig = Rig(peer=evpn)
    rig.connect_daemon()
    rig.connect_peer()
    rig.settle()
    assert rig.peer.ended == rig.daemon.ended == (2, 7)
    assert rig.state() is State.DOWN


def two_sessions() -> tuple[Rig, Rig]:
    """Of one daemon, which announces the same routes in both."""
    one, other = Rig(), Rig()
    one.front = other.front = Front([one.session, other.session], lambda: False)
    for rig in (one, other):
        rig.daemon.own = dict.fromkeys(ROUTES[:10], FIELDS)
        rig.open()
    return one, other


def sleep_both(one: Rig, other: Rig, seconds: float) -> None:
    for _ in range(int(seconds / 0.5)):
        one.sleep(0.5)
        other.now = one.now - 0.5
        other.sleep(0.5)


def test_what_a_daemon_says_to_one_peer_waits_while_it_restarts_the_session_with_another() -> None:
    """It withdraws from all what it had from the one whose session is away."""
    one, other = two_sessions()
    one.kill_daemon()
    one.settle()
    assert other.session.state is State.BARRIER
    for route in ROUTES[:10]:
        other.daemon.say(route, None)
    other.settle()
    assert len(other.peer.learnt) == 10
    one.connect_daemon()
    one.settle()
    for route in ROUTES[:10]:
        other.daemon.say(route, FIELDS)
    for _ in range(4):
        other.now = one.now
        other.settle()
        one.now = other.now
        one.settle()
    assert {one.session.state, other.session.state} == {State.RELAY}
    assert one.peer.withdrawn == other.peer.withdrawn == 0
    assert one.peer.repeated == other.peer.repeated == 0


def test_a_neighbour_that_is_shut_down_keeps_nothing_from_the_other_peers() -> None:
    one, other = two_sessions()
    one.daemon.out += message(3, b"\6\2")
    one.settle()
    for route in ROUTES[:10]:
        other.daemon.say(route, None)
    sleep_both(one, other, LEFT_MAX_S - 1)
    assert len(other.peer.learnt) == 10, "the daemon may be about to end its other sessions, too"
    sleep_both(one, other, 3)
    assert other.peer.learnt == {}
    assert (one.state(), other.state()) == (State.ABSENT, State.RELAY)
    assert one.peer.is_up
    other.daemon.say(ROUTES[0], FIELDS)
    sleep_both(one, other, 1)
    assert len(other.peer.learnt) == 1
    one.connect_daemon()
    sleep_both(one, other, 5)
    assert {one.state(), other.state()} == {State.RELAY}
    assert one.peer.withdrawn == 0


def test_a_daemon_that_was_started_again_is_waited_for_in_all_sessions() -> None:
    """What it says in the first of them lacks the routes of those to come, however late."""
    one, other = two_sessions()
    for rig in (one, other):
        rig.kill_daemon()
    other.daemon.own = {}
    other.connect_daemon()
    sleep_both(one, other, 2 * LEFT_MAX_S)
    new = Rig()
    new.now, new.front = other.now, other.front
    new.front.sessions = [one.session, other.session, new.session]
    new.connect_daemon()
    new.connect_peer()
    new.settle()
    sleep_both(one, other, 2)
    assert new.state() is State.BARRIER, "a session that the daemon has had since then"
    assert other.daemon.is_up
    assert other.state() is State.BARRIER
    for route in ROUTES[:10]:
        other.daemon.say(route, FIELDS)
    one.connect_daemon()
    for _ in range(10):
        sleep_both(one, other, 0.5)
        new.settle()
    assert {one.state(), other.state(), new.state()} == {State.RELAY}
    assert one.peer.withdrawn == other.peer.withdrawn == 0


def test_a_session_that_comes_into_the_barrier_later_is_asked_too() -> None:
    """Of two that are taken over prld names one after the other."""
    one, other = Rig(), Rig()
    one.front = other.front = Front([one.session, other.session], lambda: False)
    for rig in (one, other):
        rig.session.follow(DAEMON, PEER, rig.now)
        assert rig.session.told is not None
        rig.session.told.was_told(announce(ROUTES[:10], FIELDS))
        rig.peer.learnt, rig.peer.is_up = dict.fromkeys(ROUTES[:10], FIELDS), True
        rig.connect_daemon()
        rig.settle()
        assert rig.state() is State.BARRIER
    one.session.take_over(b"", one.now)
    one.front.tick(one.now)
    other.session.take_over(b"", other.now)
    for rig in (one, other):
        rig.daemon.own = dict.fromkeys(ROUTES[:10], FIELDS)  # before it answers
    for _ in range(4):
        one.settle()
        other.now = one.now
        other.settle()
        one.now = other.now
    assert {one.state(), other.state()} == {State.RELAY}
    assert (len(one.daemon.refreshed), len(other.daemon.refreshed)) == (4, 2)
    assert one.peer.withdrawn == other.peer.withdrawn == 0


def test_a_session_that_comes_back_into_the_barrier_is_asked_again() -> None:
    """It was not waited for meanwhile."""
    one, other = two_sessions()
    one.daemon.deaf_to = other.daemon.deaf_to = 1 << 30
    one.kill_daemon()
    sleep_both(one, other, LEFT_MAX_S + 1)
    assert other.daemon.refreshed
    for _ in range(2):
        one.connect_daemon()
        one.daemon.refreshed.clear()
        sleep_both(one, other, 3)
        assert one.daemon.refreshed
        one.kill_daemon()
        sleep_both(one, other, 1)
    assert (one.state(), other.state()) == (State.ABSENT, State.BARRIER)


FEW_ROUTES = st.sampled_from([*ROUTES[:6], *OTHERS[:3]])
KINDS = st.integers(0, 2)


def said_in_kind(route: Route, kind: int) -> Said | None:
    """One of a few things to say of it; of kind 0: that it is gone."""
    said = said_of(route)
    more = (*said.attributes, (0x80, 99, bytes(kind)))
    return replace(said, attributes=more) if kind else None


class Life(RuleBasedStateMachine):
    """Routes come and go on both ends while the daemon does, in pieces of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.rig.open()

    @rule(route=FEW_ROUTES, kind=KINDS)
    def daemon_says(self, route: Route, kind: int) -> None:
        self.rig.daemon.say(route, said_in_kind(route, kind))

    @rule(route=FEW_ROUTES, kind=KINDS)
    def peer_says(self, route: Route, kind: int) -> None:
        self.rig.peer.say(route, said_in_kind(route, kind))

    @rule(size=st.integers(1, 200), times=st.integers(1, 20))
    def move(self, size: int, times: int) -> None:
        for _ in range(times):
            self.rig.move(size)

    @rule()
    def dies(self) -> None:
        self.rig.kill_daemon()

    @rule()
    def comes_back(self) -> None:
        if not self.rig.session.daemon.connected:
            self.rig.connect_daemon()

    @rule(family=st.sampled_from([b"\0\1\0\1", b"\0\2\0\1"]), daemon=st.booleans())
    def asks_again(self, family: bytes, daemon: bool) -> None:
        speaker = self.rig.daemon if daemon else self.rig.peer
        if speaker.is_up:
            speaker.out += message(5, family)

    @rule()
    def time_passes(self) -> None:
        self.rig.settle(size=100)

    @invariant()
    def the_peer_never_notices(self) -> None:
        assert self.rig.session.peer.connected
        assert self.rig.peer.ended is None
        assert self.rig.peer.is_up

    def teardown(self) -> None:
        if not self.rig.session.daemon.connected:
            self.rig.connect_daemon()
        self.rig.settle()
        assert self.rig.state() is State.RELAY
        assert self.rig.peer.learnt == self.rig.daemon.own
        assert self.rig.daemon.learnt == self.rig.peer.own


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
