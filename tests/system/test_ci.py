"""CI's machine: nothing is in it of the machine around it, and nothing is left of it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.system.support import eventually

ROOT = Path(__file__).parents[2]
RUN = ROOT / ".ci/run"
CACHE = Path("/var/cache/prl-ci")
PATIENCE_S = 500.0  # the root may have to be made first: half a minute, much more on a busy machine
LOOK = """
ls -d {outside} /proc/1/root{outside} 2>/dev/null
echo "$(ls -d /proc/[0-9]* | wc -l) processes"
env
ls /dev /sys/fs/bpf
pwd
git log -1 --format=%H
exit 7
"""

pytestmark = [
    pytest.mark.needs("root", "netns", "git"),
    pytest.mark.timeout(2 * PATIENCE_S),
]


@contextmanager
def started(*command: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [RUN, *command],
        cwd="/",
        env={**os.environ, "PRL_CI_CACHE": str(CACHE), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        try:
            yield run
        finally:
            run.terminate()


def folder(run: "subprocess.Popen[str]") -> Path:
    """Where it makes its root: it holds the lock of it. Other runs may share the cache."""
    found = Path("/proc", str(run.pid), "fd/7")
    eventually("it has one", lambda: found.is_symlink() or run.poll() is not None, PATIENCE_S)
    return found.readlink()


def test_a_run_sees_its_own_machine_only_and_its_exit_status_is_the_commands(
    tmp_path: Path,
) -> None:
    (tmp_path / "outside").touch()
    script = LOOK.format(outside=tmp_path / "outside")
    with started("sh", "-c", script, PIP_PRL_TEST="taken", NOT_FOR_IT="left") as run:
        own = folder(run)
        said, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 7, said
    lines = said.splitlines()
    assert not [line for line in lines if line.endswith("/outside")]
    (processes,) = [line for line in lines if line.endswith(" processes")]
    assert int(processes.split()[0]) < 10, "it sees the machine's"
    assert "PIP_PRL_TEST=taken" in lines
    assert "CI=true" in lines
    assert "NOT_FOR_IT=left" not in lines
    assert "null" in lines
    assert "vda" not in lines
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert lines[-2:] == ["/srv/prl", head.stdout.strip()]
    assert own.parent == CACHE
    assert not own.exists()


def test_a_run_that_is_ended_leaves_neither_processes_nor_files() -> None:
    words = ["sleep", f"98765.{os.getpid()}"]
    with started(*words) as run:
        own = folder(run)
        eventually("the command runs", lambda: is_running(words), PATIENCE_S)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 128 + signal.SIGTERM
    assert not own.exists()
    assert not is_running(words)


def is_running(words: list[str]) -> bool:
    found = False
    for process in Path("/proc").glob("[0-9]*"):  # a longer pattern would look into each of them
        with suppress(OSError):  # it has just ended
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            found |= command.split("\0")[:-1] == words
    return found
