"""The commands that ask or steer prld."""

import itertools
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from prl.cli.flow import all_flows, flow, flows_text, is_unsafe
from prl.cli.options import config_option
from prl.cli.output import ask, emit, settings, table, tree
from prl.cli.status import status, status_text
from prl.config import link_key, load
from prl.errors import ConfigError


@click.group()
def link() -> None:
    """The link to the other node."""


@link.command("new-key")
@config_option("The node's configuration, which names the key's file (link.key).")
def link_new_key(*, config: Path) -> None:
    """Make a pair key: the first one, or one more to change to.

    Both nodes need the same file; prld reads it whenever the link is made. To change the key: make
    one on one node, copy the file, and when both have it, remove its first line on both.
    """
    path = Path(load(config).link.key)
    try:
        keys = link_key.add(path)
    except OSError as error:
        raise ConfigError(f"link.key {path}: {error.strerror}") from error
    words = f"{path}: {len(keys)} of at most {link_key.KEYS_MAX} keys; copy it to the other node"
    emit({"file": str(path), "keys": len(keys)}, words)


@link.command("show")
def link_show() -> None:
    """Show its state and counters, by type of message: how many, and their bytes.

    A round trip is that of the newest echo, without the wait until the other node's next lease.
    """
    facts = ask("link_show")
    rest = {name: value for name, value in facts.items() if name not in _BY_TYPE}
    emit(facts, f"{tree(rest)}\n\n{_messages_text(facts)}")


_BY_TYPE = ("sent", "sent_bytes_by_type", "received", "received_bytes_by_type")


def _messages_text(facts: dict[str, Any]) -> str:
    rows = [["MESSAGE", "SENT", "BYTES", "RECEIVED", "BYTES"]]
    for kind in facts["sent"]:
        # A prld of an earlier version has no bytes by type.
        counts = [facts.get(name, {}).get(kind, "") for name in _BY_TYPE]
        if any(counts):
            rows.append([kind, *map(str, counts)])
    return table(rows)


@click.command()
@click.option("--service", default="", metavar="NAME", help="Needed when there are several.")
@click.option("--fenced", is_flag=True, help="The other node is dead: I have made sure.")
def takeover(service: str, fenced: bool) -> None:
    """Let this node own a service from now on."""
    facts = ask("takeover", service=service, fenced=fenced)
    emit(facts, status_text(facts))


@click.command()
@click.argument("service", default="")
def switchover(service: str) -> None:
    """Move SERVICE to the other node, with all its sessions: nothing is lost.

    Asked on the node that stands by, it moves there. Refused with exit status 3 when it is not
    safe, be it that sessions exist of which prld does not know; `demote` goes ahead all the same.
    SERVICE is needed when there are several.
    """
    _move(service, forced=False)


@click.command()
@click.argument("service", default="")
def demote(service: str) -> None:
    """Give SERVICE to the other node even if that loses sessions which are not protected.

    Or which prld was not asked for. Protected ones are moved as by switchover. For the owner alone.
    """
    _move(service, forced=True)


def _move(service: str, *, forced: bool) -> None:
    facts = ask("switchover", service=service, forced=forced)
    words = f"service {facts['service']}: moved from {facts['from']} to {facts['to']}"
    if facts["silent_ms"] is not None:
        words += f", {facts['sessions']} sessions, silent for {facts['silent_ms']} ms"
    emit(facts, words)


@click.command()
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, help="Seconds.")
@click.option("--count", type=click.IntRange(1), help="End after so many views.")
def top(interval: float, count: int | None) -> None:
    """Show the node and its flows, again and again; those with the longest queues first."""
    views = itertools.count() if count is None else range(count)
    with settings().connect() as node:
        for view in views:
            if view:
                time.sleep(interval)
            facts, flows = node.request({"op": "status"}), all_flows(node)
            flows.sort(key=lambda one: (not is_unsafe(one), -one["queue"]["packets"]))
            head = status_text(facts)
            room = shutil.get_terminal_size().lines - len(head.splitlines()) - 3
            if sys.stdout.isatty() and not settings().json:
                click.clear()
                flows = flows[: max(room, 1)]
            emit(facts | {"flow_list": flows}, f"{head}\n\n{flows_text(flows)}")


@click.command()
def stats() -> None:
    """Show every counter."""
    facts = ask("stats")
    emit(facts, tree(facts))


COMMANDS = (status, flow, link, takeover, switchover, demote, stats, top)
