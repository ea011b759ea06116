"""Sockets that wait for their moment: whatever ends the wait, none is left and none is lost.

Checks R17.
"""

import asyncio
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, cast

import pytest

from prl.bindings.datapath import Datapath, DatapathError, Event, FlowSpec, Ready, Tuple
from prl.daemon.control.clients import Application
from prl.daemon.session.cloning import Snapshot
from prl.daemon.session.prepared import Coming, PreparedSockets
from prl.daemon.session.transfer import Setup

HANDLE, GENERATION = 7, 3
ENDS = Tuple(IPv4Address("192.0.2.100"), 80, IPv4Address("192.0.2.1"), 1025)


class FakeDatapath:
    """What the datapath knows of sockets that are ready."""

    def __init__(self) -> None:
        self.ready: set[tuple[int, int]] = set()
        self.is_full = False

    def secondary_prepare(self, spec: FlowSpec, _: Ready) -> None:
        if self.is_full:
            raise DatapathError("full", 28)
        self.ready.add((spec.handle, spec.generation))

    def secondary_unprepare(self, handle: int, generation: int) -> bool:
        was_there = (handle, generation) in self.ready
        self.ready.discard((handle, generation))
        return was_there


class Stage:
    """One socket that waits."""

    def __init__(self) -> None:
        self.datapath = FakeDatapath()
        self.dropped: list[Coming] = []
        self.sockets = PreparedSockets(cast(Datapath, self.datapath), self.dropped.append)
        self.client = cast(Application, object())
        event = Event(kind=1, handle=HANDLE, generation=GENERATION)
        members: dict[str, Any] = {"snapshot": b"", "mss": 1460, "committed": 0}
        setup = Setup(rcv_wscale=7, snd_wscale=7, timestamps=True, **members)
        self.coming = Coming(
            event, 0, setup, cast(Snapshot, None), ENDS, service=0, client=self.client, hop=None
        )
        self.sock = socket.socket()

    def enter(self) -> None:
        spec = FlowSpec(
            ENDS, self.sock.fileno(), 1460, 7, 7, True, handle=HANDLE, generation=GENERATION
        )
        self.sockets.enter(self.coming, self.sock, spec, Ready(b"", 0, 0, 0))

    @property
    def is_closed(self) -> bool:
        return self.sock.fileno() < 0


def play(scene: Callable[[Stage], None]) -> Stage:
    async def run() -> Stage:
        stage = Stage()
        try:
            scene(stage)
            return stage
        finally:
            stage.sock.close()

    return asyncio.run(run())


ENDS_OF_THE_WAIT: dict[str, Callable[[Stage], None]] = {
    "a new set-up, or time": lambda stage: stage.sockets.drop(HANDLE),
    "the primary": lambda stage: stage.sockets.drop_closed(HANDLE, GENERATION),
    "its application": lambda stage: stage.sockets.drop_of(stage.client),
    "the link": lambda stage: stage.sockets.clear(),
}


@pytest.mark.parametrize("end", ENDS_OF_THE_WAIT.values(), ids=ENDS_OF_THE_WAIT)
def test_what_is_not_needed_is_closed_and_told_once(end: Callable[[Stage], None]) -> None:
    def scene(stage: Stage) -> None:
        stage.enter()
        end(stage)
        end(stage)
        assert stage.is_closed
        assert stage.dropped == [stage.coming]
        assert not stage.datapath.ready
        assert stage.sockets.take(HANDLE, GENERATION) is None

    play(scene)


@pytest.mark.parametrize("end", ENDS_OF_THE_WAIT.values(), ids=ENDS_OF_THE_WAIT)
def test_once_the_moment_has_come_it_is_a_shadow(end: Callable[[Stage], None]) -> None:
    """The datapath has restored it; the event of that is still under way."""

    def scene(stage: Stage) -> None:
        stage.enter()
        stage.datapath.ready.clear()
        end(stage)
        assert not stage.is_closed
        assert not stage.dropped
        assert stage.sockets.take(HANDLE, GENERATION) == (stage.coming, stage.sock)
        end(stage)
        assert not stage.is_closed

    play(scene)


def test_its_application_may_go_while_the_event_is_under_way() -> None:
    def scene(stage: Stage) -> None:
        stage.enter()
        stage.datapath.ready.clear()
        stage.sockets.drop_of(stage.client)
        found = stage.sockets.take(HANDLE, GENERATION)
        assert found is not None
        assert found[0].client_gone

    play(scene)


def test_another_generation_is_another() -> None:
    def scene(stage: Stage) -> None:
        stage.enter()
        stage.sockets.drop_closed(HANDLE, GENERATION - 1)
        stage.sockets.drop(HANDLE + 1)
        assert stage.sockets.take(HANDLE, GENERATION + 1) is None
        assert not stage.is_closed
        assert stage.datapath.ready

    play(scene)


def test_there_is_a_limit() -> None:
    def scene(stage: Stage) -> None:
        stage.datapath.is_full = True
        with pytest.raises(DatapathError):
            stage.enter()
        assert not stage.is_closed  # still its maker's
        assert stage.sockets.take(HANDLE, GENERATION) is None

    play(scene)
