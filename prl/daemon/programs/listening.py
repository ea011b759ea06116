"""Connections that an unchanged program accepts, protected from their first byte on (SPEC R17).

    handshake's end, heard by the listener's filter ─▶ accepted? ─▶ who has it? ─▶ replicated
    every byte that arrives meanwhile, heard as well ─▶ Early ─▶ goes along with the shadow

Nothing tells of an accept(): it is looked for, ever more seldom. A server that is started again is
noticed within RELISTEN_S.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from prl.bindings.listen import LISTENERS_MAX, Listen
from prl.control.input_history import HISTORY_MAX_BYTES
from prl.daemon.control import rights
from prl.daemon.control.clients import Application
from prl.daemon.control.rights import User
from prl.daemon.events.log import EventLog
from prl.daemon.programs.processes import Process, Processes, open_pidfd
from prl.endpoint import Side, show_endpoint
from prl.errors import PrlError, UsageError
from prl.kernel import descriptors, sock_diag
from prl.kernel.descriptors import Holder

ACCEPT_WAIT_S: Final = 30.0
"""A connection that is not accepted within this time is not protected."""
ACCEPT_POLL_MIN_S, ACCEPT_POLL_MAX_S = 0.001, 0.1
RELISTEN_S: Final = 1.0
HANDED_ON_MAX: Final = 16
"""So many times an accepted connection may pass to another process while it is being protected."""
PENDING_MAX: Final = 1024
"""Connections that wait to be accepted and protected; further ones are not."""
RECORDS_PER_WAKEUP: Final = 512
_U32 = 1 << 32


class Early:
    """The peer's stream from its first byte to the moment of protection."""

    def __init__(self, start_seq: int) -> None:
        self._start_seq = start_seq
        self._data = bytearray()
        self._apart: dict[int, bytes] = {}
        self._is_whole = True

    def add(self, seq: int, data: bytes) -> None:
        """A segment, in any order; what comes again replaces what came before."""
        at = (seq - self._start_seq) % _U32
        if not self._is_whole or not data or at >= _U32 // 2:
            return
        if at + len(data) + sum(map(len, self._apart.values())) > HISTORY_MAX_BYTES:
            self._is_whole = False
            return
        self._apart[at] = data
        for start in sorted(self._apart):
            if start > len(self._data):
                break
            piece = self._apart.pop(start)
            self._data[start : start + len(piece)] = piece

    @property
    def data(self) -> bytes | None:
        """All of it without a hole; None when it was too much."""
        return bytes(self._data) if self._is_whole else None


class Watcher(Application, User, Protocol):
    """Whoever has an endpoint watched."""


@dataclass(eq=False, slots=True)
class Watch:
    """One endpoint, as long as its client is connected."""

    local: Side
    client: Watcher
    pid: int | None
    connections_max: int
    listeners: dict[int, Holder] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The endpoint."""
        return show_endpoint(*self.local)

    def kin(self) -> list[int]:
        """The servers, and whatever they have forked."""
        return descriptors.family({holder.pid for holder in self.listeners.values()})

    def live(self) -> int:
        """How many connections of it are protected, or would be."""
        self.processes = [p for p in self.processes if p.session and p.session.is_live]
        return len(self.processes)


class Watches:
    """All of them."""

    def __init__(self, processes: Processes, log: EventLog) -> None:
        self._processes, self._log = processes, log
        self._listen: Listen | None = None
        self._watches: dict[Side, Watch] = {}
        self._early: dict[tuple[Side, Side], Early] = {}

    async def start(
        self, client: Watcher, local: Side, pid: int | None, connections_max: int
    ) -> dict[str, Any]:
        """Protect what is accepted on ``local`` from now on, and what there is.

        Raises UsageError: nobody listens there, or it is watched already. Raises KernelError.
        """
        watch = Watch(local, client, pid, connections_max)
        if local in self._watches:
            raise UsageError(f"{watch.name} is watched already; one client is enough")
        if len(self._watches) >= LISTENERS_MAX:
            raise UsageError(f"{LISTENERS_MAX} endpoints are watched already")
        if self._listen is None:
            self._listen = Listen()
            asyncio.get_running_loop().add_reader(self._listen.fileno(), self.drain)
        self._watches[local] = watch
        try:
            await self._attach(watch)
            _require_listener(watch)
            self._require_watched(watch)
        except BaseException:
            self._end(watch)
            raise
        self._spawn(watch, self._tend(watch))
        there = [
            found for found in descriptors.sockets_on(local, sock_diag.ESTABLISHED) if found.inode
        ]
        for found in there:
            self._spawn(watch, self._protect(watch, found.remote, None))
        listeners = [{"pid": h.pid, "program": h.program} for h in watch.listeners.values()]
        return {"endpoint": watch.name, "listeners": listeners, "connections": len(there)}

    def client_gone(self, client: Application) -> None:
        """Its connection ended: nothing more is protected for it; what is, stays so."""
        for watch in list(self._watches.values()):
            if watch.client is client:
                self._end(watch)

    def close(self) -> None:
        """Prld ends."""
        for watch in list(self._watches.values()):
            self._end(watch)
        if self._listen is not None:
            asyncio.get_running_loop().remove_reader(self._listen.fileno())
            self._listen.close()
            self._listen = None

    # -- listeners

    async def _attach(self, watch: Watch) -> None:
        """Put the filter on the listeners that have none of ours."""
        for found in descriptors.sockets_on(watch.local, sock_diag.LISTEN):
            if found.inode in watch.listeners:
                continue
            having = await self._processes.scan.holders_of(found.inode)
            holder = next((h for h in having if watch.pid in {None, h.pid}), None)
            if holder is None or self._listen is None:
                continue
            with descriptors.borrowed(holder, open_pidfd(holder)) as listener:
                rights.require_own(watch.client, descriptors.uids_of(holder.pid), str(holder))
                descriptors.require_plain_tcp(listener, f"the listener of {holder}")
                if descriptors.filter_of(listener) == descriptors.Filter.CLASSIC:
                    raise UsageError(f"the listener of {holder} has a socket filter of its own")
                self._listen.attach(listener)
            watch.listeners[found.inode] = holder

    async def _tend(self, watch: Watch) -> None:
        """A server that is started again listens anew."""
        while True:
            await asyncio.sleep(RELISTEN_S)
            try:
                await self._attach(watch)
            except PrlError as error:
                self._log.warning("not_heard", f"{watch.name}: {error}", endpoint=watch.name)

    def _require_watched(self, watch: Watch) -> None:
        if self._watches.get(watch.local) is not watch:
            raise UsageError(f"{watch.name}: who asked for it to be watched is gone")

    def _end(self, watch: Watch) -> None:
        if self._watches.get(watch.local) is watch:
            del self._watches[watch.local]
        for task in list(watch.tasks):
            task.cancel()
        for inode, holder in watch.listeners.items():
            if self._listen is None or descriptors.inode_of(holder) != inode:
                continue
            with (
                contextlib.suppress(PrlError, OSError),
                descriptors.borrowed(holder, open_pidfd(holder)) as listener,
            ):
                self._listen.detach(listener)
        for ends in [ends for ends in self._early if ends[0] == watch.local]:
            del self._early[ends]

    # -- connections

    def drain(self) -> None:
        """Take what was heard."""
        for _ in range(RECORDS_PER_WAKEUP):
            heard = self._listen.next() if self._listen is not None else None
            if heard is None:
                return
            watch, ends = self._watches.get(heard.local), (heard.local, heard.remote)
            if watch is not None and heard.is_new and ends not in self._early:
                self._begin(watch, ends, heard.seq)
            if (early := self._early.get(ends)) is not None:
                early.add(heard.seq, heard.data)

    def _begin(self, watch: Watch, ends: tuple[Side, Side], seq: int) -> None:
        if len(self._early) >= PENDING_MAX:
            self._refused(watch, ends[1], f"{PENDING_MAX} connections wait to be protected")
            return
        self._early[ends] = early = Early(seq)
        self._spawn(watch, self._protect(watch, ends[1], early))

    async def _protect(self, watch: Watch, remote: Side, early: Early | None) -> None:
        try:
            protected = await self._replicate(watch, remote, early)
        except PrlError as error:
            self._refused(watch, remote, str(error))
            return
        finally:
            self._early.pop((watch.local, remote), None)
        if protected is None:
            return
        watch.processes.append(protected)
        holder, session = protected.holder, protected.session
        assert session is not None
        is_active = session.state == "active"
        self._log.post(
            "info" if is_active else "warning",
            "replicated",
            f"{session.ends}: {holder}: {'protected' if is_active else session.reason}",
            endpoint=watch.name,
            handle=session.handle,
        )

    async def _replicate(self, watch: Watch, remote: Side, early: Early | None) -> Process | None:
        """Protect it once it is accepted; None when it has ended before. Raises PrlError."""

        def history() -> bytes | None:
            self.drain()
            return b"" if early is None else early.data

        for _ in range(HANDED_ON_MAX):
            accepted = await self._await_accept(watch, remote)
            if accepted is None:
                return None
            if watch.live() >= watch.connections_max:
                raise UsageError(
                    f"{watch.connections_max} are protected already; see --max-connections"
                )
            holder, inode = accepted
            try:
                return await self._processes.replicate(
                    holder, watch.client, history, watch.kin, inode
                )
            except UsageError:
                if descriptors.inode_of(holder) == inode:
                    raise  # it has the connection still: that is not why
        raise UsageError(f"it passed on to another process {HANDED_ON_MAX} times")

    def _refused(self, watch: Watch, remote: Side, words: str) -> None:
        text = f"{watch.name} <-> {show_endpoint(*remote)}: not protected: {words}"
        self._log.warning("replicated", text, endpoint=watch.name)

    async def _await_accept(self, watch: Watch, remote: Side) -> tuple[Holder, int] | None:
        """Who has accepted the connection, and the socket's inode; None: it has ended before.

        Raises UsageError.
        """
        wait_s, inode = ACCEPT_POLL_MIN_S, 0
        try:
            async with asyncio.timeout(ACCEPT_WAIT_S):
                while True:
                    try:
                        inode = descriptors.inode_of_tuple(watch.local, remote)
                    except UsageError:
                        return None
                    if inode and (holder := await self._find(watch, inode)) is not None:
                        return holder, inode
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, ACCEPT_POLL_MAX_S)
        except TimeoutError:
            raise UsageError(f"not accepted within {ACCEPT_WAIT_S:.0f} s") from None

    async def _find(self, watch: Watch, inode: int) -> Holder | None:
        scan, servers = self._processes.scan, {each.pid for each in watch.listeners.values()}
        kin = sorted(watch.kin(), key=lambda pid: pid not in servers)
        found = await scan.holders_of(inode, kin) or await scan.holders_of(inode)
        return found[0] if found else None

    def _spawn(self, watch: Watch, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        watch.tasks.add(task)
        task.add_done_callback(watch.tasks.discard)


def _require_listener(watch: Watch) -> None:
    if not watch.listeners:
        whom = f" in process {watch.pid}" if watch.pid else ""
        raise UsageError(f"nobody listens on {watch.name}{whom}; see `ss -tlnp`")
