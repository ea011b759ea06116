"""The service manager is told what a daemon is about, and that it lives (sd_notify(3))."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

_SOCKET, _WATCHDOG_USEC, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
FEEDS_PER_TIMEOUT: Final = 4
"""The watchdog is fed so often within its time."""
_IDLE_S: Final = 2.0
"""Without a watchdog: how often the status is looked at."""
_US_PER_S: Final = 1e6


class ServiceManager:
    """Whoever started this by a unit of ``Type=notify``; without one nothing is sent."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Take the variables out of ``environ``: no child is meant by them."""
        path = environ.pop(_SOCKET, "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        timeout, pid = environ.pop(_WATCHDOG_USEC, ""), environ.pop(_WATCHDOG_PID, "")
        mine = pid in {"", str(os.getpid())}
        self._timeout_s = int(timeout) / _US_PER_S if timeout.isdigit() and mine else 0.0
        self._told = ""

    def ready(self) -> None:
        """Requests are answered."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    async def watch(self, newest_pass: Callable[[], int], status: Callable[[], str]) -> None:
        """Feed the watchdog for as long as what does the work makes passes, and tell the status.

        ``newest_pass`` is a number that every pass changes. When it stands still, or when this task
        does not come to run, the service manager ends this process and starts another.
        """
        if not self._address:
            return
        before = None
        interval_s = self._timeout_s / FEEDS_PER_TIMEOUT if self._timeout_s else _IDLE_S
        while True:
            newest = newest_pass()
            if self._timeout_s and newest != before:
                self._send("WATCHDOG=1")
            before = newest
            if (words := status()) != self._told:
                self._told = words
                self._send(f"STATUS={words}")
            await asyncio.sleep(interval_s)

    def _send(self, line: str) -> None:
        """A service manager that is not there or does not read is no concern of ours."""
        if self._address:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
                sock.sendto(line.encode(), self._address)
