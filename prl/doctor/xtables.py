"""The ruleset of iptables and ip6tables, as iptables-save(8) prints it."""

import shlex
from collections.abc import Callable
from ipaddress import ip_network

from prl.doctor.filters import IPV4, IPV6, Base, Outcome, Packet, Rule, Ruleset, Test
from prl.endpoint import Address

_TABLES = frozenset({"raw", "mangle", "filter"})
_CHAINS = {"PREROUTING": "input", "INPUT": "input", "OUTPUT": "output", "POSTROUTING": "output"}
_ENDS = {"ACCEPT": Outcome.ACCEPT, "DROP": Outcome.DROP, "REJECT": Outcome.DROP}
_SILENT = frozenset({"LOG", "NFLOG", "MARK", "CONNMARK", "CT", "TRACE", "NOTRACK", "TCPMSS"})
_WITHOUT_MEANING = frozenset({"-m", "--comment"})


def read(text: str, version: int) -> Ruleset:
    """The rules of one IP version."""
    command = "ip6tables" if version == IPV6 else "iptables"
    chains: dict[str, list[Rule]] = {}
    bases: list[Base] = []
    keeper = "ufw" if ":ufw" in text else ""
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table not in _TABLES:
            continue
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            key = f"{table} {name}"
            chains.setdefault(key, [])
            if name in _CHAINS:
                outcome = Outcome.DROP if policy == "DROP" else Outcome.ACCEPT
                words = f"{command} -t {table}, chain {name}"
                insert = f"{command} -t {table} -I {name} {{}} -j ACCEPT"
                families = frozenset({IPV6 if version == IPV6 else IPV4})
                bases.append(Base(key, _CHAINS[name], families, outcome, words, insert, keeper))
        elif line.startswith("-A"):
            words_of = shlex.split(line)
            chains.setdefault(f"{table} {words_of[1]}", []).append(_rule(words_of[2:], table))
    return Ruleset(bases, chains)


def _rule(words: list[str], table: str) -> Rule:
    tests: list[Test] = []
    negated = False
    at = 0
    while at < len(words):
        word = words[at]
        if word == "!":
            negated, at = True, at + 1
            continue
        if word in {"-j", "-g"}:
            return _ending(tests, words[at + 1], table, comes_back=word == "-j")
        values = 1 if at + 1 < len(words) and not words[at + 1].startswith("-") else 0
        value = words[at + 1] if values else ""
        if word not in _WITHOUT_MEANING:
            test = _test(word, value)
            tests.append(_not(test) if negated else test)
        negated, at = False, at + 1 + values
        while at < len(words) and not words[at].startswith("-") and words[at] != "!":
            at += 1  # a second value: of an option that we do not know anyway
    return Rule(tests)


def _ending(tests: list[Test], target: str, table: str, *, comes_back: bool) -> Rule:
    if target in _ENDS:
        return Rule(tests, _ENDS[target])
    if target == "RETURN":
        return Rule(tests, Outcome.FALL)
    if target in _SILENT:
        return Rule(tests)
    return Rule(tests, targets=[(None, f"{table} {target}")], comes_back=comes_back)


def _not(test: Test) -> Test:
    def negated(packet: Packet) -> bool | None:
        found = test(packet)
        return None if found is None else not found

    return negated


def _test(option: str, value: str) -> Test:
    known = _OPTIONS.get(option)

    def test(packet: Packet) -> bool | None:
        return known(packet, value) if known is not None else None

    return test


def _is_protocol(packet: Packet, value: str) -> bool:
    names = {"icmpv6": {"icmpv6", "ipv6-icmp", "58"}}
    return value in names.get(packet.protocol, {packet.protocol})


def _is_interface(packet: Packet, name: str) -> bool:
    wild = name.endswith("+") and packet.interface.startswith(name[:-1])
    return wild or packet.interface == name


def _is_port(port: int | None, value: str) -> bool | None:
    if port is None:
        return None
    for part in value.split(","):
        low, _, high = part.partition(":")
        if low.isdigit() and int(low) <= port <= int(high or low):
            return True
    return False


def _is_in(address: Address, network: str) -> bool | None:
    try:
        return address in ip_network(network, strict=False)
    except ValueError:  # a mask with holes, for example: the kernel takes that
        return None


_OPTIONS: dict[str, Callable[[Packet, str], bool | None]] = {
    "-p": _is_protocol,
    "-i": lambda packet, name: packet.hook == "input" and _is_interface(packet, name),
    "-o": lambda packet, name: packet.hook == "output" and _is_interface(packet, name),
    "-s": lambda packet, net: _is_in(packet.source, net),
    "-d": lambda packet, net: _is_in(packet.target, net),
    "--state": lambda packet, states: packet.state.upper() in states.split(","),
    "--ctstate": lambda packet, states: packet.state.upper() in states.split(","),
    "--syn": lambda packet, _: packet.state == "new",
}
for _name in ("--dport", "--dports"):
    _OPTIONS[_name] = lambda packet, ports: _is_port(packet.target_port, ports)
for _name in ("--sport", "--sports"):
    _OPTIONS[_name] = lambda packet, ports: _is_port(packet.source_port, ports)
