"""`prlctl bench secrecy` (T4s): what the link's TLS costs, against the same link in clear."""

from functools import partial

from prl.bench.bulk import upload
from prl.bench.latency import ping
from prl.bench.rig import Recipe, Way
from prl.bench.run import Bench, Part, on_one_cpu, ratio_facts
from prl.bench.stats import ratios, summary

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
        found = bench.take_turns(rigs, bench.rounds(7, 25), partial(upload, bench.rounds(300, 500)))
    speed = {name: [one.gbit_s for one in turns] for name, turns in found.items()}
    price = {name: [one.cpu_s_per_gb for one in turns] for name, turns in found.items()}
    part.series("upload", speed, "Gbit/s")
    part.series("cpu", price, "s/GB")
    with on_one_cpu(), bench.rigs(part, TRIPS) as rigs:
        bench.narrate("64-byte ping-pong on one CPU, with TLS on the link and without")
        trips = bench.take_turns(rigs, bench.rounds(7, 25), partial(ping, bench.rounds(300, 1000)))
    both = {name: [one.both for one in turns] for name, turns in trips.items()}
    part.series("round_trip", both, "us")
    found_ratios = {
        "t4s_tls": ratios(speed["tls"], speed["plain"]),
        "cpu tls/plain": ratios(price["tls"], price["plain"]),
        "round trip tls/plain": ratios(both["tls"], both["plain"]),
    }
    part.facts["ratios"] = ratio_facts(found_ratios)
    part.figures["t4s_tls"] = summary(found_ratios["t4s_tls"]).median
    return part
