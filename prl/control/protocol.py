"""What an application and prld say to each other, without any I/O (docs/control.md).

    request ─▶ ask() ─▶ raw bytes to send        raw bytes received ─▶ hear() ─▶ Answer, Given, News

The clients, with threads (prl.client) and with asyncio (prl.client.aio), own a socket each; what
is said on it, and what belongs to what, is decided here.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from prl.control import application
from prl.control.messages import MessageError, decode, encode
from prl.errors import NoDaemonError, NotSafeError, PrlError, ReplicationError, UsageError

FDS_MAX: Final = 4
"""Descriptors that a message from prld may bring; a reader makes room for so many."""
EARLY_MAX: Final = 256
"""Flows whose news is kept although their answer has not come yet; the oldest is forgotten."""


OVER = frozenset({"demoted", "ended", "closed"})
"""States of a session that is not this application's any more."""


class State(msgspec.Struct, frozen=True, tag_field="event", tag="state"):
    """A session changed: setup, active, voiding, open, ended, closed."""

    handle: int
    state: str
    reason: str = ""


class Demoted(msgspec.Struct, frozen=True, tag_field="event", tag="demoted"):
    """The other node has the session now; the socket here is dead."""

    handle: int


class Protectable(msgspec.Struct, frozen=True, tag_field="event", tag="protectable"):
    """prld asks for the application's bytes as of now (``renew``)."""

    handle: int


class TakenOver(msgspec.Struct, frozen=True, tag_field="event", tag="taken_over"):
    """The shadow is the session now, under the handle ``becomes``."""

    handle: int
    out_bytes: int
    monotonic_ns: int
    out_hash: int = 0
    becomes: int = 0
    """Missing, it stays as it is."""
    streams: list[Any] = []
    """prld's own, to be given back as they are."""


class Void(msgspec.Struct, frozen=True, tag_field="event", tag="void"):
    """The shadow is of no use any more."""

    handle: int
    reason: str = ""


class _Shadow(msgspec.Struct, frozen=True, tag_field="event", tag="shadow"):
    handle: int
    local: str
    remote: str
    unread: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    renew: bool = False
    generation: int | None = None


News = State | Demoted | Protectable | TakenOver | Void
"""What becomes of one flow."""
_KINDS: Final = {
    "state": State,
    "demoted": Demoted,
    "protectable": Protectable,
    "taken_over": TakenOver,
    "void": Void,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to request ``number``: its members without ``id`` and ``ok``, or the error."""

    number: int
    fields: dict[str, Any]
    error: PrlError | None


@dataclass(frozen=True, slots=True)
class Given:
    """A shadow for this application; ``fd`` is the receiver's to close."""

    handle: int
    local: str
    remote: str
    application: bytes
    unread: int
    fd: int
    in_bytes: int
    """How much of the peer's stream, since the session was first protected, comes before the first
    byte to be read."""
    out_bytes: int
    """How much output comes before the snapshot."""
    renew: bool
    """The application is asked for its bytes anew before each shadow of this session."""
    generation: int | None
    """A later shadow of the same session has its handle, and another generation. None: prld does
    not say."""


@dataclass(frozen=True, slots=True)
class Unheld:
    """A shadow for whose socket this process had no descriptor left: prld is to take it back."""

    handle: int
    generation: int | None

    @property
    def refusal(self) -> dict[str, Any]:
        """What prld is asked."""
        generation = {} if self.generation is None else {"generation": self.generation}
        return {"op": "close", "handle": self.handle} | generation


class Dialogue:
    """One connection's requests and flows. Not safe for several threads at once."""

    def __init__(self) -> None:
        self._next = 1
        self._followed: set[int] = set()
        self._early: dict[int, State | Demoted | Protectable] = {}

    def renew(self) -> None:
        """The connection is a new one: nothing is followed any more."""
        self._followed.clear()
        self._early.clear()

    def ask(self, request: dict[str, Any]) -> tuple[int, bytes]:
        """Number a request; returns the number and what to send. Raises MessageError."""
        number, self._next = self._next, self._next + 1
        return number, encode(request | {"id": number})

    def hear(
        self, raw: bytes, fds: list[int], *, cut: bool = False, short: bool = False
    ) -> Answer | Given | Unheld | News | None:
        """Understand one message; None when it is of no account here.

        ``cut`` says that the kernel had more of it, or more descriptors, than there was room for;
        ``short``, that this process could not have all of its descriptors (RLIMIT_NOFILE).
        A descriptor that is kept is taken out of ``fds``; the rest is the caller's to close.

        Raises:
            MessageError: this is nothing that prld says, or it has refused the connection.
        """
        if cut:
            raise MessageError("the message or its descriptors are too many")
        message = decode(raw)
        kind = message.get("event")
        if kind is None:
            return _answer(message)
        try:
            if kind == "shadow":
                return _unheld(message) if short else self._given(message, fds)
            if kind in _KINDS:
                return self._news(msgspec.convert(message, _KINDS[kind]))
        except (msgspec.ValidationError, UsageError, ValueError, TypeError) as error:
            raise MessageError(f"event {kind!r:.40}: {error}") from error
        return None  # of a later version

    def follow(self, handle: int) -> News | None:
        """News of a flow is wanted from now on; returns what came before its answer did."""
        self._followed.add(handle)
        return self._early.pop(handle, None)

    def forget(self, handle: int) -> None:
        """News of a flow is not wanted any more."""
        self._followed.discard(handle)

    def _given(self, message: dict[str, Any], fds: list[int]) -> Given | None:
        event = msgspec.convert(message, _Shadow)
        data = application.unpack(message, fds)
        if len(fds) != 1:
            raise ValueError(f"it has {len(fds)} sockets, not one")
        self._followed.add(event.handle)
        return Given(
            handle=event.handle,
            local=event.local,
            remote=event.remote,
            application=data,
            unread=event.unread,
            fd=fds.pop(),
            in_bytes=event.in_bytes,
            out_bytes=event.out_bytes,
            generation=event.generation,
            renew=event.renew,
        )

    def _news(self, news: News) -> News | None:
        if news.handle in self._followed:
            if isinstance(news, TakenOver):
                news = msgspec.structs.replace(news, becomes=news.becomes or news.handle)
                self._followed.discard(news.handle)
                self._followed.add(news.becomes)
            return news
        if isinstance(news, State | Demoted | Protectable):
            # The flow's replicate() is about to follow it; others never are.
            self._early[news.handle] = news
            while len(self._early) > EARLY_MAX:
                del self._early[next(iter(self._early))]
        return None


def _unheld(message: dict[str, Any]) -> Unheld:
    event = msgspec.convert(message, _Shadow)
    return Unheld(event.handle, event.generation)


def _answer(message: dict[str, Any]) -> Answer:
    number = message.pop("id", None)
    if not isinstance(number, int):  # refused before it was understood, or the connection was
        raise MessageError(str(message.get("error", "an answer without a number")))
    if message.pop("ok", False):
        return Answer(number, message, None)
    words = str(message.get("error", "prld gave no reason"))
    return Answer(number, {}, _error_class(message.get("code"))(words))


def _error_class(code: object) -> type[PrlError]:
    return {
        UsageError.exit_code: UsageError,
        NoDaemonError.exit_code: NoDaemonError,
        NotSafeError.exit_code: NotSafeError,
    }.get(code if isinstance(code, int) else 1, ReplicationError)
