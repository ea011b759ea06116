"""`prlctl bench sessions` and `bench flows` (T6, T7, T11): many sessions, held and busy."""

import resource
import time
from pathlib import Path
from typing import Any

from prl.bench import bpfmap
from prl.bench.baseline import Baseline
from prl.bench.errors import BenchError
from prl.bench.latency import open_loop
from prl.bench.rig import Recipe, Rig, Way
from prl.bench.run import Bench, Part
from prl.bench.stats import compared, counted, quantile, series, significant
from prl.bindings.native import lib
from prl.errors import PrlError

HELD, BUSY = 100_000, 10_000
_DESCRIPTORS_BESIDES = 1_000
"""What programs have besides one for each session, of which there may be so many (ulimit -n)."""
STEP = 1_000
PATIENCE_S, PATIENCE_QUICK_S = 240, 40
"""How long protecting sessions may go on in all."""
IDLE_PATIENCE_S, IDLE_POLL_S = 60, 0.25
"""How long the last ones may take to be idle for prld, too; how often it is asked."""
BUSY_RATE = 4_000
GROWTH_RATE = 2_000
_US, _KIB = 1000.0, 1024
_RECIPE = Recipe("prl", Way.PRL, connections=0, flows_max=HELD)


def sessions(bench: Bench) -> Part:
    """As many as go; then a thousand of them busy; and what an idle one takes in memory."""
    part = Part("sessions")
    with Rig(_RECIPE, bench.scratch) as rig:
        before = measure_memory(rig)
        seconds: list[float] = []
        held = 0
        most = min(HELD, (_descriptors_max() - _DESCRIPTORS_BESIDES) // STEP * STEP)
        patience_s = PATIENCE_QUICK_S if bench.quick else PATIENCE_S
        bench.narrate(f"protecting {most} sessions, {STEP} at a time, for at most {patience_s} s")
        while held < most:
            if sum(seconds) > patience_s:
                part.notes.append(f"held: stopped at {held} after {sum(seconds):.0f} s")
                break
            try:
                held += _add(rig, STEP, seconds)
            except PrlError as error:
                part.notes.append(f"held: no more than {held}: {error}")
                break
        if held:
            part.facts["idle"] = {"settled": _await_idle(rig)}
            _note_memory(part, rig, before, measure_memory(rig), held)
            baseline = Baseline(rig)
            _busy(bench, part, rig, held)
            part.notes += [f"held: {why}" for why in baseline.lost()]
    part.facts["held"] = {"sessions": held, "seconds_per_1000": [round(s, 3) for s in seconds]}
    part.figures["t11_held"] = float(held)
    return part


def _add(rig: Rig, count: int, seconds: list[float]) -> int:
    rig.connect(count)
    found = rig.protect(count, partly=True)
    seconds.append(found["seconds"])
    if found["failed"]:
        raise BenchError(f"{found['failed']} of {count} are not protected: {found['reasons'][0]}")
    return int(found["count"])


def _await_idle(rig: Rig) -> bool:
    """Until prld needs no object of any session on either node; False: it does still."""
    deadline_s = time.monotonic() + IDLE_PATIENCE_S
    while time.monotonic() < deadline_s:
        stats = [rig.stats(node.name) for node in rig.lab.topology.nodes]
        if not sum(one["sessions"]["in_hand"] + one["shadows"]["in_hand"] for one in stats):
            return True
        time.sleep(IDLE_POLL_S)
    return False


def measure_memory(rig: Rig) -> dict[str, int]:
    """By node and kind."""
    topology, found = rig.lab.topology, {}
    for node in topology.nodes:
        fields = _status(rig.prld_pid(node.name))
        log_bytes = int(rig.stats(node.name)["log_bytes"])  # a ring: no flow's
        found[f"{node.name}: prld"] = int(fields["VmRSS"].split()[0]) * _KIB - log_bytes
        found[f"event log of {node.name}"] = log_bytes
        found[f"{node.name}: kernel tables"] = bpfmap.grown_bytes(topology.instance(node))
    return found


def _slot_bytes(rig: Rig) -> dict[str, float]:
    """By node: what there is from the start for each session, used or not (no growth shows it)."""
    topology = rig.lab.topology
    return {
        f"{node.name}: from the start": lib.prl_dp_slot_bytes()
        + bpfmap.slot_bytes(topology.instance(node))
        for node in topology.nodes
    }


def memory_each(
    rig: Rig, before: dict[str, int], after: dict[str, int], held: int
) -> dict[str, float]:
    """Bytes of one of so many sessions, by node and kind."""
    grown = {name: (after[name] - before[name]) / max(held, 1) for name in before}
    return grown | _slot_bytes(rig)


def _note_memory(
    part: Part, rig: Rig, before: dict[str, int], after: dict[str, int], held: int
) -> None:
    each = memory_each(rig, before, after, held)
    part.facts["memory"] = {"unit": "bytes per idle session"} | {
        name: round(value) for name, value in each.items()
    }
    part.figures["t7_bytes"] = max(
        sum(value for name, value in each.items() if name.startswith(node))
        for node in ("re0", "re1")
    )


def _busy(bench: Bench, part: Part, rig: Rig, held: int) -> None:
    busy = min(BUSY, held)
    bench.narrate(f"{busy} of them busy: {BUSY_RATE} requests a second in all")
    latencies = open_loop(rig, bench.rounds(1500, 4000), BUSY_RATE, busy)
    answered = [ns for ns in latencies if ns >= 0]
    part.facts["busy"] = {
        "sessions": busy,
        "asked": len(latencies),
        "answered": len(answered),
        "p50_us": significant(quantile(answered, 0.5) / _US) if answered else None,
        "p99_us": significant(quantile(answered, 0.99) / _US) if answered else None,
    }
    part.figures["t11_busy"] = busy * len(answered) / len(latencies)


def flows(bench: Bench) -> Part:
    """CPU of both datapaths per packet, one session and many (T6).

    Single packets at one rate, spread over all sessions in turn: no batch hides what a packet
    costs, and what quiet sessions cost is in it. Each number of sessions has a rig of its own, so
    that they are measured in turns.
    """
    part = Part("flows")
    sizes = [1, 100, 1_000] if bench.quick else [1, 100, 1_000, 10_000]
    recipes = [Recipe(str(size), Way.PRL, role="sink", connections=0) for size in sizes]
    with bench.rigs(part, recipes) as rigs:
        held = {int(name): rig for name, rig in rigs.items()}
        for size, rig in list(held.items()):
            bench.narrate(f"{size} sessions")
            try:
                for first in range(0, size, STEP):
                    _add(rig, min(size - first, STEP), [])
            except PrlError as error:
                part.lacks(f"{size} sessions", error)
                del held[size]
        ways = {str(size): (rig, size) for size, rig in held.items()}
        turns = bench.alternate(
            part,
            ways,
            {name: rig for name, (rig, _) in ways.items()},
            bench.rounds(5, 7),
            lambda way: _packet_cost_ns(bench, way[0], way[1]),
        )
    costs = {size: found for size, found in series(turns, float).items() if counted(found)}
    medians = {int(size): quantile(found, 0.5) for size, found in costs.items()}
    most = max(medians, default=0)
    part.series("cost", {f"{size} sessions": found for size, found in costs.items()}, "ns/packet")
    part.curves["growth_ns"] = {"both datapaths": list(medians.items())}
    if most > 1:
        part.ratios({"t6_growth": compared(costs, str(most), "1")})
    part.notes.append(
        f"growth is from 1 to {most} sessions; a process has at most "
        f"{_descriptors_max()} descriptors here, and prld needs one a session"
    )
    return part


def _packet_cost_ns(bench: Bench, rig: Rig, size: int) -> float:
    before, before_ns = _packets(rig), rig.prld_cpu_ns()
    rig.client.ask(f"pace {GROWTH_RATE} {bench.rounds(800, 2000)} {size}")
    return (rig.prld_cpu_ns() - before_ns) / max(_packets(rig) - before, 1)


def _packets(rig: Rig) -> int:
    """Packets captured: each goes through both datapaths."""
    return int(rig.stats("re0")["datapath"]["rx_packets"])


def _status(pid: int) -> dict[str, Any]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _descriptors_max() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
