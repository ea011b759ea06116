"""Hooks: programs run with facts, bounded in number, time and rate; and the example."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from prl.config import parse
from prl.daemon.events.bounded import Bounded
from prl.daemon.events.log import EventLog
from prl.daemon.monitoring import hooks
from prl.daemon.monitoring.hooks import Hooks
from prl.errors import ConfigError
from tests.unit.test_config import GOOD

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/move_address.py"
WRITE = """
import json, os, sys
facts = {name: value for name, value in os.environ.items() if name.startswith("PRL_")}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(facts) + "\\n")
"""


class Node:
    """Hooks of a node, whose program is Python's with ``code``."""

    def __init__(self, code: str, *arguments: object, timeout_ms: int = 10_000) -> None:
        command = json.dumps([sys.executable, "-c", code, *map(str, arguments)])
        kinds = "".join(f"{kind} = {command}\n" for kind in hooks.KINDS)
        config = parse(f"{GOOD}[hooks]\n{kinds}timeout_ms = {timeout_ms}\n")
        self.happened = EventLog(lambda _: None)
        self.hooks = Hooks(config, self.happened)

    def role(self, state: str) -> None:
        self.happened.info("ownership", f"it is {state}", service="lab", state=state, term=3)

    async def until_idle(self) -> None:
        for subject in list(self.hooks._subjects.values()):
            assert subject.task is not None
            await subject.task

    def failures(self) -> list[str]:
        return [
            record.text for record in self.happened.after(0, 99) if record.event == "hook_failed"
        ]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def told(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # gone, before the file was opened or before it was read
        return False


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "PAUSE_S", 0.0)


def test_a_hook_is_told_the_facts_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(WRITE, tmp_path / "told")
        node.role("owner")
        await node.until_idle()
        node.happened.warning("unsafe", "not safe: the link is down", cause="link")
        await node.until_idle()
        (role, safety) = told(tmp_path / "told")
        assert role.pop("PRL_TIME")
        assert role == {
            "PRL_HOOK": "role",
            "PRL_NODE": "re0",
            "PRL_SERVICE": "lab",
            "PRL_STATE": "owner",
            "PRL_TERM": "3",
            "PRL_ADDRESSES": "192.0.2.100 2001:db8:0:1::100",
            "PRL_SOCKET": "/run/prl/prl/re0.sock",
            "PRL_TEXT": "it is owner",
            "PRL_MISSED": "0",
        }
        assert (safety["PRL_HOOK"], safety["PRL_SAFE"]) == ("safety", "no")
        assert (safety["PRL_CAUSE"], safety["PRL_TEXT"]) == ("link", "not safe: the link is down")
        assert node.hooks.runs == {("role", "done"): 1, ("safety", "done"): 1}

    run(scenario)


def test_of_what_changes_while_a_hook_runs_the_newest_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(WRITE, tmp_path / "told")
        node.role("standby")
        while not node.hooks._subjects["role", "lab"].started_s > 0:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for state in ("owner", "fenced", "owner"):
            node.role(state)
        assert node.hooks.used == Bounded(1, 3)
        await node.until_idle()
        assert [(r["PRL_STATE"], r["PRL_MISSED"]) for r in told(tmp_path / "told")] == [
            ("standby", "0"),
            ("owner", "2"),
        ]
        assert node.hooks.superseded == {"role": 2}

    run(scenario)


def test_lost_sessions_are_told_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(WRITE, tmp_path / "told")
        for number in range(500):
            node.happened.error("session_lost", f"session {number}", reason="void")
        await node.until_idle()
        (lost,) = told(tmp_path / "told")
        assert (lost["PRL_COUNT"], lost["PRL_TEXT"]) == ("500", "session 499")

    run(scenario)


def test_a_hook_is_killed_at_its_deadline_with_all_it_started(tmp_path: Path) -> None:
    code = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid} {os.getpriority(os.PRIO_PROCESS, 0)}")
os.rename(sys.argv[1], sys.argv[2])
child.wait()
"""

    async def scenario() -> None:
        node = Node(code, tmp_path / "begun", tmp_path / "pids", timeout_ms=3000)
        node.role("owner")
        await node.until_idle()
        *pids, _ = map(int, (tmp_path / "pids").read_text().split())
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110 - not this test's children
            await asyncio.sleep(0)
        assert node.hooks.runs == {("role", "killed"): 1}
        (words,) = node.failures()
        assert words.endswith("not done within 3000 ms: killed")

    run(scenario)


def test_a_hook_that_says_much_is_read_and_its_failure_logged() -> None:
    code = "import sys; sys.stdout.write('no such address ' * 100_000); sys.exit(7)"

    async def scenario() -> None:
        node = Node(code)
        node.role("owner")
        await node.until_idle()
        (words,) = node.failures()
        assert "exit status 7: no such address no such" in words
        assert len(words) < 2 * hooks.OUTPUT_MAX_BYTES
        assert node.hooks.runs == {("role", "failed"): 1}

    run(scenario)


def test_a_program_that_is_not_there_is_logged() -> None:
    async def scenario() -> None:
        happened = EventLog(lambda _: None)
        found = Hooks(parse(GOOD + '[hooks]\nrole = ["/nowhere/x"]\n'), happened)
        happened.info("ownership", "x", service="lab", state="owner", term=1)
        task = found._subjects["role", "lab"].task
        assert task is not None
        await task
        assert [r.event for r in happened.after(0, 9)] == ["ownership", "hook_failed"]

    run(scenario)


def test_nothing_waits_for_a_hook_and_the_end_kills_it() -> None:
    async def scenario() -> None:
        node = Node("import time; time.sleep(600)")
        node.role("owner")
        assert node.hooks.used.used == 1, "it has not even been started when the event returns"
        await node.hooks.close()
        assert node.hooks.used.used == 0

    run(scenario)


def test_hooks_of_a_subject_keep_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first waits for nothing, also when the machine was started less than a pause ago."""
    pause_s = 1e9
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    async def scenario() -> None:
        node = Node("pass")
        for state in ("owner", "standby"):
            node.role(state)
            await node.until_idle()
        assert waits[0] == 0.0
        assert 0 < waits[1] <= pause_s

    monkeypatch.setattr(hooks, "PAUSE_S", pause_s)
    monkeypatch.setattr(hooks.asyncio, "sleep", sleep)
    run(scenario)


@pytest.mark.parametrize("kind", hooks.KINDS)
def test_a_hook_needs_its_whole_path(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"^hooks\.{kind}: give the program's whole path"):
        parse(GOOD + f'[hooks]\n{kind} = ["move", "it"]\n')


# -- the example

CLOUD = """#!/bin/sh
# A provider: one file an address, with its holder's name. The first $refusals calls are refused.
cd "$(dirname "$0")"
if [ "$1" = holder ]; then cat "addr-$2" 2>/dev/null; exit 0; fi
[ -z "$(cat refusals)" ] || { printf '' >refusals; echo busy >&2; exit 1; }
echo "$3" >"addr-$2"
echo "$2 $3" >>calls
"""
PRLCTL = """#!/bin/sh
[ "$PRL_SOCKET" = /run/prl/x.sock ] || exit 4
cat "$(dirname "$0")/status"
exit 3
"""


class Cloud:
    def __init__(self, folder: Path, state: str = "owner", *, refuses: bool = False) -> None:
        self._folder = folder
        (folder / "refusals").write_text("1" if refuses else "")
        services = [{"name": "lab", "state": state}, {"name": "other", "state": "owner"}]
        (folder / "status").write_text(json.dumps({"services": services}))
        for name, text in (("cloud", CLOUD), ("prlctl", PRLCTL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def hook(self, state: str) -> None:
        facts = {"PRL_STATE": state, "PRL_NODE": "re1", "PRL_SERVICE": "lab"}
        facts |= {"PRL_ADDRESSES": "192.0.2.100 2001:db8::100", "PRL_SOCKET": "/run/prl/x.sock"}
        subprocess.run(
            [
                *(sys.executable, str(EXAMPLE), "--prlctl", str(self._folder / "prlctl")),
                str(self._folder / "cloud"),
            ],
            env={"PATH": os.environ["PATH"]} | facts,
            check=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        path = self._folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("refuses", [False, True])
def test_the_example_moves_every_address_to_the_new_owner(tmp_path: Path, refuses: bool) -> None:
    cloud = Cloud(tmp_path, refuses=refuses)
    (tmp_path / "addr-192.0.2.100").write_text("re0\n")
    cloud.hook("owner")
    assert cloud.calls() == ["192.0.2.100 re1", "2001:db8::100 re1"]


@pytest.mark.parametrize(("told_state", "state"), [("standby", "standby"), ("owner", "standby")])
def test_the_example_moves_nothing_of_a_node_that_is_not_the_owner(
    tmp_path: Path, told_state: str, state: str
) -> None:
    cloud = Cloud(tmp_path, state)
    cloud.hook(told_state)
    assert cloud.calls() == []
