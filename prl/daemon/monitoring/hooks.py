"""Programs of the operator's, run when something has changed: ``[hooks]`` (docs/hooks.md).

    event ─▶ newest facts of a subject ─▶ (pause) ─▶ program ─▶ exit, or killed at its deadline

A subject is a service (``role``), the node (``safety``) or the lost sessions (``lost``). One
program runs for each at a time, no more often than every PAUSE_S, and what waits meanwhile is only
what is true then: so there are never more programs than subjects, and the last of each knows the
last facts. Whatever a program does, prld goes on.
"""

import asyncio
import contextlib
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from prl.config import Config
from prl.daemon.events.bounded import Bounded
from prl.daemon.events.log import EventLog
from prl.daemon.events.record import Record

KINDS: Final = ("role", "safety", "lost")
RESULTS: Final = ("done", "failed", "killed")
PAUSE_S: Final = 1.0
"""From one start for a subject to the next."""
OUTPUT_MAX_BYTES: Final = 1000
"""Of what a program says, so much is logged if it fails; it may say as much as it likes."""
_READ_BYTES: Final = 4096
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True)
class _Subject:
    kind: str
    newest: dict[str, str] | None = None
    """Facts that wait for their program."""
    missed: int = 0
    """Changes that later ones have replaced before a program heard of them."""
    started_s: float = -math.inf
    task: "asyncio.Task[None] | None" = field(default=None)


class Hooks:
    """Runs the configured commands; each event of the log is a reason to."""

    def __init__(self, config: Config, log: EventLog) -> None:
        self._config, self._log = config, log
        self._commands = {kind: getattr(config.hooks, kind) for kind in KINDS}
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self.runs: Counter[tuple[str, str]] = Counter()
        """By kind and result."""
        self.superseded: Counter[str] = Counter()
        self._addresses = {
            service.name: " ".join(map(str, service.addresses)) for service in config.service
        }
        if any(self._commands.values()):
            log.listeners.append(self._on_event)

    def _on_event(self, record: Record) -> None:
        facts = {name: str(value) for name, value in record.facts.items()}
        match record.event:
            case "ownership":
                service = facts["service"]
                more = {"ADDRESSES": self._addresses[service], "TERM": facts["term"]}
                self._want("role", service, record, more | {"STATE": facts["state"]})
            case "safe" | "unsafe":
                told = {"SAFE": "yes" if record.event == "safe" else "no"}
                self._want("safety", "", record, told | {"CAUSE": facts.get("cause", "")})
            case "session_lost":
                waiting = self._subjects.get(("lost", ""))
                before = waiting.newest if waiting else None
                count = int(before["PRL_COUNT"]) if before else 0
                self._want("lost", "", record, {"COUNT": str(count + 1)})

    def _want(self, kind: str, name: str, record: Record, facts: Mapping[str, str]) -> None:
        if not self._commands[kind]:
            return
        subject = self._subjects.setdefault((kind, name), _Subject(kind))
        if subject.newest is not None and kind != "lost":
            subject.missed += 1
            self.superseded[kind] += 1
        told = {f"PRL_{key}": value for key, value in facts.items()}
        told |= {"PRL_HOOK": kind, "PRL_NODE": self._config.node, "PRL_TIME": record.time}
        told |= {"PRL_SOCKET": self._config.socket, "PRL_TEXT": record.text} | (
            {"PRL_SERVICE": name} if name else {}
        )
        subject.newest = told
        if subject.task is None or subject.task.done():
            subject.task = asyncio.get_running_loop().create_task(self._serve(subject))

    @property
    def used(self) -> Bounded:
        """Subjects whose program runs, or is about to."""
        tasks = (subject.task for subject in self._subjects.values())
        running = sum(task is not None and not task.done() for task in tasks)
        return Bounded(running, len(self._config.service) + len(KINDS) - 1)

    async def close(self) -> None:
        """Kill what runs."""
        for subject in self._subjects.values():
            if subject.task is not None:
                subject.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await subject.task

    async def _serve(self, subject: _Subject) -> None:
        while subject.newest is not None:
            # Not before what has happened is dealt with: a take-over comes before its hook.
            await asyncio.sleep(max(0.0, subject.started_s + PAUSE_S - time.monotonic()))
            facts, missed = subject.newest, subject.missed
            subject.newest, subject.missed = None, 0
            subject.started_s = time.monotonic()
            await self._run(subject.kind, facts | {"PRL_MISSED": str(missed)})

    async def _run(self, kind: str, facts: Mapping[str, str]) -> None:
        command, timeout_ms = self._commands[kind], self._config.hooks.timeout_ms
        with _Output() as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output.writer,
                    stderr=output.writer,
                    start_new_session=True,
                    cwd="/",
                    env={"PATH": _PATH, "LANG": "C.UTF-8", **facts},
                )
            except (OSError, ValueError) as error:
                self._fail(kind, "failed", f"cannot be run: {error}")
                return
            try:
                _calm_down(process.pid)
                output.begin()
                async with asyncio.timeout(timeout_ms / 1000):
                    status = await process.wait()
            except TimeoutError:
                self._fail(kind, "killed", f"not done within {timeout_ms} ms: killed")
                return
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
            if status:
                said = output.text() or "(it said nothing)"
                self._fail(kind, "failed", f"exit status {status}: {said}")
                return
        self.runs[kind, "done"] += 1
        self._log.info("hook_done", f"hook {kind}: {command[0]}: done", hook=kind)

    def _fail(self, kind: str, result: str, why: str) -> None:
        self.runs[kind, result] += 1
        self._log.error("hook_failed", f"hook {kind}: {self._commands[kind][0]}: {why}", hook=kind)


class _Output:
    """A pipe that is always read, of which the beginning is kept."""

    def __enter__(self) -> Self:
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._said = b""
        self._watched = False
        return self

    def begin(self) -> None:
        """The program has the other end."""
        os.close(self.writer)
        self.writer = -1
        asyncio.get_running_loop().add_reader(self._reader, self._read)
        self._watched = True

    def _read(self) -> None:
        try:
            more = os.read(self._reader, _READ_BYTES)
        except BlockingIOError:
            return
        self._said += more[: OUTPUT_MAX_BYTES - len(self._said)]
        if not more:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watched:
            asyncio.get_running_loop().remove_reader(self._reader)
            self._watched = False

    def text(self) -> str:
        """What it said, in one line."""
        if self._watched:
            self._read()
        return " ".join(self._said.decode("utf-8", "replace").split())

    def __exit__(self, *_: object) -> None:
        self._unwatch()
        os.close(self._reader)
        if self.writer >= 0:
            os.close(self.writer)


def _calm_down(pid: int) -> None:
    """A hook has neither prld's priority nor its protection from the OOM killer."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 0)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("0")
