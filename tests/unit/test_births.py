"""Which endpoints' sessions wait to be protected, and when they do no more (SPEC R31)."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl import config
from prl.bindings.datapath import DatapathError, Offered
from prl.daemon.events.log import EventLog
from prl.daemon.session.births import Births
from prl.errors import UsageError
from tests.unit.test_daemon_sockets import FILE

ENDPOINT, OTHER = "192.0.2.100:7000", "192.0.2.100:7001"
OPENED, ELSEWHERE = "192.0.2.100>198.51.100.1:179", "192.0.2.100:7000@blue"
WITHOUT = """
[[service]]
name = "two"
addresses = ["192.0.2.101"]
owner = "re1"
birth_ms = 0
[[routing]]
name = "blue"
interface = "lan1"
[[service]]
name = "three"
addresses = ["192.0.2.100"]
owner = "re1"
instance = "blue"
birth_ms = 70
"""


class Scene:
    """What the datapath is told, and what is posted."""

    def __init__(self, birth_ms: int = 250, *, heard: bool = True) -> None:
        self.waits: dict[Offered, float] = {}
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

    def _await(self, offered: Offered, wait_s: float) -> None:
        if self.refuses:
            raise DatapathError("no room", 7)
        if wait_s:
            self.waits[offered] = wait_s
        else:
            del self.waits[offered]

    def awaited(self) -> list[str]:
        return [str(offered) for offered in self.waits]


def test_sessions_of_an_offered_endpoint_wait_until_nobody_is_there_for_them() -> None:
    scene = Scene()
    for _ in range(2):
        scene.births.offered(ENDPOINT)
    scene.births.offered(OTHER)
    assert scene.awaited() == [ENDPOINT, OTHER]
    assert set(scene.waits.values()) == {0.25}
    scene.births.refused([ENDPOINT, OPENED])
    assert scene.awaited() == [OTHER]
    scene.births.on_link_down()
    assert scene.awaited() == []
    scene.births.offered(OTHER)
    assert scene.awaited() == [OTHER]


def test_what_is_opened_from_here_waits_and_so_does_each_routing_instance() -> None:
    scene = Scene()
    for endpoint in (ENDPOINT, OPENED, ELSEWHERE, f"{OPENED}@blue"):
        scene.births.offered(endpoint)
    assert scene.awaited() == [ENDPOINT, OPENED, ELSEWHERE, f"{OPENED}@blue"]
    assert list(scene.waits.values()) == [0.25, 0.25, 0.07, 0.07]
    scene.births.refused([ENDPOINT, OPENED])
    assert scene.awaited() == [ELSEWHERE, f"{OPENED}@blue"]


def test_an_offer_is_read_as_it_is_written() -> None:
    for text in (ENDPOINT, OPENED, ELSEWHERE, "2001:db8::1>[2001:db8::2]:179@red"):
        assert str(Offered.parse(text)) == text
    for text in (f"udp:{ENDPOINT}", "udp:192.0.2.100>198.51.100.1:179", "?>192.0.2.1:7", "?"):
        with pytest.raises(UsageError):
            Offered.parse(text)


def test_what_else_is_offered_is_not_waited_for() -> None:
    scene = Scene()
    for other in ("udp:192.0.2.100:7000", "?", "192.0.2.101:7000", "192.0.2.101:7000@blue"):
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
