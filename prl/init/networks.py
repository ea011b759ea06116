"""What this host's interfaces have and reach, by netlink."""

import contextlib
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

Address = IPv4Address | IPv6Address
Own = IPv4Interface | IPv6Interface

_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_IFA_F_TEMPORARY, _IFA_F_DEPRECATED = 0x01, 0x20
_RT_SCOPE_UNIVERSE = 0
_NUD_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_DISCARD_PORT = 9
ANSWER_TIMEOUT_S: Final = 1.5
"""How long neighbours have to answer: the kernel asks three times, a second apart at first."""
_ANSWER_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that is up, with the addresses that are its own."""

    name: str
    mtu: int
    own: tuple[Own, ...]

    def addresses(self, version: int) -> list[Own]:
        """Those of one IP version."""
        return [one for one in self.own if one.version == version]

    def facing(self, address: Address) -> Own | None:
        """Its own address in the network that ``address`` is in."""
        return next((one for one in self.own if address in one.network), None)


class Networks:
    """The kernel's view; close() at the end."""

    def __init__(self) -> None:
        self._ip: Any = IPRoute()

    def close(self) -> None:
        """Disconnect."""
        self._ip.close()

    def interfaces(self) -> list[Interface]:
        """Those that are up and could face a peer or the other node."""
        own: dict[int, list[Own]] = {}
        for entry in self._ip.get_addr():
            flags = int(entry.get_attr("IFA_FLAGS") or entry["flags"])
            if entry["scope"] == _RT_SCOPE_UNIVERSE and not flags & (
                _IFA_F_TEMPORARY | _IFA_F_DEPRECATED
            ):
                text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
                own.setdefault(entry["index"], []).append(
                    ip_interface(f"{text}/{entry['prefixlen']}")
                )
        return [
            Interface(
                name=str(link.get_attr("IFLA_IFNAME")),
                mtu=int(link.get_attr("IFLA_MTU")),
                own=tuple(own.get(link["index"], ())),
            )
            for link in self._ip.get_links()
            if link["flags"] & _IFF_UP and not link["flags"] & (_IFF_LOOPBACK | _IFF_NOARP)
        ]

    def neighbours(self, interface: str) -> list[Address]:
        """Whose MAC address is known there."""
        return [
            ip_address(entry.get_attr("NDA_DST"))
            for entry in self._entries(interface)
            if entry["state"] & _NUD_KNOWN and entry.get_attr("NDA_DST")
        ]

    def way_to(self, address: Address) -> str:
        """The interface that packets to ``address`` leave by; empty: none."""
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET  # noqa: PLR2004
        with contextlib.suppress(NetlinkError, OSError):
            for route in self._ip.route("get", dst=str(address), family=family):
                return socket.if_indextoname(int(route.get_attr("RTA_OIF")))
        return ""

    def answering(self, interface: str, addresses: Iterable[Address]) -> set[Address]:
        """Which of ``addresses`` answer (ARP, neighbour discovery), or just did."""
        wanted, found = set(addresses), set[Address]()
        for address in wanted:
            _send_something(interface, address)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while found != wanted and time.monotonic() < deadline:
            time.sleep(_ANSWER_POLL_S)
            found = wanted & set(self.neighbours(interface))
        return found

    def _entries(self, interface: str) -> list[Any]:
        with contextlib.suppress(NetlinkError, OSError):
            index = socket.if_nametoindex(interface)
            return [
                entry
                for family in (socket.AF_INET, socket.AF_INET6)
                for entry in self._ip.get_neighbours(family=family, ifindex=index)
            ]
        return []


def _send_something(interface: str, address: Address) -> None:
    """Make the kernel ask who has ``address``."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.sendto(b"", (str(address), _DISCARD_PORT))


def resolve(name: str) -> list[Address]:
    """The addresses that /etc/hosts or the DNS have for ``name``; none is no error."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    with contextlib.suppress(ValueError):
        return [ip_address(str(entry[4][0])) for entry in found]
    return []
