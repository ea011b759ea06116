"""The processes that live in a network namespace: found, stopped, killed, awaited by pidfd."""

import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from prl.kernel import procfs
from prl.lab.errors import LabError
from prl.lab.netns import Namespace

DEATH_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 2.0
_SWEEPS_MAX = 100  # a process may fork while it is being looked for
_NONE: Collection[int] = ()


def pids_in(namespace: Namespace) -> list[int]:
    """Every live process in ``namespace`` but the calling one. Zombies have no namespace."""
    key = namespace.key()
    own = str(os.getpid())
    with os.scandir("/proc") as entries:
        names = [entry.name for entry in entries if entry.name.isdigit() and entry.name != own]
    return [int(name) for name in names if _namespace_key(name) == key]


def is_in(namespace: Namespace, pid: int) -> bool:
    """Whether ``pid`` is a live process in ``namespace``."""
    return _namespace_key(str(pid)) == namespace.key()


def parent_of(pid: int) -> int | None:
    """Its parent's number; None: it has ended."""
    with suppress(OSError):
        return procfs.parent_of(pid)
    return None


def kill(namespace: Namespace, spare: Collection[int] = _NONE) -> int:
    """Kill every process in ``namespace`` except ``spare``; return how many once they are gone.

    Raises:
        LabError: one of them did not die within ``DEATH_TIMEOUT_S``.
    """
    killed = 0
    for _ in range(_SWEEPS_MAX):
        victims = [pid for pid in pids_in(namespace) if pid not in spare]
        if not victims:
            return killed
        killed += len(victims)
        kill_pids(namespace, victims)
    raise LabError(f"the processes in {namespace.name} multiply faster than they can be killed")


def kill_pids(namespace: Namespace, pids: Collection[int]) -> None:
    """Kill those of ``pids`` that live in ``namespace`` and wait until they are gone.

    Raises:
        LabError: one of them did not die within ``DEATH_TIMEOUT_S``.
    """
    with _open_all(namespace, pids) as by_descriptor:
        for descriptor in by_descriptor:
            _send(descriptor, signal.SIGKILL)
        _await_death(namespace, by_descriptor)


def freeze(namespace: Namespace) -> None:
    """Stop every process in ``namespace``; return when none of them runs any more.

    Raises:
        LabError: one of them still ran after ``STOP_TIMEOUT_S``.
    """
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while running := [pid for pid in pids_in(namespace) if not _is_stopped(pid)]:
        if time.monotonic() > deadline:
            raise LabError(f"process {running[0]} in {namespace.name} does not stop")
        signal_pids(namespace, running, signal.SIGSTOP)
        os.sched_yield()  # only a tracer or the parent is told of a stop


def thaw(namespace: Namespace) -> None:
    """Let every stopped process in ``namespace`` go on."""
    signal_pids(namespace, pids_in(namespace), signal.SIGCONT)


def signal_pids(namespace: Namespace, pids: Collection[int], number: signal.Signals) -> None:
    """Signal those of ``pids`` that live in ``namespace``."""
    with _open_all(namespace, pids) as by_descriptor:
        for descriptor in by_descriptor:
            _send(descriptor, number)


@contextmanager
def _open_all(namespace: Namespace, pids: Collection[int]) -> Iterator[dict[int, int]]:
    """The pid by pidfd of those of ``pids`` that are in ``namespace``.

    Looking again after pidfd_open excludes a stranger that was given the pid meanwhile.
    """
    by_descriptor: dict[int, int] = {}
    with ExitStack() as stack:
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, descriptor)
            if is_in(namespace, pid):
                by_descriptor[descriptor] = pid
        yield by_descriptor


def _send(descriptor: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return


def _await_death(namespace: Namespace, by_descriptor: dict[int, int]) -> None:
    alive = dict(by_descriptor)
    poller = select.poll()
    for descriptor in alive:
        poller.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + DEATH_TIMEOUT_S
    while alive:
        dead = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not dead:
            pid = next(iter(alive.values()))
            raise LabError(f"process {pid} in {namespace.name} does not die")
        for descriptor, _ in dead:
            poller.unregister(descriptor)
            del alive[descriptor]


def _namespace_key(pid: str) -> tuple[int, int] | None:
    try:
        status = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _is_stopped(pid: int) -> bool:
    """Whether ``pid`` is stopped or gone (proc_pid_stat(5): the state follows the name)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
    except OSError:
        return True
    return state in b"TtZX"
