"""Who has a socket, for many who ask at the same time: they share a look through /proc.

Peers decide how many connections there are; what a look costs is the host's processes and their
descriptors. So there is one look at a time, and who asks meanwhile is answered by the next one.
"""

import asyncio
import os
import socket
import time
from array import array
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from prl.kernel import descriptors, procfs
from prl.kernel.descriptors import Holder


class _Question(NamedTuple):
    inode: int
    among: Collection[int] | None
    answer: "asyncio.Future[list[Holder]]"


class Scan:
    """Looks, one after the other, in a thread."""

    def __init__(self) -> None:
        self._asked: list[_Question] = []
        self._looking: asyncio.Task[None] | None = None

    async def holders_of(self, inode: int, among: Collection[int] | None = None) -> list[Holder]:
        """descriptors.holders_of(), by a look that begins from now on."""
        answer: asyncio.Future[list[Holder]] = asyncio.get_running_loop().create_future()
        self._asked.append(_Question(inode, among, answer))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return await answer

    async def _look(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                await self._answer([one for one in asked if one.among is not None])
                await self._answer([one for one in asked if one.among is None])
        finally:
            self._looking = None

    async def _answer(self, asked: list[_Question]) -> None:
        wanted = frozenset(one.inode for one in asked if not one.answer.done())
        if not wanted:
            return
        among = [pid for one in asked for pid in one.among or ()]
        pids = None if asked[0].among is None else list(dict.fromkeys(among))
        try:
            found = await asyncio.to_thread(descriptors.holders_of_each, wanted, pids)
        except Exception as error:  # noqa: BLE001 - it is raised again by who asked
            for one in asked:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one in asked:
            if not one.answer.done():
                having = found.get(one.inode, [])
                one.answer.set_result(
                    [h for h in having if one.among is None or h.pid in one.among]
                )


KEPT_S: Final = 1.0
"""What a look through /proc has found is forgotten once nobody has asked for so long."""


_FD_BITS: Final = 32
_BUCKETS: Final = 1024


class Held:
    """Which processes have which sockets by which descriptors: twelve bytes for each.

    There may be very many, and a look is thrown away soon: as Python's objects they would take
    thirty times as much, be it to sort them, in pieces among which the sessions' own objects lie.
    """

    def __init__(self, found: Iterable[tuple[int, int, int]]) -> None:
        """``found``: an inode, a process that has it, and its descriptor of it."""
        self._inodes = [array("I") for _ in range(_BUCKETS)]
        self._holders = [array("Q") for _ in range(_BUCKETS)]
        for inode, pid, fd in found:
            self._inodes[inode % _BUCKETS].append(inode)
            self._holders[inode % _BUCKETS].append(pid << _FD_BITS | fd)

    def by(self, inode: int) -> list[Holder]:
        """Every descriptor of the socket."""
        place = inode % _BUCKETS
        return [
            Holder(having >> _FD_BITS, having & ((1 << _FD_BITS) - 1))
            for one, having in zip(self._inodes[place], self._holders[place], strict=True)
            if one == inode
        ]


class SocketHolders:
    """Who has which socket; what is asked at about the same time shares a look.

    That nobody else has come by a socket since a look, no look can tell: whoever must know counts
    the references to it, once those that were found stand still (docs/unchanged-programs.md).
    """

    def __init__(self) -> None:
        self._held = self._near = Held(())
        self._began_s = self._asked_s = 0.0
        self._forgets: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()

    async def of(self, sock: socket.socket, near: Collection[int] = ()) -> list[Holder]:
        """Each descriptor of the socket but prld's, all of them good now; others may be missing.

        ``near``: the processes that most likely have it, and nobody else: all others are looked at
        only if none of these does. Raises OSError: there is no /proc.
        """
        if found := self._known(sock):
            return found
        async with self._lock:
            if found := self._known(sock):  # by the look that was under way
                return found
            if near:
                self._near = await asyncio.to_thread(sockets_of_processes, near)
                self._forget_later()
                if found := self._known(sock):
                    return found
            await self._look()
            return self._held.by(_inode(sock))

    async def look(self, sock: socket.socket) -> list[Holder]:
        """The same, by a look that begins from now on."""
        asked_s = time.monotonic()
        async with self._lock:
            if self._began_s < asked_s:
                await self._look()
            return self._held.by(_inode(sock))

    def _known(self, sock: socket.socket) -> list[Holder]:
        self._asked_s = time.monotonic()
        for look in (self._held, self._near):
            found = look.by(_inode(sock))
            if found and all(descriptors.has(one, sock.fileno()) for one in found):
                return found
        return []

    async def _look(self) -> None:
        self._began_s = time.monotonic()
        self._held = await asyncio.to_thread(sockets_of_processes)
        self._forget_later()

    def _forget_later(self) -> None:
        self._asked_s = time.monotonic()
        if self._forgets is None:
            self._forgets = asyncio.get_running_loop().call_later(KEPT_S, self._forget)

    def _forget(self) -> None:
        """Unless somebody has asked since; then later."""
        left_s = self._asked_s + KEPT_S - time.monotonic()
        self._forgets = None
        if left_s > 0:
            self._forgets = asyncio.get_running_loop().call_later(left_s, self._forget)
        else:
            self._held = self._near = Held(())
            self._began_s = 0.0


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def sockets_of_processes(pids: Iterable[int] | None = None) -> Held:
    """Which of these processes, of all by default, have each socket; this process left out."""
    own = os.getpid()
    return Held(
        (inode, pid, fd)
        for pid in (procfs.processes() if pids is None else pids)
        if pid != own
        for inode, fd in procfs.sockets_of(pid)
    )
