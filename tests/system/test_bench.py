"""A bench so short that its figures mean nothing: every field is there all the same."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from prl.bench import report
from prl.bench.bulk import Burst, upload
from prl.bench.latency import BLOCKING, POLLING, latency
from prl.bench.rig import NODES, Recipe, Rig, Way
from prl.bench.run import Bench, Part
from prl.bench.takeover import fail_under_load
from prl.bench.wakeups import wakeups
from tests.system.support import eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "nfqueue", "nft"),
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
    found = report.facts("latency", [part], quick=True, where=report.machine())

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


def turns(bench: Bench, rig: Rig, strike: Callable[[], object]) -> tuple[list[Burst | None], Part]:
    """Two rounds of an upload, in front of the second of which something happens."""
    sent: list[Burst] = []

    def measured(rig: Rig) -> Burst:
        if len(sent) == 2:  # the first one warms up
            strike()
        sent.append(upload(100, rig))
        return sent[-1]

    part = Part("bulk")
    found = bench.take_turns(part, {rig.name: rig}, 2, measured)
    assert len(sent) == 3
    return found[rig.name], part


def judged(found: list[Burst | None], part: Part) -> str:
    """The first round counts, the second one does not; what is said of it."""
    assert [one is not None for one in found] == [True, False], part.notes
    (note,) = part.notes
    return note


def test_what_the_shadow_of_a_hold_lacks_is_noticed(tiny: Tiny) -> None:
    """The hold itself goes on, and has less to do."""
    with Rig(Recipe("nfqueue fed", Way.NFQUEUE_FED, role="sink"), tiny.scratch) as rig:

        def lose() -> None:
            chain = "{ type filter hook prerouting priority 0 ; }"
            for order in (
                "add table ip loss",
                f"add chain ip loss some {chain}",
                "add rule ip loss some iifname nf0 drop",
            ):
                rig.lab.run("re1", ["nft", order], check=True)

        found, part = turns(tiny, rig, lose)
    assert "round 2: the shadow has" in judged(found, part)


def test_a_session_whose_standby_is_gone_is_not_counted(tiny: Tiny) -> None:
    with Rig(Recipe("prl", Way.PRL, role="sink", mode="kernel"), tiny.scratch) as rig:
        found, part = turns(tiny, rig, partial(rig.lab.fail, "re1", "power"))
    assert "round 2: re0: replication_ended" in judged(found, part)


def test_a_mirror_that_is_off_is_no_mirror(tiny: Tiny) -> None:
    with Rig(Recipe("prl mirror", Way.PRL, role="sink", mode="mirror"), tiny.scratch) as rig:
        assert all(rig.status(node)["mirror"]["on"] for node in NODES), "not waited for"
        found, part = turns(tiny, rig, lambda: None)
        assert None not in found
        assert not part.notes

        def cut() -> None:
            rig.lab.fail("re0", "cut-link")
            eventually("nothing is mirrored", lambda: not rig.status("re0")["mirror"]["on"])

        found, part = turns(tiny, rig, cut)
    assert "round 2: re0: " in judged(found, part)


@pytest.mark.parametrize("mode", ["native", "kernel", "generic", "mirror"])
def test_a_round_trip_wakes_no_node_more_often_than_it_must(mode: str, tmp_path: Path) -> None:
    """Four times and twice; what is more is for timers, which a slow machine has more of."""
    with Rig(Recipe("wakes", Way.PRL, mode=mode), tmp_path) as rig:
        found = [wakeups(rig, 500) for _ in range(3)]
    owner, standby = (min(one[node] for one in found) for node in NODES)
    assert 1 < standby < 2.5
    assert 3 < owner < 4.5


def test_a_failure_under_load_is_measured(tiny: Tiny) -> None:
    failure = fail_under_load(tiny)

    assert not failure.broken
    assert 0 < failure.detect_ms <= failure.pause_ms
