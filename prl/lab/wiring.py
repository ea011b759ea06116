"""Building the lab's network: the switch, the machines, and the cables between them."""

import os
import select
import time
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from prl.lab.cables import LinkCable
from prl.lab.errors import LabError
from prl.lab.netns import Namespace, drain
from prl.lab.topology import (
    BRIDGE,
    SECOND_BRIDGE,
    Interface,
    Member,
    Node,
    Router,
    Topology,
)

UP_TIMEOUT_S = 5.0
_FORWARDING = 3  # BR_STATE_FORWARDING, linux/if_bridge.h
_IFA_F_NODAD = 0x02
_VRF_TABLE = 100
_RTAX_MTU = 2  # linux/rtnetlink.h

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
# A reply must go where its request came from: the strictest that a routed node may be (RFC 3704).
_ROUTED_NODE_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": 1,
    "net/ipv4/conf/default/rp_filter": 1,
}
_ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv6/conf/all/keep_addr_on_down": 1,
    "net/ipv6/conf/default/keep_addr_on_down": 1,
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
        for member in topology.members:
            _plug(topology, member)
        for node in topology.nodes:
            _plug_second(topology, node)
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
        with Namespace(topology.plug(member)).netlink() as plug, place.netlink() as old:
            place.remove()
            _make_machine(member)
            for port in plug.link_lookup(ifname=member.port):
                plug.link("del", index=port)
            if isinstance(member, Node):
                _move(old, member.link.name, place)
                _configure_link(member)
        _plug(topology, member)
        if isinstance(member, Node):
            _plug_second(topology, member)
        if isinstance(member, Router):
            _plug(topology, topology.peer)  # its cable went with the router's old namespace
        await_network(topology)
    except NetlinkError as error:
        raise LabError(f"cannot start {member.name} again: {error}") from error


def await_network(topology: Topology) -> None:
    """Wait until the switch forwards on every port that is up and every interface has carrier.

    A cable that is cut meanwhile is waited for no more.

    Raises:
        LabError: not within ``UP_TIMEOUT_S``.
    """
    deadline = time.monotonic() + UP_TIMEOUT_S
    plugged = _plugged(topology)
    for place in {topology.plug(member) for member in plugged}:
        _await_links(topology, place, plugged, deadline)
    for member in topology.members:
        _await_links(topology, member.namespace, plugged, deadline)


def _build_switch(topology: Topology) -> None:
    place = Namespace(topology.switch)
    place.create()
    place.set_sysctls(_SWITCH_SYSCTLS)
    with place.netlink() as netlink:
        for bridge in (BRIDGE, SECOND_BRIDGE) if topology.second_peer else (BRIDGE,):
            netlink.link(
                "add",
                ifname=bridge,
                kind="bridge",
                br_stp_state=0,
                br_forward_delay=0,
                br_mcast_snooping=0,
            )
            netlink.link("set", index=_index(netlink, bridge), state="up")
        netlink.link("set", index=_index(netlink, "lo"), state="up")


def _make_machine(member: Member) -> None:
    place = Namespace(member.namespace)
    place.create()
    sysctls = dict(_MACHINE_SYSCTLS)
    if isinstance(member, Node):
        sysctls |= _NODE_SYSCTLS | (_ROUTED_NODE_SYSCTLS if member.gateway else {})
    elif isinstance(member, Router):
        sysctls |= _ROUTER_SYSCTLS
    place.set_sysctls(sysctls)
    with place.netlink() as netlink:
        netlink.link("set", index=_index(netlink, "lo"), state="up")


def _plug(topology: Topology, member: Member) -> None:
    """Connect ``lan0`` with the switch, or the peer's with the router."""
    router = topology.router if topology.plug(member) != topology.switch else None
    near = {"ifname": member.port} | ({"address": router.far.mac} if router else {})
    with (
        Namespace(topology.plug(member)).netlink() as plug,
        Namespace(member.namespace).netlink() as netlink,
    ):
        _add_pair(plug, near, member, member.lan)
        port = _index(plug, member.port)
        if router is None:
            bridge = SECOND_BRIDGE if member == topology.second_peer else BRIDGE
            plug.link("set", index=port, master=_index(plug, bridge))
        _configure(netlink, member.lan)
        if router is not None:
            _configure(plug, router.far)
        plug.link("set", index=port, state="up")
        if member.gateway is not None:
            _add_default_routes(netlink, member.gateway)


def _plug_second(topology: Topology, node: Node) -> None:
    """Connect a node with the second LAN, if there is one."""
    if node.second is None:
        return
    with (
        Namespace(topology.switch).netlink() as switch,
        Namespace(node.namespace).netlink() as netlink,
    ):
        for old in switch.link_lookup(ifname=node.second_port):
            switch.link("del", index=old)
        _add_pair(switch, {"ifname": node.second_port}, node, node.second)
        port = _index(switch, node.second_port)
        switch.link("set", index=port, master=_index(switch, SECOND_BRIDGE))
        if topology.vrf:  # first: its routes go into the VRF's table
            _add_vrf(netlink, topology.vrf, node.second)
        _configure(netlink, node.second)
        switch.link("set", index=port, state="up")


def _add_vrf(netlink: Any, name: str, member: Interface) -> None:
    netlink.link("add", ifname=name, kind="vrf", vrf_table=_VRF_TABLE)
    index = _index(netlink, name)
    netlink.link("set", index=index, state="up")
    netlink.link("set", index=_index(netlink, member.name), master=index)


def _add_default_routes(netlink: Any, gateway: Interface) -> None:
    netlink.route("add", dst="default", gateway=str(gateway.ipv4.ip))
    if gateway.ipv6 is not None:
        netlink.route("add", dst="::/0", gateway=str(gateway.ipv6.ip))


def limit_path(topology: Topology, mtu_bytes: int) -> None:
    """Let the router pass nothing longer to the peer: whoever sends more hears of it by ICMP.

    Raises:
        LabError: it could not be done.
    """
    router = topology.router
    if router is None:
        raise LabError(f"lab {topology.name} has no router: bring it up with --routed")
    peer = topology.peer.lan
    hosts = [f"{peer.ipv4.ip}/32", *([f"{peer.ipv6.ip}/128"] if peer.ipv6 else [])]
    # A locked metric, and not the device's MTU: what the peer sends must pass unchanged.
    metrics = {"mtu": mtu_bytes, "lock": 1 << _RTAX_MTU}
    try:
        with Namespace(router.namespace).netlink() as netlink:
            index = _index(netlink, router.far.name)
            for host in hosts:
                netlink.route("replace", dst=host, oif=index, metrics=metrics)
    except NetlinkError as error:
        raise LabError(f"cannot limit the path of lab {topology.name}: {error}") from error


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
    up: set[tuple[str, str]] = set()
    for place in {topology.plug(member) for member in topology.members}:
        with Namespace(place).netlink() as netlink:
            up |= {
                (place, link.get("ifname"))
                for link in netlink.get_links()
                if link.get("state") == "up"
            }
    return [m for m in topology.members if (topology.plug(m), m.port) in up]


def _awaited(topology: Topology, place: str, plugged: list[Member]) -> set[str]:
    """The interfaces of a namespace that are to have carrier."""
    names = {member.port for member in plugged if topology.plug(member) == place}
    for member in topology.members:
        if member.namespace != place:
            continue
        names |= {member.lan.name} if member in plugged else set()
        if isinstance(member, Node):
            names.add(member.link.name)
            if member.second is not None and member in plugged:
                names.add(member.second.name)
    return names


def _await_links(topology: Topology, name: str, plugged: list[Member], deadline: float) -> None:
    place = Namespace(name)
    events = place.link_events()
    poller = select.poll()
    poller.register(events, select.POLLIN)
    with events, place.netlink() as netlink:
        while _awaited(topology, name, plugged) - _ready(netlink):
            plugged = _plugged(topology)
            if not (waiting := _awaited(topology, name, plugged) - _ready(netlink)):
                break
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
