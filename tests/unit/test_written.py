"""A shadow that its program has written into is void; found too late, its session is over (R18)."""

from typing import Any

import pytest

from prl.bindings.datapath import Event
from prl.bindings.facts import EventKind, Owner, Reason, Secondary
from prl.daemon.session.lost import Lost
from tests.unit.test_unread import HANDLE, Standby


@pytest.mark.parametrize("state", [Owner.STANDBY, Owner.OWNER])
def test_the_peer_hears_at_once_where_the_session_is_this_nodes(
    monkeypatch: pytest.MonkeyPatch, state: Owner
) -> None:
    """Of one that was found before, the take-over tells; of one that had its turn nobody else."""
    ended: list[Any] = []
    monkeypatch.setattr(Lost, "end_all", lambda _, service: ended.append(service))
    standby = Standby(monkeypatch)
    standby.service_state = state
    monkeypatch.setattr(standby.shadows.conntrack, "leave", lambda _: None)
    standby.shadows.on_state(
        Event(
            EventKind.SECONDARY,
            handle=HANDLE,
            generation=1,
            state=Secondary.VOID,
            reason=Reason.WRITTEN,
        )
    )
    assert standby.done == ["ended", "flow closed", "told"]
    assert ended == [0] * (state == Owner.OWNER)
