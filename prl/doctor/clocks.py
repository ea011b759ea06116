"""Clocks: leases count by them, and a session's timestamps go on by the other node's (SPEC L2)."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prl.doctor.finding import Finding, Verdict, judge

CLOCK_SOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_SLOW = frozenset({"acpi_pm", "hpet", "jiffies", "refined-jiffies"})
_TIMEX_BYTES = 208  # struct timex of 64-bit systems; the first field says that nothing is to be set
_TIME_ERROR = 5


def examine() -> Iterator[Finding]:
    """Both clocks."""
    yield _source()
    yield _synchronised()


def _source() -> Finding:
    try:
        source = CLOCK_SOURCE.read_text().strip()
    except OSError:
        source = "unknown"
    return judge(
        "clock source",
        source not in _SLOW,
        source,
        "every look at this clock takes a microsecond and more; use tsc, or the hypervisor's own",
        paste=f"echo tsc > {CLOCK_SOURCE}",
        otherwise=Verdict.NOTE,
    )


def _synchronised() -> Finding:
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return judge(
        "clock synchronised",
        0 <= state < _TIME_ERROR,
        "by NTP" if 0 <= state < _TIME_ERROR else "no",
        "the clocks of the two nodes drift apart; let NTP keep both",
        paste="apt-get install -y systemd-timesyncd && timedatectl set-ntp true",
        otherwise=Verdict.NOTE,
    )
