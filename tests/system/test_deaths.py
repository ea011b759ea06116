"""The program of one session dies, and others of the service live (R19, R22)."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.serving import Serve
from tests.system.support import Peer, eventually, prlctl
from tests.system.watch import Talk, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

OBEY = ("sh", "-c", 'while read -r word what; do [ "$word" != die ] || exit 1; echo "$what"; done')
OTHERS = 8
DEATHS = 5


@dataclass(frozen=True)
class Scene:
    """One service, its peers of which nothing may be lost, and one more."""

    lab: Lab
    serves: dict[str, Serve]
    peers: list[Peer]
    others: list[Talk]
    one: Peer

    def others_go_on(self) -> None:
        for talk in self.others:
            talk.go_on()

    def owner(self) -> list[str]:
        return [
            node
            for node in ("re0", "re1")
            if support.status(self.lab, node)["services"][0]["state"] == "owner"
        ]

    def handle(self, peer: Peer) -> str:
        """Of its session on re0."""
        flows = support.flows(self.lab, "re0")
        (found,) = [f["handle"] for f in flows if f["remote"].endswith(f":{peer.port}")]
        return str(found)


def kill_newest_program(serve: Serve) -> None:
    """The program of the connection that came last."""
    children = Path(f"/proc/{serve.process.pid}/task").glob("*/children")
    pids = [int(word) for one in children for word in one.read_text().split()]
    os.kill(max(pids), signal.SIGKILL)


def has_ended(peer: Peer) -> bool:
    """Wait for the end of the stream."""
    try:
        return peer.receive() == b""
    except ConnectionResetError:
        return True


@contextmanager
def scene(name: str, folder: Path, speakers: list[str]) -> Iterator[Scene]:
    with support.pair(name) as lab, ExitStack() as stack:
        serves = {
            node: stack.enter_context(Serve(lab, node, command=OBEY)) for node in ("re0", "re1")
        }
        peers = [stack.enter_context(Peer(lab)) for _ in range(OTHERS)]
        serves["re0"].await_log(": protected", OTHERS)
        one = stack.enter_context(Peer(lab))
        serves["re0"].await_log(": protected", OTHERS + 1)
        assert one.ask("hello") == "hello"
        talks = [stack.enter_context(Talk(peer)) for peer in peers]
        with watch(lab, folder) as seen:
            yield Scene(lab, serves, peers, talks, one)
    assert seen.runs() == speakers


def test_it_moves_nobody_who_would_be_lost(tmp_path: Path) -> None:
    with scene("death0", tmp_path, ["re0"]) as on:
        unprotected = on.handle(on.peers[0])
        done = prlctl("--lab", on.lab.name, "--node", "re0", "flow", "del", unprotected)
        assert done.returncode == 0, done.stderr
        kill_newest_program(on.serves["re0"])
        assert has_ended(on.one)
        on.others_go_on()
        assert on.owner() == ["re0"]
        told = [e["text"] for e in support.events(on.lab, "re0") if e["event"] == "renounce_failed"]
        assert told == ["1 others are not protected, and would be lost"]


def test_the_other_node_goes_on_where_that_costs_nothing(tmp_path: Path) -> None:
    with scene("death1", tmp_path, ["re0", "re1"]) as on:
        kill_newest_program(on.serves["re0"])
        on.serves["re1"].await_log("taken over", OTHERS + 1)
        assert on.one.ask("and on") == "and on"
        on.others_go_on()
        eventually("re1 owns it alone", lambda: on.owner() == ["re1"])


def test_what_a_peer_said_lets_both_programs_die_and_moves_nothing(tmp_path: Path) -> None:
    with scene("death2", tmp_path, ["re0"]) as on:
        for count in range(DEATHS):
            with on.one if count == 0 else Peer(on.lab) as peer:
                on.serves["re0"].await_log(": protected", OTHERS + 1 + count)
                peer.send(b"die\n")
                assert has_ended(peer)
            on.others_go_on()
        assert on.owner() == ["re0"]
