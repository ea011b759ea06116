"""A speaker's place in a session: it speaks, or it stands by until it does (SPEC R23)."""

from contextlib import suppress

from prl.bgp import memory
from prl.bgp.connection import Connection
from prl.bgp.journal import Journal
from prl.bgp.session import Session as Bgp
from prl.client import Session, Shadow
from prl.control.protocol import OVER
from prl.errors import PrlError


class Seat:
    """Watches what prld says of a session, and acts upon it; see ``connection.Watch``.

    As owner it gives its memory whenever prld asks for it, so that the other node's speaker can
    join in; as a follower it becomes the owner when its shadow is taken over.
    """

    def __init__(
        self, place: Session | Shadow | None, bgp: Bgp, connection: Connection, journal: Journal
    ) -> None:
        self._shadow = place if isinstance(place, Shadow) else None
        self._session = place if isinstance(place, Session) else None
        self._bgp, self._connection, self._journal = bgp, connection, journal
        self._told = ""

    @property
    def descriptor(self) -> int:
        """See ``Watch``; -1: prld knows nothing of this session."""
        place = self._session or self._shadow
        return -1 if place is None else place.descriptor

    def ready(self) -> str:
        """See ``Watch``."""
        if self._session is None and self._shadow is not None:
            self._shadow.clear()
            if self._shadow.void_reason is not None:
                return f"the shadow is void: {self._shadow.void_reason}"
            if self._shadow.takeover is None:
                return ""
            self._take_over(self._shadow)
        return self._look() if self._session is not None else ""

    def _take_over(self, shadow: Shadow) -> None:
        assert shadow.takeover is not None
        self._session = shadow.session
        out_bytes = shadow.takeover.out_bytes
        self._journal.role = "primary"
        self._journal.takeover = {"out_bytes": out_bytes}
        self._connection.speak(shadow.sock, out_bytes)
        self._journal.event("taken_over", out_bytes=out_bytes)
        self._journal.write(self._bgp)

    def _look(self) -> str:
        """As owner."""
        assert self._session is not None
        session = self._session
        session.clear()
        if session.protectable:
            try:  # nothing is read or written meanwhile: this is the thread that does
                session.renew(memory.encode(self._bgp, self._journal.since))
            except PrlError as error:
                self._journal.event("unprotected", reason=str(error))
        if session.state != self._told:
            self._told = session.state
            event = "protected" if session.state == "active" else "unprotected"
            self._journal.event(event, handle=session.handle, reason=session.reason)
        return f"the session is {session.state} here" if session.state in OVER else ""

    def leave(self) -> None:
        """The connection is over."""
        with suppress(PrlError):
            if self._shadow is not None:
                self._shadow.close()
            elif self._session is not None:
                self._session.close()
