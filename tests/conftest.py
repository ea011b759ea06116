"""Markers by folder, skips by what the machine can do, and the record of what ran."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import settings

from tests import results
from tests.probes import Missing, require
from tests.results import KINDS

_skipped: Counter[str] = Counter()
_told: list[str] = []
_TOLD = "told"

# How long an example takes says something about the machine, not about prl.
settings.register_profile("prl", deadline=None)
settings.load_profile("prl")


def pytest_configure(config: pytest.Config) -> None:
    """Keep a record of the run, where one is asked for: of several processes, each of its own."""
    hands_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out and (plugin := results.recorder()):
        config.pluginmanager.register(plugin)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder's name, unless it names its kind itself."""
    for item in items:
        folder = item.path.parent.name
        if folder in KINDS and not KINDS & {mark.name for mark in item.iter_markers()}:
            item.add_marker(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose ``needs`` marker names a probe that fails."""
    for mark in item.iter_markers("needs"):
        require(*mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Iterator[pytest.TestReport]:
    """Name the probe of a skip, and let no test be skipped but by a probe, which has a name.

    A test that is said to fail and was not even begun, `xfail(run=False)`, is skipped.
    """
    report: pytest.TestReport = yield
    is_expected = hasattr(report, "wasxfail")
    is_unrun = report.when == "setup" and isinstance(
        call.excinfo and call.excinfo.value, pytest.xfail.Exception
    )
    if not report.skipped or (is_expected and not is_unrun):
        return report
    if is_expected:
        del report.wasxfail
    if call.excinfo is not None and isinstance(call.excinfo.value, Missing):
        report.probe = call.excinfo.value.probe.name
    else:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, but not by a probe of tests/probes.py"
    return report


@pytest.fixture
def summary(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says a line at the end of the run: what a search has covered."""
    return partial(record_property, _TOLD)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the skips of each probe, and keep what is told, also of what other processes ran."""
    if report.skipped and (probe := getattr(report, "probe", "")):
        _skipped[probe] += 1
    if report.when == "teardown":
        _told.extend(str(line) for name, line in report.user_properties if name == _TOLD)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many skips there were, so that a run that skipped much does not look green."""
    for line in _told:
        terminalreporter.write_line(line)
    for name, count in sorted(_skipped.items()):
        terminalreporter.write_line(f"skipped for want of {name}: {count}")
