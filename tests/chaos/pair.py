"""The pair of an episode: its programs on both nodes, how it is broken and mended."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from prl.client import Node
from prl.daemon.host.cable import STARVED
from prl.errors import PrlError
from prl.lab import Lab, processes
from prl.lab.cables import Cable, LanCable, LinkCable
from prl.lab.errors import LabError
from prl.lab.netns import Namespace
from tests.chaos.clients import Router
from tests.chaos.plan import Fault, Kind

ROOT = Path(__file__).parents[2]
PRLCTL = str(Path(sys.executable).with_name("prlctl"))
LIBRARY_PORT, SERVE_PORT, UDP_PORT = 7000, 7001, 7002
POLL_S = 0.02
MOVE_TIMEOUT_S = 30.0
HOG = "while True: pass"
HOGS_PER_CPU = 2
NODES = ("re0", "re1")
ASK_S = 5.0
BEGINS_S = 3.0
"""A program has begun after that."""


def other(node: str) -> str:
    """The other one."""
    return NODES[1 - NODES.index(node)]


class Pair:
    """A lab that is up, with a program for each kind of service on both nodes.

    What the programs say is in files of ``folder``. ``tell`` is told what is done, as it is done.
    """

    def __init__(
        self, lab: Lab, folder: Path, address: str, peer: str, tell: Callable[[str], None]
    ) -> None:
        self.lab, self.tell = lab, tell
        host = f"[{address}]" if ":" in address else address
        self._folder = folder
        self._commands = {
            "library": [
                *(sys.executable, str(ROOT / "tests/system/healing_app.py")),
                *("--listen", f"{host}:{LIBRARY_PORT}"),
            ],
            "serve": [PRLCTL, "serve", "--listen", f"{host}:{SERVE_PORT}", "--", "cat"],
            "udp": [
                *(sys.executable, str(Path(__file__).with_name("udp_app.py"))),
                *("--listen", f"{host}:{UDP_PORT}"),
            ],
            "bgp": Router.speaker(address, peer),
        }
        self._programs: dict[tuple[str, str], subprocess.Popen[Any]] = {}
        self._hogs: list[subprocess.Popen[Any]] = []
        self._moves: list[subprocess.Popen[Any]] = []
        self._killed: set[str] = set()
        """The nodes whose programs a fault has ended."""
        self._started_s: dict[str, float] = {}
        self._stopped_s: dict[str, float] = {}
        """By node: when programs were started last, and when a fault ended its prld last."""
        self.died: list[str] = []
        """Programs that ended although no fault ended them."""
        self._locks = {node: threading.Lock() for node in NODES}
        """A machine is not broken while it boots."""
        for node in NODES:
            self.start(node)

    def start(self, node: str) -> None:
        """Start what does not run on a node."""
        for name, command in self._commands.items():
            running = self._programs.get((node, name))
            if running is not None:
                if running.poll() is None:
                    continue
                running.__exit__(None, None, None)
                if node not in self._killed and not self._began_without_prld(node):
                    self.died.append(f"{name} of {node} ended with {running.returncode}")
            with (self._folder / f"{name}.{node}.log").open("ab") as log:
                self._programs[node, name] = self.lab.exec(
                    node, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        self._killed.discard(node)
        self._started_s[node] = time.monotonic()

    def _began_without_prld(self, node: str) -> bool:
        """Whether its programs were just beginning when there was no prld: some need one then."""
        stopped_s = self._stopped_s.get(node, float("-inf"))
        return self._started_s[node] < stopped_s + BEGINS_S < self._started_s[node] + 2 * BEGINS_S

    def ask(self, node: str, operation: str) -> dict[str, Any]:
        """One question of a node's prld. Raises PrlError."""
        daemon = Node(self.lab.state.socket(self.lab.topology.node(node)), reconnect=False)
        with daemon:
            return daemon.request({"op": operation}, timeout=ASK_S)

    def mirrored(self) -> int:
        """Packets whose payload came by the cable, by what both prlds have counted."""
        return sum(self.ask(node, "stats")["datapath"]["mirror_fed"] for node in NODES)

    def is_cable_given_up(self) -> bool:
        """Whether a node mirrors nothing before the link has been lost: too much was refused."""
        return any(self.ask(node, "status")["mirror"]["because"] == STARVED for node in NODES)

    def owner(self) -> str:
        """The node that has the service; "" while none says so, or both."""
        owners = []
        for node in NODES:
            with suppress(PrlError):
                if self.ask(node, "status")["services"][0]["state"] == "owner":
                    owners.append(node)
        return owners[0] if len(owners) == 1 else ""

    def why_unsettled(self, sessions: int, gone: frozenset[int]) -> str:
        """Why a failure now could cost a session; "" when it could not.

        ``gone``: ports of peers that have lost their session. Who has their other end may not know:
        the other node may have told them.
        """
        try:
            found = {node: self.ask(node, "status") for node in NODES}
            flows = {node: self.ask(node, "flow_list")["flows"] for node in NODES}
        except PrlError as error:
            return str(error)
        active = {
            node: sum(
                flow["state"] == "active" and _port(flow["remote"]) not in gone
                for flow in flows[node]
            )
            for node in NODES
        }
        states = sorted(one["services"][0]["state"] for one in found.values())
        if states != ["owner", "standby"]:
            return f"the nodes are {states}"
        unsafe = [node for node, one in found.items() if not one["switchover_safe"]]
        if unsafe:
            return f"not safe: {unsafe}"
        if set(active.values()) != {sessions}:
            return f"{active} are protected, of {sessions}"
        return ""

    def keep_state(self) -> None:
        """What both prlds know now, for whoever looks into it later."""
        for node in NODES:
            found: dict[str, Any] = {}
            for operation in ("status", "flow_list", "stats"):
                try:
                    found[operation] = self.ask(node, operation)
                except PrlError as error:
                    found[operation] = str(error)
            (self._folder / f"state.{node}.json").write_text(json.dumps(found, indent=1))

    # -- faults

    def apply(self, fault: Fault, node: str) -> None:
        """Let a node fail; returns when the fault is there, or is over if it ends by itself."""
        self.tell(f"{node}: {fault.words()}")
        kind = fault.kind
        self._expect(kind, node)
        try:
            if kind in {Kind.PAUSE, Kind.PAUSE_PRLD}:
                self._pause(node, fault.for_s, prld_only=kind is Kind.PAUSE_PRLD)
            elif kind in {Kind.LINK_FLAPS, Kind.LAN_FLAPS}:
                self._flap(node, kind, fault)
            elif kind is Kind.STOP_PRLD:
                self._stop_prld(node)
            elif kind is Kind.MOVE:
                self.move()
            elif kind is Kind.HOGS:
                hog = [sys.executable, "-c", HOG]
                count = HOGS_PER_CPU * (os.cpu_count() or 1)
                self._hogs += [self.lab.exec(node, hog) for _ in range(count)]
            elif kind is Kind.FLUSH:
                lan = self.lab.topology.node(node).lan.name
                for address in self._service_addresses():
                    self.lab.run(node, ["ip", "address", "del", address, "dev", lan],
                                 capture_output=True)  # fmt: skip
            else:
                with self._locks[node]:
                    self.lab.fail(node, kind)
        except (LabError, NetlinkError) as error:  # what is dead cannot fail in this way any more
            self.tell(f"{node}: {kind} could not be done: {error}")

    def _expect(self, kind: Kind, node: str) -> None:
        """What becomes of a node's programs by a fault."""
        if kind in {Kind.POWER, Kind.KILL_APP}:
            self._killed.add(node)
        if kind in {Kind.KILL_PRLD, Kind.STOP_PRLD}:
            self._stopped_s[node] = time.monotonic()

    def power_off(self, node: str) -> None:
        """What some moments begin with."""
        self.tell(f"{node}: power")
        with self._locks[node]:
            self._expect(Kind.POWER, node)
            self.lab.fail(node, Kind.POWER)

    def move(self) -> None:
        """Ask for a planned move, and wait for nothing."""
        owner = self.owner()
        if not owner:
            self.tell("no move: nobody owns the service")
            return
        command = [PRLCTL, "--lab", self.lab.name, "--node", owner, "switchover"]
        self.tell(f"{owner}: switchover")
        self._moves.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def mend(self) -> None:
        """Undo every fault: both nodes work, with all programs."""
        self.tell("mend")
        for hog in self._hogs:
            hog.kill()
            hog.__exit__(None, None, None)
        self._hogs.clear()
        for node in NODES:
            self.mend_node(node)
        for move in self._moves:
            with suppress(subprocess.TimeoutExpired):
                move.wait(MOVE_TIMEOUT_S)
            move.kill()
            move.wait()
        self._moves.clear()

    def mend_node(self, node: str) -> None:
        """One node works again, with all its programs."""
        with self._locks[node]:
            self.lab.heal(node)
            self.start(node)
        self.tell(f"{node} is mended")

    def close(self) -> None:
        """End every program."""
        for process in [*self._programs.values(), *self._hogs, *self._moves]:
            process.kill()
            process.__exit__(None, None, None)

    def _service_addresses(self) -> list[str]:
        service = self.lab.topology.service
        return [f"{service.ipv4}/32", f"{service.ipv6}/128"]

    def _pause(self, node: str, seconds: float, *, prld_only: bool) -> None:
        place = Namespace(self.lab.topology.node(node).namespace)
        pid = self.lab.state.pid(self.lab.topology.node(node))
        if not prld_only:
            processes.freeze(place)
        elif pid is not None:
            processes.signal_pids(place, [pid], signal.SIGSTOP)
        _wait(seconds)
        processes.thaw(place)

    def _flap(self, node: str, kind: Kind, fault: Fault) -> None:
        topology = self.lab.topology
        cable: Cable = (
            LinkCable(topology.node(node))
            if kind is Kind.LINK_FLAPS
            else LanCable(topology, topology.node(node))
        )
        with cable:
            for _ in range(fault.times):
                cable.cut()
                _wait(fault.for_s)
                cable.mend()
                _wait(fault.for_s)

    def _stop_prld(self, node: str) -> None:
        pid = self.lab.state.pid(self.lab.topology.node(node))
        if pid is None:
            return
        try:
            ended = os.fdopen(os.pidfd_open(pid))
        except ProcessLookupError:
            return
        with ended:
            for number in (signal.SIGTERM, signal.SIGKILL):  # as a service manager stops it
                signal.pidfd_send_signal(ended.fileno(), number)
                if select.select([ended], [], [], ASK_S)[0]:
                    break
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _port(end: str) -> int:
    """Of a peer, ``addr:port``; 0: an unconnected socket's, ``*``."""
    return int(end.rpartition(":")[2]) if ":" in end else 0


def _wait(seconds: float) -> None:
    """What a fault lasts is a part of it: nothing tells when it is over."""
    threading.Event().wait(seconds)


def eventually(check: Callable[[], bool], timeout_s: float) -> bool:
    """Ask again and again; whether it came about."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            return False
        _wait(POLL_S)
    return True
