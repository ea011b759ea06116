"""The table at the end of `make test`: which module's tests ran where, and which ran nowhere.

    python -m tests.table FOLDER [--complete LANE]... [--unrun LANE]

A test that ran in no lane is a failure, exit status 1, unless the probe that it was skipped for,
or its kind, names a lane that has what this machine lacks (``Probe.lane``) and that lane was not
run in full: then it is listed. ``--complete LANE`` says that it was. ``--unrun LANE`` prints no
table but the tests that have run nowhere yet and need that lane, one node id a line.
"""

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

from tests import results
from tests.probes import PROBES
from tests.results import RAN, Lane, Result

LANE_OF_KIND = {"vm": "vm"}
"""Kinds of tests that `make test` does not select, because a lane of their own does."""
SLOWEST = 20
"""Modules whose time is told."""


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.table")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--complete", action="append", default=[], metavar="LANE")
    parser.add_argument("--unrun", metavar="LANE")
    options = parser.parse_args(arguments)
    try:
        lanes = results.read(options.folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not lanes:
        parser.error(f"{options.folder} has no record of a run")
    unrun = ran_nowhere(lanes)
    if options.unrun:
        _print([test for test, (lane, _) in unrun.items() if lane == options.unrun])
        return 0
    _print(table(lanes))
    _print(slowest(lanes))
    failures = {test for test, (lane, _) in unrun.items() if lane in {"", *options.complete}}
    left = {test: need for test, need in unrun.items() if test not in failures}
    _print(_left(left))
    _print([f"RAN NOWHERE: {test} ({unrun[test][1]})" for test in sorted(failures)])
    _print([f"UNSTEADY: {test} failed in a run and passed in another" for test in unsteady(lanes)])
    _print([f"FAILED: {test} ({lane})" for test, lane in failed(lanes)])
    if failures:
        _print([f"{len(failures)} tests ran nowhere, though `make setup` and all lanes were there"])
    return 1 if failures else 0


def _print(lines: list[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def table(lanes: dict[str, Lane]) -> list[str]:
    """One line a module: how many of its tests ran in each lane, of how many."""
    modules: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for lane in lanes.values():
        for result in lane.results.values():
            modules[result.test.partition("::")[0]][lane.name].append(result)
    width = max(map(len, modules), default=0)
    heads = {name: max(len(name), 9) for name in lanes}
    lines = [f"{lane.name}: Linux {lane.kernel}" for lane in lanes.values()]
    lines += [" ".join(["ran, of".ljust(width), *(name.rjust(heads[name]) for name in lanes)])]
    for module, found in sorted(modules.items()):
        total = len({result.test for every in found.values() for result in every})
        cells = [_cell(found[name], total).rjust(heads[name]) for name in lanes]
        lines.append(" ".join([module.ljust(width), *cells]))
    return lines


def _cell(found: list[Result], total: int) -> str:
    ran = sum(result.outcome in RAN for result in found)
    failed = sum(result.outcome == "failed" for result in found)
    return (f"{ran}/{total}" if ran else "-") + (f" {failed}F" if failed else "")


def slowest(lanes: dict[str, Lane]) -> list[str]:
    """The modules that took the longest, a lane each; runs beside each other count both."""
    took: Counter[tuple[str, str]] = Counter()
    for lane in lanes.values():
        for result in lane.results.values():
            took[result.test.partition("::")[0], lane.name] += round(result.seconds)
    longest = took.most_common(SLOWEST)
    return [f"took {seconds:5} s: {module} ({lane})" for (module, lane), seconds in longest]


def _left(unrun: dict[str, tuple[str, str]]) -> list[str]:
    """A line for each module, lane and reason."""
    found = Counter((lane, test.partition("::")[0], why) for test, (lane, why) in unrun.items())
    return [
        f"needs lane {lane}: {module}, {count} of its tests ({why})"
        for (lane, module, why), count in sorted(found.items())
    ]


def failed(lanes: dict[str, Lane]) -> list[tuple[str, str]]:
    """The tests whose last run on a machine failed, with its lane."""
    return sorted((result.test, lane.name) for lane in lanes.values() for result in lane.failed())


def ran_nowhere(lanes: dict[str, Lane]) -> dict[str, tuple[str, str]]:
    """The tests that ran in no lane: the lane that each needs ("": none could help), and why."""
    found: dict[str, list[Result]] = defaultdict(list)
    for lane in lanes.values():
        for test, result in lane.results.items():
            found[test].append(result)
    return {
        test: _needs(every)
        for test, every in found.items()
        if not any(result.outcome in RAN for result in every)
    }


def unsteady(lanes: dict[str, Lane]) -> list[str]:
    """The tests that failed on a machine on which they passed in the end."""
    return sorted(
        result.test
        for lane in lanes.values()
        for result in lane.results.values()
        if result.failures and result.outcome == "passed"
    )


def _needs(every: list[Result]) -> tuple[str, str]:
    probes = sorted({result.probe for result in every if result.probe})
    lanes = {PROBES[name].lane for name in probes if name in PROBES}
    lanes |= {LANE_OF_KIND.get(result.kind, "") for result in every}
    why = f"for want of {', '.join(probes)}" if probes else "it was selected in no run"
    return min(lanes - {""}, default=""), why


if __name__ == "__main__":
    sys.exit(main())
