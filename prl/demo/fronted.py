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
from prl.demo.player import Deadline, DemoError
from prl.demo.routers import OUR_ASN, PEER_ASN, ROUTERS, Place, Router
from prl.errors import PrlError
from prl.lab import Lab

NODES = ("re0", "re1")
USERS = {"bird": "bird", "frr": "frr"}
"""Whom Debian has each daemon run as."""
STEP_TIMEOUT_S = 60.0
POLL_S = 0.05
LOG_TAIL_BYTES = 2000
FOLDER_MODE = 0o755
"""Daemons that are not root have their files in folders below."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a router of two nodes is made of.

    Attributes:
        daemon: of our nodes: a key of ROUTERS.
        peer: of the peer, likewise.
        version: of IP.
        ours: what our daemons announce.
        theirs: what the peer announces.
        later: what it announces besides when asked to.
        md5: the key that the session is signed with; empty: none.
        ttl_security: all hear their own network alone (RFC 5082).
        waits: the peer is passive: our fronts connect to it.
        forwards: what our daemons learn becomes routes of the kernel's.
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
        self._config = directory / f"{node}.toml"
        self._socket = directory / f"{node}.sock"
        lines = [
            f'user = "{place.user}"',
            f'socket = "{self._socket}"',
            "[[peer]]",
            f'address = "{place.neighbour}"',
            f'local = "{place.local}"',
        ]
        if place.md5:
            key = directory / f"{node}.md5"
            key.touch(mode=0o600)
            key.write_text(place.md5)
            lines.append(f'md5_key = "{key}"')
        if place.ttl_security:
            lines.append("ttl_security_hops = 1")
        self._config.write_text("".join(f"{line}\n" for line in lines))
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Start it, once the one before has ended."""
        self.wait()
        prld_config = self._lab.state.config(self._lab.topology.node(self._node))
        argv = [sys.executable, "-m", "prl.bgpfront.main", "--config", str(self._config)]
        with self.log.open("ab") as log:
            self._process = self._lab.exec(
                self._node, [*argv, "--prld-config", str(prld_config)], stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def wait(self) -> None:
        """Until it has ended."""
        if self._process is not None:
            self._process.wait()

    def status(self) -> dict[str, Any]:
        """What it says of its peer. Raises NoDaemonError."""
        found = ask(str(self._socket))
        peer: dict[str, Any] = found["peers"][0]
        return peer


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
            passive=False,
            forwards=setting.forwards,
        )
        places = {one: replace(node, directory=directory / one, node=one) for one in NODES}
        for one in (place, *places.values()):
            one.directory.mkdir(mode=FOLDER_MODE)
        self.peer = ROUTERS[setting.peer](place)
        self.daemons: dict[str, Router] = {
            name: ROUTERS[setting.daemon](one) for name, one in places.items()
        }
        self.fronts = {name: Front(lab, name, directory, one) for name, one in places.items()}

    def start(self) -> None:
        """Start all, and wait until the other node could go on. Raises DemoError."""
        for node in NODES:
            self.start_node(node)
        self.peer.start()
        ours, theirs = len(self.setting.ours), len(self.setting.theirs)
        self.wait("the peer has our routes", lambda: self.peer.learnt() == ours)
        for node in NODES:
            self.wait_forwarding(node, theirs)
        self.wait("re1 could go on", lambda: self.is_ready("re0"))

    def start_node(self, node: str) -> None:
        """Start the front, and the daemon behind it: it would find its peer by itself before."""
        self.fronts[node].start()
        self.wait(f"{node}'s front is there", lambda: bool(self.fronts[node].status()))
        self.daemons[node].start()

    def wait_forwarding(self, node: str, theirs: int) -> None:
        """Wait until the kernel forwards by so many routes of the peer's. Raises DemoError."""
        daemon = self.daemons[node]
        self.wait(
            f"{node}'s kernel has {theirs} routes of the peer's",
            lambda: len(daemon.forwarded()) == theirs,
        )

    def kill_daemon(self, node: str) -> None:
        """End it at once, and wait until its front has seen it. Raises DemoError."""
        os.kill(self.daemons[node].pid(), signal.SIGKILL)
        self.wait(
            "its front sees it", lambda: self.fronts[node].status()["state"] in {"absent", "down"}
        )

    def is_ready(self, owner: str) -> bool:
        """Whether this node has the session, and the other one could go on with it."""
        found = self.fronts[owner].status()
        return (found["role"], found["because"]) == ("owner", "")

    def goes_on(self, node: str, theirs: int) -> bool:
        """Whether this node has the session, and its daemon so many routes of the peer's."""
        found = self.fronts[node].status()
        is_owner = (found["role"], found["state"]) == ("owner", "relay")
        return is_owner and self.daemons[node].learnt() == theirs

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
                found.append(f"{node}: {front.status()}")
            found += [_tail(front.log.read_text), _tail(self.daemons[node].log)]
        return "\n".join(found)

    def end(self) -> None:
        """Wait for the fronts, once the lab is down."""
        for front in self.fronts.values():
            front.wait()


def _tail(log: Callable[[], str]) -> str:
    try:
        return log()[-LOG_TAIL_BYTES:]
    except OSError:
        return ""
