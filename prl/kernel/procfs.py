"""What the kernel tells of a process (proc(5), pidfd_open(2))."""

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path

_PF_EXITING = 0x4  # linux/sched.h; set before the descriptors are closed (do_exit, kernel/exit.c)
_FLAGS_AT, _EXIT_CODE_AT = 6, 49  # in /proc/PID/stat, counted behind the name
_SOCKET = "socket:["  # what a socket's link in /proc/PID/fd begins with


def program_of(pid: int) -> str:
    """Its name, for people."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def processes() -> list[int]:
    """All of the host that can be seen. Raises OSError: there is no /proc."""
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def sockets_of(pid: int) -> Iterator[tuple[int, int]]:
    """Inode and descriptor of each socket that the process has; of one that has ended, none."""
    folder = f"/proc/{pid}/fd"
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(folder)  # noqa: PTH208 - every descriptor of the host may come here
    for name in names:
        with contextlib.suppress(OSError):
            inode = socket_inode(os.readlink(f"{folder}/{name}"))  # noqa: PTH115
            if inode is not None:
                yield inode, int(name)


def socket_inode(target: str) -> int | None:
    """The socket's inode, of what a link in /proc/PID/fd says; None: it is something else."""
    return int(target[len(_SOCKET) : -1]) if target.startswith(_SOCKET) else None


def parent_of(pid: int) -> int:
    """Its parent's number. Raises OSError: it has ended."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text[text.rindex(")") + 2 :].split(maxsplit=2)[1])


def has_ended(pidfd: int) -> bool:
    """Whether the process that this is a descriptor of is gone; its number may be another's."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def is_exiting(pid: int) -> bool:
    """Whether every thread of it is on its way out: then the kernel closed what it had, not it."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return all(_stat(thread)[_FLAGS_AT] & _PF_EXITING for thread in threads)
    except OSError:
        return True


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped it (SIGSTOP); no tracer, nor the cgroup's freezer."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2 :].startswith("T")


def zombie_status(pid: int) -> int:
    """The wait status of a process that has ended and was not reaped. Raises OSError."""
    return _stat(Path(f"/proc/{pid}"))[_EXIT_CODE_AT]


def _stat(folder: Path) -> list[int]:
    text = (folder / "stat").read_text()
    words = text[text.rindex(")") + 2 :].split()
    return [int(word) if word.lstrip("-").isdigit() else 0 for word in words]
