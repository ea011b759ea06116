"""One run of the served program: stdin and stdout are the connection."""

import logging
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from prl.errors import PrlError
from prl.kernel import procfs
from prl.serve.relay import Interest, wait

STOP_GRACE_S = 5.0
COMPLAINT_MAX_BYTES = 1024
"""Of one line of stderr, so much gets into the log at a time."""
_READ_BYTES = 4096
_LAST_READS = 16

_log = logging.getLogger("prl.serve")


class Command:
    """A running program with a pipe to its stdin and one from its stdout; stderr is logged."""

    def __init__(self, argv: Sequence[str], who: str = "") -> None:
        """Start the program in a process group of its own; ``who`` says whose, for the log.

        Raises:
            PrlError: it cannot be started.
        """
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise PrlError(f"cannot run {argv[0]}: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        assert self._process.stderr is not None
        self._stdout = self._process.stdout
        self._stderr = self._process.stderr
        self._who = who
        self._complaint = b""
        self._complains = True
        self.pidfd = os.pidfd_open(self._process.pid)
        self._status: int | None = None
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        os.set_blocking(self._stderr.fileno(), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def stdin(self) -> int:
        """The descriptor to write the program's input to."""
        return self._stdin.fileno()

    @property
    def stdout(self) -> int:
        """The descriptor to read the program's output from."""
        return self._stdout.fileno()

    def close_stdin(self) -> None:
        """Tell the program that its input has ended. Idempotent."""
        with suppress(OSError):
            self._stdin.close()

    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs. ``pidfd`` tells when."""
        if self._status is None:
            # WNOWAIT: while it is not reaped, its number (the group's, too) cannot be reused.
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                was_killed = found.si_code != os.CLD_EXITED
                self._status = -found.si_status if was_killed else found.si_status
        return self._status

    def is_exiting(self) -> bool:
        """Whether it is ending: then the kernel closed its stdout, not the program."""
        return self.status() is not None or procfs.is_exiting(self._process.pid)

    def interests(self) -> list[Interest]:
        """What to wait for before the next ``step``: its stderr, and its end."""
        found = [(self.pidfd, select.POLLIN)] if self.status() is None else []
        return [*found, (self._stderr.fileno(), select.POLLIN)] if self._complains else found

    def step(self, events: dict[int, int]) -> None:
        """Log what it says on stderr."""
        if not self._complains or self._stderr.fileno() not in events:
            return
        try:
            data = os.read(self._stderr.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        self._complains = bool(data)
        *lines, self._complaint = (self._complaint + data).split(b"\n")
        if len(self._complaint) > COMPLAINT_MAX_BYTES or not data:
            lines, self._complaint = [*lines, self._complaint], b""
        for line in lines:
            self._log_line(line)

    def _hear_out(self) -> None:
        """Log what it has said last, as far as it is there."""
        for _ in range(_LAST_READS):
            if self._complains:
                self.step(wait([(self._stderr.fileno(), select.POLLIN)], 0))
        self._log_line(self._complaint)

    def _log_line(self, line: bytes) -> None:
        if line:
            words = line[:COMPLAINT_MAX_BYTES].decode("utf-8", "backslashreplace")
            _log.info("%s: stderr: %s", self._who, words)

    def stop(self) -> None:
        """Close the pipes and get rid of the program with all that it started. Idempotent."""
        if self.pidfd < 0:
            return
        self.close_stdin()
        self._stdout.close()
        self._hear_out()
        self._stderr.close()
        if self.status() is None:
            self._signal(signal.SIGTERM)
            wait([(self.pidfd, select.POLLIN)], STOP_GRACE_S)
        self._signal(signal.SIGKILL)  # what is left of the group, or did not heed SIGTERM
        self._process.wait()
        os.close(self.pidfd)
        self.pidfd = -1

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def describe_status(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"was killed by signal {-status}"
    return f"ended with exit status {status}"
