"""Sessions whose application is on the other node: their shadows here (SPEC R17, R18, R22).

SETUP … ─▶ restored, in the datapath, given to the application that offered itself ─▶ active
active ─┬─ link lost: suspended ─▶ active again when it is back, or void
        ├─ void: discarded silently (L8) ─▶ gone
        └─ take-over: the application's options, the application told ─▶ a session (protect.py)
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Self

import msgspec

from prl.bindings import wire
from prl.bindings.datapath import Datapath, DatapathError, Event, FlowSpec, Note, Noted, Tuple
from prl.bindings.facts import Message, Owner, Reason, Tlv
from prl.bindings.facts import Secondary as State
from prl.bindings.native import lib
from prl.bindings.wire import Element
from prl.config import Config
from prl.control import application
from prl.daemon.control.clients import Application
from prl.daemon.events.log import EventLog
from prl.daemon.host.conntrack import Conntrack
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import NUD_PERMANENT, NUD_REACHABLE, NUD_STALE, Host, NextHop
from prl.daemon.session import boundary, cloning, exposed, transfer
from prl.daemon.session.known import Alike, Table
from prl.daemon.session.lost import Lost
from prl.daemon.session.prepared import Coming, PreparedSockets
from prl.daemon.session.sessions import Session
from prl.daemon.session.silence import end_silently
from prl.daemon.session.streams import Streams
from prl.daemon.session.transfer import Arrived, Collector, TransferError
from prl.endpoint import show_endpoint
from prl.errors import KernelError, PrlError
from prl.shadow import ApplicationOptions, SnapshotError, TcpSnapshot, abandon, give
from prl.shadow.sockopt import Queue, queue_bytes

READ_LINGER_S = 60.0
"""How long a standby application may read on after its session ended on the primary."""
READ_POLL_S = 0.05
OFFERS_MAX = 1024
NEIGHBOURS_MAX = 4096
"""Next hops that are entered as neighbours for the other node's sessions, at most."""
HOPS_SHARED = 1024
"""Next hops of which shadows share one object; the others have their own."""
_EXPOSED = "it was not protected"
_UNHEARD = "it ended while this node was silent"
_END_AT_CLOSE = struct.pack("=ii", 1, 0)  # struct linger: on, no time


class RefusedError(PrlError):
    """A shadow that this node cannot have; the primary is told why."""

    def __init__(self, reason: Reason, words: str) -> None:
        self.reason = reason
        super().__init__(words)


@dataclass(frozen=True, slots=True)
class ShadowsAlike:
    """What many shadows have alike."""

    client: Application
    application: bytes
    renew: bool
    hop: NextHop | None
    options: ApplicationOptions | None

    @property
    def key(self) -> Hashable:
        """Whatever tells them apart."""
        return id(self.client), self.application, self.renew, self.hop, self.options


@dataclass(eq=False, slots=True)
class Shadow:
    """One shadow; its socket is the datapath's, for there may be very many.

    One that nothing happens to has no object (known.py).
    """

    handle: int
    generation: int
    ends: Tuple
    service: int
    client: Application
    application: bytes
    renew: bool
    out_bytes: int
    """How much output comes before the snapshot's end of the send queue."""
    hop: NextHop | None
    options: ApplicationOptions | None
    """TCP: what its application had chosen, in force once it is taken over."""
    streams: Streams
    state: str = "active"
    """active, suspended (of use again once the link is back and the primary says so), void, taken
    (over), or ended.
    """

    @property
    def is_there(self) -> bool:
        """Whether the datapath has it, be it usable or not."""
        return self.state in {"active", "suspended"}

    def noted(self) -> tuple[ShadowsAlike, Note] | None:
        """What is to be kept of it; None: it is not of use now, or not for long."""
        if self.state != "active" or self.ends.is_udp:
            return None
        alike = ShadowsAlike(self.client, self.application, self.renew, self.hop, self.options)
        return alike, Note(0, self.streams.in_offset, self.streams.out_offset, self.out_bytes)

    @classmethod
    def recalled(cls, alike: Alike, noted: Noted) -> Self:
        """The inverse."""
        assert isinstance(alike, ShadowsAlike)
        return cls(
            handle=noted.handle,
            generation=noted.generation,
            ends=cloning.shared_ends(noted.ends),
            service=noted.service,
            client=alike.client,
            application=alike.application,
            renew=alike.renew,
            out_bytes=noted.note.extra,
            hop=alike.hop,
            options=alike.options,
            streams=Streams.of_offsets(noted.note.in_offset, noted.note.out_offset),
        )


class Shadows:
    """All shadows here, by handle, and the applications that wait for more.

    ``taken`` is given the session that a shadow becomes when it is taken over.
    """

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        host: Host,
        log: EventLog,
        *,
        instances: Instances,
        congestion: str | None,
        taken: Callable[[Session], None],
    ) -> None:
        self._config, self._dp, self._host, self._log = config, datapath, host, log
        self._instances, self._congestion, self._taken = instances, congestion, taken
        self._shadows = Table(datapath, Shadow, shadow=True)
        self._offers: list[tuple[str, Application]] = []
        self._collector = Collector()
        self._lost = Lost(config, instances, log)
        self.conntrack = Conntrack(log)
        self._prepared = PreparedSockets(datapath, self._on_dropped)
        self._neighbours: dict[NextHop, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unread: dict[Shadow, asyncio.Task[None]] = {}
        self.closed = ""
        """Why no shadow may be here now; empty: they may."""
        self._cut_off: dict[str, str] = {}

    # -- requests

    def offer(self, client: Application, where: str) -> None:
        """``client`` takes shadows of ``where`` from now on. Raises RefusedError."""
        if len(self._offers) >= OFFERS_MAX:
            raise RefusedError(Reason.NO_MEMORY, f"there are {OFFERS_MAX} offers already")
        if (where, client) not in self._offers:
            self._offers.append((where, client))
        self._announce(where)

    def offering(self, where: str) -> list[Application]:
        """Who takes shadows of ``where``."""
        return [client for offered, client in self._offers if offered == where]

    def offers_of(self, client: Application) -> int:
        """How many endpoints it offers itself for."""
        return sum(owner is client for _, owner in self._offers)

    def withdraw(self, client: Application, where: str) -> None:
        """``client`` takes no shadows of ``where`` any more, and loses those that it has."""
        self._offers = [offer for offer in self._offers if offer != (where, client)]
        for shadow in list(self._of(client)):
            if where in shadow.ends.offers:
                self._give_up(shadow, Reason.APPLICATION_GONE)

    def announce_offers(self) -> None:
        """Tell the other node all offers: the link has come up."""
        for where in dict.fromkeys(where for where, _ in self._offers):
            self._announce(where)

    def _announce(self, where: str) -> None:
        with contextlib.suppress(DatapathError):  # without a link it is told when that is up
            self._dp.send(Message.OFFER, wire.encode_tlvs([Element(Tlv.ENDPOINT, where.encode())]))

    def find(self, handle: int) -> Shadow | None:
        """The shadow of that handle."""
        return self._shadows.get(handle)

    def sizes(self) -> dict[str, int]:
        """How many shadows have an object, and how many need none."""
        return self._shadows.sizes()

    def note_idle(self) -> bool:
        """Keep no object of some that nothing happens to; whether to do it again soon."""
        return self._shadows.note_idle()

    def usable(self, service: int) -> int:
        """How many shadows of a service could go on with their session."""
        here = (s.state == "active" and s.service == service for s in self._shadows.in_hand())
        return sum(here) + self._shadows.noted(service)

    def close(self, shadow: Shadow) -> None:
        """Its application does not want it."""
        self._give_up(shadow, Reason.APPLICATION_GONE)

    def reject(self, shadow: Shadow, reason: Reason, words: str) -> None:
        """Its application cannot serve it; the primary is told why."""
        self._log.error("shadow_rejected", f"{shadow.ends}: {words}", handle=shadow.handle)
        self._give_up(shadow, reason)

    def committed(self, shadow: Shadow) -> dict[str, int]:
        """How much of the session's output is committed, and the hash of what came since."""
        info = self._dp.flow_info(shadow.handle)
        out_bytes, out_hash = (info.out_bytes, info.out_hash) if info else (0, 0)
        return {"out_bytes": shadow.out_bytes + out_bytes, "out_hash": out_hash}

    def application_gone(self, client: Application) -> None:
        """Its connection ended: its offers are over, nobody reads its shadows any more."""
        self._offers = [(where, owner) for where, owner in self._offers if owner is not client]
        self._prepared.drop_of(client)
        for shadow in list(self._of(client)):
            self._give_up(shadow, Reason.APPLICATION_GONE)

    def _of(self, client: Application) -> Iterator[Shadow]:
        return self._shadows.of_client(client)

    # -- set-up

    def on_setup(self, event: Event) -> None:
        """A piece of a set-up arrived."""
        try:
            piece = next(e.value for e in wire.decode_tlvs(event.body) if e.type == Tlv.SNAPSHOT)
            arrived = self._collector.add(
                event.handle,
                event.generation,
                piece,
                last=bool(event.bits & wire.SETUP_LAST),
                now_ns=time.monotonic_ns(),
            )
        except (StopIteration, wire.WireError, TransferError) as error:
            words = str(error) or "a piece without content"
            self._refuse(event, RefusedError(Reason.MALFORMED, words))
            return
        if arrived is not None:
            self._set_up(event, arrived)

    def on_link_down(self) -> None:
        """Unfinished set-ups will never be complete."""
        self._collector.clear()
        self._prepared.clear()

    def _set_up(self, event: Event, arrived: Arrived) -> None:
        """At once, unless the neighbour is new: the session stands still meanwhile."""
        with self._refusing(event):
            setup = transfer.decode(arrived.blob)
            snapshot = cloning.thaw(setup)
            ends = cloning.ends_of(snapshot, setup.instance)
            service, client = self._admit(ends)
            ifindex = self._instances.interface(service).ifindex
            hop = _hop(setup.next_hop, setup.next_hop_mac, ifindex)
            boundary.check(
                *(setup, snapshot, ends, hop),
                config=self._config,
                instances=self._instances,
                service=service,
            )
            coming = Coming(event, arrived.began_ns, setup, snapshot, ends, service, client, hop)
            if hop is None or self._pin(hop):
                self._make(coming)
                return
            task = asyncio.get_running_loop().create_task(self._set_up_slowly(coming, hop))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _set_up_slowly(self, coming: Coming, hop: NextHop) -> None:
        with self._refusing(coming.event):
            try:
                await self._host.set_neighbour(hop, NUD_PERMANENT)
            except BaseException:
                self._unpin(hop, NUD_STALE)
                raise
            self._make(coming)

    def _refuse_overtaken(self, coming: Coming) -> None:
        """Since it was admitted, its application may have gone: nobody would tell it."""
        if not any(client is coming.client for _, client in self._offers):
            words = f"{coming.ends}: the application that was to have the shadow is gone"
            raise RefusedError(Reason.APPLICATION_GONE, words)

    @contextlib.contextmanager
    def _refusing(self, event: Event) -> Iterator[None]:
        """Whatever stands in the way: the primary is told."""
        try:
            yield
        except RefusedError as error:
            self._refuse(event, error)
        except (SnapshotError, DatapathError) as error:
            self._refuse(event, RefusedError(Reason.RESTORE_FAILED, str(error)))
        except (TransferError, KernelError, ValueError) as error:
            self._refuse(event, RefusedError(Reason.MALFORMED, str(error)))
        except Exception as error:  # noqa: BLE001 - its session would wait for an answer
            words = f"{type(error).__name__}: {error}"
            self._refuse(event, RefusedError(Reason.RESTORE_FAILED, words))

    def _make(self, coming: Coming) -> None:
        """What is there may have changed since it was admitted. Raises as _refusing() expects."""
        try:
            self._refuse_out(coming)
            self._replace(coming.event.handle, coming.ends)
            self._refuse_overtaken(coming)
            self.conntrack.enter(coming.ends)
            if coming.event.bits & wire.SETUP_PREPARE:
                self._prepare(coming)
            else:
                self._build(coming)
        except BaseException:
            self._unpin(coming.hop, NUD_STALE)
            raise

    def _refuse_out(self, coming: Coming) -> None:
        """This node may be out of the pair by now. Raises RefusedError."""
        if self.closed:
            raise RefusedError(Reason.NOT_HELD, f"{coming.ends}: {self.closed}")
        if why := self._cut_off.get(self._instances.interface(coming.service).name):
            raise RefusedError(Reason.NO_LAN, f"{coming.ends}: {why}")
        if self._dp.service_state(coming.service) != Owner.STANDBY:
            raise RefusedError(Reason.NOT_ACTIVE, self._not_standby(coming.ends))

    def _prepare(self, coming: Coming) -> None:
        """All that can be done before the session stands still."""
        event = coming.event
        self._enter_prepared(coming)
        try:
            self._dp.send(Message.SETUP_DONE, handle=event.handle, generation=event.generation)
        except DatapathError:
            self._prepared.drop(event.handle)

    def _enter_prepared(self, coming: Coming) -> None:
        if not isinstance(coming.snapshot, TcpSnapshot):
            raise RefusedError(Reason.MALFORMED, f"{coming.ends}: only TCP is prepared")
        sock, ready = cloning.build_ready(coming.snapshot, self._congestion)
        try:
            _end_at_close(sock)
            self._prepared.enter(coming, sock, self._spec(coming, sock), ready)
        except BaseException:
            abandon(sock)
            raise

    def _spec(self, coming: Coming, sock: socket.socket) -> FlowSpec:
        event = coming.event
        return cloning.shadow_spec(
            *(coming.ends, coming.snapshot, coming.setup, sock.fileno()),
            *(event.handle, event.generation),
        )

    def _on_dropped(self, coming: Coming) -> None:
        self._unpin(coming.hop, NUD_STALE)

    def _build(self, coming: Coming) -> None:
        # The clock must not be behind the primary's (PAWS): count the way here, too.
        elapsed_ns = time.monotonic_ns() - coming.began_ns + self._dp.link_rtt_ns()
        with cloning.build(coming.snapshot, self._congestion, elapsed_ns // 1_000_000) as sock:
            self._enter(coming, sock)

    def _enter(self, coming: Coming, sock: socket.socket) -> None:
        """The shadow is there: hand it to the datapath, tell the primary, then its application."""
        event, setup = coming.event, coming.setup
        _end_at_close(sock)
        streams = Streams.at(sock, setup.in_bytes, setup.out_bytes)
        try:
            space = self._dp.secondary_open(self._spec(coming, sock))
            self._dp.send(
                Message.SETUP_DONE, handle=event.handle, generation=event.generation, space=space
            )
        except DatapathError as error:
            end_silently(sock)
            self._dp.flow_close(event.handle)
            if error.errno == errno.EALREADY:
                raise RefusedError(Reason.NOT_ACTIVE, self._not_standby(coming.ends)) from error
            raise
        self._begin(coming, sock, streams, cloning.unread_bytes(coming.snapshot))

    def _begin(
        self, coming: Coming, sock: socket.socket, streams: Streams, unread_bytes: int
    ) -> Shadow:
        """The datapath has it: know it, and tell its application."""
        event, setup = coming.event, coming.setup
        shadow = Shadow(
            handle=event.handle,
            generation=event.generation,
            ends=coming.ends,
            service=coming.service,
            client=coming.client,
            application=setup.application,
            renew=setup.renew,
            out_bytes=setup.out_bytes,
            hop=coming.hop,
            options=cloning.options_of(coming.snapshot),
            streams=streams,
        )
        self._shadows[event.handle] = shadow
        self._lost.forget(shadow.ends)
        self._log.info("shadow", f"{shadow.ends}: shadowed", handle=event.handle)
        try:
            _introduce(shadow, sock, setup.in_bytes, unread_bytes)
        except OSError as error:  # there are no descriptors left
            self.reject(shadow, Reason.NO_MEMORY, f"its application cannot be told: {error}")
        return shadow

    def on_restored(self, event: Event) -> None:
        """PRL_EVENT_RESTORED: the moment of a prepared socket has come."""
        found = self._prepared.take(event.handle, event.generation)
        if found is None:
            return
        coming, sock = found
        if event.reason:
            abandon(sock)
            self._unpin(coming.hop, NUD_STALE)
            words = f"{coming.ends}: {event.text}"
            self._log.error("shadow_refused", words, handle=event.handle)
            return
        with sock:
            elements = {e.type: e.value for e in wire.decode_tlvs(event.body)}
            moment = wire.decode_moment(elements[Tlv.MOMENT], event.seq)
            coming.setup = msgspec.structs.replace(
                coming.setup,
                in_bytes=moment.in_bytes,
                out_bytes=moment.out_bytes,
                application=elements.get(Tlv.APPLICATION, coming.setup.application),
            )
            streams = Streams.of_shadow(moment, event.value, event.value2)
            shadow = self._begin(coming, sock, streams, moment.unread_bytes)
        if coming.client_gone:
            self._give_up(shadow, Reason.APPLICATION_GONE)
        elif self._dp.service_state(shadow.service) != Owner.OWNER:  # else it is taken over
            try:
                self._refuse_out(coming)
            except RefusedError as error:
                self._give_up(shadow, error.reason)

    def _not_standby(self, ends: Tuple) -> str:
        return f"{ends}: {self._config.node} does not stand by for it"

    def _admit(self, ends: Tuple) -> tuple[int, Application]:
        """The service and the application of a new shadow. Raises RefusedError."""
        service = self._instances.in_instance(ends.local, ends.instance)
        if service is None or self._dp.service_state(service) != Owner.STANDBY:
            raise RefusedError(Reason.NOT_ACTIVE, self._not_standby(ends))
        if self._congestion is None and not ends.is_udp:
            raise RefusedError(
                Reason.RESTORE_FAILED,
                f"{self._config.node} cannot keep shadows: its kernel has no struct_ops; "
                "see `prlctl doctor` there",
            )
        for position, (offered, client) in enumerate(self._offers):
            if offered in ends.offers:
                # In turn, when several offer themselves for the same endpoint.
                self._offers.append(self._offers.pop(position))
                return service, client
        raise RefusedError(
            Reason.NO_APPLICATION,
            f"no application on {self._config.node} waits for {ends.service_end}; "
            "start it there, too",
        )

    def _replace(self, handle: int, ends: Tuple) -> None:
        """A new snapshot: what there was of this session is of no use any more."""
        self._prepared.drop(handle)
        for old in (self._shadows.get(handle), self._shadows.get(self._dp.flow_of(ends))):
            if old is not None and old.is_there:
                self._discard(old, "replaced by a new snapshot")

    def _refuse(self, event: Event, error: RefusedError) -> None:
        expected = error.reason == Reason.NO_APPLICATION
        self._log.post(
            "info" if expected else "error", "shadow_refused", str(error), handle=event.handle
        )
        self._collector.drop(event.handle)
        with contextlib.suppress(DatapathError):  # the link is gone, and the set-up with it
            self._dp.send(
                Message.SETUP_DONE,
                wire.encode_tlvs([Element(Tlv.TEXT, str(error).encode()[:1024])]),
                handle=event.handle,
                generation=event.generation,
                reason=error.reason,
            )

    # -- events

    def on_state(self, event: Event) -> None:
        """PRL_EVENT_SECONDARY."""
        shadow = self._shadows.get(event.handle)
        if shadow is None or event.generation not in {0, shadow.generation}:
            return
        if event.state in {State.ACTIVE, State.SUSPENDED} and shadow.is_there:
            shadow.state = "active" if event.state == State.ACTIVE else "suspended"
        elif event.state in {State.VOID, State.GONE} and shadow.is_there:
            self._log.warning(
                "shadow_void",
                f"{shadow.ends}: the shadow is void: {wire.reason_text(event.reason)}",
                handle=shadow.handle,
            )
            if event.reason == Reason.ENDED:
                self._let_read(shadow)
            else:
                self._discard(shadow, wire.reason_text(event.reason), lost=True)

    def on_taken(self, event: Event) -> None:
        """PRL_EVENT_TAKEN_FLOW: the shadow is the session now."""
        shadow = self._shadows.get(event.handle)
        if shadow is None:
            return
        try:
            handle = self._dp.flow_adopt(shadow.handle)
        except DatapathError:  # the address was taken from this node again
            self._discard(shadow, "the other node has the session again")
            return
        self._drop(shadow, "taken")
        # Before anything is sent to its application, which may be found dead by that.
        self._taken(
            Session(
                shadow.ends,
                shadow.service,
                shadow.client,
                shadow.application,
                shadow.renew,
                shadow.streams,
                handle=handle,
                former=shadow.handle,
                reason="it was taken over, and is not protected yet",
            )
        )
        out_bytes = shadow.out_bytes + event.value
        # Before the application hears of it: what it sets itself then, stays.
        if shadow.options is not None:
            self._give(shadow, handle, shadow.options)
        shadow.client.send_event(
            {
                "event": "taken_over",
                "handle": shadow.handle,
                "becomes": handle,
                "streams": shadow.streams.to_list(),
                "out_bytes": out_bytes,
                "out_hash": event.seq,
                "monotonic_ns": time.monotonic_ns(),
            }
        )
        self._unpin(shadow.hop, NUD_REACHABLE)
        shadow.hop = None
        self._log.warning(
            "taken_over",
            f"{shadow.ends}: goes on here, after {out_bytes} bytes of output",
            handle=handle,
            former=shadow.handle,
            out_bytes=out_bytes,
            in_force_ns=event.value2,
        )

    def _give(self, shadow: Shadow, handle: int, options: ApplicationOptions) -> None:
        """What the application had chosen, SO_LINGER among it."""
        with contextlib.suppress(DatapathError), self._dp.flow_descriptor(handle) as fd:
            for failure in give(fd, options):
                self._log.warning("option_lost", f"{shadow.ends}: {failure}", handle=handle)

    def on_ended(self, handle: int) -> None:
        """The shadow's socket has gone: the session is over on both nodes."""
        if (shadow := self._shadows.get(handle)) is not None:
            self._finish(shadow)

    def on_closed(self, event: Event) -> None:
        """CLOSE of a flow that is not here: what was prepared for it is not needed."""
        self._prepared.drop_closed(event.handle, event.generation)
        self._collector.drop_ended(event.handle, event.generation)

    # -- ends

    def _give_up(self, shadow: Shadow, reason: Reason) -> None:
        if not shadow.is_there:
            return
        with contextlib.suppress(DatapathError):
            self._dp.secondary_void(shadow.handle, reason)
        words = f"{shadow.ends}: the shadow is void: {wire.reason_text(reason)}"
        self._log.info("shadow_void", words, handle=shadow.handle)
        self._discard(shadow, wire.reason_text(reason), lost=True)

    def _discard(self, shadow: Shadow, why: str, *, lost: bool = False) -> None:
        """Of no use any more: away with it, silently. ``lost``: its session lives elsewhere."""
        if lost:
            self._lost.add(shadow.ends, shadow.service, why)
            if self._dp.service_state(shadow.service) == Owner.OWNER:
                # Behind a take-over, which counts them, if that is told next. There is none where
                # HELLO has settled it, nor once it was told, while flows still wait for their turn.
                asyncio.get_running_loop().call_soon(self._lost.end_all, shadow.service)
        self.conntrack.leave(shadow.ends)
        self._forget(shadow, "void")
        with contextlib.suppress(DatapathError):
            end_silently(self._dp.flow_socket(shadow.handle))
        self._dp.flow_close(shadow.handle)
        shadow.client.send_event({"event": "void", "handle": shadow.handle, "reason": why})

    def _let_read(self, shadow: Shadow) -> None:
        """The session ended on the primary; the application here may not have read all of it yet.

        The socket stays, silent, until it has, or for READ_LINGER_S: also where this node takes
        the service over meanwhile, of which the datapath tells when it has spoken.
        """
        self._forget(shadow, "ended")
        with contextlib.suppress(DatapathError):
            sock = self._dp.flow_socket(shadow.handle)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, lib.PRL_MARK_SHADOW)
            self._unread[shadow] = task = asyncio.create_task(_until_read(sock))

            def end(_: "asyncio.Task[None]") -> None:  # also if it was cancelled before it began
                self._unread.pop(shadow, None)
                end_silently(sock)

            task.add_done_callback(end)
        self._dp.flow_close(shadow.handle)
        why = wire.reason_text(Reason.ENDED)
        shadow.client.send_event({"event": "void", "handle": shadow.handle, "reason": why})

    def on_exposed(self, event: Event) -> None:
        """The other node tells of sessions that it alone has, or had."""
        try:
            told = exposed.decode(event.body)
            here, over = (
                [(one.tuple_in(self._config), one.service) for one in some]
                for some in (told.here, told.over)
            )
        except exposed.MalformedError as error:
            self._dp.link_drop(str(error))
            return
        if told.anew:
            self._lost.forget_all(_EXPOSED)
        for ends, _ in over:
            self._lost.forget(ends)
        missed = [known for known in here if not self._dp.flow_of(known[0])]
        for ends, service in missed:
            if ends not in self._lost:  # else it is known better why
                self._lost.add(ends, service, _EXPOSED)
        for service in {service for _, service in missed}:
            if self._dp.service_state(service) == Owner.OWNER:  # its former owner tells
                self._lost.end_all(service)

    def ended_unheard(self, ends: Tuple, service: int) -> None:
        """A session of this node's is over, and its peer could not be told; end_lost() does."""
        self._lost.add(ends, service, _UNHEARD)

    def end_lost(self, service: int) -> int:
        """A service was taken over: end the sessions that cannot go on; returns how many."""
        return self._lost.end_all(service)

    def end_unread(self) -> None:
        """Before this node may be heard: what ended elsewhere must not speak here."""
        for task in list(self._unread.values()):
            task.cancel()

    def _finish(self, shadow: Shadow) -> None:
        """The session is over; its application may still read what is left in its socket."""
        self._forget(shadow, "ended")
        self._dp.flow_close(shadow.handle)
        self._log.info("session_ended", f"{shadow.ends}: ended", handle=shadow.handle)
        why = wire.reason_text(Reason.ENDED)
        shadow.client.send_event({"event": "void", "handle": shadow.handle, "reason": why})

    def _forget(self, shadow: Shadow, state: str) -> None:
        self._unpin(shadow.hop, NUD_STALE)
        shadow.hop = None
        self._drop(shadow, state)

    def _drop(self, shadow: Shadow, state: str) -> None:
        shadow.state = state
        if self._shadows.get(shadow.handle) is shadow:
            del self._shadows[shadow.handle]

    def keep_off(self, cut_off: dict[str, str]) -> None:
        """Have no shadows of services whose interface (a name, and why) has no network.

        After a take-over nobody would hear them from here, and their owner is to know that.
        """
        self._cut_off = cut_off
        for service, _ in enumerate(self._config.service) if cut_off else ():
            if self._instances.interface(service).name in cut_off:
                for shadow in self._shadows.of_service(service):
                    self._give_up(shadow, Reason.NO_LAN)

    def discard_all(self) -> None:
        """As prld stops: no shadow may outlive the silence."""
        self.end_unread()
        for shadow in self._shadows.all():
            if shadow.is_there:
                self._give_up(shadow, Reason.REQUESTED)
        self.conntrack.close()

    # -- neighbours: a silent node cannot resolve the peer's address by itself

    def _pin(self, hop: NextHop) -> bool:
        """One shadow more needs it; whether it is entered already. Raises RefusedError."""
        count = self._neighbours.get(hop, 0)
        if not count and len(self._neighbours) >= NEIGHBOURS_MAX:
            words = f"{self._config.node} has entered {NEIGHBOURS_MAX} next hops already"
            raise RefusedError(Reason.NO_MEMORY, words)
        self._neighbours[hop] = count + 1
        return count > 0

    async def pin_again(self) -> None:
        """An interface was down, and its neighbours went with that."""
        for hop in list(self._neighbours):
            with contextlib.suppress(KernelError):
                await self._host.set_neighbour(hop, NUD_PERMANENT)

    def _unpin(self, hop: NextHop | None, state: int) -> None:
        if hop is None or hop not in self._neighbours:
            return
        self._neighbours[hop] -= 1
        if self._neighbours[hop] == 0:
            del self._neighbours[hop]
            task = asyncio.get_running_loop().create_task(self._release(hop, state))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _release(self, hop: NextHop, state: int) -> None:
        if hop in self._neighbours:
            return  # wanted again meanwhile
        with contextlib.suppress(KernelError):
            await self._host.set_neighbour(hop, state)


async def _until_read(sock: socket.socket) -> None:
    """Return when its program has read all that is in it, or does not."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(READ_LINGER_S):
            while queue_bytes(sock, Queue.UNREAD):  # noqa: ASYNC110 - nothing tells of a read
                await asyncio.sleep(READ_POLL_S)


def _end_at_close(sock: socket.socket) -> None:
    """If prld and its application die, nothing of it stays.

    A FIN that the silence swallows would be sent again for ever, and the socket keep its congestion
    control loaded.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _END_AT_CLOSE)


def _introduce(shadow: Shadow, sock: socket.socket, in_bytes: int, unread_bytes: int) -> None:
    """Give the shadow to its application."""
    members, memory = application.pack(shadow.application)
    introduction = {
        "event": "shadow",
        "handle": shadow.handle,
        "generation": shadow.generation,
        "local": show_endpoint(shadow.ends.local, shadow.ends.local_port),
        "remote": shadow.ends.peer_end,
        "unread": unread_bytes,
        "in_bytes": in_bytes,
        "out_bytes": shadow.out_bytes,
        "renew": shadow.renew,
    }
    try:
        shadow.client.send_event(introduction | members, sock.fileno(), *memory)
    finally:
        for fd in memory:
            os.close(fd)


@lru_cache(HOPS_SHARED)
def _hop(address: str, mac: str, ifindex: int) -> NextHop | None:
    return NextHop(ip_address(address), mac, ifindex) if address and mac else None
