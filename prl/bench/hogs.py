"""`prlctl bench hogs` (T12f): a busy machine is no failure."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prl.bench.rig import NODES, Recipe, Way, events, newest
from prl.bench.run import Bench, Part, read_columns
from prl.bench.stats import quantile, significant

EACH = 16
"""Hogs a CPU."""
MANY, RATE = 1000, 1000
"""Sessions that chat, and what they ask a second, all of them together."""
_QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
_NS_PER_MS, _MS = 1e6, 1000.0
_PATIENCE_S = 120.0
"""Beyond the time that is measured: until the last answer has come through the hogs."""
_HOG = """
import time
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    pass
"""


def hogs(bench: Bench) -> Part:
    """Three pairs, default settings: many sessions that chat, an upload, a download; and hogs."""
    part = Part("hogs")
    ms = bench.rounds(20_000, 600_000)
    count = EACH * (os.cpu_count() or 1)
    recipes = [
        Recipe("chat", Way.PRL, mode="auto", connections=MANY),
        Recipe("upload", Way.PRL, mode="auto", role="sink"),
        Recipe("download", Way.PRL, mode="auto", role="source"),
    ]
    with bench.rigs(part, recipes) as rigs:
        if len(rigs) < len(recipes):
            return part
        path = rigs["chat"].file("open")
        orders = {
            "chat": f"open {RATE} {ms} {MANY} {path}",
            "upload": f"send {ms} 0",
            "download": f"take {ms}",
        }
        since = {name: {node: newest(rig, node) for node in NODES} for name, rig in rigs.items()}
        bench.narrate(f"{ms // 1000} s with {count} busy programs and {MANY} sessions that chat")
        with busy(count, ms / _MS + _PATIENCE_S):
            for name, line in orders.items():
                rigs[name].client.tell(line)
            found = {
                name: rigs[name].client.answer(ms / _MS + _PATIENCE_S, line)
                for name, line in orders.items()
            }
        told = [
            one["event"]
            for name, rig in rigs.items()
            for node in NODES
            for one in events(rig, node, since[name][node])
        ]
        raised = [
            rig.stats(node)["datapath"]["realtime_raised"]
            for rig in rigs.values()
            for node in NODES
        ]
    waits = [ns / _NS_PER_MS for ns in read_columns(path, "q", 2)[1] if ns >= 0]
    part.facts |= {
        "events": {name: told.count(name) for name in sorted({*told})},
        "requests": {name: found["chat"][name] for name in ("asked", "answered", "failed")},
        "wait": {"unit": "ms"}
        | {name: significant(quantile(waits, at)) for name, at in _QUANTILES.items()},
        "moved": {"unit": "GB"}
        | {name: significant(found[name]["bytes"] / 1e9) for name in ("upload", "download")},
        "datapaths_late": {"times": sum(raised)},
    }
    part.figures["t12f_takeovers"] = float(told.count("takeover"))
    return part


@contextmanager
def busy(count: int, seconds: float) -> Iterator[None]:
    """So many programs that want a CPU all the time; they end in time should nobody end them."""
    argv = [sys.executable, "-S", "-c", _HOG.format(seconds=seconds)]
    with ExitStack() as stack:
        for _ in range(count):
            hog = stack.enter_context(subprocess.Popen(argv))
            stack.callback(hog.kill)
        yield
