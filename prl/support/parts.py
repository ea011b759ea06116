"""What is collected: one table of names in the bundle and the programs that say it."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prl.config import FRONT_PATH

UNIT: Final = "prld.service"
FRONT_UNIT: Final = "prl-bgp.service"
JOURNAL_LINES: Final = "5000"
KERNEL_LINES: Final = "500"
FLOWS_SHOWN_MAX: Final = 16
"""Flows of which everything is told; those that are not protected come first."""
INTERFACES_MAX: Final = 32
"""Interfaces whose tc programs are listed."""
_OURS: Final = "prl_"
"""In front of the names of all programs and maps of prl's (bpf/)."""
_UNIT_FACTS: Final = (
    "LoadState,ActiveState,SubState,Result,ExecMainStatus,ExecMainStartTimestamp,NRestarts,"
    "MemoryCurrent,CPUUsageNSec,TasksCurrent,FragmentPath,DropInPaths"
)
_CLOCK: Final = "/sys/devices/system/clocksource/clocksource0"
_PACKAGES: Final = (
    "import importlib.metadata as m; "
    "print(*sorted(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
)
_SYSCTLS: Final = (
    r"^(net\.(core|ipv4|ipv6|netfilter)|kernel\.(sched|unprivileged_bpf)|vm\.overcommit)"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the bundle."""

    name: str
    argv: tuple[str, ...]
    select: Callable[[bytes], bytes] | None = None
    """What of the output is wanted."""
    asks_prld: bool = False
    """It waits for prld, which may hang."""


def of_prld(socket: Path) -> Iterator[Part]:
    """What prld says of itself."""
    for name, words in {
        "status": ["status"],
        "stats": ["stats"],
        "link": ["link", "show"],
        "events": ["events"],
        "flows": ["flow", "list"],
    }.items():
        yield Part(f"prld/{name}.json", _prlctl(socket, *words), asks_prld=True)


def of_flows(socket: Path, flows: bytes) -> Iterator[Part]:
    """All of the first flows in what ``flow list`` said."""
    try:
        handles = [int(one["handle"]) for one in json.loads(flows)["flows"]]
    except (ValueError, KeyError, TypeError):
        return
    for handle in handles[:FLOWS_SHOWN_MAX]:
        argv = _prlctl(socket, "flow", "show", str(handle))
        yield Part(f"prld/flow-{handle:#x}.json", argv, asks_prld=True)


def of_host(
    config: Path, interfaces: list[str], config_of_front: Path = FRONT_PATH
) -> Iterator[Part]:
    """What the kernel and the host's programs say, prl-bgp among them where it is configured."""
    doctor = [*_prlctl(None, "doctor"), *(["--config", str(config)] if config.exists() else [])]
    yield Part("doctor.json", tuple(doctor))
    yield Part("versions/prl.txt", _prlctl(None, "--version"))
    yield Part("versions/python.txt", (sys.executable, "-P", "-c", _PACKAGES))
    yield Part(
        "versions/package.txt", ("dpkg-query", "-W", "prl", "keepalived", "pacemaker", "iproute2")
    )
    yield Part("versions/kernel.txt", ("uname", "-a"))
    yield Part("versions/system.txt", ("cat", "/etc/os-release"))
    yield Part("host/memory.txt", ("cat", "/proc/meminfo"))
    yield Part("host/load.txt", ("cat", "/proc/loadavg", "/proc/pressure/cpu"))
    yield Part("host/clock.txt", ("cat", f"{_CLOCK}/current_clocksource"))
    yield Part("host/sysctl.txt", ("sysctl", "-a", "-r", _SYSCTLS))
    yield Part("bpf/programs.json", ("bpftool", "-j", "prog", "show"), _only_ours)
    yield Part("bpf/maps.json", ("bpftool", "-j", "map", "show"), _only_ours)
    yield Part("bpf/attached.json", ("bpftool", "-j", "net", "show"))
    yield Part("net/link.txt", ("ip", "-d", "-s", "link", "show"))
    yield Part("net/address.txt", ("ip", "address", "show"))
    yield Part("net/rule.txt", ("ip", "rule", "show"))
    yield Part("net/rule6.txt", ("ip", "-6", "rule", "show"))
    yield Part("net/route.txt", ("ip", "route", "show", "table", "all"))
    yield Part("net/route6.txt", ("ip", "-6", "route", "show", "table", "all"))
    yield Part("net/neighbour.txt", ("ip", "neighbour", "show"))
    yield Part("net/qdisc.txt", ("tc", "-s", "qdisc", "show"))
    for name in interfaces[:INTERFACES_MAX]:
        for side in ("ingress", "egress"):
            yield Part(
                f"net/filter-{name}-{side}.txt", ("tc", "-s", "filter", "show", "dev", name, side)
            )
    # Without -i: that would show the keys of signed sessions.
    yield Part("net/sockets.txt", ("ss", "-H", "-t", "-u", "-n", "-a", "-o", "-e", "-m"))
    yield Part(
        "net/counters.txt", ("cat", "/proc/net/netstat", "/proc/net/snmp", "/proc/net/softnet_stat")
    )
    yield Part("firewall/nftables.txt", ("nft", "list", "ruleset"))
    yield Part("firewall/iptables.txt", ("iptables-save", "-c"))
    yield Part("firewall/ip6tables.txt", ("ip6tables-save", "-c"))
    yield Part("log/unit.txt", ("systemctl", "show", UNIT, f"--property={_UNIT_FACTS}"))
    journal = ("journalctl", "--no-pager", "--quiet")
    yield Part(
        "log/prld.txt", (*journal, "-u", UNIT, "-n", JOURNAL_LINES, "-o", "short-iso-precise")
    )
    if config_of_front.exists():
        yield Part("front/status.json", _prlctl(None, "bgp", "status"))
        yield Part("front/bgp.toml", ("cat", str(config_of_front)))  # names files with keys, no key
        unit = ("systemctl", "show", FRONT_UNIT, f"--property={_UNIT_FACTS}")
        yield Part("front/unit.txt", unit)
        yield Part("front/log.txt", (*journal, "-u", FRONT_UNIT, "-n", JOURNAL_LINES))
    about = "--grep=prl|bpf|xdp|TCP:|link (up|down)|Out of memory"
    yield Part("log/kernel.txt", (*journal, "-k", "-n", KERNEL_LINES, about))


def _prlctl(socket: Path | None, *words: str) -> tuple[str, ...]:
    where = () if socket is None else ("--socket", str(socket))
    # -P: no module of the folder that root happens to be in is imported.
    return (sys.executable, "-P", "-m", "prl.cli.main", *where, "-j", *words)


def _only_ours(output: bytes) -> bytes:
    """Of bpftool's list the objects of prl."""
    try:
        found: list[dict[str, Any]] = json.loads(output)
    except ValueError:
        return b""  # it says why on standard error, which is of no interest to whoever reads a list
    return json.dumps([one for one in found if str(one.get("name", "")).startswith(_OURS)]).encode()
