"""A front's seats over real sockets, with a prld and another front that the test plays.

The peer's stream goes to the owner's socket and to the shadow's, as prl has it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address
from typing import cast

import msgspec
import pytest

from prl.bgpfront import owner, seat
from prl.bgpfront.ahead import PositionError
from prl.bgpfront.config import Peer
from prl.bgpfront.front import Front
from prl.bgpfront.messages import Message, decode, encode
from prl.bgpfront.seat import Note, Seat
from prl.bgpfront.session import Settings
from prl.client.aio import (
    AsyncSession,
    AsyncShadow,
    NoDaemonError,
    NotProtectedError,
    ReplicationError,
    ShadowVoid,
    Takeover,
)
from prl.control.protocol import OVER
from prl.errors import HungDaemonError
from tests.bgp_updates import message
from tests.unit.test_bgpfront_session import DAEMON, OTHERS, PEER, ROUTES, Speaker, said_of

ADDRESS = Peer(address=IPv4Address("192.0.2.10"), local=IPv4Address("192.0.2.100"))
TIMEOUT_S = 30.0
TURN_S = 0.001


class Place:
    """A session as prld has it."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.is_closed = self.over = False

    def become(self, state: str, reason: str = "") -> None:
        self.over = state in OVER
        self.news.put_nowait((state, reason))

    async def states(self) -> AsyncIterator[tuple[str, str]]:
        while True:
            yield await self.news.get()

    async def close(self) -> None:
        self.is_closed = True


class ShadowOfIt:
    """A shadow as prld gives it."""

    def __init__(self, note: bytes, sock: socket.socket, in_bytes: int) -> None:
        self.application, self.sock, self.in_bytes = note, sock, in_bytes
        self.remote = "192.0.2.10:40000"
        self.session = Place()
        self.taken: asyncio.Future[Takeover] = asyncio.get_running_loop().create_future()
        self.out_bytes = 0
        self.is_closed = False

    async def wait_taken_over(self) -> Takeover:
        return await self.taken

    async def committed(self) -> Takeover:
        return Takeover(self.out_bytes, 0)

    async def close(self) -> None:
        self.discard("closed")

    def discard(self, _: str) -> None:
        self.is_closed = True
        loop = asyncio.get_running_loop()
        if self.sock.fileno() >= 0:
            loop.remove_reader(self.sock)
            loop.remove_writer(self.sock)
            self.sock.close()


class Prld:
    """Protects, or says why not."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.notes: list[bytes] = []
        self.refuses: Exception | None = None
        self.refuses_first: list[Exception] = []
        self.offered: list[str] = []

    async def replicate(self, _: socket.socket, data: bytes = b"") -> AsyncSession:
        self.notes.append(data)
        place = Place()
        self.places.append(place)
        if self.refuses_first:
            raise self.refuses_first.pop(0)
        if isinstance(self.refuses, NotProtectedError):
            raise NotProtectedError("not now", place)
        if self.refuses is not None:
            raise self.refuses
        return cast(AsyncSession, place)

    async def offer(self, endpoint: str) -> None:
        self.offered.append(endpoint)


class Line:
    """One direction of the channel; encoded, as on the wire."""

    def __init__(self) -> None:
        self.is_up = False
        self.raw = bytearray()
        self.why: list[str] = []

    @property
    def has_room(self) -> bool:
        return self.is_up and len(self.raw) < 4096

    def send(self, one: Message) -> None:
        if self.is_up:
            self.raw += encode(one)

    def give_up(self, why: str) -> None:
        self.why.append(why)
        self.is_up = False
        self.raw.clear()


class Node:
    """A front with one seat, and its daemon."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.prld, self.line = Prld(), Line()
        self.told: list[str] = []
        self.dialled = 0
        self.answers: Callable[[], socket.socket] | None = None
        """Makes our end, when the peer is connected to."""
        self.lost: list[str] = []
        """Of each death of the daemon under a session of this node's: why not to move it."""
        self.daemon_dialled = 0
        self.listens = False
        """The daemon is there, but does not connect."""
        self.daemon = Speaker(DAEMON)
        self.sock: socket.socket | None = None
        """The daemon's end."""
        self.seat = Seat(
            ADDRESS,
            Settings(),
            node=self.prld,
            channel=self.line,
            tasks=tasks,
            changed=lambda: None,
            dial=self._dial,
            dial_daemon=self._dial_daemon,
            daemon_lost=lambda: self.lost.append(self.seat.because),
            tell=self.told.append,
        )
        self.front = Front([], lambda: bool(self.daemon.received))

    async def _dial(self, _: Peer) -> socket.socket | None:
        self.dialled += 1
        return self.answers() if self.answers is not None else None

    async def _dial_daemon(self, _: Peer) -> socket.socket | None:
        self.daemon_dialled += 1
        return self._new_daemon() if self.listens else None

    def connect_daemon(self) -> None:
        self.seat.daemon_connected(self._new_daemon())

    def _new_daemon(self) -> socket.socket:
        near, far = socket.socketpair()
        far.setblocking(False)
        if self.sock is not None:
            self.sock.close()
        self.sock = far
        self.daemon.connect()
        return near

    def kill_daemon(self) -> None:
        assert self.sock is not None
        self.sock.close()
        self.sock, self.daemon.is_up = None, False

    def close(self) -> None:
        for connection in (self.seat._outer, self.seat._inner):
            if connection is not None:
                connection.pipe.close()
        for sock in (self.sock, self.seat._caller):
            if sock is not None:
                sock.close()

    def turn(self) -> None:
        if self.sock is not None and not exchange(self.sock, self.daemon):
            self.kill_daemon()
            self.daemon.ended = self.daemon.ended or (0, 0)
        now = asyncio.get_running_loop().time()
        session = self.seat.session
        self.front.sessions = [session] if session is not None else []
        self.front.tick(now)
        self.seat.turn(now)


def exchange(sock: socket.socket, speaker: Speaker) -> bool:
    """Whether the connection stands."""
    try:
        if speaker.out:
            del speaker.out[: sock.send(speaker.out)]
        data = sock.recv(1 << 16)
    except BlockingIOError:
        return True
    except OSError:
        return False
    speaker.take(data)
    return bool(data)


class World:
    """Two nodes, and the peer."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = tasks
        self.owner, self.standby = Node(tasks), Node(tasks)
        self.peer = Speaker(PEER)
        self.wire: socket.socket | None = None
        """The peer's end of the owner's connection."""
        self.mirror: socket.socket | None = None
        """The same, of the shadow's."""
        self.shadow: ShadowOfIt | None = None
        self.stream = 0
        self.out_bytes = 0
        for node in (self.owner, self.standby):
            node.daemon.own = {r: said_of(r) for r in [*ROUTES[:300], *OTHERS[:20]]}
        self.peer.own = {r: said_of(r) for r in ROUTES[300:400]}

    def connect_peer(self) -> socket.socket:
        near, far = socket.socketpair()
        far.setblocking(False)
        self.owner.seat.peer_connected(near)
        return far

    def protect(self) -> None:
        """prld gives the standby a shadow."""
        near, far = socket.socketpair()
        far.setblocking(False)
        self.mirror = far
        self.shadow = ShadowOfIt(self.owner.prld.notes[-1], near, self.stream)
        self.standby.seat.given(cast(AsyncShadow, self.shadow))
        self.owner.prld.places[-1].become("active")

    def channel(self, *, up: bool) -> None:
        for node in (self.owner, self.standby):
            node.line.is_up = up
            node.line.raw.clear()
            if not up:
                node.seat.channel_is_down("cut")

    def fail(self) -> None:
        """The owner's power goes; what it said has reached the other front."""
        assert self.shadow is not None
        self.carry()
        self.shadow.taken.set_result(Takeover(self.out_bytes, 0))
        assert self.wire is not None
        self.wire.close()
        self.owner.close()
        self.wire, self.mirror = self.mirror, None
        self.owner, self.standby = self.standby, Node(self.tasks)
        self.owner.line.is_up = False
        self.owner.prld.places.append(self.shadow.session)
        self.owner.prld.notes.append(self.shadow.application)

    def move(self) -> None:
        """The service is moved to the other node; this one's prld says so."""
        place = self.owner.prld.places[-1]
        self.change_places().close()
        place.become("demoted")

    def change_places(self) -> socket.socket:
        """The other node has the service; returns what was the peer's end."""
        assert self.shadow is not None
        self.carry()
        self.shadow.taken.set_result(Takeover(self.out_bytes, 0))
        before = self.wire
        assert before is not None
        self.wire, self.mirror = self.mirror, None
        self.owner, self.standby = self.standby, self.owner
        self.owner.prld.places.append(self.shadow.session)
        self.owner.prld.notes.append(self.shadow.application)
        self.shadow = None
        return before

    def carry(self) -> None:
        for one, other in ((self.owner, self.standby), (self.standby, self.owner)):
            for heard in decode(one.line.raw):
                try:
                    other.seat.hear(heard)
                except PositionError as error:
                    one.line.give_up(str(error))

    def turn(self) -> None:
        if self.wire is not None:
            if self.peer.out:
                data = bytes(self.peer.out)
                self.peer.out.clear()
                self.stream += len(data)
                for sock in (self.wire, self.mirror):
                    with suppress(OSError):
                        if sock is not None:
                            sock.send(data)
            with suppress(BlockingIOError):
                data = self.wire.recv(1 << 16)
                self.out_bytes += len(data)
                self.peer.take(data)
                if not data:
                    self.wire.close()
                    self.wire = None
                    self.peer.is_up = False
        if self.shadow is not None:
            self.shadow.out_bytes = self.out_bytes
        self.owner.turn()
        self.standby.turn()
        self.carry()

    async def until(self, good: Callable[[], bool]) -> None:
        while not good():
            self.turn()
            await asyncio.sleep(TURN_S)

    async def open(self) -> None:
        self.peer.connect()
        self.wire = self.connect_peer()
        self.owner.connect_daemon()
        await self.until(lambda: self.state("owner") == "relay" and self.is_in_order())

    async def be_ready(self) -> None:
        self.channel(up=True)
        self.standby.connect_daemon()
        self.protect()
        await self.until(lambda: self.owner.seat.status()["because"] == "")

    def state(self, who: str) -> object:
        return getattr(self, who).seat.status()["state"]

    def close(self) -> None:
        self.owner.close()
        self.standby.close()
        for sock in (self.wire, self.mirror):
            if sock is not None:
                sock.close()
        if self.shadow is not None:
            self.shadow.discard("the end")

    def is_in_order(self) -> bool:
        return (
            self.peer.learnt == self.owner.daemon.own and self.owner.daemon.learnt == self.peer.own
        )


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with asyncio.TaskGroup() as tasks:
        one = World(tasks)
        yield one
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        one.close()


def play(story: Callable[[World], Awaitable[None]]) -> None:
    """Run it."""

    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), world() as one:
            await story(one)

    asyncio.run(run())


def test_the_owner_fails_and_the_peer_notices_nothing() -> None:
    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        await one.until(lambda: one.standby.daemon.learnt == one.peer.own)
        assert one.state("standby") in {"barrier", "relay"}
        before = len(one.peer.sees)
        one.fail()
        await one.until(lambda: one.state("owner") == "relay")
        assert set(one.peer.sees[before:]) == {4}
        one.peer.say(ROUTES[300], None)
        one.owner.daemon.say(ROUTES[0], None)
        await one.until(one.is_in_order)
        assert (one.peer.withdrawn, one.peer.repeated, one.peer.ended) == (1, 0, None)

    play(story)


def test_two_failures_with_a_healed_node_between() -> None:
    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        one.fail()
        await one.until(lambda: one.state("owner") == "relay")
        one.standby.daemon.own = dict(one.owner.daemon.own)
        await one.be_ready()
        one.fail()
        await one.until(lambda: one.state("owner") == "relay")
        await one.until(one.is_in_order)
        assert (one.peer.withdrawn, one.peer.repeated, one.peer.ended) == (0, 0, None)

    play(story)


def test_the_channel_is_cut_and_made_again() -> None:
    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        one.channel(up=False)
        one.owner.daemon.say(ROUTES[0], None)
        one.standby.daemon.say(ROUTES[0], None)
        await one.until(one.is_in_order)
        assert one.owner.seat.status()["because"] == "cut"
        one.channel(up=True)
        await one.until(lambda: one.owner.seat.status()["because"] == "")
        one.fail()
        await one.until(lambda: one.state("owner") == "relay")
        assert (one.peer.withdrawn, one.peer.repeated, one.peer.ended) == (1, 0, None)

    play(story)


def test_each_end_waits_for_the_other() -> None:
    async def story(one: World) -> None:
        one.owner.connect_daemon()
        for _ in range(20):
            one.turn()
            await asyncio.sleep(TURN_S)
        assert one.owner.seat.status()["because"] == "waits for the peer"
        assert one.owner.daemon.other is None
        one.peer.connect()
        one.wire = one.connect_peer()
        await one.until(one.is_in_order)
        one.owner.kill_daemon()
        await one.until(lambda: one.state("owner") == "absent")
        assert one.owner.seat.status()["daemon"] == "away"
        assert len(one.owner.lost) == 1
        assert not one.owner.seat.has_daemon
        one.owner.connect_daemon()
        await one.until(lambda: one.state("owner") == "relay")
        assert one.owner.seat.has_daemon
        assert (one.peer.withdrawn, one.peer.ended) == (0, None)

    play(story)


def test_a_peer_that_does_not_connect_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "DIAL_AFTER_S", 0.05)
    monkeypatch.setattr(seat, "DIAL_EVERY_S", 0.05)

    async def story(one: World) -> None:
        await asyncio.sleep(0.1)
        one.turn()
        assert not one.owner.dialled, "the daemon does not want it"
        one.owner.connect_daemon()
        await one.until(lambda: one.owner.dialled >= 3)
        one.peer.connect()

        def answer() -> socket.socket:
            near, one.wire = socket.socketpair()
            one.wire.setblocking(False)
            return near

        one.owner.answers = answer
        await one.until(one.is_in_order)
        dialled = one.owner.dialled
        await asyncio.sleep(0.2)
        one.turn()
        assert one.owner.dialled == dialled

    play(story)


def test_of_two_connections_the_peers_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "DIAL_AFTER_S", 0.05)

    async def story(one: World) -> None:
        theirs: list[socket.socket] = []

        def answer() -> socket.socket:
            one.peer.connect()
            one.wire = one.connect_peer()  # it has come in between
            near, far = socket.socketpair()
            far.setblocking(False)
            theirs.append(far)
            return near

        one.owner.answers = answer
        one.owner.connect_daemon()
        await one.until(lambda: bool(theirs) and not is_open(theirs[0]))
        await one.until(one.is_in_order)
        theirs[0].close()

    play(story)


@pytest.fixture
def dials_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "DAEMON_DIAL_AFTER_S", 0.01)
    monkeypatch.setattr(seat, "DAEMON_DIAL_MAX_S", 0.02)


@pytest.mark.usefixtures("dials_soon")
def test_a_daemon_that_does_not_connect_is_connected_to_on_both_nodes() -> None:
    """Once somebody waits for it, on the owner and behind a shadow, and again when it has died."""

    async def story(one: World) -> None:
        await asyncio.sleep(0.05)
        one.turn()
        assert not one.owner.daemon_dialled, "nobody waits for it"
        one.peer.connect()
        one.wire = one.connect_peer()
        await one.until(lambda: one.owner.daemon_dialled >= 3)
        one.owner.listens = one.standby.listens = True
        await one.until(one.is_in_order)
        assert not one.standby.daemon_dialled
        one.channel(up=True)
        one.protect()
        await one.until(lambda: one.owner.seat.status()["because"] == "")
        dialled = one.owner.daemon_dialled
        one.owner.kill_daemon()
        await one.until(lambda: one.owner.daemon_dialled > dialled)
        await one.until(lambda: one.owner.seat.status()["because"] == "")
        one.fail()
        await one.until(lambda: one.state("owner") == "relay")
        assert (one.peer.withdrawn, one.peer.repeated, one.peer.ended) == (0, 0, None)
        counts = one.owner.seat.status()["counts"]
        assert counts["daemon_dials"] == one.owner.daemon_dialled  # type: ignore[index]

    play(story)


def test_a_daemon_that_is_not_there_is_asked_ever_less_often() -> None:
    async def story(one: World) -> None:
        node = one.owner
        far, now, waited = one.connect_peer(), 1000.0, []
        for _ in range(6):
            due = node.seat.turn(now)
            assert due is not None
            waited.append(due - now)
            now = due
            assert node.seat.turn(now) is None, "it is being connected to"
            for _ in range(3):
                await asyncio.sleep(0)
        assert waited == [2, 4, 8, 16, 16, 16]
        assert waited[-1] == seat.DAEMON_DIAL_MAX_S
        node.connect_daemon()
        one.peer.connect()
        one.wire = far
        await one.until(one.is_in_order)
        node.kill_daemon()
        await one.until(lambda: one.state("owner") == "absent")
        assert node.seat.turn(now) == now + seat.DAEMON_DIAL_AFTER_S, "it has been there"

    play(story)


@pytest.mark.usefixtures("dials_soon")
def test_a_daemon_that_connects_by_itself_meanwhile_is_not_connected_to() -> None:
    async def story(one: World) -> None:
        near, far = socket.socketpair()
        far.setblocking(False)
        node = one.owner

        async def dial(_: Peer) -> socket.socket:
            node.connect_daemon()
            return near

        node.seat._dial_daemon = dial
        one.peer.connect()
        one.wire = one.connect_peer()
        await one.until(lambda: not is_open(far))
        await one.until(one.is_in_order)
        far.close()

    play(story)


@pytest.mark.usefixtures("dials_soon")
@pytest.mark.parametrize("stands", [True, False])
def test_of_two_connections_with_the_daemon_it_knows_which_is_kept(stands: bool) -> None:
    """RFC 4271 section 6.8: that which stands, else the daemon's, whose identifier is greater."""

    async def story(one: World) -> None:
        node = one.owner
        node.listens = True
        one.peer.connect()
        one.wire = one.connect_peer()
        await one.until(lambda: one.state("owner") == "relay" and one.is_in_order())
        if not stands:
            node.kill_daemon()
            node.daemon.out.clear()
            await one.until(lambda: node.daemon_dialled == 2 and node.seat.has_daemon)
            node.daemon.out.clear()  # it has not said anything yet
        near, far = socket.socketpair()
        far.setblocking(False)
        if not stands:
            first, node.sock = node.sock, far
            node.daemon.connect()
            assert first is not None
        node.seat.daemon_connected(near)
        if stands:
            await one.until(lambda: not is_open(far))
            assert any("is refused" in words for words in node.told)
            far.close()
        else:
            await one.until(lambda: first is not None and not is_open(first))
            first.close()
        await one.until(lambda: one.state("owner") == "relay" and one.is_in_order())
        assert (one.peer.withdrawn, one.peer.ended) == (0, None)

    play(story)


def test_a_second_connection_of_the_peer_is_refused() -> None:
    async def story(one: World) -> None:
        await one.open()
        second = one.connect_peer()
        await one.until(lambda: not is_open(second))
        assert one.peer.is_up
        assert any("second connection" in words for words in one.owner.told)
        second.close()

    play(story)


OFFERS = ("192.0.2.100:179", "192.0.2.100>192.0.2.10:179")


def is_open(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_the_daemon_ends_the_session_on_both_nodes() -> None:
    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        one.owner.daemon.out += message(3, b"\6\1")
        await one.until(lambda: one.wire is None)
        assert one.peer.ended == (6, 1)
        await one.until(lambda: one.owner.prld.places[-1].is_closed)
        await one.until(lambda: one.standby.seat.status()["role"] == "none")
        assert one.owner.seat.status()["role"] == "none"

    play(story)


def test_a_daemon_that_hangs_and_reads_nothing_is_let_go_of() -> None:
    """What it has not read stands in front of the NOTIFICATION."""

    async def story(one: World) -> None:
        await one.open()
        node = one.owner
        session, inner, hung = node.seat.session, node.seat._inner, node.sock
        assert session is not None
        assert inner is not None
        assert hung is not None
        inner.pipe._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        node.sock = None
        for route in ROUTES[400:]:
            one.peer.say(route, said_of(route))
        await one.until(lambda: bool(session.daemon.out) and not one.peer.out)
        now = session.peer.heard_at = asyncio.get_running_loop().time() + PEER.hold_s
        session.tick(now)
        assert node.seat.turn(now) == now + seat.CLOSING_MAX_S
        assert node.seat.has_daemon
        node.seat.turn(now + seat.CLOSING_MAX_S)
        assert not node.seat.has_daemon
        assert len(node.lost) == 1
        assert is_open(one.wire)
        hung.close()

    play(story)


def test_the_peer_ends_the_session() -> None:
    async def story(one: World) -> None:
        await one.open()
        assert one.wire is not None
        one.wire.close()
        one.wire = None
        await one.until(lambda: one.owner.prld.places[-1].is_closed)
        assert one.owner.seat.status()["role"] == "none"
        await one.until(lambda: one.owner.sock is None)

    play(story)


@pytest.mark.parametrize("otherwise", [False, True], ids=["as-it-was", "configured-otherwise"])
def test_the_service_is_moved_and_both_daemons_stay(otherwise: bool) -> None:
    """What the demoted node's has it keeps, and is given only what is new."""

    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        kept = one.owner.sock
        if otherwise:  # so that its OPEN is not that of the session
            session = one.owner.seat.session
            assert session is not None
            assert session.opens is not None
            session._opens = (replace(session.opens[0], hold_s=77), session.opens[1])
        one.move()
        one.peer.say(ROUTES[400], said_of(ROUTES[400]))
        one.peer.say(ROUTES[300], None)
        await one.until(lambda: one.state("owner") == "relay" and one.is_in_order())
        one.protect()
        if otherwise:
            await one.until(lambda: one.standby.sock is None)
            one.standby.connect_daemon()
        await one.until(lambda: one.owner.seat.status()["because"] == "")
        assert (one.standby.sock is kept) is not otherwise
        assert one.standby.daemon.learnt == one.peer.own
        assert otherwise or (one.standby.daemon.withdrawn, one.standby.daemon.repeated) == (1, 0)
        for node in (one.owner, one.standby):
            node.daemon.say(ROUTES[0], None)
        await one.until(one.is_in_order)
        assert (one.peer.withdrawn, one.peer.repeated) == (1, 0)

    play(story)


def test_an_owner_that_does_not_know_of_its_successor_ends_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its prld hangs. The new owner goes on, and has it follow once it does know."""
    monkeypatch.setattr(owner, "SAID_MAX_S", 0.05)

    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        place, kept = one.owner.prld.places[-1], one.owner.sock
        with one.change_places():
            old, new = one.standby, one.owner
            await one.until(lambda: one.state("owner") == "relay")
            for node in (old, new):
                node.daemon.say(ROUTES[0], None)
            await one.until(lambda: bool(old.line.why))
            assert "does not acknowledge" in old.line.why[0]
            one.channel(up=False)
            one.channel(up=True)
            await one.until(lambda: bool(new.line.why) or not new.seat.is_owner)
            assert new.seat.is_owner
            assert old.seat.is_owner
            for node in (old, new):
                node.daemon.say(ROUTES[1], None)
            await one.until(one.is_in_order)
            one.channel(up=False)
            place.become("demoted")
            await one.until(lambda: not old.seat.is_owner)
        one.channel(up=True)
        one.protect()
        await one.until(lambda: new.seat.status()["because"] == "")
        assert old.sock is kept
        assert (one.peer.withdrawn, one.peer.repeated, one.peer.ended) == (2, 0, None)

    play(story)


def test_a_begin_that_overtakes_the_word_of_a_move() -> None:
    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        place, kept = one.owner.prld.places[-1], one.owner.sock
        with one.change_places():
            old = one.standby
            one.protect()
            await one.until(lambda: bool(old.line.why))
            assert old.seat.is_owner
            place.become("demoted")
            one.channel(up=False)
            one.channel(up=True)
            await one.until(lambda: one.owner.seat.status()["because"] == "")
            assert old.sock is kept
        assert (one.peer.withdrawn, one.peer.repeated, one.peer.ended) == (0, 0, None)

    play(story)


def test_a_session_that_the_other_node_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its front does not tell of it: the daemon is not kept for ever."""
    monkeypatch.setattr(seat, "PARTED_MAX_S", 0.05)

    async def story(one: World) -> None:
        await one.open()
        place = one.owner.prld.places[-1]
        place.become("demoted")
        await one.until(lambda: one.owner.seat.status()["role"] == "none")
        assert not place.is_closed, "it lives"
        await one.until(lambda: one.owner.sock is None)

    play(story)


@pytest.mark.parametrize("error", [ReplicationError("no"), NotProtectedError("not now", None)])
def test_a_session_that_is_not_protected_goes_on(error: Exception) -> None:
    async def story(one: World) -> None:
        one.owner.prld.refuses = error
        await one.open()
        assert "not protected: no" in str(one.owner.seat.status()["because"])

    play(story)


def test_a_peer_that_connects_while_prld_begins_anew_is_protected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seat, "PROTECT_EVERY_S", TURN_S)

    async def story(one: World) -> None:
        gone, young = NoDaemonError("gone"), ReplicationError("this node does not own it")
        one.owner.prld.refuses_first = [gone, HungDaemonError("hangs"), young]
        await one.open()
        assert len(set(one.owner.prld.notes)) == 1
        await one.be_ready()
        one.fail()
        await one.until(lambda: one.state("owner") == "relay")
        assert (one.peer.withdrawn, one.peer.repeated, one.peer.ended) == (0, 0, None)

    play(story)


def test_a_peer_does_not_wait_for_ever_for_prld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "PROTECT_EVERY_S", TURN_S)
    monkeypatch.setattr(seat, "PROTECT_MAX_S", 20 * TURN_S)

    async def story(one: World) -> None:
        one.owner.prld.refuses = NoDaemonError("gone")
        await one.open()
        assert len(one.owner.prld.notes) > 1
        assert "not protected: gone" in str(one.owner.seat.status()["because"])

    play(story)


def test_a_take_over_before_the_other_front_has_told_of_the_session() -> None:
    async def story(one: World) -> None:
        await one.open()
        one.protect()
        shadow = one.shadow
        assert shadow is not None
        one.fail()
        await one.until(lambda: shadow.is_closed)
        assert one.owner.seat.status()["role"] == "none"
        assert any("cannot go on" in words for words in one.owner.told)

    play(story)


def test_a_shadow_of_which_nothing_is_known_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "UNREAD_MAX_S", 0.05)

    async def story(one: World) -> None:
        await one.open()
        one.protect()
        shadow = one.shadow
        assert shadow is not None
        await one.until(lambda: one.standby.prld.offered == list(OFFERS))
        assert shadow.is_closed

    play(story)


def test_a_peer_that_waits_for_the_daemon_may_connect_again() -> None:
    async def story(one: World) -> None:
        first = one.connect_peer()
        one.turn()
        assert one.owner.seat.status()["because"] == "waits for the daemon"
        assert not one.owner.prld.notes, "nobody could go on with it"
        one.peer.connect()
        one.wire = one.connect_peer()
        one.owner.connect_daemon()
        await one.until(one.is_in_order)
        assert not is_open(first)
        first.close()
        assert len(one.owner.prld.notes) == 1

    play(story)


def test_a_shadow_that_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        assert one.shadow is not None
        one.shadow.taken.set_exception(ShadowVoid("the link is down"))
        await one.until(lambda: one.standby.seat.status()["role"] == "none")
        assert any("the link is down" in words for words in one.standby.told)

    play(story)
    del monkeypatch


def test_a_front_that_does_not_acknowledge_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "SAID_MAX_S", 0.05)

    async def story(one: World) -> None:
        await one.open()
        await one.be_ready()
        monkeypatch.setattr(one.standby.seat, "hear", lambda _: None)
        one.owner.daemon.say(ROUTES[0], None)
        await one.until(lambda: bool(one.owner.line.why))
        assert "does not acknowledge" in one.owner.line.why[0]
        one.channel(up=False)
        await one.until(one.is_in_order)

    play(story)


def test_a_shadow_that_is_no_fronts() -> None:
    async def story(one: World) -> None:
        near, far = socket.socketpair()
        shadow = ShadowOfIt(b"something else", near, 0)
        one.standby.seat.given(cast(AsyncShadow, shadow))
        await one.until(lambda: shadow.is_closed)
        far.close()

    play(story)


def test_the_note_is_what_it_is() -> None:
    raw = msgspec.json.encode(Note((1 << 64) - 1))
    assert msgspec.json.decode(raw, type=Note) == Note((1 << 64) - 1)
