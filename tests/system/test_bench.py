"""A bench so short that its figures mean nothing: every field is there all the same."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from prl.bench import report
from prl.bench.bulk import wakeups
from prl.bench.latency import BLOCKING, POLLING, latency
from prl.bench.rig import Recipe, Rig, Way
from prl.bench.run import Bench
from prl.bench.takeover import fail_under_load

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SHORT = 20


@dataclass(frozen=True, slots=True)
class Tiny(Bench):
    """At most so many of everything."""

    def rounds(self, quick: int, full: int) -> int:
        return min(quick, full, SHORT if quick > SHORT else 1)


@pytest.fixture(name="tiny")
def _tiny(tmp_path: Path) -> Tiny:
    return Tiny(quick=True, narrate=lambda _: None, scratch=tmp_path)


def test_latency_yields_every_field(tiny: Tiny) -> None:
    part = latency(tiny)
    found = report.facts("latency", [part], quick=True)

    assert not part.notes
    together = {one.name for one in BLOCKING}
    spread = {one.name for one in POLLING} - {"nfqueue polling"}  # quick
    facts = found["parts"]["latency"]
    for series in ("round_trip", "there", "back"):
        for name, found_ways in ((series, together), (f"all_cpus_{series}", spread)):
            assert facts[name].keys() == found_ways | {"unit"}
            assert all(facts[name][way]["median"] > 0 for way in found_ways)
    opened = facts["open_loop"]["prl native"]
    assert opened["asked"] == opened["answered"] > 0
    assert [row["id"] for row in found["targets"]] == ["T1", "T1", "T2", "T2"]
    assert all(isinstance(row["met"], bool) for row in found["targets"])
    assert report.page(found, [part]).count("<polyline") == len(together | spread)


@pytest.mark.parametrize("mode", ["native", "kernel", "generic"])
def test_a_round_trip_wakes_no_node_more_often_than_it_must(mode: str, tmp_path: Path) -> None:
    """Four times and twice; less than once more is for the timers and what comes in two parts."""
    with Rig(Recipe("wakes", Way.PRL, mode=mode), tmp_path) as rig:
        found = wakeups(rig, 500)
    assert 1 < found["re1"] < 3 < found["re0"] < 5


def test_a_failure_under_load_is_measured(tiny: Tiny) -> None:
    failure = fail_under_load(tiny)

    assert not failure.broken
    assert 0 < failure.detect_ms <= failure.pause_ms
