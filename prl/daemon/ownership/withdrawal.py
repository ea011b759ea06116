"""A node that cannot keep silence and hold takes itself out of the pair (SPEC I4, I7).

It cannot be silenced, so it must have nothing to say:

    owner ── hands each service over, by a planned move, again and again until it succeeds
             (who has nobody to hand to goes on: its sessions have nobody else)
    else  ── no shadows, no service addresses; and once it owns nothing no link, so that the other
             node counts on nothing here

Looks say again and again how it stands, so that whatever is left undone, as the state changed
meanwhile or the kernel refused, is done with a later one.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

from prl.bindings.datapath import Datapath, DatapathError
from prl.bindings.facts import Owner
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host
from prl.daemon.host.upkeep import Upkeep
from prl.daemon.link.link import Link
from prl.daemon.ownership.ownership import Ownership
from prl.daemon.ownership.switchover import Switchover, SwitchoverError
from prl.daemon.session.attempt import Attempts
from prl.daemon.session.shadows import Shadows
from prl.endpoint import Address
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
        done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._config, self._dp, self._link, self._log = config, datapath, link, log
        self._upkeep, self._host, self._instances = upkeep, host, instances
        self._ownership, self._shadows, self._attempts = ownership, shadows, attempts
        self._switchover = switchover
        self._why = ""
        """Why this node is exposed; empty: it is not."""
        self._tried_s: dict[int, float] = {}
        """When a service was last to be handed over."""
        self._complaint = ""
        self._task: asyncio.Task[None] | None = None
        self._done = done

    @property
    def _services(self) -> range:
        return range(len(self._config.service))

    def expose(self, why: str) -> None:
        """Be out of it as far as possible; said again with each look."""
        if not self._why:
            self._log.error("withdrawing", f"this node fences itself: {why}")
        self._say(why)
        self._go_on(self._withdraw)

    def end(self) -> None:
        """All is well: be a part of the pair as after a start; said again with each look."""
        self._say("")
        if self._ownership.left:
            self._go_on(self._return)

    def _say(self, why: str) -> None:
        self._why = self._attempts.closed = self._shadows.closed = why

    def _go_on(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(work())
            self._task.add_done_callback(self._done)

    async def close(self) -> None:
        """Stop what is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # `done` has seen it
                await self._task

    # -- out

    async def _withdraw(self) -> None:
        await self._leave_what_others_own()
        for number in self._services:
            if self._why and self._owns(number) and await self._has_its_addresses(number):
                await self._hand_over(number)
        await self._leave_what_others_own()
        if self._why and len(self._ownership.left) == len(self._services):
            self._link.close(f"this node fences itself: {self._why}")

    def _owns(self, number: int) -> bool:
        return self._ownership.state(number) == Owner.OWNER

    async def _leave_what_others_own(self) -> None:
        for number in self._services:
            if self._why and not self._owns(number) and not self._is_out(number):
                await self._leave(number)

    def _is_out(self, number: int) -> bool:
        return (
            number in self._ownership.left
            and self._ownership.state(number) == Owner.NONE
            and self._addresses(number) <= self._upkeep.waived
        )

    def _addresses(self, number: int) -> set[tuple[str, Address]]:
        name = self._instances.interface(number).name
        return {(name, address) for address in self._config.service[number].addresses}

    async def _leave(self, number: int) -> None:
        service, where = self._config.service[number], self._instances.interface(number)
        self._ownership.left.add(number)
        self._dp.service_set(number, Owner.NONE)
        self._shadows.discard_all()
        self._upkeep.waived |= self._addresses(number)
        self._log.error(
            "withdrawn", f"service {service.name}: this node has no part in it: {self._why}"
        )
        for address in service.addresses:
            await self._host.remove_address(where.ifindex, address)

    async def _has_its_addresses(self, number: int) -> bool:
        """An owner has: also of a service that it was out of, by the operator's word, say."""
        if number not in self._ownership.left:
            return True
        if not await self._put_back(number):
            return False
        self._ownership.left.discard(number)
        self._link.open()  # there is something to hand over
        return True

    async def _hand_over(self, number: int) -> None:
        now_s = time.monotonic()
        if not self._link.up or now_s - self._tried_s.get(number, -MOVE_AGAIN_S) < MOVE_AGAIN_S:
            return
        self._tried_s[number] = now_s
        try:
            # What cannot be protected here any more would keep all others on a node that cannot
            # be silenced, for as long as it lasts.
            await self._switchover.move(number, despite_strangers=True)
        except (NotSafeError, SwitchoverError, DatapathError) as error:
            self._log.error("withdrawing", f"this node goes on as it is: {error}")

    # -- back

    async def _return(self) -> None:
        for number in sorted(self._ownership.left):
            if not await self._put_back(number) or self._why:
                return
        self._ownership.left.clear()
        self._complaint = ""
        self._log.info("returned", "prl's programs are first in line again: this node is back")
        self._ownership.begin_again()
        self._link.close("this node is back, and greets the other one anew")  # if there is one yet
        self._link.open()

    async def _put_back(self, number: int) -> bool:
        """Have a service's addresses again; False: not all of them yet."""
        where = self._instances.interface(number)
        self._upkeep.waived -= self._addresses(number)
        try:
            for address in self._config.service[number].addresses:
                await self._host.add_address(where.ifindex, address)
        except KernelError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._log.error("withdrawn", f"{error}; trying again")
            return False
        return True
