"""Decides what was not said, and notes what it took for granted."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from typing import Protocol

from prl.errors import UsageError
from prl.init.networks import Interface
from prl.init.pair import Address, Member, Pair

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_CABLES = {4: (30, 31), 6: (127,)}
"""Prefix lengths of networks with two hosts, by IP version (RFC 3021, RFC 6164)."""


class Kernel(Protocol):
    """What is asked of prl.init.networks.Networks."""

    def interfaces(self) -> list[Interface]:
        """Those that are up."""

    def neighbours(self, interface: str) -> list[Address]:
        """Who is known there."""

    def way_to(self, address: Address) -> str:
        """The interface that a route leads to; empty: none."""

    def answering(self, interface: str, addresses: Sequence[Address]) -> set[Address]:
        """Which of them are there."""


Ask = Callable[[str, str], str]
"""Asks a person: the question and what is proposed; returns the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was said; None and empty: not."""

    addresses: tuple[Address, ...]
    name: str
    """This node's; its host name otherwise."""
    other: str | None = None
    lan: str | None = None
    other_lan: tuple[Address, ...] = ()
    link: str | None = None
    other_link: Address | None = None
    service: str = "main"
    other_owns: bool = False
    socket_group: str = ""
    arbiter: tuple[str, ...] = ()
    witnesses: tuple[Address, ...] = ()


@dataclass
class Plan:
    """Makes a Pair; afterwards ``assumed`` and ``warnings`` say what it rests on."""

    given: Given
    kernel: Kernel
    resolve: Callable[[str], list[Address]]
    ask: Ask | None = None
    """None: nobody is there to be asked."""
    assumed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def pair(self) -> Pair:
        """Find out the rest. Raises UsageError when something must be said."""
        given = self.given
        self._interfaces = [one for one in self.kernel.interfaces() if one.own]
        name = _NOT_IN_NAMES.sub("-", given.name.partition(".")[0]).strip("-._")
        other = given.other or self._need("What is the other node called?", "--other")
        if other == name:
            raise UsageError(f"both nodes are called {name}; name this one with --name")
        self._known = self.resolve(other)
        lan = self._lan()
        address = self._lan_address(lan)
        other_lan = self._other_lan(lan, other)
        link = self._link(lan)
        link_own = self._link_address(link)
        other_link = self._other_link(link, link_own, lan, other_lan, other)
        address6, other_address6 = self._lan6(lan)
        self._check(lan, other_lan, link, other_link)
        if not self.given.other_owns:
            self.assumed.append(f"{name} owns the service at first; --owner other: {other} does")
        self.assumed.append(f"{other} calls its interfaces {lan.name} and {link.name}, too")
        if given.socket_group:
            self.assumed.append(
                f"members of group {given.socket_group} may look, on {other}, too (socket_group)"
            )
        nodes = (
            Member(name, lan.name, address, link.name, link_own, address6),
            Member(other, lan.name, other_lan, link.name, other_link, other_address6),
        )
        owner = other if given.other_owns else name
        return Pair(
            *(nodes, given.service, given.addresses, owner, given.socket_group),
            arbiter=given.arbiter,
            witnesses=given.witnesses,
        )

    # -- the LAN

    def _lan(self) -> Interface:
        if self.given.lan is not None:
            return self._named(self.given.lan, "--lan")
        for address in (*self.given.addresses, *self.given.other_lan):
            for one in self._interfaces:
                if one.facing(address):
                    self.assumed.append(f"peers are on {one.name}: {address} is in its network")
                    return one
        where = ", ".join(str(address) for address in self.given.addresses)
        words = f"Which interface do peers of {where} come in by? (no network here has it)"
        return self._named(self._need(words, "--lan", self._names()), "--lan")

    def _lan_address(self, lan: Interface) -> IPv4Address:
        own = lan.addresses(4)
        if not own:
            raise UsageError(f"{lan.name} has no IPv4 address of its own, which prld needs there")
        facing = [one for one in own if any(a in one.network for a in self.given.addresses)]
        chosen = (facing or own)[0]
        if len(own) > 1:
            self.assumed.append(f"{chosen.ip} is this node's own address on {lan.name}")
        assert isinstance(chosen.ip, IPv4Address)
        return chosen.ip

    def _other_lan(self, lan: Interface, other: str) -> IPv4Address:
        for address in self.given.other_lan:
            if isinstance(address, IPv4Address):
                return address
        for address in self._known:
            if isinstance(address, IPv4Address) and lan.facing(address):
                self.assumed.append(f"{other} is {address} on {lan.name}: its name says so")
                return address
        words = f"Which IPv4 address has {other} on {lan.name}?"
        address = _address(self._need(words, "--other-lan"), "--other-lan")
        if not isinstance(address, IPv4Address):
            raise UsageError(f"--other-lan {address}: an IPv4 address is needed")
        return address

    def _lan6(self, lan: Interface) -> tuple[IPv6Address | None, IPv6Address | None]:
        """Of both nodes, or of none."""
        own = [one for one in lan.own if isinstance(one, IPv6Interface)]
        for address in (*self.given.other_lan, *self._known):
            for one in own:
                if isinstance(address, IPv6Address) and address in one.network:
                    return one.ip, address
        return None, None

    # -- the link

    def _link(self, lan: Interface) -> Interface:
        if self.given.link is not None:
            return self._named(self.given.link, "--link")
        others = [one for one in self._interfaces if one != lan]
        if not others:
            words = f"{lan.name} is the only interface: the link goes there, too, and fails with it"
            self.warnings.append(words)
            return lan
        wanted = [self.given.other_link] if self.given.other_link else self._known
        facing = [one for one in others if any(one.facing(address) for address in wanted)]
        for found, why in (
            (facing, "the other node is there"),
            (others, "it is the only other one"),
            ([one for one in others if _cable(one)], "its network is of two hosts"),
        ):
            if len(found) == 1:
                self.assumed.append(f"the link between the nodes is {found[0].name}: {why}")
                return found[0]
        words = "Which interface leads to the other node?"
        names = ", ".join(one.name for one in others)
        return self._named(self._need(words, "--link", names), "--link")

    def _link_address(self, link: Interface) -> Address:
        facing = link.facing(self.given.other_link) if self.given.other_link else None
        own = facing or (link.addresses(4) or link.addresses(6))[0]
        return own.ip

    def _other_link(
        self, link: Interface, own: Address, lan: Interface, other_lan: IPv4Address, other: str
    ) -> Address:
        if self.given.other_link is not None:
            return self.given.other_link
        if link == lan and own.version == other_lan.version:
            return other_lan
        network = next(one for one in link.own if one.ip == own).network
        reasons = (
            (self._known, "its name says so"),
            (_hosts(network) if _cable(link) else [], "the network has no other"),
            (self.kernel.neighbours(link.name), "nobody else was seen there"),
        )
        for addresses, why in reasons:
            found = {one for one in addresses if one in network and one != own}
            if len(found) == 1:
                (address,) = found
                self.assumed.append(f"{other} is {address} on {link.name}: {why}")
                return address
        words = f"Which address has {other} on {link.name}?"
        return _address(self._need(words, "--other-link"), "--other-link")

    # -- what may be wrong with it

    def _check(
        self, lan: Interface, other_lan: Address, link: Interface, other_link: Address
    ) -> None:
        for interface, address in ((lan, other_lan), (link, other_link)):
            if (way := self.kernel.way_to(address)) != interface.name:
                leaves = f"leave by {way}" if way else "have no route"
                self.warnings.append(f"packets to {address} {leaves}, not by {interface.name}")
            if not self.kernel.answering(interface.name, [address]):
                self.warnings.append(f"{address} does not answer on {interface.name} now")
        for address in self.kernel.answering(lan.name, self.given.addresses):
            self.warnings.append(
                f"somebody has {address} on {lan.name} already: good only if that is prld's"
            )
        if link.mtu < lan.mtu:
            self.warnings.append(
                f"the MTU of {link.name} is {link.mtu}, that of {lan.name} {lan.mtu}: what comes "
                "in as one packet crosses the link in several"
            )

    # -- asking

    def _named(self, name: str, flag: str) -> Interface:
        for one in self._interfaces:
            if one.name == name:
                return one
        raise UsageError(
            f"{flag} {name}: no such interface is up with an address; there are: {self._names()}"
        )

    def _names(self) -> str:
        return ", ".join(one.name for one in self._interfaces) or "none"

    def _need(self, question: str, flag: str, choices: str = "") -> str:
        if self.ask is None:
            there = f"; there are: {choices}" if choices else ""
            raise UsageError(f"{question.partition('?')[0]}? Say so with {flag}{there}")
        return self.ask(question, choices)


def _cable(interface: Interface) -> bool:
    """Whether its network has room for two hosts only."""
    own = (interface.addresses(4) or interface.addresses(6))[0]
    return own.network.prefixlen in _CABLES[own.version]


def _hosts(network: IPv4Network | IPv6Network) -> list[Address]:
    return [ip_address(str(one)) for one in network.hosts()]


def _address(text: str, flag: str) -> Address:
    try:
        return ip_address(text.strip())
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: not an IP address") from error
