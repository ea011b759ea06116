"""A shadow that is found void where its session should go on (R18): over, and its peer told."""

import asyncio
from typing import Any

import pytest

from prl.bindings.datapath import Event
from prl.bindings.facts import EventKind, Owner, Reason, Secondary
from prl.daemon.session.lost import Lost
from tests.unit.test_unread import HANDLE, Standby


@pytest.mark.parametrize("reason", [Reason.WRITTEN, Reason.NOT_ACTIVE])
@pytest.mark.parametrize("state", [Owner.STANDBY, Owner.OWNER])
def test_the_peer_hears_where_the_session_is_this_nodes(
    monkeypatch: pytest.MonkeyPatch, state: Owner, reason: Reason
) -> None:
    """Of one that was found before, the take-over tells; of one that had its turn, or of a service
    that HELLO has given this node, nobody else."""
    ended: list[Any] = []
    monkeypatch.setattr(Lost, "end_all", lambda _, service: ended.append(service))
    standby = Standby(monkeypatch)
    standby.service_state = state
    monkeypatch.setattr(standby.shadows.conntrack, "leave", lambda _: None)
    void = Event(
        EventKind.SECONDARY, handle=HANDLE, generation=1, state=Secondary.VOID, reason=reason
    )

    async def told() -> None:
        standby.shadows.on_state(void)
        assert ended == []  # what comes next may be the take-over
        await asyncio.sleep(0)

    asyncio.run(told())
    assert standby.done == ["ended", "flow closed", "told"]
    assert ended == [0] * (state == Owner.OWNER)
