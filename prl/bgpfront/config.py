"""The configuration of prl-bgp, /etc/prl/bgp.toml: the same on both nodes."""

import pwd
import socket
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from prl.bgpfront.session import ABSORBED
from prl.config import FRONT_PATH, Key, private, schemas
from prl.config.schemas import Address, Schema
from prl.errors import ConfigError
from prl.shadow.md5 import KEY_MAX_BYTES

DEFAULT_PATH = FRONT_PATH
DEFAULT_SOCKET = "/run/prl/bgp.sock"
PEERS_MAX = 256  # PRL_STEER_PEERS_MAX
HOPS_MAX = 254
_TABLES_OF_THE_KERNEL = (253, 254, 255)  # default, main, local


Error = Annotated[str, Meta(pattern=r"^([0-9]|1[0-9])/[0-9]{1,2}\Z")]


class Peer(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A peer whose session is kept."""

    address: Annotated[Address, Meta(description="the peer's")]
    local: Annotated[Address, Meta(description="the service address that it connects to")]
    md5_key: Annotated[
        str,
        Meta(
            pattern=r"^(/[^\0]{1,4095})?\Z",
            description="file with the key that the segments of this session are signed with "
            "(RFC 2385), by the peer and by the daemon alike, readable by root alone; empty: they "
            "are not signed",
        ),
    ] = ""
    ttl_security_hops: Annotated[
        int,
        Meta(
            ge=0,
            le=HOPS_MAX,
            description="segments from further away are dropped (GTSM, RFC 5082): 1 for a peer on "
            "the same network; 0: they are taken",
        ),
    ] = 0

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of both."""
        return socket.AF_INET if self.address.version == 4 else socket.AF_INET6  # noqa: PLR2004

    def key(self) -> bytes:
        """Read the key: empty without one. Raises ConfigError."""
        if not self.md5_key:
            return b""
        remedy = "write the peer's key there"
        key = private.read(Path(self.md5_key), "peer.md5_key", remedy).strip()
        if not 1 <= len(key) <= KEY_MAX_BYTES:
            raise ConfigError(
                f"peer.md5_key {self.md5_key}: has {len(key)} bytes; a key has 1 to {KEY_MAX_BYTES}"
            )
        return key


class Config(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The whole file."""

    user: Annotated[
        str, Meta(min_length=1, description="the user that the BGP daemon runs as, not root")
    ]
    peer: Annotated[list[Peer], Meta(min_length=1, max_length=PEERS_MAX)]
    table: Annotated[
        int,
        Meta(
            ge=1,
            le=32765,
            description="number of the routing table, and priority of the rules, that are the "
            "front's own",
        ),
    ] = 1790
    channel_port: Annotated[
        int,
        Meta(
            ge=1, le=65535, description="TCP port, on the link, that the front of node 1 listens on"
        ),
    ] = 7079
    socket: Annotated[
        str, Meta(pattern=r"^/[^\0]{1,100}\Z", description="where status is asked for")
    ] = DEFAULT_SOCKET
    metrics_port: Annotated[
        int,
        Meta(
            ge=1,
            le=65535,
            description="TCP port of the front's metrics, on the address of prld's metrics.listen, "
            "if it has one",
        ),
    ] = 9479
    routes_max: Annotated[
        int, Meta(ge=1, le=1 << 26, description="routes in each table; a peer has two")
    ] = 4_000_000
    attributes_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16, le=1 << 36, description="bytes of attributes in each table; a peer has two"
        ),
    ] = 1 << 30
    absorb: Annotated[
        tuple[Error, ...],
        Meta(
            description="NOTIFICATIONs of the daemon, as code/subcode, that its peer is not told "
            "of: the session stays, and waits for it; any other one ends the session"
        ),
    ] = tuple(f"{code}/{subcode}" for code, subcode in sorted(ABSORBED))
    move_on_death: Annotated[
        bool,
        Meta(
            description="when the owner's daemon dies or stops, and the other node could go on "
            "with every session, the services of the peers move there"
        ),
    ] = True
    daemon_return_s: Annotated[
        float,
        Meta(
            ge=1.0,
            le=3600.0,
            description="seconds for which the daemon may be away before the sessions end, too",
        ),
    ] = 120.0

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


def errors(config: Config) -> frozenset[tuple[int, int]]:
    """What ``absorb`` has, as numbers."""
    pairs = (one.split("/") for one in config.absorb)
    return frozenset((int(code), int(subcode)) for code, subcode in pairs)


_SCHEMA = Schema({"": Config, "peer": Peer}, "docs/bgp.md")


def keys() -> Iterator[Key]:
    """Every key of the file, in order, for documentation and messages."""
    return _SCHEMA.keys()


def load(path: Path = DEFAULT_PATH) -> Config:
    """Read and check the file.

    Raises:
        ConfigError: one line that names the file, the key, what is wrong and what to do.
    """
    return schemas.load(path, parse)


def parse(text: str) -> Config:
    """Check the configuration in ``text``.

    Raises:
        ConfigError: as load(), without the file's name.
    """
    config = _SCHEMA.parse(text, Config)
    if config.table in _TABLES_OF_THE_KERNEL:
        raise ConfigError(f"table: {config.table} is one of the host's own; give another number")
    addresses = [peer.address for peer in config.peer]
    for peer in config.peer:
        if addresses.count(peer.address) > 1:
            raise ConfigError(f"peer.address: {peer.address} is there twice; remove one")
        if peer.address == peer.local:
            raise ConfigError(f"peer.local: {peer.local} is the peer; give the service address")
        if peer.address.version != peer.local.version:
            raise ConfigError(
                f"peer.local: {peer.local} is of another IP version than {peer.address}; "
                "give both the same"
            )
        _check_reach(peer.address)
    return config


def _check_reach(address: Address) -> None:
    if isinstance(address, IPv6Address) and address.is_link_local:
        raise ConfigError(
            f"peer.address: {address} is link-local: the two nodes have different addresses of "
            "that kind, and a service address is none; peer by a global one"
        )
    if address.is_loopback:
        raise ConfigError(f"peer.address: {address} is this host; give the peer's address")
