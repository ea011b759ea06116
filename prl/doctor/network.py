"""Addresses, routes and ports of the host, and who else manages them."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from prl.config import Config
from prl.daemon.host import ports
from prl.doctor import host
from prl.doctor.finding import Finding, Verdict, judge
from prl.doctor.host import Interface
from prl.endpoint import Address

RUN: Final = Path("/run")
ETC: Final = Path("/etc")
LIB: Final = Path("/usr/lib")
_NETWORKD: Final = "systemd/network"
_STRICT = 1


def examine(config: Config | None) -> Iterator[Finding]:
    """All of it that the configuration is about."""
    if config is None:
        return
    there = host.interfaces()
    lan = there.get(config.lan.interface)
    if lan is None:
        return
    yield _reverse_path(config, lan)
    yield _second_nic(config, lan, there)
    yield from _ports(config)
    for name in dict.fromkeys(config.interfaces):
        if name in there:
            yield from managers(there[name])


def _reverse_path(config: Config, lan: Interface) -> Finding:
    """Strict, it drops what a peer sends by the LAN when the way back to it is another one.

    What shadows are fed comes in by the LAN, too, on both nodes. Loose (2) asks only for some way.
    """
    value = host.effective("rp_filter", lan.name)
    to_peers = sorted(_neighbours_elsewhere(lan))
    others = sorted([*_default_elsewhere(config, lan), *to_peers])
    title = f"reverse path filter of {lan.name}"
    if value != _STRICT or not others:
        return Finding(title, Verdict.OK, f"rp_filter {value}")
    return judge(
        title,
        good=False,
        found=f"rp_filter 1 (strict), and {', '.join(others)}: what comes from there by {lan.name} "
        "is dropped",
        remedy="let peers' routes leave by the LAN, or make the filter loose",
        paste=f"sysctl -w net.ipv4.conf.{lan.name.replace('.', '/')}.rp_filter=2",
        # A default route may be the management network's alone.
        otherwise=Verdict.WARNING if to_peers else Verdict.NOTE,
    )


def _default_elsewhere(config: Config, lan: Interface) -> Iterator[str]:
    private = {"lo", config.link.interface}
    for route in host.ask("ip", "-4", "-j", "route", "show", "default"):
        if (device := route.get("dev", "")) not in {lan.name, *private} and device:
            yield f"the default route leaves by {device}"


def _neighbours_elsewhere(lan: Interface) -> Iterator[str]:
    """Routes to what is on the LAN that do not leave by it."""
    for entry in host.ask("ip", "-4", "-j", "neigh", "show", "dev", lan.name):
        for route in host.ask("ip", "-4", "-j", "route", "get", entry["dst"]):
            if (device := route.get("dev", lan.name)) not in {lan.name, "lo"}:
                yield f"the route to {entry['dst']} leaves by {device}"


def _second_nic(config: Config, lan: Interface, there: dict[str, Interface]) -> Finding:
    """Linux answers ARP for any of its addresses on any interface (ARP flux) but another VRF's."""
    vrfs = {each.get("ifname") for each in host.ask("ip", "-j", "link", "show", "type", "vrf")}
    networks = {each.network for each in lan.addresses if each.ip == config.lan.address}
    doubles = [
        each.name
        for each in there.values()
        if each.name != lan.name
        and each.is_up
        and not (each.master in vrfs and each.master != lan.master)
        and any(
            own.version == network.version and ip_network(network).overlaps(own.network)
            for own in each.addresses
            for network in networks
        )
    ]
    loose = [name for name in doubles if host.effective("arp_ignore", name) == 0]
    return judge(
        f"another interface in {lan.name}'s network",
        not loose,
        f"{', '.join(loose)}, with arp_ignore 0: prld's programs alone keep it from answering for "
        "the service addresses, too"
        if loose
        else ", ".join(doubles) or "none",
        paste="sysctl -w net.ipv4.conf.all.arp_ignore=1",
        otherwise=Verdict.WARNING,
    )


def _ports(config: Config) -> Iterator[Finding]:
    wanted: list[tuple[str, int, Address]] = []
    wanted.append(("udp", config.lan.heartbeat_port, config.lan.address))
    if config.index == 1:
        wanted.append(("tcp", config.link.port, config.link.local))
    for protocol, port, address in wanted:
        pids = ports.pids_of(protocol, port, address)
        foreign = [pid for pid in pids if not _is_prld(pid)]
        yield judge(
            f"{protocol.upper()} port {port}",
            not foreign,
            f"taken by {ports.user_of(protocol, port, address)}"
            if foreign
            else ("prld has it" if pids else "free"),
            "stop what has it, or choose another port on both nodes",
            otherwise=Verdict.WARNING if protocol == "udp" else Verdict.MISSING,
        )


def _is_prld(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(word in command for word in (b"prld", b"prl.daemon"))


def managers(interface: Interface) -> Iterator[Finding]:
    """Another one that manages it: networkd takes foreign addresses away, others may."""
    name = interface.name
    link = RUN / "systemd/netif/links" / str(interface.ifindex)
    if (state := _fields(link)).get("NETWORK_FILE"):
        file = Path(state["NETWORK_FILE"])
        folder = ETC / _NETWORKD / f"{file.name}.d"
        content = "[Network]\\nKeepConfiguration=yes\\n"
        yield judge(
            f"{name} and systemd-networkd",
            _keeps(file),
            f"managed by {file}",
            "a restart of networkd takes the service addresses away for a moment; let it keep them",
            paste=f"mkdir -p {folder} && printf '{content}' > {folder}/prl.conf && "
            "networkctl reload",
            otherwise=Verdict.WARNING,
        )
    device = _fields(RUN / "NetworkManager/devices" / str(interface.ifindex))
    if device.get("managed") == "true":
        conf = ETC / "NetworkManager/conf.d"
        content = f"[keyfile]\\nunmanaged-devices+=interface-name:{name}\\n"
        yield judge(
            f"{name} and NetworkManager",
            good=False,
            found="managed",
            remedy="NetworkManager may take the service addresses away for a moment; configure "
            f"{name} elsewhere, and let NetworkManager leave it alone",
            paste=f"mkdir -p {conf} && printf '{content}' > {conf}/prl-{name}.conf && "
            "nmcli general reload",
            otherwise=Verdict.WARNING,
        )


def _fields(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {name.strip(): value.strip().strip('"') for name, value in pairs}


def _keeps(file: Path) -> bool:
    """What networkd's file and the files in its NAME.network.d say last (systemd.network(5))."""
    dropins: dict[str, Path] = {}
    for root in (LIB, RUN, ETC):  # the last one's file hides those of its name
        folder = root / _NETWORKD / f"{file.name}.d"
        dropins |= {each.name: each for each in folder.glob("*.conf")}
    keeps = "no"
    for each in (file, *(dropins[name] for name in sorted(dropins))):
        keeps = _fields(each).get("KeepConfiguration", keeps)
    return keeps in {"yes", "static", "true", "1"}
