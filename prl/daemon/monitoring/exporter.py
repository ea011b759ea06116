"""Metrics over HTTP: ``[metrics] listen``, for Prometheus to scrape (docs/metrics.md).

Facts are gathered at most once in AGE_S, whoever asks how often, and a thread makes them into text.
Few clients are served at a time, each for a bounded time, and none of them holds anything up.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import Final, Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition

from prl.daemon.events.bounded import Bounded
from prl.daemon.events.log import EventLog
from prl.endpoint import parse_endpoint

CLIENTS_MAX: Final = 8
"""Served at a time; more are refused and counted."""
DEADLINE_S: Final = 5.0
"""For one client, from its connection to the last byte."""
HEAD_MAX_BYTES: Final = 8192
AGE_S: Final = 1.0
AGAIN_S: Final = 10.0
"""How long a port that somebody else has is left alone."""
_BACKLOG: Final = 16
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h


class Facts(Protocol):
    """What there is to tell."""

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client's renderers ask for it."""


class Exporter:
    """The listener; ``gather`` says what there is to tell."""

    def __init__(self, listen: str, log: EventLog, gather: Callable[[], Facts]) -> None:
        self._listen, self._log, self._gather = listen, log, gather
        self._clients = 0
        self._refused = 0
        self._text: bytes = b""
        self._at_s = -AGE_S
        self._rendering = asyncio.Lock()

    @property
    def used(self) -> Bounded:
        """Its clients."""
        return Bounded(self._clients, CLIENTS_MAX, self._refused)

    async def run(self) -> None:
        """Serve until cancelled. A port that is taken is no reason to end, but told once."""
        told = False
        while True:
            try:
                sock = _bound(self._listen)
            except OSError as error:
                if not told:
                    told = True
                    words = f"metrics.listen {self._listen}: {error.strerror}; trying again"
                    self._log.warning("metrics", words)
                await asyncio.sleep(AGAIN_S)
                continue
            server = await asyncio.start_server(
                self._on_client, sock=sock, limit=HEAD_MAX_BYTES, backlog=_BACKLOG
            )
            if told:
                self._log.info("metrics", f"metrics are served on {self._listen} now")
            async with server:
                await server.serve_forever()

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= CLIENTS_MAX:
            self._refused += 1
            writer.transport.abort()
            return
        self._clients += 1
        try:
            async with asyncio.timeout(DEADLINE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it is the client's affair
        finally:
            self._clients -= 1
            with contextlib.suppress(OSError):
                writer.transport.abort()

    async def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        method, path = (words[0], words[1].partition(b"?")[0]) if len(words) > 1 else (b"", b"")
        if method not in {b"GET", b"HEAD"}:
            return _response("405 Method Not Allowed", "text/plain", b"GET /metrics\n")
        if path != b"/metrics":
            return _response("404 Not Found", "text/plain", b"GET /metrics\n")
        try:
            body = await self._rendered()
        except Exception as error:  # noqa: BLE001 - whatever it is, prld goes on
            why = f"metrics cannot be told: {type(error).__name__}: {error}"
            self._log.error("metrics", why)
            return _response("500 Internal Server Error", "text/plain", why.encode() + b"\n")
        answer = _response("200 OK", exposition.CONTENT_TYPE_LATEST, body)
        return answer if method == b"GET" else answer[: len(answer) - len(body)]

    async def _rendered(self) -> bytes:
        async with self._rendering:
            if time.monotonic() - self._at_s >= AGE_S:
                facts = self._gather()
                self._text = await asyncio.to_thread(exposition.generate_latest, facts)
                self._at_s = time.monotonic()
            return self._text


def _response(status: str, kind: str, body: bytes) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


def _bound(listen: str) -> socket.socket:
    """A listening socket's beginning: the address may come later (FREEBIND). Raises OSError."""
    address, port = parse_endpoint(listen)
    is_6 = isinstance(address, IPv6Address)
    sock = socket.socket(socket.AF_INET6 if is_6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((str(address), port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
