"""The fronts' connection on the loopback: made, lost, made again; strangers get nowhere."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from prl.bgpfront import channel
from prl.bgpfront.channel import Channel, channel_key
from prl.bgpfront.messages import End, Message, Ready, Routes, Say, Table
from prl.bindings.tls import Refusal, TlsError
from prl.config import Link
from prl.daemon.link.handshake import proven

TIMEOUT_S = 60.0
KEY, OTHER_KEY = "ab" * 32, "cd" * 32
SOME = [Say(7, 5, b"x" * 70_000), Routes(7, Table.TOLD, b"y" * 200_000), Ready(7, "why")]


class Side:
    """One front's end."""

    def __init__(self, link: Link, index: int) -> None:
        self.heard: list[Message] = []
        self.ups = 0
        self.downs: list[str] = []
        self.rooms = 0
        self._changed = asyncio.Event()
        self.channel = Channel(
            link, index, PORT[0], heard=self._hear, up=self._up, down=self._down, room=self._room
        )

    def _hear(self, message: Message) -> None:
        self.heard.append(message)
        self._changed.set()

    def _up(self) -> None:
        self.ups += 1
        self._changed.set()

    def _down(self, why: str) -> None:
        self.downs.append(why)
        self._changed.set()

    def _room(self) -> None:
        self.rooms += 1
        self._changed.set()

    async def until(self, good: Callable[[], bool]) -> None:
        while not good():
            self._changed.clear()
            await self._changed.wait()


PORT: list[int] = []
Story = Callable[[Side, Side], Awaitable[None]]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a key file for each node; a port that nobody else has; no waiting."""
    monkeypatch.setattr(channel, "BACKOFF_S", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        PORT[:] = [free.getsockname()[1]]
    for n in (0, 1):
        (tmp_path / f"key{n}").touch(mode=0o600)
        (tmp_path / f"key{n}").write_text(KEY)
    return tmp_path


def link_of(keys: Path, index: int, *, plain: bool = False) -> Link:
    own, other = ("127.0.0.2", "127.0.0.1") if index == 0 else ("127.0.0.1", "127.0.0.2")
    return Link(
        interface="lo",
        local=ip_address(own),
        remote=ip_address(other),
        key=str(keys / f"key{index}"),
        plain=plain,
    )


@contextlib.asynccontextmanager
async def running(*sides: Side) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(side.channel.run()) for side in sides]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def play(keys: Path, story: Story, *, plain: bool = False) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            calls, answers = (Side(link_of(keys, n, plain=plain), n) for n in (0, 1))
            async with running(calls, answers):
                await story(calls, answers)

    asyncio.run(run())


@pytest.mark.parametrize("plain", [False, True])
def test_messages_go_both_ways_over_one_connection_and_the_next(keys: Path, plain: bool) -> None:
    async def story(calls: Side, answers: Side) -> None:
        for number in (1, 2):
            for one, other in ((calls, answers), (answers, calls)):
                await one.until(lambda one=one, n=number: one.ups == n and one.channel.is_up)
                other.heard.clear()
                for _ in range(20):
                    for message in SOME:
                        one.channel.send(message)
                await other.until(lambda other=other: len(other.heard) == 60)
                assert other.heard == SOME * 20
            calls.channel.give_up("once more")
            await answers.until(lambda n=number: len(answers.downs) == n)
            calls.channel.send(End(7, "which nobody hears"))

    play(keys, story, plain=plain)


def test_the_other_front_does_not_read(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "OUT_MAX_BYTES", 4 << 20)

    async def story(calls: Side, answers: Side) -> None:
        await calls.until(lambda: calls.channel.is_up)
        await answers.until(lambda: answers.channel.is_up)
        assert answers.channel._bytes is not None
        asyncio.get_running_loop().remove_reader(answers.channel._bytes.fileno())
        while calls.channel.is_up:
            calls.channel.send(SOME[1])
        assert "does not read" in calls.downs[0]

    play(keys, story)


def test_there_is_room_again_when_the_other_front_has_read(keys: Path) -> None:
    async def story(calls: Side, answers: Side) -> None:
        await calls.until(lambda: calls.channel.is_up)
        while calls.channel.has_room:
            calls.channel.send(SOME[1])
        await calls.until(lambda: calls.rooms > 0)
        assert calls.channel.has_room
        assert answers.heard

    play(keys, story)


def test_a_silent_front_is_given_up(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "ALIVE_S", 0.01)
    monkeypatch.setattr(channel, "SILENCE_MAX_S", 0.2)

    async def story(calls: Side, answers: Side) -> None:
        await calls.until(lambda: calls.channel.is_up)
        await answers.until(lambda: answers.channel.is_up)
        monkeypatch.setattr(answers.channel, "send", lambda _: None)
        await calls.until(lambda: "the other front is silent" in calls.downs)

    play(keys, story)


def test_nonsense_ends_it(keys: Path) -> None:
    async def story(calls: Side, answers: Side) -> None:
        await calls.until(lambda: calls.channel.is_up)
        await answers.until(lambda: answers.channel.is_up)
        calls.channel._out += b"\0\0\0\1\1" + bytes(8)
        calls.channel._flush()
        await answers.until(lambda: bool(answers.downs))
        assert "nonsense" in answers.downs[0]

    play(keys, story)


def test_a_front_without_the_key_is_refused(keys: Path) -> None:
    (keys / "key0").write_text(OTHER_KEY)

    async def story(calls: Side, answers: Side) -> None:
        while "key" not in calls.channel.why_down:  # noqa: ASYNC110 - it is told to nobody
            await asyncio.sleep(0.01)
        assert calls.ups == answers.ups == 0

    play(keys, story)


def test_two_keys_while_they_are_changed(keys: Path) -> None:
    (keys / "key0").write_text(f"{OTHER_KEY}\n{KEY}\n")

    async def story(calls: Side, answers: Side) -> None:
        await calls.until(lambda: calls.channel.is_up)
        await answers.until(lambda: answers.channel.is_up)

    play(keys, story)


def test_links_and_fronts_do_not_pass_for_one_another(keys: Path) -> None:
    """Who holds the pair key's own handshake with a front's port has not shown the front's key."""
    pair_key = bytes.fromhex(KEY)
    assert channel_key(pair_key) != pair_key
    assert len(channel_key(pair_key)) == len(pair_key)

    async def story(_: Side, answers: Side) -> None:
        await answers.until(lambda: answers.channel.is_up)
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        sock.bind(("127.0.0.2", 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", PORT[0]))
        with pytest.raises(TlsError) as caught:
            await proven(sock, [pair_key], server=False)
        assert caught.value.refusal is Refusal.KEY
        assert answers.channel.is_up

    play(keys, story)
