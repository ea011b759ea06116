"""Programs of which neither the time nor the output is known: both are bounded."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_READ_BYTES: Final = 1 << 16
_REAP_S: Final = 1.0
"""One that cannot even be killed (in the kernel, say) is left alone after that."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a program."""

    output: bytes
    """Standard output and error as they came; the last lines, if there were too many bytes."""
    ended: str
    """"" for exit status 0; else how it ended, in words."""
    left_out_bytes: int = 0


def run(
    argv: Sequence[str],
    *,
    bytes_max: int,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a program to its end, or until ``timeout_s`` has passed; it is killed then."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that what it started can be killed with it
        )
    except OSError as error:
        return Outcome(b"", f"not run: {error.strerror}")
    assert process.stdout is not None
    with process.stdout:
        kept, left_out, in_time = _read(process.stdout.fileno(), bytes_max, timeout_s)
    if left_out:  # no half of a line: it could be half of a secret, which nobody would know
        whole = kept[kept.find(b"\n") + 1 :]
        kept, left_out = whole, left_out + len(kept) - len(whole)
    if not in_time:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    try:
        status = process.wait(_REAP_S)
    except subprocess.TimeoutExpired:
        status = -signal.SIGKILL
    if not in_time:
        return Outcome(kept, f"killed after {timeout_s:g} s", left_out)
    return Outcome(kept, f"exit status {status}" if status else "", left_out)


def _read(fd: int, bytes_max: int, timeout_s: float) -> tuple[bytes, int, bool]:
    """The last bytes up to the end of the stream, how many came before, and whether it ended."""
    kept, left_out = bytearray(), 0
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([fd], [], [], left_s)[0]:
            break
        if not (more := os.read(fd, _READ_BYTES)):
            return bytes(kept), left_out, True
        kept += more
        if (surplus := len(kept) - bytes_max) > 0:
            del kept[:surplus]
            left_out += surplus
    return bytes(kept), left_out, False
