"""One peer at a front: its sockets, and the session that they carry, be it this node's or not.

::

    nobody ── the peer connects ──▶ Owner ── demoted, ended ──▶ nobody
       └── Begin, a shadow ──▶ Standby ── taken over ──▶ Owner

All is called from the event loop; what prld has to be asked is asked in tasks.
"""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec

from prl.bgpfront.ahead import PositionError
from prl.bgpfront.config import Peer
from prl.bgpfront.messages import Begin, ChannelError, End, Message, Ready, Said
from prl.bgpfront.metrics import COUNTED
from prl.bgpfront.opening import OpenError, decode
from prl.bgpfront.owner import Owner
from prl.bgpfront.pipe import READ_BYTES, Pipe
from prl.bgpfront.session import Session, Settings, State
from prl.bgpfront.standby import Standby
from prl.bgpfront.wiring import BGP_PORT
from prl.bindings.bgp_rib import Column
from prl.client.aio import (
    AsyncSession,
    AsyncShadow,
    NoDaemonError,
    NotProtectedError,
    ShadowVoid,
    Takeover,
)
from prl.control.protocol import OVER
from prl.endpoint import OPENS_TO, Side, show_endpoint
from prl.errors import PrlError

COMMITTED_EVERY_S = 0.05
"""How often prld is asked how far the owner's output is, while something depends on it."""
READY_EVERY_S = 1.0
"""How often the owner is told what is missing, while it changes; that nothing is, at once."""
UNREAD_MAX_S = 5.0
"""A shadow that nothing is known of is given up then: unread, it would hold up the peer."""
PARTED_MAX_S = 10.0
"""So long a daemon is kept whose session the other node has, until that front tells of it."""
CLOSING_MAX_S = 10.0
"""A peer, or a daemon, that does not read so long is not told the last words."""
PROTECT_EVERY_S = 0.5
"""How often prld is asked to protect a connection while it is not there."""
PROTECT_MAX_S = 35.0
"""So long the peer is kept waiting for that: less than it waits for an OPEN (RFC 4271 section
8.2.2), and more than ANSWER_TIMEOUT_S, after which a prld that hangs is asked once more."""
DIAL_AFTER_S = 1.0
"""A peer that has not connected so long after the daemon is connected to."""
DIAL_EVERY_S = 5.0
"""How often that is tried; as a daemon would, until the peer or the daemon is there or gone."""
DAEMON_DIAL_AFTER_S = 2.0
"""A daemon that has not connected so long after it is waited for is connected to."""
DAEMON_DIAL_MAX_S = 16.0
"""Each time twice as late as before, but no later, until a daemon has opened its session."""
WAITING_MAX_BYTES = READ_BYTES
"""What an end may say before there is another one to hear it: an OPEN, a NOTIFICATION."""


class Note(msgspec.Struct, frozen=True):
    """What comes with a shadow, from the session's first owner."""

    session: int


class Node(Protocol):
    """What is asked of prld."""

    async def replicate(self, sock: socket.socket, data: bytes = b"") -> AsyncSession:
        """As AsyncNode.replicate()."""

    async def offer(self, endpoint: str) -> None:
        """As AsyncNode.offer()."""


Dial = Callable[[Peer], Awaitable[socket.socket | None]]
"""Connects to a peer from its service address, or to the daemon there from the peer's; None: it
cannot be now."""


class Channel(Protocol):
    """The other front."""

    @property
    def is_up(self) -> bool:
        """Whether it is there."""

    @property
    def has_room(self) -> bool:
        """Whether a piece of a table may be said."""

    def send(self, message: Message) -> None:
        """Say it, if it is there."""

    def give_up(self, why: str) -> None:
        """Make the connection anew."""


class _Connection:
    """A pipe, and what came of it before its session began; ``dialled``: the front opened it."""

    def __init__(
        self,
        sock: socket.socket,
        take: "Callable[[_Connection, bytes], None]",
        ended: "Callable[[_Connection, str], None]",
        *,
        dialled: bool = False,
    ) -> None:
        self.dialled = dialled
        self.closing_since: float | None = None
        """Since when its end of the session is to be closed once all is written."""
        self.waiting: bytearray | None = bytearray()
        self._take = take
        self.pipe = Pipe(sock, received=self._received, ended=lambda why: ended(self, why))

    def begin(self) -> None:
        """What has come, and what comes, is the session's."""
        waiting, self.waiting = self.waiting, None
        if waiting:
            self._take(self, bytes(waiting))
        self.pipe.read(on=True)

    def _received(self, data: bytes) -> None:
        if self.waiting is None:
            self._take(self, data)
            return
        self.waiting += data
        if len(self.waiting) >= WAITING_MAX_BYTES:
            self.pipe.read(on=False)


@dataclass
class _Shadow:
    """The other node's session, as prld gives it.

    Attributes:
        at: position in the peer's stream of the next byte that it gives.
        unread_since: since when nobody is there to whom it could be given.
    """

    shadow: AsyncShadow
    session: int
    at: int
    unread_since: float | None = None


class Seat:
    """See the module.

    Args:
        peer: who it is.
        settings: of its sessions.
        node: prld.
        channel: the other front.
        tasks: where tasks are made.
        changed: called when something has happened: turn() is to be called then.
        tell: takes what an operator should hear of.
        dial: connects to the peer.
        dial_daemon: connects to the daemon.
        daemon_lost: called when the daemon's connection has ended, of a session of this node's.
    """

    def __init__(
        self,
        peer: Peer,
        settings: Settings,
        *,
        node: Node,
        channel: Channel,
        tasks: asyncio.TaskGroup,
        changed: Callable[[], None],
        tell: Callable[[str], None],
        dial: Dial,
        dial_daemon: Dial,
        daemon_lost: Callable[[], None],
    ) -> None:
        self.peer = peer
        self._dial = dial
        self._dials = False
        self._dial_at: float | None = None
        self._dial_daemon = dial_daemon
        self._dials_daemon = False
        self._daemon_dial_at: float | None = None
        self._daemon_patience_s = DAEMON_DIAL_AFTER_S
        self._daemon_lost = daemon_lost
        self._settings, self._node, self._channel = settings, node, channel
        self._tasks, self._changed, self._tell = tasks, changed, tell
        self._loop = asyncio.get_running_loop()
        self._owner: Owner | None = None
        self._standby: Standby | None = None
        self._place: AsyncSession | None = None
        self._is_protected = False
        self._why_unprotected = ""
        self._caller: socket.socket | None = None
        """A connection of the peer's that nobody has read yet."""
        self._takes = False
        """A connection of the peer's is being handed to prld."""
        self._shadow: _Shadow | None = None
        self._outer: _Connection | None = None
        """To the peer, or its shadow."""
        self._inner: _Connection | None = None
        self._parted: Session | None = None
        """One that the other node has now, while its front has not told of it yet."""
        self._parted_until = 0.0
        self._known = 0
        """How much of what comes next the session has already."""
        self._asks = False
        self._ready: str | None = None
        self._ready_at = 0.0
        self._counts = dict.fromkeys(COUNTED, 0)

    @property
    def session(self) -> Session | None:
        """The one there is, be it this node's or the other's."""
        place = self._owner or self._standby
        return self._parted if place is None else place.session

    @property
    def is_owner(self) -> bool:
        """Whether the session is this node's."""
        return self._owner is not None

    @property
    def has_daemon(self) -> bool:
        """Whether the daemon is connected."""
        return self._inner is not None

    @property
    def daemon_sides(self) -> tuple[Side, Side] | None:
        """The daemon's end of its connection, and the front's."""
        if self._inner is None:
            return None
        daemon, front = self._inner.pipe.remote, self._inner.pipe.local
        return None if daemon is None or front is None else (daemon, front)

    def status(self) -> dict[str, object]:
        """What an operator is shown."""
        session = self.session
        found: dict[str, object] = {
            "because": self.because,
            "peer": str(self.peer.address),
            "local": str(self.peer.local),
            "role": "owner" if self._owner else "standby" if self._standby else "none",
            "state": "down" if session is None else session.state.value,
            "daemon": "connected" if self._inner is not None else "away",
            "counts": dict(self._counts),
        }
        if session is None:
            return found
        found["since_s"] = round(self._loop.time() - session.since, 3)
        for name, direction, columns in (
            ("in", session.heard, ("heard", "fed")),
            ("out", session.told, ("wanted", "told")),
        ):
            if direction is not None:
                status = direction.rib.status()
                routes = (sum(status.routes[column].values()) for column in Column)
                found[name] = {
                    **dict(zip(columns, routes, strict=True)),
                    "differing": status.differing,
                    "incomplete": direction.incomplete,
                }
        return found

    @property
    def because(self) -> str:
        """Why the other node could not go on with the session, were its owner to fail now."""
        if self._standby is not None:
            return self._not_ready(self._standby)
        if self._takes:
            return "prld has not protected the peer's connection yet"
        if self._owner is None:
            return "waits for the peer" if self._caller is None else "waits for the daemon"
        if not self._is_protected:
            return f"the session is not protected: {self._why_unprotected or 'not yet'}"
        return self._owner.why_not_ready

    # -- what happens

    def daemon_connected(self, sock: socket.socket) -> None:
        """The daemon has opened a connection to the peer, which ends here."""
        inner, session = self._inner, self.session
        is_bound = inner is not None and inner.dialled and inner.waiting is None
        if is_bound and session is not None and session.keeps_incoming():
            sock.close()
            self._tell("a connection of the daemon's is refused: it is connected to")
            return
        self._lose_inner("the daemon has connected again")
        self._take_daemon(sock, dialled=False)

    def _take_daemon(self, sock: socket.socket, *, dialled: bool) -> None:
        self._inner = _Connection(sock, self._from_daemon, self._on_inner_end, dialled=dialled)
        self._inner.pipe.read(on=True)
        self._changed()

    def peer_connected(self, sock: socket.socket) -> None:
        """The peer has connected; the newest of its connections waits for the daemon's."""
        if self._owner is not None or self._takes:
            sock.close()
            self._tell("a second connection of the peer is refused: its session lives")
            return
        if self._caller is not None:
            self._caller.close()
        self._caller = sock
        self._finish_parted()
        self._changed()

    def given(self, shadow: AsyncShadow) -> None:
        """The other node has a session of this peer's."""
        try:
            number = msgspec.json.decode(shadow.application, type=Note).session
        except msgspec.MsgspecError:
            self._tasks.create_task(shadow.close())
            return
        if self._shadow is not None:
            self._shadow.shadow.discard("there is a newer one")
        if self._standby is not None and self._standby.number != number:
            self._lose_standby()
        self._shadow = _Shadow(shadow, number, shadow.in_bytes)
        if self._owner is None:
            self._outer = self._of_shadow(shadow)
        self._tasks.create_task(self._follow(shadow))
        self._changed()

    def hear(self, message: Message) -> None:
        """The other front's word about a session of this peer's.

        Raises:
            ChannelError: it makes no sense.
            PositionError: something is missing in between.
        """
        now = self._loop.time()
        if isinstance(message, Begin):
            self._begin_standby(message, now)
        elif self._owner is not None and self._owner.number == message.session:
            if isinstance(message, Said):
                self._owner.said(message, now)
            elif isinstance(message, Ready):
                self._owner.why_not_ready = message.why
        elif self._standby is not None and self._standby.number == message.session:
            if isinstance(message, End):
                self._lose_standby()
            else:
                self._standby.hear(message, now)
        self._changed()

    def knows(self, number: int) -> bool:
        """Whether that session is this peer's."""
        places = (self._owner, self._standby)
        return any(place is not None and place.number == number for place in places)

    def channel_is_down(self, why: str) -> None:
        """Nobody is waited for."""
        self._ready = None
        if self._owner is not None:
            self._owner.left(why)
        self._changed()

    def turn(self, now: float) -> float | None:
        """Do what has become possible. Returns when there is more to do, or None."""
        self._pair(now)
        due = [
            self._turn_dial(now),
            self._turn_daemon(now),
            self._turn_owner(now),
            self._turn_shadow(now),
            self._turn_standby(now),
            self._turn_parted(now),
        ]
        due += self._close_ends(now)
        for connection in (self._outer, self._inner):
            if connection is not None:
                connection.pipe.flush()
        return min((at for at in due if at is not None), default=None)

    # -- both ends of a session

    def _pair(self, now: float) -> None:
        """Give a session its daemon when both are there."""
        if self._inner is None or self._inner.waiting is None:
            return
        if self._caller is not None:  # protected before it is read, and told of at once then
            self._takes = True
            self._tasks.create_task(self._protect(self._caller))
            self._caller = None
        session = self.session
        if session is None or not self._lacks_daemon(session):
            return
        session.connected(session.daemon, now)
        if session.state is State.OPENING and self._outer is not None:
            session.connected(session.peer, now)
            self._bind(session, self._inner)
            self._outer.begin()
        else:
            self._bind(session, self._inner)

    def _lacks_daemon(self, session: Session) -> bool:
        """Whether the session could be given one."""
        if session is self._parted:
            return False
        if session.state is State.DOWN:
            return self._owner is not None and self._outer is not None and not session.peer.closing
        is_whole = self._standby is None or self._standby.is_whole
        return session.state is State.ABSENT and not session.daemon.connected and is_whole

    def _turn_dial(self, now: float) -> float | None:
        """Connect to a peer that does not connect: the daemon has, so that it is to be opened."""
        if not self._may_dial():
            self._dial_at = None
            return None
        if self._dial_at is None:
            self._dial_at = now + DIAL_AFTER_S
        if now < self._dial_at:
            return self._dial_at
        if not self._dials:
            self._dials = True
            self._tasks.create_task(self._call_peer())
        return None

    def _may_dial(self) -> bool:
        is_waiting = self._inner is not None and self._inner.waiting is not None
        is_alone = self._caller is None and not self._takes and self._shadow is None
        return is_waiting and is_alone and self.session is None

    async def _call_peer(self) -> None:
        sock = await self._dial(self.peer)
        self._dials = False
        self._dial_at = self._loop.time() + DIAL_EVERY_S
        if sock is not None:
            if self._may_dial():
                self.peer_connected(sock)
            else:
                sock.close()
        self._changed()

    def _turn_daemon(self, now: float) -> float | None:
        """Connect to a daemon that does not connect, and is waited for: it may be passive."""
        session = self.session
        if session is not None and session.daemon.is_alive:
            self._daemon_patience_s = DAEMON_DIAL_AFTER_S
        if not self._waits_for_daemon():
            self._daemon_dial_at = None
            return None
        if self._daemon_dial_at is None:
            self._daemon_dial_at = now + self._daemon_patience_s
        if now < self._daemon_dial_at:
            return self._daemon_dial_at
        if not self._dials_daemon:
            self._dials_daemon = True
            self._counts["daemon_dials"] += 1
            self._daemon_patience_s = min(2 * self._daemon_patience_s, DAEMON_DIAL_MAX_S)
            self._tasks.create_task(self._call_daemon())
        return None

    def _waits_for_daemon(self) -> bool:
        if self._inner is not None:
            return False
        session = self.session
        is_called = self._caller is not None or self._takes
        return is_called or (session is not None and self._lacks_daemon(session))

    async def _call_daemon(self) -> None:
        sock = await self._dial_daemon(self.peer)
        self._dials_daemon = False
        self._daemon_dial_at = None
        if sock is not None:
            if self._waits_for_daemon():
                self._take_daemon(sock, dialled=True)
            else:  # it has connected by itself
                sock.close()
        self._changed()

    def _bind(self, session: Session, inner: _Connection) -> None:
        out = session.daemon.out
        inner.pipe.writes(out, lambda: len(out), lambda _: self._written(session))
        inner.begin()
        self._changed()

    def _written(self, session: Session) -> None:
        session.written(self._loop.time())
        self._changed()

    def _from_daemon(self, inner: _Connection, data: bytes) -> None:
        if inner is self._inner and (session := self.session) is not None:
            session.received(session.daemon, data, self._loop.time())
            self._changed()

    def _on_inner_end(self, inner: _Connection, why: str) -> None:
        if inner is self._inner:
            self._lose_inner(why)

    def _lose_inner(self, why: str) -> None:
        if self._inner is None:
            return
        inner, self._inner = self._inner, None
        inner.pipe.close()
        session = self.session
        if session is not None and inner.waiting is None and session.daemon.connected:
            self._tell(f"the daemon's connection has ended: {why}")
            session.closed(session.daemon, self._loop.time())
            if session is self._parted:
                self._parted = None
            if self._owner is not None and session.state is State.ABSENT:
                self._counts["daemon_losses"] += 1
                self._daemon_lost()
        self._changed()

    def _finish_daemon(self, session: Session) -> None:
        """Its session has ended: it is told the rest, as far as that goes at once."""
        inner = self._inner
        if inner is not None and inner.waiting is None:
            inner.pipe.flush()
            if self._inner is inner:
                self._inner = None
                inner.pipe.close()
        session.daemon.end()

    def _close_ends(self, now: float) -> list[float]:
        """Close what is to be closed, once all was written to it. Returns when to look again."""
        session, inner, outer = self.session, self._inner, self._outer
        due: list[float] = []
        if session is None:
            return due
        if session.daemon.closing and inner is not None:
            if inner.waiting is None:
                inner.pipe.flush()
            since = inner.closing_since = inner.closing_since or now
            if not session.daemon.out:
                self._lose_inner("it is not needed any more")
            elif now >= since + CLOSING_MAX_S:
                self._lose_inner("it does not read")
            else:
                due.append(since + CLOSING_MAX_S)
        if self._owner is not None and session.peer.closing and outer is not None:
            outer.pipe.flush()
            since = outer.closing_since = outer.closing_since or now
            if not session.peer.out or now >= since + CLOSING_MAX_S:
                self._end_owner("it was ended here")
            else:
                due.append(since + CLOSING_MAX_S)
        elif self._standby is not None and session.state is State.DOWN:
            self._lose_standby()
        return due

    def _from_outer(self, outer: _Connection, data: bytes) -> None:
        now = self._loop.time()
        if outer is not self._outer:
            return
        if self._owner is not None:
            known, self._known = self._known, max(self._known - len(data), 0)
            if new := data[known:]:
                self._owner.received(new, now)
        elif self._shadow is not None and self._standby is not None:
            at, self._shadow.at = self._shadow.at, self._shadow.at + len(data)
            if at > self._standby.read:
                self._tell("the shadow is further than the owner was when it began the session")
                self._lose_standby()
            elif new := data[self._standby.read - at :]:
                self._standby.received(new, now)
        self._changed()

    def _on_outer_end(self, outer: _Connection, why: str) -> None:
        if outer is self._outer and self._owner is not None:  # a shadow's: prld says what it means
            self._lose_outer(self._owner, why)

    def _lose_outer(self, owner: Owner, why: str) -> None:
        if owner.session.peer.connected:
            self._tell(f"the peer's connection has ended: {why}")
            owner.session.closed(owner.session.peer, self._loop.time())
        self._end_owner(why)

    # -- as owner

    async def _protect(self, sock: socket.socket) -> None:
        note = Note(secrets.randbits(64))
        place, why = await self._hand_over(sock, msgspec.json.encode(note))
        if place is None:
            self._tell(f"the session is not protected: {why}")
        self._takes = False
        self._lose_standby()
        if self._shadow is not None:
            self._forget_shadow()
        self._known = 0
        session = Session(self._settings, self._tell)
        self._outer = _Connection(sock, self._from_outer, self._on_outer_end)
        self._own(Owner(note.session, self.peer.address, session, self._channel.send), place, why)
        self._outer.pipe.read(on=True)

    async def _hand_over(self, sock: socket.socket, note: bytes) -> tuple[AsyncSession | None, str]:
        """Have prld protect it, before a byte of it is read: later it would be for ever too late.

        Returns the session, or None if prld will never have it; and why it is not protected.
        """
        until = self._loop.time() + PROTECT_MAX_S
        was_away = False
        while True:
            try:
                return await self._node.replicate(sock, note), ""
            except NotProtectedError as error:
                return error.session, str(error)
            except PrlError as error:
                # One that has just come back may not own the service yet.
                was_away = was_away or isinstance(error, NoDaemonError)
                if not was_away or self._loop.time() >= until:
                    return None, str(error)
            await asyncio.sleep(PROTECT_EVERY_S)

    def _own(self, owner: Owner, place: AsyncSession | None, why: str = "") -> None:
        assert self._outer is not None
        self._owner, self._place = owner, place
        self._is_protected, self._why_unprotected = False, why
        out = owner.session.peer.out
        self._outer.pipe.writes(out, owner.writable, lambda count: self._wrote(owner, count))
        if place is not None:
            self._tasks.create_task(self._watch(place))
        self._changed()

    async def _watch(self, place: AsyncSession) -> None:
        async for state, reason in place.states():
            if self._place is not place:
                return
            self._is_protected = state == "active"
            self._why_unprotected = "" if self._is_protected else reason or state
            if not self._is_protected and self._owner is not None:
                self._owner.left(f"the session is not protected: {self._why_unprotected}")
            if state == "demoted":
                self._tell("the other node has the session now")
                self._lose_owner()
            self._changed()
            if state in OVER:
                return

    def _turn_owner(self, now: float) -> float | None:
        owner = self._owner
        if owner is None:
            return None
        if self._is_protected and self._channel.is_up and not owner.is_followed:
            owner.join()
        owner.pump(now)
        while self._channel.has_room and owner.pump_bulk():
            pass
        late = owner.late(now)
        if late is not None and late <= now:
            self._channel.give_up("the other front does not acknowledge what it is told")
            return None
        return late

    def _wrote(self, owner: Owner, count: int) -> None:
        owner.wrote(count, self._loop.time())
        self._changed()

    def _end_owner(self, why: str) -> None:
        """The session is over, on both nodes."""
        owner, place, outer = self._owner, self._place, self._outer
        if owner is None or outer is None:
            return
        self._counts["ends"] += 1
        self._channel.send(End(owner.number, why))
        outer.pipe.read(on=False)
        self._finish_daemon(owner.session)
        self._owner = self._place = self._outer = None
        self._tasks.create_task(_close(place, outer.pipe))
        self._changed()

    def _lose_owner(self) -> None:
        """The session lives, on the other node."""
        owner, outer = self._owner, self._outer
        if owner is None:
            return
        now = self._loop.time()
        if owner.session.part(now):
            self._parted, self._parted_until = owner.session, now + PARTED_MAX_S
        else:
            self._finish_daemon(owner.session)
        self._owner = self._place = self._outer = None
        if outer is not None:
            outer.pipe.close()
        if self._shadow is not None:
            self._outer = self._of_shadow(self._shadow.shadow)

    def _finish_parted(self) -> None:
        """The session is over, or has become another one: the daemon begins anew."""
        parted, self._parted = self._parted, None
        if parted is not None:
            self._finish_daemon(parted)
            self._changed()

    def _turn_parted(self, now: float) -> float | None:
        if self._parted is None:
            return None
        if now < self._parted_until:
            return self._parted_until
        self._tell("the other front does not tell of the session that it has now")
        self._finish_parted()
        return None

    # -- as standby

    def _of_shadow(self, shadow: AsyncShadow) -> _Connection:
        connection = _Connection(shadow.sock, self._from_outer, self._on_outer_end)
        connection.waiting = None
        return connection

    def _begin_standby(self, begin: Begin, now: float) -> None:
        standby, shadow = self._standby, self._shadow
        if (
            standby is not None
            and shadow is not None
            and standby.number == shadow.session == begin.session
            and standby.read == shadow.at
            and standby.session.agreed is not None
        ):
            standby.begin_again(begin)
            return
        if self._place is not None and not self._place.over:
            # By prld's last word the session is this node's. Which front is behind is not known
            # here; both will have heard by a later BEGIN.
            self._channel.give_up("the other front begins a session that is this node's")
            return
        self._lose_standby()
        self._lose_owner()
        try:
            session = self._session_of(begin)
            self._standby = Standby(begin, session, self._channel.send, now)
        except OpenError as error:
            raise ChannelError(f"a BEGIN with an OPEN that cannot be read: {error}") from error

    def _session_of(self, begin: Begin) -> Session:
        """The one that this node had until now, with its daemon, or a new one."""
        parted = self._parted
        if parted is not None and parted.opens == (
            decode(begin.daemon_open),
            decode(begin.peer_open),
        ):
            self._parted = None
            return parted
        self._finish_parted()
        return Session(self._settings, self._tell)

    def _lose_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            self._ready = None
            self._finish_daemon(standby.session)
            if self._shadow is not None and self._outer is not None:
                self._outer.pipe.read(on=False)
            self._changed()

    def _turn_shadow(self, now: float) -> float | None:
        """Read it, or give it up."""
        shadow = self._shadow
        if shadow is None or self._owner is not None:
            return None
        if self._standby is not None and self._standby.number == shadow.session:
            shadow.unread_since = None
            if self._outer is not None:
                self._outer.pipe.read(on=self._standby.reads)
            return None
        if shadow.unread_since is None:
            shadow.unread_since = now
        if now < shadow.unread_since + UNREAD_MAX_S:
            return shadow.unread_since + UNREAD_MAX_S
        self._tell("the other front does not tell of its session: not stood by")
        self._forget_shadow()
        self._tasks.create_task(self._give_up(shadow.shadow))
        return None

    async def _give_up(self, shadow: AsyncShadow) -> None:
        """So that the peer is not held up; another one is welcome."""
        with suppress(PrlError):  # prld is gone: the next one is offered the same
            await shadow.close()
            for offer in offers(self.peer):
                await self._node.offer(offer)

    def _turn_standby(self, now: float) -> float | None:
        standby, shadow = self._standby, self._shadow
        if standby is None:
            return None
        if shadow is not None and standby.waits and not self._asks:
            self._asks = True
            self._tasks.create_task(self._ask(standby, shadow.shadow))
        why = self._not_ready(standby)
        if why == self._ready or not self._channel.is_up:
            return None
        if why and self._ready and now < self._ready_at + READY_EVERY_S:
            return self._ready_at + READY_EVERY_S
        self._ready, self._ready_at = why, now
        self._channel.send(Ready(standby.number, why))
        return None

    def _not_ready(self, standby: Standby) -> str:
        if self._shadow is None or self._shadow.session != standby.number:
            return "prld has no shadow of the session here"
        return standby.not_ready()

    async def _ask(self, standby: Standby, shadow: AsyncShadow) -> None:
        """How much of what the owner said is on its way for good."""
        with suppress(PrlError):  # its fate is on the way to us
            standby.committed((await shadow.committed()).out_bytes)
        await asyncio.sleep(COMMITTED_EVERY_S)
        self._asks = False
        self._changed()

    async def _follow(self, shadow: AsyncShadow) -> None:
        try:
            taken = await shadow.wait_taken_over()
        except ShadowVoid as error:
            if self._shadow is not None and self._shadow.shadow is shadow:
                self._tell(f"not stood by: {error}")
                self._forget_shadow()
                self._lose_standby()
            shadow.discard("it is void")
            return
        if self._shadow is not None and self._shadow.shadow is shadow:
            self._take_over(self._shadow, taken)
        else:
            await shadow.close()

    def _forget_shadow(self) -> None:
        self._shadow = None
        if self._owner is None and self._outer is not None:
            self._outer.pipe.read(on=False)
            self._outer = None

    def _take_over(self, shadow: _Shadow, taken: Takeover) -> None:
        standby, outer = self._standby, self._outer
        if standby is None or standby.number != shadow.session or outer is None:
            self._cannot_go_on(shadow, "the owner failed before it had told of the session")
            return
        try:
            standby.take_over(taken.out_bytes, self._loop.time())
        except PositionError as error:
            self._cannot_go_on(shadow, str(error))
            return
        self._shadow = self._standby = None
        self._known = standby.read - shadow.at
        owner = Owner(
            shadow.session,
            self.peer.address,
            standby.session,
            self._channel.send,
            read=standby.read,
            written=taken.out_bytes,
        )
        self._counts["takeovers"] += 1
        self._own(owner, shadow.shadow.session)
        outer.pipe.flush()
        outer.pipe.read(on=True)
        self._tell(f"taken over at byte {taken.out_bytes} of what goes to the peer")
        if outer.pipe.has_ended:
            self._lose_outer(owner, "it was closed")

    def _cannot_go_on(self, shadow: _Shadow, why: str) -> None:
        self._tell(f"the session cannot go on: {why}")
        self._forget_shadow()
        self._lose_standby()
        self._tasks.create_task(shadow.shadow.close())


def offers(peer: Peer) -> tuple[str, str]:
    """What a front waits for on the standby: a session that the peer opens, or that we open."""
    other = show_endpoint(peer.address, BGP_PORT)
    return show_endpoint(peer.local, BGP_PORT), f"{peer.local}{OPENS_TO}{other}"


async def _close(place: AsyncSession | None, pipe: Pipe) -> None:
    if place is not None:
        with suppress(PrlError):  # prld is gone, or the session is
            await place.close()
    pipe.close()
