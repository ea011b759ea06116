"""What is run on each kernel: the demos, and tests that say most about a kernel.

Each step is bounded in time and goes by itself; a kernel's steps share one guest.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import results, table
from tests.kernels import debian, guest
from tests.kernels.debian import Kernel

TREE = Path(__file__).parents[2]
PYTHON, PRLCTL = ".venv/bin/python", ".venv/bin/prlctl"
LANE = "kernels"
"""What tests/probes.py calls the lane that has what the host lacks."""
STRETCH_EMULATED = 8
"""PRL_LAB_STRETCH where CPUs are emulated: there a healthy prld is late by half a second."""
DEMO_LIMIT_S, TESTS_LIMIT_S, TEST_LIMIT_S = 240, 1500, 600
MULTI_BUFFER = (6, 6)
"""The first Linux whose AF_XDP takes packets longer than a frame, which generic XDP is full of."""
REFUSAL = "from Linux 6.6 on AF_XDP takes packets longer than a frame"

DEMOS = (
    "upload --size 64M",
    "download --size 64M",
    "echo --size 8M",
    "bgp --peer bird",
    "bgp --peer frr",
    "sessions --count 20",
    "switchover --size 10M --moves 2",
)
SHORT_DEMOS = (
    "upload --size 64M",
    "download --size 64M --family 6",
    "echo --size 8M",
    "bgp --peer bird",
)
SHORT_TESTS = ("-k", "not generic", "tests/kernel/test_bpf.py", "tests/kernel/test_verifier.py")
SYSTEM_TESTS = (
    # what many machines' kernels lack: VLANs, VRF, several instances
    "tests/system/test_stacked.py",
    "tests/system/test_instances.py",
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


def run_short(folder: Path) -> bool:
    """Debian 12's kernel in minutes, and every test that the runs in ``folder`` lacked a lane for.

    Raises:
        KernelError: a guest could not be had.
    """
    first = debian.kernel(debian.SERIES[0])
    steps = [
        Step("doctor", [PRLCTL, "doctor"], TEST_LIMIT_S),
        *(_demo(demo, "native") for demo in SHORT_DEMOS),
        _pytest("BPF", SHORT_TESTS),
    ]
    if unrun := _unrun(folder):
        steps.append(_pytest("what the host lacks", unrun))
    good = run(first, debian.SERIES[0], steps, folder)
    if unrun := _unrun(folder):  # for want of something newer
        newest = debian.kernel(debian.NEWEST)
        steps = [_pytest("what the host lacks", unrun)]
        good = run(newest, debian.NEWEST, steps, folder) and good
    return good


def run_whole(name: str, folder: Path) -> bool:
    """All demos in native mode, from 6.6 on in generic mode, too; chosen tests besides.

    Raises:
        KernelError: a guest could not be had.
    """
    kernel = debian.kernel(name)
    generic = version(kernel.release) >= MULTI_BUFFER
    steps = [
        Step("doctor", [PRLCTL, "doctor"], TEST_LIMIT_S),
        *(_demo(demo, "native") for demo in DEMOS),
        *(_demo(demo, "generic") for demo in DEMOS if generic),
    ]
    if not generic:
        refused = _demo(DEMOS[0], "generic")
        steps.append(Step(f"{refused.name}: refused", refused.command, DEMO_LIMIT_S, REFUSAL))
    chosen = () if generic else ("-k", "not generic")
    good = run(kernel, name, steps, folder)
    for tests in (("tests/kernel",), SYSTEM_TESTS):
        steps = [_pytest(tests[0].rpartition("/")[0] + " …", [*chosen, *tests])]
        good = run(kernel, name, steps, folder) and good
    return good


def run(kernel: Kernel, name: str, steps: Sequence[Step], folder: Path) -> bool:
    """Run the steps in one guest, telling of each as it ends; whether all were good.

    Raises:
        KernelError: the guest did not boot, or did not come to its end.
    """
    lane = f"{LANE}-{name}"
    environment = {results.FOLDER_VARIABLE: "/mnt/results", results.LANE_VARIABLE: lane}
    if not guest.has_kvm():
        environment["PRL_LAB_STRETCH"] = str(STRETCH_EMULATED)
    how = "KVM" if guest.has_kvm() else "emulated"
    _say(f"== {lane}: Linux {kernel.release} ({how})\n")
    outcome = guest.run(
        kernel,
        ["bash", "-c", "\n".join(_script(steps))],
        timeout=sum(step.limit_s for step in steps) + 60,
        folder=TREE,
        results=folder,
        environment=environment,
        tell=_say,
    )
    _say(f"== {lane}: booted in {outcome.boot_s:.0f} s, ran {outcome.run_s:.0f} s\n")
    return outcome.status == 0


def version(release: str) -> tuple[int, ...]:
    """The first two numbers of a kernel's release."""
    return tuple(int(part) for part in release.split(".")[:2])


def _demo(demo: str, mode: str) -> Step:
    words = [PRLCTL, "demo", *demo.split(), "--mode", mode]
    return Step(f"demo {demo} ({mode})", words, DEMO_LIMIT_S)


def _pytest(name: str, tests: Sequence[str]) -> Step:
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-o", f"timeout={TEST_LIMIT_S}"]
    return Step(f"tests: {name}", [PYTHON, "-m", "pytest", *options, *tests], TESTS_LIMIT_S)


def _unrun(folder: Path) -> list[str]:
    lanes = results.read(folder) if folder.exists() else {}
    return sorted(t for t, (lane, _) in table.ran_nowhere(lanes).items() if lane == LANE)


def _script(steps: Sequence[Step]) -> Iterator[str]:
    yield """
failed=0
step() { # NAME LIMIT_S WORDS COMMAND...: with WORDS, it is to fail, and to say them
    local name=$1 limit=$2 words=$3 start=$SECONDS verdict=FAILED status=0
    shift 3
    timeout --kill-after=10 "$limit" "$@" > /tmp/said 2>&1 < /dev/null || status=$?
    if [ -z "$words" ] && [ $status = 0 ]; then verdict=good; fi
    if [ -n "$words" ] && [ $status != 0 ] && grep -qF -- "$words" /tmp/said; then verdict=good; fi
    [ $verdict = good ] || failed=1
    echo "$verdict ($((SECONDS - start)) s): $name"
    local shown=30
    [ $verdict = good ] || shown=400
    tail -n $shown /tmp/said | sed 's/^/    /'
}"""
    for step in steps:
        words = [step.name, str(step.limit_s), step.refused, *step.command]
        yield f"step {shlex.join(words)}"
    yield "exit $failed"


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
