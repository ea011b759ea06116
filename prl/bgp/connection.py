"""A BGP session on a socket or a shadow: input, output, and the two timers of RFC 4271."""

import select
import socket
import time
from typing import Protocol

from prl.bgp.errors import BgpError, Code, PeerEndedError
from prl.bgp.journal import Journal
from prl.bgp.session import Session, State

_READ_BYTES = 1 << 16
_KEEPALIVES_PER_HOLD_TIME = 3  # RFC 4271 section 4.4


class Watch(Protocol):
    """Something besides the session to wait for."""

    @property
    def descriptor(self) -> int:
        """Readable when ``ready`` has something to say."""

    def ready(self) -> str:
        """Act; words end the connection's loop."""


class Connection:
    """Runs one session on one socket; silent until ``speak``."""

    def __init__(self, sock: socket.socket, session: Session, journal: Journal) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._session = session
        self._journal = journal
        self._unsent = bytearray()
        self._hold_deadline_s = self._keepalive_due_s = float("inf")
        self._established = False

    def speak(self, sock: socket.socket, offset: int) -> None:
        """From now on send, beginning at byte ``offset`` of the output."""
        self._socket = sock
        self._session.output.go_on_at(offset)
        self._session.output.keepalive()  # after a take-over the peer may have waited for one
        self._restart_timers()

    def run(self, watch: Watch | None = None) -> str:
        """Go on until the session ends; return why.

        Raises:
            OSError: the connection broke.
        """
        try:
            while True:
                self._send()
                poller = select.poll()
                events = select.POLLIN | (select.POLLOUT if self._unsent else 0)
                poller.register(self._socket, events)
                if watch is not None and watch.descriptor >= 0:
                    poller.register(watch.descriptor, select.POLLIN)
                ready = dict(poller.poll(self._timeout_ms()))
                if watch is not None and watch.descriptor in ready and (why := watch.ready()):
                    return why
                if self._socket.fileno() in ready and not self._receive():
                    return "the peer closed the connection"
                self._check_timers()
        except PeerEndedError as error:
            return str(error)
        except BgpError as error:
            self._journal.write(self._session)
            self._send()
            return str(error)

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        self._journal.received(data)
        self._session.feed(data)
        if self._session.state is State.ESTABLISHED and not self._established:
            self._established = True
            self._keepalive_due_s = time.monotonic() + self._keepalive_interval_s()
        if not self._session.output.is_silent:
            self._restart_hold_timer()
        self._journal.write(self._session)
        return True

    def _send(self) -> None:
        self._unsent += self._session.output.take()
        while self._unsent:
            try:
                count = self._socket.send(self._unsent)
            except BlockingIOError:
                return
            self._journal.sent(count)
            del self._unsent[:count]

    def _restart_timers(self) -> None:
        self._keepalive_due_s = time.monotonic() + self._keepalive_interval_s()
        self._restart_hold_timer()

    def _restart_hold_timer(self) -> None:
        hold_s = self._session.hold_time_s or float("inf")
        self._hold_deadline_s = time.monotonic() + hold_s

    def _keepalive_interval_s(self) -> float:
        return (self._session.hold_time_s or float("inf")) / _KEEPALIVES_PER_HOLD_TIME

    def _check_timers(self) -> None:
        if self._session.output.is_silent:
            return
        now_s = time.monotonic()
        if now_s >= self._hold_deadline_s:
            error = BgpError(Code.HOLD_TIMER, 0, "the peer was silent for the hold time")
            self._session.end(error)
            raise error
        if now_s >= self._keepalive_due_s:
            self._session.output.keepalive()
            self._keepalive_due_s = now_s + self._keepalive_interval_s()

    def _timeout_ms(self) -> float | None:
        if self._session.output.is_silent:
            return None
        next_s = min(self._hold_deadline_s, self._keepalive_due_s)
        return None if next_s == float("inf") else max(0.0, next_s - time.monotonic()) * 1000
