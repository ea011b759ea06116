"""A router of two nodes under churn; run as ``python -m tests.bgp_churn [--help]``.

A peer announces routes with attributes as various as in the Internet, and changes its mind so many
times a second; a stock BIRD, the second peer, is told of it by the daemon of our nodes, which
stands behind fronts. Meanwhile nodes lose their power, daemons and fronts are killed, the service
is moved. At the end BIRD, and the kernels of both nodes, must have what the peer says at the end:
so it is after a run without failures, too. Neither session may ever end (docs/bgp.md).
"""

import argparse
import json
import os
import random
import re
import select
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from prl.bgpfront.opening import Open, encode
from prl.client import Node
from prl.demo import fronted
from prl.demo.fronted import NODES, RouterPair, Setting
from prl.demo.peers import PEERS
from prl.demo.player import DemoError
from prl.demo.routers import HOLD_TIME_S, PEER_ASN, Bird, Place, View, many_routes
from prl.lab import Lab
from tests.bgp_updates import (
    AS_PATH,
    COMMUNITIES,
    NEXT_HOP,
    OPTIONAL,
    ORIGIN,
    TRANSITIVE,
    V4,
    Route,
    Said,
    announce,
    message,
    read,
    take_messages,
    withdraw,
)

ASNS = range(64512, 64990)
"""Private ones (RFC 6996), without our own."""
PATH_MAX, COMMUNITIES_MAX = 6, 8
AT_ONCE_MAX = 8
"""Routes of an UPDATE."""
WITHDRAWN_SHARE = 0.15
OUT_MAX_BYTES = 1 << 20
"""So much may wait to be written; then no more is made up."""
TICK_S = 0.01
ALIVE = message(4, b"")
PATIENCE_S = 120.0

Told = tuple[tuple[int, ...], tuple[int, ...]]
"""What is said of a route: AS path and communities."""


@dataclass
class Churner:
    """The peer: what it says depends on the seed alone, but for how far it gets."""

    local: IPv4Address
    seed: int
    prefixes: list[str]
    table: dict[str, Told] = field(default_factory=dict)
    out: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    learnt: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=lambda: {"said": 0, "heard": 0, "withdrew": 0})
    is_up: bool = False
    ended: str = ""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def begin(self) -> None:
        """All of them."""
        for prefix in self.prefixes:
            self._announce([prefix])

    def churn(self) -> None:
        """Change its mind."""
        chosen = self._random.sample(self.prefixes, self._random.randint(1, AT_ONCE_MAX))
        gone = [prefix for prefix in chosen if prefix in self.table]
        if self._random.random() < WITHDRAWN_SHARE and gone:
            for prefix in gone:
                del self.table[prefix]
            self.out += withdraw([Route(V4, prefix) for prefix in gone])
            self.counts["withdrew"] += len(gone)
        else:
            self._announce(chosen)
        self.counts["said"] += 1

    def _announce(self, prefixes: list[str]) -> None:
        choose = self._random
        path = (PEER_ASN, *choose.sample(ASNS, choose.randint(1, PATH_MAX)))
        some = choose.randint(0, COMMUNITIES_MAX)
        communities = tuple(sorted(choose.getrandbits(31) for _ in range(some)))
        octets = b"".join(asn.to_bytes(4, "big") for asn in path)
        attributes = [
            (TRANSITIVE, ORIGIN, b"\0"),
            (TRANSITIVE, AS_PATH, bytes([2, len(path)]) + octets),
            (TRANSITIVE, NEXT_HOP, self.local.packed),
        ]
        if communities:
            value = b"".join(one.to_bytes(4, "big") for one in communities)
            attributes.append((OPTIONAL | TRANSITIVE, COMMUNITIES, value))
        said = Said(tuple(attributes))
        self.out += announce([Route(V4, prefix) for prefix in prefixes], said)
        for prefix in prefixes:
            self.table[prefix] = (path, communities)

    def take(self, data: bytes) -> None:
        """Bytes have come."""
        self.received += data
        for one in take_messages(self.received):
            if one[18] == 1:
                self.out += ALIVE
            elif one[18] == 2:
                self.counts["heard"] += 1
                found = read(one)
                self.learnt -= {route.prefix for route in found.withdrawn}
                self.learnt |= {route.prefix for route, _ in found.announced}
                self.learnt -= self.table.keys()  # FRR says them to whom it has them from, too
            elif one[18] == 3:
                self.ended = f"NOTIFICATION {one[19]}/{one[20]}"
            elif one[18] == 4 and not self.is_up:
                self.is_up = True
                self.begin()

    def shown(self) -> dict[str, Any]:
        """For the other process."""
        return {"counts": self.counts, "learnt": len(self.learnt), "ended": self.ended}


def speak(options: argparse.Namespace) -> None:
    """The peer's process: churns once the file ``go`` is there, for as long as that says."""
    folder = Path(options.folder)
    prefixes = folder.joinpath("prefixes").read_text().split()
    one = Churner(ip_address(options.local), options.seed, prefixes)
    sock = _connect(options.local, options.neighbour)
    one.out += encode(
        Open(
            *(PEER_ASN, HOLD_TIME_S, ip_address("192.0.2.1")),
            ((1, b"\0\1\0\1"), (2, b""), (65, PEER_ASN.to_bytes(4, "big"))),
        )
    )
    pace = Pace(folder / "go", options.rate)
    alive_at = shown_at = heard_at = time.monotonic()
    silent_s = silent_at_s = 0.0
    while not one.ended:
        now = time.monotonic()
        if one.is_up and now >= alive_at + HOLD_TIME_S / 3:
            one.out += ALIVE
            alive_at = now
        if one.is_up and len(one.out) < OUT_MAX_BYTES:
            for _ in range(pace.due(now)):
                one.churn()
        readable, writable, _ = select.select([sock], [sock] if one.out else [], [], TICK_S)
        if writable:
            del one.out[: sock.send(one.out[: 1 << 16])]
        if readable:
            data = sock.recv(1 << 16)
            one.ended = one.ended or ("" if data else "closed")
            one.take(data)
            if now - heard_at > silent_s:
                silent_s, silent_at_s = now - heard_at, pace.since_s(now)
            heard_at = now
        if now >= shown_at + 0.2:
            shown_at = now
            over = {"table": one.table} if pace.is_over and not one.out else {}
            _write(folder / "shown", one.shown() | {"silent": (silent_s, silent_at_s)} | over)
    _write(folder / "shown", one.shown())


class Pace:
    """How many changes are due."""

    def __init__(self, go: Path, rate: float) -> None:
        self._go, self._rate = go, rate
        self._from_s: float | None = None
        self._until_s, self._done = 0.0, 0
        self.is_over = False

    def since_s(self, now: float) -> float:
        """For how long there have been changes."""
        return 0.0 if self._from_s is None else now - self._from_s

    def due(self, now: float) -> int:
        """Since the last time."""
        if self._from_s is None:
            if not self._go.exists():
                return 0
            self._from_s = now
            self._until_s = now + float(self._go.read_text())
        self.is_over = now >= self._until_s
        more = int((min(now, self._until_s) - self._from_s) * self._rate) - self._done
        self._done += more
        return more


def _connect(local: str, neighbour: str) -> socket.socket:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            sock = socket.create_connection((neighbour, 179), 2.0, source_address=(local, 0))
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.2)
        else:
            sock.setblocking(False)
            return sock


def _write(path: Path, what: dict[str, Any]) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(what))
    beside.rename(path)


class ChurnerRouter:
    """The peer, as a demo's."""

    rate, seed = 1000.0, 1

    def __init__(self, place: Place) -> None:
        self._place = place
        self._log = place.directory / "churner.log"

    def start(self) -> None:
        place = self._place
        (place.directory / "prefixes").write_text("\n".join(map(str, place.before)))
        argv = [sys.executable, "-m", "tests.bgp_churn", "--speak", "--folder"]
        argv += [str(place.directory), "--local", str(place.local)]
        argv += ["--neighbour", str(place.neighbour)]
        argv += ["--rate", str(self.rate), "--seed", str(self.seed)]
        place.start(argv, self._log)

    def go(self, seconds: float) -> None:
        (self._place.directory / "go").write_text(str(seconds))

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._place.directory / "shown").read_text())
        return found

    def pid(self) -> int:
        raise NotImplementedError

    def learnt(self) -> int:
        return int(self.shown()["learnt"])

    def forwarded(self) -> set[str]:
        return set()

    def announce_more(self) -> None:
        raise NotImplementedError

    def view(self) -> View:
        raise NotImplementedError

    def log(self) -> str:
        return self._log.read_text()

    def console(self) -> list[str]:
        raise NotImplementedError


class Fate:
    """What happens to the pair, one after the other; after each it is whole again."""

    def __init__(self, lab: Lab, pair: RouterPair, seed: int) -> None:
        self._lab, self._pair = lab, pair
        self._random = random.Random(seed)
        self.owner = NODES[0]

    @property
    def other(self) -> str:
        """The standby."""
        (found,) = set(NODES) - {self.owner}
        return found

    def strike(self) -> tuple[str, float]:
        """Let something happen. Returns what, and after how many seconds the pair is whole."""
        acts: list[Callable[[], None]] = [self.power, self.power_of_standby]
        acts += [self.daemon, self.front, self.move]
        act = self._random.choice(acts)
        began_s = time.monotonic()
        act()
        self._pair.wait("the pair is whole", self.is_whole)
        return act.__name__, time.monotonic() - began_s

    def is_whole(self) -> bool:
        """Whether the other node could go on, whichever it is."""
        for node in NODES:
            if self._pair.owns(node) and self._pair.is_ready(node):
                self.owner = node
                return True
        return False

    def _off(self, node: str) -> None:
        self._lab.fail(node, "power")
        if node == self.owner:
            self._pair.wait("the other one goes on", lambda: self._owns(self.other))
        self._lab.heal(node)
        self._pair.start_node(node)

    def _owns(self, node: str) -> bool:
        return all(one["role"] == "owner" for one in self._pair.fronts[node].peers())

    def power(self) -> None:
        """The owner loses its power, and comes back."""
        self._off(self.owner)

    def power_of_standby(self) -> None:
        """The standby does."""
        self._off(self.other)

    def daemon(self) -> None:
        """The owner's daemon is killed."""
        node = self.owner
        self._pair.kill_daemon(node)
        self._pair.daemons[node].start()

    def front(self) -> None:
        """The owner's front is."""
        node = self.owner
        self._pair.fronts[node].kill()
        self._pair.wait("the other one goes on", lambda: self._owns(self.other))
        self._pair.fronts[node].start()

    def move(self) -> None:
        """The service is moved."""
        with Node(str(self._lab.state.socket(self._lab.topology.node(self.owner)))) as prld:
            prld.request({"op": "switchover", "service": "", "forced": False})


def bird_has(second: Bird) -> dict[str, Told]:
    """What the second peer has been told, without our AS."""
    shown = second._birdc("show", "route", "protocol", "prl", "all")
    found: dict[str, Told] = {}
    prefix = ""
    for line in shown.splitlines():
        if begin := re.match(r"^(\d\S+/\d+)\s", line):
            prefix = begin[1]
            found[prefix] = ((), ())
        elif path := re.match(r"^\s+BGP\.as_path:\s+(.*)$", line):
            found[prefix] = (tuple(map(int, path[1].split()))[1:], found[prefix][1])
        elif some := re.match(r"^\s+BGP\.community:\s+(.*)$", line):
            pairs = re.findall(r"\((\d+),(\d+)\)", some[1])
            numbers = sorted((int(high) << 16) + int(low) for high, low in pairs)
            found[prefix] = (found[prefix][0], tuple(numbers))
    return found


def run(options: argparse.Namespace) -> int:
    """Let it churn, and compare."""
    fronted.STEP_TIMEOUT_S = PATIENCE_S
    ChurnerRouter.rate, ChurnerRouter.seed = options.rate, options.seed
    PEERS["churner"] = ChurnerRouter
    theirs, ours = many_routes(4, 0, options.routes), many_routes(4, 1, 100)
    setting = Setting(options.daemon, "churner", 4, ours, theirs, (), second="bird")
    folder = Path(tempfile.mkdtemp(prefix="bgp-churn-"))
    lab = Lab(f"churn-{os.getpid()}")
    lab.up()
    pair = RouterPair(lab, folder, setting)
    try:
        return _run(options, lab, pair)
    except DemoError as error:
        _say(f"FAILED: {error}")
        return 1
    finally:
        lab.down()
        pair.end()
        shutil.rmtree(folder)


def _run(options: argparse.Namespace, lab: Lab, pair: RouterPair) -> int:
    peer, second = pair.peer, pair.second
    assert isinstance(peer, ChurnerRouter)
    assert isinstance(second, Bird)
    pair.start()
    before = second.view()
    _say(f"{options.daemon}: all are told; {options.rate:.0f} changes a second from now on")
    fate = Fate(lab, pair, options.seed)
    peer.go(options.seconds)
    began_s = time.monotonic()
    for number in range(options.failures):
        due_s = began_s + (number + 0.5) * options.seconds / options.failures
        time.sleep(max(0.0, due_s - time.monotonic()))
        what, whole_s = fate.strike()
        _say(f"{time.monotonic() - began_s:6.1f} s: {what}; whole again after {whole_s:.1f} s")
        if ended := peer.shown()["ended"]:
            raise DemoError(f"the peer's session has ended: {ended}")
    pair.wait("it is over", lambda: "table" in peer.shown())
    shown = peer.shown()
    wanted = {prefix: (tuple(p), tuple(c)) for prefix, (p, c) in shown["table"].items()}
    mine = {str(prefix) for prefix in pair.setting.ours}

    def has_all() -> bool:
        found = bird_has(second)
        return {k: v for k, v in found.items() if k not in mine} == wanted

    pair.wait("the second peer has what the first one says", has_all)
    pair.wait("the pair is whole", fate.is_whole)
    for node in NODES:
        pair.wait(
            f"{node}'s kernel has it",
            lambda node=node: pair.daemons[node].forwarded() == set(wanted),
        )
    after = second.view()
    is_good = after.is_as_old(before) and after.flaps == before.flaps and not peer.shown()["ended"]
    counts, (silent_s, silent_at_s) = shown["counts"], shown["silent"]
    _say(
        f"{counts['said']} changes, {counts['withdrew']} routes withdrawn by the first peer, "
        f"{after.withdrawn} seen by the second; {len(wanted)} routes at the end, all as they were "
        f"said last; the longest silence towards the first peer {silent_s:.2f} s, until "
        f"{silent_at_s:.1f} s"
    )
    _say("SURVIVED: neither session has ended" if is_good else "FAILED: a session has ended")
    return 0 if is_good else 1


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="tests.bgp_churn", description=__doc__)
    parser.add_argument("--daemon", choices=("bird", "frr"), default="bird")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--failures", type=int, default=20)
    parser.add_argument("--routes", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=1000.0, help="UPDATEs a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speak", action="store_true", help=argparse.SUPPRESS)
    for name in ("--folder", "--local", "--neighbour"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.speak:
        speak(options)
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
