"""Hosts with a firewall of their own: the two nodes treat a session's packets alike (R23a)."""

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prl.demo.payload import Payload
from prl.kernel import netlink
from prl.lab import Lab
from prl.lab.netns import Namespace
from tests.system import support
from tests.system.support import Applications, eventually
from tests.system.test_reprotect import Casts, Talk, safe

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "nft"),
]

SIZE_BYTES = 8 << 20
_labs = itertools.count()

# What the nodes say to each other, and the neighbours; then the service.
BETWEEN_THE_NODES = """
    iifname "lo" accept
    meta l4proto { icmp, ipv6-icmp } accept
    iifname "link0" tcp dport 7077 accept
    iifname "lan0" udp dport 7078 accept
"""
# As Debian's own examples have it, and as strict as administrators make it: nothing but what a
# connection that began here goes on with, in either direction.
STRICT = f"""
table inet filter {{
  chain input {{
    type filter hook input priority filter; policy drop;
    ct state invalid counter drop
    ct state established,related accept
    {BETWEEN_THE_NODES}
    tcp dport 7000 tcp flags & (fin|syn|rst|ack) == syn ct state new counter accept
    counter
  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    ct state invalid counter drop
    ct state established,related accept
    oifname "lo" accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    oifname "link0" accept
    udp dport 7078 accept
    counter
  }}
}}
"""
# In the manner of firewalld: what is invalid goes early, reverse path of IPv6, services as new.
ZONES = f"""
table inet firewalld {{
  chain mangle_PREROUTING {{
    type filter hook prerouting priority mangle + 10; policy accept;
    icmpv6 type {{ nd-router-advert, nd-neighbor-solicit }} accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    ct state invalid drop
  }}
  chain filter_INPUT {{
    type filter hook input priority filter + 10; policy accept;
    ct state {{ established, related }} accept
    ct status dnat accept
    {BETWEEN_THE_NODES}
    tcp dport 7000 ct state {{ new, untracked }} accept
    ct state invalid drop
    counter reject with icmpx admin-prohibited
  }}
  chain filter_OUTPUT {{
    type filter hook output priority filter + 10; policy accept;
    ct state {{ established, related }} accept
  }}
}}
"""
RULESETS = {"strict": STRICT, "zones": ZONES}


def load(lab: Lab, node: str, ruleset: str) -> None:
    lab.run(node, ["nft", "-f", "-"], input=ruleset, text=True, check=True)


@contextmanager
def behind(ruleset: str, **up: object) -> Iterator[Lab]:
    with support.pair(f"fw{next(_labs)}", **up) as lab:
        for node in ("re0", "re1"):
            load(lab, node, RULESETS[ruleset])
        yield lab


@pytest.mark.parametrize("family", support.FAMILIES)
@pytest.mark.parametrize("kind", ["sink", "source"])
@pytest.mark.parametrize("ruleset", RULESETS)
def test_a_stateful_ruleset_drops_nothing(ruleset: str, kind: str, family: int) -> None:
    with behind(ruleset) as lab:
        apps = Applications(lab, kind, family, SIZE_BYTES)
        with apps.connect(family) as peer:
            peer.hold_at(SIZE_BYTES * 3 // 4)
            if kind == "sink":
                peer.upload(Payload(SIZE_BYTES))
            else:
                peer.download()
            peer.await_bytes(SIZE_BYTES // 2)
            lab.fail("re0", "power")
            apps.expect("taken_over", "re1", peer=peer.port)
            peer.finish()


@pytest.mark.parametrize("ruleset", RULESETS)
def test_the_pair_heals_behind_a_stateful_ruleset(ruleset: str) -> None:
    with behind(ruleset) as lab:
        casts = Casts(lab)
        with Talk(lab) as talk:
            casts.expect("re0", "active", peer=talk.peer.port)
            owner, other = "re0", "re1"
            for how in ("kill-prld", "power", "power"):
                talk.goes_on()
                casts.forget(other)
                lab.fail(owner, how)
                casts.expect(other, "taken_over", peer=talk.peer.port)
                talk.goes_on()
                casts.forget(other)
                lab.heal(owner)
                if how == "power":
                    load(lab, owner, RULESETS[ruleset])
                    casts.start(owner)
                casts.expect(other, "active", peer=talk.peer.port)
                eventually("safe", lambda n=other: safe(lab, n))
                owner, other = other, owner
            talk.goes_on()


@pytest.mark.parametrize("node", ["re0", "re1"])
def test_a_firewall_that_is_switched_on_or_forgets_is_told_of_the_sessions(node: str) -> None:
    """Stateful rules under a live session: its handshake is not in the table."""
    with support.pair(f"fw{next(_labs)}") as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        with apps.connect() as peer:
            peer.hold_at(SIZE_BYTES // 4)
            peer.upload(Payload(SIZE_BYTES))
            peer.await_bytes(SIZE_BYTES // 4)
            load(lab, node, STRICT)
            eventually("the session is entered", lambda: entered(lab, node, peer.port))
            peer.hold_at(SIZE_BYTES // 2)
            peer.await_bytes(SIZE_BYTES // 2)
            Namespace(lab.topology.node(node).namespace).call(forget_all)
            eventually("it is entered again", lambda: entered(lab, node, peer.port))
            peer.hold_at(SIZE_BYTES * 3 // 4)
            peer.await_bytes(SIZE_BYTES * 3 // 4)
            eventually("safe", lambda: safe(lab, "re0") and safe(lab, "re1"))
            lab.fail("re0", "power")
            apps.expect("taken_over", "re1", peer=peer.port)
            peer.finish()


def entered(lab: Lab, node: str, port: int) -> bool:
    table = lab.run(node, ["cat", "/proc/net/nf_conntrack"], capture_output=True, text=True).stdout
    return any(
        f"sport={port} dport=7000" in line and "ASSURED" in line for line in table.split("\n")
    )


def forget_all() -> None:
    """As `conntrack -F`: a delete that names no connection."""
    delete = 1 << 8 | 2  # IPCTNL_MSG_CT_DELETE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as asking:
        asking.send(netlink.message(delete, netlink.REQUEST | netlink.ACK, bytes(4)))
        assert netlink.acknowledged(asking) == 0


def test_a_strict_reverse_path_filter_drops_nothing() -> None:
    with support.pair(f"fw{next(_labs)}") as lab:
        for node in ("re0", "re1"):
            for scope in ("all", "lan0", "link0"):
                lab.run(node, ["sysctl", "-qw", f"net.ipv4.conf.{scope}.rp_filter=1"], check=True)
        apps = Applications(lab, "echo", 4, SIZE_BYTES)
        with apps.connect() as peer:
            peer.hold_at(SIZE_BYTES)
            peer.converse(Payload(SIZE_BYTES), 20_000)
            peer.await_bytes(SIZE_BYTES // 2)
            lab.fail("re0", "power")
            apps.expect("taken_over", "re1", peer=peer.port)
            peer.finish()


CLOSED = """
table inet closed {
  chain input {
    type filter hook input priority filter; policy accept;
    tcp dport 7077 drop
  }
}
"""


def test_a_link_that_a_firewall_keeps_down_says_so() -> None:
    """Both nodes name the port; and the link comes up once it is open."""
    with support.pair(f"fw{next(_labs)}") as lab:
        load(lab, "re1", CLOSED)
        lab.fail("re1", "kill-prld")
        lab.heal("re1")
        for node in ("re0", "re1"):
            eventually(
                "why the link is down",
                lambda n=node: "let TCP 7077 in?" in support.status(lab, n)["because"],
            )
        assert "no answer from 198.51.100.11" in support.status(lab, "re0")["because"]
        lab.run("re1", ["nft", "flush", "ruleset"], check=True)
        eventually("the pair is up", lambda: safe(lab, "re0") and safe(lab, "re1"))
