"""The arbiter's store, and how a prld asks it: the steps are the shipped ones (claim.py)."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from prl.daemon.ownership.claim import (
    ContendedError,
    Read,
    Record,
    Replace,
    Step,
    Steps,
    claim,
    release,
    seize,
)
from tests.sim.core import MS

if TYPE_CHECKING:
    from tests.sim.control import Control
    from tests.sim.world import World

ANSWER_MS = 60
TOGETHER_POLL_NS = 10 * MS
START_AGAIN_NS = 60 * MS
LOOK_AGAIN_NS = 150 * MS
NAMES = ("re0", "re1")
Answer = Callable[[Record | bool], None]


class Store:
    """One record that a majority of the arbiter's members has."""

    def __init__(self, world: "World", chance: Random) -> None:
        self.world, self.random = world, chance
        self.record = Record(0, "")
        self.latency_ns = int(chance.choice([1, 1, 5, 20]) * MS)
        self.loss = chance.choice([0.0, 0.0, 0.2])
        """Of answers; what was asked for may have been done."""
        self.reached = [True, True]

    def do(self, node: int, step: Step, answer: Answer) -> None:
        """Take a step some time later, whatever becomes of who asked, and answer later still."""
        world = self.world
        if not self.reached[node]:
            if self.random.random() < 0.5:
                return
            world.at(world.now_ns + self._delay_ns(), self._take, node, step, None)
        else:
            world.at(world.now_ns + self._delay_ns(), self._take, node, step, answer)

    def _delay_ns(self) -> int:
        late = 30 if self.random.random() < 0.05 else 1
        return int(self.latency_ns * late * (0.5 + self.random.random()) / 2)

    def _take(self, node: int, step: Step, answer: Answer | None) -> None:
        world = self.world
        found: Record | bool = self.record
        if isinstance(step, Replace):
            found = step.record.revision == self.record.revision
            if found:
                self.record = Record(self.record.revision + 1, step.holder)
                world.count(f"arbiter: {'nobody' if not step.holder else 'one'} is alone")
                world.note(f"  ({step.holder or '-'}, by node {node})")
        if answer is None or self.random.random() < self.loss:
            world.count("arbiter's answer lost")
            return
        world.at(world.now_ns + self._delay_ns(), answer, found)


class Asker:
    """prl.daemon.ownership.arbiter, in the simulator's time; it dies with its control plane."""

    def __init__(self, control: "Control") -> None:
        self.control, self.node, self.world = control, control.node, control.world
        self.name = NAMES[self.node.index]
        self._question: int | None = None
        self._seizes = 0
        self._releases = False
        self._asked = True  # a life before this one may have
        self._steps: Steps | None = None
        self._done: Callable[[bool | None], None] | None = None
        self._turn = 0
        self.started = False
        """The store has said that this node, which knows nothing, may begin alone."""
        self.node.later(LOOK_AGAIN_NS, self._look)

    def on_event(self, round_number: int, seizes: int) -> None:
        """The datapath asks, or tells."""
        if seizes:
            self._seizes = seizes
        else:
            self._question = round_number
        self._work()

    def on_hello(self) -> None:
        if self._seizes == self.node.lib.PRL_SEIZES_BY_WORD:
            self._seizes = 0

    def on_link_up(self) -> None:
        self._releases = False
        self.node.later(TOGETHER_POLL_NS, self._await_other, self.control.epoch)

    def start(self, then: Callable[[], None]) -> None:
        """Ask for a node that knows of nobody; ``then``, when it may be alone."""
        if self._steps is not None:
            self.node.later(START_AGAIN_NS, self.start, then)
            return

        def answered(won: bool | None) -> None:
            if won:
                then()
            elif not self.control.settled:
                self.node.later(START_AGAIN_NS, self.start, then)

        self._asked = True
        self._begin(claim(self.name), answered)

    def won(self) -> None:
        """Tell the datapath that start() has found so."""
        lib = self.node.lib
        owner = lib.sim_owner(self.node.host)
        self.node.call(lib.prl_dp_arbitrated, int(owner.arbiter.round), lib.PRL_ARBITER_WON)

    def _look(self) -> None:
        self.node.later(LOOK_AGAIN_NS, self._look)
        self._work()

    def _await_other(self, epoch: int) -> None:
        control, lib = self.control, self.node.lib
        if control.epoch != epoch or not control.is_up():
            return
        if lib.sim_owner(self.node.host).arbiter.state == lib.PRL_ARBITER_TOGETHER:
            self._releases = True
            self._work()
        else:
            self.node.later(TOGETHER_POLL_NS, self._await_other, epoch)

    def _work(self) -> None:
        if self._steps is not None:
            return
        if self._seizes:
            seizes = self._seizes
            steps = seize(self.name, lambda: self._seizes == seizes)
            self._begin(steps, self._seized)
        elif self._question is not None:
            self._asked = True
            self._begin(claim(self.name), self._answered)
        elif self._releases and self.control.is_up():
            self._begin(release(self.name, asked=self._asked), self._released)

    def _begin(self, steps: Steps, done: Callable[[bool | None], None]) -> None:
        self._steps, self._done = steps, done
        self._turn += 1
        self.node.later(ANSWER_MS * MS, self._late, self._turn)
        self._go_on(self._turn, None)

    def _go_on(self, turn: int, given: Record | bool | None) -> None:
        if self._steps is None or turn != self._turn or self.node.control is not self.control:
            return
        if not self.node.runs or self.node.asleep or self.node.stalled:
            self.node.later(MS, self._go_on, turn, given)
            return
        try:
            step = self._steps.send(given)  # type: ignore[arg-type]
        except StopIteration as end:
            self._end(bool(end.value))
        except ContendedError:
            self._end(None)
        else:
            assert isinstance(step, Read | Replace)
            self.world.store.do(self.node.index, step, lambda found: self._go_on(turn, found))

    def _late(self, turn: int) -> None:
        if self._steps is None or turn != self._turn:
            return
        if not self.node.runs or self.node.asleep or self.node.stalled:
            self.node.later(MS, self._late, turn)
        else:
            self._end(None)

    def _end(self, result: bool | None) -> None:
        done, self._steps, self._done = self._done, None, None
        assert done is not None
        done(result)
        self._work()

    def _seized(self, result: bool | None) -> None:
        if result:
            self._seizes = 0
        elif result is None:
            self._steps = None

    def _answered(self, won: bool | None) -> None:
        lib, round_number = self.node.lib, self._question
        assert round_number is not None
        self._question = None
        state = lib.PRL_ARBITER_UNREACHED
        if won is not None:
            state = lib.PRL_ARBITER_WON if won else lib.PRL_ARBITER_LOST
        self.world.count(f"arbiter: {'unreached' if won is None else 'won' if won else 'lost'}")
        self.node.call(lib.prl_dp_arbitrated, round_number, state)

    def _released(self, result: bool | None) -> None:
        if result is not None:
            self._releases = self._asked = False
