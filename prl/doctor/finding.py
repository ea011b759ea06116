"""One thing that was looked at, and what came out."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """How good it is."""

    OK = "ok"
    NOTE = "note"
    """Something optional is missing: prl works, and is safe, without it."""
    WARNING = "warning"
    """prl works, but sessions may be lost, or stall, for it."""
    MISSING = "missing"
    """prld does not start, or the pair does not come together."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one thing."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    """What to do, in words; empty when there is nothing to do."""
    paste: str = ""
    """The same as shell commands, where commands do it."""

    def facts(self) -> dict[str, Any]:
        """For ``-j``."""
        needed = self.verdict in {Verdict.OK, Verdict.MISSING}
        return asdict(self) | {"ok": self.verdict == Verdict.OK, "needed": needed}


def judge(
    name: str,
    good: bool,
    found: str,
    remedy: str = "",
    *,
    paste: str = "",
    otherwise: Verdict = Verdict.MISSING,
) -> Finding:
    """A finding that is ok, or ``otherwise`` with its remedy."""
    if good:
        return Finding(name, Verdict.OK, found)
    return Finding(name, otherwise, found, remedy or f"run: {paste}", paste)


def presence(good: bool) -> str:
    """The usual two words."""
    return "present" if good else "missing"
