"""Sessions of programs that were not changed: `prlctl replicate` (SPEC R17, R19).

prld plays the application for them. Its own duplicate of the socket keeps the kernel from saying
anything when the program dies, so what becomes of the session is decided here:

    the descriptor is gone, another process has the socket (fork)  ─▶ the session is that one's
    the descriptor is gone, the program lives                      ─▶ closed: the session ends
    the program is gone, its exit status was 0                     ─▶ closed: the session ends
    the program is gone otherwise                                  ─▶ the other node goes on

Nothing tells of a close() of a descriptor that others hold as well: it is looked for.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

from prl.control import input_history
from prl.daemon.control import rights
from prl.daemon.control.rights import User
from prl.daemon.events.log import EventLog
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session
from prl.daemon.session.streams import Streams
from prl.endpoint import Side
from prl.errors import UsageError
from prl.kernel import descriptors, procfs
from prl.kernel.descriptors import Holder
from prl.kernel.freezer import Freezer
from prl.kernel.scan import Scan

CLOSE_POLL_S: Final = 0.02
"""A close() by the program is passed on to the peer within this time; so long may its epoll tell
of a descriptor that is closed, which ours keeps alive (epoll(7))."""
LOOKS_PER_POLL: Final = 1024
"""Sessions looked at in one go; with more of them a close() is noticed later."""

# linux/pidfd.h, since 6.15: struct pidfd_info, whose exit code outlives the process
_PIDFD_GET_INFO, _PIDFD_INFO_EXIT = 0xC040FF0B, 1 << 3
_PIDFD_INFO = struct.Struct("=Q52xi")


History = Callable[[], bytes | None]
"""The input of a program from its first byte on, as far as it is known; None: not any more."""
Kin = Callable[[], list[int] | None]
"""Which processes may have a program's socket; None: any."""


class Process:
    """The application that a program which does not know of prl would be."""

    def __init__(self, holder: Holder, inode: int, pidfd: int, history: History) -> None:
        self._history = history
        self.holder, self.inode, self.pidfd = holder, inode, pidfd
        self.freezer = Freezer(self._pids)
        self.session: Session | None = None
        self.on_event: Callable[[dict[str, Any]], None] = lambda _: None
        self.ending = False
        self.looking: asyncio.Task[None] | None = None
        self.kin: Kin = lambda: None
        self.others: list[Holder] = []
        """Other processes that had the socket when that was last looked at."""

    @property
    def name(self) -> str:
        """For the log."""
        return str(self.holder)

    def application(self) -> bytes:
        """What a program that begins on the other node needs, as far as it is known."""
        history = self._history()
        return input_history.pack(b"" if history is None else history)

    def send_event(self, event: dict[str, Any], *_: object) -> None:
        """What an application would be told; the program is not."""
        self.on_event(event)

    def _pids(self) -> Iterator[int]:
        """Everybody who could meet the socket in repair mode."""
        yield self.holder.pid
        yield from (other.pid for other in self.others)

    async def look_for_others(self, scan: Scan) -> list[Holder]:
        """Find the other processes that have the socket; slow if it reads all of /proc."""
        found = await scan.holders_of(self.inode, self.kin())
        self.others = [other for other in found if other.pid != self.holder.pid]
        return self.others


class Processes:
    """All of them, by the handle of their session."""

    def __init__(self, primaries: Primaries, log: EventLog) -> None:
        self._primaries, self._log = primaries, log
        self.scan = Scan()
        self._known: dict[int, Process] = {}
        self._poll: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- requests

    async def replicate(
        self,
        holder: Holder,
        user: User,
        history: History = lambda: b"",
        kin: Kin = lambda: None,
        inode: int | None = None,
    ) -> Process:
        """Protect the socket that ``holder`` has (that of ``inode``), for a client of that user's.

        ``history`` is asked, once the input stands still, for what of it is known from its first
        byte on. Returns after activation or its failure, as Primaries.replicate() does.

        Raises UsageError, ReplicationError.
        """
        found = descriptors.require_socket(holder)
        if inode not in {None, found}:
            raise UsageError(f"descriptor {holder.fd} of {holder} is another connection's now")
        pidfd = open_pidfd(holder)
        try:
            # Behind the pidfd: had the process ended, its number being another's, the pidfd would
            # give no descriptor.
            rights.require_own(user, descriptors.uids_of(holder.pid), str(holder))
            sock = descriptors.duplicate(holder, pidfd)
        except BaseException:
            os.close(pidfd)
            raise
        process = Process(holder, found, pidfd, history)
        process.kin = kin
        try:
            self._check(process, sock)
            await process.look_for_others(self.scan)
            process.on_event = lambda event: self._on_event(process, event)
            session = await self._primaries.replicate(
                process, sock, b"", renew=True, streams=Streams(), program=process
            )
        except BaseException:
            os.close(pidfd)
            sock.close()
            raise
        process.session = session
        self._known[session.handle] = process
        if session.is_live:
            asyncio.get_running_loop().add_reader(pidfd, self._look, process)
            if self._poll is None:
                self._poll = asyncio.create_task(self._look_for_closes())
        else:
            self._forget(process)
        return process

    async def find(self, local: Side, remote: Side, pid: int | None) -> Holder:
        """Who has the connection of that tuple; ``pid`` decides between several."""
        inode = descriptors.inode_of_tuple(local, remote)
        found = await self.scan.holders_of(inode) if inode else []
        chosen = [holder for holder in found if pid in {None, holder.pid}]
        if not chosen:
            who = "no process" if pid is None or not found else f"not process {pid}"
            raise UsageError(f"{who} has this connection's socket; is it accepted already?")
        if len(chosen) > 1:
            raise UsageError(
                "several processes have this connection's socket: "
                f"{', '.join(map(str, chosen))}; say which with --pid"
            )
        return chosen[0]

    def has(self, session: Session) -> bool:
        """Whether it is a program's that does not know of prl."""
        return session.handle in self._known

    def facts(self, handle: int) -> dict[str, Any] | None:
        """The program that has the session of that handle."""
        process = self._known.get(handle)
        return None if process is None else facts_of(process)

    def close(self) -> None:
        """Stop looking; prld ends."""
        for process in list(self._known.values()):
            self._forget(process)

    def _check(self, process: Process, sock: socket.socket) -> None:
        holder = process.holder
        if os.fstat(sock.fileno()).st_ino != process.inode:
            raise UsageError(f"{holder} has closed descriptor {holder.fd} just now")
        descriptors.require_connected_tcp(sock, f"descriptor {holder.fd} of {holder}")
        for handle, known in self._known.items():
            if known.inode == process.inode:
                raise UsageError(
                    f"{known.holder}: its connection is replicated already, as flow {handle:#x}"
                )

    # -- events

    def _on_event(self, process: Process, event: dict[str, Any]) -> None:
        session = process.session
        if session is None:
            return
        if not session.is_live:
            self._forget(process)
        elif event.get("event") == "protectable":
            task = asyncio.create_task(self._primaries.renew(session, process.application()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _forget(self, process: Process) -> None:
        session = process.session
        if session is None or self._known.pop(session.handle, None) is None:
            return
        asyncio.get_running_loop().remove_reader(process.pidfd)
        os.close(process.pidfd)
        if process.looking is not None and process.looking is not asyncio.current_task():
            process.looking.cancel()
        if not self._known and self._poll is not None:
            self._poll.cancel()
            self._poll = None

    async def _look_for_closes(self) -> None:
        """Whether the programs still have their sockets: only looking tells."""
        while True:
            for process in list(self._known.values())[:LOOKS_PER_POLL]:
                if descriptors.inode_of(process.holder) != process.inode:
                    self._look(process)
            self._rotate()
            await asyncio.sleep(CLOSE_POLL_S)

    def _rotate(self) -> None:
        """Let those that were not looked at be the first the next time."""
        if len(self._known) > LOOKS_PER_POLL:
            for handle in list(self._known)[:LOOKS_PER_POLL]:
                self._known[handle] = self._known.pop(handle)

    def _look(self, process: Process) -> None:
        """The program has died, or has the socket no more: find out what that means, once."""
        if process.ending or process.looking is not None:
            return
        process.looking = asyncio.create_task(self._judge(process))

    async def _judge(self, process: Process) -> None:
        try:
            others = await process.look_for_others(self.scan)
            if others:
                self._move(process, others[0])
                return
            if not procfs.has_ended(process.pidfd) and procfs.is_exiting(process.holder.pid):
                return  # the pidfd tells when it has
            self._end(process)
        finally:
            process.looking = None

    def _move(self, process: Process, heir: Holder) -> None:
        """A forked process has the socket now."""
        try:
            pidfd = open_pidfd(heir)
        except UsageError:
            return  # it has gone as well: seen at the next look
        loop = asyncio.get_running_loop()
        loop.remove_reader(process.pidfd)
        os.close(process.pidfd)
        process.holder, process.pidfd = heir, pidfd
        process.others = [other for other in process.others if other.pid != heir.pid]
        loop.add_reader(pidfd, self._look, process)

    def _end(self, process: Process) -> None:
        session = process.session
        if session is None or not session.is_live:
            return
        process.ending = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(process.pidfd)
        ended = procfs.has_ended(process.pidfd)
        status = exit_status(process.pidfd, process.holder.pid) if ended else None
        if ended and status != 0:
            what = "died" if status is None else f"died (wait status {status:#x})"
            self._log.warning(
                "program_died", f"{session.ends}: {process.holder} {what}", handle=session.handle
            )
            self._primaries.abandon(session)
        else:
            self._primaries.let_go(session)


def facts_of(process: Process) -> dict[str, Any]:
    """The program, as answers show it; how long it last stood still, in microseconds."""
    return {
        "pid": process.holder.pid,
        "fd": process.holder.fd,
        "program": process.holder.program,
        "frozen_us": process.freezer.last_ns // 1000,
    }


def open_pidfd(holder: Holder) -> int:
    """A descriptor of the process, to be closed. Raises UsageError."""
    try:
        return os.pidfd_open(holder.pid)
    except ProcessLookupError:
        raise UsageError(f"there is no process {holder.pid}; see `ss -tnp`") from None
    except OSError as error:
        raise UsageError(f"process {holder.pid}: {error.strerror}; is that a thread?") from error


def exit_status(pidfd: int, pid: int) -> int | None:
    """The wait status of a process that has ended; None when nobody knows it any more."""
    room = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0))
    with contextlib.suppress(OSError):
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, room)
        mask, status = _PIDFD_INFO.unpack(room)
        if mask & _PIDFD_INFO_EXIT:
            return int(status)
    with contextlib.suppress(OSError, ValueError, IndexError):
        return procfs.zombie_status(pid)  # a zombie still, on older kernels
    return None
