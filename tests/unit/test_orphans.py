"""What becomes of sessions whose application has died, and of their service's others (R19, R22)."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock, call

import pytest

from prl import config
from prl.bindings.datapath import Event
from prl.bindings.facts import EventKind, Owner, Primary
from prl.daemon import node as daemon
from prl.daemon.session.orphans import DECIDE_S, MOVES_MAX, MOVES_S, VERDICT_S, Orphans
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session
from prl.errors import NotSafeError, PrlError
from tests.unit.test_daemon_sockets import FILE
from tests.unit.test_retries import Clock

SERVICE = 0


class Node:
    """Sessions of one service, each protected, and the moves that were asked for."""

    def __init__(self, sessions: int) -> None:
        self.loop = Clock()
        self.sessions = [self._session(number) for number in range(sessions)]
        self.owns = True
        self.unknown = 0
        """Sessions of the service that prld was not asked for."""
        self.uncounted = ""
        self.moves: list[bool] = []
        """Each that was asked for: whether it was forced."""
        self.answers: list[PrlError] = []
        """What is answered to the next ones; then they are done."""
        self.ended: list[Session] = []
        self.told: list[str] = []
        log = SimpleNamespace(
            error=lambda event, _text, **_: self.told.append(event),
            warning=lambda event, _text, **_: self.told.append(event),
        )
        self.orphans = Orphans(
            cast(Any, log),
            self,
            sessions_of=lambda _: list(self.sessions),
            owns=lambda _: self.owns,
            name_of=str,
            end=lambda session, _: self._end(session),
        )

    def _session(self, number: int) -> Session:
        client: Any = SimpleNamespace(name=f"client {number}")
        return Session(cast(Any, f"session {number}"), SERVICE, client, b"", state="active")

    async def move(self, number: int, *, forced: bool = False) -> None:
        assert number == SERVICE
        self.moves.append(forced)
        if self.answers:
            raise self.answers.pop(0)
        for session in self.sessions:
            session.state = "moved" if session.state == "active" else session.state

    def strangers(self, number: int) -> int:
        assert number == SERVICE
        if self.uncounted:
            raise NotSafeError(self.uncounted)
        return self.unknown

    def _end(self, session: Session) -> None:
        self.ended.append(session)
        self.change(session, "closed")
        self.sessions.remove(session)

    def change(self, session: Session, state: str) -> None:
        session.state = state
        self.orphans.changed(SERVICE)

    def dies(self, *sessions: Session) -> None:
        for session in sessions:
            session.orphan = True
            self.orphans.decide(SERVICE)

    def play(self, story: Callable[[], Awaitable[None]]) -> None:
        """Until all is decided."""

        async def whole() -> None:
            await story()
            while self.orphans._tasks:
                await next(iter(self.orphans._tasks))

        try:
            self.loop.run_until_complete(whole())
        finally:
            self.loop.close()

    async def passes(self, seconds: float) -> None:
        done = self.loop.create_future()
        self.loop.call_later(seconds, done.set_result, None)
        await done


def test_the_death_of_all_moves_the_service_at_once() -> None:
    node = Node(5)

    async def story() -> None:
        node.dies(*node.sessions)

    node.play(story)
    assert (node.moves, node.ended, node.told) == ([False], [], ["renounced"])
    assert node.loop.time() == 0.0


def test_connections_that_die_one_by_one_are_one_death() -> None:
    node = Node(5)

    async def story() -> None:
        for session in list(node.sessions):
            node.dies(session)
            await node.passes(VERDICT_S / 10)

    node.play(story)
    assert (node.moves, node.ended) == ([False], [])
    assert node.loop.time() < VERDICT_S


@pytest.mark.parametrize("known", [1, 3])
def test_one_death_moves_no_session_that_prld_was_not_asked_for(known: int) -> None:
    node = Node(known)
    node.unknown = 3
    first = node.sessions[0]

    async def story() -> None:
        node.dies(first)

    node.play(story)
    assert (node.moves, node.ended) == ([], [first])
    assert node.loop.time() == pytest.approx(DECIDE_S)


def test_a_move_that_saves_more_than_it_loses_of_them_is_made() -> None:
    node = Node(3)
    node.unknown = 1

    async def story() -> None:
        node.dies(*node.sessions)

    node.play(story)
    assert (node.moves, node.ended) == ([True], [])
    assert node.loop.time() == pytest.approx(VERDICT_S)


def test_who_cannot_count_them_moves_nobody() -> None:
    node = Node(1)
    node.uncounted = "sessions cannot be counted"
    (only,) = node.sessions

    async def story() -> None:
        node.dies(only)

    node.play(story)
    assert (node.moves, node.ended) == ([], [only])


def test_one_death_moves_nobody_who_would_be_lost() -> None:
    node = Node(3)
    first, second, _ = node.sessions
    second.state = "open"

    async def story() -> None:
        node.dies(first)

    node.play(story)
    assert (node.moves, node.ended, node.told) == ([], [first], ["renounce_failed"])
    assert node.loop.time() == DECIDE_S


def test_one_death_whose_others_become_protected_in_time_moves_all() -> None:
    node = Node(3)
    first, second, _ = node.sessions
    second.state = "setup"

    async def story() -> None:
        node.dies(first)
        await node.passes((VERDICT_S + DECIDE_S) / 2)
        assert not node.moves
        node.change(second, "active")

    node.play(story)
    assert (node.moves, node.ended) == ([False], [])


def test_a_move_that_saves_more_than_it_loses_is_made() -> None:
    node = Node(5)
    last = node.sessions[-1]
    last.state = "open"

    async def story() -> None:
        node.dies(*node.sessions[:4])

    node.play(story)
    assert (node.moves, node.ended) == ([True], [])


def test_what_has_died_on_both_nodes_moves_nobody() -> None:
    """A program that what it was told lets die: its shadow is given up a moment later."""
    node = Node(150)
    first = node.sessions[0]

    async def story() -> None:
        node.dies(first)
        await node.passes(VERDICT_S / 2)
        node.change(first, "open")

    node.play(story)
    assert (node.moves, node.told) == ([], [])


def test_a_refused_move_is_tried_again_when_something_changes() -> None:
    node = Node(2)
    node.answers = [NotSafeError("a shadow is missing")]

    async def story() -> None:
        node.dies(*node.sessions)
        await node.passes(DECIDE_S / 2)
        assert len(node.moves) == 1
        node.orphans.changed(SERVICE)

    node.play(story)
    assert (node.moves, node.ended) == ([False, False], [])


def test_a_move_that_stays_refused_leaves_each_its_own_end() -> None:
    node = Node(2)
    both = list(node.sessions)
    node.answers = [NotSafeError("the link is down")] * 2

    async def story() -> None:
        node.dies(*both)

    node.play(story)
    assert (node.ended, node.told) == (both, ["renounce_failed"])


def test_nothing_ends_while_it_is_unknown_who_has_it() -> None:
    node = Node(2)
    node.answers = [PrlError("the link was lost in the middle of the move")]

    async def story() -> None:
        node.dies(*node.sessions)

    node.play(story)
    assert (len(node.moves), node.ended) == (1, [])


def test_a_move_that_is_undone_when_nobody_waits_for_that_any_more_is_tried_again() -> None:
    node = Node(2)
    node.answers = [PrlError("the move has no end yet")]

    async def story() -> None:
        node.dies(*node.sessions)
        await node.passes(2 * DECIDE_S)
        assert len(node.moves) == 1
        node.orphans.reconsider(SERVICE)

    node.play(story)
    assert (node.moves, node.ended, node.told[-1]) == ([False, False], [], "renounced")


def test_of_the_end_of_a_move_its_orphans_hear_last() -> None:
    node, parts = daemon.Node.__new__(daemon.Node), MagicMock()
    for name in ("link", "primaries", "shadows", "switchover"):
        setattr(node, f"_{name}", getattr(parts, name))
    event = Event(EventKind.MOVE, service=3)
    node._on_event(event)
    assert parts.mock_calls == [call.switchover.on_move(event), call.primaries.on_move(3)]


def test_the_end_of_a_move_that_is_waited_for_decides_nothing_by_itself() -> None:
    node = Node(2)
    node.answers = [NotSafeError("it did not become quiet")] * 2

    async def story() -> None:
        node.dies(*node.sessions)
        await node.passes(DECIDE_S / 2)
        node.orphans.reconsider(SERVICE)
        await node.passes(DECIDE_S / 4)
        assert len(node.moves) == 1

    node.play(story)


def test_deaths_among_others_move_the_service_so_often_and_no_more() -> None:
    node = Node(MOVES_MAX + 10)

    async def story() -> None:
        for count in range(1, MOVES_MAX + 1):
            node.dies(node.sessions[0])
            await node.passes(2 * VERDICT_S)
            assert len(node.moves) == count
            for session in list(node.sessions):  # and back, by another death over there
                if session.orphan:
                    node.sessions.remove(session)
                else:
                    node.change(session, "active")
        victim = node.sessions[0]
        node.dies(victim)
        await node.passes(2 * VERDICT_S)
        assert (len(node.moves), node.ended) == (MOVES_MAX, [victim])
        assert node.told[-1] == "renounce_failed"
        await node.passes(MOVES_S)
        node.dies(node.sessions[0])
        await node.passes(2 * VERDICT_S)
        assert len(node.moves) == MOVES_MAX + 1

    node.play(story)


def test_who_owns_the_service_no_more_moves_nothing() -> None:
    """The other node has it already: a request would bring it back."""
    node = Node(2)
    node.owns = False

    async def story() -> None:
        node.dies(*node.sessions)

    node.play(story)
    assert (node.moves, node.ended) == ([], [])


def test_who_dies_in_the_middle_of_a_move_ends_if_it_was_not_taken_and_is_not_protected() -> None:
    node = Node(0)
    log = SimpleNamespace(error=lambda *_, **__: None, info=lambda *_, **__: None)
    log.warning = lambda event, *_, **__: node.told.append(event)
    closed, over = list[int](), list[str]()
    datapath = SimpleNamespace(service_state=lambda _: Owner.OWNER, flow_close=closed.append)
    primaries = Primaries(
        config.parse(FILE.format(port=7077)),
        *cast(Any, (datapath, SimpleNamespace(up=True, other=None), log, None, None)),
        moves=node,
        exposed=cast(Any, None),
        births=cast(Any, None),
        ended=lambda ends, _: over.append(str(ends)),
    )
    client: Any = SimpleNamespace(send_event=lambda _: None, name="test")
    sessions = [
        Session(cast(Any, f"session {n}"), SERVICE, client, b"", handle=n, state="active")
        for n in (1, 2)
    ]

    async def story() -> None:
        for session in sessions:
            primaries.take_over(session)
            primaries.on_state(Event(EventKind.PRIMARY, handle=session.handle, state=Primary.MOVED))
        primaries.application_gone(client)
        assert not closed
        primaries.on_state(Event(EventKind.PRIMARY, handle=1, state=Primary.OPEN))
        assert closed == [1]
        primaries.on_state(Event(EventKind.PRIMARY, handle=2, state=Primary.ACTIVE))
        await node.passes(VERDICT_S)

    node.play(story)
    assert (node.moves, node.told, closed) == ([False], ["renounced"], [1])
    assert over == ["session 1"]


@pytest.mark.parametrize("state", ["closed", "moved"])
def test_an_orphan_that_is_not_here_any_more_asks_for_nothing(state: str) -> None:
    node = Node(2)
    first = node.sessions[0]

    async def story() -> None:
        node.dies(first)
        node.change(first, state)

    node.play(story)
    assert (node.moves, node.ended) == ([], [])
