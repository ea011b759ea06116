"""The secondary's side of a flow: accept or refuse, acknowledge, latch void, take over (R8-R10).

Checks R5, R8, R9.
"""

from typing import Any

import pytest
from prl._core import ffi, lib

ACCEPT = lib.PRL_VERDICT_ACCEPT
NACK = lib.PRL_VERDICT_NACK
VOID = lib.PRL_VERDICT_VOID
MASK = 0xFFFFFFFF


class Shadow:
    """One flow's secondary side."""

    def __init__(self, out_tcp_next: int = 100, edge: int = 1000, *, known: bool = True) -> None:
        self.flow: Any = ffi.new("struct prl_secondary *")
        self.edge = edge
        lib.prl_secondary_open(self.flow, 7, 3, out_tcp_next & MASK, edge & MASK, known)

    def replicate(
        self, seq: int, end: int = 0, payload: int = 0, space: int = 0
    ) -> tuple[int, int]:
        reason = ffi.new("uint8_t *")
        verdict = lib.prl_secondary_replicate(
            self.flow, seq, space, end & MASK, payload, payload + 40, self.edge & MASK, reason
        )
        return verdict, reason[0]

    def output(self, seq: int, tcp_seq: int, payload: int) -> tuple[int, int]:
        """The verdict, and the bytes to skip or the reason of a refusal."""
        skip, reason = ffi.new("uint32_t *"), ffi.new("uint8_t *")
        verdict = lib.prl_secondary_output(self.flow, seq, tcp_seq & MASK, payload, skip, reason)
        return verdict, skip[0] if verdict == ACCEPT else reason[0]

    def append(self, seq: int, tcp_seq: int, payload: int, *, fin: bool = False) -> int:
        verdict, skip = self.output(seq, tcp_seq, payload)
        assert verdict == ACCEPT
        lib.prl_secondary_output_done(self.flow, payload - skip, fin)
        return payload - skip

    def take_ack(self) -> tuple[int, int] | None:
        seq, space = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        due = lib.prl_secondary_take_ack(self.flow, self.edge & MASK, seq, space)
        return (seq[0], space[0]) if due else None

    def take_output_ack(self, unsent: int = 0) -> tuple[int, int] | None:
        seq, tcp_seq = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        due = lib.prl_secondary_take_output_ack(self.flow, unsent, seq, tcp_seq)
        return (seq[0], tcp_seq[0]) if due else None

    def grew(self) -> int | None:
        space = ffi.new("uint32_t *")
        due = lib.prl_secondary_space_grew(self.flow, self.edge & MASK, space)
        return space[0] if due else None


def test_one_cumulative_ack_for_a_batch() -> None:
    s = Shadow(edge=500)
    assert s.take_ack() is None
    for seq in (1, 2, 3):
        assert s.replicate(seq, 10 * seq, 10) == (ACCEPT, 0)
    assert s.take_ack() == (3, 500)
    assert s.take_ack() is None
    assert s.flow.counters.accepted_packets == 3
    assert s.flow.counters.accepted_bytes == 150


def test_an_ack_before_a_nack_stops_before_the_refused_message() -> None:
    s = Shadow(edge=100)
    assert s.replicate(1, 100, 10) == (ACCEPT, 0)
    assert s.replicate(2, 101, 1) == (NACK, lib.PRL_REASON_NO_SPACE)
    assert s.take_ack() == (1, 100)
    assert s.take_ack() is None
    assert s.replicate(3, 5000, 0) == (ACCEPT, 0)  # no payload always passes
    assert s.take_ack() == (3, 100)


def test_with_retry_nothing_passes_a_refused_message() -> None:
    s = Shadow(edge=100)
    s.flow.nack_retry = True
    assert s.replicate(1, 101, 1) == (NACK, lib.PRL_REASON_NO_SPACE)
    assert s.replicate(2, 50, 0) == (lib.PRL_VERDICT_IGNORE, 0)
    assert s.replicate(3, 50, 1) == (lib.PRL_VERDICT_IGNORE, 0)
    assert s.replicate(1, 101, 1) == (NACK, lib.PRL_REASON_NO_SPACE)
    s.edge = 200
    assert s.replicate(1, 101, 1) == (ACCEPT, 0)
    assert s.replicate(2, 50, 0) == (ACCEPT, 0)
    assert s.take_ack() == (2, 200)
    assert s.replicate(4, 50, 0) == (VOID, lib.PRL_REASON_DIVERGED)  # a hole that nobody made


def test_space_is_compared_over_the_wrap() -> None:
    s = Shadow(edge=4)
    assert s.replicate(1, 4, 10) == (ACCEPT, 0)
    assert s.replicate(2, 5, 10) == (NACK, lib.PRL_REASON_NO_SPACE)
    s.edge = -4
    assert s.replicate(3, -4, 10) == (ACCEPT, 0)
    assert s.replicate(4, 0, 4) == (NACK, lib.PRL_REASON_NO_SPACE)


def test_udp_has_no_space() -> None:
    assert Shadow(edge=0, known=False).replicate(1, 99, 10) == (ACCEPT, 0)


@pytest.mark.parametrize("seq", [0, 2, 1 << 31])
def test_a_number_that_is_not_the_next_voids(seq: int) -> None:
    s = Shadow()
    assert s.replicate(seq) == (VOID, lib.PRL_REASON_DIVERGED)
    assert s.flow.state == lib.PRL_SECONDARY_VOID
    assert s.replicate(1) == (NACK, lib.PRL_REASON_NOT_ACTIVE)
    assert s.take_ack() is None


def test_numbers_wrap() -> None:
    s = Shadow()
    s.flow.in_next = MASK
    assert s.replicate(MASK) == (ACCEPT, 0)
    assert s.replicate(0) == (ACCEPT, 0)
    assert s.take_ack() == (0, 1000)


def test_a_flow_that_is_not_there_is_an_invalid_handle() -> None:
    s = Shadow()
    s.flow.state = lib.PRL_SECONDARY_GONE
    assert s.replicate(1) == (NACK, lib.PRL_REASON_INVALID_HANDLE)
    assert s.output(1, 100, 1) == (NACK, lib.PRL_REASON_INVALID_HANDLE)


def test_output_is_appended_once() -> None:
    s = Shadow(out_tcp_next=-5)
    assert s.append(1, -5, 10) == 10
    assert s.take_output_ack() == (1, 5)
    assert s.append(2, -5, 10) == 0  # a retransmission
    assert s.append(3, 0, 12) == 7  # partly new
    assert s.take_output_ack() == (3, 12)
    assert s.take_output_ack() is None
    assert s.flow.out_bytes == 17


def test_output_is_acknowledged_only_as_far_as_it_was_sent() -> None:
    s = Shadow(out_tcp_next=100)
    assert s.append(1, 100, 10) == 10
    assert s.take_output_ack(unsent=4) is None  # marks 1, which ends at 110
    assert s.append(2, 110, 10) == 10
    assert s.take_output_ack(unsent=11) is None
    assert s.take_output_ack(unsent=10) == (1, 110)  # marks 2: a busy stream is never quite sent
    assert s.append(3, 120, 10) == 10
    assert s.take_output_ack(unsent=10) == (2, 120)
    assert s.take_output_ack() == (3, 130)
    assert s.take_output_ack() is None


@pytest.mark.parametrize(("seq", "tcp_seq"), [(1, 101), (2, 100), (0, 100)])
def test_a_hole_in_the_output_voids(seq: int, tcp_seq: int) -> None:
    s = Shadow(out_tcp_next=100)
    assert s.output(seq, tcp_seq, 10) == (VOID, lib.PRL_REASON_DIVERGED)
    assert s.flow.state == lib.PRL_SECONDARY_VOID


def test_a_fin_counts_once() -> None:
    s = Shadow(out_tcp_next=100)
    assert s.append(1, 100, 5, fin=True) == 5
    assert s.take_output_ack() == (1, 106)
    assert s.append(2, 100, 5, fin=True) == 0
    assert s.append(3, 105, 0, fin=True) == 0
    assert s.append(4, 106, 0) == 0  # an RST behind it
    assert s.take_output_ack() == (4, 106)
    assert s.flow.out_bytes == 5
    assert s.output(5, 103, 3) == (VOID, lib.PRL_REASON_DIVERGED)


def test_growth_is_announced_once_and_never_back() -> None:
    s = Shadow(edge=100)
    assert s.grew() is None
    s.edge = 300
    assert s.grew() == 300
    assert s.grew() is None
    s.edge = 200
    assert s.replicate(1) == (ACCEPT, 0)
    assert s.take_ack() == (1, 300)
    assert s.grew() is None


def test_the_primarys_edge_is_merged_by_serial_maximum() -> None:
    s = Shadow(edge=-100)
    s.replicate(1, space=20)
    s.replicate(2, space=MASK)
    assert s.flow.primary_edge == 20


def test_void_latches() -> None:
    s = Shadow()
    s.replicate(1)
    assert lib.prl_secondary_void(s.flow, lib.PRL_REASON_LINK_LOST)
    assert not lib.prl_secondary_void(s.flow, lib.PRL_REASON_TIMEOUT)
    assert s.flow.reason == lib.PRL_REASON_LINK_LOST
    assert not lib.prl_secondary_takeover(s.flow)
    assert s.flow.state == lib.PRL_SECONDARY_VOID
    assert not lib.prl_secondary_confirm(s.flow, 3, 0)


@pytest.mark.parametrize("how", ["confirm", "replicate", "output"])
def test_a_confirmed_shadow_takes_over(how: str) -> None:
    s = Shadow(out_tcp_next=100)
    if how == "confirm":
        assert not lib.prl_secondary_confirm(s.flow, 2, 0)  # another snapshot's
        assert lib.prl_secondary_confirm(s.flow, 3, 0)
    elif how == "replicate":
        s.replicate(1)
    else:
        s.append(1, 100, 1)
    assert not lib.prl_secondary_go_on(s.flow)
    assert not lib.prl_secondary_is_taken(s.flow)
    assert lib.prl_secondary_takeover(s.flow)
    for state in (lib.PRL_SECONDARY_TAKING, lib.PRL_SECONDARY_OWNER):
        assert s.flow.state == state
        assert lib.prl_secondary_is_taken(s.flow)
        assert not lib.prl_secondary_takeover(s.flow)
        assert not lib.prl_secondary_void(s.flow, lib.PRL_REASON_REQUESTED)
        assert not lib.prl_secondary_suspend(s.flow)
        assert not lib.prl_secondary_confirm(s.flow, 3, 0)
        assert s.replicate(2) == (NACK, lib.PRL_REASON_NOT_ACTIVE)
        assert lib.prl_secondary_go_on(s.flow) == (state == lib.PRL_SECONDARY_TAKING)


def test_a_shadow_that_the_primary_never_confirmed_does_not_speak() -> None:
    s = Shadow()
    assert not lib.prl_secondary_takeover(s.flow)
    assert s.flow.state == lib.PRL_SECONDARY_VOID


def test_a_reset_behind_dropped_output_is_the_end_and_no_difference() -> None:
    s = Shadow(out_tcp_next=1000)
    reason = ffi.new("uint8_t *")
    assert lib.prl_secondary_reset(s.flow, 1, reason) == ACCEPT
    assert s.take_output_ack() == (1, 1000)
    assert lib.prl_secondary_reset(s.flow, 3, reason) == VOID  # a number is missing
    assert reason[0] == lib.PRL_REASON_DIVERGED


def test_a_shadow_that_had_sent_its_fin_counts_it_once() -> None:
    s = Shadow(out_tcp_next=1001)
    lib.prl_secondary_has_ended(s.flow)
    assert s.append(1, 990, 10, fin=True) == 0  # the primary's retransmission
    assert s.flow.out_tcp_next == 1001


@pytest.mark.parametrize("had_its_turn", [False, True])
def test_only_a_shadow_that_took_over_can_be_fenced_and_never_speaks_again(
    *, had_its_turn: bool
) -> None:
    s = Shadow()
    assert not lib.prl_secondary_fence(s.flow)
    assert s.flow.state == lib.PRL_SECONDARY_ACTIVE
    assert lib.prl_secondary_confirm(s.flow, 3, 0)
    assert lib.prl_secondary_takeover(s.flow)
    if had_its_turn:
        assert lib.prl_secondary_go_on(s.flow)
    assert lib.prl_secondary_fence(s.flow)
    assert s.flow.state == lib.PRL_SECONDARY_VOID
    assert not lib.prl_secondary_fence(s.flow)
    assert not lib.prl_secondary_takeover(s.flow)
    assert not lib.prl_secondary_go_on(s.flow)
