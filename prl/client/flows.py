"""What an application knows of its flows, be they waited for in threads or in an event loop.

A face (prl.client, prl.client.aio) says how a change is waited for and how prld is asked. What a
word of prld's changes, and what the next prld is handed, is decided here, without waiting.
"""

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Generic, TypeVar

from prl.client.shadow_socket import ShadowNotOwned, ShadowSocket, Takeover
from prl.control.messages import REQUESTS_MAX, MessageError
from prl.control.protocol import (
    FDS_MAX,
    OVER,
    Answer,
    Demoted,
    Dialogue,
    Given,
    News,
    Protectable,
    State,
    TakenOver,
    Unheld,
    Void,
)
from prl.errors import NoDaemonError, PrlError, UsageError

ANSWER_TIMEOUT_S: Final = 30.0
"""How long prld may take for an answer before it counts as hung."""
RECONNECT_MIN_S: Final = 0.05
RECONNECT_MAX_S: Final = 5.0
"""Back-off between attempts to reach a new prld; its socket's appearance ends a wait at once."""
REJOINS_MAX: Final = REQUESTS_MAX // 2
"""Sessions that are handed to a new prld at a time: there is room for other requests."""
VOID_WORD_TIMEOUT_S: Final = 1.0
"""A shadow's socket dies before the word of it comes; so long it is waited for."""
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})


class Flow:
    """Something that changes by prld's word."""

    def __init__(self, handle: int, state: str, reason: str = "") -> None:
        self.handle = handle
        """Its 32-bit number, as prlctl shows it; a new one after a take-over or a new prld."""
        self._state, self._reason, self._over = state, reason, False

    @property
    def reason(self) -> str:
        """Why it is as it is, in words."""
        return self._reason

    @property
    def over(self) -> bool:
        """Whether nothing changes any more: it is no longer ours, or no prld will ever tell."""
        return self._over

    @property
    def named(self) -> dict[str, Any]:
        """What names it in a request to prld.

        Handles are of one prld: in the life of the next one the same number is another flow's.

        Raises:
            NoDaemonError: no prld has it now.
            UsageError: it is over.
        """
        if self._state == "lost":
            raise NoDaemonError(f"no prld has flow {self.handle:#x} now: {self._reason}")
        if self._over:
            raise UsageError(f"flow {self.handle:#x} is {self._state}: {self._reason}")
        return {"handle": self.handle}

    def on_news(self, news: News) -> None:
        """Called by the node: prld's word."""
        raise NotImplementedError

    def on_lost(self, error: PrlError, *, for_good: bool) -> None:
        """Called by the node when prld is gone; ``for_good``: no other is waited for."""
        raise NotImplementedError

    def become(self, state: str, reason: str, *, over: bool = False) -> None:
        """Called by the node: a new state, and whether it is the last one."""
        with self._changing():
            if self._over or (state, reason, over) == (self._state, self._reason, False):
                return
            self._state, self._reason, self._over = state, reason, over
            self._has_changed()

    def _changing(self) -> AbstractContextManager[Any]:
        """Held while it changes; may be entered again."""
        return contextlib.nullcontext()

    def _has_changed(self) -> None:
        """Whoever waits is to look again."""
        raise NotImplementedError


class SessionFlow(Flow):
    """A session that is this application's."""

    def __init__(
        self,
        answer: dict[str, Any],
        sock: socket.socket,
        data: bytes = b"",
        *,
        renew: bool = False,
    ) -> None:
        super().__init__(answer["handle"], answer["state"], answer["reason"])
        self._protectable = False
        self.sock = sock
        """The application's socket."""
        self.application = data
        """What is given to the application on the other node with the next shadow."""
        self.renews = renew
        """Whether the application is asked for new bytes before each new shadow."""
        self.streams: list[int] = answer.get("streams", [])
        """prld's own; kept for a prld that starts anew."""
        self.last_word: dict[str, Any] | None = None
        """What its application has decided while no prld had it: for one that is just being handed
        the session all the same."""

    @property
    def state(self) -> str:
        """One word.

        ``active`` (protected), ``setup``, ``voiding``, ``open`` (goes on, not protected),
        ``demoted`` (the other node has it), ``ended``, ``closed``, or ``lost`` (prld is gone).
        """
        return self._state

    @property
    def protectable(self) -> bool:
        """Whether prld could protect the session now, and waits for renew()."""
        return self._protectable and self._state == "open"

    def on_news(self, news: News) -> None:
        """Called by the node: prld's word."""
        if isinstance(news, State):
            self.become(news.state, news.reason)
        elif isinstance(news, Demoted):
            self.become("demoted", "the other node has the session now")
        elif isinstance(news, Protectable):
            with self._changing():
                self._protectable = True
                self._has_changed()

    def on_lost(self, error: PrlError, *, for_good: bool) -> None:
        """Called by the node when prld is gone."""
        self.become("lost", str(error), over=for_good)

    def become(self, state: str, reason: str, *, over: bool = False) -> None:
        """Called by the node: a new state, and whether it is the last one."""
        with self._changing():
            if state != "open":
                self._protectable = False
            super().become(state, reason, over=over or state in OVER)

    def rejoined(self, answer: dict[str, Any]) -> None:
        """Called by the node: a new prld has it."""
        self.handle = answer["handle"]
        self.become(answer["state"], answer["reason"])

    def rejoin_request(self) -> dict[str, Any]:
        """What a new prld is asked; the application bytes and the socket go along."""
        request = {"op": "replicate", "again": True, "renew": self.renews}
        return request | ({"streams": self.streams} if self.streams else {})


SessionT = TypeVar("SessionT", bound=SessionFlow)
_Begin = Callable[[dict[str, Any]], SessionT]


class ShadowFlow(Flow, Generic[SessionT]):
    """A session that lives on the other node; this application stands by for it."""

    def __init__(self, given: Given) -> None:
        super().__init__(given.handle, "standby")
        self._takeover: Takeover | None = None
        self._session: SessionT | None = None
        self._sock = ShadowSocket(fileno=given.fd)
        self._renews = given.renew
        self._generation = given.generation
        self.local = given.local
        """The service's end, ``addr:port``."""
        self.remote = given.remote
        """The peer's end, ``addr:port``; ``*`` for a UDP socket that is not connected."""
        self.application = given.application
        """What the other application gave along: with replicate() or renew()."""
        self.in_bytes = given.in_bytes
        """How much of the peer's stream, since the session was first protected, comes before the
        first byte to be read here."""
        self.out_bytes = given.out_bytes
        """How much output comes before what is still to be said."""

    @property
    def state(self) -> str:
        """``standby``, ``owned`` (it is ``session`` now), or ``void``."""
        return self._state

    @property
    def owned(self) -> bool:
        """Whether the session is this application's now."""
        return self._takeover is not None

    @property
    def takeover(self) -> Takeover | None:
        """Since when it is owned, and where its output goes on."""
        return self._takeover

    @property
    def void_reason(self) -> str | None:
        """Why it is of no use any more; None while it is."""
        return self._reason if self._state == "void" else None

    @property
    def named(self) -> dict[str, Any]:
        """As Flow.named: this shadow, not a later one with its handle."""
        generation = {} if self._generation is None else {"generation": self._generation}
        return super().named | generation

    @property
    def session(self) -> SessionT:
        """The session, once it is owned. Raises ShadowNotOwned before."""
        if self._session is None:
            raise ShadowNotOwned("this shadow is not taken over: it is no session of ours")
        return self._session

    @property
    def sock(self) -> socket.socket:
        """The socket: for reading alone (ShadowNotOwned otherwise) until it is taken over."""
        return self._sock

    def fileno(self) -> int:
        """The socket's descriptor, for polling."""
        return self._sock.fileno()

    def on_news(self, news: News) -> None:
        """Called by the node: prld's word."""
        if isinstance(news, Void):
            self.become("void", news.reason, over=True)
        elif isinstance(news, TakenOver):
            with self._changing():
                self.handle = news.becomes
                self._session = self._begin(
                    {
                        "handle": news.becomes,
                        "state": "open",
                        "reason": "it was taken over, and is not protected yet",
                        "streams": news.streams,
                    }
                )
                self._takeover = Takeover(news.out_bytes, news.monotonic_ns, news.out_hash)
                self._sock.owned = True
                self.become("owned", "", over=True)

    def on_lost(self, error: PrlError, *, for_good: bool) -> None:  # noqa: ARG002
        """Called by the node when prld is gone: a shadow goes with it."""
        self.become("void", str(error), over=True)
        self._sock.end_udp()

    def _begin(self, answer: dict[str, Any]) -> SessionT:
        """The session that the shadow has become."""
        raise NotImplementedError

    def _is_dead(self, data: bytes) -> bool:
        """Whether this was read of a void UDP socket: no datagram, but the end."""
        is_udp = self._sock.type == socket.SOCK_DGRAM
        return not data and is_udp and not self._sock.is_live_udp(self.remote)


ShadowT = TypeVar("ShadowT", bound="ShadowFlow[Any]")


class Following(Generic[SessionT, ShadowT]):
    """One connection's flows, and what the next prld is handed. For one thread at a time."""

    def __init__(self, where: object) -> None:
        self.lost: PrlError | None = None
        """Why there is no prld now."""
        self.for_good = False
        """No other prld is waited for."""
        self.offers: dict[str, None] = {}
        """Endpoints that the application has offered itself for."""
        self._where = where
        self._dialogue = Dialogue()
        self._followed: dict[int, SessionT | ShadowT] = {}
        self._kept: dict[SessionT, None] = {}
        """Sessions that the next prld will be given, in order."""

    def ask(self, request: dict[str, Any], of: Flow | None = None) -> tuple[int, bytes]:
        """Number a request, be it of a flow; returns the number and what to send.

        Raises PrlError; and as Flow.named.
        """
        if of is not None:
            request = request | of.named
        if self.lost is not None:
            raise self.lost
        return self._dialogue.ask(request)

    def hear(self, raw: bytes, fds: list[int], flags: int) -> Answer | Given | Unheld | None:
        """Understand a message; news is passed on to its flow, the rest is returned.

        Raises:
            PrlError: this is nothing that prld says.
        """
        lacks = bool(flags & socket.MSG_CTRUNC)
        short = lacks and len(fds) < FDS_MAX  # there was room, but no descriptor
        cut = bool(flags & socket.MSG_TRUNC) or (lacks and not short)
        try:
            heard = self._dialogue.hear(raw, fds, cut=cut, short=short)
        except MessageError as error:
            raise PrlError(
                f"prld on {self._where} sent nonsense ({error}); is it another version?"
            ) from error
        if heard is None or isinstance(heard, Answer | Given | Unheld):
            return heard
        if (what := self._followed.get(heard.handle)) is not None:
            self._pass_on(what, heard)
        return None

    def _pass_on(self, what: SessionT | ShadowT, news: News) -> None:
        """What has heard its last word is not followed: an application may keep it, we do not."""
        what.on_news(news)
        if isinstance(news, TakenOver) and isinstance(what, ShadowFlow):
            del self._followed[news.handle]
            self.follow(what.session)
        elif what.over:
            self.forget(what)

    def follow(self, what: SessionT | ShadowT) -> None:
        """Its news is passed on from now on."""
        if isinstance(what, SessionFlow):
            self._kept[what] = None
        if self.lost is not None:
            what.on_lost(self.lost, for_good=self.for_good)
            return
        self._followed[what.handle] = what
        early = self._dialogue.follow(what.handle)
        if early is not None:  # it overtook the answer
            self._pass_on(what, early)

    def forget(self, what: SessionT | ShadowT) -> None:
        """Stop following a flow."""
        if isinstance(what, SessionFlow):
            self._kept.pop(what, None)
        if self._followed.get(what.handle) is what:
            self._dialogue.forget(what.handle)
            del self._followed[what.handle]

    def leave(self, session: SessionT, word: dict[str, Any] | None = None) -> bool:
        """The next prld is not to have the session; whether this one has it.

        ``word``: what a prld is told that is just being handed it.
        """
        self._kept.pop(session, None)
        if self._followed.get(session.handle) is session:
            return True
        session.last_word = word
        return False

    def lose(self, error: PrlError, *, for_good: bool) -> None:
        """Prld is gone: every flow is told."""
        self.lost, self.for_good = error, for_good
        self._dialogue.renew()
        told = dict.fromkeys([*self._followed.values(), *self._kept])
        self._followed.clear()
        for what in told:
            what.on_lost(error, for_good=for_good or what not in self._kept)

    def to_hand_over(self) -> deque[SessionT]:
        """Sessions that a new prld is to be given; those that have ended are forgotten."""
        self._kept = {session: None for session in self._kept if not session.over}
        return deque(self._kept)

    def next_of(self, waiting: deque[SessionT]) -> SessionT | None:
        """The next one to be handed over; much may have become of it since it began to wait."""
        while waiting:
            session = waiting.popleft()
            if session.over or session not in self._kept:
                continue
            if session.sock.fileno() >= 0:
                return session
            self.refused(session, "its application has closed the socket")
        return None

    def refused(self, session: SessionT, why: str) -> None:
        """The new prld cannot be given it: nobody will ever tell of it."""
        session.become("ended", why)
        self.forget(session)

    def handed_over(self, session: SessionT, answer: dict[str, Any]) -> dict[str, Any] | None:
        """A new prld has it; returns what that one is to be asked, if its application has decided.

        Else the socket would stay open for as long as prld has its duplicate.
        """
        if session.last_word is not None:
            return session.last_word | {"handle": answer["handle"]}
        session.rejoined(answer)
        self.follow(session)
        return None


def not_sent(where: object, error: OSError) -> PrlError:
    """What an application is told whose request could not be sent."""
    if error.errno in _GONE:
        return NoDaemonError(f"prld on {where} is gone: {error.strerror}")
    return UsageError(f"prld could not be asked: {error.strerror}; has the socket been closed?")


def nobody_answers(where: object, why: str | None) -> str:
    """What an application is told that finds no prld."""
    return (
        f"no prld answers on {where}: {why or 'it is too busy'}; start it, or name another "
        "socket with --socket, --node or $PRL_SOCKET"
    )
