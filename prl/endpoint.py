"""Addresses and ports: how they are written, and what an application listens on."""

import contextlib
import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Self

from prl.errors import PrlError, UsageError

Address = IPv4Address | IPv6Address
Side = tuple[Address, int]
"""One end of a connection: address and port."""
PORT_MAX: Final = 0xFFFF
ANY_PEER: Final = "*"
"""What is written for the peer of a UDP socket that is not connected."""
UDP_PREFIX: Final = "udp:"
"""In front of an endpoint that means UDP."""
OPENS_TO: Final = ">"
"""Between a local address and the other end, of what this host opens, whatever its port."""
INSTANCE_MARK: Final = "@"
"""Behind an endpoint, in front of the name of its routing instance."""
ADDRESSES_SHARED: Final = 4096
"""Addresses of which all sessions share one object."""
_MAPPED: Final = bytes(10) + b"\xff\xff"
_WRITTEN: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^:\[\]]+)):(?P<port>\d{1,5})")
_IPV6_FREEBIND = 78  # linux/in6.h; Python does not name it
_IP_FREEBIND = 15  # linux/in.h


def parse_endpoint(text: str) -> Side:
    """Address and port of ``192.0.2.100:7000`` or ``[2001:db8::100]:7000``. Raises UsageError."""
    match = _WRITTEN.fullmatch(text)
    address: Address | None = None
    if match:
        with contextlib.suppress(ValueError):
            address = IPv6Address(match["v6"]) if match["v6"] else IPv4Address(match["v4"])
    if match is None or address is None or not 0 < int(match["port"]) <= PORT_MAX:
        raise UsageError(
            f"bad endpoint {text!r:.100}: write ADDRESS:PORT, an IPv6 address in brackets"
        )
    return address, int(match["port"])


def show_endpoint(address: Address, port: int) -> str:
    """The inverse of parse_endpoint()."""
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"


def mapped(address: Address) -> bytes:
    """16 bytes, IPv4 as IPv4-mapped IPv6 (prl_abi.h)."""
    return address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed


@lru_cache(ADDRESSES_SHARED)
def unmapped(raw: bytes) -> Address:
    """The address in 16 bytes; one object for all who ask, mostly."""
    return IPv4Address(raw[-4:]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def unspecified(local: Address) -> Address:
    """The remote address of a flow that has no peer of its own, in the version of ``local``."""
    return IPv6Address(0) if isinstance(local, IPv6Address) else IPv4Address(0)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A local address and TCP port. Its text is ``192.0.2.100:7000`` or ``[2001:db8::1]:7000``."""

    address: Address
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an endpoint.

        Raises:
            UsageError: it is not an address and a port.
        """
        return cls(*parse_endpoint(text))

    def __str__(self) -> str:
        return show_endpoint(self.address, self.port)

    @property
    def family(self) -> socket.AddressFamily:
        """The socket family of the address."""
        return socket.AF_INET if self.address.version == 4 else socket.AF_INET6  # noqa: PLR2004

    def listen(self, backlog: int, device: str = "") -> socket.socket:
        """A listening socket, also where the address is not configured (yet): IP_FREEBIND.

        ``device``: bound to this interface or VRF, as several routing instances with the same
        address need it.

        Raises:
            PrlError: the port is in use, or the kernel refuses otherwise.
        """
        listener = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if device:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            if self.family == socket.AF_INET:
                listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            else:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            listener.bind((str(self.address), self.port))
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            raise PrlError(f"cannot listen on {self}: {error.strerror}") from error
        return listener
