"""The carrier "kernel": input waits in netfilter's queue, without XDP and without AF_XDP.

Checks R1, R1a, R33.
"""

import itertools
import json
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
from tests.system import support
from tests.system.support import Applications, eventually
from tests.system.uploads import SIZE_BYTES, finish, upload

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "struct_ops", "nfqueue", "nft"),
]

CHUNK_BYTES = 20_000
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


def test_a_frozen_owner_s_packets_are_dropped_and_sent_again() -> None:
    with pair() as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        peer, payload = upload(apps)
        lab.fail("re0", "freeze")
        finish(apps, peer, payload, "re1")
