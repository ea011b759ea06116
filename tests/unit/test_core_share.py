"""What a thread that comes before all others may take of the time, and when it preempts nobody."""

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


def bulks(carried: list[tuple[int, int]]) -> list[bool]:
    """Whether there is a bulk, each time that so much had been carried, so many ms on."""
    bulk, found = ffi.new("struct prl_bulk *"), []
    for at, count in carried:
        was = bool(bulk.on)
        changed = bool(lib.prl_bulk_take(bulk, BEGAN + at * MS, count))
        found.append(bool(bulk.on))
        assert changed == (found[-1] != was)
    return found


WINDOW_BULK, MUCH = lib.PRL_BULK_WINDOW_MS, lib.PRL_BULK_BYTES


def test_a_bulk_begins_with_a_full_window_and_ends_with_one_that_is_not() -> None:
    carried = [(0, 0), (1, 9 * MUCH), (WINDOW_BULK, 10 * MUCH), (WINDOW_BULK + 1, 10 * MUCH)]
    assert bulks([*carried, (2 * WINDOW_BULK, 11 * MUCH - 1)]) == [False, False, True, True, False]


def test_what_was_carried_in_a_long_time_is_no_bulk() -> None:
    """Nor what was carried before anybody looked."""
    assert bulks([(0, 100 * MUCH), (10 * WINDOW_BULK, 109 * MUCH)]) == [False, False]
    assert bulks([(0, 0), (10 * WINDOW_BULK, 10 * MUCH)]) == [False, True]
