"""docs/keepalived/ with real VRRP between the nodes: a trigger for prl, and never two speakers.

Checks L5.
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.support import Applications, eventually
from tests.system.watch import Talk, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "keepalived"),
]

SAMPLE = Path(__file__).parents[2] / "docs/keepalived"
PRLCTL = Path(sys.executable).with_name("prlctl")
FLAPS = 3


class Vrrp:
    """keepalived on one node, with the sample's configuration."""

    def __init__(self, lab: Lab, node: str, priority: int, folder: Path) -> None:
        self.lab, self.node, self.folder = lab, node, folder
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(priority)

    def configure(self, priority: int) -> None:
        """The sample, as its first line says, with this node's values."""
        own = self.lab.topology.node(self.node)
        other = self.lab.topology.other(own)
        text = (SAMPLE / "keepalived.conf").read_text()
        for old, new in (
            ("router_id re0", f"router_id {self.node}"),
            ("priority 100", f"priority {priority}"),
            ("192.0.2.11", "OTHER"),
            ("192.0.2.10", str(own.lan.ipv4.ip)),
            ("OTHER", str(other.lan.ipv4.ip)),
            ("/usr/local/lib/prl", str(SAMPLE)),
            ("    enable_script_security\n", ""),  # which refuses a checkout below /tmp
        ):
            assert old in text, old
            text = text.replace(old, new)
        (self.folder / f"{self.node}.conf").write_text(text)

    def start(self) -> None:
        names = {"-f": "conf", "-p": "pid", "-r": "vrrp.pid"}
        argv = ["keepalived", "-n", "-P", "-l", "-D"]
        for option, suffix in names.items():
            argv += [option, str(self.folder / f"{self.node}.{suffix}")]
        environment = self.lab.environment(self.node) | {"PRLCTL": str(PRLCTL)}
        with (self.folder / f"{self.node}.log").open("ab") as log:
            self._process = self.lab.exec(
                self.node, argv, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def reload(self, priority: int) -> None:
        self.configure(priority)
        assert self._process is not None
        self._process.send_signal(1)

    def kill(self) -> None:
        """At once: no farewell to the other node."""
        if self._process is None:
            return
        pids = [p for p in (self.folder / f"{self.node}.vrrp.pid",) if p.exists()]
        self._process.kill()
        self._process.wait()
        for path in pids:  # the child that speaks VRRP
            subprocess.run(["kill", "-9", path.read_text().strip()], check=False)
            path.unlink(missing_ok=True)
        self._process = None


def owner(lab: Lab) -> list[str]:
    return [
        node
        for node in ("re0", "re1")
        if support.status(lab, node)["services"][0]["state"] == "owner"
    ]


def begin(lab: Lab, stack: ExitStack, folder: Path) -> tuple[Vrrp, Callable[[], None], Talk]:
    """VRRP master on re0, backup on re1; a session that goes on, and the wait for its move."""
    apps = Applications(lab, "obey")
    first, second = Vrrp(lab, "re0", 100, folder), Vrrp(lab, "re1", 90, folder)
    for each in (first, second):
        stack.callback(each.kill)
    peer = stack.enter_context(apps.connect())
    talk = stack.enter_context(Talk(peer))
    first.start()
    eventually("re0 is VRRP master", lambda: b"MASTER STATE" in log_of(first))
    second.start()
    eventually("re1 is VRRP backup", lambda: b"BACKUP STATE" in log_of(second))

    def moves() -> None:
        apps.expect("taken_over", "re1", peer=peer.port)
        talk.go_on()

    return first, moves, talk


def test_vrrp_triggers_and_prl_decides(tmp_path: Path) -> None:
    with support.pair("ka0") as lab, ExitStack() as stack:
        seen = stack.enter_context(watch(lab, tmp_path))
        first, moves, talk = begin(lab, stack, tmp_path)
        talk.go_on()
        assert owner(lab) == ["re0"]

        first.reload(20)  # planned: 70 with the owner's weight, against 90
        moves()
        eventually("re0 stands by", lambda: owner(lab) == ["re1"])

        for _ in range(FLAPS):  # VRRP comes and goes where the service is not
            first.kill()
            first.start()
            talk.go_on()
        assert owner(lab) == ["re1"]
    assert seen.runs() == ["re0", "re1"]


def test_the_death_of_the_vrrp_master_moves_the_service(tmp_path: Path) -> None:
    with support.pair("ka1") as lab, ExitStack() as stack:
        first, moves, _ = begin(lab, stack, tmp_path)
        first.kill()
        moves()
        eventually("re1 owns it alone", lambda: owner(lab) == ["re1"])


def log_of(vrrp: Vrrp) -> bytes:
    return (vrrp.folder / f"{vrrp.node}.log").read_bytes()
