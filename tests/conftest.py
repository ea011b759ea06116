"""Markers by folder, and skips by what the machine can do."""

from collections import Counter
from pathlib import Path

import pytest

from tests.probes import missing

KINDS = frozenset({"unit", "kernel", "system", "model", "sim", "fuzz", "vm"})
TESTS = Path(__file__).parent

_skipped: Counter[str] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder's name, unless it names its kind itself."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in KINDS and not KINDS & {mark.name for mark in item.iter_markers()}:
            item.add_marker(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose ``needs`` marker names a probe that fails."""
    for mark in item.iter_markers("needs"):
        if absent := missing(mark.args):
            _skipped[absent.name] += 1
            pytest.skip(f"needs {absent.name}: {absent.reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skips of each probe, so that a run that skipped much does not look green."""
    for name, count in sorted(_skipped.items()):
        terminalreporter.write_line(f"skipped for want of {name}: {count}")
