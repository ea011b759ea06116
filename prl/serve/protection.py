"""The protection of one session that a program serves here, from one failure to the next (R23)."""

import logging
from contextlib import suppress

from prl.client import Session
from prl.errors import PrlError
from prl.serve.history import History

# In front of the input history that goes with a shadow; the positions of both streams go with it
# anyway (Shadow.in_bytes, Shadow.out_bytes).
APPLICATION_TAG = b"prl-serve-2:"
MID_STREAM = (
    "its program has had more input than is kept of it (--history {} bytes), so that none can "
    "begin anew on the other node"
)

_log = logging.getLogger("prl.serve")


def application_bytes(history: bytes) -> bytes:
    """What is given along with a session whose program has had this input."""
    return APPLICATION_TAG + history


def history_in(application: bytes) -> bytes | None:
    """The input in application bytes; empty for a program that was not changed; None: neither."""
    if not application:
        return b""
    if not application.startswith(APPLICATION_TAG):
        return None
    return application[len(APPLICATION_TAG) :]


class Protection:
    """Follows one session; when it can be protected anew, gives its input history along."""

    def __init__(self, session: Session, history: History, who: str) -> None:
        self.session = session
        self._history, self._who = history, who
        self._told = ""

    @property
    def descriptor(self) -> int:
        """Readable when ``step`` has something to do."""
        return self.session.descriptor

    def step(self) -> bool:
        """Look what has changed; True when the session is the other node's."""
        self.session.clear()
        # Nothing is read or written meanwhile: this is the thread that does it.
        if self.session.protectable:
            self._renew()
        self._tell(self.session.state)
        return self.session.state == "demoted"

    def _renew(self) -> None:
        data = self._history.data
        with suppress(PrlError):  # it has ended, or prld is gone: told by its state
            if data is None:
                reason = MID_STREAM.format(self._history.limit_bytes)
                _log.warning("%s: cannot be protected: %s", self._who, reason)
                self.session.unprotect(reason)
            else:
                self.session.renew(application_bytes(data))

    def _tell(self, state: str) -> None:
        if state == self._told:
            return
        was, self._told = self._told, state
        match state:
            case "active":
                _log.info("%s: protected", self._who)
            case "open" | "lost":
                _log.warning("%s: not protected: %s", self._who, self.session.reason)
            case "demoted" if was:
                _log.warning("%s: the other node has the session now", self._who)
