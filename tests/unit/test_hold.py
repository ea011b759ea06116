"""The pool and the queues of held packets (R4)."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prl._core import ffi, lib


@pytest.fixture
def pool() -> Iterator[Any]:
    pool = ffi.new("struct prl_pool *")
    assert lib.prl_pool_init(pool, 8) == 0
    yield pool
    lib.prl_pool_destroy(pool)


def filled(pool: Any, *seqs: int) -> Any:
    chain = ffi.new("struct prl_chain *")
    for seq in seqs:
        hold = lib.prl_pool_get(pool)
        hold.seq = seq & 0xFFFFFFFF
        hold.bytes = 10
        lib.prl_chain_push(chain, hold)
    return chain


def seqs(chain: Any) -> list[int]:
    found, hold = [], chain.head
    while hold != ffi.NULL:
        found.append(int(hold.seq))
        hold = hold.next
    assert len(found) == chain.count
    assert chain.bytes == 10 * len(found)
    assert (chain.tail == ffi.NULL) == (not found)
    if found:
        assert chain.tail.seq == found[-1]
        assert chain.tail.next == ffi.NULL
    return found


def test_pool_is_used_up_and_filled_again(pool: Any) -> None:
    holds = [lib.prl_pool_get(pool) for _ in range(8)]
    assert len({int(ffi.cast("uintptr_t", hold)) for hold in holds}) == 8
    assert lib.prl_pool_get(pool) == ffi.NULL
    holds[3].frame = 99
    lib.prl_pool_put(pool, holds[3])
    again = lib.prl_pool_get(pool)
    assert again == holds[3]
    assert again.frame == 0
    assert pool.used == 8


def test_pop_gives_the_order_of_arrival(pool: Any) -> None:
    chain = filled(pool, 1, 2, 3)
    assert [lib.prl_chain_pop(chain).seq for _ in range(3)] == [1, 2, 3]
    assert lib.prl_chain_pop(chain) == ffi.NULL
    assert seqs(chain) == []


def test_split_goes_over_the_wrap(pool: Any) -> None:
    chain = filled(pool, -2, -1, 0, 1)
    done = ffi.new("struct prl_chain *")
    lib.prl_chain_split(chain, 0, done)
    assert seqs(done) == [0xFFFFFFFE, 0xFFFFFFFF, 0]
    assert seqs(chain) == [1]
    lib.prl_chain_split(chain, 0xFFFFFFFF, done)
    assert seqs(chain) == [1]


def test_append_empties_the_other_chain(pool: Any) -> None:
    first, second = filled(pool, 1, 2), filled(pool, 3)
    lib.prl_chain_append(first, second)
    assert seqs(first) == [1, 2, 3]
    assert seqs(second) == []
    lib.prl_chain_append(first, second)
    lib.prl_chain_append(second, first)
    assert seqs(second) == [1, 2, 3]
    assert seqs(first) == []


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_take_removes_exactly_one(pool: Any, seq: int) -> None:
    chain = filled(pool, 1, 2, 3)
    assert lib.prl_chain_take(chain, seq).seq == seq
    assert seqs(chain) == [s for s in (1, 2, 3) if s != seq]
    assert lib.prl_chain_take(chain, seq) == ffi.NULL


@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "split", "take"]), st.integers(0, 12))))
def test_a_chain_behaves_as_a_list(steps: list[tuple[str, int]]) -> None:
    pool = ffi.new("struct prl_pool *")
    assert lib.prl_pool_init(pool, 100) == 0
    chain, next_seq = filled(pool), 0
    model: list[int] = []
    for step, number in steps:
        if step == "push" and len(model) < 20:
            lib.prl_chain_append(chain, filled(pool, next_seq))
            model.append(next_seq)
            next_seq += 1
        elif step == "pop":
            hold = lib.prl_chain_pop(chain)
            assert (hold == ffi.NULL) == (not model)
            if model:
                assert hold.seq == model.pop(0)
                lib.prl_pool_put(pool, hold)
        elif step == "take":
            hold = lib.prl_chain_take(chain, number)
            assert (hold != ffi.NULL) == (number in model)
            if number in model:
                model.remove(number)
                lib.prl_pool_put(pool, hold)
        elif step == "split":
            done = filled(pool)
            lib.prl_chain_split(chain, number, done)
            assert seqs(done) == [seq for seq in model if seq <= number]
            model = [seq for seq in model if seq > number]
            while (hold := lib.prl_chain_pop(done)) != ffi.NULL:
                lib.prl_pool_put(pool, hold)
        assert seqs(chain) == model
        assert pool.used == len(model)
    lib.prl_pool_destroy(pool)
