"""The program prl-bgp."""

import argparse
import asyncio
import contextlib
import itertools
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from prl import config as prld_config
from prl.bgpfront import config as configuration
from prl.bgpfront.config import Config
from prl.bgpfront.shell import Shell
from prl.bgpfront.wiring import Wire, Wiring
from prl.client.aio import AsyncNode
from prl.daemon.host.notify import ServiceManager
from prl.errors import PrlError

_log = logging.getLogger("prl.bgp")


def main(argv: Sequence[str] | None = None) -> int:
    """Run prl-bgp; returns its exit status."""
    given = arguments().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        config = configuration.load(given.config)
        daemon = prld_config.load(given.prld_config)
        if given.unwire:
            _unwire(config, daemon)
        else:
            asyncio.run(_serve(config, daemon))
    except BaseExceptionGroup as group:
        errors, others = group.split((PrlError, OSError))
        if errors is None or others is not None:
            raise
        return _fail(next(_leaves(errors)))
    except (PrlError, OSError) as error:
        return _fail(error)
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="prl-bgp",
        description="A front for an unmodified BGP daemon, on each of two nodes beside prld.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=configuration.DEFAULT_PATH,
        metavar="FILE",
        help="configuration, default %(default)s; the same on both nodes",
    )
    parser.add_argument(
        "--prld-config",
        type=Path,
        default=prld_config.DEFAULT_PATH,
        metavar="FILE",
        help="prld's, default %(default)s",
    )
    parser.add_argument(
        "--unwire",
        action="store_true",
        help="remove the rules and routes by which the daemon cannot reach its peers without a "
        "front; not while one runs",
    )
    return parser


async def _serve(config: Config, daemon: prld_config.Config) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    socket_path = os.environ.get("PRL_SOCKET") or daemon.socket
    manager = ServiceManager()
    turns = itertools.count()

    def ready() -> None:
        _log.info("ready")
        manager.ready()

    with contextlib.suppress(asyncio.CancelledError):
        async with AsyncNode(socket_path) as node, asyncio.TaskGroup() as tasks:
            shell = Shell(config, daemon, node)
            tasks.create_task(manager.watch(turns.__next__, shell.summary))
            await shell.run(ready)
    manager.stopping()


def _unwire(config: Config, daemon: prld_config.Config) -> None:
    wiring = Wiring(
        [Wire(peer.address, peer.local) for peer in config.peer],
        uid=config.uid(),
        interface=daemon.lan.interface,
        table=config.table,
    )
    wiring.remove()
    wiring.close()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _fail(error: BaseException) -> int:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return error.exit_code if isinstance(error, PrlError) else 1


if __name__ == "__main__":
    sys.exit(main())
