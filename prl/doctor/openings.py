"""How a packet is let through, in the words of what keeps this host's rules."""

from prl.doctor.filters import Base, Packet


def opening(packet: Packet, base: Base) -> tuple[str, str]:
    """The command, and what it must be kept with to be there after the next start."""
    is_nft = base.insert.startswith("nft")
    if base.keeper == "firewalld" and packet.hook == "input" and packet.target_port:
        port = f"{packet.target_port}/{packet.protocol}"
        return f"firewall-cmd --permanent --add-port={port} && firewall-cmd --reload", "firewalld"
    if base.keeper == "ufw" and packet.target_port:
        way, end = _way(packet)
        side = "from" if packet.hook == "input" else "to"
        ends = f"from {end} to any" if side == "from" else f"to {end}"
        rule = f"{way} on {packet.interface} proto {packet.protocol} {ends}"
        return f"ufw allow {rule} port {packet.target_port}", "ufw"
    match = _nft_match(packet) if is_nft else _xt_match(packet)
    return base.insert.format(match), "/etc/nftables.conf" if is_nft else "netfilter-persistent"


def _way(packet: Packet) -> tuple[str, object]:
    is_input = packet.hook == "input"
    return ("in", packet.source) if is_input else ("out", packet.target)


def _port(packet: Packet) -> tuple[str, int | None]:
    if packet.target_port is None:
        return "sport", packet.source_port
    return "dport", packet.target_port


def _nft_match(packet: Packet) -> str:
    device = f'{"i" if packet.hook == "input" else "o"}ifname "{packet.interface}"'
    if packet.protocol == "icmpv6":
        return f"'{device} icmpv6 type {packet.icmp_type} accept'"
    family = "ip6" if packet.is_v6 else "ip"
    way, end = _way(packet)
    name, number = _port(packet)
    side = "saddr" if way == "in" else "daddr"
    return f"'{device} {family} {side} {end} {packet.protocol} {name} {number} accept'"


def _xt_match(packet: Packet) -> str:
    way, end = _way(packet)
    device = f"-{way[0]} {packet.interface}"
    if packet.protocol == "icmpv6":
        return f"{device} -p icmpv6"
    name, number = _port(packet)
    return f"{device} -{'s' if way == 'in' else 'd'} {end} -p {packet.protocol} --{name} {number}"
