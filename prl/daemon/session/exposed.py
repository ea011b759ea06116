"""Sessions that this node alone has: the other one is told of them, so that no peer waits for ever.

    owner          not protected, or prld
                   not asked for it (yet) ─▶ here ─▶ remembered; take-over ─▶ its peer is asked
                   protected, or over ─────▶ over ─▶ forgotten
    former owner   all it had when fenced ─▶ here ─▶ the owner asks their peers at once (lost.py)

The peer of a session that is over hears so when it speaks next: by a reset. One that only waits,
for the answer to what the dead node has acknowledged, never speaks.
"""

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from prl.bindings import wire
from prl.bindings.datapath import Datapath, DatapathError, Tuple
from prl.bindings.facts import Capability, Message, Tlv
from prl.bindings.wire import Element
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.link.link import Link
from prl.daemon.session.sessions import Session
from prl.endpoint import Address
from prl.errors import KernelError, PrlError

EXPOSED_MAX: Final = 65536
"""Sessions that are told of, as many as the other node remembers (lost.LOST_MAX)."""
A_MESSAGE_MAX: Final = 256
"""Sessions in one message."""

Known = tuple[Tuple, int]
"""A session, and the number of its service."""
_Port = Annotated[int, Meta(ge=1, le=0xFFFF)]
_Text = Annotated[str, Meta(max_length=45)]


class MalformedError(PrlError):
    """An EXPOSED that no prld sends."""


class Ends(msgspec.Struct, frozen=True, array_like=True):
    """A TCP session; ``local`` is the service's end."""

    service: Annotated[int, Meta(ge=0)]
    local: _Text
    local_port: _Port
    remote: _Text
    remote_port: _Port

    @staticmethod
    def of(ends: Tuple, service: int) -> "Ends":
        """As it is told."""
        return Ends(service, str(ends.local), ends.local_port, str(ends.remote), ends.remote_port)

    def tuple_in(self, config: Config) -> Tuple:
        """As it is known here. Raises MalformedError when it is no session of the pair's."""
        try:
            service = config.service[self.service]
            local, remote = ip_address(self.local), ip_address(self.remote)
        except (IndexError, ValueError) as error:
            raise MalformedError(f"EXPOSED names no session: {error}") from error
        is_good = remote.version == local.version and _is_elsewhere(remote)
        if local not in service.addresses or not is_good:
            raise MalformedError(f"EXPOSED names {local} and {remote}, no session of the pair's")
        return Tuple(local, self.local_port, remote, self.remote_port, instance=service.instance)


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message."""

    here: Annotated[list[Ends], Meta(max_length=A_MESSAGE_MAX)] = []
    over: Annotated[list[Ends], Meta(max_length=A_MESSAGE_MAX)] = []
    anew: bool = False
    """What was told in former epochs is over."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Told)


def decode(body: bytes) -> Told:
    """What the other node tells. Raises MalformedError."""
    try:
        for element in wire.decode_tlvs(body):
            if element.type == Tlv.SESSIONS:
                return _decoder.decode(element.value)
    except (wire.WireError, msgspec.MsgspecError, RecursionError) as error:
        raise MalformedError(f"malformed EXPOSED: {error}") from error
    raise MalformedError("EXPOSED tells nothing")


class Exposed:
    """What the other node knows of this one's sessions."""

    def __init__(
        self,
        datapath: Datapath,
        link: Link,
        log: EventLog,
        strangers: Callable[[], Iterable[Known]],
    ) -> None:
        """``strangers``: the sessions that prld was not asked for (KernelError)."""
        self._dp, self._link, self._log = datapath, link, log
        self._strangers = strangers
        self._told: dict[Tuple, int] = {}
        self._left: dict[Tuple, int] = {}
        self._anew, self._full = True, False

    def on_link_up(self) -> None:
        """In this epoch the other node was told of none yet."""
        self._told.clear()
        self._anew, self._full = True, False

    def leave(self, session: Session) -> None:
        """This node was fenced, had the session, and does not know whether the other one has."""
        if _can_hang(session):
            self.leave_unknown([session.ends], session.service)

    def leave_unknown(self, left: Iterable[Tuple], service: int, *, by_move: bool = False) -> None:
        """The same of what prld had not been asked for by then.

        ``by_move``: it was moved over the link, by which the other node had heard all before.
        """
        for ends in left:
            if not _is_elsewhere(ends.remote):
                continue
            if by_move and ends in self._told:
                continue  # the new owner has ended it when it took the service over
            if self._has_room(len(self._left) + 1):
                self._left[ends] = service

    def look(self, unprotected: Iterable[Session]) -> None:
        """Tell what is new: these sessions are not protected now, nor are strangers."""
        if not self._link.up or not self._link.capabilities & Capability.EXPOSED:
            return
        now = self._known_now(unprotected)
        over = [told for told in self._told.items() if told[0] not in now]
        here = [found for found in now.items() if found[0] not in self._told]
        try:
            for some in _messages(over):
                self._send(over=some)
                for ends, _ in some:
                    del self._told[ends]
            for some in _messages(list(self._left.items())):
                self._send(here=some)
                for ends, _ in some:
                    del self._left[ends]
            for some in _messages(here):
                if not self._has_room(len(self._told) + len(some)):
                    return
                self._send(here=some)
                self._told.update(some)
            if self._anew:  # there is nothing to tell but that
                self._send()
        except DatapathError:  # the link is gone or full: the next look goes on
            return

    def _known_now(self, unprotected: Iterable[Session]) -> dict[Tuple, int]:
        now = {s.ends: s.service for s in unprotected if _can_hang(s)}
        try:
            strangers = self._strangers()
            now.update((ends, number) for ends, number in strangers if _is_elsewhere(ends.remote))
        except KernelError:  # which `unsafe` tells of
            now.update(self._told)
        return now

    def _send(self, *, here: Iterable[Known] = (), over: Iterable[Known] = ()) -> None:
        told = Told(
            here=[Ends.of(*known) for known in here],
            over=[Ends.of(*known) for known in over],
            anew=self._anew,
        )
        element = Element(Tlv.SESSIONS, _encoder.encode(told))
        self._dp.send(Message.EXPOSED, wire.encode_tlvs([element]))
        self._anew = False

    def _has_room(self, count: int) -> bool:
        if count <= EXPOSED_MAX:
            return True
        if not self._full:
            words = f"more than {EXPOSED_MAX} sessions are not protected: the rest is not told of"
            self._log.warning("exposed_untold", words)
        self._full = True
        return False


def _messages(sessions: list[Known]) -> Iterator[list[Known]]:
    for start in range(0, len(sessions), A_MESSAGE_MAX):
        yield sessions[start : start + A_MESSAGE_MAX]


def _can_hang(session: Session) -> bool:
    ends = session.ends
    return session.state != "moved" and not ends.is_udp and _is_elsewhere(ends.remote)


def _is_elsewhere(remote: Address) -> bool:
    """Whether it may be another host's; in a VRF a local client may have such an address, too."""
    return not (remote.is_multicast or remote.is_unspecified or remote.is_loopback)
