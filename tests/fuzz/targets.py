"""The targets: what each is built of, how it is built and run, and what came of a run."""

import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.sim.build import LIBRARIES, sources

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
KEPT = ROOT / ".fuzz"
"""What runs leave: ``build``, ``corpus`` and ``crashes``."""

DATAPATH = tuple(str(path.relative_to(ROOT)) for path in sources() if path.name != "machine.c")
"""The datapath as it is shipped; a harness brings the machine."""
TARGETS: dict[str, tuple[str, ...]] = {
    "bgp": (
        *(f"userspace/bgp/{name}.c" for name in ("message", "pack", "prefix", "rib", "routes")),
        *("userspace/bgp/sets.c", "userspace/flow/siphash.c"),
    ),
    "client": ("userspace/client/json.c",),
    "datapath": DATAPATH,
    "elide": ("userspace/wire/elide.c", "userspace/tcp/packet.c", "userspace/tcp/md5sig.c"),
    "gro": (
        *(
            "userspace/io/gro.c",
            "userspace/io/tap.c",
            "userspace/tcp/packet.c",
            "userspace/tcp/md5sig.c",
        ),
        "tests/fuzz/fuzz_tap.c",
    ),
    "hello": ("userspace/wire/wire.c",),
    "json": ("userspace/client/json.c",),
    "link": ("userspace/io/link.c", "userspace/wire/wire.c"),
    "md5sig": ("userspace/tcp/md5sig.c", "userspace/tcp/packet.c"),
    "moment": (),
    "packet": ("userspace/tcp/packet.c", "userspace/tcp/md5sig.c"),
    "setup": ("userspace/wire/wire.c", "userspace/tcp/moment.c"),
    "tap": (
        *("userspace/io/tap.c", "userspace/tcp/packet.c", "userspace/tcp/md5sig.c"),
        "tests/fuzz/fuzz_tap.c",
    ),
    "wire": ("userspace/wire/wire.c",),
}
"""Each target's sources besides its harness, which may include others."""
RACES = "races"
"""No target: its threads are for the thread sanitizer."""
SANITIZERS = {RACES: "thread"}
LINKED: dict[str, tuple[str, ...]] = {
    "md5sig": ("crypto",),
    "datapath": LIBRARIES,
    RACES: LIBRARIES,
}
"""The libraries that they need."""
DEFINED: dict[str, tuple[str, ...]] = {
    "datapath": (
        *("PRL_DP_FRAMES=64", "PRL_DP_HOLDS=64", "PRL_DP_OUTPUT_BUFFERS=8"),
        "PRL_MIRROR_COPY_BYTES=300",
        *("PRL_DP_LINK_TX_BYTES=0x40000", "PRL_LINK_RX_BYTES=0x200000u"),
        *("PRL_MOMENT_PIECE=2000", "PRL_MOMENT_QUEUES_MAX=0x4000"),
    ),
}
"""Less memory than the product has: it ends within an input, and eight times as many inputs are
tried in the same time, as the sanitizer marks every byte that is allocated."""

FLAGS = (
    *("-std=gnu11", "-g", "-O1", "-UNDEBUG", "-Wall", "-Wextra", "-Werror"),
    *("-fno-omit-frame-pointer", "-fno-sanitize-recover=all"),
    *("-I", "bpf", "-I", "userspace", "-I", "userspace/client", "-I", "tests/fuzz"),
    *("-I", "tests/sim"),
)
INPUT_MAX_BYTES = 70_000
"""Longer than any message or packet."""
HANG_S = 120
"""An input that takes so long is one that stalls."""
MEMORY_MAX_MB = 2048


@dataclass(frozen=True)
class Outcome:
    """What came of a run of one target.

    Attributes:
        status: the exit status of the fuzzer, 0 when nothing was found.
        executions: how many inputs were tried.
        edges: how many edges of its control flow were reached, of ``edges_all``.
        features: what libFuzzer counts besides: edges by how often, comparisons by their operands.
        grown_at: after how many executions the last edge was found that no input had reached.
        output: what the fuzzer wrote.
    """

    status: int
    executions: int
    edges: int
    edges_all: int
    features: int
    grown_at: int
    output: str


def build(names: Sequence[str], folder: Path, harnesses: Path = HERE) -> dict[str, Path]:
    """Build targets, each a program in ``folder`` made of ``harnesses/NAME.c``; return them.

    Raises:
        subprocess.CalledProcessError: a compiler refused; its words are on standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    headers = [
        path
        for where in ("bpf", "userspace", "tests/fuzz", "tests/sim")
        for path in _headers(where)
    ]

    def one(name: str) -> Path:
        program = folder / name
        parts = DATAPATH if name == RACES else TARGETS.get(name, ())
        written = [str(harnesses / f"{name}.c"), *parts]
        inputs = [*(ROOT / source for source in written), *headers, Path(__file__)]
        if program.exists() and program.stat().st_mtime >= max(
            path.stat().st_mtime for path in inputs
        ):
            return program
        fresh = program.with_suffix(".new")
        libraries = [f"-l{library}" for library in LINKED.get(name, ())]
        sanitizers = SANITIZERS.get(name, "fuzzer,address,undefined")
        defined = [f"-D{each}" for each in DEFINED.get(name, ())]
        flags = (*FLAGS, *defined, f"-fsanitize={sanitizers}")
        command = ["clang", *flags, *written, "-o", str(fresh), *libraries]
        subprocess.run(command, cwd=ROOT, check=True)
        fresh.rename(program)
        return program

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def _headers(where: str) -> list[Path]:
    """Everything that a source there may include: harnesses include sources, too."""
    return [path for path in (ROOT / where).rglob("*") if path.suffix in {".h", ".def", ".c"}]


def run(
    program: Path, *, seconds: int, corpora: Sequence[Path], crashes: Path, seed: int = 0
) -> Outcome:
    """Fuzz for so many seconds, from ``corpora``, of which the first gets what is new.

    ``seed`` 0: another one each time; the output tells it. An input that breaks something is put
    into ``crashes``.
    """
    crashes.mkdir(parents=True, exist_ok=True)
    command = [
        *(str(program), f"-max_total_time={seconds}", f"-seed={seed}"),
        *(f"-max_len={INPUT_MAX_BYTES}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MAX_MB}"),
        *("-print_final_stats=1", "-use_value_profile=1", f"-artifact_prefix={crashes}/"),
        *map(str, corpora),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    text = done.stdout + done.stderr
    return Outcome(
        status=done.returncode,
        executions=_last(r"stat::number_of_executed_units: +(\d+)", text),
        edges=_last(r"\bcov: (\d+)", text),
        edges_all=_last(r"\((\d+) inline 8-bit counters\)", text),
        features=_last(r"\bft: (\d+)", text),
        grown_at=grown_at(text),
        output=text,
    )


def grown_at(text: str) -> int:
    """Where libFuzzer's output first tells of as many edges as at its end; 0: from the start on."""
    first: dict[int, int] = {}
    for executions, edges in re.findall(r"^#(\d+)\s+\w+\s+cov: (\d+)", text, re.MULTILINE):
        first.setdefault(int(edges), int(executions))
    return first[max(first)] if len(first) > 1 else 0


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0
