"""`prlctl bgp`: the front of this node's BGP daemon (docs/bgp.md)."""

from pathlib import Path
from typing import Any

import click

from prl.bgpfront.client import ask
from prl.bgpfront.config import DEFAULT_PATH, load
from prl.cli.output import BAD, DEGRADED, GOOD, WARN, emit, table, wrapped


@click.group("bgp")
def bgp() -> None:
    """The front of this node's BGP daemon, prl-bgp."""


@bgp.command("status")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_PATH,
    show_default=True,
    metavar="FILE",
    help="Its configuration, which names the socket on which it is asked.",
)
@click.pass_context
def bgp_status(context: click.Context, *, config: Path) -> None:
    """Show the sessions, and whether the other node could go on with them: exit status 3 if not.

    HEARD is what the peer has announced, FED what the daemon was given of it; WANTED is what the
    daemon announces, TOLD what the peer was told of it, in routes.
    """
    facts = ask(load(config).socket)
    emit(facts, status_text(facts))
    if not facts["ready"]:
        context.exit(DEGRADED)


def status_text(facts: dict[str, Any]) -> str:
    """The answer for people."""
    why = facts["channel_why"]
    channel = f"{facts['channel']}: {why}" if why else facts["channel"]
    lines = [wrapped(f"channel to the other front: {channel}", BAD if why else None)]
    head = ["PEER", "ROLE", "STATE", "FOR", "HEARD", "FED", "WANTED", "TOLD", "DIFFERENT"]
    rows = [head, *(_row(peer) for peer in facts["peers"])]
    colours = {n: WARN for n, peer in enumerate(facts["peers"], 1) if peer["because"]}
    lines.append(table(rows, colours))
    lines += [
        wrapped(f"{peer['peer']}: {peer['because']}", WARN)
        for peer in facts["peers"]
        if peer["because"]
    ]
    ready, colour = ("yes", GOOD) if facts["ready"] else ("no", BAD)
    lines.append(wrapped(f"the other node can go on: {ready}", colour))
    return "\n".join(lines)


def _row(peer: dict[str, Any]) -> list[str]:
    came, goes = peer.get("in", {}), peer.get("out", {})
    counts = (came.get("heard"), came.get("fed"), goes.get("wanted"), goes.get("told"))
    return [
        peer["peer"],
        peer["role"],
        peer["state"],
        f"{peer['since_s']:.0f} s" if "since_s" in peer else "",
        *("" if count is None else str(count) for count in counts),
        str(came["differing"] + goes["differing"]) if came and goes else "",
    ]
