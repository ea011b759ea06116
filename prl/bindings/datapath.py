"""The datapath of one node, as the control plane steers it (userspace/api/datapath.h)."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address
from typing import Any, Self

import msgspec

from prl.bindings.facts import (
    Arbiter,
    EventHead,
    Fenced,
    FlowFlag,
    Message,
    Owner,
    Primary,
    Refused,
    Secondary,
    Status,
)
from prl.bindings.native import ffi, lib, text_of, to_dict
from prl.bindings.programs import Kernel, mode_number
from prl.bindings.tls import Channel
from prl.bindings.wire import MESSAGE_MAX_BYTES
from prl.config import Config
from prl.endpoint import (
    ANY_PEER,
    INSTANCE_MARK,
    OPENS_TO,
    UDP_PREFIX,
    Address,
    mapped,
    parse_endpoint,
    show_endpoint,
    unmapped,
    unspecified,
)
from prl.errors import KernelError, PrlError, UsageError
from prl.kernel.features import Mode

INPUT_PACKETS_MAX = 4096
"""Most packets that one flow may have in prld's hands, each way (SPEC R4)."""
INPUT_BYTES_MAX = 16 << 20
RELAY_QUIET_NS = 5_000_000
"""An old owner that has seen the claim and gets no input for so long relays no more (SPEC R21)."""
RELAY_MAX_NS = 100_000_000
"""How long input is relayed, and waits behind what is relayed, at most."""
DOUBT_PROBE_NS = 1_000_000_000
"""How often an address is probed while it is unknown whether the other node took it."""
NACK_RETRIES_MAX = 64
"""How often one refused packet is sent again before replication of its flow ends (SPEC R5)."""


class UdpPath(IntEnum):
    """By which way datagrams go to the other node."""

    LAN = lib.PRL_PROBE_LAN
    LINK = lib.PRL_PROBE_LINK


class DatapathError(PrlError):
    """A call of the datapath was refused; ``errno`` says why."""

    def __init__(self, what: str, code: int) -> None:
        self.errno = abs(code)
        super().__init__(f"{what}: {os.strerror(self.errno)}")


def _refused(prepared: "Prepared", code: int) -> DatapathError:
    what = f"{prepared.spec.ends}: set-up refused"
    if code == -errno.ENOSPC:
        what += ", as many sessions as flows_max allows are protected (raise it on both nodes)"
    return DatapathError(what, code)


@dataclass(frozen=True, slots=True)
class Event(EventHead):
    """One event of the datapath, with what stands behind it."""

    body: bytes = b""

    @property
    def text(self) -> str:
        """The body in words (LINK_DOWN, ALARM)."""
        return self.body.rstrip(b"\0").decode("utf-8", "replace")


class Tuple(msgspec.Struct, frozen=True, gc=False):
    """A session's two ends; ``local`` is ours."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int
    proto: int = socket.IPPROTO_TCP
    """IPPROTO_TCP or IPPROTO_UDP."""
    instance: str = ""
    """Name of its routing instance; empty: the network of [lan]."""

    def __str__(self) -> str:
        return f"{self.service_end} <-> {self.peer_end}"

    @property
    def is_udp(self) -> bool:
        """Whether it is a UDP flow."""
        return self.proto == socket.IPPROTO_UDP

    @property
    def is_unconnected(self) -> bool:
        """Whether it is a UDP socket without a peer of its own; ``remote`` says nothing then."""
        return self.is_udp and self.remote_port == 0

    @property
    def peer_end(self) -> str:
        """The peer's end in words; ``*``: anybody's."""
        return ANY_PEER if self.is_unconnected else show_endpoint(self.remote, self.remote_port)

    @property
    def service_end(self) -> str:
        """Our end, as applications offer themselves for it.

        ``udp:`` stands in front for UDP, ``@`` and the routing instance behind.
        """
        where = INSTANCE_MARK + self.instance if self.instance else ""
        return UDP_PREFIX * self.is_udp + show_endpoint(self.local, self.local_port) + where

    @property
    def offers(self) -> frozenset[str]:
        """All that an application may have offered itself for, to be given this one (R32)."""
        where = INSTANCE_MARK + self.instance if self.instance else ""
        opened = f"{self.local}{OPENS_TO}{show_endpoint(self.remote, self.remote_port)}"
        return frozenset({self.service_end, UDP_PREFIX * self.is_udp + opened + where})


@dataclass(frozen=True, slots=True)
class Offered:
    """What an application waits for: TCP sessions by our end, or by the peer's if we open (R32)."""

    local: Address
    local_port: int
    """0: any, of what we open."""
    remote: Address | None
    """None: any, of what peers open."""
    remote_port: int
    instance: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of str(), and of Tuple.offers. Raises UsageError: also of UDP's."""
        ends, _, instance = text.partition(INSTANCE_MARK)
        own, opens, peer = ends.partition(OPENS_TO)
        if not opens:
            return cls(*parse_endpoint(ends), None, 0, instance)
        try:
            return cls(ip_address(own), 0, *parse_endpoint(peer), instance)
        except ValueError as error:
            raise UsageError(f"bad endpoint {text!r:.100}: {error}") from error

    def __str__(self) -> str:
        if self.remote is None:
            ends = show_endpoint(self.local, self.local_port)
        else:
            ends = f"{self.local}{OPENS_TO}{show_endpoint(self.remote, self.remote_port)}"
        return ends + (INSTANCE_MARK + self.instance if self.instance else "")


@dataclass(frozen=True, slots=True)
class Replay:
    """What had ended before the snapshot, and happens to the shadow again: prl_flow_spec.replay."""

    peer_ended: bool
    own_ended: bool
    own_end_acked: bool
    peer_seq: int
    """The peer's next sequence number; its FIN's, if it has ended."""
    peer_window: int


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """What the datapath must know of a session; members as in struct prl_flow_spec."""

    ends: Tuple
    fd: int
    mss: int
    rcv_wscale: int
    snd_wscale: int
    timestamps: bool
    handle: int = 0
    generation: int = 0
    committed: int = 0
    congestion: str = ""
    md5_key: bytes = field(default=b"", repr=False)
    replay: Replay | None = None
    hash_output: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A FlowSpec as the datapath takes it."""

    spec: FlowSpec
    wanted: Any
    """struct prl_flow_spec."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A set-up that has begun."""

    handle: int
    generation: int
    at_ns: int
    """Its input waits since then, on CLOCK_BOOTTIME."""


@dataclass(frozen=True, slots=True)
class Ready:
    """How a socket that is ready for its moment was made: struct prl_ready."""

    remote: bytes
    """struct sockaddr."""
    negotiated: int
    """Bits of TCP_INFO's options."""
    rcvbuf_bytes: int
    sndbuf_bytes: int

    def native(self) -> Any:
        """The C structure."""
        made = ffi.new("struct prl_ready *")
        ffi.buffer(made.remote)[: len(self.remote)] = self.remote
        made.remote_bytes, made.negotiated = len(self.remote), self.negotiated
        made.rcvbuf_bytes, made.sndbuf_bytes = self.rcvbuf_bytes, self.sndbuf_bytes
        return made


@dataclass(frozen=True, slots=True)
class Sent:
    """A moment that was sent."""

    segs_in: int
    committed: int


@dataclass(frozen=True, slots=True)
class Rest:
    """What moves of a connection that is at rest."""

    moment: Any
    """A struct prl_moment."""
    segs_in: int

    @property
    def is_new(self) -> bool:
        """Whether the peer has not said anything yet."""
        return not self.moment.in_bytes


@dataclass(frozen=True, slots=True)
class FlowInfo:
    """One flow as the datapath and the kernel see it."""

    handle: int
    generation: int
    ends: Tuple
    is_secondary: bool
    state: int
    reason: int
    flags: FlowFlag
    in_seq: int
    in_acked: int
    out_seq: int
    out_acked: int
    held_packets: int
    held_bytes: int
    own_edge: int
    peer_edge: int
    out_bytes: int
    out_hash: int
    socket: dict[str, int]
    counters: dict[str, int]

    @property
    def state_name(self) -> str:
        """The state in one lower-case word."""
        kind = Secondary if self.is_secondary else Primary
        return kind(self.state).name.lower()


@dataclass(frozen=True, slots=True)
class Note:
    """What is kept of a session to which nothing happens: struct prl_note."""

    kind: int
    in_offset: int = 0
    out_offset: int = 0
    extra: int = 0
    since_s: int = 0


@dataclass(frozen=True, slots=True)
class Noted:
    """A note, with what the datapath knows by itself: struct prl_noted."""

    handle: int
    generation: int
    ends: Tuple
    service: int
    note: Note


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """How long packets were held (userspace/core/hold.h)."""

    sum_s: float
    buckets: tuple[int, ...]
    """How many were held for less than each of HOLD_BOUNDS_S, and not less than the one before;
    the last one: all others."""


HOLD_BOUNDS_S = tuple(
    2.0 ** (lib.PRL_HOLD_FIRST_BIT + bucket) / 1e9 for bucket in range(lib.PRL_HOLD_BUCKETS - 1)
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the datapath has counted of itself: struct prl_dp_figures."""

    held_in: HoldTimes
    held_out: HoldTimes
    owner: dict[str, int]
    """What struct prl_owner counts."""

    @classmethod
    def of(cls, struct: Any) -> Self:
        """Read cffi's structure."""
        return cls(_held(struct.held_in), _held(struct.held_out), to_dict(struct))


@dataclass(frozen=True, slots=True)
class LogicalInterface:
    """One interface towards peers."""

    name: str
    ifindex: int
    mac: bytes
    queues: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A machine on the LAN that peers' packets come from."""

    address: Address
    mac: bytes
    lif: int = 0


class Datapath:
    """One node's datapath. run() blocks in its own thread; every other call is short.

    Takes ``lan_fd``, ``inject_fd`` and ``hold_fd`` over. ``adopted``: services that this node owns
    from the first moment on.

    Raises:
        KernelError: it could not be set up; the message says why.
    """

    def __init__(
        self,
        config: Config,
        kernel: Kernel,
        interfaces: Sequence[LogicalInterface],
        *,
        lan_fd: int,
        inject_fd: int,
        hold_fd: int,
        mode: Mode,
        adopted: frozenset[int] = frozenset(),
    ) -> None:
        self._lifs = config.lifs
        self._instances = {number: name for name, number in config.lifs.items()}
        wanted = ffi.new("struct prl_dp_config *")
        wanted.node_index = config.index
        wanted.flows_max = config.flows_max
        wanted.mode = mode_number(mode)
        wanted.poll_mode = getattr(lib, f"PRL_POLL_{config.datapath.polling.upper()}")
        wanted.poll_ns = config.datapath.poll_us * 1000
        _fill_timing(wanted, config)
        wanted.lifs = len(interfaces)
        for position, interface in enumerate(interfaces):
            lif = wanted.lif[position]
            lif.name = interface.name.encode()
            lif.ifindex = interface.ifindex
            lif.mac = interface.mac
            lif.queues = interface.queues
        addresses = [
            (number, self._lifs[service.instance], address)
            for number, service in enumerate(config.service)
            for address in service.addresses
        ]
        wanted.adopted = sum(1 << service for service in adopted)
        wanted.addresses = len(addresses)
        for position, (number, lif, address) in enumerate(addresses):
            wanted.address[position].service = number
            wanted.address[position].lif = lif
            ffi.buffer(wanted.address[position].addr)[:] = mapped(address)
        for position, own in enumerate((config.lan.address, config.lan.address6)):
            if own is not None:
                ffi.buffer(wanted.own_addr[position])[:] = mapped(own)
        wanted.witnesses = len(config.lan.witnesses)
        for position, witness in enumerate(config.lan.witnesses):
            ffi.buffer(wanted.witness[position])[:] = mapped(witness)
        wanted.lan_fd, wanted.inject_fd, wanted.hold_fd = lan_fd, inject_fd, hold_fd
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        self._kernel: Any = kernel.pointer
        self._dp: Any = lib.prl_dp_open(wanted, self._kernel, error)
        if self._dp == ffi.NULL:
            raise KernelError(text_of(error))
        self._body: Any = ffi.new("uint8_t[]", MESSAGE_MAX_BYTES)
        self._event: Any = ffi.new("struct prl_event *")
        self._noted: Any = ffi.new("struct prl_noted *")

    # -- the loop

    def run(self) -> None:
        """Run the loop until stop(). Raises DatapathError when it ends for another reason."""
        _check(lib.prl_dp_run(self._dp), "the datapath stopped")

    def stop(self) -> None:
        """Let run() return."""
        lib.prl_dp_stop(self._dp)

    def close(self) -> None:
        """Free everything; run() must have returned."""
        if self._dp != ffi.NULL:
            lib.prl_dp_close(self._dp)
            self._dp = ffi.NULL

    def event_fd(self) -> int:
        """Readable while events wait."""
        return int(lib.prl_dp_event_fd(self._dp))

    def next_event(self) -> Event | None:
        """The oldest event, None when there is none."""
        event = self._event
        if lib.prl_dp_event(self._dp, event, self._body, MESSAGE_MAX_BYTES) <= 0:
            return None
        return Event.of(event, body=bytes(ffi.buffer(self._body, event.body_bytes)))

    # -- the link

    def link_attach(self, fd: int) -> None:
        """Take a connected stream socket over. Raises DatapathError (EBUSY: there is one)."""
        _check(lib.prl_dp_link_attach(self._dp, fd), "the link's connection was refused")

    def link_attach_tls(self, channel: Channel) -> None:
        """The same for a connection whose handshake is done; closed if it is refused."""
        tls = channel.release()
        if err := lib.prl_dp_link_attach_tls(self._dp, tls):
            lib.prl_tls_close(tls)
            _check(err, "the link's connection was refused")

    def link_hello(self) -> None:
        """Give up what the old epoch allowed; to be called before HELLO is sent (SPEC L10).

        Raises DatapathError: there is no connection that waits for it, and nothing was given up.
        """
        _check(lib.prl_dp_link_hello(self._dp), "HELLO cannot be said")

    def link_up(
        self, epoch: int, capabilities: int, lan_key: bytes, own_token: bytes, peer_token: bytes
    ) -> None:
        """Begin an epoch: both HELLOs agree. Raises DatapathError."""
        _check(
            lib.prl_dp_link_up(self._dp, epoch, capabilities, lan_key, own_token, peer_token),
            "no new epoch",
        )

    def mirror(self) -> bool:
        """Have long packets go by the cable from now on; False: the link is lost again."""
        return int(lib.prl_dp_mirror(self._dp)) == 0

    def link_drop(self, why: str) -> None:
        """Give the connection up."""
        lib.prl_dp_link_drop(self._dp, why.encode()[:200])

    def link_rtt_ns(self) -> int:
        """The link's round trip, of the newest LEASE that was echoed."""
        return int(lib.prl_dp_link_rtt_ns(self._dp))

    def send(
        self,
        kind: Message,
        tlvs: bytes = b"",
        *,
        handle: int = 0,
        generation: int = 0,
        space: int = 0,
        reason: int = 0,
        bits: int = 0,
        versions: tuple[int, int] = (0, 0),
        node_index: int = 0,
    ) -> None:
        """Send a control message. Raises DatapathError (ENOTCONN, ENOBUFS)."""
        message = ffi.new("struct prl_msg *")
        message.type = kind
        message.handle = handle
        message.generation = generation
        message.space = space
        message.reason = reason
        message.bits = bits
        message.version_min, message.version_max = versions
        message.node_index = node_index
        source = ffi.from_buffer(tlvs) if tlvs else ffi.NULL
        _check(
            lib.prl_dp_link_send(self._dp, message, source, len(tlvs)),
            f"{kind.name} could not be sent",
        )

    # -- services

    def service_set(self, service: int, state: Owner) -> None:
        """Set what this node is for a service. Raises DatapathError."""
        _check(lib.prl_dp_service_set(self._dp, service, state), "the role was not set")

    def service_state(self, service: int) -> Owner:
        """What this node is for a service. Raises DatapathError."""
        return Owner(_check(lib.prl_dp_service_state(self._dp, service), "no such service"))

    def term(self, service: int) -> int:
        """How often a service has changed hands, as far as this node knows; outlives prld."""
        return int(lib.prl_dp_term(self._dp, service))

    def raise_term(self, service: int, term: int) -> None:
        """It has changed hands so often; less than is known changes nothing."""
        lib.prl_dp_term_raise(self._dp, service, term)

    def takeover(self, service: int, *, fenced: Fenced = Fenced.NOT) -> Refused:
        """Take a service over now; NOT when done, or why not. Raises DatapathError."""
        return Refused(_check(lib.prl_dp_takeover(self._dp, service, fenced), "take-over failed"))

    def unanswered(self, probed_ns: int) -> bool:
        """Let a silent owner speak: nobody answered probes sent since ``probed_ns`` (SPEC L6).

        False when that is not enough: the LAN was not heard since, or the lease still lasts.
        """
        return bool(lib.prl_dp_unanswered(self._dp, probed_ns))

    def policy(self, *, stop: bool) -> None:
        """The policy that both nodes agreed (SPEC L5); before link_up()."""
        lib.prl_dp_policy(self._dp, stop)

    def carrier(self, *, has: bool) -> None:
        """Whether the interface of [lan] has a carrier (SPEC L11)."""
        lib.prl_dp_carrier(self._dp, has)

    def arbitrated(self, round_number: int, state: Arbiter) -> None:
        """Hand the arbiter's answer down (SPEC L12); WON, LOST or UNREACHED."""
        lib.prl_dp_arbitrated(self._dp, round_number, state)

    def udp(self, path: UdpPath, fd: int) -> None:
        """The socket of a way to the other node from now on; taken over. Raises DatapathError."""
        _check(lib.prl_dp_udp(self._dp, path, fd), f"{path.name.lower()}: no socket")

    def neighbours(self, found: Sequence[Neighbour]) -> None:
        """Whom to ask for evidence and to tell of claims; those beyond the limit are left out."""
        wanted = found[: lib.PRL_DP_NEIGHBOURS_MAX]
        raw = ffi.new("struct prl_dp_neighbour[]", max(len(wanted), 1))
        for entry, neighbour in zip(raw, wanted, strict=False):
            ffi.buffer(entry.addr)[:] = mapped(neighbour.address)
            entry.mac = neighbour.mac
            entry.lif = neighbour.lif
        lib.prl_dp_neighbours(self._dp, raw, len(wanted))

    def renounce(self, service: int) -> None:
        """Give a service up for the other node. Raises DatapathError."""
        _check(lib.prl_dp_renounce(self._dp, service), "the service was not renounced")

    def switchover(self, service: int, *, forced: bool) -> int:
        """Begin a planned move (SPEC R21); 0, and Moved events follow, or a Reason.

        Raises DatapathError.
        """
        return _check(lib.prl_dp_switchover(self._dp, service, forced), "switchover failed")

    def switchover_asked(
        self, service: int, *, forced: bool, asked_ns: int, strangers: int
    ) -> None:
        """Answer MOVE_ASKED: the move would lose so many sessions that no flow here has.

        Raises DatapathError.
        """
        result = lib.prl_dp_switchover_asked(self._dp, service, forced, asked_ns, strangers)
        _check(result, "switchover failed")

    def switchover_resolve(self, service: int, *, taken: bool, by_hello: bool = False) -> bool:
        """Say who has a service that was given away; False: the other's lease may last yet."""
        result = lib.prl_dp_switchover_resolve(self._dp, service, taken, by_hello)
        return bool(result == 0)

    def is_given(self, service: int) -> bool:
        """Whether the service was given to the other node, which has not spoken yet."""
        return bool(lib.prl_dp_is_given(self._dp, service) == 1)

    # -- flows

    def prepare(self, spec: FlowSpec) -> "Prepared":
        """Ready for primary_setup(): nothing is left to do while the session stands still."""
        return Prepared(spec, _spec(spec, self._lifs))

    def await_sessions(self, offered: "Offered", wait_s: float) -> None:
        """New sessions of the endpoint wait so long to be protected; 0: they do not.

        Raises DatapathError.
        """
        key = ffi.new("struct prl_flow_key *")
        ffi.buffer(key.local)[:] = mapped(offered.local)
        if offered.remote is not None:
            ffi.buffer(key.remote)[:] = mapped(offered.remote)
        key.local_port = socket.htons(offered.local_port)
        key.remote_port = socket.htons(offered.remote_port)
        key.proto, key.lif = socket.IPPROTO_TCP, self._lifs[offered.instance]
        if err := lib.prl_dp_await(self._dp, key, int(wait_s * 1e9)):
            raise DatapathError(f"sessions of {offered} cannot be awaited", err)

    def primary_setup(self, prepared: "Prepared", deadline_ns: int) -> "Begun":
        """Gate, redirect and hold, for so long at most. Raises DatapathError."""
        wanted = prepared.wanted
        wanted.setup_ns = deadline_ns
        if err := lib.prl_dp_primary_setup(self._dp, wanted):
            raise _refused(prepared, err)
        return Begun(int(wanted.handle), int(wanted.generation), int(wanted.begun_ns))

    def primary_prepare(self, prepared: "Prepared") -> tuple[int, int]:
        """Enter the flow, open; returns handle and generation of the snapshot to come.

        Raises DatapathError (ENOTSUP: of a session whose input is in prld's hands).
        """
        wanted = prepared.wanted
        if err := lib.prl_dp_primary_prepare(self._dp, wanted):
            raise _refused(prepared, err)
        return int(wanted.handle), int(wanted.generation)

    def primary_moment(
        self,
        handle: int,
        generation: int,
        in_offset: int,
        out_offset: int,
        application: bytes | None,
        *,
        at_rest: bool = False,
    ) -> Sent | None:
        """Copy what moves of a session in set-up and send it: the answer activates the flow.

        The offsets lead from the socket's counters to its streams. None: nothing was sent; the
        whole snapshot may still be. ``at_rest``: only if it is (at_rest()), for its program runs.
        """
        wanted = ffi.new("struct prl_moment_spec *")
        wanted.handle, wanted.generation = handle, generation
        wanted.in_offset, wanted.out_offset, wanted.at_rest = in_offset, out_offset, at_rest
        source = ffi.from_buffer(application or b"")  # must live until the call
        wanted.application, wanted.application_bytes = source, len(source)
        counts, committed = ffi.new("struct prl_moment_counts *"), ffi.new("uint32_t *")
        if lib.prl_dp_primary_moment(self._dp, wanted, counts, committed):
            return None
        return Sent(int(counts.segs_in), int(committed[0]))

    def secondary_prepare(self, spec: FlowSpec, ready: Ready) -> None:
        """``spec.fd`` is ready for its moment, and stays the caller's until RESTORED tells of it.

        Raises DatapathError (ENOSPC: too many are under way).
        """
        wanted = _spec(spec, self._lifs)
        _check(
            lib.prl_dp_secondary_prepare(self._dp, wanted, ready.native()),
            f"{spec.ends}: the shadow was refused",
        )

    def secondary_unprepare(self, handle: int, generation: int) -> bool:
        """Undo that; False: its moment has come, and RESTORED is under way."""
        return bool(lib.prl_dp_secondary_unprepare(self._dp, handle, generation) == 0)

    def flow_adopt(self, handle: int) -> int:
        """Give a shadow that took over a handle of this node's own. Raises DatapathError."""
        own = ffi.new("uint32_t *")
        _check(lib.prl_dp_flow_adopt(self._dp, handle, own), f"flow {handle:#x}: not adopted")
        return int(own[0])

    def primary_activate(
        self, handle: int, generation: int, committed: int, peer_edge: int
    ) -> None:
        """R7: what waited goes the normal path. Raises DatapathError."""
        _check(
            lib.prl_dp_primary_activate(self._dp, handle, generation, committed, peer_edge),
            f"flow {handle:#x}: not activated",
        )

    def primary_fail(self, handle: int, reason: int) -> None:
        """Replication of the flow is over; the session goes on. Raises DatapathError."""
        _check(lib.prl_dp_primary_fail(self._dp, handle, reason), f"flow {handle:#x}: not opened")

    def secondary_open(self, spec: FlowSpec) -> int:
        """Take a shadow in; returns the right edge for SETUP_DONE. Raises DatapathError."""
        space = ffi.new("uint32_t *")
        _check(
            lib.prl_dp_secondary_open(self._dp, _spec(spec, self._lifs), space),
            f"{spec.ends}: the shadow was refused",
        )
        return int(space[0])

    def secondary_void(self, handle: int, reason: int) -> None:
        """This shadow is never to speak. Raises DatapathError."""
        _check(lib.prl_dp_secondary_void(self._dp, handle, reason), f"flow {handle:#x}: not voided")

    def flow_close(self, handle: int) -> None:
        """Forget a flow; one that is unknown is no error."""
        lib.prl_dp_flow_close(self._dp, handle)

    def flow_of(self, ends: Tuple) -> int:
        """The handle of the flow with these ends; 0 when there is none."""
        key = ffi.new("struct prl_flow_key *")
        _fill_key(key, ends, self._lifs)
        return int(lib.prl_dp_flow_of(self._dp, key))

    def flow_socket(self, handle: int) -> socket.socket:
        """A duplicate of a flow's socket, to be closed soon. Raises DatapathError.

        The datapath's own is the only descriptor that a session takes for long.
        """
        return socket.socket(fileno=self._flow_fd(handle))

    @contextlib.contextmanager
    def flow_descriptor(self, handle: int) -> Iterator[int]:
        """The same for as long as it is wanted, without an object of Python's."""
        fd = self._flow_fd(handle)
        try:
            yield fd
        finally:
            os.close(fd)

    def _flow_fd(self, handle: int) -> int:
        fd = lib.prl_dp_flow_socket(self._dp, handle)
        if fd < 0:
            _check(fd, f"flow {handle:#x}: its socket is not here")
        return int(fd)

    def references(self, prepared: "Prepared") -> int:
        """How many references there are to the TCP socket of what primary_setup() is to be called.

        One for each descriptor, of whatever process, those of prld included; for each that is on
        its way in a message; for each that an io_uring keeps. Raises DatapathError: not found.
        """
        wanted, spec = prepared.wanted, prepared.spec
        count = lib.prl_kernel_references(self._kernel, ffi.addressof(wanted, "key"), spec.fd)
        if count < 0:  # not _check(): the words take longer than all the rest
            raise DatapathError(f"{spec.ends}: its socket was not found", count)
        return int(count)

    def at_rest(self, prepared: "Prepared") -> Rest | None:
        """What moves of that socket while nothing is under way: it needs no repair mode.

        None: something is, or it is not found.
        """
        key, fd = ffi.addressof(prepared.wanted, "key"), prepared.spec.fd
        moment, counts = ffi.new("struct prl_moment *"), ffi.new("struct prl_moment_counts *")
        if lib.prl_kernel_rest(self._kernel, key, fd, moment, counts):
            return None
        return Rest(moment, int(counts.segs_in))

    def is_filtered(self, prepared: "Prepared") -> bool:
        """Whether that socket has a filter of somebody else's; not where it is not found."""
        wanted, fd = prepared.wanted, prepared.spec.fd
        return bool(lib.prl_kernel_is_filtered(self._kernel, ffi.addressof(wanted, "key"), fd) == 1)

    def flow_has_hole(self, handle: int) -> bool:
        """Whether the flow's socket has segments behind one that is missing, as far as is known."""
        return bool(lib.prl_dp_flow_has_hole(self._dp, handle) > 0)

    def flow_orphan(self, handle: int) -> None:
        """Give our duplicate of a primary's socket up. Raises DatapathError."""
        _check(lib.prl_dp_flow_orphan(self._dp, handle), f"flow {handle:#x}: its socket is kept")

    def flow_handles(self, capacity: int) -> list[int]:
        """The handles of at most ``capacity`` flows."""
        handles = ffi.new("uint32_t[]", max(capacity, 1))
        count = min(lib.prl_dp_flow_handles(self._dp, handles, capacity), capacity)
        return [int(handle) for handle in handles[0:count]]

    def flow_page(self, after: int, count: int) -> list[int]:
        """The ``count`` lowest handles above ``after``, in their order."""
        handles = ffi.new("uint32_t[]", count)
        found = lib.prl_dp_flow_page(self._dp, after, handles, count)
        return [int(handle) for handle in handles[0:found]]

    def flow_ends(self, handle: int) -> Tuple | None:
        """The two ends of a flow; None when there is none of that handle."""
        key = ffi.new("struct prl_flow_key *")
        return None if lib.prl_dp_flow_key(self._dp, handle, key) else _ends(key, self._instances)

    def flow_info(self, handle: int) -> FlowInfo | None:
        """One flow; None when there is none of that handle."""
        info = ffi.new("struct prl_flow_info *")
        return (
            None if lib.prl_dp_flow_info(self._dp, handle, info) else _info(info, self._instances)
        )

    # -- notes

    def note(self, handle: int, note: Note) -> None:
        """Keep it with the flow, which is not forgotten before recall(). Raises DatapathError."""
        wanted = ffi.new("struct prl_note *")
        wanted.kind, wanted.since_s, wanted.extra = note.kind, note.since_s, note.extra
        wanted.in_offset, wanted.out_offset = note.in_offset, note.out_offset
        _check(lib.prl_dp_note(self._dp, handle, wanted), f"flow {handle:#x}: not noted")

    def recall(self, handle: int, *, shadow: bool) -> Noted | None:
        """What is noted of a flow in this role, which is not noted any more; None: nothing."""
        found = self._noted
        if lib.prl_dp_recall(self._dp, handle, shadow, found):
            return None
        note = found.note
        return Noted(
            int(found.handle),
            int(found.generation),
            _ends(found.key, self._instances),
            int(found.service),
            Note(note.kind, note.in_offset, note.out_offset, note.extra, note.since_s),
        )

    def notes(
        self, *, shadow: bool, kind: int = 0, former: int = 0
    ) -> Iterator[tuple[int, int, int]]:
        """Handle, service and kind of the flows in this role that something is noted of.

        ``kind``, ``former``: only what is of that kind, or had that handle as a shadow; 0: any.
        """
        looking = ffi.new("struct prl_notes *")
        looking.is_secondary, looking.kind, looking.former = shadow, kind, former
        while looking.slot != lib.PRL_SLOT_NONE:
            lib.prl_dp_notes(self._dp, looking)
            found = (looking.handle, looking.service, looking.of_kind)
            yield from zip(*(list(each[0 : looking.count]) for each in found), strict=True)

    def status(self) -> Status:
        """The node as a whole."""
        status = ffi.new("struct prl_dp_status *")
        lib.prl_dp_status(self._dp, status)
        return Status.of(status)

    def figures(self) -> Figures:
        """What it has counted of itself; cheap, unlike status(), whatever the number of flows."""
        found = ffi.new("struct prl_dp_figures *")
        lib.prl_dp_figures(self._dp, found)
        return Figures.of(found[0])

    def last_lan_ns(self) -> int:
        """When the other node's newest LAN heartbeat came (CLOCK_BOOTTIME); 0: never; cheap."""
        return int(lib.prl_dp_last_lan_ns(self._dp))


def _check(result: int, what: str) -> int:
    if result < 0:
        raise DatapathError(what, result)
    return int(result)


def _fill_timing(wanted: Any, config: Config) -> None:
    timing = config.timing
    owner = wanted.owner
    owner.lease_ns = timing.lease_ms * 1_000_000
    owner.suspect_ns = timing.suspect_ms * 1_000_000
    owner.takeover_ns = timing.takeover_ms * 1_000_000
    owner.hold_ns = timing.hold_ms * 1_000_000
    # A tick that comes this late has slept through messages that may have arrived (L3).
    owner.late_ns = timing.suspect_ms * 1_000_000 // 2
    owner.probe_ns = timing.probe_ms * 1_000_000
    owner.dead_ns = timing.dead_ms * 1_000_000
    owner.hung_ns = timing.hung_ms * 1_000_000
    owner.services = len(config.service)
    owner.policy_stop = config.policy == "stop"
    if config.arbiter.is_there:
        owner.arbiter.answer_ns = config.arbiter.timeout_ms * 1_000_000
        owner.arbiter.leases = config.arbiter.policy == "continue"
    limits = wanted.limits
    limits.packets_max = INPUT_PACKETS_MAX
    limits.bytes_max = INPUT_BYTES_MAX
    limits.answer_ns = timing.answer_ms * 1_000_000
    limits.retries_max = NACK_RETRIES_MAX
    limits.retry_ns = timing.retry_ms * 1_000_000
    move = wanted.move
    move.drain_ns = timing.switchover_ms * 1_000_000
    move.quiet_ns, move.relay_ns = RELAY_QUIET_NS, RELAY_MAX_NS
    move.probe_ns = DOUBT_PROBE_NS


def _fill_key(key: Any, ends: Tuple, lifs: dict[str, int]) -> None:
    ffi.buffer(key.local)[:] = mapped(ends.local)
    if not ends.is_unconnected:  # all zero, also for IPv4 (prl_abi.h)
        ffi.buffer(key.remote)[:] = mapped(ends.remote)
    key.local_port = socket.htons(ends.local_port)
    key.remote_port = socket.htons(ends.remote_port)
    key.proto = ends.proto
    key.lif = lifs[ends.instance]


def _spec(spec: FlowSpec, lifs: dict[str, int]) -> Any:
    wanted = ffi.new("struct prl_flow_spec *")
    _fill_key(wanted.key, spec.ends, lifs)
    wanted.handle = spec.handle
    wanted.generation = spec.generation
    wanted.mss = spec.mss
    wanted.rcv_wscale = spec.rcv_wscale
    wanted.snd_wscale = spec.snd_wscale
    wanted.committed = spec.committed
    wanted.timestamps = spec.timestamps
    wanted.hash_output = spec.hash_output
    wanted.fd = spec.fd
    wanted.congestion = spec.congestion.encode()[:15]
    if spec.replay is not None:
        wanted.replay = (
            lib.PRL_REPLAY_PEER_FIN * spec.replay.peer_ended
            | lib.PRL_REPLAY_OWN_FIN * spec.replay.own_ended
            | lib.PRL_REPLAY_OWN_FIN_ACK * spec.replay.own_end_acked
        )
        wanted.peer_seq, wanted.peer_window = spec.replay.peer_seq, spec.replay.peer_window
    wanted.md5.bytes = len(spec.md5_key)
    ffi.buffer(wanted.md5.key)[: len(spec.md5_key)] = spec.md5_key
    return wanted


def _ends(key: Any, instances: Mapping[int, str]) -> Tuple:
    local, remote = (unmapped(bytes(ffi.buffer(end))) for end in (key.local, key.remote))
    return Tuple(
        local,
        socket.ntohs(key.local_port),
        remote if key.remote_port else unspecified(local),
        socket.ntohs(key.remote_port),
        key.proto,
        instances[key.lif],
    )


def _info(info: Any, instances: Mapping[int, str]) -> FlowInfo:
    secondary = bool(info.is_secondary)
    side = info.secondary if secondary else info.primary
    queues = info.queues
    chains = (queues.in_pending, queues.in_held, queues.out_pending, queues.out_held)
    counters = {
        name: int(getattr(info, name))
        for name in (
            *("in_redirected", "in_passed", "in_dropped", "out_passed", "out_held_packets"),
            *("out_duplicates", "out_silenced", "gate_refused"),
        )
    }
    return FlowInfo(
        handle=info.handle,
        generation=info.generation,
        ends=_ends(info.key, instances),
        is_secondary=secondary,
        state=info.state,
        reason=info.reason,
        flags=FlowFlag(info.flags),
        in_seq=side.in_next,
        in_acked=0 if secondary else side.in_acked,
        out_seq=side.out_next,
        out_acked=0 if secondary else side.out_acked,
        held_packets=0 if secondary else sum(int(chain.count) for chain in chains),
        held_bytes=0 if secondary else sum(int(chain.bytes) for chain in chains),
        own_edge=side.announced_edge if secondary else side.own_edge,
        peer_edge=side.primary_edge if secondary else side.peer_edge,
        out_bytes=info.secondary.out_bytes if secondary else 0,
        out_hash=info.out_hash,
        socket=to_dict(info.sock),
        counters=to_dict(side.counters) | counters,
    )


def _held(times: Any) -> HoldTimes:
    return HoldTimes(int(times.sum_ns) / 1e9, tuple(int(count) for count in times.bucket))
