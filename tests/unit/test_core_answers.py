"""What follows from the answers of the other node's kernel.

Checks L3a, L12.
"""

from typing import Any

import pytest
from prl._core import ffi, lib

from tests.unit.core_support import MS
from tests.unit.test_core_ownership import (
    DROP,
    EXPIRE,
    FAIL,
    OPEN,
    OWNER,
    RENOUNCE,
    SILENCE,
    SPEAK,
    STANDBY,
    TAKEOVER,
    VOID,
    Node,
)

PROBE, ARBITRATE = lib.PRL_OWNER_DO_PROBE, lib.PRL_OWNER_DO_ARBITRATE
UP, SUSPECT = lib.PRL_LINK_UP, lib.PRL_LINK_SUSPECT
LAN, LINK = lib.PRL_PROBE_LAN, lib.PRL_PROBE_LINK
PATHS = (LAN, LINK)


class Prober(Node):
    """A node that probes; the other one's kernel answers by the paths that are whole."""

    def __init__(self, *states: int, on: bool = True, policy_stop: bool = False) -> None:
        super().__init__(*states, policy_stop=policy_stop)
        config = self.owner.config
        config.probe_ns, config.dead_ns, config.hung_ns = 10 * MS, 30 * MS, 400 * MS
        lib.prl_owner_probes(self.owner, on)
        self.whole = set(PATHS)
        self.pass_ms = self.now
        """When the other's datapath had its last pass."""
        self.late = False
        """It has none any more; its messages stop."""
        self.leases = True
        self.asked = [0, 0]
        """How often each path was."""

    def step(self) -> int:
        """5 ms, and what the tick asked for, LEASE, ASK and PROBE aside."""
        self.now += 5
        if not self.late:
            self.pass_ms = self.now
            if self.now % 20 == 0 and self.owner.link != lib.PRL_LINK_DOWN:
                self.exchange()
        if self.present:
            lib.prl_owner_frame(self.owner, self.now * MS)
        todo = self.call("tick")
        if todo & PROBE:
            for path in PATHS:
                if self.owner.probe_mask >> path & 1:
                    todo |= self.probe(path)
        return int(todo & ~(lib.PRL_OWNER_DO_LEASE | lib.PRL_OWNER_DO_ASK | PROBE))

    def probe(self, path: int) -> int:
        confirms = int(lib.prl_owner_take_probe(self.owner, path, self.now * MS))
        self.asked[path] += 1
        return self.answered(path, known_ns=confirms) if path in self.whole else 0

    def answered(self, path: int, known_ns: int = 1, number: int | None = None, **how: Any) -> int:
        """An answer to the newest probe, by a path of that number."""
        said: dict[str, Any] = {
            "path": path if number is None else number,
            "leases": self.leases,
            "sent_ns": self.owner.probes.sent_ns[path],
            "at_ns": self.other_ns(),
            "pass_ns": (self.now - self.pass_ms) * MS,
            "known_ns": known_ns,
        }
        answer = ffi.new("struct prl_answer *", said | how)
        return int(lib.prl_owner_answer(self.owner, answer, self.now * MS))

    def run(self, for_ms: int) -> int:
        todo, end = 0, self.now + for_ms
        while self.now < end:
            todo |= self.step()
        return todo

    def until_asked(self, bit: int) -> int:
        """How many ms later it asks for this."""
        began = self.now
        while not self.step() & bit:
            assert self.now - began < 1000
        return self.now - began


@pytest.fixture
def standby() -> Prober:
    node = Prober(STANDBY)
    node.linked()
    assert node.run(200) == 0
    assert node.owner.probes.mutual
    return node


@pytest.fixture
def owner() -> Prober:
    node = Prober(OWNER)
    node.linked()
    assert node.run(200) == 0
    return node


def test_probes_go_by_both_ways_at_their_interval(standby: Prober) -> None:
    before = list(standby.asked)
    standby.run(100)
    assert [now - then for now, then in zip(standby.asked, before, strict=True)] == [10, 10]
    silent = Prober(STANDBY, on=False).linked()
    assert isinstance(silent, Prober)
    silent.run(100)
    assert silent.asked == [0, 0]
    assert not silent.owner.probes.mutual


def test_a_kernel_that_is_silent_by_both_ways_is_dead(standby: Prober) -> None:
    standby.late, standby.lan, standby.whole = True, False, set()
    assert 25 <= standby.until_asked(TAKEOVER) <= 45
    assert standby.owner.state[0] == OWNER


def test_who_is_cut_off_takes_nobody_for_dead(standby: Prober) -> None:
    """A neighbour must have answered since the other node's last word (L6)."""
    standby.late, standby.lan, standby.whole, standby.present = True, False, set(), False
    assert not standby.run(400) & TAKEOVER


@pytest.mark.parametrize("path", PATHS)
def test_silence_by_one_way_alone_is_no_death(standby: Prober, path: int) -> None:
    standby.late, standby.lan, standby.whole = True, False, {path}
    assert standby.run(300) == 0
    assert standby.owner.link == UP


@pytest.mark.parametrize("path", PATHS)
def test_a_way_that_was_silent_before_proves_nothing(standby: Prober, path: int) -> None:
    standby.whole = {path}
    assert standby.run(200) == 0
    standby.late, standby.lan, standby.whole = True, False, set()
    assert 80 <= standby.until_asked(TAKEOVER) <= 130


def test_who_did_not_ask_knows_nothing(standby: Prober) -> None:
    """It was late itself, and has not sent what would have been answered."""
    standby.late, standby.lan, standby.whole = True, False, set()
    standby.now += 45
    assert not standby.step() & TAKEOVER
    assert not standby.step() & TAKEOVER


def test_without_the_other_node_s_knowledge_its_kernel_may_be_silent_as_long_as_it_may() -> None:
    """The other one would speak for suspect_ms yet."""
    node = Prober(STANDBY)
    node.linked()
    for _ in range(40):
        node.now += 5
        if node.now % 20 == 0:
            node.exchange()
        lib.prl_owner_frame(node.owner, node.now * MS)
        if node.call("tick") & PROBE:
            for path in PATHS:
                lib.prl_owner_take_probe(node.owner, path, node.now * MS)
                node.answered(path, known_ns=0)
    assert not node.owner.probes.mutual
    node.late, node.lan, node.whole = True, False, set()
    assert node.until_asked(TAKEOVER) >= 80


def test_a_late_datapath_is_spared_and_its_lease_renewed(standby: Prober) -> None:
    standby.late, standby.lan = True, False
    assert standby.run(380) == 0
    assert standby.owner.link == UP
    assert standby.until() + 1000 > standby.now + 280
    assert standby.until_asked(TAKEOVER) <= 40


def test_a_datapath_that_opens_renews_no_lease(standby: Prober) -> None:
    standby.late, standby.lan, standby.leases = True, False, False
    assert standby.run(250) == 0
    assert standby.until() + 1000 <= standby.now + 50
    standby.until_asked(EXPIRE | VOID)
    assert standby.owner.state[0] == STANDBY


def test_an_answer_renews_no_lease_that_is_over(standby: Prober) -> None:
    until_ms = standby.until() + 1000
    standby.now = until_ms
    lib.prl_owner_take_probe(standby.owner, LINK, standby.now * MS)
    standby.answered(LINK)
    assert standby.until() + 1000 <= until_ms


def test_an_answer_counts_once_and_only_to_what_was_asked(standby: Prober) -> None:
    came_ns = standby.owner.probes.answered_ns[LINK]
    standby.now += 1
    standby.answered(LINK)  # the newest has its answer already
    standby.answered(LINK, sent_ns=(standby.now + 1) * MS)
    standby.answered(LINK, number=2)
    assert standby.owner.probes.answered_ns[LINK] == came_ns


def test_a_link_is_gone_when_the_datapath_runs_and_nothing_comes(standby: Prober) -> None:
    todo = 0
    while standby.owner.link == UP:
        standby.now += 5
        standby.pass_ms = standby.now  # it runs
        lib.prl_owner_frame(standby.owner, standby.now * MS)
        todo |= standby.call("tick")
        for path in PATHS:
            if standby.owner.probe_mask >> path & 1:
                todo |= standby.probe(path)
        assert standby.now < 2000
    assert standby.owner.link == SUSPECT
    standby.now += 20
    lib.prl_owner_take_probe(standby.owner, LAN, standby.now * MS)
    standby.pass_ms = standby.now
    todo |= standby.answered(LAN)
    assert not todo & TAKEOVER
    assert todo & RENOUNCE


def test_a_dead_process_is_not_spared_for_longer_than_suspicion(standby: Prober) -> None:
    standby.late, standby.lan = True, False
    assert not standby.call("link_down") & TAKEOVER
    assert 80 <= standby.until_asked(TAKEOVER) <= 120


def test_an_owner_waits_for_a_late_standby(owner: Prober) -> None:
    owner.late, owner.lan = True, False
    assert owner.run(380) == 0
    assert owner.owner.link == UP
    assert owner.until_asked(FAIL) <= 40


def test_an_owner_gives_a_dead_standby_up_at_once(owner: Prober) -> None:
    owner.late, owner.lan, owner.whole = True, False, set()
    assert owner.until_asked(FAIL) <= 45


def test_what_the_own_kernel_answered_puts_opening_off(owner: Prober) -> None:
    open_at_ns = lib.prl_owner_open_at_ns(owner.owner)
    lib.prl_owner_asked(owner.owner, open_at_ns, 0, 0)
    assert lib.prl_owner_open_at_ns(owner.owner) == open_at_ns + 400 * MS
    lib.prl_owner_probes(owner.owner, 1)  # the other may believe in the old epoch yet
    assert lib.prl_owner_open_at_ns(owner.owner) == open_at_ns + 400 * MS


def test_answers_renew_only_while_the_link_is_up_and_nothing_opens(owner: Prober) -> None:
    assert lib.prl_owner_leases(owner.owner)
    owner.late, owner.lan, owner.whole = True, False, set()
    owner.until_asked(FAIL)
    assert not lib.prl_owner_leases(owner.owner)
    assert not lib.prl_owner_leases(Prober(STANDBY).linked().owner)


def test_an_owner_knows_from_when_on_it_may_be_replaced(owner: Prober) -> None:
    echoed_ns = owner.owner.echoed_own_ns
    assert lib.prl_owner_replaceable_ns(owner.owner) == echoed_ns + 100 * MS
    confirmed_ns = (owner.now - 10) * MS
    lib.prl_owner_asked(owner.owner, 0, confirmed_ns, 0)
    assert lib.prl_owner_replaceable_ns(owner.owner) == max(confirmed_ns, echoed_ns) + 30 * MS


@pytest.mark.parametrize(("confirmed", "late_ms", "silent"), [
    (True, 150, False), (True, 450, True), (False, 150, True),
])  # fmt: skip
def test_an_owner_that_was_late_is_sure_of_itself_if_its_kernel_was_heard(
    owner: Prober, confirmed: bool, late_ms: int, silent: bool
) -> None:
    lib.prl_owner_asked(owner.owner, 0, owner.now * MS, 0)
    owner.now += late_ms
    if confirmed:
        lib.prl_owner_asked(owner.owner, 0, (owner.now - 12) * MS, 0)
    assert bool(owner.call("woke") & SILENCE) == silent


def test_dropping_the_link_ends_nothing_that_is_answered(standby: Prober) -> None:
    """The epoch's answers go on, and a connection that is lost is no death of the host."""
    todo = standby.call("link_down")
    assert not todo & (TAKEOVER | DROP)
    before = list(standby.asked)
    standby.late, standby.lan = True, False
    standby.run(50)
    assert [now - then for now, then in zip(standby.asked, before, strict=True)] == [5, 5]


# -- with an arbiter (L12)


def arbitrated(state: int, *, leases: bool = False) -> Prober:
    node = Prober(state)
    node.owner.config.arbiter.answer_ns = node.owner.arbiter.config.answer_ns = 50 * MS
    node.owner.arbiter.config.leases = node.owner.config.arbiter.leases = leases
    node.linked()
    assert node.run(200) == 0
    assert node.owner.probes.mutual
    return node


def hears(node: Prober, state: int) -> int:
    round_number = node.owner.arbiter.round
    return int(lib.prl_owner_arbitrated(node.owner, round_number, state, node.now * MS))


@pytest.mark.parametrize("leases", [False, True])
def test_of_a_dead_host_the_arbiter_is_asked_at_once_and_it_is_taken_over_no_sooner(
    leases: bool,
) -> None:
    """Dead as far as answers tell: it may live, cut off from this node alone, and speak yet."""
    node = arbitrated(STANDBY, leases=leases)
    heard_ns = node.owner.last_heard_ns
    node.late, node.lan, node.whole = True, False, set()
    assert 25 <= node.until_asked(ARBITRATE) <= 45
    assert not node.call("link_down") & TAKEOVER
    assert not hears(node, lib.PRL_ARBITER_WON) & TAKEOVER
    node.until_asked(TAKEOVER)
    assert 100 * MS <= node.now * MS - heard_ns <= 110 * MS


def test_of_a_late_datapath_no_arbiter_is_asked() -> None:
    node = arbitrated(STANDBY)
    node.late, node.lan = True, False
    assert node.run(380) == 0
    assert node.owner.arbiter.asks == 0


def test_an_owner_is_alone_as_soon_as_the_other_host_is_dead() -> None:
    node = arbitrated(OWNER)
    node.late, node.lan, node.whole = True, False, set()
    assert 25 <= node.until_asked(ARBITRATE) <= 45
    assert hears(node, lib.PRL_ARBITER_WON) & OPEN
    assert not node.run(500) & SILENCE


def test_answers_do_not_prolong_what_an_owner_may_say() -> None:
    """What an owner may say ends by its kernel's clock, which no answer moves."""
    node = arbitrated(OWNER)
    node.late, node.lan = True, False
    lib.prl_owner_asked(node.owner, 0, node.now * MS, 0)
    word_ns = node.owner.word_ns
    assert lib.prl_owner_replaceable_ns(node.owner) == word_ns + 100 * MS
    assert node.until_asked(SILENCE) >= 80
    assert lib.prl_owner_speak_by_ns(node.owner) == word_ns + 100 * MS
    assert node.owner.link == UP
    node.now += 20
    lease = node.take_lease()
    assert node.call("lease", node.other_ns(), lease.sent_ns, 0) & SPEAK


# -- with witnesses (L6)


def test_with_witnesses_the_other_node_s_answers_are_no_evidence() -> None:
    node = Prober(STANDBY)
    node.owner.config.witnessed = 1
    node.linked()
    node.present = False
    node.run(200)
    assert node.owner.last_frame_ns == 0
    assert node.owner.probes.mutual


def test_with_witnesses_a_dead_host_is_taken_over_no_sooner() -> None:
    """Cut off from this node alone it speaks for suspect_ms, witness or not."""
    node = Prober(STANDBY)
    node.owner.config.witnessed = 1
    node.linked()
    node.run(200)
    heard_ns = node.owner.last_heard_ns
    node.late, node.lan, node.whole = True, False, set()
    node.until_asked(TAKEOVER)
    assert 100 * MS <= node.now * MS - heard_ns <= 110 * MS
