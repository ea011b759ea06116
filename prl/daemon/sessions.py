"""One session whose application is on this node: what prld knows of it."""

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Any

from prl.core.datapath import Event, Tuple
from prl.daemon.clients import Application, Program
from prl.daemon.streams import Streams

LIVE = frozenset({"setup", "active", "voiding", "open", "moved"})


@dataclass(eq=False, slots=True)
class Session:
    """One session whose application is here, be it from the start or since a take-over."""

    ends: Tuple
    service: int
    sock: socket.socket
    client: Application
    application: bytes
    renew: bool = False
    """The application gives its bytes anew for every snapshot but the first."""
    streams: Streams = field(default_factory=Streams)
    program: Program | None = None
    """The application, if it does not know of prl."""
    handle: int = 0
    generation: int = 0
    """0: not set up on this node yet; then a handle is that of the shadow it was."""
    former: int = 0
    """Its handle when it was a shadow; its application may not have heard of the new one yet."""
    state: str = "open"
    """setup, active, voiding, open, moved (given to the other node, of which no word has come yet),
    or how it ended: ended, demoted, closed.
    """
    reason: str = ""
    closing: bool = False
    orphan: bool = False
    introduced: bool = False
    """The application knows the handle: events follow the answer, never overtake it."""
    hopeless: bool = False
    """Trying again is of no use before an application offers itself."""
    hopeful: bool = False
    """Something has changed for the better since the last attempt: the back-off begins anew."""
    stale: bool = False
    """The application's bytes belong to an earlier moment (renew)."""
    asked: bool = False
    """The application was asked for new ones and has not answered yet."""
    active_since_s: float = 0.0
    """CLOCK_MONOTONIC."""
    done: "asyncio.Future[Event] | None" = None
    trigger: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One attempt at a time."""
    keeper: "asyncio.Task[None] | None" = None

    @property
    def is_live(self) -> bool:
        """Whether it is still this node's."""
        return self.state in LIVE

    def facts(self) -> dict[str, Any]:
        """What answers and events say of it."""
        return {"handle": self.handle, "state": self.state, "reason": self.reason}

    def tell(self) -> None:
        """Tell the application its state."""
        if self.introduced:
            self.client.send_event({"event": "state"} | self.facts())

    def hope(self) -> None:
        """It is worth while to try again, at once."""
        self.hopeful = True
        self.trigger.set()

    def resolve(self, event: Event) -> None:
        """What the attempt under way waits for has come."""
        if self.done is not None and not self.done.done():
            self.done.set_result(event)
