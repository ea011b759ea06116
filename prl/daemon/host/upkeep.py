"""What others change on this host while prld runs: noticed, put back, or said (SPEC L1, L9).

    netlink: an address or an interface changed ─┐
    LOOK_AGAIN_S have passed ────────────────────┴▶ look ─┬─ service addresses, sysctls ─▶ put back
                                                          └─ the rest ─▶ `wrong`, for status

An address that is put back is as silent as it was: that is a matter of the kernel's address table,
not of the interface. An interface that was deleted took prl's programs along: when there is one of
its name again, prld must start again. So it must when an interface has got another MAC address, by
which the programs know their own frames.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from prl.bindings.datapath import LogicalInterface
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host, Seen, Sysctls
from prl.endpoint import Address
from prl.errors import KernelError

LOOK_AGAIN_S: Final = 2.0
"""A netlink message may be lost."""
CUT_OFF_S: Final = 1.0
"""An interface that has no network for so long is cut off: less is a port that flaps."""
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_EVENT_BYTES = 65536
_EVENTS_AT_ONCE = 256


class Upkeep:
    """Keeps addresses and sysctls as they must be; run() is a task for the daemon's whole life.

    ``looked`` is called after each look, ``restored`` awaited when something of the network was
    away and is back.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        lans: Instances,
        sysctls: Sysctls,
        log: EventLog,
        *,
        looked: Callable[[], None],
        restored: Callable[[], Awaitable[None]],
        carrier: Callable[[int, bool], None],
    ) -> None:
        self._config, self._host, self._lans = config, host, lans
        self._sysctls, self._log, self._restored = sysctls, log, restored
        self._looked, self._carrier = looked, carrier
        self._wanted: dict[str, list[Address]] = {each.name: [] for each in lans.interfaces}
        for number, service in enumerate(config.service):
            self._wanted[lans.interface(number).name] += service.addresses
        self._changed = asyncio.Event()
        self.waived: set[tuple[str, Address]] = set()
        """Service addresses that are not wanted now, by interface (withdrawal.py)."""
        self.wrong = ""
        """What is not as it must be and could not be put back, in words."""
        self._without_carrier: set[int] = set()
        self._without_network: dict[str, tuple[float, str]] = {}
        """Interfaces that are down or without a carrier: since when, and which of the two."""

    async def run(self) -> None:
        """Look whenever something changed, until cancelled.

        Raises:
            KernelError: an interface was made anew, or has got another MAC address.
        """
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        events.setblocking(False)
        events.bind((0, _GROUPS))
        loop = asyncio.get_running_loop()
        loop.add_reader(events, self._on_events, events)
        try:
            while True:
                await self.look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._changed.wait()
                self._changed.clear()
        finally:
            loop.remove_reader(events)
            events.close()

    def _on_events(self, events: socket.socket) -> None:
        self._changed.set()
        for _ in range(_EVENTS_AT_ONCE):
            try:
                events.recv(_EVENT_BYTES)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more than we could read; we look in any case
                continue

    @property
    def cut_off(self) -> dict[str, str]:
        """Interfaces that have had no network for CUT_OFF_S, and why."""
        until_s = time.monotonic() - CUT_OFF_S
        return {n: why for n, (since_s, why) in self._without_network.items() if since_s <= until_s}

    async def look(self) -> None:
        """Put back what is missing. Raises KernelError as run() does."""
        problems: list[str] = []
        put_back: list[str] = []
        for interface in self._lans.interfaces:
            found = await self._host.look(interface.name)
            if found.ifindex and found.ifindex != interface.ifindex:
                raise KernelError(
                    f"{interface.name} was deleted and made anew, and prl's programs went with the "
                    "old one: start prld again (its service manager should)"
                )
            if found.ifindex and found.mac != interface.mac:
                raise KernelError(
                    f"{interface.name} has the MAC address {found.mac.hex(':')} now, and "
                    f"had {interface.mac.hex(':')} when prld started: what is held would not "
                    "leave any more; start prld again (its service manager should), and give a "
                    "bridge or bond a MAC address that stays"
                )
            if not found.ifindex:
                problems.append(f"interface {interface.name} is gone")
                continue
            wanted = self._wanted[interface.name]
            missing = [
                address
                for address in wanted
                if address not in found.addresses and (interface.name, address) not in self.waived
            ]
            await self._remove_waived(interface, found.addresses)
            added, failed = await self._put_back(interface, missing)
            put_back += [f"{each} on {interface.name}" for each in added]
            problems += [f"{each} is missing: {why}" for each, why in failed.items()]
            problems += self._own_address(interface.name, found.addresses)
            self._feed(found)
            problems += self._network(interface.name, found)
        with contextlib.suppress(KernelError):  # of an interface that is just going
            put_back += [f"{name} = {value}" for name, value in self._sysctls.reapply()]
        await self._tell(put_back, "; ".join(problems))
        self._looked()

    async def _remove_waived(self, interface: LogicalInterface, there: frozenset[Address]) -> None:
        for address in there:
            if (interface.name, address) in self.waived:
                await self._host.remove_address(interface.ifindex, address)

    async def _put_back(
        self, interface: LogicalInterface, missing: Sequence[Address]
    ) -> tuple[list[Address], dict[Address, str]]:
        """Those that were added, and those that could not be, with the reason."""
        added: list[Address] = []
        failed: dict[Address, str] = {}
        for address in missing:
            if (interface.name, address) in self.waived:  # since the look
                continue
            try:
                await self._host.add_address(interface.ifindex, address)
            except KernelError as error:
                failed[address] = str(error)
            else:
                added.append(address)
        return added, failed

    def _own_address(self, name: str, there: frozenset[Address]) -> list[str]:
        lan = self._config.lan
        if name != lan.interface:
            return []
        return [
            f"lan address {own} is not on {name}"
            for own in (lan.address, lan.address6)
            if own is not None and own not in there
        ]

    def _feed(self, found: Seen) -> None:
        """Shadows are fed, and moved sessions, whether or not the LAN is there."""
        if found.has_carrier == (found.ifindex not in self._without_carrier):
            return
        self._carrier(found.ifindex, found.has_carrier)
        self._without_carrier ^= {found.ifindex}

    def _network(self, name: str, found: Seen) -> list[str]:
        """Whether frames can leave and come."""
        if found.is_up and found.has_carrier:
            self._without_network.pop(name, None)
            return []
        why = (
            f"{name} has no carrier: see its cable and its switch port"
            if found.is_up
            else f"{name} is down"
        )
        since_s, _ = self._without_network.get(name, (time.monotonic(), ""))
        self._without_network[name] = since_s, why
        return [why]

    async def _tell(self, put_back: list[str], wrong: str) -> None:
        if put_back:
            self._log.warning(
                "put_back",
                f"somebody took away {', '.join(put_back)}: it is put back; find out who manages "
                "these interfaces (`prlctl doctor`)",
            )
        if wrong and wrong != self.wrong:
            self._log.error("host_changed", wrong)
        is_back = bool(put_back) or (bool(self.wrong) and not wrong)
        if self.wrong and not wrong:
            self._log.info("host_restored", "interfaces and addresses are as they must be again")
        self.wrong = wrong
        if is_back:
            await self._restored()
