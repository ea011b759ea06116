"""The program prld."""

import argparse
import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prl import config as configuration
from prl.config import Config, link_key
from prl.daemon.host import capabilities, memory, scheduling
from prl.daemon.host.notify import ServiceManager
from prl.errors import KernelError, PrlError

if TYPE_CHECKING:
    from prl.daemon.events.log import EventLog
    from prl.daemon.programs.sentinel import Sentinel

READY_FD = "PRL_READY_FD"
"""Names a descriptor that gets ``ready`` or ``error: …``, one line, when prld knows which."""
KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
BPFFS = Path("/sys/fs/bpf")
_KERNEL_MIN = (6, 1)
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_M_ARENA_MAX = -8  # malloc.h
DESCRIPTORS_BESIDES = 16384
"""Descriptors that are no session's: applications (two each) and what waits for them, unchanged
programs, what prld itself needs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run prld; returns its exit status (SPEC section 8)."""
    given = arguments().parse_args(argv)
    forbid_dumps()
    ready, manager = _Ready(), ServiceManager()
    try:
        config = configuration.load(given.config)
        notices = configuration.deprecations(given.config)
        check_host()
        if not (given.scrub or config.link.plain):
            link_key.load(Path(config.link.key))
        if given.scrub:
            asyncio.run(_scrub(config))
        else:
            _watched(config, notices, ready, manager)
    except PrlError as error:
        line = " ".join(str(error).split())
        sys.stderr.write(f"error: {line}\n")
        ready.tell(f"error: {line}")
        return error.exit_code
    except BaseException as error:
        ready.tell(f"error: prld failed: {error!r}")
        raise
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="prld",
        description="Keeps live TCP and UDP sessions on two nodes: one prld runs on each, as "
        "prld.service or in the foreground.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=configuration.DEFAULT_PATH,
        metavar="FILE",
        help="configuration, default %(default)s; see prld.toml(5)",
    )
    parser.add_argument(
        "--scrub",
        action="store_true",
        help="remove what a prld left in the kernel, be it for live sessions: its addresses, "
        "programs and pins; not while one runs",
    )
    return parser


def forbid_dumps() -> None:
    """No core dump has keys and what sessions carry, and who is not root may not look at prld.

    It is not inherited over execve(2): fence_command and hooks may dump.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def check_host() -> None:
    """What no prld can do without. Raises KernelError that says how to get it."""
    capabilities.require()
    release = os.uname().release
    with contextlib.suppress(ValueError):
        if tuple(int(part) for part in release.split(".")[:2]) < _KERNEL_MIN:
            raise KernelError(f"Linux {release} is too old; prld needs 6.1 or newer")
    if not KERNEL_BTF.exists():
        raise KernelError(
            f"{KERNEL_BTF} is missing: the kernel has no BTF; use one with CONFIG_DEBUG_INFO_BTF"
        )
    if not os.path.ismount(BPFFS):
        raise KernelError(f"{BPFFS} is not mounted; run: mount -t bpf bpf {BPFFS}")


async def _scrub(config: Config) -> None:
    from prl.daemon.events.log import EventLog  # noqa: PLC0415
    from prl.daemon.node import Node  # noqa: PLC0415

    await Node(config, EventLog(), ServiceManager({})).scrub()


def _watched(config: Config, notices: list[str], ready: "_Ready", manager: ServiceManager) -> None:
    """Serve, with a sentinel beside it."""
    # Only here: without the C extension there is still a clear word.
    from prl.daemon.events.log import EventLog  # noqa: PLC0415
    from prl.daemon.programs import sentinel  # noqa: PLC0415

    events = EventLog()
    if why := scheduling.become_nice():  # the sentinel as well: programs stand still for it
        events.warning("late_among_others", why)
    for notice in notices:
        events.warning("configuration_deprecated", notice)
    with sentinel.posted(a for service in config.service for a in service.addresses) as posted:
        asyncio.run(_serve(config, events, ready, manager, posted))


async def _serve(
    config: Config, events: "EventLog", ready: "_Ready", manager: ServiceManager, posted: "Sentinel"
) -> None:
    from prl.daemon.node import Node  # noqa: PLC0415 - as above

    with contextlib.suppress(OSError, ValueError):  # kernels since 5.11 do not need it
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    _raise_descriptor_limit(config.flows_max)
    _use_one_heap()
    memory.lock()
    node = Node(config, events, manager)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    await node.serve(posted, lambda: ready.tell("ready"))


def _raise_descriptor_limit(flows_max: int) -> None:
    """One descriptor a session, and as many as there may be of them if prld may have so many.

    More than the hard limit takes CAP_SYS_RESOURCE, more than fs.nr_open nobody can have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(soft, flows_max + DESCRIPTORS_BESIDES), hard):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            return


def _use_one_heap() -> None:
    """Threads that live for one snapshot would each leave freed memory in a heap of their own."""
    with contextlib.suppress(AttributeError):  # glibc's alone, mallopt(3)
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


class _Ready:
    """Whoever started prld waits for one line."""

    def __init__(self) -> None:
        value = os.environ.pop(READY_FD, "")
        self._fd = int(value) if value.isascii() and value.isdigit() else -1
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.set_inheritable(self._fd, False)

    def tell(self, line: str) -> None:
        """Write the line, once."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            os.write(self._fd, line.encode() + b"\n")
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1


if __name__ == "__main__":
    sys.exit(main())
