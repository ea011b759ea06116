"""Whom the datapath asks for evidence and tells of claims: the neighbours on the LAN (L6, L7)."""

import asyncio
import contextlib

from prl.bindings.datapath import Datapath, Neighbour
from prl.config import Config
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import NUD_PROBE, Host, NextHop
from prl.endpoint import Address
from prl.errors import KernelError

REFRESH_S = 1.0
SOON_S = 0.03
"""After a hint: the shadow that is being built has its peer's MAC address by then."""
REMEMBERED_MAX = 1024
"""Neighbours that are entered again when an interface is back; of more, those seen last."""


class Neighbours:
    """What the kernel's neighbour table says; run() is a task for the daemon's whole life."""

    def __init__(
        self, config: Config, datapath: Datapath, host: Host, instances: Instances
    ) -> None:
        lan = config.lan
        self._dp, self._host, self._interfaces = datapath, host, instances.interfaces
        self._not_these = {lan.peer_address, lan.peer_address6}
        self._hint = asyncio.Event()
        self._seen: dict[tuple[int, Address], NextHop] = {}
        """By interface and address; who was seen last comes last."""

    def hint(self) -> None:
        """There may be a new one."""
        self._hint.set()

    async def run(self) -> None:
        """Keep the list until cancelled."""
        while True:
            await self.refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._hint.wait()
                await asyncio.sleep(SOON_S)
            self._hint.clear()

    async def refresh(self) -> None:
        """Read the table now."""
        try:
            hops = [
                (lif, hop)
                for lif, interface in enumerate(self._interfaces)
                for hop in await self._host.neighbours(interface.ifindex)
            ]
        except KernelError:
            return  # the table is asked again soon; the old list is better than none
        for _, hop in hops:
            self._seen.pop((hop.ifindex, hop.address), None)
            self._seen[hop.ifindex, hop.address] = hop
        for oldest in list(self._seen)[:-REMEMBERED_MAX]:
            del self._seen[oldest]
        self._dp.neighbours(
            [
                Neighbour(hop.address, bytes.fromhex(hop.mac.replace(":", "")), lif)
                for lif, hop in hops
                if hop.address not in self._not_these and not hop.address.is_link_local
            ]
        )

    async def enter_again(self) -> None:
        """An interface was without a carrier, and Linux has forgotten who is there.

        It asks anew for whoever a packet is for; but what it asked while nothing could leave it
        asks again only after a second (retrans_time_ms), and the packets wait. So it is told what
        was known, to be verified at once.
        """
        for interface in self._interfaces:
            with contextlib.suppress(KernelError):
                there = {hop.address for hop in await self._host.neighbours(interface.ifindex)}
                for (ifindex, address), hop in list(self._seen.items()):
                    if ifindex == interface.ifindex and address not in there:
                        await self._host.set_neighbour(hop, NUD_PROBE)
