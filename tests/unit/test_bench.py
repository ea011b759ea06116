"""prl.bench: statistics, the table of goals, what could not be measured, pictures and the page."""

import json
import os
import re
import subprocess
from operator import le
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from prl import __version__
from prl.bench import baseline, passthrough, report, run, svg
from prl.bench.benches import BENCHES, measure
from prl.bench.bulk import Burst
from prl.bench.errors import BenchError
from prl.bench.latency import Trips, latency
from prl.bench.rig import PORTS, Program, Recipe, Rig, Way
from prl.bench.run import Bench, Part, read_columns
from prl.bench.stats import compared, quantile, ratios, series, summary, thinned
from prl.bench.targets import TARGETS, verdicts
from prl.cli.bench import bench as bench_command
from prl.demo.stage import Stage
from prl.lab.errors import LabError

MACHINE = {
    "prl": "1.2.3",
    "commit": "0abcdef",
    "kernel": "6.18.44",
    "architecture": "riscv64",
    "cpus": 2,
    "cpu": "An Old CPU",
    "openssl": "OpenSSL 3.0.19",
    "date": "2026-11-30T12:00+00:00",
    "load": 1.5,
}
WHERE = (
    "1.2.3 (0abcdef)",
    "Linux 6.18.44",
    "riscv64",
    "2 CPUs (An Old CPU)",
    "OpenSSL 3.0.19",
    "2026-11-30",
    "load 1.50",
)
ROOT = Path(__file__).resolve().parents[2]


def test_quantiles_lie_between_their_neighbours() -> None:
    assert quantile([4, 1, 3, 2], 0.5) == 2.5
    assert quantile([7], 0.99) == 7
    found = summary([1, 2, 3, 4, 5])
    assert (found.median, found.low, found.high, found.count) == (3, 2, 4, 5)
    assert thinned([10, 20, 30], 5) == [10, 15, 20, 25, 30]
    assert thinned([], 5) == []
    with pytest.raises(ValueError, match="nothing was measured"):
        quantile([], 0.5)


def test_ratios_are_taken_round_by_round() -> None:
    # The second round was disturbed, for both: its ratio is none the worse for it.
    assert ratios([20, 200, 22], [10, 100, 11]) == [2, 2, 2]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


def test_a_round_that_does_not_count_moves_no_other() -> None:
    found = series({"prl": [20, None, 22], "none": [10, 100, None]}, float)
    assert compared(found, "prl", "none") == [2]
    assert compared(found, "prl", "away") == []
    assert summary(found["prl"]).count == 2
    with pytest.raises(ValueError, match="nothing was measured"):
        summary(series({"prl": [None]}, float)["prl"])


def test_every_figure_of_the_specification_has_a_verdict() -> None:
    figures = {target.figure: target.limit for target in TARGETS}
    assert [row["met"] for row in verdicts(figures)] == [True] * len(TARGETS)

    worse = {
        target.figure: target.limit * 1.5 + 1 if target.compare is le else target.limit * 0.5
        for target in TARGETS
    }
    rows = verdicts(worse)
    assert not any(row["met"] for row in rows)
    lettered = {"T4s", "T9b", "T12f"}
    assert {row["id"] for row in rows} == lettered | {f"T{number}" for number in range(1, 14)}


def test_what_was_not_measured_is_not_met() -> None:
    (row,) = [row for row in verdicts({}) if row["what"].startswith("bulk, native")]
    assert row == {
        "id": "T3",
        "what": "bulk, native XDP / XDP_PASS + GRO",
        "goal": "≥ 0.9 x",
        "measured": None,
        "unit": "x",
        "met": False,
        "verdict": "no figure",
    }


def test_what_a_quick_run_leaves_out_is_said() -> None:
    rows = {row["what"]: row["verdict"] for row in verdicts({}, quick=True)}
    assert rows.pop("take-over of 10,000 flows") == "full run only"
    assert set(rows.values()) == {"no figure"}
    assert {row["verdict"] for row in verdicts({})} == {"no figure"}


def test_the_documentation_has_a_row_for_every_goal() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    rows = re.findall(r"^\| (T\d+[bfs]?) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(target.ident for target in TARGETS)


def parse(picture: str) -> ET.Element:
    return ET.fromstring(picture)  # noqa: S314 - our own


def test_a_curve_keeps_its_points_in_order_and_inside() -> None:
    drawn = svg.curves(
        "a <title>",
        {"one": [(10, 0), (100, 50), (1000, 100)], "two": [(20, 10), (500, 90)]},
        x_label="µs",
        y_label="%",
        log_x=True,
    )
    lines = [one.attrib["points"] for one in parse(drawn).iter() if one.tag.endswith("polyline")]
    assert len(lines) == 2
    places = [tuple(map(float, point.split(","))) for point in lines[0].split()]
    # Equal factors are equal steps on a logarithmic axis, and more is higher up.
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.2)
    assert places[0][1] > places[1][1] > places[2][1]
    assert all(0 <= x <= svg.WIDTH and 0 <= y <= svg.HEIGHT for x, y in places)
    assert "a &lt;title&gt;" in drawn


def test_bars_are_as_long_as_their_values() -> None:
    drawn = svg.bars("bulk", {"none": 10.0, "prl": 5.0}, unit="Gbit/s", marks=[7.5])
    wide = [
        float(one.attrib["width"])
        for one in parse(drawn).iter()
        if one.tag.endswith("rect") and "y" in one.attrib
    ]
    assert wide[0] == pytest.approx(2 * wide[1], abs=0.2)
    assert "stroke-dasharray" in drawn


@pytest.fixture(name="refused")
def _refused(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the ways that a lab cannot be had for; the other ones have none either."""
    names: set[str] = set()

    def enter(rig: Rig) -> Rig:
        if rig.name in names or "every" in names:
            raise LabError("prld of re0 does not start: no native XDP here")
        return rig

    monkeypatch.setattr(Rig, "__enter__", enter)
    return names


def canned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: object) -> Bench:
    """Every way that there is gives the same, whatever was asked for."""
    monkeypatch.setattr(
        Bench, "alternate", lambda _, __, ways, *_more: {name: [found] for name in ways}
    )
    return Bench(quick=True, narrate=lambda _: None, scratch=tmp_path)


@pytest.mark.parametrize(
    ("left_out", "figures"),
    [
        ("prl generic", {"t8_whole_0", "t8_whole_1", "t8_whole_100000"}),
        ("prl kernel", set()),
        ("none", set()),
    ],
)
def test_a_way_that_this_host_cannot_have_costs_its_own_figures_alone(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    refused: set[str],
    left_out: str,
    figures: set[str],
) -> None:
    """As `prl kernel` where the kernel has no NFQUEUE."""
    refused.add(left_out)
    monkeypatch.setattr(passthrough, "_fill", lambda _rig, _flows: None)
    part = Part("passthrough")
    passthrough._whole(canned(monkeypatch, tmp_path, Burst(1.0, 1.0)), part)
    assert part.figures.keys() == figures
    assert part.notes == [
        f"{left_out}: not measured: prld of re0 does not start: no native XDP here"
    ]
    assert not part.is_whole


@pytest.mark.parametrize(
    ("left_out", "figures"),
    [
        ("none", {"t2_copy", "t2_mirror"}),
        ("nfqueue", {"t1_input", "t1_both"}),
        ("prl native polling", {"t2_copy", "t2_mirror"}),
        ("prl mirror", {"t1_input", "t1_both", "t2_copy"}),
    ],
)
def test_round_trips_of_the_other_ways_are_judged(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    refused: set[str],
    left_out: str,
    figures: set[str],
) -> None:
    refused.add(left_out)
    bench = canned(monkeypatch, tmp_path, Trips(1.0, 2.0, 3.0, [3000]))
    monkeypatch.setattr("prl.bench.latency._tail", lambda _: {})
    monkeypatch.setattr(Trips, "__iter__", lambda _: iter([1]), raising=False)
    assert latency(bench).figures.keys() == figures


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_without_any_way_is_a_part_with_a_note(
    monkeypatch: pytest.MonkeyPatch, refused: set[str], name: str
) -> None:
    def no_stage(_: Stage) -> Stage:
        raise LabError("the lab needs root")

    refused.add("every")
    monkeypatch.setattr(Stage, "__enter__", no_stage)
    (part,) = measure([name], quick=True, narrate=lambda _: None)
    assert part.name == name
    assert not part.figures
    assert any("not measured" in note for note in part.notes)
    assert not part.is_whole


def test_a_bench_that_fails_leaves_the_others_their_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_: Bench) -> Part:
        raise ValueError("no values")

    monkeypatch.setitem(BENCHES, "bulk", fails)
    monkeypatch.setitem(BENCHES, "moves", lambda _: Part("moves", {"t13_again": 0.0}))
    monkeypatch.setattr(report, "machine", lambda: MACHINE)
    done = CliRunner().invoke(bench_command, ["bulk", "--quick"])
    assert done.exit_code == 1
    assert "bulk: not measured: ValueError('no values')" in done.output
    assert CliRunner().invoke(bench_command, ["moves", "--quick"]).exit_code == 0
    failed, whole = measure(["bulk", "moves"], quick=True, narrate=lambda _: None)
    assert (failed.is_whole, failed.figures) == (False, {})
    assert whole.figures == {"t13_again": 0}


def sinks(*names: str) -> dict[str, Any]:
    return {name: SimpleNamespace(recipe=Recipe(name, Way.NONE, role="sink")) for name in names}


def test_what_is_not_what_it_is_called_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rounds = {"none": iter([[]] * 4), "fed": iter([[], ["the shadow has 3 of 5 bytes"], [], []])}
    turns = {"none": iter([1, 10, 100, 1000]), "fed": iter([2, 20, 300, 4000])}

    class Told:
        def __init__(self, rig: Any) -> None:
            self.lost = rounds[rig.recipe.name].__next__

    monkeypatch.setattr(run, "Baseline", Told)
    bench = Bench(quick=True, narrate=lambda _: None, scratch=tmp_path)
    part, names, rigs = Part("bulk"), {name: name for name in turns}, sinks(*turns)
    found = bench.alternate(part, names, rigs, 3, lambda name: turns[name].__next__())
    assert found == {"none": [10, 100, 1000], "fed": [None, 300, 4000]}
    assert compared(series(found, float), "fed", "none") == [3, 4]
    assert part.notes == [
        "fed (sink): 1 round not counted, the first of them round 1: the shadow has 3 of 5 bytes"
    ]
    assert part.is_whole


QUEUE = "    0   2403     3 2 65531 {dropped} {for_user}     1113  1\n"


@pytest.mark.parametrize(
    ("shown", "reasons"),
    [
        (QUEUE.format(dropped=2, for_user=0), []),
        (QUEUE.format(dropped=3, for_user=4), ["the queue has dropped 5 packets"]),
        ("", ["nobody reads the queue"]),
    ],
)
def test_a_hold_whose_queue_drops_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: str, reasons: list[str]
) -> None:
    queues = tmp_path / "nfnetlink_queue"
    queues.write_text(QUEUE.format(dropped=2, for_user=0))
    monkeypatch.setattr(baseline, "_QUEUES", queues)
    told = [[{"event": "void", "reason": "the first attempt, before anything was measured"}]]
    server = SimpleNamespace(asides=lambda: told.pop() if told else [])
    here = SimpleNamespace(call=lambda function: function())
    rig = SimpleNamespace(
        recipe=Recipe("nfqueue", Way.NFQUEUE), server=server, standby=None, place=lambda _: here
    )
    held = baseline.Baseline(cast(Any, rig))
    assert held.lost() == []
    queues.write_text(shown)
    assert held.lost() == reasons
    assert held.lost() == ([] if shown else reasons)


def test_what_a_server_tells_of_shadows_is_kept_for_who_asks(tmp_path: Path) -> None:
    gone = {"event": "void", "reason": "the shadow is void"}
    path = tmp_path / "told"
    path.write_text(f"{json.dumps(gone)}\n{json.dumps({'event': 'count'})}\n{json.dumps(gone)}\n")
    lab = SimpleNamespace(
        name="lab", exec=lambda _node, argv, **popen: subprocess.Popen(argv, **popen)
    )
    told = Program(cast(Any, lab), "re1", ["sh", "-c", f"cat {path}; read line"], "prl")
    try:
        assert told.answer(10) == {"event": "count"}
        assert told.asides() == [gone, gone]
        assert told.asides() == []
    finally:
        told.stop()


def test_a_way_that_fails_has_no_more_turns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def baseline_of(rig: Any) -> Any:
        if rig.recipe.name == "prl":
            raise BenchError("no prld answers")
        return SimpleNamespace(lost=list)

    monkeypatch.setattr(run, "Baseline", baseline_of)
    asked: list[str] = []

    def measured(name: str) -> int:
        asked.append(name)
        if name == "haproxy" and asked.count(name) > 2:
            raise BenchError("haproxy has ended")
        return len(asked)

    bench = Bench(quick=True, narrate=lambda _: None, scratch=tmp_path)
    part, names = Part("bulk"), ("none", "haproxy", "prl")
    found = bench.alternate(part, {name: name for name in names}, sinks(*names), 3, measured)
    assert found["haproxy"][1:] == [None, None]
    assert None not in found["none"]
    assert asked.count("haproxy") == 3
    assert found["prl"] == [None] * 3
    assert "prl" not in asked
    assert part.notes == [
        "prl (sink): not measured: no prld answers",
        "haproxy (sink), from round 2 on: not measured: haproxy has ended",
    ]
    assert not part.is_whole


def test_nothing_measured_is_still_a_picture() -> None:
    assert "not measured" in svg.curves("t", {}, x_label="x", y_label="y")
    assert "not measured" in svg.bars("t", {}, unit="u")
    parse(svg.curves("t", {"flat": [(1, 0), (1, 0)]}, x_label="x", y_label="y", log_x=True))


def test_facts_text_and_page_tell_the_same() -> None:
    part = Part("bulk", figures={"t3_pass": 0.95, "t4_fed": 0.5})
    part.series("upload", {"none": [10.0, 11.0, 12.0], "prl <native>": [5.0]}, "Gbit/s")
    part.curves["bars_gbit_s"] = {"none": 11.0, "prl <native>": 5.0}
    part.notes.append("nfqueue: not measured: no NFQUEUE here")

    alone = report.facts("bulk", [part], quick=True, where=MACHINE)
    assert [(row["id"], row["met"]) for row in alone["targets"]] == [("T3", True), ("T4", False)]
    assert alone["parts"]["bulk"]["upload"]["none"]["median"] == 11
    whole = report.facts("all", [part], quick=False, where=MACHINE)
    assert len(whole["targets"]) == len(TARGETS)

    words = report.text(whole)
    for told in WHERE:
        assert told in words.splitlines()[0]
        assert told in report.page(whole, [part])
    assert "T3   met" in words
    assert "T12  no figure" in words
    assert "no NFQUEUE here" in words
    page = report.page(alone, [part])
    assert page.count("<svg") == 1
    assert "prl &lt;native&gt;" in page
    assert "<native>" not in page


def test_the_machine_is_this_one() -> None:
    found = report.machine()
    assert found.keys() == MACHINE.keys()
    assert found["kernel"] == os.uname().release
    assert found["architecture"] == os.uname().machine
    assert found["prl"] == __version__
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|.+-g[0-9a-f]{7,}(-dirty)?", found["commit"])


def test_pauses_are_drawn_with_their_goals() -> None:
    part = Part("takeover", curves={"pauses_ms": {"failure 1": 40.0, "failure 2": 75.0}})
    found = report.facts("takeover", [part], quick=True, where=MACHINE)
    page = report.page(found, [part])
    assert (
        svg.bars(
            "Pause at the peer, each failure", part.curves["pauses_ms"], unit="ms", marks=[60, 150]
        )
        in page
    )


def test_columns_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "columns"
    path.write_bytes(b"\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0")
    assert [list(column) for column in read_columns(path, "i", 2)] == [[1, 3], [2, 4]]
    assert not path.exists()


def test_connections_beyond_one_address_s_ports_come_from_further_addresses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rig = Rig(Recipe("many", Way.PRL), tmp_path)
    asked: list[str] = []
    added: list[int] = []
    monkeypatch.setattr(
        rig,
        "client",
        SimpleNamespace(ask=lambda line, _timeout_s: asked.append(line)),
        raising=False,
    )
    monkeypatch.setattr(rig, "_add_source", added.append)
    rig.connect(PORTS - 10)
    rig.connect(20)
    rig.connect(PORTS)
    ends = [line.removeprefix(f"connect {rig.address} 7000 ") for line in asked]
    assert ends == [
        f"{PORTS - 10}", "10", "10 192.0.2.201", f"{PORTS - 10} 192.0.2.201", "10 192.0.2.202",
    ]  # fmt: skip
    assert added == [1, 2]
