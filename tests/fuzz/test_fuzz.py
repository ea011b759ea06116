"""Every target of the fuzzers for some seconds, from the corpus of the tree (R29)."""

from pathlib import Path

import pytest

from tests.fuzz.seeds import SEEDS, seeds
from tests.fuzz.targets import CORPUS, HERE, KEPT, TARGETS, build, grown_at, run

SECONDS = 2
pytestmark = pytest.mark.needs("libfuzzer")


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    return build(list(TARGETS), KEPT / "build")


def test_every_harness_is_a_target_with_a_corpus() -> None:
    harnesses = {
        path.stem for path in HERE.glob("*.c") if "LLVMFuzzerTestOneInput(" in path.read_text()
    }
    assert harnesses == set(TARGETS) == set(SEEDS) == {path.name for path in CORPUS.iterdir()}


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_in_the_tree_are_those_that_are_made(target: str) -> None:
    kept = {path.name: path.read_bytes() for path in (CORPUS / target).glob("seed-*")}
    assert kept == seeds(target), "run python -m tests.fuzz.seeds"


@pytest.mark.parametrize("target", TARGETS)
def test_target(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    new, crashes = tmp_path / "new", KEPT / "crashes" / target
    new.mkdir()
    outcome = run(
        programs[target], seconds=SECONDS, corpora=[new, CORPUS / target], crashes=crashes
    )
    assert outcome.status == 0, f"the input is in {crashes}\n{outcome.output[-5000:]}"
    assert outcome.executions > len(list((CORPUS / target).iterdir()))
    assert 0 < outcome.edges <= outcome.edges_all


def test_it_is_told_when_the_last_edge_was_found() -> None:
    said = """INFO: seed corpus
#12\tINITED cov: 7 ft: 9 corp: 2/1Kb exec/s: 0 rss: 30Mb
#50\tNEW    cov: 8 ft: 11 corp: 3/1Kb lim: 4 exec/s: 0 rss: 30Mb
#64\tREDUCE cov: 8 ft: 12 corp: 3/1Kb lim: 4 exec/s: 0 rss: 30Mb
#99\tDONE   cov: 8 ft: 12 corp: 3/1Kb lim: 4 exec/s: 0 rss: 30Mb"""
    assert grown_at(said) == 50
    assert grown_at(said.replace("cov: 8", "cov: 7")) == 0


def test_what_a_target_finds_is_kept(tmp_path: Path) -> None:
    """A decoder that reads a byte too far, and only behind a word that has to be guessed."""
    (tmp_path / "faulty.c").write_text("""
#include "fuzz.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t *exact = fuzz_exact(data, bytes);
    if (bytes > 3 && exact[0] == 'P' && exact[1] == 'R' && exact[2] == 'L')
        fuzz_touch(exact, bytes + 1);
    free(exact);
    return 0;
}
""")
    (program,) = build(["faulty"], tmp_path / "build", harnesses=tmp_path).values()
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    outcome = run(program, seconds=60, corpora=[corpus], crashes=tmp_path / "crashes", seed=1)
    assert outcome.status != 0
    assert "heap-buffer-overflow" in outcome.output
    (kept,) = (tmp_path / "crashes").iterdir()
    assert kept.read_bytes().startswith(b"PRL")
