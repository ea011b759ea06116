"""`prlctl bench bulk` and `prlctl bench cpu` (T3, T4, T5): one stream as fast as it goes."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from prl.bench.attached import Attached
from prl.bench.errors import BenchError
from prl.bench.latency import ping
from prl.bench.rig import PORT, Recipe, Rig, Way
from prl.bench.run import Bench, Part, ratio_facts
from prl.bench.stats import ratios, significant, summary
from prl.bench.syscalls import SystemCalls

# NFQUEUE's copies cross in clear, and so do prl's here; what TLS costs, secrecy.py measures.
UPLOAD = (
    Recipe("none", Way.NONE, role="sink"),
    Recipe("xdp-pass native", Way.XDP_PASS, role="sink"),
    Recipe("xdp-pass generic", Way.XDP_PASS, role="sink", mode="generic"),
    Recipe("nfqueue", Way.NFQUEUE_INPUT, role="sink"),
    Recipe("nfqueue fed", Way.NFQUEUE_FED, role="sink"),
    Recipe("haproxy", Way.HAPROXY, role="sink"),
    Recipe("socat", Way.SOCAT, role="sink"),
    Recipe("prl native", Way.PRL, role="sink", plain_link=True),
    Recipe("prl generic", Way.PRL, role="sink", mode="generic", plain_link=True),
    Recipe("prl kernel", Way.PRL, role="sink", mode="kernel", plain_link=True),
    Recipe("prl mirror", Way.PRL, role="sink", mode="mirror", plain_link=True),
)
DOWNLOAD = (
    Recipe("none", Way.NONE, role="source"),
    Recipe("nfqueue", Way.NFQUEUE, role="source"),
    Recipe("haproxy", Way.HAPROXY, role="source"),
    Recipe("socat", Way.SOCAT, role="source"),
    Recipe("prl native", Way.PRL, role="source", plain_link=True),
    Recipe("prl generic", Way.PRL, role="source", mode="generic", plain_link=True),
    Recipe("prl kernel", Way.PRL, role="source", mode="kernel", plain_link=True),
)
_COUNTED = ("wakeups", "reinject_writes", "link_writes", "rx_packets")


@dataclass(frozen=True, slots=True)
class Burst:
    """One round of one way."""

    gbit_s: float
    cpu_s_per_gb: float


def upload(ms: int, rig: Rig) -> Burst:
    """Send for so long, to the last acknowledgement."""
    before_ns = rig.cpu_ns()
    found = rig.client.ask(f"send {ms} 0")
    return _burst(found, rig.cpu_ns() - before_ns)


def download(ms: int, rig: Rig) -> Burst:
    """Read for so long what the server writes."""
    before_ns = rig.cpu_ns()
    found = rig.client.ask(f"take {ms}")
    return _burst(found, rig.cpu_ns() - before_ns)


def _burst(found: dict[str, Any], cpu_ns: int) -> Burst:
    return Burst(found["bytes"] * 8 / found["ns"], cpu_ns / max(found["bytes"], 1))


def bulk(bench: Bench) -> Part:
    """Both directions; the goals are about the upload, whose packets are captured by XDP."""
    part = Part("bulk")
    _upload(bench, part, UPLOAD)
    _native(bench, part)
    with bench.rigs(part, DOWNLOAD) as rigs:
        bench.narrate("bulk, server to peer")
        found = bench.take_turns(
            rigs, bench.rounds(3, 10), partial(download, bench.rounds(250, 500))
        )
    part.series("download", {n: [one.gbit_s for one in t] for n, t in found.items()}, "Gbit/s")
    part.series(
        "download_cpu", {n: [one.cpu_s_per_gb for one in t] for n, t in found.items()}, "s/GB"
    )
    return part


def _native(bench: Bench, part: Part) -> None:
    """T3 in one lab: a session that is replicated, and one that is not with XDP_PASS in place.

    Two labs with the same programs differ by about as much as what is looked for.
    """
    with bench.rigs(
        part, [Recipe("native, one lab", Way.PRL, role="sink", looks=False, plain_link=True)]
    ) as rigs:
        for rig in rigs.values():
            with rig.another("peer") as plain, Attached(rig) as attached:
                plain.ask(f"connect {rig.address} {PORT} 1")

                def send(replicated: bool, rig: Rig = rig) -> float:
                    attached.put(pass_alone=not replicated)
                    found = (rig.client if replicated else plain).ask("send 250 0")
                    return _burst(found, 0).gbit_s

                bench.narrate("bulk, peer to server, native XDP and XDP_PASS in one lab")
                ways = {"xdp-pass": False, "prl": True}
                speed = bench.take_turns(ways, bench.rounds(20, 60), send)
            part.series("native_in_one_lab", speed, "Gbit/s")
            found = ratios(speed["prl"], speed["xdp-pass"])
            part.facts["ratios"] |= ratio_facts({"t3_pass": found})
            part.figures["t3_pass"] = summary(found).median


def cpu(bench: Bench) -> Part:
    """What a gigabyte costs, and where: an upload alone."""
    part = Part("cpu")
    wanted = {"none", "nfqueue", "nfqueue fed", "haproxy", "socat"}
    wanted |= {"prl native", "prl generic", "prl kernel", "prl mirror"}
    _upload(bench, part, [one for one in UPLOAD if one.name in wanted])
    with bench.rigs(part, [Recipe("prl", Way.PRL)]) as rigs:
        bench.narrate("wake-ups and system calls of a round trip")
        part.facts["wakeups"] = wakeups(rigs["prl"], bench.rounds(500, 3000))
        try:
            part.facts["system_calls"] = _system_calls(bench, rigs["prl"])
        except BenchError as error:
            part.notes.append(str(error))
    return part


def wakeups(rig: Rig, trips: int) -> dict[str, float]:
    """Of the datapath on each node, for each 64-byte round trip.

    The owner needs four, for the request, its acknowledgement by the standby, the answer and its;
    the standby two.
    """
    ping(trips, rig)
    before = {node: rig.stats(node)["datapath"]["wakeups"] for node in ("re0", "re1")}
    ping(trips, rig)
    return {
        node: significant((rig.stats(node)["datapath"]["wakeups"] - count) / trips, 3)
        for node, count in before.items()
    }


def _system_calls(bench: Bench, rig: Rig) -> dict[str, dict[str, float]]:
    """Of the datapaths' threads, for each 64-byte round trip, by name."""
    trips, found = bench.rounds(500, 3000), {}
    for node in ("re0", "re1"):
        ping(trips, rig)
        with SystemCalls(rig.prld_pid(node)) as calls:
            ping(trips, rig)
        counts = {name: significant(n / trips, 3) for name, n in calls.of_datapath().items()}
        found[node] = {"all": significant(sum(counts.values()), 3)} | counts
    return found


def _upload(bench: Bench, part: Part, recipes: Any) -> None:
    with bench.rigs(part, recipes) as rigs:
        bench.narrate(f"bulk, peer to server, {len(rigs)} ways in turns")
        found = bench.take_turns(rigs, bench.rounds(5, 15), partial(upload, bench.rounds(300, 500)))
        part.facts["per_packet"] = {
            name: {node: _counts(rig, node) for node in ("re0", "re1")}
            for name, rig in rigs.items()
            if rig.recipe.way is Way.PRL
        }
    speed = {name: [one.gbit_s for one in turns] for name, turns in found.items()}
    price = {name: [one.cpu_s_per_gb for one in turns] for name, turns in found.items()}
    part.series("upload", speed, "Gbit/s")
    part.series("cpu", price, "s/GB")
    found_ratios = {
        f"{name}/none": ratios(speed[name], speed["none"]) for name in speed if name != "none"
    }
    if "xdp-pass native" in speed:
        found_ratios["prl native/xdp-pass native"] = ratios(
            speed["prl native"], speed["xdp-pass native"]
        )
    for way in ("prl mirror", "prl kernel", "prl generic"):
        others = ("prl kernel",) if way == "prl mirror" else ()
        for other in (*others, "prl generic", "nfqueue", "nfqueue fed", "haproxy", "socat"):
            if way != other and {way, other} <= speed.keys():
                found_ratios[f"{way}/{other}"] = ratios(speed[way], speed[other])
                found_ratios[f"cpu {way}/{other}"] = ratios(price[way], price[other])
    whole = "prl kernel" if "prl kernel" in speed else "prl generic"  # what `auto` chooses
    if "nfqueue" in speed:
        found_ratios["cpu prl native/nfqueue"] = ratios(price["prl native"], price["nfqueue"])
    if "nfqueue fed" in speed:
        found_ratios["t4_fed"] = ratios(speed[whole], speed["nfqueue fed"])
        found_ratios["t5_fed"] = ratios(price[whole], price["nfqueue fed"])
    if {"nfqueue fed", "prl mirror"} <= speed.keys():
        found_ratios["t4_mirror_none"] = ratios(speed["prl mirror"], speed["none"])
        found_ratios["t4_mirror_fed"] = ratios(speed["prl mirror"], speed["nfqueue fed"])
        found_ratios["t5_mirror_fed"] = ratios(price["prl mirror"], price["nfqueue fed"])
    part.facts["ratios"] = ratio_facts(found_ratios)
    for name, values in found_ratios.items():
        if name.startswith("t"):
            part.figures[name] = summary(values).median
    part.curves["bars_gbit_s"] = {name: summary(values).median for name, values in speed.items()}


def _counts(rig: Rig, node: str) -> dict[str, float]:
    """Counts per packet that was reinjected on the node, over all that was sent so far."""
    counters = rig.stats(node)["datapath"]
    packets = max(counters["reinjected_packets"], 1)
    found = {name: significant(counters[name] / packets) for name in _COUNTED if name in counters}
    return found | {"packets": packets, "bytes_per_packet": counters["reinjected_bytes"] // packets}
