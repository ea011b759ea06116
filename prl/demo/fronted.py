"""A router of two nodes: a stock BGP daemon behind a front on each, and a stock peer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prl.bgp.prefixes import Prefix
from prl.bgpfront.client import ask
from prl.demo.peers import PEERS
from prl.demo.player import Deadline, DemoError
from prl.demo.routers import OUR_ASN, PEER_ASN, ROUTERS, Place, Router
from prl.endpoint import Address
from prl.errors import PrlError
from prl.kernel import procfs
from prl.lab import Lab
from prl.lab.topology import Interface

NODES = ("re0", "re1")
USERS = {"bird": "bird", "frr": "frr"}
"""Whom Debian has each daemon run as."""
PROGRAMS = {"bird", "bgpd"}
STEP_TIMEOUT_S = 60.0
POLL_S = 0.05
LOG_TAIL_BYTES = 2000
SECOND_AT, SECOND_ASN = 4, 65002
"""The second peer: so far behind the first one's address."""
FOLDER_MODE = 0o755
"""Daemons that are not root have their files in folders below."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a router of two nodes is made of.

    Attributes:
        daemon: of our nodes: a key of ROUTERS.
        peer: of the peer: a key of PEERS.
        version: of IP.
        ours: what our daemons announce.
        theirs: what the peer announces.
        later: what it announces besides when asked to.
        md5: the key that the session is signed with; empty: none.
        ttl_security: all hear their own network alone (RFC 5082).
        waits: the peer is passive: our fronts connect to it.
        forwards: what our daemons learn becomes routes of the kernel's.
        second: another peer, beside the first one: a key of PEERS; each is told what the other
            one announces. Empty: none.
        seconds: what it announces.
        passive: our daemons are: our fronts connect to them.
    """

    daemon: str
    peer: str
    version: int
    ours: tuple[Prefix, ...]
    theirs: tuple[Prefix, ...]
    later: tuple[Prefix, ...]
    md5: str = ""
    ttl_security: bool = False
    waits: bool = False
    forwards: bool = True
    second: str = ""
    seconds: tuple[Prefix, ...] = ()
    passive: bool = False


class Front:
    """prl-bgp on a node.

    Args:
        lab: the lab.
        node: its name.
        directory: for its configuration, its log, and the socket on which it is asked.
        place: its daemon's.
    """

    def __init__(self, lab: Lab, node: str, directory: Path, place: Place) -> None:
        self._lab, self._node = lab, node
        self.log = directory / f"{node}.log"
        self.config = directory / f"{node}.toml"
        self._socket = directory / f"{node}.sock"
        lines = [
            f'user = "{place.user}"',
            f'socket = "{self._socket}"',
        ]
        key = directory / f"{node}.md5"
        key.touch(mode=0o600)
        key.write_text(place.md5)
        for address, _ in place.neighbours:
            lines += ["[[peer]]", f'address = "{address}"', f'local = "{place.local}"']
            lines += [f'md5_key = "{key}"'] * bool(place.md5)
            lines += ["ttl_security_hops = 1"] * place.ttl_security
        self.config.write_text("".join(f"{line}\n" for line in lines))
        self.process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Start it, once the one before has ended."""
        self.wait()
        prld_config = self._lab.state.config(self._lab.topology.node(self._node))
        argv = [sys.executable, "-m", "prl.bgpfront.main", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = self._lab.exec(
                self._node, [*argv, "--prld-config", str(prld_config)], stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()

    def wait(self) -> None:
        """Until it has ended."""
        if self.process is not None:
            self.process.wait()

    def runs(self) -> bool:
        """Whether it answers."""
        with suppress(PrlError):
            ask(str(self._socket))
            return True
        return False

    def peers(self) -> list[dict[str, Any]]:
        """What it says of each peer. Raises NoDaemonError."""
        found: list[dict[str, Any]] = ask(str(self._socket))["peers"]
        return found


class RouterPair:
    """All of it.

    Args:
        lab: it runs in, with prld on both nodes.
        directory: for all files.
        setting: who takes part.
    """

    def __init__(self, lab: Lab, directory: Path, setting: Setting) -> None:
        self.lab, self.setting = lab, setting
        directory.chmod(FOLDER_MODE)
        topology = lab.topology
        peer = topology.peer.lan
        ours = topology.service.ipv4 if setting.version == 4 else topology.service.ipv6  # noqa: PLR2004
        theirs = peer.ipv4.ip if setting.version == 4 or peer.ipv6 is None else peer.ipv6.ip  # noqa: PLR2004
        place = Place(
            lab=lab,
            directory=directory / "peer",
            local=theirs,
            neighbour=ours,
            before=setting.theirs,
            after=setting.later,
            md5=setting.md5,
            ttl_security=setting.ttl_security,
            passive=setting.waits,
            shares=bool(setting.second),
        )
        beside = replace(
            place,
            directory=directory / "second",
            local=theirs + SECOND_AT,
            before=setting.seconds,
            after=(),
            asn=SECOND_ASN,
            router_id=f"{topology.peer.lan.ipv4.ip + SECOND_AT}",
        )
        node = replace(
            place,
            local=ours,
            neighbour=theirs,
            before=setting.ours,
            after=(),
            asn=OUR_ASN,
            neighbour_asn=PEER_ASN,
            router_id=str(topology.service.ipv4),
            user=USERS[setting.daemon],
            passive=setting.passive,
            forwards=setting.forwards,
            shares=False,
            second=(beside.local, SECOND_ASN) if setting.second else None,
        )
        places = {one: replace(node, directory=directory / one, node=one) for one in NODES}
        for one in (place, beside, *places.values()):
            one.directory.mkdir(mode=FOLDER_MODE, exist_ok=True)
        self.peer = PEERS[setting.peer](place)
        self.second = PEERS[setting.second](beside) if setting.second else None
        if self.second is not None:
            _add_address(lab, beside.local, peer)
        self.daemons: dict[str, Router] = {
            name: ROUTERS[setting.daemon](one) for name, one in places.items()
        }
        self.fronts = {name: Front(lab, name, directory, one) for name, one in places.items()}

    def start(self) -> None:
        """Start all, and wait until the other node could go on. Raises DemoError."""
        for node in NODES:
            self.start_node(node)
        for peer in filter(None, (self.peer, self.second)):
            peer.start()
        ours, theirs = len(self.setting.ours), len(self.setting.theirs)
        seconds = len(self.setting.seconds)
        self.wait("the peer has our routes", lambda: self.peer.learnt() == ours + seconds)
        if (second := self.second) is not None:
            self.wait("the second peer, too", lambda: second.learnt() == ours + theirs)
        for node in NODES:
            self.wait_forwarding(node, theirs)
        self.wait("re1 could go on", lambda: self.is_ready("re0"))

    def mend(self) -> list[str]:
        """Start what does not run on machines that are on: one that was off comes back with prld.

        Returns:
            What was started, in words.

        Raises:
            DemoError: a session does not go on.
        """
        status = self.lab.status()
        off = {one.name for one in status.members if not one.power} if status else set()
        started = []
        for node in NODES:
            if node not in off and not self.fronts[node].runs():
                self._start_front(node)
                started.append(f"{node}'s front")
        speakers = [("peer", self.peer), ("peer", self.second), *self.daemons.items()]
        for machine, speaker in speakers:
            if speaker is not None and machine not in off and not _runs(speaker):
                speaker.start()
                started.append(f"{machine}'s {self.setting.daemon if machine in NODES else 'BGP'}")
        self.wait("every session goes on", self.has_an_owner)
        return started

    def has_an_owner(self) -> bool:
        """Whether one of the nodes has the sessions, and they are up."""
        return any(self.owns(node) for node in NODES)

    def owns(self, node: str) -> bool:
        """Whether this node has the sessions, and they are up."""
        with suppress(PrlError, OSError):
            found = self.fronts[node].peers()
            return {(one["role"], one["state"]) for one in found} == {("owner", "relay")}
        return False

    def start_node(self, node: str) -> None:
        """Start the front, and the daemon behind it: it would find its peer by itself before."""
        self._start_front(node)
        self.daemons[node].start()

    def _start_front(self, node: str) -> None:
        self.fronts[node].start()
        self.wait(f"{node}'s front is there", self.fronts[node].runs)

    def wait_forwarding(self, node: str, theirs: int) -> None:
        """Wait until the kernel forwards by so many routes of the peer's. Raises DemoError."""
        daemon, count = self.daemons[node], theirs + len(self.setting.seconds)
        self.wait(
            f"{node}'s kernel has {count} routes of the peers'",
            lambda: len(daemon.forwarded()) == count,
        )

    def kill_daemon(self, node: str) -> None:
        """End it at once, and wait until its front has seen it. Raises DemoError."""
        os.kill(self.daemons[node].pid(), signal.SIGKILL)
        self.wait(
            "its front sees it",
            lambda: {one["state"] for one in self.fronts[node].peers()} <= {"absent", "down"},
        )

    def is_ready(self, owner: str) -> bool:
        """Whether this node has the sessions, and the other one could go on with them."""
        found = self.fronts[owner].peers()
        return all((one["role"], one["because"]) == ("owner", "") for one in found)

    def learnt_by_second(self) -> int:
        """How many routes the second peer was told of."""
        return 0 if self.second is None else self.second.learnt()

    def goes_on(self, node: str, theirs: int) -> bool:
        """Whether this node has the sessions, and its daemon so many routes of the first peer's."""
        return self.owns(node) and self.daemons[node].learnt() == theirs + len(self.setting.seconds)

    def wait(self, what: str, good: Callable[[], bool]) -> None:
        """Ask until it is so; what is asked tells no events.

        Raises:
            DemoError: it does not come to be; with the last words of all.
        """
        deadline = Deadline(STEP_TIMEOUT_S)
        while True:
            with suppress(OSError, ValueError, PrlError):
                if good():
                    return
            try:
                deadline.left_s(what)
            except DemoError as error:
                raise DemoError(f"{error}\n{self.words()}") from None
            time.sleep(POLL_S)

    def words(self) -> str:
        """The ends of all logs, and what the fronts say, for a failure's sake."""
        found = [_tail(self.peer.log)]
        for node, front in self.fronts.items():
            with suppress(PrlError):
                found.append(f"{node}: {front.peers()}")
            found += [_tail(front.log.read_text), _tail(self.daemons[node].log)]
        return "\n".join(found)

    def end(self) -> None:
        """Wait for the fronts, once the lab is down."""
        for front in self.fronts.values():
            front.wait()


def _add_address(lab: Lab, address: Address, lan: Interface) -> None:
    length = 24 if lan.ipv6 is None or address.version == 4 else lan.ipv6.network.prefixlen  # noqa: PLR2004
    argv = ["ip", "addr", "replace", f"{address}/{length}", "dev", lan.name]
    lab.run("peer", [*argv, *(["nodad"] * (address.version != 4))], check=True)  # noqa: PLR2004


def _runs(speaker: Router) -> bool:
    try:
        return procfs.program_of(speaker.pid()) in PROGRAMS
    except (OSError, ValueError):  # it has never run, or does no more
        return False


def _tail(log: Callable[[], str]) -> str:
    try:
        return log()[-LOG_TAIL_BYTES:]
    except OSError:
        return ""
