"""Sessions whose application is on this node: protecting them (SPEC R17), and what follows.

replicate ─▶ set up in the datapath ─▶ snapshot ─▶ SETUP … ─▶ SETUP_DONE ─▶ active
                ▲                         └──────────┴─ refused, too late, link lost ─▶ open
                └── the link is up again, an application offers itself, or a while has passed ──┘
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from prl.config import Config
from prl.core import wire
from prl.core.datapath import (
    Address,
    Datapath,
    DatapathError,
    Event,
    Owner,
    Primary,
    Tuple,
    unspecified,
)
from prl.core.wire import Element, Message, Reason, Tlv
from prl.daemon import cloning, transfer
from prl.daemon.clients import Application
from prl.daemon.cloning import Frozen
from prl.daemon.events import EventLog
from prl.daemon.host import Host, NextHop
from prl.daemon.link import Link
from prl.daemon.silence import end_silently
from prl.daemon.transfer import TransferError
from prl.errors import ReplicationError, UsageError
from prl.shadow import SnapshotError
from prl.shadow.sockopt import CallError

SETUPS_AT_ONCE = 8
RETRIES_MAX = 8
"""Attempts after one trigger (link up, offer); then the next trigger is waited for."""
RETRY_MIN_S, RETRY_MAX_S = 0.05, 5.0
SEND_FULL_WAIT_S = 0.002
CLOSE_LINGER_S = 60.0
"""How long a session that its application closed may take to end (the peer's FIN)."""

_EBUFFERS = 105  # ENOBUFS: the transmit queue of the link is full


class _AttemptError(ReplicationError):
    """One attempt to protect a session failed."""

    def __init__(self, reason: int, words: str) -> None:
        self.reason = reason
        super().__init__(words)


@dataclass(eq=False, slots=True)
class Session:
    """One session whose application is here."""

    ends: Tuple
    service: int
    sock: socket.socket
    client: Application
    application: bytes
    handle: int = 0
    generation: int = 0
    state: str = "setup"
    """setup, active, voiding, open, or how it ended: ended, demoted, closed."""
    reason: str = ""
    closing: bool = False
    orphan: bool = False
    introduced: bool = False
    """The application knows the handle: events follow the answer, never overtake it."""
    hopeless: bool = False
    """Trying again is of no use before an application offers itself."""
    done: "asyncio.Future[Event] | None" = None
    trigger: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: "asyncio.Task[None] | None" = None

    @property
    def is_live(self) -> bool:
        """Whether it is still this node's."""
        return self.state in {"setup", "active", "voiding", "open"}


class Primaries:
    """All sessions whose application is here, by handle."""

    def __init__(
        self, config: Config, datapath: Datapath, link: Link, host: Host, log: EventLog, lan: int
    ) -> None:
        self._config, self._dp, self._link, self._log = config, datapath, link, log
        self._host, self._lan = host, lan
        self._sessions: dict[int, Session] = {}
        self._limit = asyncio.Semaphore(SETUPS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    # -- requests

    async def replicate(self, client: Application, sock: socket.socket, data: bytes) -> Session:
        """Protect a socket; returns after activation or its failure.

        Takes ``sock`` over, also on failure. Raises ReplicationError or UsageError when the
        session can never be protected as things are.
        """
        try:
            ends, service = self._check(sock)
            session = Session(ends, service, sock, client, data)
            await self._attempt(session)
        except BaseException:
            if not any(known.sock is sock for known in self._sessions.values()):
                sock.close()
            raise
        session.keeper = asyncio.create_task(self._keep(session))
        session.introduced = True
        return session

    def _check(self, sock: socket.socket) -> tuple[Tuple, int]:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or (
            sock.type != socket.SOCK_STREAM and sock.proto != socket.IPPROTO_UDP
        ):
            raise UsageError("only TCP and UDP sockets over IPv4 or IPv6 can be replicated")
        is_udp = sock.type == socket.SOCK_DGRAM
        host, local_port = sock.getsockname()[:2]
        local = _address(host)
        try:
            host, remote_port = sock.getpeername()[:2]
            remote = _address(host)
        except OSError as error:
            if not is_udp:
                raise UsageError(
                    f"the socket has no peer ({error.strerror}), which cannot be replicated; "
                    "wait until it is connected"
                ) from error
            remote, remote_port = unspecified(local), 0
        proto = socket.IPPROTO_UDP if is_udp else socket.IPPROTO_TCP
        ends = Tuple(local, local_port, remote, remote_port, proto)
        if ends.is_unconnected and sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            raise UsageError(
                f"{ends}: a UDP socket without a peer may share its port (SO_REUSEPORT), which "
                "cannot be replicated; turn that off, or connect() one UDP socket per peer"
            )
        if is_udp and any(
            other.ends.is_udp
            and other.ends.service_end == ends.service_end
            and other.ends.is_unconnected != ends.is_unconnected
            for other in self.live()
        ):
            raise UsageError(
                f"{ends}: another socket of that port is replicated already; replicate either one "
                "UDP socket without a peer, or only connected ones"
            )
        service = next(
            (n for n, s in enumerate(self._config.service) if ends.local in s.addresses), None
        )
        if service is None:
            raise UsageError(
                f"{ends}: {ends.local} is no service address; "
                f"{'bind' if ends.is_unconnected else 'connect'} to one of: "
                + ", ".join(str(a) for s in self._config.service for a in s.addresses)
            )
        if self._dp.service_state(service) != Owner.OWNER:
            name = self._config.service[service].name
            raise ReplicationError(
                f"{ends}: this node does not own service {name}; replicate where it is owned"
            )
        return ends, service

    def find(self, handle: int) -> Session | None:
        """The session of that handle."""
        return self._sessions.get(handle)

    def of(self, client: Application) -> Iterator[Session]:
        """The live sessions of one application."""
        return (s for s in list(self._sessions.values()) if s.client is client and s.is_live)

    def live(self) -> list[Session]:
        """All that are this node's."""
        return [session for session in self._sessions.values() if session.is_live]

    def close(self, session: Session) -> None:
        """The application ends the session: FIN now, forgotten when both sides are done (R19)."""
        session.closing = True
        if session.ends.is_udp:  # nothing to wait for
            self._finish(session, "closed")
            return
        with contextlib.suppress(OSError):
            session.sock.shutdown(socket.SHUT_WR)
        loop = asyncio.get_running_loop()
        loop.call_later(CLOSE_LINGER_S, self._finish, session, "closed")

    def unprotect(self, session: Session) -> None:
        """Replication of the session ends, the session goes on. Raises DatapathError."""
        if session.keeper is not None:
            session.keeper.cancel()
        self._dp.primary_fail(session.handle, Reason.REQUESTED)

    def application_gone(self, client: Application) -> None:
        """Its connection ended without a close: hand over if possible, else the session ends."""
        for session in list(self.of(client)):
            if session.closing:
                continue
            session.orphan = True
            if session.keeper is not None:
                session.keeper.cancel()
            if session.state == "active":
                self._renounce(session)
            elif session.state != "voiding":
                self._end_orphan(session)

    def _renounce(self, session: Session) -> None:
        name = self._config.service[session.service].name
        if self._dp.service_state(session.service) != Owner.OWNER:
            return  # renounced for another session just now; this one is about to be demoted
        try:
            self._dp.renounce(session.service)
        except DatapathError as error:
            self._log.error("renounce_failed", f"{session.ends}: {error}", service=name)
            self._end_orphan(session)
            return
        self._log.warning(
            "renounced",
            f"{session.ends}: its application ({session.client.name}) died: the other node goes on",
            service=name,
            handle=session.handle,
        )

    def _end_orphan(self, session: Session) -> None:
        self._log.error(
            "session_lost",
            f"{session.ends}: its application ({session.client.name}) died and the other node has "
            "no usable shadow: the session ends",
            handle=session.handle,
        )
        self._finish(session, "closed")

    # -- events

    def on_state(self, event: Event) -> None:
        """PRL_EVENT_PRIMARY."""
        session = self._sessions.get(event.handle)
        if session is None or not session.is_live:
            return
        state = Primary(event.state)
        if state == Primary.GONE:
            self.demote(session)
            return
        if event.generation not in {0, session.generation}:
            return  # of an attempt that is over
        before, session.state = session.state, state.name.lower()
        if event.reason or session.state != "open":
            session.reason = wire.reason_text(event.reason) if event.reason else ""
        if session.state in {"open", "voiding"}:
            self._resolve(session, event)
            if before == "active" and not session.closing:
                self._log.error(
                    "replication_ended",
                    f"{session.ends}: not protected: {session.reason}",
                    handle=session.handle,
                )
            if before in {"active", "voiding"} and session.state == "open":
                session.trigger.set()  # failures of an attempt are its own affair
        self._tell(session)
        if session.orphan and session.state == "open":
            self._end_orphan(session)

    def on_setup_done(self, event: Event) -> None:
        """SETUP_DONE arrived."""
        session = self._sessions.get(event.handle)
        if session is not None and event.generation == session.generation:
            self._resolve(session, event)

    def on_ended(self, handle: int) -> None:
        """The session's socket has gone."""
        if (session := self._sessions.get(handle)) is not None:
            self._finish(session, "ended")

    def on_offer(self, endpoint: str) -> None:
        """An application on the other node waits for shadows of ``endpoint``."""
        for session in self.live():
            if wire_endpoint(session.ends) == endpoint:
                session.trigger.set()

    def on_link_up(self) -> None:
        """Everything that is not protected is tried again."""
        for session in self.live():
            session.trigger.set()

    def on_link_down(self) -> None:
        """No answer will come."""
        for session in self.live():
            self._resolve(session, Event(kind=0, reason=Reason.LINK_LOST))

    def on_fenced(self, service: int) -> None:
        """The other node owns the service now."""
        for session in self.live():
            if session.service == service:
                self.demote(session)

    def demote(self, session: Session) -> None:
        """The other node has the session: end ours behind the silence (L8)."""
        self._forget(session, "demoted")
        end_silently(session.sock)
        self._dp.flow_close(session.handle)
        self._log.warning(
            "demoted", f"{session.ends}: the other node has it now", handle=session.handle
        )
        session.client.send_event({"event": "demoted", "handle": session.handle})

    def _finish(self, session: Session, state: str) -> None:
        if not session.is_live:
            return
        self._forget(session, state)
        self._dp.flow_close(session.handle)
        session.sock.close()
        self._tell(session)

    def _forget(self, session: Session, state: str) -> None:
        session.state = state
        self._resolve(session, Event(kind=0, reason=Reason.ENDED))
        if session.keeper is not None:
            session.keeper.cancel()
        if self._sessions.get(session.handle) is session:
            del self._sessions[session.handle]

    def _tell(self, session: Session) -> None:
        if not session.introduced:
            return
        session.client.send_event(
            {
                "event": "state",
                "handle": session.handle,
                "state": session.state,
                "reason": session.reason,
            }
        )

    def _resolve(self, session: Session, event: Event) -> None:
        if session.done is not None and not session.done.done():
            session.done.set_result(event)

    # -- one attempt

    async def _keep(self, session: Session) -> None:
        """Try again whenever there is reason to hope, as long as the session lives."""
        retries, wait_s = 0, RETRY_MIN_S
        while session.is_live and not session.closing:
            may_retry = self._link.up and retries < RETRIES_MAX and not session.hopeless
            if session.state == "open" and may_retry:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.trigger.wait(), wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
            else:
                await session.trigger.wait()
            if session.trigger.is_set():
                session.trigger.clear()
                retries, wait_s = 0, RETRY_MIN_S
            if session.state == "open" and self._link.up:
                retries += 1
                await self._attempt(session)

    async def _attempt(self, session: Session) -> None:
        """Set up, snapshot, send, activate. On failure the session is open, with the reason."""
        async with self._limit:
            hop = None  # of many peers: whoever takes over looks them up
            if not session.ends.is_unconnected:
                hop = await self._host.next_hop(self._lan, session.ends.remote)
            if not (session.is_live and not session.closing):
                return
            try:
                self._begin(session)
                frozen = await self._freeze(session, hop)
                edge = await self._transfer(session, transfer.encode(frozen.setup))
                self._refuse_moved(session, frozen)
                self._dp.primary_activate(
                    session.handle, session.generation, frozen.setup.committed, edge
                )
            except _AttemptError as error:
                self._failed(session, error.reason, str(error))
            except (SnapshotError, TransferError, CallError) as error:
                self._failed(session, Reason.REQUESTED, str(error))
            except DatapathError as error:
                if not session.handle:
                    raise ReplicationError(str(error)) from error
                self._failed(session, Reason.REQUESTED, str(error))
            else:
                if session.is_live:
                    session.state, session.reason = "active", ""
                    self._log.info("active", f"{session.ends}: protected", handle=session.handle)

    def _begin(self, session: Session) -> None:
        """Gate on, input redirected, output held."""
        spec = cloning.spec_of(session.ends, session.sock, session.handle)
        session.done = asyncio.get_running_loop().create_future()
        session.handle, session.generation = self._dp.primary_setup(spec)
        session.state, session.reason = "setup", ""
        self._sessions[session.handle] = session
        if not self._link.up:
            raise _AttemptError(Reason.LINK_LOST, f"the link is down: {self._link.why_down}")

    async def _freeze(self, session: Session, hop: NextHop | None) -> Frozen:
        frozen = await cloning.freeze(session.ends, session.sock, hop, session.application)
        info = self._dp.flow_info(session.handle)
        if info is not None and info.socket["stamp_ns"] and info.socket["has_ooo"]:
            raise _AttemptError(Reason.REQUESTED, "segments are missing in between; trying again")
        return frozen

    async def _transfer(self, session: Session, blob: bytes) -> int:
        """Send the pieces and wait for the shadow; returns the right edge that it gave."""
        assert session.done is not None
        pieces = transfer.pieces(blob, wire.SETUP_CHUNK_BYTES)
        for number, piece in enumerate(pieces, 1):
            tlvs = wire.encode_tlvs([Element(Tlv.SNAPSHOT, piece)])
            bits = wire.SETUP_LAST if number == len(pieces) else 0
            while not session.done.done():
                try:
                    self._dp.send(
                        Message.SETUP,
                        tlvs,
                        handle=session.handle,
                        generation=session.generation,
                        bits=bits,
                    )
                    break
                except DatapathError as error:
                    if error.errno != _EBUFFERS:
                        raise
                await asyncio.sleep(SEND_FULL_WAIT_S)  # the link drains; nothing tells us
        # The datapath opens the flow at its deadline; twice that is for a datapath that hangs.
        deadline_s = 2 * self._config.timing.setup_ms / 1000
        try:
            event = await asyncio.wait_for(session.done, deadline_s)
        except TimeoutError:
            raise _AttemptError(Reason.TIMEOUT, wire.reason_text(Reason.TIMEOUT)) from None
        if event.reason or event.type != Message.SETUP_DONE:
            words = next((e.value.decode("utf-8", "replace") for e in _texts(event)), "")
            reason = event.reason or Reason.REQUESTED
            raise _AttemptError(reason, words or wire.reason_text(reason))
        return event.space

    def _refuse_moved(self, session: Session, frozen: Frozen) -> None:
        """A straggler that came after the snapshot is missing in the shadow."""
        if cloning.has_moved(session.ends, session.sock, frozen):
            raise _AttemptError(Reason.REQUESTED, "a segment slipped in; trying again")

    def _failed(self, session: Session, reason: int, words: str) -> None:
        if not session.is_live:
            return
        if session.state != "open":
            with contextlib.suppress(DatapathError):
                self._dp.primary_fail(session.handle, reason)
        session.state, session.reason = "open", words
        session.hopeless = reason == Reason.NO_APPLICATION
        self._log.warning(
            "not_protected", f"{session.ends}: not protected: {words}", handle=session.handle
        )


def wire_endpoint(ends: Tuple) -> str:
    """The endpoint that an application offers itself for, as OFFER carries it."""
    return ends.service_end


def facts_of(session: Session) -> dict[str, Any]:
    """What answers and events say of a session."""
    return {"handle": session.handle, "state": session.state, "reason": session.reason}


def _texts(event: Event) -> list[Element]:
    try:
        return [element for element in wire.decode_tlvs(event.body) if element.type == Tlv.TEXT]
    except wire.WireError:
        return []


def _address(text: str) -> Address:
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
