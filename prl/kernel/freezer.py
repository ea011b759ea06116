"""Stopping the threads of a program for the microseconds of repair mode (SPEC R17).

A program must not find its socket in repair mode, where recv() and send() fail: neither one that
was not changed, nor one whose session is protected again by itself while it works, nor another one
that has the socket too (SocketHolders, and docs/unchanged-programs.md on who is not found). What
another then sent would come back to it as input: in repair mode send() fills the queue that is
chosen (tcp_sendmsg, net/ipv4/tcp.c). Their threads are stopped by ptrace(2) (SEIZE, INTERRUPT),
which neither it nor its parent can see: no signal is sent, nobody's wait() returns. A system call
that the stop cut short begins again: the kernel sees to most; what would return EINTR (epoll_wait,
recv with a time-out) is set back here, unless a signal is pending, or doing it again would do
something else (close, connect).

The tracer is a thread of its own: when it ends, for whatever reason, the death of prld included,
the kernel lets go of everything that it traced (exit_ptrace, kernel/ptrace.c).
"""

import asyncio
import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final, TypeVar

from prl.errors import ReplicationError
from prl.kernel import procfs

STOP_TIMEOUT_S: Final = 0.05
"""How long all threads may take to stop; then they are let go, and protecting is tried again."""
STRAGGLER_TIMEOUT_S: Final = 1.0
"""A thread that was told to stop is waited for so long, so that it can be let go unseen."""
THREADS_MAX: Final = 4096
SHARED_MAX: Final = 8
"""Pieces of work that share one stop: stopping takes longer than any of them, but they add up."""
_SWEEPS_MAX: Final = 8  # a thread may start another one while it is being stopped
_SPIN_S: Final = 20e-6

# linux/ptrace.h
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_GETREGSET, _SETREGSET, _NT_PRSTATUS = 0x4204, 0x4205, 1
_EVENT_STOP = 128
_WALL = 0x40000000
# struct user_regs_struct of x86-64 (sys/user.h): 27 words; `syscall` is two bytes long.
_X86_WORDS, _AX, _ORIG_AX, _IP, _SYSCALL_BYTES = 27, 10, 15, 16, 2
_X86Registers = ctypes.c_int64 * _X86_WORDS
_EINTR = 4
# What signal(7) names as failing with EINTR after a stop without a handler, and what begins again
# as if nothing had happened: read(), write() and their like of sockets with a time-out,
# epoll_wait, semop, sigtimedwait. Never others: after close() the descriptor is gone, be it with
# EINTR, and may be another thread's by now; a second connect() says EALREADY; an ioctl() may have
# done its work.
_X86_RESTARTED: Final = frozenset(
    {
        *(0, 1, 19, 20),  # read, write, readv, writev
        *(
            43,
            288,
            44,
            45,
            46,
            47,
            299,
            307,
        ),  # accept, accept4, sendto … recvmsg, recvmmsg, sendmmsg
        *(232, 281, 441),  # epoll_wait, epoll_pwait, epoll_pwait2
        *(65, 220, 128),  # semop, semtimedop, rt_sigtimedwait
    }
)
_IS_X86_64 = platform.machine() == "x86_64"

T = TypeVar("T")
Pause = Callable[[], AbstractContextManager[None]]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class FreezeError(ReplicationError):
    """The program ``pid`` cannot be stopped; it was not, or goes on already."""

    def __init__(self, pid: int, words: str) -> None:
        self.pid = pid
        super().__init__(f"process {pid} ({procfs.program_of(pid)}): {words}")


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

    async def share(self, work: Callable[[], T], also: Collection[int] = ()) -> T:
        """Call ``work`` in a thread while they all stand still, and the processes ``also``.

        What is asked for at the same time shares a stop. Raises FreezeError, and what work raises.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._ask([_Asked(work, done, also)])
        return await done

    def _stop_for_asked(self) -> None:
        chosen, self._asked = self._asked[:SHARED_MAX], self._asked[SHARED_MAX:]
        if self._asked:
            asyncio.get_running_loop().call_soon(self._stop_for_asked)

        def work(_: Pause) -> None:
            with self._paused(also for asked in chosen for also in asked.also):
                for asked in chosen:
                    asked.do()

        try:
            self.run(work)
        except FreezeError as error:
            # Who does not stop may have the socket of one of them alone: the others share the next.
            blamed = [asked for asked in chosen if error.pid in asked.also] or chosen
            for asked in blamed:
                asked.fail(error)
            if rest := [asked for asked in chosen if asked not in blamed]:
                self._ask(rest)
            chosen = blamed
        for asked in chosen:
            asked.tell()

    def _ask(self, more: list[_Asked]) -> None:
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._stop_for_asked)
        self._asked += more

    def run(self, work: Callable[[Pause], T]) -> T:
        """Call ``work(pause)`` in a thread; between entering and leaving ``pause()`` all stand.

        Raises:
            FreezeError: they do not stop.
        """
        results: list[T] = []
        failures: list[BaseException] = []

        def trace() -> None:
            try:
                results.append(work(self._paused))
            except BaseException as error:  # noqa: BLE001 - it is raised again by the caller's thread
                failures.append(error)

        thread = threading.Thread(target=trace, name="freezer")
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    @contextmanager
    def _paused(self, also: Iterable[int] = ()) -> Iterator[None]:
        stopped: dict[int, int] = {}
        stopping: list[int] = []
        began_ns = time.monotonic_ns()
        try:
            for pid in dict.fromkeys((*self._pids(), *also)):
                _stop_all(pid, stopped, stopping, time.monotonic() + STOP_TIMEOUT_S)
            yield
        finally:
            _let_stragglers_go(stopped, stopping)
            for tid, number in stopped.items():
                _resume(tid, number)
            self.last_ns = time.monotonic_ns() - began_ns


def _stop_all(pid: int, stopped: dict[int, int], stopping: list[int], deadline: float) -> None:
    for _ in range(_SWEEPS_MAX):
        new = [tid for tid in _threads(pid) if tid not in stopped]
        if not new:
            return
        if len(stopped) + len(new) > THREADS_MAX:
            raise FreezeError(pid, f"it has more than {THREADS_MAX} threads")
        seized = [tid for tid in new if _seize(pid, tid)]
        stopping += seized
        for tid in seized:
            number = _await_stop(pid, tid, deadline)
            stopping.remove(tid)
            if number is not None:
                stopped[tid] = number
    raise FreezeError(pid, "it starts threads faster than they can be stopped; try again")


def _let_stragglers_go(stopped: dict[int, int], stopping: list[int]) -> None:
    """Those that were told to stop and have not yet."""
    if not stopping:
        return
    for tid, number in stopped.items():
        _resume(tid, number)
    stopped.clear()
    deadline = time.monotonic() + STRAGGLER_TIMEOUT_S
    for tid in stopping:
        with suppress(FreezeError):  # the end of this thread lets it go
            signal_number = _await_stop(tid, tid, deadline)
            if signal_number is not None:
                _resume(tid, signal_number)


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 - hot
    except OSError:
        return []  # it has just ended


def _seize(pid: int, tid: int) -> bool:
    """Whether the thread will stop; one that has ended need not."""
    if _ptrace(_SEIZE, tid) == 0:
        return _ptrace(_INTERRUPT, tid) == 0
    number = ctypes.get_errno()
    if number == _ESRCH:
        return False
    raise FreezeError(
        pid,
        f"it cannot be stopped for the moment that its socket is copied: {os.strerror(number)}; "
        "is it being traced, by gdb or strace?",
    )


_ESRCH = 3


def _await_stop(pid: int, tid: int, deadline: float) -> int | None:
    """The signal that the thread was about to get (0: none); None when it has ended."""
    while True:
        try:
            found, status = os.waitpid(tid, os.WNOHANG | _WALL)
        except ChildProcessError:
            return None
        if found:
            break
        if time.monotonic() > deadline:
            raise FreezeError(pid, f"its thread {tid} does not stop; it is tried again")
        time.sleep(_SPIN_S)
    if not os.WIFSTOPPED(status):
        return None
    if status >> 16 == _EVENT_STOP:
        _begin_again(tid)
        return 0
    return os.WSTOPSIG(status)


def _resume(tid: int, number: int) -> None:
    _ptrace(_DETACH, tid, number)  # ESRCH: killed meanwhile


def _ptrace(request: int, tid: int, data: int | None = None, address: int | None = None) -> int:
    return int(_libc.ptrace(request, tid, address, data))


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _begin_again(tid: int) -> None:
    """Let a system call that would return EINTR because of us begin again, if that is harmless."""
    if not _IS_X86_64:
        return
    registers = _X86Registers()
    vector = _Iovec(ctypes.addressof(registers), ctypes.sizeof(registers))
    if _ptrace(_GETREGSET, tid, ctypes.addressof(vector), _NT_PRSTATUS):
        return
    if vector.length != ctypes.sizeof(registers):
        return  # a 32-bit program
    if registers[_ORIG_AX] not in _X86_RESTARTED or registers[_AX] != -_EINTR or _has_signals(tid):
        return
    registers[_AX] = registers[_ORIG_AX]
    registers[_IP] -= _SYSCALL_BYTES
    _ptrace(_SETREGSET, tid, ctypes.addressof(vector), _NT_PRSTATUS)


def _has_signals(tid: int) -> bool:
    """Whether a signal waits that the thread does not block: EINTR may be about that one."""
    masks = dict.fromkeys((b"SigPnd", b"ShdPnd", b"SigBlk"), 0)
    # Not with Path, which interns the parts of its names: Python's table of all interned strings
    # would be made anew, megabytes long, every few hundred sessions.
    with suppress(OSError), open(f"/proc/{tid}/status", "rb", 0) as status:  # noqa: PTH123
        for line in status.read().splitlines():
            name, _, value = line.partition(b":")
            if name in masks:
                masks[name] = int(value, 16)
    return bool((masks[b"SigPnd"] | masks[b"ShdPnd"]) & ~masks[b"SigBlk"])
