"""An XDP program that passes every frame: the least that any XDP program costs."""

import os
from typing import Final

from prl.bench.errors import BenchError
from prl.lab import blackhole
from prl.lab.netns import Namespace

_FLAGS: Final = {"generic": 1 << 1, "native": 1 << 2}  # XDP_FLAGS_*_MODE, linux/if_link.h


def attach(place: Namespace, interface: str, mode: str) -> None:
    """Put it on ``interface``; it goes with the interface.

    Raises:
        BenchError: the kernel refuses.
        LabError: the program cannot be loaded.
    """
    descriptor = blackhole.load_xdp_pass()
    try:
        attach_program(place, interface, mode, descriptor)
    finally:
        os.close(descriptor)


def attach_program(place: Namespace, interface: str, mode: str, descriptor: int) -> None:
    """Put an XDP program on ``interface``, in the place of the one that is there.

    Raises:
        BenchError: the kernel refuses.
    """
    try:
        with place.netlink() as netlink:
            (index,) = netlink.link_lookup(ifname=interface)
            attributes = [["IFLA_XDP_FD", descriptor], ["IFLA_XDP_FLAGS", _FLAGS[mode]]]
            netlink.link("set", index=index, xdp={"attrs": attributes})
    except OSError as error:
        raise BenchError(f"XDP ({mode}) on {interface}: {error}") from error
