"""The sessions of one daemon, and the barrier by which it is known what the daemon wants.

A daemon that was started again, or took over, announces its routes over a while, and its own signs
of being done come too early (docs/bgp-front.md). So nothing is told to any peer until every session
is back and fed, every one has answered a ROUTE-REFRESH, and none has spoken for ``SETTLE_S``; or,
where peers change their minds without a pause, until as much time has passed as is enough. A daemon
that lives on without one session has not been started again: the others wait ``LEFT_MAX_S`` for it.
"""

from collections.abc import Callable, Collection
from math import inf

from prl.bgpfront.session import Session, State

SETTLE_S = 0.5
SETTLE_MAX_S = 3.0
"""A daemon whose peers keep it busy is never quiet: then so long after its answer is enough, or as
long as that took."""
READ_MAX_S = 30.0
"""Likewise there is always something that it has still to read: after so long it is asked."""
LEFT_MAX_S = 5.0
"""A daemon that stops ends one session after another. One that has others so long after an end has
ended that one alone: a neighbour that was shut down, or is reset."""
LOOK_AGAIN_S = 0.05
"""What a daemon has not read is looked at so often while it is waited for."""


class Front:
    """Sessions with one daemon.

    Args:
        sessions: all of them; others may be added and removed.
        unread: whether the daemon has not yet read all that was written to it.
    """

    def __init__(self, sessions: Collection[Session], unread: Callable[[], bool]) -> None:
        self.sessions = sessions
        self._unread = unread
        self._asked: frozenset[Session] = frozenset()
        """Those of the barrier, once all of them have been."""
        self._fed_at: float | None = None
        """Since when all that its daemon had to be told then was written to it."""

    def tick(self, now: float) -> float | None:
        """Do what time asks for. Returns when there is more to do, or None."""
        due = [at for session in self.sessions if (at := session.tick(now)) is not None]
        if (again := self._barrier(now)) is not None:
            due.append(again)
        return min(due, default=None)

    def _barrier(self, now: float) -> float | None:
        by_state = {
            state: [s for s in self.sessions if s.state is state and not s.following]
            for state in State
        }
        present = by_state[State.RELAY] + by_state[State.BARRIER]
        until = [_waited_for_until(session, present) for session in by_state[State.ABSENT]]
        if waited_for := [at for at in until if at > now]:
            # What it says to others meanwhile may be that it lacks routes of the one that is away.
            for session in by_state[State.RELAY]:
                session.hold(now)
            self._begin_anew()
            return min((at for at in waited_for if at < inf), default=None)
        waiting = by_state[State.BARRIER]
        if not waiting:
            self._begin_anew()
            return None
        self._asked &= set(waiting)
        if len(self._asked) < len(waiting):
            if self._asked:  # one has come, and what the daemon is fed from it changes the others
                self._begin_anew()
            if not all(session.is_fed() for session in waiting):
                return None
            self._fed_at = now if self._fed_at is None else self._fed_at
            if now < self._fed_at + READ_MAX_S and self._unread():
                return now + LOOK_AGAIN_S
            for session in waiting:
                session.ask(now)
            self._asked = frozenset(waiting)
        return self._wait_for_quiet(waiting, now)

    def _begin_anew(self) -> None:
        self._asked, self._fed_at = frozenset(), None

    def _wait_for_quiet(self, waiting: Collection[Session], now: float) -> float | None:
        again = [at for session in waiting if (at := session.ask_again(now)) is not None]
        if again:
            return min(again)
        quiet = [session.quiet_since() for session in waiting]
        since = [at for at in quiet if at is not None]
        if len(since) < len(quiet):
            return None
        enough = max(
            one.answered_at + max(SETTLE_MAX_S, one.answered_at - one.asked_at) for one in waiting
        )
        if now < enough:
            if now < max(since) + SETTLE_S:
                return min(max(since) + SETTLE_S, enough)
            if self._unread():
                return now + LOOK_AGAIN_S
        for session in waiting:
            session.release(now)
        self._begin_anew()
        return None


def _waited_for_until(absent: Session, present: Collection[Session]) -> float:
    """Until when the others wait for it: until it is back (``inf``), unless the daemon lives on."""
    assert absent.lost_at is not None
    lives_on = any(one.lost_at is None and one.daemon.since <= absent.lost_at for one in present)
    return absent.lost_at + LEFT_MAX_S if lives_on else inf
