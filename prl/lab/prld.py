"""Starting a node's prld and waiting until it serves."""

import os
import select
import signal
import sys
import time
from pathlib import Path

from prl.daemon.host.capabilities import NEEDED
from prl.lab import processes
from prl.lab.errors import LabError
from prl.lab.netns import Namespace
from prl.lab.state import StateDirectory
from prl.lab.topology import Node

READY_TIMEOUT_S = 20.0
READY_FD = "PRL_READY_FD"
_PRLD = ("-m", "prl.daemon.main")
_AS_THE_SERVICE = (
    "setpriv",
    "--bounding-set=-all,+sys_nice,"
    + ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in NEEDED),
)
"""With the capabilities that prld.service gives it, and one in place of LimitNICE and LimitRTPRIO,
which a container may not raise."""
_READY = b"ready\n"
_LINE_MAX = 4096
_LOG_TAIL_BYTES = 4096


class Prld:
    """A prld that was started and may not be ready yet."""

    def __init__(self, state: StateDirectory, node: Node) -> None:
        """Start it. It outlives the process that starts it, hence no ``subprocess.Popen``."""
        self._node = node.name
        self._log = state.log(node)
        self._ready, writer = os.pipe2(os.O_CLOEXEC)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # The child's copy keeps its number and must survive two exec calls.
            os.set_inheritable(writer, True)
            command = Namespace(node.namespace).command(
                [*_AS_THE_SERVICE, sys.executable, *_PRLD, "--config", str(state.config(node))]
            )
            self.pid = os.posix_spawnp(
                command[0],
                [command[0], "--wd=/", *command[1:]],
                os.environ | {READY_FD: str(writer)},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            os.close(self._ready)
            raise LabError(f"cannot start prld of {self._node}: {error}") from error
        finally:
            os.close(writer)
            os.close(log)
        state.write_pid(node, self.pid)

    def await_ready(self, deadline: float) -> None:
        """Wait until it serves; ``deadline`` is on ``time.monotonic``.

        Raises:
            LabError: with the line in which it says why it cannot, or that it is late.
        """
        poller = select.poll()
        poller.register(self._ready, select.POLLIN)
        line = b""
        while not line.endswith(b"\n") and len(line) < _LINE_MAX:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise LabError(
                    f"prld of {self._node} is not ready in time; "
                    f"it last said: {_last_line(self._log)}"
                )
            if not (more := os.read(self._ready, _LINE_MAX)):
                break
            line += more
        if line == _READY:
            return
        why = line.decode(errors="replace").strip() or _last_line(self._log)
        raise LabError(f"prld of {self._node} does not start: {why.removeprefix('error: ')}")

    def close(self) -> None:
        """Stop listening to whether it is ready; it goes on by itself."""
        os.close(self._ready)


def is_alive(state: StateDirectory, node: Node) -> bool:
    """Whether the prld that was started on the node last still lives there."""
    pid = state.pid(node)
    return pid is not None and processes.is_in(Namespace(node.namespace), pid)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(nothing)"
