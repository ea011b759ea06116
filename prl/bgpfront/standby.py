"""A session of the other node's, as the standby's front keeps it: from its channel and its shadow.

::

    Begin ─▶ [ tables ] ─▶ All ─▶ following: reads the shadow, Say is kept until it is committed
                                        └─ taken over ─▶ owner.Owner

No socket, no clock.
"""

from collections import deque
from collections.abc import Callable

from prl.bgpfront.ahead import Ahead, PositionError
from prl.bgpfront.messages import (
    All,
    Answered,
    Begin,
    ChannelError,
    Message,
    Routes,
    Said,
    Say,
    Table,
)
from prl.bgpfront.opening import decode
from prl.bgpfront.session import Session
from prl.bindings.bgp_rib import FramingError, messages

ANSWERED_MAX = 1024
"""Answers to ROUTE-REFRESHes that were said and are not committed; of more the oldest are
answered again at a take-over."""


class Standby:
    """See the module.

    Args:
        begin: the owner's word.
        session: a new one, or one that has parted from the peer with the same OPENs.
        now: the time.

    Attributes:
        read: position in the peer's stream up to which the session has it.

    Raises:
        OpenError: an OPEN of ``begin`` cannot be read.
    """

    def __init__(
        self, begin: Begin, session: Session, send: Callable[[Message], None], now: float
    ) -> None:
        self.number, self.peer = begin.session, begin.peer
        self.session = session
        self.read = begin.read
        self.is_whole = False
        """Whether it has been told all that there was."""
        self._send = send
        self._has_heard = False
        daemon, peer = decode(begin.daemon_open), decode(begin.peer_open)
        session.follow(daemon, peer, now, part=begin.part, asked=dict(begin.asked))
        self._ahead = self._begun(begin)
        self._answered: deque[Answered] = deque(maxlen=ANSWERED_MAX)
        self._committed = 0

    def begin_again(self, begin: Begin) -> None:
        """The channel was made again. What was heard came from the shadow, and is kept."""
        self._has_heard = self._has_heard or self.is_whole
        self.is_whole = False
        self._answered.clear()
        if self.session.told is not None:
            self.session.told.reader_restarted()
        self._ahead = self._begun(begin)

    def _begun(self, begin: Begin) -> Ahead:
        session = self.session
        if session.told is None or session.agreed is None:
            raise ChannelError("a session that has ended here cannot be begun again")
        return Ahead(session.told, begin.told, extended=session.agreed.extended)

    @property
    def reads(self) -> bool:
        """Whether bytes of the shadow are taken now."""
        return self.is_whole or self._has_heard

    @property
    def waits(self) -> bool:
        """Whether ``committed()`` would have something to do."""
        return self._ahead.waits or bool(self._answered)

    def hear(self, message: Message, now: float) -> None:
        """The owner's word about this session.

        Raises:
            ChannelError: it makes no sense.
            PositionError: something is missing in between.
        """
        if isinstance(message, Say):
            self._ahead.say(message.position, message.data)
            self._send(Said(self.number, self._ahead.position))
        elif isinstance(message, Routes):
            self._take(message)
        elif isinstance(message, All):
            self._ahead.exact_from(message.position)
            self.is_whole = True
            self.session.begun(now)
        elif isinstance(message, Answered):
            self._answered.append(message)
            self._settle_answers()

    def received(self, data: bytes, now: float) -> None:
        """The shadow has received this, behind ``read``."""
        self.read += len(data)
        self.session.received(self.session.peer, data, now)

    def committed(self, position: int) -> None:
        """The owner has written all before ``position`` for good."""
        self._committed = max(self._committed, position)
        self._ahead.committed(position)
        self._settle_answers()

    def not_ready(self) -> str:
        """Why this node could not go on; "" if it could."""
        if not self.is_whole:
            return "it has not been told all of the session"
        if why := self.session.not_ready():
            return why
        return "" if self._ahead.is_exact else "what the owner has said is not on its way yet"

    def take_over(self, position: int, now: float) -> None:
        """The session is this node's; the owner has written all before ``position``.

        Raises:
            PositionError: the peer's stream cannot be continued.
        """
        if not self.is_whole:
            raise PositionError("the owner failed before it had told all of the session")
        self.committed(position)
        self.session.take_over(self._ahead.take_over(position), now)

    def _settle_answers(self) -> None:
        while self._answered and self._answered[0].position <= self._committed:
            one = self._answered.popleft()
            self.session.answered(one.family, one.count)

    def _take(self, routes: Routes) -> None:
        heard, told, agreed = self.session.heard, self.session.told, self.session.agreed
        if heard is None or told is None or agreed is None:
            return
        if self.is_whole:
            raise ChannelError("ROUTES behind ALL")
        if routes.table is Table.HEARD and self._has_heard:
            return
        stream = bytearray(routes.updates)
        try:
            for one in messages(stream, extended=agreed.extended):
                if routes.table is Table.HEARD:
                    heard.take(one)
                else:
                    told.was_told(one)
        except FramingError as error:
            raise ChannelError(f"ROUTES: {error}") from error
        if stream:
            raise ChannelError("ROUTES that end inside a message")
