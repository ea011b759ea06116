"""From the connection to the program's stdin, on either node."""

import os
import select

from prl.serve.command import Command
from prl.serve.relay import CHUNK_BYTES, Interest, Moved, Relay


class Inbound:
    """Gives a program what its connection receives; input that it does not want is thrown away."""

    def __init__(self, source: int, command: Command) -> None:
        self._source = source
        self._command = command
        self._relay: Relay | None = Relay(source, command.stdin)
        self.has_ended = False

    def interests(self) -> list[Interest]:
        """What to wait for before the next ``step``."""
        if self.has_ended:
            return []
        return [self._relay.interest() if self._relay else (self._source, select.POLLIN)]

    def step(self, events: dict[int, int]) -> None:
        """Move what is there. Errors of the connection are raised as OSError."""
        if not any(descriptor in events for descriptor, _ in self.interests()):
            return
        if self._relay is None:
            self._discard()
            return
        moved = self._relay.move()
        if moved is Moved.END:
            self.has_ended = True
            self._command.close_stdin()
        elif moved is Moved.REFUSED:
            # Reading goes on: unread input would make the end of the connection a reset.
            self._command.close_stdin()
            self._relay = None

    def _discard(self) -> None:
        try:
            self.has_ended = not os.read(self._source, CHUNK_BYTES)
        except BlockingIOError:
            return
