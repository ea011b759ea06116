"""`prlctl bench latency` (T1, T2): what a held packet and a held answer cost a round trip."""

from dataclasses import dataclass, field
from functools import partial

from prl.bench.rig import ANSWER_TIMEOUT_S, Recipe, Rig, Way
from prl.bench.run import Bench, Part, on_one_cpu, ratio_facts, read_columns
from prl.bench.stats import quantile, ratios, summary, thinned

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
    Recipe("nfqueue polling", Way.NFQUEUE, polling="adaptive"),
    Recipe("prl native polling", Way.PRL, polling="adaptive", plain_link=True),
    Recipe("prl kernel polling", Way.PRL, mode="kernel", polling="adaptive", plain_link=True),
)
OPEN = ("none", "nfqueue", "prl native", "prl native polling")
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
        together = bench.take_turns(rigs, bench.rounds(7, 25), partial(ping, trips))
    recipes = [one for one in POLLING if not bench.quick or one.name != "nfqueue polling"]
    with bench.rigs(part, recipes) as rigs:
        bench.narrate(f"64-byte ping-pong on all CPUs, {len(rigs)} ways in turns")
        spread = bench.take_turns(rigs, bench.rounds(7, 25), partial(ping, trips))
        bench.narrate(f"open loop, {OPEN_RATE} requests a second")
        ms = bench.rounds(400, 1000)
        opened = bench.take_turns(
            {name: rig for name, rig in rigs.items() if name in OPEN},
            bench.rounds(2, 5),
            partial(open_loop, ms=ms),
        )
    _judge(part, together, spread)
    part.facts["open_loop"] = {
        name: _tail([one for turn in turns for one in turn]) for name, turns in opened.items()
    } | {"unit": "us", "rate": OPEN_RATE}
    part.curves["cdf_us"] = {
        name: [ns / _US for ns in thinned([ns for one in turns for ns in one.all_ns], CURVE_POINTS)]
        for name, turns in (spread | together).items()
    }
    return part


def _judge(part: Part, together: dict[str, list[Trips]], spread: dict[str, list[Trips]]) -> None:
    for name, found in (("", together), ("all_cpus_", spread)):
        for which in ("both", "there", "back"):
            series = {way: [getattr(one, which) for one in turns] for way, turns in found.items()}
            part.series(f"{name}{'round_trip' if which == 'both' else which}", series, "us")
    one_cpu = {name: [one.both for one in turns] for name, turns in together.items()}
    all_cpus = {name: [one.both for one in turns] for name, turns in spread.items()}
    # Input alone is held on the way there; the way back is that of none.
    input_held = [
        one.there + plain.back
        for one, plain in zip(spread["prl native polling"], spread["none"], strict=True)
    ]
    found_ratios = {
        "t1_input": ratios(input_held, all_cpus["none"]),
        "t1_both": ratios(all_cpus["prl native polling"], all_cpus["none"]),
        "bare/none": ratios(one_cpu["bare"], one_cpu["none"]),
    }
    if "nfqueue" in one_cpu:
        found_ratios["nfqueue/none"] = ratios(one_cpu["nfqueue"], one_cpu["none"])
        for figure, way in (("t2_copy", "prl kernel"), ("t2_mirror", "prl mirror")):
            if way in one_cpu:
                found_ratios[figure] = ratios(one_cpu[way], one_cpu["nfqueue"])
    found_ratios |= _to_others(one_cpu)
    found_ratios |= {f"all CPUs {name}": found for name, found in _to_others(all_cpus).items()}
    part.facts["ratios"] = ratio_facts(found_ratios)
    for name, values in found_ratios.items():
        if name.startswith("t"):
            part.figures[name] = summary(values).median


def _to_others(ways: dict[str, list[float]]) -> dict[str, list[float]]:
    """Of each of prl's ways to what would be there instead."""
    return {
        f"{way}/{other}": ratios(ways[way], ways[other])
        for way in ways
        if way.startswith("prl")
        for other in ("none", f"nfqueue{' polling' * way.endswith('polling')}", "haproxy", "socat")
        if other in ways
    }


def _tail(latencies_ns: list[int]) -> dict[str, float]:
    answered = [ns / _US for ns in latencies_ns if ns >= 0]
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(quantile(answered, share), 1) for name, share in shares.items()} | {
        "asked": len(latencies_ns),
        "answered": len(answered),
    }
