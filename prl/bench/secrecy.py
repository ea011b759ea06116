"""`prlctl bench secrecy` (T4s): what the link's TLS costs, against the same link in clear."""

from functools import partial

from prl.bench.bulk import upload
from prl.bench.latency import ping
from prl.bench.rig import Recipe, Way
from prl.bench.run import Bench, Part, on_one_cpu
from prl.bench.stats import compared, series

BULK = (
    Recipe("plain", Way.PRL, role="sink", mode="kernel", plain_link=True),
    Recipe("tls", Way.PRL, role="sink", mode="kernel"),
)
TRIPS = (Recipe("plain", Way.PRL, plain_link=True), Recipe("tls", Way.PRL))


def secrecy(bench: Bench) -> Part:
    """An upload whose packets are whole, and round trips on one CPU, with and without, in turns."""
    part = Part("secrecy")
    with bench.rigs(part, BULK) as rigs:
        bench.narrate("bulk, peer to server, with TLS on the link and without")
        ms = bench.rounds(300, 500)
        found = bench.take_turns(part, rigs, bench.rounds(7, 25), partial(upload, ms))
    speed, price = (
        series(found, lambda one: one.gbit_s),
        series(found, lambda one: one.cpu_s_per_gb),
    )
    part.series("upload", speed, "Gbit/s")
    part.series("cpu", price, "s/GB")
    with on_one_cpu(), bench.rigs(part, TRIPS) as rigs:
        bench.narrate("64-byte ping-pong on one CPU, with TLS on the link and without")
        count = bench.rounds(300, 1000)
        trips = bench.take_turns(part, rigs, bench.rounds(7, 25), partial(ping, count))
    both = series(trips, lambda one: one.both)
    part.series("round_trip", both, "us")
    part.ratios(
        {
            "t4s_tls": compared(speed, "tls", "plain"),
            "cpu tls/plain": compared(price, "tls", "plain"),
            "round trip tls/plain": compared(both, "tls", "plain"),
        }
    )
    return part
