"""What an application holds of a session: as its owner, or standing by (prl.client)."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol

from prl.client.shadow_socket import Committed, ShadowNotOwned, ShadowSocket, ShadowVoid, Takeover
from prl.control import application
from prl.control.protocol import (
    OVER,
    Demoted,
    Given,
    Introduced,
    News,
    Protectable,
    State,
    TakenOver,
    Void,
)
from prl.errors import NoDaemonError, PrlError, UsageError

VOID_WORD_TIMEOUT_S = 1.0


class Asker(Protocol):
    """The connection to prld."""

    def request(
        self,
        request: dict[str, Any],
        *fds: int,
        timeout: float = ...,
        then: Callable[[dict[str, Any]], None] = ...,
    ) -> dict[str, Any]:
        """Ask; returns the answer, which ``then`` has first. Raises PrlError."""

    def forget(self, what: "Followed") -> None:
        """Stop following a flow."""


class Followed:
    """Something that changes by prld's word: waited for in a thread, or polled for."""

    def __init__(self, node: Asker, handle: int) -> None:
        self._node = node
        self._changed = threading.Condition()
        self._descriptor = -1
        self.handle = handle
        """Its 32-bit number, as prlctl shows it; a new one after a take-over or a new prld."""

    @property
    def descriptor(self) -> int:
        """Readable when something has changed since clear(), or since it was first asked for."""
        with self._changed:
            if self._descriptor < 0:
                self._descriptor = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self._descriptor

    def clear(self) -> None:
        """What has changed until now is known; to be called before looking."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def on_news(self, news: News) -> None:
        """Called by the Node's reader."""
        raise NotImplementedError

    def on_lost(self, error: PrlError) -> None:
        """Called by the Node's reader when prld is gone."""
        raise NotImplementedError

    def _notify(self) -> None:
        """Something has changed; the lock is held."""
        self._changed.notify_all()
        if self._descriptor >= 0:
            os.eventfd_write(self._descriptor, 1)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)


class Session(Followed):
    """A session that is this application's; from Node.replicate(), or Shadow.session."""

    def __init__(
        self,
        node: Asker,
        answer: dict[str, Any],
        sock: socket.socket,
        data: bytes = b"",
        *,
        renew: bool = False,
    ) -> None:
        super().__init__(node, answer["handle"])
        self._state: str = answer["state"]
        self._reason: str = answer["reason"]
        self._protectable = False
        self.sock = sock
        """The application's socket."""
        self.application = data
        """What is given to the application on the other node with the next shadow."""
        self.renews = renew
        """Whether the application is asked for new bytes before each new shadow."""
        self.streams: list[int] = answer.get("streams", [])
        """prld's own; kept for a prld that starts anew."""

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

    @property
    def protectable(self) -> bool:
        """Whether prld could protect the session now, and waits for renew()."""
        return self._protectable and self._state == "open"

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

    def wait_protectable(self, timeout: float | None = None) -> bool:
        """Wait until prld asks for renew(); False when the session is over.

        Raises:
            TimeoutError: neither happened within ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.protectable or self._state in OVER, timeout):
                raise TimeoutError(f"flow {self.handle:#x} is {self._state}")
            return self.protectable

    def renew(self, data: bytes) -> str:
        """Give the application's bytes as of now; protect the session with them if that can be.

        The socket must not be read or written before it returns: so the bytes and the shadow's
        position in both streams belong together. Returns the state: ``active``, or another one, and
        ``reason`` says why; prld asks again when that may help. A session that is protected keeps
        its shadow, and the bytes are for the next one.

        Raises:
            UsageError: more than 1 MiB, or the session is over.
            NoDaemonError: prld is gone.
        """
        members, memory = application.pack(data)
        with self._changed:
            self._protectable = False
        self.application = data
        try:
            request = {"op": "renew", "handle": self.handle} | members
            answer: dict[str, Any] = self._node.request(request, *memory, then=self._renewed)
        finally:
            for fd in memory:
                os.close(fd)
        return str(answer["state"])

    def _renewed(self, answer: dict[str, Any]) -> None:
        """Before later news: that it is not protected any more is the newer word."""
        self.become(answer["state"], answer["reason"])

    def close(self) -> None:
        """End the session deliberately, on both nodes; close the socket as well."""
        try:
            self._node.request({"op": "close", "handle": self.handle})
        except NoDaemonError:  # nor shall the next prld have it
            self.become("closed", "closed by its application")
        except UsageError:  # it has ended already
            pass

    def abandon(self) -> None:
        """What served it has died: the other node goes on if it can, else the session ends.

        As closing the Node, for one session. Raises UsageError: it has ended.
        """
        self._node.request({"op": "abandon", "handle": self.handle})

    def abort(self, why: str) -> None:
        """Reset the connection, on both nodes; prld logs why. Raises UsageError: it has ended."""
        self._node.request({"op": "abort", "handle": self.handle, "why": why})

    def unprotect(self, why: str = "") -> None:
        """Its replication ends for good; the session goes on; ``why`` is what prlctl shows.

        Raises UsageError: it has ended.
        """
        self._node.request({"op": "flow_del", "handle": self.handle, "why": why})
        self._node.forget(self)

    def on_news(self, news: News) -> None:
        """Called by the Node's reader."""
        if isinstance(news, State):
            self.become(news.state, news.reason)
        elif isinstance(news, Demoted):
            self.become("demoted", "the other node has the session now")
        elif isinstance(news, Protectable):
            with self._changed:
                self._protectable = True
                self._notify()

    def on_lost(self, error: PrlError) -> None:
        """Called by the Node's reader when prld is gone."""
        self.become("lost", str(error))

    def become(self, state: str, reason: str) -> None:
        """Called by the Node: prld's word, or that there is none any more."""
        with self._changed:
            if self._state in OVER:
                return
            self._state, self._reason = state, reason
            if state != "open":
                self._protectable = False
            self._notify()


class Shadow(Followed, Introduced):
    """A session that lives on the other node; this application stands by for it."""

    def __init__(self, node: Asker, given: Given) -> None:
        Followed.__init__(self, node, given.handle)
        Introduced.__init__(self, given)
        self._takeover: Takeover | None = None
        self._session: Session | None = None
        self._void: str | None = None
        self._sock = ShadowSocket(fileno=given.fd)
        self._sock.setblocking(True)
        self._renews = given.renew

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
        return self._void

    @property
    def session(self) -> Session:
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
            self._changed.wait_for(lambda: self.owned or self._void, VOID_WORD_TIMEOUT_S)
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

    def committed(self) -> Committed:
        """How far the owner's output is. Raises UsageError: this is no shadow any more."""
        answer = self._node.request({"op": "committed", "handle": self.handle})
        return Committed(answer["out_bytes"], answer["out_hash"])

    def reject(self, reason: str, why: str) -> None:
        """Give the shadow up, and have the owner's node told the reason.

        ``output_differs``: what serves it here does not give the owner's output; ``mid_stream``:
        it cannot begin in the middle of a session. prld logs ``why``.
        """
        with contextlib.suppress(UsageError):  # it is void already
            self._node.request(
                {"op": "reject", "handle": self.handle, "reason": reason, "why": why}
            )

    def close(self) -> None:
        """Give the shadow up, or, once it is owned, end the session; closes the socket."""
        if self._session is not None:
            self._session.close()
            self._node.forget(self._session)
        elif self._void is None:  # else the handle may be a newer shadow's
            with contextlib.suppress(PrlError):  # it has ended already
                self._node.request({"op": "close", "handle": self.handle})
        self._node.forget(self)
        self._become_void("closed by its application")
        self._sock.close()

    def on_news(self, news: News) -> None:
        """Called by the Node's reader."""
        if isinstance(news, TakenOver):
            with self._changed:
                self.handle = news.becomes
                answer = {"handle": news.becomes, "state": "open", "reason": ""}
                self._session = Session(
                    self._node,
                    answer | {"streams": news.streams},
                    self._sock,
                    self.application,
                    renew=self._renews,
                )
                self._takeover = Takeover(news.out_bytes, news.monotonic_ns, news.out_hash)
                self._sock.owned = True
                self._notify()
        elif isinstance(news, Void):
            self._become_void(news.reason)

    def on_lost(self, error: PrlError) -> None:
        """Called by the Node's reader when prld is gone: a shadow goes with it."""
        self._become_void(str(error))

    def _become_void(self, reason: str) -> None:
        with self._changed:
            if self._void is None:
                self._void = reason
            self._notify()
