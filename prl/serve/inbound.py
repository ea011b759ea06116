"""From the connection to the program's stdin, on either node."""

import os
import select

from prl.serve.command import Command
from prl.serve.history import History
from prl.serve.relay import Interest, Moved, Relay

_READ_BYTES = 64 << 10


class Inbound:
    """Gives a program what its connection receives; input that it does not want is thrown away.

    What a fresh program on the other node would need is read and kept; from then on that this is
    too much, bytes are moved inside the kernel.
    """

    def __init__(
        self, source: int, command: Command, history: History, before: bytes = b""
    ) -> None:
        """The program is first given ``before``, which came before the source's first byte."""
        self._source = source
        self._command = command
        self._history = history
        history.add(before)
        self._waiting = memoryview(before)
        self._relay: Relay | None = None
        self._is_refused = False
        self.has_ended = False

    def interests(self) -> list[Interest]:
        """What to wait for before the next ``step``."""
        if self.has_ended:
            return []
        if self._waiting:
            return [(self._command.stdin, select.POLLOUT)]
        if self._relay is not None:
            return [self._relay.interest()]
        return [(self._source, select.POLLIN)]

    def step(self, events: dict[int, int]) -> None:
        """Move what is there. Errors of the connection are raised as OSError."""
        if not any(descriptor in events for descriptor, _ in self.interests()):
            return
        if self._waiting:
            self._give()
        elif self._relay is not None:
            self._move(self._relay)
        else:
            self._take()

    def _take(self) -> None:
        try:
            data = os.read(self._source, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._end()
            return
        self._history.add(data)
        if not self._is_refused:
            self._waiting = memoryview(data)
            self._give()

    def _give(self) -> None:
        try:
            self._waiting = self._waiting[os.write(self._command.stdin, self._waiting) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._refuse()
            return
        if not self._waiting and not self._history.is_whole:
            self._relay = Relay(self._source, self._command.stdin)

    def _move(self, relay: Relay) -> None:
        moved = relay.move()
        if moved is Moved.END:
            self._end()
        elif moved is Moved.REFUSED:
            self._refuse()

    def _refuse(self) -> None:
        """Reading goes on: unread input would make the end of the connection a reset."""
        self._command.close_stdin()
        self._is_refused = True
        self._waiting = memoryview(b"")
        self._relay = None

    def _end(self) -> None:
        self.has_ended = True
        self._command.close_stdin()
