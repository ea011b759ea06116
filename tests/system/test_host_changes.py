"""What others do to a host while prld runs: put back, or said by `status` (SPEC R23a, L3, L11)."""

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from prl.lab import Lab, prld
from tests.system import support
from tests.system.support import Applications, eventually, told
from tests.system.test_reprotect import Casts, Talk
from tests.system.watch import ask_who_has, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

_labs = itertools.count()
SQUATTER = """
import os, signal, socket, sys
os.setuid(65534)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 7078))
unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
unix.bind("\\0prld")
tcp = socket.create_server(("0.0.0.0", 7077))
print("has them", flush=True)
signal.pause()
"""


@contextmanager
def obedient(family: int = 4) -> Iterator[tuple[Lab, Applications]]:
    with support.pair(f"hc{next(_labs)}") as lab:
        yield lab, Applications(lab, "obey", family)


@contextmanager
def talking(family: int = 4) -> Iterator[tuple[Lab, Casts, Talk]]:
    """A protected conversation, of an application that may join in anew at any time.

    What happens to the host may cost a shadow; then there is another one.
    """
    with support.pair(f"hc{next(_labs)}") as lab:
        casts = Casts(lab, family)
        with Talk(lab, family) as talk:
            casts.expect("re0", "active", peer=talk.peer.port)
            yield lab, casts, talk


def on(lab: Lab, node: str, *argv: str) -> None:
    lab.run(node, argv, check=True)


def addresses(lab: Lab, node: str) -> str:
    shown = lab.run(node, ["ip", "address", "show", "lan0"], capture_output=True, text=True)
    return str(shown.stdout)


def is_safe(lab: Lab, node: str) -> bool:
    return bool(support.status(lab, node)["switchover_safe"])


@pytest.mark.parametrize("family", support.FAMILIES)
@pytest.mark.parametrize("node", ["re0", "re1"])
def test_a_service_address_that_is_removed_comes_back(
    node: str, family: int, tmp_path: Path
) -> None:
    """And it is as silent on a standby as it was."""
    with talking(family) as (lab, casts, talk):
        talk.goes_on()
        service = support.service_address(family)
        length = 32 if family == 4 else 128
        with watch(lab, tmp_path) as seen:
            on(lab, node, "ip", "address", "del", f"{service}/{length}", "dev", "lan0")
            eventually("it is put back", lambda: f" {service}/" in addresses(lab, node))
            eventually("that is told", lambda: service in "".join(told(lab, node, "put_back")))
            ask_who_has(lab)
            talk.goes_on()
        assert seen.runs() == ["re0"]
        eventually("safe", lambda: is_safe(lab, "re0") and is_safe(lab, "re1"))
        lab.fail("re0", "power")
        casts.expect("re1", "taken_over", peer=talk.peer.port)
        talk.goes_on()


def networkd_restarts(lab: Lab, node: str) -> None:
    """What it does to an interface that it manages, with KeepConfiguration=no.

    Addresses that are not its own go, and routing rules; its own are configured anew.
    """
    machine = lab.topology.node(node)
    lan = machine.lan
    for scope in ("global", "link"):  # it fails when somebody adds meanwhile: that is prld
        lab.run(node, ["ip", "address", "flush", "dev", "lan0", "scope", scope])
    on(lab, node, "ip", "rule", "flush")
    for table in ("local", "main", "default"):
        preference = {"local": "0", "main": "32766", "default": "32767"}[table]
        on(lab, node, "ip", "rule", "add", "pref", preference, "lookup", table)
    on(lab, node, "ip", "address", "add", str(lan.ipv4), "dev", "lan0")
    on(lab, node, "ip", "address", "replace", str(lan.ipv6), "dev", "lan0", "nodad")


@pytest.mark.parametrize("family", support.FAMILIES)
@pytest.mark.parametrize("node", ["re0", "re1"])
def test_a_restart_of_networkd_is_survived(node: str, family: int) -> None:
    with talking(family) as (lab, casts, talk):
        talk.goes_on()
        networkd_restarts(lab, node)
        eventually(
            "both addresses are back",
            lambda: all(
                f" {support.service_address(each)}/" in addresses(lab, node) for each in (4, 6)
            ),
        )
        talk.goes_on()
        eventually("safe", lambda: is_safe(lab, "re0") and is_safe(lab, "re1"))
        lab.fail("re0", "power")
        casts.expect("re1", "taken_over", peer=talk.peer.port)
        talk.goes_on()


def test_ipv6_addresses_and_neighbours_come_back_when_the_lan_was_down() -> None:
    with talking(6) as (lab, casts, talk):
        talk.goes_on()
        on(lab, "re1", "ip", "link", "set", "lan0", "down")
        eventually(
            "status says it", lambda: "lan0 is down" in support.status(lab, "re1")["because"]
        )
        on(lab, "re1", "ip", "link", "set", "lan0", "up")
        lan = lab.topology.re1.lan
        on(lab, "re1", "ip", "address", "replace", str(lan.ipv6), "dev", "lan0", "nodad")
        eventually("safe", lambda: is_safe(lab, "re0") and is_safe(lab, "re1"))
        assert f" {support.service_address(6)}/" in addresses(lab, "re1")
        talk.goes_on()
        neighbours = lab.run("re1", ["ip", "neigh"], capture_output=True, text=True).stdout
        assert "PERMANENT" in neighbours
        lab.fail("re0", "power")
        casts.expect("re1", "taken_over", peer=talk.peer.port)
        talk.goes_on()


def test_an_owner_whose_interface_is_deleted_hands_over() -> None:
    with obedient() as (lab, apps), apps.connect() as peer:
        assert peer.ask("before") == "before"
        on(lab, "re0", "ip", "link", "del", "lan0")
        eventually(
            "status says it", lambda: "lan0 is gone" in support.status(lab, "re0")["because"]
        )
        assert not is_safe(lab, "re0")
        apps.expect("taken_over", "re1", peer=peer.port)
        assert peer.ask("after") == "after"
        assert support.status(lab, "re1")["services"][0]["state"] == "owner"


def second_path(lab: Lab) -> None:
    """The nodes reach each other's LAN addresses by the link, too, when the LAN is gone."""
    for node in lab.topology.nodes:
        other = lab.topology.other(node)
        via = str(other.link.ipv4.ip)
        on(lab, node.name, "ip", "route", "add", f"{other.lan.ipv4.ip}/32", "via", via)
        on(lab, node.name, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
        on(lab, node.name, "sysctl", "-qw", "net.ipv4.conf.link0.rp_filter=0")


def test_heartbeats_go_by_the_lan_alone() -> None:
    """Another way to the other node says nothing of the LAN: an owner cut off hands over (L11)."""
    with obedient() as (lab, apps), apps.connect() as peer:
        assert peer.ask("before") == "before"
        second_path(lab)
        lab.fail("re0", "cut-lan")
        apps.expect("taken_over", "re1", peer=peer.port)
        assert peer.ask("after") == "after"
        assert support.status(lab, "re1")["services"][0]["state"] == "owner"


def test_a_standby_without_a_carrier_is_fed_all_the_same() -> None:
    """Where act_mirred hands it nothing. Its shadows go when it is cut off, and for that alone."""
    with obedient() as (lab, apps), apps.connect() as peer:
        assert peer.ask("before") == "before"
        lab.fail("re1", "cut-lan")

        def ended() -> list[str]:
            assert peer.ask("still here") == "still here"
            return support.told(lab, "re0", "replication_ended")

        eventually("the shadow is given up", ended)
        assert "does not hear the LAN" in ended()[0]


def test_ports_that_somebody_has_keep_nobody_from_starting() -> None:
    """As any user can: the node starts, says who it is, and goes on when the port is free."""
    with support.pair(f"hc{next(_labs)}") as lab, ExitStack() as stack:
        squatters = {}
        for node in ("re1", "re0"):  # the standby first: it takes nothing over
            lab.fail(node, "kill-prld")
            argv = ["/usr/bin/python3", "-c", SQUATTER]
            squatters[node] = lab.exec(node, argv, stdout=subprocess.PIPE, text=True)
            stack.enter_context(squatters[node])
            stack.callback(squatters[node].kill)
            assert squatters[node].stdout.readline() == "has them\n"
        for node, squatter in squatters.items():
            lab.heal(node)
            log = lab.state.log(lab.topology.node(node)).read_text()
            assert f"port 7078 is taken by pid {squatter.pid} (python3), of user nobody" in log
            assert not is_safe(lab, node)
        assert "TCP port 7077 is taken by" in support.status(lab, "re1")["because"]
        stack.close()
        eventually("the pair is up", lambda: is_safe(lab, "re0") and is_safe(lab, "re1"))
        with Applications(lab, "obey").connect() as peer:
            assert peer.ask("still here") == "still here"


def test_an_interface_that_is_made_anew_ends_prld() -> None:
    """Its programs went with the old one; the service manager starts prld again."""
    with obedient() as (lab, apps), apps.connect() as peer:
        assert peer.ask("before") == "before"
        on(lab, "re1", "ip", "link", "del", "lan0")
        on(lab, "re1", "ip", "link", "add", "lan0", "type", "veth", "peer", "elsewhere")
        log = lab.state.log(lab.topology.re1)
        eventually("it says why", lambda: "lan0 was deleted and made anew" in log.read_text())
        eventually("it ends", lambda: not prld.is_alive(lab.state, lab.topology.re1))
        assert peer.ask("after") == "after"
        assert not is_safe(lab, "re0")


def test_an_interface_with_another_mac_address_ends_prld_and_no_session() -> None:
    """The next prld knows its frames by the new one."""
    with talking() as (lab, casts, talk):
        talk.goes_on()
        log = lab.state.log(lab.topology.re0)
        on(lab, "re0", "ip", "link", "set", "lan0", "address", "02:00:00:00:0f:0f")
        eventually("it says why", lambda: "had 02:" in log.read_text())
        eventually("it ends", lambda: not prld.is_alive(lab.state, lab.topology.re0))
        for neighbour in ("peer", "re1"):  # as a bond tells them
            on(lab, neighbour, "ip", "neighbour", "flush", "dev", "lan0")
        talk.goes_on()
        lab.heal("re0")  # as its service manager does
        eventually("safe", lambda: is_safe(lab, "re0") and is_safe(lab, "re1"))
        talk.goes_on()
        lab.fail("re0", "power")
        casts.expect("re1", "taken_over", peer=talk.peer.port)
        talk.goes_on()


def test_doctor_finds_nothing_wrong_with_nodes_that_serve() -> None:
    """With prld running: its own ports, programs, filters and addresses are no findings."""
    with obedient() as (lab, apps), apps.connect() as peer:
        assert peer.ask("before") == "before"
        for node in ("re0", "re1"):
            config = lab.state.config(lab.topology.node(node))
            argv = [support.PRLCTL, "-j", "doctor", "--config", str(config)]
            done = lab.run(node, argv, capture_output=True, text=True)
            wrong = [
                c for c in json.loads(done.stdout)["checks"] if c["verdict"] not in {"ok", "note"}
            ]
            assert (wrong, done.returncode) == ([], 0)
