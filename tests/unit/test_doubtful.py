"""Sessions that may have gone on elsewhere, unknown to anybody."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from types import SimpleNamespace
from typing import cast

import pytest

from prl.bindings.datapath import Datapath, DatapathError, Tuple
from prl.daemon.session.doubtful import Doubtful
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session

SERVICE, OTHER = 0, 1
TERM = 3
ANEW = [TERM - 1, TERM]
"""Terms of a node whose host has begun anew."""


class Scene:
    def __init__(self, *, silent: bool = False) -> None:
        self.sessions: list[SimpleNamespace] = []
        self.aborted: list[int] = []
        self.lost: list[Tuple] = []
        self.told: list[int] = []
        self.idle: list[int] = []
        """Handles of those that nothing happens to: their sessions are not in hand."""
        self.received: dict[int, int] = {}
        self.term = TERM
        datapath = SimpleNamespace(
            notes=lambda *, shadow: [] if shadow else [(one, SERVICE, 0) for one in self.idle],
            flow_socket=self._socket,
            term=lambda _: self.term,
        )
        primaries = SimpleNamespace(in_hand=self._in_hand, find=self._find, abort=self._abort)
        self.doubtful = Doubtful(
            cast(Datapath, datapath),
            cast(Primaries, primaries),
            2,
            lose=lambda ends, _: self.lost.append(ends),
            tell=self.told.append,
            is_silent=lambda _: silent,
        )

    def known_again(self, terms: list[int]) -> None:
        """The other node says HELLO, with these terms, and an epoch begins."""
        self.doubtful.hear(terms)
        self.doubtful.settle([SERVICE])

    def _in_hand(self) -> list[SimpleNamespace]:
        return [session for session in self.sessions if session.handle not in self.idle]

    def _find(self, handle: int) -> SimpleNamespace | None:
        return next((one for one in self.sessions if one.handle == handle), None)

    @contextmanager
    def _socket(self, handle: int) -> Iterator[int]:
        if handle not in self.received:
            raise DatapathError("its socket is not here", 2)
        yield handle

    def _abort(self, session: Session, why: str) -> None:
        assert "begun anew" in why
        self.aborted.append(session.handle)

    def add(self, state: str, service: int = SERVICE, proto: int = 6) -> SimpleNamespace:
        number = len(self.sessions) + 1
        ends = Tuple(ip_address("192.0.2.100"), 7000, ip_address("192.0.2.1"), number, proto)
        session = SimpleNamespace(
            handle=number, state=state, service=service, ends=ends, is_live=True
        )
        self.sessions.append(session)
        return session


@pytest.mark.parametrize("silent", [False, True])
def test_what_the_other_node_may_have_had_and_forgotten_is_ended(*, silent: bool) -> None:
    scene = Scene(silent=silent)
    for state in ("voiding", "alone", "active", "open", "setup"):
        scene.add(state)
    scene.add("voiding", proto=17)
    scene.add("voiding", service=OTHER)
    scene.doubtful.note()
    for session in scene.sessions:
        session.state = "open"
    scene.add("voiding")  # it began later
    scene.known_again(ANEW)
    assert scene.aborted == [1, 2, 3]
    assert scene.lost == [session.ends for session in scene.sessions[:3]]
    assert scene.told == ([] if silent else [SERVICE])


def test_a_hello_that_came_to_nothing_here_has_told_all_the_same() -> None:
    """Over there it was agreed upon: the next one says the term that this node has told it."""
    scene = Scene()
    scene.add("voiding")
    scene.doubtful.note()
    scene.doubtful.hear(ANEW)
    scene.known_again([TERM, TERM])
    assert scene.aborted == [1]
    scene.doubtful.note()
    scene.known_again([TERM, TERM])
    assert scene.aborted == [1]


def test_what_it_can_tell_of_goes_on() -> None:
    scene = Scene()
    scene.add("voiding")
    scene.doubtful.note()
    scene.known_again([TERM, TERM])
    scene.known_again(ANEW)
    assert not scene.aborted


def test_one_that_nothing_happens_to_is_ended_like_any_other() -> None:
    scene = Scene()
    scene.idle.append(scene.add("active").handle)
    scene.doubtful.note()
    scene.known_again(ANEW)
    assert scene.aborted == [1]


def test_nobody_has_taken_over_if_the_link_answers_on() -> None:
    scene = Scene()
    scene.add("voiding")
    scene.doubtful.note()
    scene.doubtful.speaks(is_linked=True)
    scene.known_again(ANEW)
    assert not scene.aborted


def test_whose_stream_goes_on_here_was_served_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    monkeypatch.setattr(
        "prl.daemon.session.doubtful.tcp_info",
        lambda handle: SimpleNamespace(bytes_received=scene.received[handle]),
    )
    for handle in (1, 2, 3):
        scene.add("voiding")
        scene.received[handle] = 100
    scene.doubtful.note()
    scene.received |= {2: 150}  # before it spoke: its peer has heard nothing of it
    scene.doubtful.speaks(is_linked=False)
    scene.received |= {3: 101}
    scene.known_again(ANEW)
    assert scene.aborted == [1, 2]


def test_who_is_silent_again_knows_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    monkeypatch.setattr(
        "prl.daemon.session.doubtful.tcp_info",
        lambda handle: SimpleNamespace(bytes_received=scene.received[handle]),
    )
    scene.add("voiding")
    scene.received = {1: 100}
    scene.doubtful.note()
    scene.doubtful.speaks(is_linked=False)
    scene.received = {1: 101}
    scene.doubtful.note()
    scene.known_again(ANEW)
    assert scene.aborted == [1]


def test_that_this_node_went_on_by_itself_makes_nobody_begin_anew() -> None:
    """What it says of a service then is of a later term."""
    scene = Scene()
    scene.add("voiding")
    scene.doubtful.note()
    scene.term += 2
    scene.doubtful.note()
    scene.known_again([TERM, TERM])
    assert not scene.aborted
