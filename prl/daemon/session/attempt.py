"""One attempt to protect a session (SPEC R17).

prepare … ready ─▶ set up in the datapath ─▶ moment ─▶ SETUP_DONE ─▶ active
     └─ cannot be ─▶ set up ─▶ snapshot ─▶ SETUP … ─▶ SETUP_DONE ─▶ active
  └───────────────────┴────────────┴────────┴─ refused, too late, link lost ─▶ open, with the reason

The session stands still from the set-up on; the program of one at rest (docs/tcp.md) runs on. A
newborn, which waits to be protected anyhow, goes the second way at once. What is prepared, an
established TCP connection with not too much in its queues, is then in the datapaths' hands alone,
from the copy to the activation.
"""

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from prl.bindings import wire
from prl.bindings.datapath import Datapath, DatapathError, Event, Prepared, Rest
from prl.bindings.facts import Capability, Message, Reason, Tlv
from prl.bindings.wire import Element
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host
from prl.daemon.link.link import Link
from prl.daemon.session import cloning, transfer
from prl.daemon.session.cloning import Frozen, Order
from prl.daemon.session.deadline import Deadline
from prl.daemon.session.limiter import Pace
from prl.daemon.session.sessions import Session
from prl.daemon.session.transfer import Setup, TransferError
from prl.errors import PrlError, ReplicationError
from prl.kernel.descriptors import Filter, Holder, filter_of, references_by
from prl.kernel.freezer import FreezeError, Tracer
from prl.kernel.scan import SocketHolders
from prl.shadow import Fixed, SnapshotError, fixed_of
from prl.shadow.sockopt import CallError, So, get_int, tcp_info

SETUPS_AT_ONCE = 8
"""Sessions that are being protected at a time, at most; the others wait, undisturbed."""
SLOW_PART = 4
"""Where an attempt takes more than this part of its deadline, fewer are made at a time."""
SEND_FULL_WAIT_S = 0.002
PREPARE_TIMEOUT_S = 2.0
"""How long the other node may take to prepare; nothing waits for it meanwhile."""

QUIET_MS = 10
"""Who has said and heard nothing for so long is taken to stay at rest. If it does not, its input
waits while its holders are looked for, which otherwise is done before."""
STOPS_MAX = 3
"""How often a program is stopped in vain because others came by its socket since they were looked
for; then protecting is tried again later."""
OWN_REFERENCES = 2
"""prld's to a session's socket: the datapath's, and that of the attempt."""

_EBUFFERS = 105  # ENOBUFS: the transmit queue of the link is full
_ENOTSUP = 95


T = TypeVar("T")


class Register(Protocol):
    """Where sessions are entered by their handles."""

    def __setitem__(self, handle: int, session: Session, /) -> None:
        """It has that handle from now on."""


class _OthersError(Exception):
    """Somebody may have the socket who does not stand still."""

    def __init__(self, unseen: float) -> None:
        self.unseen = unseen
        super().__init__()


class AttemptError(ReplicationError):
    """One attempt to protect a session failed."""

    def __init__(self, reason: int, words: str) -> None:
        self.reason = reason
        super().__init__(words)


@dataclass(slots=True)
class _Work:
    """One attempt."""

    session: Session
    sock: socket.socket
    order: Order
    fixed: Fixed | None
    """None: UDP."""
    wanted: Prepared
    holders: list[Holder] = field(default_factory=list)
    """All descriptors of the socket that are known, but prld's."""
    unseen: float = 0
    """References to it that a look did not find the owners of; infinite: it is not known."""
    is_prepared: bool = False
    """The other node waits for the moment."""
    is_newborn: bool = False
    """Its peer has said nothing, and its input waits to be protected anyhow: all in one step."""
    is_at_rest: bool = False
    """It may be copied while its program runs."""
    deadline_s: float = 0.0
    """How long the session may stand still."""
    begun_ns: int = 0
    """Since when it does, on CLOCK_BOOTTIME; 0: not yet."""

    @property
    def due_ns(self) -> int:
        """When the datapath opens it, unless it is active by then; 0: it does not stand still."""
        return self.begun_ns and self.begun_ns + int(self.deadline_s * 1e9)


@dataclass(frozen=True, slots=True)
class _Copied:
    """A snapshot on its way."""

    segs_in: int
    """TCP: segments that the original had received."""
    committed: int
    left: list[bytes] = field(default_factory=list)
    """What the link had no room for yet."""


class Attempts:
    """Makes attempts, a few at a time."""

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        link: Link,
        host: Host,
        log: EventLog,
        instances: Instances,
        tracer: Tracer,
    ) -> None:
        self._config, self._dp, self._link, self._log = config, datapath, link, log
        self._host, self._instances = host, instances
        self.tracer = tracer
        self.closed = ""
        """Why nothing can be protected now; empty: it can."""
        self._holders = SocketHolders()
        self._looked_again = self._copied_at_rest = 0
        self._deadline = Deadline(config.timing.setup_ms / 1000)
        self._pace = Pace(SETUPS_AT_ONCE, config.timing.setup_ms / SLOW_PART / 1000)

    def enter(self, session: Session, sock: socket.socket, sessions: Register) -> None:
        """Make it known to the datapath, and leave it open. Raises DatapathError."""
        self._know(session, sock, sessions)
        self._dp.primary_fail(session.handle, Reason.REQUESTED)
        session.state, session.reason = (
            "open",
            "prld was started anew, and has not protected it yet",
        )

    def counts(self) -> dict[str, float]:
        """What is allowed to an attempt now, as ``prlctl stats`` has it."""
        return {
            "deadline_ms": round(1000 * self._deadline.seconds, 3),
            "at_once": self._pace.limit,
            "looked_again": self._looked_again,
            "at_rest": self._copied_at_rest,
        }

    def _know(self, session: Session, sock: socket.socket, sessions: Register) -> None:
        fixed = None if session.ends.is_udp else fixed_of(sock)
        wanted = self._wanted(session, sock, fixed)
        self._set_up(session, wanted, sessions, self._deadline.seconds)

    def _wanted(self, session: Session, sock: socket.socket, fixed: Fixed | None) -> Prepared:
        """What the datapath is asked for. Raises SnapshotError, CallError."""
        wanted = self._dp.prepare(cloning.spec_of(session.ends, sock, session.handle, fixed))
        if filter_of(sock) == Filter.EBPF and self._dp.is_filtered(wanted):
            raise cloning.filter_error(session.ends, "SO_ATTACH_BPF")
        return wanted

    async def protect(
        self, session: Session, sessions: Register, sock: socket.socket | None = None
    ) -> None:
        """Set up, snapshot, send, activate. On failure the session is open, with the reason.

        ``sock`` is the socket of a session that the datapath does not have yet. Enters the session
        in ``sessions`` as soon as it has a handle. Raises ReplicationError when it does not even
        get one.
        """
        mending = session.mend()
        async with mending.lock, self._pace:
            if session.state != "open" or session.closing or session.mend().stale:
                return  # while it waited for its turn, its application may have gone on
            try:
                with nullcontext(sock) if sock else self._dp.flow_socket(session.handle) as own:
                    await self._try(session, own, sessions)
            except AttemptError as error:
                self._failed(session, error.reason, str(error))
            except (SnapshotError, TransferError, CallError, FreezeError, DatapathError) as error:
                if sock and not session.handle and isinstance(error, FreezeError):
                    self._know(session, sock, sessions)  # the next attempt may do better
                self._refuse_or_fail(session, error, str(error))
            except Exception as error:  # noqa: BLE001 - or nobody would ever try again
                self._refuse_or_fail(session, error, f"{type(error).__name__}: {error}")

    async def _try(self, session: Session, sock: socket.socket, sessions: Register) -> None:
        """What can be done before the input waits comes before, the rest is in the order of R17."""
        hop, detour = None, ""  # of many peers: whoever takes over looks them up
        if not session.ends.is_unconnected:
            ifindex = self._instances.interface(session.service).ifindex
            detour = await self._detour(session, sock)
            hop = None if detour else await self._host.next_hop(ifindex, session.ends.remote)
        if session.state != "open" or session.closing:
            return
        session.mend().hopeless = session.mend().late = False
        if detour and not session.handle:
            self._know(session, sock, sessions)
        if detour:
            raise AttemptError(Reason.REQUESTED, detour)
        fixed = None if session.ends.is_udp else fixed_of(sock)
        order = Order(
            ends=session.ends,
            streams=session.streams,
            application=session.application,
            renew=session.renew,
            next_hop=str(hop.address) if hop else "",
            next_hop_mac=hop.mac if hop else "",
        )
        work = _Work(session, sock, order, fixed, self._wanted(session, sock, fixed))
        work.is_newborn = self._is_newborn(work)
        if not work.is_newborn:
            await self._prepare(work, sessions)
        try:
            work.is_at_rest = work.is_newborn or (work.is_prepared and self._stays_at_rest(work))
            if fixed is not None and not work.is_at_rest:
                await self._find_holders(work)
            if session.state != "open" or session.closing:
                return
            with self._in_time(work):
                await self._freeze(work, sessions)
        finally:
            self._unprepare(work)

    @contextlib.contextmanager
    def _in_time(self, work: _Work) -> Iterator[None]:
        """The deadline of what is done within, which follows whether that was long enough."""
        work.deadline_s = self._deadline.seconds
        if work.is_newborn:
            work.deadline_s = max(work.deadline_s, self._birth_s(work))
        try:
            yield
        except PrlError:
            was_late = 0 < work.due_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if was_late and self._link.up:
                self._deadline.missed(work.deadline_s)
                work.session.mend().late = True
            raise

    async def _freeze(self, work: _Work, sessions: Register) -> None:
        """From the moment on that the input waits. Raises as protect() expects."""
        session = work.session
        session.mend().done = done = asyncio.get_running_loop().create_future()
        with self._pace.timed() as clock:

            def begin() -> None:
                clock()
                self._begin(work, sessions)

            copied = await self._copied(work, begin)
            if copied is None:
                return
            if isinstance(copied, Frozen):
                copied = self._send_whole(work, copied)
            await self._send_rest(session, copied.left, done)
            answer = await self._answer(done, 2 * work.deadline_s)
            if answer.value:  # the datapath has activated it
                self._protected(work, answer.value)
                return
            self._refuse_holes(session)
            _refuse_moved(work, copied)
            self._dp.primary_activate(
                session.handle, session.generation, copied.committed, answer.space
            )
            self._protected(work, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    async def _copied(self, work: _Work, begin: Callable[[], None]) -> _Copied | Frozen | None:
        """``begin`` makes the input wait. None: the session is not to be protected any more."""
        if work.fixed is None:
            begin()
            return await cloning.freeze_udp(work.sock, work.order)
        if work.is_at_rest:
            begin()
            if copied := self._copy_at_rest(work):
                self._copied_at_rest += 1
                return copied
            await self._find_holders(work)  # it has said something just before that
        return await self._stopped(work, lambda: self._copy(work, begin))

    def _at_rest(self, work: _Work) -> Rest | None:
        return None if work.fixed is None else self._dp.at_rest(work.wanted)

    def _birth_s(self, work: _Work) -> float:
        return self._config.service[work.session.service].birth_ms / 1000

    def _is_newborn(self, work: _Work) -> bool:
        if work.session.handle or not self._birth_s(work):
            return False
        rest = self._at_rest(work)
        return rest is not None and rest.is_new

    def _stays_at_rest(self, work: _Work) -> bool:
        """Whether it is at rest, and has been; else it is stopped before its input waits."""
        info = tcp_info(work.sock)
        quiet_ms = min(info.last_data_sent_ms, info.last_data_recv_ms)
        return quiet_ms >= QUIET_MS and self._at_rest(work) is not None

    def _copy_at_rest(self, work: _Work) -> _Copied | Frozen | None:
        """While its program runs: it has had all that came, and what it says now is held."""
        order = _as_of_now(work)
        if work.is_prepared:
            return self._moment(work, order.application, at_rest=True)
        rest = self._at_rest(work)
        if rest is None or work.fixed is None:
            return None
        return cloning.freeze_at_rest(work.sock, order, work.fixed, rest)

    def _copy(self, work: _Work, begin: Callable[[], None]) -> _Copied | Frozen | None:
        """While all stand still who have the socket. Raises _OthersError: somebody may not."""
        assert work.fixed is not None
        if work.session.state != ("setup" if work.begun_ns else "open") or work.session.closing:
            return None
        if (unseen := self._unseen(work)) > work.unseen:
            raise _OthersError(unseen)
        if not work.begun_ns:
            begin()
        order = _as_of_now(work)
        if work.is_prepared and (copied := self._moment(work, order.application)):
            return copied
        return cloning.freeze_tcp(work.sock, order, work.fixed)

    def _protected(self, work: _Work, active_ns: int) -> None:
        session, frozen_ns = work.session, active_ns - work.begun_ns
        self._deadline.took(frozen_ns / 1e9)
        if session.state in {"setup", "active"}:  # else it has failed again already
            session.mended(time.monotonic())
            words, frozen_us = f"{session.ends}: protected", frozen_ns // 1000
            self._log.info("active", words, handle=session.handle, frozen_us=frozen_us)

    async def _find_holders(self, work: _Work) -> None:
        if work.session.handle:
            near = work.session.client.freezer.pids()
            work.holders = await self._holders.of(work.sock, near)
        else:
            work.holders, work.unseen = await self._holders.look(work.sock), math.inf

    async def _stopped(self, work: _Work, copy: Callable[[], T]) -> T:
        """Call ``copy`` while all stand who have the socket (docs/unchanged-programs.md).

        It raises _OthersError if somebody else may have it. Raises what share() does, AttemptError.
        """
        for _ in range(STOPS_MAX):
            pids = {one.pid for one in work.holders}
            try:
                return await work.session.client.freezer.share(self.tracer, copy, pids)
            except _OthersError as error:
                unseen = error.unseen
            self._looked_again += 1
            found = await self._holders.look(work.sock)
            if set(found) == set(work.holders):
                work.unseen = unseen
            work.holders = found
        words = "other processes come by its socket faster than they are found; trying again"
        raise AttemptError(Reason.REQUESTED, words)

    def _unseen(self, work: _Work) -> float:
        """How many references to the socket are neither prld's nor of those that stand still."""
        theirs = references_by(work.holders, work.sock.fileno())
        if theirs is None or not work.session.handle:  # then the datapath may have none yet
            return math.inf
        try:
            unseen = self._dp.references(work.wanted) - theirs - OWN_REFERENCES
        except DatapathError:
            return math.inf
        return unseen if unseen >= 0 else math.inf

    async def _prepare(self, work: _Work, sessions: Register) -> None:
        """Have the other node ready for the moment, if that can be. Raises AttemptError."""
        session = work.session
        if work.fixed is None or not self._link.up:
            return
        if Capability.PREPARE not in self._link.capabilities:
            return
        work.order = _as_of_now(work)
        setup = cloning.outline_of(work.sock, work.order, work.fixed)
        if setup is None:
            return
        try:
            session.handle, session.generation = self._dp.primary_prepare(work.wanted)
        except DatapathError as error:
            if error.errno != _ENOTSUP:
                raise
            return
        sessions[session.handle] = session
        work.is_prepared = True
        session.mend().done = done = asyncio.get_running_loop().create_future()
        try:
            left = self._send(session, _pieces(setup), wire.SETUP_PREPARE)
            await self._send_rest(session, left, done, wire.SETUP_PREPARE)
            await self._answer(done, PREPARE_TIMEOUT_S)
        except BaseException:
            self._unprepare(work)
            raise

    def _unprepare(self, work: _Work) -> None:
        """What was prepared over there is not needed."""
        if not work.is_prepared:
            return
        work.is_prepared = False
        session = work.session
        with contextlib.suppress(DatapathError):  # the link is gone, and the preparation with it
            self._dp.send(Message.CLOSE, handle=session.handle, generation=session.generation)

    def _moment(self, work: _Work, application: bytes, *, at_rest: bool = False) -> _Copied | None:
        """Copied and on its way; None: this takes the whole snapshot, or it is not at rest."""
        session, streams = work.session, work.order.streams
        sent = self._dp.primary_moment(
            session.handle,
            session.generation,
            streams.in_offset,
            streams.out_offset,
            None if application == work.order.application else application,
            at_rest=at_rest,
        )
        if sent is None:
            return None
        work.is_prepared = False  # used
        return _Copied(sent.segs_in, sent.committed)

    def _send_whole(self, work: _Work, frozen: Frozen) -> _Copied:
        work.is_prepared = False  # superseded
        left = self._send(work.session, _pieces(frozen.setup))
        return _Copied(frozen.segs_in, frozen.setup.committed, left)

    async def _detour(self, session: Session, sock: socket.socket) -> str:
        """What is wrong with the way of a session's packets; empty when they pass prl's programs.

        A VLAN is an interface of its own: what leaves by lan0.100 is not seen on lan0.
        """
        if self.closed:
            return self.closed
        ends, own = session.ends, self._instances.interface(session.service).name
        if self._is_stray(session):
            return (
                f"packets of {ends.remote} do not come in by {own}, where prld has its programs; "
                f"correct the other side's route, or what it knows of {ends.local}'s MAC address"
            )
        ours = self._instances.devices(session.service)
        way = get_int(sock, So.BINDTOIFINDEX)
        if not way and not ends.remote.is_link_local:
            way = await self._host.way_out(ends.local, ends.remote, get_int(sock, So.MARK))
        if not way or way in ours:
            return ""
        name = _name(way)
        return (
            f"packets to {ends.remote} leave by {name}, while prld has its programs on {own}; name "
            f"{name} as lan.interface or in [[routing]], or correct the route"
        )

    def _is_stray(self, session: Session) -> bool:
        """Whether its input has come in elsewhere, and nothing has come where it should since."""
        since = session.mend().stray_from
        info = self._dp.flow_info(session.handle) if since >= 0 else None
        return info is not None and int(info.counters["in_passed"]) <= since

    def _begin(self, work: _Work, sessions: Register) -> None:
        """Gate on, input redirected, output held."""
        work.begun_ns = self._set_up(work.session, work.wanted, sessions, work.deadline_s)
        if not self._link.up:
            raise AttemptError(Reason.LINK_LOST, f"the link is down: {self._link.why_down}")

    def _set_up(
        self, session: Session, spec: Prepared, sessions: Register, deadline_s: float
    ) -> int:
        """When it has begun, on CLOCK_BOOTTIME."""
        begun = self._dp.primary_setup(spec, int(deadline_s * 1e9))
        session.handle, session.generation = begun.handle, begun.generation
        session.state, session.reason = "setup", ""
        sessions[session.handle] = session
        return begun.at_ns

    def _refuse_holes(self, session: Session) -> None:
        """What the socket has behind a hole is not in the snapshot, and will not come again."""
        if self._dp.flow_has_hole(session.handle):
            raise AttemptError(Reason.REQUESTED, "segments are missing in between; trying again")

    def _send(self, session: Session, pieces: list[bytes], bits: int = 0) -> list[bytes]:
        """Send what the link takes now, the last piece last; returns the rest."""
        for number, piece in enumerate(pieces, 1):
            try:
                self._dp.send(
                    Message.SETUP,
                    wire.encode_tlvs([Element(Tlv.SNAPSHOT, piece)]),
                    handle=session.handle,
                    generation=session.generation,
                    bits=bits | (wire.SETUP_LAST if number == len(pieces) else 0),
                )
            except DatapathError as error:
                if error.errno != _EBUFFERS:
                    raise
                return pieces[number - 1 :]
        return []

    async def _send_rest(
        self,
        session: Session,
        left: list[bytes],
        done: "asyncio.Future[Event]",
        bits: int = 0,
    ) -> None:
        """Send what the link had no room for, unless the answer is there before."""
        while left and not done.done():
            await asyncio.sleep(SEND_FULL_WAIT_S)  # the link drains; nothing tells us
            left = self._send(session, left, bits)

    async def _answer(self, done: "asyncio.Future[Event]", deadline_s: float) -> Event:
        """Wait for the shadow. Raises AttemptError when there is none."""
        # The datapath opens a flow at its deadline; twice that is for a datapath that hangs.
        try:
            async with asyncio.timeout(deadline_s):
                event = await done
        except TimeoutError:
            raise AttemptError(Reason.TIMEOUT, wire.reason_text(Reason.TIMEOUT)) from None
        if event.reason or event.type != Message.SETUP_DONE:
            words = next((e.value.decode("utf-8", "replace") for e in _texts(event)), "")
            reason = event.reason or Reason.REQUESTED
            raise AttemptError(reason, words or wire.reason_text(reason))
        return event

    def _refuse_or_fail(self, session: Session, error: Exception, words: str) -> None:
        """Raises ReplicationError when it has no handle."""
        if not session.handle:
            raise ReplicationError(words) from error
        self._failed(session, Reason.REQUESTED, words)

    def _failed(self, session: Session, reason: int, words: str) -> None:
        if not session.is_live:
            return
        with contextlib.suppress(DatapathError):
            self._dp.primary_fail(session.handle, reason)
        session.state, session.reason = "open", words
        self._log.warning(
            "not_protected", f"{session.ends}: not protected: {words}", handle=session.handle
        )


def _name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"interface {ifindex}"


def _pieces(setup: Setup) -> list[bytes]:
    return transfer.pieces(transfer.encode(setup), wire.SETUP_CHUNK_BYTES)


def _as_of_now(work: _Work) -> Order:
    """With what its program, if it is one, has had until now."""
    program = work.session.program
    return work.order if program is None else replace(work.order, application=program.application())


def _refuse_moved(work: _Work, copied: _Copied) -> None:
    """A straggler that came after the snapshot is missing in the shadow."""
    if cloning.has_moved(work.session.ends, work.sock, copied.segs_in):
        raise AttemptError(Reason.REQUESTED, "a segment slipped in; trying again")


def _texts(event: Event) -> list[Element]:
    try:
        return [element for element in wire.decode_tlvs(event.body) if element.type == Tlv.TEXT]
    except wire.WireError:
        return []
