"""prld under a service manager: the unit, and what prld tells it."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl.daemon import node as module
from prl.daemon.events.log import EventLog
from prl.daemon.host import capabilities, scheduling
from prl.daemon.host.notify import ServiceManager
from prl.daemon.node import Node
from prl.errors import KernelError

UNIT = Path(__file__).parents[2] / "prl/packaging/prld.service"
FRONT = UNIT.with_name("prl-bgp.service")
EXPOSURE_MAX_TENTHS = {UNIT: 39, FRONT: 29}
"""`systemd-analyze security`: below 4.0, and below 3.0."""


def given(unit: Path) -> list[str]:
    """Its capabilities, each of which it explains."""
    text = unit.read_text()
    found = " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)).split()
    explained = " ".join(re.findall(r"^# (CAP_\S+(?: CAP_\S+)*)  +\S", text, re.MULTILINE)).split()
    assert sorted(explained) == sorted(found)
    return sorted(found)


def test_the_unit_gives_prld_what_it_needs_and_says_what_for() -> None:
    assert given(UNIT) == sorted(capabilities.NEEDED)
    assert set(given(FRONT)) < set(capabilities.NEEDED)


def test_the_unit_allows_what_prld_gives_itself() -> None:
    """Its nice value and the class of the thread that holds the lease (L3a)."""
    text = UNIT.read_text().splitlines()
    assert f"LimitNICE={scheduling.NICE}" in text
    assert f"LimitRTPRIO={scheduling.REALTIME_PRIORITY}" in text
    assert not any(line.startswith(("RestrictRealtime=", "Nice=")) for line in text)


SECURITY = UNIT.parents[2] / "docs/security.md"


def test_the_threat_model_has_a_reason_for_each_capability_that_is_left() -> None:
    rows = re.findall(r"^\| `(CAP_\w+)` \| \S.* \| \S.* \|$", SECURITY.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(capabilities.NEEDED)


@pytest.mark.needs("systemd_analyze")
@pytest.mark.parametrize("unit", [UNIT, FRONT], ids=lambda unit: unit.stem)
def test_the_unit_is_hardened(unit: Path) -> None:
    done = subprocess.run(
        [
            *("systemd-analyze", "security", "--no-pager", "--offline=true"),
            *(f"--threshold={EXPOSURE_MAX_TENTHS[unit]}", str(unit)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1:] or done.stderr
    (figure,) = re.findall(rf"exposure level for {unit.name}: (\d+\.\d)", done.stdout)
    assert f"`systemd-analyze security {unit.stem}`: **{figure}**" in SECURITY.read_text()


@pytest.mark.needs("systemd_analyze")
@pytest.mark.parametrize("unit", [UNIT, FRONT], ids=lambda unit: unit.stem)
def test_systemd_understands_every_line_of_the_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    text = re.sub("^ExecStart=.*", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


LIVES = "from prl.daemon import main; {}; print(flush=True); input()"
LOOKS = "import sys; open(f'/proc/{sys.argv[1]}/environ', 'rb').read()"


@pytest.mark.needs("root", "readable_tree")
@pytest.mark.parametrize(("first", "looks"), [("pass", True), ("main.forbid_dumps()", False)])
def test_what_is_in_prld_s_memory_stays_there(first: str, looks: bool) -> None:
    """From the place of a process of the same user: a dump and a look take the same right."""

    def start(script: str, *arguments: str) -> "subprocess.Popen[bytes]":
        argv = [sys.executable, "-c", script, *arguments]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(argv, user="nobody", group="nogroup", extra_groups=[], **pipes)

    with start(LIVES.format(first)) as prld:
        assert prld.stdout is not None
        assert prld.stdout.readline() == b"\n"
        with start(LOOKS, str(prld.pid)) as attacker:
            _, words = attacker.communicate()
        prld.communicate(b"\n")
    assert (attacker.returncode == 0) is looks, words
    assert looks or b"PermissionError" in words
    assert "LimitCORE=0" in UNIT.read_text().splitlines()


def test_systemd_never_gives_up_but_for_a_wrong_configuration() -> None:
    """An interface that comes minutes after boot, for example, must not end it for good."""
    lines = UNIT.read_text().splitlines()
    assert {
        *("StartLimitIntervalSec=0", "Restart=on-failure", "RestartPreventExitStatus=2"),
    } <= set(lines)
    assert not [line for line in lines if line.startswith("StartLimitBurst")]


def test_missing_capabilities_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_effective", lambda: ~(1 << 39 | 1 << 12))
    with pytest.raises(KernelError, match=r"CAP_NET_ADMIN, CAP_BPF missing: run it as root"):
        capabilities.require()
    monkeypatch.setattr(capabilities, "_effective", lambda: -1)
    capabilities.require()


class Listener:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind(address)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._sock.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    found = Listener(str(tmp_path / "notify"))
    yield found
    found.close()


class Datapath:
    """Its passes are counted by whoever looks."""

    def __init__(self) -> None:
        self.passes, self.alive, self.looks = 0, True, 0
        self.looked = asyncio.Event()

    def newest_pass(self) -> int:
        self.passes += self.alive
        self.looks += 1
        self.looked.set()
        return self.passes

    async def looked_at(self, times: int) -> None:
        target = self.looks + times
        while self.looks < target:
            self.looked.clear()
            await self.looked.wait()


def test_the_watchdog_is_fed_while_the_datapath_makes_passes(
    listener: Listener, tmp_path: Path
) -> None:
    async def live() -> None:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000"}
        manager, datapath = ServiceManager(environ), Datapath()
        assert environ == {}
        task = asyncio.create_task(manager.watch(datapath.newest_pass, lambda: "owner"))
        await datapath.looked_at(3)
        assert listener.heard().count("WATCHDOG=1") >= 2
        datapath.alive = False
        await datapath.looked_at(2)
        listener.heard()
        await datapath.looked_at(5)
        assert listener.heard() == []  # hung: the service manager restarts prld
        datapath.alive = True
        await datapath.looked_at(2)
        assert "WATCHDOG=1" in listener.heard()
        task.cancel()

    asyncio.run(live())


def test_a_status_is_told_when_it_changes(listener: Listener, tmp_path: Path) -> None:
    async def live() -> None:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000"}
        manager, datapath, words = ServiceManager(environ), Datapath(), ["owner"]
        manager.ready()
        task = asyncio.create_task(manager.watch(datapath.newest_pass, lambda: words[0]))
        await datapath.looked_at(3)
        words[0] = "standby"
        await datapath.looked_at(3)
        task.cancel()
        manager.stopping()

    asyncio.run(live())
    told = [line for line in listener.heard() if line != "WATCHDOG=1"]
    assert told == ["READY=1", "STATUS=owner", "STATUS=standby", "STOPPING=1"]


def test_a_watchdog_that_is_another_process_s_is_not_fed(
    listener: Listener, tmp_path: Path
) -> None:
    async def live() -> None:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_PID": "1"}
        manager, datapath = ServiceManager(environ | {"WATCHDOG_USEC": "4000"}), Datapath()
        task = asyncio.create_task(manager.watch(datapath.newest_pass, lambda: ""))
        await datapath.looked_at(1)
        task.cancel()

    asyncio.run(live())
    assert listener.heard() == []


def test_an_abstract_address_is_known_by_its_first_character() -> None:
    name = f"prl-test-{id(object())}"
    listener = Listener(f"\0{name}")
    ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready()
    assert listener.heard() == ["READY=1"]
    listener.close()


def test_without_a_service_manager_nobody_is_told() -> None:
    manager = ServiceManager({})
    manager.ready()
    asyncio.run(asyncio.wait_for(manager.watch(lambda: 0, lambda: ""), timeout=5))


def test_a_lease_that_ended_is_no_error() -> None:
    """It happens whenever the other node goes away for good, also when that is planned."""
    lines: list[str] = []
    nothing: Any = SimpleNamespace(start=lambda: None)
    node = object.__new__(Node)
    node._log, node._fence = EventLog(lines.append), nothing
    node._on_expired(nothing)
    assert " warning lease_over " in lines[0]


def test_there_is_one_round_of_connection_tracking_at_a_time() -> None:
    async def live() -> None:
        rounds: list[list[int]] = []
        over = asyncio.Event()

        async def keep(handles: Callable[[], list[int]], _: object) -> None:
            rounds.append(handles())
            await over.wait()

        node = object.__new__(Node)
        node._keeping = None
        node._shadows = cast(Any, SimpleNamespace(conntrack=SimpleNamespace(keep=keep)))
        node._config = cast(Any, SimpleNamespace(flows_max=9))
        node._dp = cast(Any, SimpleNamespace(flow_handles=lambda most: [most], flow_ends=None))
        for _ in range(3):
            node._keep_tracked()
            await asyncio.sleep(0)
        assert rounds == [[9]]
        over.set()
        assert node._keeping is not None
        await node._keeping
        node._keep_tracked()
        await node._end_keeping()
        assert len(rounds) == 1  # it was ended before it began

    asyncio.run(live())


@pytest.mark.parametrize("error", [RuntimeError("odd"), KernelError("datapath.cpus")])
def test_a_datapath_that_ends_ends_the_node(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_THREAD_NAME", tmp_path / "read-only/comm")

    def run() -> None:
        raise error

    heard_too_early: list[object] = []

    async def live() -> Node:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: heard_too_early.append(context)
        )
        node = object.__new__(Node)
        config: Any = SimpleNamespace(datapath=SimpleNamespace(cpus=[], polling="busy"))
        node._config, node._log = config, EventLog(lambda _: None)
        node._failure, node._stop = None, asyncio.Event()
        reader, writer = socket.socketpair()
        datapath: Any = SimpleNamespace(run=run, stop=lambda: None, event_fd=reader.fileno)
        with reader, writer:
            writer.send(b"an event")  # before the node has the parts that would take it
            async with AsyncExitStack() as stack:
                node._run_datapath(stack, datapath)
                await asyncio.wait_for(node._stop.wait(), timeout=5)
        return node

    node = asyncio.run(live())
    assert str(error) in str(node._failure)
    assert not heard_too_early
