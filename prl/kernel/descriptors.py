"""Which processes have a socket, and a duplicate of it (SPEC R17).

By pid and descriptor it is /proc/P/fd/F; by the connection's ends, sock_diag(7) tells the inode,
and /proc/*/fd who has that. A descriptor that is on its way in a message (SCM_RIGHTS), or only an
io_uring's, is in no such folder, and not found; that there is one tells the number of references to
the socket (references_by(), docs/unchanged-programs.md).
"""

import contextlib
import ctypes
import errno
import os
import platform
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cmp_to_key
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Final

from prl.endpoint import Address, Side, show_endpoint
from prl.errors import KernelError, UsageError
from prl.kernel import procfs
from prl.kernel.sock_diag import LISTEN, SockDiag, TcpSocket, identity

_SYS_PIDFD_GETFD: Final = 438  # the same number on every architecture
_SYS_KCMP: Final = {"x86_64": 312, "aarch64": 272}.get(platform.machine(), -1)
"""-1, no system call's: as on a kernel without it, nothing can tell."""
_KCMP_FILE, _KCMP_FILES = 0, 2  # linux/kcmp.h
_KCMP_ORDERS: Final = {0: 0, 1: -1, 2: 1}  # kcmp(2); it says 3 where it keeps no order
_IPPROTO_MPTCP: Final = 262
_SO_GET_FILTER: Final = 26  # asm-generic/socket.h
_SO_NETNS_COOKIE: Final = 71

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, and the descriptor by which it has the socket."""

    pid: int
    fd: int

    @property
    def program(self) -> str:
        """Its name, for people."""
        return procfs.program_of(self.pid)

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.program})"


def inode_of(holder: Holder) -> int | None:
    """The inode of the socket there now; None when there is none."""
    try:
        return procfs.socket_inode(os.readlink(f"/proc/{holder.pid}/fd/{holder.fd}"))  # noqa: PTH115
    except OSError:
        return None


def require_socket(holder: Holder) -> int:
    """The inode of the socket there. Raises UsageError that says what is wrong."""
    if not Path(f"/proc/{holder.pid}").is_dir():
        raise UsageError(f"there is no process {holder.pid}; see `ss -tnp`")
    place = Path(f"/proc/{holder.pid}/fd/{holder.fd}")
    try:
        target = str(place.readlink())
    except FileNotFoundError:
        raise UsageError(
            f"{holder} has no descriptor {holder.fd}; see `ss -tnp`, or give --tuple"
        ) from None
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}") from error
    inode = procfs.socket_inode(target)
    if inode is None:
        raise UsageError(f"descriptor {holder.fd} of {holder} is no socket but {target}")
    return inode


def holders_of(inode: int, among: Iterable[int] | None = None) -> list[Holder]:
    """Who has the socket of that inode, this process left out; one descriptor of each."""
    return holders_of_each({inode}, among).get(inode, [])


def holders_of_each(
    inodes: Collection[int], among: Iterable[int] | None = None
) -> dict[int, list[Holder]]:
    """The same for many sockets, by one look at the processes; left out if nobody has it."""
    found: dict[int, list[Holder]] = {}
    for pid in among if among is not None else procfs.processes():
        missing = len(inodes) if pid != os.getpid() else 0
        for inode, fd in procfs.sockets_of(pid) if missing else ():
            if inode in inodes:
                holders = found.setdefault(inode, [])
                if not holders or holders[-1].pid != pid:
                    holders.append(Holder(pid, fd))
                    missing -= 1
                    if not missing:
                        break
    return found


def has(holder: Holder, fd: int) -> bool:
    """Whether its descriptor is of the same socket as our ``fd``; not where nothing can tell."""
    return _kcmp(os.getpid(), holder.pid, _KCMP_FILE, fd, holder.fd) == 0


def references_by(holders: Iterable[Holder], fd: int) -> int | None:
    """How many references to the socket of our ``fd`` these are; None: one is not of it any more.

    They are to stand still. What is in a table that processes share (clone(2), CLONE_FILES) is one
    reference. None as well where nothing can tell: a kernel without kcmp(2).
    """
    known = list(holders)
    if not all(has(holder, fd) for holder in known):
        return None
    having: dict[int, list[int]] = {}
    for holder in known:
        having.setdefault(holder.fd, []).append(holder.pid)
    try:
        return sum(_tables(pids) if len(pids) > 1 else 1 for pids in having.values())
    except OSError:
        return None


def _tables(pids: list[int]) -> int:
    """How many tables of descriptors these processes have. Raises OSError."""
    by_table = sorted(pids, key=cmp_to_key(_order_of_tables))
    return 1 + sum(_order_of_tables(*pair) != 0 for pair in pairwise(by_table))


def _order_of_tables(pid: int, other: int) -> int:
    """0: it is the same one; else which comes first, always alike. Raises OSError."""
    order = _kcmp(pid, other, _KCMP_FILES, 0, 0)
    if order not in _KCMP_ORDERS:
        raise OSError(ctypes.get_errno(), "kcmp")
    return _KCMP_ORDERS[order]


def _kcmp(pid: int, other: int, kind: int, one: int, two: int) -> int:
    return int(_libc.syscall(_SYS_KCMP, pid, other, kind, one, two))


def family(pids: Iterable[int]) -> list[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents().items():
        children.setdefault(parent, []).append(pid)
    found, todo = set(pids), list(pids)
    while todo:
        new = set(children.get(todo.pop(), ())) - found
        found |= new
        todo += new
    return sorted(found)


_PARENTS_FRESH_S: Final = 0.01
_known_parents: tuple[float, dict[int, int]] = (0.0, {})


def _parents() -> dict[int, int]:
    """Of each process; read once for connections that come together."""
    global _known_parents  # noqa: PLW0603 - a cache
    if time.monotonic() - _known_parents[0] > _PARENTS_FRESH_S:
        parents = {}
        for pid in procfs.processes():
            with contextlib.suppress(OSError):
                parents[pid] = procfs.parent_of(pid)
        _known_parents = (time.monotonic(), parents)
    return _known_parents[1]


def duplicate(holder: Holder, pidfd: int) -> socket.socket:
    """The holder's socket, as a descriptor of ours. Raises UsageError."""
    fd = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, holder.fd, 0)
    if fd < 0:
        number = ctypes.get_errno()
        reason = {
            errno.EBADF: "it has closed that just now",
            errno.ESRCH: "it has just ended",
            errno.EPERM: "prld may not (it needs CAP_SYS_PTRACE)",
            errno.ENOSYS: "this kernel has no pidfd_getfd (5.6 has)",
        }.get(number, os.strerror(number))
        raise UsageError(f"descriptor {holder.fd} of {holder} cannot be had: {reason}")
    return socket.socket(fileno=fd)


@contextlib.contextmanager
def borrowed(holder: Holder, pidfd: int) -> Iterator[socket.socket]:
    """The holder's socket for a moment; closes ``pidfd``. Raises UsageError."""
    try:
        with duplicate(holder, pidfd) as sock:
            yield sock
    finally:
        os.close(pidfd)


class Filter(Enum):
    """What filters a socket's input."""

    NONE = 0
    CLASSIC = 1
    EBPF = 2
    """It may be prl's own."""


def filter_of(sock: socket.socket) -> Filter:
    """The socket's filter."""
    count = ctypes.c_uint32(0)  # asked for none of its instructions, the kernel tells how many
    failed = _libc.getsockopt(
        sock.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, ctypes.byref(count)
    )
    if failed:
        return Filter.EBPF if ctypes.get_errno() == errno.EACCES else Filter.NONE
    return Filter.CLASSIC if count.value else Filter.NONE


def require_plain_tcp(sock: socket.socket, whose: str) -> None:
    """Refuse what is no TCP socket of this network namespace. Raises UsageError."""
    if sock.proto == _IPPROTO_MPTCP:
        raise UsageError(
            f"{whose}: an MPTCP socket cannot be replicated; make the listener plain TCP "
            "(Go: GODEBUG=multipathtcp=0)"
        )
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.proto != socket.IPPROTO_TCP:
        raise UsageError(f"{whose}: not a TCP socket")
    if _namespace_of(sock) != _own_namespace(sock.family):
        raise UsageError(f"{whose}: the socket is of another network namespace than prld")


def require_connected_tcp(sock: socket.socket, whose: str) -> None:
    """Refuse what is no connected TCP socket of this network namespace. Raises UsageError."""
    require_plain_tcp(sock, whose)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError(f"{whose}: it listens; use --listen for the connections that it accepts")
    try:
        sock.getpeername()
    except OSError as error:
        raise UsageError(f"{whose}: the socket is not connected ({error.strerror})") from error


def _namespace_of(sock: socket.socket) -> bytes:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return b""  # before Linux 5.14


def _own_namespace(family: int) -> bytes:
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        return _namespace_of(own)


def uids_of(pid: int) -> frozenset[int]:
    """The users that a process is or may become: real, effective, saved, of the file system.

    Raises UsageError when it has gone.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        words = next(line for line in lines if line.startswith("Uid:")).split()[1:]
        return frozenset(map(int, words))
    raise UsageError(f"there is no process {pid}")


_NO_CONNECTION: Final = (
    "there is no connection {},{} here; see `ss -tn`, the service's end comes first"
)


def inode_of_tuple(local: Side, remote: Side) -> int:
    """The inode of the connected TCP socket with these ends; 0 while nobody has accepted it.

    Raises:
        UsageError: there is no such socket.
        KernelError: sock_diag does not work.
    """
    if local[0].version != remote[0].version:
        raise UsageError(f"{local[0]} and {remote[0]} are of different IP versions")
    with _sock_diag() as diag:
        try:
            found = diag.find(_family(local[0]), identity(local, remote))
        except FileNotFoundError:
            found = None
    if found is None or found.state == LISTEN:  # the look-up falls back to the listener
        raise UsageError(_NO_CONNECTION.format(show_endpoint(*local), show_endpoint(*remote)))
    return found.inode


def sockets_on(local: Side, state: int) -> list[TcpSocket]:
    """Sockets in that state whose local end is ``local``, or for a listener comprises it.

    Raises KernelError.
    """
    families = {_family(local[0]), socket.AF_INET6}  # one of IPv6 may serve IPv4 as well
    any_address = ip_address("0.0.0.0"), ip_address("::")  # noqa: S104 - compared, not bound
    with _sock_diag() as diag:
        return [
            found
            for family in sorted(families)
            for found in diag.sockets(family, 1 << state)
            if found.local[1] == local[1]
            and (found.local[0] == local[0] or (state == LISTEN and found.local[0] in any_address))
        ]


@contextlib.contextmanager
def _sock_diag() -> Iterator[SockDiag]:
    try:
        with SockDiag() as diag:
            yield diag
    except OSError as error:
        raise KernelError(
            f"sock_diag: {error.strerror or error}; use a kernel with CONFIG_INET_TCP_DIAG"
        ) from error


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004
