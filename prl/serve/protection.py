"""The protection of one session that a program serves here, from one failure to the next (R23)."""

import logging
from contextlib import suppress

from prl.client import Session
from prl.control import input_history
from prl.errors import PrlError
from prl.serve.history import History

MID_STREAM = (
    "its program has had more input than is kept of it (--history {} bytes), so that none can "
    "begin anew on the other node"
)

_log = logging.getLogger("prl.serve")


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
                self.session.renew(input_history.pack(data))

    def _tell(self, state: str) -> None:
        if state == self._told:
            return
        was, self._told = self._told, state
        match state:
            case "active":
                _log.info("%s: protected", self._who)
            case "open" | "lost":
                reason = self.session.reason or "not yet, since it was taken over"
                _log.warning("%s: not protected: %s", self._who, reason)
            case "demoted" if was:
                _log.warning("%s: the other node has the session now", self._who)
