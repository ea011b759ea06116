"""What one episode does, drawn from its seed before it begins (docs/chaos.md)."""

import random
from dataclasses import dataclass
from enum import StrEnum

ACTS = 4
"""Of an episode."""
DELAY_MAX_S = {"quiet": 0.0, "set-up": 0.06, "re-protection": 1.5, "move": 0.04, "take-over": 0.4}
"""How long after a moment began its first fault comes, at most. By moment."""
SECOND_MAX_S = 0.6
"""How long after the first fault the second one comes, at most."""
HELD_S = (0.2, 1.5)
"""How long what does not end by itself is left before all is mended."""
MODES = ("native", "auto", "mirror")
"""What prld's `mode` may be; auto is what suits veth devices best."""
PAUSES_S = (0.03, 0.1, 0.3, 0.8, 1.5)
FLAPS_MAX = 3


class Kind(StrEnum):
    """What fails. The first seven are the lab's own (``prlctl lab fail``)."""

    POWER = "power"
    KILL_APP = "kill-app"
    KILL_PRLD = "kill-prld"
    FREEZE = "freeze"
    CUT_LAN = "cut-lan"
    CUT_LINK = "cut-link"
    CUT_BOTH = "cut-both"
    STOP_PRLD = "stop-prld"
    PAUSE = "pause"
    PAUSE_PRLD = "pause-prld"
    LINK_FLAPS = "link-flaps"
    LAN_FLAPS = "lan-flaps"
    MOVE = "move"
    HOGS = "hogs"
    FLUSH = "flush"


LASTING = frozenset(list(Kind)[:8])
"""What is there until it is mended; the others end by themselves."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``on``: the role that its node has when the act begins, "owner" or "standby".

    ``after_s``: since the act's moment began, for the second one since the first.
    ``for_s``: of a pause and of each flap.
    """

    kind: Kind
    on: str
    after_s: float
    for_s: float
    times: int

    def words(self) -> str:
        """It, in a line."""
        more = "" if self.kind in LASTING else f" ({self.times} times {self.for_s * 1000:.0f} ms)"
        return f"{self.kind} of the {self.on} after {self.after_s * 1000:.0f} ms{more}"


@dataclass(frozen=True, slots=True)
class Act:
    """One or two faults at a moment, and how long they are left before all is mended."""

    moment: str
    faults: tuple[Fault, ...]
    held_s: float

    def words(self) -> str:
        """It, in a line."""
        return f"{self.moment}: {', '.join(fault.words() for fault in self.faults)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """An episode; ``mode`` is that of both nodes."""

    seed: int
    family: int
    plain_link: bool
    acts: tuple[Act, ...]
    mode: str


def draw(seed: int) -> Plan:
    """The plan of a seed: the same one each time."""
    chance = random.Random(seed)
    return Plan(
        seed,
        family=chance.choice((4, 6)),
        plain_link=chance.random() < 0.25,
        acts=tuple(_act(chance) for _ in range(ACTS)),
        mode=chance.choice(MODES),
    )


def _act(chance: random.Random) -> Act:
    moment = chance.choice(tuple(DELAY_MAX_S))
    first = _fault(chance, chance.uniform(0.0, DELAY_MAX_S[moment]))
    second = _fault(chance, chance.uniform(0.0, SECOND_MAX_S))
    faults = (first, second) if chance.random() < 0.5 else (first,)
    return Act(moment, faults, chance.uniform(*HELD_S))


def _fault(chance: random.Random, after_s: float) -> Fault:
    return Fault(
        chance.choice(tuple(Kind)),
        chance.choice(("owner", "standby")),
        after_s,
        chance.choice(PAUSES_S),
        chance.randint(1, FLAPS_MAX),
    )
