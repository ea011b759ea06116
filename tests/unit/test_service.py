"""prld under a service manager: the unit, and what prld tells it."""

import asyncio
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl.daemon import capabilities
from prl.daemon.events import EventLog
from prl.daemon.node import Node
from prl.daemon.notify import ServiceManager
from prl.errors import KernelError

UNIT = Path(__file__).parents[2] / "prl/packaging/prld.service"
EXPOSURE_MAX_TENTHS = 39
"""`systemd-analyze security`: below 4.0."""


def test_the_unit_gives_prld_what_it_needs_and_says_what_for() -> None:
    text = UNIT.read_text()
    given = " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)).split()
    explained = " ".join(re.findall(r"^# (CAP_\S+(?: CAP_\S+)*)  +\S", text, re.MULTILINE)).split()

    assert sorted(given) == sorted(capabilities.NEEDED)
    assert sorted(explained) == sorted(given)


@pytest.mark.needs("systemd_analyze")
def test_the_unit_is_hardened() -> None:
    done = subprocess.run(
        [
            *("systemd-analyze", "security", "--no-pager", "--offline=true"),
            *(f"--threshold={EXPOSURE_MAX_TENTHS}", str(UNIT)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1:] or done.stderr


@pytest.mark.needs("systemd_analyze")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/sbin/prld", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


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
