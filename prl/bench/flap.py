"""`prlctl bench flap` (L10): the link goes and comes; how long sessions are unprotected then."""

import time
from collections.abc import Callable

from prl.bench.errors import BenchError
from prl.bench.rig import Recipe, Rig, Way, events
from prl.bench.run import Bench, Part
from prl.bench.stats import quantile, significant

MANY = 1000
_PATIENCE_S, _POLL_S = 30.0, 0.05
_NS_PER_MS = 1e6


def flap(bench: Bench) -> Part:
    """A thousand idle sessions; the link's cable is cut until all are unprotected, and mended."""
    part = Part("flap")
    back: list[float] = []
    datapath: list[float] = []
    kept = 0
    with Rig(Recipe("prl", Way.PRL, connections=0), bench.scratch) as rig:
        rig.connect(MANY)
        rig.protect(MANY)
        rounds = bench.rounds(3, 10)
        bench.narrate(f"{rounds} times cutting the link of {MANY} idle sessions")
        for _ in range(rounds):
            after = events(rig, "re0")[-1]["seq"]
            rig.lab.fail("re0", "cut-link")
            _await("all are unprotected", lambda: not _active(rig))
            rig.lab.heal("re0")
            _await("all are protected", lambda: _active(rig) == MANY)
            told = [one for one in events(rig, "re0") if one["seq"] > after]
            back.append(_back_ms(told))
            datapath.append(float(rig.link("re0")["resync_ms"]))
            kept += sum(one["event"] == "resumed" for one in told)
    series = {"last session protected": datapath, "and prld's clients know": back}
    part.series("back", series, "ms")
    part.facts["flap"] = {
        "sessions": MANY,
        "without_a_snapshot": kept / len(back),
        "ms_median": significant(quantile(datapath, 0.5)),
        "ms_max": significant(max(datapath)),
    }
    part.figures["flap_ms"] = quantile(datapath, 0.5)
    return part


def _active(rig: Rig) -> int:
    return int(rig.status("re0")["flows"]["active"])


def _back_ms(told: list[dict[str, object]]) -> float:
    """From the moment at which the nodes have agreed, as prld on the owner knows of either."""
    up = [one for one in told if one["event"] == "link_up"]
    protected = [one for one in told if one["event"] in {"resumed", "active"}]
    if not up or not protected:
        raise BenchError("the link did not come back")
    first, last = up[0]["monotonic_ns"], protected[-1]["monotonic_ns"]
    assert isinstance(first, int)
    assert isinstance(last, int)
    return (last - first) / _NS_PER_MS


def _await(what: str, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not check():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {_PATIENCE_S:.0f} s: {what}")
        time.sleep(_POLL_S)
