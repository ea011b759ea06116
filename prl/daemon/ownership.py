"""Which services this node owns, and since which term (SPEC section 6, docs/architecture.md).

The datapath decides about take-overs; here is what is decided once: at start, and at HELLO. Terms
are kept in memory alone: a node that restarts knows nothing and is told by the other one.
"""

import asyncio
import contextlib
from collections.abc import Callable

from prl.config import Config
from prl.core.datapath import Datapath, Owner, Refused
from prl.daemon import ghosts, hello, probe
from prl.daemon.events import EventLog
from prl.daemon.hello import ServiceState
from prl.daemon.host import live_sessions
from prl.daemon.instances import Instances
from prl.errors import KernelError, PrlError, UsageError

PROBE_AGAIN_S = 2.0
"""How long an address that somebody else uses is left alone before it is probed again."""

_REFUSED = {
    Refused.OWNER: "this node owns it already",
    Refused.LEASE_OVER: (
        "the lease is over, so that the other node may be serving; if it is certainly dead, "
        "use --fenced"
    ),
    Refused.NO_LINK_YET: (
        "the other node has not been heard since this one started; if it is certainly dead, "
        "use --fenced"
    ),
}


class TakeoverRefusedError(PrlError):
    """A take-over that is not safe."""


class Ownership:
    """This node's part in each service; ``usable_shadows`` counts the good ones of a service."""

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        instances: Instances,
        log: EventLog,
        *,
        usable_shadows: Callable[[int], int],
    ) -> None:
        self._config, self._dp, self._instances, self._log = config, datapath, instances, log
        self._usable_shadows = usable_shadows
        self.terms = [0] * len(config.service)
        self._settled = asyncio.Event()

    def state(self, service: int) -> Owner:
        """What this node is for a service, now."""
        return self._dp.service_state(service)

    def describe(self) -> tuple[ServiceState, ...]:
        """All services, for HELLO."""
        states = self._dp.status().services
        return tuple(
            ServiceState(
                name=service.name,
                addresses=[str(address) for address in service.addresses],
                owner=service.owner,
                instance=service.instance,
                lif=self._config.lifs[service.instance],
                state=states[number],
                term=self.terms[number],
                sessions=self._sessions(number, states[number]),
                given=self._dp.is_given(number),
            )
            for number, service in enumerate(self._config.service)
        )

    def _sessions(self, number: int, state: Owner) -> int:
        if state == Owner.STANDBY:
            return self._usable_shadows(number)
        # Sessions of before a restart of prld: whoever has them should go on with them.
        addresses = self._config.service[number].addresses
        if self._instances.is_shared(number):
            return ghosts.count_on(addresses, self._instances.devices(number))
        return live_sessions(addresses)

    def settle(self, theirs: tuple[ServiceState, ...]) -> None:
        """HELLO: decide about every service with the other node's view. Raises DatapathError."""
        for number, (own, other) in enumerate(zip(self.describe(), theirs, strict=True)):
            state, term = hello.settle(own, other, self._config.node)
            self.terms[number] = term
            if own.given:
                taken = state != Owner.OWNER
                self._dp.switchover_resolve(number, taken=taken, by_hello=True)
                self.tell(number, state, "agreed with the other node")
            elif state != own.state:
                self._become(number, state, had=Owner(own.state))
        self._settled.set()

    def _become(self, number: int, state: Owner, *, had: Owner) -> None:
        if (
            state == Owner.OWNER
            and had == Owner.STANDBY
            and self._dp.takeover(number, fenced=False) == Refused.NOT
        ):
            return  # with its shadows; the take-over's event tells the rest
        self._dp.service_set(number, state)
        self.tell(number, state, "agreed with the other node")
        if state == Owner.STANDBY:
            self._end_ghosts(number)

    def _end_ghosts(self, number: int) -> None:
        """The service lives elsewhere: connections that there still are here are void (L8)."""
        service = self._config.service[number]
        try:
            devices = self._instances.devices(number) if self._instances.is_shared(number) else None
            ended = ghosts.end_all_on(service.addresses, devices)
        except KernelError as error:
            self._log.error("ghosts_left", f"service {service.name}: {error}")
            return
        if ended:
            self._log.warning(
                "ghosts_ended",
                f"service {service.name}: {ended} connections that were left here are ended: the "
                "other node owns it",
            )

    def tell(self, number: int, state: Owner, why: str) -> None:
        """Post that this node's part in a service changed."""
        name = self._config.service[number].name
        words = {
            Owner.OWNER: "this node owns it",
            Owner.STANDBY: "this node stands by",
            Owner.FENCED: "this node is fenced and silent",
            Owner.NONE: "this node has no part in it",
        }[state]
        self._log.info(
            "ownership",
            f"service {name}: {words} ({why})",
            service=name,
            state=state.name.lower(),
            term=self.terms[number],
        )

    async def start_alone(self) -> None:
        """Take what this node owns by configuration if the other one stays unheard at start."""
        mine = [
            number
            for number, service in enumerate(self._config.service)
            if self._config.owns_first(service)
        ]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), self._config.timing.start_wait_ms / 1000)
        while mine and not self._settled.is_set():
            mine = [number for number in mine if not await self._take_if_free(number)]
            if mine:
                await asyncio.sleep(PROBE_AGAIN_S)

    async def _take_if_free(self, number: int) -> bool:
        service = self._config.service[number]
        try:
            users = await probe.users(self._instances.interface(number), service.addresses)
        except KernelError as error:
            self._log.error("probe_failed", f"service {service.name}: {error}")
            return False
        if self._settled.is_set() or self.state(number) != Owner.NONE:
            return True  # somebody decided meanwhile
        if users:
            self._log.warning(
                "address_in_use",
                f"service {service.name}: {min(map(str, users))} answers on the LAN, so this node "
                "stays silent; bring the link up, or use `prlctl takeover --fenced`",
                service=service.name,
            )
            return False
        self.terms[number] += 1
        self._dp.service_set(number, Owner.OWNER)
        self.tell(number, Owner.OWNER, "nobody else answers for it")
        return True

    def takeover(self, number: int, *, fenced: bool) -> None:
        """The user's word. Raises TakeoverRefusedError with the reason."""
        name = self._config.service[number].name
        refused = self._dp.takeover(number, fenced=fenced)
        if refused != Refused.NOT:
            raise TakeoverRefusedError(f"service {name} is not taken over: {_REFUSED[refused]}")

    def service_number(self, name: str) -> int:
        """The service of that name; an empty name means the only one. Raises UsageError."""
        names = [service.name for service in self._config.service]
        if not name and len(names) == 1:
            return 0
        if name not in names:
            raise UsageError(f"no service {name!r}; name one of: {', '.join(names)}")
        return names.index(name)

    def on_takeover(self, number: int) -> None:
        """The datapath took a service over."""
        self.terms[number] += 1
        self._settled.set()
        self.tell(number, Owner.OWNER, "taken over")

    def on_fenced(self, number: int, why: str) -> None:
        """The datapath silenced a service."""
        self.tell(number, Owner.FENCED, why)
