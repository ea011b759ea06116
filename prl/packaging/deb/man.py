"""Writes the manual pages from where the facts stand: commands, options, configuration's schema."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from os import environ
from pathlib import Path

import click

from prl import __version__, config
from prl.cli.main import cli
from prl.daemon.main import arguments

_SEE_ALSO = "prl in /usr/share/doc/prl: operations.md, configuration.md, failover.md"


def escaped(text: str) -> str:
    """Text as roff takes it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in {".", "'"} else line for line in text.split("\n"))


def page(name: str, section: int, what: str, body: Iterator[str]) -> str:
    """A whole page."""
    day = datetime.fromtimestamp(int(environ.get("SOURCE_DATE_EPOCH", "0")), UTC).date()
    head = [
        f'.TH "{name.upper()}" "{section}" "{day}" "prl {__version__}"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(what)}",
    ]
    return "\n".join([*head, *body]) + "\n"


def option(names: str, text: str) -> Iterator[str]:
    """One option or key, and what it means."""
    yield from (".TP", f"\\fB{escaped(names)}\\fR", escaped(text) or "\\&")


def commands(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    """A command and all below it."""
    with click.Context(command, info_name=path.rpartition(" ")[2], parent=parent) as context:
        usage = " ".join(command.collect_usage_pieces(context))
        yield from (f".SS {escaped(path)} {escaped(usage)}", *_paragraphs(command.help or ""))
        for parameter in command.get_params(context):
            if record := parameter.get_help_record(context):
                yield from option(*record)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                if found := command.get_command(context, name):
                    yield from commands(found, f"{path} {name}", context)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from (".PP", escaped(" ".join(paragraph.split())))


def prlctl() -> str:
    """Of the command: every subcommand."""

    def body() -> Iterator[str]:
        yield ".SH COMMANDS"
        yield from commands(cli, "prlctl", None)
        yield from (".SH SEE ALSO", "prld(8), prld.toml(5),", escaped(_SEE_ALSO))

    return page("prlctl", 1, "ask and steer prld", body())


def prld() -> str:
    """Of the daemon."""

    def body() -> Iterator[str]:
        yield from (".SH SYNOPSIS", escaped(arguments().format_usage().removeprefix("usage: ")))
        yield from (".SH DESCRIPTION", escaped(arguments().description or ""), ".SH OPTIONS")
        for action in arguments()._actions:  # noqa: SLF001  argparse has no other list of them
            names = ", ".join(action.option_strings)
            text = (action.help or "") % {"default": action.default}
            yield from option(f"{names} {action.metavar or ''}".strip(), text)
        yield from (".SH FILES", "/etc/prl/prld.toml, /run/prl/prld.sock, /sys/fs/bpf/prl")
        yield from (".SH SEE ALSO", "prlctl(1), prld.toml(5),", escaped(_SEE_ALSO))

    return page("prld", 8, "keeps live TCP and UDP sessions on two nodes", body())


def prld_toml() -> str:
    """Of the configuration."""

    def body() -> Iterator[str]:
        yield from (".SH DESCRIPTION", "TOML, one file a node, written by \\fBprlctl init\\fR.")
        yield from (escaped("A dot separates a table from its key:"), ".SH KEYS")
        for key in config.schema():
            yield from option(key.path, f"{key.description} ({key.kind}; {key.default})")
        yield from (".SH SEE ALSO", "prld(8), prlctl(1),", escaped(_SEE_ALSO))

    return page("prld.toml", 5, "configuration of prld", body())


PAGES = {"man1/prlctl.1": prlctl, "man5/prld.toml.5": prld_toml, "man8/prld.8": prld}

if __name__ == "__main__":
    for name, make in PAGES.items():
        path = Path(sys.argv[1], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), encoding="utf-8")
