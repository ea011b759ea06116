"""The record of a run: which test ran on which machine, and for want of what it did not.

Every run of pytest that has these two variables in its environment leaves one file:

``PRL_RESULTS``
    The folder for it; made if it is not there. An absolute path, outside a tree that is read-only.
``PRL_LANE``
    The name of the machine that the tests run on: ``host`` in `make test`, the likes of
    ``kernels-6.1`` and ``vm`` elsewhere. Letters, digits, ``.``, ``_`` and ``-``.

A lane may consist of many runs. Each file is JSON lines, written as the tests end, so that a
machine that dies leaves what it did. The first line is about the run:

    {"schema": 1, "lane": "host", "kernel": "6.1.0-42-amd64"}

All others are about a test; the last one of a test counts. Each test that was collected has a line
at the beginning, also if it is not selected; ``needs`` are the probes of its marker.

    {"test": "tests/kernel/test_bpf.py::test_x[4]", "outcome": "collected", "kind": "kernel",
     "needs": ["root", "vlan"]}
    {"test": …, "outcome": "passed" | "failed"}
    {"test": …, "outcome": "skipped", "probe": "vlan"}
    {"test": …, "outcome": "over", "seconds": 4.2}

``python -m tests.table FOLDER`` reads a folder of them (tests/table.py).
"""

import json
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FOLDER_VARIABLE, LANE_VARIABLE = "PRL_RESULTS", "PRL_LANE"
SCHEMA = 1
RAN = frozenset({"passed", "failed"})
KINDS = frozenset({"unit", "kernel", "system", "model", "sim", "fuzz", "vm"})
"""The markers that say where a test belongs; each test has one."""


@dataclass(slots=True)
class Result:
    """What became of one test in one lane."""

    test: str
    outcome: str = "collected"
    kind: str = ""
    needs: tuple[str, ...] = ()
    probe: str = ""
    failures: int = 0
    """How often it failed; once and passed at last: it is unsteady."""
    seconds: float = 0.0
    """In all runs, with its fixtures."""


@dataclass(slots=True)
class Lane:
    """All that ran on one machine."""

    name: str
    kernel: str
    results: dict[str, Result] = field(default_factory=dict)

    def failed(self) -> list[Result]:
        """Those whose last run failed."""
        return [one for one in self.results.values() if one.outcome == "failed"]


class Recorder:
    """A plugin that writes the file of its run."""

    def __init__(self, folder: Path, lane: str) -> None:
        if not re.fullmatch(r"[\w.-]+", lane, re.ASCII):
            raise pytest.UsageError(
                f"{LANE_VARIABLE}={lane!r} is no name of a lane: letters, digits, '.', '_' and '-'"
            )
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{lane}.{time.time_ns()}.{os.getpid()}.jsonl"
        self._file = path.open("x", encoding="utf-8")
        self._took_s: dict[str, float] = {}
        self._write(schema=SCHEMA, lane=lane, kernel=platform.release())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Iterator[None]:  # around all, so that the folders' marks are there
        collected = list(items)  # the wrapped ones take away what is not selected
        result = yield
        for item in collected:
            kinds = [mark.name for mark in item.iter_markers() if mark.name in KINDS]
            needs = [name for mark in item.iter_markers("needs") for name in mark.args]
            kind = kinds[0] if kinds else ""
            self._write(test=item.nodeid, outcome="collected", kind=kind, needs=needs)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note_outcome(report)
        took_s = self._took_s.pop(report.nodeid, 0.0) + report.duration
        if report.when == "teardown":
            self._write(test=report.nodeid, outcome="over", seconds=round(took_s, 1))
        else:
            self._took_s[report.nodeid] = took_s

    def _note_outcome(self, report: pytest.TestReport) -> None:
        if hasattr(report, "wasxfail"):
            outcome = "passed"  # it ran, and failed as it must
        elif report.when == "call" or not report.passed:
            outcome = report.outcome
        else:
            return
        probe = {"probe": report.probe} if outcome == "skipped" else {}
        self._write(test=report.nodeid, outcome=outcome, **probe)

    def pytest_unconfigure(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._file.write(f"{json.dumps(fields)}\n")
        self._file.flush()


def recorder() -> Recorder | None:
    """The recorder that the environment asks for, if it does."""
    folder, lane = os.environ.get(FOLDER_VARIABLE, ""), os.environ.get(LANE_VARIABLE, "")
    if not folder and not lane:
        return None
    if not folder or not lane:
        raise pytest.UsageError(f"set both {FOLDER_VARIABLE} and {LANE_VARIABLE}, or neither")
    return Recorder(Path(folder), lane)


def read(folder: Path) -> dict[str, Lane]:
    """All lanes that left a record in ``folder``, by name.

    Raises:
        ValueError: a file is no record; the message names it. A last line that was cut off, by
            the death of its machine, is overlooked.
    """
    lanes: dict[str, Lane] = {}
    for path in sorted(folder.glob("*.jsonl")):  # a lane's in the order of their time
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            about, *rest = (json.loads(line) for line in lines)
            if about["schema"] != SCHEMA:
                raise ValueError(f"schema {about['schema']}, not {SCHEMA}")  # noqa: TRY301
            lane = lanes.setdefault(about["lane"], Lane(about["lane"], about["kernel"]))
            for line in rest:
                _note(lane, line)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no record of a run: {error}") from error
    return lanes


def _note(lane: Lane, line: dict[str, Any]) -> None:
    known = lane.results.setdefault(line["test"], Result(line["test"]))
    outcome = line["outcome"]
    if outcome == "collected":
        known.kind, known.needs = line["kind"], tuple(line["needs"])
        return
    if outcome == "over":
        known.seconds += line["seconds"]
        return
    known.failures += outcome == "failed"
    if outcome in RAN or known.outcome not in RAN:  # skipped in one run, run in another: it ran
        known.outcome, known.probe = outcome, line.get("probe", "")
