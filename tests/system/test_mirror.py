"""The carrier "mirror": long packets go from kernel to kernel by the cable (docs/mirror.md).

Checks R33, R3, R8, R12a.
"""

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.lab.topology import LINK_INTERFACE
from tests.system import support
from tests.system.support import Applications, eventually
from tests.system.uploads import SIZE_BYTES, finish, upload

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "struct_ops", "nfqueue", "nft"),
]

BOTH = ("re0", "re1")
MIRRORED = "meta mark and 0xff000000 == 0x71000000"
_labs = itertools.count()


def datapath(lab: Lab, node: str) -> dict[str, int]:
    found: dict[str, int] = support.stats(lab, node)["datapath"]
    return found


def is_on(lab: Lab, node: str) -> bool:
    return bool(support.status(lab, node)["mirror"]["on"])


def run(lab: Lab, node: str, *argv: str) -> None:
    command = Namespace(lab.topology.member(node).namespace).command(list(argv))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


@contextmanager
def pair() -> Iterator[Lab]:
    with support.pair(f"mir{next(_labs)}", "mirror") as lab:
        for node in BOTH:
            eventually("the cable is known", lambda node=node: is_on(lab, node))
        yield lab


def mirrored(lab: Lab) -> int:
    """Packets that the standby has joined; none of them was found to differ."""
    for node in BOTH:
        assert datapath(lab, node)["differences"] == 0
    return datapath(lab, "re1")["mirror_fed"]


@pytest.mark.parametrize("family", support.FAMILIES)
def test_long_packets_go_by_the_cable_and_survive_the_owner(family: int) -> None:
    with pair() as lab:
        apps = Applications(lab, "sink", family, SIZE_BYTES)
        peer, payload = upload(apps, family)
        eventually("packets were joined", lambda: mirrored(lab) > 0)
        facts = support.status(lab, "re0")
        assert facts["mode"] == "mirror"
        assert facts["mirror"]["cloned"] >= datapath(lab, "re0")["mirrored_packets"] > 0
        carried = datapath(lab, "re1")["link_rx_bytes"]
        assert carried < SIZE_BYTES // 8, "payload has come by the link"
        lab.fail("re0", "power")
        finish(apps, peer, payload, "re1")


def loses(lab: Lab, priority: int, packets: str) -> None:
    """re1's netfilter drops these, in a table of its own, *loss*."""
    run(lab, "re1", "nft", "add", "table", "ip", "loss")
    chain = f"{{ type filter hook prerouting priority {priority} ; }}"
    run(lab, "re1", "nft", f"add chain ip loss some {chain}")
    run(lab, "re1", "nft", f"add rule ip loss some {packets} drop")


def test_lost_frames_are_refused_and_sent_again_by_the_peer() -> None:
    with pair() as lab:
        # Behind prl_mirrored and in front of the queue: no earlier hook of netfilter's sees them.
        loses(lab, -310, f"{MIRRORED} numgen inc mod 20 10")
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        eventually("frames were lost", lambda: datapath(lab, "re1")["mirror_lost"] > 0)
        assert mirrored(lab) > 0
        ended = support.told(lab, "re0", "replication_ended")
        assert not ended, "a lost frame is no reason to give up"
        lab.fail("re0", "power")
        finish(apps, peer, payload, "re1")


def test_what_the_shadow_s_stack_drops_is_not_acknowledged() -> None:
    """It cannot be fed again (R8): the owner's stack does not get it, and the peer sends it."""
    with pair() as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        eventually("packets were joined", lambda: mirrored(lab) > 0)
        loses(lab, -150, "meta length > 2000 numgen inc mod 8 3")
        kept = datapath(lab, "re1")["kept_packets"]
        peer.hold_at(SIZE_BYTES * 7 // 8)
        eventually("a packet is missing", lambda: datapath(lab, "re1")["kept_packets"] > kept)
        run(lab, "re1", "nft", "delete", "table", "ip", "loss")
        peer.await_bytes(SIZE_BYTES * 7 // 8)
        assert datapath(lab, "re1")["refed_packets"] == 0
        eventually(
            "the session is protected",
            lambda: [flow["state"] for flow in support.flows(lab, "re0")] == ["active"],
        )
        lab.fail("re0", "power")
        finish(apps, peer, payload, "re1")


def test_a_packet_that_the_cable_s_nic_cuts_is_joined_again() -> None:
    with pair() as lab:
        for node in BOTH:
            run(
                lab, node, "ethtool", "-K", LINK_INTERFACE, "tso", "off", "gso", "off", "gro", "off"
            )
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        eventually("packets were joined", lambda: mirrored(lab) > 0)
        frames = support.status(lab, "re1")["mirror"]["taken"]
        assert frames > 2 * mirrored(lab)
        lab.fail("re0", "power")
        finish(apps, peer, payload, "re1")


def test_a_cable_by_which_nothing_arrives_is_used_no_more() -> None:
    with pair() as lab:
        loses(lab, -310, MIRRORED)
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        eventually("it is told", lambda: len(support.told(lab, "re0", "mirror_off")) > 0)
        assert not is_on(lab, "re0")
        eventually(
            "the session is protected",
            lambda: [flow["state"] for flow in support.flows(lab, "re0")] == ["active"],
        )
        lab.fail("re0", "power")
        finish(apps, peer, payload, "re1")


def test_the_cable_fails_and_comes_back() -> None:
    with pair() as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        eventually("packets were joined", lambda: mirrored(lab) > 0)
        lab.fail("re0", "cut-link")
        eventually("nothing is mirrored", lambda: not is_on(lab, "re0"))
        lab.heal("re0")
        eventually("the cable is known again", lambda: is_on(lab, "re0") and is_on(lab, "re1"))
        eventually(
            "the session is protected again",
            lambda: [flow["state"] for flow in support.flows(lab, "re0")] == ["active"],
        )
        assert not support.told(lab, "re0", "alarm"), "prl_mirrored was gone"
        lab.fail("re0", "power")
        finish(apps, peer, payload, "re1")


def test_a_planned_move_while_packets_are_mirrored() -> None:
    with pair() as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        payload = Payload(SIZE_BYTES)
        peer = apps.connect(4)
        peer.hold_at(SIZE_BYTES * 7 // 8)  # on a slow machine it would be over before the move
        peer.upload(payload)
        peer.await_bytes(SIZE_BYTES // 4)
        lab.run("re0", ["prlctl", "switchover"], check=True, capture_output=True)
        finish(apps, peer, payload, "re1")


def test_with_a_node_that_does_not_mirror_all_goes_over_the_link() -> None:
    with pair() as lab:
        lab.fail("re1", "kill-prld")
        path = lab.state.config(lab.topology.re1)
        path.write_text(path.read_text().replace('mode = "mirror"', 'mode = "kernel"'))
        lab.heal("re1")
        eventually("it is told", lambda: len(support.told(lab, "re0", "mirror_off")) > 0)
        assert not is_on(lab, "re0")
        assert support.status(lab, "re1")["mirror"] is None
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        assert datapath(lab, "re0")["mirrored_packets"] == 0
        lab.fail("re0", "power")
        finish(apps, peer, payload, "re1")
