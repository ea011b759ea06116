"""Stopping all threads of processes by ptrace(2) (SEIZE, INTERRUPT).

Neither they nor their parents can see it: no signal is sent, nobody's wait() returns. A system call
that the stop cut short begins again: the kernel sees to most; what would return EINTR (epoll_wait,
recv with a time-out) is set back here, unless a signal is pending, or doing it again would do
something else (close, connect).

All of it is one thread's work. When that ends, for whatever reason, the kernel lets go of
everything that it traced (exit_ptrace, kernel/ptrace.c).
"""

import ctypes
import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from prl.kernel.freezer import FreezeError

STOP_TIMEOUT_S: Final = 0.05
"""How long a process's threads may take to stop; then it is not, and protecting is tried again."""
THREADS_MAX: Final = 4096
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

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Standing:
    """The threads that stand still; for one thread."""

    def __init__(self) -> None:
        self._stopped: dict[int, int] = {}
        """And the signal that each was about to get; 0: none."""
        self._leaving: set[int] = set()
        """Those that were to go on when they had not stopped yet, or were being killed."""

    @property
    def is_settled(self) -> bool:
        """Whether settle() need not be called again."""
        return not self._leaving

    def stop(self, pids: Iterable[int]) -> None:
        """Stop all of these, too. Raises FreezeError; some may stand then: let go of them."""
        self.settle()
        for pid in pids:
            self._stop_all(pid, time.monotonic() + STOP_TIMEOUT_S)

    def let_go(self) -> None:
        """Let all go on, unseen; those that cannot yet do by settle()."""
        for tid, number in self._stopped.items():
            self._resume(tid, number)
        self._stopped.clear()
        self.settle()

    def settle(self) -> None:
        """Let go of those that could not yet; to be called every now and then."""
        leaving, self._leaving = self._leaving, set()
        for tid in leaving:
            number = _stopped_by(tid)
            if number is None:
                self._leaving.add(tid)
            elif number >= 0:
                self._resume(tid, number)

    def _stop_all(self, pid: int, deadline: float) -> None:
        for _ in range(_SWEEPS_MAX):
            new = [tid for tid in _threads(pid) if tid not in self._stopped]
            if not new:
                return
            if len(self._stopped) + len(new) > THREADS_MAX:
                raise FreezeError(pid, f"it has more than {THREADS_MAX} threads")
            if not self._leaving.isdisjoint(new):
                raise FreezeError(pid, "a thread of it has not stopped yet; it is tried again")
            seized = []
            for tid in new:
                if _seize(pid, tid):
                    seized.append(tid)
                    self._leaving.add(tid)  # but for what follows
            for tid in seized:
                number = _await_stop(pid, tid, deadline)
                self._leaving.remove(tid)
                if number >= 0:
                    self._stopped[tid] = number
        raise FreezeError(pid, "it starts threads faster than they can be stopped; try again")

    def _resume(self, tid: int, number: int) -> None:
        if _ptrace(_DETACH, tid, number):  # it is being killed, and must be waited for
            self._leaving.add(tid)


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 - hot
    except OSError:
        return []  # it has just ended


def _seize(pid: int, tid: int) -> bool:
    """Whether the thread will stop, or end; one that has ended need not."""
    if _ptrace(_SEIZE, tid) == 0:
        _ptrace(_INTERRUPT, tid)  # ESRCH: it is being killed, and must be waited for
        return True
    number = ctypes.get_errno()
    if number == _ESRCH:
        return False
    raise FreezeError(
        pid,
        f"it cannot be stopped for the moment that its socket is copied: {os.strerror(number)}; "
        "is it being traced, by gdb or strace?",
    )


_ESRCH = 3


def _await_stop(pid: int, tid: int, deadline: float) -> int:
    """As _stopped_by(). Raises FreezeError."""
    while (number := _stopped_by(tid)) is None:
        if time.monotonic() > deadline:
            raise FreezeError(pid, f"its thread {tid} does not stop; it is tried again")
        time.sleep(_SPIN_S)
    return number


def _stopped_by(tid: int) -> int | None:
    """The signal that a stopped thread was about to get; 0: none.

    -1: it has ended. None: it has done neither yet.
    """
    try:
        found, status = os.waitpid(tid, os.WNOHANG | _WALL)
    except ChildProcessError:
        return -1
    if not found:
        return None
    if not os.WIFSTOPPED(status):
        return -1
    if status >> 16 == _EVENT_STOP:
        _begin_again(tid)
        return 0
    return os.WSTOPSIG(status)


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
