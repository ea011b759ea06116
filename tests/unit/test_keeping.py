"""Whatever goes wrong with an attempt, the session is kept, or is its application's (R17, R23)."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl import config
from prl.bindings.datapath import DatapathError, Tuple
from prl.bindings.facts import Owner, Reason
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances
from prl.daemon.session.attempt import AttemptError, Attempts, Register
from prl.daemon.session.cloning import shared_address
from prl.daemon.session.protect import RENEW_TRIES, Primaries
from prl.daemon.session.sessions import Session
from prl.errors import ReplicationError
from prl.shadow import SnapshotError, fixed_of
from tests.unit.test_daemon_sockets import FILE
from tests.unit.test_retries import Clock

HANDLE = 5
CONFIG = config.parse(FILE.format(port=7077))
OLD, NEW = b"as of byte 0", b"as of byte 1000"


class Scene(Attempts):
    """A node with one session; `script` is what comes of each attempt, once it has its turn."""

    def __init__(self) -> None:
        self.script: Callable[[Session, socket.socket, Register], Awaitable[None]]
        self.done: list[tuple[str, int]] = []
        """What was asked of the datapath."""
        self.told: list[dict[str, Any]] = []
        log = EventLog(lambda _: None)
        datapath = SimpleNamespace(
            service_state=lambda _: Owner.OWNER,
            flow_socket=lambda _: nullcontext(),
            flow_of=lambda _: 0,
            primary_fail=lambda handle, _: self.done.append(("fail", handle)),
            flow_close=lambda handle: self.done.append(("close", handle)),
        )
        link = SimpleNamespace(up=True, other=None, why_down="")
        lan = SimpleNamespace(name="lo", mac=b"\x02" + bytes(5), ifindex=1)
        instances = Instances(CONFIG, cast(Any, [lan]))
        super().__init__(
            CONFIG, *cast(Any, (datapath, link, None)), log, instances, tracer=cast(Any, None)
        )
        self.primaries = Primaries(
            *(CONFIG, cast(Any, datapath), cast(Any, link), log, self, instances),
            *cast(Any, (None, None)),
            births=cast(Any, SimpleNamespace(offered=lambda _: None)),
        )
        self.client: Any = SimpleNamespace(send_event=self.told.append, name="test")
        service = shared_address("192.0.2.100")
        ends = Tuple(service, 7000, service, 1)
        self.session = Session(ends, 0, self.client, OLD, handle=HANDLE)

    async def _try(self, session: Session, sock: socket.socket, sessions: Register) -> None:
        await self.script(session, sock, sessions)

    def begin(self, *, renew: bool = False) -> None:
        """The session is this node's, and could be protected."""
        self.session.renew = renew
        self.primaries.take_over(self.session)
        self.hope()

    def hope(self) -> None:
        self.primaries.on_offer(self.session.ends.service_end)


def play(story: Callable[[Scene], Awaitable[None]]) -> Scene:
    """In a time of its own: what is slept through takes none."""

    async def whole() -> Scene:
        scene = Scene()
        await story(scene)
        if scene.session.mending is not None:
            scene.session.mending.stop()
        await asyncio.sleep(1)
        return scene

    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(whole())


async def fails(*_: object) -> None:
    raise AttemptError(Reason.TIMEOUT, "too late")


# -- renew: the application waits, and its bytes are as of now; once it is answered it goes on


def test_who_waited_behind_the_last_try_of_a_renewal_has_no_bytes_of_now() -> None:
    tried: list[tuple[bytes, bool]] = []

    async def story(scene: Scene) -> None:
        waits = False

        async def attempt(session: Session, *_: object) -> None:
            tried.append((session.application, waits))
            if len(tried) == RENEW_TRIES:
                scene.hope()  # the keeper queues
                await asyncio.sleep(1)
            await fails()

        scene.script = attempt
        scene.begin(renew=True)
        await asyncio.sleep(1)
        assert [event["event"] for event in scene.told] == ["protectable"]
        waits = True
        await scene.primaries.renew(scene.session, NEW)
        waits = False
        await asyncio.sleep(10)
        assert [event["event"] for event in scene.told] == ["protectable"] * 2

    play(story)
    assert tried == [(NEW, True)] * RENEW_TRIES


def test_an_application_whose_renewal_is_cut_short_is_asked_again() -> None:
    tried: list[bytes] = []

    async def story(scene: Scene) -> None:
        async def attempt(session: Session, *_: object) -> None:
            tried.append(session.application)
            await asyncio.sleep(3600)

        scene.script = attempt
        scene.begin(renew=True)
        await asyncio.sleep(1)
        renewal = asyncio.create_task(scene.primaries.renew(scene.session, NEW))
        await asyncio.sleep(1)
        renewal.cancel()
        await asyncio.sleep(10)
        assert [event["event"] for event in scene.told] == ["protectable"] * 2

    play(story)
    assert tried == [NEW]


# -- whatever an attempt meets, there is a next one


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError("cannot start new thread"),
        OverflowError("int too big to convert"),
    ],
)
def test_an_attempt_that_meets_what_nobody_foresaw_is_made_again(error: Exception) -> None:
    errors = [error]

    async def story(scene: Scene) -> None:
        async def attempt(session: Session, *_: object) -> None:
            if errors:
                session.state = "setup"
                raise errors.pop()
            session.mended(0)

        scene.script = attempt
        scene.begin()
        await asyncio.sleep(10)
        (failure,) = [one for one in scene._log.after(0, 10) if one.event == "not_protected"]
        assert str(error) in failure.text

    scene = play(story)
    assert scene.session.state == "active"
    assert scene.done == [("fail", HANDLE)]


def test_a_connection_that_has_gone_is_said_to_have() -> None:
    with socket.socket() as sock, pytest.raises(SnapshotError, match="the connection has gone"):
        fixed_of(sock)


# -- replicate


@pytest.fixture(name="sock")
def _sock(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    service = shared_address("192.0.2.100")
    ends = Tuple(service, 7000, service, 1)
    monkeypatch.setattr(Primaries, "_check", lambda *_: (ends, 0))
    with socket.socket() as sock:
        yield sock


async def replicate(scene: Scene, sock: socket.socket, *, again: bool = False) -> Session:
    return await scene.primaries.replicate(scene.client, sock, b"", again=again)


async def enters(session: Session, _: socket.socket, sessions: Register) -> None:
    """The datapath has it from now on."""
    session.handle = HANDLE
    sessions[HANDLE] = session


def test_whose_protection_is_called_off_is_its_application_s_alone(sock: socket.socket) -> None:
    """Prld's own descriptor would hide the socket's end from the peer."""

    async def story(scene: Scene) -> None:
        async def attempt(*what: Any) -> None:
            await enters(*what)
            await asyncio.sleep(3600)

        scene.script = attempt
        asked = asyncio.create_task(replicate(scene, sock))
        await asyncio.sleep(1)
        assert len(scene.primaries.in_hand()) == 1
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert not scene.primaries.in_hand()

    scene = play(story)
    assert scene.done == [("fail", HANDLE), ("close", HANDLE)]
    assert sock.fileno() < 0


def test_what_is_not_even_entered_as_open_is_not_kept(sock: socket.socket) -> None:
    async def story(scene: Scene) -> None:
        def enter(session: Session, _: socket.socket, sessions: Register) -> None:
            session.handle = HANDLE
            sessions[HANDLE] = session
            raise DatapathError("it has just ended", errno.ENOENT)

        scene.enter = enter  # type: ignore[method-assign]
        with pytest.raises(DatapathError):
            await replicate(scene, sock, again=True)
        assert not scene.primaries.in_hand()

    assert ("close", HANDLE) in play(story).done


def test_what_cannot_be_protected_for_a_reason_that_nobody_foresaw(sock: socket.socket) -> None:
    """Who asked is told, unless the datapath has it: then it is tried again."""

    async def story(scene: Scene) -> None:
        has_it = False

        async def attempt(session: Session, *what: Any) -> None:
            if has_it and not session.handle:
                await enters(session, *what)
                raise OSError(errno.EMFILE, "Too many open files")
            if not has_it:
                raise OSError(errno.EMFILE, "Too many open files")
            session.mended(0)

        scene.script = attempt
        with pytest.raises(ReplicationError, match="Too many open files"):
            await replicate(scene, sock)
        assert not scene.primaries.in_hand()
        has_it = True
        with socket.socket() as another:
            session = await replicate(scene, another)
        assert session.state == "open"
        scene.hope()
        await asyncio.sleep(10)
        assert session.state == "active"

    play(story)


# -- offers


def test_offers_that_come_together_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand routers that this node connects to are a thousand offers, of a session each."""
    looked = []
    sessions = Primaries.in_hand

    def in_hand(primaries: Primaries) -> list[Session]:
        looked.append(primaries)
        return sessions(primaries)

    async def story(scene: Scene) -> None:
        scene.script = fails
        scene.begin()
        await asyncio.sleep(0)
        scene.session.mend().hopeless = True
        monkeypatch.setattr(Primaries, "in_hand", in_hand)
        for number in range(1000):
            scene.primaries.on_offer(f"192.0.2.100:{number + 1}")
        scene.hope()
        await asyncio.sleep(0)
        assert not scene.session.mend().hopeless
        assert len(looked) == 1

    play(story)
