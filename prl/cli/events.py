"""The command that shows what happened, and what happens."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import click

from prl.cli.output import emit, settings
from prl.client import Node
from prl.control.messages import MESSAGE_MAX_BYTES, SCHEMA, decode, default_socket, encode
from prl.errors import NoDaemonError, PrlError


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on as they happen.")
@click.option(
    "--from",
    "begin",
    type=click.Choice(["now", "start"]),
    default="now",
    show_default=True,
    help="With --follow: begin with what there is now, or with the past events before that.",
)
def events(follow: bool, begin: str) -> None:
    """Show what happened.

    With --follow, one line for each thing that exists (the node, the link, services, sessions),
    then a line for each event, at once. With -j, each line is a JSON object.
    """
    if not follow:
        with settings().connect() as node:
            found = all_events(node)
        emit({"events": found}, "\n".join(map(_event_text, found)))
        return
    for record in followed(past=begin == "start"):
        if settings().json:
            click.echo(json.dumps({"schema": SCHEMA, "event": record}))
        else:
            click.echo(_event_text(record))


def all_events(node: Node) -> list[dict[str, Any]]:
    """All that prld remembers."""
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["seq"] if found else 0
        more = node.request({"op": "events", "after": after})["events"]
        if not more:
            return found
        found += more


def followed(*, past: bool = False) -> Iterator[dict[str, Any]]:
    """What prld tells, as it tells it. Raises PrlError; NoDaemonError when prld ends."""
    path = settings().socket or default_socket()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(str(path))
            sock.send(encode({"op": "follow", "id": 1, "past": past}))
            while raw := sock.recv(MESSAGE_MAX_BYTES):
                message = decode(raw)
                if message.get("ok") is False:
                    raise PrlError(str(message.get("error")))
                if message.get("event") == "records":
                    yield from message["records"]
        except OSError as error:
            raise NoDaemonError(f"no prld answers on {path}: {error.strerror}") from error
    raise NoDaemonError(f"prld on {path} has ended")


def _event_text(record: dict[str, Any]) -> str:
    return f"{record['time']} {record['level']:<7} {record['event']}: {record['text']}"
