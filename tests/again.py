"""Run once more, by itself, what failed among many tests on one machine (`make test`).

    python -m tests.again FOLDER LANE

Kernel and system tests share a machine with some of their kind, and a host that is away for a
second fails one. What fails alone, too, has failed; what passes then is named by tests.table as
unsteady: a finding all the same, of a race in it or in prl. More than ``AGAIN_MAX``, of some
thousand, are no chance and are not run again.
"""

import subprocess
import sys
from pathlib import Path

from tests import results

AGAIN_MAX = 8
KINDS = frozenset({"kernel", "system"})


def main(folder: Path, lane: str) -> int:
    """Return 0: nothing failed that does not pass now."""
    found = failed(results.read(folder)[lane])
    if not found:
        return 0
    if len(found) > AGAIN_MAX:
        sys.stdout.write(f"{len(found)} tests failed: too many to be run again\n")
        return 1
    sys.stdout.write(f"run again by themselves: {len(found)} that failed\n")
    sys.stdout.flush()
    done = subprocess.run([sys.executable, "-m", "pytest", "-rs", *found], check=False)
    return 1 if done.returncode else 0


def failed(lane: results.Lane) -> list[str]:
    """The kernel and system tests whose last run failed."""
    return [one.test for one in lane.failed() if one.kind in KINDS]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
