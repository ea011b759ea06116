"""The bench's C programs (userspace/bench/), built with the package."""

from pathlib import Path

from prl.bench.errors import BenchError

FOLDER = Path(__file__).resolve().parent / "bin"


def program(name: str) -> str:
    """The path of ``prl-NAME``. Raises BenchError when it was not built."""
    path = FOLDER / f"prl-{name}"
    if not path.exists():
        raise BenchError(f"{path} is not built; run `make build`")
    return str(path)
