"""`prlctl serve`: an inetd-style program, made non-stop (SPEC R20)."""

import logging
import signal
import sys

import click

from prl.cli.output import settings
from prl.endpoint import Endpoint
from prl.serve import Server


@click.command("serve", context_settings={"allow_interspersed_args": False})
@click.option(
    "--listen",
    required=True,
    metavar="ADDR:PORT",
    help="The service address and port; an IPv6 address in brackets.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD…")
def serve(listen: str, command: tuple[str, ...]) -> None:
    """Run CMD for each connection, its stdin and stdout being the connection, on both nodes.

    Give the same line on the other node. Runs in the foreground; SIGTERM and SIGINT end it, and
    the other node goes on with the sessions that it can.
    """
    logging.basicConfig(stream=sys.stderr, format="serve: %(message)s", level=logging.INFO)
    server = Server(Endpoint.parse(listen), command, settings().socket)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run()
