"""The configuration, and whether this host is the one that it describes."""

from collections.abc import Iterator
from pathlib import Path

from prl import config as configuration
from prl.config import Config, link_key
from prl.doctor import host
from prl.doctor.finding import Finding, Verdict, judge
from prl.doctor.host import Interface
from prl.endpoint import Address
from prl.errors import ConfigError


def load(path: Path | None) -> tuple[Config | None, Finding]:
    """The file that is named, or the default one if there is one."""
    chosen = path or configuration.DEFAULT_PATH
    if path is None and not chosen.exists():
        words = f"none: {chosen} does not exist, so that only the host is looked at"
        remedy = "name one with --config, or write one with `prlctl init`"
        return None, Finding("configuration", Verdict.NOTE, words, remedy)
    try:
        config = configuration.load(chosen)
    except ConfigError as error:
        return None, Finding("configuration", Verdict.MISSING, str(error), "correct the file")
    if notices := configuration.deprecations(chosen):
        remedy = "change the file before the next upgrade"
        return config, Finding("configuration", Verdict.NOTE, "; ".join(notices), remedy)
    return config, Finding("configuration", Verdict.OK, f"{chosen}: node {config.node}")


def examine(config: Config | None) -> Iterator[Finding]:
    """Interfaces and the node's own addresses."""
    if config is None:
        return
    there = host.interfaces()
    wanted = {config.lan.interface: "lan.interface", config.link.interface: "link.interface"}
    wanted |= {each.interface: "routing.interface" for each in config.routing}
    for name, key in wanted.items():
        yield judge(
            f"interface {name}",
            name in there,
            "present" if name in there else f"there are: {', '.join(there)}",
            f"correct {key}, or create the interface",
        )
    lan, link = config.lan, config.link
    own = [(lan.interface, lan.address), (lan.interface, lan.address6)]
    for name, address in [*own, (link.interface, link.local)]:
        if address is not None and name in there:
            yield _address(name, address, there)
    yield _secrecy(config)


def _address(name: str, address: Address, there: dict[str, Interface]) -> Finding:
    has = [each.name for each in there.values() if any(own.ip == address for own in each.addresses)]
    return judge(
        f"address {address}",
        name in has,
        f"on {', '.join(has)}" if has else "on no interface",
        f"it must be on {name}, with the length of its network's prefix",
        paste=f"ip address add {address}/{64 if address.version == 6 else 24} dev {name}",  # noqa: PLR2004
    )


def _secrecy(config: Config) -> Finding:
    """The link's TLS, and its key."""
    name = "pair key of the link"
    if config.link.plain:
        words = "link.plain: whoever is on the link's network can read it and be the other node"
        return Finding(name, Verdict.WARNING, words, "remove link.plain on both nodes")
    try:
        keys = link_key.load(Path(config.link.key))
    except ConfigError as error:
        return Finding(name, Verdict.MISSING, str(error), "do as it says")
    if len(keys) == 1:
        return Finding(name, Verdict.OK, config.link.key)
    words = f"{config.link.key}: {len(keys)}: it is being changed"
    return Finding(name, Verdict.NOTE, words, "when both nodes have both, remove the first line")
