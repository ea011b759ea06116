"""Stock BGP speakers, of a peer or of a node of ours, and what their own tools say."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Protocol

from prl.bgp.prefixes import Prefix
from prl.demo.player import DemoError
from prl.kernel import procfs
from prl.lab import Lab

PEER_ASN = 65000
OUR_ASN = 65001
HOLD_TIME_S = 9
TOOL_TIMEOUT_S = 10.0
RETRY_S = 0.05
_KERNEL_SCAN_S = 10
"""BIRD looks by itself so often whether the kernel has its routes: of very many at once it misses
messages, and would mend that a minute later."""
_ZEBRA_BUFFER_BYTES = "90000000"
"""For netlink's messages, as Debian starts it: zebra ends when it misses one."""
SINCE_JITTER_S = 1.0  # bgpd counts whole seconds
TIME_JITTER_S = 0.1
# A line of `show protocols`: name, kind, table and state; since is a date and a time.
_BIRD_PROTOCOL = re.compile(
    r"^prl\s+BGP\s+\S+\s+\S+\s+(?P<since>\S+ \S+)\s*(?P<info>.*?)\s*$", re.MULTILINE
)
_PATHS = {
    "frr": "/usr/lib/frr:/usr/bin",
    "bird2": "/usr/sbin:/sbin",
    "openbgpd": "/usr/sbin",
    "gobgpd": "/usr/bin",
}
"""Where Debian's packages have their programs: OpenBGPD's main one is called bgpd, too."""


@dataclass(frozen=True, slots=True)
class View:
    """The session as a speaker sees it.

    Attributes:
        state: the BGP state.
        since: since when it is in its state.
        flaps: how often it counts that the session went down.
        routes: prefixes of the other end that it has, each with a number that changes when it is
            learnt anew: a time in seconds, or the version of its table.
        withdrawn: how many withdrawals of the other end it counts.
        announced: the prefixes that it says it announces.
        updates: how many UPDATEs (FRR), or routes in them (BIRD), have come.
    """

    state: str
    since: datetime | None
    flaps: int
    routes: dict[str, float]
    withdrawn: int
    announced: tuple[str, ...]
    updates: int = 0

    def has_same_routes(self, other: "View") -> bool:
        """Whether none of these routes was withdrawn, learnt anew or added in between."""
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
    """Where a speaker runs, whom it talks to, and what it announces before and after the failure.

    Attributes:
        lab: the lab.
        directory: for its files, and its own.
        local: its address.
        neighbour: the other end's.
        before: what it announces.
        after: what it announces besides, when asked to.
        md5: the key that the session is signed with; empty: none.
        routed: there is a router in between.
        node: of the lab.
        asn: its AS.
        neighbour_asn: the other end's.
        router_id: its own.
        user: whom it runs as.
        ttl_security: it hears neighbours on its own network alone (RFC 5082).
        passive: it does not connect, and waits for the other end.
        forwards: what it learns becomes routes of the kernel's.
        second: address and AS of another neighbour; each is then told what the other one says.
        shares: another speaker is in the same place, at an address of its own.
    """

    lab: Lab
    directory: Path
    local: IPv4Address | IPv6Address
    neighbour: IPv4Address | IPv6Address
    before: tuple[Prefix, ...]
    after: tuple[Prefix, ...]
    md5: str = field(default="", repr=False)
    routed: bool = False
    node: str = "peer"
    asn: int = PEER_ASN
    neighbour_asn: int = OUR_ASN
    router_id: str = "192.0.2.1"
    user: str = "root"
    ttl_security: bool = False
    passive: bool = False
    forwards: bool = False
    second: tuple[IPv4Address | IPv6Address, int] | None = None
    shares: bool = False

    @property
    def neighbours(self) -> list[tuple[IPv4Address | IPv6Address, int]]:
        """Addresses and ASes."""
        second = [] if self.second is None else [self.second]
        return [(self.neighbour, self.neighbour_asn), *second]

    @property
    def version(self) -> int:
        """The version of IP."""
        return self.local.version

    def give(self, *files: Path) -> None:
        """Let the user have its directory, and these files in it."""
        for path in (self.directory, *files):
            shutil.chown(path, self.user, self.user)

    def kernel_routes(self, protocol: str) -> set[str]:
        """The prefixes that this routing protocol has given the kernel."""
        shown = self.run(["ip", "-j", f"-{self.version}", "route", "show", "proto", protocol])
        return {str(ip_network(route["dst"])) for route in json.loads(shown)}

    def run(self, argv: list[str]) -> str:
        """Run one of its programs.

        Raises:
            DemoError: it fails.
        """
        try:
            done = self.lab.run(
                self.node, argv, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise DemoError(f"{argv[0]} does not answer within {TOOL_TIMEOUT_S:.0f} s") from None
        if done.returncode:
            raise DemoError(f"{' '.join(argv)} failed: {done.stderr or done.stdout}")
        return str(done.stdout)

    def start(self, argv: list[str], log: Path) -> None:
        """Start a program that stays in the foreground; it ends with the lab.

        Raises:
            DemoError: it cannot be started.
        """
        self.run(["sh", "-c", 'exec "$@" >"$0" 2>&1 </dev/null &', str(log), *argv])

    def retry(self, act: Callable[[], object]) -> None:
        """Act, again for as long as a program that has just been started does not answer.

        Raises:
            DemoError: it never does.
        """
        until_s = time.monotonic() + TOOL_TIMEOUT_S
        while True:
            try:
                act()
            except DemoError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(RETRY_S)
            else:
                return


class Router(Protocol):
    """A stock BGP speaker."""

    def start(self) -> None:
        """Start it; it connects by itself."""

    def pid(self) -> int:
        """Its process. Raises OSError: it has never run."""

    def learnt(self) -> int:
        """How many routes of the other end it has."""

    def forwarded(self) -> set[str]:
        """What of it the kernel forwards by."""

    def announce_more(self) -> None:
        """Let it announce the second set of routes."""

    def view(self) -> View:
        """What its own tool says."""

    def log(self) -> str:
        """What it has written, for a failure's sake."""

    def console(self) -> list[str]:
        """How its own tool is run, to which a command is added."""


class Bird:
    """BIRD 2, controlled by birdc."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._config = place.directory / "bird.conf"
        self._control = place.directory / "bird.ctl"
        self._log = place.directory / "bird.log"
        self._pid = place.directory / "bird.pid"

    def start(self) -> None:
        """See ``Router``."""
        self._config.write_text(self._configuration())
        self._log.touch()
        self._place.give(self._config, self._log)
        argv = [program("bird", "bird2"), "-u", self._place.user, "-g", self._place.user]
        argv += ["-c", str(self._config), "-s", str(self._control), "-P", str(self._pid)]
        self._place.run(argv)

    def pid(self) -> int:
        """See ``Router``."""
        return int(self._pid.read_text())

    def learnt(self) -> int:
        """See ``Router``."""
        table = f"master{self._place.version}"
        shown = self._birdc("show", "route", "count", "table", table, "where", "source = RTS_BGP")
        return int(next((word for word in shown.split() if word.isdigit()), "0"))

    def forwarded(self) -> set[str]:
        """See ``Router``."""
        return self._place.kernel_routes("bird")

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
        return self._place.run([*self.console(), *command])

    def console(self) -> list[str]:
        """See ``Router``."""
        return [program("birdc", "bird2"), "-s", str(self._control)]

    def _configuration(self) -> str:
        place = self._place
        channel = f"ipv{place.version}"

        signed = f'\n  password "{place.md5}";' if place.md5 else ""
        forwards = f"""\
protocol kernel {{
  scan time {_KERNEL_SCAN_S};
  {channel} {{ export where source = RTS_BGP; }};
}}"""

        def static(name: str, routes: tuple[Prefix, ...], disabled: str) -> str:
            lines = "".join(f"  route {prefix} blackhole;\n" for prefix in routes)
            return f"protocol static {name} {{\n  disabled {disabled};\n  {channel};\n{lines}}}\n"

        exports = "source ~ [RTS_STATIC, RTS_BGP]" if place.second else "source = RTS_STATIC"
        names = ("prl", "second")

        def bgp(name: str, neighbour: IPv4Address | IPv6Address, asn: int) -> str:
            return f"""\
protocol bgp {name} {{
  local {place.local} as {place.asn};
  neighbor {neighbour} as {asn};
  {"multihop;" if place.routed else "direct;"}{signed}
  strict bind {"on" if place.shares else "off"};
  ttl security {"on" if place.ttl_security else "off"};
  passive {"on" if place.passive else "off"};
  hold time {HOLD_TIME_S};
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 2;
  {channel} {{ import all; export where {exports}; next hop self; }};
}}
"""

        sessions = "".join(
            bgp(name, *one) for name, one in zip(names, place.neighbours, strict=False)
        )
        return f"""\
log "{self._log}" all;
router id {place.router_id};
timeformat protocol iso long us;
timeformat route iso long us;
protocol device {{ }}
{forwards if place.forwards else ""}
{static("early_routes", place.before, "no")}
{static("late_routes", place.after, "yes")}
{sessions}"""


def parse_bird(shown: str, routes: str, exported: str) -> View:
    """Read ``show protocols all``, ``show route protocol`` and ``show route export`` of BIRD 2."""
    line = _BIRD_PROTOCOL.search(shown)
    if line is None:
        raise DemoError(f"birdc shows no protocol prl: {shown!r}")
    state = re.search(r"BGP state:\s+(\S+)", shown)
    withdrawn = re.search(r"Import withdraws:\s+(\d+)", shown)
    updates = re.search(r"Import updates:\s+(\d+)", shown)
    times = re.findall(r"^(\S+/\d+)\s.*\[prl (\S+ [^\s\]]+)", routes, re.MULTILINE)
    return View(
        state=state[1] if state else line["info"],
        since=datetime.fromisoformat(line["since"]),
        flaps=int("Last error:" in shown),
        routes={prefix: datetime.fromisoformat(at).timestamp() for prefix, at in times},
        withdrawn=int(withdrawn[1]) if withdrawn else 0,
        announced=tuple(re.findall(r"^(\S+/\d+)\s", exported, re.MULTILINE)),
        updates=int(updates[1]) if updates else 0,
    )


class Frr:
    """FRR's bgpd, alone unless it forwards: without zebra it touches no routes of the kernel's."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._log = place.directory / "bgpd.log"
        self._pid = place.directory / "bgpd.pid"
        self._family = f"ipv{place.version}"

    def start(self) -> None:
        """See ``Router``."""
        directory = self._place.directory
        config = directory / "bgpd.conf"
        config.write_text(self._configuration())
        self._log.touch()
        self._place.give(config, self._log)
        user = self._place.user
        argv = [program("bgpd", "frr"), "-d", "-u", user, "-g", user]
        argv += ["-S"] * (user == "root")
        argv += self._zebra() if self._place.forwards else ["-Z", "-n"]
        argv += ["-l", str(self._place.local)] * self._place.shares
        argv += ["-f", str(config), "-i", str(self._pid), "-P", "0"]
        argv += ["--vty_socket", str(directory), "--log", f"file:{self._log}"]
        self._place.run(argv)

    def _zebra(self) -> list[str]:
        """Start zebra, which outlives bgpd, unless it runs; returns how bgpd finds it."""
        directory, user = self._place.directory, self._place.user
        pid, socket = directory / "zebra.pid", directory / "zserv.api"
        with contextlib.suppress(OSError):
            if procfs.program_of(int(pid.read_text())) == "zebra":
                return ["-z", str(socket)]
        argv = [program("zebra", "frr"), "-d", "-u", user, "-g", user, "-P", "0"]
        argv += ["-f", "/dev/null", "-i", str(pid), "-z", str(socket), "-s", _ZEBRA_BUFFER_BYTES]
        self._place.run([*argv, "--vty_socket", str(directory)])
        return ["-z", str(socket)]

    def pid(self) -> int:
        """See ``Router``."""
        return int(self._pid.read_text())

    def learnt(self) -> int:
        """See ``Router``."""
        shown = json.loads(self._vtysh(f"show bgp {self._family} unicast summary json"))
        return int(sum(peer.get("pfxRcd", 0) for peer in shown.get("peers", {}).values()))

    def forwarded(self) -> set[str]:
        """See ``Router``."""
        return self._place.kernel_routes("bgp")

    def announce_more(self) -> None:
        """See ``Router``."""
        lines = [f"network {prefix}" for prefix in self._place.after]
        unicast = f"address-family {self._family} unicast"
        self._vtysh("configure terminal", f"router bgp {self._place.asn}", unicast, *lines)

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
        argv = self.console()
        for command in commands:
            argv += ["-c", command]
        return self._place.run(argv)

    def console(self) -> list[str]:
        """See ``Router``."""
        directory = str(self._place.directory)
        return [program("vtysh", "frr"), "--vty_socket", directory, "-d", "bgpd"]

    def _configuration(self) -> str:
        place = self._place
        options = [f"password {place.md5}"] if place.md5 else []
        options.append("ebgp-multihop" if place.routed else "disable-connected-check")
        options += ["ttl-security hops 1"] * place.ttl_security + ["passive"] * place.passive
        options += [f"update-source {place.local}", "advertisement-interval 0"]
        options += [f"timers {HOLD_TIME_S // 3} {HOLD_TIME_S}", "timers connect 1"]
        filtering = ["filter-list own out"] * (place.second is None)
        lines = [
            f" neighbor {address} {option}\n"
            for address, asn in place.neighbours
            for option in (f"remote-as {asn}", *options)
        ]
        lines += [
            f" address-family {self._family} unicast\n",
            *(
                f"  neighbor {address} {option}\n"
                for address, _ in place.neighbours
                for option in ("activate", "next-hop-self", *filtering)
            ),
            *(f"  network {prefix}\n" for prefix in place.before),
        ]
        return f"""\
hostname {place.node}
router bgp {place.asn}
 bgp router-id {place.router_id}
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
{"".join(lines)} exit-address-family
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
        updates=int(about.get("messageStats", {}).get("updatesRecv", 0)),
    )


ROUTERS: dict[str, Callable[[Place], Router]] = {"bird": Bird, "frr": Frr}


def make_routes(version: int, first: int, count: int) -> tuple[Prefix, ...]:
    """``count`` prefixes for documentation and benchmarks (RFC 2544, RFC 3849), from the first."""
    form = "198.18.{}.0/24" if version == 4 else "2001:db8:f{:03x}::/48"  # noqa: PLR2004
    return tuple(ip_network(form.format(number)) for number in range(first, first + count))


_HOST_ROUTES_MAX = 1 << 16


def many_routes(version: int, whose: int, count: int) -> tuple[Prefix, ...]:
    """``count`` prefixes, other ones for each end: 0 is the peer, 1 are we.

    In IPv4, up to 65,536 are host routes (RFC 2544), so that there are enough; up to 1,048,576 are
    parts of 10.0.0.0/8 (RFC 1918) and of the network behind it.
    """
    if version == 4 and count > _HOST_ROUTES_MAX:  # noqa: PLR2004
        base, bits, step = ip_address("10.0.0.0") + (whose << 24), 28, 16
    elif version == 4:  # noqa: PLR2004
        base, bits, step = ip_address("198.18.0.0") + (whose << 16), 32, 1
    else:
        base, bits, step = ip_address("2001:db8:f000::") + (whose << 80), 64, 1 << 64
    return tuple(ip_network((int(base) + number * step, bits)) for number in range(count))


def program(name: str, package: str) -> str:
    """The path of a program of a package. Raises DemoError: it is not installed."""
    found = shutil.which(name, path=_PATHS[package]) or shutil.which(name)
    if found is None:
        raise DemoError(f"{name} is not installed: apt-get install {package}")
    return found
