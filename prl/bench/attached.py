"""prl's programs on re0's LAN interface, and XDP_PASS in their place: nothing else differs."""

import os
import re
import struct
from contextlib import ExitStack
from typing import Final, Self

from pyroute2 import IPRoute

from prl.bench import xdp_pass
from prl.bench.bpfcall import bpf
from prl.bench.errors import BenchError
from prl.bench.rig import Rig
from prl.lab.netns import Namespace

_INTERFACE = "lan0"
_PROG_GET_FD_BY_ID: Final = 13  # linux/bpf.h
# As userspace/kernel_attach.c attaches it.
_EGRESS, _PRIORITY, _HANDLE, _NAME = 0xFFFFFFF3, 0x7072, 1, r"prl_egress:\[(\d+)\]"


class Attached:
    """What is attached to re0 of a rig whose prld runs; entered as a context.

    Raises:
        BenchError: prl's programs are not there.
    """

    def __init__(self, rig: Rig) -> None:
        self._place = Namespace(rig.lab.topology.re0.namespace)
        self._mode = rig.recipe.mode
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack, self._place.netlink() as netlink:
            (self._index,) = netlink.link_lookup(ifname=_INTERFACE)
            self._classify = self._open(stack, _xdp_id(netlink, self._index))
            self._egress_id = _egress_id(netlink, self._index)
            self._egress = self._open(stack, self._egress_id)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, *, pass_alone: bool) -> None:
        """Have XDP_PASS there and nothing at tc, or prl's programs."""
        with self._place.netlink() as netlink:
            if _egress_id(netlink, self._index):
                netlink.tc("del-filter", index=self._index, parent=_EGRESS, prio=_PRIORITY)
            if not pass_alone:
                netlink.tc(
                    "add-filter",
                    "bpf",
                    index=self._index,
                    fd=self._egress,
                    name=f"prl_egress:[{self._egress_id}]",
                    parent=_EGRESS,
                    prio=_PRIORITY,
                    handle=_HANDLE,
                    direct_action=True,
                )
        if pass_alone:
            xdp_pass.attach(self._place, _INTERFACE, self._mode)
        else:
            xdp_pass.attach_program(self._place, _INTERFACE, self._mode, self._classify)

    def _open(self, stack: ExitStack, number: int) -> int:
        if not number:
            raise BenchError(f"a program of prl's is missing on {_INTERFACE} of {self._place.name}")
        attributes = struct.pack("=IIIIQ", number, 0, 0, 0, 0)
        found = bpf(_PROG_GET_FD_BY_ID, attributes, f"program {number}")
        stack.callback(os.close, found)
        return found


def _xdp_id(netlink: IPRoute, index: int) -> int:
    (link,) = netlink.get_links(index)
    xdp = link.get_attr("IFLA_XDP")
    return (xdp and xdp.get_attr("IFLA_XDP_PROG_ID")) or 0


def _egress_id(netlink: IPRoute, index: int) -> int:
    """By the filter's name, "prl_egress:[id]" as libbpf makes it: pyroute2 does not read the id."""
    for row in netlink.get_filters(index=index, parent=_EGRESS):
        options = row.get_attr("TCA_OPTIONS")
        name = options.get_attr("TCA_BPF_NAME") if options is not None else None
        if found := re.fullmatch(_NAME, name or ""):
            return int(found[1])
    return 0
