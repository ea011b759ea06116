"""What a lab consists of: names and addresses, as values (SPEC section 8)."""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from prl.errors import UsageError

DEFAULT_NAME = "prl"
NAME_MAX_LENGTH = 32
SERVICES_MAX = 16
LAN_INTERFACE = "lan0"
LINK_INTERFACE = "link0"
BRIDGE = "br0"
SECOND = "second"
"""The routing instance of the second LAN."""
SECOND_INTERFACE = "lan1"
SECOND_BRIDGE = "br1"
SECOND_VRF = "vrf-second"
LINK_PORT = 7077

_NAME_PATTERN = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{NAME_MAX_LENGTH - 1}}}")


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a cable: its name and addresses inside its namespace."""

    name: str
    ipv4: IPv4Interface
    ipv6: IPv6Interface | None = None
    mac_prefix: str = "02:00"

    @property
    def mac(self) -> str:
        """A fixed, locally administered address: a rebooted machine comes back with its own.

        Its last four bytes are the IPv4 address, which makes captures readable.
        """
        return ":".join([self.mac_prefix, *(f"{byte:02x}" for byte in self.ipv4.ip.packed)])


@dataclass(frozen=True, slots=True)
class Member:
    """One machine on the LAN: the peer, or a ``Node``."""

    name: str
    namespace: str
    lan: Interface
    gateway: Interface | None = field(default=None, kw_only=True)
    """The router's interface on the same network; the default route goes there."""

    @property
    def port(self) -> str:
        """The interface that this machine's ``lan0`` is plugged into."""
        return f"to-{self.name}"


@dataclass(frozen=True, slots=True)
class Node(Member):
    """A machine that runs prld: it has a link, which the node with index 0 connects."""

    link: Interface
    index: int
    second: Interface | None = field(default=None, kw_only=True)
    """On the second LAN, if there is one."""

    @property
    def second_port(self) -> str:
        """The switch's interface that ``second`` is plugged into."""
        return f"{self.port}-b"


@dataclass(frozen=True, slots=True)
class Router(Member):
    """The machine between the LAN and the peer of a routed lab; ``far`` is its end there."""

    far: Interface


@dataclass(frozen=True, slots=True)
class Service:
    """A pair of service addresses and the node that owns it first.

    ``instance``: the routing instance, whose addresses may be those of another one.
    """

    name: str
    ipv4: IPv4Address
    ipv6: IPv6Address
    owner: str
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab. Addresses are the same in every lab: namespaces keep labs apart."""

    name: str
    switch: str
    re0: Node
    re1: Node
    peer: Member
    services: tuple[Service, ...]
    link_port: int = LINK_PORT
    router: Router | None = None
    vrf: str = ""
    """The VRF device that the nodes' second LAN belongs to, where there is one."""
    second_peer: Member | None = None
    """The peer on the second LAN, which has the addresses of the first."""

    @property
    def service(self) -> Service:
        """The first service: re0 owns it."""
        return self.services[0]

    @property
    def nodes(self) -> tuple[Node, Node]:
        """The machines that run prld."""
        return (self.re0, self.re1)

    @property
    def members(self) -> tuple[Member, ...]:
        """All machines."""
        more = (self.router, self.second_peer)
        return (self.re0, self.re1, self.peer, *(member for member in more if member))

    def plug(self, member: Member) -> str:
        """The namespace that has ``member.port``: the switch's, or the router's for its peer."""
        if self.router is not None and member.name == self.peer.name:
            return self.router.namespace
        return self.switch

    @property
    def namespaces(self) -> dict[str, str]:
        """Namespace by NODE name as the command line knows it, the switch (``lan``) last."""
        return {member.name: member.namespace for member in self.members} | {"lan": self.switch}

    def member(self, name: str) -> Member:
        """The machine called ``name``.

        Raises:
            UsageError: there is none; the switch is not a machine.
        """
        for member in self.members:
            if member.name == name:
                return member
        names = ", ".join(member.name for member in self.members)
        raise UsageError(f"the lab has no machine {name!r}: it has {names}")

    def node(self, name: str) -> Node:
        """The machine called ``name``, which must be a node.

        Raises:
            UsageError: there is none, or it is the peer.
        """
        member = self.member(name)
        if not isinstance(member, Node):
            raise UsageError(f"{name} has no prld and no link: only re0 and re1 have")
        return member

    def other(self, node: Node) -> Node:
        """The node at the far end of ``node``'s link."""
        return self.re1 if node.index == 0 else self.re0

    def instance(self, node: Node) -> str:
        """The name under which ``node``'s prld pins its kernel objects."""
        return node.namespace


def standard(
    name: str = DEFAULT_NAME,
    *,
    routed: bool = False,
    services: int = 1,
    second: bool = False,
    vrf: bool = False,
) -> Topology:
    """The lab of SPEC section 8: peer and both nodes on one LAN, or the peer behind a router.

    Of several services, re0 and re1 own one by turns. With ``second``, there is a second LAN with a
    peer of its own and the same addresses: a routing instance in which re1 owns the same services
    that re0 owns in the first one, and the other way round.

    Raises:
        UsageError: ``name`` cannot be part of a namespace's name.
    """
    if not _NAME_PATTERN.fullmatch(name):
        raise UsageError(
            f"bad lab name {name!r}: use at most {NAME_MAX_LENGTH} of a-z, 0-9 and '-', "
            "a letter or digit first"
        )

    def lan(host: int, host6: str) -> Interface:
        return Interface(
            LAN_INTERFACE,
            IPv4Interface(f"192.0.2.{host}/24"),
            IPv6Interface(f"2001:db8:0:1::{host6}/64"),
        )

    def far(name: str, host: int, host6: str) -> Interface:
        return Interface(
            name,
            IPv4Interface(f"203.0.113.{host}/24"),
            IPv6Interface(f"2001:db8:0:2::{host6}/64"),
        )

    def service(number: int, instance: str = "") -> Service:
        own = f"lab{number + 1}" if number else "lab"
        return Service(
            f"{own}-{instance}" if instance else own,
            IPv4Address("192.0.2.100") + number,
            IPv6Address("2001:db8:0:1::100") + number,
            owner=f"re{(number + bool(instance)) % 2}",
            instance=instance,
        )

    peer = Member("peer", f"{name}-peer", lan(1, "1"))
    router = None
    if routed:
        router = Router("router", f"{name}-router", lan(254, "fe"), far("to-peer", 254, "fe"))
        peer = Member("peer", f"{name}-peer", far(LAN_INTERFACE, 1, "1"), gateway=router.far)

    def node(index: int) -> Node:
        return Node(
            name=f"re{index}",
            namespace=f"{name}-re{index}",
            lan=lan(10 + index, f"1{index}"),
            link=Interface(LINK_INTERFACE, IPv4Interface(f"198.51.100.{10 + index}/24")),
            index=index,
            gateway=router.lan if router else None,
            second=on_second(10 + index, f"1{index}") if second else None,
        )

    def on_second(host: int, host6: str) -> Interface:
        first = lan(host, host6)
        return Interface(SECOND_INTERFACE, first.ipv4, first.ipv6, mac_prefix="02:02")

    return Topology(
        name=name,
        switch=f"{name}-lan",
        re0=node(0),
        re1=node(1),
        peer=peer,
        router=router,
        services=(
            *map(service, range(services)),
            *(service(number, SECOND) for number in range(services if second else 0)),
        ),
        vrf=SECOND_VRF if second and vrf else "",
        second_peer=Member("peer2", f"{name}-peer2", lan(1, "1")) if second else None,
    )
