"""Whether an address is in use, from the answers to several probes (L6, F25)."""

from ipaddress import IPv4Address

import pytest

from prl.daemon.ownership.probe import ANSWERS, PROBES, Answers
from prl.endpoint import Address

MINE, YOURS = IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101")


def rounds(*heard: set[Address]) -> tuple[set[Address], int]:
    """The users, and how many rounds it took; nothing is heard in the rounds behind those."""
    count, taken = Answers([MINE, YOURS]), 0
    while asked := count.begin():
        for address in heard[taken] if taken < len(heard) else ():
            assert address in asked or address in count.users
            count.hear(address)
            count.hear(address)  # twice in a round is once
        taken += 1
        count.hear(None)
    return count.users, taken


def test_nobody_answers() -> None:
    assert rounds() == (set(), PROBES)


@pytest.mark.parametrize("at", range(PROBES))
def test_one_answer_may_be_made_up_and_only_takes_longer(at: int) -> None:
    silent: list[set[Address]] = [set()] * at
    assert rounds(*silent, {MINE}) == (set(), at + 1 + PROBES)


@pytest.mark.parametrize("lost", range(PROBES))
def test_a_real_user_is_found_though_answers_get_lost(lost: int) -> None:
    silent: list[set[Address]] = [set()] * lost
    assert rounds({MINE}, *silent, {MINE})[0] == {MINE}


def test_who_answers_each_probe_is_known_as_soon_as_that_is_certain() -> None:
    both: set[Address] = {MINE, YOURS}
    assert rounds(*[both] * PROBES) == ({MINE, YOURS}, ANSWERS)
