"""What doctor makes of rulesets, other programs' states and answers of `ip`, without a kernel."""

import os
import socket
import subprocess
from ipaddress import ip_address, ip_interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl.daemon.host import ports
from prl.doctor import Finding, network, nftables, openings, xtables
from prl.doctor.filters import IPV4, Outcome, Packet
from prl.doctor.host import Interface
from prl.kernel.descriptors import Holder

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
        ("-A ufw-user-input -s 192.0.0.1/255.0.0.255 -j ACCEPT", {Outcome.ACCEPT, Outcome.DROP}),
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


# -- who else manages an interface


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Stand-ins for /run and /etc, and programs that stand in for others come first."""
    run, etc = tmp_path / "run", tmp_path / "etc"
    monkeypatch.setattr(network, "RUN", run)
    monkeypatch.setattr(network, "ETC", etc)
    monkeypatch.setattr(network, "LIB", tmp_path / "lib")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return run, etc


def fake(tmp_path: Path, name: str, body: str) -> None:
    program = tmp_path / "bin" / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


def of_managers(name: str = "lan0", ifindex: int = 5) -> list[Finding]:
    return list(network.managers(Interface(name, ifindex, 1500, True, ())))


@pytest.mark.parametrize("dropins", ["", 'NETWORK_FILE_DROPINS="/run/a.conf:/run/b.conf"\n'])
def test_an_interface_that_networkd_manages(
    dropins: str, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    """systemd 252 does not tell of drop-ins, newer ones do."""
    run, _ = roots
    file = "/etc/systemd/network/50-lan.network"
    state = run / "systemd/netif/links/5"
    state.parent.mkdir(parents=True)
    state.write_text(f"ADMIN_STATE=configured\nNETWORK_FILE={file}\n{dropins}")
    fake(tmp_path, "networkctl", "[ $1 = reload ]")
    (found,) = of_managers()
    assert (found.verdict, found.found) == ("warning", f"managed by {file}")
    subprocess.run(["sh", "-ec", found.paste], check=True)
    (found,) = of_managers()
    assert found.verdict == "ok"


def test_the_last_drop_in_decides(roots: tuple[Path, Path], tmp_path: Path) -> None:
    run, etc = roots
    file = etc / "systemd/network/lan.network"
    file.parent.mkdir(parents=True)
    file.write_text("[Network]\nKeepConfiguration = static\n")
    assert network._keeps(file)
    for root, words in ((tmp_path / "lib", "no"), (run, "dhcp"), (etc, "yes")):
        folder = root / "systemd/network/lan.network.d"
        folder.mkdir(parents=True)
        (folder / "b.conf").write_text(f"[Network]\nKeepConfiguration={words}\n")
    assert network._keeps(file)
    (run / "systemd/network/lan.network.d/c.conf").write_text("KeepConfiguration=no\n")
    assert not network._keeps(file)


def test_interfaces_that_network_manager_manages(roots: tuple[Path, Path], tmp_path: Path) -> None:
    run, etc = roots
    devices = run / "NetworkManager/devices"
    devices.mkdir(parents=True)
    there = {"lan0": 5, "lan1": 6}
    for ifindex in there.values():
        (devices / str(ifindex)).write_text("[device]\nmanaged=true\n")
    fake(tmp_path, "nmcli", "[ $1 = general ]")
    for name, ifindex in there.items():
        (found,) = of_managers(name, ifindex)
        assert (found.verdict, found.found) == ("warning", "managed")
        subprocess.run(["sh", "-ec", found.paste], check=True)
    written = {path.read_text() for path in (etc / "NetworkManager/conf.d").iterdir()}
    assert written == {f"[keyfile]\nunmanaged-devices+=interface-name:{name}\n" for name in there}


# -- addresses and routes

LAN = Interface("lan0", 5, 1500, True, (ip_interface("192.0.2.11/24"),), "vrf-lan")
CONFIG: Any = SimpleNamespace(
    lan=SimpleNamespace(address=ip_address("192.0.2.11")), link=SimpleNamespace(interface="link0")
)


def answer(
    monkeypatch: pytest.MonkeyPatch, effective: int, **answers: list[dict[str, str]]
) -> None:
    """The kernel's settings are all ``effective``; `ip` answers by what it is asked about."""

    def ask(*argv: str) -> list[dict[str, str]]:
        return next((found for word, found in answers.items() if word in argv), [])

    monkeypatch.setattr(network.host, "effective", lambda *_: effective)
    monkeypatch.setattr(network.host, "ask", ask)


@pytest.mark.parametrize(
    ("master", "verdict"), [("vrf-lan", "warning"), ("", "warning"), ("vrf-second", "ok")]
)
def test_another_vrf_s_interface_may_have_the_same_network(
    master: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, 0, vrf=[{"ifname": "vrf-lan"}, {"ifname": "vrf-second"}])
    other = Interface("lan1", 6, 1500, True, (ip_interface("192.0.2.12/24"),), master)
    there = {"lan0": LAN, "lan1": other}
    assert network._second_nic(CONFIG, LAN, there).verdict == verdict


def test_a_default_route_elsewhere_may_be_the_management_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default = [{"dev": "mgmt0"}]
    answer(monkeypatch, 1, default=default)
    found = network._reverse_path(CONFIG, LAN)
    assert found.verdict == "note"
    assert "the default route leaves by mgmt0" in found.found

    answer(monkeypatch, 1, default=default, neigh=[{"dst": "192.0.2.1"}], get=[{"dev": "lan1"}])
    found = network._reverse_path(CONFIG, LAN)
    assert found.verdict == "warning"
    assert "the route to 192.0.2.1 leaves by lan1" in found.found


# -- ports


@pytest.mark.parametrize(
    ("bound", "in_the_way"),
    [("127.0.0.1", True), ("0.0.0.0", True), ("127.0.0.2", False)],  # noqa: S104
)
def test_a_port_of_another_address_is_not_in_the_way(
    bound: str, in_the_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports.descriptors, "holders_of", lambda inode: [Holder(inode, 3)])
    with socket.create_server((bound, 0)) as squatter:
        port = squatter.getsockname()[1]
        pids = ports.pids_of("tcp", port, ip_address("127.0.0.1"))
        assert pids == ([os.fstat(squatter.fileno()).st_ino] if in_the_way else [])


def test_processes_are_looked_through_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, now_s = list[int](), 0.0

    def holders_of(inode: int) -> list[Holder]:
        looks.append(inode)
        return [Holder(os.getpid(), 3)]

    monkeypatch.setattr(ports, "_answers", {})
    monkeypatch.setattr(ports.descriptors, "holders_of", holders_of)
    monkeypatch.setattr(ports, "time", SimpleNamespace(monotonic=lambda: now_s))
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        words = ports.user_of("tcp", port)
        assert f"pid {os.getpid()}" in words
        assert [ports.user_of("tcp", port) for _ in range(59)] == [words] * 59
        assert len(looks) == 1
        now_s = ports.ASKED_AGAIN_S
        ports.user_of("tcp", port)
        assert len(looks) == 2
