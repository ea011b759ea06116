"""A peer behind a router: next hops, claims that reach the router, and the path MTU (R1)."""

import json
import re
import subprocess

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab
from tests.system import support
from tests.system.support import Applications, eventually, prlctl

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SIZE_BYTES = 48 << 20


def path_mtu(lab: Lab, node: str) -> int:
    """What the node's socket of the session believes of its path (ss(8))."""
    shown = lab.run(node, ["ss", "-Htin", "sport", "=", f":{support.PORT}"], capture_output=True)
    found = re.findall(r"pmtu:(\d+)", shown.stdout.decode())
    return int(found[-1]) if found else 0


def neighbour(lab: Lab, family: int) -> str:
    """The MAC address that the router has for the service address."""
    argv = ["ip", "-j", f"-{family}", "neigh", "show", support.service_address(family)]
    shown = lab.run("router", argv, capture_output=True, check=True)
    return str(json.loads(shown.stdout)[0]["lladdr"])


@pytest.mark.parametrize("family", support.FAMILIES)
def test_too_big_is_replicated_before_and_obeyed_after_a_failover(family: int) -> None:
    with support.pair(f"routed{family}", routed=True) as lab:
        apps = Applications(lab, "source", family, SIZE_BYTES)
        peer = apps.connect(family)
        assert neighbour(lab, family) == lab.topology.re0.lan.mac
        peer.hold_at(SIZE_BYTES // 8)
        peer.download()
        peer.await_bytes(SIZE_BYTES // 8)
        lab.limit_path(1400)
        peer.hold_at(SIZE_BYTES // 8 * 3)
        eventually("re0 hears of the smaller path", lambda: path_mtu(lab, "re0") == 1400)
        eventually("so does the shadow", lambda: path_mtu(lab, "re1") == 1400)
        assert support.stats(lab, "re0")["kernel"]["icmp_quoted"] > 0
        lab.fail("re0", "power")
        apps.expect("taken_over", "re1", peer=peer.port)
        peer.hold_at(SIZE_BYTES // 8 * 5)
        peer.await_bytes(SIZE_BYTES // 8 * 5)
        assert neighbour(lab, family) == lab.topology.re1.lan.mac
        lab.limit_path(1300)
        peer.hold_at(SIZE_BYTES // 8 * 7)
        eventually("re1 hears of it", lambda: path_mtu(lab, "re1") == 1300)
        peer.finish()
        assert (peer.received, peer.sha256()) == (SIZE_BYTES, Payload(SIZE_BYTES).sha256())
        peer.sock.close()


def test_a_session_that_began_on_a_narrow_path_goes_on() -> None:
    with support.pair("routedn", routed=True) as lab:
        lab.limit_path(1300)
        apps = Applications(lab, "echo", 6, SIZE_BYTES // 8)
        peer = apps.connect(6)
        payload = Payload(SIZE_BYTES // 8)
        peer.hold_at(SIZE_BYTES // 8)
        peer.converse(payload, 20_000)
        peer.await_bytes(SIZE_BYTES // 16)
        lab.fail("re0", "power")
        apps.expect("taken_over", "re1", peer=peer.port)
        peer.finish()
        assert peer.sha256() == Payload(SIZE_BYTES // 8).sha256()
        peer.sock.close()


def test_the_router_is_a_machine_of_the_lab() -> None:
    with support.pair("routedm", start_prld=False, routed=True) as lab:
        ping = ["ping", "-c1", "-W2", str(lab.topology.peer.lan.ipv4.ip)]
        assert lab.run("re0", ping, stdout=subprocess.DEVNULL).returncode == 0
        for node, how in (("router", "power"), ("peer", "cut-lan"), ("re0", "power")):
            lab.fail(node, how)
            assert prlctl("lab", "status", "--name", lab.name).returncode == 0
            lab.heal(node)
            assert lab.run("re0", ping, stdout=subprocess.DEVNULL).returncode == 0, node
        assert {m.name for m in Lab(lab.name).topology.members} == {"re0", "re1", "peer", "router"}
    refused = prlctl("lab", "up", "--name", "routedm", "--path-mtu", "1400")
    assert refused.returncode == 2
    assert "--routed" in refused.stderr
