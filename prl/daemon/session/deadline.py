"""How long a set-up may take (SPEC R6, R17): as long as the machines need, within bounds.

A deadline that is too short fails for ever on a slow machine; one that is too long lets a session
stand still for nothing. So it follows what the last ones took, as TCP's retransmission timeout
follows the round trips (RFC 6298).
"""

from typing import Final

SETUP_MAX_S: Final = 1.0
"""No set-up's deadline is later, unless the configuration's own is: its session stands still."""
_GAIN, _VARIATION_GAIN, _VARIATIONS = 1 / 8, 1 / 4, 4
"""RFC 6298, section 2: alpha, beta, K."""


class Deadline:
    """A number of seconds that follows how long set-ups took."""

    def __init__(self, least_s: float) -> None:
        """``least_s``: it is never earlier."""
        self._least_s, self._most_s = least_s, max(least_s, SETUP_MAX_S)
        self._seconds = least_s
        self._smoothed_s = self._variation_s = 0.0

    @property
    def seconds(self) -> float:
        """How long the next set-up may take."""
        return self._seconds

    def took(self, seconds: float) -> None:
        """One succeeded, in so long."""
        if not self._smoothed_s:
            self._smoothed_s, self._variation_s = seconds, seconds / 2
        else:
            off = abs(self._smoothed_s - seconds)
            self._variation_s += _VARIATION_GAIN * (off - self._variation_s)
            self._smoothed_s += _GAIN * (seconds - self._smoothed_s)
        self._set(self._smoothed_s + _VARIATIONS * self._variation_s)

    def missed(self, deadline_s: float) -> None:
        """One was too late for ``deadline_s``, which was its deadline: twice that, from now on.

        Several at a time that had the same one double it once.
        """
        self._set(max(self._seconds, 2 * deadline_s))

    def _set(self, seconds: float) -> None:
        self._seconds = min(max(seconds, self._least_s), self._most_s)
