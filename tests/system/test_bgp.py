"""Stock routers whose BGP session with us outlives our host (R23)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.waits,  # until BGP's hold time has passed, each time
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]

SECRET = "a-key.of/RFC+2385"  # noqa: S105 - of nobody
PRLCTL = str(Path(sys.executable).with_name("prlctl"))


@pytest.mark.parametrize(
    ("peer", "family", "rounds", "md5"),
    [
        pytest.param("bird", "4", 3, "", marks=pytest.mark.needs("bird")),
        pytest.param("bird", "6", 1, SECRET, marks=pytest.mark.needs("bird")),
        pytest.param("frr", "4", 1, SECRET, marks=pytest.mark.needs("frr")),
        pytest.param("frr", "6", 2, "", marks=pytest.mark.needs("frr")),
    ],
)
def test_a_bgp_session_survives_the_loss_of_power(
    peer: str, family: str, rounds: int, md5: str
) -> None:
    more = ["--peer", peer, "--family", family, "--rounds", str(rounds)]
    if md5:
        more += ["--md5", md5]
    done = subprocess.run(
        [PRLCTL, "-j", "demo", "bgp", *more],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert not md5 or md5 not in done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["survived"], f"{facts['why']}\n{done.stderr}"
    assert facts["primary_prefix"] is True
    bgp = facts["bgp"]
    assert bgp["state"] == "Established"
    assert (bgp["flaps"], bgp["withdrawn"], bgp["our_routes_unchanged"]) == (0, 0, True)
    assert bgp["survivor"] == ("re1" if rounds % 2 else "re0")
    assert len(bgp.get("rounds", [bgp])) == rounds
    assert bgp["routes"] == {"before": 100, "after": 50, "learnt": 150}


@pytest.mark.needs("bird", "frr")
def test_a_stock_daemon_lives_through_all_that_happens_to_a_router() -> None:
    """Power, the death of a daemon, a planned move: no flap, nothing withdrawn or said again."""
    done = subprocess.run(
        [PRLCTL, "-j", "demo", "bgp", "--daemon", "frr", "--peer", "bird", "--md5", SECRET],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["survived"], f"{facts['why']}\n{done.stderr}"
    bgp = facts["bgp"]
    assert bgp["state"] == "Established"
    assert (bgp["flaps"], bgp["withdrawn"], bgp["updates_said_again"]) == (0, 0, 0)
    assert bgp["our_routes_unchanged"] is True
    assert bgp["routes"] == {"ours": 1000, "theirs": 1050}
    assert len(bgp["rounds"]) == 1
