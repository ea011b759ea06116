"""docs/keepalived/ with real VRRP between the nodes: a trigger, and never two speakers (L5).

The files are installed as their README says, and run as they are.
"""

import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.support import PRLCTL, Applications, eventually
from tests.system.watch import Talk, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "keepalived"),
]

SAMPLE = Path(__file__).parents[2] / "docs/keepalived"
CONFIGURATION = "etc/keepalived/keepalived.conf"
FLAPS = 3
# A host name and two folders of its own. keepalived refuses scripts below a folder that others may
# write into, /tmp for one: so the overlay's layers are in a tmpfs of root's.
BECOME_A_NODE = """
set -e
name=$1 layers=$2
shift 2
hostname "$name"
mount -t tmpfs -o mode=755 tmpfs "$layers"
mkdir "$layers"/upper "$layers"/work
mount -t overlay -o lowerdir=/usr/local/lib,upperdir="$layers"/upper,workdir="$layers"/work \\
    overlay /usr/local/lib
mount -t tmpfs -o mode=755 tmpfs /etc/keepalived
umask 022
{install}
exec "$@"
"""


def install_commands() -> str:
    """What the README says is to be typed."""
    lines = (SAMPLE / "README.md").read_text().splitlines()
    found = [line.strip() for line in lines if line.startswith("    install ")]
    assert len(found) == 2
    return "\n".join(found)


class Vrrp:
    """keepalived on one node, with the sample's files as they are."""

    def __init__(self, lab: Lab, node: str, folder: Path) -> None:
        self.lab, self.node, self.folder = lab, node, folder / node
        (self.folder / "layers").mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        become = BECOME_A_NODE.replace("{install}", install_commands())
        layers = str(self.folder / "layers")
        argv = ["unshare", "--mount", "--uts", "sh", "-c", become, "sh", self.node, layers]
        argv += ["keepalived", "-n", "-P", "-l", "-D"]
        for option, suffix in {"-p": "pid", "-r": "vrrp.pid"}.items():
            argv += [option, str(self.folder / suffix)]
        environment = self.lab.environment(self.node) | {"PRLCTL": PRLCTL}
        with (self.folder / "log").open("ab") as log:
            self._process = self.lab.exec(
                self.node, argv, env=environment, cwd=SAMPLE, stdout=log, stderr=subprocess.STDOUT
            )

    def lower_priority(self, priority: int) -> None:
        """As an administrator would: an edited file, and a reload."""
        assert self._process is not None
        path = Path(f"/proc/{self._process.pid}/root", CONFIGURATION)
        text, count = re.subn(
            rf"@{self.node} priority \d+", f"priority {priority}", path.read_text()
        )
        assert count == 1
        path.write_text(text)
        self._process.send_signal(1)

    @property
    def state(self) -> str:
        """The VRRP state that it entered last."""
        return ["", *re.findall(r"Entering (\w+) STATE", self.log)][-1]

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "log").read_text()

    def await_state(self, state: str) -> None:
        eventually(f"{self.node} is VRRP {state}", lambda: self.state == state)

    def kill(self) -> None:
        """At once: no farewell to the other node."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        child = self.folder / "vrrp.pid"  # the one that speaks VRRP
        if child.exists():
            subprocess.run(["kill", "-9", child.read_text().strip()], check=False)
            child.unlink(missing_ok=True)
        self._process = None


def owner(lab: Lab) -> list[str]:
    return [
        node
        for node in ("re0", "re1")
        if support.status(lab, node)["services"][0]["state"] == "owner"
    ]


def begin(lab: Lab, stack: ExitStack, folder: Path) -> tuple[Vrrp, Vrrp, Callable[[], None], Talk]:
    """VRRP master on re0, backup on re1; a session that goes on, and the wait for its move."""
    apps = Applications(lab, "obey")
    first, second = (Vrrp(lab, node, folder) for node in ("re0", "re1"))
    for each in (first, second):
        stack.callback(each.kill)
    peer = stack.enter_context(apps.connect())
    talk = stack.enter_context(Talk(peer))
    first.start()
    first.await_state("MASTER")
    second.start()
    second.await_state("BACKUP")
    for each in (first, second):
        assert "Disabling track script" not in each.log  # "due to insecure permissions"

    def moves() -> None:
        apps.expect("taken_over", "re1", peer=peer.port)
        talk.go_on()

    return first, second, moves, talk


def test_vrrp_triggers_and_prl_decides(tmp_path: Path) -> None:
    with support.pair("ka0") as lab, ExitStack() as stack:
        seen = stack.enter_context(watch(lab, tmp_path))
        first, _, moves, talk = begin(lab, stack, tmp_path)
        talk.go_on()
        assert owner(lab) == ["re0"]

        first.lower_priority(20)  # planned: 70 with the owner's weight, against 90
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
        first, _, moves, _ = begin(lab, stack, tmp_path)
        first.kill()
        moves()
        eventually("re1 owns it alone", lambda: owner(lab) == ["re1"])


@pytest.mark.parametrize(
    ("how", "then"),
    [("power", "re1"), ("cut-link", "re0")],
)
def test_vrrp_follows_prl_through_a_fault(how: str, then: str, tmp_path: Path) -> None:
    with support.pair(f"ka-{how}") as lab, ExitStack() as stack:
        seen = stack.enter_context(watch(lab, tmp_path))
        first, second, moves, talk = begin(lab, stack, tmp_path)
        lab.fail("re0", how)
        if then == "re1":
            moves()
            second.await_state("MASTER")
        else:
            link_down = lambda: support.status(lab, "re1")["link"]["state"] == "down"  # noqa: E731
            eventually("re1 has noticed", link_down)
            talk.go_on()
        if how == "power":
            first.kill()
        lab.heal("re0")
        if how == "power":
            first.start()  # as it does at boot
        eventually(f"{then} owns it alone", lambda: owner(lab) == [then])
        master, backup = (first, second) if then == "re0" else (second, first)
        master.await_state("MASTER")
        backup.await_state("BACKUP")
        talk.go_on()
        assert owner(lab) == [then]
    assert seen.runs() == (["re0"] if then == "re0" else ["re0", "re1"])
