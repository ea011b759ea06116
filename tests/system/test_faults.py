"""Parts fail while sessions run: the peer sees no reset, and every byte is exact.

Checks I4, L8, L9, R6, R17, R19, R30.
"""

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prl.demo.payload import Payload
from tests.system import support
from tests.system.support import Applications, Peer, captured, eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SIZE_BYTES = 16 << 20
CHUNK_BYTES = 20_000
KINDS = ("sink", "source", "echo")
_labs = itertools.count()


@functools.cache
def whole() -> str:
    return Payload(SIZE_BYTES).sha256()


@contextmanager
def applications(kind: str, family: int = 4) -> Iterator[Applications]:
    with support.pair(f"f8a{next(_labs)}") as lab:
        yield Applications(lab, kind, family, SIZE_BYTES)


def start(peer: Peer, kind: str) -> None:
    """Begin the transfer, and return when it is half done; it ends in finish() alone."""
    payload = Payload(SIZE_BYTES)
    whole_bytes = 2 * SIZE_BYTES if kind == "echo" else SIZE_BYTES
    peer.hold_at(whole_bytes * 3 // 4)
    if kind == "sink":
        peer.upload(payload)
    elif kind == "source":
        peer.download()
    else:
        peer.converse(payload, CHUNK_BYTES)
    peer.await_bytes(whole_bytes // 2)


def told(apps: Applications, node: str) -> list[str]:
    return [record["event"] for record in support.events(apps.lab, node)]


def finish(apps: Applications, peer: Peer, kind: str, node: str) -> None:
    """The transfer ends exact, as the peer and the application on ``node`` saw it."""
    peer.finish()
    peer.sock.close()
    end = apps.expect("end", node, peer=peer.port)
    if kind != "sink":
        assert (peer.received, peer.sha256()) == (SIZE_BYTES, whole())
    if kind != "source":
        assert (end["bytes"], end["sha256"], end["error"]) == (SIZE_BYTES, whole(), "")
        for each in ("re0", "re1"):
            apps.reads_are_exact(each, Payload(SIZE_BYTES))


MOVES = [
    *[(kind, how, 4) for kind in ("sink", "source") for how in ("kill-app", "kill-prld", "freeze")],
    *[(kind, "power", 4) for kind in KINDS],
    ("echo", "kill-prld", 6),
    ("source", "power", 6),
]


@pytest.mark.parametrize(("kind", "how", "family"), MOVES)
def test_the_primary_fails_and_the_session_moves(kind: str, how: str, family: int) -> None:
    with applications(kind, family) as apps, apps.connect(family) as peer:
        start(peer, kind)
        apps.lab.fail("re0", how)
        taken = apps.expect("taken_over", "re1", peer=peer.port)
        assert (taken["out_bytes"] == 0) == (kind == "sink")
        finish(apps, peer, kind, "re1")
        assert support.status(apps.lab, "re1")["services"][0]["state"] == "owner"
        if how == "kill-app":
            eventually("re0 has given it up", lambda: "demoted" in told(apps, "re0"))


STAYS = [
    *[("sink", how, 4) for how in ("kill-app", "kill-prld", "freeze", "power", "cut-link")],
    *[("source", how, 4) for how in ("kill-prld", "power", "cut-link")],
    ("echo", "cut-link", 6),
]


@pytest.mark.parametrize(("kind", "how", "family"), STAYS)
def test_the_secondary_or_the_link_fails_and_the_session_stays(
    kind: str, how: str, family: int
) -> None:
    with applications(kind, family) as apps, apps.connect(family) as peer:
        start(peer, kind)
        apps.lab.fail("re1", how)
        apps.expect("state", "re0", peer=peer.port, state="open")
        errors = [r["event"] for r in support.events(apps.lab, "re0") if r["level"] == "error"]
        assert "replication_ended" in errors
        if how in {"kill-prld", "cut-link"}:
            void = apps.expect("void", "re1", peer=peer.port)
            assert Payload(SIZE_BYTES).sha256(void["bytes"]) == void["sha256"] or kind == "source"
        finish(apps, peer, kind, "re0")
        assert not apps.heard("taken_over", "re1")


def test_a_mended_link_protects_the_session_again_and_it_can_move() -> None:
    with applications("obey") as apps, apps.connect() as peer:
        assert peer.ask("before") == "before"
        apps.lab.fail("re0", "cut-link")
        apps.expect("state", "re0", peer=peer.port, state="open")
        apps.expect("void", "re1", peer=peer.port)
        assert peer.ask("alone") == "alone"
        assert support.status(apps.lab, "re0")["switchover_safe"] is False
        apps.lab.heal("re0")
        apps.expect("state", "re0", peer=peer.port, state="active")
        assert peer.ask("protected") == "protected"
        assert support.status(apps.lab, "re0")["switchover_safe"] is True
        apps.lab.fail("re0", "power")
        assert peer.ask("moved") == "moved"
        apps.expect("taken_over", "re1", peer=peer.port)
        shadows = apps.heard("standby", "re1")
        assert [event["peer"] for event in shadows] == [peer.port, peer.port]


def test_a_restarted_secondary_ends_its_ghosts_and_shadows_again() -> None:
    with applications("obey") as apps, apps.connect() as peer:
        assert peer.ask("before") == "before"
        apps.lab.fail("re1", "kill-prld")
        apps.expect("void", "re1", peer=peer.port)
        apps.lab.heal("re1")  # its application still holds the shadow of before
        apps.expect("standby", "re1", peer=peer.port, in_bytes=len("say before\n"))
        apps.expect("state", "re0", peer=peer.port, state="active")
        assert "ghosts_ended" in told(apps, "re1")
        apps.lab.fail("re0", "power")
        assert peer.ask("after") == "after"
        apps.expect("taken_over", "re1", peer=peer.port)


def test_a_thawed_primary_stays_silent(tmp_path: Path) -> None:
    pcap = tmp_path / "re0.pcap"
    with applications("echo") as apps, apps.connect() as peer:
        topology = apps.lab.topology
        own = f"ether src {topology.re0.lan.mac}"
        with support.capture(apps.lab, topology.re0.port, pcap, own):
            start(peer, "echo")
            apps.lab.fail("re0", "freeze")
            taken = apps.expect("taken_over", "re1", peer=peer.port)
            apps.lab.heal("re0")
            apps.expect("state", "re0", peer=peer.port, state="demoted")
            finish(apps, peer, "echo", "re1")
            eventually(
                "re0 stands by",
                lambda: support.status(apps.lab, "re0")["services"][0]["state"] == "standby",
            )
        service = topology.service
        speaks = (
            f"src host {service.ipv4} or src host {service.ipv6} or arp src host {service.ipv4}"
        )
        before = captured(pcap, 0, [speaks])
        after = captured(pcap, taken["monotonic_ns"], [speaks])
        assert before
        assert after == []
        assert captured(pcap, taken["monotonic_ns"])  # it does speak for itself


def test_the_peer_ends_its_direction_first() -> None:
    with applications("obey") as apps, apps.connect() as peer:
        peer.send(b"say half-closed\n")
        assert peer.line() == "half-closed"
        peer.sock.shutdown(support.socket.SHUT_WR)
        apps.expect("end", "re0", peer=peer.port, error="")
        assert peer.receive() == b""
        apps.expect("void", "re1", peer=peer.port)
        eventually("no flow on re0", lambda: not support.flows(apps.lab, "re0"))
        eventually("no flow on re1", lambda: not support.flows(apps.lab, "re1"))


def test_a_half_closed_session_moves() -> None:
    """The peer has ended its direction, the answer is still on its way."""
    with applications("source") as apps, apps.connect() as peer:
        peer.sock.shutdown(support.socket.SHUT_WR)
        start(peer, "source")
        apps.lab.fail("re0", "power")
        finish(apps, peer, "source", "re1")


def test_the_application_ends_its_direction_first_and_the_session_moves() -> None:
    with applications("obey") as apps, apps.connect() as peer:
        assert peer.ask("a") == "a"
        peer.send(b"half\n")
        assert peer.receive() == b""
        apps.lab.fail("re0", "power")
        apps.expect("taken_over", "re1", peer=peer.port)
        peer.send(b"still heard\n")
        peer.sock.shutdown(support.socket.SHUT_WR)
        end = apps.expect("end", "re1", peer=peer.port)
        assert (end["bytes"], end["error"]) == (peer.sent, "")


def test_a_reset_by_the_peer_ends_it_everywhere() -> None:
    with applications("obey") as apps, apps.connect() as peer:
        assert peer.ask("a") == "a"
        peer.reset()
        end = apps.expect("end", "re0", peer=peer.port)
        assert "reset" in end["error"]
        apps.expect("void", "re1", peer=peer.port)
        eventually("no flow on re0", lambda: not support.flows(apps.lab, "re0"))
        eventually("no flow on re1", lambda: not support.flows(apps.lab, "re1"))
        with apps.connect() as another:
            assert another.ask("b") == "b"


def test_a_deliberate_close_ends_it_on_both_nodes() -> None:
    with applications("obey") as apps, apps.connect() as peer:
        assert peer.ask("a") == "a"
        peer.send(b"close\n")
        assert peer.receive() == b""
        peer.sock.close()
        apps.expect("void", "re1", peer=peer.port)
        apps.expect("state", "re0", peer=peer.port, state="ended")
        assert not support.flows(apps.lab, "re0")
        eventually("no flow on re1", lambda: not support.flows(apps.lab, "re1"))
        assert support.status(apps.lab, "re0")["services"][0]["state"] == "owner"


def test_two_sessions_at_once_move_together() -> None:
    with applications("obey") as apps, apps.connect() as first, apps.connect() as second:
        assert (first.ask("a"), second.ask("b")) == ("a", "b")
        apps.lab.fail("re0", "power")
        assert (first.ask("c"), second.ask("d")) == ("c", "d")
        for peer in (first, second):
            apps.expect("taken_over", "re1", peer=peer.port)


def test_without_its_application_a_shadow_is_void_until_another_one_offers_itself() -> None:
    with applications("obey") as apps, apps.connect() as peer:
        assert peer.ask("a") == "a"
        apps.lab.fail("re1", "kill-app")
        state = apps.expect("state", "re0", peer=peer.port, state="open")
        assert state["reason"]
        assert peer.ask("alone") == "alone"
        assert not support.flows(apps.lab, "re1")
        again = Applications(apps.lab, "obey", nodes=("re1",))
        again.expect("standby", "re1", peer=peer.port)
        apps.expect("state", "re0", peer=peer.port, state="active")
        apps.lab.fail("re0", "kill-app")
        assert peer.ask("moved") == "moved"
        again.expect("taken_over", "re1", peer=peer.port)
