"""Sockets of the link and of the heartbeats that cannot be had yet, or are not wanted any more."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from prl import config
from prl.bindings.datapath import Datapath, DatapathError, Event, UdpPath
from prl.bindings.facts import EventKind, Message, Owner
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.link import hello as greeting
from prl.daemon.link import link
from prl.daemon.link.hello import ServiceState
from prl.daemon.link.link import Link
from prl.daemon.ownership import heartbeats
from prl.daemon.ownership.heartbeats import Heartbeats
from prl.errors import KernelError

FILE = """
node = "re1"
instance = "prl-re1"
index = 1
[lan]
interface = "lo"
address = "127.0.0.1"
peer_address = "127.0.0.2"
heartbeat_port = {port}
[link]
interface = "lo"
local = "127.0.0.1"
remote = "127.0.0.2"
port = {port}
plain = true
[[service]]
name = "lab"
addresses = ["192.0.2.100"]
owner = "re1"
"""
TURNS = 100


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration with a port that nobody else has, and no waiting."""
    monkeypatch.setattr(link, "LISTEN_AGAIN_S", 0)
    monkeypatch.setattr(heartbeats, "RETRY_S", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return config.parse(FILE.format(port=port))


def play(run: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(run(), 20))


def make_link(found: Config, datapath: object = None, **others: Any) -> Link:
    nothing: dict[str, Any] = {
        name: lambda *_: None for name in ("heard", "settled", "greets", "raised", "lost")
    }
    return Link(
        *(found, cast(Datapath, datapath), EventLog(lambda _: None)),
        **{"describe": lambda **_: (), **nothing, **others},
    )


def test_the_link_is_listened_for_until_its_address_is_back(
    taken: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        node = make_link(taken)
        listen, words = node.listen, "link.local 127.0.0.1: Cannot assign requested address"
        is_away = True

        def listen_now() -> None:
            if is_away:
                raise KernelError(words)
            listen()

        monkeypatch.setattr(node, "listen", listen_now)
        running = asyncio.create_task(node.run())
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert node.why_down == words
        is_away = False
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", taken.link.port)
                break
        writer.close()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    play(story)


def test_a_link_that_is_closed_during_hello_does_not_come_up(
    taken: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HELLO was read before the datapath's word that the connection is dropped."""
    monkeypatch.setattr(link, "FAREWELL_S", 0)
    states = (
        ServiceState(name="lab", addresses=["192.0.2.100"], owner="re1", state=Owner.NONE, term=0),
    )
    other = msgspec.structs.replace(taken, node="re0", index=0)
    hello = greeting.create(other, states)
    ups: list[str] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        down = Event(kind=EventKind.LINK_DOWN, body=b"dropped")
        attached: list[int] = []
        datapath = SimpleNamespace(
            link_attach=attached.append,
            link_drop=lambda _: loop.call_later(0, node.on_down, down),
            link_hello=lambda: None,
            send=lambda *_, **__: None,
            link_up=lambda *_: None,
        )
        node: Link = make_link(
            taken, datapath, describe=lambda **_: states, raised=lambda: ups.append("up")
        )
        here, there = socket.socketpair()
        life = asyncio.create_task(node._life(here, 0))
        await asyncio.sleep(0)  # it waits for HELLO now
        node.on_hello(
            Event(
                kind=EventKind.MESSAGE,
                body=greeting.encode(hello),
                version_min=hello.versions[0],
                version_max=hello.versions[1],
                node_index=0,
            )
        )
        node.close("this node fences itself")
        await life
        there.close()
        socket.close(attached.pop())

    play(story)
    assert not ups


def test_heartbeats_are_tried_for_until_the_datapath_has_the_socket(taken: Config) -> None:
    refusals = [DatapathError("the LAN heartbeats have no socket", 28)] * 2
    given: list[int] = []

    def udp(path: UdpPath, fd: int) -> None:
        assert path == UdpPath.LAN
        if refusals:
            socket.close(fd)
            raise refusals.pop()
        given.append(fd)

    log = EventLog(lambda _: None)
    timing = msgspec.structs.replace(taken.timing, probe_ms=0)
    beats = Heartbeats(msgspec.structs.replace(taken, timing=timing), log)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", taken.lan.heartbeat_port))
        assert beats.open() is None
        assert "is taken by" in beats.missing
    play(lambda: beats.run(cast(Datapath, SimpleNamespace(udp=udp))))
    assert not beats.missing
    socket.close(given.pop())
    texts = [record.text for record in log.after(0, 100)]
    assert "the LAN heartbeats have no socket" in texts[1]
    assert texts[2:] == ["LAN heartbeats are sent now"]


def test_heartbeats_do_not_wait_for_a_link_that_cannot_be_probed_yet(taken: Config) -> None:
    missing = msgspec.structs.replace(taken.link, interface="prl-none")
    beats = Heartbeats(msgspec.structs.replace(taken, link=missing), EventLog(print))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", taken.lan.heartbeat_port))
        assert beats.open() is None

    async def run() -> None:
        given = asyncio.Event()

        def udp(path: UdpPath, fd: int) -> None:
            assert path == UdpPath.LAN
            socket.close(fd)
            given.set()

        task = asyncio.ensure_future(beats.run(cast(Datapath, SimpleNamespace(udp=udp))))
        await given.wait()
        task.cancel()

    play(run)
    assert not beats.missing


def test_what_a_hello_says_is_heard_although_nothing_comes_of_it(taken: Config) -> None:
    """A service changes hands here meanwhile; over there it was agreed upon."""
    theirs = (ServiceState(name="lab", addresses=["192.0.2.100"], owner="re1", state=0, term=3),)
    other = msgspec.structs.replace(taken, node="re0", index=0)
    heard: list[object] = []
    states = iter([Owner.STANDBY, Owner.STANDBY, Owner.OWNER])

    def describe(**_: bool) -> tuple[ServiceState, ...]:
        return (msgspec.structs.replace(theirs[0], state=next(states), term=4),)

    async def story() -> None:
        datapath = SimpleNamespace(link_hello=lambda: None, send=lambda *_, **__: None)
        node = make_link(taken, datapath, describe=describe, heard=heard.append)
        sent = greeting.create(other, theirs, 5)
        node.on_hello(
            Event(
                kind=EventKind.MESSAGE,
                type=Message.HELLO,
                version_min=sent.versions[0],
                version_max=sent.versions[1],
                node_index=0,
                body=greeting.encode(sent),
            )
        )
        with pytest.raises(greeting.HelloError, match="changed hands"):
            await node._greet()
        assert not node.up

    play(story)
    assert heard == [theirs]
