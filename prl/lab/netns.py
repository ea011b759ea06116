"""One named network namespace: its life, and work done inside it."""

import ctypes
import errno
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2 import netns as pyroute2_netns

from prl.lab.errors import LabError

RUN_DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_MNT_DETACH = 2  # linux/fs.h
_EVENT_BYTES = 65536
_RTMGRP_LINK = 1  # linux/rtnetlink.h

_libc = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


class Namespace:
    """A network namespace named under /run/netns, where iproute2 finds it too."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = RUN_DIRECTORY / name

    def exists(self) -> bool:
        """Whether the name is taken, be it by a namespace or by what a crash left of one."""
        return self.path.exists()

    def key(self) -> tuple[int, int]:
        """What identifies the namespace: ``/proc/PID/ns/net`` of a process inside has the same.

        Raises:
            LabError: there is no such namespace.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise LabError(f"there is no network namespace {self.name}") from None
        return (status.st_dev, status.st_ino)

    def create(self) -> None:
        """Make the namespace. Its name must be free.

        Raises:
            LabError: the kernel or the file system refused.
        """
        try:
            pyroute2_netns.create(self.name)
        except OSError as error:
            raise LabError(f"cannot make network namespace {self.name}: {error}") from error

    def remove(self) -> None:
        """Take the name away; the namespace goes with its last process and socket. Idempotent."""
        # A crash or a reboot can leave the file without the mount, hence no check of the result.
        _libc.umount2(os.fsencode(self.path), _MNT_DETACH)
        self.path.unlink(missing_ok=True)

    def netlink(self) -> IPRoute:
        """An open rtnetlink socket of this namespace; close it when done.

        Raises:
            LabError: there is no such namespace.
        """
        self.key()
        # flags=0: by default pyroute2 would create a namespace that does not exist.
        return IPRoute(netns=self.name, flags=0)

    def call(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` in a thread of its own inside the namespace and return what it returns."""

        def enter_and_work() -> _T:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                    code = ctypes.get_errno()
                    raise LabError(f"cannot enter namespace {self.name}: {os.strerror(code)}")
            finally:
                os.close(descriptor)
            return work()

        self.key()
        with ThreadPoolExecutor(max_workers=1) as executor:
            return executor.submit(enter_and_work).result()

    def set_sysctls(self, values: Mapping[str, int | str]) -> None:
        """Write sysctls, named as below /proc/sys with '/' between the parts."""

        def write() -> None:
            for name, value in values.items():
                Path("/proc/sys", name).write_text(f"{value}\n")

        try:
            self.call(write)
        except OSError as error:
            raise LabError(f"cannot set a sysctl in {self.name}: {error}") from error

    def link_events(self) -> socket.socket:
        """A socket that becomes readable whenever an interface in the namespace changes."""

        def subscribe() -> socket.socket:
            events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            events.setblocking(False)
            events.bind((0, _RTMGRP_LINK))
            return events

        return self.call(subscribe)

    def command(self, argv: Sequence[str]) -> list[str]:
        """``argv`` made to run inside; nsenter, as ``ip netns exec`` would hide /sys/fs/bpf."""
        return ["nsenter", f"--net={self.path}", "--", *argv]


def drain(events: socket.socket) -> None:
    """Throw away what a non-blocking event socket holds."""
    while True:
        try:
            events.recv(_EVENT_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # events were lost: the reader looks again anyway
                raise


def exec_in(namespace: str, argv: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
    """Start ``argv`` inside the namespace; further arguments are ``subprocess.Popen``'s.

    The process that runs is ``argv`` itself (its pid is ``Popen.pid``): nsenter executes it.

    Raises:
        LabError: there is no such namespace.
    """
    place = Namespace(namespace)
    place.key()
    return subprocess.Popen(place.command(argv), **popen)
