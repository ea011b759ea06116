"""What becomes of a shadow, told through a descriptor that can be polled beside others."""

import os
import threading
from contextlib import suppress

from prl.client import Shadow, Takeover
from prl.errors import PrlError

_JOIN_TIMEOUT_S = 2.0


class Fate:
    """Waits in a thread; ``descriptor`` becomes readable once it is known what happened.

    Attributes:
        takeover: the shadow is the session now; None if it was void, and ``reason`` says why.
    """

    def __init__(self, shadow: Shadow) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC)
        self.takeover: Takeover | None = None
        self.reason = ""
        self._shadow = shadow
        self._thread = threading.Thread(target=self._wait, name="prl-fate", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self.takeover = self._shadow.wait_taken_over(None)
        except (PrlError, OSError) as error:
            self.reason = str(error)
        with suppress(OSError):
            os.eventfd_write(self.descriptor, 1)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is known; return whether it is."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Forget it; the shadow must have been closed, which ends the waiting."""
        if self.wait(_JOIN_TIMEOUT_S):
            os.close(self.descriptor)
