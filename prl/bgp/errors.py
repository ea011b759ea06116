"""What ends a BGP session: an error that both ends are told of by a NOTIFICATION."""

from enum import IntEnum

from prl.errors import PrlError


class Code(IntEnum):
    """NOTIFICATION error codes (RFC 4271 section 4.5)."""

    HEADER = 1
    OPEN = 2
    UPDATE = 3
    HOLD_TIMER = 4
    STATE = 5
    CEASE = 6


class BgpError(PrlError):
    """The session must end; ``code``, ``subcode`` and ``data`` are what the NOTIFICATION says."""

    def __init__(self, code: Code, subcode: int, why: str, data: bytes = b"") -> None:
        super().__init__(why)
        self.code = code
        self.subcode = subcode
        self.data = data


class PeerEndedError(PrlError):
    """The peer ended the session by a NOTIFICATION."""


class MemoryLostError(PrlError):
    """What another speaker said of its session cannot be read."""
