"""What doctor reads out of rulesets that need no kernel to be read."""

from ipaddress import ip_address

import pytest

from prl.doctor import nftables, openings, xtables
from prl.doctor.filters import IPV4, Outcome, Packet

LINK = Packet(
    *("input", "link0", "tcp", ip_address("198.51.100.10"), ip_address("198.51.100.11")),
    target_port=7077,
)
UFW = """
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -j ufw-user-input
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
{}
COMMIT
"""
FIREWALLD = [
    {"table": {"family": "inet", "name": "firewalld", "handle": 1}},
    {
        "chain": {
            "family": "inet",
            "table": "firewalld",
            "name": "filter_INPUT",
            "type": "filter",
            "hook": "input",
            "prio": 10,
            "policy": "accept",
        }
    },
    {
        "rule": {
            "family": "inet",
            "table": "firewalld",
            "chain": "filter_INPUT",
            "expr": [
                {
                    "match": {
                        "op": "in",
                        "left": {"ct": {"key": "state"}},
                        "right": ["established", "related"],
                    }
                },
                {"accept": None},
            ],
        }
    },
    {
        "rule": {
            "family": "inet",
            "table": "firewalld",
            "chain": "filter_INPUT",
            "expr": [{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}],
        }
    },
]


def test_ufw_is_opened_by_ufw() -> None:
    ruleset = xtables.read(UFW.format(""), IPV4)
    outcomes, base = ruleset.judge(LINK)
    assert outcomes == {Outcome.DROP}
    assert base is not None
    command = "ufw allow in on link0 proto tcp from 198.51.100.10 to any port 7077"
    assert openings.opening(LINK, base) == (command, "ufw")


@pytest.mark.parametrize(
    ("rule", "outcomes"),
    [
        ("-A ufw-user-input -p tcp --dport 7000:7100 -j ACCEPT", {Outcome.ACCEPT}),
        ("-A ufw-user-input -s 198.51.100.0/24 -j ACCEPT", {Outcome.ACCEPT}),
        ("-A ufw-user-input ! -i lan0 -j ACCEPT", {Outcome.ACCEPT}),
        ("-A ufw-user-input -m limit --limit 3/min -j ACCEPT", {Outcome.ACCEPT, Outcome.DROP}),
        ("-A ufw-user-input -p udp -j ACCEPT", {Outcome.DROP}),
    ],
)
def test_rules_of_iptables(rule: str, outcomes: set[Outcome]) -> None:
    assert xtables.read(UFW.format(rule), IPV4).judge(LINK)[0] == outcomes


def test_firewalld_is_opened_by_firewalld() -> None:
    ruleset, foreign = nftables.read(FIREWALLD)
    assert not foreign
    outcomes, base = ruleset.judge(LINK)
    assert outcomes == {Outcome.DROP}
    assert base is not None
    command = "firewall-cmd --permanent --add-port=7077/tcp && firewall-cmd --reload"
    assert openings.opening(LINK, base) == (command, "firewalld")
