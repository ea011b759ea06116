"""A lab in an emulated machine: everything takes so many times as long."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prl.config import Timing, load
from prl.lab import stretch
from prl.lab.errors import LabError
from prl.lab.state import Settings, StateDirectory
from prl.lab.topology import standard


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    stretch.factor.cache_clear()
    yield
    stretch.factor.cache_clear()


def timing_of_a_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Timing:
    monkeypatch.setattr("prl.lab.state.RUN_DIRECTORY", folder)
    topology = standard("t")
    state = StateDirectory("t")
    state.create(Settings("native", start_prld=False))
    node = topology.nodes[0]
    state.write_config(topology, node, Settings("native", start_prld=False))
    return load(state.config(node)).timing


def test_a_lab_has_the_default_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(stretch.VARIABLE, raising=False)
    assert timing_of_a_node(tmp_path, monkeypatch) == Timing()


def test_a_stretched_lab_gives_its_nodes_more_time_for_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(stretch.VARIABLE, "6")
    found = timing_of_a_node(tmp_path, monkeypatch)
    for name in Timing.__struct_fields__:
        assert getattr(found, name) == 6 * getattr(Timing(), name)


@pytest.mark.parametrize("word", ["", "0", "101", "-1", "1.5", "six", "\N{SUPERSCRIPT TWO}"])
def test_a_stretch_that_is_none_is_refused(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stretch.VARIABLE, word)
    with pytest.raises(LabError, match=stretch.VARIABLE):
        stretch.factor()
