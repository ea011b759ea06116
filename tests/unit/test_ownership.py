"""A service that the other node has claimed, and HELLO before the event that tells so."""

import pytest

from prl.bindings.facts import Owner
from prl.daemon.ownership import ownership
from tests.unit.test_withdrawal import Node, play, service

OWNER, STANDBY, NONE, FENCED = Owner.OWNER, Owner.STANDBY, Owner.NONE, Owner.FENCED
WHY = "the other node claimed it"


def test_what_was_taken_over_is_ended_before_hello_counts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was what this node owned the service for, and then the event ended it."""

    async def scene(node: Node) -> None:
        monkeypatch.setattr(ownership, "live_sessions", lambda _: 0 if node.ended else 1)
        assert [one.sessions for one in node.ownership.describe()] == [0, 0]
        assert node.ended == [0]

    play(scene, FENCED, STANDBY)


def test_a_fencing_that_hello_has_settled_ends_nothing() -> None:
    """Its event comes late: what there is now is this node's."""

    async def scene(node: Node) -> None:
        node.ownership.settle((service(0, state=NONE, term=0), service(1, state=OWNER, term=0)))
        assert node.dp.states == [OWNER, STANDBY]
        node.ended.clear()
        node.ownership.on_fenced(0, WHY)
        assert node.ended == []
        told = [record.facts["state"] for record in node.log.after(0, 1000)]
        assert told == ["owner"]

    play(scene, FENCED, STANDBY)


def test_a_fencing_ends_what_was_taken_over() -> None:
    async def scene(node: Node) -> None:
        node.ownership.on_fenced(0, WHY)
        assert node.ended == [0]

    play(scene, FENCED, STANDBY)
