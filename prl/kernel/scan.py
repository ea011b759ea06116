"""Who has a socket, for many who ask at the same time: they share a look through /proc.

Peers decide how many connections there are; what a look costs is the host's processes and their
descriptors. So there is one look at a time, and who asks meanwhile is answered by the next one.
"""

import asyncio
import os
import time
from array import array
from bisect import bisect_left
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


LOOK_SHARE: Final = 10
"""What a look through /proc has found is used for so many times as long as the look took: so
looking is never more than this part of what protecting many sessions takes."""


_PID_BITS: Final = 22
"""PID_MAX_LIMIT of the kernel is 1 << 22 (include/linux/threads.h)."""


class Held:
    """Which processes have which sockets: eight bytes for each descriptor.

    There may be very many, and a look is thrown away soon: a dictionary of lists would take fifty
    times as much, in pieces among which the sessions' own objects lie.
    """

    def __init__(self, found: Iterable[tuple[int, int]]) -> None:
        """``found``: pairs of an inode and a process that has it."""
        self._keys = array("Q", sorted(inode << _PID_BITS | pid for inode, pid in found))

    def by(self, inode: int) -> list[int]:
        """The processes that have the socket, each once."""
        first = bisect_left(self._keys, inode << _PID_BITS)
        behind = bisect_left(self._keys, (inode + 1) << _PID_BITS)
        mask = (1 << _PID_BITS) - 1
        return list(dict.fromkeys(key & mask for key in self._keys[first:behind]))


class SocketHolders:
    """Who has which socket now; what is asked at about the same time shares a look."""

    def __init__(self) -> None:
        self._held = Held(())
        self._began_s = self._good_until_s = 0.0
        self._lock = asyncio.Lock()

    async def of(self, inode: int) -> list[int]:
        """The processes that have the socket, prld left out. Raises OSError: there is no /proc."""
        asked_s = time.monotonic()
        async with self._lock:
            is_known = asked_s <= self._good_until_s and self._held.by(inode)
            if not is_known and self._began_s < asked_s:
                await self._look()
            return self._held.by(inode)

    async def _look(self) -> None:
        self._began_s = time.monotonic()
        self._held = await asyncio.to_thread(sockets_of_processes)
        lasts_s = LOOK_SHARE * (time.monotonic() - self._began_s)
        self._good_until_s = time.monotonic() + lasts_s
        asyncio.get_running_loop().call_later(lasts_s, self._forget)

    def _forget(self) -> None:
        if time.monotonic() >= self._good_until_s:
            self._held = Held(())


def sockets_of_processes() -> Held:
    """Which processes have each socket of the host, this process left out."""
    own = os.getpid()
    return Held(
        (inode, pid)
        for pid in procfs.processes()
        if pid != own
        for inode, _ in procfs.sockets_of(pid)
    )
