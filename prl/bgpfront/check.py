"""Whether the configuration of a BGP daemon fits a front, and that of the other node's daemon.

What is read of it is the part that matters here: FRR's ``router bgp`` of the default VRF with its
peer groups, BIRD's ``protocol bgp`` with its templates.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prl.bgpfront.config import Config, Peer
from prl.endpoint import Address
from prl.errors import ConfigError, UsageError

DIFFERENCES_MAX = 20
"""So many lines that only one node has are shown."""
_YES = frozenset({"", "on", "yes", "true", "graceful"})
_OWN = re.compile(r"^(hostname|log|frr version|!|#|line vty|service )")
"""Lines that may differ between two nodes."""
_SECRET = re.compile(r"(\bpassword\s+)[^\s;]+")
"""Each is compared with bgp.toml's; no line that is shown has it."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """What a daemon is told of one; None and empty: nothing.

    Attributes:
        source: the address that its connections come from.
        passive: it does not connect.
        bfd: BFD ends its session.
        password: the key of its segments.
        is_secured: TTL security.
        hold_s: the hold time.
    """

    source: str = ""
    passive: bool = False
    bfd: bool = False
    password: str = field(default="", repr=False)
    is_secured: bool = False
    hold_s: int | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """What matters of a daemon's configuration.

    Attributes:
        router_id: as it is written down; empty: it is not.
        is_settled: which of two equal paths is the best one does not depend on which came first.
        settle: what to write, so that it is.
        neighbors: by address.
    """

    router_id: str
    is_settled: bool
    settle: str
    neighbors: Mapping[str, Neighbor]


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that was looked at.

    Attributes:
        what: of what it is.
        found: how it is.
        remedy: what to do; empty: nothing.
        needed: without the remedy there is no session, or no pair.
    """

    what: str
    found: str
    remedy: str = ""
    needed: bool = True


def read(text: str) -> Router:
    """Read FRR's or BIRD's. Raises UsageError: it is neither."""
    if re.search(r"^router bgp \d+", text, re.MULTILINE):
        return _read_frr(text)
    if re.search(r"\bprotocol\s+bgp\b", text):
        return _read_bird(text)
    raise UsageError("has neither FRR's `router bgp` nor BIRD's `protocol bgp`; name another file")


def check(config: Config, router: Router) -> Iterator[Remark]:
    """What a front needs of the daemon."""
    yield _judge(
        "router id",
        bool(router.router_id),
        router.router_id or "not written down",
        "write it down, the same on both nodes: the peers see one router",
    )
    yield _judge(
        "best paths",
        router.is_settled,
        "do not depend on which came first" if router.is_settled else "the oldest one wins",
        f"{router.settle}: else the two nodes may choose differently",
        needed=False,
    )
    for peer in config.peer:
        neighbor = router.neighbors.get(str(peer.address))
        if neighbor is None:
            yield Remark(
                f"peer {peer.address}", "no neighbor of the daemon's", "configure it there, too"
            )
        else:
            yield from _check_neighbor(peer, neighbor)


def compare(one: str, other: str) -> Iterator[Remark]:
    """The two nodes' configurations, line by line, where that must not differ."""
    lines = [_lines(text) for text in (one, other)]
    own = [[line for line in mine if line not in theirs] for mine, theirs in (lines, lines[::-1])]
    for name, only in zip(("the first file", "the second file"), own, strict=True):
        for line in only[:DIFFERENCES_MAX]:
            yield Remark(f"only in {name}", line, "give both daemons the same", needed=False)
        if len(only) > DIFFERENCES_MAX:
            words = f"{len(only) - DIFFERENCES_MAX} more lines"
            yield Remark(f"only in {name}", words, "give both daemons the same", needed=False)
    if not any(own):
        yield Remark("both nodes", "are configured alike")


def _check_neighbor(peer: Peer, neighbor: Neighbor) -> Iterator[Remark]:
    name = f"peer {peer.address}"
    yield _judge(
        f"{name}: source",
        _is(neighbor.source, peer.local),
        neighbor.source or "not written down",
        f"let the daemon connect from {peer.local}, the service address",
    )
    who = "the front to the daemon, which is passive" if neighbor.passive else "the daemon"
    yield Remark(f"{name}: connects", who)
    yield _judge(
        f"{name}: BFD",
        not neighbor.bfd,
        "on" if neighbor.bfd else "off",
        "turn it off: its sessions are between hosts, and end with a host",
        needed=False,
    )
    yield _key(name, peer, neighbor)
    if neighbor.hold_s == 0:
        yield Remark(
            f"{name}: hold time", "0", "give one: nobody notices that it hangs", needed=False
        )
    if neighbor.is_secured and not peer.ttl_security_hops:
        yield Remark(
            f"{name}: TTL security",
            "of the daemon alone",
            "give peer.ttl_security_hops, too: it is the front that the peer's segments come to",
            needed=False,
        )


def _key(name: str, peer: Peer, neighbor: Neighbor) -> Remark:
    what = f"{name}: MD5 key"
    try:
        key = peer.key()
    except ConfigError as error:
        return Remark(what, "cannot be read", str(error))
    if key == neighbor.password.encode():
        return Remark(what, "the same" if key else "none")
    found = (
        "another one than peer.md5_key's"
        if key and neighbor.password
        else ("only in the daemon's configuration" if neighbor.password else "only in bgp.toml")
    )
    return Remark(what, found, "give the daemon and peer.md5_key the same, or neither")


def _judge(what: str, good: bool, found: str, remedy: str, *, needed: bool = True) -> Remark:
    return Remark(what, found) if good else Remark(what, found, remedy, needed)


def _is(written: str, address: Address) -> bool:
    try:
        return type(address)(written) == address
    except ValueError:
        return False


def _lines(text: str) -> Sequence[str]:
    told = _SECRET.sub(r"\1…", text)
    stripped = (" ".join(line.split()) for line in told.splitlines())
    return [line for line in stripped if line and not _OWN.match(line)]


# -- FRR


def _read_frr(text: str) -> Router:
    router_id, is_settled = "", False
    options: dict[str, list[list[str]]] = {}
    hold: int | None = None
    for words in _router_bgp(text):
        match words:
            case ["bgp", "router-id", address]:
                router_id = address
            case ["bgp", "bestpath", "compare-routerid"]:
                is_settled = True
            case ["timers", "bgp", _, seconds]:
                hold = _number(seconds)
            case ["neighbor", name, *rest]:
                options.setdefault(name, []).append(rest)
            case _:
                pass
    neighbors = {}
    for name, own in options.items():
        groups = [rest[1] for rest in own if rest[:1] == ["peer-group"] and len(rest) > 1]
        every = [option for group in groups for option in options.get(group, [])] + own
        neighbors[name] = _frr_neighbor(every, hold)
    return Router(router_id, is_settled, "write `bgp bestpath compare-routerid`", neighbors)


def _router_bgp(text: str) -> Iterator[list[str]]:
    """The lines of the default VRF's."""
    inside = False
    for line in text.splitlines():
        if line[:1] not in {" ", "\t"}:
            inside = bool(re.fullmatch(r"router bgp \d+\s*", line))
        elif inside:
            yield line.split()


def _frr_neighbor(options: Sequence[Sequence[str]], hold: int | None) -> Neighbor:
    found = Neighbor(hold_s=hold)
    for option in options:
        match option:
            case ["update-source", source]:
                found = replace(found, source=source)
            case ["passive"]:
                found = replace(found, passive=True)
            case ["bfd", *_]:
                found = replace(found, bfd=True)
            case ["password", password]:
                found = replace(found, password=password)
            case ["ttl-security", "hops", _]:
                found = replace(found, is_secured=True)
            case ["timers", keepalive, seconds] if keepalive.isdigit():
                found = replace(found, hold_s=_number(seconds))
            case _:
                pass
    return found


def _number(word: str) -> int | None:
    return int(word) if word.isdigit() else None


# -- BIRD

_COMMENT = re.compile(r"/\*.*?\*/|#[^\n]*|//[^\n]*", re.DOTALL)
_HEAD = re.compile(r"\b(template|protocol)\s+bgp\b\s*(\w*)\s*(?:from\s+(\w+)\s*)?\{")
_SOURCE = re.compile(r"(?:local|source address)\s+([0-9a-fA-F.:]*[.:][0-9a-fA-F.:]*)")
_NEIGHBOR = re.compile(r"neighbor\s+([0-9a-fA-F.:]+)")


def _read_bird(text: str) -> Router:
    plain = _COMMENT.sub("", text)
    router_id = re.search(r"(?:^|;)\s*router\s+id\s+([0-9.]+)\s*;", plain)
    templates: dict[str, list[str]] = {}
    neighbors = {}
    is_settled = True
    for head in _HEAD.finditer(plain):
        kind, name, base = head.groups()
        statements = [*templates.get(base or "", []), *_statements(plain[head.end() :])]
        if kind == "template":
            templates[name] = statements
            continue
        is_settled = is_settled and not any(
            _flag(statement, "prefer older") for statement in statements
        )
        for statement in statements:
            if found := _NEIGHBOR.match(statement):
                neighbors[found[1]] = _bird_neighbor(statements)
    settle = "take `prefer older` away"
    return Router(router_id[1] if router_id else "", is_settled, settle, neighbors)


def _statements(text: str) -> list[str]:
    """Those of a block that ``text`` stands in, without the blocks within."""
    found, depth, begin = [], 1, 0
    for at, sign in enumerate(text):
        if sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
        if (sign == ";" and depth == 1) or depth == 0:
            found.append(" ".join(text[begin:at].split()))
            begin = at + 1
        if depth == 0:
            break
    return [statement for statement in found if statement]


def _flag(statement: str, name: str) -> bool:
    """Whether the statement turns that on."""
    if statement != name and not statement.startswith(f"{name} "):
        return False
    return statement[len(name) :].strip() in _YES


def _bird_neighbor(statements: Sequence[str]) -> Neighbor:
    found = Neighbor()
    for statement in statements:
        if source := _SOURCE.match(statement):
            found = replace(found, source=source[1])
        elif re.match(r"passive\b", statement):
            found = replace(found, passive=_flag(statement, "passive"))
        elif re.match(r"bfd\b", statement):
            found = replace(found, bfd=_flag(statement, "bfd") or "{" in statement)
        elif password := re.match(r'password\s+"([^"]*)"', statement):
            found = replace(found, password=password[1])
        elif re.match(r"ttl security\b", statement):
            found = replace(found, is_secured=_flag(statement, "ttl security"))
        elif hold := re.match(r"hold time\s+(\d+)", statement):
            found = replace(found, hold_s=int(hold[1]))
    return found
