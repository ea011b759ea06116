"""Bytes moved between a socket and a pipe inside the kernel, without a copy through here."""

import os
import select
from collections.abc import Iterable
from enum import Enum, auto

CHUNK_BYTES = 1 << 20
Interest = tuple[int, int]


class Moved(Enum):
    """What became of one attempt to move bytes."""

    SOME = auto()
    NONE = auto()  # source empty or sink full
    END = auto()  # the source has ended
    REFUSED = auto()  # nobody reads the sink any more


class Relay:
    """Moves bytes from ``source`` to ``sink``, one of them a pipe, both non-blocking (splice(2)).

    EAGAIN does not say which of the two it is about, so the relay waits for the one and then for
    the other: it learns from the poll which of them was ready.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._waits_for_sink = False

    def interest(self) -> Interest:
        """The descriptor to wait for now, and the poll event."""
        if self._waits_for_sink:
            return (self._sink, select.POLLOUT)
        return (self._source, select.POLLIN)

    def move(self) -> Moved:
        """Move what can be moved now, at most ``CHUNK_BYTES``. Errors of the source are raised."""
        try:
            count = os.splice(
                self._source, self._sink, CHUNK_BYTES, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
            )
        except BlockingIOError:
            self._waits_for_sink = not self._waits_for_sink
            return Moved.NONE
        except BrokenPipeError:
            return Moved.REFUSED
        self._waits_for_sink = False
        return Moved.SOME if count else Moved.END


def wait(interests: Iterable[Interest], timeout_s: float | None = None) -> dict[int, int]:
    """Wait until one of the descriptors is ready; return the events by descriptor."""
    wanted: dict[int, int] = {}
    for descriptor, events in interests:
        wanted[descriptor] = wanted.get(descriptor, 0) | events
    poller = select.poll()
    for descriptor, events in wanted.items():
        poller.register(descriptor, events)
    return dict(poller.poll(None if timeout_s is None else timeout_s * 1000))
