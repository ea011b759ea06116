"""Single situations, without chance."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.sim.build import product
from tests.sim.core import MS
from tests.sim.faults import BULK_BYTES
from tests.sim.node import FENCED, OWNER, STANDBY, Node
from tests.sim.world import TAKEOVER_MS, World, watch

SEED = 2
STOP_NS = 60 * MS
ENDED_NS = 30 * MS
"""Two ticks of the datapath, and the control plane's time."""


class Calm(World):
    """A world in which nothing goes wrong by itself, nor is put right."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, product(), faults=("slow reader",))
        self.faults.put_nothing_right()

    def until(self, what: Callable[[], bool]) -> None:
        """Let it go on; what does not come within a second never does."""
        end_ns = self.now_ns + 1000 * MS
        while not what():
            assert self.now_ns < end_ns
            self.step()


@contextmanager
def calm_world() -> Iterator[Calm]:
    calm = Calm(SEED)
    watch(calm)
    try:
        yield calm
    finally:
        calm.close()


@pytest.fixture
def world() -> Iterator[Calm]:
    with calm_world() as calm:
        yield calm


def protected(world: Calm) -> tuple[Node, Node]:
    """Owner and standby of the first session."""
    session = world.sessions[0]
    owner = world.nodes[world.first_owner[session.service]]
    world.until(lambda: owner.flow(session).state == owner.lib.PRL_PRIMARY_ACTIVE)
    return owner, owner.other


def test_input_of_a_moved_session_is_no_primarys(world: Calm) -> None:
    """A void session's state reads as an active primary's where the two share memory."""
    session = world.sessions[0]
    old = world.nodes[world.first_owner[session.service]]
    new = old.other
    world.until(lambda: old.flow(session).state == old.lib.PRL_PRIMARY_ACTIVE)
    assert old.control is not None
    world.until(lambda: bool(old.control and old.control.switchover(session.service, forced=False)))
    world.until(lambda: bool(new.flow(session).relaying))
    new.lib.sim_frame(new.host, session.number, session.snd_nxt, 100, session.rcv_nxt, 0)
    new.lib.prl_dp_service_set(new.dp, session.service, FENCED)
    flow = new.flow(session)
    assert flow.relaying
    assert flow.state == new.lib.PRL_SECONDARY_VOID == new.lib.PRL_PRIMARY_ACTIVE
    assert new.control is not None
    new.link_stuck, new.host.link_room = True, 0
    new.control.fill_link(BULK_BYTES)
    status = new.ffi.new("struct prl_dp_status *")
    new.lib.prl_dp_status(new.dp, status)
    full = int(status.counters.link_tx_full)
    new.lib.sim_turn(new.host)
    new.lib.prl_dp_status(new.dp, status)
    assert status.counters.link_tx_full == full


@pytest.mark.parametrize("is_shadow", [False, True])
def test_the_end_of_a_socket_is_told_at_once(world: Calm, *, is_shadow: bool) -> None:
    """TCP tells of it: the look at all flows, every 200 ms, is for ends of which it did not."""
    session = world.sessions[0]
    owner, standby = protected(world)
    node = standby if is_shadow else owner
    began_ns = world.now_ns
    node.end_sock(session)
    node.poke()
    world.until(lambda: not node.flow(session).used)
    assert world.now_ns - began_ns < ENDED_NS


def take_over_stopped(calls: int) -> tuple[bool, bool] | None:
    """Both nodes live, and one takes the other for dead; it stops behind so many calls.

    Returns whether it owned the address then, and whether it had yet to claim it. None: it did
    not stop.
    """
    with calm_world() as world:
        owner, standby = protected(world)
        service = world.sessions[0].service
        world.lan_loss, world.cut = 1.0, [True, True]
        standby.stall, standby.stall_silent = (calls, STOP_NS), True
        world.until(lambda: standby.stalled or standby.address(service) == OWNER)
        if not standby.stalled:
            return None
        found = standby.address(service) == OWNER, bool(standby.host.node.claiming)
        end_ns = world.now_ns + 2 * STOP_NS
        world.until(lambda: world.now_ns > end_ns)
        taken = standby.address(service) == OWNER
        assert owner.address(service) == (FENCED if taken else OWNER)
        return found


def test_a_node_that_stops_anywhere_in_its_take_over_does_not_speak_beside_the_owner() -> None:
    stops = map(take_over_stopped, itertools.count(1))
    assert set(itertools.takewhile(lambda stop: stop is not None, stops)) == {
        (False, False),
        (False, True),
        (True, True),
        (True, False),
    }


def test_a_node_that_only_hears_the_lan_does_not_take_over(world: Calm) -> None:
    """Its claim reaches nobody until the cable is back, and an owner has gone on by then."""
    owner, standby = protected(world)
    session = world.sessions[0]

    def flood() -> None:
        standby.lib.sim_frame(standby.host, session.number, session.snd_nxt, 0, session.rcv_nxt, 0)
        world.at(world.now_ns + 10 * MS, flood)

    standby.host.lan_mute = 1
    world.lan_loss, world.cut = 1.0, [True, True]
    flood()
    end_ns = world.now_ns + TAKEOVER_MS * MS + 100 * MS
    world.until(lambda: world.now_ns > end_ns)
    assert standby.address(session.service) == STANDBY
    assert owner.could_speak(session.service)


def open_a_new_owner(calls: int) -> bool:
    """It stops behind so many calls; False: not where the session is its own already."""
    with calm_world() as world:
        owner, standby = protected(world)
        session = world.sessions[0]
        assert owner.control is not None
        standby.stall = (calls, STOP_NS)
        assert owner.control.switchover(session.service, forced=True)
        world.until(lambda: standby.stalled or owner.address(session.service) == STANDBY)
        if not standby.stalled or not standby.flow(session).relaying:
            return False
        standby.host.node.bypassed = 1
        standby.lib.sim_frame(
            standby.host, session.number, session.snd_nxt, 100, session.rcv_nxt, 0
        )
        world.until(lambda: not standby.stalled)
        world.until(lambda: world.counts["session taken over"] > 0)
        return True


def test_a_new_owner_that_hangs_misses_nothing_that_its_kernel_passes() -> None:
    """What moved here is not replicated yet: no shadow of it could speak."""
    assert sum(map(open_a_new_owner, range(1, 40))) > 1


def test_an_owner_that_has_replaced_nobody_silences_nobody(world: Calm) -> None:
    """Its claim may arrive when it has been replaced itself."""
    session = world.sessions[0]
    owner = world.nodes[world.first_owner[session.service]]
    claims: list[tuple[Node, bytes]] = []
    announce = world.claim

    def noted(sender: Node, service: int, token: bytes) -> None:
        claims.append((sender, token))
        announce(sender, service, token)

    world.claim = noted  # type: ignore[method-assign]
    world.until(lambda: owner.flow(session).state == owner.lib.PRL_PRIMARY_ACTIVE)
    assert claims
    assert not any(any(token) for _, token in claims)
    claims.clear()
    assert owner.control is not None
    world.until(
        lambda: bool(owner.control and owner.control.switchover(session.service, forced=False))
    )
    world.until(lambda: bool(owner.other.flow(session).relaying))
    assert any(sender is owner.other and any(token) for sender, token in claims)


def test_who_gives_a_service_away_counts_that(world: Calm) -> None:
    """Or what it claims later would be of the term of the node that it replaces (L7)."""
    owner, standby = protected(world)
    service = world.sessions[0].service
    world.lan_loss = 1.0  # no heartbeat tells it
    terms = [int(node.host.node.terms[service]) for node in (owner, standby)]
    assert owner.control is not None
    assert owner.control.switchover(service, forced=True)
    world.until(lambda: owner.address(service) == STANDBY)
    assert [int(node.host.node.terms[service]) for node in (owner, standby)] == [
        term + 1 for term in terms
    ]


def both_speak(world: Calm, service: int) -> bool:
    return all(node.could_speak(service) for node in world.nodes)


@pytest.mark.parametrize("back_ms", [310, 390, 450, 550, 620, 700, 900])
def test_a_machine_that_boots_off_the_lan_does_not_begin_beside_its_successor(
    world: Calm, back_ms: int
) -> None:
    """That nobody answers says nothing of a LAN that no probe has reached (F18)."""
    owner, standby = protected(world)
    service = world.sessions[0].service
    world.cut = [True, True]
    owner.power_off()
    world.until(lambda: standby.could_speak(service))
    owner.boot()
    owner.host.lan_cut = 1
    booted_ns = world.now_ns
    world.until(lambda: world.now_ns > booted_ns + back_ms * MS)
    owner.mend_lan()
    end_ns = world.now_ns + 900 * MS
    world.until(lambda: world.now_ns > end_ns or both_speak(world, service))
    assert not both_speak(world, service)
    assert standby.could_speak(service)
