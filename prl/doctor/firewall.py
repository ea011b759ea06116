"""This host's firewall: whether what the nodes say to each other passes (docs/firewall.md)."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prl.config import Config
from prl.daemon.host import conntrack
from prl.doctor import host, nftables, openings, xtables
from prl.doctor.filters import IPV4, IPV6, Outcome, Packet, Ruleset
from prl.doctor.finding import Finding, Verdict, judge

_SAVE = {IPV4: "iptables-save", IPV6: "ip6tables-save"}
_XT_IN_USE: Final = {
    IPV4: Path("/proc/net/ip_tables_names"),
    IPV6: Path("/proc/net/ip6_tables_names"),
}


def examine(config: Config | None) -> Iterator[Finding]:
    """Each packet that must pass."""
    if config is None:
        yield Finding(
            "firewall",
            Verdict.NOTE,
            "not looked at: there is no configuration to say which ports are used",
            "run `prlctl doctor --config FILE`",
        )
        return
    rulesets, unread = _rulesets()
    for words, packet in _packets(config):
        yield _judge(words, packet, rulesets, unread)
    yield _conntrack()


def _packets(config: Config) -> Iterator[tuple[str, Packet]]:
    """What must get in and out; the link's connection is node 0's, to node 1."""
    link, lan = config.link, config.lan
    listens = config.index == 1
    first, then = ("new", "established") if listens else ("established", "new")
    for hook, source, target in (
        ("input", link.remote, link.local),
        ("output", link.local, link.remote),
    ):
        to_port = listens == (hook == "input")
        state = first if hook == "input" else then
        way = f"from {source} on" if hook == "input" else f"to {target} by"
        kind = f"TCP {link.port}" if to_port else f"answers of TCP {link.port}"
        packet = Packet(
            *(hook, link.interface, "tcp", source, target),
            source_port=None if to_port else link.port,
            target_port=link.port if to_port else None,
            state=state,
        )
        yield f"{kind} {way} {link.interface} (link)", packet
        if config.timing.probe_ms:  # the other's questions are answered before any firewall
            words = f"UDP {link.port} {way} {link.interface} (probes of the link)"
            asked = "established" if hook == "input" else "new"
            ports = (link.port, link.port)
            yield words, Packet(hook, link.interface, "udp", source, target, *ports, state=asked)
    port = lan.heartbeat_port
    for hook, source, target in (
        ("input", lan.peer_address, lan.address),
        ("output", lan.address, lan.peer_address),
    ):
        way = f"from {source} on" if hook == "input" else f"to {target} by"
        words = f"UDP {port} {way} {lan.interface} (LAN heartbeats)"
        yield words, Packet(hook, lan.interface, "udp", source, target, port, port)
    if lan.address6 is not None and lan.peer_address6 is not None:
        for name in ("nd-neighbor-solicit", "nd-neighbor-advert"):
            packet = Packet(
                *("input", lan.interface, "icmpv6", lan.peer_address6, lan.address6),
                state="untracked",
                icmp_type=name,
            )
            yield f"ICMPv6 {name} on {lan.interface}", packet


def _rulesets() -> tuple[list[Ruleset], str]:
    """All that can be read here, and why the rest cannot."""
    found: list[Ruleset] = []
    unread = ""
    by_xtables = {v for v in _SAVE if _reads(_XT_IN_USE[v])}
    if shutil.which("nft") is None:
        unread = "nft is not installed: apt-get install -y nftables"
    else:
        listing = _listing()
        if listing is None:
            unread = "`nft list ruleset` fails: run doctor as root"
        ruleset, foreign = nftables.read(listing or [])
        found.append(ruleset)
        by_xtables |= {IPV6 if family == "ip6" else IPV4 for family, _ in foreign}
    for version in by_xtables:
        text = host.run(_SAVE[version])
        if text is None:
            unread = f"{_SAVE[version]} is not installed: apt-get install -y iptables"
        else:
            found.append(xtables.read(text, version))
    return found, unread


def _listing() -> list[dict[str, object]] | None:
    try:
        return list(json.loads(host.run("nft", "-j", "list", "ruleset") or "{}")["nftables"])
    except (ValueError, KeyError):
        return None


def _reads(path: Path) -> bool:
    try:
        return bool(path.read_text().strip())
    except OSError:
        return False


def _judge(words: str, packet: Packet, rulesets: list[Ruleset], unread: str) -> Finding:
    outcomes, where = {Outcome.ACCEPT}, None
    for ruleset in rulesets:
        found, base = ruleset.judge(packet)
        if Outcome.DROP in found and (where is None or Outcome.ACCEPT not in found):
            outcomes, where = found, base
    if Outcome.DROP not in outcomes:
        if unread:
            return Finding(words, Verdict.NOTE, f"cannot tell: {unread}", "look by hand")
        return Finding(words, Verdict.OK, "passes")
    assert where is not None
    paste, keeper = openings.opening(packet, where)
    if Outcome.ACCEPT not in outcomes:
        verdict = Verdict.WARNING if packet.protocol == "udp" else Verdict.MISSING
        remedy = f"let it pass, and keep that with {keeper}"
        return Finding(words, verdict, f"dropped by {where.words}", remedy, paste)
    return Finding(
        words,
        Verdict.NOTE,
        f"cannot tell: {where.words} has rules that doctor cannot read",
        f"look by hand; this lets it pass, and is to be kept with {keeper}",
        paste,
    )


def _conntrack() -> Finding:
    """A stateful ruleset passes what a shadow is fed because prld enters the session there."""
    if not conntrack.is_tracking():
        return Finding("connection tracking", Verdict.OK, "not in use")
    good = conntrack.can_be_told()
    return judge(
        "connection tracking",
        good,
        "in use, and can be told of sessions" if good else "in use, and cannot be told of sessions",
        "a stateful firewall would drop what shadows are fed",
        paste="modprobe nf_conntrack_netlink",
        otherwise=Verdict.WARNING,
    )
