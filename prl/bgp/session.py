"""One BGP session as a pure state machine: input in, routes and output out; no clock, no socket."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from prl.bgp.attributes import Attributes
from prl.bgp.errors import BgpError, Code, PeerEndedError
from prl.bgp.framing import Framing
from prl.bgp.messages import (
    KEEPALIVE,
    Keepalive,
    Message,
    Notification,
    Open,
    Type,
    Update,
    decode,
    encode,
)
from prl.bgp.output import Output
from prl.bgp.prefixes import Prefix

ROUTES_MAX = 1_000_000
_CEASE_MAXIMUM_PREFIXES = 1  # RFC 4486
_BAD_PEER_AS = 2
_PREFIXES_PER_UPDATE = 200


class State(StrEnum):
    """States of RFC 4271 section 8.2.2 that a session with a connection can be in."""

    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"
    IDLE = "Idle"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the speaker is told: who it is, whom it talks to, and what it announces."""

    asn: int
    router_id: IPv4Address
    next_hop: IPv4Address | IPv6Address
    peer_asn: int | None = None
    hold_time_s: int = 90
    announced: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A route learnt from the peer."""

    prefix: Prefix
    next_hop: str
    as_path: tuple[int, ...]


@dataclass(slots=True)
class Session:
    """A session from the first byte after the connection was made. OPEN is planned at once.

    Input is the only thing that the planned output and the routes depend on, so two sessions that
    are fed the same bytes are the same.
    """

    settings: Settings
    output: Output = field(default_factory=Output)
    state: State = State.OPEN_SENT
    peer: Open | None = None
    routes: dict[Prefix, Route] = field(default_factory=dict)
    received: Counter[str] = field(default_factory=Counter)
    framing: Framing = field(default_factory=Framing)

    def __post_init__(self) -> None:
        self.output.plan(encode(self._own_open()))

    @property
    def hold_time_s(self) -> int:
        """The smaller of both proposals; 0: neither KEEPALIVEs nor a timer."""
        if self.peer is None:
            return self.settings.hold_time_s
        return min(self.settings.hold_time_s, self.peer.hold_time_s)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the input.

        Raises:
            BgpError: they end the session; a NOTIFICATION is in the output.
            PeerEndedError: the peer has ended it.
        """
        try:
            for kind, body in self.framing.feed(data):
                self._handle(kind, decode(kind, body, self._as_bytes()))
        except BgpError as error:
            self.end(error)
            raise

    def end(self, error: BgpError) -> None:
        """End the session for a reason that the peer is told."""
        self.state = State.IDLE
        self.output.farewell(encode(Notification(error.code, error.subcode, error.data)))

    def _handle(self, kind: Type, message: Message) -> None:
        self.received[kind.name.lower()] += 1
        match message:
            case Notification():
                self.state = State.IDLE
                raise PeerEndedError(
                    f"the peer ended the session: NOTIFICATION {message.code}/{message.subcode}"
                )
            case Open() if self.state is State.OPEN_SENT:
                self._confirm(message)
            case Keepalive() if self.state is State.OPEN_CONFIRM:
                self._establish()
            case Keepalive() if self.state is State.ESTABLISHED:
                pass
            case Update() if self.state is State.ESTABLISHED:
                self._learn(message)
            case _:
                raise BgpError(Code.STATE, 0, f"{kind.name} in state {self.state}")

    def _confirm(self, peer: Open) -> None:
        if self.settings.peer_asn is not None and peer.asn != self.settings.peer_asn:
            raise BgpError(Code.OPEN, _BAD_PEER_AS, f"the peer is AS {peer.asn}")
        self.peer = peer
        self.state = State.OPEN_CONFIRM
        self.output.plan(KEEPALIVE)

    def _establish(self) -> None:
        assert self.peer is not None
        self.state = State.ESTABLISHED
        families = self.peer.families & self._own_open().families
        for version in sorted(families):
            for update in self._announcements(version):
                self.output.plan(encode(update, self._as_bytes()))
        self.output.complete()

    def _learn(self, update: Update) -> None:
        about = update.attributes
        for prefix in (*update.withdrawn, *about.unreach6):
            self.routes.pop(prefix, None)
        for prefixes, next_hop in (
            (update.announced, about.next_hop),
            (about.reach6, about.next_hop6),
        ):
            for prefix in prefixes:
                if self.settings.asn in about.as_path:  # a loop: RFC 4271 section 9.1.2
                    self.routes.pop(prefix, None)
                    continue
                self.routes[prefix] = Route(prefix, str(next_hop), about.as_path)
        if len(self.routes) > ROUTES_MAX:
            raise BgpError(Code.CEASE, _CEASE_MAXIMUM_PREFIXES, f"more than {ROUTES_MAX} routes")

    def _announcements(self, version: int) -> list[Update]:
        """Our routes of one IP version, in as many UPDATEs as it takes, and End-of-RIB."""
        own = [prefix for prefix in self.settings.announced if prefix.version == version]
        path = (self.settings.asn,)
        updates: list[Update] = []
        for start in range(0, len(own), _PREFIXES_PER_UPDATE):
            part = tuple(own[start : start + _PREFIXES_PER_UPDATE])
            if isinstance(self.settings.next_hop, IPv4Address):
                about = Attributes(as_path=path, next_hop=self.settings.next_hop)
                updates.append(Update(attributes=about, announced=part))
            else:
                about = Attributes(as_path=path, reach6=part, next_hop6=self.settings.next_hop)
                updates.append(Update(attributes=about))
        ends6 = isinstance(self.settings.next_hop, IPv6Address)
        return [*updates, Update(attributes=Attributes(ends_rib6=ends6))]

    def _own_open(self) -> Open:
        settings = self.settings
        return Open(
            settings.asn,
            settings.hold_time_s,
            settings.router_id,
            frozenset({settings.next_hop.version}),
        )

    def _as_bytes(self) -> int:
        return 4 if self.peer is None or self.peer.as4 else 2
