"""Single situations, without chance."""

import errno
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.sim.build import product
from tests.sim.core import MS
from tests.sim.faults import BULK_BYTES
from tests.sim.node import (
    DEAD_MS,
    FENCED,
    HOLD_MS,
    NOTICES_NS,
    OWNER,
    STANDBY,
    SUSPECT_MS,
    Node,
)
from tests.sim.tcp import SEGMENT_MAX, Session
from tests.sim.world import (
    CHANCE,
    HUNG_MS,
    PROBE_MS,
    TAKEOVER_MS,
    WITHOUT_ANSWERS,
    World,
    watch,
)

SEED = 2
STOP_NS = 60 * MS
STRANGERS = 3
FOR_EVER_NS = 10**12
ENDED_NS = 30 * MS
"""Two ticks of the datapath, and the control plane's time."""
MIRROR_SEED = 2
"""Of a world whose pair drops what there is no space for."""
LONG = 1000
"""Bytes of a packet that goes by the cable."""
CROWD_SEED = 128
"""A world of five sessions of one service."""
TURN_NS = 40 * MS
"""What one session's take-over takes: nobody is late for it, but for those of all of them."""


class Calm(World):
    """A world in which nothing goes wrong by itself, nor is put right."""

    mirrors = False

    def __init__(self, seed: int, *, arbitrated: bool = False) -> None:
        super().__init__(seed, product(), faults=("slow reader",), arbitrated=arbitrated)
        self.faults.put_nothing_right()

    def until(self, what: Callable[[], bool]) -> None:
        """Let it go on; what does not come within a second never does."""
        end_ns = self.now_ns + 1000 * MS
        while not what():
            assert self.now_ns < end_ns
            self.step()

    def after(self, for_ns: int) -> None:
        """Let it go on for so long."""
        end_ns = self.now_ns + for_ns
        self.until(lambda: self.now_ns > end_ns)


class Jumbo(Calm):
    """Whose segments are so long that two of them are more than a window."""

    mss = 12_000


@contextmanager
def calm_world(seed: int = SEED, *, arbitrated: bool = False) -> Iterator[Calm]:
    calm = Calm(seed, arbitrated=arbitrated)
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


def test_a_link_that_is_full_of_packets_has_room_for_the_rest(world: Calm) -> None:
    session = world.sessions[0]
    node, _ = protected(world)
    session.quiet_until_ns = FOR_EVER_NS
    assert node.control is not None
    node.link_stuck, node.host.link_room = True, 0
    node.control.fill_link(BULK_BYTES[:1])
    for number in range(2 * BULK_BYTES[0] // 100):
        hear(node, session, number)
        node.lib.sim_turn(node.host)
    world.after(95 * MS)  # some LEASEs; not yet so long that this node is missed
    assert node.control.is_up()


def test_of_many_new_connections_one_word_waits_to_be_read(world: Calm) -> None:
    """The control plane may be busy, and ends of sessions need the room."""
    node, _ = protected(world)
    event, body = node.ffi.new("struct prl_event *"), node.ffi.new("uint8_t[]", 4096)

    def words() -> int:
        kinds = []
        while node.lib.prl_dp_event(node.dp, event, body, len(body)):
            kinds.append(event.kind)
        return kinds.count(node.lib.PRL_EVENT_BORN)

    def born() -> None:
        node.host.news[0].kind = node.lib.PRL_NEWS_BORN
        node.host.news_count = 1
        node.lib.sim_turn(node.host)

    for _ in range(100):
        born()
    assert words() == 1
    born()
    assert words() == 1


def is_captured(node: Node, session: Session) -> bool:
    slot = node.host.slot_of[session.number]
    return bool(node.host.flow[slot].flags & node.lib.PRL_FLOW_RELAY)


def prepared_just_moved(world: Calm) -> tuple[Node, Session]:
    """A session that has moved, and for which the old owner makes a socket ready (R17)."""
    session = world.sessions[0]
    old, new = protected(world)
    world.two_steps, world.setup_fails = 1.0, 0.0
    world.until(lambda: bool(old.control and old.control.switchover(session.service, forced=False)))
    world.until(lambda: bool(new.flow(session).relaying))

    def is_prepared() -> bool:
        if new.control is not None and new.flow(session).secondary:
            new.control.protect(session)
        return not new.flow(session).secondary

    world.until(is_prepared)
    return new, session


def test_a_moved_session_is_prepared_without_leaving_our_hands(world: Calm) -> None:
    """Else it would stand still for a whole snapshot; what comes meanwhile keeps its order."""
    node, session = prepared_just_moved(world)
    assert node.flow(session).state == node.lib.PRL_PRIMARY_OPEN
    assert is_captured(node, session)
    before = node.sock(session).rcv_nxt
    node.lib.sim_frame(node.host, session.number, session.snd_nxt, 100, session.rcv_nxt, 0)
    assert node.sock(session).rcv_nxt == before, "not by prld"
    node.lib.sim_turn(node.host)
    assert node.sock(session).rcv_nxt == before + 100
    restored = world.counts["moment restored"]
    world.until(lambda: world.counts["moment restored"] > restored)
    assert node.flow(session).state == node.lib.PRL_PRIMARY_ACTIVE
    assert not node.flow(session).relaying


def test_a_moved_session_that_is_only_prepared_is_given_to_the_stack_once_it_is_quiet(
    world: Calm,
) -> None:
    node, session = prepared_just_moved(world)
    world.cut = [True, True]
    world.until(lambda: not is_captured(node, session))
    assert node.flow(session).state == node.lib.PRL_PRIMARY_OPEN
    assert not node.flow(session).relaying


def hear(node: Node, session: Session, number: int) -> None:
    """The number-th segment of 100 bytes that its peer has not said by itself."""
    seq = session.snd_nxt + 100 * number
    node.lib.sim_frame(node.host, session.number, seq, 100, session.rcv_nxt, 0)


def opened(world: Calm) -> tuple[Node, Session]:
    """A session whose protection has ended a moment ago; nobody is going to protect it again."""
    session = world.sessions[0]
    node, _ = protected(world)
    session.quiet_until_ns = FOR_EVER_NS
    assert node.control is not None
    node.control.retry_at_ns[session.number] = FOR_EVER_NS
    node.call(node.lib.prl_dp_primary_fail, node.flow(session).handle, 4)
    world.until(lambda: node.flow(session).state == node.lib.PRL_PRIMARY_OPEN)
    return node, session


def test_what_was_captured_is_not_overtaken_when_a_session_is_not_protected_any_more(
    world: Calm,
) -> None:
    node, session = opened(world)
    world.two_steps = 0.0
    assert node.control is not None
    node.control.retry_at_ns[session.number] = 0
    node.control.protect(session)
    assert node.flow(session).state == node.lib.PRL_PRIMARY_SETUP
    before = node.sock(session).rcv_nxt
    hear(node, session, 0)  # and the datapath has not read it
    node.call(node.lib.prl_dp_primary_fail, node.flow(session).handle, 4)
    assert node.flow(session).state == node.lib.PRL_PRIMARY_OPEN
    hear(node, session, 1)
    assert not node.sock(session).holes
    node.lib.sim_turn(node.host)
    assert node.sock(session).rcv_nxt == before + 200


def test_a_session_that_is_not_protected_any_more_is_given_to_the_stack_once_it_is_quiet(
    world: Calm,
) -> None:
    node, session = opened(world)
    assert is_captured(node, session)
    world.until(lambda: not is_captured(node, session))
    assert not node.flow(session).relaying


def test_so_is_one_that_is_never_quiet_after_a_second(world: Calm) -> None:
    node, session = opened(world)
    world.cut = [True, True]  # nor can it be protected
    began_ns = world.now_ns
    while is_captured(node, session) and world.now_ns - began_ns < 2000 * MS:
        node.lib.sim_frame(node.host, session.number, session.snd_nxt, 0, session.rcv_nxt, 0)
        world.after(5 * MS)
    assert 900 * MS < world.now_ns - began_ns < 1200 * MS
    assert node.flow(session).state == node.lib.PRL_PRIMARY_OPEN


def test_nor_does_it_depend_on_prld(world: Calm) -> None:
    node, session = opened(world)
    assert is_captured(node, session)
    before = node.sock(session).rcv_nxt
    node.host.node.policy_stop = 1  # what is protected stays closed
    for each in world.nodes:
        each.kill_prld()
    world.after(500 * MS)
    hear(node, session, 0)
    assert node.sock(session).rcv_nxt == before + 100


def test_an_owner_that_goes_on_by_itself_is_past_who_may_have_taken_over_meanwhile(
    world: Calm,
) -> None:
    """What that one has said of its own time may come late: a frame that waited for a cable."""
    node, _ = protected(world)
    owner, service = node.lib.sim_owner(node.host), world.sessions[0].service
    term, now_ns = int(node.host.node.terms[service]), int(node.host.clock_ns)
    owner.silence, owner.silent_mask = node.lib.PRL_SILENCE_NO_LAN, 1 << service
    owner.silent_ns, owner.present_ns, owner.flows_failed = now_ns - MS, 0, 2
    owner.last_frame_ns = now_ns
    assert node.call(node.lib.prl_dp_unanswered, now_ns)
    assert owner.silence == node.lib.PRL_SILENCE_NOT
    assert node.host.node.terms[service] == term + 2
    rival = node.lib.prl_owner_rival(owner, service, (term + 2) & 0xFF, (term + 1) & 0xFF)
    assert rival == node.lib.PRL_RIVAL_OLDER


def moments_restored(node: Node) -> int:
    status = node.ffi.new("struct prl_dp_status *")
    node.lib.prl_dp_status(node.dp, status)
    return int(status.counters.moments_restored)


@pytest.mark.parametrize("segments", [20, 39, 40, 41, 60, 97])
def test_a_moment_with_more_queued_than_a_message_takes_comes_in_pieces(
    world: Calm, segments: int
) -> None:
    """Of 100 bytes each; a message takes 2000. What arrives is compared where it is restored."""
    node, session = opened(world)
    assert node.control is not None
    sock = node.sock(session)
    sock.slow = 1
    sock.read = sock.rcv_nxt
    for number in range(segments):
        hear(node, session, number)
        node.lib.sim_turn(node.host)
    assert sock.rcv_nxt - sock.read == 100 * segments
    world.two_steps = 1.0
    node.control.retry_at_ns[session.number] = 0
    before = moments_restored(node.other)
    node.control.protect(session)
    world.until(lambda: node.flow(session).state == node.lib.PRL_PRIMARY_ACTIVE)
    assert moments_restored(node.other) == before + 1
    assert node.other.sock(session).rcv_nxt == sock.rcv_nxt


@contextmanager
def moved_and_quiet() -> Iterator[tuple[Calm, Node, Session]]:
    """A session that has moved, is not going to be protected, and whose peer says nothing."""
    with calm_world() as world:
        session = world.sessions[0]
        old, new = protected(world)
        session.quiet_until_ns = FOR_EVER_NS
        assert new.control is not None
        new.control.retry_at_ns[session.number] = FOR_EVER_NS
        world.until(
            lambda: bool(old.control and old.control.switchover(session.service, forced=False))
        )
        world.until(lambda: is_captured(new, session))
        yield world, new, session


def hear_while_it_settles(steps: int, calls: int) -> bool:
    """A segment comes when that pass has made so many calls. False: it was the stack's by then."""
    with moved_and_quiet() as (world, node, session):
        for _ in range(steps - 1):
            world.step()
        node.stall = (calls, MS)
        world.step()
        if not is_captured(node, session):
            return False
        assert node.stalled
        expected = node.sock(session).rcv_nxt + 100
        hear(node, session, 0)
        world.until(lambda: not node.stalled)
        world.after(MS)
        assert node.sock(session).rcv_nxt == expected
        return True


def test_what_was_captured_while_a_moved_session_was_given_to_the_stack_is_not_lost() -> None:
    steps = 0
    with moved_and_quiet() as (world, node, session):
        while is_captured(node, session):
            world.step()
            steps += 1
    assert {hear_while_it_settles(steps, calls) for calls in range(1, 20)} == {True, False}


@pytest.mark.parametrize("is_shadow", [False, True])
def test_the_end_of_a_socket_is_told_at_once(world: Calm, *, is_shadow: bool) -> None:
    """TCP tells of it: the look at all flows, every 200 ms, is for ends of which it did not."""
    session = world.sessions[0]
    owner, standby = protected(world)
    node = standby if is_shadow else owner
    node.host.unheard_chance = 0
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


def test_a_deaf_owner_that_was_stopped_notices_that_it_is_deaf(crowd: Calm) -> None:
    """It is replaced while it stands, by a claim that it does not hear, and listens anew then."""
    open_one, owner, standby = crowd.sessions[0], owner_of(crowd), standby_of(crowd)
    assert owner.control is not None
    owner.control.request_fail(open_one)
    crowd.until(lambda: owner.flow(open_one).state == owner.lib.PRL_PRIMARY_OPEN)
    for node in crowd.nodes:
        node.host.takeover_cost_ns = 0
    open_one.quiet_until_ns = 0
    owner.host.lan_deaf, owner.deaf_ns, crowd.cut = 1, crowd.now_ns, [True, True]
    crowd.after(NOTICES_NS // 3)
    owner.pause(STOP_NS + NOTICES_NS // 3)
    crowd.after(6 * STOP_NS)  # with I7 checked all the time
    assert standby.address(0) == OWNER
    assert crowd.counts["spoke although it was replaced, and deaf"]
    assert owner.lib.sim_owner(owner.host).silence == owner.lib.PRL_SILENCE_NO_LAN


@pytest.mark.parametrize("is_up", [True, False])
def test_a_hello_that_nobody_waits_for_gives_nothing_up(world: Calm, *, is_up: bool) -> None:
    """A control plane that is late may have one to say to a connection of before."""
    session = world.sessions[0]
    _, standby = protected(world)
    world.until(lambda: bool(standby.flow(session).confirmed))
    if not is_up:
        standby.call(standby.lib.prl_dp_link_drop, b"gone")
    assert standby.call(standby.lib.prl_dp_link_hello) == -errno.ENOTCONN
    assert standby.flow(session).state == standby.lib.PRL_SECONDARY_ACTIVE
    assert standby.lib.prl_owner_takeover_until_ns(standby.lib.sim_owner(standby.host))


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


def asked_for(world: Calm, standby: Node) -> Callable[[], tuple[int, int]]:
    """Of the first service; what becomes of it: its outcome and reason, both 0 until then."""
    service = world.sessions[0].service
    owner = standby.other
    all_of_it = [session for session in world.sessions if session.service == service]
    world.until(
        lambda: all(owner.flow(each).state == owner.lib.PRL_PRIMARY_ACTIVE for each in all_of_it)
    )
    ends: list[tuple[int, int]] = []
    assert standby.control is not None

    def noted(event: Any) -> None:
        ends.append((int(event.state), int(event.reason)))
        if event.reason == standby.lib.PRL_REASON_NOT_ASKED:
            assert event.seq == STRANGERS

    standby.control._does[standby.lib.PRL_EVENT_MOVE] = noted
    world.until(lambda: bool(standby.control and standby.control.switchover(service, forced=False)))
    return lambda: ends[0] if ends else (0, 0)


def test_a_move_that_the_other_node_asks_for_is_refused_if_others_would_be_lost(
    world: Calm,
) -> None:
    owner, standby = protected(world)
    service = world.sessions[0].service
    assert owner.control is not None
    owner.control.strangers = STRANGERS
    end = asked_for(world, standby)
    world.until(lambda: end() != (0, 0))
    assert end() == (owner.lib.PRL_MOVE_UNDONE, owner.lib.PRL_REASON_NOT_ASKED)
    assert owner.address(service) == OWNER
    assert standby.control is not None
    assert standby.control.switchover(service, forced=True)
    world.until(lambda: standby.address(service) == OWNER)


def test_a_move_is_not_made_once_who_asked_for_it_has_given_up(world: Calm) -> None:
    owner, standby = protected(world)
    assert owner.control is not None
    kind = owner.lib.PRL_EVENT_MOVE_ASKED
    answer, asked = owner.control._does[kind], []
    owner.control._does[kind] = asked.append  # and it is busy with something else
    end = asked_for(world, standby)
    world.until(lambda: bool(asked))
    world.after(400 * MS)
    answer(asked[0])
    world.until(lambda: end() != (0, 0))
    assert end() == (owner.lib.PRL_MOVE_UNDONE, owner.lib.PRL_REASON_TIMEOUT)
    world.after(600 * MS)
    assert owner.address(world.sessions[0].service) == OWNER


def test_what_was_fenced_by_mistake_is_taken_over_by_who_has_the_shadows(world: Calm) -> None:
    """The link is up, and no claim of the other node's was there: nobody else would ever speak."""
    owner, standby = protected(world)
    service = world.sessions[0].service
    owner.host.node.fenced |= 1 << service
    world.until(lambda: standby.address(service) == OWNER)
    world.until(lambda: world.counts["session taken over"] > 0)
    world.until(lambda: owner.address(service) == STANDBY)
    assert standby.could_speak(service)


@pytest.mark.parametrize("seed", [SEED, WITHOUT_ANSWERS])
def test_nodes_of_which_neither_owns_a_service_agree_anew(seed: int) -> None:
    """By what their kernels answer; by their heartbeats, where those do not."""
    with calm_world(seed=seed) as world:
        assert world.kernels_answer == (seed == SEED)
        owner, standby = protected(world)
        service = world.sessions[0].service
        owner.lib.prl_dp_service_set(owner.dp, service, STANDBY)
        world.until(lambda: owner.could_speak(service) or standby.could_speak(service))


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


# -- the kernel answers (L3a)


def probed(world: Calm) -> tuple[Node, Node]:
    """Owner and standby of the first session, each knowing that its kernel is heard."""
    owner, standby = protected(world)
    world.lan_loss = 0.0
    world.until(
        lambda: all(node.lib.sim_owner(node.host).probes.mutual for node in (owner, standby))
    )
    world.after(SUSPECT_MS * MS)
    return owner, standby


def shadow_lives(world: Calm, node: Node) -> bool:
    flow = node.flow(world.sessions[0])
    return bool(flow.used and flow.secondary and flow.state == node.lib.PRL_SECONDARY_ACTIVE)


@pytest.mark.parametrize("near", [False, True], ids=["a switch away", "on veth"])
def test_a_node_without_power_is_taken_over_as_soon_as_its_kernel_is_silent(
    world: Calm, near: bool
) -> None:
    owner, standby = probed(world)
    world.neighbours_are_near = near  # who is asked: the answer counts at once, too
    dead_ns = world.now_ns
    owner.power_off()
    world.until(lambda: standby.address(world.sessions[0].service) == OWNER)
    assert world.now_ns - dead_ns < (DEAD_MS + PROBE_MS) * MS + 2 * world.lazy_ns


def test_a_late_datapath_is_spared_and_its_shadows_live(world: Calm) -> None:
    owner, standby = probed(world)
    service, epochs = world.sessions[0].service, world.counts["epoch"]
    owner.pause(300 * MS)
    world.after(350 * MS)
    assert standby.address(service) == STANDBY
    assert owner.could_speak(service)
    assert (world.counts["epoch"], world.counts["link lost"]) == (epochs, 0)
    assert shadow_lives(world, standby)


def test_a_late_standby_is_waited_for(world: Calm) -> None:
    owner, standby = probed(world)
    epochs = world.counts["epoch"]
    standby.pause(300 * MS)
    world.after(350 * MS)
    assert (world.counts["epoch"], world.counts["link lost"]) == (epochs, 0)
    assert owner.lib.sim_owner(owner.host).link == owner.lib.PRL_LINK_UP


def test_a_datapath_that_hangs_is_taken_over_while_its_kernel_answers(world: Calm) -> None:
    owner, standby = probed(world)
    service, hung_ns = world.sessions[0].service, world.now_ns
    owner.pause(1000 * MS)
    world.until(lambda: standby.address(service) == OWNER)
    taken_ns = world.now_ns - hung_ns  # its last pass was up to an interval before that
    assert (HUNG_MS - PROBE_MS) * MS <= taken_ns < (HUNG_MS + SUSPECT_MS) * MS
    assert owner.address(service) == FENCED


def test_what_a_kernel_has_answered_keeps_its_flows_closed_as_an_echo_does(world: Calm) -> None:
    """And no longer: a session goes on by itself when the other host dies while prld stands."""
    owner, standby = probed(world)
    owner.pause(1000 * MS)
    world.after(150 * MS)
    standby.power_off()
    answered_ns = int(owner.host.node.answered_ns)
    assert owner.clock_ns() - answered_ns < PROBE_MS * MS
    world.until(lambda: bool(owner.host.node.bypassed))
    waited_ns = owner.clock_ns() - answered_ns
    assert HOLD_MS * MS <= waited_ns < (HOLD_MS + SUSPECT_MS) * MS


def test_an_owner_whose_process_has_died_is_not_spared_for_long(world: Calm) -> None:
    owner, standby = probed(world)
    died_ns = world.now_ns
    owner.kill_prld()
    world.until(lambda: standby.address(world.sessions[0].service) == OWNER)
    assert world.now_ns - died_ns < 2 * SUSPECT_MS * MS


@pytest.mark.parametrize("sender", [0, 1])
def test_a_link_that_has_gone_is_no_death(world: Calm, sender: int) -> None:
    """Nor is it lateness: the datapath is known to run, so that replication is given up."""
    owner, standby = probed(world)
    service = world.sessions[0].service
    world.cut[sender] = True
    world.until(lambda: world.counts["link lost"] > 0)
    world.after(SUSPECT_MS * MS)
    assert standby.address(service) == STANDBY
    assert owner.could_speak(service)
    assert not shadow_lives(world, standby)


def test_a_lan_that_has_gone_is_no_death(world: Calm) -> None:
    owner, standby = probed(world)
    owner.host.lan_cut = 1
    owner.pause(200 * MS)  # so that nothing comes by the link either: its kernel alone
    world.after(180 * MS)
    assert standby.address(world.sessions[0].service) == STANDBY
    assert (world.counts["link lost"], shadow_lives(world, standby)) == (0, True)


def test_a_kernel_that_was_silent_by_one_way_before_is_judged_by_messages(world: Calm) -> None:
    owner, standby = probed(world)
    world.lan_loss = 1.0
    world.after(2 * SUSPECT_MS * MS)
    dead_ns = world.now_ns
    owner.power_off()
    world.until(lambda: standby.address(world.sessions[0].service) == OWNER)
    assert world.now_ns - dead_ns > (SUSPECT_MS - 20) * MS


@pytest.fixture
def arbitrated() -> Iterator[Calm]:
    with calm_world(arbitrated=True) as calm:
        yield calm


def test_with_an_arbiter_a_dead_node_is_asked_about_before_it_may_be_replaced(
    arbitrated: Calm,
) -> None:
    """So that the answer is there when it may be (L12)."""
    owner, standby = probed(arbitrated)
    service, dead_ns = arbitrated.sessions[0].service, arbitrated.now_ns
    owner.power_off()
    decider = standby.lib.sim_owner(standby.host)
    arbitrated.until(lambda: bool(decider.arbiter.asks))
    assert arbitrated.now_ns - dead_ns < SUSPECT_MS * MS // 2
    arbitrated.until(lambda: standby.address(service) == OWNER)
    assert arbitrated.now_ns - dead_ns > (SUSPECT_MS - 20) * MS


def test_with_an_arbiter_a_late_datapath_is_not_asked_about(arbitrated: Calm) -> None:
    """Its kernel is silent from suspect_ms on, by itself; and for no longer than it is late."""
    owner, standby = probed(arbitrated)
    service = arbitrated.sessions[0].service
    owner.pause(300 * MS)
    arbitrated.after(250 * MS)
    assert not owner.could_speak(service)
    arbitrated.after(150 * MS)
    assert owner.could_speak(service)
    asks = [int(node.lib.sim_owner(node.host).arbiter.asks) for node in (owner, standby)]
    assert asks == [0, 0]
    assert (arbitrated.counts["link lost"], shadow_lives(arbitrated, standby)) == (0, True)


def test_a_packet_that_waits_in_the_kernel_is_no_other_flows_that_has_got_its_slot() -> None:
    """Its mark names the slot, and no more; while it was under way the slot changed hands."""
    with calm_world() as world:
        first, second = (one for one in world.sessions[:2])
        owner = world.nodes[world.first_owner[second.service]]
        world.until(lambda: owner.flow(second).state == owner.lib.PRL_PRIMARY_ACTIVE)
        owner.host.keeps_input = 1
        world.after(5 * MS)  # what was captured before
        status = owner.ffi.new("struct prl_dp_status *")
        owner.lib.prl_dp_status(owner.dp, status)
        unknown, held = int(status.counters.rx_unknown_flow), owner.flow(second).in_held
        own_slot = owner.host.slot_of[first.number]
        owner.host.slot_of[first.number] = owner.host.slot_of[second.number]
        owner.lib.sim_frame(owner.host, first.number, first.snd_nxt, 100, first.rcv_nxt, 0)
        owner.host.slot_of[first.number] = own_slot
        owner.lib.sim_turn(owner.host)
        owner.lib.prl_dp_status(owner.dp, status)
        assert int(status.counters.rx_unknown_flow) == unknown + 1
        assert owner.flow(second).in_held <= held
        assert owner.ffi.string(owner.lib.sim_audit(owner.host)) == b""


class Mirrored(Calm):
    """Whose cable has come apart: what leaves by it is here, and arrives when a test says so."""

    mirrors = True
    cable_loss, full_chance = 0.0, 0

    def __init__(self, seed: int) -> None:
        self.clones: list[tuple[int, ...]] = []
        super().__init__(seed)
        assert not self.limits["nack_retry"]

    def mirror(self, sender: Node, session: Session, number: int, *segment: int) -> None:
        """Keep it: number and segment."""
        del sender, session
        self.clones.append((number, *segment))


@pytest.fixture
def mirrored() -> Iterator[tuple[Mirrored, Node, Node, Session]]:
    """Owner and standby of a session that mirrors, and of which the peer says nothing."""
    world = Mirrored(MIRROR_SEED)
    watch(world)
    try:
        owner, standby = protected(world)
        session = world.sessions[0]
        for each in world.sessions:
            each.quiet_until_ns = FOR_EVER_NS
        world.after(50 * MS)  # what was under way
        world.clones.clear()
        owner.host.flow[owner.host.slot_of[session.number]].flags |= owner.lib.PRL_FLOW_MIRRORS
        yield world, owner, standby, session
    finally:
        world.close()


def status_of(node: Node) -> Any:
    status = node.ffi.new("struct prl_dp_status *")
    node.lib.prl_dp_status(node.dp, status)
    return status


def counters(node: Node) -> Any:
    return status_of(node).counters


def expected_next(node: Node, session: Session) -> int:
    info = node.ffi.new("struct prl_flow_info *")
    node.lib.prl_dp_flow_info(node.dp, node.flow(session).handle, info)
    return int(info.secondary.in_next)


def named(node: Node) -> int:
    return int(status_of(node).received[node.lib.PRL_MSG_MIRRORED])


def names_one(world: Mirrored, owner: Node, standby: Node, session: Session) -> tuple[int, int]:
    """The peer sends a long packet, and the message that names its clone is at the standby."""
    before = named(standby)
    owner.lib.sim_frame(owner.host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0)
    owner.poke()
    world.until(lambda: named(standby) > before)
    ((number, seq, count, *_),) = world.clones
    world.clones.clear()
    assert (seq, count) == (session.snd_nxt, LONG)
    return number, seq


def test_a_packet_is_fed_when_all_of_its_frames_are_here(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """The NIC may cut it; other frames of the same number are not it."""
    world, owner, standby, session = mirrored
    lib, host, ack = standby.lib, standby.host, session.rcv_nxt
    fed, lost = int(counters(standby).mirror_fed), int(counters(standby).mirror_lost)

    number, seq = names_one(world, owner, standby, session)
    lib.sim_cable(host, session.number, seq + 100, LONG - 100, ack, 0, number)
    lib.sim_turn(host)
    assert counters(standby).mirror_fed == fed
    world.until(lambda: int(counters(standby).mirror_lost) == lost + 1)

    number, seq = names_one(world, owner, standby, session)
    lib.sim_cable(host, session.number, seq, LONG - 400, ack, 0, number)
    lib.sim_turn(host)
    assert counters(standby).mirror_fed == fed
    lib.sim_cable(host, session.number, seq + LONG - 400, 400, ack, 0, number)
    lib.sim_turn(host)
    assert counters(standby).mirror_fed == fed + 1
    assert standby.ffi.string(lib.sim_audit(host)) == b""


def test_what_comes_behind_a_packet_that_is_late_waits_for_it(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    world, owner, standby, session = mirrored
    number, seq = names_one(world, owner, standby, session)
    lib, accepted = standby.lib, expected_next(standby, session)
    behind = int(status_of(standby).received[lib.PRL_MSG_REPLICATE])
    lib.sim_frame(owner.host, session.number, seq + LONG, 100, session.rcv_nxt, 0)
    owner.poke()
    world.until(lambda: int(status_of(standby).received[lib.PRL_MSG_REPLICATE]) > behind)
    assert expected_next(standby, session) == accepted
    lib.sim_cable(standby.host, session.number, seq, LONG, session.rcv_nxt, 0, number)
    lib.sim_turn(standby.host)
    assert expected_next(standby, session) == accepted + 2
    assert standby.flow(session).state == lib.PRL_SECONDARY_ACTIVE
    assert standby.ffi.string(lib.sim_audit(standby.host)) == b""


def test_frames_wake_nobody_while_the_link_tells_when_they_are_wanted(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """The standby is woken by what names them, the owner by the answer, or soon."""
    world, owner, standby, session = mirrored
    lib, ack = standby.lib, session.rcv_nxt
    number, seq = names_one(world, owner, standby, session)
    world.until(lambda: not lib.sim_has_work(owner.host))
    lib.sim_frame(owner.host, session.number, seq + LONG, LONG, ack, 0)
    assert not lib.sim_has_work(owner.host)
    sent, since_ns = int(counters(owner).mirrored_packets), world.now_ns
    world.until(lambda: int(counters(owner).mirrored_packets) == sent + 1)
    assert world.now_ns - since_ns <= MS + world.lazy_ns
    lib.sim_cable(standby.host, session.number, seq, LONG, ack, 0, number)
    assert lib.sim_has_work(standby.host), "a message waits for it"
    lib.sim_turn(standby.host)
    lib.sim_cable(standby.host, session.number, seq + LONG, LONG, ack, 0, number + 1)
    assert not lib.sim_has_work(standby.host)
    world.after(50 * MS)
    assert counters(standby).mirror_lost == 0
    lib.sim_cable(standby.host, session.number, seq, LONG, ack, 0, 77)
    assert lib.sim_has_work(standby.host), "nothing tells when it is wanted"


def test_frames_that_no_message_names_are_dropped(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """The owner had no room for their packet."""
    world, _, standby, session = mirrored
    lib, unnamed = standby.lib, int(counters(standby).mirror_unnamed)
    lib.sim_cable(standby.host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0, 77)
    standby.poke()
    world.after(900 * MS)
    assert counters(standby).mirror_unnamed == unnamed
    world.after(900 * MS)
    assert counters(standby).mirror_unnamed == unnamed + 1
    assert standby.ffi.string(lib.sim_audit(standby.host)) == b""


def test_frames_that_no_message_names_leave_entries_to_all_else(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """The oldest go first, and all of them with the link that would have told of them."""
    world, owner, standby, session = mirrored
    lib, host = standby.lib, standby.host
    lib.sim_leave_holds(host, 20)
    used = int(status_of(standby).holds_used)
    for number in range(77, 107):
        lib.sim_cable(host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0, number)
        lib.sim_turn(host)
    assert status_of(standby).holds_used - used == 20 - 8
    assert counters(standby).mirror_unnamed == 30 - (20 - 8)
    assert standby.ffi.string(lib.sim_audit(host)) == b""
    owner.power_off()
    world.until(lambda: world.counts["link lost"] > 0)
    assert counters(standby).mirror_unnamed == 30
    assert status_of(standby).holds_used == used


def test_a_new_owner_does_not_wait_for_what_cannot_be_fed_again(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """It was not acknowledged: the peer has it, and may take longer than is waited (R8)."""
    world, owner, standby, session = mirrored
    number, seq = names_one(world, owner, standby, session)
    standby.host.drop_chance = CHANCE - 1
    standby.lib.sim_cable(standby.host, session.number, seq, LONG, session.rcv_nxt, 0, number)
    standby.lib.sim_turn(standby.host)
    assert status_of(standby).holds_used == 1
    standby.host.drop_chance = 0
    owner.power_off()
    world.until(lambda: standby.flow(session).state == standby.lib.PRL_SECONDARY_OWNER)
    assert status_of(standby).holds_used == 0


def mirror_dropped(world: Mirrored, owner: Node, standby: Node, session: Session) -> None:
    """The next long packet comes to the shadow's kernel, which drops what it is given."""
    number, seq = names_one(world, owner, standby, session)
    standby.lib.sim_cable(standby.host, session.number, seq, LONG, session.rcv_nxt, 0, number)
    standby.lib.sim_turn(standby.host)


def take_over_of_it(world: Mirrored, owner: Node, standby: Node, session: Session) -> None:
    """The owner dies, and the shadow's kernel takes again what it is given."""
    standby.host.drop_chance = 0
    owner.power_off()
    world.until(lambda: standby.flow(session).state == standby.lib.PRL_SECONDARY_OWNER)


@pytest.mark.parametrize("pieces", [1, 20])
def test_what_the_socket_lacks_behind_what_is_kept_is_not_acknowledged(
    mirrored: tuple[Mirrored, Node, Node, Session], pieces: int
) -> None:
    """What is kept is no hole of the peer's, however many looks it takes to see that."""
    world, owner, standby, session = mirrored
    base, ack = session.snd_nxt, session.rcv_nxt
    kept_end = base + 100 * pieces
    standby.host.drop_chance = CHANCE - 1
    for piece in reversed(range(pieces)):
        owner.lib.sim_frame(owner.host, session.number, base + 100 * piece, 100, ack, 0)
        owner.lib.sim_turn(owner.host)
        world.until(lambda: status_of(owner).holds_used == 0)
    assert owner.sock(session).rcv_nxt == kept_end
    session.snd_nxt = kept_end
    mirror_dropped(world, owner, standby, session)
    world.after(10 * MS)
    assert owner.sock(session).rcv_nxt == kept_end
    assert standby.flow(session).state == standby.lib.PRL_SECONDARY_ACTIVE
    take_over_of_it(world, owner, standby, session)
    world.until(lambda: standby.sock(session).rcv_nxt == kept_end)
    assert session.snd_una == kept_end


def test_what_fills_a_hole_waits_for_what_the_socket_lacks_behind_it(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """Though it is kept itself: the peer would hear of both as received."""
    world, owner, standby, session = mirrored
    base, ack = session.snd_nxt, session.rcv_nxt
    standby.host.drop_chance = CHANCE - 1
    session.snd_nxt = base + 100
    mirror_dropped(world, owner, standby, session)
    world.until(lambda: status_of(owner).holds_used == 0)  # the peer does not hear of it yet
    owner.lib.sim_frame(owner.host, session.number, base, 100, ack, 0)
    owner.poke()
    world.after(10 * MS)
    assert owner.sock(session).rcv_nxt == base
    assert standby.flow(session).state == standby.lib.PRL_SECONDARY_ACTIVE
    take_over_of_it(world, owner, standby, session)
    world.until(lambda: standby.sock(session).rcv_nxt == base + 100)
    assert session.snd_una == base + 100


def test_a_tick_acknowledges_nothing_that_was_fed_in_the_same_turn(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """It looks at the socket for what is kept; of what has just been fed that says nothing."""
    world, owner, standby, session = mirrored
    base, ack = session.snd_nxt, session.rcv_nxt
    standby.host.drop_chance = CHANCE - 1
    owner.lib.sim_frame(owner.host, session.number, base, 100, ack, 0)
    owner.poke()
    world.until(lambda: owner.sock(session).rcv_nxt == base + 100)
    before = named(standby)
    for _ in range(2):  # the first one's clone is lost
        owner.lib.sim_frame(owner.host, session.number, base + 100, LONG, ack, 0)
    owner.poke()
    world.until(lambda: named(standby) == before + 2)
    (_, (number, *_)) = world.clones
    standby.lib.sim_cable(standby.host, session.number, base + 100, LONG, ack, 0, number)
    standby.lib.sim_turn(standby.host)
    assert counters(standby).mirror_lost == 0
    standby.pause(10 * MS)  # what waits, and the tick, are due in one turn
    world.after(15 * MS)
    assert counters(standby).mirror_lost == 1
    assert counters(standby).mirror_fed == 1
    assert owner.sock(session).rcv_nxt == base + 100


def mirrors(node: Node, session: Session) -> bool:
    flags = node.host.flow[node.host.slot_of[session.number]].flags
    return bool(flags & node.lib.PRL_FLOW_MIRRORS)


def refused(world: Mirrored, owner: Node, standby: Node, session: Session, count: int = 1) -> None:
    """Long packets whose clones are lost, all of them at once."""
    lost = int(counters(standby).mirror_lost)
    for number in range(count):
        seq = session.snd_nxt + LONG * number
        owner.lib.sim_frame(owner.host, session.number, seq, LONG, session.rcv_nxt, 0)
    owner.poke()
    world.until(lambda: int(counters(standby).mirror_lost) == lost + count)
    world.until(lambda: status_of(owner).holds_used == 0)
    world.clones.clear()


def arrives(world: Mirrored, owner: Node, standby: Node, session: Session) -> None:
    """A long packet whose clone is not lost."""
    number, seq = names_one(world, owner, standby, session)
    standby.lib.sim_cable(standby.host, session.number, seq, LONG, session.rcv_nxt, 0, number)
    standby.lib.sim_turn(standby.host)
    world.until(lambda: owner.sock(session).rcv_nxt == seq + LONG)
    session.snd_nxt = seq + LONG


def test_a_cable_by_which_nothing_arrives_is_used_no_more(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """Else its sessions would starve for as long as the link is up."""
    world, owner, standby, session = mirrored
    for _ in range(8):
        assert mirrors(owner, session)
        refused(world, owner, standby, session)
    assert not mirrors(owner, session)
    world.until(lambda: world.counts["mirrored no more"] == 1)
    end = session.snd_nxt + LONG
    owner.lib.sim_frame(owner.host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0)
    owner.poke()
    world.until(lambda: owner.sock(session).rcv_nxt == end)
    assert not mirrors(owner, session)
    assert world.clones == []


def test_a_cable_that_loses_some_is_used_on(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """What was under way when it lost the first is of the same fault."""
    world, owner, standby, session = mirrored
    for _ in range(3):
        refused(world, owner, standby, session, count=5)
    for _ in range(7):
        arrives(world, owner, standby, session)
        refused(world, owner, standby, session)
    assert mirrors(owner, session)


def test_a_flow_that_starves_does_so_beside_others_whose_packets_arrive(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """These may be shorter than its own, and the cable take no longer ones."""
    world, owner, standby, session = mirrored
    other = next(
        each
        for each in world.sessions
        if each is not session and owner.flow(each).state == owner.lib.PRL_PRIMARY_ACTIVE
    )
    owner.host.flow[owner.host.slot_of[other.number]].flags |= owner.lib.PRL_FLOW_MIRRORS
    for _ in range(8):
        arrives(world, owner, standby, other)
        refused(world, owner, standby, session)
    assert not mirrors(owner, session)


def test_what_the_cable_does_not_take_goes_by_the_link(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """Its source address is a number all the same."""
    world, owner, standby, session = mirrored
    owner.host.full_chance = CHANCE - 1
    sent = int(counters(owner).mirrored_packets)
    end = session.snd_nxt + LONG
    owner.lib.sim_frame(owner.host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0)
    owner.poke()
    world.until(lambda: owner.sock(session).rcv_nxt == end)
    assert standby.sock(session).rcv_nxt == end
    assert counters(owner).mirrored_packets == sent
    assert owner.ffi.string(owner.lib.sim_audit(owner.host)) == b""


def test_a_frame_that_is_read_after_the_take_over_is_nobody_s(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """No message has named it: the peer sends again what the new owner lacks."""
    world, owner, standby, session = mirrored
    lib, base = standby.lib, standby.sock(session).rcv_nxt
    owner.power_off()
    slot = standby.host.slot_of[session.number]
    world.until(lambda: standby.flow(session).state == lib.PRL_SECONDARY_OWNER)
    flags = standby.host.flow[slot].flags
    standby.host.flow[slot].flags = lib.PRL_FLOW_SECONDARY | lib.PRL_FLOW_ACTIVE  # as it came
    lib.sim_cable(standby.host, session.number, base, 200, session.rcv_nxt, 0, 77)
    standby.host.flow[slot].flags = flags
    lib.sim_turn(standby.host)
    assert standby.sock(session).rcv_nxt == base
    assert standby.ffi.string(lib.sim_audit(standby.host)) == b""


def test_the_oldest_frames_go_first_where_entries_are_short(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """A newer one may have the place of an older one that has gone."""
    world, owner, standby, session = mirrored
    lib, host, ack = standby.lib, standby.host, session.rcv_nxt

    def comes(number: int) -> None:
        lib.sim_cable(host, session.number, session.snd_nxt, LONG, ack, 0, number)
        lib.sim_turn(host)

    round_of_places = 4096
    for number in (10, 11 + round_of_places // 2, 10 + round_of_places):
        comes(number)
    fed, unnamed = int(counters(standby).mirror_fed), int(counters(standby).mirror_unnamed)
    lib.sim_leave_holds(host, 9)
    comes(11 + round_of_places)
    world.until(lambda: int(counters(standby).mirror_unnamed) == unnamed + 1)
    owner.host.mirror_newest = 10 + round_of_places - 1
    names_one(world, owner, standby, session)
    world.until(lambda: int(counters(standby).mirror_fed) == fed + 1)


def moves(world: Mirrored, owner: Node, service: int) -> None:
    """From its owner to the other node, once it may."""
    world.until(lambda: bool(owner.control and owner.control.switchover(service, forced=False)))
    world.until(lambda: (owner.address(service), owner.other.address(service)) == (STANDBY, OWNER))


def test_a_former_owner_is_not_woken_by_frames_that_the_link_tells_of(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    world, owner, standby, session = mirrored
    arrives(world, owner, standby, session)
    for service in range(len(world.first_owner)):
        if owner.address(service) == OWNER:
            moves(world, owner, service)
    world.until(lambda: standby.flow(session).state == standby.lib.PRL_PRIMARY_ACTIVE)
    assert not standby.flow(session).secondary
    world.after(50 * MS)
    world.clones.clear()
    standby.host.flow[standby.host.slot_of[session.number]].flags |= standby.lib.PRL_FLOW_MIRRORS
    arrives(world, standby, owner, session)
    world.until(lambda: not owner.lib.sim_has_work(owner.host))
    owner.lib.sim_cable(owner.host, session.number, session.snd_nxt, LONG, 0, 0, 77)
    assert not owner.lib.sim_has_work(owner.host)


def drains(world: Mirrored, owner: Node, session: Session) -> None:
    """A move has begun, and its flow drains until a long packet is refused: its clone is lost."""
    lib = owner.lib
    world.until(
        lambda: bool(owner.control and owner.control.switchover(session.service, forced=False))
    )
    lib.sim_frame(owner.host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0)
    owner.poke()
    move = lib.sim_move(owner.host, session.service)
    world.until(lambda: bool(move.state == lib.PRL_MOVE_DRAINING))


def test_long_packets_wait_whole_while_a_move_drains_their_flow(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """By the cable they could not: they would be dropped."""
    world, owner, standby, session = mirrored
    dropped = int(counters(owner).mirror_dropped)
    drains(world, owner, session)
    owner.lib.sim_frame(owner.host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0)
    owner.lib.sim_turn(owner.host)
    assert counters(owner).mirror_dropped == dropped
    world.until(lambda: standby.sock(session).rcv_nxt == session.snd_nxt + LONG)


def test_what_went_by_the_cable_just_before_its_flow_drains_is_dropped(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """Its headers alone are here, and are read only then: it cannot wait."""
    world, owner, standby, session = mirrored
    host, dropped = owner.host, int(counters(owner).mirror_dropped)
    drains(world, owner, session)
    host.flow[host.slot_of[session.number]].flags |= owner.lib.PRL_FLOW_MIRRORS
    owner.lib.sim_frame(host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0)
    owner.lib.sim_turn(host)
    assert counters(owner).mirror_dropped == dropped + 1
    world.until(lambda: owner.other.address(session.service) == OWNER)
    assert standby.sock(session).rcv_nxt == session.snd_nxt


def test_what_goes_by_the_cable_needs_no_room_on_the_link_for_its_payload(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    _, owner, _, session = mirrored
    lib, host = owner.lib, owner.host
    assert owner.control is not None
    owner.link_stuck, host.link_room = True, 0
    flow = host.flow[host.slot_of[session.number]]

    def finds_no_room() -> bool:
        full = int(counters(owner).link_tx_full)
        lib.sim_frame(host, session.number, session.snd_nxt, LONG, session.rcv_nxt, 0)
        lib.sim_turn(host)
        return bool(counters(owner).link_tx_full > full)

    while True:
        flow.flags &= ~lib.PRL_FLOW_MIRRORS
        if finds_no_room():
            break
        assert owner.control.say_nothing(LONG * 9 // 10)
    flow.flags |= lib.PRL_FLOW_MIRRORS
    assert not finds_no_room()


def test_a_long_packet_that_was_captured_whole_waits_behind_one_that_is_late(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """In several frames of the packet memory."""
    world, owner, standby, session = mirrored
    lib, whole = standby.lib, 5000
    number, seq = names_one(world, owner, standby, session)
    owner.host.full_chance = CHANCE - 1
    lib.sim_scatter(standby.host)
    before = int(status_of(standby).received[lib.PRL_MSG_REPLICATE])
    owner.lib.sim_frame(owner.host, session.number, seq + LONG, whole, session.rcv_nxt, 0)
    owner.poke()
    world.until(lambda: int(status_of(standby).received[lib.PRL_MSG_REPLICATE]) > before)
    assert standby.ffi.string(lib.sim_audit(standby.host)) == b""
    lib.sim_cable(standby.host, session.number, seq, LONG, session.rcv_nxt, 0, number)
    lib.sim_turn(standby.host)
    world.until(lambda: owner.sock(session).rcv_nxt == seq + LONG + whole)
    assert standby.sock(session).rcv_nxt == seq + LONG + whole


def test_flows_have_their_time_while_messages_wait_for_their_frames(
    mirrored: tuple[Mirrored, Node, Node, Session],
) -> None:
    """Their tries are so much time, so that ticks may not come more often."""
    world, owner, standby, session = mirrored
    lost, seen = int(counters(standby).mirror_lost), set[int]()

    def is_lost() -> bool:
        seen.add(int(standby.lib.sim_tick_ns(standby.host)))
        return bool(counters(standby).mirror_lost > lost)

    names_one(world, owner, standby, session)
    world.until(is_lost)
    ticks = sorted(seen)
    assert len(ticks) > 2
    assert min(later - tick for tick, later in itertools.pairwise(ticks)) >= 4 * MS


@pytest.fixture
def newborn(world: Calm) -> tuple[Node, Session]:
    """A session that waits for protection: its peer was told that there is no room, and waits."""
    session = world.sessions[0]
    session.quiet_until_ns = FOR_EVER_NS
    world.bear(FOR_EVER_NS)
    node = world.nodes[session.waits_on]
    node.sock(session).told_edge = FOR_EVER_NS << 10  # its application has nothing to say
    return node, session


def until_state(world: Calm, node: Node, session: Session, state: int) -> None:
    """Whether the peer knows of room is asked after each event: nothing else may tell it."""

    def has_come() -> bool:
        flow = node.flow(session)
        return bool(flow.used and flow.state == state)

    while not has_come():
        assert not knows_of_room(session)
        world.step()


def knows_of_room(session: Session) -> bool:
    return session.edge > session.snd_nxt


def test_the_peer_of_a_session_that_waited_is_told_of_room_once_it_is_protected(
    world: Calm, newborn: tuple[Node, Session]
) -> None:
    node, session = newborn
    world.two_steps, world.setup_fails = 1.0, 0.0
    until_state(world, node, session, node.lib.PRL_PRIMARY_ACTIVE)
    assert knows_of_room(session)


def test_so_is_that_of_a_session_whose_set_up_has_failed(
    world: Calm, newborn: tuple[Node, Session]
) -> None:
    node, session = newborn
    world.two_steps = 0.0
    until_state(world, node, session, node.lib.PRL_PRIMARY_SETUP)
    assert not knows_of_room(session)
    world.cut = [True, True]
    until_state(world, node, session, node.lib.PRL_PRIMARY_OPEN)
    assert knows_of_room(session)
    assert not node.lib.sim_is_newborn(node.host, session.number)


def test_so_is_that_of_a_session_that_was_refused_before(
    world: Calm, newborn: tuple[Node, Session]
) -> None:
    node, session = newborn
    world.two_steps = 1.0
    until_state(world, node, session, node.lib.PRL_PRIMARY_OPEN)
    assert node.lib.sim_is_newborn(node.host, session.number)
    node.call(node.lib.prl_dp_primary_fail, node.flow(session).handle, 4)
    assert not node.lib.sim_is_newborn(node.host, session.number)
    assert knows_of_room(session)


def crafted_acks(node: Node) -> int:
    status = node.ffi.new("struct prl_dp_status *")
    node.lib.prl_dp_status(node.dp, status)
    return int(status.counters.crafted_acks)


def test_what_the_peer_is_told_of_room_may_be_lost(
    world: Calm, newborn: tuple[Node, Session]
) -> None:
    node, session = newborn
    world.two_steps, world.setup_fails = 1.0, 0.0
    until_state(world, node, session, node.lib.PRL_PRIMARY_ACTIVE)
    for _ in range(2):
        session.edge = session.snd_nxt  # it has not heard of it
        world.until(lambda: knows_of_room(session))
    session.edge = session.snd_nxt
    world.after(1000 * MS)
    assert not knows_of_room(session), "it is not told for ever"


def test_a_peer_that_has_been_heard_since_is_not_told_of_room_again(
    world: Calm, newborn: tuple[Node, Session]
) -> None:
    node, session = newborn
    world.two_steps, world.setup_fails = 1.0, 0.0
    until_state(world, node, session, node.lib.PRL_PRIMARY_ACTIVE)
    told = crafted_acks(node)
    node.lib.sim_frame(node.host, session.number, session.snd_nxt, 0, session.rcv_nxt, 0)
    world.after(1000 * MS)
    assert crafted_acks(node) == told


def fill(world: Calm, node: Node, session: Session) -> None:
    """The peer sends a segment into the room that it knows of."""
    seq, count = session.snd_nxt, min(session.edge - session.snd_nxt, SEGMENT_MAX)
    session.snd_nxt += count
    node.lib.sim_frame(node.host, session.number, seq, count, session.rcv_nxt, 0)
    node.poke()
    world.until(lambda: node.sock(session).rcv_nxt == session.snd_nxt)


def shut(world: Calm, session: Session, node: Node, standby: Node) -> None:
    """The peer has filled the room of the standby, which does not read; the owner has read all."""
    sock, lagging = node.sock(session), standby.sock(session)
    session.quiet_until_ns = FOR_EVER_NS
    world.until(lambda: sock.snd_una == sock.snd_nxt)
    sock.told_edge = FOR_EVER_NS << 10  # its stack says what it is asked for, no more
    lagging.slow, lagging.read = 1, lagging.rcv_nxt
    while knows_of_room(session):
        fill(world, node, session)
    node.application(session)
    node.lib.sim_acknowledge(node.host, session.number)  # it has read all: its own window is open
    world.after(50 * MS)  # the look at all sockets, each 200 ms, is over


def test_a_window_smaller_than_two_segments_is_opened_again() -> None:
    """The peer would have to ask whether it is, one window each time."""
    world = Jumbo(SEED)
    watch(world)
    try:
        session = world.sessions[0]
        node, standby = protected(world)
        shut(world, session, node, standby)
        assert not knows_of_room(session)
        standby.sock(session).slow = 0
        standby.application(session)
        world.until(lambda: knows_of_room(session))
    finally:
        world.close()


def test_a_window_that_was_lowered_while_room_was_told_is_opened_again(world: Calm) -> None:
    """tc says so only after it has done it, when userspace has looked already."""
    session = world.sessions[0]
    node, standby = protected(world)
    session.quiet_until_ns = FOR_EVER_NS
    world.after(50 * MS)
    standby.sock(session).slow, standby.sock(session).read = 1, standby.sock(session).rcv_nxt
    fill(world, node, session)
    world.after(50 * MS)
    standby.sock(session).slow = 0
    standby.application(session)
    heard = int(status_of(node).received[node.lib.PRL_MSG_FLOWCTL])
    world.until(lambda: status_of(node).received[node.lib.PRL_MSG_FLOWCTL] > heard)
    standby.pause(20 * MS)  # it says no more
    flow = node.host.flow[node.host.slot_of[session.number]]
    told, flow.clamped, flow.last_edge = crafted_acks(node), 1, session.snd_nxt % (1 << 32)
    world.after(15 * MS)
    assert crafted_acks(node) > told


def test_a_peer_that_has_acknowledged_all_output_takes_what_it_is_told_of_room(
    world: Calm,
) -> None:
    """What egress has seen of the socket is from before TCP counted that output."""
    session = world.sessions[0]
    node, standby = protected(world)
    sock, lagging = node.sock(session), standby.sock(session)
    shut(world, session, node, standby)
    begin = int(sock.snd_nxt)
    sock.snd_nxt = sock.pushed = begin + 100
    node.lib.sim_output(node.host, session.number, begin, 100, 0)
    node.poke()
    world.until(lambda: session.rcv_nxt == begin + 100)
    session.rcv_wup = session.rcv_nxt  # that acknowledgement is on its way
    assert not knows_of_room(session)
    told = crafted_acks(node)
    lagging.slow = 0
    standby.application(session)
    world.until(lambda: crafted_acks(node) > told)
    assert knows_of_room(session)


# -- a take-over of many sessions takes turns (F22)


@pytest.fixture
def crowd() -> Iterator[Calm]:
    """All are protected, and quiet; what a take-over costs is known by both nodes."""
    with calm_world(CROWD_SEED) as world:
        assert len(world.sessions) > TURN_NS // MS // 10
        assert not any(session.service for session in world.sessions)
        probed(world)
        world.until(
            lambda: len(of_state(world, standby_of(world), "ACTIVE")) == len(world.sessions)
        )
        for session in world.sessions:
            session.quiet_until_ns = FOR_EVER_NS
        world.after(SUSPECT_MS * MS)
        assert len(of_state(world, standby_of(world), "ACTIVE")) == len(world.sessions)
        for node in world.nodes:
            node.host.takeover_cost_ns = TURN_NS
        yield world


def owner_of(world: Calm) -> Node:
    return world.nodes[world.first_owner[0]]


def standby_of(world: Calm) -> Node:
    return owner_of(world).other


def of_state(world: Calm, node: Node, name: str) -> list[Session]:
    """The sessions of which ``node`` has a shadow of that state, or one that was one."""
    state = getattr(node.lib, f"PRL_SECONDARY_{name}")
    found = []
    for session in world.sessions:
        flow = node.flow(session)
        if flow.used and flow.secondary and flow.state == state:
            found.append(session)
    return found


def in_the_middle(world: Calm) -> Node:
    """The owner loses its power: its successor, with sessions that wait for their turn."""
    standby = standby_of(world)
    owner_of(world).power_off()
    world.until(lambda: bool(of_state(world, standby, "OWNER")))
    assert of_state(world, standby, "TAKING")
    return standby


def lan_heartbeats(node: Node) -> int:
    status = node.ffi.new("struct prl_dp_status *")
    node.lib.prl_dp_status(node.dp, status)
    return int(status.counters.lan_tx)


def test_heartbeats_go_on_within_a_take_over(crowd: Calm) -> None:
    standby = in_the_middle(crowd)
    owner = standby.lib.sim_owner(standby.host)
    began_ns, late, said = crowd.now_ns, int(owner.late_ticks), lan_heartbeats(standby)
    age_ns = 0
    while of_state(crowd, standby, "TAKING"):
        crowd.step()
        assert standby.lib.sim_works(standby.host)
        age_ns = max(age_ns, standby.clock_ns() - int(standby.host.node.heartbeat_ns))
    assert crowd.now_ns - began_ns > 2 * TURN_NS
    assert age_ns < TURN_NS * 3 // 2
    assert lan_heartbeats(standby) >= said + 2
    crowd.after(TURN_NS)
    assert (int(owner.late_ticks), int(owner.silences)) == (late, 0)
    assert len(of_state(crowd, standby, "OWNER")) == len(crowd.sessions)


def test_the_link_is_not_silent_within_a_planned_move(crowd: Calm) -> None:
    old, new = owner_of(crowd), standby_of(crowd)
    assert old.control is not None
    old.control.switchover(0, forced=False)
    crowd.until(lambda: bool(of_state(crowd, new, "TAKING")))
    began_ns, silent_ns = crowd.now_ns, 0
    decider = old.lib.sim_owner(old.host)
    while of_state(crowd, new, "TAKING"):
        crowd.step()
        silent_ns = max(silent_ns, old.clock_ns() - int(decider.last_heard_ns))
    assert crowd.now_ns - began_ns > 2 * TURN_NS
    assert silent_ns < TURN_NS * 3 // 2
    assert crowd.counts["session taken over"] == len(crowd.sessions)


def test_a_session_is_silent_until_its_turn_and_its_peer_is_not_refused(crowd: Calm) -> None:
    standby = in_the_middle(crowd)
    session = of_state(crowd, standby, "TAKING")[-1]
    dropped, segments = int(standby.host.dropped_shadow), int(standby.sock(session).segs_in)
    spoke: list[Session] = []
    hears = crowd.peer_hears

    def noted(node: Node, session: Session, *segment: int) -> None:
        spoke.append(session)
        hears(node, session, *segment)

    crowd.peer_hears = noted  # type: ignore[method-assign]
    standby.lib.sim_frame(standby.host, session.number, session.snd_nxt, 100, session.rcv_nxt, 0)
    assert int(standby.host.dropped_shadow) == dropped + 1
    assert int(standby.sock(session).segs_in) == segments
    assert session not in spoke
    crowd.until(lambda: not of_state(crowd, standby, "TAKING"))
    assert session in spoke  # its turn tells the peer where to go on


def test_a_moved_session_has_its_turn_as_soon_as_something_comes_for_it(crowd: Calm) -> None:
    old, new = owner_of(crowd), standby_of(crowd)
    assert old.control is not None
    old.control.switchover(0, forced=False)
    crowd.until(lambda: bool(of_state(crowd, new, "OWNER")))
    session = of_state(crowd, new, "TAKING")[-1]
    crowd.after(TURN_NS)  # longer than a flow stays in our hands that is left to the network
    assert session in of_state(crowd, new, "TAKING")
    received = int(new.sock(session).rcv_nxt)
    new.lib.sim_frame(new.host, session.number, session.snd_nxt, 100, session.rcv_nxt, 0)
    new.poke()
    crowd.until(lambda: int(new.sock(session).rcv_nxt) == received + 100)
    assert session in of_state(crowd, new, "OWNER")
    assert of_state(crowd, new, "TAKING")


def test_what_is_claimed_back_in_the_middle_never_speaks(crowd: Calm) -> None:
    standby = in_the_middle(crowd)
    taken, waiting = crowd.counts["session taken over"], of_state(crowd, standby, "TAKING")
    standby.call(standby.lib.prl_dp_service_set, 0, FENCED)
    assert not of_state(crowd, standby, "TAKING")
    crowd.after(len(crowd.sessions) * TURN_NS)
    assert crowd.counts["session taken over"] == taken
    assert not any(standby.flow(session).used for session in waiting)  # L8


def test_what_was_given_away_in_the_middle_and_taken_back_goes_on(crowd: Calm) -> None:
    """Its turns were passed over: the service was nobody's."""
    old, new = owner_of(crowd), standby_of(crowd)
    assert old.control is not None
    old.control.switchover(0, forced=False)
    crowd.until(lambda: bool(of_state(crowd, new, "OWNER")))
    move = new.lib.sim_move(new.host, 0)
    crowd.until(lambda: move.state == new.lib.PRL_MOVE_IDLE)
    assert new.call(new.lib.prl_dp_renounce, 0) == 0
    old.power_off()
    waiting = of_state(crowd, new, "TAKING")
    assert waiting
    began_ns = crowd.now_ns
    while new.address(0) != OWNER:
        assert of_state(crowd, new, "TAKING") == waiting
        crowd.step()
    assert crowd.now_ns - began_ns > len(crowd.sessions) * TURN_NS
    crowd.until(lambda: len(of_state(crowd, new, "OWNER")) == len(crowd.sessions))


def test_who_asks_for_a_take_over_wakes_the_datapath_for_it(crowd: Calm) -> None:
    standby = standby_of(crowd)
    standby.host.woken = 0
    standby.call(standby.lib.prl_dp_takeover, 0, 0)
    assert of_state(crowd, standby, "TAKING")
    assert standby.host.woken
    crowd.until(lambda: crowd.counts["session taken over"] == len(crowd.sessions))


def test_a_shadow_that_is_made_too_late_for_a_take_over_does_not_come_in(crowd: Calm) -> None:
    """Nobody would decide on it any more, and its peer would wait for ever."""
    standby = standby_of(crowd)
    assert standby.control is not None
    assert standby.call(standby.lib.prl_dp_takeover, 0, 0) == 0
    crowd.until(lambda: crowd.counts["session taken over"] == len(crowd.sessions))
    session = crowd.sessions[0]
    spec = standby.control._spec(session, standby.host.sock_of[session.number])
    space = standby.ffi.new("uint32_t *")
    handle = standby.flow(session).handle
    assert standby.call(standby.lib.prl_dp_secondary_open, spec, space) == -errno.EALREADY
    assert standby.flow(session).used
    assert standby.flow(session).handle == handle


def test_a_session_that_waits_for_its_turn_cannot_be_set_up(crowd: Calm) -> None:
    standby = in_the_middle(crowd)
    session = of_state(crowd, standby, "TAKING")[-1]
    assert standby.control is not None
    spec = standby.control._spec(session, standby.host.sock_of[session.number])
    assert standby.call(standby.lib.prl_dp_primary_setup, spec) == -errno.EEXIST
    assert session in of_state(crowd, standby, "TAKING")


def test_what_is_relayed_to_a_session_that_waits_is_not_late(crowd: Calm) -> None:
    old, new = owner_of(crowd), standby_of(crowd)
    assert old.control is not None
    old.control.switchover(0, forced=False)
    crowd.until(lambda: bool(of_state(crowd, new, "OWNER")))
    session = of_state(crowd, new, "TAKING")[-1]
    received = int(new.sock(session).rcv_nxt)
    old.lib.sim_frame(old.host, session.number, session.snd_nxt, 100, session.rcv_nxt, 0)
    old.poke()
    crowd.until(lambda: int(new.sock(session).rcv_nxt) == received + 100)
    status = new.ffi.new("struct prl_dp_status *")
    new.lib.prl_dp_status(new.dp, status)
    assert (status.counters.relayed_packets, status.counters.relayed_late) == (1, 0)
    assert of_state(crowd, new, "TAKING")


def test_no_word_opens_what_waits_for_its_turn(crowd: Calm) -> None:
    """I7: who gave it away and hears that the shadow is void would go on itself."""
    old, new = owner_of(crowd), standby_of(crowd)
    assert old.control is not None
    old.control.switchover(0, forced=False)
    crowd.until(lambda: bool(of_state(crowd, new, "OWNER")))
    flow = new.flow(of_state(crowd, new, "TAKING")[-1])
    lib, ffi, named = new.lib, new.ffi, {"handle": flow.handle, "generation": flow.generation}
    said, connection = bytearray(), new.connection
    assert connection is not None
    send = connection.send

    def noted(sender: int, data: bytes) -> None:
        said.extend(data if sender == new.index else b"")
        send(sender, data)

    connection.send = noted  # type: ignore[method-assign]
    assert old.control.send(lib.PRL_MSG_VOID, **named, reason=lib.PRL_REASON_REQUESTED)
    crowd.until(lambda: not of_state(crowd, new, "TAKING"))
    answer = ffi.new("uint8_t[]", 64)
    msg = ffi.new("struct prl_msg *", {"type": lib.PRL_MSG_VOID_ACK, **named})
    count = lib.prl_wire_encode(msg, ffi.NULL, 0, answer, 64)
    assert count > 0
    assert said
    assert bytes(ffi.buffer(answer, count)) not in said


# -- what a program does to its shadow by the descriptor (R18, F38)


def write(node: Node, session: Session, *, leaves: bool = True) -> None:
    """The program does; what the peer's window keeps back does not leave."""
    sock = node.sock(session)
    start = int(sock.snd_nxt)
    sock.snd_nxt += 10
    if leaves:
        sock.pushed = sock.snd_nxt
        node.lib.sim_output(node.host, session.number, start, 10, 0)


@pytest.mark.parametrize("is_quiet", [True, False])
def test_a_shadow_that_its_program_writes_into_is_void(world: Calm, *, is_quiet: bool) -> None:
    session = world.sessions[0]
    owner, standby = protected(world)
    world.until(lambda: bool(standby.flow(session).confirmed))
    generation = int(standby.flow(session).generation)
    session.quiet_until_ns, world.setup_fails = FOR_EVER_NS, 0.0
    world.after(SUSPECT_MS * MS)
    write(standby, session)
    began_ns = world.now_ns
    if not is_quiet:
        world.after(MS)
        seq = session.snd_nxt
        session.snd_nxt += 100
        owner.lib.sim_frame(owner.host, session.number, seq, 100, session.rcv_nxt, 0)
        owner.poke()
    world.until(lambda: owner.flow(session).reason == owner.lib.PRL_REASON_WRITTEN)
    assert is_quiet or world.now_ns - began_ns < ENDED_NS // 3  # with what is fed
    world.until(lambda: owner.flow(session).state == owner.lib.PRL_PRIMARY_ACTIVE)
    assert standby.flow(session).generation != generation


@pytest.mark.parametrize(("leaves", "moves"), [(True, False), (False, False), (True, True)])
def test_a_shadow_that_its_program_has_just_written_into_is_not_taken_over(
    crowd: Calm, *, leaves: bool, moves: bool
) -> None:
    session, old, standby = crowd.sessions[0], owner_of(crowd), standby_of(crowd)
    for node in crowd.nodes:
        node.host.takeover_cost_ns = 0
    if moves:
        assert old.control is not None
        old.control.switchover(0, forced=False)
    else:
        old.power_off()
        crowd.after(DEAD_MS * MS // 2)
    write(standby, session, leaves=leaves)
    crowd.until(lambda: crowd.counts["session taken over"] >= len(crowd.sessions) - 1)
    crowd.until(lambda: standby.sock(session) is None)
    crowd.after(ENDED_NS)
    assert crowd.counts["session taken over"] == len(crowd.sessions) - 1
    assert not session.heard


def test_what_is_noted_of_a_flow_is_its_control_planes(world: Calm) -> None:
    """Given back once, in its role; while it is there, no set-up takes the flow's place."""
    owner, standby = protected(world)
    handle = int(owner.flow(world.sessions[0]).handle)
    for node, is_shadow in ((owner, 0), (standby, 1)):
        ffi, lib, dp = node.ffi, node.lib, node.dp
        note, noted = ffi.new("struct prl_note *"), ffi.new("struct prl_noted *")
        note.kind, note.in_offset, note.extra = 5, -7, 1 << 40
        assert lib.prl_dp_note(dp, handle + 100, note) == -errno.ENOENT
        assert lib.prl_dp_recall(dp, handle, is_shadow, noted) == -errno.ENOENT
        assert lib.prl_dp_note(dp, handle, note) == 0
        for kind, former, role, count in (
            (0, 0, is_shadow, 1), (5, 0, is_shadow, 1), (6, 0, is_shadow, 0),
            (0, 9, is_shadow, 0), (0, 0, not is_shadow, 0),
        ):  # fmt: skip
            looking = ffi.new("struct prl_notes *")
            looking.kind, looking.former, looking.is_secondary = kind, former, role
            lib.prl_dp_notes(dp, looking)
            assert (looking.count, looking.slot) == (count, lib.PRL_SLOT_NONE)
        assert lib.prl_dp_recall(dp, handle, not is_shadow, noted) == -errno.ENOENT
        if is_shadow:
            spec, space = ffi.new("struct prl_flow_spec *"), ffi.new("uint32_t *")
            assert lib.prl_dp_flow_key(dp, handle, ffi.addressof(spec, "key")) == 0
            for other in (handle, handle + 100):
                spec.handle, spec.generation, spec.fd = other, 99, -1
                assert lib.prl_dp_secondary_open(dp, spec, space) == -errno.EBUSY
            assert node.flow(world.sessions[0]).used
        assert lib.prl_dp_recall(dp, handle, is_shadow, noted) == 0
        assert (noted.handle, noted.note.in_offset, noted.note.extra) == (handle, -7, 1 << 40)
        assert lib.prl_dp_recall(dp, handle, is_shadow, noted) == -errno.ENOENT
        lib.prl_dp_note(dp, handle, note)
        lib.prl_dp_flow_close(dp, handle)
        assert lib.prl_dp_recall(dp, handle, is_shadow, noted) == -errno.ENOENT
        looking = ffi.new("struct prl_notes *")
        looking.is_secondary = is_shadow
        lib.prl_dp_notes(dp, looking)
        assert looking.count == 0


@pytest.mark.parametrize("capacity", [1, 2, 3, 99])
def test_handles_come_in_pages_in_their_order(capacity: int) -> None:
    with calm_world(CROWD_SEED) as world:
        node, _ = protected(world)
        world.until(lambda: node.lib.prl_dp_flow_handles(node.dp, node.ffi.NULL, 0) >= STRANGERS)
        every = node.ffi.new("uint32_t[]", 99)
        count = node.lib.prl_dp_flow_handles(node.dp, every, 99)
        found, after = list[int](), 0
        while True:
            page = node.ffi.new("uint32_t[]", capacity)
            some = list(page[0 : node.lib.prl_dp_flow_page(node.dp, after, page, capacity)])
            found += some
            if len(some) < capacity:
                break
            after = some[-1]
        assert found == sorted(every[0:count])
