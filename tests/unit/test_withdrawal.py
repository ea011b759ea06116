"""A node that cannot keep silence and hold goes out of the pair, and always finds back."""

import asyncio
import errno
from collections import Counter
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv6Address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl import config
from prl.bindings.datapath import Datapath, DatapathError, LogicalInterface
from prl.bindings.facts import Owner, Silence
from prl.bindings.programs import Guard as Found
from prl.bindings.programs import Kernel
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host import guard, orphaned_sockets
from prl.daemon.host.guard import CALM_LOOKS, Guard
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host, Seen, Sysctls
from prl.daemon.host.upkeep import Upkeep
from prl.daemon.link.hello import ServiceState
from prl.daemon.link.link import Link
from prl.daemon.ownership import probe
from prl.daemon.ownership.evidence import Evidence
from prl.daemon.ownership.ownership import Ownership
from prl.daemon.ownership.switchover import Switchover
from prl.daemon.ownership.withdrawal import MOVE_AGAIN_S, Withdrawal
from prl.daemon.session.attempt import Attempts
from prl.daemon.session.shadows import Shadows
from prl.endpoint import Address
from prl.errors import KernelError, NotSafeError

TURNS = 100
"""Of the loop: more than any work here takes that waits for nothing."""
FILE = """
node = "re0"
instance = "prl-re0"
index = 0
[lan]
interface = "lan0"
address = "192.0.2.10"
peer_address = "192.0.2.11"
[link]
interface = "link0"
local = "198.51.100.10"
remote = "198.51.100.11"
[timing]
start_wait_ms = 50
[[service]]
name = "one"
addresses = ["192.0.2.100", "2001:db8::100"]
owner = "re0"
[[service]]
name = "two"
addresses = ["192.0.2.200"]
owner = "re0"
"""
LAN = LogicalInterface("lan0", 7, bytes(6), 1)
ONE: frozenset[Address] = frozenset({IPv4Address("192.0.2.100"), IPv6Address("2001:db8::100")})
TWO: frozenset[Address] = frozenset({IPv4Address("192.0.2.200")})
OWNER, STANDBY, NONE = Owner.OWNER, Owner.STANDBY, Owner.NONE


class FakeDatapath:
    """The state of both services, by words of the control plane alone."""

    def __init__(self, states: list[Owner]) -> None:
        self.states = states
        self.terms = [0 for _ in states]
        self.failure: DatapathError | None = None

    def term(self, number: int) -> int:
        return self.terms[number]

    def raise_term(self, number: int, term: int) -> None:
        self.terms[number] = max(term, self.terms[number])

    def service_state(self, number: int) -> Owner:
        return self.states[number]

    def service_set(self, number: int, state: Owner) -> None:
        if self.failure:
            raise self.failure
        self.states[number] = state

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(
            services=[*self.states, *[NONE] * 14], unheard=False, silent_mask=0, silence=Silence.NOT
        )

    def is_given(self, _: int) -> bool:
        return False

    def policy(self, *, stop: bool) -> None:
        assert not stop


class FakeHost:
    """An interface; `refused` cannot be added."""

    def __init__(self) -> None:
        self.there = set(ONE | TWO)
        self.refused: set[Address] = set()
        self.on_add: Callable[[], object] = lambda: None
        self.on_remove: Callable[[], object] = lambda: None

    async def add_address(self, _: int, address: Address) -> None:
        await asyncio.sleep(0)
        self.on_add()
        if address in self.refused:
            raise KernelError(f"address {address} cannot be added")
        self.there.add(address)

    async def remove_address(self, _: int, address: Address) -> None:
        await asyncio.sleep(0)
        self.there.discard(address)
        self.on_remove()

    async def look(self, _: str) -> Seen:
        await asyncio.sleep(0)
        there = frozenset({IPv4Address("192.0.2.10"), *self.there})
        return Seen(LAN.ifindex, True, there, mac=LAN.mac)


class FakeLink:
    def __init__(self) -> None:
        self.up = True
        self.why_closed = ""
        self.calls: list[str] = []

    def close(self, why: str) -> None:
        self.up, self.why_closed = False, why
        self.calls.append("close")

    def open(self) -> None:
        self.why_closed = ""
        self.calls.append("open")


class FakeSwitchover:
    """A move takes until `gate` is open; one that is refused leaves the owner."""

    def __init__(self, datapath: FakeDatapath) -> None:
        self._dp = datapath
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuses = False
        self.moves: list[int] = []

    async def move(self, number: int, *, despite_strangers: bool) -> None:
        assert despite_strangers  # else they would keep the others on a node that is exposed
        self.moves.append(number)
        await self.gate.wait()
        if self.refuses:
            raise NotSafeError("a session has no good shadow")
        self._dp.states[number] = STANDBY


class Node:
    """A node with all that is around its withdrawal; runs until `close`."""

    def __init__(self, *states: Owner) -> None:
        self.config: Config = config.parse(FILE)
        self.dp, self.host, self.link = FakeDatapath(list(states)), FakeHost(), FakeLink()
        self.switchover = FakeSwitchover(self.dp)
        self.log = EventLog(lambda _: None)
        self.parts = SimpleNamespace(closed="", discard_all=lambda: None)
        self.failures: list[BaseException] = []
        self.ended: list[int] = []
        """Services whose sessions the other node has taken over."""
        datapath, host = cast(Datapath, self.dp), cast(Host, self.host)
        lans = Instances(self.config, [LAN])

        async def evidence() -> Evidence:
            return Evidence(self.config, LAN, ())

        self.ownership = Ownership(
            *(self.config, datapath, lans, self.log),
            arbiter=None,
            evidence=evidence,
            usable_shadows=lambda _: 0,
            end_lost=lambda _: 0,
            end_taken=self.ended.append,
            replaceable=lambda: None,
            known_again=lambda _: None,
            left_behind=lambda *_: None,
        )

        async def restored() -> None:
            return

        self.upkeep = Upkeep(
            *(self.config, host, lans, cast(Sysctls, SimpleNamespace(reapply=list)), self.log),
            looked=lambda: None,
            restored=restored,
            carrier=lambda *_: None,
        )
        self.withdrawal = Withdrawal(
            *(self.config, datapath, cast(Link, self.link), self.upkeep, host, lans, self.log),
            ownership=self.ownership,
            shadows=cast(Shadows, self.parts),
            attempts=cast(Attempts, self.parts),
            switchover=cast(Switchover, self.switchover),
            done=self._done,
        )

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.failures.append(error)

    async def is_exposed(self) -> None:
        """A look finds it so."""
        self.withdrawal.expose("lan0: somebody insists")
        await turns()

    async def is_calm(self) -> None:
        self.withdrawal.end()
        await turns()

    @property
    def events(self) -> list[str]:
        return [record.event for record in self.log.after(0, 1000)]


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def play(scene: Callable[[Node], Coroutine[Any, Any, None]], *states: Owner) -> Node:
    async def run() -> Node:
        node = Node(*states)
        try:
            await scene(node)
        finally:
            await node.withdrawal.close()
        return node

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has connections on the addresses, and nobody on the LAN answers."""

    async def nobody(*_: object) -> set[Address]:
        await asyncio.sleep(0)
        return set()

    monkeypatch.setattr(probe, "users_of", nobody)
    monkeypatch.setattr(orphaned_sockets, "established_on", lambda _: Counter())


def test_a_standby_is_out_and_comes_back() -> None:
    async def scene(node: Node) -> None:
        await node.is_exposed()
        assert (node.dp.states, node.host.there) == ([NONE, NONE], set())
        assert node.link.why_closed == "this node fences itself: lan0: somebody insists"
        await node.is_calm()
        assert node.host.there == ONE | TWO
        assert not node.link.why_closed

    node = play(scene, STANDBY, STANDBY)
    assert node.events == ["withdrawing", "withdrawn", "withdrawn", "returned"]


def test_calm_in_the_middle_of_a_move_leaves_the_node_in_the_pair() -> None:
    async def scene(node: Node) -> None:
        node.switchover.gate.clear()
        await node.is_exposed()
        assert node.switchover.moves == [0]
        assert node.host.there == ONE  # what others own is left before the move, which takes long
        await node.is_calm()
        node.switchover.gate.set()
        await turns()
        assert node.dp.states == [STANDBY, NONE]  # it stays in what it has not left
        await node.is_calm()  # the next look
        assert node.host.there == ONE | TWO
        assert not node.ownership.left

    play(scene, OWNER, STANDBY)


def test_calm_while_the_last_address_is_removed_leaves_the_link_up() -> None:
    async def scene(node: Node) -> None:
        def removed() -> None:
            if not node.host.there:
                node.withdrawal.end()

        node.host.on_remove = removed
        await node.is_exposed()
        assert len(node.ownership.left) == len(node.config.service)
        assert node.link.calls == []
        await node.is_calm()
        assert node.host.there == ONE | TWO

    play(scene, STANDBY, STANDBY)


def test_an_address_that_is_refused_is_tried_again_with_each_look() -> None:
    async def scene(node: Node) -> None:
        await node.is_exposed()
        node.host.refused = set(TWO)
        for _ in range(3):
            await node.is_calm()
        assert node.link.why_closed
        node.host.refused.clear()
        await node.is_calm()
        assert node.host.there == ONE | TWO
        assert not node.link.why_closed

    node = play(scene, STANDBY, STANDBY)
    assert node.events[3:] == ["withdrawn", "returned"]  # it is said once


def test_exposed_again_in_the_middle_of_the_return_is_out_again() -> None:
    async def scene(node: Node) -> None:
        await node.is_exposed()
        node.withdrawal.end()
        await asyncio.sleep(0)
        await node.is_exposed()
        await node.is_exposed()
        assert node.host.there == set()
        assert node.link.why_closed

    play(scene, STANDBY, STANDBY)


def test_every_service_is_handed_over_and_tried_again_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = SimpleNamespace(s=1.0)
    clock = SimpleNamespace(monotonic=lambda: now.s)
    monkeypatch.setattr("prl.daemon.ownership.withdrawal.time", clock)

    async def scene(node: Node) -> None:
        node.switchover.refuses = True
        await node.is_exposed()
        assert node.switchover.moves == [0, 1]
        await node.is_exposed()
        assert node.switchover.moves == [0, 1]
        now.s += MOVE_AGAIN_S
        node.switchover.refuses = False
        await node.is_exposed()
        assert node.switchover.moves == [0, 1, 0, 1]
        assert node.dp.states == [NONE, NONE]
        assert node.link.why_closed

    play(scene, OWNER, OWNER)


def service(number: int, **members: Any) -> ServiceState:
    found = config.parse(FILE).service[number]
    addresses = list(map(str, found.addresses))
    return ServiceState(name=found.name, addresses=addresses, owner=found.owner, **members)


@pytest.mark.parametrize("theirs", [OWNER, NONE])
def test_hello_gives_nothing_to_a_node_that_is_out(theirs: Owner) -> None:
    """Not even if it is the configured owner, and the other node has just started."""

    async def scene(node: Node) -> None:
        node.switchover.refuses = True
        await node.is_exposed()
        assert [one.out for one in node.ownership.describe()] == [True, False]
        said = node.ownership.describe()
        node.ownership.settle(
            said, (service(0, state=theirs, term=0), service(1, state=STANDBY, term=0))
        )
        assert node.dp.states == [NONE, OWNER]

    play(scene, STANDBY, OWNER)


def test_a_part_that_comes_back_otherwise_is_taken_away_again() -> None:
    async def scene(node: Node) -> None:
        await node.is_exposed()
        node.dp.states[0] = Owner.FENCED
        await node.is_exposed()
        assert node.dp.states == [NONE, NONE]

    play(scene, STANDBY, STANDBY)


def test_who_owns_what_it_was_out_of_serves_it() -> None:
    """By the operator's word, or since the other node had not taken what was given to it."""

    async def scene(node: Node) -> None:
        await node.is_exposed()
        node.dp.states[0] = OWNER
        await node.is_exposed()
        assert node.host.there == ONE
        assert not node.link.why_closed
        assert not node.ownership.describe()[0].out

    play(scene, STANDBY, STANDBY)


@pytest.mark.parametrize("is_settled", [True, False])
def test_who_is_back_alone_owns_what_it_owns_first(is_settled: bool) -> None:
    """The other node, which it had handed over to, died meanwhile."""

    async def scene(node: Node) -> None:
        starts = asyncio.create_task(node.ownership.start_alone())
        node.ownership.on_takeover(0)
        await starts
        await node.is_exposed()
        assert node.dp.states == [NONE, NONE]
        starts = asyncio.create_task(node.ownership.start_alone())
        await turns()
        assert not starts.done()
        await node.is_calm()
        assert node.link.calls[-2:] == ["close", "open"]  # a HELLO, also of a link that was up
        if is_settled:
            other = [service(number, state=OWNER, term=9) for number in (0, 1)]
            node.ownership.settle(node.ownership.describe(), tuple(other))
        await asyncio.wait_for(starts, 20)
        assert node.dp.states == ([STANDBY, STANDBY] if is_settled else [OWNER, OWNER])

    play(scene, OWNER, STANDBY)


def test_a_node_that_is_out_takes_nothing_at_its_start() -> None:
    async def scene(node: Node) -> None:
        await node.is_exposed()
        await asyncio.wait_for(node.ownership.start_alone(), 20)
        assert node.dp.states == [NONE, NONE]

    play(scene, NONE, NONE)


def test_what_fails_is_not_kept_secret() -> None:
    async def scene(node: Node) -> None:
        node.dp.failure = DatapathError("the role was not set", errno.ENOSPC)
        await node.is_exposed()
        assert node.failures == [node.dp.failure]

    play(scene, STANDBY, STANDBY)


# -- looks


def test_a_waived_address_is_removed_and_not_put_back() -> None:
    async def scene(node: Node) -> None:
        node.upkeep.waived = {("lan0", address) for address in ONE}
        await node.upkeep.look()
        assert node.host.there == TWO
        await node.upkeep.look()
        assert node.host.there == TWO

    assert play(scene, STANDBY, STANDBY).events == []


def test_an_address_that_was_waived_since_the_look_is_not_put_back() -> None:
    async def scene(node: Node) -> None:
        node.host.there.clear()
        node.host.on_add = lambda: node.upkeep.waived.update(("lan0", each) for each in TWO)
        await node.upkeep.look()
        assert node.host.there == ONE

    play(scene, STANDBY, STANDBY)


def test_calm_is_told_with_each_look_until_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """One word that meets a withdrawal under way would be lost."""
    monkeypatch.setattr(guard, "LOOK_S", 0)
    monkeypatch.setattr(guard, "PASSED_LOOKS", 1)
    monkeypatch.setattr(guard, "PASSED_S", 0)
    told: list[str] = []

    class FakeKernel:
        def __init__(self) -> None:
            self.refusals = 2

        def guard(self, *_: object, **__: object) -> tuple[Found, str]:
            if self.refusals:
                self.refusals -= 1
                raise KernelError("lo: prl's programs cannot be first")
            return Found.KEPT, ""

    async def scene() -> None:
        host = SimpleNamespace(devices=no_devices)
        lans = SimpleNamespace(interfaces=[])
        watching = Guard(
            *(cast(Kernel, FakeKernel()), cast(Host, host), cast(Instances, lans)),
            EventLog(lambda _: None),
        )
        monkeypatch.setattr(watching, "_wanted", lambda: {1: "lo"})
        enough = asyncio.Event()

        def calm() -> None:
            told.append("calm")
            if told.count("calm") == CALM_LOOKS:
                enough.set()

        running = asyncio.create_task(
            watching.run(broken=lambda: None, exposed=lambda _: told.append("out"), calm=calm)
        )
        await asyncio.wait_for(enough.wait(), 20)
        running.cancel()

    async def no_devices() -> list[object]:
        return []

    asyncio.run(scene())
    assert told[: 2 + CALM_LOOKS] == ["out", "out", *["calm"] * CALM_LOOKS]
