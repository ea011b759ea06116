"""What a former life of prld left on this node, and what of it is adopted (SPEC L9).

Its programs and maps outlive a prld that dies: a standby stays silent, an owner goes on, its flows
bypassed. A new prld takes the maps over as they are, and lays its own programs in the place of the
old ones; nothing of this is noticed by anybody. It then asks for each service that was owned
whether it still is, and leaves it to the old rules until it knows:

    the kernel says FENCED, or that a claim came while it was being moved ─▶ its sockets end (L8)
    the kernel says OWNER: no claim with the other node's token has come, also while nobody looked,
    and the node was not silent for want of a word
    ─▶ the other node's lease is over: from now on it cannot take over any more; or, where there is
       an arbiter, this node may go on without the other one
    ─▶ nobody on the LAN answers for the addresses, and somebody answers this node ─▶ still OWNER
A word over the link is not waited for: should the other node own it after all, HELLO settles it by
the higher term, which outlives prld, too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from prl.bindings.facts import Owner
from prl.bindings.programs import Kernel
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.ownership import probe
from prl.daemon.ownership.evidence import Evidence
from prl.endpoint import mapped

if TYPE_CHECKING:
    from prl.daemon.ownership.arbiter import Arbiter

LEASE_POLL_S = 0.01
"""How often the kernel's tables are looked at while the other node's lease may last."""
WAIT_MAX_NS = 10_000_000_000
"""A lease that would last longer is none: the policy is stop, and nothing opens by itself."""


class Inheritance:
    """The services that this node owned, found out before its datapath begins."""

    def __init__(
        self,
        config: Config,
        kernel: Kernel,
        lans: Instances,
        log: EventLog,
        *,
        arbiter: "Arbiter | None",
        evidence: Callable[[], Awaitable[Evidence]],
    ) -> None:
        self._config, self._kernel, self._lans, self._log = config, kernel, lans, log
        self._arbiter, self._evidence = arbiter, evidence
        self.won = False
        """The arbiter has said so."""

    def _owned(self) -> set[int]:
        """As the kernel's table has it now."""
        return {
            number
            for number, service in enumerate(self._config.service)
            if not self._kernel.is_silent(number)
            and all(
                self._kernel.address_state(mapped(address), self._lans.interface(number).ifindex)
                == Owner.OWNER
                for address in service.addresses
            )
        }

    def _end_what_was_taken(self) -> None:
        """Behind the silence that there still is: older than what the peers know by now (L8)."""
        for number, service in enumerate(self._config.service):
            ifindex = self._lans.interface(number).ifindex
            if not any(self._kernel.was_taken(mapped(one), ifindex) for one in service.addresses):
                continue
            if ended := self._lans.end_connections(number):
                self._log.warning(
                    "ghosts_ended",
                    f"service {service.name}: {len(ended)} connections that were left here are "
                    "ended: the other node took it over",
                )

    async def settle(self) -> frozenset[int]:
        """The services that are this node's for certain. Raises KernelError."""
        self._end_what_was_taken()
        if not self._owned() or not await self._is_alone():
            return frozenset()
        kept: set[int] = set()
        for number in sorted(self._owned()):
            service = self._config.service[number]
            # Its kernel speaks for them, and a silent owner over there that asks is answered.
            users = await probe.users_of(
                *(service, self._lans.interface(number), self._log, await self._evidence()),
                defends=True,
            )
            if users is None:
                continue
            if users:
                self._log.warning(
                    "address_in_use",
                    f"service {service.name}: {min(map(str, users))} answers on the LAN: it is not "
                    "this node's any more",
                )
                continue
            kept.add(number)
        kept &= self._owned()  # a claim may have come while the others were asked for
        for number in kept:
            name = self._config.service[number].name
            self._log.warning(
                "adopted", f"service {name}: owned before, and still: its sessions go on"
            )
        return frozenset(kept)

    async def _is_alone(self) -> bool:
        if self._arbiter is None:
            return await self._lease_is_over()
        # The kernel goes by what it was told, meanwhile: what it lets pass, this node may say.
        until_s = time.monotonic() + self._config.timing.start_wait_ms / 1000
        while (won := await self._arbiter.start()) is None and not self._arbiter.falls_back:
            if time.monotonic() >= until_s:
                break
            await asyncio.sleep(LEASE_POLL_S)  # a store that refuses does so at once
        if won is None and self._arbiter.falls_back:
            return await self._lease_is_over()
        self.won = bool(won)
        return self.won

    async def _lease_is_over(self) -> bool:
        while not self._kernel.bypassed:
            left_ns = self._kernel.open_at_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if left_ns <= 0:
                break
            if left_ns > WAIT_MAX_NS or not self._owned():
                return False
            await asyncio.sleep(LEASE_POLL_S)  # a claim in XDP, or the kernel's opening: no event
        return True
