"""prl.bench: statistics, the table of goals, pictures and the page."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import le
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest

from prl.bench import passthrough, report, svg
from prl.bench.bulk import Burst
from prl.bench.rig import PORTS, Recipe, Rig, Way
from prl.bench.run import Bench, Part, read_columns
from prl.bench.stats import quantile, ratios, summary, thinned
from prl.bench.targets import TARGETS, verdicts

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
    }


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


@pytest.mark.parametrize(
    ("left_out", "figures"),
    [
        ("prl generic", {"t8_whole"}),
        ("prl kernel", {"whole packets, generic XDP / none"}),
        ("none", set()),
    ],
)
def test_a_way_that_this_host_cannot_have_costs_its_own_figures_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left_out: str, figures: set[str]
) -> None:
    """As `prl kernel` where the kernel has no NFQUEUE."""

    @contextmanager
    def rigs(_: Bench, __: Part, recipes: Sequence[Recipe]) -> Iterator[dict[str, Recipe]]:
        yield {one.name: one for one in recipes if one.name != left_out}

    monkeypatch.setattr(Bench, "rigs", rigs)
    monkeypatch.setattr(passthrough, "upload", lambda _ms, _rig: Burst(1.0, 1.0))
    bench = Bench(quick=True, narrate=lambda _: None, scratch=tmp_path)
    assert passthrough._whole(bench, Part("passthrough")).keys() == figures


def test_nothing_measured_is_still_a_picture() -> None:
    assert "not measured" in svg.curves("t", {}, x_label="x", y_label="y")
    assert "not measured" in svg.bars("t", {}, unit="u")
    parse(svg.curves("t", {"flat": [(1, 0), (1, 0)]}, x_label="x", y_label="y", log_x=True))


def test_facts_text_and_page_tell_the_same() -> None:
    part = Part("bulk", figures={"t3_pass": 0.95, "t4_fed": 0.5})
    part.series("upload", {"none": [10.0, 11.0, 12.0], "prl <native>": [5.0]}, "Gbit/s")
    part.curves["bars_gbit_s"] = {"none": 11.0, "prl <native>": 5.0}
    part.notes.append("nfqueue: not measured: no NFQUEUE here")

    alone = report.facts("bulk", [part], quick=True)
    assert [(row["id"], row["met"]) for row in alone["targets"]] == [("T3", True), ("T4", False)]
    assert alone["parts"]["bulk"]["upload"]["none"]["median"] == 11
    whole = report.facts("all", [part], quick=False)
    assert len(whole["targets"]) == len(TARGETS)
    assert {"kernel", "cpus", "cpu", "architecture"} <= whole["machine"].keys()

    words = report.text(whole)
    assert "T3   met" in words
    assert "T12  no figure" in words
    assert "no NFQUEUE here" in words
    page = report.page(alone, [part])
    assert page.count("<svg") == 1
    assert "prl &lt;native&gt;" in page
    assert "<native>" not in page


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
    monkeypatch.setattr(rig, "client", SimpleNamespace(ask=asked.append), raising=False)
    monkeypatch.setattr(rig, "_add_source", added.append)
    rig.connect(PORTS - 10)
    rig.connect(20)
    rig.connect(PORTS)
    ends = [line.removeprefix(f"connect {rig.address} 7000 ") for line in asked]
    assert ends == [
        f"{PORTS - 10}", "10", "10 192.0.2.201", f"{PORTS - 10} 192.0.2.201", "10 192.0.2.202",
    ]  # fmt: skip
    assert added == [1, 2]
