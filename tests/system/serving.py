"""`prlctl serve` on both nodes of a lab, and a stock client on the peer."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from prl.lab import Lab

PATIENCE_S = 30.0
PORT = 7000


class Serve:
    """One `prlctl serve` on one node, with what it has logged."""

    def __init__(self, lab: Lab, node: str, address: str, command: Sequence[str]) -> None:
        prlctl = str(Path(sys.executable).with_name("prlctl"))
        self.process = lab.exec(
            node,
            [prlctl, "serve", "--listen", f"{address}:{PORT}", "--", *command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._heard:
                    self.log.append(line.rstrip())
                    self._heard.notify_all()

    def await_log(self, words: str) -> None:
        """Wait until a line with ``words`` has been logged."""
        with self._heard:
            found = self._heard.wait_for(
                lambda: any(words in line for line in self.log), PATIENCE_S
            )
        assert found, f"{words!r} not in {self.log}"

    def end(self) -> None:
        """Kill it if it still runs, and reap it."""
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_S)


@contextmanager
def serving(
    lab: Lab, command: Sequence[str], *, address: str = "192.0.2.100", nodes: Sequence[str]
) -> Iterator[dict[str, Serve]]:
    """Serve on ``nodes`` until the end of the context."""
    serves = {node: Serve(lab, node, address, command) for node in nodes}
    try:
        for serve in serves.values():
            serve.await_log("serving")
        yield serves
    finally:
        for serve in serves.values():
            serve.end()


class Client:
    """socat on the peer, its standard input and output being ours."""

    def __init__(
        self, lab: Lab, address: str = "192.0.2.100", *, listens_only: bool = False
    ) -> None:
        target = f"TCP:{address}:{PORT}"
        directions = ["-u", target, "-"] if listens_only else ["-t", str(PATIENCE_S), "-", target]
        self.process = lab.exec(
            "peer",
            ["socat", *directions],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)

    def send(self, data: bytes) -> None:
        """Write all of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hang_up(self) -> None:
        """End our direction."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def receive(self, count: int = -1) -> bytes:
        """Read ``count`` bytes, or to the end."""
        stdout: IO[bytes] | None = self.process.stdout
        assert stdout is not None
        return stdout.read(count)

    def status(self) -> int:
        """socat's exit status."""
        return self.process.wait(PATIENCE_S)


def lab_name(test: str) -> str:
    """A lab's name that says which test made it, and when."""
    return f"t-{test[:16].strip('-_').replace('_', '-').lower()}-{time.monotonic_ns() % 10**6}"
