"""The process that stops programs for prld, and lets them go whatever becomes of it (SPEC R17).

A program stands still while its socket is copied, which is in repair mode meanwhile, where recv()
and send() fail. If prld is killed or stopped just then, nobody must find the socket so. prld forks
the sentinel before it does anything, and tells it by messages whom to stop:

    idle ──STOP pids─▶ all stand, or none and why ──LET_GO─▶ idle
                          ├─ prld is stopped, for longer than STAND_MAX_S, or has not let go for
                          │  longer than HANG_MAX_S ─▶ kills it
                          └─ prld has ended ─▶ leaves repair mode on what they have of the service
                                               addresses' connections ─▶ lets them go ─▶ ends
    idle ── prld was killed ─▶ the same for everybody's: a shadow that takes over is in repair mode,
                               too, for a moment ─▶ ends

What has been stopped is the sentinel's: the kernel lets go of it when that dies (exit_ptrace), and
prld, which could not protect any program's session then, ends with an error. A new prld looks for
sockets in repair mode as well, for both may have been killed.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from array import array
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NoReturn

from prl.daemon.host import memory
from prl.endpoint import Address
from prl.errors import KernelError, UsageError
from prl.kernel import descriptors, procfs
from prl.kernel.freezer import FreezeError
from prl.kernel.sock_diag import SockDiag
from prl.kernel.tcp_info import TcpState
from prl.kernel.tracing import THREADS_MAX, Standing
from prl.shadow.sockopt import CallError, Repair, So, Tcp, get_int, set_int

STAND_MAX_S: Final = 1.0
"""Programs do not stand longer for a prld that is stopped itself, which is dead for all else by
then: the other node has taken over, or the kernel's programs have opened the sessions."""
HANG_MAX_S: Final = 5.0
"""Nor for one that hangs (an endless loop, a call that does not return). It lets go after a copy of
a millisecond, SHARED_MAX times at the most, and after a few tens on a host whose processors are all
wanted by others. Counted is only time in which the sentinel had its turn: it comes no sooner than
prld, so that neither a host that is starved nor a machine that was paused counts for a hang."""
LOOK_S: Final = 0.02
"""How often the sentinel looks whether prld is stopped while programs stand still, and whether a
thread that could not be let go can be; else it sleeps."""
ANSWER_TIMEOUT_S: Final = 2.0
"""prld waits no longer for it; a host on which stopping takes so long cannot protect a program."""
_STOP, _LET_GO = 1, 2
_REQUEST = struct.Struct("=BxxxI")  # which, its number; then, of STOP, pids of 32 bits each
_ANSWER = struct.Struct("=II")  # the number, and who could not be stopped (0: all stand); then why
_MESSAGE_MAX: Final = _REQUEST.size + 4 * THREADS_MAX
_CONNECTED: Final = sum(
    1 << state
    for state in (
        TcpState.ESTABLISHED,
        TcpState.FIN_WAIT1,
        TcpState.FIN_WAIT2,
        TcpState.CLOSE_WAIT,
        TcpState.LAST_ACK,
        TcpState.CLOSING,
    )
)


class Sentinel:
    """prld's end: a Tracer."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel
        self._number = 0
        channel.settimeout(ANSWER_TIMEOUT_S)

    def stop(self, pids: Collection[int]) -> None:
        """Returns when all their threads stand still. Raises FreezeError: none does."""
        first = next(iter(pids))
        if len(pids) > THREADS_MAX:
            raise FreezeError(first, f"it is one of more than {THREADS_MAX} that have the socket")
        self._number += 1
        try:
            self._channel.send(_REQUEST.pack(_STOP, self._number) + array("I", pids).tobytes())
            refused, why = self._answer()
        except OSError as error:
            self.let_go()
            words = f"the process that stops programs does not answer: {error}; it is tried again"
            raise FreezeError(first, words) from error
        if refused:
            raise FreezeError(refused, why)

    def _answer(self) -> tuple[int, str]:
        """To the last request. Raises OSError."""
        while answer := self._channel.recv(_MESSAGE_MAX):
            number, refused = _ANSWER.unpack_from(answer)
            if number == self._number:  # else one that came too late
                return refused, answer[_ANSWER.size :].decode()
        raise BrokenPipeError(0, "it has ended")

    def let_go(self) -> None:
        """Let those that were stopped go on."""
        with contextlib.suppress(OSError):  # it has ended, and they go on
            self._channel.send(_REQUEST.pack(_LET_GO, self._number))


@contextlib.contextmanager
def posted(addresses: Iterable[Address]) -> Iterator[Sentinel]:
    """A sentinel, which outlives only a caller that is killed.

    ``addresses`` are those of the services. No other thread may run yet. Raises KernelError.
    """
    kept, prld = frozenset(addresses), os.getpid()
    try:
        watched = os.pidfd_open(prld)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
    except OSError as error:
        raise KernelError(f"no second process can be made: {error.strerror}") from error
    if pid == 0:
        ours.close()
        _live(_Watch(prld, watched, its, kept))
    os.close(watched)
    its.close()
    try:
        with ours:
            yield Sentinel(pid, ours)
            os.kill(pid, signal.SIGKILL)  # in order: there is nothing to be mended
    finally:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _live(watch: "_Watch") -> NoReturn:
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):  # they are prld's, whose end it awaits
            signal.signal(number, signal.SIG_IGN)
        watch.close_others()
        memory.lock()
        watch.run()
        status = 0
    except Exception as error:  # noqa: BLE001 - nothing of prld's above it may run in here
        _say(f"prld's sentinel failed: {error!r}")
    finally:
        os._exit(status)


class _Watch:
    """The sentinel's side."""

    def __init__(
        self, prld: int, pidfd: int, channel: socket.socket, addresses: frozenset[Address]
    ) -> None:
        self._prld, self._pidfd, self._channel = prld, pidfd, channel
        self._addresses = addresses
        self._standing = Standing()
        self._pids: list[int] = []
        """Whose threads stand still."""
        self._since_s = self._looked_s = 0.0
        self._stood_s = 0.0
        """For how long they have, as far as looks without a word of prld's show."""

    def close_others(self) -> None:
        """Descriptors that were prld's: nobody is to take the sentinel for it."""
        kept = sorted((self._pidfd, self._channel.fileno()))
        for low, high in zip((2, *kept), (*kept, os.sysconf("SC_OPEN_MAX")), strict=True):
            os.closerange(low + 1, high)

    def run(self) -> None:
        """Until prld has ended, and what it left is mended."""
        asked = select.poll()
        asked.register(self._channel, select.POLLIN)
        while True:
            is_idle = not self._pids and self._standing.is_settled
            if not asked.poll(None if is_idle else LOOK_S * 1000):
                self._look()
                continue
            try:
                message = self._channel.recv(_MESSAGE_MAX)
            except OSError:
                break
            if not message:
                break
            self._do(message)
        if left := leave_repair_mode(self._addresses, self._pids or None):
            _say(f"prld was killed: {left} sockets that it had in repair mode have left that")
        self._standing.let_go()

    def _do(self, message: bytes) -> None:
        what, number = _REQUEST.unpack_from(message)
        if what == _LET_GO:
            self._let_go()
            return
        self._pids = list(array("I", message[_REQUEST.size :]))
        self._since_s = self._looked_s = time.monotonic()
        self._stood_s = 0.0
        answer, why = _ANSWER.pack(number, 0), ""
        try:
            self._standing.stop(self._pids)
        except FreezeError as error:
            answer, why = _ANSWER.pack(number, error.pid), error.why
        with contextlib.suppress(OSError):  # prld has ended: recv() tells
            self._channel.send(answer + why.encode())
        if why:
            self._let_go()

    def _let_go(self) -> None:
        self._standing.let_go()
        self._pids = []

    def _look(self) -> None:
        """Nothing has been heard of prld while programs stand still for it, or are to go on."""
        if not self._pids:
            self._standing.settle()
            return
        now_s = time.monotonic()
        self._stood_s += min(now_s - self._looked_s, 2 * LOOK_S)
        self._looked_s = now_s
        if now_s - self._since_s > STAND_MAX_S and procfs.is_stopped(self._prld):
            self._kill("is stopped")
        elif self._stood_s > HANG_MAX_S:
            self._kill("hangs")

    def _kill(self, how: str) -> None:
        """What is to be mended, is as soon as it has ended."""
        _say(f"prld {how}, and programs stand still for it: killing process {self._prld}")
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._since_s, self._stood_s = time.monotonic(), 0.0  # not again with every look


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def leave_repair_mode(addresses: Collection[Address], among: Collection[int] | None = None) -> int:
    """Let connections of ``addresses`` go on that a former prld has in repair mode; how many.

    Those of the processes ``among``, or of all. No prld may copy any meanwhile. Raises KernelError.
    """
    try:
        with SockDiag() as diag:
            inodes = {
                found.inode
                for family in (socket.AF_INET, socket.AF_INET6)
                for found in diag.sockets(family, _CONNECTED)
                if found.inode and found.local[0] in addresses
            }
        held = descriptors.holders_of_each(inodes, among) if inodes else {}
    except OSError as error:
        raise KernelError(f"connections cannot be looked for: {error.strerror or error}") from error
    return sum(_leaves(holders) for holders in held.values())


def _leaves(holders: Iterable[descriptors.Holder]) -> bool:
    """Whether the socket was in repair mode, and is not any more."""
    for holder in holders:
        with contextlib.suppress(OSError, UsageError, CallError):
            pidfd = os.pidfd_open(holder.pid)
            with descriptors.borrowed(holder, pidfd) as sock:
                if get_int(sock, Tcp.REPAIR) != Repair.ON:
                    return False
                set_int(sock, Tcp.REPAIR, Repair.OFF_NO_WINDOW_PROBE)
                set_int(sock, So.REUSEADDR, 1)  # it was forced; servers set it, accept() inherits
                return True
    return False
