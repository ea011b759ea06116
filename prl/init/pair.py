"""Two nodes that belong together, and the file of each."""

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from prl import config

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Member:
    """One node."""

    name: str
    lan: str
    """Interface towards the peers."""
    address: IPv4Address
    link: str
    """Interface towards the other node."""
    link_address: Address
    address6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Both nodes, node 0 first, and the service that they share."""

    nodes: tuple[Member, Member]
    service: str
    addresses: tuple[Address, ...]
    owner: str
    socket_group: str = ""
    """Empty: the control socket is root's alone."""
    arbiter: tuple[str, ...] = ()
    """URLs of its members; empty: there is none."""
    witnesses: tuple[Address, ...] = ()

    def file(self, index: int, key: Path = config.DEFAULT_LINK_KEY) -> str:
        """The configuration of node ``index``, whose pair key is ``key``. Raises ConfigError."""
        node, other = self.nodes[index], self.nodes[1 - index]
        lines = [
            f"# Of node {node.name}; {other.name} has the counterpart. Written by `prlctl init`;",
            "# every key that is not here has its default: man prld.toml.",
            _assign("node", node.name),
            _assign("instance", node.name),
            _assign("index", index),
            *([_assign("socket_group", self.socket_group)] if self.socket_group else []),
            "",
            "[lan]",
            _assign("interface", node.lan),
            _assign("address", str(node.address)),
            _assign("peer_address", str(other.address)),
        ]
        if node.address6 is not None and other.address6 is not None:
            lines += [
                _assign("address6", str(node.address6)),
                _assign("peer_address6", str(other.address6)),
            ]
        if self.witnesses:
            lines.append(_assign("witnesses", [str(address) for address in self.witnesses]))
        lines += [
            "",
            "[link]",
            _assign("interface", node.link),
            _assign("local", str(node.link_address)),
            _assign("remote", str(other.link_address)),
            *([] if key == config.DEFAULT_LINK_KEY else [_assign("key", str(key))]),
            "",
            *self._arbiter(),
            "# The same on both nodes.",
            "[[service]]",
            _assign("name", self.service),
            _assign("addresses", [str(address) for address in self.addresses]),
            _assign("owner", self.owner),
        ]
        text = "\n".join(lines) + "\n"
        config.parse(text)
        return text

    def _arbiter(self) -> list[str]:
        if not self.arbiter:
            return []
        return [
            "[arbiter]",
            _assign("endpoints", list(self.arbiter)),
            _assign("pair", "-".join(node.name for node in self.nodes)),
            "",
        ]


def _assign(key: str, value: str | int | list[str]) -> str:
    """One TOML line; JSON's strings, integers and arrays of strings are TOML's."""
    return f"{key} = {json.dumps(value)}"
