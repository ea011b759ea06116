"""What a thread that comes before all others may take of the time."""

from prl._core import ffi, lib

from tests.unit.core_support import MS

WINDOW, SHARE = lib.PRL_SHARE_WINDOW_MS, lib.PRL_SHARE_MS
BEGAN = 10**9


def spends(passes: list[tuple[int, int]]) -> list[bool]:
    """Whether each pass, from and until so many ms after the first, is the last of its window."""
    share = ffi.new("struct prl_share *")
    return [
        bool(lib.prl_share_take(share, BEGAN + began * MS, BEGAN + end * MS))
        for began, end in passes
    ]


def test_who_sleeps_often_enough_keeps_it() -> None:
    tenths = [(number * 10, number * 10 + SHARE // 10) for number in range(100)]
    assert not any(spends(tenths))


def test_who_has_had_its_share_gives_it_up_until_the_next_window() -> None:
    half = SHARE // 2 + 1
    passes = [(0, half), (half, 2 * half), (2 * half, WINDOW), (WINDOW, WINDOW + half)]
    assert spends(passes) == [False, True, False, False]


def test_one_long_pass_spends_it_and_the_next_begins_anew() -> None:
    assert spends([(0, 10 * WINDOW), (10 * WINDOW, 10 * WINDOW + 1)]) == [True, False]
