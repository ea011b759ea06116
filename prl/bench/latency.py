"""`prlctl bench latency` (T1, T2): what a held packet and a held answer cost a round trip."""

from dataclasses import dataclass, field
from functools import partial

from prl.bench.rig import Recipe, Rig, Way
from prl.bench.run import Bench, Part, ratio_facts, read_columns
from prl.bench.stats import quantile, ratios, summary, thinned

RECIPES = (
    Recipe("none", Way.NONE),
    Recipe("bare", Way.BARE),
    Recipe("nfqueue", Way.NFQUEUE),
    Recipe("nfqueue polling", Way.NFQUEUE, polling="adaptive"),
    Recipe("prl", Way.PRL),
    Recipe("prl polling", Way.PRL, polling="adaptive"),
)
OPEN = ("none", "nfqueue", "prl", "prl polling")
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


def open_loop(rig: Rig, ms: int, rate: int = OPEN_RATE, connections: int = 1) -> list[int]:
    """Ask at a fixed rate whatever the answers do; ns from when each was due (-1: never)."""
    path = rig.file("open")
    rig.client.ask(f"open {rate} {ms} {connections} {path}")
    return list(read_columns(path, "q", 2)[1])


def latency(bench: Bench) -> Part:
    """Ping-pong in turns, then an open loop in turns."""
    part = Part("latency")
    recipes = [one for one in RECIPES if not bench.quick or one.name != "nfqueue polling"]
    with bench.rigs(part, recipes) as rigs:
        bench.narrate(f"64-byte ping-pong, {len(rigs)} ways in turns")
        trips = bench.rounds(300, 1000)
        found = bench.take_turns(rigs, bench.rounds(7, 25), partial(ping, trips))
        bench.narrate(f"open loop, {OPEN_RATE} requests a second")
        ms = bench.rounds(400, 1000)
        opened = bench.take_turns(
            {name: rig for name, rig in rigs.items() if name in OPEN},
            bench.rounds(2, 5),
            partial(open_loop, ms=ms),
        )
    _judge(part, found)
    part.facts["open_loop"] = {
        name: _tail([one for turn in turns for one in turn]) for name, turns in opened.items()
    } | {"unit": "us", "rate": OPEN_RATE}
    part.curves["cdf_us"] = {
        name: [ns / _US for ns in thinned([ns for one in turns for ns in one.all_ns], CURVE_POINTS)]
        for name, turns in found.items()
    }
    return part


def _judge(part: Part, found: dict[str, list[Trips]]) -> None:
    both = {name: [one.both for one in turns] for name, turns in found.items()}
    part.series("round_trip", both, "us")
    part.series("there", {name: [one.there for one in t] for name, t in found.items()}, "us")
    part.series("back", {name: [one.back for one in t] for name, t in found.items()}, "us")
    none = found["none"]
    goal = [a + 2 * b for a, b in zip(both["none"], both["bare"], strict=True)]
    # Input alone is held on the way there; the way back is that of none.
    input_held = [
        one.there + plain.back for one, plain in zip(found["prl polling"], none, strict=True)
    ]
    found_ratios = {
        "t1_input": ratios(input_held, both["none"]),
        "t1_both": ratios(both["prl polling"], both["none"]),
        "t2_bare": ratios(both["prl"], goal),
        "prl/none": ratios(both["prl"], both["none"]),
        "bare/none": ratios(both["bare"], both["none"]),
    }
    if "nfqueue" in both:
        found_ratios["t2_nfqueue"] = ratios(both["prl"], both["nfqueue"])
        found_ratios["nfqueue/none"] = ratios(both["nfqueue"], both["none"])
    if "nfqueue polling" in both:
        found_ratios["polling prl/nfqueue"] = ratios(both["prl polling"], both["nfqueue polling"])
    part.facts["ratios"] = ratio_facts(found_ratios)
    for name, values in found_ratios.items():
        if name.startswith("t"):
            part.figures[name] = summary(values).median


def _tail(latencies_ns: list[int]) -> dict[str, float]:
    answered = [ns / _US for ns in latencies_ns if ns >= 0]
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(quantile(answered, share), 1) for name, share in shares.items()} | {
        "asked": len(latencies_ns),
        "answered": len(answered),
    }
