"""A service moves by plan (SPEC R21): the peer notices nothing, and no byte is lost."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from prl.bindings.programs import STRANGERS_NAMED
from prl.demo.payload import Payload
from prl.lab.netns import Namespace
from tests.system import support
from tests.system.support import Applications, eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SIZE_BYTES = 32 << 20
STRANGE_PORT = 7999
MANY = 16


def move(lab: support.Lab, node: str = "re0", command: str = "switchover") -> dict[str, object]:
    done = support.prlctl("--lab", lab.name, "--node", node, "-j", command)
    assert done.returncode == 0, done.stderr
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


@pytest.mark.parametrize(("kind", "family", "asked"), [("sink", 4, "re0"), ("source", 6, "re1")])
def test_a_service_moves_with_its_session(kind: str, family: int, asked: str) -> None:
    payload = Payload(SIZE_BYTES)
    with support.pair(f"r21{kind}") as lab:
        apps = Applications(lab, kind, family, SIZE_BYTES)
        with apps.connect(family) as peer:
            if kind == "sink":
                peer.upload(Payload(SIZE_BYTES))
            else:
                peer.download()
            peer.await_bytes(SIZE_BYTES // 4)
            facts = move(lab, asked)
            assert facts["to"] == "re1"
            peer.finish()
            peer.sock.close()
            apps.expect("state", "re0", peer=peer.port, state="demoted")
            end = apps.expect("end", "re1", peer=peer.port)
            if kind == "sink":
                assert (end["bytes"], end["sha256"]) == (SIZE_BYTES, payload.sha256())
            else:
                assert (peer.received, peer.sha256()) == (SIZE_BYTES, payload.sha256())


def test_what_is_not_safe_is_refused_with_the_reason_and_changes_nothing() -> None:
    with support.pair("r21no") as lab:
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            lab.fail("re1", "kill-app")
            apps.expect("state", "re0", peer=peer.port, state="open")
            refused(lab, "a session has no good shadow")
            assert peer.ask("still here") == "still here"
            lab.fail("re0", "cut-link")
            eventually(
                "the link is down", lambda: support.status(lab, "re0")["link"]["state"] != "up"
            )
            refused(lab, "the link is down")
            assert peer.ask("still here") == "still here"
            lab.heal("re0")
            eventually(
                "the link is up", lambda: support.status(lab, "re0")["link"]["state"] == "up"
            )
            assert move(lab, command="demote")["to"] == "re1"  # what cannot be moved is lost
            assert support.status(lab, "re1")["services"][0]["state"] == "owner"


def refused(lab: support.Lab, words: str, node: str = "re0") -> None:
    done = support.prlctl("--lab", lab.name, "--node", node, "switchover")
    assert (done.returncode, words in done.stderr) == (3, True), done.stderr


@contextmanager
def strangers(lab: support.Lab, count: int = 1) -> Iterator[list[support.Peer]]:
    """Peers whose connections to the service address on re0 nobody hands to prld."""
    place = Namespace(lab.topology.re0.namespace)
    to = (support.service_address(4), STRANGE_PORT)
    with ExitStack() as stack:
        listener = stack.enter_context(place.call(lambda: socket.create_server(to)))
        peers = []
        for _ in range(count):
            peers.append(stack.enter_context(support.Peer(lab, port=STRANGE_PORT)))
            stack.enter_context(listener.accept()[0])
        yield peers


def lost_strangers(lab: support.Lab) -> list[int]:
    found = support.events(lab, "re0")
    return [event["facts"]["lost"] for event in found if event["event"] == "strangers_lost"]


def test_a_session_that_prld_was_not_asked_for_is_not_lost_unasked() -> None:
    """Whichever node is asked; who means it says so."""
    with support.pair("r21st") as lab:
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            with strangers(lab, 2):
                for node in ("re0", "re1"):
                    refused(lab, "2 of its TCP sessions would be lost", node)
                    assert support.status(lab, "re0")["services"][0]["state"] == "owner"
            with strangers(lab, STRANGERS_NAMED + 1) as left:
                assert peer.ask("still here") == "still here"
                assert move(lab, command="demote")["to"] == "re1"
                for stranger in left:
                    with pytest.raises(ConnectionResetError):  # it only waits, and says nothing
                        stranger.receive()
                assert lost_strangers(lab) == [len(left)]
            apps.expect("taken_over", "re1", peer=peer.port)
            assert peer.ask("still here") == "still here"


def test_without_the_lan_it_keeps_no_other_session_on_its_node() -> None:
    """Nothing reaches it there either (L11); what it costs is told."""
    with support.pair("l11st") as lab:
        apps = Applications(lab, "obey")
        with apps.connect() as peer, strangers(lab):
            lab.fail("re0", "cut-lan")
            apps.expect("taken_over", "re1", peer=peer.port)
            eventually("the loss is told", lambda: lost_strangers(lab) == [1])
            assert peer.ask("still here") == "still here"


def test_a_move_that_loses_nothing_tells_of_no_loss() -> None:
    with support.pair("r21n") as lab:
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            assert move(lab)["to"] == "re1"
            apps.expect("state", "re0", peer=peer.port, state="demoted")
            assert peer.ask("still here") == "still here"
            assert lost_strangers(lab) == []


def test_who_is_stopped_behind_a_move_waits_until_its_sessions_are_protected() -> None:
    """It gives its service back, and what has no shadow there by then is lost."""
    with support.pair("r21stop") as lab:
        apps = Applications(lab, "obey")
        with ExitStack() as stack:
            peers = [stack.enter_context(apps.connect()) for _ in range(MANY)]
            for peer in peers:
                apps.expect("protected", "re0", peer=peer.port)
            assert move(lab)["to"] == "re1"
            pid = lab.state.pid(lab.topology.re1)
            assert pid is not None
            os.kill(pid, signal.SIGTERM)
            for peer in peers:
                apps.expect("taken_over", "re0", peer=peer.port)
                assert peer.ask("still here") == "still here"
