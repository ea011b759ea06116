"""What others change on this host, as the look at its interfaces sees it."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from prl import config
from prl.bindings.datapath import LogicalInterface
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host, Seen, Sysctls
from prl.daemon.host.upkeep import Upkeep
from prl.errors import KernelError
from tests.unit.test_config import GOOD

LAN = LogicalInterface("lan0", 7, bytes.fromhex("02000000000a"), 1)
OTHER_MAC = bytes.fromhex("02000000000b")


def look_at(seen: Seen) -> Upkeep:
    """One look at a LAN interface that is ``seen``."""

    async def look(_: str) -> Seen:
        return seen

    async def add_address(*_: object) -> None:
        return

    async def restored() -> None:
        return

    parsed = config.parse(GOOD)
    upkeep = Upkeep(
        parsed,
        cast(Host, SimpleNamespace(look=look, add_address=add_address)),
        Instances(parsed, [LAN]),
        cast(Sysctls, SimpleNamespace(reapply=list)),
        EventLog(lambda _: None),
        looked=lambda: None,
        restored=restored,
        carrier=lambda *_: None,
    )
    asyncio.run(upkeep.look())
    return upkeep


def test_another_mac_address_ends_prld() -> None:
    """The programs would drop what is held, and take their own frames for somebody else's."""
    with pytest.raises(KernelError, match="02:00:00:00:00:0b now, and had 02:00:00:00:00:0a"):
        look_at(Seen(LAN.ifindex, True, mac=OTHER_MAC))


def test_so_does_an_interface_that_was_made_anew() -> None:
    with pytest.raises(KernelError, match="deleted and made anew"):
        look_at(Seen(LAN.ifindex + 1, True, mac=LAN.mac))


def test_an_interface_that_is_gone_has_no_mac_address_to_compare() -> None:
    assert look_at(Seen(0)).wrong == "interface lan0 is gone"


def test_an_interface_that_is_as_it_was_is_fine() -> None:
    lan = config.parse(GOOD).lan
    addresses = frozenset(filter(None, (lan.address, lan.address6)))
    assert not look_at(Seen(LAN.ifindex, True, addresses, mac=LAN.mac)).wrong
