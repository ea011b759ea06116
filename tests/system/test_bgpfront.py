"""Two nodes with a stock BGP daemon on each, behind fronts: the peer of both notices nothing."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from prl.demo.fronted import RouterPair, Setting
from prl.demo.routers import HOLD_TIME_S, View, many_routes
from prl.lab import Lab
from tests.system.support import eventually, pair, prlctl, status

pytestmark = [
    pytest.mark.waits,  # until BGP's hold time has passed
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]
TIMEOUT_S = 240.0
OURS, THEIRS, LATER = 200, 100, 50
SECONDS = tuple(ip_network(f"203.0.113.{n}/32") for n in range(70))


def setting(
    daemon: str,
    peer: str,
    version: int = 4,
    *,
    secured: bool = False,
    waits: bool = False,
    second: str = "",
    passive: bool = False,
) -> Setting:
    both = many_routes(version, 0, THEIRS + LATER)
    ours = many_routes(version, 1, OURS)
    key = "secret" if secured else ""
    return Setting(
        *(daemon, peer, version, ours, both[:THEIRS], both[THEIRS:], key),
        ttl_security=secured,
        waits=waits,
        passive=passive,
        second=second,
        seconds=SECONDS if second else (),
    )


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Daemons that are not root have files there, which pytest's folder is not for."""
    made = Path(tempfile.mkdtemp(prefix="bgpf-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def two(scratch: Path, request: pytest.FixtureRequest) -> Iterator[RouterPair]:
    with ExitStack() as at_end, pair("bgpf") as lab:
        one = RouterPair(lab, scratch, request.param)
        at_end.callback(one.end)
        one.start()
        yield one


def expect_undisturbed(two: RouterPair, before: View) -> None:
    """It is the same session, no route of ours was withdrawn or learnt anew, and none repeated.

    The peer's own count of withdrawals would not do: daemons withdraw what they learn from it.
    """
    after = two.peer.view()
    is_same = after.state == "Established" and after.flaps == before.flaps
    assert is_same, f"{after.state} since {after.since}, before {before.since}\n{two.words()}"
    assert after.is_as_old(before)
    assert after.has_same_routes(before)
    assert after.updates == before.updates


def power_off_and_on_again(two: RouterPair) -> None:
    """The owner, re0; the peer has more to say meanwhile. re0 could go on again at the end."""
    two.lab.fail("re0", "power")
    two.peer.announce_more()
    two.wait("re1 goes on", lambda: two.goes_on("re1", THEIRS + LATER))
    two.lab.heal("re0")
    two.start_node("re0")
    two.wait("re0 is ready", lambda: two.is_ready("re1"))


def kill_both_daemons(two: RouterPair) -> None:
    """First that of the owner, re1, so that re0 goes on; then re0's, which alone comes back."""
    two.kill_daemon("re1")
    two.wait("re0 goes on", lambda: two.goes_on("re0", THEIRS + LATER))
    two.kill_daemon("re0")
    two.daemons["re0"].start()
    two.wait("it is back", lambda: two.goes_on("re0", THEIRS + LATER))


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(setting("bird", "frr"), marks=pytest.mark.needs("bird", "frr")),
        pytest.param(
            setting("frr", "bird", 6, secured=True, waits=True),
            marks=pytest.mark.needs("bird", "frr"),
        ),
        pytest.param(setting("frr", "gobgp"), marks=pytest.mark.needs("frr", "gobgp")),
        pytest.param(
            setting("bird", "openbgpd", 6, secured=True),
            marks=pytest.mark.needs("bird", "openbgpd"),
        ),
    ],
    ids=[
        "bird-frr",
        "frr-bird-ipv6-md5-gtsm-passive",
        "frr-gobgp",
        "bird-openbgpd-ipv6-md5-gtsm",
    ],
    indirect=True,
)
def test_each_node_loses_its_power_and_the_peers_session_stays(two: RouterPair) -> None:
    """Twice, the node that was healed being the one that goes on; nothing is withdrawn."""
    before = two.peer.view()
    power_off_and_on_again(two)
    two.wait("prld says so, too", lambda: status(two.lab, "re1")["switchover_safe"])
    two.lab.fail("re1", "power")
    two.wait("re0 goes on", lambda: two.goes_on("re0", THEIRS + LATER))
    time.sleep(HOLD_TIME_S * 1.2)  # what the peer waits for before it gives a session up
    expect_undisturbed(two, before)


@pytest.mark.parametrize(
    "two",
    [pytest.param(setting("bird", "bird", 6), marks=pytest.mark.needs("bird"))],
    ids=["bird-bird-ipv6"],
    indirect=True,
)
def test_the_owners_daemon_dies_and_the_other_nodes_goes_on(two: RouterPair) -> None:
    """It is ready, so that it has the service at once; and it keeps it when it is the only one."""
    before = two.peer.view()
    two.kill_daemon("re0")
    two.wait("re1 goes on", lambda: two.goes_on("re1", THEIRS))
    two.kill_daemon("re1")
    two.peer.announce_more()
    two.daemons["re1"].start()
    two.wait("it is back", lambda: two.goes_on("re1", THEIRS + LATER))
    two.daemons["re0"].start()
    two.wait("re0 is ready", lambda: two.is_ready("re1"))
    expect_undisturbed(two, before)


@pytest.mark.parametrize(
    "two",
    [pytest.param(setting("frr", "bird"), marks=pytest.mark.needs("bird", "frr"))],
    ids=["frr-bird"],
    indirect=True,
)
def test_the_owners_front_dies_and_comes_back(two: RouterPair) -> None:
    """It is the application that dies: the other node has the session, and later this one again."""
    before = two.peer.view()
    two.fronts["re0"].kill()
    two.peer.announce_more()
    two.wait("re1 goes on", lambda: two.goes_on("re1", THEIRS + LATER))
    two.fronts["re0"].start()
    two.wait("re0 is ready", lambda: two.is_ready("re1"))
    two.fronts["re1"].kill()
    two.wait("re0 goes on", lambda: two.goes_on("re0", THEIRS + LATER))
    expect_undisturbed(two, before)


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(setting("bird", "frr", second="bird"), marks=pytest.mark.needs("bird", "frr")),
        pytest.param(setting("frr", "bird", second="frr"), marks=pytest.mark.needs("bird", "frr")),
    ],
    ids=["bird", "frr"],
    indirect=True,
)
def test_two_peers_are_told_of_each_other_and_nothing_is_taken_back(two: RouterPair) -> None:
    """A daemon that has not heard one yet lacks its routes, and would take them from the other."""
    assert two.second is not None
    before, besides = two.peer.view(), two.second.view()
    power_off_and_on_again(two)
    kill_both_daemons(two)
    expect_undisturbed(two, before)
    two.wait("it is told the later ones", lambda: two.learnt_by_second() == OURS + THEIRS + LATER)
    after = two.second.view()
    assert (after.state, after.flaps) == ("Established", besides.flaps)
    assert after.is_as_old(besides)
    known = {prefix: number for prefix, number in after.routes.items() if prefix in besides.routes}
    assert replace(after, routes=known).has_same_routes(besides)


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(
            setting("frr", "bird", secured=True, passive=True),
            marks=pytest.mark.needs("bird", "frr"),
        ),
        pytest.param(setting("bird", "bird", 6, passive=True), marks=pytest.mark.needs("bird")),
    ],
    ids=["frr-bird-md5-gtsm", "bird-bird-ipv6"],
    indirect=True,
)
def test_daemons_that_do_not_connect_are_connected_to(two: RouterPair) -> None:
    """On either node: at the beginning, after a return, and when the daemon has died."""
    before = two.peer.view()
    power_off_and_on_again(two)
    kill_both_daemons(two)
    two.daemons["re1"].start()
    two.wait("re1 is ready", lambda: two.is_ready("re0"))
    two.wait("prld agrees", lambda: status(two.lab, "re0")["switchover_safe"])
    time.sleep(HOLD_TIME_S * 1.2)
    expect_undisturbed(two, before)
    for front in two.fronts.values():
        assert all(one["counts"]["daemon_dials"] for one in front.peers())


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(setting("frr", "bird"), marks=pytest.mark.needs("bird", "frr")),
        pytest.param(setting("bird", "bird", 6), marks=pytest.mark.needs("bird")),
    ],
    ids=["frr-bird", "bird-bird-ipv6"],
    indirect=True,
)
def test_the_service_is_moved_and_no_daemon_notices(two: RouterPair) -> None:
    """There and back: the sessions between daemons and fronts are as old as they were, too."""
    before = two.peer.view()
    inner = {node: daemon.view() for node, daemon in two.daemons.items()}
    for owner, other in (("re0", "re1"), ("re1", "re0")):
        assert prlctl("--lab", two.lab.name, "--node", owner, "switchover").returncode == 0
        two.wait(f"{other} goes on", lambda other=other: two.goes_on(other, THEIRS))
        two.wait(f"{owner} is ready", lambda other=other: two.is_ready(other))
    for node, daemon in two.daemons.items():
        after = daemon.view()
        assert after.is_as_old(inner[node]), f"{node}'s daemon began anew\n{two.words()}"
        assert (after.updates, after.withdrawn) == (inner[node].updates, inner[node].withdrawn)
    expect_undisturbed(two, before)


@pytest.mark.needs("bird")
def test_peers_that_change_their_minds_all_the_time() -> None:
    """The second peer has what the first one said last, whatever fails meanwhile: no quiet comes.

    As long as ``python -m tests.bgp_churn`` has it by itself, and as often, is for a quiet hour.
    """
    short = ["--seconds", "16", "--failures", "2", "--rate", "200", "--routes", "1000"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bgp_churn", *short],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "SURVIVED" in done.stdout, done.stdout + done.stderr


@pytest.mark.needs("bird", "frr")
def test_a_router_that_stays_up_is_made_and_mended_by_one_command() -> None:
    name = f"stand-{os.getpid()}"
    lab = Lab(name)

    def router() -> list[str]:
        done = prlctl("-j", "lab", "router", "--name", name, "--routes", "20", timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        started: list[str] = json.loads(done.stdout)["started"]
        return started

    def is_ready(node: str) -> bool:
        config = lab.state.path / "router" / f"{node}.toml"
        return prlctl("bgp", "status", "--config", str(config)).returncode == 0

    try:
        assert router() == ["all"]
        assert is_ready("re0")
        assert router() == []
        lab.fail("re0", "power")
        lab.heal("re0")
        assert router() == ["re0's front", "re0's frr"]
        eventually("re0 could go on", lambda: is_ready("re1"))
    finally:
        lab.down()
