"""Sessions that nothing happens to have no object, and are the same when they get one again."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl.bindings.datapath import DatapathError, Note, Noted, Tuple
from prl.daemon.control.clients import Application
from prl.daemon.session import known
from prl.daemon.session.cloning import shared_address
from prl.daemon.session.known import Table
from prl.daemon.session.retries import RETRY_MAX_S
from prl.daemon.session.sessions import STABLE_S, Session
from prl.daemon.session.shadows import Shadow
from prl.daemon.session.streams import Streams
from prl.shadow import ApplicationOptions

SERVICE = shared_address("192.0.2.100")


class Flows:
    """The datapath's flows, of one role, and what is noted of them."""

    def __init__(self) -> None:
        self.flows: dict[int, tuple[int, Tuple, int]] = {}
        self.kept: dict[int, Note] = {}

    def enter(self, one: Session | Shadow) -> None:
        self.flows[one.handle] = one.generation, one.ends, one.service

    def note(self, handle: int, note: Note) -> None:
        if handle not in self.flows:
            raise DatapathError("not noted", 2)
        self.kept[handle] = note

    def recall(self, handle: int, *, shadow: bool) -> Noted | None:
        assert shadow in {True, False}
        note = self.kept.pop(handle, None)
        if note is None:
            return None
        generation, ends, service = self.flows[handle]
        return Noted(handle, generation, ends, service, note)

    def notes(
        self, *, shadow: bool, kind: int = 0, former: int = 0
    ) -> Iterator[tuple[int, int, int]]:
        assert shadow in {True, False}
        for handle, note in list(self.kept.items()):
            if kind in {0, note.kind} and former in {0, note.extra}:
                yield handle, self.flows[handle][2], note.kind


def an_application(name: str = "test") -> Application:
    return cast(Any, SimpleNamespace(name=name))


def session(number: int, client: Application, **members: Any) -> Session:
    ends = Tuple(SERVICE, 7000, shared_address("192.0.2.1"), 40_000 + number)
    facts: dict[str, Any] = {
        "handle": number, "generation": 2, "state": "active", "introduced": True,
        "active_since_s": 100,
    }  # fmt: skip
    return Session(ends, number % 2, client, b"bytes", **(facts | members))


def table(*sessions: Session) -> tuple[Table[Session], Flows]:
    flows = Flows()
    made = Table(cast(Any, flows), Session, shadow=False)
    for one in sessions:
        flows.enter(one)
        made[one.handle] = one
    return made, flows


def members(one: Session | Shadow) -> dict[str, Any]:
    return {name: getattr(one, name) for name in type(one).__slots__}


@pytest.mark.parametrize("streams", [Streams(), Streams(-5, 1 << 40)])
def test_a_session_is_what_it_was(streams: Streams) -> None:
    client = an_application()
    made, _ = table(session(7, client, streams=streams, former=9, renew=True))
    one = made.get(7)
    assert one is not None
    before = members(one)
    del one
    made.note_idle()
    assert made.sizes() == {"in_hand": 0, "noted": 1}
    assert made.peek(7) is None
    again = made.get(7)
    assert again is not None
    assert members(again) == before
    assert made.get(7) is again
    assert made.sizes() == {"in_hand": 1, "noted": 0}
    assert not made._kinds
    assert not made._by_number


def test_a_shadow_is_what_it_was() -> None:
    options = ApplicationOptions(
        congestion="cubic", nodelay=True, keepalive=False, keepidle_s=1, keepintvl_s=2, keepcnt=3,
        user_timeout_ms=4,
    )  # fmt: skip
    shadow = Shadow(
        3, 4, Tuple(SERVICE, 179, SERVICE, 5), 1, an_application(), b"x", True, 1 << 33, None,
        options, Streams(1, 2),
    )  # fmt: skip
    flows = Flows()
    flows.enter(shadow)
    made = Table(cast(Any, flows), Shadow, shadow=True)
    made[3] = shadow
    before = members(shadow)
    del shadow
    made.note_idle()
    assert made.sizes() == {"in_hand": 0, "noted": 1}
    assert made.noted(1) == 1
    (again,) = made.of_service(1)
    assert members(again) == before


def test_one_that_somebody_has_stays_an_object() -> None:
    """He would change one that nobody else sees."""
    one = session(1, an_application())
    made, _ = table(one)
    made.note_idle()
    assert made.sizes() == {"in_hand": 1, "noted": 0}
    assert made.get(1) is one


@pytest.mark.parametrize(
    "members_of_it",
    [
        {"state": "open"}, {"state": "alone"}, {"closing": True}, {"orphan": True},
        {"introduced": False}, {"reason": "why"}, {"program": object()},
    ],
)  # fmt: skip
def test_one_that_something_happens_to_stays_an_object(members_of_it: dict[str, Any]) -> None:
    made, flows = table(session(1, an_application(), **members_of_it))
    made.note_idle()
    assert made.sizes() == {"in_hand": 1, "noted": 0}
    assert not flows.kept


def test_so_does_one_that_is_being_protected_anew() -> None:
    one = session(1, an_application())
    one.mend()
    made, _ = table(one)
    del one
    made.note_idle()
    assert made.sizes() == {"in_hand": 1, "noted": 0}


def test_its_back_off_is_not_forgotten_before_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = table(session(1, an_application(), wait_s=RETRY_MAX_S, active_since_s=100))
    now_s = 100 + STABLE_S
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    made.note_idle()
    assert made.sizes()["noted"] == 0
    now_s += 1
    made.note_idle()
    assert made.sizes()["noted"] == 1


def test_one_without_a_flow_waits_for_the_event_of_that() -> None:
    made, flows = table(session(1, an_application()))
    flows.flows.clear()
    made.note_idle()
    assert made.sizes() == {"in_hand": 1, "noted": 0}
    assert not made._kinds


def test_what_is_looked_for_is_found_among_the_noted() -> None:
    ours, theirs = an_application("ours"), an_application("theirs")
    sessions = [session(n, ours if n < 4 else theirs, former=100 + n) for n in range(1, 9)]
    sessions[0].application = b"other bytes"  # a kind of its own
    made, _ = table(*sessions)
    sessions.clear()
    made.note_idle()
    assert made.sizes() == {"in_hand": 0, "noted": 8}
    assert (len(made), made.noted(0), made.noted(1)) == (8, 4, 4)
    assert made.of_former(77) is None
    found = made.of_former(105)
    assert found is not None
    assert (found.handle, found.client) == (5, theirs)
    assert sorted(one.handle for one in made.of_client(theirs)) == [4, 5, 6, 7, 8]
    assert made.sizes() == {"in_hand": 5, "noted": 3}
    assert sorted(one.handle for one in made.of_client(ours)) == [1, 2, 3]
    made.note_idle()
    assert sorted(one.handle for one in made.of_service(1)) == [1, 3, 5, 7]
    assert sorted(one.handle for one in made.all()) == list(range(1, 9))
    assert made.sizes() == {"in_hand": 8, "noted": 0}


def test_no_more_are_looked_at_in_one_go_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "LOOKS_AT_ONCE", 3)
    client = an_application()
    made, _ = table(
        *(session(n, client, state="open" if n == 2 else "active") for n in range(1, 9))
    )
    rounds = 0
    while made.note_idle():
        rounds += 1
        assert made.sizes()["noted"] <= 3 * rounds
    assert made.sizes() == {"in_hand": 1, "noted": 7}


def test_one_that_ends_takes_its_kind_along() -> None:
    made, _ = table(session(1, an_application()))
    made.note_idle()
    assert len(made._kinds) == 1
    assert made.get(1) is not None
    del made[1]
    assert (len(made), made._kinds, made.noted(1)) == (0, {}, 0)
