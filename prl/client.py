"""The application's interface to prld (IFM, SPEC R17, R18, R23).

On the node that owns the service address::

    node = Node()
    session = node.replicate(sock)      # from now on the session survives this host

On the other node, the same program::

    node = Node()
    node.offer("192.0.2.100:7000")
    for shadow in node.shadows():
        data = shadow.recv(65536)       # what the first application reads, too
        taken = shadow.wait_taken_over()
        shadow.sock.sendall(answer[taken.out_bytes:])

After a take-over ``shadow.session`` is a session like any other, and prld protects it again as soon
as an application on the other node has offered itself. That one joins in mid-stream: with
``replicate(sock, state, renew=True)`` the owner is asked for its state each time
(``Session.protectable``, ``Session.renew``), and the other one starts from ``Shadow.application``,
which belongs exactly to ``Shadow.in_bytes`` and ``Shadow.out_bytes``.

A Node outlives its prld: when that one is started again, offers and sessions are handed to it anew.
Closing a Node, or the death of the process, without Session.close() is the death of the
application: if the other node has a good shadow, it goes on at once.
"""

import contextlib
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from prl import application
from prl.appearance import Appearance
from prl.client_sessions import (
    OVER,
    Session,
    Shadow,
    ShadowNotOwned,
    ShadowVoid,
    Takeover,
)
from prl.errors import NoDaemonError, PrlError, ReplicationError, UsageError
from prl.messages import (
    MESSAGE_MAX_BYTES,
    MessageError,
    decode,
    default_socket,
    encode,
)

ANSWER_TIMEOUT_S = 30.0
"""How long prld may take for an answer before it counts as hung."""
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.05, 5.0
"""Back-off between attempts to reach a new prld; its socket's appearance ends a wait at once."""
REJOINS_MAX = 32
"""Sessions that are handed to a new prld at a time; it takes 64 requests of one client."""
_FDS_MAX = 4
_EARLY_MAX = 256

__all__ = [
    "Node",
    "NotProtectedError",
    "ReplicationError",
    "Session",
    "Shadow",
    "ShadowNotOwned",
    "ShadowVoid",
    "Takeover",
]

_Take = Callable[[dict[str, Any]], None]


class Node:
    """A connection to this host's prld; safe to be used by several threads.

    With ``reconnect``, its end is not the end of this object: sessions are ``lost`` for a while,
    and handed to the next prld with its offers. Shadows are void.

    Raises:
        NoDaemonError: nobody answers on ``socket_path`` (default: $PRL_SOCKET, or
            /run/prl/prld.sock).
    """

    def __init__(
        self, socket_path: str | os.PathLike[str] | None = None, *, reconnect: bool = True
    ) -> None:
        self.path = Path(socket_path) if socket_path is not None else default_socket()
        self._reconnects = reconnect
        self._sock = self._connect()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._next_id = 1
        self._answers: dict[int, _Take] = {}
        self._followed: dict[int, Session | Shadow] = {}
        self._kept: dict[Session, None] = {}
        """Sessions that the next prld will be given; in order."""
        self._early: dict[int, dict[str, Any]] = {}
        self._offers: list[str] = []
        self._shadows: queue.SimpleQueue[Shadow | None] = queue.SimpleQueue()
        self._lost: PrlError | None = None
        self._closed = threading.Event()
        self._appearance = Appearance(self.path) if reconnect else None
        self._reader = threading.Thread(target=self._run, name="prl-client", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(self.path))
        except OSError as error:
            sock.close()
            raise NoDaemonError(
                f"no prld answers on {self.path}: {error.strerror}; start it, or name another "
                "socket with --socket, --node or $PRL_SOCKET"
            ) from error
        return sock

    def close(self) -> None:
        """Disconnect. For sessions that were not closed this is the death of the application."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if self._appearance is not None:
            self._appearance.interrupt()
        if threading.current_thread() is not self._reader:
            self._reader.join()
            if self._appearance is not None:
                self._appearance.close()
        self._sock.close()

    def replicate(self, sock: socket.socket, data: bytes = b"", *, renew: bool = False) -> Session:
        """Protect a TCP or UDP socket; returns once the other node has its shadow.

        TCP: connected. UDP: bound to the service address, and connected to its one peer or, for
        any number of peers, not connected at all.
        UDP: datagrams that wait unread delay the protection, output may be sent twice at the
        take-over, and fragmented datagrams are not received while the socket is protected.
        The socket stays the caller's and is used as before. ``data`` (at most 1 MiB) is given to
        the application on the other node together with the shadow; ``renew``: for every further
        shadow prld asks for new data (Session.protectable), otherwise the same is given again.
        prld keeps trying for a session that cannot be protected yet: see NotProtectedError.

        Raises:
            NotProtectedError: it is not protected, and why. It goes on unprotected, prld tries
                again, and the error's ``session`` tells how that goes.
            ReplicationError: it can not be protected as things are; it goes on unprotected.
            UsageError: this is no socket that can be protected.
            NoDaemonError: prld is gone.
        """
        members, memory = application.pack(data)
        try:
            request = {"op": "replicate", "renew": renew} | members
            answer = self.request(request, sock.fileno(), *memory)
        finally:
            for fd in memory:
                os.close(fd)
        session = Session(self, answer, sock, data, renew=renew)
        with self._lock:
            self._follow(session)
        if answer["state"] != "active":
            raise NotProtectedError(answer["reason"] or answer["state"], session)
        return session

    def offer(self, endpoint: str) -> None:
        """Offer to take shadows of sessions whose local end is ``endpoint``.

        "addr:port" means TCP, "udp:addr:port" UDP.

        Raises:
            UsageError: that is no service address here.
        """
        self.request({"op": "offer", "endpoint": endpoint})
        if endpoint not in self._offers:
            self._offers.append(endpoint)

    def next_shadow(self, timeout: float | None = None) -> Shadow:
        """The next shadow given to this application.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
            NoDaemonError: prld is gone, and no other is waited for.
        """
        try:
            shadow = self._shadows.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("no shadow came") from None
        if shadow is None:
            self._shadows.put(None)  # for the next caller
            raise self._lost or NoDaemonError(f"prld on {self.path} is gone")
        return shadow

    def shadows(self, timeout: float | None = None) -> Iterator[Shadow]:
        """Shadows as they come; ends when none comes within ``timeout`` seconds.

        Raises:
            NoDaemonError: prld is gone, and no other is waited for.
        """
        while True:
            try:
                yield self.next_shadow(timeout)
            except TimeoutError:
                return

    def request(
        self, request: dict[str, Any], *fds: int, timeout: float = ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask prld; returns the answer without ``id`` and ``ok`` (docs/control.md).

        Raises:
            PrlError: prld's own error, of the class that its exit status belongs to.
            NoDaemonError: prld is gone or hangs.
        """
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        number = self._expect(answers.put)
        try:
            self._send(number, request, fds)
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            raise NoDaemonError(f"prld on {self.path} does not answer; is it frozen?") from None
        except OSError as error:
            raise NoDaemonError(f"prld on {self.path} is gone: {error.strerror}") from error
        finally:
            with self._lock:
                self._answers.pop(number, None)
        return _judged(answer)

    def forget(self, handle: int) -> None:
        """Stop following a flow."""
        with self._lock:
            what = self._followed.pop(handle, None)
            if isinstance(what, Session):
                self._kept.pop(what, None)

    def _expect(self, take: _Take) -> int:
        """A number for a request, whose answer goes to ``take``. Raises PrlError."""
        with self._lock:
            if self._lost is not None:
                raise self._lost
            number, self._next_id = self._next_id, self._next_id + 1
            self._answers[number] = take
            return number

    def _send(self, number: int, request: dict[str, Any], fds: tuple[int, ...]) -> None:
        with self._sending:
            socket.send_fds(self._sock, [encode(request | {"id": number})], fds)

    # -- the reader

    def _run(self) -> None:
        """Read until close(); prld may die and come back meanwhile."""
        while True:
            error = self._read()
            self._give_up(error)
            if not self._reconnects or not self._await_prld():
                break
            self._rejoin()
        self._shadows.put(None)

    def _read(self) -> PrlError:
        """Read one connection to its end; returns why it ended."""
        try:
            while True:
                raw, fds, _, _ = socket.recv_fds(
                    self._sock, MESSAGE_MAX_BYTES, _FDS_MAX, socket.MSG_CMSG_CLOEXEC
                )
                if not raw:
                    return NoDaemonError(f"prld on {self.path} ended the connection")
                self._dispatch(decode(raw), list(fds))
        except OSError as failure:
            return NoDaemonError(f"prld on {self.path} is gone: {failure.strerror}")
        except (MessageError, KeyError, TypeError, ValueError, UsageError) as failure:
            return PrlError(
                f"prld on {self.path} sent nonsense ({failure}); is it another version?"
            )

    def _dispatch(self, message: dict[str, Any], fds: list[int]) -> None:
        try:
            kind = message.get("event")
            if kind == "shadow":
                shadow = Shadow(self, message, fds)
                with self._lock:
                    self._follow(shadow)
                self._shadows.put(shadow)
            elif kind is not None:
                self._on_event(message)
            else:
                self._on_answer(message)
        finally:
            for fd in fds:
                os.close(fd)

    def _on_answer(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        if number is None:  # refused before it was understood, or the whole connection was
            raise ValueError(message.get("error"))
        with self._lock:
            take = self._answers.pop(number, None)
        if take is not None:
            take(message)

    def _on_event(self, message: dict[str, Any]) -> None:
        handle = message.get("handle")
        if not isinstance(handle, int):
            return
        with self._lock:
            what = self._followed.get(handle)
            if what is not None:
                self._pass_on(what, message)
            elif message["event"] in {"state", "demoted", "protectable"}:
                # The flow's replicate() is about to follow it; others never are.
                self._early[handle] = message
                while len(self._early) > _EARLY_MAX:
                    del self._early[next(iter(self._early))]

    def _follow(self, what: Session | Shadow) -> None:
        """Its events are passed on from now on; the lock is held."""
        self._followed[what.handle] = what
        if isinstance(what, Session):
            self._kept[what] = None
        early = self._early.pop(what.handle, None)
        if early is not None:  # it overtook the answer
            self._pass_on(what, early)
        if self._lost is not None:
            self._lose(what, self._lost)

    def _pass_on(self, what: Session | Shadow, message: dict[str, Any]) -> None:
        """The lock is held."""
        kind = message["event"]
        if isinstance(what, Session):
            if kind == "state":
                what.on_event(message["state"], message["reason"])
            elif kind == "demoted":
                what.on_event("demoted", "the other node has the session now")
            elif kind == "protectable":
                what.on_protectable()
        elif kind == "taken_over":
            del self._followed[what.handle]
            session = what.on_taken_over(message)
            self._follow(session)
        elif kind == "void":
            what.on_void(message["reason"])

    # -- prld goes and comes

    def _give_up(self, error: PrlError) -> None:
        with self._lock:
            self._lost = error
            answers = list(self._answers.values())
            self._answers.clear()
            followed: list[Session | Shadow] = [*self._followed.values(), *self._kept]
            self._followed.clear()
            self._early.clear()
        for take in answers:
            take({"ok": False, "error": str(error), "code": error.exit_code})
        for what in dict.fromkeys(followed):
            self._lose(what, error)

    def _lose(self, what: Session | Shadow, error: PrlError) -> None:
        if isinstance(what, Session):
            what.on_event("lost", str(error))
        else:
            what.on_void(str(error))

    def _await_prld(self) -> bool:
        """Connect to the next prld; False: closed meanwhile."""
        assert self._appearance is not None
        wait_s = RECONNECT_MIN_S
        while not self._closed.is_set():
            try:
                fresh = self._connect()
            except NoDaemonError:
                self._appearance.wait(wait_s)
                wait_s = min(2 * wait_s, RECONNECT_MAX_S)
                continue
            with self._sending:
                self._sock.close()
                self._sock = fresh
            with self._lock:
                self._lost = None
            return not self._closed.is_set()
        return False

    def _rejoin(self) -> None:
        """Hand offers and sessions to the new prld; the answers come in like all others."""
        with self._lock:
            for session in list(self._kept):
                if session.state in OVER or session.sock.fileno() < 0:
                    del self._kept[session]
            waiting = deque(self._kept)
        with contextlib.suppress(OSError, PrlError):  # gone again: the reader notices
            for endpoint in self._offers:
                request = {"op": "offer", "endpoint": endpoint}
                self._send(self._expect(lambda _: None), request, ())
            for _ in range(REJOINS_MAX):
                self._hand_over_next(waiting)

    def _hand_over_next(self, waiting: deque[Session]) -> None:
        """Hand one over, and when the answer is there, the next."""
        if not waiting:
            return
        session = waiting.popleft()

        def take(answer: dict[str, Any]) -> None:
            try:
                found = _judged(answer)
            except PrlError as error:
                if self._lost is not None:
                    return  # by the end of this prld; the next one is asked, too
                session.on_event("ended", str(error))
            else:
                session.handle = found["handle"]
                session.on_event(found["state"], found["reason"])
                with self._lock:
                    self._follow(session)
            with contextlib.suppress(OSError, PrlError):
                self._hand_over_next(waiting)

        members, memory = application.pack(session.application)
        request = {"op": "replicate", "again": True, "renew": session.renews}
        try:
            number = self._expect(take)
            request |= {"streams": session.streams} | members
            self._send(number, request, (session.sock.fileno(), *memory))
        finally:
            for fd in memory:
                os.close(fd)


class NotProtectedError(ReplicationError):
    """The session goes on unprotected; prld tries again."""

    def __init__(self, reason: str, session: Session) -> None:
        super().__init__(f"not protected: {reason}")
        self.session: Session | None = session


def _judged(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer's members. Raises PrlError, when it is a refusal."""
    if answer.pop("ok", False):
        answer.pop("id", None)
        return answer
    words = str(answer.get("error", "prld gave no reason"))
    raise _error_class(answer.get("code"))(words)


def _error_class(code: object) -> type[PrlError]:
    return {
        UsageError.exit_code: UsageError,
        NoDaemonError.exit_code: NoDaemonError,
    }.get(code if isinstance(code, int) else 1, ReplicationError)
