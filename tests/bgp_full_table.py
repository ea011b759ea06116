"""How a router of two nodes takes a full table; run as ``python -m tests.bgp_full_table [DAEMON]``.

A stock peer announces 1,000,000 prefixes, all with the same attributes; the daemon of our nodes,
``bird`` or ``frr``, stands behind fronts, and gives the kernel nothing (docs/bgp.md).
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prl.demo import fronted
from prl.demo.fronted import NODES, Front, RouterPair, Setting
from prl.demo.routers import many_routes
from prl.lab import Lab

COUNT, OURS, LATER = 1_000_000, 1000, 50
PATIENCE_S = 600.0


def main() -> None:
    """Measure, and say it."""
    daemon = sys.argv[1] if len(sys.argv) > 1 else "bird"
    fronted.STEP_TIMEOUT_S = PATIENCE_S
    theirs = many_routes(4, 0, COUNT)
    ours = many_routes(4, 1, COUNT)[:OURS]
    setting = Setting(daemon, "bird", 4, ours, theirs[:-LATER], theirs[-LATER:], forwards=False)
    folder = Path(tempfile.mkdtemp(prefix="bgp-full-"))
    lab = Lab("bgpfull")
    lab.up()
    pair = RouterPair(lab, folder, setting)
    try:
        _measure(lab, pair)
    finally:
        lab.down()
        pair.end()
        shutil.rmtree(folder)


def _measure(lab: Lab, pair: RouterPair) -> None:
    for node in NODES:
        pair.start_node(node)
    pair.peer.start()
    began = time.monotonic()
    for node in NODES:
        _await(pair, began, f"{node} is fed", lambda n=node: _fed(pair, n) >= COUNT - LATER)
    _await(pair, began, "re1 could go on", lambda: pair.is_ready("re0"))
    before = pair.peer.view()
    lab.fail("re0", "power")
    began = time.monotonic()
    pair.peer.announce_more()
    _await(pair, began, "re1 has told the difference", lambda: pair.goes_on("re1", COUNT))
    lab.heal("re0")
    began = time.monotonic()
    pair.start_node("re0")
    _await(pair, began, "re0, back, could go on", lambda: pair.is_ready("re1"))
    after = pair.peer.view()
    _say(f"same session: {after.is_as_old(before)}, said again: {after.updates - before.updates}")
    for node, front in pair.fronts.items():
        _say(f"{node}'s front: {_memory_mib(front)} MiB")


def _memory_mib(front: Front) -> int:
    assert front.process is not None
    lines = Path(f"/proc/{front.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) >> 10


def _fed(pair: RouterPair, node: str) -> int:
    (peer,) = pair.fronts[node].peers()
    found: dict[str, Any] = peer.get("in", {})
    return int(found.get("fed", 0))


def _await(pair: RouterPair, began: float, what: str, good: Callable[[], bool]) -> None:
    pair.wait(what, good)
    _say(f"{what}: after {time.monotonic() - began:.2f} s")


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
