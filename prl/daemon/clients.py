"""An application, as the rest of prld sees it."""

from typing import Any, Protocol


class Application(Protocol):
    """The connection of one application; sending to one that is gone does nothing."""

    @property
    def name(self) -> str:
        """For the log, for example its pid."""

    def send_event(self, event: dict[str, Any], *fds: int) -> None:
        """Send an event, with descriptors (which stay the caller's)."""
