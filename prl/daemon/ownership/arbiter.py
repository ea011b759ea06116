"""Asks the arbiter's store for the datapath, and lets go of it again (SPEC L12, docs/arbiter.md).

    datapath: ARBITRATE ─▶ claim, or seize ─▶ won, lost, unreached ─▶ datapath
    the link is up, and the datapath knows that the other node is in the epoch, too ─▶ release
    every LOOK_AGAIN_S ─▶ read: could it be asked?

What waits for the store waits in threads of this module's: one for what writes, so that one thing
is written after the other; one for looks.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from prl.bindings.datapath import Datapath
from prl.bindings.facts import Arbiter as State
from prl.bindings.facts import Seizes
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.ownership import claim
from prl.daemon.ownership.claim import ContendedError, Read, Record, Replace, Steps
from prl.daemon.ownership.etcd import Etcd, StoreError

LOOK_AGAIN_S: Final = 5.0
"""An arbiter that could not be asked is noticed so soon, not when it is needed."""
TOGETHER_POLL_S: Final = 0.05
"""How often the datapath is asked whether it has the other node's word yet."""
NOBODY: Final = "-"
"""In the store, where neither node goes on alone. No node has this name."""
T = TypeVar("T")


class Arbiter:
    """The arbiter of this pair; ``None`` of its answers: it is not reached."""

    def __init__(self, config: Config, log: EventLog) -> None:
        """Raises ConfigError: the files for its TLS cannot be used."""
        self._node, self._log = config.node, log
        self._settings = config.arbiter
        self._store = Etcd(config.arbiter)
        self._looks = Etcd(config.arbiter)
        self._writer = ThreadPoolExecutor(1, "arbiter")
        self._looker = ThreadPoolExecutor(1, "arbiter look")
        self._dp: Datapath | None = None
        self._question: int | None = None
        """The round of the datapath's question that is not answered yet."""
        self._seizes = Seizes.NOT
        self._releases = False
        self._asked = False
        """A claim was made since the record was last let go of."""
        self._work = asyncio.Event()
        self._together: asyncio.Task[None] | None = None
        self.reached: bool | None = None
        """Whether it answered last; None: it was not asked yet."""
        self.why = ""
        """Why it was not reached."""
        self.holder = ""
        """The node that went on alone, as far as is known here."""

    @property
    def ailment(self) -> str:
        """Why a failure now would end in silence; empty: it would not."""
        if self.reached is False:
            return f"the arbiter is not reached: {self.why}"
        if self.holder and self._releases:
            return f"the arbiter has not been told yet that {self.holder} is not alone any more"
        return ""

    @property
    def falls_back(self) -> bool:
        """Whether the lease decides while it is not reached."""
        return self._settings.policy == "continue"

    def attach(self, datapath: Datapath, *, won: bool) -> None:
        """Answer to this datapath; ``won``: a start() has."""
        self._dp = datapath
        if won:
            datapath.arbitrated(datapath.status().arbiter_round, State.WON)

    # -- a node that starts

    async def start(self) -> bool | None:
        """Whether this node, that does not know of the other one, may be alone."""
        self._asked = True
        won = await self._do(claim.claim(self._node))
        if won:
            self.holder = self._node
        return won

    def won(self) -> None:
        """Tell the datapath that start() has found so."""
        assert self._dp is not None
        self._dp.arbitrated(self._dp.status().arbiter_round, State.WON)

    # -- the datapath's life

    def on_question(self, round_number: int, seizes: Seizes) -> None:
        """The datapath asks, or tells."""
        if seizes:
            self._seizes = seizes
        else:
            self._question = round_number
        self._work.set()

    def on_hello(self) -> None:
        """It is about to be said: the other node's word over the LAN counts no more."""
        if self._seizes == Seizes.BY_WORD:
            self._seizes = Seizes.NOT

    def on_link_up(self) -> None:
        """An epoch has begun here; the other node may not be in it yet."""
        self.on_link_lost()
        self._together = asyncio.create_task(self._await_other())

    def on_link_lost(self) -> None:
        """It is over."""
        self._releases = False
        if self._together is not None:
            self._together.cancel()

    async def _await_other(self) -> None:
        assert self._dp is not None
        while self._dp.status().arbiter != State.TOGETHER:  # noqa: ASYNC110 - a LEASE is no event
            await asyncio.sleep(TOGETHER_POLL_S)
        self._releases = True
        self._work.set()

    async def run(self) -> None:
        """Ask, tell, let go and look, until cancelled."""
        looking = asyncio.create_task(self._look())
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                await self._work_off()
        finally:
            looking.cancel()

    async def close(self) -> None:
        """Wait for nothing more."""
        if self._together is not None:
            self._together.cancel()
        self._writer.shutdown(wait=False, cancel_futures=True)
        self._looker.shutdown(wait=False, cancel_futures=True)

    async def _work_off(self) -> None:
        assert self._dp is not None
        if self._seizes:
            await self._seize()
        if self._question is not None:
            await self._answer(self._question)
        if self._releases and self._question is None:
            free = await self._do(claim.release(self._node, asked=self._asked))
            if free is not None and self._releases:
                self._releases = self._asked = False
                self.holder = "" if free else self.holder

    async def _seize(self) -> None:
        seizes = self._seizes
        if await self._do(claim.seize(self._node, lambda: self._seizes == seizes)):
            self._seizes, self.holder = Seizes.NOT, self._node

    async def _answer(self, round_number: int) -> None:
        assert self._dp is not None
        self._asked = True
        won = await self._do(claim.claim(self._node))
        if self._question == round_number:
            self._question = None  # asked again, it comes again
        if won is None:
            self._dp.arbitrated(round_number, State.UNREACHED)
            return
        self._dp.arbitrated(round_number, State.WON if won else State.LOST)
        if won:
            self.holder = self._node
            self._log.warning("arbiter_won", "the arbiter: this node goes on, alone")
        else:
            self._log.error("arbiter_lost", f"the arbiter: {self.holder} goes on, not this node")

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                await self._within(self._looker, self._read_now)
            if self._seizes or self._releases:
                self._work.set()
            await asyncio.sleep(LOOK_AGAIN_S)

    def _read_now(self) -> Record:
        return _read(self._looks, self._until())

    # -- the store

    def _until(self) -> float:
        return time.monotonic() + self._settings.timeout_ms / 1000

    async def _do(self, steps: Steps) -> bool | None:
        """Take the steps; None: the store does not answer."""
        until_s = self._until()

        def take() -> bool:
            given: Record | bool | None = None
            while True:
                try:
                    step = steps.send(given)  # type: ignore[arg-type]  # None begins a generator
                except StopIteration as end:
                    return bool(end.value)
                except ContendedError as error:
                    raise StoreError("somebody else writes this pair's record") from error
                if isinstance(step, Read):
                    given = _read(self._store, until_s)
                    self.holder = given.holder
                else:
                    given = _replace(self._store, step, until_s)

        with contextlib.suppress(StoreError):
            return await self._within(self._writer, take)
        return None

    async def _within(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(threads, work)
        except StoreError as error:
            self._note_reached(str(error))
            raise
        self._note_reached("")
        return found

    def _note_reached(self, why: str) -> None:
        was, self.reached, self.why = self.reached, not why, why
        if why and was is not False:
            self._log.error("arbiter_unreached", f"the arbiter is not reached: {why}")
        elif not why and was is False:
            self._log.info("arbiter_reached", "the arbiter is reached again")


def _read(store: Etcd, until_s: float) -> Record:
    revision, value = store.read(until_s)
    return Record(revision, "" if value == NOBODY else value)


def _replace(store: Etcd, step: Replace, until_s: float) -> bool:
    return store.replace(step.record.revision, step.holder or NOBODY, until_s)
