"""Silence and hold on hosts as they are: other programs, other interfaces, other routes (I4)."""

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from prl.bench import tcx
from prl.daemon.session.retries import RETRY_MAX_S
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.lab.topology import Node
from tests.passing import add_filter, passing, put_in_front, take_off_all
from tests.system import support
from tests.system.support import Applications, Peer, eventually
from tests.system.watch import Talk, ask_who_has, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.waits,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

MAC1 = "02:00:00:00:01:01"
ANNOUNCE = "net.ipv4.conf.all.arp_announce"
PORT1 = "second"
"""The switch's end of a node's second interface, lan1."""


def inside(node: Node) -> Namespace:
    return Namespace(node.namespace)


def run(lab: Lab, member: str, words: str) -> None:
    subprocess.run(lab.command(member, words.split()), check=True)


def index_of(node: Node, name: str) -> int:
    with inside(node).netlink() as netlink:
        (found,) = netlink.link_lookup(ifname=name)
    return int(found)


def has_tcx(node: Node) -> bool:
    index = index_of(node, "lan0")
    return inside(node).call(lambda: tcx.programs(index)) is not None


def second_interface(lab: Lab, node: Node) -> None:
    """Give the node a lan1 in the same network."""
    made = (
        f"ip link add lan1 address {MAC1} type veth peer name {PORT1} netns {lab.topology.switch}"
    )
    run(lab, node.name, made)
    run(lab, "lan", f"ip link set {PORT1} master {bridge_of(lab)}")
    run(lab, "lan", f"ip link set {PORT1} up")
    for setting in ("arp_ignore=0", "rp_filter=0"):
        for where in ("all", "lan1"):
            run(lab, node.name, f"sysctl -qw net.ipv4.conf.{where}.{setting}")
    run(lab, node.name, "ip link set lan1 up")
    run(lab, node.name, f"ip address add 192.0.2.{200 + node.index}/24 dev lan1 noprefixroute")


def bridge_of(lab: Lab) -> str:
    with Namespace(lab.topology.switch).netlink() as netlink:
        ports = netlink.link_lookup(ifname=lab.topology.re0.port)
        (port,) = netlink.get_links(ports[0])
        (master,) = netlink.get_links(port.get_attr("IFLA_MASTER"))
    return str(master.get_attr("IFLA_IFNAME"))


def sysctl(lab: Lab, node: str, name: str) -> str:
    shown = lab.command(node, ["sysctl", "-n", name])
    return subprocess.run(shown, check=True, capture_output=True, text=True).stdout.strip()


def why(lab: Lab, node: str) -> str:
    """Why a node is not safe; empty when it is."""
    found = support.status(lab, node)
    return "" if found["switchover_safe"] else found["because"]


def becomes_safe(lab: Lab) -> None:
    for node in ("re0", "re1"):
        eventually(f"{node} is safe", lambda node=node: not why(lab, node))


def becomes_unsafe(lab: Lab, node: str, words: str) -> None:
    eventually(f"{node}: {words}", lambda: words in why(lab, node))


def alarms(lab: Lab, node: str) -> list[str]:
    return [one["text"] for one in support.events(lab, node) if one["event"] == "alarm"]


def from_second(lab: Lab, pcap: Path) -> list[str]:
    """What a lan1 said for the service addresses, ARP and ND answers included."""
    service = lab.topology.service
    expression = (
        f"src host {service.ipv4} or arp src host {service.ipv4} or src host {service.ipv6} or "
        f"(icmp6 and ip6[40] == 136 and ip6[48:4] == 0x{service.ipv6.packed[:4].hex()} and "
        f"ip6[60:4] == 0x{service.ipv6.packed[12:].hex()})"
    )
    return support.captured(pcap, 0, [f"ether src host {MAC1} and ({expression})"])


@contextmanager
def talking(lab: Lab) -> Iterator[tuple[Talk, Applications]]:
    apps = Applications(lab, "obey")
    with apps.connect() as peer, Talk(peer) as talk:
        yield talk, apps


def test_a_filter_of_somebody_else_stands_behind(lab: Lab, tmp_path: Path) -> None:
    """The usual way to get into line, `tc filter add`: at the standby and at the owner."""
    with talking(lab) as (talk, _), watch(lab, tmp_path) as watched, passing() as program:
        for node in lab.topology.nodes:
            index = index_of(node, "lan0")
            inside(node).call(lambda index=index: add_filter(index, program))
            if not has_tcx(node):
                becomes_unsafe(lab, node.name, "passed by")
            talk.go_on()
        becomes_safe(lab)
        talk.go_on()
        if has_tcx(lab.topology.re1):
            assert watched.runs() == ["re0"]
            assert alarms(lab, "re0") == alarms(lab, "re1") == []


@pytest.mark.parametrize("name", ["re0", "re1"])
def test_a_program_that_was_put_in_front_is_passed_again(
    lab: Lab, tmp_path: Path, name: str
) -> None:
    node = lab.topology.node(name)
    index = index_of(node, "lan0")
    with talking(lab) as (talk, apps), passing() as program:
        inside(node).call(lambda: put_in_front(index, program))
        becomes_unsafe(lab, name, "lan0: prl's program was passed by")
        (alarm,) = alarms(lab, name)
        assert "passed by" in alarm
        if name == "re0":
            apps.expect("state", "re0", state="open")
            apps.expect("state", "re0", state="active")
        with watch(lab, tmp_path) as watched:
            talk.go_on()
            assert watched.runs() == ["re0"]
        becomes_safe(lab)


@pytest.mark.parametrize("name", ["re0", "re1"])
def test_what_is_cleared_away_is_put_back(lab: Lab, tmp_path: Path, name: str) -> None:
    """`tc qdisc del … clsact`, and all programs of tcx: also from the TAPs."""
    node = lab.topology.node(name)
    with talking(lab) as (talk, _):
        for device in ("lan0", "prlhold0", "prlinj0"):
            index = index_of(node, device)
            inside(node).call(lambda index=index: take_off_all(index))
            becomes_unsafe(lab, name, f"{device}: prl's programs were not there")
            with watch(lab, tmp_path) as watched:
                talk.go_on()
                assert watched.runs() == ["re0"]
        becomes_safe(lab)


def test_only_the_owner_answers_and_on_one_interface_alone(lab: Lab, tmp_path: Path) -> None:
    """Both nodes have a second interface in the same network: the kernel would answer there."""
    pcap = tmp_path / "second.pcap"
    for node in lab.topology.nodes:
        second_interface(lab, node)
        with watch(lab, tmp_path) as watched, support.capture(lab, PORT1, pcap, ""):
            for _ in range(3):
                ask_who_has(lab)
            eventually("the owner answers", lambda: watched.runs() == ["re0"])
        assert from_second(lab, pcap) == []
        becomes_safe(lab)
        run(lab, node.name, "ip link delete lan1")


def test_a_standby_whose_route_leads_elsewhere_is_silent_there(lab: Lab, tmp_path: Path) -> None:
    pcap = tmp_path / "second.pcap"
    second_interface(lab, lab.topology.re1)
    run(lab, "re1", "ip route add 192.0.2.1/32 dev lan1")
    with support.capture(lab, PORT1, pcap, ""), talking(lab) as (talk, _):
        talk.go_on()
        becomes_unsafe(lab, "re1", "packets of shadows would leave by lan1")
        assert not why(lab, "re0")
    assert from_second(lab, pcap) == []


def test_a_route_that_leads_elsewhere_ends_protection_aloud(lab: Lab) -> None:
    with talking(lab) as (talk, apps):
        second_interface(lab, lab.topology.re0)
        run(lab, "re0", f"sysctl -qw {ANNOUNCE}=0")  # a host's own; the lab has set it already
        eventually("it is 2", lambda: sysctl(lab, "re0", ANNOUNCE) == "2")
        becomes_safe(lab)
        run(lab, "re0", "ip route add 192.0.2.1/32 dev lan1")
        apps.expect("state", "re0", state="open")
        talk.go_on()
        becomes_unsafe(lab, "re0", "lan1")
        assert any("its output leaves by an interface" in text for text in alarms(lab, "re0"))
        assert any("leaves by" in text for text in texts(lab, "re0", "replication_ended"))
        run(lab, "re0", "ip route delete 192.0.2.1/32 dev lan1")
        apps.expect("state", "re0", RETRY_MAX_S + support.PATIENCE_S, state="active")
        becomes_safe(lab)
        talk.go_on()


def texts(lab: Lab, node: str, event: str) -> list[str]:
    return [one["text"] for one in support.events(lab, node) if one["event"] == event]


def test_input_that_nobody_captures_ends_protection_aloud(lab: Lab) -> None:
    """The peer sends to another interface of the owner's; then to the right one again."""
    with talking(lab) as (talk, apps):
        second_interface(lab, lab.topology.re0)
        run(lab, "peer", f"ip neigh replace 192.0.2.100 lladdr {MAC1} dev lan0")
        apps.expect("state", "re0", state="open")
        talk.go_on()
        becomes_unsafe(lab, "re0", "do not come in by lan0")
        assert any("its input comes in by" in text for text in alarms(lab, "re0"))
        mac = lab.topology.re0.lan.mac
        run(lab, "peer", f"ip neigh replace 192.0.2.100 lladdr {mac} dev lan0")
        apps.expect("state", "re0", RETRY_MAX_S + support.PATIENCE_S, state="active")
        becomes_safe(lab)
        talk.go_on()


@contextmanager
def insisting(node: Node) -> Iterator[None]:
    """Somebody who puts his program in front again as soon as it is not."""
    index, stop = index_of(node, "lan0"), threading.Event()

    def insist() -> None:
        with passing() as program:
            while not stop.wait(0.02):
                found = tcx.programs(index)
                if found and tcx.name(found[0]) != "passing":
                    if len(found) > 1:
                        tcx.take_off(index, program)
                    tcx.put_first(index, program)
            take_off_passing(index, program)

    with ThreadPoolExecutor(1) as pool:
        insisted = pool.submit(lambda: inside(node).call(insist))
        try:
            yield
        finally:
            stop.set()
        insisted.result()  # or what it failed with


def take_off_passing(index: int, program: int) -> None:
    if any(tcx.name(one) == "passing" for one in tcx.programs(index) or []):
        tcx.take_off(index, program)


def addresses(lab: Lab, node: str) -> str:
    shown = lab.command(node, ["ip", "address", "show", "dev", "lan0"])
    return subprocess.run(shown, check=True, capture_output=True, text=True).stdout


@pytest.mark.needs("tcx")
def test_a_standby_that_cannot_be_silent_takes_itself_out(lab: Lab, tmp_path: Path) -> None:
    with talking(lab) as (talk, apps):
        with insisting(lab.topology.re1):
            becomes_unsafe(lab, "re1", "takes the place of prl's programs again and again")
            eventually("its addresses are gone", lambda: "192.0.2.100" not in addresses(lab, "re1"))
            eventually("no link", lambda: support.status(lab, "re1")["link"]["state"] == "down")
            with watch(lab, tmp_path) as watched:
                ask_who_has(lab)
                talk.go_on()
                assert watched.runs() == ["re0"]
            assert "the link is down" in why(lab, "re0")
        eventually("it comes back", lambda: "192.0.2.100" in addresses(lab, "re1"))
        apps.expect("state", "re0", state="active")
        becomes_safe(lab)


@pytest.mark.needs("tcx")
def test_an_owner_that_cannot_hold_hands_over(lab: Lab) -> None:
    with insisting(lab.topology.re0):
        eventually(
            "re1 owns it",
            lambda: support.status(lab, "re1")["services"][0]["state"] == "owner",
        )
        eventually("re0 is out", lambda: "192.0.2.100" not in addresses(lab, "re0"))
        assert "again and again" in why(lab, "re0")
    becomes_safe(lab)


def test_a_standby_does_not_serve_its_own_programs(lab: Lab) -> None:
    """What listens there is not the service: a call is refused, not answered by the wrong one."""
    for family in support.FAMILIES:
        Applications(lab, "obey", family)
        with pytest.raises(ConnectionRefusedError):
            Peer(lab, family, machine="re1")
        with Peer(lab, family, machine="re0") as own:
            own.send(b"say here\n")
            assert own.line() == "here"


def no_shadows(lab: Lab) -> int:
    """Wait until the standby has none; returns how many it has had."""
    eventually("no shadow", lambda: not support.status(lab, "re1")["flows"]["secondary"])
    return sum(one["event"] == "shadow" for one in support.events(lab, "re1"))


def refusals(lab: Lab) -> int:
    return sum(
        one["event"] == "shadow_refused" and "no carrier" in one["text"]
        for one in support.events(lab, "re1")
    )


def test_a_standby_without_a_cable_says_so_and_has_no_shadows(lab: Lab) -> None:
    """They would be heard by nobody: no failure could be survived, and the owner is to know."""
    port = lab.topology.re1.port
    with talking(lab) as (talk, _):
        becomes_safe(lab)
        run(lab, "lan", f"ip link set {port} down")
        becomes_unsafe(lab, "re1", "lan0 has no carrier")
        becomes_unsafe(lab, "re0", "not heard on lan0")
        shadowed = no_shadows(lab)
        eventually("its session is refused a shadow", lambda: refusals(lab))
        assert no_shadows(lab) == shadowed  # nor was there one in between
        talk.go_on()
        run(lab, "lan", f"ip link set {port} up")
        becomes_safe(lab)
        talk.go_on()


def test_a_standby_that_is_not_heard_on_the_lan_is_no_standby(lab: Lab) -> None:
    """The cable is in, but the switch does not pass anything on."""
    port, bridge = lab.topology.re1.port, bridge_of(lab)
    with talking(lab) as (talk, _):
        becomes_safe(lab)
        run(lab, "lan", f"ip link set {port} nomaster")
        for node in ("re0", "re1"):
            becomes_unsafe(lab, node, "not heard on lan0")
        run(lab, "lan", f"ip link set {port} master {bridge}")
        becomes_safe(lab)
        talk.go_on()
