"""What a set-up from the other node may ask of this host (R29)."""

import asyncio
import dataclasses
import errno
from collections.abc import Callable
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl import config
from prl.bindings import wire
from prl.bindings.datapath import Event, Tuple
from prl.bindings.facts import Owner, Reason, Tlv
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import NextHop
from prl.daemon.session import boundary, cloning, shadows
from prl.daemon.session.protect import OFFERED_MAX, Primaries
from prl.daemon.session.shadows import Shadows
from prl.daemon.session.transfer import Setup, TransferError, decode, encode
from prl.errors import KernelError
from prl.shadow import Endpoint, SnapshotError, TcpSnapshot
from prl.shadow import encode as encode_snapshot
from prl.shadow.snapshot import NetworkOptions
from tests.unit.test_daemon_sockets import FILE
from tests.unit.test_snapshot_codec import IPV6, SNAPSHOT

CONFIG = config.parse(FILE.format(port=7077).replace("127.0.0", "192.0.2"))
LAN = SimpleNamespace(name="lo", mac=b"\x02" + bytes(5), ifindex=1)
INSTANCES = Instances(CONFIG, cast(Any, [LAN]))
GOOD = dataclasses.replace(
    SNAPSHOT,
    remote=Endpoint.of(ip_address("192.0.2.9"), 40000),
    network=NetworkOptions(tos=0, ttl=64, bound_device="lo", mark=7),
)
HANDLE, GENERATION = 5, 1


def setup_of(snapshot: TcpSnapshot, **more: Any) -> Setup:
    members: dict[str, Any] = {
        "snapshot": encode_snapshot(snapshot),
        "mss": 1460,
        "rcv_wscale": 7,
        "snd_wscale": 7,
        "committed": 0,
        "timestamps": True,
        "next_hop": "192.0.2.254",
        "next_hop_mac": "02:00:00:00:00:09",
    }
    return Setup(**members | more)


def check(setup: Setup, snapshot: TcpSnapshot) -> None:
    hop = (
        NextHop(ip_address(setup.next_hop), setup.next_hop_mac)
        if setup.next_hop and setup.next_hop_mac
        else None
    )
    ends = cloning.ends_of(snapshot, setup.instance)
    boundary.check(setup, snapshot, ends, hop, config=CONFIG, instances=INSTANCES, service=0)


def options(**more: Any) -> TcpSnapshot:
    return dataclasses.replace(GOOD, network=dataclasses.replace(GOOD.network, **more))


def peer(address: str) -> TcpSnapshot:
    return dataclasses.replace(GOOD, remote=Endpoint.of(ip_address(address), 40000))


def test_what_a_primary_sends_is_taken() -> None:
    check(setup_of(GOOD), GOOD)
    check(setup_of(GOOD, next_hop="", next_hop_mac=""), GOOD)
    check(setup_of(GOOD, next_hop="fe80::9"), GOOD)  # RFC 5549
    scoped = dataclasses.replace(
        IPV6,
        local=Endpoint.of(ip_address("fe80::1"), 179, "lo"),
        remote=Endpoint.of(ip_address("fe80::2"), 40000, "lo"),
        network=GOOD.network,
    )
    check(setup_of(scoped, next_hop="fe80::2"), scoped)


WRONG_HOPS: list[tuple[dict[str, str], str]] = [
    ({"next_hop_mac": ""}, "but not both"),
    ({"next_hop": ""}, "but not both"),
    ({"next_hop": "192.0.2.1"}, "no other machine has"),
    ({"next_hop": "192.0.2.100"}, "no other machine has"),
    ({"next_hop": "224.0.0.1"}, "no other machine has"),
    ({"next_hop": "255.255.255.255"}, "no other machine has"),
    ({"next_hop": "127.0.0.1"}, "no other machine has"),
    ({"next_hop": "::"}, "no other machine has"),
    ({"next_hop": "fe80::9%x"}, "fe80::9%x names an interface"),
    ({"next_hop_mac": "01:00:5e:00:00:01"}, "is no machine's"),
    ({"next_hop_mac": "ff:ff:ff:ff:ff:ff"}, "is no machine's"),
    ({"next_hop_mac": "00:00:00:00:00:00"}, "is no machine's"),
    ({"next_hop_mac": "02:00:00:00:00"}, "is no machine's"),
    ({"next_hop_mac": "something"}, "is no machine's"),
]


@pytest.mark.parametrize(("members", "words"), WRONG_HOPS)
def test_a_next_hop_that_is_none_is_refused(members: dict[str, str], words: str) -> None:
    with pytest.raises(TransferError, match=words):
        check(setup_of(GOOD, **members), GOOD)


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [
        (options(mark=0x70726C01), "mark 0x70726c01 is one of prl's own"),
        (options(mark=0x70726C77), "one of prl's own"),
        (options(bound_device="eth7"), "bound to eth7, which is not its service's: lo"),
        (peer("192.0.2.100"), "no other machine has"),
        (peer("192.0.2.1"), "no other machine has"),
        (peer("127.0.0.1"), "no other machine has"),
        (peer("224.0.0.5"), "no other machine has"),
        (dataclasses.replace(IPV6, network=GOOD.network), "is on lan0, which is not its service's"),
    ],
)
def test_a_socket_that_reaches_beyond_its_session_is_refused(
    snapshot: TcpSnapshot, words: str
) -> None:
    hop = {"next_hop": "fe80::9"} if snapshot.remote.address.version == 6 else {}
    with pytest.raises(TransferError, match=words):
        check(setup_of(snapshot, **hop), snapshot)


class Stage:
    """Shadows with a datapath that only hears, and a host that enters neighbours."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.entered: list[NextHop] = []
        self.error: Exception | None = KernelError("that is far enough")
        self.state = Owner.STANDBY
        datapath = SimpleNamespace(
            send=self._send,
            service_state=lambda _: self.state,
            flow_of=lambda _: 0,
            link_rtt_ns=lambda: 0,
        )
        host = SimpleNamespace(set_neighbour=self._set_neighbour)
        self.shadows = Shadows(
            *(CONFIG, cast(Any, datapath), cast(Any, host), EventLog(lambda _: None)),
            instances=INSTANCES,
            congestion="prl_test",
            taken=lambda _: None,
        )
        self.shadows.conntrack = cast(Any, SimpleNamespace(enter=lambda _: None))
        self.client = cast(Any, object())
        self.shadows.offer(self.client, "192.0.2.100:179")
        self.sent.clear()

    def _send(self, kind: int, tlvs: bytes = b"", **members: Any) -> None:
        texts = [e.value.decode() for e in wire.decode_tlvs(tlvs) if e.type == Tlv.TEXT]
        self.sent.append(members | {"kind": kind, "words": "".join(texts)})

    async def _set_neighbour(self, hop: NextHop, _: int) -> None:
        self.entered.append(hop)
        if self.error is not None:
            raise self.error

    def set_up(self, setup: Setup) -> None:
        tlvs = wire.encode_tlvs([wire.Element(Tlv.SNAPSHOT, encode(setup))])
        self.shadows.on_setup(
            Event(kind=1, handle=HANDLE, generation=GENERATION, bits=wire.SETUP_LAST, body=tlvs)
        )

    async def ends(self) -> None:
        """All that was begun."""
        while tasks := list(self.shadows._tasks):
            await asyncio.gather(*tasks, return_exceptions=True)


def play(scene: Callable[[Stage], Any]) -> None:
    async def run() -> None:
        await scene(Stage())

    asyncio.run(run())


def test_the_other_node_is_told_what_was_wrong_and_no_neighbour_is_entered() -> None:
    async def scene(stage: Stage) -> None:
        stage.set_up(setup_of(GOOD, next_hop_mac="something"))
        (answer,) = stage.sent
        assert answer["reason"] == Reason.MALFORMED
        assert "MAC address 'something' is no machine's" in answer["words"]
        assert not stage.entered
        assert not stage.shadows._neighbours

    play(scene)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KernelError("that is far enough"), Reason.MALFORMED),
        (TypeError("not what netlink expects"), Reason.RESTORE_FAILED),
        (OSError(errno.EMFILE, "Too many open files"), Reason.RESTORE_FAILED),
    ],
)
def test_whatever_goes_wrong_no_pin_is_left_and_the_other_node_is_told(
    error: Exception, reason: Reason
) -> None:
    async def scene(stage: Stage) -> None:
        stage.error = error
        stage.set_up(setup_of(GOOD))
        await stage.ends()
        assert not stage.shadows._neighbours
        assert [answer["reason"] for answer in stage.sent] == [reason]

    play(scene)


CHANGES: dict[str, tuple[Callable[[Stage], object], Reason]] = {
    "it is out": (lambda stage: setattr(stage.shadows, "closed", "exposed"), Reason.NOT_HELD),
    "no LAN": (lambda stage: stage.shadows.keep_off({"lo": "no carrier"}), Reason.NO_LAN),
    "no part": (lambda stage: setattr(stage, "state", Owner.NONE), Reason.NOT_ACTIVE),
    "taken over": (lambda stage: setattr(stage, "state", Owner.OWNER), Reason.NOT_ACTIVE),
    "application": (
        lambda stage: stage.shadows.application_gone(stage.client),
        Reason.APPLICATION_GONE,
    ),
    "nothing": (lambda _: None, Reason.RESTORE_FAILED),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_entered", [False, True])
def test_whatever_has_changed_since_it_was_admitted_no_pin_is_left(
    change: Callable[[Stage], object],
    reason: Reason,
    *,
    is_entered: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``is_entered``: its neighbour, so that nothing waits for that."""

    def build(*_: object) -> None:
        raise SnapshotError("there is nothing to be made of it")

    async def scene(stage: Stage) -> None:
        stage.error, admit = None, stage.shadows._admit
        hop = NextHop(ip_address("192.0.2.254"), "02:00:00:00:00:09", LAN.ifindex)

        def admits(ends: Tuple) -> object:
            found = admit(ends)
            change(stage)
            return found

        if is_entered:
            stage.shadows._pin(hop)
            monkeypatch.setattr(stage.shadows, "_admit", admits)
        monkeypatch.setattr(cloning, "build", build)
        stage.set_up(setup_of(GOOD))
        if not is_entered:
            change(stage)
        await stage.ends()
        assert [answer["reason"] for answer in stage.sent] == [reason]
        assert stage.shadows._neighbours == ({hop: 1} if is_entered else {})

    play(scene)


def test_no_more_neighbours_are_entered_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        monkeypatch.setattr(shadows, "NEIGHBOURS_MAX", 3)
        for number in range(5):
            stage.set_up(setup_of(GOOD, next_hop=f"192.0.2.{200 + number}"))
        answers = [answer["reason"] for answer in stage.sent]
        assert answers == [Reason.NO_MEMORY] * 2
        assert len(stage.shadows._neighbours) == 3
        await asyncio.gather(*stage.shadows._tasks, return_exceptions=True)

    play(scene)


def test_offers_of_the_other_node_are_bounded() -> None:
    told: list[str] = []
    log = SimpleNamespace(error=lambda event, _: told.append(event))
    awaited: list[str] = []
    births = SimpleNamespace(offered=awaited.append)
    primaries = Primaries(
        CONFIG, *cast(Any, (None, None, log, None, None, None, None)), births=cast(Any, births)
    )

    async def hear() -> None:
        for number in range(OFFERED_MAX + 2):
            primaries.on_offer(f"192.0.2.100:{number + 1}")
        primaries.on_offer("192.0.2.100:1")

    asyncio.run(hear())
    assert len(primaries._offered) == OFFERED_MAX
    assert told == ["offer_refused"] * 2
    assert set(awaited) == primaries._offered


def test_members_of_a_set_up_are_bounded() -> None:
    for member in ("instance", "next_hop", "next_hop_mac"):
        blob = encode(setup_of(GOOD, **{member: "x" * 1000}))
        with pytest.raises(TransferError, match="malformed set-up"):
            decode(blob)
