"""What becomes of a session that cannot go on at a take-over: reset, with a reason, at once.

Checks L8.
"""

import socket
from contextlib import ExitStack

import pytest

from prl.client import Node
from prl.lab import Lab
from prl.lab.netns import Namespace
from tests.system import support
from tests.system.support import Applications, Peer, events, eventually, flows, prlctl

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

ALONE = 7001
"""A port that the standby has no application for."""


def test_of_two_sessions_one_goes_on_and_the_other_is_reset() -> None:
    with support.pair("lost") as lab:
        for family in support.FAMILIES:
            apps = Applications(lab, "obey", family)
            good, bad = apps.connect(family), apps.connect(family)
            handle = apps.expect("protected", "re0", peer=bad.port)["handle"]
            done = prlctl("--lab", lab.name, "--node", "re0", "flow", "del", str(handle))
            assert done.returncode == 0, done.stderr
            apps.expect("void", "re1", peer=bad.port)
            assert bad.ask("still there") == "still there"
            if family == support.FAMILIES[0]:
                first = (apps, good, bad)
        eventually("two shadows are left", lambda: len(flows(lab, "re1")) == 2)
        lab.fail("re0", "power")
        for served, protected, lost in (first, (apps, good, bad)):
            served.expect("taken_over", "re1", peer=protected.port)
            with pytest.raises(ConnectionResetError):  # it only waits, and says nothing
                lost.receive()
            assert protected.ask("and you?") == "and you?"
            protected.sock.close()
            lost.sock.close()
        told = [event for event in events(lab, "re1") if event["event"] == "session_lost"]
        assert len(told) == 2
        assert all("request" in event["facts"]["reason"] for event in told)
        (takeover,) = (event for event in events(lab, "re1") if event["event"] == "takeover")
        assert takeover["facts"]["lost"] == 2


def test_what_nobody_has_any_more_is_reset_by_who_owns_the_service_by_agreement() -> None:
    """The standby was cut off and could not take over, and the owner comes back with nothing."""
    with support.pair("agreed") as lab:
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            lab.fail("re1", "cut-both")
            apps.expect("state", "re0", peer=peer.port, state="open")
            assert peer.ask("still there") == "still there"
            lab.fail("re0", "power")
            apps.expect("void", "re1", peer=peer.port)
            lab.heal("re1")
            lab.heal("re0")
            with pytest.raises(ConnectionResetError):  # it only waits, and says nothing
                peer.receive()
        assert "takeover" not in [event["event"] for event in events(lab, "re1")]


def test_a_session_that_never_had_a_shadow_is_reset_by_who_takes_over() -> None:
    """Its peer waits for the answer to what the dead node has acknowledged, and says nothing."""
    with support.pair("exposed") as lab, ExitStack() as stack:
        apps = Applications(lab, "obey")
        listen = f"{support.service_address(4)}:{ALONE}"
        alone = Applications(lab, "obey", nodes=["re0"], listen=listen)
        eventually("the epoch's first is told", lambda: received(lab, "re1")["EXPOSED"])
        before = received(lab, "re1")["EXPOSED"]
        with Peer(lab, port=ALONE) as bad:
            alone.expect("state", "re0", peer=bad.port, state="open")
            assert bad.ask("is somebody there") == "is somebody there"
            eventually("re1 knows of it", lambda: received(lab, "re1")["EXPOSED"] > before)
            good = stack.enter_context(apps.connect())
            lab.fail("re0", "power")
            with pytest.raises(ConnectionResetError):
                bad.receive()
            assert good.ask("and you?") == "and you?"
            told = [event for event in events(lab, "re1") if event["event"] == "session_lost"]
            assert [event["facts"]["reason"] for event in told] == ["it was not protected"]


def test_who_was_cut_off_ends_what_its_successor_served_and_has_forgotten() -> None:
    """Nobody can go on: the peer has heard, and been heard by, a machine that has begun anew."""
    with support.pair("forgot") as lab:
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            lab.fail("re0", "cut-both")
            apps.expect("taken_over", "re1", peer=peer.port)
            assert peer.ask("and you?") == "and you?"
            lab.fail("re1", "power")
            lab.heal("re1")
            lab.heal("re0")
            with pytest.raises(ConnectionResetError):  # it only waits, and says nothing
                peer.receive()


def test_one_that_prld_had_not_been_asked_for_is_reset_when_its_owner_is_back() -> None:
    """That node alone knows of it, and may not say so itself any more."""
    with support.pair("ghost") as lab:
        apps = Applications(lab, "obey")
        place = Namespace(lab.topology.node("re0").namespace)
        where = (support.service_address(4), ALONE)
        with apps.connect() as good, place.call(lambda: socket.create_server(where)) as server:
            with Peer(lab, port=ALONE) as bad, server.accept()[0]:
                lab.fail("re0", "freeze")
                apps.expect("taken_over", "re1", peer=good.port)
                lab.heal("re0")
                with pytest.raises(ConnectionResetError):  # it only waits, and says nothing
                    bad.receive()
            assert good.ask("and you?") == "and you?"


def test_one_that_prld_had_not_been_asked_for_is_reset_by_who_takes_over() -> None:
    """Its node never comes back, and its peer has nothing to say."""
    with support.pair("unasked") as lab:
        apps = Applications(lab, "obey")
        place = Namespace(lab.topology.node("re0").namespace)
        where = (support.service_address(4), ALONE)
        with place.call(lambda: socket.create_server(where)) as server:
            eventually("the epoch's first is told", lambda: received(lab, "re1")["EXPOSED"])
            before = received(lab, "re1")["EXPOSED"]
            with Peer(lab, port=ALONE) as bad, server.accept()[0]:
                eventually("re1 knows of it", lambda: received(lab, "re1")["EXPOSED"] > before)
                with apps.connect() as good:
                    lab.fail("re0", "power")
                    with pytest.raises(ConnectionResetError):  # it only waits, and says nothing
                        bad.receive()
                    assert good.ask("and you?") == "and you?"


def received(lab: Lab, node: str) -> dict[str, int]:
    with Node(lab.state.socket(lab.topology.node(node))) as connection:
        found: dict[str, int] = connection.request({"op": "link_show"})["received"]
    return found
