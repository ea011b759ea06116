"""The configuration of prl-bgp, /etc/prl/bgp.toml: the same on both nodes."""

import pwd
import tomllib
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from prl.errors import ConfigError

DEFAULT_PATH = Path("/etc/prl/bgp.toml")
DEFAULT_SOCKET = "/run/prl/bgp.sock"
PEERS_MAX = 256  # PRL_STEER_PEERS_MAX
_TABLES_OF_THE_KERNEL = (253, 254, 255)  # default, main, local


class Peer(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A peer whose session is kept.

    Attributes:
        address: its address.
        local: the service address that it connects to.
    """

    address: IPv4Address
    local: IPv4Address


class Config(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
        user: the user that the daemon runs as, not root.
        peer: the peers.
        table: number of the routing table, and priority of the rules, that are the front's own.
        channel_port: TCP port, on the link, that the front of node 1 listens on.
        socket: where status is asked for.
        routes_max: rows of each table: two a peer.
        attributes_max_bytes: of each table's sets of attributes.
        daemon_return_s: for how long a daemon may be away before the sessions end, too.
    """

    user: Annotated[str, Meta(min_length=1)]
    peer: Annotated[list[Peer], Meta(min_length=1, max_length=PEERS_MAX)]
    table: Annotated[int, Meta(ge=1, le=32765)] = 1790
    channel_port: Annotated[int, Meta(ge=1, le=65535)] = 7079
    socket: Annotated[str, Meta(pattern=r"^/[^\0]{1,100}\Z")] = DEFAULT_SOCKET
    routes_max: Annotated[int, Meta(ge=1, le=1 << 26)] = 4_000_000
    attributes_max_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 36)] = 1 << 30
    daemon_return_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 120.0

    def uid(self) -> int:
        """The daemon's user, as the kernel knows it. Raises ConfigError."""
        try:
            uid = pwd.getpwnam(self.user).pw_uid
        except KeyError as error:
            raise ConfigError(
                f"user: there is no user {self.user!r} on this host; name the one that the BGP "
                "daemon runs as"
            ) from error
        if uid == 0:
            raise ConfigError(
                "user: root is everybody on this host; let the BGP daemon run as a user of its own"
            )
        return uid


def load(path: Path = DEFAULT_PATH) -> Config:
    """Read and check the file.

    Raises:
        ConfigError: one line that names the file, the key, what is wrong and what to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; name another file with --config"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(text: str) -> Config:
    """Check the configuration in ``text``.

    Raises:
        ConfigError: as load(), without the file's name.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}; correct that line") from error
    try:
        config = msgspec.convert(document, Config, dec_hook=_address)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error}; see docs/bgp-front.md") from error
    if config.table in _TABLES_OF_THE_KERNEL:
        raise ConfigError(f"table: {config.table} is one of the host's own; give another number")
    addresses = [peer.address for peer in config.peer]
    for peer in config.peer:
        if addresses.count(peer.address) > 1:
            raise ConfigError(f"peer.address: {peer.address} is there twice; remove one")
        if peer.address == peer.local:
            raise ConfigError(f"peer.local: {peer.local} is the peer; give the service address")
    return config


def _address(kind: Any, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("Expected an IP address in quotes")  # noqa: TRY004 - msgspec's only
    try:
        address = ip_address(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not an IP address") from error
    if not isinstance(address, kind):
        raise ValueError(f"{value!r}: peers of IPv6 are not supported yet")  # noqa: TRY004
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError(f"{value!r} is not a plain unicast address")
    return address
