"""How many sessions are protected at a time (prl.daemon.session.limiter) (R23)."""

import asyncio

import pytest

from prl.daemon.session.limiter import Pace

MOST, SLOW_S = 8, 0.025


def test_the_limit_follows_how_long_it_took() -> None:
    pace = Pace(MOST, SLOW_S)
    for _ in range(2 * MOST):
        pace.took(SLOW_S / 3)
    assert pace.limit == MOST
    pace.took(SLOW_S * 0.7)
    assert pace.limit == MOST
    for _ in range(2 * MOST):
        pace.took(SLOW_S * 4)
    assert pace.limit == 1


@pytest.mark.parametrize("cancelled", [0, 1, 3])
def test_never_more_are_inside_and_none_is_forgotten(cancelled: int) -> None:
    async def story() -> None:
        pace = Pace(MOST, SLOW_S)
        inside = most = done = 0

        async def work() -> None:
            nonlocal inside, most, done
            async with pace:
                inside += 1
                most = max(most, inside)
                assert inside <= MOST
                await asyncio.sleep(0)
                inside -= 1
            pace.took(0)
            done += 1

        tasks = [asyncio.create_task(work()) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[2 : 2 + cancelled]:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert done == 50 - cancelled
        assert most == MOST

    asyncio.run(story())


def test_a_turn_that_is_given_to_one_that_is_cancelled_is_passed_on() -> None:
    async def story() -> None:
        pace = Pace(1, SLOW_S)
        gate = asyncio.Event()
        entered: list[str] = []

        async def work(name: str) -> None:
            async with pace:
                entered.append(name)
                await gate.wait()

        first = asyncio.create_task(work("first"))
        await asyncio.sleep(0)
        second, third = (asyncio.create_task(work(name)) for name in ("second", "third"))
        await asyncio.sleep(0)
        gate.set()
        await first  # the second has its turn, and has not run yet
        second.cancel()
        await asyncio.wait_for(third, 20)
        assert entered in (["first", "third"], ["first", "second", "third"])

    asyncio.run(story())
