"""ocf:prl:service and docs/pacemaker/ under real corosync and Pacemaker, one of each on both nodes.

prl decides who speaks; Pacemaker leads planned moves, follows the rest, vouches for fencing (L5).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.support import PATIENCE_S, Applications, eventually
from tests.system.watch import Talk, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.waits,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "pacemaker"),
]

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "prl/packaging/ocf/service.py"
SAMPLE = ROOT / "docs/pacemaker"
CLUSTER_S = 4 * PATIENCE_S
"""A cluster takes its time: elections, and recurring monitors every ten seconds."""
INTERVALS = 12
"""Hundreds of answers, at ten milliseconds or more each: longer than the monitors' intervals."""
LOG_TAIL_BYTES = 20_000
POWER = """
primitive power stonith:fence_lab params pcmk_host_list="re0 re1"
"""
KEPT = ("/etc/corosync", "/var/lib/corosync", "/var/lib/pacemaker", "/var/log/pacemaker")
"""What a machine keeps over a reboot."""
# A host name, and what is a machine's own. The agent and the fence agent are in overlays, whose
# layers are in a tmpfs; /run has of the outer one what prld's socket is in.
BECOME_A_NODE = """
set -e
umask 022
name=$1 kept=$2 agent=$3 fence=$4
hostname "$name"
for own in $5; do mount --bind "$kept$own" "$own"; done
mkdir -p "$kept/prl" "$kept/layers"
mount --rbind /run/prl "$kept/prl"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/prl /run/lock
mount --move "$kept/prl" /run/prl
install -d -o hacluster -g haclient -m 750 /run/crm
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs "$kept/layers"
cover() {
    layers=$kept/layers/$1
    mkdir -p "$layers/upper" "$layers/work"
    mount -t overlay -o "lowerdir=$2,upperdir=$layers/upper,workdir=$layers/work" overlay "$2"
}
cover agent /usr/lib/ocf/resource.d
cover fence /usr/sbin
install -D -m 755 "$agent" /usr/lib/ocf/resource.d/prl/service
install -m 755 "$fence" /usr/sbin/fence_lab
corosync -f &
pacemakerd &
wait
"""
FENCE = """#!/usr/bin/python3
import socket, sys
given = dict(line.strip().split("=", 1) for line in sys.stdin if "=" in line)
action = given.get("action", "reboot")
if action == "metadata":
    print('''<?xml version="1.0"?>
<resource-agent name="fence_lab" shortdesc="power of the lab"><longdesc>power of the lab</longdesc>
<parameters>
<parameter name="action"><content type="string" default="reboot"/></parameter>
</parameters>
<actions><action name="on"/><action name="off"/><action name="reboot"/><action name="status"/>
<action name="monitor"/><action name="metadata"/></actions></resource-agent>''')
elif action in ("off", "reboot"):
    node = given.get("nodename") or given["plug"]
    with socket.socket(socket.AF_UNIX) as switch:
        switch.connect({switch!r})
        switch.sendall(node.encode())
        switch.shutdown(socket.SHUT_WR)
        assert switch.recv(8) == b"off"
"""


class PowerSwitch:
    """What the fence agent reaches: cuts a node of the lab off, and says when that is done."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self._lab, self.path = lab, path
        self.cut: list[tuple[str, list[str]]] = []
        """Each node that was cut off, and who owned the service then."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with caller:
                node = caller.recv(64).decode()
                self._lab.fail(node, "power")
                self.cut.append((node, owners(self._lab)))
                caller.sendall(b"off")


class Machine:
    """corosync and Pacemaker on one node, in namespaces of their own."""

    def __init__(self, lab: Lab, node: str, folder: Path, key: bytes, switch: Path) -> None:
        self.lab, self.node, self.folder = lab, node, folder / node
        for name in KEPT:
            kept = self.folder / name.lstrip("/")
            kept.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", name, str(kept)], check=True)
        etc = self.folder / "etc/corosync"
        shutil.copy(SAMPLE / "corosync.conf", etc)
        (etc / "authkey").write_bytes(key)
        self._fence = self.folder / "fence_lab"
        self._fence.write_text(FENCE.replace("{switch!r}", repr(str(switch))))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        argv += ["--mount-proc", "sh", "-c", BECOME_A_NODE, "sh", self.node, str(self.folder)]
        argv += [str(AGENT), str(self._fence), " ".join(KEPT)]
        with (self.folder / "log").open("ab") as log:
            self._process = self.lab.exec(
                self.node, argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """At once, with all that is in its namespaces."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, *argv: str, timeout: float = CLUSTER_S) -> subprocess.CompletedProcess[str]:
        assert self._process is not None
        init = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        inside = ["nsenter", "--all", "--target", init.strip(), "--", *argv]
        return subprocess.run(
            inside,
            env=self.lab.environment(self.node),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def order(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def view(self) -> ET.Element:
        """The cluster as this node sees it; an empty one while it does not."""
        text = self.run("crm_mon", "--output-as=xml", "--inactive").stdout
        return ET.fromstring(text) if text else ET.Element("none")  # noqa: S314

    def roles(self) -> dict[str, str]:
        """The role of the instance on each node that has one."""
        return {
            on.get("name", ""): resource.get("role", "")
            for resource in self.view().iter("resource")
            if resource.get("resource_agent") == "ocf:prl:service"
            for on in resource.iter("node")
        }

    def score(self) -> str:
        """The promotion score of this node; empty if it has none."""
        where = f"./node_attributes/node[@name='{self.node}']/attribute[@name='master-lab']"
        found = self.view().find(where)
        return "" if found is None else found.get("value", "")

    def logs(self) -> str:
        """What Pacemaker has logged last."""
        paths = [self.folder / "log", self.folder / "var/log/pacemaker/pacemaker.log"]
        tails = [path.read_text()[-LOG_TAIL_BYTES:] for path in paths if path.exists()]
        return "\n".join([f"-- {self.node}:", *tails, ""])

    def failures(self) -> list[str]:
        return [str(one.attrib) for one in self.view().iterfind("./failures/failure")]

    def await_roles(self, **roles: str) -> None:
        eventually(f"{self.node} sees {roles}", lambda: self.roles() == roles, CLUSTER_S)


@contextmanager
def cluster(
    lab: Lab, folder: Path, *, fencing: bool = False
) -> Iterator[tuple[Machine, Machine, PowerSwitch]]:
    """Both nodes' clusters up, the sample loaded, re0 promoted, and nothing moved for it."""
    key = os.urandom(256)
    with ExitStack() as stack:
        switch = stack.enter_context(PowerSwitch(lab, folder / "switch"))
        machines = [Machine(lab, node, folder, key, switch.path) for node in ("re0", "re1")]
        for machine in machines:
            stack.callback(machine.kill)
            machine.start()
        first, second = machines
        both = lambda: [  # noqa: E731
            node.get("name") for node in first.view().iter("node") if node.get("online") == "true"
        ]
        eventually("both are online", lambda: sorted(map(str, both())) == ["re0", "re1"], CLUSTER_S)
        first.order("crm_attribute", "--name=stonith-enabled", f"--update={str(fencing).lower()}")
        if fencing:
            load(first, POWER)
        load(first, (SAMPLE / "service.crm").read_text())
        first.await_roles(re0="Promoted", re1="Unpromoted")
        try:
            yield first, second, switch
        except BaseException:
            for machine in machines:
                sys.stderr.write(machine.logs())
            raise


def load(machine: Machine, configuration: str) -> None:
    """As an administrator would."""
    path = machine.folder / "new.crm"
    path.write_text(configuration)
    machine.order("crm", "-F", "configure", "load", "update", str(path))


def owners(lab: Lab) -> list[str]:
    found = []
    for node in ("re0", "re1"):
        done = support.prlctl("--lab", lab.name, "--node", node, "-j", "status")
        if done.stdout and json.loads(done.stdout)["services"][0]["state"] == "owner":
            found.append(node)
    return found


def test_pacemaker_leads_planned_moves(tmp_path: Path) -> None:
    with support.pair("pm0") as lab, watch(lab, tmp_path) as seen, ExitStack() as stack:
        apps = Applications(lab, "obey")
        peer = stack.enter_context(apps.connect())
        # One question at a time: this application cannot be copied between question and answer.
        first, second, _ = stack.enter_context(cluster(lab, tmp_path))
        assert peer.ask("before") == "before"
        assert owners(lab) == ["re0"]

        first.order("crm_resource", "--move", "-r", "lab-clone", "--node=re1", "--promoted")
        apps.expect("taken_over", "re1", timeout=CLUSTER_S, peer=peer.port)
        first.await_roles(re0="Unpromoted", re1="Promoted")
        first.order("crm_resource", "--clear", "-r", "lab-clone")
        safe = lambda: support.status(lab, "re1")["switchover_safe"]  # noqa: E731
        eventually("it could move again", safe)
        assert peer.ask("moved") == "moved"

        first.order("crm_standby", "--node=re1", "--update=on")
        first.await_roles(re0="Promoted")
        assert owners(lab) == ["re0"]
        second.order("crm_standby", "--node=re1", "--delete")
        first.await_roles(re0="Promoted", re1="Unpromoted")
        assert peer.ask("and back") == "and back"
        assert owners(lab) == ["re0"]
        assert first.failures() == []
    assert seen.runs() == ["re0", "re1", "re0"]


def test_a_node_dies_and_comes_back_and_nothing_moves_for_it(tmp_path: Path) -> None:
    with support.pair("pm1") as lab, watch(lab, tmp_path) as seen, ExitStack() as stack:
        apps = Applications(lab, "obey")
        peer = stack.enter_context(apps.connect())
        talk = stack.enter_context(Talk(peer))
        first, second, _ = stack.enter_context(cluster(lab, tmp_path))

        lab.fail("re0", "power")
        apps.expect("taken_over", "re1", peer=peer.port)
        second.await_roles(re1="Promoted")
        first.kill()
        lab.heal("re0")
        first.start()
        second.await_roles(re0="Unpromoted", re1="Promoted")
        talk.go_on()
        assert owners(lab) == ["re1"]
        assert second.failures() == []
    assert seen.runs() == ["re0", "re1"]


@pytest.mark.parametrize("how", ["cut-lan", "cut-both"])
def test_pacemaker_follows_prl_through_a_fault_and_its_end(how: str, tmp_path: Path) -> None:
    with support.pair(f"pm-{how}") as lab, watch(lab, tmp_path) as seen, ExitStack() as stack:
        apps = Applications(lab, "obey")
        peer = stack.enter_context(apps.connect())
        talk = stack.enter_context(Talk(peer))
        first, second, _ = stack.enter_context(cluster(lab, tmp_path))

        lab.fail("re0", how)
        apps.expect("taken_over", "re1", peer=peer.port)
        eventually(
            "Pacemaker has followed", lambda: second.roles().get("re1") == "Promoted", CLUSTER_S
        )
        lab.heal("re0")
        for each in (first, second):
            each.await_roles(re0="Unpromoted", re1="Promoted")
        for _ in range(INTERVALS):
            talk.go_on(100)
        second.await_roles(re0="Unpromoted", re1="Promoted")
        assert owners(lab) == ["re1"]
    assert seen.runs() == ["re0", "re1"]


def test_shadows_beyond_the_lease_go_on_once_pacemaker_has_fenced(tmp_path: Path) -> None:
    with support.pair("pm2") as lab, watch(lab, tmp_path) as seen, ExitStack() as stack:
        apps = Applications(lab, "obey")
        peer = stack.enter_context(apps.connect())
        talk = stack.enter_context(Talk(peer))
        _, second, switch = stack.enter_context(cluster(lab, tmp_path, fencing=True))

        support.both_stop(lab)
        apps.expect("taken_over", "re1", timeout=CLUSTER_S, peer=peer.port)
        assert switch.cut == [("re0", [])]
        second.await_roles(re1="Promoted")
        talk.go_on()
    assert seen.runs() == ["re0", "re1"]


def test_without_fencing_nothing_is_taken_over_beyond_the_lease(tmp_path: Path) -> None:
    with support.pair("pm3") as lab, ExitStack() as stack:
        apps = Applications(lab, "obey")
        stack.enter_context(apps.connect())
        _, second, _ = stack.enter_context(cluster(lab, tmp_path))

        eventually("it could be promoted", lambda: second.score() == "100", CLUSTER_S)

        support.both_stop(lab)
        # Pacemaker may try first, and be refused.
        eventually("it can not be promoted", lambda: second.score() == "", CLUSTER_S)
        second.await_roles(re1="Unpromoted")
        assert support.status(lab, "re1")["lease"]["over"] is True
        assert owners(lab) == []


@pytest.mark.timeout(600)
def test_the_tester_of_agents_finds_nothing(tmp_path: Path) -> None:
    with support.pair("pm4") as lab, ExitStack() as stack:
        machine = Machine(lab, "re1", tmp_path, os.urandom(256), tmp_path / "switch")
        stack.callback(machine.kill)
        machine.start()
        agent = "/usr/lib/ocf/resource.d/prl/service"
        eventually("it is installed", lambda: machine.run("test", "-x", agent).returncode == 0)
        done = machine.run("ocf-tester", "-n", "lab", "-o", "service=lab", agent, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "passed all tests" in done.stdout
