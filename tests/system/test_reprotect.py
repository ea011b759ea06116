"""The pair heals: sessions go from failure to failure, under traffic, without a byte lost.

Checks L10, L9, R23.
"""

import os
import random
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from prl.demo.player import Cast, Deadline
from prl.lab import Lab
from tests.system import support
from tests.system.support import PATIENCE_S, Peer, eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

APP = Path(__file__).with_name("healing_app.py")
MANY = 50
TALK_BYTES = 4000
COMING, GOINGS = 12, 6
QUIET, FLAPS = 8, 3


class Talk:
    """A peer that sends and wants the same back, without end."""

    def __init__(self, lab: Lab, family: int = 4) -> None:
        self.peer = Peer(lab, family)
        self.rounds = 0
        self.trouble = ""
        self._chance = random.Random(self.peer.port)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        self.peer.sock.close()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.001):
                said = self._chance.randbytes(self._chance.randint(1, TALK_BYTES))
                self.peer.send(said)
                heard = b""
                while len(heard) < len(said):
                    more = self.peer.receive(len(said) - len(heard))
                    assert more, "the stream ended"
                    heard += more
                assert heard == said
                self.rounds += 1
        except (OSError, AssertionError) as error:
            self.trouble = repr(error)

    def goes_on(self) -> None:
        """Whether it is still under way; returns when some more has been said and heard."""
        before = self.rounds

        def more() -> bool:
            assert not self.trouble, self.trouble
            return self.rounds > before + 2

        eventually("the talk goes on", more)


class Casts:
    """The application on each node; a node that was without power gets it anew."""

    def __init__(self, lab: Lab, family: int = 4) -> None:
        self.lab, self._family = lab, family
        self._casts: dict[str, Cast] = {}
        for node in ("re0", "re1"):
            self.start(node)

    def start(self, node: str) -> None:
        argv = [sys.executable, str(APP), "--listen", support.listen_on(self._family)]
        self._casts[node] = Cast(self.lab, argv, {node: []})
        self.expect(node, "listening")

    def expect(self, node: str, event: str, *, again: bool = False, **facts: object) -> None:
        """Wait for it; ``again``: one that was not heard before."""
        cast = self._casts[node]
        if again:
            cast.heard.clear()
        cast.expect({event}, node, Deadline(PATIENCE_S), **facts)

    def forget(self, node: str) -> None:
        self._casts[node].heard.clear()

    def begin_again(self, node: str) -> None:
        """The application of a node dies, and there is a new one."""
        self._casts[node].kill(node)
        self._casts[node].start_again(node)
        self.expect(node, "listening")


@contextmanager
def talks(count: int, family: int = 4) -> Iterator[tuple[Casts, list[Talk]]]:
    with support.pair(f"rp{os.getpid()}") as lab, ExitStack() as stack:
        casts = Casts(lab, family)
        found = [stack.enter_context(Talk(lab, family)) for _ in range(count)]
        for talk in found:
            casts.expect("re0", "active", peer=talk.peer.port)
        yield casts, found


def all_go_on(found: list[Talk]) -> None:
    for talk in found:
        talk.goes_on()


def safe(lab: Lab, node: str) -> bool:
    return bool(support.status(lab, node)["switchover_safe"])


@pytest.mark.parametrize(("count", "rounds", "family"), [(MANY, 2, 4), (2, 4, 6)])
def test_nodes_fail_in_turn_and_every_session_goes_on(count: int, rounds: int, family: int) -> None:
    with talks(count, family) as (casts, found):
        owner, other = "re0", "re1"
        for _ in range(rounds):
            all_go_on(found)
            casts.forget(other)
            casts.lab.fail(owner, "power")
            for talk in found:
                casts.expect(other, "taken_over", peer=talk.peer.port)
            all_go_on(found)
            assert not safe(casts.lab, other)
            casts.forget(other)
            casts.lab.heal(owner)
            casts.start(owner)
            for talk in found:
                casts.expect(other, "active", peer=talk.peer.port)
                casts.expect(owner, "standby", peer=talk.peer.port)
            assert safe(casts.lab, other)
            assert support.status(casts.lab, other)["flows"]["unprotected"] == 0
            owner, other = other, owner
        all_go_on(found)


def test_an_application_over_there_that_comes_and_goes_disturbs_nobody() -> None:
    """It goes while shadows are being made ready, at their moment, or just after it."""
    with talks(COMING) as (casts, found):
        for _ in range(GOINGS):
            casts.forget("re0")
            casts.begin_again("re1")
            casts.expect("re0", "active")  # one of them; the others are in the middle of it
        casts.begin_again("re1")
        eventually("all are protected", lambda: safe(casts.lab, "re0"))
        all_go_on(found)
        shadows = support.flows(casts.lab, "re1")
        assert [shadow["state"] for shadow in shadows] == ["active"] * COMING
        assert counters(casts.lab, "re1")["moments_restored"] >= COMING + GOINGS
        casts.forget("re1")
        casts.lab.fail("re0", "power")
        for talk in found:
            casts.expect("re1", "taken_over", peer=talk.peer.port)
        all_go_on(found)


def counters(lab: Lab, node: str) -> dict[str, int]:
    found: dict[str, int] = support.stats(lab, node)["datapath"]
    return found


def generations(lab: Lab) -> dict[int, int]:
    """Snapshots that were taken of each session, by handle."""
    return {flow["handle"]: flow["generation"] for flow in support.flows(lab, "re0")}


def states(lab: Lab, node: str) -> list[str]:
    return sorted(flow["state"] for flow in support.flows(lab, node))


def say(quiet: list[Peer], chance: random.Random) -> None:
    """Every one says something, and hears the same."""
    for peer in quiet:
        said, heard = chance.randbytes(TALK_BYTES), b""
        peer.send(said)
        while len(heard) < len(said):
            more = peer.receive(len(said) - len(heard))
            assert more, "the stream ended"
            heard += more
        assert heard == said


@pytest.mark.parametrize("family", [4, 6])
def test_quiet_sessions_outlive_flaps_of_the_link_without_new_snapshots(family: int) -> None:
    """And what protects them then is good: their host loses its power right after the last one."""
    chance = random.Random(family)
    with support.pair(f"flap{os.getpid()}") as lab, ExitStack() as stack:
        casts = Casts(lab, family)
        quiet = [stack.enter_context(Peer(lab, family)) for _ in range(QUIET)]
        for peer in quiet:
            casts.expect("re0", "active", peer=peer.port)
        say(quiet, chance)
        first = generations(lab)
        for flap in range(1, FLAPS + 1):
            lab.fail("re0", "cut-link")
            eventually("all are alone", lambda: states(lab, "re0") == ["alone"] * QUIET)
            eventually("all wait", lambda: states(lab, "re1") == ["suspended"] * QUIET)
            assert not safe(lab, "re0")
            lab.heal("re0")
            eventually("all go on", lambda: states(lab, "re0") == ["active"] * QUIET)
            eventually("all are good", lambda: states(lab, "re1") == ["active"] * QUIET)
            assert safe(lab, "re0")
            assert counters(lab, "re0")["resumed"] == flap * QUIET
            if flap < FLAPS:
                say(quiet, chance)
        assert generations(lab) == first
        casts.forget("re1")
        lab.fail("re0", "power")
        for peer in quiet:
            casts.expect("re1", "taken_over", peer=peer.port)
        say(quiet, chance)


def test_a_session_that_went_on_while_the_link_was_away_gets_a_new_snapshot() -> None:
    """The quiet ones beside it do not."""
    chance = random.Random(0)
    with talks(2) as (casts, found), ExitStack() as stack:
        lab = casts.lab
        quiet = [stack.enter_context(Peer(lab)) for _ in range(QUIET)]
        for peer in quiet:
            casts.expect("re0", "active", peer=peer.port)
        say(quiet, chance)
        first = generations(lab)
        lab.fail("re0", "cut-link")
        alone = ["alone"] * QUIET + ["open"] * len(found)
        eventually("the busy ones are open", lambda: states(lab, "re0") == alone)
        all_go_on(found)
        lab.heal("re0")
        eventually("both nodes are safe", lambda: safe(lab, "re0") and safe(lab, "re1"))
        again = [h for h, generation in generations(lab).items() if generation != first[h]]
        assert len(again) == len(found)
        assert counters(lab, "re0")["resumed"] == QUIET
        casts.forget("re1")
        lab.fail("re0", "power")
        for port in [talk.peer.port for talk in found] + [peer.port for peer in quiet]:
            casts.expect("re1", "taken_over", peer=port)
        all_go_on(found)
        say(quiet, chance)


def test_shadows_do_not_wait_for_ever_for_the_link() -> None:
    with support.pair(f"gone{os.getpid()}") as lab:
        casts = Casts(lab)
        with Peer(lab) as peer:
            casts.expect("re0", "active", peer=peer.port)
            casts.expect("re1", "standby", peer=peer.port)
            lab.fail("re0", "cut-link")
            eventually("it is alone", lambda: states(lab, "re0") == ["alone"])
            eventually("it is open", lambda: states(lab, "re0") == ["open"])
            eventually("there is no shadow", lambda: states(lab, "re1") == [])
            assert counters(lab, "re1")["suspended_void"] == 1
            say([peer], random.Random(1))
            casts.forget("re0")
            lab.heal("re0")
            casts.expect("re0", "active", peer=peer.port)
            assert counters(lab, "re0")["resumed"] == 0


def restart(casts: Casts, node: str, how: str) -> None:
    """A new prld on a node whose applications live on."""
    if how == "kill-prld":
        casts.lab.fail(node, how)
    else:
        pid = casts.lab.state.pid(casts.lab.topology.node(node))
        assert pid is not None
        with os.fdopen(os.pidfd_open(pid)) as ended:
            os.kill(pid, signal.SIGTERM)
            assert select.select([ended], [], [], PATIENCE_S)[0]
    casts.lab.heal(node)


@pytest.mark.parametrize("how", ["kill-prld", "stop"])
def test_an_owner_s_prld_is_restarted_while_it_is_alone(how: str) -> None:
    with talks(3) as (casts, found):
        casts.lab.fail("re1", "power")
        for talk in found:
            casts.expect("re0", "open", peer=talk.peer.port)
        all_go_on(found)
        restart(casts, "re0", how)
        told = [record["event"] for record in support.events(casts.lab, "re0")]
        assert "adopted" in told
        assert support.status(casts.lab, "re0")["services"][0]["state"] == "owner"
        casts.forget("re0")
        casts.lab.heal("re1")
        casts.start("re1")
        for talk in found:
            casts.expect("re0", "active", peer=talk.peer.port)
        all_go_on(found)
        casts.lab.fail("re0", "power")
        for talk in found:
            casts.expect("re1", "taken_over", peer=talk.peer.port)
        all_go_on(found)


@pytest.mark.parametrize(("node", "how"), [("re0", "kill-prld"), ("re1", "kill-prld")])
def test_one_prld_is_restarted_and_the_pair_heals(node: str, how: str) -> None:
    with talks(3) as (casts, found):
        owner, other = ("re1", "re0") if node == "re0" else ("re0", "re1")
        restart(casts, node, how)
        if node == "re0":
            for talk in found:
                casts.expect("re1", "taken_over", peer=talk.peer.port)
        eventually("both nodes are safe", lambda: safe(casts.lab, owner))
        all_go_on(found)
        casts.forget(other)
        casts.lab.fail(owner, "power")
        for talk in found:
            casts.expect(other, "taken_over", peer=talk.peer.port)
        all_go_on(found)


def test_a_pair_whose_set_ups_need_longer_than_configured_protects_all_the_same() -> None:
    """The deadline follows what is needed: here, a standby that is late for its answers."""
    with support.pair(f"slow{os.getpid()}", start_prld=False) as lab:
        for node in lab.topology.nodes:
            path = lab.state.config(node)
            text = path.read_text()
            if "[timing]" not in text:
                text += "\n[timing]\nsetup_ms = 1\n"
            path.write_text(re.sub(r"setup_ms = \d+", "setup_ms = 1", text))
        lab._start_prld(*lab.topology.nodes)
        lab._await_lease()
        apps = support.Applications(lab, "obey")
        late = lab.state.pid(lab.topology.re1)
        assert late is not None
        os.kill(late, signal.SIGSTOP)
        try:
            peer = Peer(lab)
            eventually("the deadline is over", lambda: support.told(lab, "re0", "not_protected"))
        finally:
            os.kill(late, signal.SIGCONT)
        with peer:
            apps.expect("protected", "re0", peer=peer.port)
            apps.expect("standby", "re1", peer=peer.port)
            assert peer.ask("protected") == "protected"
            assert support.stats(lab, "re0")["attempts"]["deadline_ms"] > 1
