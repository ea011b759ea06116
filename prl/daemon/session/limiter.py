"""How many sessions are protected at a time: as many as do not make each other wait.

An attempt stops its session for as long as it lasts, and on a busy host attempts take their time
from one another: many at once would all be stopped for long, and be too late. So the limit falls
when one was slow, and rises when one was quick (additive increase and decrease).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pace:
    """A semaphore whose limit follows how long its holders took; entered as a context."""

    def __init__(self, most: int, slow_s: float) -> None:
        """``most``: of the limit; ``slow_s``: an attempt that took longer was slow.

        One that took less than half of that was quick.
        """
        self._most, self._slow_s = most, slow_s
        self._limit = max(1, most // 4)
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """How many may be inside now."""
        return self._limit

    async def __aenter__(self) -> None:
        while self._inside >= self._limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                self._wake()  # the turn may have been given to us just now
                raise
        self._inside += 1

    async def __aexit__(self, *_: object) -> None:
        self._inside -= 1
        self._wake()

    def took(self, seconds: float) -> None:
        """So long one has taken."""
        if seconds > self._slow_s:
            self._limit = max(1, self._limit - 1)
        elif seconds < self._slow_s / 2:
            self._limit = min(self._most, self._limit + 1)
            self._wake()

    @contextmanager
    def timed(self) -> Iterator[Callable[[], None]]:
        """took() from the call of what this gives to the end of the context, if it is called."""
        began: list[float] = []
        try:
            yield lambda: began.append(time.monotonic())
        finally:
            if began:
                self.took(time.monotonic() - began[0])

    def _wake(self) -> None:
        free = self._limit - self._inside
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():  # else it was cancelled, and is about to say so
                turn.set_result(None)
                free -= 1
