"""prld is stopped while it takes sessions over: they are no shadows any more."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl.bindings.facts import Owner
from prl.daemon import node as module
from prl.daemon.node import Node
from tests.unit.test_exposed import CONFIG


def stopping(left: list[int], state: Owner) -> Node:
    """A node of whose shadows so many are left at each look."""
    node = Node.__new__(Node)
    node._config = CONFIG
    node._shadows = cast(
        Any, SimpleNamespace(usable=lambda _: left.pop(0) if left[1:] else left[0])
    )
    node._dp = cast(Any, SimpleNamespace(service_state=lambda _: state))
    return node


def test_a_stop_waits_for_the_sessions_that_are_being_taken_over() -> None:
    left = [3, 2, 1, 0]
    asyncio.run(stopping(left, Owner.OWNER)._end_takeover())
    assert left == [0]


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAKEOVER_TIMEOUT_S", 0.0)
    asyncio.run(stopping([3], Owner.OWNER)._end_takeover())


def test_nor_for_shadows_of_what_the_other_node_owns() -> None:
    left = [3, 2]
    asyncio.run(stopping(left, Owner.STANDBY)._end_takeover())
    assert left == [2]
