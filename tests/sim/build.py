"""Compiles the datapath as it is shipped with a machine of the simulator's in place of Linux.

A copy with a mistake (mutants.py) is the same objects but one.
"""

import fcntl
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from cffi import FFI

from tests.sim.core import Core

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "build/sim"
HERE = "tests/sim"
MODULE = "prl_sim"
NOT_SIMULATED = {"api/open.c", "io/host.c", "io/xsk.c", "io/queue.c", "io/queue_rules.c",
                 "io/listen.c", "io/steer.c"}  # fmt: skip
"""With ``io/kernel*.c``, what the machine of the simulator takes the place of."""
HEADERS = ("tcp/serial.h", "core/hold.h", "core/primary.h", "core/secondary.h",
           "core/ownership.h", "core/switchover.h", "prl_abi.h", "wire/wire.h",
           "tcp/packet.h", "api/datapath.h", "machine.h")  # fmt: skip
LIBRARIES = ("ssl", "crypto", "z")
CFLAGS = (
    *("-std=gnu11", "-O2", "-g", "-fPIC", "-fwrapv", "-UNDEBUG"),
    "-DPRL_MOMENT_PIECE=2000",  # two segments queued need more than one message for their moment
    "-DPRL_MIRROR_COPY_BYTES=300",  # of packets of at most SEGMENT_MAX
)
ABSENT = re.compile(
    r"\bprl_(kernel_\w+|dp_open|moment_(copy|restore|next_tsval|segs_in|keep_ahead))\("
)
"""Declared in those headers, and Linux's."""


def _build_ffi() -> Any:
    spec = importlib.util.spec_from_file_location("prl_build_ffi", ROOT / "userspace/build_ffi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources() -> list[Path]:
    """Every C file that is simulated, and the machine."""
    found = [
        ROOT / "userspace" / name
        for name in (path.removeprefix("userspace/") for path in _build_ffi().sources(ROOT))
        if name not in NOT_SIMULATED and not name.startswith("io/kernel")
    ]
    return [*found, ROOT / HERE / "machine.c"]


def object_of(source: Path) -> str:
    """What its object is called: files of two folders may have one name."""
    return f"{source.parent.name}-{source.stem}.o"


def _includes() -> list[str]:
    folders = [ROOT / folder for folder in ("userspace", "bpf", HERE)]
    return [f"-I{folder}" for folder in (*folders, sysconfig.get_path("include"))]


def compile_object(source: Path, target: Path, flags: Sequence[str] = ()) -> None:
    """Compile one file. Raises RuntimeError with the compiler's words."""
    files = (f"-I{source.parent}", *_includes(), "-c", str(source), "-o", str(target))
    done = subprocess.run(
        ["gcc", *CFLAGS, *flags, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{source}:\n{done.stderr}")


def link(objects: list[Path], target: Path) -> None:
    """Make a module of objects."""
    fresh = target.with_suffix(f".{os.getpid()}.tmp")
    subprocess.run(
        ["gcc", "-shared", *map(str, objects), *(f"-l{name}" for name in LIBRARIES), "-o", fresh],
        check=True,
    )
    fresh.rename(target)


def _declarations() -> str:
    build_ffi = _build_ffi()
    (OUT / "sim_api.h").write_text("".join(f'#include "{name}"\n' for name in HEADERS))
    includes = (*build_ffi.INCLUDE_DIRS, HERE)
    build_ffi.INCLUDE_DIRS = includes
    text: str = build_ffi.cdef(str(OUT / "sim_api.h"), ROOT)
    known = [line for line in re.split(r"(?<=;)\n", text) if not ABSENT.search(line)]
    calls = (ROOT / HERE / "machine_calls.h").read_text()
    told = " ".join(re.findall(r"^void sim_\w+\([^;]*;", calls, re.MULTILINE))
    return "\n".join([*known, f'extern "Python+C" {{ {told} }}'])


def _generated() -> Path:
    """The C file by which Python calls it."""
    ffi = FFI()
    ffi.cdef(_declarations())
    preamble = _build_ffi().PREAMBLE.replace('"cffi_api.h"', f'"{OUT}/sim_api.h"')
    ffi.set_source(MODULE, preamble + '#include "machine_calls.h"\n')
    path = OUT / f"{MODULE}.c"
    with redirect_stdout(None):  # it tells where it writes
        ffi.emit_c_code(str(path))
    return path


def _inputs() -> list[Path]:
    found = [
        path
        for folder in ("userspace", "bpf", HERE)
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".c", ".h", ".def"}
    ]
    return [*found, Path(__file__)]


def objects() -> list[Path]:
    """Every object of the shipped datapath, compiled where a file is newer, by one at a time."""
    OUT.mkdir(parents=True, exist_ok=True)
    stamp = OUT / "stamp"
    wanted = {source: OUT / object_of(source) for source in sources()}
    wanted[OUT / f"{MODULE}.c"] = OUT / f"{MODULE}.o"
    with (OUT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(path.stat().st_mtime_ns for path in _inputs())
        if not stamp.exists() or stamp.stat().st_mtime_ns < newest:
            _generated()
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(compile_object, wanted.keys(), wanted.values()))
            stamp.touch()
    return list(wanted.values())


def build() -> Path:
    """The module of the datapath as it is shipped."""
    parts, target = objects(), OUT / f"{MODULE}.so"
    if not target.exists() or target.stat().st_mtime_ns < (OUT / "stamp").stat().st_mtime_ns:
        link(parts, target)
    return target


def load(path: Path) -> Core:
    """What a compiled module has."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return Core(module.ffi, module.lib)


@cache
def product() -> Core:
    """The shipped datapath."""
    return load(build())
