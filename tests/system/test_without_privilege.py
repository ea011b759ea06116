"""From the place of a user of a node who has no rights there: prld starts, and keeps its secrets.

Checks R28.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prl.config import link_key
from prl.lab import Lab
from prl.lab.netns import Namespace
from tests.system import support
from tests.system.support import Applications, eventually, prlctl
from tests.system.test_support_bundle import forms

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

PINS = Path("/sys/fs/bpf/prl")
SQUAT = """
import socket, sys
kept = []
def take(family, kind, address):
    kept.append(socket.socket(family, kind))
    kept[-1].bind(address)
    if kind == socket.SOCK_STREAM:
        kept[-1].listen()
for name in ("prld", "prl", *sys.argv[1:]):
    take(socket.AF_UNIX, socket.SOCK_STREAM, f"\\0{name}")
take(socket.AF_INET, socket.SOCK_DGRAM, ("", 7078))
take(socket.AF_INET, socket.SOCK_STREAM, ("", 7077))
print("taken", flush=True)
sys.stdin.read()
"""

ATTEMPTS = """
import ctypes, os, signal, socket, struct, sys
pid, control, key, pins = int(sys.argv[1]), *sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)
bpf = {"x86_64": 321, "aarch64": 280}[os.uname().machine]

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def connect():
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(control)

def next_map():  # BPF_MAP_GET_FD_BY_ID, of every number that a map may have
    for number in range(1, 1 << 12):
        attributes = ctypes.create_string_buffer(struct.pack("=III", number, 0, 0))
        call(libc.syscall(bpf, 14, attributes, len(attributes)))

attempts = {
    "memory": lambda: open(f"/proc/{pid}/mem", "rb"),
    "places": lambda: open(f"/proc/{pid}/maps").read(),
    "environment": lambda: open(f"/proc/{pid}/environ").read(),
    "descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),
    "a descriptor": lambda: call(libc.syscall(438, os.pidfd_open(pid), 3, 0)),
    "a signal": lambda: os.kill(pid, signal.SIGABRT),
    "tracing": lambda: call(libc.ptrace(16, pid, None, None)),
    "control": connect,
    "the pair key": lambda: open(key).read(),
    "pins": lambda: os.listdir(pins),
    "frames": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "a map": next_map,
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        continue
    print(name)
"""


def as_nobody(script: str, *arguments: str) -> list[str]:
    user = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    return [*user, "/usr/bin/python3", "-c", script, *arguments]


@contextmanager
def squatter(lab: Lab, node: str) -> Iterator[None]:
    """Somebody without rights was there first."""
    place = Namespace(lab.topology.namespaces[node])
    argv = place.command(as_nobody(SQUAT, lab.topology.node(node).namespace))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "taken\n"
        yield
        user.communicate("")


def test_whoever_took_prld_s_ports_and_names_is_named_and_does_not_keep_it_from_starting(
    lab: Lab,
) -> None:
    lab.fail("re1", "kill-prld")
    with squatter(lab, "re1"):
        lab.heal("re1")  # raises if it does not start
        for event, port in (("heartbeat_port", "UDP port 7078"), ("link_refused", "TCP port 7077")):
            (words,) = [r["text"] for r in support.events(lab, "re1") if r["event"] == event]
            assert port in words
            assert "(python3), of user nobody" in words
    eventually("the pair", lambda: support.status(lab, "re1")["switchover_safe"], 30)


def test_whoever_has_no_rights_learns_nothing(lab: Lab) -> None:
    re0 = lab.topology.re0
    apps = Applications(lab, "obey")
    with apps.connect() as peer:
        assert peer.ask("before") == "before"
        pid = lab.state.pid(re0)
        files = (lab.state.socket(re0), lab.state.link_key, PINS)
        argv = as_nobody(ATTEMPTS, str(pid), *map(str, files))
        done = lab.run("re0", argv, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
        assert peer.ask("after") == "after"

    (secret,) = link_key.load(lab.state.link_key)
    assert not [said for said in told(lab) if any(form in said for form in forms(secret))]


def told(lab: Lab) -> Iterator[bytes]:
    """Everything that prld says of itself, and all of its maps that the kernel lets root see."""
    for node in lab.topology.nodes:
        yield lab.state.log(node).read_bytes()
        for ask in ("status", "stats", "link show", "flow list", "events"):
            done = prlctl("--lab", lab.name, "--node", node.name, "-j", *ask.split())
            assert done.stdout
            yield done.stdout.encode()
        for pin in (PINS / lab.topology.instance(node)).glob("prl_*"):
            for form in ((), ("-j",)):  # it fails for pins of programs and links
                argv = ["bpftool", *form, "map", "dump", "pinned", str(pin)]
                yield subprocess.run(argv, capture_output=True, check=False).stdout
