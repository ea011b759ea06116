"""The two cables of a machine, which can be cut and mended in well under a millisecond.

Opening a cable does all that takes time; ``cut`` is then one or two netlink messages.
"""

import errno
import os
from typing import Protocol, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from prl.lab import blackhole
from prl.lab.errors import LabError
from prl.lab.netns import Namespace
from prl.lab.topology import Member, Node, Topology

_INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), linux/pkt_sched.h
_EGRESS = 0xFFFFFFF3
_PRIORITY = 100  # behind prl's
_IFF_UP = 1


class Cable(Protocol):
    """Something that connects a machine, opened as a context."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def cut(self) -> None:
        """No frame passes any more, either way. Idempotent."""

    def mend(self) -> None:
        """Frames pass again. Idempotent."""

    def is_cut(self) -> bool:
        """Whether it is cut."""


class LanCable(Cable):
    """Between a machine's ``lan0`` and the port it is plugged into; cut by taking that down.

    Not by tc on ``lan0``: frames sent through AF_XDP or with PACKET_QDISC_BYPASS do not meet tc.
    """

    def __init__(self, topology: Topology, member: Member) -> None:
        self._netlink, port = _open(Namespace(topology.plug(member)), member.port)
        self._ports = [port]
        if isinstance(member, Node) and member.second is not None:
            self._ports += self._netlink.link_lookup(ifname=member.second_port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def cut(self) -> None:
        """Take the port down."""
        for port in self._ports:
            self._netlink.link("set", index=port, state="down")

    def mend(self) -> None:
        """Bring the port up."""
        for port in self._ports:
            self._netlink.link("set", index=port, state="up")

    def is_cut(self) -> bool:
        """Whether the port is down."""
        return not self._netlink.get_links(self._ports[0])[0]["flags"] & _IFF_UP


class LinkCable(Cable):
    """Between the two nodes' ``link0``; cut at this node's end, where tc swallows every frame.

    The interfaces stay up with carrier: neither node is told.
    """

    def __init__(self, node: Node) -> None:
        self._program = blackhole.load()
        try:
            self._netlink, self._index = _open(Namespace(node.namespace), node.link.name)
        except BaseException:
            os.close(self._program)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()
        os.close(self._program)

    def prepare(self) -> None:
        """Make the place for the filters once, when the lab is built."""
        self._netlink.tc("add", "clsact", index=self._index)

    def cut(self) -> None:
        """Put the filters in."""
        for parent in (_EGRESS, _INGRESS):
            try:
                self._netlink.tc(
                    "add-filter",
                    "bpf",
                    index=self._index,
                    fd=self._program,
                    name=blackhole.NAME,
                    parent=parent,
                    prio=_PRIORITY,
                    handle=1,
                    classid=1,
                    direct_action=True,
                )
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise

    def mend(self) -> None:
        """Take the filters out, and none of others': the kind must be named for that."""
        for parent in (_EGRESS, _INGRESS):
            try:
                self._netlink.tc(
                    "del-filter",
                    "bpf",
                    index=self._index,
                    parent=parent,
                    prio=_PRIORITY,
                    handle=1,
                )
            except NetlinkError as error:
                if error.code not in {errno.ENOENT, errno.EINVAL}:
                    raise

    def is_cut(self) -> bool:
        """Whether the filters are in."""
        filters = self._netlink.get_filters(index=self._index, parent=_EGRESS)
        return any(found["info"] >> 16 == _PRIORITY for found in filters)


def _open(place: Namespace, interface: str) -> tuple[IPRoute, int]:
    netlink = place.netlink()
    found = netlink.link_lookup(ifname=interface)
    if not found:
        netlink.close()
        raise LabError(f"{place.name} has lost its interface {interface}: rebuild the lab")
    return netlink, found[0]
