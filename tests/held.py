"""``python -m tests.held``: as many sessions as are asked for, idle, each of which answers twice.

Before and after the power of their owner's host is cut, every single one is asked for something.
What an idle one takes in memory on each node is printed, too, as are the limits that were hit. The
host must allow a process more descriptors than there are sessions: a guest does
(docs/kernels.md).
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from prl.bench.latency import open_loop
from prl.bench.rig import Recipe, Rig, Way, events
from prl.bench.sessions import measure_memory, memory_each
from prl.errors import PrlError

STEP = 100
BESIDES = 2_000
"""Descriptors that a program has besides two for each session."""
RATE = 200
"""Requests a second: an emulated CPU answers a few hundred."""
IDLE_S, TAKEN_S = 600.0, 1800.0
POLL_S = 0.5


def main() -> int:
    """Hold, ask, fail, ask; the exit status tells whether all have answered twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.held", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=RATE, help="requests a second")
    parser.add_argument("--seconds", type=float, default=15_000, help="stop adding then")
    asked = parser.parse_args()
    wanted = 2 * asked.count + BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        sys.stderr.write(f"a process has {hard} descriptors here; {wanted} are needed\n")
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    recipe = Recipe("held", Way.PRL, connections=0, flows_max=asked.count)
    with tempfile.TemporaryDirectory() as folder, Rig(recipe, Path(folder)) as rig:
        found = hold(rig, asked.count, asked.seconds)
        found |= {"before": ask_all(rig, found["held"], asked.rate)}
        rig.lab.fail("re0", "power")
        found |= {"after": ask_all(rig, found["held"], asked.rate), "taken": await_taken(rig)}
        found["events"] = [one["text"] for one in events(rig, "re1") if one["level"] == "error"][:5]
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    whole = {"asked": found["held"], "answered": found["held"]}
    return 0 if found["before"] == found["after"] == whole and not found["limit"] else 1


def hold(rig: Rig, count: int, seconds: float) -> dict[str, Any]:
    """Protect so many, or as many as go in that time, and wait until they are idle."""
    began_s, held, limit = time.monotonic(), 0, ""
    before = measure_memory(rig)
    while held < count and not limit:
        if time.monotonic() - began_s > seconds:
            limit = f"stopped after {seconds:.0f} s"
            break
        try:
            rig.connect(STEP)
            step = rig.protect(STEP, partly=True)
        except PrlError as error:
            limit = str(error)
            break
        held += int(step["count"])
        if step["failed"]:
            limit = f"{step['failed']} of {STEP}: {step['reasons'][0]}"
        if held % 1000 < STEP:
            sys.stdout.write(f"{held} held after {time.monotonic() - began_s:.0f} s\n")
            sys.stdout.flush()
    settled = await_objects(rig, ("re0", "re1"), IDLE_S)
    return {
        "held": held,
        "limit": limit,
        "idle": settled,
        "bytes_each": memory_each(rig, before, measure_memory(rig), held),
        "objects": {name: _objects(rig, name) for name in ("re0", "re1")},
    }


def ask_all(rig: Rig, held: int, rate: int) -> dict[str, int]:
    """One request of each."""
    if not held:
        return {"asked": 0, "answered": 0}
    latencies = open_loop(rig, held * 1000 // rate, rate, held, patience_s=4 * held / rate + 600)
    return {"asked": len(latencies), "answered": sum(ns >= 0 for ns in latencies)}


def await_taken(rig: Rig) -> bool:
    """Whether prld has told of all sessions that were taken over."""
    end_s = time.monotonic() + TAKEN_S
    while time.monotonic() < end_s:
        if not sum(_objects(rig, "re1")["shadows"].values()):
            return True
        time.sleep(POLL_S)
    return False


def await_objects(rig: Rig, nodes: tuple[str, ...], patience_s: float) -> bool:
    """Whether no session has an object on these nodes within that time."""
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        if not any(kind["in_hand"] for name in nodes for kind in _objects(rig, name).values()):
            return True
        time.sleep(POLL_S)
    return False


def _objects(rig: Rig, name: str) -> dict[str, dict[str, int]]:
    stats = rig.stats(name)
    return {kind: stats[kind] for kind in ("sessions", "shadows")}


if __name__ == "__main__":
    sys.exit(main())
