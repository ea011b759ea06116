"""Which services this node owns, and since which term (SPEC section 6, docs/failover.md).

The datapath decides about take-overs; here is what is decided once: at start, at HELLO, and when a
silent owner has asked the LAN. Terms are the datapath's, and outlive prld: the other node's claims
are judged by them.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from prl.bindings.datapath import Datapath, Tuple
from prl.bindings.facts import Fenced, Owner, Refused, Silence
from prl.bindings.programs import Stranger
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host import orphaned_sockets
from prl.daemon.host.instances import Instances
from prl.daemon.link import hello
from prl.daemon.link.hello import ServiceState
from prl.daemon.ownership import probe
from prl.daemon.ownership.evidence import Evidence
from prl.endpoint import Address
from prl.errors import KernelError, PrlError, UsageError

if TYPE_CHECKING:
    from prl.daemon.ownership.arbiter import Arbiter

PROBE_AGAIN_S = 2.0
"""How long an address that somebody else uses is left alone before it is probed again."""
SEEK_AGAIN_S = (0.1, 0.4)
"""Between two attempts of a silent owner, drawn anew each time: two that probe at once would take
each other for the owner."""

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
    Refused.HEARD: "the other node was heard while it was being fenced, so that it is not dead",
    Refused.ARBITER: (
        "the arbiter decides who goes on, and is asked as soon as the other node is not heard any "
        "more; if that is certainly dead, use --fenced"
    ),
}
SILENCE = {
    Silence.NOT: "",
    Silence.NO_LAN: (
        "no link, and nobody on the LAN answers: this node may be the one that is cut off"
    ),
    Silence.FROZEN: "it was stopped, and may have been replaced meanwhile",
    Silence.STOP: (
        "no link, and policy stop: the other node may take over at any time; if it is certainly "
        "dead, use `prlctl takeover --fenced`"
    ),
    Silence.ARBITER: (
        "the other node is not heard, and the arbiter has not said that this one goes on; if the "
        "other is certainly dead, use `prlctl takeover --fenced`"
    ),
}
"""Why an owner is silent, in words."""


class TakeoverRefusedError(PrlError):
    """A take-over that is not safe."""


class Ownership:
    """This node's part in each service.

    ``usable_shadows`` counts the good ones of a service; ``end_lost`` ends its sessions that cannot
    go on, now that this node owns it; ``end_taken`` those that the other node took over (L8),
    and ``left_behind`` is told of those of which this node knew nothing, and whether it gave the
    service away itself.
    ``replaceable`` is called when the other node may take over unnoticed; ``known_again`` once it
    has said what it knows, with the services that are this node's.
    """

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        instances: Instances,
        log: EventLog,
        *,
        arbiter: "Arbiter | None",
        evidence: Callable[[], Awaitable[Evidence]],
        usable_shadows: Callable[[int], int],
        end_lost: Callable[[int], object],
        end_taken: Callable[[int], object],
        left_behind: Callable[[list[Tuple], int, bool], object],
        replaceable: Callable[[], object],
        known_again: Callable[[Collection[int]], object],
    ) -> None:
        self._arbiter, self._evidence = arbiter, evidence
        self._config, self._dp, self._instances, self._log = config, datapath, instances, log
        self._usable_shadows, self._end_lost = usable_shadows, end_lost
        self._end_taken, self._left_behind = end_taken, left_behind
        self._replaceable, self._known_again = replaceable, known_again
        self.left: set[int] = set()
        """Services that this node has taken itself out of (withdrawal.py)."""
        self._settled = asyncio.Event()
        self._begun = asyncio.Event()
        self._begun.set()
        self._seeking: asyncio.Task[None] | None = None

    def state(self, service: int) -> Owner:
        """What this node is for a service, now."""
        return self._dp.service_state(service)

    @property
    def terms(self) -> list[int]:
        """Of each service: how often it has changed hands, as far as this node knows."""
        return [self._dp.term(number) for number in range(len(self._config.service))]

    def describe(self, *, counted: bool = True) -> tuple[ServiceState, ...]:
        """All services, for HELLO. Raises KernelError: their sessions cannot be counted.

        Not ``counted`` they are said to have none, and the host's sockets are not looked at.
        """
        status = self._dp.status()
        states = status.services[: len(self._config.service)]
        sessions = self._sessions(states) if counted else [0] * len(states)
        return tuple(
            ServiceState(
                name=service.name,
                addresses=[str(address) for address in service.addresses],
                owner=service.owner,
                instance=service.instance,
                lif=self._config.lifs[service.instance],
                state=states[number],
                term=self._dp.term(number),
                sessions=sessions[number],
                given=self._dp.is_given(number),
                silent=(1 + status.unheard) * (status.silent_mask >> number & 1),
                policy=self._config.policy,
                arbiter=self._arbiter_words(),
                witnesses=tuple(map(str, self._config.lan.witnesses)),
                out=number in self.left and states[number] != Owner.OWNER,
            )
            for number, service in enumerate(self._config.service)
        )

    def _arbiter_words(self) -> str:
        settings = self._config.arbiter
        return f"{settings.pair}, {settings.policy}" if settings.is_there else ""

    def _sessions(self, states: Sequence[Owner]) -> list[int]:
        """Of each service what settles whose it is; an owner's is its own whatever it has."""
        for number, state in enumerate(states):
            if state == Owner.FENCED:  # its event may be behind this HELLO, and they count no more
                self._end_taken(number)
        # Sessions of before a restart of prld: whoever has them should go on with them.
        addresses = {
            address
            for number, service in enumerate(self._config.service)
            if states[number] in {Owner.NONE, Owner.FENCED}
            for address in service.addresses
        }
        there = orphaned_sockets.established_on(addresses) if addresses else Counter()
        return [self._count(number, state, there) for number, state in enumerate(states)]

    def _count(self, number: int, state: Owner, there: Mapping[tuple[Address, int], int]) -> int:
        if state == Owner.OWNER:
            return 0
        if state == Owner.STANDBY:
            return self._usable_shadows(number)
        addresses, devices = self._config.service[number].addresses, self._instances.told_by(number)
        return sum(
            count
            for (address, device), count in there.items()
            if address in addresses and (devices is None or device in devices)
        )

    def settle(self, ours: tuple[ServiceState, ...], theirs: tuple[ServiceState, ...]) -> None:
        """HELLO: decide about every service by what both have said. Raises DatapathError."""
        self._agree_policy(ours, theirs)
        others = []
        for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            state, term = hello.settle(own, other, self._config.node)
            if own.state == Owner.OWNER != other.state:
                others.append(number)
            self._dp.raise_term(number, term)
            if own.given:
                taken = state != Owner.OWNER
                self._dp.switchover_resolve(number, taken=taken, by_hello=True)
                self.tell(number, state, "agreed with the other node")
            elif state != own.state and not own.out:
                self._become(number, state, had=Owner(own.state))
        self._known_again(others)
        self._settled.set()

    def _agree_policy(
        self, ours: tuple[ServiceState, ...], theirs: tuple[ServiceState, ...]
    ) -> None:
        stop = hello.agreed_stop(ours, theirs)
        self._dp.policy(stop=stop)
        other = theirs[0].policy or "continue"
        if other != self._config.policy:
            self._log.warning(
                "policy_differs",
                f"policy is {self._config.policy} here, {other} on the other node: both run with "
                "stop; make them the same in both configurations",
            )

    def _become(self, number: int, state: Owner, *, had: Owner) -> None:
        if (
            state == Owner.OWNER
            and had == Owner.STANDBY
            and self._dp.takeover(number) == Refused.NOT
        ):
            return  # with its shadows; the take-over's event tells the rest
        self._dp.service_set(number, state)
        self.tell(number, state, "agreed with the other node")
        if state == Owner.STANDBY:
            self._end_ghosts(number, lambda: self._instances.end_connections(number))
        elif state == Owner.OWNER:  # without a shadow: whatever session there was has nobody
            self._end_lost(number)

    def end_strangers(self, number: int, strangers: Iterable[Stranger]) -> None:
        """The service was given away, and these sessions of it were not: their peers are told."""
        self._end_ghosts(
            number, lambda: self._instances.end_strangers(number, strangers), by_move=True
        )

    def _end_ghosts(
        self, number: int, end: Callable[[], list[Tuple]], *, by_move: bool = False
    ) -> None:
        """The service lives elsewhere: connections that there still are here are void (L8)."""
        service = self._config.service[number]
        try:
            ended = end()
        except KernelError as error:
            self._log.error("ghosts_left", f"service {service.name}: {error}")
            return
        if ended:
            self._log.warning(
                "ghosts_ended",
                f"service {service.name}: {len(ended)} connections that were left here are ended: "
                "the other node owns it",
            )
            self._left_behind(ended, number, by_move)

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
            term=self._dp.term(number),
        )

    def begin_again(self) -> None:
        """Nothing is settled any more: a start for start_alone()."""
        self._settled.clear()
        self._begun.set()

    async def start_alone(self) -> None:
        """Await a start, prld's own or begin_again(); see it through.

        Takes what this node owns by configuration if the other one stays unheard.
        """
        await self._begun.wait()
        self._begun.clear()
        mine = [
            number
            for number, service in enumerate(self._config.service)
            if self._config.owns_first(service)
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.timing.start_wait_ms / 1000):
                await self._settled.wait()
        while mine and not self._settled.is_set() and not self._begun.is_set():
            if await self._may_be_alone():
                mine = [number for number in mine if not await self._take_if_free(number)]
            if mine:
                await asyncio.sleep(PROBE_AGAIN_S)

    async def _may_be_alone(self) -> bool:
        """What the arbiter says, if there is one (SPEC L12)."""
        if self._arbiter is None:
            return True
        won = await self._arbiter.start()
        if won is None and self._arbiter.falls_back:
            return True
        if not won or self._settled.is_set():
            return False
        # The other node may still speak for what it had, for as long as it would not suspect.
        await asyncio.sleep(self._config.timing.hold_ms / 1000)
        if not self._settled.is_set():
            self._arbiter.won()
        return True

    async def users_of(self, number: int) -> set[Address] | None:
        """The service's addresses that somebody else on the LAN answers for, a LAN that is heard.

        None: it cannot be asked, and the log says why.
        """
        service, lan = self._config.service[number], self._instances.interface(number)
        return await probe.users_of(service, lan, self._log, await self._evidence())

    async def _take_if_free(self, number: int) -> bool:
        users = await self.users_of(number)
        if users is None:
            return False
        service = self._config.service[number]
        if self._settled.is_set() or self.state(number) != Owner.NONE or number in self.left:
            return True  # somebody decided meanwhile
        if users:
            self._log.warning(
                "address_in_use",
                f"service {service.name}: {min(map(str, users))} answers on the LAN, so this node "
                "stays silent; bring the link up, or use `prlctl takeover --fenced`",
                service=service.name,
            )
            return False
        self._dp.raise_term(number, self._dp.term(number) + 1)
        self._dp.service_set(number, Owner.OWNER)
        self.tell(number, Owner.OWNER, "nobody else answers for it, on a LAN that does")
        return True

    def takeover(self, number: int, *, fenced: bool) -> None:
        """The user's word. Raises TakeoverRefusedError with the reason."""
        name = self._config.service[number].name
        vouched = Fenced.BY_OPERATOR if fenced else Fenced.NOT
        refused = self._dp.takeover(number, fenced=vouched)
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
        self._settled.set()
        self.tell(number, Owner.OWNER, "taken over")

    def on_silent(self, why: Silence) -> None:
        """The datapath fell silent as owner, or speaks again."""
        if why == Silence.NOT:
            self._log.info("speaks", "this node speaks again for what it owns")
            for number, service in enumerate(self._dp.status().services):
                if service == Owner.OWNER:
                    self._end_lost(number)  # of sessions that ended meanwhile no peer has heard
            return
        self._log.error("silent", f"this node is silent: {SILENCE[why]}", why=why.name.lower())
        by_word = why in {Silence.STOP, Silence.ARBITER}
        if not by_word:
            self._replaceable()
        if not by_word and (self._seeking is None or self._seeking.done()):
            self._seeking = asyncio.create_task(self._seek())

    async def _seek(self) -> None:
        """Ask the LAN until nobody answers for what is ours, or the silence ends otherwise (L6)."""
        complained = False
        while (status := self._dp.status()).silence in {Silence.NO_LAN, Silence.FROZEN}:
            users = await self._users_of_mine(status.services)
            if not users and self._dp.unanswered(status.now_ns):
                return
            if users and not complained:
                complained = True
                self._log.warning(
                    "address_in_use",
                    f"{min(map(str, users))} answers on the LAN, so this node stays silent until "
                    "the link is back",
                )
            await asyncio.sleep(random.uniform(*SEEK_AGAIN_S))  # noqa: S311 - no secret

    async def _users_of_mine(self, states: Sequence[Owner]) -> set[Address]:
        """What somebody else answers for; all of it where the LAN cannot be asked."""
        mine = [
            (self._instances.interface(number), service.addresses)
            for number, service in enumerate(self._config.service)
            if states[number] == Owner.OWNER
        ]
        try:
            found = await asyncio.gather(*(probe.users(where, what) for where, what in mine))
        except KernelError as error:
            self._log.error("probe_failed", str(error))
            return {address for _, addresses in mine for address in addresses}
        return set().union(*found)

    async def close(self) -> None:
        """Stop asking."""
        if self._seeking is not None:
            self._seeking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._seeking

    def take_fenced(self) -> None:
        """The fence hook succeeded: the expired shadows are the sessions (L5)."""
        for number, service in enumerate(self._config.service):
            if self.state(number) != Owner.STANDBY:
                continue
            refused = self._dp.takeover(number, fenced=Fenced.BY_HOOK)
            if refused != Refused.NOT:
                self._log.error(
                    "fenced_in_vain", f"service {service.name} is not taken: {_REFUSED[refused]}"
                )

    def on_fenced(self, number: int, why: str) -> None:
        """The datapath silenced a service; nothing, if HELLO has decided about it since."""
        if self.state(number) == Owner.FENCED:
            self.tell(number, Owner.FENCED, why)
            self._end_taken(number)
