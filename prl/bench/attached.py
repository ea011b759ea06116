"""prl's programs on re0's LAN interface, and XDP_PASS in their place: nothing else differs.

The prld of such a rig does not look at what is attached (Recipe.looks).
"""

import os
from contextlib import ExitStack
from typing import Self

from pyroute2 import IPRoute

from prl.bench import tcx, xdp_pass
from prl.bench.errors import BenchError
from prl.bench.rig import Rig
from prl.lab.netns import Namespace

_INTERFACE, _PROGRAM = "lan0", "prl_egress"


class Attached:
    """What is attached to re0 of a rig whose prld runs; entered as a context.

    Raises:
        BenchError: prl's programs are not there, or the kernel has no tcx (Linux 6.6).
    """

    def __init__(self, rig: Rig) -> None:
        self._place = Namespace(rig.lab.topology.re0.namespace)
        self._mode = rig.recipe.mode
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack, self._place.netlink() as netlink:
            (self._index,) = netlink.link_lookup(ifname=_INTERFACE)
            self._classify = self._open(stack, _xdp_id(netlink, self._index))
            self._egress = self._open(stack, self._place.call(self._egress_id))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, *, pass_alone: bool) -> None:
        """Have XDP_PASS there and nothing at tc, or prl's programs."""
        self._place.call(lambda: self._put_egress(pass_alone=pass_alone))
        if pass_alone:
            xdp_pass.attach(self._place, _INTERFACE, self._mode)
        else:
            xdp_pass.attach_program(self._place, _INTERFACE, self._mode, self._classify)

    def _put_egress(self, *, pass_alone: bool) -> None:
        is_there = self._egress_id() != 0
        if is_there and pass_alone:
            tcx.take_off(self._index, self._egress)
        elif not is_there and not pass_alone:
            tcx.put_first(self._index, self._egress)

    def _egress_id(self) -> int:
        found = tcx.programs(self._index) or []
        return next((one for one in found if tcx.name(one) == _PROGRAM), 0)

    def _open(self, stack: ExitStack, number: int) -> int:
        if not number:
            raise BenchError(f"a program of prl's is missing on {_INTERFACE} of {self._place.name}")
        found = tcx.open_program(number)
        stack.callback(os.close, found)
        return found


def _xdp_id(netlink: IPRoute, index: int) -> int:
    (link,) = netlink.get_links(index)
    xdp = link.get_attr("IFLA_XDP")
    return (xdp and xdp.get_attr("IFLA_XDP_PROG_ID")) or 0
