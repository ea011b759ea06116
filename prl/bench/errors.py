"""What can go wrong in a bench."""

from prl.errors import PrlError


class BenchError(PrlError):
    """Something could not be measured; the message says what and why."""
