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
from prl.bindings.native import lib
from prl.client import Node

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
# The same, and what is written, for each of 64 full segments that wait when the datapath looks.
BATCH_MAX = {
    "calls": 0.3,
    "re0 reinject_writes": 3.5 / SEGMENTS,  # packets of up to 64 KiB
    "re1 reinject_writes": 3.5 / SEGMENTS,
    "re0 link_writes": 3 / SEGMENTS,
    "re1 link_writes": 4 / SEGMENTS,  # ACKs
}
FLOW_BYTES_MAX = 572  # SPEC T7 allows 1 KiB; the Python side comes on top


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


def batch(rig: Rig) -> dict[str, float]:
    """What a burst costs each packet, when the primary is stopped until all of it waits there."""
    pid = rig.prld_pid("re0")
    before = {node: stats(rig, node) for node in ("re0", "re1")}
    with SystemCalls(pid) as calls:
        for _ in range(BURSTS):
            os.kill(pid, signal.SIGSTOP)
            try:
                rig.client.tell(f"burst {SEGMENTS * MSS}")
                time.sleep(STOPPED_S)  # the burst is in the ring by then, if the client came to run
            finally:
                os.kill(pid, signal.SIGCONT)
            rig.client.answer(10.0, "burst")
    after = {node: stats(rig, node) for node in ("re0", "re1")}
    packets = after["re0"]["rx_packets"] - before["re0"]["rx_packets"]
    assert packets >= SEGMENTS * BURSTS

    def each(node: str, name: str) -> float:
        return float(after[node][name] - before[node][name]) / packets

    return {
        "calls": sum(calls.of_datapath().values()) / packets,
        "re0 reinject_writes": each("re0", "reinject_writes"),
        "re1 reinject_writes": each("re1", "reinject_writes"),
        "re0 link_writes": each("re0", "link_writes"),
        "re1 link_writes": each("re1", "link_writes"),
    }


def test_a_batch_is_one_pass(sink: Rig) -> None:
    """On a loaded machine not all of a burst is there in time: one of a few runs."""
    sink.client.ask("send 300 0")  # opens the congestion window
    found: list[dict[str, float]] = []
    while len(found) < MEASUREMENTS_MAX:
        found.append(batch(sink))
        if all(found[-1][name] <= most for name, most in BATCH_MAX.items()):
            break
    assert found[-1].keys() == BATCH_MAX.keys()
    assert all(0 < found[-1][name] <= most for name, most in BATCH_MAX.items()), found


def test_memory_of_a_flow() -> None:
    assert 0 < lib.prl_dp_flow_bytes() <= FLOW_BYTES_MAX
