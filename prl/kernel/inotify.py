"""Waiting for a file to appear, by inotify(7)."""

import contextlib
import ctypes
import os
import select
from pathlib import Path

_IN_CREATE, _IN_MOVED_TO = 0x100, 0x80
_IN_CLOEXEC, _IN_NONBLOCK = 0o2000000, 0o4000
_EVENTS_BYTES = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class Appearance:
    """Watches the folder of ``path``, unless there is no inotify, or no descriptor for it."""

    def __init__(self, path: Path) -> None:
        self._watch: int = _libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
        self._folder = os.fsencode(path.parent)

    @property
    def descriptor(self) -> int:
        """Readable when something has appeared since arm(); -1: there is no inotify."""
        return self._watch

    def arm(self) -> None:
        """Watch from now on. Again each time: the folder may have been removed and made anew."""
        if self._watch >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._watch, _EVENTS_BYTES)
            _libc.inotify_add_watch(self._watch, self._folder, _IN_CREATE | _IN_MOVED_TO)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._watch >= 0:
            os.close(self._watch)


class AwaitedAppearance(Appearance):
    """Waited for in a thread; without inotify, wait() just takes its time."""

    def __init__(self, path: Path) -> None:
        self._interrupted = os.eventfd(0, os.EFD_CLOEXEC)
        super().__init__(path)

    def wait(self, timeout_s: float) -> None:
        """Return when something has appeared in the folder, after interrupt(), or in the end."""
        poller = select.poll()
        poller.register(self._interrupted, select.POLLIN)
        if self._watch >= 0:
            self.arm()
            poller.register(self._watch, select.POLLIN)
        poller.poll(timeout_s * 1000)

    def interrupt(self) -> None:
        """No wait() waits any more."""
        os.eventfd_write(self._interrupted, 1)

    def close(self) -> None:
        """Give the descriptors back."""
        super().close()
        os.close(self._interrupted)
