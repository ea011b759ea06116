"""docs/keepalived/ with real VRRP between the nodes: a trigger, and never two speakers (L5).

The files are installed as their README says, and run as they are.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.serving import Serve
from tests.system.support import PATIENCE_S, PRLCTL, Peer, eventually
from tests.system.watch import Talk, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.waits,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "keepalived"),
]

SAMPLE = Path(__file__).parents[2] / "docs/keepalived"
CONFIGURATION = "etc/keepalived/keepalived.conf"
FLAPS = 3
OBEY = ("sh", "-c", 'while read -r say what; do echo "$what"; done')
LONG = 500
"""Answers that take longer than VRRP needs to replace a master, if it does not wait on purpose."""
SETTLING_S = 3 * PATIENCE_S
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
        text, count = re.subn(r"\bpriority \d+", f"priority {priority}", path.read_text())
        assert count == 1
        path.write_text(text)
        self._process.send_signal(1)

    @contextmanager
    def no_answers(self) -> Iterator[None]:
        """The check fails whoever owns the service, as it does on a machine that is too busy."""
        assert self._process is not None
        path = Path(f"/proc/{self._process.pid}/root/usr/local/lib/prl/prl-check")
        text, failed = path.read_text(), "VRRP_Script(prl_owner) failed"
        before = self.log.count(failed)
        path.write_text("#!/bin/sh\nexit 1\n")
        eventually("the check fails", lambda: self.log.count(failed) > before)
        yield
        path.write_text(text)

    @property
    def state(self) -> str:
        """The VRRP state that it entered last."""
        return self._last(r"Entering (\w+) STATE")

    @property
    def is_preferred(self) -> bool:
        """Whether its check found last that it owns the service: not if it took too long."""
        return self._last(r"VRRP_Script\(prl_owner\) (\w+)") == "succeeded"

    def _last(self, pattern: str) -> str:
        """What it logged last of that since it was started."""
        return ["", *re.findall(pattern, self.log.rpartition("Starting Keepalived")[2])][-1]

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


@dataclass(frozen=True)
class Scene:
    """VRRP master on re0, backup on re1; a peer that asks and is answered all the time."""

    lab: Lab
    stack: ExitStack
    vrrp: dict[str, Vrrp]
    serves: dict[str, Serve]
    talk: Talk

    def heals(self, node: str, how: str) -> None:
        """The fault is over; after a loss of power all is started as at boot."""
        if how == "power":
            self.vrrp[node].kill()
            self.serves[node].end()
        self.lab.heal(node)
        if how == "power":
            self.serves[node] = self.stack.enter_context(Serve(self.lab, node, command=OBEY))
            self.vrrp[node].start()

    def moves(self) -> None:
        """The service goes to re1."""
        self.serves["re1"].await_log("taken over")
        self.talk.go_on()

    def settles(self, on: str) -> None:
        """VRRP and prl agree, and all that VRRP knows speaks for this master: it stays."""
        wanted = {node: ("MASTER", True) if node == on else ("BACKUP", False) for node in self.vrrp}

        def is_settled() -> bool:
            found = {node: (vrrp.state, vrrp.is_preferred) for node, vrrp in self.vrrp.items()}
            return found == wanted

        eventually(f"VRRP stays on {on}", is_settled, SETTLING_S)
        self.talk.go_on()
        assert owner(self.lab) == [on]

    def is_safe(self) -> None:
        """The pair is whole again."""
        for node in ("re0", "re1"):
            safe = lambda node=node: support.status(self.lab, node)["switchover_safe"]  # noqa: E731
            eventually(f"{node} is safe", safe)
        self.talk.go_on()


@contextmanager
def scene(name: str, folder: Path, speakers: list[str]) -> Iterator[Scene]:
    """Begin with all on re0; at the end these nodes have spoken, one after the other."""
    with support.pair(name) as lab, ExitStack() as stack:
        serves = {
            node: stack.enter_context(Serve(lab, node, command=OBEY)) for node in ("re0", "re1")
        }
        peer = stack.enter_context(Peer(lab))
        serves["re0"].await_log(": protected")
        vrrp = {node: Vrrp(lab, node, folder) for node in ("re0", "re1")}
        for each in vrrp.values():
            stack.callback(each.kill)
        vrrp["re0"].start()
        vrrp["re0"].await_state("MASTER")
        vrrp["re1"].start()
        vrrp["re1"].await_state("BACKUP")
        for each in vrrp.values():
            assert "Disabling track script" not in each.log  # "due to insecure permissions"
        made = Scene(lab, stack, vrrp, serves, stack.enter_context(Talk(peer)))
        assert owner(lab) == ["re0"]
        with watch(lab, folder) as seen:
            yield made
            made.is_safe()
    assert seen.runs() == speakers


def test_vrrp_triggers_and_prl_decides(tmp_path: Path) -> None:
    with scene("ka0", tmp_path, ["re0", "re1"]) as on:
        first = on.vrrp["re0"]
        first.lower_priority(20)  # planned: 120 with the owner's weight, against 150
        on.moves()
        on.settles("re1")
        for _ in range(FLAPS):  # VRRP comes and goes where the service is not
            first.kill()
            first.start()
            on.talk.go_on()
        on.settles("re1")


def test_the_death_of_the_vrrp_master_moves_the_service_once(tmp_path: Path) -> None:
    with scene("ka1", tmp_path, ["re0", "re1"]) as on:
        on.vrrp["re0"].kill()
        on.moves()
        on.vrrp["re0"].start()
        on.settles("re1")


def test_a_check_that_is_late_moves_nothing(tmp_path: Path) -> None:
    """The owner's machine is so busy that no answer comes in time."""
    with scene("ka2", tmp_path, ["re0", "re1"]) as on:
        assert support.prlctl("--lab", on.lab.name, "--node", "re0", "switchover").returncode == 0
        on.settles("re1")
        with on.vrrp["re1"].no_answers():
            on.talk.go_on(LONG)
        on.settles("re1")


@pytest.mark.parametrize(
    ("how", "lasts"),
    [("power", False)]
    + [(how, lasts) for how in ("cut-lan", "cut-both", "freeze") for lasts in (False, True)],
)
def test_vrrp_follows_what_prl_has_moved(how: str, lasts: bool, tmp_path: Path) -> None:
    """The fault ends before VRRP or a check knows of the move, or so late that two masters meet."""
    with scene(f"kf-{how}", tmp_path, ["re0", "re1"]) as on:
        on.lab.fail("re0", how)
        on.moves()
        if lasts:
            on.vrrp["re1"].await_state("MASTER")
        on.heals("re0", how)
        on.settles("re1")


@pytest.mark.parametrize(
    ("node", "how"),
    [("re0", "cut-link"), ("re1", "cut-lan"), ("re1", "cut-both"), ("re1", "freeze")],
)
def test_vrrp_moves_nothing_when_prl_stays(node: str, how: str, tmp_path: Path) -> None:
    """Nor does a standby that is cut off, or frozen, ask for anything that prl grants."""
    with scene(f"ks-{how}", tmp_path, ["re0"]) as on:
        on.lab.fail(node, how)
        if how in {"cut-lan", "cut-both"}:
            on.vrrp["re1"].await_state("FAULT")
        else:
            on.serves["re0"].await_log("not protected")
        on.talk.go_on(LONG)
        on.heals(node, how)
        on.settles("re0")
