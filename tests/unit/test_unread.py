"""A shadow whose session has ended: its program may read on, and it says nothing (L8)."""

import asyncio
import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prl._core import lib

from prl.bindings.datapath import Event, Tuple
from prl.bindings.facts import EventKind, Owner, Reason, Secondary
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.session import shadows
from prl.daemon.session.shadows import Shadow, Shadows
from prl.daemon.session.streams import UNCOUNTED
from tests.unit.test_exposed import CONFIG, PEER, SERVICE

HANDLE = 7


class Standby:
    """The datapath, and the shadow's socket; `done` is what became of them, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[Any] = []
        self.unread = 3
        monkeypatch.setattr(shadows, "queue_bytes", lambda *_: self.unread)
        monkeypatch.setattr(shadows, "end_silently", lambda _: self.done.append("ended"))
        sock = SimpleNamespace(setsockopt=lambda *option: self.done.append(option))
        self.service_state = Owner.STANDBY
        datapath = SimpleNamespace(
            flow_socket=lambda _: sock,
            flow_close=lambda _: self.done.append("flow closed"),
            service_state=lambda _: self.service_state,
        )
        lan = SimpleNamespace(name="lo", mac=b"\x02" + bytes(5), ifindex=1)
        self.shadows = Shadows(
            *(CONFIG, cast(Any, datapath), cast(Any, None), EventLog(lambda _: None)),
            instances=Instances(CONFIG, cast(Any, [lan])),
            congestion=None,
            taken=lambda _: None,
        )
        client: Any = SimpleNamespace(send_event=lambda _: self.done.append("told"))
        ends = Tuple(SERVICE, 179, PEER, 5)
        shadow = Shadow(HANDLE, 1, ends, 0, client, b"", False, 0, None, None, UNCOUNTED)
        self.shadows._shadows[HANDLE] = shadow

    def session_ends(self) -> None:
        void = Event(EventKind.SECONDARY, handle=HANDLE, generation=1, state=Secondary.VOID)
        self.shadows.on_state(replace(void, reason=Reason.ENDED))


@pytest.mark.parametrize("is_taken_over", [True, False])
def test_it_is_silent_for_good_before_the_datapath_lets_go_of_it(
    monkeypatch: pytest.MonkeyPatch, *, is_taken_over: bool
) -> None:
    """This node may own the service, and be heard, before anybody here is told of it."""
    monkeypatch.setattr(shadows, "READ_POLL_S", 0.0)
    standby = Standby(monkeypatch)

    async def story() -> None:
        standby.session_ends()
        mark = (socket.SOL_SOCKET, socket.SO_MARK, lib.PRL_MARK_SHADOW)
        assert standby.done == [mark, "flow closed", "told"]
        (reading,) = standby.shadows._unread.values()
        if is_taken_over:
            standby.shadows.end_unread()
        else:
            standby.unread = 0
        await asyncio.wait([reading])

    asyncio.run(story())
    assert standby.done[3:] == ["ended"]
