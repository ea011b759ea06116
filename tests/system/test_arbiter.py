"""An arbiter: etcd with three members, and a LAN that parts with neighbours on both sides.

Checks L12.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.etcd import ENDPOINTS, Etcd, etcd
from tests.system.racks import Racks
from tests.system.support import Applications, eventually
from tests.system.watch import Talk, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.waits,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "etcd"),
]


@contextmanager
def arbitrated(name: str, folder: Path, policy: str = "stop") -> Iterator[tuple[Lab, Etcd, Racks]]:
    with support.pair(name, arbiter=ENDPOINTS, arbiter_policy=policy) as lab:
        racks = Racks(lab)
        try:
            with etcd(lab, folder) as store:
                for node in ("re0", "re1"):
                    eventually(f"{node} reaches it", lambda node=node: facts(lab, node)["reached"])
                yield lab, store, racks
        finally:
            racks.remove()


def facts(lab: Lab, node: str) -> dict[str, object]:
    found = support.status(lab, node)["arbiter"]
    assert isinstance(found, dict)
    return found


def state(lab: Lab, node: str) -> str:
    return str(facts(lab, node)["state"])


def owns(lab: Lab, node: str) -> bool:
    return bool(support.status(lab, node)["services"][0]["state"] == "owner")


def silence(lab: Lab, node: str) -> str:
    return str(support.status(lab, node)["services"][0]["silent"])


def happened(lab: Lab, node: str) -> list[str]:
    return [event["event"] for event in support.events(lab, node)]


def together(lab: Lab, store: Etcd) -> None:
    """The pair is safe, and the next loss may be decided otherwise."""
    for node in ("re0", "re1"):
        eventually(
            f"{node} is safe", lambda node=node: support.status(lab, node)["switchover_safe"]
        )
    assert store.holder() in {"", "-"}


def test_an_owner_that_the_arbiter_names_goes_on_in_its_rack(tmp_path: Path) -> None:
    """Both nodes hear neighbours, and neither hears the other."""
    with arbitrated("arbown", tmp_path) as (lab, store, racks):
        apps = Applications(lab, "obey")
        with apps.connect() as peer, watch(lab, tmp_path) as watched, Talk(peer) as talk:
            together(lab, store)
            store.cut("re1")
            racks.part()
            eventually("re0 has won", lambda: state(lab, "re0") == "won")
            talk.go_on()
            assert store.holder() == "re0"
            assert not owns(lab, "re1")
            store.cut("re1", cut=False)
            eventually("re1 has lost", lambda: state(lab, "re1") == "lost")
            talk.go_on()
            assert watched.runs() == ["re0"]
            racks.join()
            racks.link()
            apps.expect("protected", "re0", peer=peer.port)
            apps.expect("standby", "re1", peer=peer.port)
            together(lab, store)
            talk.go_on()


def test_a_standby_that_the_arbiter_names_takes_over_and_the_owner_is_silent(
    tmp_path: Path,
) -> None:
    """The same, from the other side; the peer reaches its session when the LAN is one again."""
    with arbitrated("arbstand", tmp_path) as (lab, store, racks):
        apps = Applications(lab, "obey")
        with apps.connect() as peer, watch(lab, tmp_path) as watched, Talk(peer) as talk:
            together(lab, store)
            store.cut("re0")
            racks.part()
            eventually("re1 has taken over", lambda: owns(lab, "re1"))
            assert store.holder() == "re1"
            assert "the arbiter has not said" in silence(lab, "re0")
            store.cut("re0", cut=False)
            eventually("re0 has lost", lambda: state(lab, "re0") == "lost")
            racks.join()
            talk.go_on()
            assert watched.runs() == ["re0", "re1"]
            racks.link()
            together(lab, store)
            assert owns(lab, "re1")
            assert not owns(lab, "re0")
            talk.go_on()


def test_a_dead_member_of_the_arbiter_changes_nothing(tmp_path: Path) -> None:
    with arbitrated("arbdead", tmp_path) as (lab, store, _):
        apps = Applications(lab, "obey")
        with apps.connect() as peer, Talk(peer) as talk:
            together(lab, store)
            store.stop(0)
            lab.fail("re0", "power")
            eventually("re1 has taken over", lambda: owns(lab, "re1"))
            talk.go_on()
            assert store.holder() == "re1"


def test_nobody_goes_on_while_the_arbiter_is_not_reached_and_one_does_afterwards(
    tmp_path: Path,
) -> None:
    with arbitrated("arbgone", tmp_path) as (lab, store, racks):
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            together(lab, store)
            store.stop()
            for node in ("re0", "re1"):
                eventually(
                    f"{node} is not safe",
                    lambda node=node: "not reached" in support.status(lab, node)["because"],
                )
            racks.part()
            eventually("re0 is silent", lambda: silence(lab, "re0"))
            for node in ("re0", "re1"):
                eventually(f"{node} has asked", lambda node=node: state(lab, node) == "unreached")
            assert not owns(lab, "re1")
            store.start()
            eventually("one has won", lambda: "won" in {state(lab, n) for n in ("re0", "re1")})
            racks.join()  # so that the peer reaches whoever has
            assert peer.ask("there?") == "there?"
            speaks = {n for n in ("re0", "re1") if owns(lab, n) and not silence(lab, n)}
            assert len(speaks) == 1
            assert {store.holder()} == speaks
            racks.link()
            together(lab, store)


def test_where_the_lease_decides_without_the_arbiter_a_standby_takes_over(tmp_path: Path) -> None:
    with arbitrated("arblease", tmp_path, "continue") as (lab, store, _):
        apps = Applications(lab, "obey")
        with apps.connect() as peer, Talk(peer) as talk:
            together(lab, store)
            store.stop()
            lab.fail("re0", "power")
            eventually("re1 has taken over", lambda: owns(lab, "re1"))
            talk.go_on()
            assert "arbiter_won" not in happened(lab, "re1")


def test_an_owner_that_is_alone_survives_a_new_prld(tmp_path: Path) -> None:
    """It asks before anything else, finds its own name, and adopts what its kernel has."""
    with arbitrated("arbnew", tmp_path) as (lab, store, _):
        apps = Applications(lab, "obey")
        with apps.connect() as peer, Talk(peer) as talk:
            together(lab, store)
            lab.fail("re1", "power")
            eventually("re0 has won", lambda: store.holder() == "re0")
            talk.go_on()
            lab.fail("re0", "kill-prld")
            talk.go_on()
            lab.heal("re0")
            eventually("re0 owns it still", lambda: owns(lab, "re0"))
            assert "adopted" in happened(lab, "re0")
            talk.go_on()
