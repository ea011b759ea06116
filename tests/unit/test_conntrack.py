"""What connection tracking is told of many sessions at a time; the kernel's part is played."""

import asyncio
import errno
import socket
from ipaddress import ip_address

import pytest

from prl.bindings.datapath import Tuple
from prl.daemon.events.log import EventLog
from prl.daemon.host import conntrack
from prl.daemon.host.conntrack import ENTERED_AT_ONCE, Conntrack


def session(number: int) -> Tuple:
    local, remote = ip_address("192.0.2.100"), ip_address("192.0.2.1")
    return Tuple(local, 179, remote, 1024 + number, proto=socket.IPPROTO_TCP)


class Kernel:
    """Answers what Conntrack asks: it has no entries, or all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.looks, self.has_all = 0, 0, False
        monkeypatch.setattr(conntrack, "is_tracking", self.is_tracking)
        monkeypatch.setattr(Conntrack, "_ask", self.ask)

    def is_tracking(self) -> bool:
        self.looks += 1
        return True

    def ask(self, kind: int, *_: object) -> int:
        if kind == conntrack._GET:
            return 0 if self.has_all else errno.ENOENT
        self.entered += 1
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def keep(kernel: Kernel, sessions: list[Tuple], ended: set[Tuple]) -> list[int]:
    """What was entered whenever something else of prld had its turn."""
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(kernel.entered)
            await asyncio.sleep(0)

    async def live() -> None:
        watching = asyncio.create_task(watch())
        tracking = Conntrack(EventLog(lambda _: None))
        known = dict(enumerate(sessions))
        gone = {number for number, ends in known.items() if ends in ended}
        await tracking.keep(lambda: list(known), lambda n: None if n in gone else known[n])
        watching.cancel()

    asyncio.run(live())
    return seen


def test_entries_of_many_sessions_do_not_hold_up_the_rest_of_prld(kernel: Kernel) -> None:
    seen = keep(kernel, [session(number) for number in range(5 * ENTERED_AT_ONCE)], set())
    turns = [ENTERED_AT_ONCE * times for times in range(1, 5)]
    assert (kernel.entered, kernel.looks) == (5 * ENTERED_AT_ONCE, 1)
    assert set(turns) <= set(seen)


def test_a_session_that_ended_meanwhile_gets_no_entry(kernel: Kernel) -> None:
    keep(kernel, [session(1), session(2)], {session(2)})
    assert kernel.entered == 1


def test_nothing_is_entered_where_the_entries_are_there(kernel: Kernel) -> None:
    kernel.has_all = True
    keep(kernel, [session(number) for number in range(20)], set())
    assert kernel.entered == 0
