"""A node that cannot keep silence and hold takes itself out of the pair (SPEC I4, I7).

It cannot be silenced, so it must have nothing to say:

    owner ── hands each service over, by a planned move, again and again until it succeeds
             (who has nobody to hand to goes on: its sessions have nobody else)
    else  ── no shadows, no service addresses; and once it owns nothing no link, so that the other
             node counts on nothing here
"""

import asyncio
import contextlib
import time

from prl.config import Config
from prl.core.datapath import Datapath, Owner
from prl.daemon.attempt import Attempts
from prl.daemon.events import EventLog
from prl.daemon.host import Host
from prl.daemon.instances import Instances
from prl.daemon.link import Link
from prl.daemon.ownership import Ownership
from prl.daemon.shadows import Shadows
from prl.daemon.switchover import Switchover, SwitchoverError
from prl.daemon.upkeep import Upkeep
from prl.errors import KernelError, NotSafeError

MOVE_AGAIN_S = 5.0
"""Between two tries to hand a service over: each makes its sessions wait for a moment."""


class Withdrawal:
    """What this node does with its services as long as it is exposed (guard.py)."""

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        link: Link,
        upkeep: Upkeep,
        host: Host,
        instances: Instances,
        log: EventLog,
        *,
        ownership: Ownership,
        shadows: Shadows,
        attempts: Attempts,
        switchover: Switchover,
    ) -> None:
        self._config, self._dp, self._link, self._log = config, datapath, link, log
        self._upkeep, self._host, self._instances = upkeep, host, instances
        self._ownership, self._shadows, self._attempts = ownership, shadows, attempts
        self._switchover = switchover
        self._left: set[int] = set()
        """Services that this node has taken itself out of."""
        self._tried_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def expose(self, why: str) -> None:
        """Be out of it as far as possible; said again with each look."""
        if not self._attempts.closed:
            self._log.error("withdrawing", f"this node fences itself: {why}")
        self._attempts.closed = self._shadows.closed = why
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._withdraw(why))

    def end(self) -> None:
        """All is well again: be a part of the pair as after a start."""
        self._attempts.closed = self._shadows.closed = ""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._return())

    async def close(self) -> None:
        """Stop what is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _withdraw(self, why: str) -> None:
        for number, _ in enumerate(self._config.service):
            if self._ownership.state(number) == Owner.OWNER:
                await self._hand_over(number)
        for number, service in enumerate(self._config.service):
            if number in self._left or self._ownership.state(number) == Owner.OWNER:
                continue
            self._left.add(number)
            self._dp.service_set(number, Owner.NONE)
            self._shadows.discard_all()
            where = self._instances.interface(number)
            for address in service.addresses:
                self._upkeep.waived.add((where.name, address))
                await self._host.remove_address(where.ifindex, address)
            self._log.error(
                "withdrawn", f"service {service.name}: this node has no part in it: {why}"
            )
        if len(self._left) == len(self._config.service):
            self._link.close(f"this node fences itself: {why}")

    async def _hand_over(self, number: int) -> None:
        if not self._link.up or time.monotonic() - self._tried_s < MOVE_AGAIN_S:
            return
        self._tried_s = time.monotonic()
        try:
            await self._switchover.move(number)
        except (NotSafeError, SwitchoverError) as error:
            self._log.error("withdrawing", f"this node goes on as it is: {error}")

    async def _return(self) -> None:
        for number in sorted(self._left):
            service = self._config.service[number]
            where = self._instances.interface(number)
            try:
                for address in service.addresses:
                    await self._host.add_address(where.ifindex, address)
                    self._upkeep.waived.discard((where.name, address))
            except KernelError as error:
                self._log.error("withdrawn", str(error))
                return
        self._left.clear()
        self._link.open()
        self._log.info("returned", "prl's programs are first in line again: this node is back")
