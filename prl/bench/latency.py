"""`prlctl bench latency` (T1, T2): what a held packet and a held answer cost a round trip."""

from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

from prl.bench.rig import ANSWER_TIMEOUT_S, Recipe, Rig, Way
from prl.bench.run import Bench, Part, on_one_cpu, read_columns
from prl.bench.stats import compared, quantile, ratios, series, thinned

# NFQUEUE's copies cross in clear, and so do prl's here; what TLS costs, secrecy.py measures.
_OTHERS = (
    Recipe("none", Way.NONE),
    Recipe("bare", Way.BARE),
    Recipe("nfqueue", Way.NFQUEUE),
    Recipe("haproxy", Way.HAPROXY),
    Recipe("socat", Way.SOCAT),
)
BLOCKING = (
    *_OTHERS,
    Recipe("prl native", Way.PRL, plain_link=True),
    Recipe("prl kernel", Way.PRL, mode="kernel", plain_link=True),
    Recipe("prl mirror", Way.PRL, mode="mirror", plain_link=True),
)
POLLING = (
    *_OTHERS,
    Recipe("prl native", Way.PRL, plain_link=True),
    Recipe("prl kernel", Way.PRL, mode="kernel", plain_link=True),
    Recipe("nfqueue polling", Way.NFQUEUE, polling="adaptive"),
    Recipe("prl native polling", Way.PRL, polling="adaptive", plain_link=True),
    Recipe("prl kernel polling", Way.PRL, mode="kernel", polling="adaptive", plain_link=True),
)
OPEN = ("none", "nfqueue", "prl native", "prl kernel", "prl native polling")
OPEN_RATE = 2000
CURVE_POINTS = 101
_US = 1000.0


@dataclass(slots=True)
class Trips:
    """One round of a rig: medians, µs, and every round trip, ns."""

    there: float
    back: float
    both: float
    all_ns: list[int] = field(repr=False)


def ping(trips: int, rig: Rig) -> Trips:
    """So many round trips of 64 bytes."""
    path = rig.file("ping")
    rig.client.ask(f"ping {trips} {path}")
    both, there, back = read_columns(path, "i", 3)
    return Trips(
        quantile(there, 0.5) / _US,
        quantile(back, 0.5) / _US,
        quantile(both, 0.5) / _US,
        list(both),
    )


def open_loop(
    rig: Rig,
    ms: int,
    rate: int = OPEN_RATE,
    connections: int = 1,
    patience_s: float = ANSWER_TIMEOUT_S,
) -> list[int]:
    """Ask at a fixed rate whatever the answers do; ns from when each was due (-1: never)."""
    path = rig.file("open")
    rig.client.ask(f"open {rate} {ms} {connections} {path}", patience_s)
    return list(read_columns(path, "q", 2)[1])


def latency(bench: Bench) -> Part:
    """Ping-pong in turns, on one CPU and on all of them, then an open loop in turns.

    A round trip without prl stays on one CPU: the scheduler keeps a sender and the receiver that
    it wakes together. Longer chains of programs are spread over idle CPUs in some runs and not in
    others, and waking an idle CPU can cost more than all the work (35 µs in a virtual machine).
    So those that sleep are compared on one CPU, where a round trip is the sum of what is done for
    it; polling needs more than one.
    """
    part = Part("latency")
    trips = bench.rounds(300, 1000)
    with on_one_cpu(), bench.rigs(part, BLOCKING) as rigs:
        bench.narrate(f"64-byte ping-pong on one CPU, {len(rigs)} ways in turns")
        together = bench.take_turns(part, rigs, bench.rounds(7, 25), partial(ping, trips))
    recipes = [one for one in POLLING if not bench.quick or one.name != "nfqueue polling"]
    with bench.rigs(part, recipes) as rigs:
        bench.narrate(f"64-byte ping-pong on all CPUs, {len(rigs)} ways in turns")
        spread = bench.take_turns(part, rigs, bench.rounds(7, 25), partial(ping, trips))
        bench.narrate(f"open loop, {OPEN_RATE} requests a second")
        ms = bench.rounds(400, 1000)
        opened = bench.take_turns(
            part,
            {name: rig for name, rig in rigs.items() if name in OPEN},
            bench.rounds(2, 5),
            partial(open_loop, ms=ms),
        )
    _judge(part, together, spread)
    asked = {name: [ns for one in turns if one for ns in one] for name, turns in opened.items()}
    part.facts["open_loop"] = {name: _tail(found) for name, found in asked.items() if found} | {
        "unit": "us",
        "rate": OPEN_RATE,
    }
    part.curves["cdf_us"] = {
        name: [ns / _US for ns in thinned(taken, CURVE_POINTS)]
        for name, turns in (spread | together).items()
        if (taken := [ns for one in turns if one for ns in one.all_ns])
    }
    return part


def _judge(
    part: Part, together: dict[str, list[Trips | None]], spread: dict[str, list[Trips | None]]
) -> None:
    for name, found in (("", together), ("all_cpus_", spread)):
        for which in ("both", "there", "back"):
            title = f"{name}{'round_trip' if which == 'both' else which}"
            part.series(title, series(found, attrgetter(which)), "us")
    one_cpu, all_cpus = (series(found, lambda one: one.both) for found in (together, spread))
    found_ratios = {
        "t1_input": _input_held(spread),
        "t1_both": compared(all_cpus, "prl native polling", "none"),
        "bare/none": compared(one_cpu, "bare", "none"),
        "nfqueue/none": compared(one_cpu, "nfqueue", "none"),
        "t2_copy": compared(one_cpu, "prl kernel", "nfqueue"),
        "t2_mirror": compared(one_cpu, "prl mirror", "nfqueue"),
    }
    found_ratios |= _to_others(one_cpu)
    found_ratios |= {f"all CPUs {name}": found for name, found in _to_others(all_cpus).items()}
    part.ratios(found_ratios)


def _input_held(ways: dict[str, list[Trips | None]]) -> list[float]:
    """Input alone is held on the way there; the way back is that of none."""
    if not {"prl native polling", "none"} <= ways.keys():
        return []
    there = series(ways, lambda one: one.there)["prl native polling"]
    back, both = (series(ways, attrgetter(which))["none"] for which in ("back", "both"))
    return ratios([one + other for one, other in zip(there, back, strict=True)], both)


def _to_others(ways: dict[str, list[float]]) -> dict[str, list[float]]:
    """Of each of prl's ways to what would be there instead."""
    return {
        f"{way}/{other}": compared(ways, way, other)
        for way in ways
        if way.startswith("prl")
        for other in ("none", f"nfqueue{' polling' * way.endswith('polling')}", "haproxy", "socat")
    }


def _tail(latencies_ns: list[int]) -> dict[str, float]:
    answered = [ns / _US for ns in latencies_ns if ns >= 0]
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(quantile(answered, share), 1) for name, share in shares.items()} | {
        "asked": len(latencies_ns),
        "answered": len(answered),
    }
