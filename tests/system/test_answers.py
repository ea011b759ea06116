"""A host whose datapath is late is told from one that is dead, because its kernel answers.

Checks L3a.
"""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from prl.daemon.host import scheduling
from prl.demo.payload import Payload
from prl.lab import Lab
from tests.system import support
from tests.system.support import Applications, eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SIZE_BYTES = 8 << 20
LATE_S = 0.3
"""Longer than timing.suspect_ms, and shorter than timing.hung_ms."""
_labs = itertools.count()


def stop_for(apps: Applications, node: str, seconds: float) -> None:
    """Stop its prld, as one that is not scheduled."""
    pid = apps.lab.state.pid(getattr(apps.lab.topology, node))
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)  # it is the length of the stop that matters
    finally:
        os.kill(pid, signal.SIGCONT)


def knows_each_other(apps: Applications) -> bool:
    found = [support.status(apps.lab, node)["other_node"] for node in ("re0", "re1")]
    return all(one["state"] == "alive" and None not in one["answered_ms"].values() for one in found)


@pytest.mark.parametrize("node", ["re0", "re1"])
def test_who_holds_the_lease_comes_before_others(lab: Lab, node: str) -> None:
    """Or prld says that it may not."""
    pid = lab.state.pid(lab.topology.node(node))
    task = next(
        task
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (task / "comm").read_text() == "datapath\n"
    )
    first = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    refused = [
        event["text"]
        for event in support.events(lab, node)
        if event["event"] == "late_among_others"
    ]
    assert (os.sched_getscheduler(int(task.name)) == first) != any("class" in t for t in refused)
    (sentinel,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in (pid, int(sentinel)):
        assert (os.getpriority(os.PRIO_PROCESS, process) == scheduling.NICE) != any(
            "nice" in text for text in refused
        )


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_a_late_datapath_is_waited_for_and_a_dead_host_is_not(mode: str) -> None:
    payload = Payload(SIZE_BYTES)
    with support.pair(f"f8k{next(_labs)}", mode) as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        with apps.connect(4) as peer:
            peer.hold_at(SIZE_BYTES * 3 // 4)
            peer.upload(payload)
            peer.await_bytes(SIZE_BYTES // 2)
            eventually("both kernels answer by both ways", lambda: knows_each_other(apps))
            epoch = support.status(lab, "re1")["epoch"]
            told = {node: len(support.events(lab, node)) for node in ("re0", "re1")}
            for late in ("re0", "re1"):
                stop_for(apps, late, LATE_S)
                eventually("it is heard again", lambda: knows_each_other(apps))
            after = [
                record["event"]
                for node, count in told.items()
                for record in support.events(lab, node)[count:]
            ]
            assert not {"taken_over", "shadow_void", "link_down", "replication_ended"} & set(after)
            for node, state in (("re0", "owner"), ("re1", "standby")):
                found = support.status(lab, node)
                assert (found["services"][0]["state"], found["epoch"]) == (state, epoch)
            lab.fail("re0", "power")
            apps.expect("taken_over", "re1", peer=peer.port)
            peer.finish()
            end = apps.expect("end", "re1", peer=peer.port)
            assert (end["bytes"], end["sha256"]) == (SIZE_BYTES, payload.sha256())
