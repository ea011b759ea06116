"""What the kernel and iproute2 say of this network namespace, as it is now."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import Any, Final

ANSWER_S: Final = 10.0
PROC_SYS: Final = Path("/proc/sys")


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface with its addresses."""

    name: str
    ifindex: int
    mtu: int
    is_up: bool
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    master: str = ""
    """The bridge, bond or VRF that it is part of."""


def run(*argv: str) -> str | None:
    """What a program prints; None: it is not there, or fails."""
    if shutil.which(argv[0]) is None:
        return None
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def ask(*argv: str) -> list[dict[str, Any]]:
    """A list that a program prints as JSON; empty when it does not."""
    try:
        found = json.loads(run(*argv) or "[]")
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def interfaces() -> dict[str, Interface]:
    """All of them, by name."""
    return {
        each["ifname"]: Interface(
            each["ifname"],
            each["ifindex"],
            each.get("mtu", 0),
            "UP" in each.get("flags", ()),
            tuple(
                ip_interface(f"{info['local']}/{info['prefixlen']}")
                for info in each.get("addr_info", ())
                if "local" in info
            ),
            each.get("master", ""),
        )
        for each in ask("ip", "-j", "address", "show")
        if each.get("ifname")
    }


def sysctl(name: str) -> str:
    """A sysctl, named as below /proc/sys; empty: there is none."""
    try:
        return (PROC_SYS / name).read_text().strip()
    except OSError:
        return ""


def effective(name: str, interface: str) -> int:
    """A per-interface IPv4 sysctl that counts as the greater of "all" and the interface's own."""
    scopes = ("all", interface.replace(".", "/"))
    values = (sysctl(f"net/ipv4/conf/{scope}/{name}") for scope in scopes)
    return max((int(value) for value in values if value.isdigit()), default=0)
