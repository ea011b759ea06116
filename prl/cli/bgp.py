"""`prlctl bgp`: the front of this node's BGP daemon (docs/bgp.md)."""

from pathlib import Path
from typing import Any

import click

from prl.bgpfront.check import Remark, Router, check, compare, read
from prl.bgpfront.client import ask
from prl.bgpfront.config import DEFAULT_PATH, load
from prl.cli.doctor import findings_text
from prl.cli.options import config_option
from prl.cli.output import BAD, DEGRADED, GOOD, WARN, emit, table, wrapped
from prl.doctor.finding import Finding, Verdict
from prl.errors import ConfigError, UsageError

BIRD_CONFIG, FRR_CONFIG = Path("/etc/bird/bird.conf"), Path("/etc/frr/frr.conf")
NODES = 2


@click.group("bgp")
def bgp() -> None:
    """The front of this node's BGP daemon, prl-bgp."""


@bgp.command("status")
@config_option("Its configuration, which names the socket on which it is asked.", DEFAULT_PATH)
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


@bgp.command("check")
@click.argument(
    "files",
    nargs=-1,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="[FILE]...",
)
@config_option("The front's configuration.", DEFAULT_PATH)
@click.pass_context
def bgp_check(context: click.Context, *, files: tuple[Path, ...], config: Path) -> None:
    """Check the BGP daemon's configuration; of two FILEs, one of each node, that they are alike.

    Without a FILE that of this host, /etc/bird/bird.conf if the daemon's user is bird, else
    /etc/frr/frr.conf. Exit status 1: no session would begin; 3: it works, but is not safe.
    """
    front = load(config)
    if not files:
        files = (BIRD_CONFIG if front.user == "bird" else FRR_CONFIG,)
    if len(files) > NODES:
        raise click.UsageError(f"give {NODES} files at most: this node's and the other node's")
    texts = [_text_of(path) for path in files]
    remarks = [remark for text in texts for remark in check(front, text[1])]
    if len(texts) == NODES:
        remarks += compare(texts[0][0], texts[1][0])
    findings = [_finding(remark) for remark in dict.fromkeys(remarks)]
    emit({"checks": [finding.facts() for finding in findings]}, findings_text(findings))
    verdicts = {finding.verdict for finding in findings}
    if Verdict.MISSING in verdicts:
        context.exit(1)
    if Verdict.WARNING in verdicts:
        context.exit(DEGRADED)


def _text_of(path: Path) -> tuple[str, Router]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, read(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; name the daemon's file") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _finding(remark: Remark) -> Finding:
    verdict = Verdict.MISSING if remark.needed else Verdict.WARNING
    if not remark.remedy:
        verdict = Verdict.OK
    return Finding(remark.what, verdict, remark.found, remark.remedy)


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
