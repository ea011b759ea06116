"""The application's interface to prld (IFM, SPEC R17, R18).

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

Closing a Node, or the death of the process, without Session.close() is the death of the
application: if the other node has a good shadow, it goes on at once.
"""

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from prl.dialogue import (
    FDS_MAX,
    Answer,
    Demoted,
    Dialogue,
    Given,
    News,
    State,
    TakenOver,
    Void,
    replicate_request,
)
from prl.errors import NoDaemonError, PrlError, ReplicationError, UsageError
from prl.messages import MESSAGE_MAX_BYTES, MessageError, default_socket
from prl.shadow_socket import ShadowNotOwned, ShadowSocket, ShadowVoid, Takeover

ANSWER_TIMEOUT_S = 30.0
"""How long prld may take for an answer before it counts as hung."""
VOID_WORD_TIMEOUT_S = 1.0

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


class Session:
    """A session that this application has on the owning node. Made by Node.replicate()."""

    def __init__(self, node: "Node", handle: int, state: str, reason: str) -> None:
        self._node = node
        self._changed = threading.Condition()
        self._state, self._reason = state, reason
        self.handle = handle
        """Its 32-bit number, as prlctl shows it."""

    @property
    def state(self) -> str:
        """One word.

        ``active`` (protected), ``setup``, ``voiding``, ``open`` (goes on, not protected),
        ``demoted`` (the other node has it), ``ended``, ``closed``, or ``lost`` (prld is gone).
        """
        return self._state

    @property
    def reason(self) -> str:
        """Why it is not active, in words."""
        return self._reason

    def wait_state(self, *states: str, timeout: float | None = None) -> str:
        """Wait until the state is one of ``states`` (without any: until it changes); return it.

        Raises:
            TimeoutError: it did not become so within ``timeout`` seconds.
        """
        with self._changed:
            before = self._state

            def reached() -> bool:
                return self._state in states if states else self._state != before

            if not self._changed.wait_for(reached, timeout):
                raise TimeoutError(f"flow {self.handle:#x} is still {self._state}")
            return self._state

    def close(self) -> None:
        """End the session deliberately, on both nodes; close the socket as well."""
        with contextlib.suppress(UsageError, NoDaemonError):  # it has ended already
            self._node.request({"op": "close", "handle": self.handle})

    def on_news(self, news: News) -> None:
        """Called by the Node's reader."""
        if isinstance(news, State):
            self._become(news.state, news.reason)
        elif isinstance(news, Demoted):
            self._become("demoted", "the other node has the session now")

    def on_lost(self, error: PrlError) -> None:
        """Called by the Node's reader when prld is gone."""
        if self._state not in {"demoted", "ended", "closed"}:
            self._become("lost", str(error))

    def _become(self, state: str, reason: str) -> None:
        with self._changed:
            self._state, self._reason = state, reason
            self._changed.notify_all()


class Shadow:
    """A session that lives on the other node; this application stands by for it."""

    def __init__(self, node: "Node", given: Given) -> None:
        self._node = node
        self._changed = threading.Condition()
        self._takeover: Takeover | None = None
        self._void: str | None = None
        self._sock = ShadowSocket(fileno=given.fd)
        self._sock.setblocking(True)
        self.handle = given.handle
        """Its 32-bit number, as prlctl shows it."""
        self.local = given.local
        """The service's end, ``addr:port``."""
        self.remote = given.remote
        """The peer's end, ``addr:port``; ``*`` for a UDP socket that is not connected."""
        self.application = given.application
        """What the other application gave to Node.replicate()."""

    @property
    def owned(self) -> bool:
        """Whether the session is this application's now."""
        return self._takeover is not None

    @property
    def sock(self) -> socket.socket:
        """The socket: for reading alone (ShadowNotOwned otherwise) until it is taken over."""
        return self._sock

    def fileno(self) -> int:
        """The socket's descriptor, for polling."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """Read what the peer sent, as socket.recv(): bytes of the stream, or a UDP datagram.

        Raises:
            ShadowVoid: the shadow was given up, so that nothing more comes.
        """
        return self.recvfrom(size)[0]

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        """As recv(), and who sent it, as socket.recvfrom() gives it (UDP).

        Raises:
            ShadowVoid: the shadow was given up, so that nothing more comes.
        """
        try:
            data, sender = self._sock.recvfrom(size)
        except (BlockingIOError, TimeoutError):
            raise
        except OSError as error:
            if self._sock.is_live_udp(self.remote) or (why := self._await_void()) is None:
                raise  # UDP: an ICMP error, which the first application reads, too
            raise ShadowVoid(why) from error
        is_udp = self._sock.type == socket.SOCK_DGRAM
        if not data and is_udp and not self._sock.is_live_udp(self.remote):
            raise ShadowVoid(self._await_void() or "the socket was ended")
        return data, sender

    def _await_void(self) -> str | None:
        """Why the shadow is void; its socket dies a moment before the word of it comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._void is not None, VOID_WORD_TIMEOUT_S)
            return self._void

    def wait_taken_over(self, timeout: float | None = None) -> Takeover:
        """Wait until the session is this application's.

        Raises:
            ShadowVoid: it never will be; the message says why.
            TimeoutError: not within ``timeout`` seconds.
        """

        def known() -> bool:
            return self._takeover is not None or self._void is not None

        with self._changed:
            if not self._changed.wait_for(known, timeout):
                raise TimeoutError(f"flow {self.handle:#x} is still a shadow")
            if self._takeover is None:
                raise ShadowVoid(f"{self.remote}: {self._void}")
            return self._takeover

    def close(self) -> None:
        """Give the shadow up, or, once it is owned, end the session; closes the socket."""
        if self._void is None:  # else the handle may be a newer shadow's
            with contextlib.suppress(PrlError):  # it has ended already
                self._node.request({"op": "close", "handle": self.handle})
        self._node.forget(self)
        self._become_void("closed by its application")
        self._sock.close()

    def on_news(self, news: News) -> None:
        """Called by the Node's reader."""
        if isinstance(news, TakenOver):
            with self._changed:
                self._takeover = Takeover(news.out_bytes, news.monotonic_ns)
                self._sock.owned = True
                self._changed.notify_all()
        elif isinstance(news, Void):
            self._become_void(news.reason)

    def on_lost(self, error: PrlError) -> None:
        """Called by the Node's reader when prld is gone: a shadow goes with it."""
        self._become_void(str(error))

    def _become_void(self, reason: str) -> None:
        with self._changed:
            if self._void is None:
                self._void = reason
            self._changed.notify_all()


class Node:
    """A connection to this host's prld; safe to be used by several threads.

    Raises:
        NoDaemonError: nobody answers on ``socket_path`` (default: $PRL_SOCKET, or
            /run/prl/prld.sock).
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(socket_path) if socket_path is not None else default_socket()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.connect(str(self.path))
        except OSError as error:
            self._sock.close()
            raise NoDaemonError(
                f"no prld answers on {self.path}: {error.strerror}; start it, or name another "
                "socket with --socket, --node or $PRL_SOCKET"
            ) from error
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._dialogue = Dialogue()
        self._answers: dict[int, queue.SimpleQueue[Answer]] = {}
        self._followed: dict[int, Session | Shadow] = {}
        self._shadows: queue.SimpleQueue[Shadow | None] = queue.SimpleQueue()
        self._lost: PrlError | None = None
        self._reader = threading.Thread(target=self._read, name="prl-client", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. For sessions that were not closed this is the death of the application."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._sock.close()

    def replicate(self, sock: socket.socket, application: bytes = b"") -> Session:
        """Protect a TCP or UDP socket; returns once the other node has its shadow.

        TCP: connected. UDP: bound to the service address, and connected to its one peer or, for
        any number of peers, not connected at all.
        UDP: datagrams that wait unread delay the protection, output may be sent twice at the
        take-over, and fragmented datagrams are not received while the socket is protected.
        The socket stays the caller's and is used as before. ``application`` (at most 32 KiB) is
        given to the application on the other node together with the shadow. prld keeps trying
        for a session that cannot be protected yet: see NotProtectedError.

        Raises:
            NotProtectedError: it is not protected, and why. It goes on unprotected, prld tries
                again, and the error's ``session`` tells how that goes.
            ReplicationError: it can not be protected as things are; it goes on unprotected.
            UsageError: this is no socket that can be protected.
            NoDaemonError: prld is gone.
        """
        answer = self.request(replicate_request(application), sock.fileno())
        session = Session(self, answer["handle"], answer["state"], answer["reason"])
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

    def next_shadow(self, timeout: float | None = None) -> Shadow:
        """The next shadow given to this application.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
            NoDaemonError: prld is gone.
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
            NoDaemonError: prld is gone.
        """
        while True:
            try:
                yield self.next_shadow(timeout)
            except TimeoutError:
                return

    def request(
        self, request: dict[str, Any], fd: int | None = None, timeout: float = ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask prld; returns the answer without ``id`` and ``ok`` (docs/control.md).

        Raises:
            PrlError: prld's own error, of the class that its exit status belongs to.
            NoDaemonError: prld is gone or hangs.
        """
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        with self._lock:
            if self._lost is not None:
                raise self._lost
            number, raw = self._dialogue.ask(request)
            self._answers[number] = answers
        try:
            with self._sending:
                socket.send_fds(self._sock, [raw], [] if fd is None else [fd])
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            raise NoDaemonError(f"prld on {self.path} does not answer; is it frozen?") from None
        except OSError as error:
            raise NoDaemonError(f"prld on {self.path} is gone: {error.strerror}") from error
        finally:
            with self._lock:
                self._answers.pop(number, None)
        if answer.error is not None:
            raise answer.error
        return answer.fields

    def forget(self, what: Session | Shadow) -> None:
        """Stop following a flow."""
        with self._lock:
            if self._followed.get(what.handle) is what:
                self._dialogue.forget(what.handle)
                del self._followed[what.handle]

    # -- the reader

    def _follow(self, what: Session | Shadow) -> None:
        with self._lock:
            self._followed[what.handle] = what
            early = self._dialogue.follow(what.handle)
            if early is not None:  # it overtook the answer
                what.on_news(early)
            if self._lost is not None:
                what.on_lost(self._lost)

    def _read(self) -> None:
        error: PrlError = NoDaemonError(f"prld on {self.path} ended the connection")
        try:
            while True:
                raw, fds, flags, _ = socket.recv_fds(
                    self._sock, MESSAGE_MAX_BYTES, FDS_MAX, socket.MSG_CMSG_CLOEXEC
                )
                if not raw:
                    break
                try:
                    self._dispatch(raw, fds, flags)
                finally:
                    for fd in fds:
                        os.close(fd)
        except OSError as failure:
            error = NoDaemonError(f"prld on {self.path} is gone: {failure.strerror}")
        except MessageError as failure:
            error = PrlError(
                f"prld on {self.path} sent nonsense ({failure}); is it another version?"
            )
        self._give_up(error)

    def _dispatch(self, raw: bytes, fds: list[int], flags: int) -> None:
        cut = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
        with self._lock:
            heard = self._dialogue.hear(raw, fds, cut=cut)
            if isinstance(heard, Answer) and (answers := self._answers.get(heard.number)):
                answers.put(heard)
            elif isinstance(heard, News) and (what := self._followed.get(heard.handle)):
                what.on_news(heard)
        if isinstance(heard, Given):
            shadow = Shadow(self, heard)
            self._follow(shadow)
            self._shadows.put(shadow)

    def _give_up(self, error: PrlError) -> None:
        with self._lock:
            self._lost = error
            for number, answers in self._answers.items():
                answers.put(Answer(number, {}, error))
            followed = list(self._followed.values())
        for what in followed:
            what.on_lost(error)
        self._shadows.put(None)


class NotProtectedError(ReplicationError):
    """The session goes on unprotected; prld tries again."""

    def __init__(self, reason: str, session: Session) -> None:
        super().__init__(f"not protected: {reason}")
        self.session: Session | None = session
