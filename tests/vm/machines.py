"""The three machines of vagrant/, as their own tools show them: ssh, virsh, tcpdump."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.figures import figure
from tests.kernels.clock import tsc_khz
from tests.kernels.guest import has_kvm
from tests.vm.hall import Hall

TREE = Path(__file__).resolve().parents[2]
NODES = ("re0", "re1")
SERVICE = "192.0.2.100"
UP_TIMEOUT_S, BOOT_TIMEOUT_S = 1800.0, 600.0
COMMAND_TIMEOUT_S = 300.0
SETTLE_TIMEOUT_S = 600.0
"""How long an emulated pair may take until it is safe."""
TALKERS = ("socat", "curl", "numbers")
"""What talks to the service on the peer."""
UNITS = "prld digest page echo bgp"
"""What a node runs: prld, and the applications that it protects."""
_MAC = {"52:54:00:70:00:0a": "re0", "52:54:00:70:00:0b": "re1"}


class MachineError(Exception):
    """A machine did not do what it was told."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One of them, by ssh. Commands are shell lines, run as root."""

    hall: Hall
    name: str

    def _ssh(self, *argv: str) -> list[str]:
        config = str(self.hall.directory / "ssh.conf")
        return self.hall.inside("ssh", "-F", config, *argv)

    def run(self, line: str, timeout_s: float = COMMAND_TIMEOUT_S, *, check: bool = True) -> str:
        """What a command says. Raises MachineError when it fails, unless ``check`` is false."""
        done = subprocess.run(
            self._ssh(self.name, "sudo bash -s"),
            input=line,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise MachineError(
                f"{self.name}: {line}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout.strip()

    def start(self, line: str) -> "subprocess.Popen[str]":
        """Run a command that goes on meanwhile."""
        return subprocess.Popen(
            self._ssh(self.name, "sudo bash -c " + _quoted(line)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Put a file there."""
        self.run(f"cat >{path} <<'END-OF-FILE'\n{text}\nEND-OF-FILE\nchmod {mode} {path}")

    def until(self, condition: str, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Wait until a command succeeds; the machine itself tries, every second."""
        loop = f"until {{ {condition}; }} >/dev/null 2>&1; do sleep 1; done"
        done = self.run(
            f"timeout {timeout_s:.0f} bash -c {_quoted(loop)} && echo yes",
            check=False,
            timeout_s=timeout_s + COMMAND_TIMEOUT_S,
        )
        if done != "yes":
            seen = self.run(
                "prlctl status; journalctl --no-pager -u prld | tail -n 40", check=False
            )
            raise MachineError(f"{self.name}: not in {timeout_s:.0f} s: {condition}\n{seen}")

    def virsh(self, command: str, *arguments: str) -> None:
        """What libvirt can do to it: destroy, start, suspend, resume."""
        self.hall.run("virsh", "-q", command, f"vagrant_{self.name}", *arguments)

    def power_off(self) -> None:
        """Pull the plug."""
        self.virsh("destroy")
        subprocess.run(self._ssh("-q", "-O", "exit", self.name), capture_output=True, check=False)

    def is_on(self) -> bool:
        """Whether it runs, and is not paused."""
        return self._domain_state() == "running"

    def _domain_state(self) -> str:
        return self.hall.run("virsh", "-q", "domstate", f"vagrant_{self.name}").stdout.strip()

    def revive(self) -> None:
        """Mend what a failed test may have left: no power, a pause, programs that stand still."""
        match self._domain_state():
            case "shut off":
                self.power_on()
            case "paused":
                self.virsh("resume")
        self.run(f"systemctl kill --signal=CONT {UNITS}", check=False)

    def power_on(self) -> None:
        """Boot it; return as soon as one can log in."""
        self.virsh("start")
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                self.run("true", timeout_s=30.0)
            except (MachineError, subprocess.TimeoutExpired):
                time.sleep(1.0)  # ssh ends at once as long as nobody listens
            else:
                return
        raise MachineError(f"{self.name} did not boot in {BOOT_TIMEOUT_S:.0f} s")

    def status(self) -> dict[str, object]:
        """What `prlctl status` knows."""
        found: dict[str, object] = json.loads(self.run("prlctl -j status", check=False))
        return found

    def state(self) -> str:
        """Of the service, on this node: owner, standby, …"""
        services = self.status()["services"]
        assert isinstance(services, list)
        return str(services[0]["state"])

    def counter(self, name: str) -> int:
        """One of the kernel's TCP counters."""
        return int(float(self.run(f"nstat -asz {name}").split()[-2]))


class Lab:
    """All three, up from ``vagrant up`` to ``vagrant destroy``."""

    def __init__(self, hall: Hall) -> None:
        self.hall = hall
        self.re0, self.re1, self.peer = (Machine(hall, name) for name in (*NODES, "peer"))
        self.nodes = (self.re0, self.re1)
        self.said = ""

    def up(self) -> None:
        """What vagrant/README.md says, line by line, in a copy of the folder."""
        folder = self.hall.directory / "tree/vagrant"
        shutil.copytree(
            TREE / "vagrant", folder, ignore=shutil.ignore_patterns("*.box", ".vagrant")
        )
        (folder.parent / "dist").symlink_to(TREE / "dist")
        kvm = has_kvm()
        self._environment = {
            "VAGRANT_CWD": str(folder),
            "VAGRANT_HOME": str(self.hall.directory / "home"),
            "VAGRANT_DOTFILE_PATH": str(self.hall.directory / "dot"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "TMPDIR": str(self.hall.directory),  # what is left of a killed builder goes, too
            "PRL_VIRT": "kvm" if kvm else "qemu",
            "PRL_CMDLINE": "" if kvm else f"mitigations=off tsc=reliable tsc_early_khz={tsc_khz()}",
        }
        for line in readme():
            began = time.monotonic()
            # There is no way to Debian's mirror from the hall.
            run = self.hall.run_outside if line.startswith("./box.sh") else self.hall.run
            self.said = run(
                *("bash", "-ec", f"cd {folder}; {line}"),
                timeout_s=UP_TIMEOUT_S,
                environment=self._environment,
            ).stdout
            figure(line, f"{time.monotonic() - began:.0f} s")
        hosts = self.vagrant("ssh-config")
        sockets = self.hall.directory / "ssh-%n"
        always = f"ControlMaster auto\nControlPath {sockets}\nControlPersist 1800\n"
        always += "ConnectTimeout 20\n"  # of a machine that boots; a killed nsenter leaves its ssh
        (self.hall.directory / "ssh.conf").write_text(f"{hosts}\nHost *\n{always}")

    def vagrant(self, *arguments: str, timeout_s: float = 300.0) -> str:
        """Run vagrant on them."""
        done = self.hall.run(
            "vagrant", *arguments, timeout_s=timeout_s, environment=self._environment
        )
        return done.stdout

    def owner(self) -> tuple[Machine, Machine]:
        """The node that has the service, and the other one."""
        return self.nodes if self.re0.state() == "owner" else (self.re1, self.re0)

    def settle(self) -> None:
        """Wait until both nodes call the pair safe, whatever the test before left."""
        self.peer.run(f"pkill --exact '{'|'.join(TALKERS)}'", check=False)
        for node in self.nodes:
            node.revive()
        for node in self.nodes:
            node.until("prlctl status")

    @contextmanager
    def watched(self) -> "Iterator[Watch]":
        """Look at the LAN's bridge meanwhile."""
        info = self.hall.run("virsh", "net-info", "prl-lan").stdout
        bridge = re.search(r"^Bridge:\s+(\S+)", info, re.MULTILINE)
        assert bridge is not None
        watch = Watch(self.hall, self.hall.directory / "lan.pcap")
        watch.file.unlink(missing_ok=True)
        argv = ["tcpdump", "-Z", "root", "-U", "-n", "-s", "128", "-i", bridge[1]]
        argv += ["-w", str(watch.file), f"src host {SERVICE}"]
        with subprocess.Popen(
            self.hall.inside(*argv), stderr=subprocess.PIPE, text=True
        ) as tcpdump:
            assert tcpdump.stderr is not None
            try:
                assert any("listening on" in line for line in tcpdump.stderr)
                yield watch
            finally:
                self.hall.run("pkill", "--exact", "tcpdump", check=False)
                tcpdump.wait()


@dataclass(frozen=True, slots=True)
class Watch:
    """What the LAN's bridge saw of the service address."""

    hall: Hall
    file: Path

    def speakers(self) -> list[str]:
        """Who spoke for the service address, in order: each name once, unless it came back."""
        shown = self.hall.run("tcpdump", "-e", "-n", "-r", str(self.file)).stdout
        names: list[str] = []
        for line in shown.splitlines():
            name = _MAC.get(line.split()[1], "somebody else")
            if names[-1:] != [name]:
                names.append(name)
        return names


def readme() -> list[str]:
    """The commands that bring the lab up, from the box builder on; root needs no sudo."""
    text = (TREE / "vagrant/README.md").read_text()
    commands = re.findall(r"^    (\S.*?)(?:  +#.*)?$", text, re.MULTILINE)
    first, last = commands.index("sudo ./box.sh"), commands.index("vagrant up --no-parallel")
    return [command.removeprefix("sudo ") for command in commands[first : last + 2]]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
