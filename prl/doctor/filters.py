"""What a packet filter would do with a packet, as far as its rules can be read.

A ruleset is base chains, each with a policy, and chains that they jump to. Each rule says of a
packet that it matches, that it does not, or (None) that this cannot be told from here. So the
outcome is a set: {accept}, {drop}, or both: it depends on what cannot be told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

IPV4: Final = 4
IPV6: Final = 6
DEPTH_MAX: Final = 16  # NFT_JUMP_STACK_SIZE, net/netfilter/nf_tables_core.c


class Outcome(StrEnum):
    """What becomes of a packet in a chain."""

    ACCEPT = "accept"
    DROP = "drop"
    FALL = "fall"
    """It comes out at the chain's end."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One of those that prl must be able to send or receive."""

    hook: str
    """input or output."""
    interface: str
    protocol: str
    """tcp, udp or icmpv6."""
    source: IPv4Address | IPv6Address
    target: IPv4Address | IPv6Address
    source_port: int | None = None
    """None: any."""
    target_port: int | None = None
    state: str = "new"
    """As connection tracking calls it: new, established or untracked."""
    icmp_type: str = ""

    @property
    def is_v6(self) -> bool:
        """Whether it is IPv6."""
        return self.source.version == IPV6


Test = Callable[[Packet], bool | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """All of ``tests`` must match; ``verdict`` of the packet, or a jump to one of ``targets``."""

    tests: Sequence[Test] = ()
    verdict: Outcome | None = None
    targets: Sequence[tuple[Test | None, "Outcome | str"]] = ()
    """Where to go (a chain's key, or an outcome), each if its own test says so."""
    comes_back: bool = True
    """Whether what falls out of the target goes on behind this rule."""

    def matches(self, packet: Packet) -> bool | None:
        """Whether it is about that packet; None: that cannot be told."""
        found: set[bool | None] = {test(packet) for test in self.tests}
        if False in found:
            return False
        return None if None in found else True


@dataclass(frozen=True, slots=True)
class Base:
    """A chain that the kernel itself calls."""

    chain: str
    """Its key among the chains."""
    hook: str
    families: frozenset[int]
    """IP versions that it sees."""
    policy: Outcome
    words: str
    """What its administrator calls it."""
    insert: str
    """The command that puts a rule in front; ``{}`` is the rule."""
    keeper: str = ""
    """firewalld or ufw, where one of them makes these rules."""


@dataclass(slots=True)
class Ruleset:
    """All that filters."""

    bases: list[Base] = field(default_factory=list)
    chains: Mapping[str, list[Rule]] = field(default_factory=dict)

    def judge(self, packet: Packet) -> tuple[set[Outcome], Base | None]:
        """What becomes of it, and in which base chain it may be dropped first."""
        whole, where = {Outcome.ACCEPT}, None
        for base in self.bases:
            version = IPV6 if packet.is_v6 else IPV4
            if base.hook != packet.hook or version not in base.families:
                continue
            found = self._walk(base.chain, packet, 0)
            if Outcome.FALL in found:
                found = (found - {Outcome.FALL}) | {base.policy}
            if Outcome.DROP not in found:
                continue
            if where is None or Outcome.ACCEPT not in found:
                where = base
            if Outcome.ACCEPT not in found:
                return {Outcome.DROP}, base
            whole = {Outcome.ACCEPT, Outcome.DROP}
        return whole, where

    def _walk(self, chain: str, packet: Packet, depth: int) -> set[Outcome]:
        if depth > DEPTH_MAX:
            return {Outcome.ACCEPT, Outcome.DROP}
        outcomes: set[Outcome] = set()
        for rule in self.chains.get(chain, ()):
            matches = rule.matches(packet)
            if matches is False:
                continue
            goes_on = matches is None
            found, falls = self._apply(rule, packet, depth)
            outcomes |= found
            if not (goes_on or falls):
                return outcomes
        return outcomes | {Outcome.FALL}

    def _apply(self, rule: Rule, packet: Packet, depth: int) -> tuple[set[Outcome], bool]:
        """What a rule that matches makes of it, and whether the next rule may see it."""
        if rule.verdict is not None:
            return {rule.verdict}, False
        if not rule.targets:
            return set(), True
        outcomes: set[Outcome] = set()
        falls = True
        for test, target in rule.targets:
            chosen = True if test is None else test(packet)
            if chosen is False:
                continue
            if isinstance(target, Outcome):
                found = {target}
                back = False
            else:
                found = self._walk(target, packet, depth + 1)
                back = rule.comes_back and Outcome.FALL in found
                if rule.comes_back:
                    found = found - {Outcome.FALL}
            outcomes |= found
            if chosen is True:
                return outcomes, back
            falls = True
        return outcomes, falls
