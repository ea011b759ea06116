"""A lab's directory under /run/prl: configurations, sockets, logs, and which machine is off."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prl.config import Arbiter, link_key
from prl.lab import stretch
from prl.lab.errors import LabError
from prl.lab.topology import SECOND, Member, Node, Topology

RUN_DIRECTORY = Path("/run/prl")
METRICS_PORT = 9478
_CREATE_TRIES_MAX = 10  # another lab's `down` may take an empty /run/prl away meanwhile


@dataclass(frozen=True, slots=True)
class Settings:
    """How the lab was brought up; ``heal`` needs to know."""

    mode: str
    start_prld: bool
    polling: str = "blocking"
    flows_max: int | None = None
    routed: bool = False
    services: int = 1
    policy: str = "continue"
    fence_command: Sequence[str] = ()
    second: bool = False
    vrf: bool = False
    metrics: bool = False
    hooks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    plain_link: bool = False
    arbiter: Sequence[str] = ()
    """Its endpoints, where there is one."""
    arbiter_policy: str = "stop"
    witnesses: Sequence[str] = ()
    probe_ms: int | None = None
    birth_ms: int | None = None


class StateDirectory:
    """/run/prl/LAB, mode 0700. Making it is what makes a lab's name taken."""

    def __init__(self, lab: str) -> None:
        self.path = RUN_DIRECTORY / lab

    def exists(self) -> bool:
        """Whether the lab is up, or a crash left something of it."""
        return self.path.exists()

    def create(self, settings: Settings) -> None:
        """Make the directory.

        Raises:
            FileExistsError: the lab's name is taken.
            LabError: the directory cannot be made.
        """
        for _ in range(_CREATE_TRIES_MAX):
            try:
                RUN_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
                self.path.mkdir(mode=0o700)
                break
            except FileNotFoundError:
                continue
        else:
            raise LabError(f"cannot make {self.path}: {RUN_DIRECTORY} goes away again and again")
        self._settings.write_text(json.dumps(asdict(settings)) + "\n")

    def remove(self) -> None:
        """Remove the directory with all that is in it, and /run/prl if nobody else uses it."""
        if self.path.exists():
            shutil.rmtree(self.path)
        try:
            RUN_DIRECTORY.rmdir()
        except OSError:  # not empty, or not there
            return

    def settings(self) -> Settings:
        """How the lab was brought up.

        Raises:
            LabError: it is not up, or its state is damaged.
        """
        try:
            return Settings(**json.loads(self._settings.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise LabError(f"lab {self.path.name} is not up, or only in part: {error}") from error

    def config(self, node: Node) -> Path:
        """The node's configuration."""
        return self.path / f"{node.name}.toml"

    def socket(self, node: Node) -> Path:
        """The control socket of the node's prld."""
        return self.path / f"{node.name}.sock"

    def log(self, node: Node) -> Path:
        """What the node's prld writes to standard output and error."""
        return self.path / f"{node.name}.log"

    @property
    def link_key(self) -> Path:
        """The pair key of the lab's link, which both nodes read."""
        return self.path / link_key.NAME

    def write_config(self, topology: Topology, node: Node, settings: Settings) -> None:
        """Write the configuration from which the node's prld starts."""
        if not self.link_key.exists():
            link_key.add(self.link_key)
        files = (self.socket(node), self.link_key)
        self.config(node).write_text(_node_toml(topology, node, settings, *files))

    def pid(self, node: Node) -> int | None:
        """The pid of the prld that was started on the node last; it may be dead by now."""
        try:
            return int(self._pid(node).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write_pid(self, node: Node, pid: int) -> None:
        """Remember the node's prld."""
        self._pid(node).write_text(f"{pid}\n")

    def is_off(self, member: Member) -> bool:
        """Whether the machine lost its power."""
        return self._off(member).exists()

    def set_off(self, member: Member, off: bool) -> None:
        """Remember that the machine lost its power, or has it back."""
        if off:
            self._off(member).touch()
        else:
            self._off(member).unlink(missing_ok=True)

    @property
    def _settings(self) -> Path:
        return self.path / "lab.json"

    def _pid(self, node: Node) -> Path:
        return self.path / f"{node.name}.pid"

    def _off(self, member: Member) -> Path:
        return self.path / f"{member.name}.off"


def _node_toml(topology: Topology, node: Node, settings: Settings, socket: Path, key: Path) -> str:
    other = topology.other(node)
    lines = [
        f"# Written by `prlctl lab up --name {topology.name}`.",
        _assign("node", node.name),
        _assign("instance", topology.instance(node)),
        _assign("index", node.index),
        _assign("socket", os.fspath(socket)),
        _assign("mode", settings.mode),
        *([] if settings.flows_max is None else [_assign("flows_max", settings.flows_max)]),
        _assign("policy", settings.policy),
        "",
        "[ownership]",
        _assign("fence_command", list(settings.fence_command)),
        "",
        "[lan]",
        _assign("interface", node.lan.name),
        _assign("address", str(node.lan.ipv4.ip)),
        _assign("peer_address", str(other.lan.ipv4.ip)),
    ]
    if node.lan.ipv6 is not None and other.lan.ipv6 is not None:
        lines += [
            _assign("address6", str(node.lan.ipv6.ip)),
            _assign("peer_address6", str(other.lan.ipv6.ip)),
        ]
    if settings.witnesses:
        lines.append(_assign("witnesses", list(settings.witnesses)))
    probes = {} if settings.probe_ms is None else {"probe_ms": settings.probe_ms * stretch.factor()}
    if timing := stretch.timing() | probes:
        lines += ["", "[timing]", *(_assign(name, ms) for name, ms in timing.items())]
    if settings.arbiter:
        lines += [
            "",
            "[arbiter]",
            _assign("endpoints", list(settings.arbiter)),
            _assign("pair", topology.name),
            _assign("policy", settings.arbiter_policy),
            _assign("timeout_ms", Arbiter().timeout_ms * stretch.factor()),
        ]
    if settings.metrics:
        lines += ["", "[metrics]", _assign("listen", f"{node.lan.ipv4.ip}:{METRICS_PORT}")]
    if settings.hooks:
        lines += ["", "[hooks]"]
        lines += [_assign(name, list(command)) for name, command in settings.hooks.items()]
    if settings.polling != "blocking":
        lines += ["", "[datapath]", _assign("polling", settings.polling)]
    lines += [
        "",
        "[link]",
        _assign("interface", node.link.name),
        _assign("local", str(node.link.ipv4.ip)),
        _assign("remote", str(other.link.ipv4.ip)),
        _assign("port", topology.link_port),
        _assign("key", os.fspath(key)),
        _assign("plain", settings.plain_link),
    ]
    lines += _services_toml(topology, settings)
    if node.second is not None:
        lines += [
            "",
            "[[routing]]",
            _assign("name", SECOND),
            _assign("interface", node.second.name),
            *([_assign("vrf", topology.vrf)] if topology.vrf else []),
        ]
    return "\n".join(lines) + "\n"


def _services_toml(topology: Topology, settings: Settings) -> list[str]:
    lines: list[str] = []
    for service in topology.services:
        lines += [
            "",
            "[[service]]",
            _assign("name", service.name),
            _assign("addresses", [str(service.ipv4), str(service.ipv6)]),
            _assign("owner", service.owner),
        ]
        if service.instance:
            lines.append(_assign("instance", service.instance))
        if settings.birth_ms is not None:
            lines.append(_assign("birth_ms", settings.birth_ms))
    return lines


def _assign(key: str, value: str | int | list[str]) -> str:
    """One TOML line; JSON's strings, integers, booleans and arrays of strings are TOML's."""
    return f"{key} = {json.dumps(value)}"
