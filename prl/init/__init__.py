"""The configuration of both nodes, from what this host has and what its user says.

networks (what there is) ─┐
given (options) ──────────┼─▶ plan (decides, notes what it assumed) ─▶ pair ─▶ two files
ask (a terminal) ─────────┘
"""

from prl.init.networks import Networks
from prl.init.pair import Member, Pair
from prl.init.plan import Given, Plan

__all__ = ["Given", "Member", "Networks", "Pair", "Plan"]
