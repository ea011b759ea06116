"""Writes the manual pages from where the facts stand: commands, options, configuration's schema."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from os import environ
from pathlib import Path

import click

from prl import __version__, config
from prl.bgpfront import config as bgp_config
from prl.bgpfront import main as bgp_front
from prl.cli.main import cli
from prl.daemon import main as daemon

_SEE_ALSO = "prl in /usr/share/doc/prl: operations.md, configuration.md, failover.md, bgp.md"


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


def _daemon(name: str, what: str, parser: ArgumentParser, files: str, also: str) -> str:
    """Of a daemon."""

    def body() -> Iterator[str]:
        yield from (".SH SYNOPSIS", escaped(parser.format_usage().removeprefix("usage: ")))
        yield from (".SH DESCRIPTION", escaped(parser.description or ""), ".SH OPTIONS")
        for action in parser._actions:  # noqa: SLF001  argparse has no other list of them
            names = ", ".join(action.option_strings)
            text = (action.help or "") % {"default": action.default}
            yield from option(f"{names} {action.metavar or ''}".strip(), text)
        yield from (".SH FILES", escaped(files))
        yield from (".SH SEE ALSO", f"prlctl(1), {also},", escaped(_SEE_ALSO))

    return page(name, 8, what, body())


def prld() -> str:
    """Of prld."""
    files = "/etc/prl/prld.toml, /run/prl/prld.sock, /sys/fs/bpf/prl"
    what = "keeps live TCP and UDP sessions on two nodes"
    return _daemon("prld", what, daemon.arguments(), files, "prld.toml(5)")


def prl_bgp() -> str:
    """Of the front of a BGP daemon."""
    files = "/etc/prl/bgp.toml, /etc/prl/prld.toml, /run/prl/bgp.sock"
    what = "keeps the sessions of a BGP daemon on two nodes"
    return _daemon("prl-bgp", what, bgp_front.arguments(), files, "bgp.toml(5), prld(8)")


def _toml(name: str, of: str, description: str, keys: Iterable[config.Key]) -> str:
    """Of a configuration."""

    def body() -> Iterator[str]:
        yield from (".SH DESCRIPTION", description)
        yield from (escaped("A dot separates a table from its key:"), ".SH KEYS")
        for key in keys:
            yield from option(key.path, f"{key.description} ({key.kind}; {key.default})")
        yield from (".SH SEE ALSO", f"{of}(8), prlctl(1),", escaped(_SEE_ALSO))

    return page(name, 5, f"configuration of {of}", body())


def prld_toml() -> str:
    """Of prld's configuration."""
    description = "TOML, one file a node, written by \\fBprlctl init\\fR."
    return _toml("prld.toml", "prld", description, config.schema())


def bgp_toml() -> str:
    """Of the configuration of a front."""
    description = "TOML, the same file on both nodes, with a table [[peer]] for each peer."
    return _toml("bgp.toml", "prl-bgp", description, bgp_config.keys())


PAGES = {
    "man1/prlctl.1": prlctl,
    "man5/bgp.toml.5": bgp_toml,
    "man5/prld.toml.5": prld_toml,
    "man8/prl-bgp.8": prl_bgp,
    "man8/prld.8": prld,
}

if __name__ == "__main__":
    for name, make in PAGES.items():
        path = Path(sys.argv[1], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), encoding="utf-8")
