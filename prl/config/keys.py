"""prld's configuration, of which prl.config.schemas makes checks, messages and a table of keys."""

import re
import socket
import tomllib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from prl.config import link_key, schemas
from prl.config.schemas import SECRET, Address, Deprecation, Key, Schema
from prl.control.messages import DEFAULT_SOCKET
from prl.endpoint import parse_endpoint
from prl.errors import ConfigError, UsageError

DEFAULT_PATH = Path("/etc/prl/prld.toml")
FRONT_PATH = DEFAULT_PATH.with_name("bgp.toml")
"""prl-bgp's configuration (prl/bgpfront/config.py)."""
DEFAULT_LINK_KEY = DEFAULT_PATH.with_name(link_key.NAME)
ADDRESSES_MAX = 64  # PRL_ADDRS_MAX
SERVICES_MAX = 16  # PRL_SERVICES_MAX
BIRTH_MAX_MS = 10_000
INSTANCES_MAX = 15  # PRL_LIFS_MAX, the network of [lan] being the first
FLOWS_MAX = 131072  # PRL_FLOWS_MAX
CPUS_MAX = 8192  # CONFIG_NR_CPUS at most
ARBITERS_MAX = 9
"""Members of the arbiter: etcd advises against more than seven."""
WITNESSES_MAX = 4  # PRL_WITNESSES_MAX
PORT_MAX = 65535

Port = Annotated[int, Meta(ge=1, le=65535)]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
Interface = Annotated[str, Meta(pattern=r"^[^/\s]{1,15}\Z")]


class Lan(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The network that peers are on."""

    interface: Annotated[Interface, Meta(description="interface towards the peers")]
    address: Annotated[IPv4Address, Meta(description="this node's own IPv4 address there")]
    peer_address: Annotated[IPv4Address, Meta(description="the other node's IPv4 address there")]
    address6: Annotated[
        IPv6Address | None, Meta(description="this node's own IPv6 address there")
    ] = None
    peer_address6: Annotated[
        IPv6Address | None, Meta(description="the other node's IPv6 address there")
    ] = None
    heartbeat_port: Annotated[Port, Meta(description="UDP port of the LAN heartbeats")] = 7078
    witnesses: Annotated[
        list[Address],
        Meta(
            description="addresses in this network of machines that are neither node, as the "
            "gateway's: only a node that one of them answers goes on without the other node; the "
            "same on both nodes; without any, whoever answers shows that a node is on the LAN"
        ),
    ] = []


class Link(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The link between the two nodes."""

    interface: Annotated[Interface, Meta(description="interface towards the other node")]
    local: Annotated[Address, Meta(description="this node's address on the link")]
    remote: Annotated[Address, Meta(description="the other node's address on the link")]
    port: Annotated[Port, Meta(description="TCP port that node 1 listens on")] = 7077
    key: Annotated[
        str,
        Meta(
            pattern=r"^/[^\0]{1,4095}\Z",
            description="file with the pair key, the same on both nodes, readable by root alone",
        ),
    ] = str(DEFAULT_LINK_KEY)
    plain: Annotated[
        bool,
        Meta(
            description="no TLS: whoever is on the link's network can read all sessions and be the "
            "other node; the same on both nodes"
        ),
    ] = False


class Service(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A service: addresses that move together. The same on both nodes, in the same order."""

    name: Annotated[Name, Meta(description="name, unique")]
    addresses: Annotated[
        list[Address], Meta(min_length=1, description="its IPv4 and IPv6 addresses")
    ]
    owner: Annotated[Name, Meta(description="the node that owns it when nothing else decides")]
    instance: Annotated[
        str, Meta(description="routing instance that it is in; empty: the network of [lan]")
    ] = ""
    birth_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=BIRTH_MAX_MS,
            description="milliseconds that a new connection may wait to be protected, before it "
            "has taken a byte of its peer; 0: it does not wait",
        ),
    ] = 200


class Instance(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A routing instance: one more network that peers are on. In the same order on both nodes."""

    name: Annotated[Name, Meta(description="name, unique")]
    interface: Annotated[
        Interface, Meta(description="its interface, of the same name on both nodes")
    ]
    vrf: Annotated[
        Interface | None, Meta(description="VRF device that the interface belongs to, if any")
    ] = None


class DatapathSettings(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How the datapath's thread waits for work: latency against CPU."""

    polling: Annotated[
        Literal["blocking", "adaptive", "busy"],
        Meta(
            description="wait for work asleep; look for it during poll_us after the last work, "
            "yielding the CPU; or always look for it (a whole CPU); asleep in any case while "
            "others want the CPU"
        ),
    ] = "blocking"
    poll_us: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="microseconds that adaptive polling goes on after the last work",
        ),
    ] = 200
    cpus: Annotated[
        list[Annotated[int, Meta(ge=0, lt=CPUS_MAX)]] | None,
        Meta(description="the CPUs that the datapath may run on; without it, all of prld's"),
    ] = None


class Ownership(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What helps to decide who may speak (SPEC L5)."""

    fence_command: Annotated[
        list[str] | None,
        Meta(
            description="program and arguments that make sure that the other node is dead: run, "
            "without a shell, when the lease ended before this node took over; exit status 0 means "
            "that it is",
            extra=SECRET,
        ),
    ] = None
    fence_timeout_ms: Annotated[
        Milliseconds, Meta(description="how long the fence command may take; then it is killed")
    ] = 10_000


class Arbiter(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The store that decides who goes on when the nodes have lost each other (docs/arbiter.md)."""

    endpoints: Annotated[
        list[str] | None,
        Meta(
            description="URLs of etcd's members, all http or all https, as in "
            "http://10.0.0.11:2379; without it, there is no arbiter"
        ),
    ] = None
    pair: Annotated[
        Name | None,
        Meta(description="what this pair is called in the store, unlike any other pair there"),
    ] = None
    policy: Annotated[
        Literal["stop", "continue"],
        Meta(
            description="while the store does not answer: nobody goes on alone, or the lease "
            "decides as without an arbiter, and two nodes may speak that are cut off from each "
            "other"
        ),
    ] = "stop"
    timeout_ms: Annotated[
        Milliseconds, Meta(description="how long an answer may take; then it is asked again")
    ] = 150
    ca: Annotated[
        str | None,
        Meta(description="file with the authorities of https members; without it, the system's"),
    ] = None
    certificate: Annotated[
        str | None, Meta(description="file with this node's certificate for https members")
    ] = None
    private_key: Annotated[str | None, Meta(description="file with the key to certificate")] = None

    @property
    def is_there(self) -> bool:
        """Whether there is an arbiter."""
        return self.endpoints is not None

    @property
    def is_tls(self) -> bool:
        """Whether its members are asked by TLS."""
        return any(endpoint.startswith("https:") for endpoint in self.endpoints or ())

    @property
    def key(self) -> str:
        """The pair's key in the store."""
        return f"/prl/{self.pair}"


class Timing(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Intervals and deadlines (SPEC section 6 and R6). The same on both nodes."""

    lease_ms: Annotated[Milliseconds, Meta(description="interval of the lease messages")] = 20
    suspect_ms: Annotated[
        Milliseconds, Meta(description="silence after which the other node is suspected")
    ] = 100
    takeover_ms: Annotated[
        Milliseconds, Meta(description="how long after the last echo the standby may take over")
    ] = 300
    hold_ms: Annotated[
        Milliseconds, Meta(description="how long after its last echo the owner must not open")
    ] = 400
    stale_ms: Annotated[
        Milliseconds, Meta(description="age of the heartbeat at which a datapath counts as dead")
    ] = 200
    probe_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="interval of the probes that the other node's kernel answers; 0: none, as "
            "by default where suspect_ms is not between dead_ms and hung_ms",
        ),
    ] = 10
    dead_ms: Annotated[
        Milliseconds,
        Meta(
            description="how long a kernel that answered before leaves all probes unanswered when "
            "it is dead"
        ),
    ] = 30
    hung_ms: Annotated[
        Milliseconds,
        Meta(
            description="how long a datapath may be late while its kernel answers: then it is "
            "taken over"
        ),
    ] = 400
    answer_ms: Annotated[
        Milliseconds, Meta(description="deadline of a flow's oldest unanswered message")
    ] = 400
    setup_ms: Annotated[
        Milliseconds,
        Meta(
            description="deadline of a flow's set-up at the least; later, up to a second, where "
            "set-ups have taken longer"
        ),
    ] = 100
    switchover_ms: Annotated[
        Milliseconds, Meta(description="how long a planned move may drain before it is given up")
    ] = 500
    retry_ms: Annotated[
        Milliseconds, Meta(description="wait before a refused packet is sent again (nack = retry)")
    ] = 20
    start_wait_ms: Annotated[
        Milliseconds, Meta(description="how long a starting node waits for the other one")
    ] = 1000


class Hooks(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Programs that are run, without a shell, when something has changed (docs/hooks.md)."""

    role: Annotated[
        list[str] | None,
        Meta(
            description="program and arguments: run when this node's part in a service changes",
            extra=SECRET,
        ),
    ] = None
    safety: Annotated[
        list[str] | None,
        Meta(
            description="program and arguments: run when this node becomes safe, or is so no more",
            extra=SECRET,
        ),
    ] = None
    lost: Annotated[
        list[str] | None,
        Meta(description="program and arguments: run when sessions could not go on", extra=SECRET),
    ] = None
    timeout_ms: Annotated[
        Milliseconds, Meta(description="how long each of them may take; then it is killed")
    ] = 10_000


class Metrics(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What Prometheus may ask for (docs/metrics.md)."""

    listen: Annotated[
        str | None,
        Meta(
            description="ADDRESS:PORT to serve metrics on by HTTP, an IPv6 address in brackets; "
            "whoever reaches it may read them; without it, none"
        ),
    ] = None
    sessions: Annotated[
        bool,
        Meta(description="labels for each session, of at most 1000: for pairs that have few"),
    ] = False


class Config(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The whole file."""

    node: Annotated[Name, Meta(description="this node's name")]
    instance: Annotated[Name, Meta(description="names this prld's objects under /sys/fs/bpf/prl")]
    index: Annotated[
        int, Meta(ge=0, le=1, description="0 or 1; node 0 connects the link, node 1 listens")
    ]
    socket: Annotated[
        str, Meta(pattern=r"^/[^\0]{1,106}\Z", description="path of the control socket")
    ] = str(DEFAULT_SOCKET)
    socket_group: Annotated[
        Name | None,
        Meta(
            description="group whose members may use the control socket; without it, that is "
            "root's alone"
        ),
    ] = None
    socket_group_may: Annotated[
        Literal["look", "protect", "steer"],
        Meta(
            description="what they may: ask what changes nothing; also protect sockets and "
            "programs of their own; also move services and end protection"
        ),
    ] = "look"
    mode: Annotated[
        Literal["auto", "native", "generic", "kernel", "mirror"],
        Meta(
            description="where input is captured and waits ([carriers.md](carriers.md)): XDP in "
            "the driver, or in the stack of any interface; kernel: no XDP, it waits in the kernel; "
            "mirror: so it does, and long packets go to the other node in clear, by a cable of the "
            "pair's own, link.interface, if both nodes have it ([mirror.md](mirror.md)); "
            "auto: native or kernel, as `prlctl doctor` says is better, generic as a last resort"
        ),
    ] = "auto"
    lan: Lan
    link: Link
    service: Annotated[list[Service], Meta(min_length=1, max_length=SERVICES_MAX)]
    routing: Annotated[list[Instance], Meta(max_length=INSTANCES_MAX)] = msgspec.field(
        default_factory=list
    )
    object_dir: Annotated[
        str | None, Meta(description="folder of the BPF objects; without it, the package's own")
    ] = None
    flows_max: Annotated[int, Meta(ge=1, le=FLOWS_MAX, description="most sessions at a time")] = (
        16384
    )
    policy: Annotated[
        Literal["continue", "stop"],
        Meta(description="an owner without the other node goes on alone, or goes silent (SPEC L5)"),
    ] = "continue"
    nack: Annotated[
        Literal["drop", "retry"],
        Meta(
            description="a packet that the other side has no space for: dropped on both sides, or "
            "sent again (SPEC R5)"
        ),
    ] = "drop"
    datapath: DatapathSettings = msgspec.field(default_factory=DatapathSettings)
    ownership: Ownership = msgspec.field(default_factory=Ownership)
    arbiter: Arbiter = msgspec.field(default_factory=Arbiter)
    timing: Timing = msgspec.field(default_factory=Timing)
    metrics: Metrics = msgspec.field(default_factory=Metrics)
    hooks: Hooks = msgspec.field(default_factory=Hooks)

    def owns_first(self, service: Service) -> bool:
        """Whether this node is the configured owner of ``service``."""
        return service.owner == self.node

    @property
    def lifs(self) -> dict[str, int]:
        """The numbers of the logical interfaces, by routing instance; "" is that of [lan]."""
        return {"": 0} | {instance.name: n for n, instance in enumerate(self.routing, 1)}

    @property
    def interfaces(self) -> list[str]:
        """The interfaces towards peers, by number of logical interface."""
        return [self.lan.interface, *(instance.interface for instance in self.routing)]


DEPRECATED: dict[str, Deprecation] = {}
"""By path; of a key that still is one, prld and doctor warn."""


TABLES: dict[str, type[Struct]] = {"": Config, "lan": Lan, "link": Link, "service": Service}
TABLES |= {"routing": Instance, "datapath": DatapathSettings, "ownership": Ownership}
TABLES |= {"arbiter": Arbiter, "timing": Timing, "metrics": Metrics, "hooks": Hooks}

_ENDPOINT = re.compile(r"https?://[^/\s?#@]+:[0-9]{1,5}")


_SCHEMA = Schema(TABLES, "docs/configuration.md", DEPRECATED)


def load(path: Path = DEFAULT_PATH) -> Config:
    """Read and check the configuration; interfaces are called by their own names in it.

    Raises:
        ConfigError: one line that names the file, the key, what is wrong and what to do.
    """
    return schemas.load(path, lambda text: _with_own_names(parse(text)))


def parse(text: str) -> Config:
    """Check the configuration in ``text``.

    Raises:
        ConfigError: as load(), without the file's name.
    """
    config = _SCHEMA.parse(text, Config)
    if not _has(tomllib.loads(text), "timing.probe_ms") and not _fits_probes(config.timing):
        config = replace(config, timing=replace(config.timing, probe_ms=0))
    _check(config)
    return config


def _fits_probes(timing: Timing) -> bool:
    """Whether they can be sent by default: a pair that had none yet goes on as it was."""
    return 2 * timing.probe_ms < timing.dead_ms < timing.suspect_ms < timing.hung_ms


def schema() -> Iterator[Key]:
    """Every key of the file, in order, for documentation and messages."""
    return _SCHEMA.keys()


def deprecations(path: Path) -> list[str]:
    """What of a file that load() accepts will be refused by the next version, and what to do."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        f"{path}: {key}: deprecated since {found.since}, and gone in the next version; "
        + found.remedy
        for key, found in DEPRECATED.items()
        if _has(document, key)
    ]


def _has(document: dict[str, Any], key: str) -> bool:
    table, _, name = key.rpartition(".")
    place = document.get(table, {}) if table else document
    return any(name in one for one in (place if isinstance(place, list) else [place]))


Section = TypeVar("Section", Lan, Link, Instance)


def _with_own_names(config: Config) -> Config:
    """An alternative name finds an interface, too (ip-link(8)), but /proc/sys knows none."""

    def named(section: Section) -> Section:
        return replace(section, interface=_own_name(section.interface))

    return replace(
        config,
        lan=named(config.lan),
        link=named(config.link),
        routing=[named(instance) for instance in config.routing],
    )


def _own_name(interface: str) -> str:
    try:
        return socket.if_indextoname(socket.if_nametoindex(interface))
    except OSError:  # there is none: who needs it says so
        return interface


def _check(config: Config) -> None:
    """What the types alone do not say."""
    timing = config.timing
    _require(
        timing.lease_ms * 2 <= timing.suspect_ms,
        "timing.suspect_ms: must be at least twice timing.lease_ms",
    )
    _require(
        timing.suspect_ms < timing.takeover_ms,
        "timing.takeover_ms: must be greater than timing.suspect_ms",
    )
    _require(
        2 * timing.probe_ms < timing.dead_ms < timing.suspect_ms or not timing.probe_ms,
        "timing.dead_ms: must be greater than twice timing.probe_ms, and less than "
        "timing.suspect_ms",
    )
    _require(
        timing.suspect_ms < timing.hung_ms or not timing.probe_ms,
        "timing.hung_ms: must be greater than timing.suspect_ms",
    )
    _require(
        timing.takeover_ms < timing.hold_ms,
        "timing.hold_ms: must be greater than timing.takeover_ms, or two nodes could speak at once",
    )
    _require(
        config.link.local.version == config.link.remote.version,
        "link.remote: is not of the same IP version as link.local; give both the same",
    )
    pairs = (
        ("link.remote", config.link.local, config.link.remote),
        ("lan.peer_address", config.lan.address, config.lan.peer_address),
        ("lan.peer_address6", config.lan.address6, config.lan.peer_address6),
    )
    for key, own, other in pairs:
        _require(own is None or own != other, f"{key}: is this node's own; give the other node's")
    _require(
        (config.lan.address6 is None) == (config.lan.peer_address6 is None),
        "lan.address6: give it together with lan.peer_address6, or neither",
    )
    commands = {
        "ownership.fence_command": config.ownership.fence_command,
        "hooks.role": config.hooks.role,
        "hooks.safety": config.hooks.safety,
        "hooks.lost": config.hooks.lost,
    }
    for key, command in commands.items():
        _require(
            not command or command[0].startswith("/"),
            f"{key}: give the program's whole path: it is run without a shell",
        )
    _check_mirror(config)
    _check_witnesses(config)
    _check_arbiter(config)
    _check_services(config)
    _check_routing(config)
    _check_metrics(config)


def _check_mirror(config: Config) -> None:
    if config.mode != "mirror":
        return
    _require(
        config.link.interface not in config.interfaces,
        'mode: "mirror" needs a cable of the pair\'s own, but link.interface is one towards peers; '
        'give the link another interface, or take "kernel"',
    )
    _require(
        config.nack == "drop",
        'nack: must be "drop" with mode = "mirror": what went by the cable is not here to be sent '
        "again",
    )


def _check_witnesses(config: Config) -> None:
    lan = config.lan
    taken = {lan.address, lan.peer_address, lan.address6, lan.peer_address6}
    taken |= {address for service in config.service for address in service.addresses}
    _require(
        len(lan.witnesses) <= WITNESSES_MAX,
        f"lan.witnesses: {len(lan.witnesses)} of them; at most {WITNESSES_MAX} are asked",
    )
    for address in lan.witnesses:
        _require(
            address not in taken,
            f"lan.witnesses: {address} is the pair's own; name a machine that is neither node",
        )
        _require(
            lan.witnesses.count(address) == 1,
            f"lan.witnesses: {address} is named twice; remove one",
        )
        _require(
            lan.address6 is not None or isinstance(address, IPv4Address),
            f"lan.witnesses: {address} cannot be asked without lan.address6; give that, too",
        )


def _check_arbiter(config: Config) -> None:
    arbiter, timing = config.arbiter, config.timing
    if arbiter.endpoints is None:
        return
    _require(
        0 < len(arbiter.endpoints) <= ARBITERS_MAX,
        f"arbiter.endpoints: give at least one, and at most {ARBITERS_MAX}",
    )
    for endpoint in arbiter.endpoints:
        _require(
            _ENDPOINT.fullmatch(endpoint) is not None
            and int(endpoint.rpartition(":")[2]) <= PORT_MAX,
            f"arbiter.endpoints: {endpoint!r} is no URL of a member; give one as "
            "http://10.0.0.11:2379",
        )
    schemes = {endpoint.partition(":")[0] for endpoint in arbiter.endpoints}
    _require(len(schemes) == 1, "arbiter.endpoints: give all of them http, or all https")
    _require(
        arbiter.pair is not None, "arbiter.pair: is missing; name the pair, alike on both nodes"
    )
    _require(
        (arbiter.certificate is None) == (arbiter.private_key is None),
        "arbiter.certificate: give it together with arbiter.private_key, or neither",
    )
    _require(
        arbiter.is_tls or (arbiter.ca is None and arbiter.certificate is None),
        "arbiter.ca: the members are asked in clear; give https endpoints, or remove the files",
    )
    _require(
        config.policy == "continue",
        "policy: with an arbiter there is nothing to stop for; remove policy, or [arbiter]",
    )
    _require(
        not config.ownership.fence_command or arbiter.policy == "continue",
        "ownership.fence_command: there is no lease for it to come after; remove it, or [arbiter]",
    )
    _require(
        arbiter.policy == "stop" or timing.suspect_ms + arbiter.timeout_ms < timing.takeover_ms,
        "arbiter.timeout_ms: with arbiter.policy continue, less than timing.takeover_ms - "
        "timing.suspect_ms, or the lease is over before the store counts as unreached",
    )


def _check_services(config: Config) -> None:
    names = [service.name for service in config.service]
    addresses = [(s.instance, address) for s in config.service for address in s.addresses]
    own = {config.lan.address, config.lan.peer_address, config.link.local, config.link.remote}
    own |= {config.lan.address6 or config.lan.address}
    own |= {config.lan.peer_address6 or config.lan.address}
    for name in names:
        _require(names.count(name) == 1, f"service.name: {name!r} is used twice; rename one")
    for instance, address in addresses:
        _require(
            addresses.count((instance, address)) == 1,
            f"service.addresses: {address} is used twice; remove one",
        )
        _require(
            bool(instance) or address not in own,
            f"service.addresses: {address} is a node's own address; give one that can move",
        )
    _require(
        len(addresses) <= ADDRESSES_MAX,
        f"service.addresses: {len(addresses)} of them; at most {ADDRESSES_MAX} are possible",
    )


def _check_routing(config: Config) -> None:
    names, interfaces = list(config.lifs), config.interfaces
    _require(
        len(names) == len(interfaces), "routing.name: a name is used twice; rename one of them"
    )
    for interface in interfaces:
        _require(
            interfaces.count(interface) == 1,
            f"routing.interface: {interface} is used twice; each needs one of its own",
        )
    for service in config.service:
        _require(
            service.instance in names,
            f"service.instance: there is no [[routing]] of the name {service.instance!r}; add one",
        )


def _check_metrics(config: Config) -> None:
    listen = config.metrics.listen
    if listen is None:
        return
    try:
        address, port = parse_endpoint(listen)
    except UsageError as error:
        raise ConfigError(f"metrics.listen: {error}") from error
    _require(
        not (address.is_unspecified or address.is_multicast),
        f"metrics.listen: {address} is no address of this node's; give one, such as 127.0.0.1",
    )
    _require(
        all(address not in service.addresses for service in config.service),
        f"metrics.listen: {address} is a service address, which moves; give one of this node's own",
    )
    _require(
        (address, port) != (config.link.local, config.link.port),
        "metrics.listen: is the link's own port; give another",
    )


def _require(good: bool, message: str) -> None:
    if not good:
        raise ConfigError(message)
