"""Whether this node is safe, told when it changes: the events ``safe`` and ``unsafe``.

Whatever is posted is a reason to look; some causes (a host's ailment that is over, the age of a
session without protection) only time brings about, so that a look comes every LOOK_S, too.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from prl.bindings.programs import Stranger, Strangers
from prl.daemon.events.log import EventLog
from prl.daemon.events.record import Record
from prl.daemon.monitoring.facts import (
    NodeView,
    Verdict,
    strangers_of,
    verdict_of_node,
    verdict_of_strangers,
)
from prl.daemon.session.sessions import Session

LOOK_S: Final = 1.0
AT_ONCE_S: Final = 0.05
"""After an event: what happens together is looked at together."""
LOOKS_SHARE: Final = 100
"""A look at very many sessions takes its time: they take no more than one part of so many."""
UNPROTECTED_S: Final = 1.0
"""A session that is being set up is no cause yet, nor is one that has just been accepted."""
_OWN: Final = frozenset({"safe", "unsafe"})


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has found."""

    verdict: Verdict
    states: dict[str, int]
    """How many of this node's sessions are in each state."""
    oldest_s: float
    """How long the session has been without protection that has been so the longest."""
    at_s: float
    """CLOCK_MONOTONIC."""


class Safety:
    """The last verdict, and how long sessions have been without protection."""

    def __init__(
        self,
        view: NodeView,
        log: EventLog,
        looks: Iterable[Callable[[Iterable[Session]], object]],
    ) -> None:
        """``looks`` are told what each look finds: the sessions that are not protected."""
        self._view, self._log, self._looks = view, log, tuple(looks)
        self._since: dict[Session, float] = {}
        self._strange: dict[Stranger, float] = {}
        self._changed = asyncio.Event()
        self._told: str | None = None
        self.last = self._look()
        log.listeners.append(self._on_event)

    def _on_event(self, record: Record) -> None:
        if record.event not in _OWN:
            self.hint()

    def hint(self) -> None:
        """Something may be other than it was: look soon."""
        self._changed.set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            began_s = time.monotonic()
            self.last = self._look()
            self._tell(self.last.verdict)
            for look in self._looks:
                look(self._since)
            took_s = time.monotonic() - began_s
            await asyncio.sleep(max(AT_ONCE_S, took_s * LOOKS_SHARE))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            self._changed.clear()

    def _look(self) -> Look:
        now_s = time.monotonic()
        states: dict[str, int] = {}
        since: dict[Session, float] = {}
        for session in self._view.primaries.in_hand():
            states[session.state] = states.get(session.state, 0) + 1
            if session.state != "active":
                since[session] = self._since.get(session, now_s)
        services = range(len(self._view.config.service))
        if idle := sum(map(self._view.primaries.idle, services)):
            states["active"] = states.get("active", 0) + idle
        self._since = since
        first = min(since, key=since.__getitem__, default=None)
        oldest_s = now_s - since[first] if first is not None else 0.0
        view = self._view
        states_here = [view.ownership.state(number) for number, _ in enumerate(view.config.service)]
        verdict = verdict_of_node(view, states_here, link_up=view.link.up)
        if not verdict.cause and first is not None and oldest_s >= UNPROTECTED_S:
            why = self._view.primaries.why_not(first)
            verdict = Verdict("session", f"{first.ends} is not protected: {why}")
        if not verdict.cause:
            strangers, uncounted = strangers_of(self._view)
            verdict = verdict_of_strangers(self._lasting(strangers, now_s))
            verdict = verdict if verdict.cause else uncounted
        return Look(verdict, states, oldest_s, now_s)

    def _lasting(self, found: Strangers, now_s: float) -> Strangers:
        """Without those that may be on their way from the accept() to prld."""
        self._strange = {one: self._strange.get(one, now_s) for one in found.named}
        named = [one for one, since_s in self._strange.items() if now_s - since_s >= UNPROTECTED_S]
        unnamed = found.count - len(found.named)
        return Strangers(len(named) + (unnamed if named else 0), tuple(named))

    def _tell(self, verdict: Verdict) -> None:
        if verdict.cause == self._told:
            return
        self._told = verdict.cause
        if verdict.cause:
            self._log.warning("unsafe", f"not safe: {verdict.words}", cause=verdict.cause)
        else:
            self._log.info("safe", "safe: a switchover would lose nothing")
