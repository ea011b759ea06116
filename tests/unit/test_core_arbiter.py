"""Where an arbiter decides: who speaks until when, who asks, and what an answer permits.

Checks L12.
"""

from typing import Any

import pytest
from prl._core import ffi, lib

from tests.unit.core_support import MS
from tests.unit.test_core_ownership import (
    DROP,
    FAIL,
    OPEN,
    OPERATOR,
    OWNER,
    RENOUNCE,
    SILENCE,
    SPEAK,
    STANDBY,
    TAKEOVER,
    VOID,
    Node,
)

ARBITRATE = lib.PRL_OWNER_DO_ARBITRATE
TOGETHER, ASKED, WON, LOST, UNREACHED = (
    lib.PRL_ARBITER_TOGETHER,
    lib.PRL_ARBITER_ASKED,
    lib.PRL_ARBITER_WON,
    lib.PRL_ARBITER_LOST,
    lib.PRL_ARBITER_UNREACHED,
)
ANSWER_MS = 50


class Arbitrated(Node):
    """A node whose configuration has an arbiter."""

    def __init__(self, *states: int, leases: bool = False) -> None:
        super().__init__(*states)
        config = ffi.new("struct prl_owner_config *", self.owner.config)
        config.arbiter.answer_ns, config.arbiter.leases = ANSWER_MS * MS, leases
        self.owner = ffi.new("struct prl_owner *")
        lib.prl_owner_init(self.owner, config, self.now * MS)
        lib.prl_owner_neighbours(self.owner, 1)
        lib.prl_owner_good(self.owner, 2**32 - 1)
        for service, state in enumerate(states):
            lib.prl_owner_set_state(self.owner, service, state)

    @property
    def arbiter(self) -> Any:
        return self.owner.arbiter

    def hears(self, state: int) -> int:
        """What an answer to the newest question makes it do."""
        todo = lib.prl_owner_arbitrated(self.owner, self.arbiter.round, state, self.now * MS)
        return int(todo)

    def speak_by(self) -> int:
        return int(lib.prl_owner_speak_by_ns(self.owner)) // MS - 1000

    def lost(self) -> "Arbitrated":
        """Without the link, and asking."""
        assert self.call("link_down") & FAIL
        self.tick(self.now - 1000 + 10)
        assert self.arbiter.state == ASKED
        return self


def test_a_pair_that_is_together_asks_nobody() -> None:
    for state in (OWNER, STANDBY):
        n = Arbitrated(state).linked()
        for _ in range(50):
            n.now += 20
            n.exchange()
            assert n.call("tick") & (ARBITRATE | SILENCE) == 0
        assert n.arbiter.asks == 0


def test_an_owner_speaks_for_as_long_as_the_other_node_would_not_suspect() -> None:
    n = Arbitrated(OWNER).linked()
    assert n.speak_by() == 100  # suspect_ms after what was echoed was sent
    n.now += 20
    n.exchange()
    assert n.speak_by() == 120
    assert n.tick(110) & SILENCE == 0
    assert n.tick(120) & SILENCE
    assert n.owner.silence == lib.PRL_SILENCE_ARBITER


def test_an_owner_that_hears_the_lan_is_silent_all_the_same() -> None:
    """There may be another part of the network, with peers and the other node in it (F19)."""
    n = Arbitrated(OWNER).linked().lost()
    assert n.tick(1000) & (OPEN | SPEAK) == 0
    assert n.owner.silence == lib.PRL_SILENCE_ARBITER
    assert n.call("unanswered", n.now * MS) == 0


def test_who_loses_the_link_asks_at_once_and_uses_that_epoch_no_more() -> None:
    n = Arbitrated(OWNER).linked()
    todo = n.tick(110)
    assert n.owner.link == lib.PRL_LINK_SUSPECT
    assert todo & ARBITRATE
    assert todo & DROP


def test_the_owner_that_has_won_opens_at_once_and_needs_no_evidence() -> None:
    n = Arbitrated(OWNER).linked().lost()
    n.present = False
    assert n.hears(WON) & OPEN
    assert n.speak_by() < 0  # no limit
    assert n.tick(3000) & (SILENCE | ARBITRATE) == 0


def test_a_silent_owner_that_has_won_speaks_and_opens() -> None:
    n = Arbitrated(OWNER).linked().lost()
    assert n.tick(200) & SILENCE
    assert n.hears(WON) & (SPEAK | OPEN) == SPEAK | OPEN


def test_the_owner_that_has_lost_is_silent_before_its_time_is_over() -> None:
    n = Arbitrated(OWNER).linked().lost()
    assert n.now - 1000 < n.speak_by()
    assert n.hears(LOST) & SILENCE
    assert n.tick(5000) & (SPEAK | OPEN | ARBITRATE) == 0


def test_a_standby_takes_over_once_it_has_won_and_not_before() -> None:
    n = Arbitrated(STANDBY).linked()
    n.call("link_down")
    assert n.tick(90) & ARBITRATE == 0  # nobody is suspected yet
    assert n.tick(120) & (ARBITRATE | TAKEOVER) == ARBITRATE
    assert n.tick(900) & TAKEOVER == 0
    assert n.hears(WON) & TAKEOVER
    assert n.owner.first_by_ns == 0  # no lease ends


def test_a_standby_that_has_lost_voids_its_shadows() -> None:
    n = Arbitrated(STANDBY).linked()
    n.call("link_down")
    n.tick(120)
    assert n.hears(LOST) & VOID
    assert n.tick(5000) & (TAKEOVER | ARBITRATE) == 0


def test_an_owner_of_one_service_that_wins_early_waits_before_it_takes_the_other() -> None:
    """It asks for its own sake, at once; the owner of the other service may speak meanwhile."""
    n = Arbitrated(OWNER, STANDBY).linked().lost()
    assert n.hears(WON) & (OPEN | TAKEOVER) == OPEN
    assert n.tick(90) & TAKEOVER == 0
    assert n.tick(130) & TAKEOVER


def test_a_standby_that_hears_the_owner_on_the_lan_renounces_and_says_so_until_it_is_heard() -> (
    None
):
    n = Arbitrated(STANDBY).linked()
    n.call("link_down")
    n.tick(120)
    assert n.lan_heard() & (VOID | RENOUNCE) == VOID | RENOUNCE
    assert n.hears(WON) & TAKEOVER == 0
    n.now += 20
    assert n.lan_heard() & (VOID | RENOUNCE) == RENOUNCE


def test_a_standby_that_has_renounced_asks_no_more() -> None:
    n = Arbitrated(STANDBY).linked()
    n.call("link_down")
    n.tick(120)
    n.lan_heard()
    assert n.tick(2000) & ARBITRATE == 0


def test_an_owner_that_has_lost_speaks_when_the_winner_renounces_and_the_store_is_told() -> None:
    n = Arbitrated(OWNER).linked().lost()
    n.hears(LOST)
    todo = n.call("lan_renounced")
    assert todo & (SPEAK | OPEN | ARBITRATE) == SPEAK | OPEN | ARBITRATE
    assert n.arbiter.seizes
    assert n.tick(2000) & SILENCE == 0


def says_hello(node: Arbitrated) -> None:
    lib.prl_owner_hello(node.owner)


def test_who_has_renounced_asks_again_in_the_next_epoch() -> None:
    """The other node may go on by its word; the store need not have that yet."""
    n = Arbitrated(STANDBY).linked()
    n.call("link_down")
    n.tick(120)
    n.lan_heard()
    n.hears(WON)
    says_hello(n)
    n.call("link_up")
    n.call("link_down")
    assert n.tick(n.now - 1000 + 250) & TAKEOVER == 0
    assert n.arbiter.state != WON


def test_what_an_owner_has_by_word_alone_ends_with_its_hello() -> None:
    n = Arbitrated(OWNER).linked().lost()
    n.hears(LOST)
    assert n.call("lan_renounced") & SPEAK
    says_hello(n)
    assert n.tick(200) & (SILENCE | ARBITRATE) == SILENCE | ARBITRATE
    assert n.hears(WON) & SPEAK  # the store has it by now


def test_what_the_store_has_said_outlives_it() -> None:
    n = Arbitrated(OWNER).linked().lost()
    n.hears(WON)
    says_hello(n)
    assert n.tick(n.now - 1000 + 500) & (SILENCE | ARBITRATE) == 0


def test_an_owner_that_has_said_hello_believes_no_word_of_before() -> None:
    """It has been on its way, or waited in a socket, while the other node asked in a new epoch."""
    n = Arbitrated(OWNER).linked().lost()
    n.hears(LOST)
    says_hello(n)
    assert n.call("lan_renounced") == 0
    n.call("link_up")
    n.lost()
    n.hears(LOST)
    assert n.call("lan_renounced") & SPEAK


def test_an_owner_that_the_other_node_renounces_to_leaves_it_what_that_one_owns() -> None:
    """It may have won, too, for its own service: the word says that it lives."""
    n = Arbitrated(OWNER, STANDBY).linked().lost()
    todo = n.call("lan_renounced")
    assert todo & (OPEN | VOID | RENOUNCE) == OPEN | VOID | RENOUNCE
    assert n.tick(5000) & TAKEOVER == 0
    assert n.call("lan_renounced") & RENOUNCE == 0  # two that say it to each other stop


def test_what_is_not_answered_is_asked_again() -> None:
    n = Arbitrated(OWNER).linked().lost()
    asks = n.arbiter.asks
    assert n.tick(20 + 3 * ANSWER_MS) & ARBITRATE
    assert n.arbiter.asks == asks + 3
    assert (n.arbiter.state, n.arbiter.unreached) == (UNREACHED, 1)
    assert n.hears(WON) & OPEN  # late is not too late


def test_an_arbiter_that_is_not_reached_means_silence_on_both_sides() -> None:
    owner, standby = Arbitrated(OWNER).linked().lost(), Arbitrated(STANDBY).linked()
    standby.call("link_down")
    assert owner.hears(UNREACHED) == 0
    assert owner.tick(3000) & (OPEN | SPEAK) == 0
    assert standby.tick(3000) & (TAKEOVER | VOID) == 0
    assert standby.hears(WON) & TAKEOVER  # its shadows are as good as on the first day


def test_where_the_lease_decides_then_it_begins_to_as_soon_as_nobody_answers() -> None:
    owner, standby = (Arbitrated(state, leases=True).linked() for state in (OWNER, STANDBY))
    owner.lost()
    assert owner.tick(600) & OPEN
    assert owner.owner.silence == lib.PRL_SILENCE_NOT
    standby.call("link_down")
    assert standby.tick(120) & (ARBITRATE | TAKEOVER) == ARBITRATE
    assert standby.tick(290) & TAKEOVER
    assert standby.owner.first_by_ns == 1300 * MS


def test_where_the_lease_decides_then_the_standbys_right_ends_with_it() -> None:
    n = Arbitrated(STANDBY, leases=True).linked()
    n.call("link_down")
    n.tick(310)
    assert n.hears(WON) & TAKEOVER == 0


def test_an_answer_of_a_former_epoch_is_none() -> None:
    n = Arbitrated(OWNER).linked().lost()
    former = n.arbiter.round
    n.call("link_up")
    assert lib.prl_owner_arbitrated(n.owner, former, LOST, n.now * MS) == 0
    assert n.arbiter.state == TOGETHER


def test_who_had_won_holds_on_to_it_until_the_other_node_is_in_the_new_epoch() -> None:
    n = Arbitrated(OWNER).linked().lost()
    n.hears(WON)
    n.now += 500
    n.call("link_up")
    assert (n.arbiter.state, n.speak_by()) == (WON, -1000)
    n.exchange()
    assert (n.arbiter.state, n.speak_by()) == (TOGETHER, n.now - 1000 + 100)


def test_who_had_not_won_speaks_in_a_new_epoch_from_the_first_echo_on() -> None:
    n = Arbitrated(OWNER)
    n.call("link_up")
    assert n.speak_by() <= 0
    assert n.call("tick") & SILENCE == 0  # the kernel is, and nobody need be told
    n.exchange()
    assert n.speak_by() == 100


def test_an_owner_that_was_stopped_asks_and_probes_nobody() -> None:
    n = Arbitrated(OWNER).linked()
    n.now += 600
    assert n.call("tick") & SILENCE
    n.tick(720)
    assert n.arbiter.state == ASKED
    assert n.call("unanswered", n.now * MS) == 0
    assert n.hears(WON) & (SPEAK | OPEN) == SPEAK | OPEN


def test_the_operators_word_goes_before_the_arbiters_and_the_store_is_told() -> None:
    owner, standby = Arbitrated(OWNER).linked().lost(), Arbitrated(STANDBY).linked()
    owner.hears(LOST)
    todo, refused = owner.request(fenced=OPERATOR)
    assert (todo & (SPEAK | OPEN | ARBITRATE), refused) == (SPEAK | OPEN | ARBITRATE, 0)
    standby.call("link_down")
    assert standby.request() == (0, lib.PRL_REFUSED_ARBITER)
    todo, refused = standby.request(fenced=OPERATOR)
    assert (todo & (TAKEOVER | ARBITRATE), refused) == (TAKEOVER | ARBITRATE, 0)
    assert standby.tick(3000) & SILENCE == 0


@pytest.mark.parametrize("seconds", [1, 60])
def test_a_standby_whose_clock_stood_takes_over_only_if_the_owner_has_not_gone_on(
    seconds: int,
) -> None:
    """Its lease did not age (F70); the arbiter knows all the same."""
    n = Arbitrated(STANDBY).linked()
    n.other_ahead += seconds * 1000
    n.call("link_down")
    n.tick(200)
    assert n.hears(LOST) & VOID


def test_a_dead_datapath_never_opens() -> None:
    for leases in (False, True):
        n = Arbitrated(OWNER, leases=leases).linked()
        assert bool(lib.prl_owner_never_opens(n.owner)) is not leases
