"""What the kernel tells of a process (proc(5), pidfd_open(2))."""

import select
from pathlib import Path

_PF_EXITING = 0x4  # linux/sched.h; set before the descriptors are closed (do_exit, kernel/exit.c)
_FLAGS_AT, _EXIT_CODE_AT = 6, 49  # in /proc/PID/stat, counted behind the name


def program_of(pid: int) -> str:
    """Its name, for people."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


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


def zombie_status(pid: int) -> int:
    """The wait status of a process that has ended and was not reaped. Raises OSError."""
    return _stat(Path(f"/proc/{pid}"))[_EXIT_CODE_AT]


def _stat(folder: Path) -> list[int]:
    text = (folder / "stat").read_text()
    words = text[text.rindex(")") + 2 :].split()
    return [int(word) if word.lstrip("-").isdigit() else 0 for word in words]
