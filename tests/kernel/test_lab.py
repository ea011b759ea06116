"""The lab itself: what is up, what a failure takes away, and that nothing is left behind."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import ModuleType

import pytest

from prl import config
from prl.errors import KernelError, UsageError
from prl.lab import How, Lab, processes, wiring
from prl.lab.cables import LanCable
from prl.lab.errors import LabError
from prl.lab.netns import Namespace
from prl.lab.topology import Interface, Member, Topology

pytestmark = pytest.mark.kernel

QUIET_S = 0.3
NO_ANSWER = 1  # ping(8)
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33  # these two are not in Python's socket module: asm-generic/socket.h
SO_TIMESTAMPNS = 35
CUT_TOLERANCE_S = 0.002  # a frame may be stamped on the far side just after the cut

FLOOD = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("sending", flush=True)
while True:
    for target in sys.argv[1:]:
        sender.sendto(b"x" * 100, (target, 9))
"""

BUSY = """
print("busy", flush=True)
while True:
    pass
"""

SERVER = """
import socket
server = socket.create_server(("192.0.2.10", 5000))
print("listening", flush=True)
connection, _ = server.accept()
print("accepted", flush=True)
connection.recv(1)
"""

FAKE_PRLD = """#!{python}
import os, signal, sys
print("fake prld", *sys.argv[1:], flush=True)
answer = {answer!r}
if answer:
    os.write(int(os.environ["PRL_READY_FD"]), answer)
if answer == b"ready\\n":
    signal.pause()
sys.exit("last words")
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    the_lab = Lab(f"t{os.getpid()}")
    the_lab.up(start_prld=False)
    yield the_lab
    the_lab.down()


@pytest.fixture
def fake_prld(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Stands in for prld, so that these tests tell the lab's faults from the daemon's."""
    script = tmp_path / "prld"
    answer = getattr(request, "param", b"ready\n")
    script.write_text(FAKE_PRLD.format(python=sys.executable, answer=answer))
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(Lab, "_await_lease", lambda _: None)  # a fake has none


def reaches(lab: Lab, node: str, address: object, timeout_s: float = 2.5) -> bool:
    """Whether a ping is answered; ARP may have given up a moment ago and tries every second."""
    argv = ["ping", "-q", "-c", "1", "-W", str(timeout_s), str(address)]
    status = lab.run(node, argv, stdout=subprocess.DEVNULL).returncode
    assert status in {0, NO_ANSWER}, "ping itself failed"
    return status == 0


def is_cut_off(lab: Lab, node: str, address: object) -> bool:
    return not reaches(lab, node, address, timeout_s=QUIET_S)


def test_a_ping_that_cannot_be_sent_is_no_silence(lab: Lab) -> None:
    with pytest.raises(AssertionError, match="ping itself failed"):
        is_cut_off(lab, "peer", "no address")


@contextmanager
def started(lab: Lab, node: str, code: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Python that runs on a node, from its first line of output on."""
    argv = ["/usr/bin/python3", "-c", code, *arguments]
    with lab.exec(node, argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def listen(namespace: str, interface: str) -> socket.socket:
    """A socket that gets every frame of an interface, with the time of its arrival."""

    def opened() -> socket.socket:
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        capture.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        capture.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        capture.bind((interface, 0))
        capture.setblocking(False)
        return capture

    return Namespace(namespace).call(opened)


def arrivals(capture: socket.socket, sender: Interface) -> list[float]:
    """When the captured frames from ``sender`` arrived, on CLOCK_BOOTTIME."""
    to_boottime = time.clock_gettime(time.CLOCK_BOOTTIME) - time.time()
    source = bytes.fromhex(sender.mac.replace(":", ""))
    times = []
    while select.select([capture], [], [], QUIET_S)[0]:
        frame, ancillary, _, _ = capture.recvmsg(64, 64)
        if frame[6:12] == source:
            stamp = ancillary[0][2]
            seconds = int.from_bytes(stamp[:8], sys.byteorder)
            nanoseconds = int.from_bytes(stamp[8:], sys.byteorder)
            times.append(seconds + nanoseconds / 1e9 + to_boottime)
    return times


def leftovers(name: str) -> list[str]:
    """What a lab leaves where it must leave nothing."""
    places = [Path("/run/netns"), Path("/run/prl"), Path("/sys/fs/bpf/prl")]
    found = [str(path) for place in places for path in place.glob(f"{name}*")]
    listing = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True)
    return found + [line for line in listing.stdout.splitlines() if name in line]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_up_connects_every_machine(lab: Lab) -> None:
    for node in ("192.0.2.10", "2001:db8:0:1::10", "192.0.2.11", "2001:db8:0:1::11"):
        assert reaches(lab, "peer", node), node
    assert reaches(lab, "re0", "198.51.100.11")
    assert reaches(lab, "re1", "198.51.100.10")


def test_nobody_has_the_service_address_before_prld_adds_it(lab: Lab) -> None:
    for node in ("re0", "re1"):
        shown = lab.run(node, ["ip", "-o", "address"], capture_output=True, text=True).stdout
        assert "192.0.2.100" not in shown
        assert "::100/" not in shown
    assert is_cut_off(lab, "peer", "192.0.2.100")


def test_nodes_have_the_sysctls_that_prld_relies_on(lab: Lab) -> None:
    argv = ["sysctl", "-n", "net.ipv4.tcp_autocorking", "net.ipv4.conf.all.arp_announce"]
    assert lab.run("re1", argv, capture_output=True, text=True).stdout.split() == ["0", "2"]


def test_commands_run_in_the_namespace_of_their_node(lab: Lab) -> None:
    with started(lab, "peer", BUSY) as process:
        assert processes.pids_in(Namespace(lab.topology.peer.namespace)) == [process.pid]
        assert processes.pids_in(Namespace(lab.topology.re0.namespace)) == []
    result = lab.run("re0", ["sh", "-c", "cat; exit 7"], input=b"in and out", capture_output=True)
    assert (result.returncode, result.stdout) == (7, b"in and out")


def test_prld_can_read_the_configurations_and_they_mirror_each_other(lab: Lab) -> None:
    re0, re1 = (config.load(lab.state.config(node)) for node in lab.topology.nodes)
    assert (re0.node, re0.index, re0.mode) == ("re0", 0, "native")
    assert (re1.node, re1.index, re1.mode) == ("re1", 1, "native")
    assert re0.instance == f"{lab.name}-re0"
    assert re0.socket == f"/run/prl/{lab.name}/re0.sock"
    assert re0.lan.address == re1.lan.peer_address == IPv4Address("192.0.2.10")
    assert re0.lan.peer_address6 == re1.lan.address6 == IPv6Address("2001:db8:0:1::11")
    assert re0.link.local == re1.link.remote == IPv4Address("198.51.100.10")
    assert re0.link.port == re1.link.port
    assert re0.service == re1.service
    assert [str(address) for address in re0.service[0].addresses] == [
        "192.0.2.100",
        "2001:db8:0:1::100",
    ]
    assert re0.service[0].owner == "re0"
    assert lab.state.path.stat().st_mode & 0o777 == 0o700


def test_power_lets_no_frame_out_and_kills_everything(lab: Lab) -> None:
    re0, peer = lab.topology.re0, lab.topology.peer
    with (
        listen(peer.namespace, "lan0") as lan,
        listen(lab.topology.re1.namespace, "link0") as link,
        started(lab, "re0", SERVER) as server,
        Namespace(peer.namespace).call(
            lambda: socket.create_connection(("192.0.2.10", 5000), timeout=QUIET_S)
        ) as client,
        started(lab, "re0", FLOOD, "192.0.2.1", "198.51.100.11") as flood,
    ):
        assert server.stdout is not None
        assert server.stdout.readline() == "accepted\n"
        at = lab.fail("re0", How.POWER)

        assert flood.wait(timeout=5) == server.wait(timeout=5) == -signal.SIGKILL
        assert processes.pids_in(Namespace(re0.namespace)) == []
        for capture, sender in ((lan, re0.lan), (link, re0.link)):
            seen = arrivals(capture, sender)
            assert seen, "the flood was not seen before the failure"
            assert max(seen) < at + CUT_TOLERANCE_S
        with pytest.raises(TimeoutError):  # neither FIN nor RST
            client.recv(1)


def test_heal_after_power_starts_the_machine_afresh(lab: Lab) -> None:
    lab.run("re0", ["ip", "address", "add", "192.0.2.100/32", "dev", "lan0"], check=True)
    lab.run("re0", ["ip", "link", "add", "left0", "type", "veth"], check=True)
    lab.fail("re0", How.POWER)
    assert is_cut_off(lab, "peer", "192.0.2.10")

    lab.heal("re0")

    assert reaches(lab, "peer", "192.0.2.10")
    assert reaches(lab, "peer", "2001:db8:0:1::10")
    assert reaches(lab, "re1", "198.51.100.10")
    shown = lab.run("re0", ["ip", "-o", "address"], capture_output=True, text=True).stdout
    assert "192.0.2.100" not in shown
    assert "left0" not in shown
    lab.fail("re0", How.CUT_LINK)  # what a fresh machine needs for the next failure is there
    lab.heal("re0")
    assert reaches(lab, "re0", "198.51.100.11")


def test_cut_link_loses_frames_silently_both_ways(lab: Lab) -> None:
    lab.fail("re1", How.CUT_LINK)
    lab.fail("re1", How.CUT_LINK)
    with listen(lab.topology.re0.namespace, "link0") as link:
        assert is_cut_off(lab, "re1", "198.51.100.10")
        assert arrivals(link, lab.topology.re1.link) == []
    assert is_cut_off(lab, "re0", "198.51.100.11")
    assert reaches(lab, "peer", "192.0.2.11")
    for node in ("re0", "re1"):
        flags = lab.run(node, ["ip", "link", "show", "link0"], capture_output=True, text=True)
        assert "LOWER_UP" in flags.stdout
    status = lab.status()
    assert status is not None
    assert [member.link_cut for member in status.members] == [False, True, False]

    lab.heal("re1")
    assert reaches(lab, "re0", "198.51.100.11")


def test_cut_lan_leaves_the_link(lab: Lab) -> None:
    lab.fail("re0", How.CUT_LAN)
    assert is_cut_off(lab, "peer", "192.0.2.10")
    assert reaches(lab, "peer", "192.0.2.11")
    assert reaches(lab, "re0", "198.51.100.11")
    lab.heal("re0")
    assert reaches(lab, "peer", "192.0.2.10")


def test_freeze_stops_everything_and_heal_lets_it_go_on(lab: Lab) -> None:
    with started(lab, "re0", BUSY) as process:
        lab.fail("re0", How.FREEZE)
        assert state_of(process.pid) == "T"
        lab.heal("re0")
        assert state_of(process.pid) != "T"
        lab.fail("re0", How.KILL_APP)
        assert process.wait(timeout=5) == -signal.SIGKILL


def test_a_frozen_machine_can_lose_its_power(lab: Lab) -> None:
    with started(lab, "re0", BUSY) as process:
        lab.fail("re0", How.FREEZE)
        lab.fail("re0", How.POWER)
        assert process.wait(timeout=5) == -signal.SIGKILL


@pytest.mark.usefixtures("fake_prld")
def test_killing_and_healing_prld() -> None:
    lab = Lab(f"t{os.getpid()}p")
    try:
        lab.up("generic")
        prld = lab.state.pid(lab.topology.re0)
        assert prld is not None
        assert "-m prl.daemon.main --config" in lab.state.log(lab.topology.re0).read_text()

        with started(lab, "re0", BUSY) as application:
            lab.fail("re0", How.KILL_APP)
            assert application.wait(timeout=5) == -signal.SIGKILL
        assert processes.pids_in(Namespace(lab.topology.re0.namespace)) == [prld]

        lab.fail("re0", How.KILL_PRLD)
        status = lab.status()
        assert status is not None
        assert [member.prld for member in status.members] == ["dead", "running", "none"]
        with pytest.raises(LabError, match="no prld runs on re0"):
            lab.fail("re0", How.KILL_PRLD)
        lab.heal("re0")
        assert lab.state.pid(lab.topology.re0) not in {None, prld}

        lab.fail("re1", How.POWER)
        lab.heal("re1")
        status = lab.status()
        assert status is not None
        assert [member.prld for member in status.members] == ["running", "running", "none"]
        assert reaches(lab, "peer", "192.0.2.10")
        assert reaches(lab, "re0", "198.51.100.11")
    finally:
        lab.down()
    assert leftovers(lab.name) == []


@pytest.mark.parametrize(
    ("fake_prld", "why"),
    [(b"error: no XDP on lan0\n", "no XDP on lan0"), (b"", "last words")],
    indirect=["fake_prld"],
)
@pytest.mark.usefixtures("fake_prld")
def test_a_prld_that_does_not_start_takes_the_lab_down(why: str) -> None:
    lab = Lab(f"t{os.getpid()}e")
    with pytest.raises(LabError, match=f"prld of re0 does not start: {why}$"):
        lab.up()
    assert leftovers(lab.name) == []


def test_a_cable_that_is_cut_while_another_machine_boots_is_not_waited_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = wiring._plugged

    def look_and_cut(topology: Topology) -> list[Member]:
        found = look(topology)
        with LanCable(topology, topology.re1) as lan:
            lan.cut()
        return found

    monkeypatch.setattr(wiring, "_plugged", look_and_cut)
    lab.fail("re0", How.POWER)
    lab.heal("re0")
    status = lab.status()
    assert status is not None
    assert [one.name for one in status.members if one.lan_cut] == ["re1"]


def test_an_interrupted_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prl.lab.wiring._connect_nodes", interrupt)
    lab = Lab(f"t{os.getpid()}i")
    with pytest.raises(KeyboardInterrupt):
        lab.up(start_prld=False)
    assert leftovers(lab.name) == []


def test_two_labs_side_by_side(lab: Lab) -> None:
    other = Lab(f"t{os.getpid()}o")
    try:
        other.up(start_prld=False)
        lab.fail("re0", How.POWER)
        assert reaches(other, "peer", "192.0.2.10")
        assert is_cut_off(lab, "peer", "192.0.2.10")
    finally:
        other.down()
    assert leftovers(other.name) == []
    assert reaches(lab, "peer", "192.0.2.11")


def test_up_twice_says_what_to_do(lab: Lab) -> None:
    with pytest.raises(LabError, match=f"prlctl lab down --name {lab.name}"):
        lab.up(start_prld=False)
    assert reaches(lab, "peer", "192.0.2.10")


def test_down_removes_everything_and_can_be_repeated() -> None:
    lab = Lab(f"t{os.getpid()}d")
    lab.up(start_prld=False)
    with started(lab, "re1", BUSY) as process:
        lab.fail("re1", How.FREEZE)
        assert lab.down()
        assert process.wait(timeout=5) == -signal.SIGKILL
    assert leftovers(lab.name) == []
    assert not lab.down()
    assert lab.status() is None


def test_down_cleans_up_after_a_crash() -> None:
    lab = Lab(f"t{os.getpid()}c")
    lab.up(start_prld=False)
    lab.state.remove()  # half of it is gone
    Namespace(lab.topology.switch).remove()
    Namespace(lab.topology.switch).path.touch()  # a name without a namespace, as after a reboot
    with pytest.raises(LabError, match="lab down"):
        lab.up(start_prld=False)
    assert lab.down()
    assert leftovers(lab.name) == []


def test_down_scrubs_what_a_dead_prld_pinned_and_goes_on_when_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrubbed = []

    def scrub(instance: str) -> None:
        scrubbed.append(instance)
        raise KernelError("pins stick")

    core = ModuleType("prl.bindings.programs")
    monkeypatch.setattr(core, "scrub", scrub, raising=False)
    monkeypatch.setitem(sys.modules, core.__name__, core)
    monkeypatch.setattr("prl.lab.lab.PIN_DIRECTORY", tmp_path)
    lab = Lab(f"t{os.getpid()}s")
    lab.up(start_prld=False)
    (tmp_path / f"{lab.name}-re1").mkdir()

    with pytest.raises(LabError, match="cannot clean up after re1: pins stick"):
        lab.down()
    assert scrubbed == [f"{lab.name}-re1"]
    assert leftovers(lab.name) == []


def test_what_cannot_be_is_refused_in_one_line(lab: Lab) -> None:
    with pytest.raises(UsageError, match="bad lab name"):
        Lab("../etc")
    with pytest.raises(UsageError, match="no node 're7'"):
        lab.run("re7", ["true"])
    with pytest.raises(UsageError, match="only re0 and re1"):
        lab.fail("peer", How.CUT_LINK)
    with pytest.raises(LabError, match="is not up"):
        Lab(f"t{os.getpid()}n").fail("re0", How.POWER)
    os.seteuid(65534)
    try:
        with pytest.raises(LabError, match="needs root"):
            Lab(f"t{os.getpid()}n").up(start_prld=False)
    finally:
        os.seteuid(0)


def prlctl(lab: Lab, command: str, *arguments: str, **run: object) -> tuple[int, str]:
    argv = [sys.executable, "-m", "prl.cli.main", "-j", "lab", command, "--name", lab.name]
    result = subprocess.run(  # type: ignore[call-overload]
        [*argv, *arguments], stdout=subprocess.PIPE, text=True, check=False, **run
    )
    return result.returncode, result.stdout


def test_the_command_line(lab: Lab) -> None:
    status, printed = prlctl(lab, "status")
    facts = json.loads(printed)
    assert (status, facts["schema"], facts["up"]) == (0, 1, True)
    assert [node["name"] for node in facts["nodes"]] == ["re0", "re1", "peer"]

    shell = ["re0", "--", "sh", "-c", "cat; echo $PRL_SOCKET; exit 7"]
    assert prlctl(lab, "exec", *shell, input="to ") == (7, f"to {lab.state.path}/re0.sock\n")

    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    status, printed = prlctl(lab, "fail", "re0", "--how", "power")
    assert status == 0
    assert before < json.loads(printed)["at_s"] < time.clock_gettime(time.CLOCK_BOOTTIME)
    assert prlctl(lab, "heal", "re0")[0] == 0
    assert reaches(lab, "peer", "192.0.2.10")
    assert prlctl(lab, "fail", "re0", "--how", "boredom", stderr=subprocess.DEVNULL)[0] == 2
    assert prlctl(lab, "down")[0] == 0
    assert leftovers(lab.name) == []
