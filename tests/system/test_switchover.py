"""A service moves by plan (SPEC R21): the peer notices nothing, and no byte is lost."""

import json

import pytest

from prl.demo.payload import Payload
from tests.system import support
from tests.system.support import Applications, eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SIZE_BYTES = 32 << 20


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


def refused(lab: support.Lab, words: str) -> None:
    done = support.prlctl("--lab", lab.name, "--node", "re0", "switchover")
    assert (done.returncode, words in done.stderr) == (3, True), done.stderr
