"""Sockets that are ready for their session's moment (SPEC R17): made while nothing waits for them.

PREPARE … ─▶ made, known to the datapath ─▶ moment: restored there ─▶ a shadow (shadows.py)
                         └── CLOSE, link lost, its application gone, a while ─▶ closed, silently
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prl.bindings.datapath import Datapath, Event, FlowSpec, Ready, Tuple
from prl.daemon.control.clients import Application
from prl.daemon.host.network import NextHop
from prl.daemon.session.cloning import Snapshot
from prl.daemon.session.transfer import Setup
from prl.shadow import abandon

PREPARED_MAX_S: Final = 5.0
"""How long a moment may be in coming."""


@dataclass(eq=False, slots=True)
class Coming:
    """A set-up that was admitted."""

    event: Event
    began_ns: int
    setup: Setup
    snapshot: Snapshot
    ends: Tuple
    service: int
    client: Application
    hop: NextHop | None
    client_gone: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    coming: Coming
    sock: socket.socket
    expiry: asyncio.TimerHandle


class PreparedSockets:
    """All that are ready, by handle; ``dropped`` is told of those that are not needed."""

    def __init__(self, datapath: Datapath, dropped: Callable[[Coming], None]) -> None:
        self._dp, self._dropped = datapath, dropped
        self._waiting: dict[int, _Waiting] = {}

    def enter(self, coming: Coming, sock: socket.socket, spec: FlowSpec, ready: Ready) -> None:
        """From now on its moment may come. Takes ``sock`` over, unless it raises DatapathError."""
        handle = coming.event.handle
        self._dp.secondary_prepare(spec, ready)
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(PREPARED_MAX_S, self.drop, handle)
        self._waiting[handle] = _Waiting(coming, sock, expiry)

    def take(self, handle: int, generation: int) -> tuple[Coming, socket.socket] | None:
        """The one whose moment has come: its socket is the caller's now."""
        found = self._waiting.get(handle)
        if found is None or found.coming.event.generation != generation:
            return None
        del self._waiting[handle]
        found.expiry.cancel()
        return found.coming, found.sock

    def drop(self, handle: int) -> None:
        """It is not needed; once its moment has come, that is too late."""
        found = self._waiting.get(handle)
        if found is None or not self._dp.secondary_unprepare(handle, found.coming.event.generation):
            return
        del self._waiting[handle]
        found.expiry.cancel()
        abandon(found.sock)
        self._dropped(found.coming)

    def drop_closed(self, handle: int, generation: int) -> None:
        """The primary does not need that generation."""
        found = self._waiting.get(handle)
        if found is not None and found.coming.event.generation == generation:
            self.drop(handle)

    def drop_of(self, client: Application) -> None:
        """Their application is gone."""
        for handle, found in list(self._waiting.items()):
            if found.coming.client is client:
                found.coming.client_gone = True
                self.drop(handle)

    def clear(self) -> None:
        """The link is gone, and every moment with it."""
        for handle in list(self._waiting):
            self.drop(handle)
