"""`prlctl bench protect` (T9): what protecting a live session costs it."""

from typing import Any

from prl.bench.latency import ping
from prl.bench.rig import PORT, Recipe, Rig, Way, events
from prl.bench.run import Bench, Part, read_columns
from prl.bench.stats import quantile, ratios, significant

MANY = 1000
_RATE, _MS = 1000, 250
_US = 1000.0


def protect(bench: Bench) -> Part:
    """Sessions with traffic, one after the other; then a thousand at once."""
    part = Part("protect")
    with bench.stage(part, "one after the other"):
        _one_by_one(bench, part)
    with bench.stage(part, f"{MANY} sessions"):
        _many(bench, part)
    return part


def _one_by_one(bench: Bench, part: Part) -> None:
    with (
        Rig(Recipe("bare", Way.BARE), bench.scratch) as plain,
        Rig(Recipe("prl", Way.PRL, connections=0), bench.scratch) as rig,
    ):
        rounds = bench.rounds(12, 40)
        bench.narrate(f"protecting {rounds} sessions, each under {_RATE} requests a second")
        bare: list[float] = []
        frozen: list[float] = []
        stalls: list[float] = []
        ping(200, plain)
        for _ in range(rounds):
            bare.append(ping(200, plain).both)
            one_frozen, one_stall = _protect_one(rig)
            frozen.append(one_frozen)
            stalls.append(one_stall)
    part.series("frozen", {"bare round trip": bare, "input frozen": frozen}, "us")
    part.series("stall", {"longest answer while protecting": stalls}, "us")
    part.ratios({"t9_trips": ratios(frozen, bare)})


def _many(bench: Bench, part: Part) -> None:
    with Rig(Recipe("prl", Way.PRL, connections=0), bench.scratch) as rig:
        bench.narrate(f"protecting {MANY} sessions")
        rig.connect(MANY)
        done = rig.protect(MANY)
        waits = [one["facts"]["frozen_us"] / _US for one in _active(rig)]
    part.facts["many"] = {
        "sessions": done["count"],
        "seconds": round(done["seconds"], 3),
        "frozen_ms_median": significant(quantile(waits, 0.5)),
        "frozen_ms_max": significant(max(waits)),
    }
    part.figures["t9_seconds"] = done["seconds"] * MANY / done["count"]


def _protect_one(rig: Rig) -> tuple[float, float]:
    """Protect a new session in the middle of its requests; frozen and longest answer, µs."""
    with rig.another("peer") as client:
        path = rig.file("protect")
        client.ask(f"connect {rig.address} {PORT} 1")
        client.tell(f"open {_RATE} {_MS} 1 {path}")
        rig.protect(1)
        client.answer(30.0, "open")
        latencies = read_columns(path, "q", 2)[1]
    return float(_active(rig)[-1]["facts"]["frozen_us"]), max(latencies) / _US


def _active(rig: Rig) -> list[dict[str, Any]]:
    return [one for one in events(rig, "re0") if one["event"] == "active"]
