"""What is run on each kernel: the demos, and tests that say most about a kernel.

Each step is bounded in time and goes by itself: what one of them leaves that had to be killed, or a
guest that died of it, does not keep the others from being run, in another guest.
"""

import itertools
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import results, table
from tests.kernels import debian, guest
from tests.kernels.debian import Kernel, KernelError

TREE = Path(__file__).parents[2]
STEP = Path(__file__).with_name("step.sh")
PYTHON, PRLCTL = ".venv/bin/python", ".venv/bin/prlctl"
LANE = "kernels"
"""What tests/probes.py calls the lane that has what the host lacks."""
STRETCH_EMULATED = 8
"""PRL_LAB_STRETCH where CPUs are emulated: there a healthy prld is late by half a second."""
DOCTOR_LIMIT_S, DEMO_LIMIT_S, FILE_LIMIT_S, TEST_LIMIT_S = 120, 240, 1500, 300
BESIDE_LIMIT_S, BESIDE_TEST_LIMIT_S = 2700, 900
"""What runs beside other tests, with what they leave of the CPUs: 157 tests took 1,230 s so."""
KERNEL_LIMIT_S = 3000
"""All steps on one kernel; what has not begun by then is not run, which is a failure."""
STUCK_S = 60.0
"""How much later than its limit a step ends, or how long nothing begins, in a guest that works."""
PATCHED_UNDER_WAY = "Oops: int3"
"""What the console says when a CPU ran into the breakpoint that stands where the kernel patches
itself (static keys), but after the patch: an emulated CPU may run what it translated before, which
a real one does not. Such a step has one more guest."""
MULTI_BUFFER = (6, 6)
"""The first Linux whose AF_XDP takes packets longer than a frame, which generic XDP is full of."""
REFUSAL = "from Linux 6.6 on AF_XDP takes packets longer than a frame"

DEMOS = (
    "upload --size 64M",
    "download --size 64M --family 6",
    "echo --size 8M",
    "bgp --peer bird",
    "bgp --peer frr --family 6",
    "sessions --count 20 --family both",
    "switchover --size 10M --moves 2",
)
CARRIERS = ("native", "kernel", "mirror")
SHORT_DEMOS = tuple(zip(DEMOS[:4], itertools.cycle(("native", "kernel")), strict=False))
"""Each with a carrier: both have one each way."""
SHORT_TESTS = (
    "-k",
    "not generic and not native",
    "tests/kernel/test_bpf.py",
    "tests/kernel/test_verifier.py",
)
"""Every program is loaded; over frames goes the one of the carrier that `auto` takes there, which
parses and decides as the others do. `make test-kernels` has them all."""
WHOLE_TESTS = ("6.1", debian.NEWEST)
"""The kernels that all of tests/kernel runs on: the oldest and the newest differ most."""
KERNEL_TESTS = (
    "tests/kernel/test_bpf.py",
    "tests/kernel/test_elsewhere.py",
    "tests/kernel/test_snapshot.py",
    "tests/kernel/test_verifier.py",
)
"""Of tests/kernel, what says most about a kernel: for those in between."""
REAL_CPUS = frozenset({"tests/kernel/test_counts.py"})
"""What counts system calls in time: where CPUs are emulated, more time passes for the same work."""
OUTWARDS = frozenset({"tests/kernel/test_dist.py"})
"""What fetches packages: a guest has no network. It builds releases, and asks a kernel nothing."""
SYSTEM_TESTS = (
    # what many machines' kernels lack: VLANs, VRF, several instances
    "tests/system/test_stacked.py",
    "tests/system/test_instances.py",
    # input that waits in the kernel: by nft's own `queue`, where another kernel has xtables' alone
    "tests/system/test_carrier.py",
    # input that goes from kernel to kernel, and bad links with each carrier
    "tests/system/test_mirror.py",
    "tests/system/test_netem.py",
    # one of each of what a kernel's TCP, UDP and namespaces could do otherwise
    "tests/system/test_serve.py::test_both_directions_go_on_at_the_right_byte",
    "tests/system/test_ownership.py::test_strangers_claims_never_silence_and_are_answered",
    "tests/system/test_reprotect.py::test_an_owner_s_prld_is_restarted_while_it_is_alone",
    "tests/system/test_unchanged.py::test_stock_redis_goes_on_with_every_counter",
    "tests/system/test_udp.py::test_a_socket_with_many_peers",
    "tests/system/test_tcp_states.py::test_a_signed_session",
    "tests/system/test_tcp_states.py::test_both_end_at_once",
    "tests/system/test_tcp_states.py::test_multipath_is_refused_with_what_to_do",
    "tests/system/test_firewall.py",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command in the guest; ``refused``: it must fail, with these words."""

    name: str
    command: Sequence[str]
    limit_s: int
    refused: str = ""


@dataclass(slots=True)
class Report:
    """What became of the steps on one kernel, from the lines that step.sh writes."""

    name: str
    steps: Sequence[Step]
    verdicts: dict[int, tuple[str, int]] = field(default_factory=dict)
    """By the step's number: the word, "good" or another one, and seconds."""
    under_way: int | None = None
    again: set[int | None] = field(default_factory=set)
    """The steps that have another guest, as the first one died of its emulation; None: as it
    booted, before any."""
    boots_s: list[float] = field(default_factory=list)
    run_s: float = 0.0
    _began: float = 0.0
    _deadline: float = 0.0

    def tell(self, text: str) -> None:
        """Take whole lines of the guest's, and pass on what people want to read."""
        for line in text.splitlines(keepends=True):
            match line.split():
                case [":", number, "begins"]:
                    self.under_way, self._began = int(number), time.monotonic()
                    self._await(self.steps[self.under_way].limit_s)
                case [":", _, verdict, seconds]:
                    self._end(verdict, int(seconds))
                case _:
                    _say(line)

    def begin(self) -> None:
        """A guest is about to boot."""
        self._await(guest.BOOT_TIMEOUT_S)

    def died(self, error: KernelError) -> None:
        """The guest came to no proper end.

        Raises:
            KernelError: it had not begun a step: another one would not, either.
        """
        number = self.under_way
        by_emulation = PATCHED_UNDER_WAY in str(error) and not guest.has_kvm()
        has_successor = by_emulation and number not in self.again
        if number is not None:
            self._end("DIED", round(time.monotonic() - self._began))
        elif not has_successor:
            raise error
        _say(f"    {error}\n".replace("\n", "\n    ").rstrip(" "))
        if has_successor:
            _say("    the emulation's fault (tests/kernels/lane.py): once more, in another guest\n")
            self.again.add(number)
            if number is not None:
                del self.verdicts[number]

    def is_late(self) -> bool:
        """Whether a step's own limit did not end it, or nothing goes on at all."""
        return time.monotonic() > self._deadline

    def left(self) -> list[int]:
        """The numbers of the steps that have not been run."""
        return [number for number in range(len(self.steps)) if number not in self.verdicts]

    def is_good(self) -> bool:
        """Whether all were run, and were good."""
        return not self.left() and {word for word, _ in self.verdicts.values()} <= {"good"}

    def verdict(self, number: int) -> str:
        """Of one step, with its time."""
        word, seconds = self.verdicts.get(number, ("NOT RUN", 0))
        return f"{word} ({seconds} s)"

    def _await(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds + STUCK_S

    def _end(self, verdict: str, seconds: int) -> None:
        assert self.under_way is not None
        number, self.under_way = self.under_way, None
        self.verdicts[number] = verdict, seconds
        self._await(0)
        _say(f"{self.verdict(number)}: {self.steps[number].name}\n")


def run_programs(folder: Path) -> bool:
    """The BPF programs on Debian 12's kernel, while the CPUs have nothing else to do.

    Nothing in it goes by a clock, so that it may run beside tests that do.

    Raises:
        KernelError: the guest could not be had.
    """
    step = _pytest("BPF programs", SHORT_TESTS, BESIDE_LIMIT_S, BESIDE_TEST_LIMIT_S)
    with debian.kernel(debian.SERIES[0]) as kernel:
        return run(kernel, debian.SERIES[0], [step], folder, gives_way=True).is_good()


def run_short(folder: Path) -> bool:
    """Demos on Debian 12's kernel; on the newest every test that ``folder`` lacks a lane for.

    The newest has all that is lacked. `make test-kernels` runs more of them, on each kernel.

    Raises:
        KernelError: a guest could not be had.
    """
    steps = [_doctor(), *(_demo(demo, mode) for demo, mode in SHORT_DEMOS)]
    with debian.kernel(debian.SERIES[0]) as kernel:
        reports = [run(kernel, debian.SERIES[0], steps, folder)]
    if steps := _lacked(folder):
        with debian.kernel(debian.NEWEST) as kernel:
            reports.append(run(kernel, debian.NEWEST, steps, folder))
    _sum_up(reports)
    return all(report.is_good() for report in reports)


def run_whole(names: Sequence[str], folder: Path) -> bool:
    """All demos with each carrier, from 6.6 on one by generic XDP, too; chosen tests besides.

    Raises:
        KernelError: a guest could not be had.
    """
    began, reports = time.monotonic(), []
    for name in names:
        with debian.kernel(name) as kernel:
            reports.append(run(kernel, name, _whole(name, kernel), folder))
    _sum_up(reports)
    minutes, most = (time.monotonic() - began) / 60, len(names) * KERNEL_LIMIT_S / 60
    _say(f"{minutes:.0f} minutes, of at most {most:.0f} and the booting of guests\n")
    return all(report.is_good() for report in reports)


def run(
    kernel: Kernel, name: str, steps: Sequence[Step], folder: Path, *, gives_way: bool = False
) -> Report:
    """Run the steps on a kernel, telling of each as it ends.

    Raises:
        KernelError: the kernel does not boot.
    """
    report = Report(name, steps)
    how = "KVM" if guest.has_kvm() else "emulated"
    _say(f"== {LANE}-{name}: Linux {kernel.release} ({how})\n")
    ends = time.monotonic() + KERNEL_LIMIT_S
    while report.left() and (left_s := round(ends - time.monotonic())) > 0:
        _boot(kernel, report, left_s, folder, gives_way)
    good = sum(word == "good" for word, _ in report.verdicts.values())
    boots = ", ".join(f"{seconds:.0f} s" for seconds in report.boots_s)
    _say(f"== {LANE}-{name}: {good} of {len(report.steps)} steps were good; ")
    _say(f"booted in {boots}, ran {report.run_s:.0f} s of at most {KERNEL_LIMIT_S}\n")
    return report


def _boot(kernel: Kernel, report: Report, left_s: int, folder: Path, gives_way: bool) -> None:
    """Run what is left in one guest, as far as that goes."""
    environment = {
        results.FOLDER_VARIABLE: "/mnt/results",
        results.LANE_VARIABLE: f"{LANE}-{report.name}",
    }
    if not guest.has_kvm():
        environment["PRL_LAB_STRETCH"] = str(STRETCH_EMULATED)
    report.begin()
    began = time.monotonic()
    try:
        outcome = guest.run(
            kernel,
            ["bash", "-c", "\n".join(_script(report, left_s))],
            timeout=left_s + STUCK_S,
            folder=TREE,
            results=folder,
            environment=environment,
            tell=report.tell,
            is_late=report.is_late,
            gives_way=gives_way,
        )
    except KernelError as error:
        report.died(error)
        report.run_s += time.monotonic() - began
    else:
        report.boots_s.append(outcome.boot_s)
        report.run_s += outcome.run_s


def _whole(name: str, kernel: Kernel) -> list[Step]:
    generic = version(kernel.release) >= MULTI_BUFFER
    steps = [_doctor(), *(_demo(demo, mode) for mode in CARRIERS for demo in DEMOS)]
    asked = _demo(DEMOS[0], "generic")
    if generic:
        steps.append(asked)
    else:
        steps.append(Step(f"{asked.name} is refused", asked.command, DEMO_LIMIT_S, REFUSAL))
    every = {str(path.relative_to(TREE)) for path in TREE.glob("tests/kernel/test_*.py")}
    own = sorted(every - OUTWARDS - (frozenset() if guest.has_kvm() else REAL_CPUS))
    steps += _by_file([*(own if name in WHOLE_TESTS else KERNEL_TESTS), *SYSTEM_TESTS])
    return steps


def version(release: str) -> tuple[int, ...]:
    """The first two numbers of a kernel's release."""
    return tuple(int(part) for part in release.split(".")[:2])


def _doctor() -> Step:
    return Step("doctor", [PRLCTL, "doctor"], DOCTOR_LIMIT_S)


def _demo(demo: str, mode: str) -> Step:
    words = [PRLCTL, "demo", *demo.split(), "--mode", mode]
    return Step(f"demo {demo} ({mode})", words, DEMO_LIMIT_S)


def _by_file(tests: Sequence[str]) -> list[Step]:
    """A step for each file of these files and node ids: none hides what another one did."""
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    return [_pytest(file, found) for file, found in files.items()]


def _pytest(
    name: str, tests: Sequence[str], limit_s: int = FILE_LIMIT_S, test_limit_s: int = TEST_LIMIT_S
) -> Step:
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-o", f"timeout={test_limit_s}"]
    return Step(name, [PYTHON, "-m", "pytest", *options, *tests], limit_s)


def _lacked(folder: Path) -> list[Step]:
    """The tests that the host lacked something for."""
    lanes = results.read(folder) if folder.exists() else {}
    nowhere = sorted(t for t, (lane, _) in table.ran_nowhere(lanes).items() if lane == LANE)
    return _by_file(nowhere)


def _script(report: Report, left_s: int) -> Iterator[str]:
    yield f"LEFT_S={left_s}"
    yield f". {shlex.quote(str(STEP))}"
    for number in report.left():
        step = report.steps[number]
        words = [str(number), str(step.limit_s), step.refused, *step.command]
        yield f"step {shlex.join(words)}"
    yield "exit $failed"


def _sum_up(reports: Sequence[Report]) -> None:
    """A line for each step: what became of it on each kernel."""
    found: dict[str, Mapping[str, str]] = {}
    for report in reports:
        for number, step in enumerate(report.steps):
            found[step.name] = {**found.get(step.name, {}), report.name: report.verdict(number)}
    width = max(map(len, found))
    for name, verdicts in {"": {r.name: r.name for r in reports}, **found}.items():
        cells = (verdicts.get(report.name, "-").ljust(15) for report in reports)
        _say(" ".join([name.ljust(width), *cells]).rstrip() + "\n")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
