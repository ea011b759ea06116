"""Who may go on alone: a node that somebody on the LAN answers, or one of the witnesses there.

Checks L6.
"""

import time
from pathlib import Path

import pytest

from prl.bindings.native import lib
from prl.lab import Lab
from tests.system import support
from tests.system.racks import Racks
from tests.system.support import Applications, eventually
from tests.system.watch import Talk, mend_lan_alone, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]


def service(lab: Lab, node: str) -> dict[str, object]:
    found: dict[str, object] = support.status(lab, node)["services"][0]
    return found


@pytest.mark.parametrize("side", ["re0", "re1"])
def test_of_two_racks_the_one_with_the_witness_goes_on(side: str, tmp_path: Path) -> None:
    """Link and trunk are cut at once, and each node has neighbours that answer (F19)."""
    near = "192.0.2.1"
    with support.pair("witness", witnesses=[near if side == "re0" else Racks.NEIGHBOUR]) as lab:
        racks = Racks(lab)
        try:
            apps = Applications(lab, "obey")
            with apps.connect() as peer, watch(lab, tmp_path) as watched, Talk(peer) as talk:
                for node in ("re0", "re1"):
                    eventually(
                        f"{node} is safe",
                        lambda node=node: support.status(lab, node)["switchover_safe"],
                    )
                racks.part()
                if side == "re0":  # the peer is there, too
                    eventually("re1's lease is over", lambda: has_expired(lab, "re1"))
                    assert service(lab, "re1")["state"] == "standby"
                    talk.go_on()
                else:
                    eventually("re1 takes over", lambda: service(lab, "re1")["state"] == "owner")
                    eventually("re0 is silent", lambda: service(lab, "re0")["silent"])
                    # The peer hears of it all the same when the LAN is back (L7).
                    eventually("fast claims are over", lambda: has_claimed(lab, "re1"))
                racks.join()
                racks.link()
                talk.go_on()
                eventually(
                    "one stands by",
                    lambda: (
                        sorted(str(service(lab, n)["state"]) for n in ("re0", "re1"))
                        == ["owner", "standby"]
                    ),
                )
                assert service(lab, side)["state"] == "owner"
                assert watched.runs() == ["re0", "re1"][: 1 + (side == "re1")]
        finally:
            racks.remove()


def has_claimed(lab: Lab, node: str) -> bool:
    (taken,) = (one for one in support.events(lab, node) if one["event"] == "takeover")
    fast_ns = lib.PRL_DP_CLAIM_BURSTS * lib.PRL_DP_CLAIM_INTERVAL_MS * 1_000_000
    return time.monotonic_ns() > int(taken["monotonic_ns"]) + fast_ns


def has_expired(lab: Lab, node: str) -> bool:
    return any(event["event"] == "lease_over" for event in support.events(lab, node))


def test_a_node_that_starts_off_the_lan_begins_when_somebody_answers_it() -> None:
    """That nobody answers for its addresses says nothing while no probe gets out (F18)."""
    with support.pair("offlan", start_prld=False) as lab:
        lab.fail("re0", "cut-both")
        lab._start_prld(lab.topology.re0)
        eventually("it says why", lambda: "nobody on the LAN answers" in why_not(lab))
        assert service(lab, "re0")["state"] == "none"
        mend_lan_alone(lab, "re0")
        eventually("it begins", lambda: service(lab, "re0")["state"] == "owner")


def why_not(lab: Lab) -> str:
    return " ".join(e["text"] for e in support.events(lab, "re0") if e["event"] == "probe_failed")
