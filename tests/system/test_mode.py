"""Who captures when the configuration leaves it open, and on which CPUs the datapath does.

Checks R24.
"""

from contextlib import ExitStack
from functools import partial

import pytest
from prl._core import lib

from prl.daemon.node import place
from prl.errors import KernelError
from prl.kernel.features import best_mode
from prl.lab import Lab
from prl.lab.netns import Namespace
from tests import netfilter_queue
from tests.system import support
from tests.system.support import Applications

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]


def told(lab: Lab, node: str) -> list[tuple[str, str]]:
    found = support.events(lab, node)
    return [(e["level"], e["text"]) for e in found if e["event"] == "xdp_mode"]


@pytest.mark.needs("nfqueue")
def test_whole_packets_wait_in_the_kernel() -> None:
    with support.pair("auto", mode="auto") as lab:
        mode, why = Namespace(lab.topology.re0.namespace).call(lambda: best_mode(["lan0"], ""))
        assert mode == "kernel"
        facts = support.status(lab, "re0")
        assert (facts["mode"], facts["mode_because"]) == ("kernel", "")
        words = f"no XDP: input waits in the kernel (NFQUEUE): {why}"
        assert told(lab, "re0") == [("info", words)]
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            assert peer.ask("protected") == "protected"


@pytest.mark.needs("nfqueue", "long_packets")
def test_where_they_cannot_generic_xdp_takes_them_and_it_is_said_why() -> None:
    """On one node: what captures is each node's own business."""
    with ExitStack() as stack:
        lab = stack.enter_context(support.pair("noqueue", mode="auto"))
        lab.fail("re0", "kill-prld")
        place = Namespace(lab.topology.re0.namespace)
        for number in range(lib.PRL_QUEUE_FIRST, lib.PRL_QUEUE_FIRST + lib.PRL_QUEUE_COUNT):
            stack.enter_context(place.call(partial(netfilter_queue.bind, number)))
        lab.heal("re0")
        because = "NFQUEUE: Device or resource busy"
        facts = support.status(lab, "re0")
        assert (facts["mode"], facts["mode_because"]) == ("generic", because)
        assert told(lab, "re0") == [("warning", f"XDP runs in generic mode: {because}")]
        assert support.status(lab, "re1")["mode"] == "kernel"
        owner, other = nodes_of(lab)
        apps = Applications(lab, "obey")
        with support.Peer(lab) as peer:
            apps.expect("protected", owner, peer=peer.port)
            apps.expect("standby", other, peer=peer.port)
            assert peer.ask("protected") == "protected"
            lab.fail(owner, "power")
            apps.expect("taken_over", other, peer=peer.port)
            assert peer.ask("still") == "still"


def nodes_of(lab: Lab) -> tuple[str, str]:
    """The owner and the other one, once both say so."""

    def states() -> list[str]:
        return [support.status(lab, node)["services"][0]["state"] for node in ("re0", "re1")]

    support.eventually("one owns it", lambda: sorted(states()) == ["owner", "standby"])
    found = dict(zip(states(), ("re0", "re1"), strict=True))
    return found["owner"], found["standby"]


def test_a_cpu_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(KernelError, match=r"datapath.cpus \[8191\].*prld may use \[0"):
        place([8191])
