"""The shadow's kernel loses reinjected frames (R8, R12a): repaired, or the shadow is void."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from prl.client import Node
from prl.demo.payload import Payload
from prl.lab import Lab, blackhole
from prl.lab.netns import Namespace
from tests.system import support
from tests.system.support import Applications, Peer, eventually, pair

pytestmark = [pytest.mark.system, pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops")]

SIZE_BYTES = 24 << 20
INGRESS = 0xFFFFFFF2  # linux/pkt_sched.h: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
PRIORITY = 1


@contextmanager
def deaf(lab: Lab, node: str) -> Iterator[None]:
    """What is given to the node's stack on lan0 is swallowed before it gets there."""
    program = blackhole.load()
    member = lab.topology.node(node)
    with Namespace(member.namespace).netlink() as netlink:
        (index,) = netlink.link_lookup(ifname="lan0")
        with suppress(NetlinkError):  # where prl's programs hang on tcx, it is not there yet
            netlink.tc("add", "clsact", index=index)
        netlink.tc(
            "add-filter",
            "bpf",
            index=index,
            fd=program,
            name="deaf",
            parent=INGRESS,
            prio=PRIORITY,
            handle=1,
            classid=1,
            direct_action=True,
        )
        try:
            yield
        finally:
            netlink.tc("del-filter", index=index, parent=INGRESS, prio=PRIORITY)
            os.close(program)


@contextmanager
def hard_of_hearing(lab: Lab, node: str) -> Iterator[None]:
    """Of what is given to the node's stack on lan0, every sixteenth frame is lost."""
    place = Namespace(lab.topology.node(node).namespace)
    rule = "ip protocol tcp numgen inc mod 16 == 0 drop"
    chain = f'type filter hook ingress device "lan0" priority 0; policy accept;\n{rule}'
    table = f"table netdev prltest {{\nchain lost {{\n{chain}\n}}\n}}\n"
    subprocess.run(place.command(["nft", "-f", "-"]), input=table, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(place.command(["nft", "delete", "table", "netdev", "prltest"]), check=True)


def counted(node: Node, counter: str) -> int:
    return int(node.request({"op": "stats"})["datapath"][counter])


@contextmanager
def uploading() -> Iterator[tuple[Lab, Applications, Peer]]:
    with pair("f8check") as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        with apps.connect() as peer:
            peer.hold_at(SIZE_BYTES // 8)
            peer.upload(Payload(SIZE_BYTES))
            peer.await_bytes(SIZE_BYTES // 8)
            yield lab, apps, peer


@pytest.mark.needs("kept_input")
def test_frames_that_the_shadows_kernel_lost_are_fed_again() -> None:
    with uploading() as (lab, apps, peer):
        with Node(lab.state.socket(lab.topology.re1)) as standby, hard_of_hearing(lab, "re1"):
            peer.hold_at(SIZE_BYTES // 2)
            eventually("they are fed again", lambda: counted(standby, "refed_packets") > 0)
            peer.await_bytes(SIZE_BYTES // 2)
        lab.fail("re0", "power")
        apps.expect("taken_over", "re1", peer=peer.port)
        peer.finish()
        ended = apps.expect("end", "re1", peer=peer.port)
    assert (ended["bytes"], ended["sha256"]) == (SIZE_BYTES, Payload(SIZE_BYTES).sha256(SIZE_BYTES))


def test_a_shadow_that_stays_behind_is_void_and_the_session_goes_on() -> None:
    with uploading() as (lab, apps, peer):
        with deaf(lab, "re1"):
            peer.hold_at(SIZE_BYTES // 2)
            void = apps.expect("void", "re1", peer=peer.port)
            apps.expect("state", "re0", peer=peer.port, state="open")
        assert "differ" in void["reason"]
        peer.finish()
        ended = apps.expect("end", "re0", peer=peer.port)
    assert (ended["bytes"], ended["sha256"]) == (SIZE_BYTES, Payload(SIZE_BYTES).sha256(SIZE_BYTES))


def test_a_session_that_nobody_has_the_input_of_is_reset_after_the_take_over() -> None:
    """The peer was told of it, and would wait for ever for an answer to the rest."""
    with uploading() as (lab, apps, peer), deaf(lab, "re1"):
        with Node(lab.state.socket(lab.topology.re1)) as standby:
            peer.hold_at(SIZE_BYTES // 2)
            eventually("some is kept", lambda: counted(standby, "kept_packets") > 0)
            lab.fail("re0", "power")
            apps.expect("taken_over", "re1", peer=peer.port)
            peer.hold_at(None)
            eventually("it is reset", lambda: isinstance(peer.error, ConnectionResetError))
            assert counted(standby, "holes") == 1
        told = [record["event"] for record in support.events(lab, "re1")]
        assert "session_aborted" in told
