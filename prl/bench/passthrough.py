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
from prl.bench.run import Bench, Part, ratio_facts
from prl.bench.stats import ratios, summary

FLOWS = (0, 1, 100_000)
FLOWS_MAX = 131_072
WHOLE = (
    Recipe("none", Way.NONE, role="sink"),
    Recipe("prl kernel", Way.PRL, role="sink", mode="kernel", protect=False),
    Recipe("prl generic", Way.PRL, role="sink", mode="generic", protect=False),
)
_PASS, _PRL = "xdp-pass", "prl"
_PING_TRIPS = 300

T = TypeVar("T")


def passthrough(bench: Bench) -> Part:
    """One stream and a ping-pong to the service address, neither replicated."""
    part = Part("passthrough")
    found_ratios: dict[str, list[float]] = {}
    with bench.rigs(part, [_recipe("sink")]) as rigs:
        for flows in FLOWS if rigs else ():
            rig = rigs["sink"]
            bpfmap.fill(rig.lab.topology.instance(rig.lab.topology.re0), flows)
            bench.narrate(f"not replicated bulk, {flows} flows in the table")
            turns = _turns(bench, rig, bench.rounds(40, 120), partial(upload, 100))
            speed = {name: [one.gbit_s for one in found] for name, found in turns.items()}
            price = {name: [one.cpu_s_per_gb for one in found] for name, found in turns.items()}
            part.series(f"bulk, {flows} flows", speed, "Gbit/s")
            part.series(f"cpu, {flows} flows", price, "s/GB")
            found_ratios[f"t8_flows_{flows}"] = ratios(speed[_PRL], speed[_PASS])
    with bench.rigs(part, [_recipe("echo")]) as rigs:
        if rigs:
            bench.narrate("not replicated ping-pong")
            pings = _turns(bench, rigs["echo"], bench.rounds(5, 15), partial(ping, _PING_TRIPS))
            trips = {name: [one.both for one in found] for name, found in pings.items()}
            part.series("round_trip", trips, "us")
            found_ratios["round trip / xdp-pass"] = ratios(trips[_PRL], trips[_PASS])
    found_ratios |= _whole(bench, part)
    part.facts["ratios"] = ratio_facts(found_ratios)
    for name, values in found_ratios.items():
        if name.startswith("t8"):
            part.figures[name] = summary(values).median
    return part


def _whole(bench: Bench, part: Part) -> dict[str, list[float]]:
    """Whole packets, against a lab without any program: programs in one lab could not change that.

    A generic XDP program, once attached, costs each packet its copy, whatever it does.
    """
    with bench.rigs(part, WHOLE) as rigs:
        if "none" not in rigs:
            return {}
        bench.narrate(f"not replicated bulk, whole packets, {len(rigs)} ways in turns")
        found = bench.take_turns(rigs, bench.rounds(9, 30), partial(upload, 300))
    speed = {name: [one.gbit_s for one in turns] for name, turns in found.items()}
    part.series("whole packets", speed, "Gbit/s")
    names = {"prl kernel": "t8_whole", "prl generic": "whole packets, generic XDP / none"}
    return {name: ratios(speed[way], speed["none"]) for way, name in names.items() if way in speed}


def _recipe(role: str) -> Recipe:
    return Recipe(role, Way.PRL, role=role, protect=False, flows_max=FLOWS_MAX, looks=False)


def _turns(bench: Bench, rig: Rig, rounds: int, measure: Callable[[Rig], T]) -> dict[str, list[T]]:
    with Attached(rig) as attached:

        def measure_with(pass_alone: bool) -> T:
            attached.put(pass_alone=pass_alone)
            return measure(rig)

        try:
            return bench.take_turns({_PASS: True, _PRL: False}, rounds, measure_with)
        finally:
            attached.put(pass_alone=False)
