"""Two nodes with a stock BGP daemon on each, behind fronts: the peer of both notices nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Protocol

import pytest

from prl.demo.player import DemoError
from prl.demo.routers import HOLD_TIME_S, OUR_ASN, PEER_ASN, ROUTERS, Place, View
from prl.lab import Lab
from tests.system.support import PATIENCE_S, POLL_S, pair

pytestmark = [pytest.mark.system]
NODES = ("re0", "re1")
OURS, THEIRS, LATER = 200, 100, 50


def prefixes(first: int, count: int) -> list[str]:
    return [f"10.{n >> 8}.{n & 255}.0/24" for n in range(first, first + count)]


class Daemon(Protocol):
    """A stock BGP daemon of a node, which knows nothing of prl."""

    user: str
    directory: Path

    def __init__(self, lab: Lab, node: str, directory: Path) -> None: ...

    def start(self) -> None: ...

    def learnt(self) -> int:
        """How many routes of the peer it has."""

    def pid(self) -> int: ...


class Bird:
    user = "bird"

    def __init__(self, lab: Lab, node: str, directory: Path) -> None:
        self.lab, self.node, self.directory = lab, node, directory
        directory.mkdir()
        shutil.chown(directory, self.user, self.user)

    def start(self) -> None:
        config = self.directory / "bird.conf"
        config.write_text(self.configuration())
        argv = ["bird", "-u", self.user, "-g", self.user, "-c", str(config)]
        argv += ["-s", str(self.directory / "ctl"), "-P", str(self.directory / "pid")]
        self.lab.run(self.node, argv, check=True, timeout=PATIENCE_S)

    def configuration(self) -> str:
        service = self.lab.topology.service.ipv4
        peer = self.lab.topology.peer.lan.ipv4.ip
        routes = "".join(f"  route {one} blackhole;\n" for one in prefixes(0, OURS))
        return f"""\
log "{self.directory}/log" all;
router id {service};
protocol device {{ }}
protocol static own {{ ipv4;\n{routes}}}
protocol bgp upstream {{
  local {service} as {OUR_ASN};
  neighbor {peer} as {PEER_ASN};
  direct;
  hold time {HOLD_TIME_S};
  connect delay time 1; connect retry time 2; error wait time 1, 2;
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
}}
"""

    def learnt(self) -> int:
        argv = ["birdc", "-s", str(self.directory / "ctl"), "show", "route", "count"]
        done = self.lab.run(
            self.node,
            [*argv, "protocol", "upstream"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        return int(next((word for word in done.stdout.split() if word.isdigit()), "0"))

    def pid(self) -> int:
        return int((self.directory / "pid").read_text())


class Frr:
    """bgpd alone: without zebra it touches no routes of the kernel's."""

    user = "frr"

    def __init__(self, lab: Lab, node: str, directory: Path) -> None:
        self.lab, self.node, self.directory = lab, node, directory
        directory.mkdir()
        shutil.chown(directory, self.user, self.user)

    def start(self) -> None:
        config = self.directory / "bgpd.conf"
        config.write_text(self.configuration())
        shutil.chown(config, self.user, self.user)
        argv = ["/usr/lib/frr/bgpd", "-d", "-Z", "-n", "-u", self.user, "-g", self.user]
        argv += ["-f", str(config), "-i", str(self.directory / "pid"), "-P", "0"]
        argv += ["--vty_socket", str(self.directory), "--log", f"file:{self.directory}/log"]
        self.lab.run(self.node, argv, check=True, timeout=PATIENCE_S)

    def configuration(self) -> str:
        service = self.lab.topology.service.ipv4
        peer = self.lab.topology.peer.lan.ipv4.ip
        networks = "".join(f"  network {one}\n" for one in prefixes(0, OURS))
        return f"""\
hostname {self.node}
router bgp {OUR_ASN}
 bgp router-id {service}
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor {peer} remote-as {PEER_ASN}
 neighbor {peer} disable-connected-check
 neighbor {peer} update-source {service}
 neighbor {peer} timers {HOLD_TIME_S // 3} {HOLD_TIME_S}
 neighbor {peer} timers connect 1
 neighbor {peer} advertisement-interval 0
 address-family ipv4 unicast
{networks} exit-address-family
"""

    def learnt(self) -> int:
        argv = ["vtysh", "--vty_socket", str(self.directory), "-d", "bgpd"]
        done = self.lab.run(
            self.node,
            [*argv, "-c", "show bgp ipv4 unicast summary json"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        peers = json.loads(done.stdout or "{}").get("peers", {})
        return int(sum(peer.get("pfxRcd", 0) for peer in peers.values()))

    def pid(self) -> int:
        return int((self.directory / "pid").read_text())


DAEMONS: dict[str, type[Daemon]] = {"bird": Bird, "frr": Frr}


class Front:
    """prl-bgp on a node."""

    def __init__(self, lab: Lab, node: str, directory: Path, user: str) -> None:
        self.lab, self.node = lab, node
        service, peer = lab.topology.service.ipv4, lab.topology.peer.lan.ipv4.ip
        self.control = directory / f"{node}.sock"
        self.log = directory / f"{node}.log"
        config = directory / f"{node}.toml"
        config.write_text(
            f'user = "{user}"\nsocket = "{self.control}"\n'
            f'[[peer]]\naddress = "{peer}"\nlocal = "{service}"\n'
        )
        member = lab.topology.node(node)
        self.argv = [sys.executable, "-m", "prl.bgpfront.main", "--config", str(config)]
        self.argv += ["--prld-config", str(lab.state.config(member))]
        self.process: subprocess.Popen[Any] | None = None
        self.start()

    def start(self) -> None:
        self.wait()
        with self.log.open("ab") as log:
            self.process = self.lab.exec(self.node, self.argv, stdout=log, stderr=log)

    def wait(self) -> None:
        if self.process is not None:
            self.process.wait()

    def status(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.control))
            raw = b""
            while data := sock.recv(1 << 16):
                raw += data
        found: dict[str, Any] = json.loads(raw)
        return found["peers"][0] | {"channel": found["channel"]}


class Pair:
    """Daemon and front on each node, and a stock router."""

    def __init__(self, lab: Lab, directory: Path, kind: str, peer: str) -> None:
        self.lab = lab
        self.daemons = {node: DAEMONS[kind](lab, node, directory / node) for node in NODES}
        user = self.daemons["re0"].user
        self.fronts = {node: Front(lab, node, directory, user) for node in NODES}
        self.router = ROUTERS[peer](place(lab, directory / "peer"))

    def start(self) -> None:
        for node in NODES:
            self.start_daemon(node)
        self.router.start()
        self.wait("the peer has our routes", lambda: len(self.router.view().routes) == OURS)
        self.wait("the standby is ready", lambda: self.is_ready("re0"))

    def start_daemon(self, node: str) -> None:
        """Behind its front: before that it would find its peer by itself."""
        self.wait("the front is there", lambda: bool(self.fronts[node].status()))
        self.daemons[node].start()

    def wait(self, what: str, good: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError, KeyError, ValueError, DemoError):
                if good():
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}\n{self.words()}")
            time.sleep(POLL_S)

    def words(self) -> str:
        found = []
        with suppress(OSError):
            found.append(self.router.log()[-1000:])
        for node, front in self.fronts.items():
            with suppress(OSError, ValueError):
                found.append(f"{node}: {front.status()}")
            found.append(front.log.read_text()[-2000:])
            with suppress(OSError):
                found.append((self.daemons[node].directory / "log").read_text()[-1000:])
        return "\n".join([*found, ""])

    def is_ready(self, owner: str) -> bool:
        found = self.fronts[owner].status()
        return found["role"] == "owner" and found["standby_not_ready"] == ""

    def goes_on(self, node: str, theirs: int) -> bool:
        found = self.fronts[node].status()
        is_owner = (found["role"], found["state"]) == ("owner", "relay")
        return is_owner and self.daemons[node].learnt() == theirs

    def end(self) -> None:
        for front in self.fronts.values():
            front.wait()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Daemons that are not root have files there, which pytest's folder is not for."""
    made = Path(tempfile.mkdtemp(prefix="bgpf-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def two(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    with pair("bgpf") as lab:
        one = Pair(lab, scratch, *request.param)
        one.start()
        yield one
    one.end()


def place(lab: Lab, directory: Path) -> Place:
    directory.mkdir()
    return Place(
        lab=lab,
        directory=directory,
        local=lab.topology.peer.lan.ipv4.ip,
        neighbour=lab.topology.service.ipv4,
        before=tuple(ip_network(f"198.18.{n}.0/24") for n in range(THEIRS)),
        after=tuple(ip_network(f"198.19.{n}.0/24") for n in range(LATER)),
    )


def expect_undisturbed(two: Pair, before: View) -> None:
    """It is the same session, and no route of ours was withdrawn or learnt anew.

    The peer's own count of withdrawals would not do: daemons withdraw what they learn from it.
    """
    after = two.router.view()
    is_same = after.state == "Established" and after.flaps == before.flaps
    assert is_same, f"{after.state} since {after.since}, before {before.since}\n{two.words()}"
    assert after.is_as_old(before)
    assert after.has_same_routes(before)


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(("bird", "frr"), marks=pytest.mark.needs("bird", "frr")),
        pytest.param(("frr", "bird"), marks=pytest.mark.needs("bird", "frr")),
    ],
    indirect=True,
)
def test_each_node_loses_its_power_and_the_peers_session_stays(two: Pair) -> None:
    """Twice, the node that was healed being the one that goes on; nothing is withdrawn."""
    before = two.router.view()
    two.lab.fail("re0", "power")
    two.router.announce_more()
    two.wait("re1 goes on", lambda: two.goes_on("re1", THEIRS + LATER))
    two.lab.heal("re0")
    two.fronts["re0"].start()
    two.start_daemon("re0")
    two.wait("re0 is ready", lambda: two.is_ready("re1"))
    two.lab.fail("re1", "power")
    two.wait("re0 goes on", lambda: two.goes_on("re0", THEIRS + LATER))
    time.sleep(HOLD_TIME_S * 1.2)  # what the peer waits for before it gives a session up
    expect_undisturbed(two, before)


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(("bird", "bird"), marks=pytest.mark.needs("bird")),
        pytest.param(("frr", "bird"), marks=pytest.mark.needs("bird", "frr")),
    ],
    indirect=True,
)
def test_the_owners_daemon_dies_and_comes_back(two: Pair) -> None:
    before = two.router.view()
    os.kill(two.daemons["re0"].pid(), signal.SIGKILL)
    two.wait("it is seen", lambda: two.fronts["re0"].status()["state"] == "absent")
    two.router.announce_more()
    two.daemons["re0"].start()
    two.wait("it is back", lambda: two.goes_on("re0", THEIRS + LATER))
    two.wait("the standby is ready", lambda: two.is_ready("re0"))
    expect_undisturbed(two, before)
