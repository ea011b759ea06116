"""Both ends of the link on the loopback: strangers get nowhere, hold up nobody (R27)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from prl import config
from prl.bindings.datapath import Datapath, Event
from prl.bindings.facts import EventKind
from prl.bindings.tls import Channel, key_name
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.link import handshake, link, sockets
from prl.daemon.link.link import Link
from tests.unit.test_daemon_sockets import FILE, play

OTHER_NODE, STRANGER = "127.0.0.2", "127.0.0.3"


class Node:
    """A link whose datapath only takes connections, and what it logs."""

    def __init__(self, found: Config) -> None:
        self.attached: asyncio.Queue[Channel] = asyncio.Queue()
        self.kept: list[Channel] = []
        datapath = SimpleNamespace(
            link_attach_tls=self._attach,
            link_drop=lambda _: asyncio.get_running_loop().call_soon(
                self.link.on_down, Event(kind=EventKind.LINK_DOWN, body=b"dropped")
            ),
            link_hello=lambda: None,
            send=lambda *_, **__: None,
        )
        self.log = EventLog(lambda _: None)
        nothing: dict[str, Any] = {
            name: lambda *_: None for name in ("heard", "settled", "greets", "raised", "lost")
        }
        self.link = Link(
            found, cast(Datapath, datapath), self.log, describe=lambda **_: (), **nothing
        )

    def _attach(self, channel: Channel) -> None:
        self.kept.append(channel)
        self.attached.put_nowait(channel)

    @property
    def refused(self) -> dict[str, int]:
        return {kind: n for kind, n in self.link.refusals.counts.items() if n}

    def said(self) -> list[str]:
        return [one.text for one in self.log.after(0, 100) if one.event == "link_stranger"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Config, Config]:
    """The configurations of node 0 and node 1, with a key file each that is the same."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listens = config.parse(FILE.format(port=port).replace("plain = true", ""))
    for n in (0, 1):
        (tmp_path / f"key{n}").touch(mode=0o600)
        (tmp_path / f"key{n}").write_text("ab" * 32)
    one = msgspec.structs.replace(
        listens, link=msgspec.structs.replace(listens.link, key=str(tmp_path / "key1"))
    )
    return msgspec.structs.replace(
        one,
        node="re0",
        index=0,
        link=msgspec.structs.replace(
            one.link, local=one.link.remote, remote=one.link.local, key=str(tmp_path / "key0")
        ),
    ), one


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    for node in nodes:
        node.link.listen()
    tasks = [asyncio.create_task(node.link.run()) for node in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in nodes:
            for channel in node.kept:
                channel.close()


async def call(found: Config, source: str = OTHER_NODE, ttl: int = 255) -> socket.socket:
    """A stranger's connection, from the other node's address."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    sock.setblocking(False)
    sock.bind((source, 0))
    try:
        await asyncio.get_running_loop().sock_connect(
            sock, (str(found.link.local), found.link.port)
        )
    except BaseException:
        sock.close()
        raise
    return sock


def write(found: Config, keys: str) -> None:
    Path(found.link.key).write_text(keys)


async def hung_up(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(sock, 4096):
            pass
    sock.close()


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - the loop of what is tested runs meanwhile
        await asyncio.sleep(0)


def test_two_nodes_with_the_same_key_come_together(pair: tuple[Config, Config]) -> None:
    async def story() -> None:
        zero, one = map(Node, pair)
        async with running(zero, one):
            calls, answers = await zero.attached.get(), await one.attached.get()
            assert calls.key == answers.key == key_name(b"\xab" * 32)
            assert zero.refused == one.refused == {}

    play(story)


def test_two_nodes_with_different_keys_say_so_on_both(
    pair: tuple[Config, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "BACKOFF_MIN_S", 0)
    Path(pair[0].link.key).write_text("cd" * 32)

    async def story() -> None:
        zero, one = map(Node, pair)
        async with running(zero, one):
            await until(lambda: zero.refused.get("key", 0) > 2 and one.refused.get("key", 0) > 2)
            assert not zero.kept + one.kept
            for node in (zero, one):
                assert "does not have the pair key" in node.link.why_down
                (line,) = node.said()  # … of many
                assert "make the file that link.key names the same" in line

    play(story)


def test_a_key_is_changed_node_by_node_and_the_link_is_made_at_every_step(
    pair: tuple[Config, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "BACKOFF_MIN_S", 0)
    old, new = ("ab" * 32, "cd" * 32)
    both = f"{old}\n{new}\n"
    steps = [(old, both), (both, both), (both, new), (new, new)]
    steps += [(both, old), (new, both)]

    async def story() -> None:
        for step in steps:
            for found, text in zip(pair, step, strict=True):
                write(found, text)
            zero, one = map(Node, pair)
            async with running(zero, one):
                calls, answers = await zero.attached.get(), await one.attached.get()
                assert calls.key == answers.key, step

    play(story)


HELLO = b"\x00\x00\x00\x10PRL1" * 4


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", HELLO])
def test_who_speaks_in_clear_is_refused_counted_and_logged_once(
    pair: tuple[Config, Config], said: bytes
) -> None:
    async def story() -> None:
        one = Node(pair[1])
        async with running(one):
            for _ in range(5):
                sock = await call(pair[1])
                await asyncio.get_running_loop().sock_sendall(sock, said)
                await hung_up(sock)
            assert one.refused == {"plain": 5}
            assert not one.kept
            (line,) = one.said()
            assert "does not speak TLS" in line

    play(story)


def test_those_that_say_nothing_hold_up_nobody(pair: tuple[Config, Config]) -> None:
    async def story() -> None:
        zero, one = map(Node, pair)
        async with running(one):
            silent = [await call(pair[1]) for _ in range(handshake.HANDSHAKES_MAX + 3)]
            async with running(zero):
                await one.attached.get()
            assert one.refused["crowded"] >= 3
            for sock in silent:
                await hung_up(sock)

    play(story)


def test_a_queue_of_callers_does_not_keep_the_others_from_their_turn(
    pair: tuple[Config, Config],
) -> None:
    """All that wait are taken at once, and each handshake begins, or its socket would be left."""

    async def story() -> None:
        one = Node(pair[1])
        one.link.listen()
        waiting = [await call(pair[1]) for _ in range(3 * handshake.HANDSHAKES_MAX)]
        task = asyncio.create_task(one.link.run())
        turns = 0
        while one.refused.get("crowded", 0) < 2 * handshake.HANDSHAKES_MAX:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= len(waiting)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for sock in waiting:
            await hung_up(sock)

    play(story)


def test_while_the_link_is_alive_callers_are_counted_and_no_more(
    pair: tuple[Config, Config],
) -> None:
    async def story() -> None:
        one = Node(pair[1])
        one.link.up = True
        found = SimpleNamespace(now_ns=1, last_heard_ns=1)
        one.link._dp.status = lambda: found  # type: ignore[method-assign,assignment,return-value]
        async with running(one):
            await hung_up(await call(pair[1]))
        assert one.refused == {"in_use": 1}
        assert not one.said() + one.kept

    play(story)


def test_those_that_say_nothing_are_thrown_out(
    pair: tuple[Config, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0)

    async def story() -> None:
        one = Node(pair[1])
        async with running(one):
            sock = await call(pair[1])
            await hung_up(sock)
            assert one.refused == {"silent": 1}

    play(story)


def test_another_address_is_not_even_listened_to(pair: tuple[Config, Config]) -> None:
    async def story() -> None:
        one = Node(pair[1])
        async with running(one):
            await hung_up(await call(pair[1], STRANGER))
            assert one.refused == {"stranger": 1}

    play(story)


def test_what_came_through_a_router_does_not_come_in(pair: tuple[Config, Config]) -> None:
    """RFC 5082: the kernel drops it, before TCP."""

    async def story() -> None:
        one = Node(pair[1])
        async with running(one):
            (await call(pair[1])).close()
            far = asyncio.create_task(call(pair[1], ttl=254))
            await hung_up(await call(pair[1]))
            assert not far.done()
            far.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await far

    play(story)


@pytest.mark.parametrize("of_ipv6", [False, True])
def test_a_socket_of_the_link_is_bound_to_its_interface(of_ipv6: bool) -> None:
    ends = ("::1", "::2") if of_ipv6 else ("127.0.0.1", "127.0.0.2")
    found = config.parse(
        FILE.format(port=1)
        .replace('local = "127.0.0.1"', f'local = "{ends[0]}"')
        .replace('remote = "127.0.0.2"', f'remote = "{ends[1]}"')
    ).link
    with sockets.make(found) as sock:
        name = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert name.rstrip(b"\0") == b"lo"
        level, ttl = (
            (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
            if of_ipv6
            else (socket.IPPROTO_IP, socket.IP_TTL)
        )
        assert sock.getsockopt(level, ttl) == 255
        least = sockets._IPV6_MINHOPCOUNT if of_ipv6 else sockets._IP_MINTTL
        sockets.guard(sock, found)
        assert sock.getsockopt(level, least) == 0, "plain: an earlier prld sends fewer"


def test_a_key_that_has_become_readable_stops_the_link(pair: tuple[Config, Config]) -> None:
    Path(pair[0].link.key).chmod(0o644)

    async def story() -> None:
        zero, one = map(Node, pair)
        async with running(zero, one):
            await until(lambda: "others than its owner" in zero.link.why_down)
            assert not zero.kept + one.kept

    play(story)
