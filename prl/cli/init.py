"""`prlctl init`: a configuration for both nodes (SPEC section 8)."""

import grp
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import click

from prl.cli.options import choice_option, config_option
from prl.cli.output import emit, narrate, settings
from prl.config import DEFAULT_LINK_KEY, DEFAULT_PATH, link_key
from prl.errors import UsageError
from prl.init import Given, Networks, Plan
from prl.init.networks import resolve

GROUP = "prl"
"""Made by the package (sysusers.d); where there is none, the control socket is root's alone."""


class _Address(click.ParamType[IPv4Address | IPv6Address]):
    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> IPv4Address | IPv6Address:
        try:
            return ip_address(str(value))
        except ValueError:
            self.fail(f"{value!r} is no IP address", param, ctx)


ADDRESS = _Address()


@click.command()
@click.option(
    "--service",
    "addresses",
    type=ADDRESS,
    multiple=True,
    metavar="ADDR",
    help="An address that peers talk to and that moves; again for IPv6.",
)
@click.option("--other", metavar="NAME", help="The other node's name; its host name is best.")
@click.option("--name", help="This node's name; default: the host name.")
@click.option("--lan", metavar="IFACE", help="The interface towards the peers.")
@click.option(
    "--other-lan",
    type=ADDRESS,
    multiple=True,
    metavar="ADDR",
    help="The other node's own address there; again for IPv6.",
)
@click.option("--link", metavar="IFACE", help="The interface towards the other node.")
@click.option("--other-link", type=ADDRESS, metavar="ADDR", help="Its address there.")
@choice_option("--owner", ["this", "other"], "this", "Which node has the service at first.")
@click.option(
    "--service-name", default="main", show_default=True, help="What the service is called."
)
@click.option(
    "--witness",
    "witnesses",
    type=ADDRESS,
    multiple=True,
    metavar="ADDR",
    help="A machine on the LAN that must answer a node which goes on alone; again for each.",
)
@click.option(
    "--arbiter",
    multiple=True,
    metavar="URL",
    help="A member of the etcd that decides who goes on alone; again for each.",
)
@config_option("Where this node's configuration goes.")
@click.option(
    "--peer-config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the other node's goes, to be copied; without it, to standard output.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def init(
    *,
    addresses: tuple[IPv4Address | IPv6Address, ...],
    other: str | None,
    name: str | None,
    lan: str | None,
    other_lan: tuple[IPv4Address | IPv6Address, ...],
    link: str | None,
    other_link: IPv4Address | IPv6Address | None,
    owner: str,
    service_name: str,
    witnesses: tuple[IPv4Address | IPv6Address, ...],
    arbiter: tuple[str, ...],
    config: Path,
    peer_config: Path | None,
    force: bool,
) -> None:
    """Write the configuration of both nodes, and the link's pair key: run it on one of them.

    It finds what it can (interfaces, own addresses, the other node's by its name), says what it
    took for granted, and asks for the rest on a terminal. Nothing is started.
    """
    for path in (config, peer_config):
        if path is not None and path.exists() and not force:
            raise UsageError(f"{path} is there already; --force replaces it")
    ask = _ask if sys.stdin.isatty() else None
    if not addresses:
        if ask is None:
            raise UsageError("Which address do peers talk to? Say so with --service")
        words = "Which addresses do peers talk to, and are to move? (IPv4, IPv6)"
        addresses = tuple(ADDRESS(part) for part in ask(words, "").replace(",", " ").split())
    given = Given(
        addresses=addresses,
        name=name or os.uname().nodename,
        other=other,
        lan=lan,
        other_lan=other_lan,
        link=link,
        other_link=other_link,
        service=service_name,
        other_owns=owner == "other",
        socket_group=GROUP if _has_group() else "",
        witnesses=witnesses,
        arbiter=arbiter,
    )
    with closing(Networks()) as networks:
        plan = Plan(given, networks, resolve, ask)
        pair = plan.pair()
    key = config.absolute().with_name(link_key.NAME)
    own, others = pair.file(0, key), pair.file(1)
    files = {config: own} if peer_config is None else {config: own, peer_config: others}
    with ExitStack() as undo:
        if not key.exists():
            undo.callback(key.unlink, missing_ok=True)
            link_key.add(key)
        _write_all(files, force=force)
        undo.pop_all()
    this, that = pair.nodes
    _tell(plan, config, peer_config, key, that.name)
    facts = {
        "config": str(config),
        "peer_config": str(peer_config) if peer_config else None,
        "link_key": str(key),
        "nodes": [asdict(this), asdict(that)],
        "files": [own, others],
        "assumed": plan.assumed,
        "warnings": plan.warnings,
    }
    if settings().json or peer_config is None:
        emit(_plain(facts), others)


def _tell(plan: Plan, config: Path, peer_config: Path | None, key: Path, other: str) -> None:
    for words in plan.assumed:
        narrate(f"assumed: {words}")
    for words in plan.warnings:
        narrate(f"warning: {words}")
    narrate(f"written: {config}")
    where = str(peer_config) if peer_config else "what follows"
    if peer_config:
        narrate(f"written: {peer_config}")
    if peer_config or not settings().json:
        narrate(f"Put {where} onto {other} as {DEFAULT_PATH}, then start prld on both nodes.")
    narrate(
        f"The link's pair key is {key}: copy it to {other} as {DEFAULT_LINK_KEY}, with mode 0600 "
        "and over a connection that nobody listens to (scp -p). Whoever has it can be either node."
    )


def _ask(question: str, choices: str) -> str:
    there = f" [{choices}]" if choices else ""
    return str(click.prompt(f"{question}{there}", err=True))


def _has_group() -> bool:
    try:
        grp.getgrnam(GROUP)
    except KeyError:
        return False
    return True


def _write_all(files: dict[Path, str], *, force: bool) -> None:
    """All of them or none that is new: trying again must not take --force."""
    with ExitStack() as undo:
        for path, text in files.items():
            if not path.exists():
                undo.callback(path.unlink, missing_ok=True)
            _write(path, text, force=force)
        undo.pop_all()


def _write(path: Path, text: str, *, force: bool) -> None:
    """The whole file or none."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _beside(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
        if force:
            fresh.replace(path)
        else:
            path.hardlink_to(fresh)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Addresses as text."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, IPv4Address | IPv6Address) else value
