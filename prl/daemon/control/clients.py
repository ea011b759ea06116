"""An application, as the rest of prld sees it."""

from typing import Any, Protocol

from prl.kernel.freezer import Freezer


class Application(Protocol):
    """The connection of one application; sending to one that is gone does nothing."""

    freezer: Freezer
    """Stops it while its socket is copied: it must not find that in repair mode (SPEC R17)."""

    @property
    def name(self) -> str:
        """For the log, for example its pid."""

    def send_event(self, event: dict[str, Any], *fds: int) -> None:
        """Send an event, with descriptors (which stay the caller's)."""


class Program(Protocol):
    """An application that does not know of prl: a program that was not changed."""

    def application(self) -> bytes:
        """Its application bytes as of now; asked for when its input stands still."""
