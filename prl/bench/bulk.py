"""`prlctl bench bulk` and `prlctl bench cpu` (T3, T4, T5): one stream as fast as it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prl.bench.attached import Attached
from prl.bench.rig import NODES, PORT, Recipe, Rig, Way
from prl.bench.run import Bench, Part
from prl.bench.stats import compared, counted, series, significant, summary
from prl.bench.wakeups import count_round_trips

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
    with bench.stage(part, "native, one lab"):
        _native(bench, part)
    with bench.rigs(part, DOWNLOAD) as rigs:
        bench.narrate("bulk, server to peer")
        ms = bench.rounds(250, 500)
        found = bench.take_turns(part, rigs, bench.rounds(3, 10), partial(download, ms))
    part.series("download", series(found, _gbit_s), "Gbit/s")
    part.series("download_cpu", series(found, _cpu_s_per_gb), "s/GB")
    count_round_trips(bench, part)
    return part


def _native(bench: Bench, part: Part) -> None:
    """T3 in one lab: a session that is replicated, and one that is not with XDP_PASS in place.

    Two labs with the same programs differ by about as much as what is looked for.
    """
    recipe = Recipe("native, one lab", Way.PRL, role="sink", looks=False, plain_link=True)
    with (
        Rig(recipe, bench.scratch) as rig,
        rig.another("peer") as plain,
        Attached(rig) as attached,
    ):
        plain.ask(f"connect {rig.address} {PORT} 1")

        def send(replicated: bool) -> float:
            attached.put(pass_alone=not replicated)
            found = (rig.client if replicated else plain).ask("send 250 0")
            return _burst(found, 0).gbit_s

        bench.narrate("bulk, peer to server, native XDP and XDP_PASS in one lab")
        ways = {"xdp-pass": False, "prl": True}
        found = bench.alternate(part, ways, dict.fromkeys(ways, rig), bench.rounds(20, 60), send)
    speed = series(found, float)
    part.series("native_in_one_lab", speed, "Gbit/s")
    part.ratios({"t3_pass": compared(speed, "prl", "xdp-pass")})


def cpu(bench: Bench) -> Part:
    """What a gigabyte costs, and where: an upload alone."""
    part = Part("cpu")
    wanted = {"none", "nfqueue", "nfqueue fed", "haproxy", "socat"}
    wanted |= {"prl native", "prl generic", "prl kernel", "prl mirror"}
    _upload(bench, part, [one for one in UPLOAD if one.name in wanted])
    count_round_trips(bench, part)
    return part


def _upload(bench: Bench, part: Part, recipes: Sequence[Recipe]) -> None:
    with bench.rigs(part, recipes) as rigs:
        bench.narrate(f"bulk, peer to server, {len(rigs)} ways in turns")
        ms = bench.rounds(300, 500)
        found = bench.take_turns(part, rigs, bench.rounds(5, 15), partial(upload, ms))
        counts = part.facts["per_packet"] = {}
        for name, rig in rigs.items():
            if rig.recipe.way is Way.PRL:
                with bench.stage(part, f"{name}, per packet"):
                    counts[name] = {node: _counts(rig, node) for node in NODES}
    speed, price = series(found, _gbit_s), series(found, _cpu_s_per_gb)
    part.series("upload", speed, "Gbit/s")
    part.series("cpu", price, "s/GB")
    found_ratios = {
        f"{name}/none": compared(speed, name, "none") for name in speed if name != "none"
    }
    found_ratios["prl native/xdp-pass native"] = compared(speed, "prl native", "xdp-pass native")
    found_ratios["cpu prl native/nfqueue"] = compared(price, "prl native", "nfqueue")
    for way in ("prl mirror", "prl kernel", "prl generic"):
        others = ("prl kernel",) if way == "prl mirror" else ()
        for other in (*others, "prl generic", "nfqueue", "nfqueue fed", "haproxy", "socat"):
            if way != other:
                found_ratios[f"{way}/{other}"] = compared(speed, way, other)
                found_ratios[f"cpu {way}/{other}"] = compared(price, way, other)
    whole = "prl kernel" if "prl kernel" in speed else "prl generic"  # what `auto` chooses
    found_ratios |= {
        "t4_fed": compared(speed, whole, "nfqueue fed"),
        "t5_fed": compared(price, whole, "nfqueue fed"),
        "t4_mirror_none": compared(speed, "prl mirror", "none"),
        "t4_mirror_fed": compared(speed, "prl mirror", "nfqueue fed"),
        "t5_mirror_fed": compared(price, "prl mirror", "nfqueue fed"),
    }
    part.ratios(found_ratios)
    part.curves["bars_gbit_s"] = {
        name: summary(values).median for name, values in speed.items() if counted(values)
    }


def _gbit_s(burst: Burst) -> float:
    return burst.gbit_s


def _cpu_s_per_gb(burst: Burst) -> float:
    return burst.cpu_s_per_gb


def _counts(rig: Rig, node: str) -> dict[str, float]:
    """Counts per packet that was reinjected on the node, over all that was sent so far."""
    counters = rig.stats(node)["datapath"]
    packets = max(counters["reinjected_packets"], 1)
    found = {name: significant(counters[name] / packets) for name in _COUNTED if name in counters}
    return found | {"packets": packets, "bytes_per_packet": counters["reinjected_bytes"] // packets}
