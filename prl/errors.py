"""The errors that prl raises; each message says what happened, to what, and what to do."""

from typing import Any, ClassVar


class PrlError(Exception):
    """Base of every error that a user of prl can meet.

    ``exit_code`` is what a command ends with when the error ends it (SPEC section 8).
    """

    exit_code: ClassVar[int] = 1


class UsageError(PrlError):
    """What was asked for makes no sense: an unknown handle, a bad address."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """The configuration cannot be used; the message names the file, the key and the remedy."""


class NoDaemonError(PrlError):
    """Nobody answers on prld's control socket."""

    exit_code: ClassVar[int] = 4


class HungDaemonError(NoDaemonError):
    """prld is there and does not answer in time; what it was asked for may happen yet."""


class ReplicationError(PrlError):
    """A session could not be protected; it goes on without protection."""


class NotProtectedError(ReplicationError):
    """The session goes on unprotected; prld tries again, and ``session`` tells how that goes."""

    def __init__(self, reason: str, session: Any) -> None:
        super().__init__(f"not protected: {reason}")
        self.session = session
        """The client's own: prl.client.Session, or prl.client.aio.AsyncSession."""


class NotSafeError(PrlError):
    """Refused, because something would be lost: all is as it was, and works."""

    exit_code: ClassVar[int] = 3


class KernelError(PrlError):
    """The kernel refused something that prld needs."""
