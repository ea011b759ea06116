"""This host's network, by netlink: the LAN interface, service addresses, neighbours, sysctls.

pyroute2 works in a thread of its own: it may not be called where an asyncio loop runs.
"""

import array
import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from prl.bindings.datapath import LogicalInterface
from prl.endpoint import Address
from prl.errors import KernelError
from prl.kernel.features import ethtool

P = ParamSpec("P")
R = TypeVar("R")

PROC_SYS = Path("/proc/sys")
TAP_MTU_BYTES = 65521  # the tun driver takes no more (65535 - ETH_HLEN)
TAP_QUEUE_PACKETS = 10_000
IFA_F_NODAD = 0x02
IFA_F_NOPREFIXROUTE = 0x200
NUD_REACHABLE, NUD_STALE, NUD_PROBE, NUD_PERMANENT = 0x02, 0x04, 0x10, 0x80
NUD_VALID = 0x02 | 0x04 | 0x08 | NUD_PROBE | 0x40 | NUD_PERMANENT
NTF_USE = 0x01  # "resolve it", include/uapi/linux/neighbour.h
RESOLVE_POLLS_MAX, RESOLVE_POLL_S = 10, 0.005
NEXT_HOP_FRESH_S = 1.0
"""How long a next hop is believed without asking the kernel again: a peer may open many sessions
at once."""
NEXT_HOPS_MAX = 4096
RT_SCOPE_LINK = 253
_SIOCETHTOOL, _ETHTOOL_GCHANNELS = 0x8946, 0x3C


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where packets to a peer go first."""

    address: Address
    mac: str
    ifindex: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """An interface as it is now."""

    ifindex: int
    """0: there is none of that name."""
    is_up: bool = False
    addresses: frozenset[Address] = frozenset()
    has_carrier: bool = True
    mac: bytes = b""


@dataclass(frozen=True, slots=True)
class Device:
    """A network device of this namespace."""

    index: int
    name: str
    kind: str = ""
    """As `ip -details link` says it: vlan, bridge, …; empty: hardware and the like."""
    port_of: str = ""
    """What it is a port of (bridge, bond …), and has nothing to say by itself; or vrf."""
    lower: int = 0
    """The index of the device that it is on top of, in this namespace, or 0."""


class Host:
    """Netlink calls, each awaitable; close() at the end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._netlink = _Netlink()
        self._hops: dict[tuple[int, Address], _Asked] = {}
        self._ways: dict[tuple[Address, Address, int], tuple[float, int]] = {}

    async def _run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: call(*args, **kwargs))

    async def open(self) -> None:
        """Connect to the kernel."""
        await self._run(self._netlink.open)

    async def close(self) -> None:
        """Put back what was changed, as far as possible, and disconnect."""
        await self._run(self._netlink.close)
        self._thread.shutdown()

    async def interface(self, name: str) -> LogicalInterface:
        """An interface towards peers. Raises KernelError when there is none of that name."""
        return await self._run(self._netlink.interface, name)

    async def look(self, name: str) -> Seen:
        """An interface and its addresses, now."""
        return await self._run(self._netlink.look, name)

    async def devices(self) -> list[Device]:
        """All network devices but lo. Raises KernelError."""
        return await self._run(self._netlink.devices)

    async def tap_up(self, name: str) -> int:
        """Configure one of our TAPs; returns its index."""
        return await self._run(self._netlink.tap_up, name)

    async def add_address(self, ifindex: int, address: Address) -> None:
        """Add a service address, such that it is never chosen as a source by itself."""
        await self._run(self._netlink.add_address, ifindex, address)

    async def remove_address(self, ifindex: int, address: Address) -> None:
        """Remove a service address; one that is not there is no error."""
        await self._run(self._netlink.remove_address, ifindex, address)

    async def next_hop(self, ifindex: int, peer: Address) -> NextHop | None:
        """Where packets to ``peer`` go from ``ifindex``; None when its MAC cannot be found out."""
        now_s = time.monotonic()
        asked = self._hops.get((ifindex, peer))
        if asked is None or now_s - asked.at_s > NEXT_HOP_FRESH_S or asked.failed:
            if len(self._hops) >= NEXT_HOPS_MAX:
                self._hops.clear()
            task = asyncio.create_task(self._find_next_hop(ifindex, peer))
            asked = self._hops[ifindex, peer] = _Asked(task, now_s)
        return await asyncio.shield(asked.answer)

    async def _find_next_hop(self, ifindex: int, peer: Address) -> NextHop | None:
        for _ in range(RESOLVE_POLLS_MAX):
            hop = await self._run(self._netlink.next_hop, ifindex, peer)
            if hop is not None:
                return hop
            await asyncio.sleep(RESOLVE_POLL_S)  # asked for by the look-up (UDP: a first answer)
        return None

    async def neighbours(self, ifindex: int) -> list[NextHop]:
        """Everybody on the LAN whose MAC address is known. Raises KernelError."""
        return await self._run(self._netlink.neighbours, ifindex)

    async def way_out(self, local: Address, remote: Address, mark: int) -> int:
        """The index of the interface that a session's packets leave by; 0: they go nowhere."""
        key, now_s = (local, remote, mark), time.monotonic()
        at_s, ifindex = self._ways.get(key, (0.0, 0))
        if not ifindex or now_s - at_s > NEXT_HOP_FRESH_S:
            if len(self._ways) >= NEXT_HOPS_MAX:
                self._ways.clear()
            ifindex = await self._run(self._netlink.way_out, local, remote, mark)
            self._ways[key] = now_s, ifindex
        return ifindex

    async def require(self, name: str, address: Address) -> None:
        """This host's own address tells which interface the LAN is. Raises KernelError."""
        holder = await self._run(self._netlink.holder, address)
        if holder not in {"", name}:
            raise KernelError(
                f"lan.address {address} is on {holder}, not on {name}: correct lan.interface "
                "(a VLAN is an interface of its own)"
            )

    async def set_neighbour(self, hop: NextHop, state: int) -> None:
        """Enter a neighbour with one of the NUD_ states. Raises KernelError."""
        await self._run(self._netlink.set_neighbour, hop, state)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question for a next hop, answered or under way."""

    answer: "asyncio.Task[NextHop | None]"
    at_s: float

    @property
    def failed(self) -> bool:
        return self.answer.done() and (self.answer.cancelled() or self.answer.result() is None)


class _Netlink:
    """The same, blocking, in the netlink thread."""

    def __init__(self) -> None:
        self._ip: Any = None
        self._seen: dict[str, Seen] = {}

    def open(self) -> None:
        self._ip = IPRoute()

    def close(self) -> None:
        if self._ip is not None:
            self._ip.close()
            self._ip = None

    def interface(self, name: str) -> LogicalInterface:
        found = self._ip.link_lookup(ifname=name)
        if not found:
            raise KernelError(
                f"interface {name} does not exist; create it or correct lan.interface, or "
                "routing.interface"
            )
        (link,) = self._ip.get_links(found[0])
        return LogicalInterface(
            name=name, ifindex=found[0], mac=_mac_of(link), queues=_receive_queues(name)
        )

    def look(self, name: str) -> Seen:
        try:
            ifindex = socket.if_nametoindex(name)
        except OSError:
            return Seen(0)
        try:
            (link,) = self._ip.get_links(ifindex)
            found = [
                entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
                for entry in self._ip.get_addr(index=ifindex)
            ]
        except (OSError, NetlinkError) as error:
            if _errno_of(error) == errno.ENODEV:  # it went between two questions
                return Seen(0)
            return self._seen.get(name, Seen(0))  # the kernel did not say: as it was
        addresses = frozenset(ip_address(each) for each in found if each)
        is_up, has_carrier = (bool(link["flags"] & flag) for flag in (IFF_UP, IFF_LOWER_UP))
        self._seen[name] = Seen(ifindex, is_up, addresses, has_carrier, _mac_of(link))
        return self._seen[name]

    def devices(self) -> list[Device]:
        try:
            links = list(self._ip.get_links())
        except NetlinkError as error:
            raise KernelError(f"the interfaces cannot be listed: {error}") from error
        return [_device(link) for link in links if not link["flags"] & IFF_LOOPBACK]

    def tap_up(self, name: str) -> int:
        # Nothing but our programs may put anything onto these devices.
        _write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
        (ifindex,) = self._ip.link_lookup(ifname=name)
        with contextlib.suppress(NetlinkError):  # older kernels bound it below
            self._ip.link("set", index=ifindex, mtu=TAP_MTU_BYTES)
        self._ip.link("set", index=ifindex, txqlen=TAP_QUEUE_PACKETS)
        flags = IFF_NOARP | IFF_UP
        self._ip.link("set", index=ifindex, flags=flags, change=flags)
        return int(ifindex)

    def add_address(self, ifindex: int, address: Address) -> None:
        fields: dict[str, Any] = {"index": ifindex, "address": str(address)}
        if isinstance(address, IPv6Address):
            # Deprecated (preferred lifetime 0): never a source unless bound to (RFC 6724, rule 3).
            fields |= {
                "prefixlen": 128,
                "flags": IFA_F_NODAD | IFA_F_NOPREFIXROUTE,
                "IFA_CACHEINFO": {"ifa_preferred": 0, "ifa_valid": 0xFFFFFFFF},
            }
        else:
            # A narrower scope than the peers' routes have: never a source by itself
            # (inet_select_addr in net/ipv4/devinet.c).
            fields |= {
                "prefixlen": 32,
                "scope": RT_SCOPE_LINK,
                "local": str(address),
                "flags": IFA_F_NOPREFIXROUTE,
            }
        try:
            self._ip.addr("add", **fields)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise KernelError(f"address {address} cannot be added: {error}") from error

    def remove_address(self, ifindex: int, address: Address) -> None:
        prefixlen = 128 if isinstance(address, IPv6Address) else 32
        with contextlib.suppress(NetlinkError):
            self._ip.addr("del", index=ifindex, address=str(address), prefixlen=prefixlen)

    def next_hop(self, ifindex: int, peer: Address) -> NextHop | None:
        family = socket.AF_INET6 if isinstance(peer, IPv6Address) else socket.AF_INET
        try:
            routes = list(self._ip.route("get", dst=str(peer), oif=ifindex, family=family))
            hop = _gateway(routes[0]) if routes else None
            address = peer if hop is None else hop
            family = socket.AF_INET6 if address.version == IPV6 else socket.AF_INET
            for entry in self._neighbours(ifindex, str(address), family):
                mac = entry.get_attr("NDA_LLADDR")
                if mac and entry["state"] & NUD_VALID:
                    return NextHop(address, str(mac), ifindex)
            self._ip.neigh(
                "replace", dst=str(address), ifindex=ifindex, family=family, flags=NTF_USE
            )
        except NetlinkError:
            return None
        return None

    def neighbours(self, ifindex: int) -> list[NextHop]:
        found: list[NextHop] = []
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                for entry in self._ip.get_neighbours(family=family, ifindex=ifindex):
                    mac, address = entry.get_attr("NDA_LLADDR"), entry.get_attr("NDA_DST")
                    if mac and address and entry["state"] & NUD_VALID:
                        found.append(NextHop(ip_address(address), str(mac), ifindex))
        except NetlinkError as error:
            raise KernelError(f"the neighbour table cannot be read: {error}") from error
        return [hop for hop in found if not hop.address.is_multicast]

    def way_out(self, local: Address, remote: Address, mark: int) -> int:
        family = socket.AF_INET6 if remote.version == IPV6 else socket.AF_INET
        asked = {"dst": str(remote), "src": str(local), "mark": mark, "family": family}
        try:
            routes = list(self._ip.route("get", **asked))
        except NetlinkError:
            return 0
        return int(routes[0].get_attr("RTA_OIF") or 0) if routes else 0

    def holder(self, address: Address) -> str:
        """The interface that has it; empty: none."""
        family = socket.AF_INET6 if address.version == IPV6 else socket.AF_INET
        for entry in self._ip.get_addr(family=family):
            own = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            if own and ip_address(own) == address:
                return socket.if_indextoname(entry["index"])
        return ""

    def _neighbours(self, ifindex: int, address: str, family: int) -> list[Any]:
        try:
            return list(self._ip.neigh("get", dst=address, ifindex=ifindex, family=family))
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
            return []

    def set_neighbour(self, hop: NextHop, state: int) -> None:
        try:
            self._ip.neigh(
                "replace", dst=str(hop.address), lladdr=hop.mac, ifindex=hop.ifindex, state=state
            )
        except (NetlinkError, OSError) as error:
            raise KernelError(f"neighbour {hop.address} cannot be entered: {error}") from error


IFF_UP, IFF_LOOPBACK, IFF_NOARP, IFF_LOWER_UP = 0x1, 0x8, 0x80, 0x10000
IPV6 = 6


def _errno_of(error: OSError | NetlinkError) -> int | None:
    return int(error.code) if isinstance(error, NetlinkError) else error.errno


def _mac_of(link: Any) -> bytes:
    return bytes.fromhex(str(link.get_attr("IFLA_ADDRESS")).replace(":", ""))


def _device(link: Any) -> Device:
    about = link.get_attr("IFLA_LINKINFO")
    kind, port_of = (
        (about.get_attr("IFLA_INFO_KIND"), about.get_attr("IFLA_INFO_SLAVE_KIND"))
        if about is not None
        else ("", "")
    )
    elsewhere = link.get_attr("IFLA_LINK_NETNSID") is not None
    lower = 0 if elsewhere else link.get_attr("IFLA_LINK") or 0
    name = str(link.get_attr("IFLA_IFNAME"))
    return Device(int(link["index"]), name, str(kind or ""), str(port_of or ""), int(lower))


def _gateway(route: Any) -> Address | None:
    """The router that a route leads to; one of IPv6 may serve IPv4 (RFC 5549)."""
    via = route.get_attr("RTA_GATEWAY") or (route.get_attr("RTA_VIA") or {}).get("addr")
    return ip_address(via) if via else None


def _receive_queues(name: str) -> int:
    """Count the receive queues in use: ethtool's channels (struct ethtool_channels).

    Netlink tells the most possible.
    """
    channels = array.array("I", [_ETHTOOL_GCHANNELS, *[0] * 8])
    if not ethtool(name, channels):
        return 1  # a driver without channels
    receive, combined = channels[5], channels[8]
    return max(receive + combined, 1)


class Sysctls:
    """Settings of the network namespace that prl needs while it runs."""

    def __init__(self, wanted: dict[str, str]) -> None:
        self._wanted = wanted
        self._before: dict[str, str] = {}

    def apply(self) -> None:
        """Set them and remember what was there. Raises KernelError."""
        for name, value in self._wanted.items():
            before = _read_sysctl(name)
            if before != value:
                _write_sysctl(name, value)
                self._before[name] = before

    def reapply(self) -> list[tuple[str, str]]:
        """Set again what others have changed meanwhile; returns that. Raises KernelError."""
        changed = [(n, v) for n, v in self._wanted.items() if _read_sysctl(n) != v]
        for name, value in changed:
            _write_sysctl(name, value)
        return [(name.replace("/", "."), value) for name, value in changed]

    def restore(self) -> None:
        """Put back what was there."""
        for name, value in self._before.items():
            with contextlib.suppress(KernelError):
                _write_sysctl(name, value)
        self._before.clear()


def needed_sysctls() -> Sysctls:
    """What shadows need (FACTS): nothing stays uncorked.

    And on no interface does ARP name a service address, be it as the source of a request: another
    interface of the owner's must not say that, and what it cannot resolve it does not send.
    """
    return Sysctls({"net/ipv4/tcp_autocorking": "0", "net/ipv4/conf/all/arp_announce": "2"})


def _read_sysctl(name: str) -> str:
    try:
        return (PROC_SYS / name).read_text().strip()
    except OSError as error:
        raise KernelError(f"sysctl {name} cannot be read: {error.strerror}") from error


def _write_sysctl(name: str, value: str) -> None:
    try:
        (PROC_SYS / name).write_text(value)
    except OSError as error:
        raise KernelError(f"sysctl {name} cannot be set to {value}: {error.strerror}") from error


def proc_address(raw: bytes) -> str:
    """An address as /proc/net/tcp spells it: 32-bit words in host order, in hex."""
    words = (raw[at : at + 4] for at in range(0, len(raw), 4))
    return "".join(f"{socket.ntohl(int.from_bytes(word)):08X}" for word in words)
