"""Whoever follows events: told at once, from the ring, and never more than the client takes.

    follow ─▶ past events (if asked for) ─▶ ``exists``, one a thing ─▶ what happens

A follower is a position in the ring of events. What the client does not take yet stays there; if
the ring overruns the position, the client is told how many it missed. So a slow follower costs no
memory, and no other one waits for it.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from prl.control.messages import MessageError
from prl.daemon.control.control import Client
from prl.daemon.events.bounded import Bounded
from prl.daemon.events.log import EventLog
from prl.daemon.events.record import Level, Record
from prl.errors import PrlError

FOLLOWERS_MAX: Final = 16
RECORDS_PER_MESSAGE: Final = 8
"""They fit into a message, unless they are full of what JSON escapes: then each has its own."""
MESSAGES_AT_ONCE: Final = 4
"""To one follower, before others have their turn."""

Thing = tuple[str, dict[str, Any]]
"""In words, and as facts."""


class _Follower:
    def __init__(self, client: Client, things: Iterator[Thing], seq: int, *, past: bool) -> None:
        self.client, self.things = client, things
        self.seq = 0 if past else seq
        """The last event that it was told, or missed."""
        self.begun = seq
        """The last one that comes before what exists."""
        self.sessions = 0


class Followers:
    """All of them; ``things`` enumerates what there is."""

    def __init__(self, log: EventLog, things: Callable[[], Iterator[Thing]]) -> None:
        self._log, self._things = log, things
        self._followers: dict[Client, _Follower] = {}
        self._woken = False
        self._refused = 0
        log.listeners.append(self._wake)

    @property
    def used(self) -> Bounded:
        """Followers."""
        return Bounded(len(self._followers), FOLLOWERS_MAX, self._refused)

    def add(self, client: Client, *, past: bool) -> None:
        """Tell a client from now on; with ``past``, of what has happened before, too.

        Raises:
            PrlError: there are FOLLOWERS_MAX already.
        """
        if client not in self._followers and len(self._followers) >= FOLLOWERS_MAX:
            self._refused += 1
            raise PrlError(f"events have {FOLLOWERS_MAX} followers already; end one of them")
        self._followers[client] = _Follower(client, self._things(), self._log.newest, past=past)
        client.on_drained = self._wake
        self._wake()

    def gone(self, client: Client) -> None:
        """Its connection has ended."""
        self._followers.pop(client, None)

    def _wake(self, _: Record | None = None) -> None:
        if self._followers and not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._woken = False
        more = [self._serve(follower) for follower in list(self._followers.values())]
        if any(more):
            self._wake()

    def _serve(self, follower: _Follower) -> bool:
        """Send what its client takes; returns whether there is more that it would take."""
        for _ in range(MESSAGES_AT_ONCE):
            if follower.client.closed or follower.client.is_behind:
                return False
            records = list(itertools.islice(self._next(follower), RECORDS_PER_MESSAGE))
            if not records:
                return False
            told = [msgspec.to_builtins(record) for record in records]
            try:
                follower.client.send({"event": "records", "records": told})
            except MessageError:
                for one in told:
                    follower.client.send({"event": "records", "records": [one]})
        return True

    def _next(self, follower: _Follower) -> Iterator[Record]:
        """What it is to be told next; bounded by whoever takes of it."""
        while follower.seq < follower.begun:
            yield from self._events(follower, follower.begun - follower.seq)
        for words, facts in follower.things:
            follower.sessions += facts["object"] == "session"
            if facts["object"] == "end":
                facts["sessions"] = follower.sessions
            yield _record(follower.seq, "info", "exists", words, facts)
        yield from self._events(follower, RECORDS_PER_MESSAGE)

    def _events(self, follower: _Follower, most: int) -> Iterator[Record]:
        if (missed := self._log.oldest - 1 - follower.seq) > 0:
            follower.seq += missed
            words = f"{missed} events are missing here: they were not read in time"
            yield _record(follower.seq, "warning", "missed", words, {"count": missed})
        for record in self._log.after(follower.seq, min(most, RECORDS_PER_MESSAGE)):
            follower.seq = record.seq
            yield record


def _record(seq: int, level: Level, event: str, words: str, facts: dict[str, Any]) -> Record:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Record(seq, now, time.monotonic_ns(), level, event, words, facts)
