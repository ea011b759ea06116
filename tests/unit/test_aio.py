"""prl.client.aio against a prld whose answers the test decides, in one event loop (R18)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from prl.client import Node
from prl.client.aio import (
    AsyncNode,
    AsyncShadow,
    NoDaemonError,
    NotProtectedError,
    PrlError,
    ShadowNotOwned,
    ShadowVoid,
    UsageError,
)
from prl.client.shadow_socket import Committed
from prl.control.messages import REQUESTS_MAX
from prl.control.protocol import Demoted
from prl.daemon.control.control import Client, ControlServer
from prl.daemon.events.log import EventLog

TIMEOUT_S = 20.0


class Prld:
    """Answers what the test says; ``hold`` keeps answers back."""

    def __init__(self, path: Path) -> None:
        self.requests: list[dict[str, Any]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.free = asyncio.Event()
        self.free.set()
        self.state = "active"
        self.heard = asyncio.Event()
        self.client: Client | None = None
        self.server = ControlServer(
            path, EventLog(str), handler=self.handle, on_gone=lambda _: None
        )
        self.server.start()

    async def handle(
        self, client: Client, request: dict[str, Any], fds: list[int]
    ) -> dict[str, Any]:
        self.client = client
        self.requests.append(request | {"fds": len(fds)})
        self.heard.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self.free.wait()
        self.under_way -= 1
        if request["op"] == "replicate":
            early = {"event": "state", "handle": 9, "state": self.state, "reason": "early"}
            client.send(early)
            return {"handle": 9, "state": self.state, "reason": "why", "streams": [1, 2]}
        if request["op"] == "renew":
            # Heard right behind the answer: this is the newer word.
            later = {"event": "state", "handle": 9, "state": "open", "reason": "link lost"}
            asyncio.get_running_loop().call_soon(client.send, later)
            return {"handle": request["handle"], "state": "active", "reason": ""}
        if request["op"] == "committed":
            return {"out_bytes": 7, "out_hash": 5}
        if request["op"] == "bad":
            raise UsageError("bad")
        return {}

    def tell(self, event: str, **members: Any) -> None:
        assert self.client is not None
        self.client.send({"event": event, **members})

    def give(self, handle: int, sock: socket.socket) -> None:
        assert self.client is not None
        event = {"event": "shadow", "handle": handle, "application": "aGk=", "unread": 0}
        event["generation"] = 7
        self.client.send(event | {"local": "a:1", "remote": "b:2"}, sock.fileno())

    def say_raw(self, raw: bytes, *fds: int) -> None:
        assert self.client is not None
        socket.send_fds(self.client._sock, [raw], fds)

    async def until(self, *operations: str) -> None:
        while [request["op"] for request in self.requests[-len(operations) :]] != [*operations]:
            self.heard.clear()
            await self.heard.wait()


Story = Callable[[AsyncNode, Prld], Awaitable[None]]


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[tuple[AsyncNode, Prld]]:
    prld = Prld(path)
    try:
        async with AsyncNode(path, reconnect=False) as node:
            await node.request({"op": "status"})
            yield node, prld
    finally:
        prld.server.close()


def play(path: Path, story: Story) -> None:
    """Run the story; no descriptor is left of it."""

    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), connected(path / "prld.sock") as (node, prld):
            await story(node, prld)
        await asyncio.sleep(0)

    before = set(Path("/proc/self/fd").iterdir())
    asyncio.run(run())
    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_the_states_of_a_session(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        with socket.socket() as sock:
            session = await node.replicate(sock, b"data")
        assert prld.requests[-1]["fds"] == 1
        waiting = asyncio.create_task(session.wait_state("open"))
        prld.tell("state", handle=9, state="open", reason="link lost")
        prld.tell("state", handle=9, state="active", reason="")
        prld.tell("demoted", handle=9)
        seen = [state async for state in session.states()]
        assert [state for state, _ in seen] == ["active", "active", "open", "active", "demoted"]
        assert seen[2][1] == "link lost"
        assert not waiting.done() or waiting.result() == "open"
        waiting.cancel()
        assert session.state == "demoted"
        await session.close()
        assert prld.requests[-1]["op"] == "replicate"  # prld has forgotten it

    play(tmp_path, story)


def test_a_session_that_is_not_protected_says_why(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        prld.state = "open"
        with socket.socket() as sock, pytest.raises(NotProtectedError, match="why") as caught:
            await node.replicate(sock)
        prld.tell("state", handle=9, state="active", reason="")
        assert await caught.value.session.wait_state("active") == "active"
        with pytest.raises(UsageError):
            await node.request({"op": "bad"})

    play(tmp_path, story)


def test_a_shadow_from_standby_to_the_end(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        ours, peer = socket.socketpair()
        with peer:
            with ours:
                prld.give(3, ours)
            shadow = await node.next_shadow()
            assert shadow.application == b"hi"
            reading = asyncio.create_task(shadow.recv(100))
            await asyncio.sleep(0)
            peer.sendall(b"hello")
            assert await reading == b"hello"
            with pytest.raises(ShadowNotOwned):
                await shadow.sendall(b"x")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await shadow.recv(1)
            prld.tell("taken_over", handle=3, becomes=4, out_bytes=5, monotonic_ns=1)
            assert (await shadow.wait_taken_over()).out_bytes == 5
            large = bytes(4 << 20)
            sending = asyncio.create_task(shadow.sendall(large))
            peer.setblocking(False)
            received = 0
            while received < len(large):
                received += len(await asyncio.get_running_loop().sock_recv(peer, 1 << 20))
            await sending
            assert [state async for state, _ in shadow.states()] == ["standby", "owned"]
            prld.tell("state", handle=4, state="active", reason="")
            prld.tell("state", handle=4, state="ended", reason="")
            states = [state async for state, _ in shadow.session.states()]
            assert states == ["open", "active", "ended"]
            await shadow.close()

    play(tmp_path, story)


def test_a_question_of_before_it_was_protected_is_none_any_more(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        prld.state = "open"
        with socket.socket() as sock, pytest.raises(NotProtectedError) as caught:
            await node.replicate(sock, renew=True)
        session = caught.value.session
        prld.tell("protectable", handle=9)
        assert await session.wait_protectable()
        prld.tell("state", handle=9, state="active", reason="")
        await session.wait_state("active")
        prld.tell("state", handle=9, state="open", reason="link lost")
        await session.wait_state("open")
        assert not session.protectable

    play(tmp_path, story)


def test_prld_asks_for_the_application_s_bytes(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        prld.state = "open"
        with socket.socket() as sock, pytest.raises(NotProtectedError) as caught:
            await node.replicate(sock, b"then", renew=True)
        session = caught.value.session
        waiting = asyncio.create_task(session.wait_protectable())
        prld.tell("protectable", handle=9)
        assert await waiting
        assert await session.renew(bytes(100_000)) == "active"
        assert (prld.requests[-1]["application_bytes"], prld.requests[-1]["fds"]) == (100_000, 1)
        assert not session.protectable
        await session.wait_state("open")
        prld.tell("demoted", handle=9)
        assert not await session.wait_protectable()

    play(tmp_path, story)


@pytest.mark.parametrize("reconnect", [False, True])
def test_prld_goes_while_it_is_given_the_bytes_and_the_next_one_asks(
    tmp_path: Path, *, reconnect: bool
) -> None:
    path = tmp_path / "prld.sock"

    async def in_tasks(prld: Prld) -> str:
        async with AsyncNode(path, reconnect=reconnect) as node:
            with socket.socket() as sock:
                session = await node.replicate(sock, renew=True)
                prld.free.clear()
                answer = asyncio.create_task(session.renew(b"state"))
                await prld.until("renew")
                prld.server.close()
                return await answer

    async def in_threads(prld: Prld) -> str:
        node = await asyncio.to_thread(lambda: Node(path, reconnect=reconnect))
        try:
            with socket.socket() as sock:
                session = await asyncio.to_thread(lambda: node.replicate(sock, renew=True))
                prld.free.clear()
                answer = asyncio.create_task(asyncio.to_thread(session.renew, b"state"))
                await prld.until("renew")
                prld.server.close()
                return await answer
        finally:
            await asyncio.to_thread(node.close)

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            for story in (in_tasks, in_threads):
                if reconnect:
                    assert await story(Prld(path)) == "lost"
                else:
                    with pytest.raises(NoDaemonError, match="ended the connection"):
                        await story(Prld(path))

    asyncio.run(bounded())


def test_sessions_and_offers_are_handed_to_the_next_prld(tmp_path: Path) -> None:
    path = tmp_path / "prld.sock"

    async def story() -> None:
        prld = Prld(path)
        async with AsyncNode(path) as node:
            await node.offer("192.0.2.100:7000")
            with socket.socket() as sock, socket.socket() as other:
                session = await node.replicate(sock, b"state", renew=True)
                closed = await node.replicate(other)
                closed.on_news(Demoted(9))
                waiting = asyncio.create_task(node.next_shadow())
                states = session.states()
                assert (await anext(states))[0] == "active"
                assert (await anext(states))[0] == "active"  # the early word
                prld.server.close()
                assert (await anext(states))[0] == "lost"
                with pytest.raises(NoDaemonError):
                    await node.request({"op": "status"})
                prld = Prld(path)
                prld.state = "open"
                assert (await anext(states))[0] == "open"
                assert not waiting.done()
                waiting.cancel()
            kinds = [request["op"] for request in prld.requests]
            assert kinds == ["offer", "replicate"]
            assert prld.requests[-1]["again"]
            assert prld.requests[-1]["renew"]
            assert prld.requests[-1]["streams"] == [1, 2]
        prld.server.close()

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await story()

    asyncio.run(bounded())


def test_how_far_the_owner_is(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            prld.give(3, ours)
            shadow = await node.next_shadow()
            assert await shadow.committed() == Committed(7, 5)
            asked = prld.requests[-1]
            assert (asked["handle"], asked["generation"]) == (3, 7)  # not a later one's
            await shadow.close()
            with pytest.raises(UsageError):
                await shadow.committed()
            assert prld.requests[-1]["op"] == "close"

    play(tmp_path, story)


def test_a_void_shadow_ends_every_wait(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        ours, peer = socket.socketpair()
        with peer, ours:
            prld.give(3, ours)
            shadow = await node.next_shadow()
            reading = asyncio.create_task(shadow.recv(1))
            waiting = asyncio.create_task(shadow.wait_taken_over())
            await asyncio.sleep(0)
            prld.tell("void", handle=3, reason="the link was lost")
            with pytest.raises(ShadowVoid, match="the link was lost"):
                await waiting
            await shadow.close()
            with pytest.raises(ShadowVoid):
                await reading

    play(tmp_path, story)


def test_shadows_that_nobody_took_are_closed(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        ours, peer = socket.socketpair()
        with peer, ours:
            taking = asyncio.create_task(anext(node.shadows()))
            await asyncio.sleep(0)
            taking.cancel()
            prld.give(3, ours)
            prld.give(4, ours)
            shadow: AsyncShadow = await node.next_shadow()
            assert shadow.handle == 3
            shadow.discard("enough")
            await node.request({"op": "status"})

    play(tmp_path, story)


def test_a_cancelled_replicate_is_undone(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        prld.free.clear()
        with socket.socket() as sock:
            protecting = asyncio.create_task(node.replicate(sock))
            await prld.until("replicate")
            protecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await protecting
        prld.free.set()
        await prld.until("replicate", "release")
        assert prld.requests[-1]["handle"] == 9
        await node.request({"op": "status"})  # the connection is as good as before

    play(tmp_path, story)


def test_never_more_under_way_than_prld_allows_even_if_nobody_waits(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        prld.free.clear()
        first = [asyncio.create_task(node.request({"op": "x"})) for _ in range(REQUESTS_MAX + 9)]
        await prld.until(*["x"] * REQUESTS_MAX)
        for task in first:
            task.cancel()
        second = [asyncio.create_task(node.request({"op": "y"})) for _ in range(100)]
        await asyncio.sleep(0)
        prld.free.set()
        await asyncio.gather(*second)
        assert prld.most_under_way == REQUESTS_MAX

    play(tmp_path, story)


@pytest.mark.parametrize(
    "raw",
    [
        b"\0",
        b"[]",
        b"{}",
        b'{"id":null,"ok":false,"error":"no"}',
        b'{"event":"state","handle":"9","state":"x"}',
        b'{"event":"shadow","handle":3,"local":"a","remote":"b"}',
        b'{"event":"taken_over","handle":9}',
    ],
)
def test_nonsense_ends_the_connection_with_a_clear_word(tmp_path: Path, raw: bytes) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        with socket.socket() as sock:
            session = await node.replicate(sock)
        waiting = asyncio.create_task(node.next_shadow())
        await asyncio.sleep(0)
        prld.say_raw(raw, 0, 0)
        with pytest.raises(PrlError, match=r"nonsense|too many"):
            await waiting
        assert await session.wait_state("lost") == "lost"
        with pytest.raises(PrlError):
            await node.request({"op": "status"})

    play(tmp_path, story)


def test_unknown_events_are_of_a_later_version(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        prld.say_raw(b'{"event":"news","handle":"?"}', 0)
        await node.request({"op": "status"})

    play(tmp_path, story)


def test_the_end_of_prld_ends_every_wait(tmp_path: Path) -> None:
    async def story(node: AsyncNode, prld: Prld) -> None:
        prld.free.clear()
        asking = asyncio.create_task(node.request({"op": "x"}))
        waiting = asyncio.create_task(node.next_shadow())
        await prld.until("x")
        prld.server.close()
        for task in (asking, waiting):
            with pytest.raises(NoDaemonError, match="ended the connection"):
                await task

    play(tmp_path, story)


def test_without_prld_there_is_one_clear_line(tmp_path: Path) -> None:
    async def connect() -> None:
        async with AsyncNode(tmp_path / "nothing"):
            pass

    with pytest.raises(NoDaemonError, match="no prld answers on"):
        asyncio.run(connect())
