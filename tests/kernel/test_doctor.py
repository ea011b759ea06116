"""`prlctl doctor` on hosts that would suffer: it finds what is wrong, and what it says mends it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prl._core import lib

from prl.bench import xdp_pass
from prl.config import link_key
from prl.kernel.features import MULTI_BUFFER, in_btf
from prl.lab import stretch
from prl.lab.netns import Namespace
from tests import netfilter_queue

pytestmark = [pytest.mark.kernel, pytest.mark.needs("root", "netns", "bpf", "nft", "bpftool")]

TIMEOUT_S = 60.0 * stretch.factor()
CARRIER = "carrier of input"
PRLCTL = str(Path(sys.executable).with_name("prlctl"))
CONFIG = """
node = "re1"
instance = "doctor"
index = 1
socket = "/run/prl/doctor.sock"
mode = "{mode}"
[lan]
interface = "lan0"
address = "192.0.2.11"
peer_address = "192.0.2.10"
address6 = "2001:db8:0:1::11"
peer_address6 = "2001:db8:0:1::10"
[link]
interface = "link0"
local = "198.51.100.11"
remote = "198.51.100.10"
key = "{key}"
[[service]]
name = "web"
addresses = ["192.0.2.100", "2001:db8:0:1::100"]
owner = "re0"
"""
HOST = (
    "ip link set lo up",
    "ip link add lan0 type veth peer far-lan0",
    "ip link add link0 type veth peer far-link0",
    "ip address add 192.0.2.11/24 dev lan0",
    "ip address add 2001:db8:0:1::11/64 dev lan0 nodad",
    "ip address add 198.51.100.11/24 dev link0",
    "ip link set lan0 up",
    "ip link set link0 up",
    "ip link set far-lan0 up",
    "ip link set far-link0 up",
)
CHAIN = """
table inet filter {
  chain %(hook)s {
    type filter hook %(hook)s priority 0; policy drop;
    %(rules)s
  }
}
"""
OUTPUT = CHAIN % {"hook": "output", "rules": ""}


def accepting(rules: str) -> str:
    """A ruleset that lets nothing else in."""
    return CHAIN % {"hook": "input", "rules": rules}


LINK_IN = "TCP 7077 from 198.51.100.10 on link0 (link)"
LINK_OUT = "answers of TCP 7077 to 198.51.100.10 by link0 (link)"
BEAT_IN = "UDP 7078 from 192.0.2.10 on lan0 (LAN heartbeats)"
BEAT_OUT = "UDP 7078 to 192.0.2.10 by lan0 (LAN heartbeats)"
PROBE_IN = "UDP 7077 from 198.51.100.10 on link0 (probes of the link)"
PROBE_OUT = "UDP 7077 to 198.51.100.10 by link0 (probes of the link)"
FIREWALL = (LINK_IN, LINK_OUT, BEAT_IN, BEAT_OUT, PROBE_IN, PROBE_OUT)


@dataclass
class Host:
    """A namespace that is a host, and its configuration."""

    place: Namespace
    config: Path
    environment: dict[str, str]

    @property
    def key(self) -> Path:
        return self.config.with_name(link_key.NAME)

    def configure(self, mode: str) -> None:
        self.config.write_text(CONFIG.format(mode=mode, key=self.key))

    def sh(self, *commands: str) -> None:
        for command in commands:
            argv = self.place.command(["sh", "-ec", command])
            subprocess.run(argv, check=True, env=self.environment, timeout=TIMEOUT_S)

    def doctor(self) -> tuple[int, dict[str, dict[str, Any]]]:
        argv = [PRLCTL, "-j", "doctor", "--config", str(self.config)]
        done = subprocess.run(
            self.place.command(argv),
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            timeout=TIMEOUT_S,
        )
        facts = json.loads(done.stdout)
        assert facts["schema"] == 1
        assert facts["healthy"] == (done.returncode != 1), done.stderr
        return done.returncode, {check["name"]: check for check in facts["checks"]}

    def finds(self, name: str, verdict: str, words: str) -> dict[str, Any]:
        status, checks = self.doctor()
        assert (checks[name]["verdict"], words in checks[name]["found"]) == (verdict, True), checks
        assert status == {"missing": 1, "warning": 3, "note": 0}[verdict]
        return checks[name]

    def is_mended_by_what_it_says(self, name: str, verdict: str, words: str) -> None:
        self.sh(self.finds(name, verdict, words)["paste"])
        _, checks = self.doctor()
        assert checks[name]["verdict"] == "ok", checks[name]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    place = Namespace(f"prl-doctor-{os.getpid()}")
    place.create()
    try:
        config = tmp_path / "prld.toml"
        programs = tmp_path / "bin"
        programs.mkdir()
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        made = Host(place, config, {**os.environ, "PATH": path})
        link_key.add(made.key)
        made.configure(mode="auto")  # every kernel has one
        made.sh(*HOST)
        yield made
    finally:
        place.remove()


def test_a_good_host_is_good(host: Host) -> None:
    status, checks = host.doctor()
    assert status == 0
    assert {check["verdict"] for check in checks.values()} <= {"ok", "note"}
    assert {checks[name]["found"] for name in FIREWALL} == {"passes"}


SETS = """
table inet f {
  set open { type inet_service; elements = { 22, 443 } }
  chain input {
    type filter hook input priority 0; policy accept;
    jump services
    drop
  }
  chain services {
    tcp dport @open accept
    udp dport vmap { 7078 : drop, 53 : accept }
  }
}
"""
RAW = """
table ip f {
  chain pre {
    type filter hook prerouting priority raw; policy accept;
    iifname "link0" ip saddr 198.51.100.0/24 tcp dport { 22, 7000-8000 } drop
  }
}
"""
CLOSED = [
    (accepting(""), {LINK_IN: "missing", BEAT_IN: "warning", PROBE_IN: "warning"}),
    (accepting("ct state established,related accept; tcp dport 22 accept"), {LINK_IN: "missing"}),
    (accepting('tcp dport 7000-7099 accept; iifname "link0" accept'), {BEAT_IN: "warning"}),
    (OUTPUT, {LINK_OUT: "missing", BEAT_OUT: "warning", PROBE_OUT: "warning"}),
    (SETS, {LINK_IN: "missing", BEAT_IN: "warning", PROBE_IN: "warning"}),
    (RAW, {LINK_IN: "missing"}),
]


@pytest.mark.parametrize(("rules", "closed"), CLOSED)
def test_a_closed_firewall_is_found_and_opened(
    rules: str, closed: dict[str, str], host: Host
) -> None:
    host.sh(f"nft -f - <<'EOF'\n{rules}\nEOF")
    for name, verdict in closed.items():
        _, checks = host.doctor()
        assert checks[name]["verdict"] == verdict, checks[name]
        assert "dropped by nft chain" in checks[name]["found"]
        host.sh(checks[name]["paste"])
    _, checks = host.doctor()
    for name in closed:
        assert checks[name]["verdict"] == "ok", checks[name]


EXACT = accepting(
    "ct state established accept; tcp dport 7077 ct state new accept\n"
    "udp dport { 53, 7078 } accept\n"
    "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
)
BY_PROTOCOL = """
table inet f {
  chain input {
    type filter hook input priority 0; policy drop;
    meta l4proto vmap { tcp : jump tcps, udp : jump udps, ipv6-icmp : accept }
  }
  chain tcps {
    tcp dport != 7077 return
    tcp flags & (fin|syn|rst|ack) == syn accept
  }
  chain udps {
    ip saddr 192.0.2.0/24 udp dport 7078 accept
    ip saddr 198.51.100.0/24 udp dport 7077 accept
  }
}
"""


@pytest.mark.parametrize("rules", [EXACT, BY_PROTOCOL])
def test_an_open_firewall_is_left_alone(rules: str, host: Host) -> None:
    host.sh(f"nft -f - <<'EOF'\n{rules}\nEOF")
    status, checks = host.doctor()
    assert [checks[name]["verdict"] for name in FIREWALL] == ["ok"] * len(FIREWALL), checks
    assert status == 0


def test_what_cannot_be_told_is_said(host: Host) -> None:
    rules = accepting("limit rate 5/second accept")
    host.sh(f"nft -f - <<'EOF'\n{rules}\nEOF")
    _, checks = host.doctor()
    assert checks[LINK_IN]["verdict"] == "note"
    assert "cannot tell: nft chain inet filter input" in checks[LINK_IN]["found"]


def test_neighbour_discovery_must_pass(host: Host) -> None:
    rules = accepting("meta l4proto { tcp, udp } accept")
    host.sh(f"nft -f - <<'EOF'\n{rules}\nEOF")
    for name in ("nd-neighbor-solicit", "nd-neighbor-advert"):
        host.is_mended_by_what_it_says(f"ICMPv6 {name} on lan0", "missing", "dropped by")


@pytest.mark.needs("iptables")
def test_the_rules_of_iptables_are_read_and_opened(host: Host) -> None:
    host.sh(
        "iptables -N services",
        "iptables -A services -p tcp -m multiport --dports 22,80 -j ACCEPT",
        "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "iptables -A INPUT -i lo -j ACCEPT",
        "iptables -A INPUT -j services",
        "iptables -P INPUT DROP",
    )
    host.is_mended_by_what_it_says(LINK_IN, "missing", "dropped by")
    host.is_mended_by_what_it_says(BEAT_IN, "warning", "dropped by")


def test_a_strict_reverse_path_filter_with_routes_elsewhere(host: Host) -> None:
    name = "reverse path filter of lan0"
    host.sh("sysctl -qw net.ipv4.conf.lan0.rp_filter=1")
    assert host.doctor()[1][name]["verdict"] == "ok"  # every way back is by the LAN
    host.sh(
        "ip link add uplink type veth peer far-uplink",
        "ip address add 203.0.113.2/24 dev uplink",
        "ip link set uplink up",
        "ip route add default via 203.0.113.1",
    )
    _, checks = host.doctor()
    assert checks[name]["verdict"] == "note"  # it may be the management network's
    assert "the default route leaves by uplink" in checks[name]["found"]
    host.sh(
        "ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev lan0",
        "ip route add 192.0.2.1/32 dev uplink",
    )
    host.is_mended_by_what_it_says(name, "warning", "the route to 192.0.2.1 leaves by uplink")


def test_a_second_interface_in_the_same_network(host: Host) -> None:
    host.sh(
        "sysctl -qw net.ipv4.conf.all.arp_ignore=0",
        "ip link add spare type veth peer far-spare",
        "ip address add 192.0.2.12/24 dev spare",
        "ip link set spare up",
    )
    name = "another interface in lan0's network"
    host.is_mended_by_what_it_says(name, "warning", "spare, with arp_ignore 0")


def test_a_route_that_leads_past_prl(host: Host) -> None:
    host.sh(
        "ip link add spare type veth peer far-spare",
        "ip link set spare up",
        "ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev lan0",
        "ip route add 192.0.2.1/32 dev spare",
    )
    name = "routes to the LAN's neighbours"
    host.is_mended_by_what_it_says(name, "warning", "that to 192.0.2.1 leaves by spare")


def test_somebody_else_s_filter_in_the_first_place(host: Host) -> None:
    """Where there is no tcx; with it nobody can be in the way."""
    host.sh(
        "tc qdisc add dev lan0 clsact",
        "tc filter add dev lan0 egress pref 1 protocol ip u32 match u32 0 0 flowid 1:1",
    )
    name = "first in line on what leaves"
    if in_btf(b"\0bpf_mprog_bundle\0"):
        assert host.doctor()[1][name]["verdict"] == "ok"
    else:
        host.is_mended_by_what_it_says(name, "missing", "lan0 has a filter of kind u32")


def test_the_pair_key_of_the_link(host: Host) -> None:
    name = "pair key of the link"
    assert host.doctor()[1][name]["found"] == str(host.key)
    host.key.chmod(0o644)
    host.finds(name, "missing", "others than its owner may read")
    host.key.chmod(0o600)
    link_key.add(host.key)
    assert host.doctor()[1][name]["verdict"] == "note"
    host.key.unlink()
    host.finds(name, "missing", "prlctl link new-key")
    host.config.write_text(host.config.read_text().replace("[link]", "[link]\nplain = true"))
    host.finds(name, "warning", "link.plain")


def test_packets_that_native_xdp_cannot_take(host: Host) -> None:
    host.sh("ip link set lan0 mtu 9000")
    host.configure(mode="generic")
    assert "MTU of lan0 for native XDP" not in host.doctor()[1]
    host.configure(mode="native")
    host.is_mended_by_what_it_says("MTU of lan0 for native XDP", "warning", "9000")


def test_generic_xdp_on_a_kernel_whose_af_xdp_takes_single_frames_alone(host: Host) -> None:
    host.configure(mode="generic")
    if in_btf(MULTI_BUFFER):
        assert host.doctor()[1][CARRIER]["verdict"] == "ok"
    else:
        host.finds(CARRIER, "missing", "generic")
        assert 'mode = "kernel"' in host.doctor()[1][CARRIER]["remedy"]


@pytest.mark.needs("nfqueue")
def test_whether_input_can_wait_in_the_kernel(host: Host) -> None:
    """It is tried, and nothing of that stays."""
    host.configure(mode="kernel")
    checks = host.doctor()[1]
    assert checks[CARRIER]["verdict"] == "ok"
    assert "MTU of lan0 for native XDP" not in checks
    command = host.place.command(["nft", "list", "ruleset"])
    assert subprocess.run(command, capture_output=True, check=True).stdout == b""
    with no_queues(host):
        host.finds(CARRIER, "missing", "NFQUEUE")


@pytest.mark.needs("nfqueue")
def test_what_auto_takes_with_and_without_the_kernel_s_queues(host: Host) -> None:
    host.configure(mode="auto")
    found = host.doctor()[1][CARRIER]
    assert (found["verdict"], found["found"].partition(":")[0]) == ("ok", "kernel")
    with no_queues(host):
        mode = "generic" if in_btf(MULTI_BUFFER) else "native"
        host.finds(CARRIER, "note", "NFQUEUE: Device or resource busy")
        assert host.doctor()[1][CARRIER]["found"].startswith(mode)


def test_somebody_else_s_tc_filter(host: Host) -> None:
    host.sh(
        "tc qdisc add dev lan0 clsact",
        "tc filter add dev lan0 egress pref 7 protocol ip u32 match u32 0 0 flowid 1:1",
    )
    host.is_mended_by_what_it_says("tc filters on lan0", "warning", "u32 at egress, pref 7")


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [("generic", "missing"), pytest.param("kernel", "warning", marks=pytest.mark.needs("nfqueue"))],
)
def test_somebody_else_s_xdp_program(host: Host, mode: str, verdict: str) -> None:
    """There is room for one; where packets wait in the kernel it is only in front."""
    host.configure(mode=mode)
    xdp_pass.attach(host.place, "lan0", "generic")
    host.is_mended_by_what_it_says("XDP programs on lan0", verdict, "somebody else's: ")


@pytest.mark.needs("nfqueue")
@pytest.mark.parametrize("words", ["gro_max_size 100000", "mtu 65535"])
def test_packets_that_are_too_long_to_wait_in_the_kernel(host: Host, words: str) -> None:
    host.configure(mode="kernel")
    assert host.doctor()[1]["longest packets of lan0"]["verdict"] == "ok"
    host.sh(f"ip link set lan0 {words}")
    host.is_mended_by_what_it_says("longest packets of lan0", "warning", words)


@contextmanager
def no_queues(host: Host) -> Iterator[None]:
    """Somebody else has all that prld looks at."""
    with ExitStack() as taken:
        for number in range(lib.PRL_QUEUE_FIRST, lib.PRL_QUEUE_FIRST + lib.PRL_QUEUE_COUNT):
            taken.enter_context(host.place.call(partial(netfilter_queue.bind, number)))
        yield


PROGRAM = """#!/bin/sh
state={state}
{body}
"""


def fake(host: Host, name: str, state: Path, body: str) -> None:
    """A program that stands in for one that this machine cannot have."""
    program = host.config.parent / "bin" / name
    program.write_text(PROGRAM.format(state=state, body=body))
    program.chmod(0o755)


def test_lro(host: Host, tmp_path: Path) -> None:
    state = tmp_path / "lro"
    state.write_text("on")
    body = (
        'case $1 in -k) echo "large-receive-offload: $(cat $state)";; -K) echo $4 > $state;; esac'
    )
    fake(host, "ethtool", state, body)
    host.is_mended_by_what_it_says("offloads of lan0", "warning", "LRO is on")


def test_a_witness_that_does_not_answer(host: Host) -> None:
    far = Namespace(f"{host.place.name}-far")
    far.create()
    try:
        host.sh(f"ip link set far-lan0 netns {far.name}")
        for words in ("address add 192.0.2.1/24 dev far-lan0", "link set far-lan0 up"):
            subprocess.run(["ip", "-n", far.name, *words.split()], check=True, timeout=TIMEOUT_S)
        lan = 'interface = "lan0"\n'
        both = f'{lan}witnesses = ["192.0.2.1", "192.0.2.2"]\n'
        host.config.write_text(host.config.read_text().replace(lan, both, 1))
        checks = host.doctor()[1]
        host.finds("witness 192.0.2.2", "warning", "does not answer")
    finally:
        far.remove()
    assert checks["witness 192.0.2.1"]["found"] == "answers"
    assert checks["who decides when the nodes lose each other"]["verdict"] == "ok"


def test_ports_that_somebody_has(host: Host) -> None:
    code = (
        "import socket, signal; udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "udp.bind(('', 7078)); tcp = socket.create_server(('', 7077));"
        "print('bound', flush=True); signal.pause()"
    )
    argv = host.place.command(["/usr/bin/python3", "-c", code])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as squatter:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "bound\n"
        words = f"taken by pid {squatter.pid}"
        host.finds("TCP port 7077", "missing", words)
        assert host.doctor()[1]["UDP port 7078"]["verdict"] == "warning"
        squatter.terminate()
    _, checks = host.doctor()
    assert {checks[name]["found"] for name in ("TCP port 7077", "UDP port 7078")} == {"free"}


def test_a_host_that_is_not_the_one_of_the_configuration(host: Host) -> None:
    host.sh("ip address del 192.0.2.11/24 dev lan0", "ip link set link0 down")
    host.is_mended_by_what_it_says("address 192.0.2.11", "missing", "on no interface")
    host.sh("ip link del link0")
    assert "correct link.interface" in host.finds("interface link0", "missing", "lan0")["remedy"]
    host.config.write_text("node = 5")
    assert "prld.toml" in host.finds("configuration", "missing", "node")["found"]
