"""Which sessions are copied while their programs run, and which in one step."""

import asyncio
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from prl.daemon.session import attempt
from prl.daemon.session.attempt import QUIET_MS, Attempts
from prl.kernel.tcp_info import INFO_MAX_BYTES, TcpInfo

SENT_AT, RECEIVED_AT = 44, 52
"""tcpi_last_data_sent, tcpi_last_data_recv in struct tcp_info (linux/tcp.h)."""


def attempts(rest: Any, birth_ms: int = 200) -> Any:
    found = Attempts.__new__(Attempts)
    found._dp = SimpleNamespace(at_rest=lambda _: rest)  # type: ignore[assignment]
    found._config = SimpleNamespace(  # type: ignore[assignment]
        service={0: SimpleNamespace(birth_ms=birth_ms)}
    )
    return found


def work(handle: int = 0) -> Any:
    session = SimpleNamespace(handle=handle, service=0)
    return SimpleNamespace(session=session, sock=None, fixed=object(), wanted=None)


@pytest.mark.parametrize(
    ("sent_ms", "received_ms", "stays"),
    [(QUIET_MS, QUIET_MS, True), (QUIET_MS - 1, 1000, False), (1000, QUIET_MS - 1, False)],
)
def test_who_has_just_talked_is_not_taken_to_stay_at_rest(
    monkeypatch: pytest.MonkeyPatch, sent_ms: int, received_ms: int, *, stays: bool
) -> None:
    raw = bytearray(INFO_MAX_BYTES)
    struct.pack_into("=I", raw, SENT_AT, sent_ms)
    struct.pack_into("=I", raw, RECEIVED_AT, received_ms)
    monkeypatch.setattr(attempt, "tcp_info", lambda _: TcpInfo.of(bytes(raw)))
    assert attempts(object())._stays_at_rest(work()) is stays
    assert attempts(None)._stays_at_rest(work()) is False


def test_a_newborn_is_who_waits_and_has_heard_nothing() -> None:
    new, old = SimpleNamespace(is_new=True), SimpleNamespace(is_new=False)
    assert attempts(new)._is_newborn(work())
    assert not attempts(old)._is_newborn(work())
    assert not attempts(None)._is_newborn(work())
    assert not attempts(new)._is_newborn(work(handle=1))  # it has been protected before
    assert not attempts(new, birth_ms=0)._is_newborn(work())  # nothing of its waits


def test_who_speaks_before_the_copy_is_stopped_and_copied_in_repair_mode() -> None:
    """Its input waits by then, from one moment on; it is only copied in another way."""
    done: list[str] = []
    found = attempts(None)
    found._copied_at_rest = 0
    found.tracer = None

    def moment(*_: object, at_rest: bool) -> SimpleNamespace | None:
        done.append("tried at rest" if at_rest else "copied")
        return None if at_rest else SimpleNamespace(segs_in=7, committed=0)

    async def of(*_: object) -> list[SimpleNamespace]:
        done.append("looked for")
        return [SimpleNamespace(pid=4711, tid=4711, fd=3)]

    async def share(_: object, copy: Callable[[], Any], pids: set[int]) -> Any:
        done.append(f"stopped {pids}")
        return copy()

    def begin() -> None:
        done.append("waits")
        one.begun_ns, one.session.state = 1, "setup"

    found._dp.primary_moment = moment
    found._holders = SimpleNamespace(of=of)
    found._unseen = lambda _: 0
    one = work(handle=1)
    one.session.state, one.session.closing, one.session.generation = "open", False, 1
    one.session.client = SimpleNamespace(freezer=SimpleNamespace(pids=list, share=share))
    one.session.program = None
    one.order = SimpleNamespace(application=b"", streams=SimpleNamespace(in_offset=0, out_offset=0))
    one.is_at_rest = one.is_prepared = True
    one.is_newborn, one.begun_ns, one.unseen = False, 0, 0

    copied = asyncio.run(found._copied(one, begin))

    assert copied is not None
    assert copied.segs_in == 7
    assert done == ["waits", "tried at rest", "looked for", "stopped {4711}", "copied"]
    assert found._copied_at_rest == 0
