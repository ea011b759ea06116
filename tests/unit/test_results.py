"""What a run leaves on record, and what the table makes of it."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import again, results, table
from tests.results import FOLDER_VARIABLE, LANE_VARIABLE
from tests.sim import mutants

ROOT = Path(__file__).parents[2]
SKIPS = "tests/probes.py"  # the one place
SAMPLE = """
import pytest
from tests import probes
from tests.probes import Probe, require

for name in {lacks}:
    probes.PROBES[name] = Probe(name, "buy one", lambda: False)

def test_good(): pass
@pytest.mark.xfail(reason="so")
def test_fails_as_it_must(): assert False
@pytest.mark.needs("vrf")
def test_marked(): pass
def test_asks(): require("spin")
@pytest.fixture
def broken():
    yield
    raise ValueError
def test_fixture(broken): pass
@pytest.mark.vm
def test_in_machines(): pass
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest, with the project's conftest, on the text of a test module, in a lane."""
    module = tmp_path / "unit" / "test_sample.py"
    module.parent.mkdir()

    def run(text: str, lane: str, *options: str) -> "subprocess.CompletedProcess[str]":
        module.write_text(text)
        command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
        command += ["-p", "pytest_timeout"]  # pyproject.toml has an option of it
        command += ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={tmp_path}", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), LANE_VARIABLE: lane}
        environment[FOLDER_VARIABLE] = str(tmp_path / "results")
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # quick
        return subprocess.run(
            [*command, str(module)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_each_test_of_a_run_is_on_record_with_its_outcome(run: Run, tmp_path: Path) -> None:
    run(SAMPLE.format(lacks=["vrf", "spin"]), "host", "-m", "not vm")
    (lane,) = results.read(tmp_path / "results").values()
    assert lane.kernel == os.uname().release
    found = {name.partition("::")[2]: result for name, result in lane.results.items()}
    assert {name: (result.outcome, result.probe) for name, result in found.items()} == {
        "test_good": ("passed", ""),
        "test_fails_as_it_must": ("passed", ""),
        "test_marked": ("skipped", "vrf"),
        "test_asks": ("skipped", "spin"),
        "test_fixture": ("failed", ""),
        "test_in_machines": ("collected", ""),
    }
    assert found["test_in_machines"].kind == "vm"
    assert (found["test_marked"].kind, found["test_marked"].needs) == ("unit", ("vrf",))


def test_the_table_tells_what_ran_nowhere_and_who_could_run_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(SAMPLE.format(lacks=["vrf"]), "host", "-m", "not vm")
    run(SAMPLE.format(lacks=["vrf"]), "kernels-0.1", "-k", "good or marked")
    folder = str(tmp_path / "results")

    assert table.main([folder]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown if line.startswith("unit/")] == [
        ["unit/test_sample.py", "4/6", "1F", "1/6"]
    ]
    assert shown[-3:] == [
        "needs lane kernels: unit/test_sample.py, 1 of its tests (for want of vrf)",
        "needs lane vm: unit/test_sample.py, 1 of its tests (it was selected in no run)",
        "FAILED: unit/test_sample.py::test_fixture (host)",
    ]

    assert table.main([folder, "--unrun", "kernels"]) == 0
    assert capsys.readouterr().out == "unit/test_sample.py::test_marked\n"

    assert table.main([folder, "--complete", "kernels"]) == 1
    assert "RAN NOWHERE: unit/test_sample.py::test_marked" in capsys.readouterr().out

    run(SAMPLE.format(lacks=["vrf"]).replace("False)", "True)"), "kernels-9.9", "-k", "marked")
    assert table.main([folder, "--complete", "kernels"]) == 0


SLOW = """{"schema": 1, "lane": "host", "kernel": "6.1"}
{"test": "unit/test_a.py::test_a", "outcome": "over", "seconds": 2.0}
{"test": "unit/test_a.py::test_b", "outcome": "over", "seconds": 3.2}
{"test": "unit/test_a.py::test_b", "outcome": "over", "seconds": 3.0}
{"test": "unit/test_b.py::test_a", "outcome": "over", "seconds": 9.0}
"""


def test_the_table_tells_which_modules_took_the_longest(run: Run, tmp_path: Path) -> None:
    run("import time\ndef test_sleeps(): time.sleep(0.2)\n", "host")
    (lane,) = results.read(tmp_path / "results").values()
    assert lane.results["unit/test_sample.py::test_sleeps"].seconds >= 0.2
    (tmp_path / "host.jsonl").write_text(SLOW)
    assert table.slowest(results.read(tmp_path)) == [
        "took     9 s: unit/test_b.py (host)",
        "took     8 s: unit/test_a.py (host)",
    ]


def test_a_program_that_set_up_should_have_brought_is_missed_nowhere(
    run: Run, tmp_path: Path
) -> None:
    run(SAMPLE.format(lacks=["spin"]), "host", "-k", "asks")
    assert table.main([str(tmp_path / "results")]) == 1


def test_who_ran_it_once_ran_it(run: Run, tmp_path: Path) -> None:
    run(SAMPLE.format(lacks=[]), "host", "-k", "good")
    run(SAMPLE.format(lacks=[]), "host", "-k", "asks")
    (lane,) = results.read(tmp_path / "results").values()
    assert lane.results["unit/test_sample.py::test_good"].outcome == "passed"


def test_a_record_that_its_machine_could_not_end_counts_so_far(run: Run, tmp_path: Path) -> None:
    run(SAMPLE.format(lacks=[]), "guest", "-k", "good")
    (path,) = (tmp_path / "results").iterdir()
    with path.open("a") as file:
        file.write('{"test": "unit/test_sample.py::test_as')
    (lane,) = results.read(path.parent).values()
    assert lane.results["unit/test_sample.py::test_good"].outcome == "passed"


@pytest.mark.parametrize("text", ["", "no record\n", '{"schema": 99}\n', "[]\n"])
def test_what_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.jsonl is no record"):
        results.read(tmp_path)


@pytest.mark.parametrize("lane", ["", "../up", "two words"])
def test_a_bad_lane_is_refused(run: Run, lane: str) -> None:
    done = run(SAMPLE.format(lacks=[]), lane)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in done.stderr
    assert LANE_VARIABLE in done.stderr


def test_a_skip_without_a_name_is_a_failure(run: Run) -> None:
    text = "import pytest\ndef test_a(): pytest.skip('just so')\n"
    done = run(text, "host")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "skipped, but not by a probe" in done.stdout


def test_a_test_that_is_not_even_begun_is_none_that_failed_as_it_must(
    run: Run, tmp_path: Path
) -> None:
    text = "import pytest\n@pytest.mark.xfail(run=False, reason='so')\ndef test_a(): pass\n"
    assert run(text, "host").returncode == pytest.ExitCode.TESTS_FAILED
    (lane,) = results.read(tmp_path / "results").values()
    assert [result.outcome for result in lane.results.values()] == ["failed"]


def test_nothing_skips_but_probes() -> None:
    skipping = {"skip", "skipif", "importorskip", "SkipTest"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in skipping
        and str(path.relative_to(ROOT)) != SKIPS
    ]  # fmt: skip
    assert found == []


UNSTEADY = """
import pytest
from pathlib import Path

@pytest.mark.kernel
def test_fails_once():
    seen = Path(__file__).with_name("seen")
    assert seen.exists() or seen.touch()
@pytest.mark.kernel
@pytest.mark.parametrize("n", range({fails}))
def test_fails(n): assert False
def test_of_no_lab(): assert False
"""


@pytest.mark.parametrize(
    ("fails", "status", "said"),
    [
        (0, 0, "run again by themselves: 1 that failed"),
        (1, 1, "run again by themselves: 2 that failed"),
        (again.AGAIN_MAX, 1, "9 tests failed: too many to be run again"),
    ],
)
def test_a_few_that_failed_are_run_again_by_themselves(
    run: Run, tmp_path: Path, fails: int, status: int, said: str
) -> None:
    chosen = [] if fails else ["-k", "once"]
    assert run(UNSTEADY.format(fails=fails or 1), "host", *chosen).returncode == 1
    done = subprocess.run(
        [sys.executable, "-m", "tests.again", str(tmp_path / "results"), "host"],
        cwd=tmp_path,
        env=again_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[0]) == (status, said), done
    found = table.unsteady(results.read(tmp_path / "results"))
    assert found == (["unit/test_sample.py::test_fails_once"] if fails < again.AGAIN_MAX else [])


def again_environment(tmp_path: Path) -> dict[str, str]:
    """That of `run`, whose options come by the environment."""
    options = "-p tests.conftest -p no:cacheprovider -p pytest_timeout"
    options += f" -c {ROOT / 'pyproject.toml'} --rootdir={tmp_path}"
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTEST_ADDOPTS": options,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        LANE_VARIABLE: "host",
        FOLDER_VARIABLE: str(tmp_path / "results"),
    }


def test_a_test_that_a_mutant_fails_is_no_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(*_: object, env: dict[str, str], **__: object) -> "subprocess.CompletedProcess[str]":
        said = ",".join({FOLDER_VARIABLE, LANE_VARIABLE} & env.keys())
        return subprocess.CompletedProcess([], 0, said, "")

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(LANE_VARIABLE, "host")
    monkeypatch.setattr(subprocess, "run", run)
    assert mutants.hunt(0, tmp_path, 0) == ""
