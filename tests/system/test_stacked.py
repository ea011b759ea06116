"""Interfaces on top of others (VLANs, bridges, bonds): both carriers, and what is refused (R1)."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prl.demo.payload import Payload
from prl.kernel.features import INSTEAD_OF_NATIVE
from prl.lab import Lab
from prl.lab.errors import LabError
from prl.lab.netns import Namespace
from prl.lab.topology import Member
from tests.probes import long_packets
from tests.system import support
from tests.system.support import Applications, eventually, flows

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SIZE_BYTES = 8 << 20
TOP = "top0"
BRIDGE_NETFILTER = Path("/proc/sys/net/bridge")


def ip(lab: Lab, member: Member, words: str) -> None:
    subprocess.run(lab.command(member.name, ["ip", *words.split()]), check=True)


def bridge(lab: Lab, member: Member, *, filtered: bool = False) -> None:
    ip(lab, member, f"link add {TOP} address {member.lan.mac} type bridge")
    ip(lab, member, f"link set lan0 master {TOP}")
    if BRIDGE_NETFILTER.exists():
        names = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
        sysctls = {f"net/bridge/{name}": int(filtered) for name in names}
        Namespace(member.namespace).set_sysctls(sysctls)


def filtered_bridge(lab: Lab, member: Member) -> None:
    """It shows netfilter what it takes in before prl_ingress of the bridge has marked it."""
    bridge(lab, member, filtered=True)


@pytest.fixture
def br_netfilter() -> Iterator[None]:
    """As Docker loads it; it concerns every bridge of the machine, so it goes again."""
    was_there = BRIDGE_NETFILTER.exists()
    if not was_there:
        subprocess.run(["modprobe", "br_netfilter"], check=True)
    yield
    if not was_there:
        subprocess.run(["modprobe", "-r", "br_netfilter"], check=True)


def vlan(lab: Lab, member: Member) -> None:
    ip(lab, member, f"link add link lan0 name {TOP} type vlan id 100")


def two_vlans(lab: Lab, member: Member) -> None:
    ip(lab, member, "link add link lan0 name outer type vlan protocol 802.1ad id 7")
    ip(lab, member, "link set outer up")
    ip(lab, member, f"link add link outer name {TOP} type vlan id 100")


def bond(lab: Lab, member: Member) -> None:
    """Of one port, which must be down to become one."""
    ip(lab, member, f"link add {TOP} address {member.lan.mac} type bond mode active-backup")
    ip(lab, member, "link set lan0 down")
    ip(lab, member, f"link set lan0 master {TOP}")


@contextmanager
def stacked(mode: str, put: Callable[[Lab, Member], None]) -> Iterator[Lab]:
    """A lab without prld, whose addresses are on top of lan0."""
    with support.pair("stacked", mode, start_prld=False) as lab:
        for member in (lab.topology.re0, lab.topology.re1, lab.topology.peer):
            addresses = (member.lan.ipv4, member.lan.ipv6)
            for address in addresses:
                ip(lab, member, f"address delete {address} dev lan0")
            put(lab, member)
            ip(lab, member, f"link set {TOP} up")
            for address in addresses:
                nodad = "nodad" if address.version == 6 else ""
                ip(lab, member, f"address add {address} dev {TOP} {nodad}")
        yield lab


def start(lab: Lab, interface: str) -> None:
    for node in lab.topology.nodes:
        path = lab.state.config(node)
        named = re.sub(r'interface = "(lan0|top0)"', f'interface = "{interface}"', path.read_text())
        path.write_text(named)
    lab._start_prld(*lab.topology.nodes)
    lab._await_lease()


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("generic", marks=pytest.mark.needs("long_packets")),
        pytest.param("kernel", marks=pytest.mark.needs("nfqueue")),
    ],
)
@pytest.mark.parametrize(
    "put",
    [
        bridge,
        pytest.param(bond, marks=pytest.mark.needs("bonding")),
        pytest.param(vlan, marks=pytest.mark.needs("vlan")),
        pytest.param(two_vlans, marks=pytest.mark.needs("vlan")),
    ],
)
def test_a_session_on_such_an_interface_moves(
    put: Callable[[Lab, Member], None], mode: str
) -> None:
    moves(mode, put)


@pytest.mark.needs("nfqueue", "br_netfilter")
@pytest.mark.usefixtures("br_netfilter")
def test_a_session_on_a_bridge_that_netfilter_sees_moves() -> None:
    """Its packets pass PREROUTING by: they wait at INPUT (docs/carriers.md)."""
    moves("kernel", filtered_bridge)


def moves(mode: str, put: Callable[[Lab, Member], None]) -> None:
    with stacked(mode, put) as lab:
        start(lab, TOP)
        for family in support.FAMILIES:
            apps = Applications(lab, "echo", family, SIZE_BYTES)
            with apps.connect(family) as peer:
                peer.hold_at(SIZE_BYTES)
                peer.converse(Payload(SIZE_BYTES), 20_000)
                peer.await_bytes(SIZE_BYTES // 2)
                if family == support.FAMILIES[-1]:
                    lab.fail("re0", "power")
                    apps.expect("taken_over", "re1", peer=peer.port)
                peer.finish()
                assert peer.sha256() == Payload(SIZE_BYTES).sha256()


@pytest.mark.parametrize(
    ("put", "driver"),
    [(bridge, "bridge"), pytest.param(bond, "bonding", marks=pytest.mark.needs("bonding"))],
)
def test_native_xdp_on_it_and_the_wrong_interface_are_one_clear_line(
    put: Callable[[Lab, Member], None], driver: str
) -> None:
    helps = INSTEAD_OF_NATIVE
    if not long_packets():
        helps += f"; generic XDP on {TOP} would lose packets"
    with stacked("native", put) as lab:
        for interface, words in (
            (TOP, re.escape(f"{TOP} ({driver}) has no native XDP; {helps}")),
            ("lan0", rf"lan.address 192\.0\.2\.10 is on {TOP}, not on lan0"),
        ):
            with pytest.raises(LabError, match=words):
                start(lab, interface)


def test_a_session_that_leaves_by_another_interface_is_not_protected() -> None:
    with support.pair("detour") as lab:
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            assert peer.ask("here") == "here"
            ip(lab, lab.topology.re0, "route add 192.0.2.1/32 dev link0")
            resync = ("--lab", lab.name, "--node", "re0", "flow", "resync")

            def is_told() -> bool:
                """What was found out of a route is believed for a while."""
                (flow,) = flows(lab, "re0")
                done = support.prlctl(*resync, str(flow["handle"]))
                assert done.returncode == 0, done.stderr
                (flow,) = flows(lab, "re0")
                return "leave by link0, while prld" in flow["reason"]

            eventually("it is told", is_told)
            ip(lab, lab.topology.re0, "route delete 192.0.2.1/32 dev link0")
            assert peer.ask("and again") == "and again"
            apps.expect("state", "re0", peer=peer.port, state="active")
