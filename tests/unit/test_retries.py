"""When an attempt is made again, and how long it may take (R23)."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl import config
from prl.bindings.datapath import Tuple
from prl.bindings.facts import Owner, Reason
from prl.daemon.session import retries
from prl.daemon.session.cloning import shared_address
from prl.daemon.session.deadline import SETUP_MAX_S, Deadline
from prl.daemon.session.protect import Primaries
from prl.daemon.session.retries import RETRIES_PER_S, RETRY_MAX_S, Retries
from prl.daemon.session.sessions import Session
from tests.unit.test_daemon_sockets import FILE

LEAST_S = 0.1
OPEN_MAX_S = 2.0
"""How long a pair may be open after what kept it so has gone."""


def test_a_quick_machine_keeps_the_deadline_that_is_configured() -> None:
    deadline = Deadline(LEAST_S)
    for _ in range(100):
        deadline.took(0.004)
    assert deadline.seconds == LEAST_S


def test_a_slow_machine_gets_as_much_as_it_needs_and_a_quick_one_no_more() -> None:
    deadline, needed_s = Deadline(LEAST_S), 0.35
    for _ in range(10):
        if needed_s <= deadline.seconds:
            break
        deadline.missed(deadline.seconds)
    for _ in range(100):
        assert deadline.seconds >= needed_s
        deadline.took(needed_s)
    for _ in range(100):
        deadline.took(0.004)
    assert deadline.seconds == LEAST_S


def test_no_session_stands_still_for_longer_than_the_most() -> None:
    deadline = Deadline(LEAST_S)
    for _ in range(20):
        deadline.missed(deadline.seconds)
    assert deadline.seconds == SETUP_MAX_S
    deadline.took(5 * SETUP_MAX_S)
    assert deadline.seconds == SETUP_MAX_S
    own = Deadline(3 * SETUP_MAX_S)
    own.missed(own.seconds)
    assert own.seconds == 3 * SETUP_MAX_S


def test_many_that_were_too_late_together_double_it_once() -> None:
    deadline = Deadline(LEAST_S)
    for _ in range(8):
        deadline.missed(LEAST_S)
    assert deadline.seconds == 2 * LEAST_S


def test_none_waits_for_long_and_all_together_have_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(retries, "time", clock)
    turns = Retries()
    waits = [turns.turn_in_s() for _ in range(RETRIES_PER_S + 1)]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(1.0)
    assert turns.put_off == RETRIES_PER_S
    clock.monotonic = lambda: 1100.0
    assert turns.turn_in_s() == 0


class Attempts:
    """Attempts that fail while there is a cause; time is what the sessions wait."""

    def __init__(self, count: int, cause: Reason) -> None:
        self.cause: Reason | None = cause
        self.made, self._left = 0, count
        self.all_protected = asyncio.Event()

    async def protect(self, session: Session, *_: object) -> None:
        self.made += 1
        if self.cause is None:
            session.mended(0)
            self._left -= 1
            if not self._left:
                self.all_protected.set()
        else:
            session.mend().late = self.cause == Reason.TIMEOUT

    def counts(self) -> dict[str, float]:
        return {}


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when there is nothing to do, at once."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if not self._ready and scheduled:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def play(count: int, cause: Reason, failing_s: float) -> tuple[float, int]:
    """Sessions that fail for so long: when all are protected after, attempts a second before."""
    loop = Clock()
    attempts = Attempts(count, cause)
    datapath = SimpleNamespace(service_state=lambda _: Owner.OWNER)
    primaries = Primaries(
        config.parse(FILE.format(port=7077)),
        cast(Any, datapath),
        cast(Any, SimpleNamespace(up=True, other=None, why_down="")),
        cast(Any, None),
        cast(Any, attempts),
        cast(Any, None),
        cast(Any, None),
        cast(Any, None),
        births=cast(Any, SimpleNamespace(offered=lambda _: None)),
    )
    client: Any = SimpleNamespace(send_event=lambda _: None, name="test")
    service = shared_address("192.0.2.100")
    sessions = [
        Session(Tuple(service, 7000, service, 1 + n), 0, client, b"", handle=1 + n)
        for n in range(count)
    ]

    async def story() -> tuple[float, int]:
        for session in sessions:
            primaries.take_over(session)
        primaries.on_offer(sessions[0].ends.service_end)
        await asyncio.sleep(failing_s / 2)
        before = attempts.made
        await asyncio.sleep(failing_s / 2)
        rate = (attempts.made - before) / (failing_s / 2)
        attempts.cause = None
        gone_s = loop.time()
        await attempts.all_protected.wait()
        return loop.time() - gone_s, int(rate)

    retries_time = SimpleNamespace(monotonic=loop.time)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "time", retries_time)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(story())


@pytest.mark.parametrize("cause", [Reason.TIMEOUT, Reason.REQUESTED])
def test_a_pair_is_safe_soon_after_what_kept_it_open_has_gone(cause: Reason) -> None:
    after_s, _ = play(50, cause, 120.0)
    assert after_s <= OPEN_MAX_S
    assert RETRY_MAX_S < OPEN_MAX_S


def test_one_success_is_enough_for_very_many_that_were_too_late() -> None:
    after_s, per_s = play(1000, Reason.TIMEOUT, 120.0)
    assert after_s <= OPEN_MAX_S
    assert per_s <= RETRIES_PER_S + 1


def test_very_many_that_are_hopeless_cost_no_more_than_a_hundred_do() -> None:
    _, per_s = play(1000, Reason.REQUESTED, 120.0)
    assert per_s <= RETRIES_PER_S + 1
