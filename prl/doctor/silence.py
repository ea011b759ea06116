"""Whether prl's programs can be first in line on what leaves, on every interface (SPEC I4)."""

from collections.abc import Iterator
from typing import Final

from prl.config import Config
from prl.doctor import host
from prl.doctor.finding import Finding, Verdict, judge
from prl.kernel.features import in_btf

_TCX: Final = b"\0bpf_mprog_bundle\0"
"""Its structure, include/linux/bpf_mprog.h."""
_FIRST: Final = 1
"""The priority that prl takes where there is clsact alone."""


def examine(config: Config | None) -> Iterator[Finding]:
    """Programs of others, and routes that lead past prl's."""
    yield _place()
    if config is not None:
        yield _ways(config)


def _place() -> Finding:
    """Before Linux 6.6 one priority is the first, and belongs to one kind of filter."""
    title = "first in line on what leaves"
    if in_btf(_TCX):
        return Finding(title, Verdict.OK, "by tcx, before all tc filters")
    taken = {
        name: str(found["kind"])
        for name in host.interfaces()
        for found in host.ask("tc", "-j", "filter", "show", "dev", name, "egress")
        if found.get("pref") == _FIRST and found.get("kind") != "bpf"
    }
    return judge(
        title,
        not taken,
        ", ".join(f"{name} has a filter of kind {kind}" for name, kind in taken.items())
        + f" at priority {_FIRST}"
        if taken
        else f"by tc filters of priority {_FIRST}",
        f"prld does not start: what it sends there could not be kept silent; give that filter a "
        f"priority above {_FIRST}, or take it away",
        paste=" && ".join(f"tc filter del dev {name} egress pref {_FIRST}" for name in taken),
    )


def _ways(config: Config) -> Finding:
    """Neighbours on the LAN whose packets would leave elsewhere."""
    lan = config.lan.interface
    detours: dict[str, str] = {}
    for entry in host.ask("ip", "-4", "-j", "neigh", "show", "dev", lan):
        for route in host.ask("ip", "-4", "-j", "route", "get", entry["dst"]):
            if (device := route.get("dev", lan)) not in {lan, "lo"}:
                detours[entry["dst"]] = device
    return judge(
        "routes to the LAN's neighbours",
        not detours,
        ", ".join(f"that to {target} leaves by {name}" for target, name in detours.items())
        if detours
        else f"by {lan}",
        "sessions with them cannot be protected here: prl's programs are not on their way",
        paste=" && ".join(f"ip route replace {target}/32 dev {lan}" for target in detours),
        otherwise=Verdict.WARNING,
    )
