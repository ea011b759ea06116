"""One peer's session, as the front of its owner keeps it: no socket, no clock, bytes in and out.

    peer ══ outer end ══ Session ── inner end ── daemon

The states are those of docs/bgp-front.md. Whoever has the sockets tells of connections, bytes and
time, writes what stands in ``End.out``, and closes an end that is ``closing`` when that is written.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from prl.bgpfront.direction import (
    AFI_SAFI,
    Direction,
    DirectionLostError,
    message,
    route_refresh,
)
from prl.bgpfront.opening import (
    Agreed,
    Capability,
    NoFamilyError,
    Open,
    OpenError,
    Towards,
    agreed,
    decode,
    differences,
    encode,
    normalised,
)
from prl.bindings.bgp_rib import (
    HEADER_BYTES,
    Family,
    FramingError,
    Rib,
    UpdateError,
    messages,
    without_link_local,
)

OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = 1, 2, 3, 4, 5
ALIVE = message(KEEPALIVE, b"")
HOLD_TIMER_EXPIRED, MALFORMED_ATTRIBUTES = (4, 0), (3, 1)
OTHER_CONFIGURATION, UNSUPPORTED_CAPABILITY = (6, 6), (2, 7)
OUT_OF_RESOURCES = (6, 8)
OPENING_S = 240.0
"""For how long both ends may take to open a session (RFC 4271 section 8.2.2: a large hold time)."""
CEASE_UNSPECIFIC = (6, 0)
"""What BIRD says when the interface towards a neighbour is down, a moment before prl moves the
service."""
ASK_AGAIN_S = 2.0
"""A daemon that is silent for so long before its answer has ended is asked again."""
ANSWER_MAX_S = 300.0
"""A daemon that has not answered by then is reset: a full table takes less. An answer that has not
come by then, to a question that was asked twice, does not come."""
COLLISION = (6, 7)
"""Of two connections between daemon and front, which concern nobody else (RFC 4271 section 6.8)."""
AGE_S = 1.0
"""What two nodes' daemons say at one time may be seen here at two: that it differs counts after one
to two of these."""
ADMINISTRATIVE_SHUTDOWN, PEER_DECONFIGURED, ADMINISTRATIVE_RESET = (6, 2), (6, 3), (6, 4)
HARD_RESET = (6, 9)
"""Of two who keep routes over NOTIFICATIONs: they are not to this time, for the error that its data
begins with (RFC 8538 section 3.1). FRR wraps so what it says when it stops."""
ABSORBED = frozenset(
    {
        HOLD_TIMER_EXPIRED,
        CEASE_UNSPECIFIC,
        ADMINISTRATIVE_SHUTDOWN,
        PEER_DECONFIGURED,
        ADMINISTRATIVE_RESET,
    }
)
"""NOTIFICATIONs of the daemon by which it only tells that it stops, or restarts: not the peer's."""
_FAMILIES = {value: key for key, value in AFI_SAFI.items()}


class State(Enum):
    """Of a session (docs/bgp-front.md)."""

    DOWN = "down"
    OPENING = "opening"
    RELAY = "relay"
    ABSENT = "absent"
    BARRIER = "barrier"


@dataclass
class End:
    """One of the two connections.

    Attributes:
        out: what is to be written; the socket's owner takes from its front.
        connected: whether there is a connection.
        since: when it was made.
        closing: it is to be closed once ``out`` has been written.
    """

    out: bytearray = field(default_factory=bytearray)
    connected: bool = False
    since: float = 0.0
    closing: bool = False
    received: bytearray = field(default_factory=bytearray)
    unreadable: bool = False
    """No further message can be told apart: bytes pass as they are."""
    opened: Open | None = None
    is_alive: bool = False
    """A KEEPALIVE has come: it has taken the other's OPEN."""
    heard_at: float = 0.0
    said_at: float = 0.0

    def begin(self, now: float) -> None:
        """A new connection."""
        del self.out[:]
        del self.received[:]
        self.connected, self.closing = True, False
        self.unreadable = self.is_alive = False
        self.opened = None
        self.since = self.heard_at = self.said_at = now

    def end(self) -> None:
        """No connection any more."""
        self.connected = self.closing = self.is_alive = False
        del self.out[:]

    def notify(self, error: tuple[int, int]) -> None:
        """Send a NOTIFICATION, and close."""
        if self.connected and not self.closing:
            self.out += message(NOTIFICATION, bytes(error))
            self.closing = True


@dataclass(frozen=True, slots=True)
class Settings:
    """What a session keeps to.

    Attributes:
        routes_max: of each direction.
        attributes_max_bytes: of each direction.
        absorbed: NOTIFICATIONs of the daemon that its peer is not told of.
        daemon_return_s: for how long a daemon may be away before its peer's session ends, too. One
            that comes back and goes again before it has said all that it wants was away all along.
    """

    routes_max: int = 4_000_000
    attributes_max_bytes: int = 1 << 30
    absorbed: frozenset[tuple[int, int]] = ABSORBED
    daemon_return_s: float = 120.0


class Session:
    """See the module. Not safe for threads.

    Attributes:
        peer, daemon: the two ends.
        state: see ``State``.
        agreed: what both OPENs say, while the session is established.
        tell: called with every change that an operator should hear of, in words.
        asked_at, answered_at: when the daemon was asked for all that it announces, and when its
            answer ended.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self.settings = settings
        self.tell = tell
        self.peer, self.daemon = End(), End()
        self.state = State.DOWN
        self.agreed: Agreed | None = None
        self.heard: Direction | None = None
        """From the peer to the daemon: heard, fed."""
        self.told: Direction | None = None
        """From the daemon to the peer: wanted, told."""
        self.since = 0.0
        self.lost_at: float | None = None
        """Since when what the peer was told may be what no daemon here wants: when its daemon was
        lost, or the session was taken over. None: the daemon is there since then."""
        self.following = False
        """The session is the other node's: nothing goes to the peer."""
        self._asked_again: Counter[Family] = Counter()
        """ROUTE-REFRESHes of the peer that its owner has not answered, of a session that is
        followed. Below 0: the answer is known before the question is read here."""
        self._opens: tuple[Open, Open] | None = None
        """The daemon's and the peer's, as they came."""
        self._awaited: set[Family] = set()
        """Families of which the daemon's answer to the barrier's ROUTE-REFRESH has not ended."""
        self._unanswered: Counter[Family] = Counter()
        """How many of them have been asked, of a family, and not answered: answers may be late."""
        self._daemon_spoke_at = self._aged_at = self._questioned_at = 0.0
        self.asked_at = self.answered_at = 0.0
        self._refused = ""
        """Why the daemon's last OPEN was not taken."""

    @property
    def opens(self) -> tuple[Open, Open] | None:
        """The daemon's OPEN and the peer's as they came, while the session is established."""
        return self._opens

    def follow(
        self,
        daemon: Open,
        peer: Open,
        now: float,
        *,
        part: bytes = b"",
        asked: Mapping[Family, int] | None = None,
    ) -> None:
        """Be the standby's, of a session with these OPENs.

        Bytes of the peer's are then those that the shadow receives, from where ``heard`` ends.

        Args:
            daemon: the daemon's OPEN as it came.
            peer: the peer's.
            now: the time.
            part: what came before those bytes, of a message that they finish.
            asked: how many ROUTE-REFRESHes of the peer's, of each family, are still being
                answered.
        """
        has_parted = self.has_parted
        self.peer.begin(now)
        self.peer.received += part
        self.peer.is_alive = True
        self._asked_again = Counter(asked)
        if has_parted:
            self._turn_round()
            return
        self._establish(daemon, peer, now)
        assert self.heard is not None
        assert self.told is not None
        self.following = self.heard.held = self.told.held = True
        self._become(State.ABSENT, now)

    @property
    def has_parted(self) -> bool:
        """Whether there is a daemon here whose session ``part()`` has kept."""
        return self.following and self.daemon.is_alive and not self.peer.connected

    def part(self, now: float) -> bool:
        """The peer is the other node's from now on: let go of it alone, and keep the daemon.

        What the daemon was given and what it wants stays known. Nothing more is given to it before
        ``follow()`` says whose session it is, and ``begun()`` that all of it has been told.

        Returns:
            Whether that can be done; if not, nothing has changed.
        """
        if self.heard is None or self.told is None or not self.daemon.is_alive:
            return False
        if self.heard.incomplete or self.told.incomplete or self.daemon.closing:
            return False
        self.peer.end()
        self.following = self.heard.held = self.told.held = True
        self._become(State.BARRIER, now)
        return True

    def _turn_round(self) -> None:
        """What was heard from the peer, and what it was told, the other front tells anew."""
        assert self.heard is not None
        assert self.told is not None
        self.heard.source_restarted()
        self.told.reader_restarted()
        for direction in (self.heard, self.told):
            direction.no_news()

    def begun(self, now: float) -> None:
        """All of a session that is followed has been told: a daemon that is here hears of it."""
        if self.heard is not None and self.daemon.is_alive:
            self.heard.held = False
            self.written(now)

    def answered(self, family: Family, count: int = 1) -> None:
        """The owner has answered so many ROUTE-REFRESHes of the peer."""
        self._asked_again[family] -= count

    def not_ready(self) -> str:
        """Why the daemon here could not go on with the other node's session; "" if it could."""
        if self.told is None or self.heard is None:
            return "there is no session"
        if self.told.incomplete or self.heard.incomplete:
            return "the tables are too small or of no use"
        if not self.daemon.is_alive:
            return self._refused or "the daemon is not there"
        if untold := self.heard.overdue:
            return f"the daemon has still to be told of {untold} routes"
        if different := self.told.overdue:
            return f"the daemon announces {different} routes otherwise than the peer was told"
        return ""

    def take_over(self, rest: bytes, now: float) -> None:
        """Be the owner's from now on. ``rest``: of the message that the failure cut.

        A KEEPALIVE follows at once; the front then finds out what else there is to be told.
        """
        if self.told is None or self.heard is None:
            return
        self.following = False
        self.peer.out += rest
        if self.told.incomplete or self.heard.incomplete:
            self.tell("the tables are of no use: the session cannot be taken over")
            self.peer.notify(OUT_OF_RESOURCES)
            self._end(now)
            return
        self.peer.out += ALIVE
        self.peer.heard_at = self.peer.said_at = self.since = self.lost_at = now
        asked = [family for family, count in self._asked_again.items() if count > 0]
        if asked and self._opens is not None:
            bounds = self._opens[1].has(Capability.ENHANCED_REFRESH)
            self.told.answer(sorted(asked), bounds=bounds)
        self._asked_again.clear()

    def keeps_incoming(self) -> bool:
        """Whether the daemon, to which the front has connected, keeps that if it connects, too.

        RFC 4271 section 6.8: the one that stands, else that which the greater identifier opened.
        """
        peer = self.peer.opened if self._opens is None else self._opens[1]
        if self.daemon.opened is None or peer is None:
            return False
        return self.daemon.is_alive or self.daemon.opened.router_id < peer.router_id

    # What happens

    def connected(self, end: End, now: float) -> None:
        """There is a connection."""
        end.begin(now)
        if self.state in {State.DOWN, State.OPENING}:
            self._become(State.OPENING, now)
        elif end is self.daemon and self._opens is not None:
            end.out += encode(normalised(self._opens[1], Towards.DAEMON))

    def closed(self, end: End, now: float) -> None:
        """A connection has ended."""
        end.end()
        if end is self.daemon and self.state in {State.RELAY, State.BARRIER, State.ABSENT}:
            self._lose_daemon(now)
        else:
            self._end(now)

    def received(self, end: End, data: bytes, now: float) -> None:
        """Bytes have come from an end."""
        other = self.daemon if end is self.peer else self.peer
        end.heard_at = now
        if end.closing:
            return
        if end.unreadable:
            other.out += data
            return
        end.received += data
        try:
            self._take_messages(end, now)
        except FramingError as error:
            self.tell(str(error))
            if end is self.daemon and self.agreed is not None:
                end.notify((1, error.subcode))
                self._lose_daemon(now)
                return
            end.unreadable = True
            other.out += end.received
            del end.received[:]
        except DirectionLostError as error:
            self._exhausted(error, now)

    def _take_messages(self, end: End, now: float) -> None:
        while not end.closing and end.connected:
            extended = bool(self.agreed and self.agreed.extended)
            one = next(messages(end.received, extended=extended), None)
            if one is None:
                return
            if end is self.peer:
                self._from_peer(one, now)
            else:
                self._from_daemon(one, now)

    def written(self, now: float) -> None:
        """``out`` of an end has become shorter: there may be room for more."""
        try:
            for direction in (self.heard, self.told):
                if direction is not None:
                    direction.pump()
        except DirectionLostError as error:
            self._exhausted(error, now)

    def tick(self, now: float) -> float | None:
        """Do what time asks for. Returns when there is more to do, or None."""
        due: list[float] = []
        if self.state is State.OPENING:
            due.append(self.since + OPENING_S)
        if self.state is State.ABSENT and not self.following and self.lost_at is not None:
            due.append(self.lost_at + self.settings.daemon_return_s)
        if due and now >= due[0]:
            self.tell(f"the session has been {self.state.value} for too long")
            self._end(now)
            return None
        if self.following:
            due += self._age(now)
        if any(self._unanswered.values()):
            due += self._forget_questions(now)
        if self.agreed is not None and self.agreed.hold_s:
            for end in (self.daemon,) if self.following else (self.peer, self.daemon):
                if end.connected and not end.closing and end.is_alive:
                    due += self._keep_alive(end, self.agreed.hold_s, now)
        return min(due, default=None)

    def _age(self, now: float) -> list[float]:
        directions = [one for one in (self.heard, self.told) if one is not None]
        if now >= self._aged_at + AGE_S:
            self._aged_at = now
            for one in directions:
                one.age()
        return [self._aged_at + AGE_S] if any(one.rib.differing for one in directions) else []

    def _keep_alive(self, end: End, hold_s: int, now: float) -> list[float]:
        if now >= end.heard_at + hold_s:
            end.notify(HOLD_TIMER_EXPIRED)
            if end is self.daemon:
                self.tell("the daemon hangs: its hold timer has expired")
                self._lose_daemon(now)
            else:
                self.tell("the peer is silent: its hold timer has expired")
                self._end(now)
            return []
        if now >= end.said_at + hold_s / 3:
            end.said_at = now
            end.out += ALIVE
        return [end.heard_at + hold_s, end.said_at + hold_s / 3]

    # The barrier, by which the front of several sessions knows what a daemon wants

    def hold(self, now: float) -> None:
        """Keep what the daemon says from the peer until ``release()``."""
        if self.state is State.RELAY and self.told is not None and not self.told.incomplete:
            self.told.held = True
            self._become(State.BARRIER, now)

    def is_fed(self) -> bool:
        """Whether the daemon is there, and all that the peer says has been written to it."""
        return (
            self.state is State.BARRIER
            and self.daemon.is_alive
            and self.heard is not None
            and not self.heard.behind
            and not self.daemon.out
        )

    def ask(self, now: float) -> None:
        """Ask the daemon for all that it announces."""
        assert self.agreed is not None
        self._awaited = set(self.agreed.families)
        self.asked_at = now
        self._say_question(now)

    def ask_again(self, now: float) -> float | None:
        """Ask once more what is not answered, if the daemon is silent. Returns when to look again.

        BIRD, asked before it has begun to say its routes, says them as it would have, and no
        End-of-RR.
        """
        if not self._awaited or not self.daemon.is_alive:
            return None
        if now >= self.asked_at + ANSWER_MAX_S:
            self.tell("the daemon does not answer a ROUTE-REFRESH")
            self.daemon.notify(ADMINISTRATIVE_RESET)
            self._lose_daemon(now)
            return None
        if now >= self._daemon_spoke_at + ASK_AGAIN_S:
            self._say_question(now)
        return min(self._daemon_spoke_at + ASK_AGAIN_S, self.asked_at + ANSWER_MAX_S)

    def _say_question(self, now: float) -> None:
        self._daemon_spoke_at = self._questioned_at = now
        for family in sorted(self._awaited):
            self.daemon.out += route_refresh(family)
            self._count_answers(family, 1)

    def _forget_questions(self, now: float) -> list[float]:
        """Of two questions a daemon may have lost one: its answer is waited for no longer."""
        if now < self._questioned_at + ANSWER_MAX_S:
            return [self._questioned_at + ANSWER_MAX_S]
        self._unanswered.clear()
        if self.told is not None:
            self.told.repeats = False
        return []

    def _count_answers(self, family: Family, more: int) -> None:
        """An answer that comes behind the barrier is no news for the peer."""
        self._unanswered[family] = max(self._unanswered[family] + more, 0)
        if self.told is not None:
            self.told.repeats = any(self._unanswered.values())

    def quiet_since(self) -> float | None:
        """Since when the daemon, having answered, is silent; None: it has not answered."""
        return None if self._awaited or not self.daemon.is_alive else self._daemon_spoke_at

    def release(self, now: float) -> None:
        """Tell the peer what is different, and go on as before."""
        if self.state is State.BARRIER and self.told is not None:
            self.told.held = False
            self._become(State.RELAY, now)
            self.written(now)

    # Messages

    def _from_peer(self, one: bytes, now: float) -> None:
        kind = one[HEADER_BYTES - 1]
        if self.agreed is None:
            self._open(one, kind, now, self.peer, self.daemon, Towards.DAEMON)
        elif kind == UPDATE and self.heard is not None:
            try:
                self.heard.take(one)
            except UpdateError as error:
                self.tell(f"{error}; it is the peer's, and the daemon's to refuse")
                self.heard.lose(str(error))
                self.daemon.out += one
        elif kind == NOTIFICATION:
            self.tell(f"the peer ends the session: NOTIFICATION {one[19]}/{one[20]}")
            self.daemon.out += one
            self.daemon.closing = True
            self._end(now)
        elif kind == ROUTE_REFRESH and self.told is not None:
            self._answer(self.told, one)
        elif kind != KEEPALIVE:
            self.daemon.out += one

    def _from_daemon(self, one: bytes, now: float) -> None:
        kind = one[HEADER_BYTES - 1]
        if self.agreed is None:
            self._open(one, kind, now, self.daemon, self.peer, Towards.PEER)
        elif not self.daemon.is_alive:
            self._reopen(one, kind, now)
        elif kind == UPDATE and self.told is not None:
            self._daemon_spoke_at = now
            try:
                self.told.take(without_link_local(one))
            except UpdateError as error:
                self.tell(f"{error}, in one of the daemon's")
                self.daemon.notify(MALFORMED_ATTRIBUTES)
                self._lose_daemon(now)
        elif kind == NOTIFICATION:
            self._notified(one, now)
        elif kind == ROUTE_REFRESH and self.heard is not None:
            self._daemon_spoke_at = now
            self._answer(self.heard, one)
        elif kind != KEEPALIVE and self.state is State.RELAY:
            self.peer.out += one

    def _notified(self, one: bytes, now: float) -> None:
        """The daemon ends its session; it is the peer's end, too, unless it only stops."""
        error = _error(one)
        self.daemon.closing = True
        if error in self.settings.absorbed or error == COLLISION or self.following:
            self.tell(f"the daemon has said NOTIFICATION {error[0]}/{error[1]}: kept from the peer")
            self._lose_daemon(now)
            return
        self.tell(f"the daemon ends the session: NOTIFICATION {error[0]}/{error[1]}")
        self.peer.out += one
        self._end(now)

    def _answer(self, direction: Direction, one: bytes) -> None:
        """A ROUTE-REFRESH: of whoever reads a direction, or the bounds of the daemon's answer."""
        if len(one) != HEADER_BYTES + 4 or self.agreed is None or self._opens is None:
            return
        family = _FAMILIES.get((int.from_bytes(one[19:21], "big"), one[22]))
        if family is None or family not in self.agreed.families:
            return
        subtype = one[21]
        if subtype == 0 and direction is self.told and self.following:
            self._asked_again[family] += 1
        elif subtype == 0:
            asks = self._opens[1] if direction is self.told else self._opens[0]
            direction.answer([family], bounds=asks.has(Capability.ENHANCED_REFRESH))
        elif subtype == 2 and direction is self.heard:  # noqa: PLR2004 - End-of-RR
            self._awaited.discard(family)
            self.answered_at = self._daemon_spoke_at
            self._count_answers(family, -1)

    def _open(
        self, one: bytes, kind: int, now: float, end: End, other: End, towards: Towards
    ) -> None:
        """Both ends speak to one another; the front leaves out what must not pass."""
        if kind == OPEN and end.opened is None:
            try:
                end.opened = decode(one)
                one = encode(normalised(end.opened, towards))
            except OpenError as error:
                self.tell(str(error))
            except NoFamilyError as error:
                self.tell(str(error))
                for each in (self.daemon, self.peer):
                    each.notify(UNSUPPORTED_CAPABILITY)
                return
        other.out += one
        if kind == NOTIFICATION:
            self.tell(
                f"{'peer' if end is self.peer else 'daemon'}: NOTIFICATION {one[19]}/{one[20]}"
            )
            end.closing = other.closing = True
        elif kind == KEEPALIVE:
            end.is_alive = True
            if other.is_alive and self.daemon.opened is not None and self.peer.opened is not None:
                self._establish(self.daemon.opened, self.peer.opened, now)

    def _establish(self, daemon: Open, peer: Open, now: float) -> None:
        self._opens = daemon, peer
        self.agreed = agreed(normalised(daemon, Towards.PEER), normalised(peer, Towards.DAEMON))
        limits = (self.settings.routes_max, self.settings.attributes_max_bytes)
        heard, told = (
            Rib(routes_max=limits[0], attributes_max_bytes=limits[1], paths=paths)
            for paths in (self.agreed.paths, ())
        )
        self.heard = Direction(self.daemon.out, heard, extended=self.agreed.extended)
        self.told = Direction(self.peer.out, told, extended=self.agreed.extended)
        self._become(State.RELAY, now)

    def _reopen(self, one: bytes, kind: int, now: float) -> None:
        """The daemon has come back, and opens what it takes for a new session."""
        assert self._opens is not None
        if kind == OPEN and self.daemon.opened is None:
            self._compare(one, now)
        elif kind == KEEPALIVE and self.daemon.opened is not None and self.heard is not None:
            self.daemon.is_alive = True
            self._refused = ""
            self._become(State.BARRIER, now)
            for direction in filter(None, (self.heard, self.told)):
                direction.no_news()
            self.heard.held = False
            self.written(now)
        elif kind == NOTIFICATION:
            self.tell(f"the daemon does not open: NOTIFICATION {one[19]}/{one[20]}")
            self.daemon.closing = True

    def _compare(self, one: bytes, now: float) -> None:
        assert self._opens is not None
        try:
            found = decode(one)
            mine, other = (normalised(each, Towards.PEER) for each in (self._opens[0], found))
        except (OpenError, NoFamilyError) as error:
            self._refuse(str(error))
            self.daemon.notify(UNSUPPORTED_CAPABILITY)
            return
        if changed := differences(mine, other):
            self._refuse(f"the daemon is configured otherwise: {'; '.join(changed)}")
            self.daemon.notify(OTHER_CONFIGURATION)
            if not self.following:
                self.peer.notify(OTHER_CONFIGURATION)
                self._end(now)
            return
        self.daemon.opened = found
        self.daemon.out += ALIVE

    def _refuse(self, why: str) -> None:
        self._refused = why
        self.tell(why)

    # Changes

    def _become(self, state: State, now: float) -> None:
        if self.state is not state:
            self.state = state
            self.since = now
        if state is State.RELAY:
            self.lost_at = None

    def _lose_daemon(self, now: float) -> None:
        """The outer session stays; what the daemon wanted it has to say anew."""
        self.daemon.is_alive = False
        self._awaited.clear()
        self._unanswered.clear()
        if self.heard is None or self.told is None:
            return
        self.told.repeats = False
        if self.heard.incomplete or self.told.incomplete:
            self.tell("the tables are too small to go on without the daemon")
            self._end(now)
            return
        self.heard.reader_restarted()
        self.heard.held = True
        self.told.source_restarted()
        self.told.held = True
        if self.lost_at is None:
            self.lost_at = now
        self._become(State.ABSENT, now)

    def _exhausted(self, error: DirectionLostError, now: float) -> None:
        self.tell(str(error))
        self.daemon.notify(OUT_OF_RESOURCES)
        if not self.following:
            self.peer.notify(OUT_OF_RESOURCES)
        self._end(now)

    def _end(self, now: float) -> None:
        for end in (self.peer, self.daemon):
            if end.connected:
                end.closing = True
        self.heard = self.told = self.agreed = self._opens = None
        self._awaited.clear()
        self._unanswered.clear()
        self._become(State.DOWN, now)


def _error(notification: bytes) -> tuple[int, int]:
    """What a NOTIFICATION is said for."""
    body = notification[HEADER_BYTES:]
    if (body[0], body[1]) == HARD_RESET and len(body) >= 4:  # noqa: PLR2004 - two errors
        return body[2], body[3]
    return body[0], body[1]
