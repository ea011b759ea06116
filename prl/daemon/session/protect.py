"""Sessions whose application is on this node: kept protected (SPEC R17, R23).

replicate ─┐      ┌── refused, too late, link lost, void ──┐
           ├─▶ attempt (attempt.py) ─▶ active ◀─ resumed ─▶ alone
taken over ┘      ▲                                      open
                  └── link up, an application offers itself over there, or a while has passed
                      (renew: and the application has given its bytes anew) ──┘
"""

import asyncio
import contextlib
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from prl.bindings import wire
from prl.bindings.datapath import Datapath, DatapathError, Event, Tuple
from prl.bindings.facts import EventKind, Owner, Primary, Reason
from prl.config import Config
from prl.daemon.control.clients import Application, Program
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.link.link import Link
from prl.daemon.session.attempt import Attempts
from prl.daemon.session.births import Births
from prl.daemon.session.cloning import shared_address, shared_port
from prl.daemon.session.exposed import Exposed
from prl.daemon.session.known import Table
from prl.daemon.session.orphans import Moves, Orphans
from prl.daemon.session.retries import RETRY_MAX_S, RETRY_MIN_S, Retries
from prl.daemon.session.sessions import STABLE_S, Mending, Session
from prl.daemon.session.silence import abort_silently, end_silently
from prl.daemon.session.streams import Streams
from prl.endpoint import unspecified
from prl.errors import ReplicationError, UsageError
from prl.kernel.disconnect import disconnect
from prl.kernel.freezer import FreezeError
from prl.shadow import SnapshotError
from prl.shadow.capture import refuse_other_protocols
from prl.shadow.sockopt import CallError

RENEW_TRIES = 3
"""Attempts with bytes that the application has just given, while it waits."""
TENDED_AT_ONCE = 64
"""Sessions of a take-over that begin to be protected again before everything else has its turn."""
OFFERED_MAX = 1024
"""Endpoints that the other node may have offers for; it takes no more itself (shadows.py)."""
REASONS_MAX = 8
"""Different reasons for missing protection that ``status`` names."""
_HOPELESS = frozenset(
    {Reason.APPLICATION_GONE, Reason.OUTPUT_DIFFERS, Reason.MID_STREAM, Reason.WRITTEN}
)
_STRAYS = frozenset({Reason.STRAY_IN, Reason.STRAY_OUT})
_NOT_OPEN = frozenset({"setup", "active", "voiding", "alone"})
"""Protected, or on the way there: the last two may go on as they are when the link is back."""
_STANDS_STILL = "link lost; nothing has passed since, so that it can go on when that is back"
_STATES = {state: state.name.lower() for state in Primary}
CLOSE_LINGER_S = 60.0
"""How long a session that its application closed may take to end (the peer's FIN)."""


class Primaries:
    """All sessions whose application is here, by handle."""

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        link: Link,
        log: EventLog,
        attempts: Attempts,
        instances: Instances,
        moves: Moves,
        exposed: Exposed,
        *,
        births: Births,
        ended: Callable[[Tuple, int], None] = lambda *_: None,
    ) -> None:
        """``ended`` is told which session is over, and its service."""
        self._config, self._dp, self._link, self._log = config, datapath, link, log
        self._instances, self._exposed, self._births = instances, exposed, births
        self._ended = ended
        self._attempts, self._retries = attempts, Retries()
        self._sessions = Table(datapath, Session, shadow=False)
        self._orphans = Orphans(
            log,
            moves,
            sessions_of=lambda service: (s for s in self.in_hand() if s.service == service),
            idle=self._sessions.noted,
            owns=self._owns,
            name_of=lambda service: config.service[service].name,
            end=self._end_orphan,
        )
        self._taken: deque[Session] = deque()
        """Those that were taken over, and that nobody has tended yet."""
        self._offered: set[str] = set()
        """Endpoints that applications on the other node have offered themselves for."""
        self._new_offers: set[str] = set()
        """Those of which sessions have not heard yet."""

    # -- requests

    async def replicate(
        self,
        client: Application,
        sock: socket.socket,
        application: bytes,
        *,
        renew: bool = False,
        streams: Streams | None = None,
        again: bool = False,
        program: Program | None = None,
    ) -> Session:
        """Protect a socket; returns after activation or its failure.

        Takes ``sock`` over, also on failure. ``streams``: of a socket that prl has known before.
        ``again``: it was replicated by a prld that died; returns at once, and it is protected when
        that can be. ``program``: the application does not know of prl.

        Raises ReplicationError or UsageError when the session can never be protected as things are.
        """
        try:
            ends, service = self._check(sock)
            self._supersede(ends)
            streams = streams or Streams.at(sock)
            session = Session(ends, service, client, application, renew, streams, program)
            try:
                if again:
                    self._attempts.enter(session, sock, self._sessions)
                else:
                    self._refuse_foreign(session)
                    await self._attempt(session, sock)
            except BaseException:  # nobody is told of it, so nobody would end it
                self._drop(session)
                raise
        finally:
            sock.close()  # the datapath has it
        self._begin(session)
        return session

    def _drop(self, session: Session) -> None:
        """It goes on without prld: nobody but its application has its socket any more."""
        if session.handle and session.is_live:
            with contextlib.suppress(DatapathError):
                self._dp.primary_fail(session.handle, Reason.REQUESTED)
            self._forget(session, "closed")
            self._dp.flow_close(session.handle)

    def _supersede(self, ends: Tuple) -> None:
        """An application hands a socket over that it has handed over before."""
        before = self._sessions.get(self._dp.flow_of(ends))
        if before is not None and before.state in {"open", "alone"}:
            self._finish(before, "closed")

    def take_over(self, session: Session) -> None:
        """A shadow has become a session of this node's; that it is protected again may wait."""
        self._sessions[session.handle] = session
        self._introduce(session)
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._tend_taken)
        self._taken.append(session)

    def _tend_taken(self) -> None:
        """Some in each turn of the loop: applications are being told that they have others."""
        for _ in range(min(len(self._taken), TENDED_AT_ONCE)):
            session = self._taken.popleft()
            if session.is_live:
                self._tend(session)
        if self._taken:
            asyncio.get_running_loop().call_soon(self._tend_taken)

    def _begin(self, session: Session) -> None:
        self._introduce(session)
        self._tend(session)

    def _introduce(self, session: Session) -> None:
        session.introduced = True
        if session.mending is not None:
            session.mending.stale = session.renew

    async def renew(self, session: Session, application: bytes) -> None:
        """The application's bytes as of now; it neither reads nor writes the socket meanwhile."""
        session.application = application
        if session.state == "active":
            return
        mending = session.mend()
        mending.stale = mending.asked = False
        try:
            for _ in range(RENEW_TRIES):
                if self._obstacle(session):
                    break
                await self._attempt(session)
        finally:  # it goes on in any case
            mending.stale = session.renew
            mending.trigger.set()

    def _check(self, sock: socket.socket) -> tuple[Tuple, int]:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or (
            sock.type != socket.SOCK_STREAM and sock.proto != socket.IPPROTO_UDP
        ):
            raise UsageError("only TCP and UDP sockets over IPv4 or IPv6 can be replicated")
        is_udp = sock.type == socket.SOCK_DGRAM
        if not is_udp:
            _refuse_kind(sock)
        host, local_port = sock.getsockname()[:2]
        local, local_port = shared_address(host.partition("%")[0]), shared_port(local_port)
        try:
            host, remote_port = sock.getpeername()[:2]
            remote = shared_address(host.partition("%")[0])
        except OSError as error:
            if not is_udp:
                raise UsageError(
                    f"the socket has no peer ({error.strerror}), which cannot be replicated; "
                    "wait until it is connected"
                ) from error
            remote, remote_port = unspecified(local), 0
        proto = socket.IPPROTO_UDP if is_udp else socket.IPPROTO_TCP
        service = self._instances.of_socket(local, sock)
        instance = "" if service is None else self._config.service[service].instance
        ends = Tuple(local, local_port, remote, remote_port, proto, instance)
        if ends.is_unconnected and sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            raise UsageError(
                f"{ends}: a UDP socket without a peer may share its port (SO_REUSEPORT), which "
                "cannot be replicated; turn that off, or connect() one UDP socket per peer"
            )
        if is_udp and any(
            other.ends.is_udp
            and other.ends.service_end == ends.service_end
            and other.ends.is_unconnected != ends.is_unconnected
            for other in self.in_hand()
        ):
            raise UsageError(
                f"{ends}: another socket of that port is replicated already; replicate either one "
                "UDP socket without a peer, or only connected ones"
            )
        if service is None:
            raise UsageError(
                f"{ends}: {ends.local} is no service address; "
                f"{'bind' if ends.is_unconnected else 'connect'} to one of: "
                + ", ".join(str(a) for s in self._config.service for a in s.addresses)
            )
        return ends, service

    def _refuse_foreign(self, session: Session) -> None:
        if not self._owns(session.service):
            name = self._config.service[session.service].name
            raise ReplicationError(
                f"{session.ends}: this node does not own service {name}; replicate where it is "
                "owned"
            )

    def _owns(self, service: int) -> bool:
        return self._dp.service_state(service) == Owner.OWNER

    def find(self, handle: int) -> Session | None:
        """The session of that handle."""
        return self._sessions.get(handle)

    def peek(self, handle: int) -> Session | None:
        """The same, if something happens to it; nobody needs an object of the others for this."""
        return self._sessions.peek(handle)

    def find_former(self, handle: int, client: Application) -> Session | None:
        """The application's session that was the shadow of that handle."""
        session = self._former(handle)
        return session if session is not None and session.client is client else None

    def _former(self, handle: int) -> Session | None:
        here = (session for session in self.in_hand() if session.former == handle)
        return next(here, None) or self._sessions.of_former(handle)

    def of(self, client: Application) -> Iterator[Session]:
        """The live sessions of one application."""
        return (session for session in self._sessions.of_client(client) if session.is_live)

    def in_hand(self) -> list[Session]:
        """Those of this node that something happens to: all that are not protected, others, too."""
        return [session for session in self._sessions.in_hand() if session.is_live]

    def live(self) -> Iterator[Session]:
        """All that are this node's, which takes long, and memory: there may be very many."""
        return (session for session in self._sessions.all() if session.is_live)

    def idle(self, service: int) -> int:
        """How many of a service, all of them protected, are not in hand."""
        return self._sessions.noted(service)

    def sizes(self) -> dict[str, int]:
        """How many of this node's sessions have an object, and how many need none."""
        return self._sessions.sizes()

    def count(self) -> int:
        """How many are this node's."""
        return len(self._sessions)

    def note_idle(self) -> bool:
        """Keep no object of some that nothing happens to; whether to do it again soon."""
        return self._sessions.note_idle()

    def close(self, session: Session) -> None:
        """The application ends the session: FIN now, forgotten when both sides are done (R19)."""
        session.closing = True
        if session.ends.is_udp:  # nothing to wait for
            self._finish(session, "closed")
            return
        with contextlib.suppress(OSError, DatapathError), self._socket(session) as sock:
            sock.shutdown(socket.SHUT_WR)
        loop = asyncio.get_running_loop()
        loop.call_later(CLOSE_LINGER_S, self._finish, session, "closed")

    def unprotect(self, session: Session, why: str = "") -> None:
        """Replication of the session ends, the session goes on. Raises DatapathError."""
        mending = session.mend()
        mending.stop()
        mending.given_up = True
        self._dp.primary_fail(session.handle, Reason.REQUESTED)
        session.reason = why or session.reason
        mending.hopeless, mending.asked = True, False

    def let_go(self, session: Session) -> None:
        """Its application has closed the socket: so do we, and the kernel says what it says then.

        The session stays protected until it has ended. Raises DatapathError.
        """
        session.closing = True
        self._dp.flow_orphan(session.handle)
        loop = asyncio.get_running_loop()
        loop.call_later(CLOSE_LINGER_S, self._finish, session, "closed")

    def release(self, session: Session) -> None:
        """Forget a session once it is open: its application goes on with its own descriptor.

        Raises DatapathError.
        """
        if session.state == "open":
            self._finish(session, "closed")
        else:
            session.mend().released = True
            self.unprotect(session)

    def doubt(self, reason: Reason) -> None:
        """What protects the sessions here is given up, and made anew from new snapshots."""
        for session in self.live():
            if session.state in _NOT_OPEN:
                with contextlib.suppress(DatapathError):  # it has just ended
                    self._dp.primary_fail(session.handle, reason)

    def resync(self, session: Session) -> None:
        """A new snapshot now; what protects the session is given up first. Raises DatapathError."""
        mending = session.mend()
        mending.given_up = mending.hopeless = mending.asked = False
        self._tend(session)
        if session.state in _NOT_OPEN - {"setup"}:
            self._dp.primary_fail(session.handle, Reason.REQUESTED)
        session.hope()

    def application_gone(self, client: Application) -> None:
        """Its connection ended without a close: hand over if possible, else the sessions end."""
        for session in list(self.of(client)):
            self.abandon(session)

    def abandon(self, session: Session) -> None:
        """What served the session has died: hand over if possible, else the session ends."""
        if session.closing:
            return
        session.orphan = True
        if session.mending is not None:
            session.mending.stop()
        self._decide_if_orphan(session)

    def _decide_if_orphan(self, session: Session) -> None:
        if not session.orphan or session.state in {"voiding", "moved"}:
            return  # who has it is told when it is known
        if session.state == "active":
            self._orphans.decide(session.service)
        else:
            self._end_orphan(session, "the other node has no usable shadow")

    def abort(self, session: Session, why: str) -> None:
        """Reset the connection; the peer must not have more of it than it has."""
        self._log.error("session_aborted", f"{session.ends}: {why}", handle=session.handle)
        with contextlib.suppress(DatapathError), self._socket(session) as sock:
            disconnect(sock)

    def _end_orphan(self, session: Session, why: str) -> None:
        self._log.error(
            "session_lost",
            f"{session.ends}: its application ({session.client.name}) died: the session ends, for "
            f"the other node does not go on: {why}",
            handle=session.handle,
        )
        self._finish(session, "closed")

    # -- events

    def on_move(self, service: int) -> None:
        """A planned move of the service has ended, and been told."""
        self._orphans.reconsider(service)

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
        before, session.state = session.state, _STATES[state]
        self._orphans.changed(session.service)
        if state == Primary.MOVED:
            return  # what becomes of it is told when it is known
        if event.reason or session.state != "open":
            session.reason = wire.reason_text(event.reason) if event.reason else ""
        if session.state == "active" and before in {"voiding", "alone"}:
            self._resumed(session)
        if session.state in {"open", "voiding", "alone"}:
            self._unprotected(session, event, before)
        session.tell()
        if session.state == "open" and session.mending is not None and session.mending.released:
            self._finish(session, "closed")
            return
        self._decide_if_orphan(session)

    def _resumed(self, session: Session) -> None:
        """The other node has all that there is: it goes on without a new snapshot (L10)."""
        session.mended(time.monotonic())
        words = f"{session.ends}: goes on without a new snapshot"
        self._log.info("resumed", words, handle=session.handle)

    def _unprotected(self, session: Session, event: Event, before: str) -> None:
        session.resolve(event)
        if before == "active" and not session.closing:
            self._log.error(
                "replication_ended",
                f"{session.ends}: not protected: {session.reason}",
                handle=session.handle,
            )
        mending = session.mend()
        self._note_stray(session, mending, event.reason)
        if before == "active":
            mending.hopeful = time.monotonic() - session.active_since_s > STABLE_S
            mending.hopeless |= event.reason in _HOPELESS
        if before in {"active", "voiding", "alone"} and session.state == "open":
            mending.trigger.set()  # failures of an attempt are its own affair
        self._tend(session)

    def _note_stray(self, session: Session, mending: Mending, reason: int) -> None:
        """Whether its packets pass prl's programs by: told aloud, for its route may be mended."""
        if reason not in _STRAYS:
            return
        self._log.error(
            "alarm", f"{session.ends}: {wire.reason_text(reason)}", handle=session.handle
        )
        if reason == Reason.STRAY_IN and (info := self._dp.flow_info(session.handle)):
            mending.stray_from = int(info.counters["in_passed"])

    def on_setup_done(self, event: Event) -> None:
        """SETUP_DONE arrived."""
        session = self._sessions.get(event.handle)
        if session is not None and event.generation == session.generation:
            if event.reason == Reason.NO_APPLICATION:  # now: an offer may be right behind it
                session.mend().hopeless = True
                self._offered -= session.ends.offers
                self._births.refused(session.ends.offers)
            session.resolve(event)

    def on_ended(self, handle: int) -> None:
        """The session's socket has gone."""
        if (session := self._sessions.get(handle)) is not None:
            self._finish(session, "ended")

    def on_hole(self, event: Event) -> None:
        """PRL_EVENT_HOLE: the peer waits for what it was told of, and nobody has it to give."""
        session = self._sessions.get(event.handle) or self._former(event.handle)
        if session is not None:
            self.abort(
                session,
                "its socket does not take input that the peer was told of: it is reset rather than "
                "left to wait for ever",
            )

    def on_offer(self, endpoint: str) -> None:
        """An application on the other node waits for shadows of ``endpoint``."""
        if endpoint not in self._offered and len(self._offered) >= OFFERED_MAX:
            words = f"the other node offers more than {OFFERED_MAX} endpoints: the rest is ignored"
            self._log.error("offer_refused", words)
            return
        self._offered.add(endpoint)
        self._births.offered(endpoint)
        if not self._new_offers:  # a thousand may come at once, each of one of a thousand sessions
            asyncio.get_running_loop().call_soon(self._on_new_offers)
        self._new_offers.add(endpoint)

    def _on_new_offers(self) -> None:
        offers, self._new_offers = self._new_offers, set()
        for session in self.in_hand():
            if session.state != "active" and not offers.isdisjoint(session.ends.offers):
                session.mend().hopeless = False
                session.hope()

    def on_link_up(self) -> None:
        """Everything that is not protected is tried again, as soon as there is an offer."""
        for session in self.in_hand():
            session.hope()

    def on_link_down(self) -> None:
        """No answer will come, and offers will be made again."""
        self._offered.clear()
        self._births.on_link_down()
        for session in self.in_hand():
            if session.mending is not None:
                session.mending.asked = False
            session.resolve(Event(EventKind.LINK_DOWN, reason=Reason.LINK_LOST))

    def on_fenced(self, service: int) -> None:
        """The other node owns the service now."""
        for session in self._sessions.of_service(service):
            if session.is_live:
                self.demote(session)

    def demote(self, session: Session) -> None:
        """The other node has the session: end ours behind the silence (L8)."""
        self._exposed.leave(session)
        self._forget(session, "demoted")
        with contextlib.suppress(DatapathError):  # its application has closed it, and so have we
            self._end(session, self._socket(session))
        self._dp.flow_close(session.handle)
        self._log.warning(
            "demoted", f"{session.ends}: the other node has it now", handle=session.handle
        )
        session.client.send_event({"event": "demoted", "handle": session.handle})

    def _end(self, session: Session, sock: socket.socket) -> None:
        """Without a word, for all who have the socket."""
        if session.program is not None and not session.closing:
            with contextlib.suppress(FreezeError, SnapshotError, CallError):
                with session.client.freezer.paused(self._attempts.tracer):
                    abort_silently(sock)
                return
        end_silently(sock)

    def leave(self, session: Session) -> None:
        """As prld ends: the session goes on without it; its application has the socket."""
        self._forget(session, "closed")

    def _socket(self, session: Session) -> socket.socket:
        """Its socket, to be closed soon: only the datapath keeps it. Raises DatapathError."""
        return self._dp.flow_socket(session.handle)

    def _finish(self, session: Session, state: str) -> None:
        if not session.is_live:
            return
        self._forget(session, state)
        self._dp.flow_close(session.handle)
        self._log.info("session_ended", f"{session.ends}: {state}", handle=session.handle)
        self._ended(session.ends, session.service)
        session.tell()

    def _forget(self, session: Session, state: str) -> None:
        session.state = state
        session.resolve(Event(EventKind.ENDED, reason=Reason.ENDED))
        if session.mending is not None:
            session.mending.stop()
        if self._sessions.get(session.handle) is session:
            del self._sessions[session.handle]
        self._orphans.changed(session.service)

    # -- keeping them protected

    def _tend(self, session: Session) -> None:
        """Have it kept protected; one that is, needs nobody."""
        if session.state == "active" or not session.introduced or session.closing or session.orphan:
            return
        mending = session.mend()
        if not mending.given_up and (mending.keeper is None or mending.keeper.done()):
            mending.keeper = asyncio.create_task(self._keep(session, mending))

    async def _keep(self, session: Session, mending: Mending) -> None:
        """Protect it again whenever that may succeed, until it is, as long as it lives."""
        while session.mending is mending and session.is_live and not session.closing:
            if self._obstacle(session):
                await mending.trigger.wait()
            else:
                await _wait_at_most(session.wait_s, mending.trigger)
                session.wait_s = min(session.wait_s * 2, RETRY_MAX_S)
                if not mending.trigger.is_set():
                    await _wait_at_most(self._retries.turn_in_s(), mending.trigger)
            was_triggered = mending.trigger.is_set()
            mending.trigger.clear()
            if mending.hopeful:
                mending.hopeful, session.wait_s = False, RETRY_MIN_S
            elif was_triggered:
                continue  # an obstacle has come or gone: the back-off goes on
            if self._obstacle(session):
                continue
            if mending.stale:
                mending.asked = True
                session.client.send_event({"event": "protectable", "handle": session.handle})
            else:
                await self._attempt(session)

    def may_be_protected(self) -> bool:
        """Whether sessions are on their way to be protected: they are tried, or asked for."""
        return any(
            session.state == "setup" or (session.state == "open" and not self._hindrance(session))
            for session in self.in_hand()
        )

    def _obstacle(self, session: Session) -> str:
        """Why it cannot be tried now; empty when it can."""
        if why := self._hindrance(session):
            return why
        if session.mend().asked:
            return "its application was asked to renew it, and has not yet"
        return ""

    def _hindrance(self, session: Session) -> str:
        """The same, of what is not its application's."""
        if session.state != "open":
            return _STANDS_STILL if session.state == "alone" else session.state
        if not self._link.up:
            return f"the link is down: {self._link.why_down}"
        if not self._owns(session.service):
            return "this node does not own its service"
        mending = session.mend()
        if mending.hopeless or self._offered.isdisjoint(session.ends.offers):
            return session.reason if mending.hopeless else self._nobody(session)
        return ""

    def _nobody(self, session: Session) -> str:
        other = self._link.other
        return (
            f"no application on {other.node if other else 'the other node'} waits for "
            f"{session.ends.service_end}; start it there, too"
        )

    async def _attempt(self, session: Session, sock: socket.socket | None = None) -> None:
        was_late = session.mending is not None and session.mending.late
        await self._attempts.protect(session, self._sessions, sock)
        if was_late and session.state == "active":
            self._hope_for_the_late()

    def _hope_for_the_late(self) -> None:
        """What made attempts too late has gone: the others need not wait for their back-off."""
        for session in self.in_hand():
            if session.mending is not None and session.mending.late:
                session.mending.late = False  # one success is enough for all
                session.hope()

    def counts(self) -> dict[str, float]:
        """What attempts are allowed now, and how often that made one wait."""
        return self._attempts.counts() | {"retries_put_off": self._retries.put_off}

    def unprotected(self) -> dict[str, int]:
        """Why how many sessions are not protected now, the most frequent reasons."""
        reasons = Counter(self.why_not(s) for s in self.in_hand() if s.state != "active")
        return dict(reasons.most_common(REASONS_MAX))

    def cause(self, session: Session, last: int) -> int:
        """The Reason that stands in the way now; else ``last``, which ended its protection."""
        if not self._link.up:
            return Reason.LINK_LOST
        if not self._owns(session.service):
            return Reason.NOT_OWNER
        if self._offered.isdisjoint(session.ends.offers) and last not in _HOPELESS:
            return Reason.NO_APPLICATION
        return last

    def why_not(self, session: Session) -> str:
        """Why a session is not protected now, in words."""
        return self._obstacle(session) or session.reason or session.state


async def _wait_at_most(seconds: float, event: asyncio.Event) -> None:
    """Until it is set, or the time has passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _refuse_kind(sock: socket.socket) -> None:
    """Raise UsageError for what can never be cloned: MPTCP, kernel TLS, TCP-AO."""
    try:
        refuse_other_protocols(sock)
    except SnapshotError as error:
        raise UsageError(str(error)) from error
