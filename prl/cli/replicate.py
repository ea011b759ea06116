"""`prlctl replicate`: sockets of programs that were not changed (SPEC R17)."""

from typing import Any

import click

from prl.cli.events import followed
from prl.cli.options import number_option
from prl.cli.output import DEGRADED, ask, emit, settings

CONNECTIONS_MAX = 1024
PID_MAX = (1 << 22) - 1  # PID_MAX_LIMIT, linux/threads.h


@click.command()
@click.option("--pid", type=click.IntRange(1, PID_MAX), help="The process that has the socket.")
@click.option("--fd", type=click.IntRange(0), help="Its descriptor there.")
@click.option(
    "--tuple",
    "ends",
    metavar="LOCAL,REMOTE",
    help="Instead: the connection's ends, the service's first; --pid if several have it.",
)
@click.option(
    "--listen",
    metavar="ADDR:PORT",
    help="Instead: all that a server (--pid, if several) has accepted there, or will accept.",
)
@number_option("--max-connections", 1, None, CONNECTIONS_MAX, "With --listen: protected at a time.")
@click.pass_context
def replicate(
    context: click.Context,
    pid: int | None,
    fd: int | None,
    ends: str | None,
    listen: str | None,
    max_connections: int,
) -> None:
    """Protect connections of a program that knows nothing of prl.

    The other node needs a program that says the same: `prlctl serve --listen` there. From now on
    the process's death is what the other node takes over at; its close() ends the session, and so
    does its end with exit status 0. `prlctl flow del` ends the protection. Exit status 3: not
    protected yet, and why. With --listen it runs in the foreground, and tells of each connection;
    those that are protected stay so when it ends.
    """
    if listen is not None:
        if fd is not None or ends is not None:
            raise click.UsageError("--listen goes without --fd and --tuple")
        _follow(listen, pid, max_connections)
    elif ends is not None:
        local, comma, remote = ends.partition(",")
        if fd is not None or not comma:
            raise click.UsageError("give --pid and --fd, or --tuple LOCAL,REMOTE")
        _show(context, ask("replicate_process", local=local, remote=remote, pid=pid or 0))
    elif pid is not None and fd is not None:
        _show(context, ask("replicate_process", pid=pid, fd=fd))
    else:
        raise click.UsageError("give --pid and --fd, or --tuple LOCAL,REMOTE, or --listen")


def _show(context: click.Context, facts: dict[str, Any]) -> None:
    emit(facts, text_of(facts))
    if facts["state"] != "active":
        context.exit(DEGRADED)


def _follow(endpoint: str, pid: int | None, connections_max: int) -> None:
    """Watch until interrupted; one line for each connection."""
    records = followed()
    for record in records:  # from here on nothing is missed
        if record["facts"].get("object") == "end":
            break
    with settings().connect() as node:
        facts = node.request(
            {
                "op": "replicate_listen",
                "endpoint": endpoint,
                "pid": pid or 0,
                "connections_max": connections_max,
            }
        )
        programs = ", ".join(f"{one['program']} (pid {one['pid']})" for one in facts["listeners"])
        emit(facts, f"{facts['endpoint']}: watching {programs}")
        for record in records:
            if record["facts"].get("endpoint") == facts["endpoint"]:
                emit({"event": record}, record["text"])


def text_of(facts: dict[str, Any]) -> str:
    """One line for people."""
    who = f"flow {facts['handle']:#x}: {facts['local']} <-> {facts['remote']}, "
    who += f"{facts['program']} (pid {facts['pid']}, descriptor {facts['fd']})"
    if facts["state"] == "active":
        return f"{who}: protected; the program stood still for {facts['frozen_us']} us"
    return f"{who}: not protected yet: {facts['reason'] or facts['state']}"
