"""A service moves by word over the link (R21): the machine of one service, and of one flow."""

from collections.abc import Callable
from typing import Any

import pytest
from prl._core import ffi, lib

from tests.unit.core_support import MS, Primary

FORCED = lib.PRL_MOVE_FORCED
IDLE, ASKED, ASKING, DRAINING, SILENT, DOUBT, RELAYING, TAKING = range(8)
REQUEST, PREPARE, HOLD, COMMIT = (1 << n for n in range(4))
RELEASE, RESUME, TAKEN, END, FEED, PROBE, TELL = (1 << n for n in range(4, 11))
ACTIVE, MOVED = lib.PRL_PRIMARY_ACTIVE, lib.PRL_PRIMARY_MOVED
VOIDING, OPEN = lib.PRL_PRIMARY_VOIDING, lib.PRL_PRIMARY_OPEN
NEVER = (1 << 64) - 1


class Move:
    """One service's machine; ``now`` is in ms."""

    def __init__(self) -> None:
        config = self.config = ffi.new("struct prl_move_config *")
        config.drain_ns, config.quiet_ns = 500 * MS, 5 * MS
        config.relay_ns, config.probe_ns = 100 * MS, 1000 * MS
        self.move: Any = ffi.new("struct prl_move *")
        self.now = 1000
        self.reason = ffi.new("uint8_t *")

    @property
    def state(self) -> int:
        return int(self.move.state)

    @property
    def told(self) -> tuple[int, int]:
        return int(self.move.outcome), int(self.move.reason)

    def ask(self, *, owner: bool = True, flags: int = 0) -> int:
        return int(
            lib.prl_move_request(self.move, self.config, owner, flags, self.now * MS, self.reason)
        )

    def give(self) -> int:
        return int(lib.prl_move_give(self.move, self.now * MS, self.reason))

    def prepared(self, shadows: int, flows: int, number: int = 1) -> int:
        return int(lib.prl_move_prepared(self.move, number, shadows, flows))

    def drained(self) -> int:
        return int(lib.prl_move_drained(self.move, self.now * MS))

    def taken(self, number: int = 1) -> int:
        return int(lib.prl_move_taken(self.move, self.config, number, self.now * MS))

    def claimed(self) -> int:
        return int(lib.prl_move_claimed(self.move, self.config, self.now * MS))

    def refused(self, number: int = 1) -> int:
        return int(lib.prl_move_refused(self.move, number, lib.PRL_REASON_LEASE_OVER))

    def link_down(self) -> int:
        return int(lib.prl_move_link_down(self.move, self.now * MS))

    def resolve(self, *, taken: bool) -> int:
        return int(lib.prl_move_resolve(self.move, self.config, taken, self.now * MS))

    def tick(self, after_ms: int = 0, open_at_ms: int | None = 0) -> int:
        self.now += after_ms
        open_at_ns = NEVER if open_at_ms is None else open_at_ms * MS
        return int(lib.prl_move_tick(self.move, self.config, open_at_ns, self.now * MS))

    def silent(self) -> "Move":
        assert self.ask() == PREPARE
        assert self.prepared(2, 2) == HOLD
        assert self.drained() == COMMIT
        return self


def test_a_move_from_question_to_quiet() -> None:
    m = Move().silent()
    assert m.taken() == TAKEN | TELL
    assert m.told == (lib.PRL_MOVE_DONE, 0)
    assert m.claimed() == 0  # what came before the claim may still be behind it
    assert m.tick(4) == 0
    m.move.last_input_ns = m.now * MS
    assert m.tick(4) == 0
    assert m.tick(1) == END
    assert m.state == IDLE


def test_the_claim_is_an_answer_too() -> None:
    m = Move().silent()
    assert m.claimed() == TAKEN | TELL
    assert m.taken() == 0
    assert m.state == RELAYING
    doubt = Move().silent()
    doubt.link_down()
    assert doubt.claimed() == TAKEN | TELL


def test_without_a_claim_relaying_ends_by_its_deadline() -> None:
    m = Move().silent()
    m.taken()
    assert m.tick(99) == 0
    assert m.tick(1) == END


@pytest.mark.parametrize("drains", [False, True])
def test_before_commit_every_failure_leaves_all_as_it_was(*, drains: bool) -> None:
    def under_way() -> Move:
        m = Move()
        m.ask()
        if drains:
            m.prepared(1, 1)
        return m

    failures: list[Callable[[Move], int]] = [
        Move.link_down,
        Move.refused,
        lambda m: m.tick(500),
        lambda m: int(lib.prl_move_fail(m.move, lib.PRL_REASON_UNPROTECTED)),
    ]
    for fails in failures:
        m = under_way()
        assert fails(m) == RELEASE | TELL
        assert m.state == IDLE
        assert m.told[0] == lib.PRL_MOVE_UNDONE
    m = under_way()
    assert m.refused(number=7) == 0  # of another attempt
    assert m.taken() == 0
    assert m.ask() == 0
    assert m.reason[0] == lib.PRL_REASON_BUSY


def test_too_few_shadows_are_refused() -> None:
    m = Move()
    m.ask()
    assert m.prepared(1, 2) == RELEASE | TELL
    assert m.told == (lib.PRL_MOVE_UNDONE, lib.PRL_REASON_UNPROTECTED)


def test_after_commit_only_word_that_nothing_was_emitted_brings_it_back() -> None:
    m = Move().silent()
    assert lib.prl_move_is_given(m.move)
    assert m.tick(10_000) == 0  # the link is watched by others
    assert int(lib.prl_move_fail(m.move, lib.PRL_REASON_TIMEOUT)) == 0
    assert m.refused(number=2) == 0
    assert m.refused() == RESUME | TELL
    assert not lib.prl_move_is_given(m.move)


def test_doubt_lasts_until_the_lease_is_over_and_nobody_answers() -> None:
    m = Move().silent()
    assert m.link_down() == TELL
    assert m.told[0] == lib.PRL_MOVE_UNSURE
    assert m.tick(300, open_at_ms=1400) == 0
    assert m.tick(10, open_at_ms=None) == 0  # policy stop: never by itself
    assert m.tick(90, open_at_ms=1400) == PROBE
    assert m.tick(999, open_at_ms=1400) == 0
    assert m.tick(1, open_at_ms=1400) == PROBE
    assert m.resolve(taken=False) == RESUME | TELL
    assert m.told[0] == lib.PRL_MOVE_RESUMED
    other = Move().silent()
    other.link_down()
    assert other.resolve(taken=True) == TAKEN | TELL
    assert other.resolve(taken=False) == 0
    assert other.tick(100) == END


def test_who_renounces_asks_nobody() -> None:
    m = Move()
    assert m.give() == COMMIT
    assert m.state == SILENT
    assert m.move.flags == FORCED
    assert m.give() == 0
    assert m.reason[0] == lib.PRL_REASON_BUSY
    draining = Move()
    draining.ask()
    draining.prepared(1, 1)
    assert draining.give() == COMMIT


def test_the_standby_asks_and_takes() -> None:
    m = Move()
    assert m.ask(owner=False) == REQUEST
    assert m.tick(999) == 0  # the owner's refusal comes first
    assert lib.prl_move_take(m.move, m.config, m.now * MS) == TELL
    assert m.told == (lib.PRL_MOVE_DONE, 0)
    assert lib.prl_move_relay_end(m.move) == FEED
    assert lib.prl_move_relay_end(m.move) == 0
    for end in (Move.link_down, lambda m: m.tick(100)):
        late = Move()
        lib.prl_move_take(late.move, late.config, late.now * MS)
        assert end(late) == FEED
    assert late.move.relay_late == 1
    refused = Move()
    refused.ask(owner=False)
    assert refused.refused(number=0) == TELL
    assert refused.told[0] == lib.PRL_MOVE_UNDONE


# -- one flow


def hold_back(p: Primary, *, on: bool = True) -> None:
    lib.prl_primary_hold_back(p.flow, on)


def move(p: Primary) -> Any:
    lib.prl_primary_move(p.flow, p.out)
    return p._actions()


def taken(p: Primary) -> Any:
    lib.prl_primary_taken(p.flow, p.out)
    return p._actions()


def unmove(p: Primary, *, is_void: bool) -> Any:
    lib.prl_primary_unmove(p.flow, is_void, p.now_ns, p.out)
    return p._actions()


def drained() -> Primary:
    """Held back with two packets, one output, and nothing unacknowledged."""
    p = Primary().active()
    p.input(1, 10, 10)
    hold_back(p)
    assert p.input(2, 20, 10) == []
    assert p.output(3, 0, 10) == []
    assert p.input(4, 30, 10) == []
    assert not lib.prl_primary_is_drained(p.flow)
    assert p.ack(1) == [("release_input", [1])]
    assert lib.prl_primary_is_drained(p.flow)
    assert not lib.prl_primary_wants_drain(p.flow, p.now_ns)
    return p


def test_a_flow_that_is_held_back_drains_and_goes_on() -> None:
    p = drained()
    assert p.drain() == (False, [])
    hold_back(p, on=False)
    assert p.drain() == (False, [("output", 1, 3), ("replicate", 2, 2), ("replicate", 3, 4)])


def test_what_waits_is_relayed_and_kept_until_the_other_node_has_spoken() -> None:
    p = drained()
    assert move(p) == [("state", MOVED, 0)]
    assert p.drain() == (False, [("relay", 2), ("relay", 4)])
    assert p.input(5, 40, 10) == []
    assert p.drain() == (False, [("relay", 5)])
    assert taken(p) == [("drop", [2, 4, 5, 3])]
    assert p.input(6, 50, 10) == []
    assert p.drain() == (False, [("relay", 6), ("drop", [6])])
    assert unmove(p, is_void=True) == []  # never again
    assert p.waiting() == 0


def test_a_flow_that_was_not_taken_goes_on_as_it_was() -> None:
    p = drained()
    move(p)
    p.drain()
    p.input(5, 40, 10)
    assert unmove(p, is_void=False) == [("state", ACTIVE, 0)]
    sent = [("output", 1, 3), *[("replicate", n, name) for n, name in ((2, 2), (3, 4), (4, 5))]]
    assert p.drain() == (False, sent)


def test_a_flow_that_was_not_taken_opens_when_its_shadow_is_void() -> None:
    p = Primary().active()
    p.input(1, 10, 10)  # renounced as things are: not acknowledged
    move(p)
    p.input(2, 20, 10)
    assert p.ack(1) == []
    assert unmove(p, is_void=True) == [
        ("release_input", [1, 2]),
        ("state", OPEN, lib.PRL_REASON_LINK_LOST),
    ]
    other = Primary().active()
    other.input(1, 10, 10)
    move(other)
    assert ("state", VOIDING, lib.PRL_REASON_TIMEOUT) in unmove(other, is_void=False)
    assert other.waiting() == 1


def test_a_moved_flow_is_fenced_with_all_it_has() -> None:
    p = drained()
    move(p)
    p.drain()
    p.input(5, 40, 10)
    lib.prl_primary_fence(p.flow, p.out)
    assert p._actions()[0] == ("drop", [2, 4, 5, 3])
