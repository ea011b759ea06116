"""Sessions that may have gone on elsewhere, unknown to anybody."""

from ipaddress import ip_address
from types import SimpleNamespace
from typing import cast

import pytest

from prl.bindings.datapath import Tuple
from prl.bindings.facts import Owner
from prl.daemon.link.hello import ServiceState, has_forgotten
from prl.daemon.session.doubtful import Doubtful
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session

SERVICE, OTHER = 0, 1


class Scene:
    def __init__(self, *, silent: bool = False) -> None:
        self.sessions: list[SimpleNamespace] = []
        self.aborted: list[int] = []
        self.lost: list[Tuple] = []
        self.told: list[int] = []
        self.doubtful = Doubtful(
            cast(Primaries, SimpleNamespace(in_hand=lambda: self.sessions, abort=self._abort)),
            lose=lambda ends, _: self.lost.append(ends),
            tell=self.told.append,
            is_silent=lambda _: silent,
        )

    def _abort(self, session: Session, why: str) -> None:
        assert "begun anew" in why
        self.aborted.append(session.handle)

    def add(self, state: str, service: int = SERVICE, proto: int = 6) -> SimpleNamespace:
        number = len(self.sessions) + 1
        ends = Tuple(ip_address("192.0.2.100"), 7000, ip_address("192.0.2.1"), number, proto)
        session = SimpleNamespace(handle=number, state=state, service=service, ends=ends)
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
    scene.doubtful.settle([SERVICE])
    assert scene.aborted == [1, 2, 3]
    assert scene.lost == [session.ends for session in scene.sessions[:3]]
    assert scene.told == ([] if silent else [SERVICE])


def test_what_it_can_tell_of_goes_on() -> None:
    scene = Scene()
    scene.add("voiding")
    scene.doubtful.note()
    scene.doubtful.settle([])
    scene.doubtful.settle([SERVICE])
    assert not scene.aborted


def test_who_has_a_lower_term_has_begun_anew() -> None:
    def service(state: Owner, term: int) -> ServiceState:
        return ServiceState(name="s", addresses=[], owner="re0", state=state, term=term)

    mine = service(Owner.OWNER, 3)
    assert has_forgotten(mine, service(Owner.NONE, 0))
    assert has_forgotten(mine, service(Owner.STANDBY, 2))
    assert not has_forgotten(mine, service(Owner.STANDBY, 3))
    assert not has_forgotten(mine, service(Owner.OWNER, 2))
    assert not has_forgotten(service(Owner.STANDBY, 3), service(Owner.STANDBY, 2))
