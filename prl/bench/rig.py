"""One way to serve sessions, set up in a lab of its own: a server, a client, and what is between.

Several rigs are up side by side, so that what they do can be measured in turns.
"""

import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from prl.bench import proxies, xdp_pass
from prl.bench.errors import BenchError
from prl.bench.programs import program
from prl.client import Node
from prl.daemon.host.guard import UNGUARDED
from prl.lab import Lab, stretch
from prl.lab.netns import Namespace

NODES = ("re0", "re1")
PORT = 7000
HOLD_PORT = 7100
ANSWER_TIMEOUT_S = 30.0
PORTS = 25_000
"""Connections from one address of the peer's: the kernel has some 28,000 ports to connect from."""
SOURCES_FROM = 200
"""Its further addresses are behind this one of the LAN's."""
_LINE_BYTES = 65536
_MIRROR_S, _POLL_S = 10.0, 0.02
"""How long the nodes may take to know their cable; how often they are asked."""
_ASIDES = ("void", "lost", "unprotected")
"""What a server tells of shadows between its answers."""


class Way(StrEnum):
    """What stands between the network and the application."""

    NONE = "none"
    """Nothing: no prl, no program."""
    BARE = "bare"
    """Nothing, on the bare link between the two nodes."""
    XDP_PASS = "xdp-pass"  # noqa: S105
    """An XDP program of two instructions on the LAN interface, which passes everything."""
    NFQUEUE_INPUT = "nfqueue-input"
    NFQUEUE = "nfqueue"
    """A hold in NFQUEUE (userspace/bench/nfhold.c), of the input, or of input and output."""
    NFQUEUE_FED = "nfqueue-fed"
    """A hold of the input whose copies are fed to a shadow socket: as much work as prl's."""
    HAPROXY = "haproxy"
    SOCAT = "socat"
    """A TCP proxy on re0; the server is on re1."""
    PRL = "prl"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to set a rig up. ``protect`` False: prld is there, the sessions are not replicated."""

    name: str
    way: Way
    role: str = "echo"
    mode: str = "native"
    polling: str = "blocking"
    connections: int = 1
    protect: bool = True
    flows_max: int | None = None
    looks: bool = True
    """prld sees to it that its programs stay attached; False: they are taken off on purpose."""
    plain_link: bool = False
    """The nodes talk in clear."""
    at_once: bool = False
    """What is accepted is protected before it is served."""
    birth_ms: int = 0
    """0: connections are protected when a bench says so, and talk before."""


class Program:
    """A process in the lab that answers lines with lines of JSON."""

    def __init__(self, lab: Lab, node: str, argv: Sequence[str], whose: str) -> None:
        self._what = f"{whose}: {Path(argv[0]).name} on {node} of lab {lab.name}"
        self._process = lab.exec(
            node, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._rest = b""
        self._asides: list[dict[str, Any]] = []
        self.pid = self._process.pid

    def ask(self, line: str, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """Give an order and return the answer. Raises BenchError: an error, or none in time."""
        self.tell(line)
        return self.answer(timeout_s, line)

    def tell(self, line: str) -> None:
        """Give an order; its answer is to be fetched with answer()."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise BenchError(f"{self._what} has ended") from None

    def answer(self, timeout_s: float, what: str = "answer") -> dict[str, Any]:
        """The next line. Raises BenchError: it tells of an error, or does not come in time."""
        deadline = time.monotonic() + timeout_s * stretch.factor()
        while b"\n" not in self._rest:
            if not self._read(deadline - time.monotonic()):
                raise BenchError(f"{self._what}: no answer to {what!r} in {timeout_s:g} s")
        line, self._rest = self._rest.split(b"\n", 1)
        if line == b"ready":
            return {}
        found: dict[str, Any] = json.loads(line)
        if found.get("event") in _ASIDES:
            self._asides.append(found)
            return self.answer(max(deadline - time.monotonic(), 0), what)
        if "error" in found:
            raise BenchError(f"{self._what}: {what}: {found['error']}")
        return found

    def asides(self) -> list[dict[str, Any]]:
        """What it has told of shadows since the last call; no order may be under way.

        Raises:
            BenchError: it has ended.
        """
        while self._read(0) or b"\n" in self._rest:
            line, *rest = self._rest.split(b"\n", 1)
            if rest:
                self._asides.append(json.loads(line))
                self._rest = rest[0]
        found, self._asides = self._asides, []
        return found

    def _read(self, timeout_s: float) -> bool:
        """More of what it says; False: nothing in time. Raises BenchError: it has ended."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], max(timeout_s, 0))[0]:
            return False
        more = os.read(self._process.stdout.fileno(), _LINE_BYTES)
        if not more:
            raise BenchError(f"{self._what} has ended")
        self._rest += more
        return True

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Rig:
    """A recipe set up; entered as a context. The lab goes with it."""

    def __init__(self, recipe: Recipe, scratch: Path) -> None:
        self.recipe = recipe
        self.lab = Lab(f"b{secrets.token_hex(4)}")
        self._scratch = scratch
        self._stack = ExitStack()
        self.standby: Program | None = None
        self.protected = 0
        """How many sessions are to be active, on both nodes."""
        self._pids: set[int] = set()
        self._connected = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def address(self) -> str:
        """Where the sessions are served."""
        topology = self.lab.topology
        at_link = self.recipe.way is Way.BARE
        return str(topology.re0.link.ipv4.ip if at_link else topology.service.ipv4)

    @property
    def _is_proxied(self) -> bool:
        return self.recipe.way in {Way.HAPROXY, Way.SOCAT}

    @property
    def _behind(self) -> str:
        """Where the server is, behind a proxy."""
        return f"{self.lab.topology.re1.link.ipv4.ip}:{PORT}"

    def _set_up(self, stack: ExitStack) -> None:
        recipe, way = self.recipe, self.recipe.way
        with_prld = way is Way.PRL
        if not recipe.looks:
            os.environ[UNGUARDED] = "1"
        try:
            self.lab.up(
                recipe.mode,
                start_prld=with_prld,
                polling=recipe.polling,
                flows_max=recipe.flows_max,
                plain_link=recipe.plain_link,
                birth_ms=recipe.birth_ms,
            )
        finally:
            os.environ.pop(UNGUARDED, None)
        stack.callback(self.lab.down)
        if with_prld:
            for node in self.lab.topology.nodes:
                self._pids.add(self.prld_pid(node.name))
            if recipe.mode == "mirror":
                self._await_mirror()
        else:
            self._add_address("re0", "lan0")
        self._put_between(stack)
        self.server = self._serve("re1" if self._is_proxied else "re0", stack)
        if with_prld or way is Way.NFQUEUE_FED:
            self.standby = self._serve("re1", stack)
        self.client = self._start(
            stack, "re1" if way is Way.BARE else "peer", [program("load"), "client"]
        )
        if recipe.connections:
            self.connect(recipe.connections)
            if with_prld and recipe.protect:
                self.protect(recipe.connections)
            elif way is Way.NFQUEUE_FED:
                self._clone()

    def _await_mirror(self) -> None:
        """Until both nodes know their cable, all goes as with the carrier "kernel"."""
        deadline_s = time.monotonic() + _MIRROR_S * stretch.factor()
        while off := [node for node in NODES if not self.status(node)["mirror"]["on"]]:
            if time.monotonic() > deadline_s:
                why = self.status(off[0])["mirror"]["because"]
                raise BenchError(f"{off[0]} mirrors nothing: {why}")
            time.sleep(_POLL_S)

    def _put_between(self, stack: ExitStack) -> None:
        match self.recipe.way:
            case Way.XDP_PASS:
                place = Namespace(self.lab.topology.re0.namespace)
                xdp_pass.attach(place, "lan0", self.recipe.mode)
            case Way.NFQUEUE | Way.NFQUEUE_INPUT | Way.NFQUEUE_FED:
                self._start_hold(stack)
            case Way.HAPROXY | Way.SOCAT:
                self._start_proxy(stack)

    def _start(self, stack: ExitStack, node: str, argv: Sequence[str]) -> Program:
        found = Program(self.lab, node, argv, self.name)
        stack.callback(found.stop)
        self._pids.add(found.pid)
        return found

    def _serve(self, node: str, stack: ExitStack) -> Program:
        argv = [sys.executable, "-m", "prl.bench.server", self.recipe.role]
        argv += ["--listen", self._behind if self._is_proxied else f"{self.address}:{PORT}"]
        argv += [] if self.recipe.way is Way.PRL else ["--plain"]
        argv += ["--at-once"] if self.recipe.at_once else []
        # Copies of the peer's SYN reach the second stack, too: nobody there may answer.
        argv += ["--deaf"] if self.recipe.way is Way.NFQUEUE_FED and node == "re1" else []
        found = self._start(stack, node, argv)
        self._pids.add(found.answer(ANSWER_TIMEOUT_S)["mover"])
        return found

    def _start_proxy(self, stack: ExitStack) -> None:
        front = f"{self.address}:{PORT}"
        if self.recipe.way is Way.HAPROXY:
            argv = proxies.haproxy(front, self._behind, self.file("haproxy.cfg"))
        else:
            argv = proxies.socat(front, self._behind)
        self._start(stack, "re0", argv)
        place = Namespace(self.lab.topology.re0.namespace)
        proxies.await_listening(place, self.address, PORT, argv)

    def _add_address(self, node: str, interface: str) -> None:
        topology = self.lab.topology
        with Namespace(topology.member(node).namespace).netlink() as netlink:
            (index,) = netlink.link_lookup(ifname=interface)
            netlink.addr("add", index=index, address=str(topology.service.ipv4), prefixlen=32)

    def _start_hold(self, stack: ExitStack) -> None:
        fed = self.recipe.way is Way.NFQUEUE_FED
        hold, link = program("nfhold"), str(self.lab.topology.re1.link.ipv4.ip)
        more = ["output"] if self.recipe.way is Way.NFQUEUE else []
        more += ["poll"] if self.recipe.polling != "blocking" else []
        self._enter_rules("re0", *more)
        if fed:
            self._enter_rules("re1", "silent")
            self._add_address("re1", "lo")
        for node, role in (("re1", "secondary"), ("re0", "primary")):
            own = ["feed"] if fed and node == "re1" else []
            started = self._start(stack, node, [hold, role, link, str(HOLD_PORT), *more, *own])
            started.answer(ANSWER_TIMEOUT_S)

    def _enter_rules(self, node: str, *words: str) -> None:
        argv = [program("nfhold"), "rules", str(self.lab.topology.service.ipv4), *words]
        done = self.lab.run(node, argv, capture_output=True, text=True)
        if done.returncode:
            raise BenchError(f"no NFQUEUE here: {done.stderr.strip()}")

    def _clone(self) -> None:
        """A shadow of the one connection on re1; nothing may be under way."""
        assert self.standby is not None
        path = self.file("snapshot")
        self.server.ask(f"snapshot {path}")
        self.standby.ask(f"shadow {path}")

    def connect(self, count: int) -> None:
        """Open so many connections more."""
        while count:
            number, used = divmod(self._connected, PORTS)
            some = min(count, PORTS - used)
            if number and not used:
                self._add_source(number)
            source = f" {self._source(number)}" if number else ""
            order = f"connect {self.address} {PORT} {some}{source}"
            self.client.ask(order, ANSWER_TIMEOUT_S + some / 100)
            self._connected += some
            count -= some

    def _source(self, number: int) -> str:
        """One more address of the peer's: each has so many ports to connect from."""
        own = self.lab.topology.peer.lan.ipv4
        return str(own.network[SOURCES_FROM + number])

    def _add_source(self, number: int) -> None:
        topology = self.lab.topology
        with Namespace(topology.peer.namespace).netlink() as netlink:
            (index,) = netlink.link_lookup(ifname=topology.peer.lan.name)
            prefix = topology.peer.lan.ipv4.network.prefixlen
            netlink.addr("add", index=index, address=self._source(number), prefixlen=prefix)

    def protect(self, count: int, *, partly: bool = False) -> dict[str, Any]:
        """Have the next ``count`` connections replicated; returns what the server says.

        Raises:
            BenchError: not all of them could be; with ``partly``, none.
        """
        found = self.server.ask(f"protect {count}", ANSWER_TIMEOUT_S + count / 10)
        if found["failed"] and not (partly and found["count"]):
            raise BenchError(
                f"{found['failed']} of {count} sessions are not protected: {found['reasons'][0]}"
            )
        self.protected += found["count"]
        return found

    @contextmanager
    def another(self, node: str) -> Iterator[Program]:
        """One more client, on ``node``, for a while."""
        client = Program(self.lab, node, [program("load"), "client"], self.name)
        try:
            yield client
        finally:
            client.stop()

    def prld_pid(self, node: str) -> int:
        """The prld of a node."""
        pid = self.lab.state.pid(self.lab.topology.node(node))
        assert pid is not None
        return pid

    def prld_cpu_ns(self) -> int:
        """CPU time that both prld have taken."""
        return sum(_cpu_ns(self.prld_pid(node.name)) for node in self.lab.topology.nodes)

    def file(self, what: str) -> Path:
        """A file of this rig's in the scratch directory."""
        return self._scratch / f"{self.lab.name}-{what}"

    def cpu_ns(self) -> int:
        """CPU time that all programs of the rig have taken, on all its hosts."""
        return sum(map(_cpu_ns, self._pids))

    def place(self, node: str) -> Namespace:
        """Where a member of the lab is."""
        return Namespace(self.lab.topology.member(node).namespace)

    def status(self, node: str) -> dict[str, Any]:
        """What `prlctl status` prints for a node."""
        with Node(self.lab.state.socket(self.lab.topology.node(node))) as connection:
            return connection.request({"op": "status"})

    def link(self, node: str) -> dict[str, Any]:
        """What `prlctl link show` prints for a node."""
        with Node(self.lab.state.socket(self.lab.topology.node(node))) as connection:
            return connection.request({"op": "link_show"})

    def stats(self, node: str) -> dict[str, Any]:
        """What `prlctl stats` prints for a node."""
        with Node(self.lab.state.socket(self.lab.topology.node(node))) as connection:
            return connection.request({"op": "stats"})


def events(rig: Rig, node: str, after: int = 0) -> list[dict[str, Any]]:
    """What a node's prld logged behind that number, oldest first."""
    found: list[dict[str, Any]] = []
    with Node(rig.lab.state.socket(rig.lab.topology.node(node))) as connection:
        while True:
            more = connection.request({"op": "events", "after": after})["events"]
            if not more:
                return found
            found += more
            after = more[-1]["seq"]


def newest(rig: Rig, node: str) -> int:
    """The number of the last event so far."""
    found = events(rig, node)
    return int(found[-1]["seq"]) if found else 0


def _cpu_ns(pid: int) -> int:
    """What the scheduler counts for the threads of ``pid`` (proc(5), schedstat)."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[0])
        except OSError:  # the thread has ended
            continue
    return total
