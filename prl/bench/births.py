"""`prlctl bench births` (T9b): what waiting to be protected costs a new connection."""

from prl.bench.rig import PORT, Recipe, Rig, Way
from prl.bench.run import Bench, Part, read_columns
from prl.bench.stats import quantile

BIRTH_MS = 1_000
"""Long enough that none goes on unprotected here."""
_AT_A_TIME = 10
_US = 1000.0


def births(bench: Bench) -> Part:
    """From connect() to the answer to a request that is sent at once, one after the other.

    none: an ordinary server. later: protected once it is accepted, the request acknowledged before.
    born: it waits for that from its handshake on. Both answer once it is protected.
    """
    part = Part("births")
    recipes = [
        Recipe("none", Way.NONE, connections=0),
        Recipe("later", Way.PRL, connections=0, at_once=True),
        Recipe("born", Way.PRL, connections=0, at_once=True, birth_ms=BIRTH_MS),
    ]
    with bench.rigs(part, recipes) as rigs:
        rounds = bench.rounds(10, 100)
        bench.narrate(f"{rounds * _AT_A_TIME} connections each way, {_AT_A_TIME} by turns")
        turns = bench.take_turns(part, rigs, rounds, _first)
    took = {
        name: [us for turn in found if turn is not None for us in turn]
        for name, found in turns.items()
    }
    took = {name: found for name, found in took.items() if found}
    part.series("connect to first answer", took, "us")
    part.facts["slowest"] = {"unit": "us"} | {
        name: {"p99": quantile(one, 0.99), "max": max(one)} for name, one in took.items()
    }
    if "none" in took and "born" in took:
        part.figures["t9b_median"] = quantile(took["born"], 0.5) / quantile(took["none"], 0.5)
        part.figures["t9b_p99"] = quantile(took["born"], 0.99) / quantile(took["none"], 0.99)
    return part


def _first(rig: Rig) -> list[float]:
    path = rig.file("first")
    rig.client.ask(f"first {rig.address} {PORT} {_AT_A_TIME} {path}")
    (column,) = read_columns(path, "q", 1)
    return [ns / _US for ns in column]
