"""What `prlctl takeover` asks of the daemon: a move while the owner is there."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from prl.bindings.facts import Owner
from prl.daemon.monitoring import facts
from prl.daemon.requests import Requests


class Part:
    """Notes what is asked of it."""

    def __init__(self, state: Owner) -> None:
        self._state = state
        self.done: list[str] = []

    def service_number(self, _: str) -> int:
        return 0

    def state(self, _: int) -> Owner:
        return self._state

    def takeover(self, _: int, *, fenced: bool) -> None:
        self.done.append("fenced" if fenced else "takeover")

    async def move(self, _: int, *, forced: bool) -> None:
        self.done.append("forced move" if forced else "move")


@pytest.mark.parametrize(
    ("up", "state", "fenced", "done"),
    [
        (True, Owner.STANDBY, False, "move"),
        (False, Owner.STANDBY, False, "takeover"),
        (True, Owner.STANDBY, True, "fenced"),
        (True, Owner.OWNER, False, "takeover"),  # which is refused, in its own words
    ],
)
def test_a_standby_is_given_the_service_where_its_owner_can_be_asked(
    monkeypatch: pytest.MonkeyPatch, up: bool, state: Owner, fenced: bool, done: str
) -> None:
    monkeypatch.setattr(facts, "status", lambda _: {})
    part: Any = Part(state)
    view: Any = SimpleNamespace(link=SimpleNamespace(up=up), config=None)
    nothing: Any = SimpleNamespace()
    requests = Requests(
        view, nothing, part, nothing, nothing, nothing, nothing, part, followers=nothing
    )
    asyncio.run(requests._takeover(nothing, {"fenced": fenced}, []))
    assert part.done == [done]
