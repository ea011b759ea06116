"""Whom this node knows on its LAN, and who is entered again after an outage."""

import asyncio
from ipaddress import ip_address
from types import SimpleNamespace
from typing import cast

import pytest

from prl.bindings.datapath import Datapath, Neighbour
from prl.config import Config
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import NUD_PROBE, Host, NextHop
from prl.daemon.ownership import neighbours
from prl.daemon.ownership.neighbours import Neighbours
from prl.errors import KernelError

LAN, OTHER = 3, 4
PEER = NextHop(ip_address("192.0.2.1"), "02:00:00:00:00:01", LAN)
GATEWAY = NextHop(ip_address("fe80::1"), "02:00:00:00:00:02", LAN)
ELSEWHERE = NextHop(ip_address("192.0.2.1"), "02:00:00:00:00:03", OTHER)


class FakeHost:
    def __init__(self) -> None:
        self.table: list[NextHop] = []
        self.entered: list[tuple[NextHop, int]] = []

    async def neighbours(self, ifindex: int) -> list[NextHop]:
        return [hop for hop in self.table if hop.ifindex == ifindex]

    async def set_neighbour(self, hop: NextHop, state: int) -> None:
        if hop in self.table:
            raise KernelError("it is there")
        self.entered.append((hop, state))


class Scene:
    def __init__(self) -> None:
        self.host, self.told = FakeHost(), list[Neighbour]()
        lan = SimpleNamespace(peer_address=ip_address("192.0.2.11"), peer_address6=None)
        self.neighbours = Neighbours(
            cast(Config, SimpleNamespace(lan=lan)),
            cast(Datapath, SimpleNamespace(neighbours=self._tell)),
            cast(Host, self.host),
            cast(Instances, SimpleNamespace(interfaces=[_interface(LAN), _interface(OTHER)])),
        )

    def _tell(self, told: list[Neighbour]) -> None:
        self.told = told

    def sees(self, *table: NextHop) -> None:
        self.host.table = list(table)
        asyncio.run(self.neighbours.refresh())

    def is_back(self, *table: NextHop) -> list[NextHop]:
        self.host.table, self.host.entered = list(table), []
        asyncio.run(self.neighbours.enter_again())
        assert {state for _, state in self.host.entered} <= {NUD_PROBE}
        return [hop for hop, _ in self.host.entered]


def _interface(ifindex: int) -> SimpleNamespace:
    return SimpleNamespace(ifindex=ifindex)


def test_who_was_forgotten_in_an_outage_is_entered_again_to_be_verified() -> None:
    scene = Scene()
    scene.sees(PEER, GATEWAY, ELSEWHERE)
    assert [each.address for each in scene.told] == [PEER.address, ELSEWHERE.address]
    scene.sees(ELSEWHERE)
    assert scene.is_back(ELSEWHERE) == [PEER, GATEWAY]


def test_what_the_kernel_has_found_out_by_itself_is_left() -> None:
    scene = Scene()
    scene.sees(PEER, GATEWAY)
    scene.sees()
    moved = NextHop(PEER.address, "02:00:00:00:00:09", LAN)
    assert scene.is_back(moved) == [GATEWAY]
    scene.sees(moved, GATEWAY)
    scene.sees()
    assert scene.is_back() == [moved, GATEWAY]


def test_those_seen_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "REMEMBERED_MAX", 2)
    scene = Scene()
    scene.sees(PEER, GATEWAY)
    scene.sees(PEER)
    scene.sees(ELSEWHERE)
    assert scene.is_back() == [PEER, ELSEWHERE]
