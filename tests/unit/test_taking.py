"""A shadow as its service is taken over: whatever happens then, its peer hears of it (R18, L8)."""

import asyncio
import errno
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl.bindings import wire
from prl.bindings.datapath import DatapathError, Event, Tuple
from prl.bindings.facts import EventKind, Owner, Reason, Secondary, Tlv
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.session import lost, protect, shadows
from prl.daemon.session.prepared import Coming
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session
from prl.daemon.session.shadows import Shadow, Shadows
from prl.daemon.session.streams import UNCOUNTED
from prl.daemon.session.transfer import Setup
from tests.unit.test_exposed import CONFIG, PEER, SERVICE

HANDLE, BECOMES = 7, 1000
"""The first shadow's; what is added to it by the take-over."""
PORTS = [5, 6, 7]


class Client:
    """An application; prld finds out by sending to it that it is dead."""

    name = "test"

    def __init__(self, gone: Callable[["Client"], None]) -> None:
        self._gone = gone
        self.is_dead = self.closed = False
        self.told: list[dict[str, Any]] = []

    def send_event(self, event: dict[str, Any], *_: int) -> None:
        if self.closed:
            return
        if self.is_dead:
            self.closed = True
            self._gone(self)
        else:
            self.told.append(event)


class Node:
    """It has taken a service over, with a shadow for each port; their turn has not come yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: set[int] = set()
        """Peers that were asked whether they still believe in their session."""
        self.closed: list[int] = []
        self.voided: list[tuple[int, int]] = []
        self.state = Owner.OWNER
        monkeypatch.setattr(lost, "_send_syn", lambda ends, _: self.asked.add(ends.remote_port))
        monkeypatch.setattr(lost, "AGAIN_S", 0.0)
        monkeypatch.setattr(shadows, "end_silently", lambda _: None)
        datapath = SimpleNamespace(
            service_state=lambda _: self.state,
            flow_info=lambda _: None,
            flow_adopt=lambda handle: handle + BECOMES,
            flow_socket=self._socket,
            flow_close=self.closed.append,
            flow_of=lambda _: 0,
            secondary_void=lambda *what: self.voided.append(what),
        )
        instances = Instances(
            CONFIG, cast(Any, [SimpleNamespace(name="lo", mac=b"\x02" + bytes(5), ifindex=1)])
        )
        self.log = EventLog(lambda _: None)
        self.primaries = Primaries(
            *(CONFIG, cast(Any, datapath), cast(Any, SimpleNamespace(up=False, why_down=""))),
            *cast(Any, (self.log, None, instances, None, None)),
            births=cast(Any, None),
        )
        self.shadows = Shadows(
            *(CONFIG, cast(Any, datapath), cast(Any, None), self.log),
            instances=instances,
            congestion=None,
            taken=self.primaries.take_over,
        )
        self.shadows.conntrack = cast(Any, SimpleNamespace(leave=lambda _: None))
        self.client = Client(self._gone)
        for number, port in enumerate(PORTS):
            ends = Tuple(SERVICE, 179, PEER, port)
            client, handle = cast(Any, self.client), HANDLE + number
            self.shadows._shadows[handle] = Shadow(
                handle, 1, ends, 0, client, b"", False, 0, None, None, UNCOUNTED
            )

    def _socket(self, _: int) -> Any:
        raise DatapathError("not needed here", 2)

    def _gone(self, client: Client) -> None:
        self.primaries.application_gone(cast(Any, client))
        self.shadows.application_gone(cast(Any, client))

    def takes(self, handle: int) -> None:
        self.shadows.on_taken(Event(EventKind.TAKEN_FLOW, handle=handle))

    def shadow(self) -> Shadow:
        found = self.shadows.find(HANDLE)
        assert found is not None
        return found


def play(node: Node, story: Callable[[], None]) -> None:
    """Until nothing is left to do."""

    async def run() -> None:
        story()
        for session in node.primaries.in_hand():
            if session.mending is not None:
                session.mending.stop()
        await asyncio.sleep(0)
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest)

    asyncio.run(run())


ENDS: dict[str, Callable[[Node], None]] = {
    "its connection ended": lambda node: node._gone(node.client),
    "close": lambda node: node.shadows.close(node.shadow()),
    "reject": lambda node: node.shadows.reject(node.shadow(), Reason.MID_STREAM, "why"),
    "withdraw": lambda node: node.shadows.withdraw(
        cast(Any, node.client), node.shadow().ends.service_end
    ),
    "void": lambda node: node.shadows.on_state(
        Event(EventKind.SECONDARY, HANDLE, state=Secondary.VOID, reason=Reason.DIVERGED)
    ),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_is_given_up_before_its_turn_is_told_to_its_peer(
    end: Callable[[Node], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(monkeypatch)

    def story() -> None:
        assert not node.shadows.end_lost(0)  # the take-over is told, and none is lost until then
        end(node)

    play(node, story)
    assert PORTS[0] in node.asked
    assert not node.shadows.end_lost(0)


def test_a_standby_tells_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sessions live on the other node."""
    node = Node(monkeypatch)
    node.state = Owner.STANDBY
    play(node, lambda: node._gone(node.client))
    assert not node.asked
    assert len(node.voided) == len(PORTS)


def test_an_application_that_is_found_dead_as_it_is_told_has_no_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(monkeypatch)

    def story() -> None:
        node.takes(HANDLE)
        node.client.is_dead = True
        for handle in (HANDLE + 1, HANDLE + 2):
            node.takes(handle)
        assert not node.primaries.in_hand()

    play(node, story)
    assert [event["becomes"] for event in node.client.told] == [HANDLE + BECOMES]
    # Two were sessions already, whose sockets end by themselves; the third's turn had not come.
    assert sorted(node.closed) == [HANDLE + 2, HANDLE + BECOMES, HANDLE + 1 + BECOMES]
    assert node.asked == {PORTS[2]}


def test_all_that_are_taken_over_are_told_before_any_is_protected_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many sessions the last application has its word as soon as may be (T10)."""
    node = Node(monkeypatch)
    monkeypatch.setattr(protect, "TENDED_AT_ONCE", 2)
    kept: list[int] = []

    async def keep(_: Primaries, session: Session, __: object) -> None:
        kept.append(session.handle)

    monkeypatch.setattr(Primaries, "_keep", keep)

    def story() -> None:
        for number, _ in enumerate(PORTS):
            node.takes(HANDLE + number)
        assert all(session.mending is None for session in node.primaries.in_hand())

    play(node, story)
    handles = [HANDLE + number + BECOMES for number, _ in enumerate(PORTS)]
    assert [event["becomes"] for event in node.client.told] == handles
    assert kept == handles


# -- a moment that is told late


LATE = 99


def moment_comes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The datapath has restored a prepared socket, and says so."""
    event = Event(EventKind.MESSAGE, handle=LATE, generation=1)
    members: dict[str, Any] = {"snapshot": b"", "mss": 1460, "committed": 0}
    coming = Coming(
        *(event, 0, Setup(rcv_wscale=7, snd_wscale=7, timestamps=True, **members)),
        *(cast(Any, None), Tuple(SERVICE, 179, PEER, 9)),
        *(0, cast(Any, node.client), None),
    )
    take = SimpleNamespace(take=lambda *_: (coming, socket.socket()))
    monkeypatch.setattr(node.shadows, "_prepared", take)
    monkeypatch.setattr(wire, "decode_moment", lambda *_: wire.Moment(0, 0, 0, 0))
    body = wire.encode_tlvs([wire.Element(Tlv.MOMENT, b"")])
    node.shadows.on_restored(Event(EventKind.RESTORED, handle=LATE, generation=1, body=body))


@pytest.mark.parametrize(
    ("state", "closed", "cut_off", "reason"),
    [
        (Owner.STANDBY, "", {}, None),
        (Owner.STANDBY, "exposed", {}, Reason.NOT_HELD),
        (Owner.NONE, "exposed", {}, Reason.NOT_HELD),
        (Owner.NONE, "", {}, Reason.NOT_ACTIVE),
        (Owner.STANDBY, "", {"lo": "no carrier"}, Reason.NO_LAN),
        (Owner.OWNER, "exposed", {}, None),  # TAKEN_FLOW is behind it
    ],
)
def test_a_moment_that_was_under_way_makes_no_shadow_on_a_node_that_is_out(
    state: Owner,
    closed: str,
    cut_off: dict[str, str],
    reason: Reason | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a node cannot be silenced, and must have nothing to say (I4)."""
    node = Node(monkeypatch)

    def story() -> None:
        node.state = state
        node.shadows.closed = closed
        node.shadows._cut_off = cut_off
        moment_comes(node, monkeypatch)
        assert (node.shadows.find(LATE) is None) == (reason is not None)

    play(node, story)
    assert node.voided == ([] if reason is None else [(LATE, reason)])
    assert not node.asked


def test_a_shadow_that_its_application_cannot_be_told_of_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    node = Node(monkeypatch)
    node.state = Owner.STANDBY

    def story() -> None:
        monkeypatch.setattr(shadows.application, "pack", no_room)
        moment_comes(node, monkeypatch)
        assert node.shadows.find(LATE) is None

    play(node, story)
    assert node.voided == [(LATE, Reason.NO_MEMORY)]
