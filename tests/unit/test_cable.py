"""The cable of the carrier "mirror": what is asked of it, and when it is used (R33)."""

import asyncio
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from prl import config
from prl.bindings.facts import Capability
from prl.daemon.events.log import EventLog
from prl.daemon.host import cable
from prl.daemon.host.cable import NO_LINK, NOT_THERE, STARVED, Cable
from prl.daemon.host.network import NextHop
from prl.daemon.link import hello
from prl.doctor import Verdict, interfaces
from prl.doctor.host import Interface
from prl.errors import KernelError
from prl.kernel.features import hardware_address
from tests.unit.test_config import GOOD

MIRROR = config.parse(GOOD.replace('"native"', '"mirror"'))
OTHER = MIRROR.link.remote
MAC = "02:00:c6:33:64:0b"


class Bench:
    """A cable, and what is told of it."""

    def __init__(self, hop: NextHop | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "if_nametoindex", lambda _: 7)
        monkeypatch.setattr(cable, "NEIGHBOUR_WAIT_S", 0)
        self.to: list[bytes | None] = []
        self.link_up = True
        self.log = EventLog(lambda _: None)
        self._hop = hop
        self.kernel: Any = SimpleNamespace(
            mirror_to=self.to.append, mirror_counters=dict, link_ifindex=7
        )
        datapath: Any = SimpleNamespace(mirror=lambda: self.link_up)
        host: Any = SimpleNamespace(next_hop=self._next_hop)
        self.cable = Cable(MIRROR, self.kernel, datapath, host, self.log)

    async def _next_hop(self, ifindex: int, peer: object) -> NextHop | None:
        assert (ifindex, peer) == (7, OTHER)
        return self._hop

    def run(self, *steps: Callable[[], object]) -> None:
        async def go() -> None:
            for step in steps:
                step()
                await asyncio.sleep(0)
            if self.cable._finding is not None:
                await asyncio.wait([self.cable._finding])
            await self.cable.close()

        asyncio.run(go())


def test_it_is_used_once_the_other_node_s_address_on_it_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(NextHop(OTHER, MAC, 7), monkeypatch)
    assert bench.cable.facts()["because"] == NO_LINK
    bench.run(lambda: bench.cable.on_link_up(Capability.MIRROR))
    assert bench.to == [bytes.fromhex(MAC.replace(":", ""))]
    assert bench.cable.facts() == {"interface": "link0", "on": True, "because": ""}
    bench.cable.on_link_down()
    assert (bench.to[-1], bench.cable.why) == (None, NO_LINK)


def test_it_is_not_where_the_link_is_lost_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(NextHop(OTHER, MAC, 7), monkeypatch)
    bench.link_up = False
    bench.run(lambda: bench.cable.on_link_up(Capability.MIRROR))
    assert bench.cable.why == NO_LINK


@pytest.mark.parametrize(
    ("hop", "capabilities", "why"),
    [
        (None, Capability(0), NOT_THERE),
        (None, Capability.MIRROR, "nobody knows the MAC address"),
        (NextHop(MIRROR.link.local, MAC, 7), Capability.MIRROR, "behind a router"),
    ],
)
def test_why_it_is_not(
    hop: NextHop | None, capabilities: Capability, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(hop, monkeypatch)
    bench.run(lambda: bench.cable.on_link_up(capabilities))
    assert bench.to == []
    assert why in bench.cable.why
    assert not bench.cable.facts()["on"]


def test_it_is_not_where_the_interface_is_another_than_that_of_the_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(NextHop(OTHER, MAC, 7), monkeypatch)
    bench.kernel.link_ifindex = 5
    bench.run(lambda: bench.cable.on_link_up(Capability.MIRROR))
    assert bench.to == []
    assert "made anew" in bench.cable.why


def test_it_is_not_used_in_an_epoch_in_which_it_starves_the_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(NextHop(OTHER, MAC, 7), monkeypatch)
    told: list[str] = []
    bench.log.listeners.append(lambda record: told.append(record.event))

    def up() -> None:
        bench.cable.on_link_up(Capability.MIRROR)

    bench.run(up)
    bench.cable.on_starved()
    assert (bench.to[-1], bench.cable.facts()["because"]) == (None, STARVED)
    bench.cable.on_link_down()
    bench.run(up)
    assert bench.cable.facts()["on"]
    assert told == ["mirror_on", "mirror_off", "mirror_on"]


@pytest.mark.parametrize(
    ("mtus", "words"),
    [
        ({"lan0": 1500}, "no interface link0"),
        ({"lan0": 9000, "link0": 1500}, "ip link set link0 mtu 9000"),
    ],
)
def test_what_it_must_be(mtus: dict[str, int], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cable, "mtu", lambda name: mtus.get(name, 0))
    with pytest.raises(KernelError, match=words):
        cable.check(MIRROR)
    monkeypatch.setattr(cable, "mtu", lambda _: 9000)
    cable.check(MIRROR)


def test_an_address_that_looks_like_a_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other node would drop even what the link begins with."""
    monkeypatch.setattr(cable, "mtu", lambda _: 9000)
    monkeypatch.setattr(cable, "hardware_address", lambda _: bytes.fromhex("726a00000001"))
    with pytest.raises(KernelError, match="ip link set link0 address 02:6a:00:00:00:01"):
        cable.check(MIRROR)
    monkeypatch.setattr(cable, "hardware_address", lambda _: bytes.fromhex("725a00000001"))
    cable.check(MIRROR)


def test_a_hardware_address_is_the_kernel_s() -> None:
    assert hardware_address("lo") == bytes(6)
    assert hardware_address("none-such") == bytes(6)


@pytest.mark.parametrize(("mtu", "verdict"), [(1500, Verdict.OK), (1400, Verdict.MISSING)])
def test_doctor_looks_at_it(mtu: int, verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {
        name: Interface(name, number, size, is_up=True, addresses=())
        for number, (name, size) in enumerate((("lan0", 1500), ("link0", mtu)), 1)
    }
    monkeypatch.setattr(interfaces, "queue_refusal", lambda: "")
    for module in (cable, interfaces):
        monkeypatch.setattr(module, "hardware_address", lambda _: bytes.fromhex("726a00000001"))
    monkeypatch.setattr(interfaces.host, "interfaces", lambda: there)
    monkeypatch.setattr(interfaces.host, "run", lambda *_: None)
    found = {one.name: one for one in interfaces.examine(MIRROR)}
    assert found["carrier of input"].found == "mirror: NFQUEUE, by configuration"
    of_cable = found["MTU of link0 for what is mirrored of lan0"]
    assert (of_cable.verdict, of_cable.found) == (verdict, str(mtu))
    of_address = found["MAC address of link0"]
    assert (of_address.verdict, of_address.found) == (Verdict.MISSING, "72:6a:00:00:00:01")
    assert of_address.paste == "ip link set link0 address 02:6a:00:00:00:01"


def test_only_a_node_that_mirrors_says_so() -> None:
    assert hello.create(MIRROR, ()).capabilities & Capability.MIRROR
    assert not hello.create(config.parse(GOOD), ()).capabilities & Capability.MIRROR
