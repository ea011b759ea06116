"""The carrier "kernel": input waits in netfilter's queue, without XDP and without AF_XDP.

Checks R1, R1a, R33.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from prl._core import lib

from prl.lab import Lab
from prl.lab.netns import Namespace
from tests import netfilter_queue
from tests.kernel.bpf_lab import Packets, Segment
from tests.probes import nft_queue
from tests.system import support
from tests.system.support import Applications, Peer, eventually
from tests.system.uploads import SIZE_BYTES, finish, upload
from tests.tcp_info import total_retrans

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "struct_ops", "nfqueue", "nft"),
]

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
FIRST = lib.PRL_QUEUE_FIRST
_labs = itertools.count()


class Queue(NamedTuple):
    """A line of /proc/net/netfilter/nfnetlink_queue."""

    number: int
    owner: int
    waiting: int
    mode: int
    range: int
    full: int
    unread: int
    newest: int


def queues(lab: Lab, node: str) -> dict[int, Queue]:
    def read() -> str:
        return Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text()

    lines = Namespace(lab.topology.member(node).namespace).call(read).splitlines()
    found = [Queue(*map(int, line.split()[:8])) for line in lines]
    return {one.number: one for one in found}


def datapath(lab: Lab, node: str) -> dict[str, int]:
    found: dict[str, int] = support.stats(lab, node)["datapath"]
    return found


def nft(lab: Lab, node: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = Namespace(lab.topology.member(node).namespace).command(["nft", *words])
    return subprocess.run(command, capture_output=True, text=True, check=False)


def ways_to_a_queue(lab: Lab, node: str) -> set[str]:
    """By nftables' own expression, or by xtables' target, which nft lists as the same."""
    done = nft(lab, node, "--debug=netlink", "list", "ruleset")
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"\[ (queue|target)(?= num| name NFQUEUE)", done.stdout))


def tables(lab: Lab, node: str) -> set[str]:
    done = nft(lab, node, "list", "tables")
    assert done.returncode == 0, done.stderr
    return {line.removeprefix("table ") for line in done.stdout.splitlines()}


def own_tables(number: int) -> set[str]:
    return {f"{family} prl_queue_{number}" for family in ("ip", "ip6")}


@contextmanager
def pair() -> Iterator[Lab]:
    with support.pair(f"ker{next(_labs)}", "kernel") as lab:
        yield lab


def nothing_waits(lab: Lab, node: str) -> Callable[[], bool]:
    return lambda: all(one.waiting == 0 for one in queues(lab, node).values())


@pytest.mark.parametrize("family", support.FAMILIES)
def test_input_waits_in_the_kernel_and_survives_the_owner(family: int) -> None:
    with pair() as lab:
        apps = Applications(lab, "sink", family, SIZE_BYTES)
        peer, payload = upload(apps, family)
        place = Namespace(lab.topology.re0.namespace)
        assert support.status(lab, "re0")["mode"] == "kernel"
        shown = place.command(["ip", "-d", "-j", "link", "show", "dev", "lan0"])
        (lan,) = json.loads(subprocess.run(shown, capture_output=True, check=True).stdout)
        assert "xdp" not in lan
        queue = queues(lab, "re0")[FIRST]
        assert queue.newest > SIZE_BYTES // 2 // 65536, queue
        assert (queue.full, queue.unread) == (0, 0), queue
        assert tables(lab, "re0") == own_tables(0)
        assert ways_to_a_queue(lab, "re0") == {"queue" if nft_queue() else "target"}
        eventually("each packet has its verdict", nothing_waits(lab, "re0"))
        eventually("streams were compared", lambda: datapath(lab, "re1")["compared"] > 0)
        assert [datapath(lab, node)["differences"] for node in ("re0", "re1")] == [0, 0]
        assert datapath(lab, "re0")["verdicts_refused"] == 0
        lab.fail("re0", "power")
        finish(apps, peer, payload, "re1")


def test_the_rules_of_prl_are_not_flushed_with_the_host_s() -> None:
    with pair() as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        for line in (
            "add table ip host",
            "add chain ip host input { type filter hook prerouting priority raw ; }",
            "add rule ip host input counter",
        ):
            assert nft(lab, "re0", line).returncode == 0, line
        peer, payload = upload(apps)
        refused = nft(lab, "re0", "delete table ip prl_queue_0")
        assert (refused.returncode, "not permitted" in refused.stderr) == (1, True), refused
        assert nft(lab, "re0", "flush ruleset").returncode == 0
        assert tables(lab, "re0") == own_tables(0)
        before = queues(lab, "re0")[FIRST].newest
        finish(apps, peer, payload, "re0")
        assert queues(lab, "re0")[FIRST].newest > before


def test_a_killed_prld_leaves_neither_queue_nor_rules() -> None:
    with pair() as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        lab.fail("re0", "kill-prld")
        eventually("the rules have gone", lambda: not tables(lab, "re0"))
        eventually("the queue has gone", lambda: not queues(lab, "re0"))
        finish(apps, peer, payload, "re1")


def test_a_queue_of_somebody_else_s_is_left_alone() -> None:
    with pair() as lab:
        lab.fail("re1", "kill-prld")
        eventually("the queue has gone", lambda: not queues(lab, "re1"))
        place = Namespace(lab.topology.re1.namespace)
        with place.call(lambda: netfilter_queue.bind(FIRST)):
            lab.heal("re1")
            assert queues(lab, "re1").keys() == {FIRST, FIRST + 1}
            assert tables(lab, "re1") == own_tables(1)
            apps = Applications(lab, "sink", 4, SIZE_BYTES)
            peer, payload = upload(apps)
            lab.fail("re0", "power")
            finish(apps, peer, payload, "re1")


def segment(lab: Lab, peer: Peer) -> bytes:
    """An acknowledgement of nothing new, of the peer's session, to re0."""
    machine = lab.topology.peer.lan
    made = Segment(
        source=machine.ipv4.ip,
        target=lab.topology.service.ipv4,
        source_port=peer.port,
        target_port=support.PORT,
    )
    source, target = (
        bytes.fromhex(mac.replace(":", "")) for mac in (machine.mac, lab.topology.re0.lan.mac)
    )
    return made.frame(source=source, target=target)


def test_a_frozen_owner_s_packets_are_dropped_and_sent_again() -> None:
    with pair() as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        frame, place = segment(lab, peer), Namespace(lab.topology.re0.namespace)
        with place.call(lambda: Packets("lan0").socket) as arrived:
            arrived.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 * SIZE_BYTES)

            def stands_still() -> bool:
                """A packet has come, and does not wait."""
                before = queues(lab, "re0")[FIRST].newest
                support.send_frames(lab, "peer", [frame])
                while arrived.recv(len(frame) + 1) != frame:
                    pass
                return queues(lab, "re0")[FIRST].newest == before

            assert not stands_still()
            lab.fail("re0", "freeze")
            eventually("its datapath counts as dead", stands_still)
            newest = queues(lab, "re0")[FIRST].newest
            apps.expect("taken_over", "re1", peer=peer.port)
            assert stands_still()
            assert queues(lab, "re0")[FIRST].newest == newest
        lab.heal("re0")
        assert support.stats(lab, "re0")["kernel"]["stale_dropped"] > 0
        eventually("nothing waits", nothing_waits(lab, "re0"))
        eventually("it is sent again", lambda: total_retrans(peer.sock) > 0)
        finish(apps, peer, payload, "re1")


def test_what_waited_at_an_interface_that_went_down_is_sent_again() -> None:
    """prld has a copy of what the kernel has dropped: its verdict comes too late."""
    with pair() as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        place = Namespace(lab.topology.re0.namespace)
        pid = lab.state.pid(lab.topology.re0)
        assert pid is not None
        with place.netlink() as netlink:
            (lan,) = netlink.link_lookup(ifname="lan0")
            os.kill(pid, signal.SIGSTOP)
            try:
                support.send_frames(lab, "peer", [segment(lab, peer)])
                eventually("it waits", lambda: not nothing_waits(lab, "re0")())
                netlink.link("set", index=lan, state="down")
                assert nothing_waits(lab, "re0")()
                netlink.link("set", index=lan, state="up")
            finally:
                os.kill(pid, signal.SIGCONT)
        eventually("its verdict is refused", lambda: datapath(lab, "re0")["verdicts_refused"] > 0)
        finish(apps, peer, payload, "re0")
