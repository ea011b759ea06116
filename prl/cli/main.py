"""The program prlctl (SPEC section 8)."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from prl import __version__
from prl.cli import daemon_commands
from prl.cli.events import events
from prl.cli.output import Settings, fail, wants_colour
from prl.cli.status import status
from prl.control.messages import node_socket
from prl.errors import PrlError

DEFAULT_LAB: Final = "prl"
_LATER: Final = {
    "doctor": ("prl.cli.doctor", "doctor"),
    "init": ("prl.cli.init", "init"),
    "lab": ("prl.cli.lab", "lab"),
    "replicate": ("prl.cli.replicate", "replicate"),
    "serve": ("prl.cli.serve", "serve"),
    "demo": ("prl.cli.demo", "demo"),
    "bench": ("prl.cli.bench", "bench"),
    "bgp": ("prl.cli.bgp", "bgp"),
    "support-bundle": ("prl.cli.support_bundle", "support_bundle"),
}
_PIPE_CLOSED, _INTERRUPTED = 141, 130  # as a shell reports SIGPIPE and SIGINT


class _Commands(click.Group):
    """Imports the larger commands only when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_LATER})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LATER:
            return super().get_command(ctx, cmd_name)
        module, name = _LATER[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise PrlError(f"`{cmd_name}` cannot be loaded ({error}); run `make setup`") from error
        return command


@click.command(cls=_Commands, invoke_without_command=True)
@click.option("--node", metavar="NAME", help="A node of the lab: re0 or re1.")
@click.option("--lab", metavar="NAME", default=DEFAULT_LAB, help="Which lab --node means.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="prld's control socket; default $PRL_SOCKET or /run/prl/prld.sock.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print facts as JSON.")
@click.version_option(__version__, prog_name="prlctl")
@click.pass_context
def cli(
    context: click.Context, node: str | None, lab: str, socket: Path | None, as_json: bool
) -> None:
    """Sessions that outlive their host: ask and steer prld. Without a COMMAND: status.

    Exit status: 0 good, 1 failed, 2 usage, 3 works but not safe, 4 no daemon.
    """
    if node is not None and socket is not None:
        raise click.UsageError("give --node or --socket, not both")
    if node is not None and ("/" in node or "/" in lab):
        raise click.UsageError("a name has no '/'")
    path = node_socket(lab, node) if node is not None else socket
    context.color = wants_colour()
    context.obj = Settings(socket=path, json=as_json)
    if context.invoked_subcommand is None:
        context.invoke(status)


for _command in daemon_commands.COMMANDS:
    cli.add_command(_command)
cli.add_command(events)


def main(argv: Sequence[str] | None = None) -> int:
    """Run prlctl; returns its exit status. Errors are one line on standard error."""
    try:
        result = cli.main(args=argv, prog_name="prlctl", standalone_mode=False)
    except BrokenPipeError:
        # Whoever read our output has gone; what is left of it must not be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return error.exit_code
    except (click.ClickException, click.Abort, PrlError, OSError) as error:
        words, code = _explain(error)
        fail(words)
        return code
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> tuple[str, int]:
    """An error in words, and the exit status that belongs to it."""
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, click.Abort):
        return "interrupted", _INTERRUPTED
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", 1
    return str(error), error.exit_code if isinstance(error, PrlError) else 1


if __name__ == "__main__":
    sys.exit(main())
