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

import base64
import contextlib
import os
import queue
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prl.errors import NoDaemonError, PrlError, ReplicationError, UsageError
from prl.messages import (
    ANY_PEER,
    APPLICATION_MAX_BYTES,
    MESSAGE_MAX_BYTES,
    MessageError,
    decode,
    default_socket,
    encode,
)

ANSWER_TIMEOUT_S = 30.0
"""How long prld may take for an answer before it counts as hung."""
VOID_WORD_TIMEOUT_S = 1.0
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


class ShadowVoid(PrlError):  # noqa: N818
    """The shadow is of no use any more; the message says why."""


class ShadowNotOwned(PrlError, PermissionError):  # noqa: N818
    """A shadow can only be read until it is taken over (SPEC R18)."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """The session is this application's from now on."""

    out_bytes: int
    """How much output since the snapshot the peer has had, or will get from the socket itself."""
    monotonic_ns: int
    """When, CLOCK_MONOTONIC."""


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

    def on_event(self, state: str, reason: str) -> None:
        """Called by the Node's reader."""
        with self._changed:
            self._state, self._reason = state, reason
            self._changed.notify_all()


class ShadowSocket(socket.socket):
    """A shadow's socket: everything that would enter the stream fails until it is owned."""

    owned = False

    def _require_owned(self) -> None:
        if not self.owned:
            raise ShadowNotOwned("this shadow is not taken over: it can only be read")

    def send(self, *args: Any, **kwargs: Any) -> int:
        """As socket.send(). Raises ShadowNotOwned."""
        self._require_owned()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        """As socket.sendall(). Raises ShadowNotOwned."""
        self._require_owned()
        super().sendall(*args, **kwargs)

    def sendto(self, *args: Any, **kwargs: Any) -> int:
        """As socket.sendto(). Raises ShadowNotOwned."""
        self._require_owned()
        return super().sendto(*args, **kwargs)

    def sendmsg(self, *args: Any, **kwargs: Any) -> int:
        """As socket.sendmsg(). Raises ShadowNotOwned."""
        self._require_owned()
        return super().sendmsg(*args, **kwargs)

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        """As socket.sendfile(). Raises ShadowNotOwned."""
        self._require_owned()
        return super().sendfile(*args, **kwargs)

    def shutdown(self, how: int) -> None:
        """As socket.shutdown(). Raises ShadowNotOwned."""
        self._require_owned()
        super().shutdown(how)


class Shadow:
    """A session that lives on the other node; this application stands by for it."""

    def __init__(self, node: "Node", event: dict[str, Any], fd: int) -> None:
        self._node = node
        self._changed = threading.Condition()
        self._takeover: Takeover | None = None
        self._void: str | None = None
        self._sock = ShadowSocket(fileno=fd)
        self._sock.setblocking(True)
        self.handle: int = event["handle"]
        """Its 32-bit number, as prlctl shows it."""
        self.local: str = event["local"]
        """The service's end, ``addr:port``."""
        self.remote: str = event["remote"]
        """The peer's end, ``addr:port``; ``*`` for a UDP socket that is not connected."""
        self.application: bytes = base64.b64decode(event["application"])
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
            if self._is_live_udp() or (why := self._await_void()) is None:
                raise  # UDP: an ICMP error, which the first application reads, too
            raise ShadowVoid(why) from error
        if not data and self._sock.type == socket.SOCK_DGRAM and not self._is_live_udp():
            raise ShadowVoid(self._await_void() or "the socket was ended")
        return data, sender

    def _await_void(self) -> str | None:
        """Why the shadow is void; its socket dies a moment before the word of it comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._void is not None, VOID_WORD_TIMEOUT_S)
            return self._void

    def _is_live_udp(self) -> bool:
        """Whether it is a UDP socket that can receive.

        prld takes its peer away from a void one, and shuts it down.
        """
        if self._sock.type != socket.SOCK_DGRAM:
            return False
        if self.remote == ANY_PEER:
            poll = select.poll()
            poll.register(self._sock, 0)  # POLLHUP is always told (datagram_poll, datagram.c)
            return not any(events & select.POLLHUP for _, events in poll.poll(0))
        try:
            self._sock.getpeername()
        except OSError:
            return False
        return True

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
        with contextlib.suppress(PrlError):  # it has ended already
            self._node.request({"op": "close", "handle": self.handle})
        self._node.forget(self.handle)
        self.on_void("closed by its application")
        self._sock.close()

    def on_taken_over(self, takeover: Takeover) -> None:
        """Called by the Node's reader."""
        with self._changed:
            self._takeover = takeover
            self._sock.owned = True
            self._changed.notify_all()

    def on_void(self, reason: str) -> None:
        """Called by the Node's reader."""
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
        self._next_id = 1
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._followed: dict[int, Session | Shadow] = {}
        self._early: dict[int, dict[str, Any]] = {}
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
        if len(application) > APPLICATION_MAX_BYTES:
            raise UsageError(
                f"{len(application)} bytes of application data; at most {APPLICATION_MAX_BYTES}"
            )
        request = {"op": "replicate", "application": base64.b64encode(application).decode()}
        answer = self.request(request, sock.fileno())
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
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._lock:
            if self._lost is not None:
                raise self._lost
            number, self._next_id = self._next_id, self._next_id + 1
            self._answers[number] = answers
        try:
            with self._sending:
                raw = encode(request | {"id": number})
                socket.send_fds(self._sock, [raw], [] if fd is None else [fd])
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            raise NoDaemonError(f"prld on {self.path} does not answer; is it frozen?") from None
        except OSError as error:
            raise NoDaemonError(f"prld on {self.path} is gone: {error.strerror}") from error
        finally:
            with self._lock:
                self._answers.pop(number, None)
        if answer.pop("ok", False):
            answer.pop("id", None)
            return answer
        words = str(answer.get("error", "prld gave no reason"))
        raise _error_class(answer.get("code"))(words)

    def forget(self, handle: int) -> None:
        """Stop following a flow."""
        with self._lock:
            self._followed.pop(handle, None)

    # -- the reader

    def _follow(self, what: Session | Shadow) -> None:
        with self._lock:
            self._followed[what.handle] = what
            early = self._early.pop(what.handle, None)
            if early is not None:  # it overtook the answer
                self._pass_on(what, early)
            if self._lost is not None:
                self._end(what, self._lost)

    def _read(self) -> None:
        error: PrlError = NoDaemonError(f"prld on {self.path} ended the connection")
        try:
            while True:
                raw, fds, _, _ = socket.recv_fds(
                    self._sock, MESSAGE_MAX_BYTES, _FDS_MAX, socket.MSG_CMSG_CLOEXEC
                )
                if not raw:
                    break
                self._dispatch(decode(raw), list(fds))
        except OSError as failure:
            error = NoDaemonError(f"prld on {self.path} is gone: {failure.strerror}")
        except (MessageError, KeyError, TypeError, ValueError) as failure:
            error = PrlError(
                f"prld on {self.path} sent nonsense ({failure}); is it another version?"
            )
        self._give_up(error)

    def _dispatch(self, message: dict[str, Any], fds: list[int]) -> None:
        kind = message.get("event")
        if kind == "shadow" and len(fds) == 1:
            shadow = Shadow(self, message, fds.pop())
            self._follow(shadow)
            self._shadows.put(shadow)
        elif kind is not None:
            self._on_event(message)
        else:
            self._on_answer(message)
        for fd in fds:
            os.close(fd)

    def _on_answer(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        if number is None:  # refused before it was understood, or the whole connection was
            raise ValueError(message.get("error"))
        with self._lock:
            answers = self._answers.get(number)
        if answers is not None:
            answers.put(message)

    def _on_event(self, message: dict[str, Any]) -> None:
        handle = message.get("handle")
        if not isinstance(handle, int):
            return
        with self._lock:
            what = self._followed.get(handle)
            if what is not None:
                self._pass_on(what, message)
            elif message["event"] in {"state", "demoted"}:
                # The flow's replicate() is about to follow it; others never are.
                self._early[handle] = message
                while len(self._early) > _EARLY_MAX:
                    del self._early[next(iter(self._early))]

    def _pass_on(self, what: Session | Shadow, message: dict[str, Any]) -> None:
        kind = message["event"]
        if isinstance(what, Session):
            if kind == "state":
                what.on_event(message["state"], message["reason"])
            elif kind == "demoted":
                what.on_event("demoted", "the other node has the session now")
        elif kind == "taken_over":
            what.on_taken_over(Takeover(message["out_bytes"], message["monotonic_ns"]))
        elif kind == "void":
            what.on_void(message["reason"])

    def _give_up(self, error: PrlError) -> None:
        with self._lock:
            self._lost = error
            for answers in self._answers.values():
                answers.put({"ok": False, "error": str(error), "code": error.exit_code})
            followed = list(self._followed.values())
        for what in followed:
            self._end(what, error)
        self._shadows.put(None)

    def _end(self, what: Session | Shadow, error: PrlError) -> None:
        if isinstance(what, Session):
            if what.state not in {"demoted", "ended", "closed"}:
                what.on_event("lost", str(error))
        else:
            what.on_void(str(error))


class NotProtectedError(ReplicationError):
    """The session goes on unprotected; prld tries again."""

    def __init__(self, reason: str, session: Session) -> None:
        super().__init__(f"not protected: {reason}")
        self.session: Session | None = session


def _error_class(code: object) -> type[PrlError]:
    return {
        UsageError.exit_code: UsageError,
        NoDaemonError.exit_code: NoDaemonError,
    }.get(code if isinstance(code, int) else 1, ReplicationError)
