"""`prlctl serve`: an inetd-style program, made non-stop (SPEC R20)."""

import logging
import signal
import sys

import click

from prl.cli.options import number_option
from prl.cli.output import DEGRADED, settings
from prl.control.input_history import HISTORY_MAX_BYTES
from prl.endpoint import Endpoint
from prl.serve import Options, Server
from prl.serve.history import HISTORY_BYTES
from prl.serve.options import CONNECTIONS_MAX

CONNECTIONS_LIMIT = 4096
"""As many clients as prld has (docs/control.md)."""


@click.command("serve", context_settings={"allow_interspersed_args": False})
@click.option(
    "--listen",
    required=True,
    metavar="ADDR:PORT",
    help="The service address and port; an IPv6 address in brackets.",
)
@number_option(
    "--max-connections",
    1,
    CONNECTIONS_LIMIT,
    CONNECTIONS_MAX,
    "Served, and stood by for, at a time.",
)
@number_option(
    "--history",
    0,
    HISTORY_MAX_BYTES,
    HISTORY_BYTES,
    "Bytes of a session's input that are kept, for a program that begins anew on a healed "
    "node; what has had more cannot be protected again.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD…")
@click.pass_context
def serve(
    context: click.Context,
    listen: str,
    max_connections: int,
    history: int,
    command: tuple[str, ...],
) -> None:
    """Run CMD for each connection, its stdin and stdout being the connection, on both nodes.

    Give the same line on the other node. Runs in the foreground; SIGTERM and SIGINT end it, and
    the other node goes on with the sessions that it can. CMD must give the same output for the
    same input: a session where it did not is given up, and the exit status is 3 then.
    """
    logging.basicConfig(stream=sys.stderr, format="serve: %(message)s", level=logging.INFO)
    options = Options(command, settings().socket, max_connections, history)
    server = Server(Endpoint.parse(listen), options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run()
    if not server.is_deterministic:
        context.exit(DEGRADED)
