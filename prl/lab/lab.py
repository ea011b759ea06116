"""One lab: brought up, broken in the ways of SPEC section 8, mended and taken down."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prl import client
from prl.errors import NoDaemonError, PrlError, UsageError
from prl.lab import prld, processes, stretch, wiring
from prl.lab.cables import Cable, LanCable, LinkCable
from prl.lab.errors import LabError
from prl.lab.netns import Namespace, exec_in
from prl.lab.state import Settings, StateDirectory
from prl.lab.topology import DEFAULT_NAME, Member, Node, Topology, standard

SOCKET_VARIABLE = "PRL_SOCKET"
PIN_DIRECTORY = Path("/sys/fs/bpf/prl")
LEASE_TIMEOUT_S = 10.0
"""How long a new lab's nodes may take to find each other."""
LEASE_POLL_S = 0.01


class Mode(StrEnum):
    """How prld takes input: `mode` of its configuration."""

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    KERNEL = "kernel"
    MIRROR = "mirror"


class How(StrEnum):
    """The ways in which a machine can fail."""

    KILL_APP = "kill-app"
    KILL_PRLD = "kill-prld"
    FREEZE = "freeze"
    CUT_LAN = "cut-lan"
    CUT_LINK = "cut-link"
    CUT_BOTH = "cut-both"
    POWER = "power"


class PrldState(StrEnum):
    """What has become of a node's prld."""

    NONE = "none"  # the lab was brought up without
    RUNNING = "running"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What is wrong with a machine, as the kernel tells it."""

    name: str
    namespace: str
    processes: int
    prld: PrldState
    power: bool
    lan_cut: bool
    link_cut: bool


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab that is up."""

    name: str
    mode: str
    members: tuple[MemberStatus, ...]


class Lab:
    """The lab called ``name``, whether it is up or not; several can be up side by side.

    Raises:
        UsageError: the name cannot be part of a namespace's name.
    """

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        self.topology = standard(name)
        self.state = StateDirectory(name)
        with suppress(LabError):  # it is not up: up() says what it consists of
            self.topology = _topology(name, self.state.settings())
        self._children: set[int] = set()

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.topology.name

    def up(
        self,
        mode: str = Mode.NATIVE,
        *,
        start_prld: bool = True,
        polling: str = "blocking",
        flows_max: int | None = None,
        policy: str = "continue",
        fence_command: Sequence[str] = (),
        routed: bool = False,
        services: int = 1,
        second: bool = False,
        vrf: bool = False,
        metrics: bool = False,
        hooks: Mapping[str, Sequence[str]] = MappingProxyType({}),
        plain_link: bool = False,
        arbiter: Sequence[str] = (),
        arbiter_policy: str = "stop",
        witnesses: Sequence[str] = (),
        probe_ms: int | None = None,
        birth_ms: int | None = None,
    ) -> None:
        """Build the network and start prld on both nodes; return when both serve.

        ``polling``, ``flows_max``, ``policy`` and ``fence_command`` are as docs/configuration.md
        has them; ``routed`` puts the peer behind a router; of several services, re0 and re1 own one
        by turns; ``second`` adds a second LAN, a routing instance with the same addresses,
        with ``vrf`` in a VRF of its own; with ``metrics`` each node serves them on METRICS_PORT of
        its address on the LAN; ``hooks`` are commands by the names of docs/hooks.md; with
        ``plain_link`` the nodes talk in clear; ``arbiter`` are the endpoints of one, which the lab
        does not build; ``witnesses`` are addresses on the LAN; ``probe_ms`` is timing.probe_ms,
        None its default; so is ``birth_ms``, that of services.

        Raises:
            LabError: it is up already, or could not be brought up; nothing is left of it then.
        """
        _require_root()
        settings = Settings(
            Mode(mode),
            start_prld,
            polling=polling,
            flows_max=flows_max,
            routed=routed,
            services=services,
            second=second,
            vrf=vrf,
            policy=policy,
            fence_command=fence_command,
            metrics=metrics,
            hooks=dict(hooks),
            plain_link=plain_link,
            arbiter=arbiter,
            arbiter_policy=arbiter_policy,
            witnesses=witnesses,
            probe_ms=probe_ms,
            birth_ms=birth_ms,
        )
        taken = LabError(
            f"lab {self.name} is up already, or a crash left a part of it: "
            f"remove it with `prlctl lab down{self._option()}`"
        )
        if any(place.exists() for place in self._places()):
            raise taken
        try:
            self.state.create(settings)
        except FileExistsError:
            raise taken from None
        self.topology = _topology(self.name, settings)
        try:
            wiring.build(self.topology)
            for node in self.topology.nodes:
                self.state.write_config(self.topology, node, settings)
            if start_prld:
                for node in self.topology.nodes:
                    self._scrub(node)
                self._start_prld(*self.topology.nodes)
                self._await_lease()
        except BaseException:
            with suppress(LabError):
                self.down()  # what went wrong first is what matters
            raise

    def _await_lease(self) -> None:
        """The pair protects from its first lease on: either may take over then."""
        deadline = time.monotonic() + LEASE_TIMEOUT_S * stretch.factor()
        for node in reversed(self.topology.nodes):
            try:
                with client.Node(self.state.socket(node)) as daemon:
                    while daemon.request({"op": "status"})["lease"]["takeover_for_ms"] <= 0:
                        if time.monotonic() > deadline:
                            log = self.state.log(node)
                            raise LabError(f"re0 and re1 do not come together; see {log}")
                        time.sleep(LEASE_POLL_S)  # no event tells of the first lease
            except NoDaemonError as error:
                raise LabError(f"prld of {node.name} does not answer: {error}") from error

    def down(self) -> bool:
        """Remove all that there is of the lab, also after a crash. Idempotent.

        Returns:
            Whether there was anything to remove.

        Raises:
            LabError: a process in it does not die; the rest is removed.
        """
        _require_root()
        there = [place for place in self._places() if place.exists()]
        found = bool(there) or self.state.exists()
        failures: list[LabError] = []
        for place in there:
            try:
                processes.kill(place)
            except LabError as error:
                failures.append(error)
        self._reap()
        for node in self.topology.nodes:
            try:
                self._scrub(node)
            except PrlError as error:
                failures.append(LabError(f"cannot clean up after {node.name}: {error}"))
        for place in there:
            place.remove()
        self.state.remove()
        if failures:
            raise failures[0]
        return found

    def status(self) -> LabStatus | None:
        """How the machines are, or None if the lab is not up.

        Raises:
            LabError: the lab is up only in part.
        """
        if not self.state.exists():
            return None
        _require_root()
        settings = self.state.settings()
        return LabStatus(
            self.name, settings.mode, tuple(map(self._member_status, self.topology.members))
        )

    def command(self, node: str, argv: Sequence[str]) -> list[str]:
        """``argv`` made to run on ``node`` (re0, re1, peer or lan).

        Raises:
            LabError: the lab is not up, or has no such node.
        """
        place = self._namespace(node)
        place.key()
        return place.command(argv)

    def environment(self, node: str) -> dict[str, str]:
        """The environment for commands on ``node``: ``prlctl`` finds that node's prld by it."""
        environment = dict(os.environ)
        environment.pop(SOCKET_VARIABLE, None)
        for member in self.topology.nodes:
            if member.name == node:
                environment[SOCKET_VARIABLE] = str(self.state.socket(member))
        # So that `prlctl` can be named without its path, also outside of an activated venv.
        own = os.fspath(Path(sys.executable).parent)
        environment["PATH"] = os.pathsep.join([environment.get("PATH", os.defpath), own])
        return environment

    def exec(self, node: str, argv: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """Start ``argv`` on ``node``; further arguments are ``subprocess.Popen``'s.

        Raises:
            LabError: the lab is not up, or has no such node.
        """
        popen.setdefault("env", self.environment(node))
        return exec_in(self._namespace(node).name, argv, **popen)

    def run(
        self, node: str, argv: Sequence[str], *, check: bool = False, **run: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run ``argv`` on ``node`` to its end; further arguments are ``subprocess.run``'s.

        Raises:
            LabError: the lab is not up, or has no such node.
        """
        run.setdefault("env", self.environment(node))
        return subprocess.run(self.command(node, argv), check=check, **run)

    def fail(self, node: str, how: str) -> float:
        """Make ``node`` fail; return the time on CLOCK_BOOTTIME, in seconds, when it took effect.

        Raises:
            UsageError: the node cannot fail in this way.
            LabError: the lab is not up, or it could not be done.
        """
        kind = How(how)
        self._require_up()
        place = self._namespace(node)
        if kind in {How.KILL_APP, How.FREEZE}:
            return self._fail_processes(place, node, kind)
        if kind is How.KILL_PRLD:
            return self._kill_prld(place, self.topology.node(node))
        if kind is How.POWER:
            return self._power_off(place, self.topology.member(node))
        return self._cut(node, kind)

    def heal(self, node: str) -> None:
        """Undo every failure of ``node``: power, cables, stopped processes, a dead prld.

        After a loss of power the machine starts afresh, as after a reboot.

        Raises:
            LabError: the lab is not up, or prld does not start again.
        """
        settings = self._require_up()
        place = self._namespace(node)
        if node == "lan":
            processes.thaw(place)
            return
        member = self.topology.member(node)
        prld_missing = (
            isinstance(member, Node)
            and settings.start_prld
            and not prld.is_alive(self.state, member)
        )
        if self.state.is_off(member):
            processes.kill(place)
            self._reap()
            if isinstance(member, Node):
                self._scrub(member)
            wiring.reboot(self.topology, member)
            self.state.set_off(member, off=False)
        processes.thaw(place)
        if isinstance(member, Node):
            with LinkCable(member) as link:
                link.mend()
            if prld_missing:
                self._start_prld(member)
        with LanCable(self.topology, member) as lan:
            lan.mend()
        wiring.await_network(self.topology)

    def _fail_processes(self, place: Namespace, node: str, kind: How) -> float:
        if kind is How.FREEZE:
            processes.freeze(place)
            return _now()
        spared = {
            pid
            for member in self.topology.nodes
            if member.name == node and (pid := self.state.pid(member)) is not None
        }
        spared |= {pid for pid in processes.pids_in(place) if processes.parent_of(pid) in spared}
        victims = [pid for pid in processes.pids_in(place) if pid not in spared]
        processes.kill_pids(place, victims)
        at = _now()
        processes.kill(place, spare=spared)
        return at

    def _cut(self, node: str, kind: How) -> float:
        with ExitStack() as opened:
            cables: list[Cable] = []
            # Of both the link goes first: a node that has lost its LAN hands over by it at once.
            if kind is not How.CUT_LAN:
                cables.append(opened.enter_context(LinkCable(self.topology.node(node))))
            if kind is not How.CUT_LINK:
                lan = LanCable(self.topology, self.topology.member(node))
                cables.append(opened.enter_context(lan))
            for cable in cables:
                cable.cut()
            return _now()

    def _kill_prld(self, place: Namespace, node: Node) -> float:
        pid = self.state.pid(node)
        if pid is None or not processes.is_in(place, pid):
            raise LabError(f"no prld runs on {node.name}: it cannot be killed")
        processes.kill_pids(place, [pid])
        at = _now()
        self._reap()
        return at

    def _power_off(self, place: Namespace, member: Member) -> float:
        """Silence first: the sockets of a process that dies still send FIN and RST."""
        with ExitStack() as opened:
            cables: list[Cable] = [opened.enter_context(LanCable(self.topology, member))]
            if isinstance(member, Node):
                cables.append(opened.enter_context(LinkCable(member)))
            for cable in cables:
                cable.cut()
            at = _now()
            processes.kill(place)
        self.state.set_off(member, off=True)
        self._reap()
        return at

    def _start_prld(self, *nodes: Node) -> None:
        deadline = time.monotonic() + prld.READY_TIMEOUT_S * stretch.factor()
        started = []
        with ExitStack() as opened:
            for node in nodes:
                started.append(daemon := prld.Prld(self.state, node))
                opened.callback(daemon.close)
                self._children.add(daemon.pid)
            for daemon in started:
                daemon.await_ready(deadline)

    def _member_status(self, member: Member) -> MemberStatus:
        place = Namespace(member.namespace)
        daemon = PrldState.NONE
        with LanCable(self.topology, member) as lan:
            lan_cut = lan.is_cut()
        link_cut = False
        if isinstance(member, Node):
            with LinkCable(member) as link:
                link_cut = link.is_cut()
            if self.state.pid(member) is not None:
                alive = prld.is_alive(self.state, member)
                daemon = PrldState.RUNNING if alive else PrldState.DEAD
        return MemberStatus(
            member.name,
            member.namespace,
            len(processes.pids_in(place)),
            daemon,
            not self.state.is_off(member),
            lan_cut,
            link_cut,
        )

    def _places(self) -> list[Namespace]:
        """All namespaces that a lab of this name may have, however it was brought up."""
        whole = standard(self.name, routed=True, second=True)
        return [Namespace(name) for name in whole.namespaces.values()]

    def limit_path(self, mtu_bytes: int) -> None:
        """Let the router of a routed lab pass nothing longer to the peer than ``mtu_bytes``.

        Raises:
            LabError: the lab is not up, or has no router.
        """
        self._require_up()
        wiring.limit_path(self.topology, mtu_bytes)

    def _scrub(self, node: Node) -> None:
        """Remove what the node's prld left in the kernel; it keeps all of that by its pins."""
        instance = self.topology.instance(node)
        if (PIN_DIRECTORY / instance).exists():
            # Without pins the lab does not need the compiled core.
            from prl.bindings.programs import scrub  # noqa: PLC0415

            scrub(instance)

    def _reap(self) -> None:
        """Collect those prld that this process started and that have died."""
        for pid in tuple(self._children):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._children.discard(pid)

    def _namespace(self, node: str) -> Namespace:
        name = self.topology.namespaces.get(node)
        if name is None:
            names = ", ".join(self.topology.namespaces)
            raise UsageError(f"the lab has no node {node!r}: it has {names}")
        place = Namespace(name)
        if not place.exists():
            raise self._not_up()
        return place

    def _require_up(self) -> Settings:
        _require_root()
        if not self.state.exists():
            raise self._not_up()
        return self.state.settings()

    def _not_up(self) -> LabError:
        return LabError(f"lab {self.name} is not up: start it with `prlctl lab up{self._option()}`")

    def _option(self) -> str:
        return "" if self.name == DEFAULT_NAME else f" --name {self.name}"


def _topology(name: str, settings: Settings) -> Topology:
    return standard(
        name,
        routed=settings.routed,
        services=settings.services,
        second=settings.second,
        vrf=settings.vrf,
    )


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root, for it makes network namespaces: use sudo")
