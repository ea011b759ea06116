"""Which processes have a socket, and a duplicate of it (SPEC R17).

By pid and descriptor it is /proc/P/fd/F; by the connection's ends, sock_diag(7) tells the inode,
and /proc/*/fd who has that. A descriptor that is on its way in a message (SCM_RIGHTS), or only an
io_uring's, is in no such folder, and not found.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from prl.endpoint import Address, Side, show_endpoint
from prl.errors import KernelError, UsageError
from prl.kernel import procfs
from prl.kernel.sock_diag import LISTEN, SockDiag, TcpSocket, identity

_SOCKET_LINK = re.compile(r"socket:\[(\d+)\]")
_SYS_PIDFD_GETFD: Final = 438  # the same number on every architecture
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
        found = _SOCKET_LINK.fullmatch(os.readlink(f"/proc/{holder.pid}/fd/{holder.fd}"))  # noqa: PTH115
    except OSError:
        return None
    return int(found[1]) if found else None


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
    found = _SOCKET_LINK.fullmatch(target)
    if found is None:
        raise UsageError(f"descriptor {holder.fd} of {holder} is no socket but {target}")
    return int(found[1])


def holders_of(inode: int, among: Iterable[int] | None = None) -> list[Holder]:
    """Who has the socket of that inode, this process left out; one descriptor of each."""
    return holders_of_each({inode}, among).get(inode, [])


def holders_of_each(
    inodes: Collection[int], among: Iterable[int] | None = None
) -> dict[int, list[Holder]]:
    """The same for many sockets, by one look at the processes; left out if nobody has it."""
    wanted, own = {f"socket:[{inode}]": inode for inode in inodes}, os.getpid()
    found: dict[int, list[Holder]] = {}
    for pid in among if among is not None else _processes():
        if pid != own:
            for inode, fd in _descriptors(pid, wanted).items():
                found.setdefault(inode, []).append(Holder(pid, fd))
    return found


def sockets_of_processes() -> dict[int, list[int]]:
    """Which processes have each socket of the host, by its inode, this process left out."""
    found: dict[int, list[int]] = {}
    own = os.getpid()
    for pid in _processes():
        folder = f"/proc/{pid}/fd"
        names: list[str] = []
        if pid != own:
            with contextlib.suppress(OSError):  # it has just ended
                names = os.listdir(folder)  # noqa: PTH208 - every descriptor of the host comes here
        for name in names:
            with contextlib.suppress(OSError):
                target = os.readlink(f"{folder}/{name}")  # noqa: PTH115
                if target.startswith("socket:["):
                    pids = found.setdefault(int(target[8:-1]), [])
                    if pid not in pids[-1:]:
                        pids.append(pid)
    return found


LOOK_SHARE: Final = 10
"""What a look through /proc has found is used for so many times as long as the look took: so
looking is never more than this part of what protecting many sessions takes."""


class SocketHolders:
    """Who has which socket now; what is asked at about the same time shares a look."""

    def __init__(self) -> None:
        self._found: dict[int, list[int]] = {}
        self._began_s = self._good_until_s = 0.0
        self._lock = asyncio.Lock()

    async def of(self, inode: int) -> list[int]:
        """The processes that have the socket, prld left out. Raises OSError: there is no /proc."""
        asked_s = time.monotonic()
        async with self._lock:
            is_known = inode in self._found and asked_s <= self._good_until_s
            if not is_known and self._began_s < asked_s:
                await self._look()
            return self._found.get(inode, [])

    async def _look(self) -> None:
        self._began_s = time.monotonic()
        self._found = await asyncio.to_thread(sockets_of_processes)
        lasts_s = LOOK_SHARE * (time.monotonic() - self._began_s)
        self._good_until_s = time.monotonic() + lasts_s
        asyncio.get_running_loop().call_later(lasts_s, self._forget)

    def _forget(self) -> None:
        """There may be very many."""
        if time.monotonic() >= self._good_until_s:
            self._found = {}


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
        for pid in _processes():
            with contextlib.suppress(OSError, ValueError, IndexError):
                text = Path(f"/proc/{pid}/stat").read_text()
                parents[pid] = int(text[text.rindex(")") + 2 :].split(maxsplit=2)[1])
        _known_parents = (time.monotonic(), parents)
    return _known_parents[1]


def _processes() -> Iterator[int]:
    with os.scandir("/proc") as entries:
        names = [entry.name for entry in entries if entry.name.isdigit()]
    return map(int, names)


def _descriptors(pid: int, wanted: Mapping[str, int]) -> dict[int, int]:
    """By which descriptor it has which inode of those, by what the links in /proc say."""
    folder, found = f"/proc/{pid}/fd", dict[int, int]()
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - every descriptor of the host comes here
            with contextlib.suppress(OSError):
                inode = wanted.get(os.readlink(f"{folder}/{name}"))  # noqa: PTH115
                if inode is not None:
                    found.setdefault(inode, int(name))
                    if len(found) == len(wanted):
                        break
    return found


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


def has_classic_filter(sock: socket.socket) -> bool:
    """Whether there is a socket filter that is no eBPF program (such may be a dead prld's)."""
    count = ctypes.c_uint32(0)  # asked for none of its instructions, the kernel tells how many
    failed = _libc.getsockopt(
        sock.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, ctypes.byref(count)
    )
    return not failed and count.value > 0  # EACCES: eBPF


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
