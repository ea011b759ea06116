"""Building the lab's network: the switch, the machines, and the cables between them."""

import os
import select
import time
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from prl.lab.cables import LinkCable
from prl.lab.errors import LabError
from prl.lab.netns import Namespace, drain
from prl.lab.topology import BRIDGE, Interface, Member, Node, Topology

UP_TIMEOUT_S = 5.0
_FORWARDING = 3  # BR_STATE_FORWARDING, linux/if_bridge.h
_IFA_F_NODAD = 0x02

# The service address is on both nodes at once and must be found on lan0 alone (arp_ignore), never
# named as the source of an ARP request (arp_announce), and usable without delay (no DAD).
# Autocorking would keep bytes unsent that were appended to a shadow.
_MACHINE_SYSCTLS = {
    f"net/ipv6/conf/{scope}/{name}": value
    for scope in ("all", "default")
    for name, value in {
        "accept_dad": 0,
        "accept_ra": 0,
        "dad_transmits": 0,
        "disable_ipv6": 0,
        "optimistic_dad": 0,
        "router_solicitations": 0,
    }.items()
}
_NODE_SYSCTLS = {
    "net/ipv4/conf/all/arp_announce": 2,
    "net/ipv4/conf/all/arp_ignore": 1,
    "net/ipv4/tcp_autocorking": 0,
}
_SWITCH_SYSCTLS = {"net/ipv6/conf/all/disable_ipv6": 1, "net/ipv6/conf/default/disable_ipv6": 1}


def build(topology: Topology) -> None:
    """Make all namespaces of ``topology`` and connect them; return when frames pass everywhere.

    Raises:
        LabError: it could not be done. What has been made so far is left to the caller.
    """
    try:
        _build_switch(topology)
        for member in topology.members:
            _make_machine(member)
            _plug_into_switch(topology, member)
        _connect_nodes(topology)
        await_network(topology)
    except NetlinkError as error:
        raise LabError(f"cannot build lab {topology.name}: {error}") from error


def reboot(topology: Topology, member: Member) -> None:
    """Give ``member`` a fresh namespace, as though its machine had started again.

    Addresses, filters, neighbours and the kernel's remaining sockets are gone with the old one; the
    far end of the link only sees its carrier go and come back.

    Raises:
        LabError: it could not be done.
    """
    place = Namespace(member.namespace)
    try:
        with Namespace(topology.switch).netlink() as switch, place.netlink() as old:
            place.remove()
            _make_machine(member)
            for port in switch.link_lookup(ifname=member.port):
                switch.link("del", index=port)
            if isinstance(member, Node):
                _move(old, member.link.name, place)
                _configure_link(member)
        _plug_into_switch(topology, member)
        await_network(topology)
    except NetlinkError as error:
        raise LabError(f"cannot start {member.name} again: {error}") from error


def await_network(topology: Topology) -> None:
    """Wait until the switch forwards on every port that is up and every interface has carrier.

    Raises:
        LabError: not within ``UP_TIMEOUT_S``.
    """
    deadline = time.monotonic() + UP_TIMEOUT_S
    plugged = _plugged(topology)
    _await_links(Namespace(topology.switch), {member.port for member in plugged}, deadline)
    for member in topology.members:
        names = {member.lan.name} if member in plugged else set()
        if isinstance(member, Node):
            names.add(member.link.name)
        _await_links(Namespace(member.namespace), names, deadline)


def _build_switch(topology: Topology) -> None:
    place = Namespace(topology.switch)
    place.create()
    place.set_sysctls(_SWITCH_SYSCTLS)
    with place.netlink() as netlink:
        netlink.link(
            "add",
            ifname=BRIDGE,
            kind="bridge",
            br_stp_state=0,
            br_forward_delay=0,
            br_mcast_snooping=0,
        )
        netlink.link("set", index=_index(netlink, BRIDGE), state="up")
        netlink.link("set", index=_index(netlink, "lo"), state="up")


def _make_machine(member: Member) -> None:
    place = Namespace(member.namespace)
    place.create()
    place.set_sysctls(_MACHINE_SYSCTLS | (_NODE_SYSCTLS if isinstance(member, Node) else {}))
    with place.netlink() as netlink:
        netlink.link("set", index=_index(netlink, "lo"), state="up")


def _plug_into_switch(topology: Topology, member: Member) -> None:
    with Namespace(topology.switch).netlink() as switch:
        _add_pair(switch, {"ifname": member.port}, member, member.lan)
        port = _index(switch, member.port)
        switch.link("set", index=port, master=_index(switch, BRIDGE))
        with Namespace(member.namespace).netlink() as netlink:
            _configure(netlink, member.lan)
        switch.link("set", index=port, state="up")


def _connect_nodes(topology: Topology) -> None:
    re0, re1 = topology.nodes
    with Namespace(re0.namespace).netlink() as netlink:
        near = {"ifname": re0.link.name, "address": re0.link.mac}
        _add_pair(netlink, near, re1, re1.link)
    for node in topology.nodes:
        _configure_link(node)


def _configure_link(node: Node) -> None:
    with Namespace(node.namespace).netlink() as netlink:
        _configure(netlink, node.link)
    with LinkCable(node) as cable:
        cable.prepare()


def _add_pair(netlink: Any, near: dict[str, Any], member: Member, far: Interface) -> None:
    """A veth pair: ``near`` where ``netlink`` is, ``far`` in ``member``'s namespace."""
    descriptor = os.open(Namespace(member.namespace).path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        peer = {"ifname": far.name, "address": far.mac, "net_ns_fd": descriptor}
        netlink.link("add", kind="veth", peer=peer, **near)
    finally:
        os.close(descriptor)


def _configure(netlink: Any, interface: Interface) -> None:
    index = _index(netlink, interface.name)
    v4 = interface.ipv4
    netlink.addr("add", index=index, address=str(v4.ip), prefixlen=v4.network.prefixlen)
    netlink.link("set", index=index, state="up")
    if (v6 := interface.ipv6) is not None:
        netlink.addr(
            "add",
            index=index,
            address=str(v6.ip),
            prefixlen=v6.network.prefixlen,
            flags=_IFA_F_NODAD,
        )


def _move(netlink: Any, name: str, to: Namespace) -> None:
    descriptor = os.open(to.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        netlink.link("set", index=_index(netlink, name), net_ns_fd=descriptor)
    finally:
        os.close(descriptor)


def _index(netlink: Any, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise LabError(f"interface {name} is missing: rebuild the lab")
    index: int = found[0]
    return index


def _plugged(topology: Topology) -> list[Member]:
    """The machines whose LAN cable is not cut."""
    with Namespace(topology.switch).netlink() as netlink:
        up = {link.get("ifname") for link in netlink.get_links() if link.get("state") == "up"}
    return [member for member in topology.members if member.port in up]


def _await_links(place: Namespace, names: set[str], deadline: float) -> None:
    events = place.link_events()
    poller = select.poll()
    poller.register(events, select.POLLIN)
    with events, place.netlink() as netlink:
        while waiting := names - _ready(netlink):
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise LabError(f"{min(waiting)} in {place.name} did not come up")
            drain(events)


def _ready(netlink: Any) -> set[str]:
    """The interfaces that have carrier and, if they are ports of the switch, forward."""
    return {
        link.get("ifname")
        for link in netlink.get_links()
        if link.get("operstate") == "UP"
        and link.get(("linkinfo", "info_slave_data", "brport_state")) in {None, _FORWARDING}
    }
