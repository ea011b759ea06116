"""The cable of the carrier "mirror", and whether long packets go by it (docs/mirror.md)."""

import asyncio
import contextlib
import socket
from typing import Any

from prl.bindings.datapath import Datapath
from prl.bindings.facts import Capability
from prl.bindings.programs import Kernel, looks_mirrored
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host.network import Host
from prl.errors import KernelError, PrlError
from prl.kernel.features import hardware_address, mtu

NO_LINK = "the link is not up yet"
NOT_THERE = "the other node does not mirror: an earlier version, or another mode there"
STARVED = (
    "nothing that went by the cable has arrived; look at the interface on both nodes: its MTU and "
    "what filters it. The next connection of the link tries again"
)
NEIGHBOUR_TRIES, NEIGHBOUR_WAIT_S = 20, 0.1
"""The kernel has the other node's MAC address, for the link is up; or it looks for it just now."""


def address_trouble(link: str) -> str:
    """What is wrong with the MAC address of the cable's interface; empty: nothing.

    The other node takes nothing from one that looks like the number of a mirrored packet, not even
    what the link begins with.
    """
    own = hardware_address(link)
    if not looks_mirrored(own):
        return ""
    better = f"02:{own.hex(':')[3:]}"
    return (
        f"the MAC address of {link} (link.interface), {own.hex(':')}, looks like the number of a "
        f"mirrored packet: give it another one, `ip link set {link} address {better}`"
    )


def check(config: Config) -> None:
    """Whether the link's interface can be the cable.

    Raises:
        KernelError: it cannot, and what to do.
    """
    link = config.link.interface
    found = mtu(link)
    if not found:
        raise KernelError(f'mode = "mirror": there is no interface {link} (link.interface)')
    if trouble := address_trouble(link):
        raise KernelError(f'mode = "mirror": {trouble}')
    for name in config.interfaces:
        if found < mtu(name):
            raise KernelError(
                f'mode = "mirror": the MTU of {link} (link.interface) is {found}, and that of '
                f"{name} {mtu(name)}: `ip link set {link} mtu {mtu(name)}` on both nodes"
            )


class Cable:
    """Turns it on with each epoch of the link, if the other node can, too; off with its end."""

    def __init__(
        self, config: Config, kernel: Kernel, datapath: Datapath, host: Host, log: EventLog
    ) -> None:
        self._config, self._kernel, self._dp = config, kernel, datapath
        self._host, self._log = host, log
        self._finding: asyncio.Task[None] | None = None
        self.why = NO_LINK
        """Why nothing is mirrored; empty: long packets are."""

    def on_link_up(self, capabilities: Capability) -> None:
        """An epoch has begun, with what both nodes can do."""
        self._end()
        if not capabilities & Capability.MIRROR:
            self._refuse(NOT_THERE)
            return
        self._finding = asyncio.create_task(self._begin())

    def on_link_down(self) -> None:
        """It has ended. The datapath knows."""
        self._end()
        self.why = NO_LINK
        self._kernel.mirror_to(None)

    def on_starved(self) -> None:
        """PRL_EVENT_MIRROR_OFF: in this epoch nothing goes by it any more."""
        self._kernel.mirror_to(None)
        self._refuse(STARVED)

    async def close(self) -> None:
        """Stop."""
        self._end()
        if self._finding is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._finding

    def facts(self) -> dict[str, Any]:
        """For `status`."""
        return {
            "interface": self._config.link.interface,
            "on": not self.why,
            "because": self.why,
            **self._kernel.mirror_counters(),
        }

    def _end(self) -> None:
        if self._finding is not None:
            self._finding.cancel()

    def _refuse(self, why: str) -> None:
        self.why = why
        self._log.warning("mirror_off", f"all input goes over the link: {why}")

    async def _begin(self) -> None:
        link = self._config.link
        try:
            ifindex = socket.if_nametoindex(link.interface)
            if ifindex != self._kernel.link_ifindex:
                self._refuse(f"{link.interface} was made anew since prld started: restart prld")
                return
            for _ in range(NEIGHBOUR_TRIES):
                hop = await self._host.next_hop(ifindex, link.remote)
                if hop is not None:
                    break
                await asyncio.sleep(NEIGHBOUR_WAIT_S)
            else:
                self._refuse(f"nobody knows the MAC address of {link.remote} on {link.interface}")
                return
        except (OSError, PrlError) as error:
            self._refuse(str(error))
            return
        if hop.address != link.remote:
            self._refuse(f"{link.remote} is behind a router, {hop.address}, not on the same cable")
            return
        self._kernel.mirror_to(bytes.fromhex(hop.mac.replace(":", "")))
        if self._dp.mirror():
            self.why = ""
            words = f"long packets go by {link.interface} to {hop.mac}, in clear"
            self._log.info("mirror_on", words)
