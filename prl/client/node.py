"""An application's connection to prld: its sessions, its offers, and what it is given."""

import contextlib
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from prl.client.flows import (
    ANSWER_TIMEOUT_S,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
    REJOINS_MAX,
    Flow,
    Following,
    nobody_answers,
    not_sent,
)
from prl.client.sessions import Session, Shadow
from prl.control import application
from prl.control.messages import MESSAGE_MAX_BYTES, default_socket
from prl.control.protocol import FDS_MAX, Answer, Given, Unheld
from prl.errors import HungDaemonError, NoDaemonError, NotProtectedError, PrlError
from prl.kernel.inotify import AwaitedAppearance

_Take = Callable[[Answer], None]


def _ignore(_: Answer) -> None:
    """Take an answer that nobody waits for."""


class Node:
    """A connection to this host's prld; safe to be used by several threads.

    With ``reconnect``, its end is not the end of this object: sessions are ``lost`` for a while,
    and handed to the next prld with its offers. Shadows are void.

    Raises:
        NoDaemonError: nobody answers on ``socket_path`` (default: $PRL_SOCKET, or
            /run/prl/prld.sock).
        PrlError: the host has no thread or descriptor for it just now.
    """

    def __init__(
        self, socket_path: str | os.PathLike[str] | None = None, *, reconnect: bool = True
    ) -> None:
        self.path = Path(socket_path) if socket_path is not None else default_socket()
        self.reconnects = reconnect
        """Whether a next prld is waited for when this one is gone."""
        self._sock = self._connect()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._following = Following[Session, Shadow](self.path)
        self._answers: dict[int, _Take] = {}
        self._shadows: queue.SimpleQueue[Shadow | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._appearance: AwaitedAppearance | None = None
        self._reader = threading.Thread(target=self._run, name="prl-client", daemon=True)
        try:
            if reconnect:
                self._appearance = AwaitedAppearance(self.path)
            self._reader.start()
        except (RuntimeError, OSError) as error:
            self._sock.close()
            if self._appearance is not None:
                self._appearance.close()
            raise PrlError(f"no connection to prld on {self.path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> socket.socket:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(str(self.path))
        except OSError as error:  # EMFILE, too
            if sock is not None:
                sock.close()
            raise NoDaemonError(nobody_answers(self.path, error.strerror)) from error
        return sock

    def close(self) -> None:
        """Disconnect. For sessions that were not closed this is the death of the application."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if self._appearance is not None:
            self._appearance.interrupt()
        if threading.current_thread() is not self._reader:
            self._reader.join()
            if self._appearance is not None:
                self._appearance.close()
        with self._sending:
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
        When prld does not answer in time, protection that comes about all the same is given up.

        Raises:
            NotProtectedError: it is not protected, and why. It goes on unprotected, prld tries
                again, and the error's ``session`` tells how that goes.
            ReplicationError: it can not be protected as things are; it goes on unprotected.
            UsageError: this is no socket that can be protected.
            NoDaemonError: prld is gone.
        """
        members, memory = application.pack(data)
        made: list[Session] = []

        def begin(answer: dict[str, Any]) -> None:
            session = Session(self, answer, sock, data, renew=renew)
            with self._lock:
                self._following.follow(session)
            made.append(session)

        try:
            request = {"op": "replicate", "renew": renew} | members
            answer = self.request(request, sock.fileno(), *memory, then=begin)
        finally:
            for fd in memory:
                os.close(fd)
        (session,) = made
        if answer["state"] != "active":
            raise NotProtectedError(answer["reason"] or answer["state"], session)
        return session

    def offer(self, endpoint: str) -> None:
        """Offer to take shadows of sessions whose local end is ``endpoint``.

        "addr:port" means TCP, "udp:addr:port" UDP; "@" and a routing instance stand behind where
        several have that address.

        Raises:
            UsageError: that is no service address here, or one of several instances.
        """
        self.request({"op": "offer", "endpoint": endpoint})
        self._following.offers[endpoint] = None

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
            raise self._following.lost or NoDaemonError(f"prld on {self.path} is gone")
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
        self,
        request: dict[str, Any],
        *fds: int,
        of: Flow | None = None,
        timeout: float = ANSWER_TIMEOUT_S,
        then: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Ask prld; returns the answer without ``id`` and ``ok`` (docs/control.md).

        ``of`` is the flow that it is about: the request names it. ``then`` has the answer of a
        request that was granted before any later word of prld's is heard: in the reader's thread,
        where it must not wait.

        Raises:
            PrlError: prld's own error, of the class that its exit status belongs to.
            UsageError: the flow is over, or a descriptor is none.
            NoDaemonError: prld is gone or hangs, or does not have the flow.
        """
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

        def take(answer: Answer) -> None:
            if answer.error is None:
                then(answer.fields)
            answers.put(answer)

        number = self._send(take, request, fds, of)
        try:
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            if self._wait_no_more(number, request):
                words = f"prld on {self.path} does not answer; is it frozen?"
                raise HungDaemonError(words) from None
            answer = answers.get()  # it came at the very same moment
        except BaseException:  # KeyboardInterrupt
            self._wait_no_more(number, request)
            raise
        if answer.error is not None:
            raise answer.error
        return answer.fields

    def forget(self, what: Session | Shadow) -> None:
        """Stop following a flow."""
        with self._lock:
            self._following.forget(what)

    def leave(self, session: Session, word: dict[str, Any] | None = None) -> None:
        """Hand a session to no further prld; ``word`` is for one that has it all the same."""
        with self._lock:
            has_it = self._following.leave(session, word)
        if has_it and word is not None:
            with contextlib.suppress(PrlError):
                self._send(_ignore, word, (), session)

    def _send(
        self, take: _Take, request: dict[str, Any], fds: tuple[int, ...], of: Flow | None = None
    ) -> int:
        """Send a request whose answer goes to ``take``; returns its number. Raises PrlError."""
        with self._lock:
            number, raw = self._following.ask(request, of)
            self._answers[number] = take
            sock = self._sock
        with self._sending:
            if sock is not self._sock or sock.fileno() < 0:  # a handle would be a former prld's
                raise NoDaemonError(f"prld on {self.path} is gone")
            try:
                socket.send_fds(sock, [raw], fds)
            except OSError as error:
                with self._lock:
                    self._answers.pop(number, None)
                raise not_sent(self.path, error) from error
        return number

    def _wait_no_more(self, number: int, request: dict[str, Any]) -> bool:
        """Nobody waits for that answer; False: it is there."""
        with self._lock:
            if self._answers.pop(number, None) is None:
                return False
            if request["op"] == "replicate":
                self._answers[number] = self._undo
            return True

    def _undo(self, answer: Answer) -> None:
        """Nobody will know the flow of that replicate(): prld is to let go of its socket."""
        if answer.error is None:
            with contextlib.suppress(PrlError):
                self._send(_ignore, {"op": "release", "handle": answer.fields["handle"]}, ())

    # -- the reader

    def _run(self) -> None:
        """Read until close(); prld may die and come back meanwhile."""
        while True:
            error = self._read()
            self._give_up(error)
            if not self.reconnects or not self._await_prld():
                break
            self._rejoin()
        self._shadows.put(None)

    def _read(self) -> PrlError:
        """Read one connection to its end; returns why it ended."""
        try:
            while True:
                raw, fds, flags, _ = socket.recv_fds(
                    self._sock, MESSAGE_MAX_BYTES, FDS_MAX, socket.MSG_CMSG_CLOEXEC
                )
                if not raw:
                    return NoDaemonError(f"prld on {self.path} ended the connection")
                try:
                    self._dispatch(raw, fds, flags)
                finally:
                    for fd in fds:
                        os.close(fd)
        except OSError as failure:
            return NoDaemonError(f"prld on {self.path} is gone: {failure.strerror}")
        except PrlError as failure:
            return failure

    def _dispatch(self, raw: bytes, fds: list[int], flags: int) -> None:
        take: _Take | None = None
        with self._lock:
            heard = self._following.hear(raw, fds, flags)
            if isinstance(heard, Answer):
                take = self._answers.pop(heard.number, None)
            elif isinstance(heard, Given):
                shadow = Shadow(self, heard)
                self._following.follow(shadow)
                self._shadows.put(shadow)
        if isinstance(heard, Unheld):
            with contextlib.suppress(PrlError):  # gone: the reader notices
                self._send(_ignore, heard.refusal, ())
        if take is not None and isinstance(heard, Answer):
            take(heard)

    # -- prld goes and comes

    def _give_up(self, error: PrlError) -> None:
        with self._lock:
            answers, self._answers = self._answers, {}
            for_good = not self.reconnects or self._closed.is_set()
            self._following.lose(error, for_good=for_good)
        for number, take in answers.items():
            take(Answer(number, {}, error))

    def _await_prld(self) -> bool:
        """Connect to the next prld; False: closed meanwhile."""
        assert self._appearance is not None
        with self._sending:
            self._sock.close()  # so that there is a descriptor for the next one
        wait_s = RECONNECT_MIN_S
        while not self._closed.is_set():
            try:
                fresh = self._connect()
            except NoDaemonError:
                self._appearance.wait(wait_s)
                wait_s = min(2 * wait_s, RECONNECT_MAX_S)
                continue
            with self._sending:
                self._sock = fresh
            with self._lock:
                self._following.lost = None
            return not self._closed.is_set()
        return False

    def _rejoin(self) -> None:
        """Hand offers and sessions to the new prld; the answers come in like all others."""
        with self._lock:
            waiting = self._following.to_hand_over()
        with contextlib.suppress(PrlError):  # gone again: the reader notices
            for endpoint in tuple(self._following.offers):
                self._send(_ignore, {"op": "offer", "endpoint": endpoint}, ())
        for _ in range(REJOINS_MAX):
            self._hand_over_next(waiting)

    def _hand_over_next(self, waiting: deque[Session]) -> None:
        """Hand one over, and when the answer is there, the next."""
        while (session := self._next_of(waiting)) is not None:
            try:
                self._hand_over(session, waiting)
            except NoDaemonError:
                return  # gone again: the reader notices, and the next one is asked
            except (OSError, PrlError) as error:  # of this one alone
                self._refused(session, str(error))
            else:
                return

    def _next_of(self, waiting: deque[Session]) -> Session | None:
        with self._lock:
            return self._following.next_of(waiting)

    def _refused(self, session: Session, why: str) -> None:
        with self._lock:
            self._following.refused(session, why)

    def _hand_over(self, session: Session, waiting: deque[Session]) -> None:
        def take(answer: Answer) -> None:
            if answer.error is None:
                with self._lock:
                    word = self._following.handed_over(session, answer.fields)
                if word is not None:
                    with contextlib.suppress(PrlError):
                        self._send(_ignore, word, ())
            elif self._following.lost is not None:
                return  # by the end of this prld, too; the next one is asked
            else:
                self._refused(session, str(answer.error))
            self._hand_over_next(waiting)

        members, memory = application.pack(session.application)
        try:
            self._send(take, session.rejoin_request() | members, (session.sock.fileno(), *memory))
        finally:
            for fd in memory:
                os.close(fd)
