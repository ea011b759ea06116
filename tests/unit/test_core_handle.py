"""Handles stay in their node's half, and nobody else's is taken for ours (R29)."""

import pytest
from prl._core import lib

HALF = 1 << 31


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_never_runs_into_the_other_s_half(node: int) -> None:
    first = lib.prl_handle_next(node, 0)
    last = node * HALF + HALF - 1
    assert first == node * HALF + 1
    assert lib.prl_handle_next(node, first) == first + 1
    assert lib.prl_handle_next(node, last - 1) == last
    assert lib.prl_handle_next(node, last) == first


@pytest.mark.parametrize("handle", [1, 77, HALF - 1])
def test_whose_a_handle_is(handle: int) -> None:
    assert lib.prl_handle_is_of(0, handle)
    assert not lib.prl_handle_is_of(1, handle)
    assert lib.prl_handle_is_of(1, HALF + handle)
    assert not lib.prl_handle_is_of(0, HALF + handle)


@pytest.mark.parametrize("node", [0, 1])
def test_the_number_0_is_nobody_s(node: int) -> None:
    assert not lib.prl_handle_is_of(node, 0)
    assert not lib.prl_handle_is_of(node, HALF)
