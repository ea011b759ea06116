"""How every command prints: facts as text or JSON on standard output, words on standard error."""

import json
import os
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from prl.client import Node
from prl.control.messages import SCHEMA, default_socket

DEGRADED: Final = 3
"""Exit status: it works, but is not safe."""
COLUMNS: Final = 80
GOOD: Final = "green"
WARN: Final = "yellow"
BAD: Final = "red"


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


def ask(op: str, **arguments: Any) -> dict[str, Any]:
    """One question to prld. Raises PrlError."""
    with settings().connect() as node:
        return node.request({"op": op} | arguments)


def wants_colour() -> bool | None:
    """For click: whether text has colours. None: only where it goes to a terminal.

    See https://no-color.org.
    """
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def emit(facts: dict[str, Any], text: str) -> None:
    """Print ``facts`` as JSON with ``-j``, else ``text``.

    JSON is indented on a terminal, and one line, for programs, elsewhere.
    """
    if settings().json:
        click.echo(
            json.dumps({"schema": SCHEMA} | facts, indent=2 if sys.stdout.isatty() else None)
        )
    else:
        click.echo(text)


def wrapped(text: str, colour: str | None = None) -> str:
    """One line as so many as its words need in COLUMNS; a word is never broken."""
    indent = text[: len(text) - len(text.lstrip())]
    lines = textwrap.wrap(
        text,
        COLUMNS,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(click.style(line, fg=colour) if colour else line for line in lines)


def narrate(text: str) -> None:
    """Tell what is going on: on standard error, so that standard output holds the facts alone."""
    click.echo(text, err=True)


def table(rows: list[list[str]], colours: dict[int, str] | None = None) -> str:
    """Rows of cells as text in columns, the first row being the heading.

    ``colours``: of some rows, by their number.
    """
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for number, colour in (colours or {}).items():
        lines[number] = click.style(lines[number], fg=colour)
    return "\n".join(lines)


def tree(facts: dict[str, Any], indent: str = "") -> str:
    """Nested facts as indented lines."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", tree(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}: {', '.join(map(str, value))}")
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(line for line in lines if line)


def fail(message: str) -> None:
    """Print an error as one line."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
