"""The listener of `prlctl serve`, and the offer to take over what the other node serves."""

import errno
import logging
import os
import select
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from prl.client import Node, Shadow
from prl.endpoint import Endpoint
from prl.errors import PrlError
from prl.serve.owner import APPLICATION_TAG, serve_connection
from prl.serve.relay import wait
from prl.serve.standby import serve_shadow

CONNECTIONS_MAX = 256
SHADOWS_MAX = 256
BACKLOG = 128
RECONNECT_INTERVAL_S = 1.0
STOP_TIMEOUT_S = 10.0
_NONCES_MAX = 4096
_SHADOW_POLL_S = 0.5
# accept(2): these are about one connection or about resources, not about the listener.
_PASSING = frozenset({errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger("prl.serve")


class Server:
    """Serves one endpoint with one program; the same runs on the other node."""

    def __init__(
        self, endpoint: Endpoint, argv: Sequence[str], socket_path: Path | None = None
    ) -> None:
        self._endpoint = endpoint
        self._argv = list(argv)
        self._socket_path = socket_path
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._connections = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._shadows = threading.BoundedSemaphore(SHADOWS_MAX)
        self._threads: set[threading.Thread] = set()
        self._nonces: OrderedDict[bytes, None] = OrderedDict()

    def stop(self) -> None:
        """End ``run``; sessions that the other node can go on with go there. Safe in a handler."""
        os.eventfd_write(self._stop, 1)

    def run(self) -> None:
        """Serve until ``stop``.

        Raises:
            NoDaemonError: prld does not answer at the start.
            PrlError: the endpoint cannot be listened on, or prld refuses the offer.
        """
        with self._endpoint.listen(BACKLOG) as listener:
            listener.setblocking(False)
            node = self._offer()
            self._start(self._stand_by, node)
            _log.info("serving %s: %s", self._endpoint, " ".join(self._argv))
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
            _log.warning("cannot accept a connection: %s", error.strerror)
            wait([(self._stop, select.POLLIN)], RECONNECT_INTERVAL_S)
            return
        if not self._connections.acquire(blocking=False):
            _log.warning("connection refused: %d are being served", CONNECTIONS_MAX)
            sock.close()
            return

        def work() -> None:
            try:
                serve_connection(sock, self._argv, self._socket_path, self._stop)
            finally:
                self._connections.release()

        self._start(work)

    def _offer(self) -> Node:
        node = Node(self._socket_path)
        try:
            node.offer(str(self._endpoint))
        except BaseException:
            node.close()
            raise
        return node

    def _stand_by(self, first: Node) -> None:
        """Take shadows until serving stops; when prld goes away, offer again once it is back."""
        node: Node | None = first
        while not self._is_stopped(0):
            if node is None:
                with suppress(PrlError):
                    node = self._offer()
                    _log.info("prld is back: standing by again")
                if node is None and self._is_stopped(RECONNECT_INTERVAL_S):
                    return
                continue
            try:
                shadow = node.next_shadow(_SHADOW_POLL_S)
            except TimeoutError:
                continue
            except (PrlError, OSError) as error:
                _log.warning("not standing by: %s", error)
                node.close()
                node = None
                continue
            self._take(shadow)
        if node is not None:
            node.close()

    def _take(self, shadow: Shadow) -> None:
        if not self._is_first(shadow):
            _log.warning(
                "session with %s: it is under way already, and the program can only start at its "
                "beginning: not taken",
                shadow.remote,
            )
            shadow.close()
            return
        if not self._shadows.acquire(blocking=False):
            _log.warning("session with %s: not taken, there are %d", shadow.remote, SHADOWS_MAX)
            shadow.close()
            return

        def work() -> None:
            try:
                serve_shadow(shadow, self._argv, self._stop)
            finally:
                self._shadows.release()

        self._start(work)

    def _is_first(self, shadow: Shadow) -> bool:
        application = shadow.application
        if shadow.in_bytes or shadow.out_bytes:
            return False
        if not application.startswith(APPLICATION_TAG) or application in self._nonces:
            return False
        self._nonces[application] = None
        if len(self._nonces) > _NONCES_MAX:
            self._nonces.popitem(last=False)
        return True

    def _is_stopped(self, timeout_s: float) -> bool:
        return bool(wait([(self._stop, select.POLLIN)], timeout_s))

    def _start(self, work: Callable[..., None], *args: object) -> None:
        def run() -> None:
            try:
                work(*args)
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="prl-serve", daemon=True)
        self._threads.add(thread)
        thread.start()
