"""Lease, detection, take-over, opening, evidence (L1-L6, L10).

Checks L1, L2, L3, L5, L6, L10, L11, R22.
"""

from typing import Any

import pytest
from prl._core import ffi, lib

from tests.unit.core_support import MS

NONE = lib.PRL_OWNER_NONE
STANDBY = lib.PRL_OWNER_STANDBY
OWNER = lib.PRL_OWNER_OWNER
LEASE = lib.PRL_OWNER_DO_LEASE
TAKEOVER = lib.PRL_OWNER_DO_TAKEOVER
RENOUNCE = lib.PRL_OWNER_DO_RENOUNCE_LAN
FAIL = lib.PRL_OWNER_DO_FAIL_FLOWS
OPEN = lib.PRL_OWNER_DO_OPEN_FLOWS
VOID = lib.PRL_OWNER_DO_VOID_SHADOWS
DROP = lib.PRL_OWNER_DO_DROP_LINK
SILENCE = lib.PRL_OWNER_DO_SILENCE
SPEAK = lib.PRL_OWNER_DO_SPEAK
EXPIRE = lib.PRL_OWNER_DO_EXPIRE
HAND_OVER = lib.PRL_OWNER_DO_HAND_OVER
ASK = lib.PRL_OWNER_DO_ASK
OPERATOR, HOOK = lib.PRL_FENCED_BY_OPERATOR, lib.PRL_FENCED_BY_HOOK


class Node:
    """One node's ownership; ``now`` is in ms and ticks are its caller's."""

    def __init__(self, *states: int, policy_stop: bool = False, lan: bool = True) -> None:
        config = ffi.new("struct prl_owner_config *")
        config.lease_ns, config.suspect_ns = 20 * MS, 100 * MS
        config.takeover_ns, config.hold_ns, config.late_ns = 300 * MS, 400 * MS, 60 * MS
        config.services, config.policy_stop = len(states), policy_stop
        self.now = 1000
        self.other_ahead = 77_000
        self.owner: Any = ffi.new("struct prl_owner *")
        lib.prl_owner_init(self.owner, config, self.now * MS)
        lib.prl_owner_neighbours(self.owner, 1)
        lib.prl_owner_good(self.owner, 2**32 - 1)
        for service, state in enumerate(states):
            lib.prl_owner_set_state(self.owner, service, state)
        self.lan = lan
        self.present = True
        """Whether somebody on the LAN answers."""

    def call(self, event: str, *args: int) -> int:
        return int(getattr(lib, f"prl_owner_{event}")(self.owner, *args, self.now * MS))

    def other_ns(self) -> int:
        """The other node's clock: it may run while ours stands."""
        return (self.now + self.other_ahead) * MS

    def lan_heard(self) -> int:
        return self.call("lan_heard", self.other_ns())

    def take_lease(self) -> Any:
        lease = ffi.new("struct prl_lease_out *")
        lib.prl_owner_take_lease(self.owner, self.now * MS, lease)
        return lease

    def linked(self) -> "Node":
        """In an epoch whose lease was echoed just now."""
        self.call("link_up")
        self.exchange()
        return self

    def exchange(self) -> None:
        """A LEASE leaves, comes back as an echo, and the other's is echoed."""
        lease = self.take_lease()
        self.call("lease", self.other_ns(), lease.sent_ns, 0)
        self.take_lease()
        if self.lan:
            self.lan_heard()

    def tick(self, to_ms: int) -> int:
        """Ticks every 10 ms up to ``to_ms`` from the start; what they asked for, LEASE left out."""
        todo = 0
        while self.now < 1000 + to_ms:
            self.now = min(self.now + 10, 1000 + to_ms)
            if self.present:
                lib.prl_owner_frame(self.owner, self.now * MS)
            todo |= self.call("tick")
        return int(todo & ~LEASE & ~ASK)

    def until(self) -> int:
        return int(lib.prl_owner_takeover_until_ns(self.owner)) // MS - 1000

    def open_at(self) -> int:
        return int(lib.prl_owner_open_at_ns(self.owner)) // MS - 1000

    def request(self, *, fenced: int = lib.PRL_FENCED_NOT) -> tuple[int, int]:
        refused = ffi.new("uint8_t *")
        todo = lib.prl_owner_request(self.owner, 0, fenced, self.now * MS, refused)
        return todo, refused[0]


def test_lease_is_due_every_interval() -> None:
    n = Node(OWNER).linked()
    assert n.call("tick") == 0
    n.now += 19
    assert n.call("tick") == 0
    n.now += 1
    assert n.call("tick") == LEASE
    n.take_lease()
    assert n.call("tick") == 0


def test_without_a_link_the_lan_heartbeat_keeps_its_interval() -> None:
    n = Node(OWNER)
    due = 0
    for _ in range(20):
        n.now += 10
        due += n.call("tick") & LEASE != 0
    assert due == 10


def test_lease_echoes_the_newest_and_counts_what_came_back() -> None:
    n = Node(STANDBY)
    n.call("link_up")
    first = n.take_lease()
    assert (first.sent_ns, first.echo_ns) == (1000 * MS, 0)
    assert n.until() < 0  # nothing echoed yet: no take-over
    n.now += 5
    n.call("lease", 77, first.sent_ns, 0)
    assert n.until() == 300
    assert n.take_lease().echo_ns == 77
    n.call("lease", 76, 0, 0)
    assert n.take_lease().echo_ns == 77
    n.call("lease", 78, 2000 * MS, 0)  # an echo of what was never sent
    assert n.until() == 300


def test_primary_opens_after_the_last_echo_it_sent() -> None:
    n = Node(OWNER).linked()
    assert n.open_at() == 400
    n.tick(30)
    n.exchange()
    assert n.open_at() == 430
    assert n.call("link_down") == FAIL
    assert n.tick(429) == 0
    assert n.tick(430) == OPEN
    assert n.tick(1000) == 0


def test_a_primary_without_any_echo_opens_at_once() -> None:
    n = Node(OWNER)
    n.call("link_up")
    assert n.call("link_down") == FAIL
    assert n.tick(10) == OPEN


def test_an_epoch_that_the_other_node_is_late_for_is_not_given_up_for_that() -> None:
    """Else there never would be one, where it takes it longer than suspect_ms each time."""
    n = Node(OWNER)
    n.call("link_up")
    n.tick(390)
    assert n.owner.link == lib.PRL_LINK_UP
    n.exchange()
    n.tick(480)
    assert n.owner.link == lib.PRL_LINK_UP
    n.tick(540)
    assert n.owner.link == lib.PRL_LINK_SUSPECT
    never = Node(OWNER)
    never.call("link_up")
    never.tick(410)
    assert never.owner.link == lib.PRL_LINK_SUSPECT


def test_a_suspect_primary_fails_once_and_echoes_nothing() -> None:
    n = Node(OWNER).linked()
    assert n.tick(99) == 0
    assert n.tick(100) == FAIL
    assert n.owner.link == lib.PRL_LINK_SUSPECT
    assert n.take_lease().echo_ns == 0
    assert n.tick(399) == 0
    assert n.tick(400) == OPEN | DROP
    assert n.open_at() == 400


def test_a_suspicion_that_was_wrong_ends() -> None:
    n = Node(OWNER).linked()
    assert n.tick(100) == FAIL
    n.call("heard")
    assert n.owner.link == lib.PRL_LINK_UP
    assert (n.owner.suspects, n.owner.false_suspects) == (1, 1)
    assert n.tick(199) == 0
    assert n.tick(200) == FAIL
    assert (n.owner.suspects, n.owner.false_suspects) == (2, 1)


def test_secondary_takes_over_when_link_and_lan_are_silent() -> None:
    n = Node(STANDBY, NONE, STANDBY).linked()
    assert n.tick(99) == 0
    assert n.tick(100) == TAKEOVER | DROP
    assert n.owner.take_mask == 0b101
    assert [n.owner.state[i] for i in range(3)] == [OWNER, NONE, OWNER]
    assert n.call("link_down") == FAIL  # owner from now on
    assert n.owner.takeovers == 1


def test_a_witness_that_was_heard_before_the_owner_s_silence_was_whole_is_none() -> None:
    """LAN heartbeats were lost, then the LAN parted: the owner, on the witness's side, speaks."""
    parted = Node(STANDBY).linked()
    parted.owner.config.witnessed = 1
    assert parted.tick(90) == 0
    parted.present = False
    assert parted.tick(299) == 0
    dead = Node(STANDBY).linked()
    dead.owner.config.witnessed = 1
    assert dead.tick(100) == 0
    assert dead.tick(110) == TAKEOVER | DROP


def test_a_service_without_a_good_shadow_has_more_time_to_be_heard_of() -> None:
    """A take-over would save nothing; of an owner that is only busy it would end every session."""
    n = Node(STANDBY, STANDBY).linked()
    lib.prl_owner_good(n.owner, 0b10)
    assert n.tick(100) == TAKEOVER | DROP
    assert n.owner.take_mask == 0b10
    n.call("link_down")
    assert n.tick(190) & TAKEOVER == 0
    assert n.tick(200) & TAKEOVER
    assert n.owner.take_mask == 0b01
    alive = Node(STANDBY).linked()
    lib.prl_owner_good(alive.owner, 0)
    assert alive.tick(190) == 0
    assert alive.lan_heard() == VOID | RENOUNCE | DROP
    assert alive.tick(1000) & TAKEOVER == 0
    short = Node(STANDBY).linked()
    lib.prl_owner_good(short.owner, 0)
    short.tick(150)
    short.call("heard")  # without an echo: the lease is what it was
    assert short.tick(240) & TAKEOVER == 0
    assert short.tick(250) & TAKEOVER  # half of what suspicion leaves of it


def test_secondary_waits_for_the_lan_after_a_lost_connection() -> None:
    n = Node(STANDBY).linked()
    n.now += 50
    n.call("tick")
    n.lan_heard()
    assert n.call("link_down") == 0
    assert n.tick(149) == 0
    assert n.tick(150) == TAKEOVER


def test_without_lan_heartbeats_the_lan_counts_as_silent() -> None:
    n = Node(STANDBY, lan=False).linked()
    assert n.call("link_down") == 0
    assert n.tick(99) == 0
    assert n.tick(100) == TAKEOVER


@pytest.mark.parametrize("connected", [True, False])
def test_secondary_renounces_once_when_the_primary_is_alive_on_the_lan(*, connected: bool) -> None:
    n = Node(STANDBY).linked()
    if not connected:
        assert n.call("link_down") == 0
    heard = 0
    for _ in range(4):
        n.tick(n.now - 1000 + 20)
        heard = n.lan_heard()
        if heard:
            break
    if connected:
        assert heard == 0  # not suspect yet
        assert n.tick(100) == 0
        assert n.lan_heard() == VOID | RENOUNCE | DROP
    else:
        assert heard == VOID | RENOUNCE
        assert n.now == 1040  # not by a heartbeat that was on its way when the link broke
    assert n.lan_heard() == 0
    assert n.tick(500) & (TAKEOVER | VOID) == 0
    assert n.request() == (0, lib.PRL_REFUSED_LEASE_OVER)


def test_secondary_never_takes_over_after_the_lease() -> None:
    n = Node(STANDBY).linked()
    n.call("link_down")
    n.owner.last_lan_ns = 1250 * MS  # the LAN fell silent too late
    assert n.tick(299) == 0
    assert n.tick(300) == EXPIRE
    assert n.tick(1000) == 0
    assert n.request() == (0, lib.PRL_REFUSED_LEASE_OVER)
    assert n.request(fenced=OPERATOR) == (TAKEOVER, 0)
    assert n.owner.first_by_ns == 0  # no lease, no deadline


def test_a_link_without_a_lease_ends_with_expired_shadows() -> None:
    n = Node(STANDBY)
    n.call("link_up")
    assert n.request() == (0, lib.PRL_REFUSED_NO_LINK_YET)
    assert n.call("link_down") == EXPIRE


def test_expired_shadows_are_void_at_the_next_word_of_the_primary() -> None:
    for word in ("lan_heard", "hello"):
        n = Node(STANDBY, lan=False).linked()
        n.owner.last_lan_ns = 1250 * MS
        assert n.tick(300) & EXPIRE
        if word == "hello":
            assert lib.prl_owner_hello(n.owner) & VOID
        else:
            assert n.lan_heard() & (VOID | RENOUNCE) == VOID | RENOUNCE
        assert n.request(fenced=HOOK) == (0, lib.PRL_REFUSED_HEARD)


def test_the_hook_takes_over_with_expired_shadows_alone() -> None:
    n = Node(STANDBY).linked()
    assert n.request(fenced=HOOK) == (0, lib.PRL_REFUSED_HEARD)
    n.call("link_down")
    n.owner.last_lan_ns = 1250 * MS
    assert n.tick(300) == EXPIRE
    n.now += 60_000
    assert n.request(fenced=HOOK) == (TAKEOVER, 0)


def test_policy_stop_never_opens_and_does_not_end_the_shadows() -> None:
    primary = Node(OWNER, policy_stop=True).linked()
    assert primary.call("link_down") == FAIL | SILENCE
    assert primary.owner.silence == lib.PRL_SILENCE_STOP
    assert primary.tick(5000) == 0
    assert lib.prl_owner_open_at_ns(primary.owner) == 2**64 - 1
    assert not primary.call("unanswered", primary.now * MS)
    assert primary.request() == (0, lib.PRL_REFUSED_OWNER)
    assert primary.request(fenced=OPERATOR) == (SPEAK | OPEN, 0)  # the operator's word
    secondary = Node(STANDBY, policy_stop=True).linked()
    secondary.call("link_down")
    secondary.owner.last_lan_ns = 1250 * MS
    assert secondary.tick(349) == 0
    assert secondary.tick(350) == TAKEOVER
    assert secondary.call("link_down") == FAIL
    assert secondary.tick(5000) == 0  # it speaks for what it took


def test_of_two_owners_the_one_that_took_over_later_is_right() -> None:
    n = Node(OWNER, STANDBY)

    def rival(term: int, *, own: int = 7, service: int = 0) -> int:
        return int(lib.prl_owner_rival(n.owner, service, own, term))

    assert rival(8) == rival(1, own=255) == lib.PRL_RIVAL_NEWER
    assert rival(6) == rival(255, own=0) == lib.PRL_RIVAL_OLDER
    assert rival(7) == lib.PRL_RIVAL_NOT
    assert rival(8, service=1) == rival(8, service=9) == lib.PRL_RIVAL_NOT


def test_the_secondarys_word_opens_at_once() -> None:
    n = Node(OWNER, policy_stop=True).linked()
    n.call("link_down")
    assert n.call("lan_renounced") == OPEN | SPEAK
    assert n.call("lan_renounced") == 0
    n.linked()
    assert n.call("lan_renounced") == FAIL | OPEN | DROP
    assert Node(STANDBY).linked().call("lan_renounced") == 0


@pytest.mark.parametrize("connected", [True, False])
def test_a_detector_that_did_not_run_counts_anew(*, connected: bool) -> None:
    n = Node(STANDBY).linked()
    n.now += 150
    if connected:
        assert n.call("tick") & ~LEASE == 0
    else:
        assert n.call("link_down") == 0  # not: silent for 150 ms
    assert n.owner.late_ticks == 1
    assert n.take_lease().flags == lib.PRL_LEASE_BUSY
    assert n.take_lease().flags == 0
    assert n.tick(249) == 0
    assert n.tick(250) & TAKEOVER


def test_a_primary_that_was_frozen_waits_before_it_opens() -> None:
    n = Node(OWNER).linked()
    n.now += 5000
    assert n.call("link_down") == FAIL | SILENCE
    assert n.owner.silence == lib.PRL_SILENCE_FROZEN
    assert n.tick(5390) == 0
    assert n.call("unanswered", 6300 * MS) == 0  # the other side's lease counts from the thaw
    assert n.tick(5800) == 0
    assert n.call("unanswered", 5999 * MS) == 0  # these probes are from before the thaw
    assert n.call("unanswered", 6700 * MS) == SPEAK | OPEN


def test_an_owner_that_was_stopped_waits_for_an_echo_of_after_that() -> None:
    n = Node(OWNER).linked()
    lease = n.take_lease()
    n.now += 99
    assert n.call("woke") == 0
    n.now += 100
    assert n.call("woke") == SILENCE
    n.call("lease", n.other_ns(), lease.sent_ns, 0)
    assert n.owner.silence == lib.PRL_SILENCE_FROZEN  # that was on its way before
    n.now += 1
    lease = n.take_lease()
    assert n.call("lease", n.other_ns(), lease.sent_ns, 0) == SPEAK
    assert n.owner.silent_mask == 0


def test_one_that_was_silent_before_waits_for_an_echo_of_after_that_as_well() -> None:
    n = Node(OWNER).linked()
    n.present = False
    while not n.tick(n.now + 1) & SILENCE:
        assert n.now < 1300
    lease = n.take_lease()
    n.now += 100
    assert n.call("woke") == 0
    n.call("lease", n.other_ns(), lease.sent_ns, 0)  # who said that may have taken over since
    assert n.owner.silence == lib.PRL_SILENCE_NO_LAN
    n.now += 1
    lease = n.take_lease()
    assert n.call("lease", n.other_ns(), lease.sent_ns, 0) & SPEAK


def test_an_owner_without_link_and_lan_falls_silent_and_opens_nothing() -> None:
    n = Node(OWNER).linked()
    n.present = False
    assert n.call("link_down") == FAIL
    assert n.tick(99) == 0
    assert n.tick(100) == SILENCE
    assert n.owner.silence == lib.PRL_SILENCE_NO_LAN
    assert n.tick(5000) == 0
    probed = n.now * MS
    assert n.call("unanswered", probed) == 0  # nothing was heard: the probes may not have got out
    n.present = True
    assert n.tick(5300) == 0
    assert n.call("unanswered", probed) == 0  # they may have got lost before the LAN was back
    assert n.call("unanswered", 6010 * MS) == SPEAK | OPEN


def test_an_owner_that_is_alone_keeps_asking_and_falls_silent_when_nobody_answers() -> None:
    n = Node(OWNER).linked()
    n.call("link_down")
    assert n.call("tick") & ASK
    assert n.tick(5000) == OPEN
    asked = 0
    for n.now in range(6010, 7010, 10):
        lib.prl_owner_frame(n.owner, n.now * MS)
        asked += n.call("tick") & ASK != 0
    assert asked == 10
    n.present = False
    assert n.tick(6500) == SILENCE
    lib.prl_owner_frame(n.owner, n.now * MS)
    assert n.tick(6600) == 0  # heard again: that is no word yet
    n.call("link_up")
    assert n.owner.silence == lib.PRL_SILENCE_NOT


def test_a_secondary_that_does_not_hear_the_lan_is_the_one_that_is_cut_off() -> None:
    n = Node(STANDBY).linked()
    n.present = False
    assert n.tick(60) == 0
    assert lib.prl_owner_watches(n.owner)  # asks in good time
    assert n.tick(250) == 0
    n.present = True
    assert n.tick(270) == 0  # the LAN is back: an owner that lives is heard first …
    assert n.tick(280) == TAKEOVER | DROP  # … if the lease lasts
    late = Node(STANDBY).linked()
    late.present = False
    assert late.tick(400) == EXPIRE | DROP
    unknown = Node(STANDBY).linked()
    unknown.present = False
    lib.prl_owner_neighbours(unknown.owner, 0)  # with nobody to ask, silence proves nothing
    assert unknown.tick(100) == TAKEOVER | DROP


def test_an_owner_may_be_replaced_until_the_other_node_has_read_its_hello() -> None:
    """The other may act on the lease of the epoch before."""
    n = Node(OWNER).linked()
    assert n.call("link_down") == FAIL
    lib.prl_owner_hello(n.owner)
    n.present = False
    assert n.tick(90) == 0
    assert n.tick(140) == SILENCE
    heard = Node(OWNER).linked()
    heard.call("link_down")
    lib.prl_owner_hello(heard.owner)
    heard.call("link_up")
    assert not lib.prl_owner_replaceable_ns(heard.owner)


def test_a_secondary_that_was_deaf_does_not_know_that_the_lan_is_silent() -> None:
    """Its owner's LAN heartbeats came while it heard nothing."""

    def deaf(*, lan: bool = True) -> Node:
        n = Node(STANDBY, lan=lan).linked()
        n.present = False
        assert n.tick(150) == 0
        n.present = True
        return n

    n = deaf()
    assert n.tick(170) == 0
    assert n.tick(190) == TAKEOVER | DROP
    n = deaf()
    assert n.tick(170) == 0
    assert n.lan_heard() == VOID | RENOUNCE | DROP
    assert n.tick(300) == 0
    assert deaf(lan=False).tick(160) == TAKEOVER | DROP  # heartbeats never came: none was missed


def test_who_took_over_without_the_lan_falls_silent_before_the_primary_may_open() -> None:
    n = Node(STANDBY).linked()
    n.present = False
    assert n.request() == (TAKEOVER | DROP, lib.PRL_REFUSED_NOT)
    assert n.call("link_down") == FAIL
    assert n.tick(299) == 0
    assert n.tick(300) == SILENCE
    proven = Node(STANDBY).linked()
    assert proven.tick(100) & TAKEOVER
    assert proven.call("link_down") == FAIL
    assert proven.tick(5000) & SILENCE == 0


def test_what_was_given_over_the_link_needs_no_lan_once_the_giver_has_said_so() -> None:
    n = Node(STANDBY).linked()
    n.present = False
    assert n.call("renounced", 0) == TAKEOVER
    lease = n.take_lease()
    n.call("lease", n.other_ns(), lease.sent_ns, 0)
    assert n.owner.proof_by_ns  # that was sent before
    n.now += 20
    lease = n.take_lease()
    n.call("lease", n.other_ns(), lease.sent_ns, 0)
    assert not n.owner.proof_by_ns


def test_an_owner_is_silent_before_the_other_node_may_have_taken_over_unheard() -> None:
    n = Node(OWNER).linked()
    n.present = False
    assert lib.prl_owner_replaceable_ns(n.owner) == 1100 * MS  # of the newest LEASE that was echoed
    assert lib.prl_owner_next_ns(n.owner) == 1020 * MS
    assert n.tick(90) == 0
    n.take_lease()
    assert lib.prl_owner_next_ns(n.owner) == 1100 * MS  # not a tick later
    assert n.tick(100) & SILENCE
    heard = Node(OWNER).linked()
    for _ in range(8):  # leases come, but nobody echoes ours: the link is cut one way
        heard.tick(heard.now - 1000 + 20)
        heard.call("lease", heard.other_ns(), 0, 0)
        heard.take_lease()
    assert heard.owner.link == lib.PRL_LINK_UP
    assert heard.owner.silence == lib.PRL_SILENCE_NOT  # it hears the LAN, so a claim would reach it
    heard.present = False
    assert heard.tick(190) == 0
    assert heard.tick(200) & SILENCE
    lease = heard.take_lease()
    assert heard.call("lease", heard.other_ns(), lease.sent_ns, 0) == 0  # sent before it
    heard.now += 10
    lease = heard.take_lease()
    assert heard.call("lease", heard.other_ns(), lease.sent_ns, 0) == SPEAK


def test_a_silent_node_takes_nothing_over() -> None:
    n = Node(OWNER, STANDBY).linked()
    n.present = False
    assert n.tick(150) & SILENCE
    n.present = True
    assert n.tick(400) & (TAKEOVER | EXPIRE) == EXPIRE


def test_a_frozen_secondary_cannot_take_over_by_its_old_lease() -> None:
    n = Node(STANDBY).linked()
    n.now += 5000
    assert n.call("tick") & ~LEASE == 0
    assert n.tick(5100) == EXPIRE | DROP


def test_a_lease_ends_by_the_other_nodes_clock_when_ours_has_stood_still() -> None:
    """A virtual machine was suspended: what was sent meanwhile is all that tells."""
    n = Node(STANDBY).linked()
    n.other_ahead += 120
    n.call("lease", n.other_ns(), 0, 0)
    assert n.until() == 180
    n.other_ahead += 8000
    n.call("lease", n.other_ns(), 0, 0)
    assert n.until() == 0
    assert n.call("link_down") == EXPIRE
    assert n.tick(2000) == 0
    assert n.request() == (0, lib.PRL_REFUSED_LEASE_OVER)


def test_a_heartbeat_of_after_the_lease_voids_whatever_our_clock_says() -> None:
    n = Node(STANDBY).linked()
    assert n.call("link_down") == 0
    n.other_ahead += 299
    assert n.lan_heard() == 0  # it may have been on its way when its sender died
    n.other_ahead += 1
    assert n.lan_heard() == VOID | RENOUNCE
    assert n.tick(500) & (TAKEOVER | EXPIRE) == 0
    assert n.request(fenced=HOOK) == (0, lib.PRL_REFUSED_HEARD)


def test_a_heartbeat_that_overtakes_a_slow_link_ends_the_lease_and_no_shadow_yet() -> None:
    """LEASE may wait behind much data. Nothing is taken over until the link has caught up.

    A link that breaks before that leaves shadows that are of no use, not even to the fenced.
    """
    n = Node(STANDBY).linked()
    n.other_ahead += 300
    assert n.lan_heard() == 0
    assert n.until() == 0
    assert n.request() == (0, lib.PRL_REFUSED_LEASE_OVER)
    n.now += 10
    lease = n.take_lease()
    n.call("lease", n.other_ns(), lease.sent_ns, 0)  # echoed anew
    assert n.until() > 0
    assert n.call("link_down") == 0  # the newer lease is not over
    m = Node(STANDBY).linked()
    m.other_ahead += 300
    assert m.lan_heard() == 0
    assert m.call("link_down") == VOID | RENOUNCE  # it may have gone on alone
    assert m.request(fenced=HOOK) == (0, lib.PRL_REFUSED_HEARD)


def test_a_standby_that_stood_still_and_reads_the_heartbeats_before_the_link_is_down() -> None:
    """The link is silent, but it was so only for a moment of our clock."""
    n = Node(STANDBY).linked()
    for _ in range(50):
        n.other_ahead += 20
        assert n.lan_heard() == 0
    n.present = False
    todo = n.tick(300)
    assert todo & (VOID | EXPIRE | TAKEOVER) == VOID
    assert n.request(fenced=OPERATOR)[0] & TAKEOVER  # its sessions are told: they are reset


def test_what_is_late_on_its_way_does_not_shorten_the_lease() -> None:
    n = Node(STANDBY).linked()
    n.now += 90
    n.other_ahead -= 80
    n.call("lease", n.other_ns(), 0, 0)
    assert n.lan_heard() == 0
    assert n.until() == 300
    lease = n.take_lease()
    n.now += 10
    n.call("lease", n.other_ns(), lease.sent_ns, 0)  # echoed anew
    assert n.until() == 390
    stop = Node(STANDBY, policy_stop=True).linked()
    stop.other_ahead += 8000
    assert stop.lan_heard() == 0  # such an owner goes on with nothing (L5)


def test_a_new_epoch_has_no_lease_and_no_old_shadow() -> None:
    n = Node(STANDBY, OWNER).linked()
    assert n.call("link_up") == FAIL | VOID | LEASE
    assert n.until() < 0
    assert n.take_lease().echo_ns == 0
    assert n.open_at() == 400  # the other side may still believe in the old lease


def test_a_take_over_by_lease_has_a_deadline_and_can_come_too_late() -> None:
    n = Node(STANDBY).linked()
    assert n.tick(200) & TAKEOVER
    assert n.owner.first_by_ns == 1300 * MS
    assert lib.prl_owner_too_late(n.owner) == EXPIRE | DROP
    assert n.owner.state[0] == STANDBY
    assert n.tick(1000) & TAKEOVER == 0  # never by itself again
    given = Node(STANDBY).linked()
    assert given.call("renounced", 0) & TAKEOVER
    assert given.owner.first_by_ns == 1300 * MS  # the owner must know when a lost word is void
    late = Node(STANDBY).linked()
    late.now += 300
    assert late.call("renounced", 0) == 0


def test_with_our_hello_the_old_epoch_is_over() -> None:
    n = Node(STANDBY).linked()
    assert n.call("link_down") == 0
    assert lib.prl_owner_hello(n.owner) == VOID
    assert lib.prl_owner_hello(n.owner) == 0
    assert n.tick(250) & TAKEOVER == 0
    assert n.until() < 0


def test_both_roles_at_once() -> None:
    n = Node(OWNER, STANDBY).linked()
    assert n.tick(100) == FAIL | TAKEOVER | DROP
    assert n.owner.take_mask == 0b10
    n.call("link_down")
    assert n.tick(400) == OPEN


def test_renounced_service_is_taken_at_once() -> None:
    n = Node(STANDBY, STANDBY).linked()
    assert n.call("renounced", 1) == TAKEOVER
    assert n.owner.take_mask == 0b10
    assert n.call("renounced", 1) == 0
    assert n.call("renounced", 99) == 0
    assert n.owner.link == lib.PRL_LINK_UP


def test_a_lease_that_has_waited_on_the_link_is_not_younger_than_a_heartbeat() -> None:
    """The standby's clock stood; what its queues had of both is read in any order."""
    n = Node(STANDBY).linked()
    lease = n.take_lease()
    sent_ns = n.other_ns()
    n.other_ahead += 500
    n.lan_heard()
    n.call("lease", sent_ns, lease.sent_ns, 0)
    assert n.owner.outlived
    n.call("link_down")
    assert not n.tick(150) & TAKEOVER
    assert n.owner.state[0] == STANDBY


def test_who_has_taken_over_can_be_replaced_once_the_other_node_has_a_shadow() -> None:
    n = Node(STANDBY).linked()
    assert n.call("renounced", 0) == TAKEOVER
    assert lib.prl_owner_replaceable_ns(n.owner) == 0
    lib.prl_owner_has_shadow(n.owner, 0)
    assert lib.prl_owner_replaceable_ns(n.owner) == 1100 * MS
    n.present = False
    n.tick(90)
    assert n.tick(100) & SILENCE


def test_what_was_renounced_is_not_taken_back_in_the_epoch() -> None:
    n = Node(OWNER).linked()
    lib.prl_owner_give(n.owner, 0)
    assert n.owner.state[0] == STANDBY
    assert not n.tick(290) & TAKEOVER  # the other may still read that word, and act on it
    assert n.request()[1] == lib.PRL_REFUSED_LEASE_OVER
    n.call("link_up")  # nobody reads it any more
    n.exchange()
    assert n.tick(450) & TAKEOVER


def test_what_the_other_node_has_taken_can_be_taken_again() -> None:
    n = Node(OWNER).linked()
    lib.prl_owner_give(n.owner, 0)
    lib.prl_owner_given_is_taken(n.owner, 0)
    assert n.tick(150) & TAKEOVER


def test_an_echo_in_a_lease_that_has_waited_gives_no_more_time_than_the_heartbeat_left() -> None:
    n = Node(STANDBY).linked()
    n.now += 20
    lease, left_ns = n.take_lease(), n.other_ns()
    n.other_ahead += 400  # our clock stood still; the LEASE waited behind much data
    assert n.lan_heard() == 0
    n.call("lease", left_ns, lease.sent_ns, 0)
    assert n.until() <= n.now - 1000
    assert n.request() == (0, lib.PRL_REFUSED_LEASE_OVER)


def test_request_within_the_lease() -> None:
    n = Node(STANDBY).linked()
    assert n.request() == (TAKEOVER | DROP, 0)
    assert n.request() == (0, lib.PRL_REFUSED_OWNER)


def test_an_idle_node_drops_a_dead_connection() -> None:
    n = Node(NONE).linked()
    assert n.tick(399) == 0
    assert n.tick(400) == DROP


def test_leases_never_overlap() -> None:
    """L2: whatever is lost when, take-over ends before opening begins (hold_ms > takeover_ms)."""
    for lost_after in range(0, 100, 3):
        primary, secondary = Node(OWNER), Node(STANDBY)
        primary.call("link_up")
        secondary.call("link_up")
        for step in range(0, 200, 10):
            primary.now = secondary.now = 1000 + step
            to_secondary, to_primary = primary.take_lease(), secondary.take_lease()
            if step < lost_after:
                secondary.call("lease", to_secondary.sent_ns, to_secondary.echo_ns, 0)
            if step < lost_after // 2:
                primary.call("lease", to_primary.sent_ns, to_primary.echo_ns, 0)
            primary.call("tick")
            secondary.call("tick")
        assert secondary.until() < primary.open_at() or primary.owner.last_echo_sent_ns == 0


def test_an_owner_without_lan_hands_over_on_a_link_that_works() -> None:
    """L11; the other node hears the LAN, or says that it does not."""
    n, standby = Node(OWNER).linked(), Node(STANDBY).linked()
    n.present = False
    handed = 0
    for _ in range(120):
        for node in (n, standby):
            todo = node.tick(node.now - 1000 + 10)
            assert todo & (SILENCE | TAKEOVER | EXPIRE) == 0  # the link answers
            handed += todo & HAND_OVER != 0
            lease = node.take_lease()
            node.call("lease", node.other_ns(), lease.sent_ns, 0)
        assert lib.prl_owner_hears_lan(standby.owner, standby.now * MS)
    assert handed == 4  # from time to time, not at once again
    assert n.owner.hand_overs == 1
    assert not lib.prl_owner_hears_lan(n.owner, n.now * MS)
    n.present = True
    n.tick(n.now - 1000 + 10)
    assert lib.prl_owner_hears_lan(n.owner, n.now * MS)
    never = Node(OWNER, lan=False).linked()
    never.present = False
    assert lib.prl_owner_hears_lan(never.owner, 10**12)  # no heartbeats at any time prove nothing


def test_an_owner_whose_lan_has_no_carrier_hands_over_at_once() -> None:
    """L11; it need not wait whether somebody answers."""
    n = Node(OWNER).linked()
    assert n.tick(10) & HAND_OVER == 0
    lib.prl_owner_carrier(n.owner, False)
    assert not lib.prl_owner_hears_lan(n.owner, n.now * MS)  # nor would it take a service
    tries = []
    for at_ms in range(20, 2500, 10):
        n.exchange()
        if n.tick(at_ms) & HAND_OVER:
            tries.append(at_ms)
    assert tries == [20, 120, 320, 720, 1520, 2320]
    assert n.owner.hand_overs == 1
    lib.prl_owner_carrier(n.owner, True)
    n.exchange()
    assert n.tick(2510) & HAND_OVER == 0
    lib.prl_owner_carrier(n.owner, False)
    n.exchange()
    assert n.tick(2520) & HAND_OVER
    assert n.owner.hand_overs == 2
    alone = Node(OWNER)
    lib.prl_owner_carrier(alone.owner, False)
    assert alone.tick(20) & HAND_OVER == 0
    standby = Node(STANDBY).linked()
    lib.prl_owner_carrier(standby.owner, False)
    assert standby.tick(20) & HAND_OVER == 0


def test_who_stood_still_may_say_nothing_longer_for_that() -> None:
    """That it looks anew from then on is no answer of a witness."""
    node = Node(OWNER).linked()
    node.owner.config.witnessed = 1
    by_ns = lib.prl_owner_speak_by_ns(node.owner)
    assert by_ns
    node.now += 1000
    node.call("woke")
    node.call("tick")
    assert node.owner.unsure_ns
    assert lib.prl_owner_speak_by_ns(node.owner) == by_ns


def hear_word(
    n: Node, for_ms: int, *, owned: bool = False, fenced: bool = False, moves: bool = False
) -> int:
    """The other node says so, again and again, until something is to be done."""
    word = ffi.new("struct prl_word *", {"owned": owned, "fenced": fenced, "moves": moves})
    for _ in range(0, for_ms, 10):
        n.exchange()
        if todo := int(lib.prl_owner_word(n.owner, word, n.now * MS)):
            return todo
        n.tick(n.now + 10 - 1000)
    return 0


@pytest.mark.parametrize("state", [STANDBY, lib.PRL_OWNER_FENCED])
def test_where_nobody_owns_a_service_the_link_is_dropped_and_hello_decides(state: int) -> None:
    n = Node(state).linked()
    assert hear_word(n, 1000) == DROP
    assert n.now - 1000 == 400


def test_whose_the_service_is_needs_no_decision() -> None:
    """And who has no part in it makes none."""
    assert hear_word(Node(STANDBY).linked(), 1000, owned=True) == 0
    assert hear_word(Node(OWNER).linked(), 1000) == 0
    assert hear_word(Node(NONE).linked(), 1000) == 0


@pytest.mark.parametrize("between", ["owned", "moves"])
def test_while_a_service_moves_nobody_owns_it_for_a_moment(between: str) -> None:
    n = Node(STANDBY).linked()
    assert hear_word(n, 390) == 0
    assert hear_word(n, 10, **{between: True}) == 0
    assert hear_word(n, 390) == 0


def test_what_was_said_before_this_node_stood_still_counts_no_more() -> None:
    n = Node(STANDBY).linked()
    assert hear_word(n, 300) == 0
    n.now += 200
    n.call("tick")
    assert hear_word(n, 390) == 0


def test_what_is_fenced_there_is_taken_over_with_its_shadows() -> None:
    n = Node(STANDBY).linked()
    assert hear_word(n, 1000, fenced=True) == TAKEOVER | DROP
    assert (n.now - 1000, n.owner.state[0]) == (100, OWNER)
    assert n.owner.first_by_ns  # it speaks within the lease, or not


def test_without_shadows_or_the_lan_it_is_left_to_hello() -> None:
    n = Node(STANDBY).linked()
    n.owner.shadows_void = 1
    assert hear_word(n, 1000, fenced=True) == DROP
    n = Node(STANDBY, lan=False).linked()
    n.lan_heard()
    n.present = False
    n.now += 400
    n.call("tick")
    n.tick(n.now + 400 - 1000)
    n.call("link_up")
    assert hear_word(n, 1000, fenced=True) == DROP
