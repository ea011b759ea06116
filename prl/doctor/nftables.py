"""nftables' ruleset, as `nft -j list ruleset` prints it (libnftables-json(5))."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Final

from prl.doctor.filters import IPV4, IPV6, Base, Outcome, Packet, Rule, Ruleset, Test

_FAMILIES = {"inet": frozenset({IPV4, IPV6}), "ip": frozenset({IPV4}), "ip6": frozenset({IPV6})}
_HOOKS = {"input": "input", "output": "output", "prerouting": "input", "postrouting": "output"}
_IGNORED: Final = frozenset(
    {"counter", "log", "comment", "mangle", "notrack", "ct helper", "ct timeout", "set", "meter"}
)
"""Statements that decide nothing of a packet."""
_PORTS = {"sport": "source_port", "dport": "target_port"}

Value = Any


def read(listing: Sequence[dict[str, Any]]) -> tuple[Ruleset, set[tuple[str, str]]]:
    """The rules, and the tables (family, name) that xtables' commands have made."""
    sets = {
        (each["family"], each["table"], each["name"]): each.get("elem", [])
        for entry in listing
        for kind, each in entry.items()
        if kind in {"set", "map"}
    }
    chains: dict[str, list[Rule]] = {}
    bases: list[Base] = []
    foreign: set[tuple[str, str]] = set()
    for entry in listing:
        if chain := entry.get("chain"):
            chains.setdefault(_key(chain, chain["name"]), [])
            if base := _base(chain):
                bases.append(base)
        elif rule := entry.get("rule"):
            if any("xt" in statement for statement in rule["expr"]):
                foreign.add((rule["family"], rule["table"]))
            chains.setdefault(_key(rule, rule["chain"]), []).append(_rule(rule, sets))
    kept = [base for base in bases if tuple(base.chain.split()[:2]) not in foreign]
    return Ruleset(kept, chains), foreign


def _key(owner: dict[str, Any], chain: str) -> str:
    return f"{owner['family']} {owner['table']} {chain}"


def _base(chain: dict[str, Any]) -> Base | None:
    hook, family = _HOOKS.get(chain.get("hook", "")), _FAMILIES.get(chain["family"])
    if hook is None or family is None or chain.get("type") != "filter":
        return None
    key = _key(chain, chain["name"])
    policy = Outcome.DROP if chain.get("policy") == "drop" else Outcome.ACCEPT
    words, insert = f"nft chain {key}", f"nft insert rule {key} {{}}"
    keeper = "firewalld" if chain["table"] == "firewalld" else ""
    return Base(key, hook, family, policy, words, insert, keeper)


def _rule(rule: dict[str, Any], sets: dict[tuple[str, str, str], Value]) -> Rule:
    tests: list[Test] = []
    for statement in rule["expr"]:
        ((kind, value),) = statement.items()
        if kind == "match":
            tests.append(_match(value, rule, sets))
        elif kind in {"accept", "drop"}:
            return Rule(tests, Outcome(kind))
        elif kind == "reject":
            return Rule(tests, Outcome.DROP)
        elif kind in {"jump", "goto"}:
            target = _key(rule, value["target"])
            return Rule(tests, targets=[(None, target)], comes_back=kind == "jump")
        elif kind == "return":
            return Rule(tests, Outcome.FALL)
        elif kind == "vmap":
            return Rule(tests, targets=_choices(value, rule, sets))
        elif kind not in _IGNORED:  # a limit, a queue, what is new: it may stop here, or not
            tests.append(_cannot_tell)
    return Rule(tests)


def _choices(
    value: Value, rule: dict[str, Any], sets: dict[tuple[str, str, str], Value]
) -> list[tuple[Test | None, Outcome | str]]:
    data = value["data"]
    if isinstance(data, str):
        data = {"set": sets.get((rule["family"], rule["table"], data.lstrip("@")), [])}
    found: list[tuple[Test | None, Outcome | str]] = []
    for wanted, verdict in data.get("set", []):
        ((kind, where),) = verdict.items()
        target: Outcome | str = Outcome.DROP if kind in {"drop", "reject"} else Outcome.ACCEPT
        if kind in {"return", "continue"}:
            continue
        if kind in {"jump", "goto"}:
            target = _key(rule, where["target"])
        test = _match({"op": "==", "left": value["key"], "right": wanted}, rule, sets)
        found.append((test, target))
    return found


def _match(match: Value, rule: dict[str, Any], sets: dict[tuple[str, str, str], Value]) -> Test:
    left, right, op = match["left"], match["right"], match.get("op", "==")
    if isinstance(right, str) and right.startswith("@"):
        right = {"set": sets.get((rule["family"], rule["table"], right[1:]), [])}

    def test(packet: Packet) -> bool | None:
        known, value = _value(left, packet)
        if not known:
            return None if value is None else bool(value)
        if op not in {"==", "!=", "in"}:
            return None
        found = _is_among(value, right)
        if found is None:
            return None
        return found if op != "!=" else not found

    return test


def _cannot_tell(_: Packet) -> None:
    return None


def _value(left: Value, packet: Packet) -> tuple[bool, Any]:
    """Whether the packet's value of that expression is known, and it; else what the match says."""
    if not isinstance(left, dict):
        return False, None
    if meta := left.get("meta"):
        return _meta(meta["key"], packet)
    if payload := left.get("payload"):
        return _payload(payload, packet)
    if "&" in left and _is_tcp_flags(left["&"]):
        return _payload({"protocol": "tcp", "field": "flags"}, packet)
    is_state = left.get("ct", {}).get("key") == "state"
    return (True, packet.state) if is_state else (False, None)


def _is_tcp_flags(masked: Value) -> bool:
    first = masked[0] if isinstance(masked, list) and masked else {}
    return isinstance(first, dict) and first.get("payload") == {"protocol": "tcp", "field": "flags"}


def _meta(key: str, packet: Packet) -> tuple[bool, Any]:
    protocols = {"icmpv6": {"icmpv6", "ipv6-icmp", "58"}}
    if key == "l4proto":
        names = protocols.get(packet.protocol, {packet.protocol})
        return True, frozenset(names)
    if key == "nfproto":
        return True, "ipv6" if packet.is_v6 else "ipv4"
    if key in {"iifname", "iif", "oifname", "oif"}:
        is_near = key.startswith("i") == (packet.hook == "input")
        return (True, packet.interface) if is_near else (False, False)
    if key == "pkttype":
        return True, "host"
    return False, None


def _payload(payload: Value, packet: Packet) -> tuple[bool, Any]:
    protocol, name = payload.get("protocol"), payload.get("field")
    if protocol in {"ip", "ip6"}:
        return _address_field(protocol, str(name), packet)
    if protocol == "th" and packet.protocol in {"tcp", "udp"}:
        protocol = packet.protocol
    if protocol != packet.protocol:
        return (False, False) if protocol in {"tcp", "udp", "icmp", "icmpv6"} else (False, None)
    if name in _PORTS:
        port = getattr(packet, _PORTS[str(name)])
        return (False, None) if port is None else (True, port)
    if name == "type":
        return True, packet.icmp_type
    if name == "flags" and packet.state == "new":
        return True, "syn"
    return False, None


def _address_field(protocol: str, name: str, packet: Packet) -> tuple[bool, Any]:
    if (protocol == "ip6") != packet.is_v6:
        return False, False
    if name in {"saddr", "daddr"}:
        return True, packet.source if name == "saddr" else packet.target
    if name in {"protocol", "nexthdr"}:
        names = {"icmpv6": {"icmpv6", "ipv6-icmp"}}
        return True, frozenset(names.get(packet.protocol, {packet.protocol}))
    return False, None


def _is_among(value: Any, right: Value) -> bool | None:
    """Whether a known value is one of those that a rule names."""
    if isinstance(right, list):
        return _any(_is_among(value, each) for each in right)
    if not isinstance(right, dict):
        return _is(value, right)
    if "set" in right:
        return _any(_is_among(value, each) for each in _listed(right["set"]))
    if "range" in right:
        return _within(value, *right["range"])
    if "prefix" in right:
        prefix = right["prefix"]
        return value in ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
    return _is_among(value, right["elem"].get("val")) if "elem" in right else None


def _is(value: Any, right: Value) -> bool | None:
    if isinstance(value, frozenset):
        return str(right) in value
    if isinstance(value, str) and isinstance(right, str) and right.endswith("*"):
        return value.startswith(right[:-1])
    if not isinstance(value, str | int):
        return _same_address(value, right)
    return str(value) == str(right)


def _listed(elements: Value) -> list[Value]:
    return elements if isinstance(elements, list) else [elements]


def _any(found: Any) -> bool | None:
    answers = set(found)
    if True in answers:
        return True
    return None if None in answers else False


def _within(value: Any, low: Value, high: Value) -> bool | None:
    try:
        if isinstance(value, int):
            return int(low) <= value <= int(high)
        return bool(ip_address(low) <= value <= ip_address(high))
    except (TypeError, ValueError):
        return None


def _same_address(value: Any, right: Value) -> bool | None:
    try:
        return bool(value == ip_address(right))
    except ValueError:
        return None
