"""The stock BGP speakers that the demo has for a peer, and what their own tools say."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any, Protocol

from prl.bgp.prefixes import Prefix
from prl.demo.player import DemoError
from prl.lab import Lab

PEER_ASN = 65000
OUR_ASN = 65001
HOLD_TIME_S = 9
TOOL_TIMEOUT_S = 10.0
SINCE_JITTER_S = 1.0  # bgpd counts whole seconds
TIME_JITTER_S = 0.1
# A line of `show protocols`: name, kind, table and state; since is a date and a time.
_BIRD_PROTOCOL = re.compile(
    r"^prl\s+BGP\s+\S+\s+\S+\s+(?P<since>\S+ \S+)\s*(?P<info>.*?)\s*$", re.MULTILINE
)
_SBIN_PATH = "/usr/sbin:/sbin:/usr/lib/frr"


@dataclass(frozen=True, slots=True)
class View:
    """The session as the peer sees it.

    Attributes:
        state: the BGP state.
        since: since when it is in its state.
        flaps: how often the peer counts that it went down.
        routes: our prefixes that the peer has, each with a number that changes when it is learnt
            anew: a time in seconds, or the version of the peer's table.
        withdrawn: how many withdrawals of ours the peer counts.
        announced: the prefixes that the peer says it announces to us.
    """

    state: str
    since: datetime | None
    flaps: int
    routes: dict[str, float]
    withdrawn: int
    announced: tuple[str, ...]

    def has_same_routes(self, other: "View") -> bool:
        """Whether none of our routes was withdrawn, learnt anew or added in between."""
        return self.routes.keys() == other.routes.keys() and all(
            abs(number - other.routes[prefix]) < TIME_JITTER_S
            for prefix, number in self.routes.items()
        )

    def is_as_old(self, other: "View") -> bool:
        """Whether both are of one session; the peers compute the time anew whenever asked."""
        if self.since is None or other.since is None:
            return False
        return abs((self.since - other.since).total_seconds()) <= SINCE_JITTER_S


@dataclass(frozen=True, slots=True)
class Place:
    """Where the peer runs, whom it talks to, and what it announces before and after the failure."""

    lab: Lab
    directory: Path
    local: IPv4Address | IPv6Address
    neighbour: IPv4Address | IPv6Address
    before: tuple[Prefix, ...]
    after: tuple[Prefix, ...]
    md5: str = field(default="", repr=False)
    routed: bool = False
    """There is a router in between."""

    @property
    def version(self) -> int:
        """The version of IP."""
        return self.local.version

    def run(self, argv: list[str]) -> str:
        """Run one of the peer's tools.

        Raises:
            DemoError: it fails.
        """
        try:
            done = self.lab.run(
                "peer", argv, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise DemoError(f"{argv[0]} does not answer within {TOOL_TIMEOUT_S:.0f} s") from None
        if done.returncode:
            raise DemoError(f"{' '.join(argv)} failed: {done.stderr or done.stdout}")
        return str(done.stdout)


class Router(Protocol):
    """A stock BGP speaker."""

    def start(self) -> None:
        """Start it; it connects by itself."""

    def announce_more(self) -> None:
        """Let it announce the second set of routes."""

    def view(self) -> View:
        """What its own tool says."""

    def log(self) -> str:
        """What it has written, for a failure's sake."""


class Bird:
    """BIRD 2, controlled by birdc."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._config = place.directory / "bird.conf"
        self._control = place.directory / "bird.ctl"
        self._log = place.directory / "bird.log"

    def start(self) -> None:
        """See ``Router``."""
        self._config.write_text(self._configuration())
        self._log.touch()
        program = _program("bird", "bird2")
        pid = self._place.directory / "bird.pid"
        self._place.run(
            [program, "-c", str(self._config), "-s", str(self._control), "-P", str(pid)]
        )

    def announce_more(self) -> None:
        """See ``Router``."""
        self._birdc("enable", "late_routes")

    def view(self) -> View:
        """See ``Router``."""
        shown = self._birdc("show", "protocols", "all", "prl")
        if "Established" not in shown:  # then it has no tables to show
            return parse_bird(shown, "", "")
        routes = self._birdc("show", "route", "protocol", "prl")
        exported = self._birdc("show", "route", "export", "prl")
        return parse_bird(shown, routes, exported)

    def log(self) -> str:
        """See ``Router``."""
        return self._log.read_text(errors="replace")

    def _birdc(self, *command: str) -> str:
        return self._place.run([_program("birdc", "bird2"), "-s", str(self._control), *command])

    def _configuration(self) -> str:
        place = self._place
        channel = f"ipv{place.version}"

        signed = f'\n  password "{place.md5}";' if place.md5 else ""

        def static(name: str, routes: tuple[Prefix, ...], disabled: str) -> str:
            lines = "".join(f"  route {prefix} blackhole;\n" for prefix in routes)
            return f"protocol static {name} {{\n  disabled {disabled};\n  {channel};\n{lines}}}\n"

        return f"""\
log "{self._log}" all;
router id 192.0.2.1;
timeformat protocol iso long us;
timeformat route iso long us;
protocol device {{ }}
{static("early_routes", place.before, "no")}
{static("late_routes", place.after, "yes")}
protocol bgp prl {{
  local {place.local} as {PEER_ASN};
  neighbor {place.neighbour} as {OUR_ASN};
  {"multihop;" if place.routed else "direct;"}{signed}
  hold time {HOLD_TIME_S};
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 2;
  {channel} {{ import all; export where source = RTS_STATIC; next hop self; }};
}}
"""


def parse_bird(shown: str, routes: str, exported: str) -> View:
    """Read ``show protocols all``, ``show route protocol`` and ``show route export`` of BIRD 2."""
    line = _BIRD_PROTOCOL.search(shown)
    if line is None:
        raise DemoError(f"birdc shows no protocol prl: {shown!r}")
    state = re.search(r"BGP state:\s+(\S+)", shown)
    withdrawn = re.search(r"Import withdraws:\s+(\d+)", shown)
    times = re.findall(r"^(\S+/\d+)\s.*\[prl (\S+ [^\s\]]+)", routes, re.MULTILINE)
    return View(
        state=state[1] if state else line["info"],
        since=datetime.fromisoformat(line["since"]),
        flaps=int("Last error:" in shown),
        routes={prefix: datetime.fromisoformat(at).timestamp() for prefix, at in times},
        withdrawn=int(withdrawn[1]) if withdrawn else 0,
        announced=tuple(re.findall(r"^(\S+/\d+)\s", exported, re.MULTILINE)),
    )


class Frr:
    """FRR's bgpd, alone: without zebra it touches no routes of the kernel's."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._log = place.directory / "bgpd.log"
        self._family = f"ipv{place.version}"

    def start(self) -> None:
        """See ``Router``."""
        directory = self._place.directory
        config = directory / "bgpd.conf"
        config.write_text(self._configuration())
        self._log.touch()
        argv = [_program("bgpd", "frr"), "-d", "-Z", "-n", "-S", "-u", "root", "-g", "root"]
        argv += ["-f", str(config), "-i", str(directory / "bgpd.pid"), "-P", "0"]
        argv += ["--vty_socket", str(directory), "--log", f"file:{self._log}"]
        self._place.run(argv)

    def announce_more(self) -> None:
        """See ``Router``."""
        lines = [f"network {prefix}" for prefix in self._place.after]
        unicast = f"address-family {self._family} unicast"
        self._vtysh("configure terminal", f"router bgp {PEER_ASN}", unicast, *lines)

    def view(self) -> View:
        """See ``Router``."""
        neighbour = str(self._place.neighbour)
        about = json.loads(self._vtysh(f"show bgp neighbors {neighbour} json"))
        shown = f"show bgp {self._family} unicast neighbors {neighbour}"
        routes = json.loads(self._vtysh(f"{shown} routes json"))
        announced = json.loads(self._vtysh(f"{shown} advertised-routes json"))
        return parse_frr(about.get(neighbour, {}), routes, announced)

    def log(self) -> str:
        """See ``Router``."""
        return self._log.read_text(errors="replace")

    def _vtysh(self, *commands: str) -> str:
        argv = [_program("vtysh", "frr"), "--vty_socket", str(self._place.directory), "-d", "bgpd"]
        for command in commands:
            argv += ["-c", command]
        return self._place.run(argv)

    def _configuration(self) -> str:
        neighbour = self._place.neighbour
        signed = f"\n neighbor {neighbour} password {self._place.md5}" if self._place.md5 else ""
        networks = "".join(f"  network {prefix}\n" for prefix in self._place.before)
        return f"""\
hostname peer
router bgp {PEER_ASN}
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 neighbor {neighbour} remote-as {OUR_ASN}
 neighbor {neighbour} {"ebgp-multihop" if self._place.routed else "disable-connected-check"}{signed}
 neighbor {neighbour} update-source {self._place.local}
 neighbor {neighbour} timers {HOLD_TIME_S // 3} {HOLD_TIME_S}
 neighbor {neighbour} timers connect 1
 neighbor {neighbour} advertisement-interval 0
 address-family {self._family} unicast
  neighbor {neighbour} activate
  neighbor {neighbour} filter-list own out
{networks} exit-address-family
bgp as-path access-list own permit ^$
"""


def parse_frr(about: dict[str, Any], routes: dict[str, Any], announced: dict[str, Any]) -> View:
    """Read the JSON of ``show bgp neighbors``, its ``routes`` and its ``advertised-routes``."""
    since = about.get("bgpTimerUpEstablishedEpoch")
    return View(
        state=str(about.get("bgpState")),
        since=None if since is None else datetime.fromtimestamp(since, UTC).replace(tzinfo=None),
        flaps=int(about.get("connectionsDropped", 0)),
        routes={
            prefix: float(paths[0].get("version", 0))
            for prefix, paths in routes.get("routes", {}).items()
        },
        withdrawn=0,  # bgpd does not count them; a withdrawn route comes back in a new version
        announced=tuple(announced.get("advertisedRoutes", {})),
    )


ROUTERS: dict[str, Callable[[Place], Router]] = {"bird": Bird, "frr": Frr}


def make_routes(version: int, first: int, count: int) -> tuple[Prefix, ...]:
    """``count`` prefixes for documentation and benchmarks (RFC 2544, RFC 3849), from the first."""
    form = "198.18.{}.0/24" if version == 4 else "2001:db8:f{:03x}::/48"  # noqa: PLR2004
    return tuple(ip_network(form.format(number)) for number in range(first, first + count))


def _program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_SBIN_PATH)
    if found is None:
        raise DemoError(f"{name} is not installed: apt-get install {package}")
    return found
