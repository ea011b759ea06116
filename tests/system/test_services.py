"""Several services on one pair, each with an owner of its own: both roles on a node at once.

Checks L1, L2, L3, L10.
"""

from collections.abc import Iterator

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab
from prl.lab.topology import Service
from tests.system import support
from tests.system.support import PORT, Applications, Peer, eventually, flows, prlctl, status

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SIZE_BYTES = 24 << 20


class Sessions:
    """A session of IPv4 and one of IPv6 with one service."""

    def __init__(self, lab: Lab, service: Service) -> None:
        self.owner = service.owner
        self.standby = "re1" if service.owner == "re0" else "re0"
        self.peers: list[Peer] = []
        self.apps: list[Applications] = []
        for family, address in ((4, str(service.ipv4)), (6, str(service.ipv6))):
            shown = address if family == 4 else f"[{address}]"
            apps = Applications(lab, "echo", family, listen=f"{shown}:{PORT}")
            peer = Peer(lab, family, to=address)
            apps.expect("protected", self.owner, peer=peer.port)
            apps.expect("standby", self.standby, peer=peer.port)
            self.apps.append(apps)
            self.peers.append(peer)

    def begin(self) -> None:
        """Return in the middle of it; it ends in finish() alone."""
        for peer in self.peers:
            peer.hold_at(SIZE_BYTES)
            peer.converse(Payload(SIZE_BYTES), 20_000)
        for peer in self.peers:
            peer.await_bytes(SIZE_BYTES // 16)

    def taken_over(self, node: str) -> None:
        for apps, peer in zip(self.apps, self.peers, strict=True):
            apps.expect("taken_over", node, peer=peer.port)

    def finish(self) -> None:
        for peer in self.peers:
            peer.finish()
            assert (peer.received, peer.sha256()) == (SIZE_BYTES, Payload(SIZE_BYTES).sha256())
            peer.sock.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with support.pair("services", services=2) as made:
        yield made


def states(lab: Lab, node: str) -> list[str]:
    return [service["state"] for service in status(lab, node)["services"]]


@pytest.mark.parametrize("dead", ["re0", "re1"])
def test_each_node_is_primary_and_secondary_and_the_survivor_has_all(lab: Lab, dead: str) -> None:
    alive = "re1" if dead == "re0" else "re0"
    both = [Sessions(lab, service) for service in lab.topology.services]
    assert states(lab, "re0") == ["owner", "standby"]
    assert states(lab, "re1") == ["standby", "owner"]
    for node in ("re0", "re1"):
        roles = [(flow["role"], flow["state"]) for flow in flows(lab, node)]
        assert sorted(roles) == [("primary", "active")] * 2 + [("secondary", "active")] * 2
    for sessions in both:
        sessions.begin()
    lab.fail(dead, "power")
    for sessions in both:
        if sessions.owner == dead:
            sessions.taken_over(alive)
    assert states(lab, alive) == ["owner", "owner"]
    for sessions in both:
        sessions.finish()


def test_one_service_changes_hands_and_the_other_does_not(lab: Lab) -> None:
    first, second = (Sessions(lab, service) for service in lab.topology.services)
    first.begin()
    second.apps[0].cast.kill(second.owner)  # its IPv4 application on re1
    second.taken_over("re0")
    assert states(lab, "re0") == ["owner", "owner"]
    eventually("re1 knows", lambda: states(lab, "re1") == ["standby", "standby"])
    local = str(lab.topology.service.ipv4)
    kept = [flow for flow in flows(lab, "re0") if flow["local"].startswith(local)]
    assert [(flow["role"], flow["state"]) for flow in kept] == [("primary", "active")]
    first.finish()
    second.begin()
    second.finish()


def test_a_take_over_names_its_service(lab: Lab) -> None:
    first, second = (Sessions(lab, service) for service in lab.topology.services)
    for sessions in (first, second):
        sessions.begin()
    takeover = ("--lab", lab.name, "--node", "re1", "takeover")
    unnamed = prlctl(*takeover)
    assert unnamed.returncode == 2
    assert "lab, lab2" in unnamed.stderr
    named = prlctl(*takeover, "--service", "lab")
    assert named.returncode == 0, named.stderr
    first.taken_over("re1")
    assert states(lab, "re1") == ["owner", "owner"]
    eventually("re0 stands by", lambda: states(lab, "re0") == ["standby", "standby"])
    first.finish()
    second.finish()
