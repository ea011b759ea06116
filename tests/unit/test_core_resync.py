"""Sessions that go on after a flap of the link without a new snapshot: both sides of one flow.

Checks L10.
"""

import pytest
from prl._core import ffi, lib

from tests.unit.core_support import EDGE_FAR, Action, Primary

ACTIVE, ALONE = lib.PRL_PRIMARY_ACTIVE, lib.PRL_PRIMARY_ALONE
OPEN, VOIDING = lib.PRL_PRIMARY_OPEN, lib.PRL_PRIMARY_VOIDING
LOST, TIMEOUT = lib.PRL_REASON_LINK_LOST, lib.PRL_REASON_TIMEOUT
SUSPENDED, VOID = lib.PRL_SECONDARY_SUSPENDED, lib.PRL_SECONDARY_VOID
RESUMED: list[Action] = [("send_active",), ("state", ACTIVE, 0)]


def lost() -> Primary:
    """An active flow whose link has just gone."""
    p = Primary().active()
    p.input(1, 0, 10)
    p.output(2, 0, 10)
    p.ack(1)
    p.output_ack(1, 10)
    p.fail(LOST, link_up=False)
    return p


def alone() -> Primary:
    p = lost()
    assert p.void_done(kept=True) == [("state", ALONE, LOST)]
    return p


def test_a_quiet_flow_goes_on_from_where_it_was() -> None:
    p = alone()
    assert p.link_back()
    assert p.resume(2, 2) == (True, RESUMED)
    assert p.flow.generation == 1
    assert p.input(3, 10, 10) == [("replicate", 2, 3)]
    assert p.output(4, 10, 10) == [("output", 2, 4)]


@pytest.mark.parametrize("is_output", [False, True])
def test_the_first_packet_opens_a_flow_that_is_alone_and_goes_before_all_newer_ones(
    is_output: bool,
) -> None:
    p = alone()
    actions = p.output(3, 10, 10) if is_output else p.input(3, 10, 10)
    release = "release_output" if is_output else "release_input"
    assert actions == [(release, [3]), ("state", OPEN, LOST)]
    assert not p.link_back()
    assert p.resume(2, 2) == (False, [])
    assert p.flow.state == OPEN


def test_what_waits_while_the_link_is_away_is_no_quiet_flow_s() -> None:
    p = Primary().active()
    p.input(1, 0, 10)
    p.fail(LOST, link_up=False)
    p.input(2, 10, 10)
    assert p.void_done(kept=True) == [("release_input", [1, 2]), ("state", OPEN, LOST)]


def test_a_flow_whose_shadow_is_void_for_good_opens() -> None:
    assert lost().void_done() == [("state", OPEN, LOST)]


def test_without_a_receive_space_there_is_no_going_on() -> None:
    """UDP: datagrams that the socket has dropped are not in the numbers."""
    p = Primary()
    p.open()
    p.activate(known=False)
    p.fail(LOST, link_up=False)
    assert p.void_done(kept=True) == [("state", OPEN, LOST)]


def test_what_the_secondary_lacks_is_sent_again_under_the_same_numbers() -> None:
    p = Primary().active()
    for name in range(1, 5):
        p.input(name, 10 * name, 10)
    for name in range(5, 8):
        p.output(name, 10 * (name - 5), 10)
    p.ack(1)
    p.output_ack(1, 10)
    p.fail(LOST, link_up=False)
    p.input(8, 50, 10)  # while the link is away
    p.output(9, 30, 10)
    assert p.link_back()
    assert p.resume(4, 3) == (True, RESUMED)  # it has input 2 and 3, output 2: their ACKs were lost
    assert p.drain() == (
        False,
        [("output", 3, 7), ("output", 4, 9), ("replicate", 4, 4), ("replicate", 5, 8)],
    )
    assert p.flow.counters.resent == 2
    assert p.ack(3) == [("release_input", [2, 3])]
    assert p.output_ack(4, 40) == [("commit", 40), ("release_output", [6, 7, 9])]
    assert p.ack(5) == [("release_input", [4, 8])]
    assert p.pool.used == 0


def test_output_that_is_not_there_yet_may_not_follow_a_hole() -> None:
    p = Primary().active()
    p.output(1, 0, 10)
    p.output(2, 10, 10)
    p.fail(LOST, link_up=False)
    p.link_back()
    p.resume(1, 1)
    assert p.flow.out_tcp_next == p.flow.committed == 0
    assert p.drain() == (False, [("output", 1, 1), ("output", 2, 2)])
    assert p.output(3, 30, 10) == [("drop", [3])]


@pytest.mark.parametrize(
    ("in_next", "out_next"),
    [(1, 2), (3, 2), (2, 1), (2, 3), (0, 2), (1 << 31, 2)],
)
def test_a_secondary_that_lacks_what_has_passed_or_has_what_was_never_sent(
    in_next: int, out_next: int
) -> None:
    p = alone()
    p.link_back()
    assert p.resume(in_next, out_next) == (False, [("state", OPEN, LOST)])
    assert p.input(3) == [("release_input", [3])]


def test_a_refusal_that_was_lost_with_the_link_ends_it() -> None:
    """R5: the number is used, and the secondary's socket never had the packet."""
    p = Primary().active()
    p.input(1, 0, 10)
    p.input(2, 10, 10)
    p.ack(1)
    p.fail(LOST, link_up=False)
    p.link_back()
    assert p.resume(3, 1, refused=2) == (False, [])
    assert p.tick(0) == [("send_void", LOST)]
    assert p.void_done() == [("release_input", [2]), ("state", OPEN, LOST)]


def test_a_refusal_that_has_come_is_done_with() -> None:
    p = Primary().active()
    p.input(1, 0, 10)
    p.ack(1, lib.PRL_REASON_NO_SPACE)
    p.fail(LOST, link_up=False)
    p.link_back()
    assert p.resume(2, 1, refused=1) == (True, RESUMED)


def test_a_flow_waits_for_the_secondary_s_word_before_it_says_void() -> None:
    p = lost()
    assert p.tick(100) == [("send_void", LOST)]  # a link that was silent only
    assert p.link_back()
    assert p.tick(100) == []
    assert p.give_up() == []
    assert p.tick(0) == [("send_void", LOST)]
    assert p.resume(2, 2) == (False, [])


def test_who_has_said_void_in_this_epoch_does_not_go_on() -> None:
    """The secondary has it, or will, and what it says of its shadow is of before."""
    p = lost()
    p.link_back()
    assert p.resume(2, 2)[0]
    assert p.fail(LOST) == [("state", VOIDING, LOST), ("send_void", LOST)]
    assert p.resume(2, 2) == (False, [])
    assert p.flow.state == VOIDING


def test_another_failure_meanwhile_ends_it() -> None:
    p = lost()
    assert p.fail(TIMEOUT) == []
    assert not p.link_back()
    p = alone()
    assert p.fail(LOST) == []  # the link is lost once more
    assert p.fail(TIMEOUT) == [("state", OPEN, TIMEOUT)]


def test_nobody_says_anything_of_it() -> None:
    p = alone()
    p.link_back()
    assert p.give_up() == [("state", OPEN, LOST)]
    assert p.give_up() == []


def test_answers_are_due_anew_and_space_only_grows() -> None:
    p = Primary()
    p.open()
    p.activate(peer_edge=500)
    p.input(1, 0, 10)
    p.tick(40)
    p.fail(LOST, link_up=False)
    p.link_back()
    p.resume(2, 1, space=400)
    assert p.flow.peer_edge == 500
    assert p.flow.queues.in_deadline_ns == p.now_ns + p.limits.answer_ns
    p.fail(LOST, link_up=False)
    p.link_back()
    p.resume(2, 1, space=600)
    assert p.flow.peer_edge == 600


@pytest.fixture
def shadow() -> object:
    flow = ffi.new("struct prl_secondary *")
    lib.prl_secondary_open(flow, 7, 3, 100, EDGE_FAR, True)
    return flow


def confirmed(flow: object) -> bool:
    return bool(lib.prl_secondary_confirm(flow, 3, 0))


def test_a_shadow_waits_and_is_good_again_on_the_primary_s_word(shadow: object) -> None:
    assert confirmed(shadow)
    assert lib.prl_secondary_suspend(shadow)
    assert shadow.state == SUSPENDED
    reason = ffi.new("uint8_t *")
    verdict = lib.prl_secondary_replicate(shadow, 1, 0, 0, 0, 40, EDGE_FAR, reason)
    assert (verdict, reason[0]) == (lib.PRL_VERDICT_NACK, lib.PRL_REASON_NOT_ACTIVE)
    assert not lib.prl_secondary_confirm(shadow, 2, 0)
    assert confirmed(shadow)
    assert (shadow.ack_due, shadow.out_ack_due) == (1, 1)  # they may have been lost
    assert lib.prl_secondary_takeover(shadow)


def test_a_suspended_shadow_never_speaks(shadow: object) -> None:
    confirmed(shadow)
    lib.prl_secondary_suspend(shadow)
    assert not lib.prl_secondary_takeover(shadow)
    assert shadow.state == VOID
    assert not confirmed(shadow)  # void latches


def test_a_shadow_that_was_never_confirmed_does_not_wait(shadow: object) -> None:
    assert not lib.prl_secondary_suspend(shadow)
    assert lib.prl_secondary_void(shadow, LOST)
    assert not lib.prl_secondary_suspend(shadow)
    assert shadow.state == VOID


def test_what_was_refused_is_remembered(shadow: object) -> None:
    confirmed(shadow)
    reason = ffi.new("uint8_t *")
    lib.prl_secondary_replicate(shadow, 1, 0, 11, 1, 41, 10, reason)
    assert reason[0] == lib.PRL_REASON_NO_SPACE
    assert (shadow.in_next, shadow.has_refused, shadow.refused) == (2, 1, 1)
