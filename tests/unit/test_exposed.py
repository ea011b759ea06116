"""Sessions that one node alone has, told to the other one: what is told, what comes of it."""

import asyncio
import errno
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from prl.bindings import wire
from prl.bindings.datapath import DatapathError, Event, Tuple
from prl.bindings.facts import Capability, EventKind, Message, Owner, Tlv
from prl.config import parse
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.session import exposed, lost
from prl.daemon.session.exposed import Ends, Exposed, Told
from prl.daemon.session.sessions import Session
from prl.daemon.session.shadows import Shadows
from prl.errors import KernelError
from tests.unit.test_config import GOOD

CONFIG = parse(GOOD)
PEER, SERVICE = ip_address("192.0.2.1"), ip_address("192.0.2.100")


def session(port: int, state: str = "open") -> Session:
    ends = Tuple(SERVICE, 179, PEER, port)
    return Session(ends, 0, cast(Any, None), b"", state=state)


class Owning:
    """The owner's side; `told` is what reached the link."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.room = 1000
        self.link = SimpleNamespace(up=True, capabilities=Capability.EXPOSED)
        self.log = EventLog(lambda _: None)
        self.strange: list[Tuple] = []
        self.uncounted = False
        self.exposed = Exposed(cast(Any, self), cast(Any, self.link), self.log, self.strangers)

    def send(self, kind: Message, tlvs: bytes) -> None:
        if len(self.told) >= self.room:
            raise DatapathError("no room", errno.ENOBUFS)
        assert kind == Message.EXPOSED
        self.told.append(exposed.decode(tlvs))

    def strangers(self) -> list[tuple[Tuple, int]]:
        if self.uncounted:
            raise KernelError("sessions cannot be counted")
        return [(ends, 0) for ends in self.strange]

    def ports(self) -> list[tuple[list[int], list[int]]]:
        said = [(_ports(told.here), _ports(told.over)) for told in self.told]
        self.told.clear()
        return said


def _ports(some: list[Ends]) -> list[int]:
    return [ends.remote_port for ends in some]


def test_what_is_new_is_told_once() -> None:
    owner = Owning()
    one, two = session(1), session(2, "setup")
    owner.exposed.look([one])
    assert [told.anew for told in owner.told] == [True]
    assert owner.ports() == [([1], [])]
    owner.exposed.look([one, two])
    assert [told.anew for told in owner.told] == [False]
    assert owner.ports() == [([2], [])]
    owner.exposed.look([one, two])
    owner.exposed.look([two])
    assert owner.ports() == [([], [1])]


def test_in_a_new_epoch_all_is_told_anew() -> None:
    owner = Owning()
    owner.exposed.look([session(1)])
    owner.link.up = False
    owner.exposed.look([session(1), session(2)])
    owner.link.up = True
    owner.exposed.on_link_up()
    owner.told.clear()
    owner.exposed.look([session(1), session(2)])
    assert owner.told[0].anew
    assert owner.ports() == [([1, 2], [])]


def test_in_a_new_epoch_without_any_that_is_told() -> None:
    """What was told in the last one may be over, and would be asked for at a take-over."""
    owner = Owning()
    owner.exposed.look([])
    assert [(told.anew, told.here, told.over) for told in owner.told] == [(True, [], [])]
    owner.exposed.look([])
    assert len(owner.told) == 1


def test_a_node_that_does_not_know_of_it_is_told_nothing() -> None:
    owner = Owning()
    owner.link.capabilities = Capability.OUTPUT
    owner.exposed.look([session(1)])
    assert not owner.told


def test_what_a_full_link_does_not_take_is_told_by_a_later_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exposed, "A_MESSAGE_MAX", 2)
    owner = Owning()
    sessions = [session(port) for port in range(1, 6)]
    owner.room = 2
    owner.exposed.look(sessions)
    owner.room = 1000
    owner.exposed.look(sessions)
    assert owner.ports() == [([1, 2], []), ([3, 4], []), ([5], [])]


def test_what_prld_was_not_asked_for_is_told_until_it_is_protected_or_over() -> None:
    owner = Owning()
    asked, unasked = session(1, "setup"), session(2)
    owner.strange = [asked.ends, unasked.ends]
    owner.exposed.look([])
    assert owner.ports() == [([1, 2], [])]
    owner.strange = [unasked.ends]
    owner.exposed.look([asked])
    assert owner.ports() == []
    owner.exposed.look([])
    assert owner.ports() == [([], [1])]
    owner.strange = []
    owner.exposed.look([])
    assert owner.ports() == [([], [2])]


def test_the_other_node_cannot_know_a_peer_with_a_loopback_address() -> None:
    """It would take the message for nonsense, and drop the link."""
    owner = Owning()
    here = Tuple(SERVICE, 179, ip_address("127.0.0.1"), 5)
    owner.strange = [here, session(1).ends]
    owner.exposed.leave_unknown([here], 0)
    owner.exposed.look([])
    assert owner.ports() == [([1], [])]


def test_what_cannot_be_counted_stays_told() -> None:
    owner = Owning()
    owner.strange = [session(1).ends]
    owner.exposed.look([])
    owner.uncounted = True
    owner.exposed.look([session(2)])
    assert owner.ports() == [([1], []), ([2], [])]


def test_what_a_move_has_cost_is_not_told_to_who_has_ended_it_when_it_took_over() -> None:
    """It knew of all but those that have begun since."""
    owner = Owning()
    told, begun = session(1).ends, session(2).ends
    owner.strange = [told]
    owner.exposed.look([])
    owner.strange = []
    owner.exposed.leave_unknown([told, begun], 0, by_move=True)
    owner.told.clear()
    owner.exposed.look([])
    assert owner.ports() == [([], [1]), ([2], [])]


def test_what_a_fenced_node_has_told_may_not_have_arrived() -> None:
    """It was late, and its link is gone; that, too, it hears later."""
    owner = Owning()
    told = session(1)
    owner.exposed.look([told])
    owner.exposed.leave(told)
    owner.link.up = False
    owner.exposed.look([])
    owner.link.up = True
    owner.exposed.on_link_up()
    owner.told.clear()
    owner.exposed.look([])
    assert owner.ports() == [([1], [])]


def test_what_a_fenced_node_had_is_told_whoever_has_it_now() -> None:
    owner = Owning()
    for left in (session(1, "active"), session(2), session(3, "moved")):
        owner.exposed.leave(left)
    owner.exposed.look([])
    assert owner.ports() == [([1, 2], [])]
    owner.exposed.look([])
    assert not owner.told


def test_of_more_than_the_limit_the_rest_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposed, "EXPOSED_MAX", 3)
    monkeypatch.setattr(exposed, "A_MESSAGE_MAX", 1)
    owner = Owning()
    for _ in range(2):
        owner.exposed.look([session(port) for port in range(1, 9)])
    assert len(owner.ports()) == 3
    assert [record.event for record in owner.log.after(0, 10)] == ["exposed_untold"]


class Other:
    """The other node's side: it stands by, or has taken over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.flows = Owner.STANDBY, set[Tuple]()
        self.dropped: list[str] = []
        self.asked: list[int] = []
        monkeypatch.setattr(lost, "_send_syn", lambda ends, _: self.asked.append(ends.remote_port))
        monkeypatch.setattr(lost, "AGAIN_S", 0.0)
        datapath = SimpleNamespace(
            service_state=lambda _: self.state,
            flow_of=lambda ends: int(ends in self.flows),
            link_drop=self.dropped.append,
        )
        lan = SimpleNamespace(name="lo", mac=b"\x02" + bytes(5), ifindex=1)
        self.shadows = Shadows(
            *(CONFIG, cast(Any, datapath), cast(Any, None), EventLog(lambda _: None)),
            instances=Instances(CONFIG, cast(Any, [lan])),
            congestion=None,
            taken=lambda _: None,
        )

    def hears(self, told: Any) -> None:
        element = wire.Element(Tlv.SESSIONS, msgspec.msgpack.encode(told))
        self.shadows.on_exposed(Event(EventKind.MESSAGE, body=wire.encode_tlvs([element])))

    def takes_over(self) -> int:
        self.state = Owner.OWNER
        return self.shadows.end_lost(0)


def ends_of(*ports: int) -> list[Ends]:
    return [Ends.of(session(port).ends, 0) for port in ports]


def play(scene: Any) -> None:
    async def run() -> None:
        scene()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(run())


def test_peers_of_what_was_not_protected_are_asked_at_a_take_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Other(monkeypatch)

    def scene() -> None:
        other.hears(Told(here=ends_of(9), anew=True))
        other.hears(Told(here=ends_of(1, 2, 3), anew=True))
        other.hears(Told(over=ends_of(2)))
        assert other.takes_over() == 2

    play(scene)
    assert sorted(set(other.asked)) == [1, 3]
    assert not other.dropped


def test_an_owner_asks_at_once_but_for_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other(monkeypatch)
    other.state = Owner.OWNER
    other.flows.add(session(1).ends)
    play(lambda: other.hears(Told(here=ends_of(1, 2))))
    assert set(other.asked) == {2}


@pytest.mark.parametrize(
    "told",
    [
        {"here": [[7, "192.0.2.100", 179, "192.0.2.1", 5]]},
        {"here": [[0, "192.0.2.101", 179, "192.0.2.1", 5]]},
        {"here": [[0, "192.0.2.100", 179, "2001:db8::1", 5]]},
        {"here": [[0, "192.0.2.100", 179, "224.0.0.1", 5]]},
        {"over": [[0, "192.0.2.100", 0, "192.0.2.1", 5]]},
        {"over": [[0, "somewhere", 179, "192.0.2.1", 5]]},
        {"here": [list(range(5))] * (exposed.A_MESSAGE_MAX + 1)},
        [],
    ],
)
def test_what_no_prld_tells_ends_the_link(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other(monkeypatch)
    other.hears(told)
    (words,) = other.dropped
    assert "EXPOSED" in words
    assert not other.shadows.end_lost(0)
