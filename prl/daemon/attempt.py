"""One attempt to protect a session (SPEC R17).

set up in the datapath ─▶ snapshot ─▶ SETUP … ─▶ SETUP_DONE ─▶ active
        └──────────────────────┴─────────┴─ refused, too late, link lost ─▶ open, with the reason
"""

import asyncio
import contextlib
import socket
import time

from prl.config import Config
from prl.core import wire
from prl.core.datapath import Datapath, DatapathError, Event
from prl.core.wire import Element, Message, Reason, Tlv
from prl.daemon import cloning, transfer
from prl.daemon.cloning import Frozen
from prl.daemon.events import EventLog
from prl.daemon.freezer import FreezeError
from prl.daemon.host import Host, NextHop
from prl.daemon.instances import Instances
from prl.daemon.link import Link
from prl.daemon.pace import Pace
from prl.daemon.sessions import Session
from prl.daemon.transfer import TransferError
from prl.errors import ReplicationError
from prl.shadow import SnapshotError
from prl.shadow.sockopt import CallError, So, get_int

SETUPS_AT_ONCE = 8
"""Sessions that are being protected at a time, at most; the others wait, undisturbed."""
SLOW_PART = 4
"""Where an attempt takes more than this part of its deadline, fewer are made at a time."""
SEND_FULL_WAIT_S = 0.002

_EBUFFERS = 105  # ENOBUFS: the transmit queue of the link is full


class AttemptError(ReplicationError):
    """One attempt to protect a session failed."""

    def __init__(self, reason: int, words: str) -> None:
        self.reason = reason
        super().__init__(words)


class Attempts:
    """Makes attempts, a few at a time."""

    def __init__(
        self,
        config: Config,
        datapath: Datapath,
        link: Link,
        host: Host,
        log: EventLog,
        instances: Instances,
    ) -> None:
        self._config, self._dp, self._link, self._log = config, datapath, link, log
        self._host, self._instances = host, instances
        self._pace = Pace(SETUPS_AT_ONCE, config.timing.setup_ms / SLOW_PART / 1000)

    def enter(self, session: Session, sessions: dict[int, Session]) -> None:
        """Make it known to the datapath, and leave it open. Raises DatapathError."""
        self._set_up(session, sessions)
        self._dp.primary_fail(session.handle, Reason.REQUESTED)
        session.state, session.reason = (
            "open",
            "prld was started anew, and has not protected it yet",
        )

    async def protect(self, session: Session, sessions: dict[int, Session]) -> None:
        """Set up, snapshot, send, activate. On failure the session is open, with the reason.

        Enters it in ``sessions`` as soon as it has a handle. Raises ReplicationError when it does
        not even get one.
        """
        async with session.lock, self._pace:
            hop, detour = None, ""  # of many peers: whoever takes over looks them up
            if not session.ends.is_unconnected:
                ifindex = self._instances.interface(session.service).ifindex
                detour = await self._detour(session)
                hop = None if detour else await self._host.next_hop(ifindex, session.ends.remote)
            if session.state != "open" or session.closing:
                return
            session.hopeless = False
            begun_ns = time.monotonic_ns()
            try:
                self._begin(session, sessions, detour)
                frozen = await self._freeze(session, hop)
                edge = await self._transfer(session, transfer.encode(frozen.setup))
                self._refuse_moved(session, frozen)
                self._dp.primary_activate(
                    session.handle, session.generation, frozen.setup.committed, edge
                )
            except AttemptError as error:
                self._failed(session, error.reason, str(error))
            except (SnapshotError, TransferError, CallError, FreezeError) as error:
                self._failed(session, Reason.REQUESTED, str(error))
            except DatapathError as error:
                if not session.handle:
                    raise ReplicationError(str(error)) from error
                self._failed(session, Reason.REQUESTED, str(error))
            else:
                if session.is_live:
                    session.state, session.reason = "active", ""
                    session.active_since_s = time.monotonic()
                    self._log.info(
                        "active",
                        f"{session.ends}: protected",
                        handle=session.handle,
                        frozen_us=(time.monotonic_ns() - begun_ns) // 1000,
                    )
            self._pace.took((time.monotonic_ns() - begun_ns) / 1e9)

    async def _detour(self, session: Session) -> str:
        """What is wrong with the way of a session's packets; empty when they pass prl's programs.

        A VLAN is an interface of its own: what leaves by lan0.100 is not seen on lan0.
        """
        ends, sock = session.ends, session.sock
        ours = self._instances.devices(session.service)
        way = get_int(sock, So.BINDTOIFINDEX)
        if not way and not ends.remote.is_link_local:
            way = await self._host.way_out(ends.local, ends.remote, get_int(sock, So.MARK))
        if not way or way in ours:
            return ""
        name, own = _name(way), self._instances.interface(session.service).name
        return (
            f"packets to {ends.remote} leave by {name}, while prld has its programs on {own}; name "
            f"{name} as lan.interface or in [[routing]], or correct the route"
        )

    def _begin(self, session: Session, sessions: dict[int, Session], detour: str) -> None:
        """Gate on, input redirected, output held."""
        if not detour or not session.handle:
            self._set_up(session, sessions)
        if detour:
            raise AttemptError(Reason.REQUESTED, detour)
        if not self._link.up:
            raise AttemptError(Reason.LINK_LOST, f"the link is down: {self._link.why_down}")

    def _set_up(self, session: Session, sessions: dict[int, Session]) -> None:
        spec = cloning.spec_of(session.ends, session.sock, session.handle)
        session.done = asyncio.get_running_loop().create_future()
        session.handle, session.generation = self._dp.primary_setup(spec)
        session.state, session.reason = "setup", ""
        sessions[session.handle] = session

    async def _freeze(self, session: Session, hop: NextHop | None) -> Frozen:
        frozen = await cloning.freeze(
            session.ends,
            session.sock,
            hop,
            session.streams,
            application=session.application,
            renew=session.renew,
            freezer=session.client.freezer,
            program=session.program,
        )
        info = self._dp.flow_info(session.handle)
        if info is not None and info.socket["stamp_ns"] and info.socket["has_ooo"]:
            raise AttemptError(Reason.REQUESTED, "segments are missing in between; trying again")
        return frozen

    async def _transfer(self, session: Session, blob: bytes) -> int:
        """Send the pieces and wait for the shadow; returns the right edge that it gave."""
        assert session.done is not None
        pieces = transfer.pieces(blob, wire.SETUP_CHUNK_BYTES)
        for number, piece in enumerate(pieces, 1):
            tlvs = wire.encode_tlvs([Element(Tlv.SNAPSHOT, piece)])
            bits = wire.SETUP_LAST if number == len(pieces) else 0
            while not session.done.done():
                try:
                    self._dp.send(
                        Message.SETUP,
                        tlvs,
                        handle=session.handle,
                        generation=session.generation,
                        bits=bits,
                    )
                    break
                except DatapathError as error:
                    if error.errno != _EBUFFERS:
                        raise
                await asyncio.sleep(SEND_FULL_WAIT_S)  # the link drains; nothing tells us
        # The datapath opens the flow at its deadline; twice that is for a datapath that hangs.
        deadline_s = 2 * self._config.timing.setup_ms / 1000
        try:
            event = await asyncio.wait_for(session.done, deadline_s)
        except TimeoutError:
            raise AttemptError(Reason.TIMEOUT, wire.reason_text(Reason.TIMEOUT)) from None
        if event.reason or event.type != Message.SETUP_DONE:
            words = next((e.value.decode("utf-8", "replace") for e in _texts(event)), "")
            reason = event.reason or Reason.REQUESTED
            raise AttemptError(reason, words or wire.reason_text(reason))
        return event.space

    def _refuse_moved(self, session: Session, frozen: Frozen) -> None:
        """A straggler that came after the snapshot is missing in the shadow."""
        if cloning.has_moved(session.ends, session.sock, frozen):
            raise AttemptError(Reason.REQUESTED, "a segment slipped in; trying again")

    def _failed(self, session: Session, reason: int, words: str) -> None:
        if not session.is_live:
            return
        if session.state != "open":
            with contextlib.suppress(DatapathError):
                self._dp.primary_fail(session.handle, reason)
        session.state, session.reason = "open", words
        session.hopeless = reason == Reason.NO_APPLICATION
        self._log.warning(
            "not_protected", f"{session.ends}: not protected: {words}", handle=session.handle
        )


def _name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"interface {ifindex}"


def _texts(event: Event) -> list[Element]:
    try:
        return [element for element in wire.decode_tlvs(event.body) if element.type == Tlv.TEXT]
    except wire.WireError:
        return []
