"""The Debian package in clean roots: installed, run, replaced under a live session, purged."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from prl.lab import Lab
from prl.lab.netns import Namespace
from tests.system.support import Peer, eventually

ROOT = Path(__file__).parents[2]
SERVICE = "192.0.2.100"
PORT = 7000
NEW_VERSION = "99.0"
PATIENCE_S = 30.0
RUNNING_S = 120.0

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),  # a package and a Debian are built
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "mmdebstrap"),
]

# Of the kernel's file systems those that prld wants; the rest of the machine is out of sight.
BECOME_A_MACHINE = """
set -e
cd "$1"
mount -t overlay -o lowerdir=base,upperdir="$2"/upper,workdir="$2"/work overlay "$2"/root
cd "$2"/root
mount --rbind /proc proc
mount -t sysfs sysfs sys
mount --bind /sys/fs/bpf sys/fs/bpf
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p run/netns
printf '#!/bin/sh\\nexit 101\\n' >usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
exec chroot . sleep infinity
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package of this tree, and the same with a later version."""
    build = str(ROOT / "prl/packaging/deb/build")
    done = subprocess.run([build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first = ROOT / done.stdout.split()[-1]
    folder = tmp_path_factory.mktemp("deb")
    second = folder / f"prl_{NEW_VERSION}.deb"
    subprocess.run(["dpkg-deb", "-R", str(first), str(folder / "prl")], check=True)
    control = folder / "prl/DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text(
        "".join(
            f"Version: {NEW_VERSION}\n" if "Version:" in line else f"{line}\n" for line in lines
        )
    )
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", str(folder / "prl"), str(second)],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return first, second


def sources() -> list[str]:
    """The files that say where this machine gets Debian 12 from; none: Debian's own mirror."""
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]
    files += sorted(apt.glob("sources.list.d/*.sources"))
    named = re.compile(r"^[^#\n]*\bbookworm\b", re.MULTILINE)
    return [str(file) for file in files if file.is_file() and named.search(file.read_text())]


@pytest.fixture(scope="module")
def roots(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A minimal Debian with what the package depends on, and socat for a demo."""
    field = subprocess.run(
        ["dpkg-deb", "-f", str(packages[0]), "Depends"], capture_output=True, text=True, check=True
    )
    names = {entry.split()[0] for entry in field.stdout.split(",")}
    folder = tmp_path_factory.mktemp("roots")
    made = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--skip=output/dev"),
            *('--aptopt=APT::Install-Recommends "false"', f"--include={','.join(names)},socat"),
            *("bookworm", str(folder / "base"), *sources()),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        assert made.returncode == 0, made.stderr
        yield folder
    finally:
        shutil.rmtree(folder)  # a quarter of a gigabyte


class Machine:
    """A node of the lab with a root of its own."""

    def __init__(self, lab: Lab, node: str, roots: Path) -> None:
        self.node = node
        own = roots / node
        for name in ("upper", "work", "root"):
            (own / name).mkdir(parents=True)
        start = ["unshare", "--mount", "sh", "-c", BECOME_A_MACHINE, "sh", str(roots), node]
        place = Namespace(lab.topology.namespaces[node])
        self._holder = subprocess.Popen(place.command(start))
        self._daemons: list[subprocess.Popen[str]] = []
        self.root = Path(f"/proc/{self._holder.pid}/root")
        try:
            eventually("chroot", (self.root / "usr/sbin/policy-rc.d").exists)
            eventually("chroot", lambda: str(self.root.readlink()).endswith(f"{node}/root"))
        except BaseException:
            self.close()
            raise

    def command(self, *argv: str) -> list[str]:
        pid = str(self._holder.pid)
        return ["nsenter", "--target", pid, "--mount", "--net", "--root", "--wd=/", *argv]

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*argv),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUNNING_S,
            check=False,
        )
        assert not check or done.returncode == 0, (argv, done.stdout, done.stderr)
        return done

    def install(self, package: Path) -> None:
        shutil.copy(package, self.root / "root/prl.deb")
        self.run("dpkg", "-i", "/root/prl.deb")

    def start(self, *argv: str) -> subprocess.Popen[str]:
        log = (self.root / "root" / f"{Path(argv[0]).name}.log").open("a")
        with log:
            daemon = subprocess.Popen(self.command(*argv), stderr=log, text=True)
        self._daemons.append(daemon)
        return daemon

    def status(self) -> tuple[int, dict[str, Any]]:
        done = self.run("prlctl", "-j", "status", check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    def is_safe(self, sessions: int) -> bool:
        code, facts = self.status()
        flows = facts["flows"] if facts else {}
        return code == 0 and flows["active"] == sessions and not flows["unprotected"]

    def close(self) -> None:
        for daemon in (*self._daemons, self._holder):
            daemon.terminate()
        for daemon in (*self._daemons, self._holder):
            try:
                daemon.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@pytest.fixture
def machines(roots: Path) -> Iterator[tuple[Lab, Machine, Machine]]:
    lab = Lab(f"deb{os.getpid()}")
    lab.up(start_prld=False)
    with ExitStack() as stack:
        stack.callback(lab.down)
        made = [stack.enter_context(closing(Machine(lab, node, roots))) for node in ("re0", "re1")]
        yield lab, made[0], made[1]


def replace(machine: Machine, package: Path, prld: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """As postinst does where systemd runs: the new files, then the new prld."""
    machine.install(package)
    prld.send_signal(signal.SIGTERM)
    assert prld.wait(PATIENCE_S) == 0
    return machine.start("prld")


def test_the_package_lives_and_goes(
    packages: tuple[Path, Path], machines: tuple[Lab, Machine, Machine]
) -> None:
    first, second = packages
    lab, *nodes = machines
    re0, re1 = nodes
    for machine in nodes:
        machine.install(first)
        assert machine.run("getent", "group", "prl").stdout
        doctor = machine.run("prlctl", "-j", "doctor", check=False)
        assert json.loads(doctor.stdout)["healthy"], doctor.stdout
        assert machine.run("prlctl", "--version").stdout

    demo = re0.run("prlctl", "-j", "demo", "upload", "--size", "100M")
    assert json.loads(demo.stdout)["survived"]

    re0.run(
        *("prlctl", "init", "--name", "re0", "--other", "re1", "--service", SERVICE),
        *("--other-lan", "192.0.2.11", "--other-link", "198.51.100.11"),
        *("--peer-config", "/root/re1.toml"),
    )
    shutil.copy(re0.root / "root/re1.toml", re1.root / "etc/prl/prld.toml")
    shutil.copy(re0.root / "etc/prl/link.key", re1.root / "etc/prl/link.key")
    prlds = [machine.start("prld") for machine in nodes]
    serves = [
        machine.start("prlctl", "serve", "--listen", f"{SERVICE}:{PORT}", "--", "cat")
        for machine in nodes
    ]
    eventually("safe", lambda: re0.is_safe(0), PATIENCE_S)

    for machine in nodes:  # in its backlog the session would wait for an answer
        eventually("listening", lambda m=machine: f":{PORT}" in m.run("ss", "-Hltn").stdout)  # type: ignore[misc]
    with Peer(lab, port=PORT) as peer:
        assert peer.ask("before") == "say before"
        eventually("protected", lambda: re0.is_safe(1), PATIENCE_S)
        for number, machine in enumerate(nodes):
            prlds[number] = replace(machine, second, prlds[number])
            assert peer.ask("on") == "say on"
            eventually("again", lambda m=machine: m.is_safe(1), PATIENCE_S)  # type: ignore[misc]
            assert NEW_VERSION in machine.run("dpkg-query", "-W", "prl").stdout
        assert peer.ask("still") == "say still"

    for serve in serves:
        serve.terminate()
        serve.wait(PATIENCE_S)
    for prld in prlds:
        prld.kill()  # it could clean up nothing
        prld.wait()
    for machine in nodes:
        files = machine.run("dpkg", "-L", "prl").stdout.split()
        machine.run("dpkg", "--purge", "prl")
        left = [f for f in files if (machine.root / f[1:]).is_file()]
        assert left == []
        assert not (machine.root / "usr/lib/prl").exists()
        assert not (machine.root / "etc/prl").exists()
        assert not (machine.root / "run/prl").exists()
        assert not Path("/sys/fs/bpf/prl", machine.node).exists()
        seen = machine.run("ip", "address", "show").stdout
        assert SERVICE not in seen
        assert "xdp" not in seen
        assert machine.run("getent", "group", "prl").stdout  # as Debian's groups stay
