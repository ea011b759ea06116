"""One run of the served program: stdin and stdout are the connection."""

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from prl.errors import PrlError
from prl.serve.relay import wait

STOP_GRACE_S = 5.0


class Command:
    """A running program with a pipe to its stdin and one from its stdout; stderr is ours."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Start the program in a process group of its own.

        Raises:
            PrlError: it cannot be started.
        """
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise PrlError(f"cannot run {argv[0]}: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self.pidfd = os.pidfd_open(self._process.pid)
        self._status: int | None = None
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)

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

    def stop(self) -> None:
        """Close the pipes and get rid of the program with all that it started. Idempotent."""
        if self.pidfd < 0:
            return
        self.close_stdin()
        self._stdout.close()
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
