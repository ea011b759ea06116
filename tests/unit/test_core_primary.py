"""The primary's side of a flow: hold, replicate, release, give up (R2-R7, R19).

Checks L4, R2, R3, R4, R5, R6, R7, R10, R12, R19.
"""

import pytest
from prl._core import lib

from tests.unit.core_support import EDGE_FAR, MS, Primary

SETUP = lib.PRL_PRIMARY_SETUP
ACTIVE = lib.PRL_PRIMARY_ACTIVE
VOIDING = lib.PRL_PRIMARY_VOIDING
OPEN = lib.PRL_PRIMARY_OPEN
GONE = lib.PRL_PRIMARY_GONE
NO_SPACE = lib.PRL_REASON_NO_SPACE
TIMEOUT = lib.PRL_REASON_TIMEOUT
FIN = lib.PRL_OUTPUT_FIN
RST = lib.PRL_OUTPUT_RST


def test_setup_queues_everything_and_passes_nothing() -> None:
    p = Primary()
    assert p.open() == [("state", SETUP, 0)]
    assert p.input(1, 0, 10) == []
    assert p.output(2, 0, 10) == []
    assert p.waiting() == 2


def test_activation_confirms_then_replicates_what_waited_in_order() -> None:
    p = Primary()
    p.open()
    for name in range(10):
        p.input(name, name * 10, 10)
    assert p.activate(committed=5) == [("commit", 5), ("send_active",), ("state", ACTIVE, 0)]
    more, first = p.drain()
    assert more
    assert first == [("replicate", n + 1, n) for n in range(8)]
    assert p.input(10, 100, 10) == []  # newer packets queue behind
    more, rest = p.drain()
    assert not more
    assert rest == [("replicate", n + 1, n) for n in range(8, 11)]
    assert p.input(11, 110, 10) == [("replicate", 12, 11)]


def test_drain_releases_output_that_the_snapshot_has() -> None:
    p = Primary()
    p.open()
    p.output(1, 0, 10)
    p.output(2, 10, 10)
    p.output(3, 20, 10)
    p.output(4, 0, 10, bits=RST)
    p.activate(committed=20)
    assert p.drain() == (False, [("release_output", [1, 2]), ("output", 1, 3), ("output", 2, 4)])


def test_ack_is_cumulative_and_releases_in_order() -> None:
    p = Primary().active()
    for name in range(1, 5):
        assert p.input(name, name * 10, 10) == [("replicate", name, name)]
    assert p.ack(3) == [("release_input", [1, 2, 3])]
    assert p.ack(3) == []
    assert p.ack(4) == [("release_input", [4])]
    assert p.flow.counters.released_packets == 4
    assert p.pool.used == 0


def test_numbers_wrap() -> None:
    p = Primary().active()
    p.flow.in_next, p.flow.in_acked = 0xFFFFFFFF, 0xFFFFFFFE
    assert p.input(1) == [("replicate", 0xFFFFFFFF, 1)]
    assert p.input(2) == [("replicate", 0, 2)]
    assert p.ack(0) == [("release_input", [1, 2])]
    assert p.flow.in_acked == 0


@pytest.mark.parametrize("reason", [0, NO_SPACE, lib.PRL_REASON_NOT_ACTIVE])
def test_an_answer_to_what_was_never_sent_is_ignored(reason: int) -> None:
    p = Primary().active()
    p.input(1)
    assert p.ack(2, reason) == []
    assert p.output_ack(1, 0, reason) == []
    assert p.flow.counters.stale_acks == 2
    assert p.waiting() == 1


def test_nack_no_space_drops_that_packet_alone() -> None:
    p = Primary().active()
    for name in range(1, 5):
        p.input(name, 0, 10)
    assert p.ack(2, NO_SPACE, 50) == [("release_input", [1]), ("refuse", [2])]
    assert p.ack(2, NO_SPACE) == []  # a second NACK of the same message is stale
    assert p.ack(4) == [("release_input", [3, 4])]
    counters = p.flow.counters
    assert (counters.nacks, counters.dropped_nack, counters.stale_acks) == (1, 1, 1)


def retrying(tries: int = 3) -> Primary:
    p = Primary().active()
    p.limits.nack_retry, p.limits.retries_max, p.limits.retry_ns = True, tries, 20 * MS
    return p


def test_nack_retry_goes_back_and_sends_the_same_numbers_again() -> None:
    p = retrying()
    for name in range(1, 5):
        p.input(name, 0, 10)
    assert p.ack(2, NO_SPACE, 50) == [("release_input", [1])]
    assert p.input(5, 0, 10) == []  # behind what waits
    assert p.drain() == (False, [])  # not yet
    assert not lib.prl_primary_wants_drain(p.flow, p.now_ns)
    p.now_ns += 20 * MS
    assert lib.prl_primary_wants_drain(p.flow, p.now_ns)
    again = [("replicate", 2, 2), ("replicate", 3, 3), ("replicate", 4, 4), ("replicate", 5, 5)]
    assert p.drain() == (False, again)
    assert p.ack(5) == [("release_input", [2, 3, 4, 5])]
    assert p.flow.counters.retried == 3
    assert p.flow.counters.dropped_nack == 0


def test_nack_retry_need_not_wait_when_the_space_grows() -> None:
    p = Primary()
    p.open()
    p.activate(edge=EDGE_FAR, peer_edge=100)
    p.limits.nack_retry, p.limits.retries_max, p.limits.retry_ns = True, 3, 1000 * MS
    p.input(1, 90, 10)
    assert p.ack(1, NO_SPACE, 100) == []
    assert not lib.prl_primary_wants_drain(p.flow, p.now_ns)
    lib.prl_primary_flowctl(p.flow, 500)
    assert lib.prl_primary_wants_drain(p.flow, p.now_ns)
    assert p.drain() == (False, [("replicate", 1, 1)])


def test_nack_retry_is_bounded() -> None:
    p = retrying(tries=2)
    p.input(1, 0, 10)
    for _ in range(2):
        assert p.ack(1, NO_SPACE) == []
        p.now_ns += 20 * MS
        assert p.drain() == (False, [("replicate", 1, 1)])
    assert p.ack(1, NO_SPACE) == [("state", VOIDING, NO_SPACE), ("send_void", NO_SPACE)]
    assert p.void_done() == [("release_input", [1]), ("state", OPEN, NO_SPACE)]


@pytest.mark.parametrize("reason", [lib.PRL_REASON_INVALID_HANDLE, lib.PRL_REASON_NOT_ACTIVE])
def test_other_nacks_void_the_shadow_first_and_then_open(reason: int) -> None:
    p = Primary().active()
    for name in range(1, 4):
        p.input(name)
    p.output(9, 0, 10)
    assert p.ack(2, reason) == [
        ("release_input", [1]),
        ("state", VOIDING, reason),
        ("send_void", reason),
    ]
    assert p.input(4) == []
    assert p.output(10, 10, 10) == []
    assert p.ack(3) == []  # too late: nothing passes before the shadow is void
    assert p.void_done() == [
        ("release_input", [2, 3, 4]),
        ("release_output", [9, 10]),
        ("state", OPEN, reason),
    ]
    assert p.input(5) == [("release_input", [5])]
    assert p.output(11) == [("release_output", [11])]
    assert p.flow.counters.flushed_packets == 4
    assert p.flow.counters.output_flushed == 3


def test_payload_beyond_either_space_reaches_neither_side_and_is_answered() -> None:
    p = Primary()
    p.open()
    p.activate(edge=200, peer_edge=100)
    assert p.input(1, 90, 10, edge=200) == [("replicate", 1, 1)]
    assert p.input(2, 91, 10, edge=200) == [("refuse", [2])]
    assert p.input(3, 500, 0, edge=200) == [("replicate", 2, 3)]  # no payload: always passes
    lib.prl_primary_flowctl(p.flow, 300)
    assert p.input(4, 191, 10, edge=200) == [("refuse", [4])]
    assert p.input(5, 191, 10, edge=201) == [("replicate", 3, 5)]
    lib.prl_primary_flowctl(p.flow, 150)  # an older word: the edge never moves back
    assert p.flow.peer_edge == 300
    assert p.flow.counters.dropped_space == 2


def test_space_is_compared_over_the_wrap() -> None:
    p = Primary()
    p.open()
    p.activate(edge=5, peer_edge=0xFFFFFFF0)
    assert p.input(1, 0xFFFFFFE0, 0x10, edge=5) == [("replicate", 1, 1)]
    assert p.input(2, 0xFFFFFFF0, 4, edge=5) == [("refuse", [2])]
    p.ack(1, space=8)
    assert p.input(3, 0xFFFFFFF0, 0x15, edge=5) == [("replicate", 2, 3)]
    assert p.input(4, 0xFFFFFFF0, 0x16, edge=5) == [("refuse", [4])]


def test_udp_has_no_space() -> None:
    p = Primary()
    p.open()
    p.activate(edge=0, peer_edge=0, known=False)
    assert p.input(1, 10, 10, edge=0) == [("replicate", 1, 1)]


def test_pending_packets_are_judged_by_the_space_when_they_are_sent() -> None:
    p = Primary()
    p.open()
    p.input(1, 0, 10)
    p.input(2, 10, 10)
    p.activate(edge=10, peer_edge=10)
    assert p.drain(edge=10) == (False, [("replicate", 1, 1), ("refuse", [2])])


@pytest.mark.parametrize("state", [SETUP, ACTIVE, VOIDING])
def test_limits_drop_the_newest_packet_and_count_it(state: int) -> None:
    p = Primary(packets_max=3, bytes_max=250)
    p.open()
    if state != SETUP:
        p.activate()
    if state == VOIDING:
        p.fail(TIMEOUT)
    for name in range(3):
        p.input(name, size=50)
        p.output(10 + name, 0, 10, size=50)
    assert p.input(3, size=1) == [("drop", [3])]
    assert p.output(13, 0, 10, size=1) == [("drop", [13])]
    assert p.flow.counters.dropped_full == 2


def test_limit_in_bytes() -> None:
    p = Primary(bytes_max=250).active()
    p.input(1, size=200)
    assert p.input(2, size=51) == [("drop", [2])]
    assert p.input(3, size=50) == [("replicate", 2, 3)]


def test_output_leaves_after_the_shadow_has_sent_it() -> None:
    p = Primary().active()
    assert p.output(1, 0, 10) == [("output", 1, 1)]
    assert p.output(2, 10, 10) == [("output", 2, 2)]
    assert p.output(3, 20, 10) == [("output", 3, 3)]
    assert p.output_ack(2, 20) == [("commit", 20), ("release_output", [1, 2])]
    assert p.output(4, 0, 20) == [("release_output", [4])]  # a committed retransmission
    assert p.output(5, 15, 10) == [("output", 4, 5)]  # partly new
    assert p.output(6, 30, 0) == [("release_output", [6])]  # says nothing
    assert p.output_ack(4, 30) == [("commit", 30), ("release_output", [3, 5])]
    assert p.flow.committed == 30


def test_fin_and_rst_wait_whatever_is_committed() -> None:
    p = Primary().active()
    assert p.output(1, 0, 1, bits=FIN) == [("output", 1, 1)]
    assert p.output_ack(1, 1) == [("commit", 1), ("release_output", [1])]
    assert p.output(2, 0, 1, bits=FIN) == [("output", 2, 2)]
    assert p.output(3, 777, 0, bits=RST) == [("output", 3, 3)]
    assert p.output_ack(3, 1) == [("release_output", [2, 3])]


def test_an_acknowledgement_without_the_bytes_is_a_difference() -> None:
    p = Primary().active()
    p.output(1, 0, 10)
    p.output(2, 10, 10)
    diverged = lib.PRL_REASON_DIVERGED
    assert p.output_ack(1, 9) == [("state", VOIDING, diverged), ("send_void", diverged)]
    assert p.flow.committed == 0
    assert p.void_done() == [("release_output", [1, 2]), ("state", OPEN, diverged)]


def test_output_is_taken_without_holes() -> None:
    p = Primary().active()
    assert p.output(1, 0, 10) == [("output", 1, 1)]
    assert p.output(2, 20, 10) == [("drop", [2])]  # 10 to 20 was lost on its way here
    assert p.output(3, 5, 10) == [("output", 2, 3)]
    assert p.output(4, 15, 5) == [("output", 3, 4)]
    assert p.output(5, 20, 10) == [("output", 4, 5)]
    assert p.flow.counters.dropped_hole == 1


def test_output_nack_commits_what_came_before() -> None:
    p = Primary().active()
    p.output(1, 0, 10)
    p.output(2, 10, 10)
    reason = lib.PRL_REASON_NOT_ACTIVE
    assert p.output_ack(2, 10, reason) == [
        ("commit", 10),
        ("release_output", [1]),
        ("state", VOIDING, reason),
        ("send_void", reason),
    ]


def test_deadline_is_that_of_the_oldest_unanswered_message() -> None:
    p = Primary(answer_ms=50).active()
    start = p.now_ns
    assert lib.prl_primary_deadline(p.flow) == 2**64 - 1
    p.input(1)
    p.tick(20)
    p.input(2)
    p.output(3, 0, 10)
    assert lib.prl_primary_deadline(p.flow) == start + 50 * MS
    p.tick(10)
    p.ack(1)
    assert lib.prl_primary_deadline(p.flow) == start + 70 * MS
    p.output_ack(1, 10)
    assert p.tick(39) == []
    assert p.tick(1) == [("state", VOIDING, TIMEOUT), ("send_void", TIMEOUT)]


def test_output_has_a_deadline_of_its_own() -> None:
    p = Primary(answer_ms=50).active()
    p.output(1, 0, 10)
    p.tick(40)
    p.input(2)
    p.ack(1)
    assert p.tick(10) == [("state", VOIDING, TIMEOUT), ("send_void", TIMEOUT)]


def test_the_time_of_a_pending_packet_counts_from_when_it_was_sent() -> None:
    p = Primary(answer_ms=50, setup_ms=100)
    p.open()
    p.input(1)
    p.tick(90)
    p.activate()
    p.drain()
    assert p.tick(49) == []
    assert p.tick(1) != []


def test_setup_that_takes_too_long_opens_at_once() -> None:
    p = Primary(setup_ms=100)
    p.open()
    p.input(1, 0, 10)
    p.output(2, 0, 10)
    assert p.tick(99) == []
    assert p.tick(1) == [
        ("release_input", [1]),
        ("release_output", [2]),
        ("state", OPEN, TIMEOUT),
    ]
    assert p.activate() == []  # a late SETUP_DONE is nobody's
    assert p.flow.state == OPEN


def test_void_is_said_again_when_the_link_is_back() -> None:
    p = Primary().active()
    lost = lib.PRL_REASON_LINK_LOST
    assert p.fail(lost, link_up=False) == [("state", VOIDING, lost)]
    assert p.fail(TIMEOUT) == []
    assert p.tick(100, link_up=False) == []
    assert p.tick(99) == []
    assert p.tick(1) == [("send_void", lost)]
    assert p.tick(100) == [("send_void", lost)]
    p.void_done()
    assert p.tick(1000) == []


@pytest.mark.parametrize("state", [SETUP, ACTIVE, VOIDING, OPEN])
def test_fencing_drops_everything(state: int) -> None:
    p = Primary()
    p.open()
    p.input(1)
    p.output(2, 0, 10)
    if state != SETUP:
        p.activate()
        p.drain()
        p.input(3)
    if state in {VOIDING, OPEN}:
        p.fail(TIMEOUT)
        p.input(4)
    if state == OPEN:
        p.void_done()
    assert p.flow.state == state
    actions = p.fence()
    assert actions[-1] == ("state", GONE, 0)
    assert p.waiting() == 0
    assert p.pool.used == 0
    assert p.fence() == []
    assert p.input(5) == [("drop", [5])]
    assert p.output(6) == [("drop", [6])]
    assert p.void_done() == []


def test_a_flow_is_protected_again_with_a_new_generation() -> None:
    p = Primary().active()
    p.input(1)
    assert p.open(2) == []  # only GONE or OPEN flows
    assert p.flow.generation == 1
    p.fail(TIMEOUT)
    p.void_done()
    assert p.open(2) == [("state", SETUP, 0)]
    assert p.flow.counters.replicated_packets == 1
    p.activate()
    assert p.input(2) == [("replicate", 1, 2)]


def test_hold_time_is_measured() -> None:
    p = Primary().active()
    p.input(1)
    p.tick(3)
    p.input(2)
    p.tick(4)
    p.ack(2)
    assert p.flow.counters.hold_ns_sum == 11 * MS
    assert p.flow.counters.hold_us_max == 7000
