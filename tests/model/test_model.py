"""The spin model prl.pml: it holds in every scenario, and each rule that is broken is noticed.

README.md says what is modelled; a scenario is a set of bounds (-D), searched exhaustively.

Checks I1, I2, I3, I5, I6, I7, L1, L2, L3, L4, L10, R21.
"""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("prl.pml")
RUN_TIMEOUT_S = 240
DEPTH_MAX = 100_000  # steps of one run; all are far shorter, and pan says so when they are not
STATES_MAX = 20_000_000

pytestmark = pytest.mark.needs("spin")

SCENARIOS = {
    # One connection: set-up, every NACK, a flow that is stuck, VOID, flush, and set-up again.
    "flow": "IN=3 OUT=2 GENERATIONS=2 REFUSALS=2 STUCK=1",
    # The link is lost: take-over within the lease, renounce over the LAN, opening after it.
    "link": "IN=1 OUT=1 LEASES=2 LOSSES=1",
    # The primary loses its power, or its prld is killed and its kernel goes on.
    "primary-dies": "IN=2 OUT=1 LEASES=1 CRASHES=1",
    "secondary-dies": "IN=2 OUT=1 LEASES=1 CRASHES=2",
    # The link comes back: HELLO, a new epoch, a new snapshot.
    "epochs": "IN=1 OUT=1 GENERATIONS=2 LEASES=1 EPOCHS=2 LOSSES=1",
    # The primary loses link and LAN, and the LAN comes back first, or last.
    "isolated": "IN=1 OUT=0 LEASES=1 EPOCHS=2 LOSSES=1 ISOLATED=1",
    # The lease ends, and the primary is confirmed dead after that, or not.
    "fencing": "IN=1 OUT=1 LEASES=1 CRASHES=1 LOSSES=1 FENCING=1",
    # The primary renounces over the link, which may be lost then: it may come back.
    "word": "IN=1 OUT=1 LEASES=1 WORD=1 LOSSES=1 REFUSALS=2",
    "word-epochs": "IN=1 OUT=0 GENERATIONS=2 LEASES=1 WORD=2 EPOCHS=2 LOSSES=1",
    # A planned move: drained, what waits is relayed.
    "planned": "IN=2 OUT=1 LEASES=1 WORD=2",
    # After a flap it goes on with its shadow, or does not; a NACK was lost with the link.
    "resync": "IN=1 OUT=1 LEASES=1 EPOCHS=2 LOSSES=1 RESYNC=1",
    "resync-refused": "IN=2 OUT=0 EPOCHS=2 LOSSES=1 REFUSALS=1 RESYNC=1",
    # A store says who goes on alone; its word may be late, and so may that of the other node.
    "arbiter": "IN=1 OUT=1 LEASES=1 LOSSES=1 ARBITER=1",
    "arbiter-dies": "IN=1 OUT=0 LEASES=1 CRASHES=1 LOSSES=1 ARBITER=1",
    "arbiter-epochs": "IN=0 OUT=0 LEASES=1 EPOCHS=2 LOSSES=2 ARBITER=1",
}
# Every run of the model ends; without this, `timeout` in it would prove nothing about I5.
ENDING = "IN=1 OUT=0 LEASES=1 EPOCHS=2 LOSSES=1 CRASHES=3 REFUSALS=1"

# A rule that is broken, the scenario that shows it, the property that must fail.
MUTANTS = {
    "ACK_BEFORE_L4": ("flow", "I1"),
    "RELEASE_WITHOUT_ACK": ("flow", "I1"),
    "NACK_RELEASES": ("flow", "I1"),
    "LATER_ACK_RELEASES": ("flow", "I1"),
    "REFUSED_BUT_FED": ("flow", "I1"),
    "NEWER_OVERTAKES": ("flow", "I1"),
    "FLUSH_ORDER": ("flow", "I2"),
    "OUTPUT_WITHOUT_COMMIT": ("flow", "I3"),
    "ACKNOWLEDGED_BY_PROXY": ("flow", "I3"),
    "STALE_SETUP_DONE": ("flow", "I3"),
    "NO_TIMEOUT": ("flow", "I5"),
    "NEVER_BY_LEASE": ("link", "I5"),
    "WORD_OVERTAKES": ("word", "I6"),
    "WORD_BEFORE_SILENCE": ("word", "I7"),
    "WORD_WITHOUT_LEASE": ("word", "I7"),
    "SPEAKS_AGAIN_AT_ONCE": ("word", "I7"),
    "NO_RELAY": ("planned", "I6"),
    "OPEN_WITHOUT_VOID": ("primary-dies", "I7"),
    "VOID_IGNORED": ("primary-dies", "I7"),
    "TAKE_OVER_VOID": ("primary-dies", "I7"),
    "NO_CONFIRM": ("primary-dies", "I7"),
    "KERNEL_OPENS_AT_ONCE": ("primary-dies", "I7"),
    "OPEN_WITHOUT_LEASE": ("link", "I7"),
    "TAKE_OVER_WITHOUT_LEASE": ("link", "I7"),
    "SHORT_HOLD": ("link", "I7"),
    "LEASE_BY_LAN": ("link", "I7"),
    "LEASE_FROM_RECEIPT": ("link", "I7"),
    "NO_CLAIM": ("link", "I7"),
    "NO_DEADLINE": ("link", "I7"),
    "LAN_WORD_WITHOUT_VOID": ("link", "I7"),
    "NO_EVIDENCE": ("isolated", "I7"),
    "SPEAKS_UNASKED": ("isolated", "I7"),
    "FENCE_UNCONFIRMED": ("fencing", "I7"),
    "STALE_LAN_WORD": ("epochs", "I7"),
    "SHADOW_OF_OLD_EPOCH": ("epochs", "I7"),
    "HELLO_KEEPS_SHADOW": ("epochs", "I7"),
    "VOID_BEFORE_POSITION": ("resync", "I1"),
    "STAYS_ALONE": ("resync", "I3"),
    "SUSPENDED_SPEAKS": ("resync", "I7"),
    "REFUSED_UNHEARD": ("resync-refused", "I1"),
    "TAKES_AT_ONCE": ("arbiter", "I7"),
    "BOTH_WIN": ("arbiter", "I7"),
    "OPENS_UNASKED": ("arbiter", "I7"),
    "KERNEL_SPEAKS_ON": ("arbiter-dies", "I7"),
    "WORD_AFTER_HELLO": ("arbiter-epochs", "I7"),
    "WORD_OUTLIVES_HELLO": ("arbiter-epochs", "I7"),
    "WIN_OUTLIVES_HELLO": ("arbiter-epochs", "I7"),
}


@dataclass(frozen=True)
class Result:
    """What pan said: the property that failed (or ""), the states it stored.

    ``steps`` and ``unreached`` count the model's steps by line: an inline has one for each use.
    """

    failed: str
    states: int
    steps: Counter[int]
    unreached: Counter[int]
    report: str


def search(folder: Path, bounds: str, mutant: str = "", *, cycles: bool = False) -> Result:
    """Compile one configuration of the model and search all of it."""
    folder.mkdir()
    macros = [f"-D{bound}" for bound in bounds.split()]
    macros += [f"-DMUTANT_{mutant}"] if mutant else []
    kind = ["-DNP"] if cycles else ["-DSAFETY"]
    # Without optimization: compiling takes longer than most searches.
    commands = [
        ["spin", "-a", *macros, str(MODEL)],
        ["gcc", "-O0", "-w", "-DNOFAIR", "-DCOLLAPSE", *kind, "-o", "pan", "pan.c"],
        ["./pan", "-E", f"-m{DEPTH_MAX}", "-w22", *(["-l"] if cycles else [])],
    ]
    said = ""
    for command in commands:
        said = run(folder, command)
    assert "max search depth too small" not in said
    assert "Search not completed" not in said or "errors: 1" in said
    states = re.search(r"(\d+) states, stored", said)
    errors = re.search(r"errors: (\d+)", said)
    assert states is not None
    assert errors is not None
    failed = re.search(r"\|\|\s*(I\d)\)", said)
    steps = Counter(int(line) for line in re.findall(r"\.pml:(\d+)", run(folder, ["./pan", "-d"])))
    unreached = Counter(int(line) for line in re.findall(r"\.pml:(\d+), state", said))
    name = failed.group(1) if failed else "not a property: " + said.partition("\n")[0]
    if errors.group(1) != "0":
        said += trail(folder, macros)
    return Result(
        failed=name if errors.group(1) != "0" else "",
        states=int(states.group(1)),
        steps=steps,
        unreached=unreached,
        report=said,
    )


def trail(folder: Path, macros: list[str]) -> str:
    """The steps that led to the error, messages first, then every variable."""
    (found,) = folder.glob("*.trail")
    return run(folder, ["spin", "-k", str(found), "-g", "-s", "-r", *macros, str(MODEL)])


def run(folder: Path, command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command)}: {said}"
    return said


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Result]]]:
    """All searches at once, on all cores, the long ones first."""
    top = tmp_path_factory.mktemp("spin")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {
            name: pool.submit(search, top / name, bounds) for name, bounds in SCENARIOS.items()
        }
        running["ending"] = pool.submit(search, top / "ending", ENDING, cycles=True)
        for name, (scenario, _) in MUTANTS.items():
            running[name] = pool.submit(search, top / name, SCENARIOS[scenario], name)
        yield running
        for future in running.values():
            future.cancel()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_model_holds(
    scenario: str, searches: dict[str, Future[Result]], summary: Callable[[str], None]
) -> None:
    result = searches[scenario].result()
    summary(f"model {scenario}: {result.states:,} states, all there are")
    assert result.failed == "", result.report
    assert result.states < STATES_MAX


def test_every_run_ends(
    searches: dict[str, Future[Result]], summary: Callable[[str], None]
) -> None:
    result = searches["ending"].result()
    summary(f"model, cycles: none in {result.states:,} states")
    assert result.failed == "", result.report


def test_every_line_of_the_model_is_reached(searches: dict[str, Future[Result]]) -> None:
    results = [searches[scenario].result() for scenario in SCENARIOS]
    lines = {line for result in results for line in result.steps}
    reached = {line for r in results for line in lines if r.steps[line] > r.unreached[line]}
    text = MODEL.read_text().splitlines()
    left = {line: text[line - 1].strip() for line in lines - reached}
    # The monitor's steps are what must never happen.
    assert [step for step in left.values() if not re.search(r"-> MUST\(I\d, false\)$", step)] == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_broken_rule_is_noticed(
    mutant: str, searches: dict[str, Future[Result]], summary: Callable[[str], None]
) -> None:
    result = searches[mutant].result()
    summary(f"mutant {mutant}: {result.failed} fails after {result.states:,} states")
    assert result.failed == MUTANTS[mutant][1], result.report


def test_every_mutant_of_the_model_is_listed() -> None:
    assert set(re.findall(r"MUTANT_(\w+)", MODEL.read_text())) == set(MUTANTS)
