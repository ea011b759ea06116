"""Events: the table of them, the document, and those who follow."""

import ast
import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prl.daemon.control import control
from prl.daemon.control.control import Client, ControlServer
from prl.daemon.control.followers import FOLLOWERS_MAX, Followers, Thing
from prl.daemon.events.bounded import Bounded
from prl.daemon.events.catalogue import EVENTS, HAPPENED, STATE
from prl.daemon.events.log import EVENTS_MAX, TEXT_MAX_CHARS, EventLog
from prl.errors import PrlError

ROOT = Path(__file__).parents[2]
LEVELS = {"info", "warning", "error"}
LOGS = {"self._log", "events", "log"}


def posted() -> list[tuple[str, set[str], str]]:
    """Name, facts and place of each event that the daemon's sources post."""
    found = []
    for path in sorted((ROOT / "prl/daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            position = {"post": 1}.get(node.func.attr, 0 if node.func.attr in LEVELS else None)
            if position is None or ast.unparse(node.func.value) not in LOGS:
                continue
            name = node.args[position]
            assert isinstance(name, ast.Constant), f"{path.name}:{node.lineno}: a name in quotes"
            facts = {word.arg or "**" for word in node.keywords}
            found.append((str(name.value), facts, f"{path.name}:{node.lineno}"))
    return found


def test_every_event_that_is_posted_is_in_the_table_with_its_facts() -> None:
    for name, facts, where in posted():
        assert name in HAPPENED, f"{where}: add {name} to prl/daemon/events/catalogue.py"
        assert facts <= set(HAPPENED[name].facts), where


def test_every_event_and_fact_of_the_table_is_posted() -> None:
    facts: dict[str, set[str]] = {}
    for name, given, _ in posted():
        facts.setdefault(name, set()).update(given)
    facts["left_out"] = {"count"}  # by the outlet itself
    assert {name: set(kind.facts) for name, kind in HAPPENED.items()} == facts


def test_the_document_has_every_event_as_the_table_says_it() -> None:
    text = (ROOT / "docs/events.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [
        (name, kind.meaning, "; ".join(f"`{fact}`: {what}" for fact, what in kind.facts.items()))
        for name, kind in EVENTS.items()
    ]


def test_a_text_is_bounded() -> None:
    ring = EventLog(lambda _: None)
    ring.info("alarm", "x" * 5000)
    assert len(ring.after(0, 1)[0].text) == TEXT_MAX_CHARS


class Peer:
    """A follower's connection, both ends."""

    def __init__(self, server: ControlServer, buffer_bytes: int = 4096) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        theirs.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        self.client = Client(server, theirs, 0)

    def close(self) -> None:
        self.client.close()
        self.sock.close()

    async def read(self, *, until: str) -> list[dict[str, Any]]:
        """What comes, up to the event ``until``."""
        found: list[dict[str, Any]] = []
        while not found or found[-1]["event"] != until:
            raw = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            assert raw, "the daemon has disconnected"
            found += json.loads(raw)["records"]
        return found


def things() -> Iterator[Thing]:
    yield "node re0", {"object": "node", "name": "re0", "safe": True, "cause": ""}
    for handle in range(20):
        yield f"session {handle}", {"object": "session", "handle": handle}
    yield "end", {"object": "end", "sessions": 0}


@pytest.fixture
def ring() -> EventLog:
    return EventLog(lambda _: None)


@pytest.fixture
def server(tmp_path: Path, ring: EventLog) -> ControlServer:
    async def none(*_: object) -> dict[str, Any]:
        return {}

    return ControlServer(tmp_path / "s", ring, handler=none, on_gone=lambda _: None)


def test_a_follower_is_told_what_exists_then_what_happens(
    ring: EventLog, server: ControlServer
) -> None:
    async def main() -> None:
        ring.info("ready", "before")
        followers, peer = Followers(ring, things), Peer(server)
        followers.add(peer.client, past=False)
        ring.info("link_up", "after")
        told = await peer.read(until="link_up")
        assert [record["event"] for record in told] == ["exists"] * 22 + ["link_up"]
        assert told[-2]["facts"] == {"object": "end", "sessions": 20}
        ring.info("link_down", "pushed, with nobody asking")
        assert [r["text"] for r in await peer.read(until="link_down")] == [
            "pushed, with nobody asking"
        ]
        peer.close()

    asyncio.run(main())


def test_the_past_comes_before_what_exists(ring: EventLog, server: ControlServer) -> None:
    async def main() -> None:
        for number in range(30):
            ring.info("ready", f"{number}")
        followers, peer = Followers(ring, things), Peer(server)
        followers.add(peer.client, past=True)
        ring.info("link_up", "after")
        told = await peer.read(until="link_up")
        assert [r["text"] for r in told[:30]] == [str(n) for n in range(30)]
        assert [r["event"] for r in told[30:]] == ["exists"] * 22 + ["link_up"]
        peer.close()

    asyncio.run(main())


def test_a_slow_follower_is_bounded_and_told_how_many_it_missed(
    ring: EventLog, server: ControlServer
) -> None:
    async def main() -> None:
        followers, slow, quick = Followers(ring, things), Peer(server), Peer(server)
        for peer in (slow, quick):
            followers.add(peer.client, past=False)
        await quick.read(until="exists")
        reader = asyncio.create_task(quick.read(until="link_down"))
        count = EVENTS_MAX + 5000
        for number in range(count):
            ring.info("alarm", f"{number}")
            if number % 8 == 0:
                await asyncio.sleep(0)
        ring.info("link_down", "last")
        told = await reader
        assert [r["event"] for r in told if r["event"] != "exists"] == ["alarm"] * count + [
            "link_down"
        ], "the slow one must not slow the quick one"
        assert slow.client._unsent_bytes < control.GUEST_UNSENT_MAX_BYTES // 8

        told = await slow.read(until="link_down")
        (missed,) = (n for n, record in enumerate(told) if record["event"] == "missed")
        seqs = [r["seq"] for r in told if r["event"] in {"alarm", "link_down"}]
        assert told[missed]["facts"]["count"] == count + 1 - len(seqs) > 0
        assert seqs[-1] == count + 1
        assert told[missed + 1]["seq"] == told[missed]["seq"] + 1
        for peer in (slow, quick):
            peer.close()

    asyncio.run(main())


def test_what_json_makes_long_is_told_all_the_same(ring: EventLog, server: ControlServer) -> None:
    async def main() -> None:
        followers, peer = Followers(ring, things), Peer(server, control.SEND_BUFFER_BYTES)
        followers.add(peer.client, past=False)
        for _ in range(20):
            ring.info("link_down", "\x01" * TEXT_MAX_CHARS, reason="\x01" * 1024)
        ring.info("link_up", "after")
        told = await peer.read(until="link_up")
        assert [r["event"] for r in told[22:]] == ["link_down"] * 20 + ["link_up"]
        peer.close()

    asyncio.run(main())


def test_followers_are_bounded_and_leave(ring: EventLog, server: ControlServer) -> None:
    async def main() -> None:
        followers = Followers(ring, things)
        peers = [Peer(server) for _ in range(FOLLOWERS_MAX + 1)]
        for peer in peers[:-1]:
            followers.add(peer.client, past=False)
        with pytest.raises(PrlError, match="16 followers"):
            followers.add(peers[-1].client, past=False)
        assert followers.used == Bounded(FOLLOWERS_MAX, FOLLOWERS_MAX, 1)
        followers.gone(peers[0].client)
        followers.add(peers[-1].client, past=False)
        for peer in peers:
            peer.close()

    asyncio.run(main())


def test_what_only_followers_hear_is_no_event_of_the_log() -> None:
    assert not set(STATE) & {name for name, _, _ in posted()}
