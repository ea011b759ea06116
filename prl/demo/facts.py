"""What a demo measured, and what follows from it."""

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
BOTH = "both"


@dataclass(frozen=True, slots=True)
class Stream:
    """So many bytes with this SHA-256; None where it could not be measured."""

    count: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """What was played."""

    name: str
    peer: str
    family: int | str
    mode: str


@dataclass(slots=True)
class Measured:
    """What was seen. Times are in milliseconds; None where there was nothing to measure.

    Attributes:
        sent: what the one end wrote.
        received: what the surviving other end read.
        primary: what the dead primary's application had read or written.
        primary_prefix: whether that is a prefix of the session's stream.
        gap_ms: the longest pause between bytes that ended after the failure.
        detect_ms: from the failure to the other node's decision to take over.
        takeover_ms: from that decision to its first segment.
        troubles: what went wrong besides, one line each.
        too_early: all was over before the failure came about.
        more: further facts of a scenario.
    """

    sent: Stream = field(default_factory=Stream)
    received: Stream = field(default_factory=Stream)
    primary: Stream = field(default_factory=Stream)
    primary_prefix: bool | None = None
    gap_ms: float | None = None
    detect_ms: float | None = None
    takeover_ms: float | None = None
    troubles: list[str] = field(default_factory=list)
    too_early: bool = False
    more: dict[str, Any] = field(default_factory=dict)


def differences(measured: Measured) -> list[str]:
    """All that speaks against the session's having survived; empty if it did."""
    found = list(measured.troubles)
    sent, received = measured.sent, measured.received
    if sent.count is None or received.count is None:
        found.append("nothing was sent" if sent.count is None else "nothing was received")
    elif sent.count != received.count:
        found.append(f"{sent.count} bytes were sent and {received.count} received")
    elif sent.sha256 is None or sent.sha256 != received.sha256:
        found.append("as many bytes were received as sent, but not the same")
    if measured.primary.count is None:
        found.append("the dead application left no word of how far it had come")
    elif not measured.primary_prefix:
        found.append(
            f"the {measured.primary.count} bytes that the dead application had are no part of it"
        )
    if measured.gap_ms is None and not measured.too_early:
        found.append("no byte passed after the failure")
    return found


def facts(scenario: Scenario, measured: Measured) -> dict[str, Any]:
    """The JSON of SPEC section 8."""
    wrong = differences(measured)
    inconclusive = measured.too_early and not wrong
    if inconclusive:
        wrong = ["it was over before the failure, which shows nothing; use a larger --size"]
    return {
        "schema": SCHEMA,
        "scenario": scenario.name,
        "peer": scenario.peer,
        "family": scenario.family,
        "mode": scenario.mode,
        "survived": not wrong,
        "inconclusive": inconclusive,
        "bytes": {
            "sent": measured.sent.count,
            "received": measured.received.count,
            "primary": measured.primary.count,
        },
        "sha256": {"sent": measured.sent.sha256, "received": measured.received.sha256},
        "primary_prefix": bool(measured.primary_prefix),
        "gap_ms": measured.gap_ms,
        "detect_ms": measured.detect_ms,
        "takeover_ms": measured.takeover_ms,
        "why": "; ".join(wrong) or None,
        **measured.more,
    }


def verdict(shown: dict[str, Any]) -> str:
    """One line for people."""
    over = "IPv4 and IPv6" if shown["family"] == BOTH else f"IPv{shown['family']}"
    what = f"{shown['scenario']} with {shown['peer']} over {over} ({shown['mode']})"
    if not shown["survived"]:
        word = "INCONCLUSIVE" if shown["inconclusive"] else "LOST"
        return f"{word}: {what}: {shown['why']}"
    times = [
        f"{label} {shown[key]:.1f} ms"
        for label, key in (
            ("longest pause", "gap_ms"),
            ("detected after", "detect_ms"),
            ("take-over took", "takeover_ms"),
        )
        if shown[key] is not None
    ]
    return f"SURVIVED {what}: {shown['bytes']['received']} bytes exact; {', '.join(times)}"
