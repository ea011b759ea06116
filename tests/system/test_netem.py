"""Links and LANs that lose, delay and limit: netem's, with each carrier (issue 13).

Checks R8, L2: what is late or lost there costs time, and neither a byte nor the protection.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab
from prl.lab.netns import Namespace
from tests.figures import figure
from tests.system import support
from tests.system.support import Applications, Peer, eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "nfqueue", "netem"),
]

SIZE_BYTES, CHUNK_BYTES = 1 << 20, 30_000
LOSSES = ("loss 0.1%", "loss 1%")
LINK = (*LOSSES, "rate 100mbit", "delay 30ms")
"""Of each direction: a link that is 60 ms there and back is one to another town."""


@contextmanager
def impaired(lab: Lab, where: str, how: str) -> Iterator[None]:
    """Both ends of the link, or of the peer's cable, have a netem."""
    topology = lab.topology
    ends = {
        "link": [(node.namespace, node.link.name) for node in topology.nodes],
        "lan": [
            (topology.switch, topology.peer.port),
            (topology.peer.namespace, topology.peer.lan.name),
        ],
    }[where]
    for namespace, name in ends:
        tc(namespace, "qdisc", "add", "dev", name, "root", "netem", *how.split())
    try:
        yield
    finally:
        for namespace, name in ends:
            tc(namespace, "qdisc", "del", "dev", name, "root")


def tc(namespace: str, *words: str) -> None:
    subprocess.run(Namespace(namespace).command(["tc", *words]), check=True)


def timeouts(lab: Lab) -> int:
    """How often the peer's TCP waited for its retransmission timer."""

    def read() -> list[str]:
        return Path("/proc/thread-self/net/netstat").read_text().splitlines()

    names, values = Namespace(lab.topology.peer.namespace).call(read)[:2]
    return int(dict(zip(names.split(), values.split(), strict=True))["TCPTimeouts"])


def is_protected(lab: Lab, peer: Peer) -> bool:
    return any(
        flow["remote"].endswith(f":{peer.port}") and flow["state"] == "active"
        for flow in support.flows(lab, "re0")
    )


def begin(peer: Peer) -> None:
    """A conversation, three quarters through; it ends in finish() alone."""
    peer.hold_at(SIZE_BYTES * 2 * 3 // 4)
    peer.converse(Payload(SIZE_BYTES), CHUNK_BYTES)
    peer.await_bytes(SIZE_BYTES)


@pytest.mark.parametrize(
    "mode",
    [
        "native",
        "kernel",
        "mirror",
        pytest.param("generic", marks=pytest.mark.needs("long_packets")),
    ],
)
def test_a_bad_link_or_lan_costs_time_alone(mode: str) -> None:
    with support.pair(f"netem{mode}", mode) as lab:
        apps = Applications(lab, "echo", size=SIZE_BYTES)
        for where, how in [*(("link", how) for how in LINK), *(("lan", how) for how in LOSSES)]:
            began, waits = time.monotonic(), timeouts(lab)
            with impaired(lab, where, how), apps.connect() as peer:
                begin(peer)
                eventually("it is protected", lambda peer=peer: is_protected(lab, peer))
                peer.finish()
            waited = f"{time.monotonic() - began:.1f} s, {timeouts(lab) - waits} timeouts"
            figure(f"{mode}, {where}, {how}", waited)
        if mode == "mirror":
            assert support.stats(lab, "re1")["datapath"]["mirror_fed"], "nothing went by the cable"
        loss = LOSSES[-1]
        with impaired(lab, "lan", loss), impaired(lab, "link", loss), apps.connect() as peer:
            begin(peer)
            lab.fail("re0", "power")
            peer.finish()
