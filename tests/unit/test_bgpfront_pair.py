"""Two nodes with a front and a daemon each: the owner fails, and the peer must not notice.

What prl gives is taken as given: the standby receives every byte of the peer's stream, and is told
at the take-over how many bytes the owner has written.
"""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prl.bgpfront import ahead
from prl.bgpfront.ahead import Ahead, PositionError, Sayer
from prl.bgpfront.front import SETTLE_S, Front
from prl.bgpfront.session import AGE_S, ALIVE, Session, Settings, State
from tests.bgp_updates import Route, Said, announce, message
from tests.unit.test_bgp_rib import FIELDS, MALFORMED
from tests.unit.test_bgpfront_session import (
    DAEMON,
    FEW_ROUTES,
    KINDS,
    OTHERS,
    PEER,
    ROUTES,
    Speaker,
    said_in_kind,
    said_of,
)


class Node:
    """A front with one session, and its daemon."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.daemon = Speaker(DAEMON)
        self.session = Session(Settings(), self.told.append)
        self.front = Front([self.session], lambda: bool(self.daemon.received))
        self.read = 0
        """Up to where of the peer's stream."""

    def connect_daemon(self, now: float) -> None:
        self.daemon.connect()
        self.session.connected(self.session.daemon, now)

    def kill_daemon(self, now: float) -> None:
        if self.session.daemon.connected:
            self.daemon.is_up = False
            self.session.closed(self.session.daemon, now)

    def move_daemon(self, size: int, now: float) -> bool:
        end, speaker, moved = self.session.daemon, self.daemon, False
        if end.connected and speaker.out:
            data = bytes(speaker.out[:size])
            del speaker.out[:size]
            self.session.received(end, data, now)
            moved = True
        if end.connected and end.out:
            data = bytes(end.out[:size])
            del end.out[:size]
            speaker.take(data)
            self.session.written(now)
            moved = True
        if end.connected and end.closing and not end.out:
            self.kill_daemon(now)
            moved = True
        return moved


class Pair:
    """The owner, the standby and the peer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.owner, self.standby = Node(), Node()
        self.peer = Speaker(PEER)
        self.stream = bytearray()
        """What the peer has sent."""
        self.sayer: Sayer | None = None
        self.ahead: Ahead | None = None

    def say(self, route: Route, said: Said | None) -> None:
        """Both daemons come to announce it: they learn it from the network."""
        self.owner.daemon.say(route, said)
        self.standby.daemon.say(route, said)

    def open(self) -> None:
        self.owner.connect_daemon(self.now)
        self.peer.connect()
        session = self.owner.session
        session.connected(session.peer, self.now)
        while session.state is not State.RELAY:  # a message at a time, so as to see it begin
            self.owner.move_daemon(1, self.now)
            self._from_peer(1)
            data = bytes(session.peer.out)
            del session.peer.out[:]
            self.peer.take(data)
        assert session.opens is not None
        self.standby.session.follow(*session.opens, self.now)
        told = self.standby.session.told
        assert told is not None
        self.standby.read = self.owner.read
        self.sayer = Sayer(session.peer.out, 1000)
        self.ahead = Ahead(told, self.sayer.joined(), extended=False)
        self.standby.connect_daemon(self.now)

    def _from_peer(self, size: int) -> bool:
        if self.peer.out:
            self.stream += self.peer.out
            self.peer.out.clear()
        data = bytes(self.stream[self.owner.read : self.owner.read + size])
        self.owner.read += len(data)
        if data:
            self.owner.session.received(self.owner.session.peer, data, self.now)
        return bool(data)

    def _to_standby(self, size: int) -> bool:
        data = bytes(self.stream[self.standby.read : self.standby.read + size])
        self.standby.read += len(data)
        if data:
            self.standby.session.received(self.standby.session.peer, data, self.now)
        return bool(data)

    def _say(self) -> bool:
        assert self.sayer is not None
        assert self.ahead is not None
        moved = False
        for position, data in self.sayer.offer():
            self.ahead.say(position, data)
            moved = True
        self.sayer.said(self.ahead.position)
        return moved

    def _write(self, size: int) -> bool:
        assert self.sayer is not None
        out = self.owner.session.peer.out
        count = min(size, self.sayer.writable())
        data = bytes(out[:count])
        del out[:count]
        self.sayer.wrote(count)
        self.peer.take(data)
        if self.ahead is not None:
            self.ahead.committed(self.sayer.position)
        if count:
            self.owner.session.written(self.now)
        return bool(count)

    def move(self, size: int = 1 << 20) -> bool:
        moved = self._from_peer(size)
        moved |= self.owner.move_daemon(size, self.now)
        if self.ahead is not None:
            moved |= self._to_standby(size)
            moved |= self.standby.move_daemon(size, self.now)
            moved |= self._say()
        return moved | self._write(size)

    def fail(self) -> None:
        """The owner is gone, in whatever it was doing."""
        assert self.sayer is not None
        assert self.ahead is not None
        rest = self.ahead.take_over(self.sayer.position)
        self.standby.session.take_over(rest, self.now)
        self.sayer = Sayer(self.standby.session.peer.out, self.sayer.position)
        self.owner, self.ahead = self.standby, None

    def settle(self, size: int = 1 << 20) -> None:
        for _ in range(200_000):
            if self.move(size):
                continue
            due = [node.front.tick(self.now) for node in {self.owner, self.standby}]
            if self.move(size):
                continue
            soon = [at for at in due if at is not None and at <= self.now + SETTLE_S]
            if not soon:
                return
            self.now = min(soon)
        raise AssertionError("it never ends")

    def sees(self) -> State:
        return self.owner.session.state


@pytest.fixture
def pair() -> Pair:
    one = Pair()
    for node in (one.owner, one.standby):
        node.daemon.own = {route: said_of(route) for route in [*ROUTES[:400], *OTHERS[:40]]}
    one.peer.own = {route: said_of(route) for route in [*ROUTES[400:500], *OTHERS[40:50]]}
    one.open()
    return one


def test_the_standby_becomes_ready(pair: Pair) -> None:
    assert pair.standby.session.not_ready() == "the daemon is not there"
    pair.settle()
    assert pair.standby.session.not_ready() == ""
    assert pair.standby.daemon.learnt == pair.peer.own
    assert not pair.standby.session.peer.out, "a standby emits nothing"
    pair.standby.daemon.say(ROUTES[0], None)
    pair.settle()
    assert pair.standby.session.not_ready() == "", "the owner's may be about to say so, too"
    for _ in range(2):
        pair.now += AGE_S
        pair.settle()
    assert "1 routes otherwise" in pair.standby.session.not_ready()


def test_the_owner_dies_when_all_is_quiet(pair: Pair) -> None:
    pair.settle()
    before = len(pair.peer.sees)
    pair.fail()
    pair.move()
    assert pair.peer.sees[before:] == [4], "a KEEPALIVE, and at once"
    pair.settle()
    assert pair.sees() is State.RELAY
    assert set(pair.peer.sees[before:]) == {4}
    assert pair.peer.learnt == pair.owner.daemon.own
    assert pair.peer.withdrawn == pair.peer.repeated == 0
    pair.owner.daemon.say(ROUTES[0], None)
    pair.peer.say(ROUTES[400], None)
    pair.settle()
    assert pair.peer.learnt == pair.owner.daemon.own
    assert pair.owner.daemon.learnt == pair.peer.own


@pytest.mark.parametrize("written", [*range(0, 250, 7), *range(5_000, 20_000, 997)])
def test_the_owner_dies_at_any_byte_of_what_it_says(pair: Pair, written: int) -> None:
    """A message that was cut is finished; nothing is said twice, and nothing is left out."""
    assert pair.sayer is not None
    start = pair.sayer.position
    session = pair.owner.session
    for _ in range(100_000):
        if pair.sayer.position - start == written:
            break
        left = written - (pair.sayer.position - start)
        pair._from_peer(1 << 16)
        pair.owner.move_daemon(1 << 16, pair.now)
        pair._say()
        pair._write(min(left, 300))
    assert pair.sayer.position - start == written
    pair.standby.move_daemon(100, pair.now)
    pair.fail()
    pair.settle()
    assert session is not pair.owner.session
    assert pair.sees() is State.RELAY
    assert pair.peer.learnt == pair.owner.daemon.own
    assert pair.owner.daemon.learnt == pair.peer.own
    assert pair.peer.withdrawn == pair.peer.repeated == 0


def test_nothing_is_written_before_the_standby_has_it(pair: Pair) -> None:
    assert pair.sayer is not None
    for _ in range(100):
        pair._from_peer(1 << 16)
        pair.owner.move_daemon(1 << 16, pair.now)
        list(pair.sayer.offer())  # which gets lost
        pair._write(1 << 16)
    assert len(pair.owner.session.peer.out) > 10_000
    assert not pair.sayer.writable()
    pair.sayer.left()
    assert pair._write(1 << 20), "a standby that is given up is not waited for"


def test_what_is_ahead_is_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "SAY_MAX_BYTES", 5000)
    assert pair.sayer is not None
    pair.owner.move_daemon(1 << 20, pair.now)
    pair._from_peer(1 << 20)
    pair.owner.move_daemon(1 << 20, pair.now)
    assert len(pair.owner.session.peer.out) > 10_000
    assert pair.ahead is not None
    offered = list(pair.sayer.offer())
    assert 4000 < sum(len(data) for _, data in offered) <= 5000
    for position, data in offered:
        pair.ahead.say(position, data)
    pair.settle()
    assert pair.standby.session.not_ready() == ""


def test_positions_that_do_not_fit() -> None:
    out = bytearray(announce(ROUTES[:1], FIELDS) + ALIVE)
    sayer = Sayer(out, 10)
    assert sayer.writable() == len(out)
    begin = sayer.joined()
    assert begin == 10 + len(out)
    assert sayer.writable() == len(out), "what it has in its tables needs no word of its own"
    out += ALIVE
    assert sayer.writable() == len(out) - 19
    with pytest.raises(PositionError):
        sayer.said(begin + 19)
    pair = Pair()
    pair.open()
    told = pair.standby.session.told
    assert told is not None
    one = Ahead(told, begin, extended=False)
    with pytest.raises(PositionError):
        one.say(begin + 1, ALIVE)
    one.say(begin, ALIVE)
    for wrong in (begin - 1, begin + 20):
        with pytest.raises(PositionError):
            one.take_over(wrong)
    assert one.take_over(begin + 5) == ALIVE[5:]


def test_a_route_refresh_that_the_owner_did_not_answer(pair: Pair) -> None:
    pair.settle()
    pair.stream += message(5, b"\0\1\0\1")
    pair._to_standby(1 << 20)
    pair.owner.read = len(pair.stream)
    pair.fail()
    pair.settle()
    assert pair.peer.repeated == 400
    assert pair.peer.withdrawn == 0


def test_a_route_refresh_that_the_owner_did_answer(pair: Pair) -> None:
    pair.settle()
    pair.stream += message(5, b"\0\1\0\1")
    pair.settle()
    assert pair.peer.repeated == 400
    pair.standby.session.answered(ROUTES[0].family)
    pair.fail()
    pair.settle()
    assert pair.peer.repeated == 400


def test_the_daemon_of_the_standby_may_come_late(pair: Pair) -> None:
    pair.standby.kill_daemon(pair.now)
    for _ in range(1000):
        if not pair.move():
            break
    assert pair.standby.session.not_ready() == "the daemon is not there"
    pair.fail()
    pair.settle()
    assert pair.sees() is State.ABSENT
    assert pair.peer.is_up
    pair.owner.connect_daemon(pair.now)
    pair.settle()
    assert pair.sees() is State.RELAY
    assert pair.peer.learnt == pair.owner.daemon.own
    assert pair.peer.withdrawn == pair.peer.repeated == 0


@pytest.mark.parametrize("error", [b"\6\1", b"\6\2", b"\3\1"])
def test_the_daemon_of_the_standby_ends_nothing(pair: Pair, error: bytes) -> None:
    pair.settle()
    pair.standby.daemon.out += message(3, error)
    pair.settle()
    assert pair.standby.session.state is State.ABSENT
    pair.standby.daemon.opens = replace(DAEMON, router_id=IPv4Address("192.0.2.101"))
    pair.standby.connect_daemon(pair.now)
    pair.settle()
    assert pair.standby.daemon.ended == (6, 6)
    assert any("router id" in one for one in pair.standby.told)
    assert pair.standby.session.not_ready().startswith("the daemon is configured otherwise: ")
    assert pair.sees() is State.RELAY
    assert not pair.standby.session.peer.out


def test_a_malformed_update_on_the_standby(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.standby.daemon, "_update", lambda _one: None)
    pair.settle()
    pair.stream += MALFORMED["an announced prefix of 33 bits"]
    pair._to_standby(1 << 20)
    assert pair.standby.session.not_ready() == "the tables are too small or of no use"
    assert not pair.standby.session.peer.out
    pair.owner.read = len(pair.stream)
    pair.fail()
    pair.settle()
    assert pair.peer.ended == (6, 8)
    assert pair.sees() is State.DOWN


class Life(RuleBasedStateMachine):
    """Whatever both say and however it moves, until the owner fails."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.pair.open()

    @rule(route=FEW_ROUTES, kind=KINDS)
    def daemons_say(self, route: Route, kind: int) -> None:
        self.pair.say(route, said_in_kind(route, kind))

    @rule(route=FEW_ROUTES, kind=KINDS)
    def peer_says(self, route: Route, kind: int) -> None:
        self.pair.peer.say(route, said_in_kind(route, kind))

    @rule(size=st.integers(1, 200), times=st.integers(1, 20))
    def move(self, size: int, times: int) -> None:
        for _ in range(times):
            self.pair.move(size)

    @rule(size=st.integers(1, 100), what=st.integers(0, 5))
    def move_one(self, size: int, what: int) -> None:
        pair = self.pair
        if pair.ahead is None:
            return
        (
            lambda: pair._from_peer(size),
            lambda: pair._to_standby(size),
            pair._say,
            lambda: pair._write(size),
            lambda: pair.owner.move_daemon(size, pair.now),
            lambda: pair.standby.move_daemon(size, pair.now),
        )[what]()

    @rule(owner=st.booleans())
    def a_daemon_restarts(self, owner: bool) -> None:
        node = self.pair.owner if owner else self.pair.standby
        node.kill_daemon(self.pair.now)
        node.connect_daemon(self.pair.now)

    @rule()
    def the_owner_fails(self) -> None:
        if self.pair.ahead is not None:
            self.pair.fail()

    @rule()
    def time_passes(self) -> None:
        self.pair.settle(size=100)

    @invariant()
    def the_peer_never_notices(self) -> None:
        assert self.pair.peer.ended is None
        assert self.pair.peer.is_up
        if self.pair.ahead is not None:
            assert not self.pair.standby.session.peer.out

    def teardown(self) -> None:
        self.pair.settle()
        assert self.pair.sees() is State.RELAY
        assert self.pair.peer.learnt == self.pair.owner.daemon.own
        assert self.pair.owner.daemon.learnt == self.pair.peer.own


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
