"""Stopping the threads of a program for the microseconds of repair mode (SPEC R17).

A program must not find its socket in repair mode, where recv() and send() fail: neither one that
was not changed, nor one whose session is protected again by itself while it works, nor another one
that has the socket too (SocketHolders, and docs/unchanged-programs.md on who is not found). What
another then sent would come back to it as input: in repair mode send() fills the queue that is
chosen (tcp_sendmsg, net/ipv4/tcp.c).

Their threads are stopped by a process of its own (prl.daemon.programs.sentinel), which lets them go
whatever becomes of prld.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

from prl.errors import ReplicationError
from prl.kernel import procfs

SHARED_MAX: Final = 8
"""Pieces of work that share one stop: stopping takes longer than any of them, but they add up."""

T = TypeVar("T")


class FreezeError(ReplicationError):
    """The program ``pid`` cannot be stopped; it was not, or goes on already."""

    def __init__(self, pid: int, why: str) -> None:
        self.pid, self.why = pid, why
        super().__init__(f"process {pid} ({procfs.program_of(pid)}): {why}")


class Tracer(Protocol):
    """Stops processes."""

    def stop(self, pids: Collection[int]) -> None:
        """Returns when all their threads stand still. Raises FreezeError: none does."""

    def let_go(self) -> None:
        """Let those that were stopped go on."""


class _Asked:
    """A piece of work that is to be done while they stand still."""

    def __init__(
        self, work: Callable[[], Any], done: "asyncio.Future[Any]", also: Collection[int]
    ) -> None:
        self._work, self._done = work, done
        self.also = also
        self._result: Any = None
        self._error: BaseException | None = None

    def do(self) -> None:
        """Once they stand still, unless nobody waits for it any more."""
        if self._done.done():
            return
        try:
            self._result = self._work()
        except Exception as error:  # noqa: BLE001 - it is raised again by who waits
            self._error = error

    def fail(self, error: BaseException) -> None:
        """They did not."""
        self._error = error

    def tell(self) -> None:
        """In the event loop."""
        if self._done.done():
            return
        if self._error is None:
            self._done.set_result(self._result)
        else:
            self._done.set_exception(self._error)


class Freezer:
    """Stops the threads of some processes around a short piece of work."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        """``pids`` says, each time, which processes to stop."""
        self._pids = pids
        self.last_ns = 0
        """How long they stood still the last time."""
        self._asked: list[_Asked] = []

    def pids(self) -> list[int]:
        """Which processes it stops, as of now."""
        return list(self._pids())

    async def share(self, tracer: Tracer, work: Callable[[], T], also: Collection[int] = ()) -> T:
        """Call ``work`` while they all stand still, and the processes ``also``.

        What is asked for at the same time shares a stop. Raises FreezeError, and what work raises.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._ask(tracer, [_Asked(work, done, also)])
        return await done

    def _stop_for_asked(self, tracer: Tracer) -> None:
        chosen, self._asked = self._asked[:SHARED_MAX], self._asked[SHARED_MAX:]
        if self._asked:
            asyncio.get_running_loop().call_soon(self._stop_for_asked, tracer)
        try:
            with self.paused(tracer, (also for asked in chosen for also in asked.also)):
                for asked in chosen:
                    asked.do()
        except FreezeError as error:
            # Who does not stop may have the socket of one of them alone: the others share the next.
            blamed = [asked for asked in chosen if error.pid in asked.also] or chosen
            for asked in blamed:
                asked.fail(error)
            if rest := [asked for asked in chosen if asked not in blamed]:
                self._ask(tracer, rest)
            chosen = blamed
        for asked in chosen:
            asked.tell()

    def _ask(self, tracer: Tracer, more: list[_Asked]) -> None:
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._stop_for_asked, tracer)
        self._asked += more

    @contextmanager
    def paused(self, tracer: Tracer, also: Iterable[int] = ()) -> Iterator[None]:
        """They stand still within, and the processes ``also``. Raises FreezeError: none does."""
        began_ns = time.monotonic_ns()
        pids = list(dict.fromkeys((*self._pids(), *also)))
        if not pids:
            yield
            return
        tracer.stop(pids)
        try:
            yield
        finally:
            tracer.let_go()
            self.last_ns = time.monotonic_ns() - began_ns
