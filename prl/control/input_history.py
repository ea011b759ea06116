"""What goes along with a session whose program knows nothing of prl: the input it has had.

A program can only begin with the first byte of its input. So the one that begins on the other
node in mid-stream is first given what the one here has read; where both streams stand goes with
the shadow anyway (Shadow.in_bytes, Shadow.out_bytes).
"""

from typing import Final

from prl.control.messages import APPLICATION_MAX_BYTES

_TAG: Final = b"prl-input-1:"
HISTORY_MAX_BYTES: Final = APPLICATION_MAX_BYTES - len(_TAG)
"""Most input that can go along."""


def pack(history: bytes) -> bytes:
    """The application bytes of a session whose program has had this input."""
    return _TAG + history


def unpack(application: bytes) -> bytes | None:
    """The input in application bytes; None: they are something else."""
    return application[len(_TAG) :] if application.startswith(_TAG) else None
