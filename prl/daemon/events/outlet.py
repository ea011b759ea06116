"""Where records go at once: to the journal with their facts as fields, or to standard error.

Neither may hold prld up: what cannot be taken without waiting is left out and counted. `prlctl
events` has it all the same.
"""

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from prl.daemon.events.record import Record

LINES_PER_S: Final = 256
"""Records a second that leave prld in the long run …"""
LINES_AT_ONCE: Final = 4096
"""… and at once."""
LINES_RESERVED: Final = {"info": 512, "warning": 128, "error": 0}
"""Of those, what a level leaves to those above it: a take-over tells of thousands of sessions."""
LINE_MAX_BYTES: Final = select.PIPE_BUF
"""So much a pipe takes without waiting where it takes anything (pipe(7))."""
JOURNAL: Final = Path("/run/systemd/journal/socket")
STREAM_VARIABLE: Final = "JOURNAL_STREAM"
_STDERR: Final = 2
_PRIORITIES: Final = {"error": 3, "warning": 4, "info": 6}  # syslog(3)
_FIELDS: Final = {"handle": "PRL_FLOW"}
"""Facts whose field is not called PRL_ and the fact's name."""
_LENGTH = struct.Struct("<Q")

Deliver = Callable[[Record], bool]
"""Takes a record without waiting; False: it cannot."""


class Outlet:
    """Passes records on, so many and no more."""

    def __init__(self, deliver: Deliver, clock: Callable[[], float] = time.monotonic) -> None:
        self._deliver, self._clock = deliver, clock
        self._room, self._at_s = float(LINES_AT_ONCE), clock()
        self._left_out = 0

    def __call__(self, record: Record) -> None:
        """Pass it on, or count it."""
        now_s = self._clock()
        self._room = min(self._room + (now_s - self._at_s) * LINES_PER_S, LINES_AT_ONCE)
        self._at_s = now_s
        room = self._room - LINES_RESERVED[record.level]
        if room < 1 or (self._left_out and not self._tell(record)):
            self._left_out += 1
            return
        self._room -= 1
        if not self._deliver(record):
            self._left_out += 1

    def _tell(self, record: Record) -> bool:
        """Say how many are missing before this one."""
        words = f"{self._left_out} records are left out here; `prlctl events` has the newest"
        facts = {"count": self._left_out}
        told = self._deliver(
            Record(
                record.seq, record.time, record.monotonic_ns, "warning", "left_out", words, facts
            )
        )
        if told:
            self._left_out = 0
        return told


def outlet() -> Outlet:
    """The journal if prld's standard error is the journal's, else standard error."""
    return Outlet(Journal(JOURNAL) if _is_journal() else to_stderr)


def _is_journal() -> bool:
    """systemd.exec(5): device and inode of what it connected standard error to."""
    with contextlib.suppress(OSError):
        status = os.fstat(_STDERR)
        return os.environ.get(STREAM_VARIABLE) == f"{status.st_dev}:{status.st_ino}"
    return False


def to_stderr(record: Record) -> bool:
    """One line on standard error."""
    raw = record.line.encode("utf-8", "replace")
    if len(raw) >= LINE_MAX_BYTES:
        raw = raw[: LINE_MAX_BYTES - 4] + "…".encode()
    poller = select.poll()
    poller.register(_STDERR, select.POLLOUT)
    with contextlib.suppress(OSError):
        if all(event & select.POLLOUT for _, event in poller.poll(0) or [(0, 0)]):
            os.write(_STDERR, raw + b"\n")
            return True
    return False


class Journal:
    """systemd's journal by its native protocol (systemd.journal-fields(7))."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __call__(self, record: Record) -> bool:
        """One entry."""
        raw = b"".join(_field(name, value) for name, value in _fields(record))
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
            sock.sendto(raw, self._path)
            return True
        return False


def _fields(record: Record) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", record.text
    yield "PRIORITY", str(_PRIORITIES[record.level])
    yield "SYSLOG_IDENTIFIER", "prld"
    yield "PRL_EVENT", record.event
    for name, value in record.facts.items():
        yield _FIELDS.get(name, f"PRL_{name.upper()}"), str(value)


def _field(name: str, value: str) -> bytes:
    raw = value.encode("utf-8", "replace")[:LINE_MAX_BYTES]
    if b"\n" not in raw:
        return name.encode() + b"=" + raw + b"\n"
    return name.encode() + b"\n" + _LENGTH.pack(len(raw)) + raw + b"\n"
