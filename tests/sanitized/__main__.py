"""Build it, and run the tests with it. The exit status is pytest's."""

import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".fuzz" / "sanitized"
SITE = Path(__file__).resolve().parent / "site"
BUILD = runpy.run_path(str(ROOT / "userspace/build_ffi.py"))
SANITIZERS = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    "-O1",
)
OTHER_BUILDS = {"test_packaging.py", "test_versions.py"}
"""Unit tests that build the extension themselves."""
KERNEL_TESTS = ("tests/kernel/test_bpf.py", "tests/kernel/test_snapshot.py")


def build() -> Path:
    """The extension, made anew when a source of it is newer."""
    core = KEPT / "_core.abi3.so"
    inputs = [*BUILD["sources"](ROOT), *BUILD["headers"](ROOT), "userspace/build_ffi.py"]
    newest = max((ROOT / name).stat().st_mtime for name in inputs)
    if core.exists() and core.stat().st_mtime >= newest:
        return core
    KEPT.mkdir(parents=True, exist_ok=True)
    glue = KEPT / "_core.c"
    BUILD["ffibuilder"](ROOT).emit_c_code(str(glue))
    includes = [sysconfig.get_path("include"), *BUILD["INCLUDE_DIRS"]]
    command = [
        *("gcc", "-shared", "-fPIC", *BUILD["CFLAGS"], *SANITIZERS),
        *(word for folder in includes for word in ("-I", folder)),
        *(str(glue), *BUILD["sources"](ROOT), "-o", str(core.with_suffix(".new"))),
        *(f"-l{library}" for library in BUILD["LIBRARIES"]),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    core.with_suffix(".new").rename(core)
    return core


def runtime() -> str:
    """The sanitizers' libraries: they have to be there before anything else of a process is."""
    found = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return " ".join(found)


def tests() -> list[str]:
    """The tests of what is compiled; those in the kernel only for root."""
    unit = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests/unit").glob("test_*.py"))
        if path.name not in OTHER_BUILDS and "prl._core" in path.read_text(encoding="utf-8")
    ]
    return [*unit, *(KERNEL_TESTS if os.geteuid() == 0 else ())]


def main() -> int:
    """Run what is asked for."""
    environment = os.environ | {
        "PRL_SANITIZED_CORE": str(build()),
        "PYTHONPATH": str(SITE),
        "LD_PRELOAD": runtime(),
        # Python frees little at its end. What is wrong ends the process that did it.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # nothing stands behind an object that could be read instead
    }
    command = [sys.executable, "-m", "pytest", "-q", *(sys.argv[1:] or tests())]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
