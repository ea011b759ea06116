"""The steps of a kernel's lane, in a shell of this machine's instead of a guest."""

import re
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import debian, guest, lane
from tests.kernels.debian import Kernel, KernelError
from tests.kernels.guest import Outcome
from tests.kernels.lane import Step

KERNEL = Kernel(Path("/nowhere"), "6.1.0-99-amd64")
PANIC = "read -r _ _ _ shell _ </proc/$PPID/stat; kill -KILL $shell"


def step(script: str, limit_s: int = 60, refused: str = "") -> Step:
    return Step(script, ["sh", "-c", script], limit_s, refused)


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each guest was asked to run; one whose shell is killed has died of what was asked."""
    asked: list[str] = []

    def run(_: Kernel, command: list[str], *, tell: Callable[[str], Any], **__: Any) -> Outcome:
        asked.append(command[-1])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as shell:
            assert shell.stdout is not None
            for line in shell.stdout:
                tell(line)
        if shell.returncode < 0:
            raise KernelError(f"the guest ended with 1\n{command[-1]}")
        return Outcome(shell.returncode, "", 1.0, 1.0)

    monkeypatch.setattr(guest, "run", run)
    return asked


def verdicts(*steps: Step) -> dict[str, str]:
    report = lane.run(KERNEL, "6.1", steps, Path("/nowhere"))
    found = {one.name: report.verdict(n).partition(" (")[0] for n, one in enumerate(steps)}
    assert report.is_good() == (set(found.values()) == {"good"})
    return found


def test_a_step_says_how_it_ended(boots: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused = step("echo no way; exit 1", refused="no way")
    assert verdicts(step("echo :; echo fine"), step("echo bad; exit 3"), refused) == {
        "echo :; echo fine": "good",
        "echo bad; exit 3": "FAILED",
        "echo no way; exit 1": "good",
    }
    said = capsys.readouterr().out
    assert re.search(r"^FAILED \(\d+ s\): echo bad; exit 3\n    bad$", said, re.MULTILINE)
    assert "2 of 3 steps were good; booted in 1 s, ran 1 s" in said
    assert len(boots) == 1


def test_who_should_be_refused_must_be_and_with_these_words(boots: list[str]) -> None:
    found = verdicts(step("echo no", refused="no"), step("echo yes; exit 1", refused="no"))
    assert set(found.values()) == {"FAILED"}
    assert len(boots) == 1


def test_after_a_step_that_had_to_be_killed_the_others_have_a_guest_of_their_own(
    boots: list[str],
) -> None:
    hanging = step("exec sleep 98", limit_s=1)
    assert verdicts(step("true"), hanging, step(":")) == {
        "true": "good",
        hanging.name: "KILLED",
        ":": "good",
    }
    assert len(boots) == 2


def test_after_one_that_its_guest_died_of_too(
    boots: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    deadly = step(PANIC)
    assert verdicts(deadly, step("true")) == {deadly.name: "DIED", "true": "good"}
    assert "    the guest ended with 1\n" in capsys.readouterr().out
    assert len(boots) == 2


def test_a_guest_that_its_emulation_killed_has_one_successor(
    boots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "has_kvm", lambda: False)
    unlucky = step(f"echo '{lane.PATCHED_UNDER_WAY}'; {PANIC}")
    assert verdicts(unlucky, step("true")) == {unlucky.name: "DIED", "true": "good"}
    assert len(boots) == 3
    monkeypatch.setattr(guest, "has_kvm", lambda: True)
    assert verdicts(unlucky) == {unlucky.name: "DIED"}
    assert len(boots) == 4


def test_so_has_one_that_it_killed_as_it_booted(
    boots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    works, deaths = guest.run, [lane.PATCHED_UNDER_WAY]

    def run(*words: Any, **more: Any) -> Outcome:
        if deaths:
            raise KernelError(deaths.pop())
        return works(*words, **more)

    monkeypatch.setattr(guest, "run", run)
    monkeypatch.setattr(guest, "has_kvm", lambda: False)
    assert verdicts(step("true")) == {"true": "good"}
    assert len(boots) == 1
    deaths += 2 * [lane.PATCHED_UNDER_WAY]
    with pytest.raises(KernelError):
        verdicts(step("true"))


@pytest.mark.usefixtures("boots")
def test_what_has_not_begun_in_time_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "KERNEL_LIMIT_S", 1)
    long = step("exec sleep 97")
    assert verdicts(long, step("true")) == {long.name: "KILLED", "true": "NOT RUN"}


def test_a_kernel_that_does_not_boot_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> Outcome:
        raise KernelError("did not boot")

    monkeypatch.setattr(guest, "run", run)
    with pytest.raises(KernelError):
        lane.run(KERNEL, "6.1", [step("true")], Path("/nowhere"))


@pytest.mark.usefixtures("boots")
def test_a_step_that_its_limit_does_not_end_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    report = lane.Report("6.1", [step("true", limit_s=0)])
    report.begin()
    assert not report.is_late()
    monkeypatch.setattr(lane, "STUCK_S", 0.0)
    report.tell(": 0 begins\n")
    assert report.is_late()


def test_each_file_of_the_whole_lane_has_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    every = {f"tests/kernel/{p.name}" for p in (lane.TREE / "tests/kernel").glob("test_*.py")}
    assert every >= {*lane.KERNEL_TESTS, *lane.REAL_CPUS, *lane.OUTWARDS}
    monkeypatch.setattr(guest, "has_kvm", lambda: True)
    for name in debian.SERIES:
        names = [one.name for one in lane._whole(name, KERNEL)]
        assert len(set(names)) == len(names)
        assert (every - lane.OUTWARDS <= set(names)) == (name in lane.WHOLE_TESTS)
        assert "demo upload --size 64M (generic) is refused" in names
    monkeypatch.setattr(guest, "has_kvm", lambda: False)
    assert not (lane.REAL_CPUS | lane.OUTWARDS) & {one.name for one in lane._whole("6.1", KERNEL)}
    newer = [one.name for one in lane._whole("6.12", Kernel(KERNEL.folder, "6.12.9"))]
    carriers = {f"demo {demo} ({mode})" for demo in lane.DEMOS for mode in lane.CARRIERS}
    assert carriers | {f"demo {lane.DEMOS[0]} (generic)"} <= {*newer}


SKIPPED = """{"schema": 1, "lane": "host", "kernel": "6.0"}
{"test": "tests/kernel/test_a.py::test_b", "outcome": "collected", "kind": "kernel", "needs": []}
{"test": "tests/kernel/test_a.py::test_b", "outcome": "skipped", "probe": "vrf"}
"""


def test_the_short_lane_runs_what_the_host_lacks_on_the_newest_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[str]] = {}

    def run(kernel: Kernel, name: str, steps: list[Step], _: Path) -> lane.Report:
        asked[name] = [one.name for one in steps]
        return lane.Report(kernel.release, steps, dict.fromkeys(range(len(steps)), ("good", 0)))

    monkeypatch.setattr(lane, "run", run)
    monkeypatch.setattr(debian, "kernel", lambda _: nullcontext(KERNEL))
    (tmp_path / "host.jsonl").write_text(SKIPPED)
    assert lane.run_short(tmp_path)
    first, newest = asked["6.1"], asked[debian.NEWEST]
    assert first == ["doctor", *(f"demo {demo} ({mode})" for demo, mode in lane.SHORT_DEMOS)]
    assert newest == ["tests/kernel/test_a.py"]


def test_bpf_programs_give_way_to_the_tests_that_they_run_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone of all steps they have no time to keep."""
    asked: list[tuple[str, bool]] = []

    def run(
        kernel: Kernel, _: str, steps: list[Step], _folder: Path, *, gives_way: bool
    ) -> lane.Report:
        asked.extend((one.name, gives_way) for one in steps)
        return lane.Report(kernel.release, steps, {0: ("good", 1)})

    monkeypatch.setattr(lane, "run", run)
    monkeypatch.setattr(debian, "kernel", lambda _: nullcontext(KERNEL))
    assert lane.run_programs(tmp_path)
    assert asked == [("BPF programs", True)]


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one kernel, and a mirror that has it."""
    monkeypatch.setattr(debian, "cache", lambda: tmp_path)
    monkeypatch.setattr(debian.Apt, "update", lambda _: None)
    packages = [debian.Package("6.1.9-1", ())]
    monkeypatch.setattr(debian.Apt, "packages", lambda _: packages)

    def unpack(_: debian.Apt, package: debian.Package, place: Path) -> None:
        place.mkdir()
        (place / "ready").write_text(f"{package.version}-amd64\n")

    monkeypatch.setattr(debian, "_unpack", unpack)
    return tmp_path


def test_a_kernel_that_is_used_is_not_removed_when_there_is_a_newer_one(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with debian.kernel("6.1") as old:
        newer = [debian.Package("6.1.10-1", ())]
        monkeypatch.setattr(debian.Apt, "packages", lambda _: newer)
        with debian.kernel("6.1") as new:
            assert new.release == "6.1.10-1-amd64"
        assert old.folder.exists()
    with debian.kernel("6.1") as new:
        assert not old.folder.exists()
    assert [path.name for path in kernels.glob("linux-*")] == [new.folder.name]
