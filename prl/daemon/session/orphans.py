"""Sessions whose application has died: what becomes of them costs no others more (SPEC R19, R22).

death ─┬─ not protected ──▶ it ends
       └─ protected ─▶ wait ─┬─ the other node's application dies of the same ──▶ it ends
                             ├─ a move saves more sessions than it loses ──▶ the service moves
                             └─ not within DECIDE_S, or too many moves ──▶ it ends alone
"""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from prl.daemon.events.log import EventLog
from prl.daemon.session.sessions import Session
from prl.errors import NotSafeError, PrlError

VERDICT_S: Final = 0.25
"""While others live the service does not move at once: what a program was told may let the other
node's program die as well, or more may be dying here."""
DECIDE_S: Final = 1.0
"""So long a move that is refused, or would lose too much, is tried again as sessions change."""
MOVES_MAX: Final = 3
"""So often within MOVES_S a service that has others moves for the sake of the dead."""
MOVES_S: Final = 60.0


class Moves(Protocol):
    """Planned moves; prl.daemon.ownership.switchover.Switchover."""

    async def move(self, number: int, *, forced: bool = False) -> object:
        """Move a service to the other node. Raises NotSafeError when refused, else PrlError."""

    def strangers(self, number: int) -> int:
        """How many sessions it loses that prld was not asked for. Raises NotSafeError."""


@dataclass(frozen=True)
class Tally:
    """The live sessions of one service."""

    saved: list[Session]
    """Orphans that the other node could go on with."""
    others: int
    """Those that have an application."""
    lost: int
    """Others that are not protected, be it that prld was not asked for them: a move loses them."""

    @staticmethod
    def of(sessions: Iterable[Session], idle: int = 0) -> "Tally":
        """Count them, and so many that are protected and not named."""
        orphans, others = [], []
        for session in sessions:
            if session.orphan:
                orphans.append(session)
            elif not session.closing:
                others.append(session)
        return Tally(
            [session for session in orphans if session.state == "active"],
            len(others) + idle,
            sum(session.state != "active" for session in others),
        )

    def with_strangers(self, count: int) -> "Tally":
        """Beside so many sessions that prld was not asked for."""
        return replace(self, others=self.others + count, lost=self.lost + count)


class Orphans:
    """The orphans of all services that this node owns."""

    def __init__(
        self,
        log: EventLog,
        moves: Moves,
        sessions_of: Callable[[int], Iterable[Session]],
        owns: Callable[[int], bool],
        name_of: Callable[[int], str],
        end: Callable[[Session, str], None],
        idle: Callable[[int], int] = lambda _: 0,
    ) -> None:
        """``end`` lets an orphan end here, in these words why the other node does not go on.

        ``idle`` tells how many protected sessions of a service are not among ``sessions_of``.
        """
        self._idle = idle
        self._log, self._moves, self._sessions_of = log, moves, sessions_of
        self._owns, self._name_of, self._end = owns, name_of, end
        self._news: dict[int, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved_s: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=MOVES_MAX))

    def decide(self, service: int) -> None:
        """The service has an orphan more."""
        if service in self._news:
            self.changed(service)
            return
        self._news[service] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._decide(service))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reconsider(self, service: int) -> None:
        """A move has ended, which may be undone after nobody waited for its end any more."""
        if service not in self._news and self._tally(service).saved:
            self.decide(service)

    def changed(self, service: int) -> None:
        """A session of the service has another state."""
        if (news := self._news.get(service)) is not None:
            news.set()

    async def _decide(self, service: int) -> None:
        try:
            why = await self._hand_over(service)
        finally:
            del self._news[service]
        left = self._tally(service).saved if why else []
        if left:
            self._log.error("renounce_failed", why, service=self._name_of(service))
        for session in left:
            self._end(session, why)

    async def _hand_over(self, service: int) -> str:
        """Move the service for its orphans; why not, when they must end here."""
        loop, news = asyncio.get_running_loop(), self._news[service]
        began_s, why = loop.time(), "it was not decided in time"
        while (now := self._tally(service)).saved and self._owns(service):
            news.clear()
            until_s = began_s + DECIDE_S
            if not now.others or loop.time() >= began_s + VERDICT_S:  # it may move
                try:
                    now = now.with_strangers(self._moves.strangers(service))
                except NotSafeError as uncounted:
                    return str(uncounted)
            if now.others and loop.time() < began_s + VERDICT_S:
                until_s = began_s + VERDICT_S
            elif now.others and self._is_too_often(service):
                return f"deaths have moved the service {MOVES_MAX} times in {MOVES_S:.0f} s"
            elif now.lost >= len(now.saved):
                why = f"{now.lost} others are not protected, and would be lost"
            else:
                try:
                    await self._move(service, now)
                except NotSafeError as refused:
                    why = str(refused)
                else:
                    return ""
            if loop.time() >= began_s + DECIDE_S:
                return why
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until_s):
                    await news.wait()
        return ""

    def _tally(self, service: int) -> Tally:
        return Tally.of(self._sessions_of(service), self._idle(service))

    def _is_too_often(self, service: int) -> bool:
        moved_s = self._moved_s[service]
        now_s = asyncio.get_running_loop().time()
        return len(moved_s) == MOVES_MAX and now_s - moved_s[0] < MOVES_S

    async def _move(self, service: int, now: Tally) -> None:
        """Raises NotSafeError: nothing has changed."""
        first = now.saved[0]
        try:
            await self._moves.move(service, forced=now.lost > 0)
        except NotSafeError:
            raise
        except PrlError as error:  # what becomes of them is told when it is known
            self._log.warning("renounce_failed", str(error), service=self._name_of(service))
            return
        self._moved_s[service].append(asyncio.get_running_loop().time())
        self._log.warning(
            "renounced",
            f"{first.ends}: its application ({first.client.name}) died: the other node goes on",
            service=self._name_of(service),
            handle=first.handle,
        )
