"""`prlctl demo`: a session that outlives its host, shown and proved (SPEC section 8)."""

import re
import sys
from typing import Any

import click

from prl.cli.options import choice_option, number_option
from prl.cli.output import emit, narrate, settings
from prl.demo.crowd import DEFAULT_COUNT
from prl.demo.facts import BOTH, verdict
from prl.demo.fronted import USERS
from prl.demo.peers import PEERS
from prl.demo.scenarios import SCENARIOS, show
from prl.demo.stage import Options
from prl.lab.lab import How, Mode

ALL = "all"
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SIZE_MIN_BYTES = 1 << 10
SIZE_MAX_BYTES = 64 << 30
COUNT_MAX = 10_000
ROUNDS_MAX = 1000
MOVES_MAX = 1000
ROUTES_MAX = 200_000


class Size(click.ParamType[int]):
    """A number of bytes, with K, M or G (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it; the command ends with a usage error if it is none."""
        text = str(value).upper()
        digits = text.rstrip("KMG")
        factor = _FACTORS.get(text[len(digits) :])
        if factor is None or not digits.isascii() or not digits.isdigit():
            self.fail(f"{value!r} is no size: say 20M, 512K or 1G", param, ctx)
        size_bytes = int(digits) * factor
        if not SIZE_MIN_BYTES <= size_bytes <= SIZE_MAX_BYTES:
            self.fail(f"{value!r} is not between 1K and 64G", param, ctx)
        return size_bytes


def _secret(_context: click.Context, _param: click.Parameter, value: str | None) -> str:
    """A key that every router's configuration can spell. Never repeated in a message."""
    if value is None:
        return ""
    if not re.fullmatch(r"[A-Za-z0-9._+/=-]{1,80}", value):
        raise click.BadParameter("a key is 1 to 80 of A-Z, a-z, 0-9 and . _ + / = -")
    return value


@click.command("demo")
@click.argument("scenario", type=click.Choice([*SCENARIOS, ALL]))
@click.option("--size", type=Size(), help="Bytes to move  [default: 200M; echo: 16M]")
@choice_option("--family", ["4", "6", BOTH], "4", "IP version; both at once in sessions alone.")
@number_option("--count", 1, COUNT_MAX, DEFAULT_COUNT, "Sessions at a time (sessions).")
@choice_option("--mode", Mode, Mode.NATIVE, "How prld takes input.")
@choice_option("--how", How, How.POWER, "How re0 fails.")
@choice_option("--peer", PEERS, "bird", "The BGP speaker that plays the peer (bgp).")
@click.option(
    "--daemon",
    type=click.Choice(list(USERS)),
    help="The BGP daemon of our nodes, behind prl-bgp  [default: a speaker of our own] (bgp).",
)
@number_option("--routes", 1, ROUTES_MAX, 1000, "How many each end announces, with --daemon (bgp).")
@number_option(
    "--rounds",
    1,
    ROUNDS_MAX,
    1,
    "Failures of one session, of alternating nodes; in between they heal. With --daemon: of one "
    "node, and the other's daemon is killed, and the service moved back (bgp).",
)
@click.option(
    "--md5",
    metavar="SECRET",
    callback=_secret,
    help="Sign the session's segments with this key, as RFC 2385 has it (bgp).",
)
@click.option("--routed", is_flag=True, help="Put the peer behind a router.")
@number_option(
    "--moves", 1, MOVES_MAX, 20, "How often the service moves in each direction (switchover)."
)
@click.option("--lab-name", help="Name of the lab to make  [default: one of its own]")
def demo(
    scenario: str,
    *,
    size: int | None,
    family: str,
    count: int,
    mode: str,
    how: str,
    peer: str,
    daemon: str | None,
    routes: int,
    rounds: int,
    md5: str,
    routed: bool,
    moves: int,
    lab_name: str | None,
) -> None:
    """Let the machine that serves a live session die, and prove that the session survives.

    A lab of its own is made, and removed whatever happens. Exit status 0 means survived;
    INCONCLUSIVE that the transfer was over before the failure.
    """
    if rounds > 1 and (scenario != "bgp" or how != How.POWER.value):
        raise click.UsageError("--rounds is for bgp and --how power alone")
    both = family == BOTH
    if both and scenario != "sessions":
        raise click.UsageError("--family both is for sessions alone: choose 4 or 6")
    if daemon and (scenario != "bgp" or how != How.POWER.value or routed):
        raise click.UsageError("--daemon is for bgp and --how power, on one network")
    if md5 and scenario != "bgp":
        raise click.UsageError("--md5 is for bgp alone")
    options = Options(
        size,
        4 if both else int(family),
        mode,
        how,
        lab_name,
        peer,
        count,
        both,
        routed,
        rounds,
        md5,
        moves,
        daemon or "",
        routes,
    )
    # The story belongs on standard output, but for -j, which is for programs.
    tell = narrate if settings().json else click.echo
    names = list(SCENARIOS) if scenario == ALL else [scenario]
    shown = []
    for name in names:
        found = show(name, options, tell)
        shown.append(found)
        if scenario != ALL or not settings().json:
            emit(found, verdict(found))
    if scenario == ALL and settings().json:
        survived = all(found["survived"] for found in shown)
        emit({"scenario": ALL, "survived": survived, "demos": shown}, "")
    if not all(found["survived"] for found in shown):
        sys.exit(1)
