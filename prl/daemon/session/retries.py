"""When a session that could not be protected is tried again (SPEC R23).

Each has a back-off of its own, short at the longest, so that none stays open for long once it could
be protected. Very many that are all hopeless must not cost much, so all together have a rate.
"""

import time
from typing import Final

RETRY_MIN_S: Final = 0.05
"""First wait of the back-off between attempts of one session."""
RETRY_MAX_S: Final = 1.0
"""The last one. The back-off begins anew when the link comes up, an application offers itself on
the other node, or the session was protected for a while."""
RETRIES_PER_S: Final = 100
"""Attempts after a failure, of all sessions together. Of more than RETRIES_PER_S * RETRY_MAX_S that
fail at a time each waits longer, by turns; those that something has changed for do not wait."""


class Retries:
    """The turns of all sessions that are tried again."""

    def __init__(self) -> None:
        self.put_off = 0
        """How many had to wait for their turn."""
        self._next_s = 0.0

    def turn_in_s(self) -> float:
        """A turn for one attempt now: so many seconds from now."""
        now_s = time.monotonic()
        turn_s = max(now_s, self._next_s)
        self._next_s = turn_s + 1 / RETRIES_PER_S
        self.put_off += turn_s > now_s
        return turn_s - now_s
