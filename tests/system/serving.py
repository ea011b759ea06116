"""`prlctl serve` on both nodes of a lab, and a stock client on the peer."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from prl.lab import Lab, stretch
from prl.lab.netns import Namespace

PATIENCE_S = 30.0 * stretch.factor()
PORT = 7000


class Foreground:
    """A `prlctl` that stays in the foreground of one node, with all that it has said."""

    def __init__(self, lab: Lab, node: str, argv: Sequence[str], ready: str) -> None:
        prlctl = str(Path(sys.executable).with_name("prlctl"))
        self.process = lab.exec(
            node,
            [prlctl, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._ready = ready
        self.log: list[str] = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._heard:
                    self.log.append(line.rstrip())
                    self._heard.notify_all()

    def await_log(self, words: str, times: int = 1) -> None:
        """Wait until so many lines with ``words`` have been logged."""
        with self._heard:
            found = self._heard.wait_for(
                lambda: sum(words in line for line in self.log) >= times, PATIENCE_S
            )
        assert found, f"{words!r} not {times} times in {self.log}"

    def __enter__(self) -> Self:
        self.await_log(self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill it if it still runs, and reap it."""
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_S)


class Serve(Foreground):
    """One `prlctl serve`."""

    def __init__(
        self,
        lab: Lab,
        node: str,
        address: str = "192.0.2.100",
        command: Sequence[str] = ("cat",),
        options: Sequence[str] = (),
    ) -> None:
        where = ["--listen", f"{address}:{PORT}"]
        super().__init__(lab, node, ["serve", *where, *options, "--", *command], "serving")


@contextmanager
def serving(
    lab: Lab,
    command: Sequence[str],
    *,
    address: str = "192.0.2.100",
    nodes: Sequence[str],
    options: Sequence[str] = (),
) -> Iterator[dict[str, Serve]]:
    """Serve on ``nodes`` until the end of the context."""
    serves = {node: Serve(lab, node, address, command, options) for node in nodes}
    try:
        for serve in serves.values():
            serve.await_log("serving")
        yield serves
    finally:
        for serve in serves.values():
            serve.end()


def narrow(lab: Lab) -> None:
    """The peer's kernel takes little ahead of its programs, so that no server is done too early."""
    peer = Namespace(lab.topology.peer.namespace)
    peer.set_sysctls({"net/ipv4/tcp_rmem": "4096 131072 1048576"})


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

    def exchange(self, data: bytes, count: int = -1, *, hang_up: bool = False) -> bytes:
        """Write while reading: a program that echoes stops reading when nobody reads."""
        with ThreadPoolExecutor(1) as writer:
            sent = writer.submit(self.send_and_hang_up if hang_up else self.send, data)
            got = self.receive(count)
            sent.result()
        return got

    def send_and_hang_up(self, data: bytes) -> None:
        """Write all of it, and end our direction."""
        self.send(data)
        self.hang_up()

    def hang_up(self) -> None:
        """End our direction."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def receive(self, count: int = -1) -> bytes:
        """Read ``count`` bytes, or to the end."""
        stdout: IO[bytes] | None = self.process.stdout
        assert stdout is not None
        return stdout.read(count)

    def line(self) -> str:
        """Read a line, without its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def status(self) -> int:
        """socat's exit status."""
        return self.process.wait(PATIENCE_S)


def lab_name(test: str) -> str:
    """A lab's name that says which test made it, and when."""
    return f"t-{test[:16].strip('-_').replace('_', '-').lower()}-{time.monotonic_ns() % 10**6}"
