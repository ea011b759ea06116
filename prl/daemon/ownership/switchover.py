"""Planned moves of a service (SPEC R21): asked for here, done by the datapath.

request ─▶ datapath: drain, silence, word ─▶ done: the other node has it
                │                         └─▶ undone: all is as it was, with the reason
                └─ link lost after the word ─▶ unsure ─ HELLO, or nobody answers probes ─▶ resumed

Sessions that prld was not asked for have no flow: they are counted here before the datapath is
asked, by the owner also when the other node asks. Once the service is given away, those that were
not given up by then are ended, and the new owner is told, so that their peers hear of it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from prl.bindings import wire
from prl.bindings.datapath import Datapath, Event
from prl.bindings.facts import Moved, Owner, Reason
from prl.bindings.native import lib
from prl.bindings.programs import Strangers
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.events.record import Level
from prl.daemon.link.link import Link
from prl.daemon.ownership.ownership import Ownership
from prl.endpoint import show_endpoint, unmapped
from prl.errors import KernelError, NotSafeError, PrlError

_NS_PER_MS = 1e6
_ANSWER_MARGIN_S = 2.0
"""Beyond the deadlines of the datapath: for a control plane that is busy."""
_UNCOUNTED = 0xFFFFFFFF
"""In place of how many sessions would be lost: it could not be told."""
_REMEDY = {
    Reason.LINK_LOST: "the link is down or silent; bring it up",
    Reason.REQUESTED: "the other node's prld cannot do it; upgrade that",
    Reason.NOT_OWNER: "this node has no part in it",
    Reason.UNPROTECTED: (
        "a session has no good shadow on the other node (`prlctl flow list`); wait until it is "
        "protected, or use `prlctl demote`, which loses it"
    ),
    Reason.BUSY: "a move of it is under way",
    Reason.TIMEOUT: "it did not become quiet within timing.switchover_ms",
    Reason.LEASE_OVER: "the other node has no lease yet; try again",
    Reason.NO_LAN: "the other node does not hear the LAN either; see its cables",
    Reason.NOT_ACTIVE: "the other node does not stand by for it",
}


class SwitchoverError(PrlError):
    """A move that failed underway, or of which it is not known yet how it ends."""


class Switchover:
    """The moves of all services."""

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        link: Link,
        log: EventLog,
        ownership: Ownership,
        strangers_of: Callable[[int], Strangers],
    ) -> None:
        """``strangers_of``: the sessions of a service that prld was not asked for (KernelError).

        Of them as many are named as the other node can be told of.
        """
        self._config, self._dp, self._link, self._log = config, datapath, link, log
        self._ownership, self._strangers_of = ownership, strangers_of
        self._waiting: dict[int, asyncio.Future[Event]] = {}
        self._probing: dict[int, asyncio.Task[None]] = {}

    def strangers(self, number: int) -> int:
        """How many sessions a move of the service loses that prld was not asked for.

        Raises NotSafeError: they cannot be counted.
        """
        try:
            return self._strangers_of(number).count
        except KernelError as error:
            raise NotSafeError(f"{self._not_moved(number)}: {error}") from error

    async def move(
        self, number: int, *, forced: bool = False, despite_strangers: bool = False
    ) -> dict[str, Any]:
        """Move a service to the other node, or here when this one stands by for it.

        ``forced``: sessions that are not protected may be lost. ``despite_strangers``: of these
        only such as prld was not asked for.

        Raises:
            NotSafeError: refused, with the reason; nothing has changed.
            SwitchoverError: it failed underway: nothing has changed, or it is not known yet.
        """
        name = self._config.service[number].name
        was_owner = self._ownership.state(number) == Owner.OWNER
        if number in self._waiting:
            raise NotSafeError(f"{self._not_moved(number)}: {_REMEDY[Reason.BUSY]}")
        # Without a link the datapath refuses, and that is the reason to be told.
        if was_owner and self._link.up and not forced and not despite_strangers:
            self._require_no_strangers(number)
        told = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            reason = self._dp.switchover(number, forced=forced)
            if reason:
                raise NotSafeError(f"{self._not_moved(number)}: {_words(reason)}")
            timing = self._config.timing
            deadline_s = (2 * timing.switchover_ms + timing.hold_ms) / 1000 + _ANSWER_MARGIN_S
            async with asyncio.timeout(deadline_s):
                event = await told
        except TimeoutError:
            raise SwitchoverError(
                f"service {name}: the move has no end yet; see `prlctl events`"
            ) from None
        finally:
            del self._waiting[number]
        outcome = Moved(event.state)
        if outcome == Moved.UNDONE:
            raise NotSafeError(f"{self._not_moved(number)}: {_words(event.reason, event.seq)}")
        if outcome != Moved.DONE:
            raise SwitchoverError(
                f"service {name}: the link was lost in the middle of the move; see `prlctl events`"
            )
        other = self._link.other.node if self._link.other else ""
        silent_ms = round((event.value2 - event.value) / _NS_PER_MS, 3) if was_owner else None
        return {
            "service": name,
            "from": self._config.node if was_owner else other,
            "to": other if was_owner else self._config.node,
            "sessions": event.seq if was_owner else None,
            "silent_ms": silent_ms,
        }

    def _not_moved(self, number: int) -> str:
        return f"service {self._config.service[number].name} is not moved"

    def _require_no_strangers(self, number: int) -> None:
        """Raises NotSafeError."""
        if count := self.strangers(number):
            raise NotSafeError(f"{self._not_moved(number)}: {_words(Reason.NOT_ASKED, count)}")

    def on_asked(self, event: Event) -> None:
        """PRL_EVENT_MOVE_ASKED: the other node asks for a service of this one's."""
        number, forced = event.service, bool(event.bits & lib.PRL_MOVE_FORCED)
        try:
            strangers = 0 if forced else self._strangers_of(number).count
        except KernelError as error:
            self._log.error("switchover", f"{self._not_moved(number)}: {error}")
            strangers = _UNCOUNTED
        self._dp.switchover_asked(number, forced=forced, asked_ns=event.value, strangers=strangers)

    def on_move(self, event: Event) -> None:
        """PRL_EVENT_MOVE."""
        told = self._waiting.get(event.service)
        if told is not None and not told.done():
            told.set_result(event)
        name, outcome = self._config.service[event.service].name, Moved(event.state)
        owns = self._ownership.state(event.service) == Owner.OWNER
        words = {
            Moved.DONE: "moved here" if owns else "moved to the other node",
            Moved.UNDONE: f"not moved: {_words(event.reason, event.seq)}",
            Moved.UNSURE: "the link was lost as it was given to the other node: silent until it is "
            "known who has it",
            Moved.RESUMED: "the other node did not take it: this node has it again",
        }[outcome]
        level: Level = "info" if outcome == Moved.DONE else "warning"
        self._log.post(level, "switchover", f"service {name}: {words}", service=name)
        if outcome == Moved.DONE and not owns:  # the new owner's take-over tells of its part
            self._end_strangers(event.service)
            mine = self._ownership.state(event.service)
            self._ownership.tell(event.service, mine, "moved to the other node")
        if outcome == Moved.RESUMED and owns:
            self._ownership.tell(event.service, Owner.OWNER, "the other node did not take it")

    def _end_strangers(self, number: int) -> None:
        name = self._config.service[number].name
        try:
            found = self._strangers_of(number)
        except KernelError:
            return
        if found.count:
            first = found.named[0]
            end = show_endpoint(unmapped(first.remote), first.remote_port)
            self._log.warning(
                "strangers_lost",
                f"service {name}: the move has cost sessions that prld was not asked for: "
                f"{found.count}, that of {end} first",
                service=name,
                lost=found.count,
            )
            self._ownership.end_strangers(number, found.named)

    def on_probe(self, event: Event) -> None:
        """PRL_EVENT_PROBE: the other's lease is over, and it is unknown whether it took over."""
        number = event.service
        if number in self._probing:  # on a LAN that answers late; the event comes again
            return
        task = asyncio.get_running_loop().create_task(self._probe(number))
        self._probing[number] = task
        task.add_done_callback(lambda _: self._probing.pop(number))

    async def _probe(self, number: int) -> None:
        users = await self._ownership.users_of(number)
        if users is not None:
            self._dp.switchover_resolve(number, taken=bool(users))


def _words(reason: int, count: int = 0) -> str:
    """``count``: of the sessions that would be lost."""
    known = Reason(reason) if reason in Reason.__members__.values() else None
    if known == Reason.NOT_ASKED:
        how_many = "an unknown number" if count == _UNCOUNTED else count
        return (
            f"{how_many} of its TCP sessions would be lost, for prld was not asked for them; have "
            "them protected, wait until they have ended, or use `prlctl demote` on their node"
        )
    return _REMEDY.get(known, wire.reason_text(reason)) if known else wire.reason_text(reason)
