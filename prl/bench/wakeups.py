"""How often a round trip wakes the datapaths, and what they ask of the kernel for it.

Counts, which no other load on the machine disturbs, unlike a time.
"""

from prl.bench.errors import BenchError
from prl.bench.latency import ping
from prl.bench.rig import NODES, Recipe, Rig, Way
from prl.bench.run import Bench, Part
from prl.bench.stats import significant
from prl.bench.syscalls import SystemCalls

WAYS = (
    Recipe("prl native", Way.PRL),
    Recipe("prl kernel", Way.PRL, mode="kernel"),
    Recipe("prl mirror", Way.PRL, mode="mirror"),
)


def count_round_trips(bench: Bench, part: Part) -> None:
    """Of each carrier, one lab after the other."""
    bench.narrate("wake-ups and system calls of a round trip")
    woken, called = {}, {}
    for recipe in WAYS:
        with bench.rigs(part, [recipe]) as rigs:
            for name, rig in rigs.items():
                woken[name] = wakeups(rig, bench.rounds(500, 3000))
                try:
                    called[name] = _system_calls(rig, bench.rounds(500, 3000))
                except BenchError as error:
                    part.lacks(f"{name}, system calls", error)
    part.facts["wakeups"], part.facts["system_calls"] = woken, called


def wakeups(rig: Rig, trips: int) -> dict[str, float]:
    """Of the datapath on each node, for each 64-byte round trip.

    The owner needs four, for the request, its acknowledgement by the standby, the answer and its;
    the standby two.
    """
    ping(trips, rig)
    before = {node: rig.stats(node)["datapath"]["wakeups"] for node in NODES}
    ping(trips, rig)
    return {
        node: significant((rig.stats(node)["datapath"]["wakeups"] - count) / trips, 3)
        for node, count in before.items()
    }


def _system_calls(rig: Rig, trips: int) -> dict[str, dict[str, float]]:
    """Of the datapaths' threads, for each 64-byte round trip, by name."""
    found = {}
    for node in NODES:
        ping(trips, rig)
        with SystemCalls(rig.prld_pid(node)) as calls:
            ping(trips, rig)
        counts = {name: significant(n / trips, 3) for name, n in calls.of_datapath().items()}
        found[node] = {"all": significant(sum(counts.values()), 3)} | counts
    return found
