"""A host whose datapath is late is told from one that is dead, because its kernel answers.

Checks L3a.
"""

import ctypes
import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
# linux/ptrace.h, linux/wait.h
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000
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


@contextmanager
def stopped(thread: int) -> Iterator[None]:
    """One thread stands, as one that gets no CPU: its process's other threads run on."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(request: int) -> None:
        if libc.ptrace(request, thread, None, None) < 0:
            raise OSError(ctypes.get_errno(), f"ptrace request {request:#x}")

    ptrace(PTRACE_SEIZE)
    ptrace(PTRACE_INTERRUPT)
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH)


@pytest.mark.parametrize("node", ["re0", "re1"])
def test_who_holds_the_lease_comes_before_others_while_it_is_late(lab: Lab, node: str) -> None:
    """Or prld says that it may not."""
    pid = lab.state.pid(lab.topology.node(node))
    thread = next(
        int(task.name)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (task / "comm").read_text() == "datapath\n"
    )
    refused = [
        event["text"]
        for event in support.events(lab, node)
        if event["event"] == "late_among_others"
    ]
    ordinary, first = (kind | os.SCHED_RESET_ON_FORK for kind in (os.SCHED_OTHER, os.SCHED_FIFO))
    if not any("class" in text for text in refused):
        before = support.stats(lab, node)["datapath"]["realtime_raised"]

        def raised() -> bool:  # it may have been late by itself just before
            with stopped(thread):
                eventually("it is raised", lambda: os.sched_getscheduler(thread) == first)
            eventually("it is in time again", lambda: os.sched_getscheduler(thread) == ordinary)
            return bool(support.stats(lab, node)["datapath"]["realtime_raised"] > before)

        eventually("one more time is counted", raised)
    (sentinel,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in (pid, int(sentinel)):
        assert (os.getpriority(os.PRIO_PROCESS, process) == scheduling.NICE) != any(
            "nice" in text for text in refused
        )


@pytest.mark.parametrize(
    "mode", ["native", "generic", pytest.param("kernel", marks=pytest.mark.needs("nfqueue"))]
)
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
