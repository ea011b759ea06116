"""The sockets of LAN heartbeats (SPEC L3) and probes (L3a): each on its own interface alone.

A heartbeat that came by another route would say that a node is on the LAN which is not. Somebody
else may have the port; then there are no heartbeats, an alarm says who, and it is tried again.
"""

import asyncio
import errno
import socket
import time
from ipaddress import IPv6Address
from typing import Final

from prl.bindings.datapath import Datapath, DatapathError, UdpPath
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host import ports
from prl.errors import KernelError

RETRY_S: Final = 1.0
UNHEARD_S: Final = 2.0
"""So long nothing of the other node's is heard on the LAN before that is said."""
_ON_LINK_TTL = 1
"""No router passes it on."""


class Heartbeats:
    """Gives the datapath its socket; run() is a task that ends when it has one."""

    def __init__(self, config: Config, log: EventLog) -> None:
        self._lan, self._link, self._log = config.lan, config.link, log
        self._probes = config.timing.probe_ms > 0
        self._unprobed = ""
        """Why the link has no probes, in words."""
        self.missing = ""
        """Why there are no heartbeats, in words; empty: there are."""

    def ailing(self, heard_ns: int) -> str:
        """What is wrong with them, in words; empty: nothing.

        ``heard_ns``: when the other node was heard last, or was to be heard from then on
        (CLOCK_BOOTTIME); each look at the node asks, so that it must cost little.
        """
        silent_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - heard_ns
        if self.missing or silent_ns < UNHEARD_S * 1e9:
            return self.missing
        return (
            f"the other node is not heard on {self._lan.interface}, but by the link: see both "
            f"nodes' cables and switch ports, and whether UDP {self._lan.heartbeat_port} passes "
            "(`prlctl doctor`)"
        )

    def open(self) -> socket.socket | None:
        """Bound to this node's LAN address, connected to the other's; None: somebody has the port.

        Raises:
            KernelError: it cannot be had.
        """
        lan = self._lan
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, lan.interface.encode())
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _ON_LINK_TTL)
            sock.bind((str(lan.address), lan.heartbeat_port))
            sock.connect((str(lan.peer_address), lan.heartbeat_port))
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise KernelError(
                    f"lan.address {lan.address} port {lan.heartbeat_port}: {error.strerror}; "
                    "configure the address, or correct [lan]"
                ) from error
            port = lan.heartbeat_port
            self._complain(
                f"UDP port {port} is taken by {ports.user_of('udp', port)}; stop that, or set "
                "another lan.heartbeat_port on both nodes"
            )
            return None
        return sock

    def _open_link(self) -> socket.socket:
        """Of the link's probes. Raises OSError."""
        link = self._link
        is_ipv6 = isinstance(link.local, IPv6Address)
        family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        scope = (0, socket.if_nametoindex(link.interface)) if is_ipv6 else ()
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.interface.encode())
            sock.bind((str(link.local), link.port, *scope))
            sock.connect((str(link.remote), link.port, *scope))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _probe_link(self, datapath: Datapath) -> None:
        """Give the datapath the link's; without it, the other node is judged without probes."""
        while True:
            try:
                datapath.udp(UdpPath.LINK, self._open_link().detach())
            except (OSError, DatapathError) as error:
                if (words := f"no probes on the link: {error}") != self._unprobed:
                    self._unprobed = words
                    self._log.warning("probe_port", words)
            else:
                if self._unprobed:
                    self._log.info("probe_port", "the link is probed now")
                return
            await asyncio.sleep(RETRY_S)

    def _complain(self, why: str) -> None:
        words = f"no LAN heartbeats: {why}"
        if words != self.missing:
            self.missing = words
            self._log.error("heartbeat_port", words)

    async def run(self, datapath: Datapath) -> None:
        """Try until the datapath has one for each way."""
        link = [self._probe_link(datapath)] if self._probes else []
        await asyncio.gather(self._beat(datapath), *link)

    async def _beat(self, datapath: Datapath) -> None:
        while self.missing:
            await asyncio.sleep(RETRY_S)
            try:
                if (sock := self.open()) is not None:
                    datapath.udp(UdpPath.LAN, sock.detach())
                    self.missing = ""
                    self._log.info("heartbeat_port", "LAN heartbeats are sent now")
            except (KernelError, DatapathError) as error:
                self._complain(str(error))
