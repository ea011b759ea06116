"""`prlctl bench passthrough` (T8): traffic that is not replicated, with prl's programs attached.

Native: one lab, in which prl's programs and XDP_PASS take turns on the same interface: what two
labs differ by (addresses in memory, queues) is more than what is looked for. Whole packets: labs
with and without prl.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from prl.bench import bpfmap
from prl.bench.attached import Attached
from prl.bench.bulk import upload
from prl.bench.latency import ping
from prl.bench.rig import Recipe, Rig, Way
from prl.bench.run import Bench, Part
from prl.bench.stats import compared, series

FLOWS = (0, 1, 100_000)
FLOWS_MAX = 131_072
WHOLE = (
    Recipe("none", Way.NONE, role="sink"),
    Recipe("prl kernel", Way.PRL, role="sink", mode="kernel", protect=False, flows_max=FLOWS_MAX),
    Recipe("prl generic", Way.PRL, role="sink", mode="generic", protect=False, flows_max=FLOWS_MAX),
)
_PASS, _PRL = "xdp-pass", "prl"
_PING_TRIPS = 300

T = TypeVar("T")


def passthrough(bench: Bench) -> Part:
    """One stream and a ping-pong to the service address, neither replicated."""
    part = Part("passthrough")
    with bench.stage(part, "native bulk"):
        _native(bench, part)
    with bench.stage(part, "native ping-pong"), Rig(_recipe("echo"), bench.scratch) as rig:
        bench.narrate("not replicated ping-pong")
        pings = _turns(bench, part, rig, bench.rounds(5, 15), partial(ping, _PING_TRIPS))
        trips = series(pings, lambda one: one.both)
        part.series("round_trip", trips, "us")
        part.ratios({"round trip / xdp-pass": compared(trips, _PRL, _PASS)})
    with bench.stage(part, "whole packets"):
        _whole(bench, part)
    return part


def _native(bench: Bench, part: Part) -> None:
    with Rig(_recipe("sink"), bench.scratch) as rig:
        for flows in FLOWS:
            _fill(rig, flows)
            bench.narrate(f"not replicated bulk, {flows} flows in the table")
            turns = _turns(bench, part, rig, bench.rounds(40, 120), partial(upload, 100))
            speed = series(turns, lambda one: one.gbit_s)
            part.series(f"bulk, {flows} flows", speed, "Gbit/s")
            part.series(f"cpu, {flows} flows", series(turns, lambda one: one.cpu_s_per_gb), "s/GB")
            part.ratios({f"t8_flows_{flows}": compared(speed, _PRL, _PASS)})


def _whole(bench: Bench, part: Part) -> None:
    """Whole packets, against a lab without any program: programs in one lab could not change that.

    A generic XDP program, once attached, costs each packet its copy, whatever it does.
    """
    with bench.rigs(part, WHOLE) as rigs:
        for flows in FLOWS:
            for rig in rigs.values():
                if rig.recipe.way is Way.PRL:
                    _fill(rig, flows)
            bench.narrate(f"not replicated bulk, whole packets, {flows} flows, {len(rigs)} ways")
            found = bench.take_turns(part, rigs, bench.rounds(7, 25), partial(upload, 300))
            speed = series(found, lambda one: one.gbit_s)
            part.series(f"whole packets, {flows} flows", speed, "Gbit/s")
            part.ratios(
                {
                    f"t8_whole_{flows}": compared(speed, "prl kernel", "none"),
                    f"generic XDP, {flows} flows / none": compared(speed, "prl generic", "none"),
                }
            )


def _recipe(role: str) -> Recipe:
    return Recipe(role, Way.PRL, role=role, protect=False, flows_max=FLOWS_MAX, looks=False)


def _fill(rig: Rig, flows: int) -> None:
    bpfmap.fill(rig.lab.topology.instance(rig.lab.topology.re0), flows)


def _turns(
    bench: Bench, part: Part, rig: Rig, rounds: int, measure: Callable[[Rig], T]
) -> dict[str, list[T | None]]:
    ways = {_PASS: True, _PRL: False}
    with Attached(rig) as attached:

        def measure_with(pass_alone: bool) -> T:
            attached.put(pass_alone=pass_alone)
            return measure(rig)

        try:
            return bench.alternate(part, ways, dict.fromkeys(ways, rig), rounds, measure_with)
        finally:
            attached.put(pass_alone=False)
