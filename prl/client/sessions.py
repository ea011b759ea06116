"""What an application holds of a session: as its owner, or standing by (prl.client)."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol

from prl.client.flows import VOID_WORD_TIMEOUT_S, Flow, SessionFlow, ShadowFlow
from prl.client.shadow_socket import Committed, ShadowVoid, Takeover
from prl.control import application
from prl.control.protocol import Given
from prl.errors import HungDaemonError, NoDaemonError, PrlError, UsageError
from prl.kernel.disconnect import disconnect


class Asker(Protocol):
    """The connection to prld."""

    def request(
        self,
        request: dict[str, Any],
        *fds: int,
        of: Flow | None = None,
        timeout: float = ...,
        then: Callable[[dict[str, Any]], None] = ...,
    ) -> dict[str, Any]:
        """Ask, of a flow; returns the answer, which ``then`` has first. Raises PrlError."""

    @property
    def reconnects(self) -> bool:
        """Whether a next prld is waited for when this one is gone."""

    def forget(self, what: "Session | Shadow") -> None:
        """Stop following a flow."""

    def leave(self, session: "Session", word: dict[str, Any] | None = None) -> None:
        """Hand a session to no further prld; ``word`` is for one that has it all the same."""


class Followed(Flow):
    """Waited for in a thread, or polled for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._descriptor = -1

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

    def _changing(self) -> threading.Condition:
        return self._changed

    def _has_changed(self) -> None:
        self._changed.notify_all()
        if self._descriptor >= 0:
            os.eventfd_write(self._descriptor, 1)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)


class Session(Followed, SessionFlow):
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
        Followed.__init__(self)
        SessionFlow.__init__(self, answer, sock, data, renew=renew)
        self._node = node

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
            if not self._changed.wait_for(lambda: self.protectable or self._over, timeout):
                raise TimeoutError(f"flow {self.handle:#x} is {self._state}")
            return self.protectable

    def renew(self, data: bytes) -> str:
        """Give the application's bytes as of now; protect the session with them if that can be.

        The socket must not be read or written before it returns: so the bytes and the shadow's
        position in both streams belong together. Returns the state: ``active``, or another one, and
        ``reason`` says why; prld asks again when that may help, and if it is gone meanwhile
        (``lost``), so does the next one. A session that is protected keeps its shadow, and the
        bytes are for the next one.

        Raises:
            UsageError: more than 1 MiB, or the session is over.
            HungDaemonError: prld does not answer.
            NoDaemonError: it is gone, and no other is waited for.
        """
        members, memory = application.pack(data)
        with self._changed:
            self._protectable = False
        self.application = data
        try:
            request = {"op": "renew"} | members
            answer: dict[str, Any] = self._node.request(
                request, *memory, of=self, then=self._renewed
            )
        except NoDaemonError as error:
            if isinstance(error, HungDaemonError) or not self._node.reconnects:
                raise
            return "lost"
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
            if self._tell({"op": "close"}):
                return
        except UsageError:  # it has ended already
            return
        except HungDaemonError:  # nor shall the next prld have it
            pass
        self.become("closed", "closed by its application")

    def abandon(self) -> None:
        """What served it has died: the other node goes on if it can, else the session ends.

        As closing the Node, for one session. Raises UsageError: it has ended.
        """
        if not self._tell({"op": "abandon"}):
            self.become("closed", "what served it has died, and prld was not there")

    def abort(self, why: str) -> None:
        """Reset the connection, on both nodes; prld logs why. Raises UsageError: it has ended."""
        if not self._tell({"op": "abort", "why": why}):
            disconnect(self.sock)
            self.become("ended", why)

    def unprotect(self, why: str = "") -> None:
        """Its replication ends for good; the session goes on; ``why`` is what prlctl shows.

        Raises UsageError: it has ended.
        """
        if self._tell({"op": "flow_del", "why": why}, {"op": "release"}):
            self._node.leave(self)
        else:
            self.become("lost", why, over=True)

    def _tell(self, word: dict[str, Any], belated: dict[str, Any] | None = None) -> bool:
        """Ask prld; False: none has the session, nor is any further one to have it.

        ``belated``: what is asked of one that is just being handed it, if not the same. Raises
        UsageError, HungDaemonError.
        """
        try:
            self._node.request(word, of=self)
        except HungDaemonError:
            raise
        except NoDaemonError:
            self._node.leave(self, belated or word)
            return False
        return True


class Shadow(Followed, ShadowFlow[Session]):
    """A session that lives on the other node; this application stands by for it."""

    def __init__(self, node: Asker, given: Given) -> None:
        Followed.__init__(self)
        ShadowFlow.__init__(self, given)
        self._node = node
        self._sock.setblocking(True)

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
        if self._is_dead(data):
            raise ShadowVoid(self._await_void() or "the socket was ended")
        return data, sender

    def _await_void(self) -> str | None:
        """Why the shadow is void; its socket dies a moment before the word of it comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._over, VOID_WORD_TIMEOUT_S)
            return self.void_reason

    def wait_taken_over(self, timeout: float | None = None) -> Takeover:
        """Wait until the session is this application's.

        Raises:
            ShadowVoid: it never will be; the message says why.
            TimeoutError: not within ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._over, timeout):
                raise TimeoutError(f"flow {self.handle:#x} is still a shadow")
            if self._takeover is None:
                raise ShadowVoid(f"{self.remote}: {self._reason}")
            return self._takeover

    def committed(self) -> Committed:
        """How far the owner's output is. Raises UsageError: this is no shadow any more."""
        answer = self._node.request({"op": "committed"}, of=self)
        return Committed(answer["out_bytes"], answer["out_hash"])

    def reject(self, reason: str, why: str) -> None:
        """Give the shadow up, and have the owner's node told the reason.

        ``output_differs``: what serves it here does not give the owner's output; ``mid_stream``:
        it cannot begin in the middle of a session. prld logs ``why``.
        """
        with contextlib.suppress(UsageError):  # it is void already
            self._node.request({"op": "reject", "reason": reason, "why": why}, of=self)

    def close(self) -> None:
        """Give the shadow up, or, once it is owned, end the session; closes the socket."""
        if self._session is not None:
            self._session.close()
            self._node.forget(self._session)
        else:
            with contextlib.suppress(PrlError):  # it has ended already
                self._node.request({"op": "close"}, of=self)
        self._node.forget(self)
        self.become("void", "closed by its application", over=True)
        self._sock.close()

    def _begin(self, answer: dict[str, Any]) -> Session:
        return Session(self._node, answer, self._sock, self.application, renew=self._renews)
