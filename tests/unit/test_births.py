"""Which endpoints' sessions wait to be protected, and when they do no more (SPEC R31)."""

from types import SimpleNamespace
from typing import Any, cast

from prl import config
from prl.bindings.datapath import DatapathError
from prl.daemon.events.log import EventLog
from prl.daemon.session.births import Births
from prl.endpoint import Side, show_endpoint
from tests.unit.test_daemon_sockets import FILE

ENDPOINT, OTHER = "192.0.2.100:7000", "192.0.2.100:7001"
WITHOUT = """
[[service]]
name = "two"
addresses = ["192.0.2.101"]
owner = "re1"
"""


class Scene:
    """What the datapath is told, and what is posted."""

    def __init__(self, birth_ms: int = 250, *, heard: bool = True) -> None:
        self.waits: dict[Side, float] = {}
        self.refuses = False
        self.kernel = SimpleNamespace(births_late=3)
        self.posted: list[tuple[str, Any]] = []
        log = SimpleNamespace(
            error=lambda event, _, **facts: self.posted.append((event, facts)),
            warning=lambda event, _, **facts: self.posted.append((event, facts)),
        )
        self.births = Births(
            config.parse(FILE.format(port=7077) + f"birth_ms = {birth_ms}" + WITHOUT),
            cast(Any, SimpleNamespace(await_sessions=self._await)),
            cast(Any, self.kernel),
            cast(EventLog, log),
            heard=heard,
        )

    def _await(self, side: Side, wait_s: float) -> None:
        if self.refuses:
            raise DatapathError("no room", 7)
        if wait_s:
            self.waits[side] = wait_s
        else:
            del self.waits[side]

    def awaited(self) -> list[str]:
        return [show_endpoint(*side) for side in self.waits]


def test_sessions_of_an_offered_endpoint_wait_until_nobody_is_there_for_them() -> None:
    scene = Scene()
    for _ in range(2):
        scene.births.offered(ENDPOINT)
    scene.births.offered(OTHER)
    assert scene.awaited() == [ENDPOINT, OTHER]
    assert set(scene.waits.values()) == {0.25}
    scene.births.refused([ENDPOINT, "192.0.2.100>198.51.100.1:40000"])
    assert scene.awaited() == [OTHER]
    scene.births.on_link_down()
    assert scene.awaited() == []
    scene.births.offered(OTHER)
    assert scene.awaited() == [OTHER]


def test_what_else_is_offered_is_not_waited_for() -> None:
    scene = Scene()
    for other in (
        "udp:192.0.2.100:7000", "192.0.2.100>198.51.100.1:179", "192.0.2.100:7000@blue", "?",
        "192.0.2.101:7000",
    ):  # fmt: skip
        scene.births.offered(other)
    assert scene.awaited() == []


def test_nothing_waits_where_it_was_not_asked_for_or_no_end_would_be_heard_of() -> None:
    for scene in (Scene(0), Scene(heard=False)):
        scene.births.offered(ENDPOINT)
        assert scene.awaited() == []


def test_an_endpoint_that_the_kernel_does_not_take_is_told_of_and_tried_again() -> None:
    scene = Scene()
    scene.refuses = True
    scene.births.offered(ENDPOINT)
    assert scene.posted == [("alarm", {})]
    scene.refuses = False
    scene.births.offered(ENDPOINT)
    assert scene.awaited() == [ENDPOINT]


def test_sessions_that_waited_in_vain_are_told_of_once() -> None:
    scene = Scene()
    scene.births.look()
    assert scene.posted == []
    scene.kernel.births_late += 2
    for _ in range(2):
        scene.births.look()
    assert scene.posted == [("born_unprotected", {"sessions": 2})]
