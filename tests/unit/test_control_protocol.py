"""The control socket as hostile and as good clients see it (R18, R23, R28)."""

import asyncio
import contextlib
import grp
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl.client import Node, NotProtectedError, ShadowNotOwned, ShadowVoid
from prl.client.shadow_socket import Committed
from prl.control import application
from prl.control.messages import MESSAGE_MAX_BYTES, REQUESTS_MAX
from prl.daemon import requests
from prl.daemon.control import control, rights
from prl.daemon.control.control import (
    Client,
    ControlServer,
    _refuse,
    flag_of,
    number_of,
    text_of,
)
from prl.daemon.control.rights import RIGHTS, Right
from prl.daemon.events.log import EventLog
from prl.daemon.requests import Requests
from prl.daemon.session.streams import Streams
from prl.daemon.session.transfer import (
    STALE_NS,
    Collector,
    Setup,
    TransferError,
    decode,
    encode,
    pieces,
)
from prl.endpoint import parse_endpoint, show_endpoint
from prl.errors import ConfigError, KernelError, NoDaemonError, PrlError, UsageError
from prl.kernel.descriptors import uids_of

TIMEOUT_S = 20.0
NOBODY = 65534


class Daemon:
    """A control server in a thread, with a handler that tells what it got."""

    def __init__(self, path: Path, group: str | None = None) -> None:
        self.path, self.group = path, group
        self.log: list[str] = []
        self.gone = threading.Event()
        self.clients: list[Client] = []
        self.given: list[tuple[dict[str, Any], bytes]] = []
        self.loses_link = False
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._started.wait(TIMEOUT_S)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        server = ControlServer(
            self.path,
            EventLog(self.log.append),
            handler=self.handle,
            on_gone=lambda _: self.gone.set(),
            group=self.group,
        )
        server.start()
        self._started.set()
        await self._end.wait()
        server.close()

    async def handle(
        self, client: Client, request: dict[str, Any], fds: list[int]
    ) -> dict[str, Any]:
        self.clients.append(client)
        match request.get("op"):
            case "status":
                return {"node": "fake", "fds": len(fds)}
            case "replicate":
                self.given.append((request, application.unpack(request, fds)))
                if flag_of(request, "again"):
                    client.send({"event": "protectable", "handle": 11})
                    return {"handle": 11, "state": "open", "reason": "new", "streams": [1, 2]}
                state = "active" if self.given[-1][1] else "open"
                client.send({"event": "state", "handle": 9, "state": "setup", "reason": "early"})
                reason = "" if state == "active" else "why"
                return {"handle": 9, "state": state, "reason": reason, "streams": [1, -2]}
            case "renew":
                self.given.append((request, application.unpack(request, fds)))
                if self.loses_link:  # right behind the answer: this is the newer word
                    later = {"handle": request["handle"], "state": "open", "reason": "link lost"}
                    self.loop.call_soon(client.send, {"event": "state"} | later)
                return {"handle": request["handle"], "state": "active", "reason": ""}
            case "offer":
                self.given.append((request, b""))
                return {}
            case "close" | "reject" | "committed":
                self.given.append((request, b""))
                return {"out_bytes": 7, "out_hash": 5}
            case "crash":
                raise ZeroDivisionError
            case _:
                raise UsageError("no such\noperation")

    def event(self, event: dict[str, Any], *fds: int) -> None:
        self.call(lambda: self.clients[-1].send_event(event, *fds))

    def call(self, what: Callable[[], None]) -> None:
        done = threading.Event()

        def do() -> None:
            what()
            done.set()

        self.loop.call_soon_threadsafe(do)
        assert done.wait(TIMEOUT_S)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._end.set)
            self._thread.join(TIMEOUT_S)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path / "prld.sock")
    yield found
    found.stop()


def raw_client(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(TIMEOUT_S)
    sock.connect(str(daemon.path))
    return sock


def ask(sock: socket.socket, raw: bytes) -> dict[str, Any]:
    sock.send(raw)
    found: dict[str, Any] = json.loads(sock.recv(MESSAGE_MAX_BYTES))
    return found


def test_an_answer_has_the_request_s_id(daemon: Daemon) -> None:
    with raw_client(daemon) as sock:
        assert ask(sock, b'{"op":"status","id":7}') == {
            "id": 7,
            "ok": True,
            "node": "fake",
            "fds": 0,
        }
        assert ask(sock, b'{"op":"status","id":"a"}')["id"] == "a"


@pytest.mark.parametrize(
    "raw",
    [
        b"\0",
        b"not json",
        b"[]",
        b"7",
        b'{"id":1}',
        b'{"op":[],"id":1}',
        b'{"op":"status","id":{}}x',
        b"[" * 60_000,
        b'{"op":"\xff"}',
        b"x" * (MESSAGE_MAX_BYTES + 10),
        b'{"op":"crash","id":1}',
        b'{"op":"bad","id":1}',
    ],
)
def test_hostile_input_gets_an_error_and_the_connection_goes_on(daemon: Daemon, raw: bytes) -> None:
    with raw_client(daemon) as sock:
        answer = ask(sock, raw)

        assert answer["ok"] is False
        assert "\n" not in answer["error"]
        assert answer["code"] in {1, 2}
        assert ask(sock, b'{"op":"status","id":8}')["id"] == 8


def test_descriptors_that_nobody_wants_are_closed(daemon: Daemon) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with raw_client(daemon) as sock:
        for _ in range(20):
            socket.send_fds(sock, [b'{"op":"status","id":1}'], [0, 0])
            assert json.loads(sock.recv(MESSAGE_MAX_BYTES))["fds"] == 2
        socket.send_fds(sock, [b'{"op":"status","id":1}'], [0] * 50)
        assert json.loads(sock.recv(MESSAGE_MAX_BYTES))["ok"] is False
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before + 3


def test_a_client_that_does_not_read_is_disconnected(daemon: Daemon) -> None:
    with raw_client(daemon) as sock:
        ask(sock, b'{"op":"status","id":1}')
        for _ in range(4000):
            daemon.event({"event": "state", "text": "x" * 4000})
            if daemon.gone.is_set():
                break
        assert daemon.gone.wait(TIMEOUT_S)
    with raw_client(daemon) as sock:
        assert ask(sock, b'{"op":"status","id":1}')["ok"]


CONNECT = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
if sys.argv[2] == "gone" and os.fork():
    os._exit(0)
sock.send(b'{"op":"status","id":1}')
sock.recv(65536)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("is_gone", [False, True])
def test_whoever_has_the_number_of_a_client_that_is_gone_is_not_stopped(
    daemon: Daemon, is_gone: bool
) -> None:
    """It could be anybody's program, stopped for whoever may protect."""
    argv = [sys.executable, "-c", CONNECT, str(daemon.path), "gone" if is_gone else "lives"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, **pipes) as program:
        if is_gone:
            program.wait(TIMEOUT_S)
        assert program.stdout is not None
        program.stdout.readline()
        (client,) = daemon.clients
        assert client.name == f"pid {program.pid}"
        assert list(client.freezer._pids()) == ([] if is_gone else [program.pid])
        assert program.stdin is not None
        program.stdin.close()


def test_descriptors_that_are_not_taken_do_not_use_up_prld_s(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has most of them waiting goes, and nobody else."""
    most = 40
    monkeypatch.setattr(control, "UNSENT_FDS_MAX", most)
    with raw_client(daemon) as slow, raw_client(daemon) as hoarder, open(os.devnull) as null:  # noqa: PTH123
        for sock in (slow, hoarder):
            ask(sock, b'{"op":"status","id":1}')
        shadow = {"event": "shadow", "text": "x" * 30_000}
        modest, worst = daemon.clients
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

        def send(client: Client, until: int) -> None:
            while client.unsent_fds < until and not client.closed:
                client.send_event(shadow, null.fileno())

        daemon.call(lambda: send(modest, 3))
        assert modest.unsent_fds == 3
        daemon.call(lambda: send(worst, most))
        assert (modest.closed, worst.closed, worst.unsent_fds) == (False, True, 0)
        assert len(os.listdir("/proc/self/fd")) == before + 3 - 2  # noqa: PTH208 - its own two, too
        assert any("client_dropped" in line or "descriptors" in line for line in daemon.log)
        slow.recv(MESSAGE_MAX_BYTES)
        assert ask(slow, b'{"op":"status","id":2}')


def test_the_socket_is_private_and_taken_once(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.path.stat().st_mode & 0o777 == 0o600

    async def second(path: Path) -> None:
        async def nothing(*_: object) -> dict[str, Any]:
            return {}

        server = ControlServer(path, EventLog(str), handler=nothing, on_gone=lambda _: None)
        server.start()
        server.close()

    with pytest.raises(KernelError, match="another prld"):
        asyncio.run(second(daemon.path))
    (tmp_path / "file").touch()
    with pytest.raises(KernelError, match="something else"):
        asyncio.run(second(tmp_path / "file"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / "dead"))
    asyncio.run(second(tmp_path / "dead"))


def test_who_is_refused_hears_why_also_with_a_request_under_way() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        for _ in range(3):
            theirs.send(b'{"op":"status","id":1}')
        _refuse(ours, "only root may use prld", 1)
        assert b"only root" in theirs.recv(65536)
        assert theirs.recv(65536) == b""


STATUS_OF_A_SOCKET = """
import contextlib, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.connect(sys.argv[1])
    with contextlib.suppress(BrokenPipeError):  # refused already
        sock.send(b'{"op":"status","id":1}')
    print(sock.recv(65536).decode())
"""


def a_group() -> grp.struct_group:
    """One that neither root nor nobody is in by being who they are."""
    return next(group for group in grp.getgrall() if group.gr_gid not in {0, NOBODY})


def status_as_nobody(path: Path, *groups: int) -> str:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", STATUS_OF_A_SOCKET, str(path)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=groups,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.needs("root")
def test_the_socket_s_group_may_connect_and_nobody_else() -> None:
    group = a_group()
    path = Path("/run") / f"prl-test-{os.getpid()}" / "deep" / "prld.sock"
    daemon = Daemon(path, group.gr_name)

    try:
        assert path.stat().st_mode & 0o777 == 0o660
        assert [folder.stat().st_mode & 0o777 for folder in path.parents[:2]] == [0o755] * 2
        assert '"node":"fake"' in status_as_nobody(path, group.gr_gid)
        assert daemon.clients[-1].is_guest
        assert "PermissionError" in status_as_nobody(path)
        path.chmod(0o666)  # the credentials are looked at, too
        assert "only root and group" in status_as_nobody(path)
        with Node(path) as root:
            root.request({"op": "status"})
        assert not daemon.clients[-1].is_guest
    finally:
        daemon.stop()
        shutil.rmtree(path.parents[1])


@pytest.mark.parametrize("right", Right)
def test_a_guest_may_do_what_the_configuration_says(
    right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: Any = None
    served = Requests(*[nothing] * 8, followers=nothing, guests_may=right)
    assert served._operations.keys() == RIGHTS.keys()
    done: list[str] = []

    async def do(_: object, request: dict[str, Any], __: object) -> dict[str, Any]:
        done.append(request["op"])
        return {}

    monkeypatch.setattr(served, "_operations", dict.fromkeys(RIGHTS, do))
    guest: Any = SimpleNamespace(is_guest=True)
    for op, takes in RIGHTS.items():
        refused = pytest.raises(PrlError, match="only root may")
        with contextlib.nullcontext() if takes <= right else refused:
            asyncio.run(served.handle(guest, {"op": op}, []))
    assert done == [op for op, takes in RIGHTS.items() if takes <= right]


class Takers:
    """In place of all shadows: who takes those of which endpoint."""

    def __init__(self) -> None:
        self.offers: list[tuple[str, Any]] = []

    def offer(self, client: Any, where: str) -> None:
        self.offers.append((where, client))

    def offering(self, where: str) -> list[Any]:
        return [client for offered, client in self.offers if offered == where]

    def offers_of(self, client: Any) -> int:
        return sum(owner is client for _, owner in self.offers)

    def withdraw(self, client: Any, where: str) -> None:
        self.offers.remove((where, client))


def a_client(uid: int) -> Any:
    client = object.__new__(Client)
    client.uid, client.is_guest = uid, uid != 0
    return client


def test_a_guest_takes_no_endpoint_that_is_another_s() -> None:
    nothing: Any = None
    address = ip_address("192.0.2.100")
    service = SimpleNamespace(addresses=[address], instance="")
    view: Any = SimpleNamespace(
        addresses=[address], config=SimpleNamespace(service=[service], node="re0")
    )
    takers: Any = Takers()
    served = Requests(
        *(view, nothing, nothing, nothing, takers, nothing, nothing, nothing),
        followers=nothing,
        guests_may=Right.PROTECT,
    )
    root, user, neighbour = map(a_client, (0, 1001, 1002))

    def offer(client: Any, port: int, end: str = "192.0.2.100:{}") -> None:
        request = {"op": "offer", "endpoint": end.format(port)}
        asyncio.run(served.handle(client, request, []))

    offer(root, 179)
    with pytest.raises(PrlError, match="only root may offer ports below 1024"):
        offer(user, 179)  # BGP: what it could not bind
    offer(root, 7000)
    for other in (user, neighbour):
        with pytest.raises(UsageError, match="another user offers"):
            offer(other, 7000)
    offer(user, 7001)
    with pytest.raises(UsageError, match="another user offers"):
        offer(neighbour, 7001)
    offer(root, 7001)  # whoever was there first: root's program gets its sessions
    assert takers.offering("192.0.2.100:7001") == [root]
    for port in range(8000, 8000 + rights.OFFERS_MAX):
        offer(user, port)
    with pytest.raises(PrlError, match=f"may offer {rights.OFFERS_MAX} endpoints"):
        offer(user, 7999)
    opened = "192.0.2.100>198.51.100.1:{}"
    with pytest.raises(PrlError, match="only root may offer itself for whatever local port"):
        offer(user, 179, opened)
    offer(root, 179, opened)
    assert takers.offering(opened.format(179)) == [root]
    for wrong, words in (
        ("192.0.2.1>198.51.100.1:{}", "no service address"),
        ("192.0.2.100>2001:db8::1:{}", "bad endpoint"),
        ("192.0.2.100>[2001:db8::1]:{}", "different IP versions"),
        ("192.0.2.100:7>198.51.100.1:{}", "bad address '192.0.2.100:7'"),
        ("192.0.2.100>198.51.100.1>198.51.100.1:{}", "bad endpoint"),
    ):
        with pytest.raises(UsageError, match=words):
            offer(root, 179, wrong)


def test_what_prld_keeps_for_a_guest_is_bounded() -> None:
    root, user = a_client(0), a_client(1001)
    kept = [SimpleNamespace(application=b"x" * (1 << 20))] * 4
    rights.require_room(root, kept, b"more")
    rights.require_room(user, kept[:3], b"more")
    with pytest.raises(PrlError, match="application bytes"):
        rights.require_room(user, kept, b"more")
    none = [SimpleNamespace(application=b"")]
    rights.require_room(user, none * (rights.SESSIONS_MAX - 1), b"")
    with pytest.raises(PrlError, match="sessions at most"):
        rights.require_room(user, none * rights.SESSIONS_MAX, b"")


@pytest.mark.needs("root")
def test_a_guest_has_no_program_replicated_that_could_be_another_s() -> None:
    """A set-user-id program is its user's by its real user alone."""
    change = "import os, sys; os.setresuid(*map(int, sys.argv[1:])); print(flush=True); input()"
    for uids, is_own in (
        ((1001, 1001, 1001), True),
        ((1001, 0, 0), False),
        ((1001, 1001, 0), False),
    ):
        argv = [sys.executable, "-c", change, *map(str, uids)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            program.stdout.readline()
            found = uids_of(program.pid)
            program.communicate(b"\n")
        rights.require_own(a_client(0), found, "it")
        if is_own:
            rights.require_own(a_client(1001), found, "it")
        else:
            with pytest.raises(UsageError, match="another user's"):
                rights.require_own(a_client(1001), found, "it")


CLIENTS_OF_A_USER = """
import contextlib, socket, sys
kept = []
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(sys.argv[1])
    with contextlib.suppress(BrokenPipeError):
        sock.send(b'{"op":"status","id":1}')
    kept.append((sock, b'"ok":true' in sock.recv(65536)))
print(sum(good for _, good in kept))
input()
"""


@pytest.mark.needs("root")
def test_one_user_of_the_group_does_not_keep_another_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "GUESTS_PER_USER_MAX", 3)
    monkeypatch.setattr(control, "GUESTS_MAX", 5)
    group = a_group()
    path = Path("/run") / f"prl-test-{os.getpid()}.sock"
    daemon = Daemon(path, group.gr_name)
    argv = ["/usr/bin/python3", "-c", CLIENTS_OF_A_USER, str(path), "9"]
    who: dict[str, Any] = {"group": NOBODY, "extra_groups": [group.gr_gid]}
    who |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    try:
        admitted = []
        with contextlib.ExitStack() as running:
            for uid in (NOBODY, NOBODY - 1, NOBODY - 2):
                program = running.enter_context(subprocess.Popen(argv, user=uid, **who))
                assert program.stdout is not None
                admitted.append(int(program.stdout.readline()))
                running.callback(program.communicate, "\n")
            assert admitted == [3, 2, 0]
            assert len(status_of(path)) > 0  # root is not kept out
    finally:
        daemon.stop()


def status_of(path: Path) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(path))
        return ask(sock, b'{"op":"status","id":1}')


def test_what_a_client_asked_for_that_is_gone_is_not_done() -> None:
    """Nothing would take its offer away again: its end was told before."""

    async def live() -> None:
        asked: list[str] = []

        async def handle(*_: object) -> dict[str, Any]:
            asked.append("offer")
            return {}

        server = ControlServer(
            Path("s"), EventLog(str), handler=handle, on_gone=lambda _: asked.append("gone")
        )
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            client = Client(server, ours, os.getpid())
            with theirs:
                theirs.send(b'{"op":"offer","id":1}')
            client.on_readable()
            await asyncio.sleep(0)
            assert asked == ["gone"]

    asyncio.run(asyncio.wait_for(live(), TIMEOUT_S))


@pytest.mark.parametrize("streams", [[0], [0, 1.5], [2**62 + 1, 0], [0, -(2**70)], "0"])
def test_positions_that_prld_never_gave_are_refused(streams: object) -> None:
    with pytest.raises(UsageError, match="'streams' must be as prld gave it"):
        requests._streams({"streams": streams})
    assert requests._streams({"streams": [-(2**62), 5]}) == Streams(-(2**62), 5)


@pytest.mark.parametrize(("is_guest", "most"), [(True, 1), (False, REQUESTS_MAX)])
def test_a_guest_has_one_request_under_way(is_guest: bool, most: int) -> None:
    async def live() -> None:
        under_way: list[int] = []
        go_on, all_begun = asyncio.Event(), asyncio.Event()

        async def handle(*_: object) -> dict[str, Any]:
            under_way.append(1)
            if len(under_way) > REQUESTS_MAX:
                all_begun.set()
            await go_on.wait()
            return {}

        nothing: Any = None
        server = ControlServer(Path("s"), EventLog(str), handler=handle, on_gone=nothing)
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ours:
            ours.setblocking(False)
            client = Client(server, ours, os.getpid())
            client.is_guest = is_guest
            for number in range(REQUESTS_MAX + 1):
                theirs.send(b'{"op":"status","id":%d}' % number)
            for _ in range(REQUESTS_MAX):
                client.on_readable()
            await asyncio.sleep(0)
            assert len(under_way) == most
            go_on.set()  # each answer makes room for the next
            await all_begun.wait()
            asyncio.get_running_loop().remove_reader(ours)

    asyncio.run(asyncio.wait_for(live(), TIMEOUT_S))


def test_a_group_that_prld_is_no_member_of_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chown(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    group = a_group().gr_name

    async def start() -> None:
        nothing: Any = None
        path = tmp_path / "s"
        ControlServer(path, EventLog(str), handler=nothing, on_gone=nothing, group=group).start()

    with pytest.raises(ConfigError, match=f"no member of it; .*SupplementaryGroups={group}"):
        asyncio.run(start())
    assert list(tmp_path.iterdir()) == []


def test_flows_come_in_pages_in_the_order_of_their_handles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing: Any = None
    wanted = list(range(1, 2 * requests.FLOWS_PER_ANSWER + 6))
    monkeypatch.setattr(
        requests.facts, "handles", lambda _, after, count: [h for h in wanted if h > after][:count]
    )
    monkeypatch.setattr(requests.facts, "flow", lambda _, handle: handle)
    served = Requests(*[nothing] * 8, followers=nothing)
    found, after = list[int](), 0
    pages = 0
    while after is not None:
        request = {"op": "flow_list", "after": after}
        answer = asyncio.run(served.handle(SimpleNamespace(is_guest=True), request, []))  # type: ignore[arg-type]
        found, after, pages = found + answer["flows"], answer["next"], pages + 1
    assert (found, pages) == (wanted, 3)


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def start() -> None:
        nothing: Any = None
        ControlServer(
            tmp_path / "s", EventLog(str), handler=nothing, on_gone=nothing, group="no-such"
        ).start()

    with pytest.raises(ConfigError, match="groupadd --system no-such"):
        asyncio.run(start())


def test_arguments_are_checked() -> None:
    request = {"op": "x", "s": "a", "n": 3, "b": True, "big": 2**32, "minus": -1}
    assert text_of(request, "s") == "a"
    assert number_of(request, "n") == 3
    assert flag_of(request, "b")
    assert not flag_of(request, "absent")
    for name in ("s", "b", "big", "minus", "absent"):
        with pytest.raises(UsageError, match=name):
            number_of(request, name)
    with pytest.raises(UsageError, match="'n' must be a string"):
        text_of(request, "n")


def test_a_session_is_told_of_its_states(daemon: Daemon) -> None:
    with Node(daemon.path) as node, socket.socket() as sock:
        session = node.replicate(sock, b"data")
        daemon.event({"event": "state", "handle": 9, "state": "open", "reason": "link lost"})
        assert session.wait_state("open", timeout=TIMEOUT_S) == "open"
        assert session.reason == "link lost"
        daemon.event({"event": "demoted", "handle": 9})
        assert session.wait_state("demoted", timeout=TIMEOUT_S) == "demoted"
        with pytest.raises(TimeoutError):
            session.wait_state("active", timeout=0.01)


def test_a_session_that_is_not_protected_says_why(daemon: Daemon) -> None:
    with Node(daemon.path) as node, socket.socket() as sock:
        with pytest.raises(NotProtectedError, match="not protected: why") as caught:
            node.replicate(sock)
        assert caught.value.session is not None
        daemon.event({"event": "state", "handle": 9, "state": "active", "reason": ""})
        assert caught.value.session.wait_state("active", timeout=TIMEOUT_S) == "active"


def test_a_shadow_can_only_be_read_until_it_is_owned(daemon: Daemon) -> None:
    ours, peer = socket.socketpair()
    with Node(daemon.path) as node, ours, peer:
        node.request({"op": "status"})
        introduction = {"event": "shadow", "handle": 3, "application": "aGk=", "unread": 0}
        daemon.event(introduction | {"local": "a:1", "remote": "b:2"}, ours.fileno())
        shadow = node.next_shadow(TIMEOUT_S)
        peer.sendall(b"hello")

        assert shadow.application == b"hi"
        assert shadow.recv(100) == b"hello"
        for attempt in (lambda: shadow.sock.sendall(b"x"), lambda: shadow.sock.shutdown(1)):
            with pytest.raises(ShadowNotOwned):
                attempt()
        with pytest.raises(TimeoutError):
            shadow.wait_taken_over(0.01)
        daemon.event(
            {"event": "taken_over", "handle": 3, "becomes": 4, "out_bytes": 5, "monotonic_ns": 1}
        )
        assert shadow.wait_taken_over(TIMEOUT_S).out_bytes == 5
        assert shadow.owned
        shadow.sock.sendall(b"answer")
        assert peer.recv(100) == b"answer"
        shadow.close()


def test_what_is_said_of_a_shadow_names_it_and_not_a_later_one_of_its_session(
    daemon: Daemon,
) -> None:
    with Node(daemon.path) as node:
        node.request({"op": "status"})
        introduction = {"event": "shadow", "handle": 3, "local": "a:1", "remote": "b:2"}
        for generation in (7, None):  # None: a prld of before
            ours, peer = socket.socketpair()
            with ours, peer:
                named = {"handle": 3} if generation is None else {"handle": 3, "generation": 7}
                daemon.event(introduction | {"application": ""} | named, ours.fileno())
                shadow = node.next_shadow(TIMEOUT_S)
                assert shadow.committed() == Committed(7, 5)
                shadow.reject("mid_stream", "why")
                shadow.close()
            for request, _ in daemon.given[-3:]:
                assert {name: request.get(name) for name in ("handle", "generation")} == {
                    "handle": 3,
                    "generation": generation,
                }


def test_a_close_that_crosses_the_end_of_its_shadow_does_not_end_the_next() -> None:
    client: Any = object()
    nothing: Any = None
    closed: list[int] = []
    shadow = SimpleNamespace(handle=3, generation=8, client=client)
    shadows = SimpleNamespace(
        find=lambda _: shadow, close=lambda one: closed.append(one.generation)
    )
    primaries = SimpleNamespace(find=lambda _: None)
    served = Requests(*[nothing] * 8, followers=nothing)
    served._primaries = primaries  # type: ignore[assignment]
    served._shadows = shadows  # type: ignore[assignment]

    def close(**named: int) -> None:
        asyncio.run(served._close(client, {"op": "close", "handle": 3} | named, []))

    with pytest.raises(UsageError):
        close(generation=7)
    assert closed == []
    close(generation=8)
    close()
    assert closed == [8, 8]


def test_a_void_shadow_says_why(daemon: Daemon) -> None:
    ours, peer = socket.socketpair()
    with Node(daemon.path) as node, ours, peer:
        node.request({"op": "status"})
        introduction = {"event": "shadow", "handle": 3, "application": "", "unread": 0}
        daemon.event(introduction | {"local": "a:1", "remote": "b:2"}, ours.fileno())
        shadow = node.next_shadow(TIMEOUT_S)
        daemon.event({"event": "void", "handle": 3, "reason": "the link was lost"})
        with pytest.raises(ShadowVoid, match="the link was lost"):
            shadow.wait_taken_over(TIMEOUT_S)
        shadow.close()


def test_the_end_of_prld_ends_all_waiting(daemon: Daemon) -> None:
    with Node(daemon.path, reconnect=False) as node, socket.socket() as sock:
        session = node.replicate(sock, b"x")
        daemon.stop()
        assert session.wait_state("lost", timeout=TIMEOUT_S) == "lost"
        with pytest.raises(NoDaemonError):
            node.next_shadow(TIMEOUT_S)
        with pytest.raises(NoDaemonError):
            node.request({"op": "status"})


@pytest.mark.parametrize("remote", ["*", "127.0.0.1:9"])
def test_the_end_of_prld_wakes_who_reads_datagrams(daemon: Daemon, remote: str) -> None:
    """Of TCP the kernel ends shadows; of UDP nobody else would."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours, Node(daemon.path) as node:
        ours.bind(("127.0.0.1", 0))
        if remote != "*":
            ours.connect(("127.0.0.1", 9))
        node.request({"op": "status"})
        introduction = {"event": "shadow", "handle": 3, "application": "", "unread": 0}
        daemon.event(introduction | {"local": "a:1", "remote": remote}, ours.fileno())
        shadow = node.next_shadow(TIMEOUT_S)
        with shadow.sock, ThreadPoolExecutor(1) as reader:
            reading = reader.submit(shadow.recvfrom, 100)
            daemon.stop()
            with pytest.raises(ShadowVoid):
                reading.result(TIMEOUT_S)


def test_state_is_given_anew_when_prld_asks_for_it(daemon: Daemon) -> None:
    large = bytes(range(256)) * 4096
    with Node(daemon.path) as node, socket.socket() as sock:
        session = node.replicate(sock, b"first", renew=True)
        daemon.event({"event": "state", "handle": 9, "state": "open", "reason": "link lost"})
        assert not session.protectable
        session.clear()
        daemon.event({"event": "protectable", "handle": 9})
        assert select.select([session.descriptor], [], [], TIMEOUT_S)[0]
        assert session.wait_protectable(TIMEOUT_S)
        assert session.renew(large) == "active"
        assert not session.protectable
        with pytest.raises(UsageError, match="1048577 bytes"):
            session.renew(large + b"x")
    assert [data for _, data in daemon.given] == [b"first", large]
    assert daemon.given[0][0]["renew"] is True


def test_what_comes_behind_an_answer_is_the_newer_word(daemon: Daemon) -> None:
    daemon.loses_link = True
    with Node(daemon.path) as node, socket.socket() as sock:
        session = node.replicate(sock, b"first", renew=True)
        for _ in range(100):
            assert session.renew(b"now") == "active"
            assert session.wait_state("open", timeout=TIMEOUT_S) == "open"
            node.request({"op": "status"})  # whatever was under way has been heard
            assert (session.state, session.reason) == ("open", "link lost")


def test_a_shadow_that_is_taken_over_is_a_session(daemon: Daemon) -> None:
    ours, peer = socket.socketpair()
    members, memory = application.pack(b"x" * 100_000)
    introduction = {"event": "shadow", "handle": 3, "unread": 0, "local": "a:1", "remote": "b:2"}
    positions = {"in_bytes": 2**40, "out_bytes": 7, "renew": True}
    with Node(daemon.path) as node, ours, peer:
        node.request({"op": "status"})
        daemon.event(introduction | positions | members, ours.fileno(), *memory)
        shadow = node.next_shadow(TIMEOUT_S)
        assert shadow.application == b"x" * 100_000
        assert (shadow.in_bytes, shadow.out_bytes) == (2**40, 7)
        with pytest.raises(ShadowNotOwned):
            _ = shadow.session
        taken = {"out_bytes": 9, "monotonic_ns": 1, "streams": [3, 4]}
        daemon.event({"event": "taken_over", "handle": 3, "becomes": 5} | taken)
        assert shadow.wait_taken_over(TIMEOUT_S).out_bytes == 9
        daemon.event({"event": "protectable", "handle": 5})
        assert shadow.session.wait_protectable(TIMEOUT_S)
        shadow.session.renew(b"now")
        assert daemon.given[-1][0]["handle"] == 5
        daemon.event({"event": "demoted", "handle": 5})
        assert shadow.session.wait_state("demoted", timeout=TIMEOUT_S) == "demoted"
        shadow.close()
    os.close(memory[0])


def test_a_new_prld_gets_offers_and_sessions(daemon: Daemon, tmp_path: Path) -> None:
    with Node(daemon.path) as node, socket.socket() as sock, socket.socket() as ended:
        node.offer("192.0.2.100:7000")
        session = node.replicate(sock, b"state", renew=True)
        node.forget(node.replicate(ended, b"unprotected"))
        daemon.stop()
        session.wait_state("lost", timeout=TIMEOUT_S)
        with pytest.raises(NoDaemonError):
            node.request({"op": "status"})
        again = Daemon(tmp_path / "prld.sock")
        try:
            assert session.wait_protectable(TIMEOUT_S)
            assert (session.handle, session.state, session.reason) == (11, "open", "new")
            assert session.renew(b"later") == "active"
        finally:
            again.stop()
        (offer, _), (request, data), (renewal, _) = again.given
        assert (offer["op"], offer["endpoint"]) == ("offer", "192.0.2.100:7000")
        assert (request["op"], request["streams"], data) == ("replicate", [1, -2], b"state")
        assert (renewal["op"], renewal["handle"]) == ("renew", 11)


def test_without_prld_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NoDaemonError, match=r"no prld answers on .*--socket"):
        Node(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["192.0.2.1:7000", "[2001:db8::1]:1", "127.0.0.1:65535"])
def test_an_endpoint_is_read_as_it_is_shown(text: str) -> None:
    assert show_endpoint(*parse_endpoint(text)) == text


@pytest.mark.parametrize(
    "text", ["", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:65536", "::1:5", "[1.2.3.4]:5", "a:5", "[x]:1"]
)
def test_a_bad_endpoint_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="bad endpoint"):
        parse_endpoint(text)


def test_a_set_up_survives_being_cut() -> None:
    setup = Setup(
        snapshot=bytes(range(256)) * 1000,
        mss=1448,
        rcv_wscale=7,
        snd_wscale=7,
        committed=2**32 - 1,
        timestamps=True,
        application=b"x",
    )
    collector = Collector()
    arrived = None
    cut = pieces(encode(setup), 60_000)
    for number, piece in enumerate(cut, 1):
        arrived = collector.add(1, 1, piece, last=number == len(cut), now_ns=number)
    assert arrived is not None
    assert arrived.began_ns == 1
    assert decode(arrived.blob) == setup


def test_a_newer_generation_replaces_an_unfinished_one() -> None:
    collector = Collector()
    assert collector.add(1, 1, b"old", last=False, now_ns=0) is None
    arrived = collector.add(1, 2, b"new", last=True, now_ns=5)
    assert arrived is not None
    assert (arrived.blob, arrived.began_ns) == (b"new", 5)


def test_a_set_up_that_is_not_finished_makes_way_in_the_end() -> None:
    collector = Collector(bytes_max=10, transfers_max=2)
    for handle, now_ns in ((1, 0), (2, STALE_NS)):
        collector.add(handle, 1, b"1234", last=False, now_ns=now_ns)
    with pytest.raises(TransferError, match="more than 2"):
        collector.add(3, 1, b"1", last=False, now_ns=STALE_NS)
    collector.add(3, 1, b"1234", last=False, now_ns=STALE_NS + 1)
    with pytest.raises(TransferError, match="exceed"):
        collector.add(2, 1, b"567", last=False, now_ns=STALE_NS + 1)


def test_a_set_up_of_which_no_more_comes_is_forgotten() -> None:
    collector = Collector(transfers_max=1)
    collector.add(1, 2, b"1234", last=False, now_ns=0)
    collector.drop_ended(1, 1)  # of the one before
    with pytest.raises(TransferError, match="more than 1"):
        collector.add(2, 1, b"", last=False, now_ns=0)
    collector.drop_ended(1, 2)
    collector.add(2, 1, b"", last=False, now_ns=0)


def test_unfinished_set_ups_are_bounded() -> None:
    collector = Collector(bytes_max=10, transfers_max=2)
    collector.add(1, 1, b"12345", last=False, now_ns=0)
    with pytest.raises(TransferError, match="exceed 10 bytes"):
        collector.add(2, 1, b"123456", last=False, now_ns=0)
    collector.add(2, 1, b"1", last=False, now_ns=0)
    with pytest.raises(TransferError, match="more than 2"):
        collector.add(3, 1, b"", last=False, now_ns=0)
    collector.clear()
    collector.add(4, 1, b"1234567890", last=False, now_ns=0)


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x80", b"\x91" * 50_000])
def test_a_malformed_set_up_is_refused(blob: bytes) -> None:
    with pytest.raises(TransferError):
        decode(blob)
