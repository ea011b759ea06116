"""The last release of prl (.ci/released), built from the history: a pair is upgraded from it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD_TIMEOUT_S = 600
_PATH = "PYTHONPATH"


def released() -> tuple[str, str]:
    """Version and commit."""
    lines = (ROOT / ".ci/released").read_text().splitlines()
    ((version, commit),) = [line.split() for line in lines if not line.startswith("#")]
    return version, commit


def make(folder: Path) -> Path:
    """Build it under ``folder``; return what to put in front of PYTHONPATH to run it.

    Raises:
        subprocess.CalledProcessError: the history lacks it, or it does not compile.
    """
    tree = folder / "released"
    tree.mkdir()
    _, commit = released()
    parts = ("prl", "userspace", "bpf", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, *parts],
        check=True,
        capture_output=True,
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_bpf", "--inplace", "build_ext", "--inplace"],
        cwd=tree,
        check=True,
        capture_output=True,
        timeout=BUILD_TIMEOUT_S,
    )
    return tree


@contextmanager
def running(tree: Path | None) -> Iterator[None]:
    """What is started meanwhile is of that build; None: of this one."""
    before = os.environ.get(_PATH)
    if tree is not None:
        os.environ[_PATH] = str(tree)
    try:
        yield
    finally:
        os.environ.pop(_PATH, None)
        if before is not None:
            os.environ[_PATH] = before
