"""How every command prints: facts as text or JSON on standard output, words on standard error."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from prl.client import Node
from prl.messages import SCHEMA, default_socket


@dataclass(frozen=True, slots=True)
class Settings:
    """prlctl's global options."""

    socket: Path | None = None
    """None: the default one."""
    json: bool = False

    def connect(self) -> Node:
        """Connect to prld. Raises NoDaemonError."""
        return Node(self.socket or default_socket(), reconnect=False)


def settings() -> Settings:
    """The options of the running command."""
    context = click.get_current_context(silent=True)
    found = context.find_root().obj if context is not None else None
    return found if isinstance(found, Settings) else Settings()


def emit(facts: dict[str, Any], text: str) -> None:
    """Print ``facts`` as JSON with ``-j``, else ``text``."""
    if settings().json:
        click.echo(json.dumps({"schema": SCHEMA} | facts))
    else:
        click.echo(text)


def narrate(text: str) -> None:
    """Tell what is going on: on standard error, so that standard output holds the facts alone."""
    click.echo(text, err=True)


def table(rows: list[list[str]]) -> str:
    """Rows of cells as text in columns, the first row being the heading."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def fail(message: str) -> None:
    """Print an error as one line."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
