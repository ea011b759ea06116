"""One session whose application is on this node: what prld knows of it.

There may be very many, nearly all of them protected and idle: what only a session needs that is not
protected is in an object of its own (Mending), and the socket is the datapath's. One that nothing
happens to has no object at all (known.py).
"""

import asyncio
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from prl.bindings.datapath import Event, Note, Noted, Tuple
from prl.daemon.control.clients import Application, Program
from prl.daemon.session.cloning import shared_ends
from prl.daemon.session.known import Alike
from prl.daemon.session.retries import RETRY_MIN_S
from prl.daemon.session.streams import UNCOUNTED, Streams

STABLE_S = 5.0
"""A session that was protected for so long is tried anew at once, as though it never had failed."""
LIVE = frozenset({"setup", "active", "voiding", "alone", "open", "moved"})


@dataclass(eq=False, slots=True)
class Mending:
    """What is needed of a session while it is not protected."""

    stale: bool
    """The application's bytes belong to an earlier moment (renew)."""
    asked: bool = False
    """The application was asked for new ones and has not answered yet."""
    hopeless: bool = False
    """Trying again is of no use before an application offers itself."""
    hopeful: bool = False
    """Something has changed for the better since the last attempt: the back-off begins anew."""
    late: bool = False
    """The last attempt took longer than it may: which does not tell of this session alone."""
    stray_from: int = -1
    """Its input came in where nobody captures it: so many of its packets had come in rightly."""
    given_up: bool = False
    """Nobody tries again before somebody asks for it."""
    released: bool = False
    """prld is to forget it as soon as it is open."""
    done: "asyncio.Future[Event] | None" = None
    """What the attempt under way waits for."""
    trigger: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One attempt at a time."""
    keeper: "asyncio.Task[None] | None" = None

    def stop(self) -> None:
        """No more attempts by itself."""
        if self.keeper is not None:
            self.keeper.cancel()


@dataclass(frozen=True, slots=True)
class SessionsAlike:
    """What many sessions have alike."""

    client: Application
    application: bytes
    renew: bool

    @property
    def key(self) -> Hashable:
        """Whatever tells them apart."""
        return id(self.client), self.application, self.renew


@dataclass(eq=False, slots=True)
class Session:
    """One session whose application is here, be it from the start or since a take-over."""

    ends: Tuple
    service: int
    client: Application
    application: bytes
    renew: bool = False
    """The application gives its bytes anew for every snapshot but the first."""
    streams: Streams = UNCOUNTED
    program: Program | None = None
    """The application, if it does not know of prl."""
    handle: int = 0
    generation: int = 0
    """0: not set up on this node yet; then a handle is that of the shadow it was."""
    former: int = 0
    """Its handle when it was a shadow; its application may not have heard of the new one yet."""
    state: str = "open"
    """setup, active, voiding, alone (nothing has passed since the link was lost: it may go on as it
    is), open, moved (given to the other node, of which no word has come yet), or how it ended:
    ended, demoted, closed.
    """
    reason: str = ""
    closing: bool = False
    orphan: bool = False
    introduced: bool = False
    """The application knows the handle: events follow the answer, never overtake it."""
    active_since_s: int = 0
    """CLOCK_MONOTONIC; one object for all that were protected in the same second."""
    wait_s: float = RETRY_MIN_S
    """How long the next attempt waits."""
    mending: Mending | None = None
    """None while it is protected."""

    @property
    def is_live(self) -> bool:
        """Whether it is still this node's."""
        return self.state in LIVE

    def noted(self) -> tuple[SessionsAlike, Note] | None:
        """What is to be kept of it; None: something happens to it, or may soon."""
        if self.state != "active" or self.mending is not None or not self.introduced:
            return None
        if self.closing or self.orphan or self.reason or self.ends.is_udp:
            return None
        if self.program is not None:  # its process has the session, and is looked at all the time
            return None
        if self.wait_s > RETRY_MIN_S and time.monotonic() - self.active_since_s <= STABLE_S:
            return None
        streams = self.streams
        note = Note(0, streams.in_offset, streams.out_offset, self.former, self.active_since_s)
        return SessionsAlike(self.client, self.application, self.renew), note

    @classmethod
    def recalled(cls, alike: Alike, noted: Noted) -> Self:
        """The inverse."""
        assert isinstance(alike, SessionsAlike)
        return cls(
            shared_ends(noted.ends),
            noted.service,
            alike.client,
            alike.application,
            alike.renew,
            Streams.of_offsets(noted.note.in_offset, noted.note.out_offset),
            handle=noted.handle,
            generation=noted.generation,
            former=noted.note.extra,
            state="active",
            introduced=True,
            active_since_s=noted.note.since_s,
        )

    def facts(self) -> dict[str, Any]:
        """What answers and events say of it."""
        state = "open" if self.state == "alone" else self.state  # prld's affair
        return {"handle": self.handle, "state": state, "reason": self.reason}

    def tell(self) -> None:
        """Tell the application its state."""
        if self.introduced:
            self.client.send_event({"event": "state"} | self.facts())

    def mend(self) -> Mending:
        """What is needed while it is not protected."""
        if self.mending is None:
            self.mending = Mending(stale=self.renew and self.introduced)
        return self.mending

    def mended(self, now_s: float) -> None:
        """It is protected from now on."""
        self.state, self.reason, self.active_since_s = "active", "", _second(int(now_s))
        if self.mending is not None:
            self.mending.trigger.set()  # whoever keeps it sees that there is nothing left to do
            self.mending = None

    def hope(self) -> None:
        """It is worth while to try again, at once."""
        self.wait_s = RETRY_MIN_S
        if self.mending is not None:
            self.mending.hopeful = True
            self.mending.trigger.set()

    def resolve(self, event: Event) -> None:
        """What the attempt under way waits for has come."""
        done = None if self.mending is None else self.mending.done
        if done is not None and not done.done():
            done.set_result(event)


@lru_cache(1)
def _second(now_s: int) -> int:
    return now_s
