"""`prlctl replicate`: sockets of programs that were not changed (SPEC R17)."""

from typing import Any

import click

from prl.cli.daemon_commands import DEGRADED, ask
from prl.cli.output import emit

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
@click.pass_context
def replicate(context: click.Context, pid: int | None, fd: int | None, ends: str | None) -> None:
    """Protect a connection of a program that knows nothing of prl.

    From now on it is the process's death that the other node takes over at; its close() ends the
    session. `prlctl flow del` ends the protection. Exit status 3: not protected yet, and why.
    """
    if ends is not None:
        local, comma, remote = ends.partition(",")
        if fd is not None or not comma:
            raise click.UsageError("give --pid and --fd, or --tuple LOCAL,REMOTE")
        facts = ask("replicate_process", local=local, remote=remote, pid=pid or 0)
    elif pid is not None and fd is not None:
        facts = ask("replicate_process", pid=pid, fd=fd)
    else:
        raise click.UsageError("give --pid and --fd, or --tuple LOCAL,REMOTE")
    emit(facts, text_of(facts))
    if facts["state"] != "active":
        context.exit(DEGRADED)


def text_of(facts: dict[str, Any]) -> str:
    """One line for people."""
    who = f"flow {facts['handle']:#x}: {facts['local']} <-> {facts['remote']}, "
    who += f"{facts['program']} (pid {facts['pid']}, descriptor {facts['fd']})"
    if facts["state"] == "active":
        return f"{who}: protected; the program stood still for {facts['frozen_us']} us"
    return f"{who}: not protected yet: {facts['reason'] or facts['state']}"
