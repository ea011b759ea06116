"""What is made of the kernel's answers about this host's network."""

import errno
import socket
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from prl.daemon.host.network import NUD_PERMANENT, NextHop, Seen, _Netlink
from prl.errors import KernelError


class Link(dict[str, int]):
    def get_attr(self, name: str) -> str:
        return "02:00:00:00:00:0a" if name == "IFLA_ADDRESS" else "192.0.2.11"


class Kernel:
    """Fails with an errno, or not."""

    fails = 0

    def get_links(self, _: int) -> list[Link]:
        if self.fails:
            raise NetlinkError(self.fails)
        return [Link(flags=1)]

    def get_addr(self, index: int) -> list[Link]:
        return self.get_links(index)


def test_an_interface_is_gone_only_if_the_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, netlink = Kernel(), _Netlink()
    asked: Any = kernel
    netlink._ip = asked
    monkeypatch.setattr(socket, "if_nametoindex", lambda _: 5)
    seen = netlink.look("lan0")
    assert (seen.ifindex, seen.is_up, seen.mac.hex(":")) == (5, True, "02:00:00:00:00:0a")

    kernel.fails = errno.EBUSY
    assert netlink.look("lan0") == seen
    kernel.fails = errno.ENODEV
    assert netlink.look("lan0") == Seen(0)


def test_an_interface_without_an_index_is_gone() -> None:
    assert _Netlink().look("no-such-device") == Seen(0)


@pytest.mark.parametrize("error", [NetlinkError(errno.EINVAL), OSError("illegal IP address")])
def test_a_neighbour_that_cannot_be_entered_is_told_in_one_way(error: Exception) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    netlink = _Netlink()
    netlink._ip = SimpleNamespace(neigh=refuse)
    hop = NextHop(ip_address("fe80::1%x"), "02:00:00:00:00:09", 1)
    with pytest.raises(KernelError, match="neighbour fe80::1%x cannot be entered"):
        netlink.set_neighbour(hop, NUD_PERMANENT)
