"""prld lets go of a socket of which its application wants no more (R18)."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl import config
from prl.bindings.datapath import Event
from prl.bindings.facts import EventKind, Owner, Primary, Reason
from prl.daemon.control.rights import RIGHTS, Right
from prl.daemon.requests import Requests
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session
from prl.errors import UsageError
from tests.unit.test_daemon_sockets import FILE

HANDLE = 5


class Node:
    """One session, and what the datapath was asked for."""

    def __init__(self, state: str) -> None:
        self.asked: list[tuple[str, int]] = []
        datapath = SimpleNamespace(
            service_state=lambda _: Owner.OWNER,
            primary_fail=lambda handle, _: self.asked.append(("fail", handle)),
            flow_close=lambda handle: self.asked.append(("close", handle)),
        )
        log = SimpleNamespace(error=lambda *_, **__: None, info=lambda *_, **__: None)
        self.primaries = Primaries(
            config.parse(FILE.format(port=7077)),
            *cast(Any, (datapath, SimpleNamespace(up=True, other=None), log, None, None)),
            moves=cast(Any, None),
            exposed=cast(Any, None),
            births=cast(Any, None),
        )
        self.told: list[str] = []
        self.client: Any = SimpleNamespace(
            send_event=lambda event: self.told.append(event["state"]), name="test"
        )
        ends: Any = SimpleNamespace(offers=frozenset())
        session = Session(ends, 0, self.client, b"", handle=HANDLE, state=state)
        self.primaries.take_over(session)
        nothing: Any = None
        self.requests = Requests(*[nothing] * 8, followers=nothing)
        self.requests._primaries = self.primaries

    async def release(self, client: Any) -> None:
        await self.requests._release(client, {"op": "release", "handle": HANDLE}, [])

    def becomes(self, state: Primary) -> None:
        event = Event(EventKind.PRIMARY, handle=HANDLE, state=state, reason=Reason.REQUESTED)
        self.primaries.on_state(event)


@pytest.mark.parametrize("state", ["active", "setup"])
def test_a_session_that_is_protected_is_unprotected_first(state: str) -> None:
    async def story() -> None:
        node = Node(state)
        await node.release(node.client)
        assert node.asked == [("fail", HANDLE)]
        node.becomes(Primary.VOIDING)
        assert node.asked == [("fail", HANDLE)]
        node.becomes(Primary.OPEN)
        assert node.asked == [("fail", HANDLE), ("close", HANDLE)]
        assert node.told[-1] == "closed"
        with pytest.raises(UsageError):
            await node.release(node.client)

    asyncio.run(story())


def test_a_session_that_is_open_is_let_go_at_once() -> None:
    async def story() -> None:
        node = Node("open")
        await node.release(node.client)
        assert node.asked == [("close", HANDLE)]

    asyncio.run(story())


def test_only_its_own_application_has_it_released() -> None:
    async def story() -> None:
        node = Node("active")
        with pytest.raises(UsageError):
            await node.release(object())
        assert node.asked == []

    asyncio.run(story())
    assert RIGHTS["release"] == RIGHTS["close"] == Right.PROTECT
