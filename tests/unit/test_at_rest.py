"""Which sessions are copied while their programs run, and which in one step."""

import struct
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
