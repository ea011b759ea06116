"""Sessions on their way to the next prld, and what their application decides meanwhile (R18).

Both clients against a prld that, like the real one, counts its handles from 1.
"""

import asyncio
import errno
import gc
import json
import os
import resource
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from prl.client import Node
from prl.client.aio import AsyncNode
from prl.client.flows import REJOINS_MAX
from prl.control.messages import MESSAGE_MAX_BYTES
from prl.control.protocol import FDS_MAX
from prl.daemon.control.control import Client, ControlServer
from prl.daemon.events.log import EventLog
from prl.errors import HungDaemonError, NoDaemonError, PrlError, UsageError

TIMEOUT_S = 20.0
OFFERED = "192.0.2.100:7"
ENOUGH = 2 * REJOINS_MAX + 1
"""Sessions of which one is left when as many as are handed over at a time have come twice."""


class Prld:
    """Keeps the answers of replicate back while ``may_answer`` is not set."""

    def __init__(self, path: Path, *, refuses: str = "", takes: int = 1 << 30) -> None:
        self.heard: list[dict[str, Any]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._refuses, self._takes = refuses, takes
        self._handles = 0
        self._changed = asyncio.Condition()
        self.client: Client | None = None
        self.server = ControlServer(
            path, EventLog(str), handler=self.handle, on_gone=lambda _: None
        )
        self.server.start()

    async def handle(
        self, client: Client, request: dict[str, Any], fds: list[int]
    ) -> dict[str, Any]:
        self.client = client
        async with self._changed:
            self.heard.append(request | {"fds": len(fds)})
            self._changed.notify_all()
        if request.get("endpoint", "none") == self._refuses:
            raise UsageError("no service address")
        if request["op"] != "replicate":
            return {}
        await self.may_answer.wait()
        if self._handles == self._takes:
            raise UsageError("one too many")
        self._handles += 1
        return {"handle": self._handles, "state": "active", "reason": "", "streams": []}

    async def until(self, operation: str, count: int = 1) -> list[dict[str, Any]]:
        """Once so many of them have been heard: those."""

        def found() -> list[dict[str, Any]]:
            return [request for request in self.heard if request["op"] == operation]

        async with self._changed:
            await self._changed.wait_for(lambda: len(found()) >= count)
        return found()

    def tell(self, event: str, **members: Any) -> None:
        assert self.client is not None
        self.client.send({"event": event, **members})

    def give(self, handle: int, sock: socket.socket) -> None:
        """A shadow."""
        assert self.client is not None
        event = {"event": "shadow", "handle": handle, "generation": 7}
        self.client.send(event | {"local": "a:1", "remote": "b:2"}, sock.fileno())


class Threads:
    """prl.client; each of its calls in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def __aenter__(self) -> Self:
        self.node = await asyncio.to_thread(Node, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.node.close)

    async def call(self, method: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.to_thread(method, *args)

    async def wait(self, session: Any, state: str) -> None:
        await asyncio.to_thread(lambda: session.wait_state(state, timeout=TIMEOUT_S))


class Tasks:
    """prl.client.aio."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def __aenter__(self) -> Self:
        self.node = AsyncNode(self.path)
        await self.node.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.node.close()

    async def call(self, method: Callable[..., Any], *args: Any) -> Any:
        return await method(*args)

    async def wait(self, session: Any, state: str) -> None:
        await session.wait_state(state)


Face = type[Threads] | type[Tasks]
faces = pytest.mark.parametrize("face", [Threads, Tasks])


class Stage:
    """An application's sessions, and the prld of the time."""

    def __init__(self, path: Path, mine: Threads | Tasks, prld: Prld, stack: ExitStack) -> None:
        self.path, self.mine, self.prld = path, mine, prld
        self._stack = stack
        self.sockets: list[socket.socket] = []
        self.peers: list[socket.socket] = []
        self.sessions: list[Any] = []

    async def replicate(self, count: int) -> None:
        for _ in range(count):
            with socket.create_server(("127.0.0.1", 0)) as server:
                peer = self._stack.enter_context(socket.create_connection(server.getsockname()))
                sock = self._stack.enter_context(server.accept()[0])
            self.peers.append(peer)
            self.sockets.append(sock)
            self.sessions.append(await self.mine.call(self.mine.node.replicate, sock))

    async def lose(self) -> None:
        self.prld.server.close()
        for session in self.sessions:
            if not session.over:
                await self.mine.wait(session, "lost")

    async def begin_anew(self, under_way: int) -> None:
        """The next prld; so many sessions are being handed to it, and it has not answered yet."""
        await self.lose()
        self.prld = Prld(self.path)
        self.prld.may_answer.clear()
        await self.prld.until("offer")  # by then it is connected
        await self.prld.until("replicate", under_way)

    async def call(self, method: Callable[..., Any], *args: Any) -> Any:
        return await self.mine.call(method, *args)

    async def all_heard(self) -> list[str]:
        """The operations that the application, or its client by itself, has asked for."""
        for _ in range(2):  # what an answer that was under way has brought about is heard, too
            await self.mine.call(self.mine.node.request, {"op": "status"})
        asked = [request["op"] for request in self.prld.heard]
        return [operation for operation in asked if operation not in {"offer", "status"}]


@asynccontextmanager
async def acting(path: Path, face: Face) -> AsyncIterator[Stage]:
    with ExitStack() as stack:
        prld = Prld(path)
        stage = None
        try:
            async with face(path) as mine:
                stage = Stage(path, mine, prld, stack)
                await stage.call(mine.node.offer, OFFERED)
                yield stage
        finally:
            (stage.prld if stage else prld).server.close()


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def play(path: Path, face: Face, story: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), acting(path / "prld.sock", face) as stage:
            await story(stage)

    asyncio.run(run())


@faces
def test_sockets_that_are_closed_before_their_turn_keep_no_other_from_the_next_prld(
    tmp_path: Path, face: Face
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(ENOUGH)
        await stage.begin_anew(REJOINS_MAX)
        for sock in stage.sockets[REJOINS_MAX:-1]:
            sock.close()
        stage.prld.may_answer.set()
        await stage.prld.until("replicate", REJOINS_MAX + 1)
        await stage.mine.wait(stage.sessions[-1], "active")
        assert {s.state for s in stage.sessions[:REJOINS_MAX]} == {"active"}
        assert {s.state for s in stage.sessions[REJOINS_MAX:-1]} == {"ended"}

    play(tmp_path, face, story)


@faces
def test_a_session_that_is_closed_before_its_turn_is_not_handed_over_and_ends_no_other(
    tmp_path: Path, face: Face
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(REJOINS_MAX + 2)
        waits = stage.sessions[-2]
        await stage.begin_anew(REJOINS_MAX)
        await stage.call(waits.close)
        assert waits.state == "closed"
        stage.prld.may_answer.set()
        await stage.mine.wait(stage.sessions[-1], "active")
        assert await stage.all_heard() == ["replicate"] * (REJOINS_MAX + 1)

    play(tmp_path, face, story)


@faces
def test_a_session_that_is_closed_while_it_is_handed_over_is_closed_by_its_new_handle(
    tmp_path: Path, face: Face
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(2)
        first, second = stage.sessions
        stage.prld.tell("state", handle=1, state="ended", reason="")
        await stage.mine.wait(first, "ended")
        await stage.begin_anew(1)
        assert second.handle == 2
        await stage.call(second.close)
        assert second.state == "closed"
        stage.prld.may_answer.set()
        (closing,) = await stage.prld.until("close")
        assert closing["handle"] == 1
        await stage.begin_anew(0)
        assert await stage.all_heard() == []

    play(tmp_path, face, story)


@faces
def test_what_is_over_is_nothing_that_the_next_prld_is_told_of(tmp_path: Path, face: Face) -> None:
    """Its handle is another session's there."""

    async def story(stage: Stage) -> None:
        await stage.replicate(2)
        first, second = stage.sessions
        stage.prld.tell("state", handle=1, state="ended", reason="")
        await stage.mine.wait(first, "ended")
        await stage.begin_anew(1)
        stage.prld.may_answer.set()
        await stage.mine.wait(second, "active")
        assert second.handle == first.handle
        await stage.call(first.close)
        with pytest.raises(UsageError, match="is ended"):
            await stage.call(first.renew, b"")
        assert await stage.all_heard() == ["replicate"]

    play(tmp_path, face, story)


@pytest.mark.parametrize(
    ("operation", "args", "belated", "state"),
    [
        ("abandon", (), "abandon", "closed"),
        ("abort", ("why",), "abort", "ended"),
        ("unprotect", ("why",), "release", "lost"),
    ],
)
@pytest.mark.parametrize("is_under_way", [True, False])
def test_what_is_decided_while_no_prld_has_the_session(
    tmp_path: Path,
    operation: str,
    args: tuple[str, ...],
    belated: str,
    state: str,
    *,
    is_under_way: bool,
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(1)
        (session,), (peer,) = stage.sessions, stage.peers
        if is_under_way:
            await stage.begin_anew(1)
        else:
            await stage.lose()
        await stage.call(getattr(session, operation), *args)
        assert (session.state, session.over) == (state, True)
        if operation == "abort":
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        if not is_under_way:
            await stage.begin_anew(0)
        stage.prld.may_answer.set()
        if is_under_way:
            (request,) = await stage.prld.until(belated)
            assert request["handle"] == 1
        await stage.call(session.close)
        assert await stage.all_heard() == (["replicate", belated] if is_under_way else [])

    play(tmp_path, Threads, story)


def test_a_session_that_is_not_to_be_protected_can_be_closed_yet_and_is_not_handed_over(
    tmp_path: Path,
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(2)
        closed, kept = stage.sessions
        for session in (closed, kept):
            await stage.call(session.unprotect, "why")
        await stage.call(closed.close)
        (closing,) = await stage.prld.until("close")
        assert closing["handle"] == 1
        await stage.lose()
        assert kept.over
        await stage.begin_anew(0)
        await stage.call(kept.close)
        assert await stage.all_heard() == []

    play(tmp_path, Threads, story)


@faces
def test_a_session_that_has_ended_is_kept_by_nobody_but_its_application(
    tmp_path: Path, face: Face
) -> None:
    many = 50

    async def story(stage: Stage) -> None:
        before = descriptors()
        await stage.replicate(many)
        for handle, session in enumerate(stage.sessions, 1):
            if face is Threads:
                assert session.descriptor >= 0
            if handle % 2:
                await stage.call(session.close)
            stage.prld.tell("state", handle=handle, state="ended", reason="")
        await stage.all_heard()
        assert all(session.over for session in stage.sessions)
        for sock in (*stage.sockets, *stage.peers):
            sock.close()
        stage.sockets.clear()
        left = [weakref.ref(session) for session in stage.sessions]
        stage.sessions.clear()
        del session, sock
        gc.collect()
        assert [ref() for ref in left] == [None] * many
        assert descriptors() <= before

    play(tmp_path, face, story)


@faces
def test_a_session_that_the_next_prld_does_not_take_is_kept_by_nobody_but_its_application(
    tmp_path: Path, face: Face
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(2)
        await stage.lose()
        stage.prld = Prld(stage.path, takes=0)
        await stage.prld.until("replicate", 2)
        for session in stage.sessions:
            await stage.mine.wait(session, "ended")
        await stage.all_heard()
        left = [weakref.ref(session) for session in stage.sessions]
        stage.sessions.clear()
        del session
        gc.collect()
        assert [ref() for ref in left] == [None] * 2

    play(tmp_path, face, story)


@contextmanager
def no_descriptor_left() -> Iterator[Callable[[], None]]:
    """This process may open nothing; what it is given takes what it has closed meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]

    def take() -> None:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))

    highest = max(int(entry.name) for entry in descriptors())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
    try:
        take()
        yield take
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)


@faces
def test_a_shadow_for_which_there_is_no_descriptor_is_given_back(
    tmp_path: Path, face: Face
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(1)
        (session,), (peer,) = stage.sessions, stage.peers
        with no_descriptor_left():
            stage.prld.give(3, peer)
            (closing,) = await stage.prld.until("close")
            assert (closing["handle"], closing["generation"]) == (3, 7)
            await stage.all_heard()
        assert session.state == "active"
        stage.prld.give(4, peer)
        shadow = await stage.call(stage.mine.node.next_shadow)
        assert shadow.handle == 4
        await stage.call(shadow.close)

    play(tmp_path, face, story)


@faces
def test_the_next_prld_is_reached_although_there_was_no_descriptor_for_a_while(
    tmp_path: Path, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program takes any that becomes free, that of the lost connection, too."""

    async def story(stage: Stage) -> None:
        await stage.replicate(1)
        following = Prld(tmp_path / "next.sock")
        loop, tried, refused = asyncio.get_running_loop(), asyncio.Event(), []
        with no_descriptor_left() as take:

            class Socket(socket.socket):
                def __init__(self, *args: Any, **kwargs: Any) -> None:
                    take()
                    try:
                        super().__init__(*args, **kwargs)
                    except OSError as error:
                        refused.append(error.errno)
                        loop.call_soon_threadsafe(tried.set)
                        raise

            with monkeypatch.context() as patch:
                patch.setattr(socket, "socket", Socket)
                stage.prld.server.close()
                await tried.wait()
        assert refused[0] == errno.EMFILE
        stage.prld = following
        await asyncio.to_thread((tmp_path / "next.sock").rename, stage.path)
        await stage.prld.until("replicate")
        await stage.mine.wait(stage.sessions[0], "active")

    play(tmp_path, face, story)


def answer_once(listener: socket.socket) -> None:
    """A prld that dies with the answer to the last of those that are handed over at first."""
    conn, _ = listener.accept()
    with conn:
        handed = 0
        while handed < REJOINS_MAX:
            raw, fds, _, _ = socket.recv_fds(conn, MESSAGE_MAX_BYTES, FDS_MAX)
            handed += len(fds)
            for fd in fds:
                os.close(fd)
            if not fds:
                conn.send(json.dumps({"id": json.loads(raw)["id"], "ok": True}).encode())
        answer = {"id": json.loads(raw)["id"], "ok": True, "handle": 1, "state": "active"}
        conn.send(json.dumps(answer | {"reason": ""}).encode())


@faces
def test_a_prld_that_dies_while_it_is_handed_sessions_leaves_them_to_the_next(
    tmp_path: Path, face: Face
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(ENOUGH)
        await stage.lose()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.settimeout(TIMEOUT_S)
            listener.bind(str(stage.path))
            listener.listen()
            await asyncio.to_thread(answer_once, listener)
        stage.path.unlink()
        stage.prld = Prld(stage.path)
        await stage.prld.until("replicate", ENOUGH)
        for session in stage.sessions:
            await stage.mine.wait(session, "active")

    play(tmp_path, face, story)


@faces
def test_an_offer_that_the_next_prld_refuses_keeps_no_other_from_it(
    tmp_path: Path, face: Face
) -> None:
    async def story(stage: Stage) -> None:
        await stage.replicate(1)
        other = "192.0.2.100:9"
        await stage.call(stage.mine.node.offer, other)
        await stage.lose()
        stage.prld = Prld(stage.path, refuses=OFFERED)
        offers = await stage.prld.until("offer", 2)
        assert [offer["endpoint"] for offer in offers] == [OFFERED, other]
        await stage.mine.wait(stage.sessions[0], "active")

    play(tmp_path, face, story)


@faces
def test_a_socket_that_is_closed_is_no_prld_that_is_gone(tmp_path: Path, face: Face) -> None:
    async def story(stage: Stage) -> None:
        with socket.socket() as sock:
            pass
        with pytest.raises(UsageError, match="Bad file descriptor"):
            await stage.call(stage.mine.node.replicate, sock)
        assert await stage.all_heard() == []

    play(tmp_path, face, story)


def test_protection_that_comes_too_late_for_a_thread_is_undone(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.prld.may_answer.clear()
        node: Any = stage.mine.node

        def ask(sock: socket.socket) -> None:
            node.request({"op": "replicate"}, sock.fileno(), timeout=0)

        with socket.socket() as sock, pytest.raises(HungDaemonError):
            await asyncio.to_thread(ask, sock)
        stage.prld.may_answer.set()
        (release,) = await stage.prld.until("release")
        assert release["handle"] == 1

    play(tmp_path, Threads, story)


def test_a_host_without_threads_is_told_of_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        before = descriptors()
        monkeypatch.setattr(threading.Thread, "start", none)
        with pytest.raises(PrlError, match="new thread") as caught:
            Node(path)
        assert not isinstance(caught.value, NoDaemonError)
        assert descriptors() <= before
