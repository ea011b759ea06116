"""Whom the datapath asks for evidence and tells of claims: the neighbours on the LAN (L6, L7)."""

import asyncio
import contextlib

from prl.bindings.datapath import Datapath, Neighbour
from prl.config import Config
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host
from prl.errors import KernelError

REFRESH_S = 1.0
SOON_S = 0.03
"""After a hint: the shadow that is being built has its peer's MAC address by then."""


class Neighbours:
    """What the kernel's neighbour table says; run() is a task for the daemon's whole life."""

    def __init__(
        self, config: Config, datapath: Datapath, host: Host, instances: Instances
    ) -> None:
        lan = config.lan
        self._dp, self._host, self._interfaces = datapath, host, instances.interfaces
        self._not_these = {lan.peer_address, lan.peer_address6}
        self._hint = asyncio.Event()

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
        self._dp.neighbours(
            [
                Neighbour(hop.address, bytes.fromhex(hop.mac.replace(":", "")), lif)
                for lif, hop in hops
                if hop.address not in self._not_these and not hop.address.is_link_local
            ]
        )
