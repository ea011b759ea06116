"""What may become of a session in an act: the rules of docs/chaos.md, which numbers them.

They are judged by what was done, not by what prld says of it.
"""

from dataclasses import dataclass

from tests.chaos.plan import Act, Fault, Kind

HANG_MAX_S = 2.0
"""No session waits longer, where somebody could serve it."""
ENDS_SERVING = frozenset(
    {Kind.POWER, Kind.KILL_APP, Kind.FREEZE, Kind.CUT_LAN, Kind.CUT_BOTH, Kind.LAN_FLAPS}
    | {Kind.PAUSE, Kind.PAUSE_PRLD, Kind.KILL_PRLD, Kind.STOP_PRLD}
)
"""Of the owner: after it the other node serves, or nobody."""
HARMLESS = frozenset({Kind.MOVE, Kind.HOGS, Kind.FLUSH})
"""It takes neither a node's sessions nor their protection."""
ON_THE_LINK = frozenset({Kind.CUT_LINK, Kind.LINK_FLAPS, Kind.CUT_BOTH})
"""It takes all shadows, whichever node's it is."""
BOTH = {"owner", "standby"}


FORGETS = frozenset({Kind.POWER, Kind.STOP_PRLD})


@dataclass(frozen=True, slots=True)
class Lot:
    """What may become of a session.

    ``loss``: the number of the rule by which it may be lost; 0: it may not.
    ``hang_s``: how long it may wait for an answer.
    ``is_forgotten``: nobody can tell its peer that it is lost before the peer says something.
    """

    loss: int
    hang_s: float
    is_forgotten: bool


def lot(
    act: Act, lasted_s: float, *, is_new: bool, had_moved: bool = False, mirrors: bool = False
) -> Lot:
    """Of a session; ``lasted_s``: from the act's beginning until all was mended.

    ``is_new``: it was opened in this act. ``had_moved``: to the node that stood by, when a fault
    ended serving there. ``mirrors``: the carrier is "mirror".
    """
    serious = [fault for fault in act.faults if fault.kind not in HARMLESS]
    flaps = any(fault.kind == Kind.LAN_FLAPS for fault in serious)
    calm = len(serious) <= 1 and act.moment in {"quiet", "move"} and not is_new and not flaps
    # TCP doubles its retransmission timer while nobody hears it: as long again as the outage. A
    # cable that comes and goes may be away each time that it tries.
    hang_s = HANG_MAX_S if calm else 2 * lasted_s + HANG_MAX_S
    # What the standby's kernel drops for want of the address cannot be fed again there.
    shadows = [f for f in act.faults if mirrors and f.kind == Kind.FLUSH and f.on == "standby"]
    loss = _loss(act.moment, serious + shadows, is_new=is_new, had_moved=had_moved)
    return Lot(loss, hang_s, is_forgotten=loss > 0 and _forgetful(act, had_moved=had_moved) == BOTH)


def _forgetful(act: Act, *, had_moved: bool) -> set[str]:
    """The roles that know nothing of it: who gives it away, by a stop or a move, does not."""
    began = {"take-over": {"owner"}, "re-protection": {"standby"}}.get(act.moment, set())
    began |= {"owner"} if had_moved else set()
    return began | {fault.on for fault in act.faults if fault.kind in FORGETS}


def _loss(moment: str, serious: list[Fault], *, is_new: bool, had_moved: bool) -> int:
    def ends(role: str) -> bool:
        return any(fault.kind in ENDS_SERVING and fault.on == role for fault in serious)

    if is_new and ends("owner"):
        return 1
    if (moment == "re-protection" and ends("owner")) or (moment == "take-over" and ends("standby")):
        return 2
    if had_moved and ends("standby"):
        return 2
    if len(serious) > 1 and (ends("owner") or ends("standby")):
        both = {fault.on for fault in serious} == BOTH
        if both or any(fault.kind in ON_THE_LINK for fault in serious):
            return 3
    return 0
