"""prld as a service manager sees it, and a pair from what `prlctl init` wrote."""

import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prl.config import link_key
from prl.lab import Lab
from prl.lab.netns import Namespace
from tests.system.support import eventually, pair, prlctl, status

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]

PATIENCE_S = 20.0
WATCHDOG_US = 40_000  # fed several times while the other node comes to believe that it is alone
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17  # linux/ptrace.h
_UCRED = struct.Struct("=iII")


class Manager:
    """A service manager that only listens, and knows who spoke."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind(str(path))

    def hear(self, pid: int, line: str) -> None:
        """Wait until process ``pid`` says ``line``."""
        deadline = time.monotonic() + PATIENCE_S
        while self._next(deadline - time.monotonic()) != (pid, line):
            pass

    def said(self, pid: int) -> list[str]:
        """What process ``pid`` has said until now, and nobody has heard yet."""
        found = []
        while select.select([self._sock], [], [], 0)[0]:
            speaker, line = self._next(0)
            found += [line] if speaker == pid else []
        return found

    def _next(self, patience_s: float) -> tuple[int, str]:
        assert select.select([self._sock], [], [], max(0.0, patience_s))[0], "nothing is said"
        raw, ancillary, _, _ = self._sock.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size))
        (_, _, credentials) = ancillary[0]
        return _UCRED.unpack(credentials)[0], raw.decode()

    def close(self) -> None:
        self._sock.close()


@contextmanager
def hung_datapath(pid: int) -> Iterator[None]:
    """Its thread alone stands still, the control plane goes on."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    tasks = Path(f"/proc/{pid}/task").iterdir()
    (thread,) = [int(t.name) for t in tasks if (t / "comm").read_text().strip() == "datapath"]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        assert libc.ptrace(request, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(thread, 0x40000000)  # __WALL: a thread that is not our child
    try:
        yield
    finally:
        libc.ptrace(PTRACE_DETACH, thread, None, None)


def test_the_watchdog_starves_when_the_datapath_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", str(WATCHDOG_US))
    with pair("svcw") as lab:
        pid = int(Path(f"/run/prl/{lab.name}/re1.pid").read_text())
        manager.hear(pid, "WATCHDOG=1")
        with hung_datapath(pid):
            manager.said(pid)
            eventually("re0 is alone", lambda: status(lab, "re0")["link"]["state"] != "up")
            assert manager.said(pid).count("WATCHDOG=1") <= 1  # for a pass before it hung
        manager.hear(pid, "WATCHDOG=1")
        os.kill(pid, signal.SIGTERM)
        manager.hear(pid, "STOPPING=1")
    manager.close()


def test_what_init_writes_makes_a_pair(tmp_path: Path) -> None:
    lab = Lab(f"svci{os.getpid()}")
    lab.up(start_prld=False)
    files = {"re0": tmp_path / "re0.toml", "re1": tmp_path / "re1.toml"}
    running: list[subprocess.Popen[bytes]] = []
    try:
        made = subprocess.run(
            [
                *lab.command("re0", [sys.executable, "-m", "prl.cli.main", "-j", "init"]),
                *("--name", "re0", "--other", "re1", "--service", "192.0.2.100"),
                *("--other-lan", "192.0.2.11", "--other-link", "198.51.100.11"),
                *("--config", str(files["re0"]), "--peer-config", str(files["re1"])),
            ],
            capture_output=True,
            check=True,
        )
        assert json.loads(made.stdout)["warnings"] == []
        for node, file in files.items():
            path = tmp_path / f"{node}.sock"  # both are on one machine here
            key = f'[link]\nkey = "{tmp_path / link_key.NAME}"'  # as its default on two machines
            text = file.read_text()
            text = text if "link.key" in text else text.replace("[link]", key)
            file.write_text(f'socket = "{path}"\n' + text)
            command = [sys.executable, "-m", "prl.daemon.main", "--config", str(file)]
            place = Namespace(lab.topology.namespaces[node])
            running.append(subprocess.Popen(place.command(command), stderr=subprocess.DEVNULL))
        for node in files:
            path = tmp_path / f"{node}.sock"
            eventually("safe", lambda path=path: prlctl("--socket", str(path)).returncode == 0)
    finally:
        for process in running:
            process.terminate()
            process.wait(PATIENCE_S)
        lab.down()
