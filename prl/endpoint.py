"""The address and port that an application listens on, on both nodes at once."""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from prl.errors import PrlError
from prl.messages import parse_endpoint, show_endpoint

_IPV6_FREEBIND = 78  # linux/in6.h; Python does not name it
_IP_FREEBIND = 15  # linux/in.h


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A local address and TCP port. Its text is ``192.0.2.100:7000`` or ``[2001:db8::1]:7000``."""

    address: IPv4Address | IPv6Address
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
