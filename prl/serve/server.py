"""The listener of `prlctl serve`, and the offer to take over what the other node serves."""

import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from prl.client import Node, Shadow
from prl.control.messages import default_socket
from prl.endpoint import Endpoint
from prl.errors import NoDaemonError, PrlError
from prl.kernel.inotify import Appearance
from prl.serve.options import Options
from prl.serve.owner import serve_connection
from prl.serve.relay import wait
from prl.serve.standby import serve_shadow

BACKLOG = 128
ACCEPT_PAUSE_S = 1.0
"""How long nothing is accepted when the host is short of something."""
STOP_TIMEOUT_S = 10.0
PRLD_POLL_S = 0.5
"""How often prld is looked for besides: its socket is there a moment before it listens."""
_SHADOW_POLL_S = 0.5
_NO_THREAD = "the host starts no more threads"
# accept(2): these are about one connection or about resources, not about the listener.
_PASSING = frozenset({errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger("prl.serve")


class Server:
    """Serves one endpoint with one program; the same runs on the other node."""

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        self._endpoint = endpoint
        self._options = options
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._connections = threading.BoundedSemaphore(options.connections_max)
        self._shadows = threading.BoundedSemaphore(options.connections_max)
        self._threads: set[threading.Thread] = set()
        self.is_deterministic = True
        """Whether the program always gave the same output as on the other node."""

    def stop(self) -> None:
        """End ``run``; sessions that the other node can go on with go there. Safe in a handler."""
        os.eventfd_write(self._stop, 1)

    def run(self) -> None:
        """Wait for prld, then serve until ``stop``.

        Raises:
            PrlError: the endpoint cannot be listened on, or prld refuses the offer.
        """
        node = self._await_prld()
        if node is None:
            return
        with ExitStack() as on_failure:
            on_failure.callback(node.close)
            listener = self._endpoint.listen(BACKLOG)
            on_failure.callback(listener.close)
            node.offer(str(self._endpoint))
            if not self._start(self._stand_by, node):
                raise PrlError("this host has no thread to stand by in; see its TasksMax")
            on_failure.pop_all()
        with listener:
            listener.setblocking(False)
            _log.info("serving %s: %s", self._endpoint, " ".join(self._options.argv))
            while self._stop not in wait(
                [(self._stop, select.POLLIN), (listener.fileno(), select.POLLIN)]
            ):
                self._accept(listener)
        for thread in tuple(self._threads):
            thread.join(STOP_TIMEOUT_S)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            self._pause("cannot accept a connection", error.strerror)
            return
        if not self._connections.acquire(blocking=False):
            _log.warning(
                "connection refused: %d are being served; see --max-connections",
                self._options.connections_max,
            )
            sock.close()
            return

        def work() -> None:
            try:
                serve_connection(sock, self._options, self._stop)
            finally:
                self._connections.release()

        if not self._start(work):
            self._connections.release()
            sock.close()
            self._pause("connection refused", _NO_THREAD)

    def _await_prld(self) -> Node | None:
        """Connect as soon as there is a prld, which brings the address too; None: stopped."""
        path = self._options.socket_path or default_socket()
        appearance, told = Appearance(path), False
        watched = [(fd, select.POLLIN) for fd in (self._stop, appearance.descriptor) if fd >= 0]
        try:
            while True:
                appearance.arm()
                try:
                    return Node(path)
                except NoDaemonError as error:
                    if isinstance(error.__cause__, PermissionError):
                        raise
                    if not told:
                        _log.info("waiting for prld, which does not answer on %s yet", path)
                    told = True
                if self._stop in wait(watched, PRLD_POLL_S):
                    return None
        finally:
            appearance.close()

    def _stand_by(self, node: Node) -> None:
        """Take shadows until serving stops; the Node makes its offer to a new prld by itself."""
        with node:
            while not self._is_stopped(0):
                try:
                    shadow = node.next_shadow(_SHADOW_POLL_S)
                except TimeoutError:
                    continue
                except PrlError as error:
                    _log.warning("not standing by any more: %s", error)
                    return
                self._take(node, shadow)

    def _take(self, node: Node, shadow: Shadow) -> None:
        if not self._shadows.acquire(blocking=False):
            words = f"there are {self._options.connections_max} already; see --max-connections"
            _log.warning("session with %s: not taken: %s", shadow.remote, words)
            shadow.close()
            return

        def work() -> None:
            try:
                if not serve_shadow(shadow, self._options, self._stop):
                    self.is_deterministic = False
            finally:
                self._shadows.release()

        if not self._start(work):
            self._shadows.release()
            shadow.close()
            self._pause(f"session with {shadow.remote}: not taken", _NO_THREAD)
            with suppress(PrlError):  # it is tried again when somebody offers himself
                node.offer(str(self._endpoint))

    def _is_stopped(self, timeout_s: float) -> bool:
        return bool(wait([(self._stop, select.POLLIN)], timeout_s))

    def _pause(self, what: str, why: str | None) -> None:
        """The host is short of something, which may pass."""
        _log.warning("%s: %s", what, why)
        wait([(self._stop, select.POLLIN)], ACCEPT_PAUSE_S)

    def _start(self, work: Callable[..., None], *args: object) -> bool:
        """In a thread of its own; False: the host has none."""

        def run() -> None:
            try:
                work(*args)
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="prl-serve", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.discard(thread)
            return False
        return True
