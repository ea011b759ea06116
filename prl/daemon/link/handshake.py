"""The link's handshake without blocking, and what was refused before it was done."""

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence

from prl.bindings.tls import Channel
from prl.daemon.events.log import EventLog

HANDSHAKE_TIMEOUT_S = 2.0
"""How long the other side may take: two round trips, and the CPU's turns in between."""
HANDSHAKES_MAX = 8
"""Handshakes at a time on the node that listens; the oldest one makes room for the next."""
REFUSALS_EVERY_S = 10.0
"""The log has at most one line about refused connections in this time."""


async def proven(sock: socket.socket, keys: Sequence[bytes], *, server: bool) -> Channel:
    """The connection, once both sides have shown that they have a key in common.

    Raises:
        TlsError: one of them has not.
        TimeoutError: the other side took longer than HANDSHAKE_TIMEOUT_S.
    """
    channel = Channel(sock, keys, server=server)
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            while not channel.step():
                await _ready(channel)
    except BaseException:
        channel.close()
        raise
    return channel


async def _ready(channel: Channel) -> None:
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not turn.done():
            turn.set_result(None)

    loop.add_reader(channel.fileno(), wake)
    if channel.unsent:
        loop.add_writer(channel.fileno(), wake)
    try:
        await turn
    finally:
        loop.remove_reader(channel.fileno())
        loop.remove_writer(channel.fileno())


class Refusals:
    """Connections that were refused before HELLO, counted by why."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._unsaid = 0
        self._next_s = 0.0

    def count(self, kind: str) -> None:
        """One more of ``kind``, without a word."""
        self.counts[kind] += 1

    def note(self, kind: str, who: str, why: str) -> None:
        """One more of ``kind``; the log hears of it unless it has just heard of another."""
        self.count(kind)
        self._unsaid += 1
        now_s = asyncio.get_running_loop().time()
        if now_s < self._next_s:
            return
        self._next_s = now_s + REFUSALS_EVERY_S
        more = f" ({self._unsaid} connections since the last such line)" * (self._unsaid > 1)
        self._unsaid = 0
        self._log.warning("link_stranger", f"link: {who} {why}{more}", refused=dict(self.counts))


KINDS = ("stranger", "plain", "key", "forged", "ended", "silent", "crowded", "in_use")
"""Another address than the other node's; not TLS; without the key; recorded or changed; hung up;
nothing within HANDSHAKE_TIMEOUT_S; pushed out by a newer one; the link is alive."""
