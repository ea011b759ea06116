"""`serve` and a prld that is not there yet, and an ending of a session in words."""

import errno
import json
import logging
import os
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from prl.client import Node, Shadow, tcp
from prl.control.messages import MESSAGE_MAX_BYTES
from prl.endpoint import Endpoint
from prl.errors import NoDaemonError, PrlError
from prl.serve import Options, Server
from prl.serve import server as serve_server

TIMEOUT_S = 20.0


class Told(logging.Handler):
    """Waits for a line of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.heard = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.heard:
            self.lines.append(record.getMessage())
            self.heard.notify_all()

    def wait_for(self, words: str) -> None:
        with self.heard:
            found = self.heard.wait_for(lambda: any(words in one for one in self.lines), TIMEOUT_S)
        assert found, self.lines


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    handler, logger = Told(), logging.getLogger("prl.serve")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    return handler


@contextmanager
def running(server: Server) -> Iterator[None]:
    """It serves in a thread; whatever happens here, both have ended afterwards."""
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(server.run)
        try:
            yield
        finally:
            server.stop()
        served.result(TIMEOUT_S)
    for thread in set(threading.enumerate()) - before:  # daemons of the server's own
        thread.join(TIMEOUT_S)
        assert not thread.is_alive(), thread


def answer_one(path: Path) -> str:
    """A prld that hears one request."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        client, _ = listener.accept()
        with client:
            request = json.loads(client.recv(MESSAGE_MAX_BYTES))
            client.send(json.dumps({"id": request["id"], "ok": True}).encode())
            return str(request["endpoint"])


def test_serve_waits_for_prld_and_says_so_once(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "prld.sock"
    server = Server(Endpoint.parse("127.0.0.1:47000"), Options(("cat",), path, 1, 0))
    with running(server):
        told.wait_for(f"waiting for prld, which does not answer on {path} yet")
        assert answer_one(path) == "127.0.0.1:47000"
        told.wait_for("serving 127.0.0.1:47000")
    assert sum("waiting for prld" in line for line in told.lines) == 1


def test_serve_that_waits_can_be_stopped(tmp_path: Path, told: Told) -> None:
    server = Server(Endpoint.parse("127.0.0.1:47001"), Options(("cat",), tmp_path / "s", 1, 0))
    with running(server):
        told.wait_for("waiting for prld")


def test_who_may_not_use_prld_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Node) -> socket.socket:
        raise NoDaemonError("no") from PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Node, "_connect", refused)
    server = Server(Endpoint.parse("127.0.0.1:47002"), Options(("cat",), tmp_path / "s", 1, 0))
    with pytest.raises(NoDaemonError):
        server.run()


class Giving:
    """A prld's Node that gives a shadow to whoever has offered himself, and knows of no other."""

    def __init__(self) -> None:
        self.offers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.closed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed.put("node")

    def offer(self, endpoint: str) -> None:
        self.offers.put(endpoint)
        self._waiting.put(endpoint)

    def next_shadow(self, timeout: float) -> Shadow:
        try:
            self._waiting.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        shadow: Any = SimpleNamespace(remote="peer", close=lambda: self.closed.put("shadow"))
        return shadow


class Threads:
    """How many threads of `serve`'s the host has yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        start = threading.Thread.start

        def started(thread: threading.Thread) -> None:
            if thread.name == "prl-serve":
                if not self.left:
                    raise RuntimeError("can't start new thread")
                self.left -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", started)


def serving(monkeypatch: pytest.MonkeyPatch, port: int) -> tuple[Server, Giving]:
    node = Giving()
    monkeypatch.setattr(serve_server, "ACCEPT_PAUSE_S", 0.01)
    server = Server(Endpoint.parse(f"127.0.0.1:{port}"), Options(("cat",), None, 1, 0))
    monkeypatch.setattr(server, "_await_prld", lambda: node)
    return server, node


def test_a_host_without_threads_ends_a_connection_and_no_more(
    monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    server, node = serving(monkeypatch, 47003)
    threads = Threads(monkeypatch, 2)
    taken = threading.Event()
    monkeypatch.setattr(serve_server, "serve_shadow", lambda *_: taken.set())
    monkeypatch.setattr(serve_server, "serve_connection", lambda sock, *_: sock.close())
    with running(server):
        told.wait_for("serving")
        assert taken.wait(TIMEOUT_S)
        for _ in range(2):  # there is room for one at a time
            with socket.create_connection(("127.0.0.1", 47003), TIMEOUT_S) as refused:
                assert refused.recv(1) == b""
        told.wait_for("connection refused: the host starts no more threads")
        assert node.closed.empty()
        threads.left = 1
        with socket.create_connection(("127.0.0.1", 47003), TIMEOUT_S) as served:
            assert served.recv(1) == b""
        assert threads.left == 0


def test_a_host_without_threads_gives_a_shadow_up_and_stands_by_for_the_next(
    monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    server, node = serving(monkeypatch, 47004)
    threads = Threads(monkeypatch, 1)
    taken = threading.Event()
    monkeypatch.setattr(serve_server, "serve_shadow", lambda *_: taken.set())
    with running(server):
        assert node.closed.get(timeout=TIMEOUT_S) == "shadow"
        told.wait_for("session with peer: not taken: the host starts no more threads")
        threads.left = 1
        assert taken.wait(TIMEOUT_S)  # for the offer is made again
    assert node.offers.get() == node.offers.get() == "127.0.0.1:47004"


def test_a_host_without_a_thread_to_stand_by_in_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, node = serving(monkeypatch, 47005)
    Threads(monkeypatch, 0)
    with pytest.raises(PrlError, match="no thread to stand by in"):
        server.run()
    assert node.closed.get() == "node"


@pytest.mark.needs("root")
def test_a_socket_that_prld_put_away_ends_with_words() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR, as prl.daemon.session.silence does
        with pytest.raises(PermissionError) as caught:
            sock.recv(1)
        sock.setsockopt(socket.IPPROTO_TCP, 19, -1)
    assert "prld has taken the socket out of use" in tcp.why_ended(caught.value)
    broken = OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    assert tcp.why_ended(broken) == "the connection ended: Connection reset by peer"
