"""What prld knows of sessions that go on after a flap of the link without a new snapshot (L10)."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl import config
from prl.bindings.datapath import Event, Tuple
from prl.bindings.facts import EventKind, Owner, Primary, Reason
from prl.daemon.session.cloning import shared_address
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session
from tests.unit.test_daemon_sockets import FILE

HANDLE, GENERATION = 7, 3


class Scene:
    """One session, protected until the link was lost."""

    def __init__(self) -> None:
        self.failed: list[tuple[int, int]] = []
        self.told: list[dict[str, Any]] = []
        self.logged: list[str] = []

        def log(event: str, *_: object, **__: object) -> None:
            self.logged.append(event)

        def fail(handle: int, reason: int) -> None:
            self.failed.append((handle, reason))

        datapath = SimpleNamespace(service_state=lambda _: Owner.OWNER, primary_fail=fail)
        self.primaries = Primaries(
            config.parse(FILE.format(port=7077)),
            cast(Any, datapath),
            cast(Any, SimpleNamespace(up=False, other=None, why_down="it was cut")),
            cast(Any, SimpleNamespace(info=log, error=log)),
            *cast(Any, (None, None, None, None)),
            births=cast(Any, SimpleNamespace(on_link_down=lambda: None)),
        )
        client: Any = SimpleNamespace(send_event=self.told.append, name="test")
        service = shared_address("192.0.2.100")
        self.session = Session(
            Tuple(service, 7000, service, 1), 0, client, b"",
            handle=HANDLE, generation=GENERATION, state="active",
        )  # fmt: skip
        self.primaries.take_over(self.session)

    def becomes(self, state: Primary, reason: Reason = Reason.OK) -> None:
        event = Event(EventKind.PRIMARY, HANDLE, generation=GENERATION, state=state, reason=reason)
        self.primaries.on_state(event)


def play(story: Callable[[Scene], None]) -> Scene:
    async def run() -> Scene:
        scene = Scene()
        scene.becomes(Primary.VOIDING, Reason.LINK_LOST)
        story(scene)
        if scene.session.mending is not None:
            scene.session.mending.stop()
        await asyncio.sleep(0)
        return scene

    return asyncio.run(run())


def test_a_session_that_goes_on_needs_nobody_any_more() -> None:
    def story(scene: Scene) -> None:
        scene.becomes(Primary.ALONE, Reason.LINK_LOST)
        assert "nothing has passed" in scene.primaries.why_not(scene.session)
        scene.becomes(Primary.ACTIVE)

    scene = play(story)
    assert (scene.session.state, scene.session.reason) == ("active", "")
    assert scene.session.mending is None
    assert scene.logged == ["replication_ended", "resumed"]


def test_its_application_hears_of_no_state_that_it_does_not_know() -> None:
    scene = play(lambda scene: scene.becomes(Primary.ALONE, Reason.LINK_LOST))
    assert [told["state"] for told in scene.told] == ["voiding", "open"]


@pytest.mark.parametrize("state", [Primary.VOIDING, Primary.ALONE])
@pytest.mark.parametrize("why", ["doubt", "resync"])
def test_what_may_go_on_is_given_up_where_protection_is_in_doubt(state: Primary, why: str) -> None:
    def story(scene: Scene) -> None:
        scene.becomes(state, Reason.LINK_LOST)
        if why == "doubt":
            scene.primaries.doubt(Reason.NOT_HELD)
        else:
            scene.primaries.resync(scene.session)

    reason = Reason.NOT_HELD if why == "doubt" else Reason.REQUESTED
    assert play(story).failed == [(HANDLE, reason)]
