"""The regression guard: counts per packet at a fixed batch, which no load on the machine changes.

A bound is what was measured when it was recorded, and a little for lease messages and ticks that
fall into the measurement. Whoever makes a count better lowers its bound.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prl.bench.rig import Recipe, Rig, Way
from prl.bench.syscalls import SystemCalls
from prl.client import Node
from prl.core.native import lib

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "bcc"),
]

TRIPS, MEASUREMENTS_MAX = 400, 5
SEGMENTS, MSS = 64, 1448
BURSTS = 8
STOPPED_S = 0.02  # a fifth of what makes a node suspect

# System calls of a datapath a 64-byte round trip, input and output held.
PRIMARY_CALLS_MAX = 12.0
SECONDARY_CALLS_MAX = 11.5
# The same, for each of 64 full segments that wait when the datapath looks.
BATCH_CALLS_MAX = 0.3
BATCH_REINJECT_WRITES_MAX = 3.5 / SEGMENTS  # of packets of up to 64 KiB
BATCH_LINK_WRITES_MAX = 3 / SEGMENTS
BATCH_ACK_WRITES_MAX = 4 / SEGMENTS
FLOW_BYTES_MAX = 564  # SPEC T7 allows 1 KiB; the Python side comes on top


@pytest.fixture(name="scratch", scope="module")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counts")


@pytest.fixture(name="echo", scope="module")
def _echo(scratch: Path) -> Iterator[Rig]:
    with Rig(Recipe("prl", Way.PRL), scratch) as rig:
        yield rig


@pytest.fixture(name="sink", scope="module")
def _sink(scratch: Path) -> Iterator[Rig]:
    with Rig(Recipe("prl", Way.PRL, role="sink"), scratch) as rig:
        yield rig


@pytest.mark.parametrize(
    ("node", "most"), [("re0", PRIMARY_CALLS_MAX), ("re1", SECONDARY_CALLS_MAX)]
)
def test_system_calls_of_a_round_trip(echo: Rig, node: str, most: float) -> None:
    """Leases and ticks come with time, and a loaded machine takes more of it: one of a few runs."""
    path = echo.file("ping")
    echo.client.ask(f"ping 100 {path}")
    found: list[float] = []
    while not found or (found[-1] > most and len(found) < MEASUREMENTS_MAX):
        with SystemCalls(echo.prld_pid(node)) as calls:
            echo.client.ask(f"ping {TRIPS} {path}")
        found.append(sum(calls.of_datapath().values()) / TRIPS)
    assert 0 < found[-1] <= most, (found, calls.of_datapath())


def stats(rig: Rig, node: str) -> dict[str, Any]:
    """The counters; ``link_writes`` without those that time brings (each lease is one)."""
    found: dict[str, Any] = rig.stats(node)["datapath"]
    with Node(rig.lab.state.socket(rig.lab.topology.node(node))) as connection:
        leases = connection.request({"op": "link_show"})["sent"]["LEASE"]
    return found | {"link_writes": found["link_writes"] - leases}


def test_a_batch_is_one_pass(sink: Rig) -> None:
    """The primary is stopped until a whole burst waits for it: what it then does is one batch."""
    sink.client.ask("send 300 0")  # opens the congestion window
    pid = sink.prld_pid("re0")
    before = {node: stats(sink, node) for node in ("re0", "re1")}
    with SystemCalls(pid) as calls:
        for _ in range(BURSTS):
            os.kill(pid, signal.SIGSTOP)
            try:
                sink.client.tell(f"burst {SEGMENTS * MSS}")
                time.sleep(STOPPED_S)  # the burst is in the ring by then
            finally:
                os.kill(pid, signal.SIGCONT)
            sink.client.answer(10.0, "burst")
    after = {node: stats(sink, node) for node in ("re0", "re1")}

    def each(node: str, name: str) -> float:
        return float(after[node][name] - before[node][name]) / packets

    packets = after["re0"]["rx_packets"] - before["re0"]["rx_packets"]
    assert packets >= SEGMENTS * BURSTS
    found = calls.of_datapath()
    assert sum(found.values()) / packets <= BATCH_CALLS_MAX, found
    assert each("re0", "reinject_writes") <= BATCH_REINJECT_WRITES_MAX
    assert each("re1", "reinject_writes") <= BATCH_REINJECT_WRITES_MAX
    assert each("re0", "link_writes") <= BATCH_LINK_WRITES_MAX
    assert each("re1", "link_writes") <= BATCH_ACK_WRITES_MAX


def test_memory_of_a_flow() -> None:
    assert 0 < lib.prl_dp_flow_bytes() <= FLOW_BYTES_MAX
