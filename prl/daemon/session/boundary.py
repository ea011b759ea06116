"""What the other node may ask of this host by a set-up: only what a session of the pair's needs.

A shadow is a socket with the options that the other node names, in front of a neighbour entry that
it names: whatever could reach beyond the session is looked at before anything is made of it.
"""

import re
from ipaddress import IPv6Address
from typing import Final

from prl.bindings.datapath import Tuple
from prl.bindings.native import lib
from prl.config import Config
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import NextHop
from prl.daemon.session.cloning import Snapshot
from prl.daemon.session.transfer import Setup, TransferError
from prl.endpoint import Address
from prl.shadow import Endpoint

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_GROUP_BIT: Final = 1
IPV6: Final = 6


def check(
    setup: Setup,
    snapshot: Snapshot,
    ends: Tuple,
    hop: NextHop | None,
    *,
    config: Config,
    instances: Instances,
    service: int,
) -> None:
    """Raise TransferError for what no primary of the pair's would send, all else is right."""
    own = _own(config, ends.instance)
    if not ends.is_unconnected:
        _check_host(ends.remote, own, f"{ends}: the peer")
    if bool(setup.next_hop) != bool(setup.next_hop_mac):
        raise TransferError(f"{ends}: the next hop has an address or a MAC address, but not both")
    if hop is not None:
        _check_hop(hop, ends, own)
    network = snapshot.network
    if (
        network.mark & lib.PRL_MARKS_MASK == lib.PRL_MARKS
        or network.mark & lib.PRL_QUEUE_MARKS_MASK == lib.PRL_QUEUE_MARKS
    ):
        raise TransferError(f"{ends}: mark {network.mark:#x} is one of prl's own")
    names = instances.device_names(service)
    if network.bound_device not in {"", *names}:
        raise TransferError(
            f"{ends}: it is bound to {network.bound_device}, which is not its service's: "
            f"{', '.join(names)}"
        )
    for end in (snapshot.local, snapshot.remote):
        if end is not None:
            _check_scope(end, names, ends)


def _own(config: Config, instance: str) -> set[Address]:
    """Addresses that no peer and no neighbour has, in a routing instance."""
    services = (service for service in config.service if service.instance == instance)
    found = {address for service in services for address in service.addresses}
    if not instance:
        found |= {config.lan.address, config.link.local}
        found |= {config.lan.address6} if config.lan.address6 else set()
    return found


def _check_host(address: Address, own: set[Address], what: str) -> None:
    """One machine's address, elsewhere."""
    is_one = not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or (address.version != IPV6 and address.is_reserved)  # with it, the broadcast address
    )
    if not is_one or address in own:
        raise TransferError(f"{what} has the address {address}, which no other machine has")


def _check_hop(hop: NextHop, ends: Tuple, own: set[Address]) -> None:
    _check_host(hop.address, own, f"{ends}: the next hop")
    if isinstance(hop.address, IPv6Address) and hop.address.scope_id is not None:
        raise TransferError(f"{ends}: the next hop {hop.address} names an interface")
    if ends.remote.version == IPV6 != hop.address.version:
        raise TransferError(f"{ends}: the next hop {hop.address} is not of the peer's IP version")
    first = int(hop.mac[:2], 16) if _MAC.fullmatch(hop.mac) else _GROUP_BIT
    if first & _GROUP_BIT or hop.mac == "00:00:00:00:00:00":
        raise TransferError(f"{ends}: the next hop's MAC address {hop.mac!r} is no machine's")


def _check_scope(end: Endpoint, names: tuple[str, ...], ends: Tuple) -> None:
    if end.scope not in {"", *names}:
        raise TransferError(f"{ends}: {end} is on {end.scope}, which is not its service's")
