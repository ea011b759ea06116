"""The control socket: applications and prlctl talk to prld (docs/control.md).

Whatever arrives here is untrusted: it gets an error for an answer, never more than that.
"""

import asyncio
import contextlib
import grp
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from prl.control.messages import (
    HANDLE_MAX,
    MESSAGE_MAX_BYTES,
    REQUESTS_MAX,
    MessageError,
    decode,
    encode,
)
from prl.daemon.events.bounded import Bounded
from prl.daemon.events.log import EventLog
from prl.errors import ConfigError, KernelError, PrlError, UsageError
from prl.kernel import procfs
from prl.kernel.freezer import Freezer

CLIENTS_MAX: Final = 4096
BACKLOG: Final = 128
UNSENT_MAX_BYTES: Final = 8 << 20
"""What may wait for a client that does not read; then it is disconnected."""
UNSENT_FDS_MAX: Final = 4096
"""Descriptors that may wait for all clients together; then the one that most of them wait for is
disconnected. So nobody can use up what prld has besides its sessions' (main.DESCRIPTORS_BESIDES).
"""
GUESTS_MAX: Final = 64
"""Connections of the socket's group (R28): they may not keep root's out …"""
GUESTS_PER_USER_MAX: Final = 16
"""… nor one user's another's …"""
GUEST_UNSENT_MAX_BYTES: Final = 256 << 10
"""… nor fill prld's memory …"""
GUEST_REQUESTS_MAX: Final = 1
"""… nor hold it up: so many are under way, and read at a time."""
READS_MAX: Final = 16
"""Messages read from a client at a time."""
FDS_MAX: Final = 4
SEND_BUFFER_BYTES: Final = 1 << 20
GUEST_SEND_BUFFER_BYTES: Final = 128 << 10
"""Room for a message of MESSAGE_MAX_BYTES in the kernel, which counts its own overhead, too."""

_UCRED = struct.Struct("=iII")
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h
_SO_PEERPIDFD: Final = 77
_GROUPS_MAX: Final = 256
"""Groups of a guest that are looked through: socket.getsockopt() takes no more."""


class Client:
    """One connection."""

    def __init__(self, server: "ControlServer", sock: socket.socket, pid: int) -> None:
        self._server, self._sock, self._pid = server, sock, pid
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._unsent_bytes = 0
        self.unsent_fds = 0
        """Descriptors that wait for it to read."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused = False
        self.closed = False
        self.uid = os.geteuid()
        """Whose it is (SO_PEERCRED)."""
        self.is_guest = False
        """Whether it is one of the socket's group, not root (prl.daemon.control.rights)."""
        self.on_drained: Callable[[], None] | None = None
        """Called when all that waited for the client has been taken."""
        self._pidfd = _pidfd_of(sock, pid)
        self.freezer = Freezer(self._pids)

    @property
    def name(self) -> str:
        """For the log."""
        return f"pid {self._pid}"

    def _pids(self) -> list[int]:
        """Whom to stop: whoever connected, and not whoever has had its number since."""
        if self._pid == os.getpid() or self._pidfd < 0 or procfs.has_ended(self._pidfd):
            return []
        return [self._pid]

    @property
    def is_behind(self) -> bool:
        """Whether something waits for the client to read."""
        return bool(self._unsent)

    def send_event(self, event: dict[str, Any], *fds: int) -> None:
        """Send an event, with descriptors (which stay the caller's)."""
        self.send(event, *fds)

    def send(self, message: dict[str, Any], *fds: int) -> None:
        """Send now or when the client reads again; one that never does is disconnected."""
        if self.closed:
            return
        raw = encode(message)
        if self._unsent or not self._try_send(raw, fds):
            most = GUEST_UNSENT_MAX_BYTES if self.is_guest else UNSENT_MAX_BYTES
            if self._unsent_bytes + len(raw) > most:
                self._server.drop(self, f"it did not read {self._unsent_bytes} bytes")
                return
            if fds and not self._server.make_room_for_fds(self, len(fds)):
                return
            self._unsent_bytes += len(raw)
            self.unsent_fds += len(fds)
            self._unsent.append((raw, [os.dup(fd) for fd in fds]))
            asyncio.get_running_loop().add_writer(self._sock, self._flush)

    def _try_send(self, raw: bytes, fds: Sequence[int]) -> bool:
        try:
            socket.send_fds(self._sock, [raw], fds, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
        return True

    def _flush(self) -> None:
        while self._unsent and not self.closed:
            raw, fds = self._unsent[0]
            if not self._try_send(raw, fds):
                return
            if self._unsent:  # close() has emptied it if the client is gone
                self._unsent.popleft()
                self._unsent_bytes -= len(raw)
                self.unsent_fds -= len(fds)
                _close_all(fds)
        if not self.closed:
            asyncio.get_running_loop().remove_writer(self._sock)
            if self.on_drained is not None:
                self.on_drained()

    def on_readable(self) -> None:
        """Read requests."""
        most, reads = REQUESTS_MAX, READS_MAX
        if self.is_guest:
            most = reads = GUEST_REQUESTS_MAX
        for _ in range(reads):
            if self.closed:
                return
            if len(self._tasks) >= most:
                asyncio.get_running_loop().remove_reader(self._sock)
                self._paused = True
                return
            if not self._read():
                return

    def _read(self) -> bool:
        try:
            raw, fds, flags, _ = socket.recv_fds(
                self._sock, MESSAGE_MAX_BYTES + 1, FDS_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        if not raw:
            _close_all(fds)
            self.close()
            return False
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(raw) > MESSAGE_MAX_BYTES:
            _close_all(fds)
            self._answer_error(None, MessageError("the message or its descriptors are too many"))
            return True
        self._begin(raw, list(fds))
        return True

    def _begin(self, raw: bytes, fds: list[int]) -> None:
        task = asyncio.get_running_loop().create_task(self._handle(raw, fds))
        self._tasks.add(task)
        task.add_done_callback(self._on_answered)

    def _on_answered(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if self._paused and not self.closed:
            self._paused = False
            asyncio.get_running_loop().add_reader(self._sock, self.on_readable)

    async def _handle(self, raw: bytes, fds: list[int]) -> None:
        if self.closed:  # what it asked for would be there for nobody, and never go
            _close_all(fds)
            return
        number: Any = None
        try:
            request = decode(raw)
            number = request.get("id")
            if not isinstance(number, int | str | None):
                number = None  # whatever it is, it will not be sent back
            answer = await self._server.handle(self, request, fds)
            self.send({"id": number, "ok": True} | answer)
        except PrlError as error:
            self._answer_error(number, error)
        except Exception as error:  # noqa: BLE001
            self._server.report_failure(self, error)
            self._answer_error(number, PrlError("the request failed in prld; see its log"))
        finally:
            _close_all(fds)

    def _answer_error(self, number: int | str | None, error: PrlError) -> None:
        words = " ".join(str(error).split())[:2000]
        self.send({"id": number, "ok": False, "error": words, "code": error.exit_code})

    def close(self) -> None:
        """End the connection; the rest of prld is told that the application is gone."""
        if self.closed:
            return
        self.closed = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock)
        loop.remove_writer(self._sock)
        self._sock.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        for _, fds in self._unsent:
            _close_all(fds)
        self._unsent.clear()
        self.unsent_fds = 0
        self._server.gone(self)


Handler = Callable[[Client, dict[str, Any], list[int]], Awaitable[dict[str, Any]]]
"""Answers a request; takes the descriptors that it keeps out of the list."""


class ControlServer:
    """The listener; ``handler`` answers requests, ``on_gone`` hears of connections' ends.

    Root may connect, and the members of ``group``, as guests.
    """

    def __init__(
        self,
        path: Path,
        log: EventLog,
        *,
        handler: Handler,
        on_gone: Callable[[Client], None],
        group: str | None = None,
    ) -> None:
        self.path, self._log = path, log
        self._group, self._gid = group, -1
        self._handler, self._on_gone = handler, on_gone
        self._clients: set[Client] = set()
        self._refused = 0
        self._listener: socket.socket | None = None

    async def handle(
        self, client: Client, request: dict[str, Any], fds: list[int]
    ) -> dict[str, Any]:
        """Answer one request."""
        return await self._handler(client, request, fds)

    @property
    def used(self) -> Bounded:
        """Its clients; those that were disconnected as they did not read count as refused."""
        return Bounded(len(self._clients), CLIENTS_MAX, self._refused)

    def make_room_for_fds(self, client: Client, count: int) -> bool:
        """Whether so many more may wait for ``client``; if need be, somebody is disconnected."""
        while sum(each.unsent_fds for each in self._clients) + count > UNSENT_FDS_MAX:
            worst = max(self._clients, key=lambda each: each.unsent_fds)
            self.drop(worst, f"it did not take {worst.unsent_fds} descriptors")
        return not client.closed

    def drop(self, client: Client, why: str) -> None:
        """Disconnect a client."""
        self._refused += 1
        self._log.warning("client_dropped", f"{client.name} was disconnected: {why}")
        client.close()

    def report_failure(self, client: Client, error: Exception) -> None:
        """A request met a fault of prld's own."""
        self._log.post("error", "request_failed", f"{client.name}: {type(error).__name__}: {error}")

    def gone(self, client: Client) -> None:
        """A connection has ended."""
        self._clients.discard(client)
        self._on_gone(client)

    def start(self) -> None:
        """Listen.

        Raises:
            KernelError: the path cannot be used.
            ConfigError: there is no such group, or prld may not give the socket to it.
        """
        if self._group is not None:
            self._gid = _gid_of(self._group)
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        mask = os.umask(0o022)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.umask(0o177)
            self._remove_stale()
            listener.bind(str(self.path))
            if self._group is not None:
                self._give_to_group(self._group)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise KernelError(
                f"control socket {self.path}: {error.strerror or error}; "
                "correct `socket` in the configuration, or stop the other prld"
            ) from error
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(mask)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _give_to_group(self, group: str) -> None:
        try:
            os.chown(self.path, -1, self._gid)
        except PermissionError as error:  # the service has no CAP_CHOWN
            self.path.unlink(missing_ok=True)
            raise ConfigError(
                f"socket_group {group}: prld is no member of it; `systemctl edit prld`: [Service] "
                f"SupplementaryGroups={group}"
            ) from error
        self.path.chmod(0o660)

    def _remove_stale(self) -> None:
        """A socket on which nobody listens is a dead prld's."""
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise KernelError(
                f"control socket {self.path}: there is something else; remove it, or name another"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as trial:
            try:
                trial.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
                return
            except BlockingIOError:
                pass  # alive, and busy
        raise KernelError(f"control socket {self.path}: another prld serves it; stop that first")

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(READS_MAX):
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, gid = _UCRED.unpack(raw)
        is_guest = uid not in {0, os.geteuid()}
        if is_guest and self._gid not in {gid, *_groups_of(sock)}:
            words = f"only root and group {self._group} may" if self._group else "only root may"
            _refuse(sock, f"{words} use prld", 1)
            return
        if full := self._is_full_for(uid, is_guest=is_guest):
            self._refused += 1
            _refuse(sock, f"{full}; close some", 1)
            return
        sock.setblocking(False)
        room = GUEST_SEND_BUFFER_BYTES if is_guest else SEND_BUFFER_BYTES
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        client = Client(self, sock, pid)
        client.uid, client.is_guest = uid, is_guest
        self._clients.add(client)
        asyncio.get_running_loop().add_reader(sock, client.on_readable)

    def _is_full_for(self, uid: int, *, is_guest: bool) -> str:
        """Why one more client of that user is too many; empty: it is not."""
        if len(self._clients) >= CLIENTS_MAX:
            return f"prld has {CLIENTS_MAX} clients"
        guests = [client.uid for client in self._clients if client.is_guest] if is_guest else []
        if len(guests) >= GUESTS_MAX:
            return f"prld has {GUESTS_MAX} clients of group {self._group}"
        if guests.count(uid) >= GUESTS_PER_USER_MAX:
            return f"prld has {GUESTS_PER_USER_MAX} clients of user {uid}"
        return ""

    def close(self) -> None:
        """Disconnect everybody and remove the socket."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            self.path.unlink(missing_ok=True)
        for client in list(self._clients):
            client.close()


def _gid_of(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigError(
            f"socket_group: there is no group {group!r}; run: groupadd --system {group}"
        ) from error


def _groups_of(sock: socket.socket) -> list[int]:
    """The supplementary groups of whoever connected; none of one that has too many."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX)
    except OSError:
        return []
    return [gid for (gid,) in struct.iter_unpack("=I", raw)]


def _pidfd_of(sock: socket.socket, pid: int) -> int:
    """A descriptor of whoever connected, or -1: it has ended, or is of a namespace beyond ours."""
    with contextlib.suppress(OSError):
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    with contextlib.suppress(OSError, ValueError):  # before Linux 6.5
        return os.pidfd_open(pid) if pid else -1
    return -1


def _refuse(sock: socket.socket, words: str, code: int) -> None:
    """Say why, and close. A client whose request is still unread then would be told of a reset."""
    with contextlib.suppress(OSError), sock:
        sock.setblocking(False)
        sock.shutdown(socket.SHUT_RD)
        while sock.recv(1):
            pass
        sock.send(encode({"id": None, "ok": False, "error": words, "code": code}))


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
    fds.clear()


def text_of(request: dict[str, Any], name: str, default: str | None = None) -> str:
    """A string argument. Raises UsageError when it is missing or something else."""
    value = request.get(name, default)
    if not isinstance(value, str):
        raise UsageError(f"{request.get('op')}: argument {name!r} must be a string")
    return value


def number_of(request: dict[str, Any], name: str, default: int | None = None) -> int:
    """A whole, non-negative 32-bit argument. Raises UsageError."""
    value = request.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= HANDLE_MAX:
        raise UsageError(f"{request.get('op')}: argument {name!r} must be a whole number")
    return value


def flag_of(request: dict[str, Any], name: str) -> bool:
    """A boolean argument, false when it is missing. Raises UsageError."""
    value = request.get(name, False)
    if not isinstance(value, bool):
        raise UsageError(f"{request.get('op')}: argument {name!r} must be true or false")
    return value
