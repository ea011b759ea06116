"""What an application and prld say to each other, without any I/O (docs/control.md).

    request ─▶ ask() ─▶ raw bytes to send        raw bytes received ─▶ hear() ─▶ Answer, Given, News

The clients, with threads (prl.client) and with asyncio (prl.aio), own a socket each; what is said
on it, and what belongs to what, is decided here.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from prl.errors import NoDaemonError, PrlError, ReplicationError, UsageError
from prl.messages import APPLICATION_MAX_BYTES, MessageError, decode, encode

FDS_MAX: Final = 4
"""Descriptors that a message from prld may bring; a reader makes room for so many."""
EARLY_MAX: Final = 256
"""Flows whose news is kept although their answer has not come yet; the oldest is forgotten."""


class State(msgspec.Struct, frozen=True, tag_field="event", tag="state"):
    """A session changed: setup, active, voiding, open, ended, closed."""

    handle: int
    state: str
    reason: str = ""


class Demoted(msgspec.Struct, frozen=True, tag_field="event", tag="demoted"):
    """The other node has the session now; the socket here is dead."""

    handle: int


class TakenOver(msgspec.Struct, frozen=True, tag_field="event", tag="taken_over"):
    """The shadow is the session now."""

    handle: int
    out_bytes: int
    monotonic_ns: int


class Void(msgspec.Struct, frozen=True, tag_field="event", tag="void"):
    """The shadow is of no use any more."""

    handle: int
    reason: str


class _Shadow(msgspec.Struct, frozen=True, tag_field="event", tag="shadow"):
    handle: int
    local: str
    remote: str
    application: str = ""
    unread: int = 0


News = State | Demoted | TakenOver | Void
"""What becomes of one flow."""
_KINDS: Final = {"state": State, "demoted": Demoted, "taken_over": TakenOver, "void": Void}


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


class Dialogue:
    """One connection's requests and flows. Not safe for several threads at once."""

    def __init__(self) -> None:
        self._next = 1
        self._followed: set[int] = set()
        self._early: dict[int, State | Demoted] = {}

    def ask(self, request: dict[str, Any]) -> tuple[int, bytes]:
        """Number a request; returns the number and what to send. Raises MessageError."""
        number, self._next = self._next, self._next + 1
        return number, encode(request | {"id": number})

    def hear(
        self, raw: bytes, fds: list[int], *, cut: bool = False
    ) -> Answer | Given | News | None:
        """Understand one message; None when it is of no account here.

        ``cut`` says that the kernel had more of it, or more descriptors, than there was room for.
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
                return self._given(msgspec.convert(message, _Shadow), fds)
            if kind in _KINDS:
                return self._news(msgspec.convert(message, _KINDS[kind]))
        except (msgspec.ValidationError, binascii.Error, ValueError, TypeError) as error:
            raise MessageError(f"event {kind!r:.40}: {error}") from error
        return None  # of a later version

    def follow(self, handle: int) -> News | None:
        """News of a flow is wanted from now on; returns what came before its answer did."""
        self._followed.add(handle)
        return self._early.pop(handle, None)

    def forget(self, handle: int) -> None:
        """News of a flow is not wanted any more."""
        self._followed.discard(handle)

    def _given(self, event: _Shadow, fds: list[int]) -> Given | None:
        if len(fds) != 1:
            raise ValueError(f"it has {len(fds)} descriptors, not one")
        data = base64.b64decode(event.application, validate=True)
        self._followed.add(event.handle)
        return Given(event.handle, event.local, event.remote, data, event.unread, fds.pop())

    def _news(self, news: News) -> News | None:
        if news.handle in self._followed:
            return news
        if isinstance(news, State | Demoted):
            # The flow's replicate() is about to follow it; others never are.
            self._early[news.handle] = news
            while len(self._early) > EARLY_MAX:
                del self._early[next(iter(self._early))]
        return None


def replicate_request(application: bytes) -> dict[str, Any]:
    """The request that goes along with a socket. Raises UsageError: too much data."""
    if len(application) > APPLICATION_MAX_BYTES:
        raise UsageError(
            f"{len(application)} bytes of application data; at most {APPLICATION_MAX_BYTES}"
        )
    return {"op": "replicate", "application": base64.b64encode(application).decode()}


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
    }.get(code if isinstance(code, int) else 1, ReplicationError)
