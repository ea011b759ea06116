"""`vagrant up`, and what the machines that it leaves live through. The order is that of a story:
each test finds a safe pair and leaves one.
"""

import json
import time
from collections.abc import Callable

import pytest

from tests.figures import figure
from tests.vm import applications
from tests.vm.applications import (
    HOLD_TIME_S,
    SECOND_PART_BYTES,
    Transfer,
    download,
    upload,
)
from tests.vm.machines import SERVICE, UNITS, Lab, Machine, MachineError

pytestmark = [
    pytest.mark.timeout(1800, func_only=True),  # `vagrant up` has limits of its own
    pytest.mark.needs("root", "vagrant_libvirt"),
]

BULK = pytest.mark.parametrize("bulk", [upload, download])
SECONDS = pytest.mark.parametrize("seconds", [2, 10])


@pytest.fixture(scope="module", autouse=True)
def _applications(machines: Lab) -> None:
    applications.install(machines)


def test_vagrant_up_leaves_a_working_pair(machines: Lab) -> None:
    assert "switchover-safe: yes" in machines.said
    machines.settle()  # the applications have only just been started
    for node in machines.nodes:
        assert node.run("systemctl is-enabled prld; systemctl is-active prld") == "enabled\nactive"
        assert "switchover-safe: yes" in node.run("prlctl status")
        assert node.run(
            "cat /proc/sys/net/ipv4/conf/lan0/arp_ignore /sys/class/net/link0/operstate"
        )
    assert [node.state() for node in machines.nodes] == ["owner", "standby"]
    assert "FRRouting" in machines.peer.run("vtysh -c 'show version'")
    assert "BIRD" in machines.peer.run("bird --version 2>&1")


@BULK
def test_bulk_passes_a_protected_pair(lab: Lab, bulk: Callable[[Lab], Transfer]) -> None:
    began = time.monotonic()
    transfer = bulk(lab)
    owner, _ = lab.owner()
    transfer.await_protected(owner)
    assert transfer.goes_on()
    assert transfer.digest() == applications.numbers_sha256()
    figure(f"{bulk.__name__}", f"{time.monotonic() - began:.0f} s")


@BULK
def test_it_moves_by_plan_and_back(lab: Lab, bulk: Callable[[Lab], Transfer]) -> None:
    owner, other = lab.owner()
    with lab.watched() as watch:
        transfer = bulk(lab)
        transfer.await_protected(owner)
        owner.until("prlctl status && prlctl switchover")
        assert transfer.goes_on()
        # Protected it is again when it has ended: `serve` keeps less than has been sent by now.
        assert other.state() == "owner"
        assert transfer.digest() == applications.numbers_sha256()
    assert watch.speakers() == [owner.name, other.name]


@BULK
def test_the_owner_is_destroyed_in_mid_transfer(lab: Lab, bulk: Callable[[Lab], Transfer]) -> None:
    owner, other = lab.owner()
    resets = lab.peer.counter("TcpEstabResets")
    with lab.watched() as watch:
        transfer = bulk(lab)
        transfer.await_protected(owner)
        owner.power_off()
        assert transfer.goes_on()
        began = time.monotonic()
        assert transfer.digest() == applications.numbers_sha256()
        figure("the rest after the power failure", f"{time.monotonic() - began:.0f} s")
    assert watch.speakers() == [owner.name, other.name]
    assert lab.peer.counter("TcpEstabResets") == resets
    began = time.monotonic()
    owner.power_on()
    lab.settle()  # prld and the applications came up by themselves
    figure("from power to safe again", f"{time.monotonic() - began:.0f} s")
    assert owner.state() == "standby"


def _neighbour(lab: Lab) -> dict[str, object]:
    shown = lab.peer.run(f"vtysh -c 'show bgp neighbors {SERVICE} json'")
    found: dict[str, object] = json.loads(shown)[SERVICE]
    return found


def test_a_bgp_session_with_frr_outlives_its_host(lab: Lab) -> None:
    established = f"vtysh -c 'show bgp neighbors {SERVICE} json' | grep -q '\"Established\"'"
    lab.peer.until(established)
    owner, other = lab.owner()
    owner.until("prlctl status")
    before = _neighbour(lab)
    owner.power_off()
    lab.peer.run(f"sleep {HOLD_TIME_S * 1.2}")  # FRR's own clock is what would end the session
    after = _neighbour(lab)
    assert after["bgpState"] == "Established"
    same = ("bgpTimerUpEstablishedEpoch", "connectionsDropped")
    # bgpd counts whole seconds.
    assert [after[key] for key in same] == [pytest.approx(before[key], abs=1) for key in same]
    assert "198.18.240.0/24" in lab.peer.run(f"vtysh -c 'show bgp ipv4 neighbors {SERVICE} routes'")
    assert other.state() == "owner"
    owner.power_on()
    lab.settle()
    assert _neighbour(lab)["connectionsDropped"] == before["connectionsDropped"]


def _speakers_of_an_upload_with_a_pause(lab: Lab, paused: Machine, seconds: int) -> list[str]:
    """Who spoke for the service, in order, while one machine stood still amid an upload."""
    owner, _ = lab.owner()
    with lab.watched() as watch:
        transfer = upload(lab)
        transfer.await_protected(owner)
        paused.virsh("suspend")
        time.sleep(seconds)
        paused.virsh("resume")
        assert transfer.digest() == applications.numbers_sha256()
        lab.settle()
    return watch.speakers()


@SECONDS
def test_a_paused_owner_never_speaks_beside_the_new_one(lab: Lab, seconds: int) -> None:
    owner, other = lab.owner()
    speakers = _speakers_of_an_upload_with_a_pause(lab, owner, seconds)
    assert speakers in ([owner.name], [owner.name, other.name])
    figure(f"owner paused for {seconds} s", " then ".join(speakers))


@SECONDS
def test_a_paused_standby_does_not_take_over(lab: Lab, seconds: int) -> None:
    owner, standby = lab.owner()
    assert _speakers_of_an_upload_with_a_pause(lab, standby, seconds) == [owner.name]


def test_a_standby_that_was_paused_has_no_shadow_to_take_over_with(lab: Lab) -> None:
    owner, standby = lab.owner()
    transfer = upload(lab)
    transfer.await_protected(owner)
    standby.virsh("suspend")
    # The owner goes on alone: what comes after the first part the standby does not know.
    transfer.let_go(1)
    applications.await_uploaded(lab, SECOND_PART_BYTES)
    assert transfer.goes_on()
    owner.power_off()
    standby.virsh("resume")
    standby.until("prlctl takeover --fenced")  # it cannot know that the other one is dead
    # Loudly, not a session that hangs. A socat that had nothing to send when the reset came speaks
    # of a broken pipe when it has.
    with pytest.raises(MachineError, match=r"reset|Broken pipe"):
        transfer.digest()
    owner.power_on()
    lab.settle()


def test_programs_that_stand_still_do_not_speak_afterwards(lab: Lab) -> None:
    owner, other = lab.owner()
    with lab.watched() as watch:
        transfer = upload(lab)
        transfer.await_protected(owner)
        try:
            owner.run(f"systemctl kill --signal=STOP {UNITS}")
            other.until('prlctl -j status | grep -q \'"state": "owner"\'')
        finally:
            owner.run(f"systemctl kill --signal=CONT {UNITS}")
        assert transfer.goes_on()
        assert transfer.digest() == applications.numbers_sha256()
        lab.settle()
    assert watch.speakers() == [owner.name, other.name]


def test_a_hung_prld_is_started_anew_by_systemd(lab: Lab) -> None:
    """By its watchdog; and the journal has what it says as fields."""
    owner, other = lab.owner()
    restarts = "systemctl show -P NRestarts prld"
    began, before = time.monotonic(), int(owner.run(restarts))
    owner.run("kill -STOP $(systemctl show -P MainPID prld)")
    owner.until(f"[ $({restarts}) -gt {before} ]")
    lab.settle()
    figure("a hung prld is there again, and safe, after", f"{time.monotonic() - began:.0f} s")
    assert {owner.state(), other.state()} == {"owner", "standby"}
    said = owner.run("journalctl -u prld -o json PRL_EVENT=ready").splitlines()
    assert json.loads(said[-1])["PRIORITY"] == "6"
    assert len(said) > before + 1


SECONDS_OF_TALK, SLEWED_S = 180, 45
SLEW = """\
import ctypes, struct
timex = bytearray(208)
struct.pack_into("I", timex, 0, 0x4000)  # modes: ADJ_TICK
struct.pack_into("q", timex, 88, {})  # tick, microseconds; 10000 is true time
libc = ctypes.CDLL(None, use_errno=True)
assert libc.adjtimex((ctypes.c_char * 208).from_buffer(timex)) >= 0, ctypes.get_errno()
"""


def slew(node: Machine, tick: int) -> None:
    node.run(f"/usr/bin/python3 - <<'END'\n{SLEW.format(tick)}END")


def test_clocks_that_run_apart_stall_nobody(lab: Lab) -> None:
    """Timestamps of the new owner that are behind are dropped by the peer (PAWS, RFC 7323)."""
    owner, standby = lab.owner()
    up_s = [float(node.run("cut -d ' ' -f 1 /proc/uptime")) for node in (owner, standby)]
    figure("one node is up longer than the other by", f"{abs(up_s[0] - up_s[1]):.0f} s")
    slew(standby, 9500)  # 50,000 ppm: in a minute what 200 ppm are in four hours
    talk = f"for n in $(seq {SECONDS_OF_TALK}); do echo $n; sleep 1; done"
    try:
        target = f"TCP:{SERVICE}:{applications.ECHO_PORT},shut-down"
        process = lab.peer.start(f"{talk} | socat -t 60 - {target}")
        lab.peer.run(f"sleep {SLEWED_S}")  # the clocks part
        owner.until("prlctl status")
        refused = lab.peer.counter("TcpExtPAWSEstab")
        owner.power_off()
        assert process.poll() is None
        said, _ = process.communicate(timeout=applications.TRANSFER_TIMEOUT_S)
        assert said.split() == [str(n) for n in range(1, SECONDS_OF_TALK + 1)]
        assert lab.peer.counter("TcpExtPAWSEstab") == refused
        owner.power_on()
    finally:
        slew(standby, 10_000)
    lab.settle()
