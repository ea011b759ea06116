"""Who has a socket, for many who ask at the same time: one look through /proc for all of them.

Peers decide how many connections there are; what a look costs is the host's processes and their
descriptors. So there is one look at a time, and who asks meanwhile is answered by the next one.
"""

import asyncio
from collections.abc import Collection
from typing import NamedTuple

from prl.kernel import descriptors
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
