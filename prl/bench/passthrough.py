"""`prlctl bench passthrough` (T8): traffic that is not replicated, with prl's programs attached."""

from functools import partial

from prl.bench import bpfmap
from prl.bench.bulk import upload
from prl.bench.latency import ping
from prl.bench.rig import Recipe, Way
from prl.bench.run import Bench, Part, ratio_facts
from prl.bench.stats import ratios, summary

FLOWS = (0, 1, 100_000)
FLOWS_MAX = 131_072
_PASS = "xdp-pass"  # noqa: S105
_PING_TRIPS = 300


def passthrough(bench: Bench) -> Part:
    """One stream and a ping-pong to the service address, neither replicated."""
    part = Part("passthrough")
    recipes = [Recipe(_PASS, Way.XDP_PASS, role="sink")] + [
        Recipe(_name(flows), Way.PRL, role="sink", protect=False, flows_max=FLOWS_MAX)
        for flows in FLOWS
    ]
    with bench.rigs(part, recipes) as rigs:
        for flows in FLOWS:
            rig = rigs[_name(flows)]
            topology = rig.lab.topology
            bpfmap.fill(topology.instance(topology.re0), flows)
        bench.narrate("not replicated bulk, 0 to 100,000 flows in turns")
        turns = bench.take_turns(
            rigs, bench.rounds(21, 45), partial(upload, bench.rounds(150, 250))
        )
    speed = {name: [one.gbit_s for one in found] for name, found in turns.items()}
    part.series("bulk", speed, "Gbit/s")
    part.series("cpu", {n: [one.cpu_s_per_gb for one in t] for n, t in turns.items()}, "s/GB")
    found_ratios = {
        f"t8_flows_{flows}": ratios(speed[_name(flows)], speed[_PASS]) for flows in FLOWS
    }
    with bench.rigs(part, [_echo(recipe) for recipe in recipes[:2]]) as rigs:
        bench.narrate("not replicated ping-pong")
        pings = bench.take_turns(rigs, bench.rounds(5, 15), partial(ping, _PING_TRIPS))
    trips = {name: [one.both for one in found] for name, found in pings.items()}
    part.series("round_trip", trips, "us")
    found_ratios["round trip / xdp-pass"] = ratios(trips[_name(0)], trips[_PASS])
    part.facts["ratios"] = ratio_facts(found_ratios)
    for name, values in found_ratios.items():
        if name.startswith("t8"):
            part.figures[name] = summary(values).median
    return part


def _name(flows: int) -> str:
    return f"prl, {flows} flows"


def _echo(recipe: Recipe) -> Recipe:
    return Recipe(recipe.name, recipe.way, protect=recipe.protect, flows_max=recipe.flows_max)
