"""Links and LANs that lose, delay and limit: netem's, with each carrier (issue 13).

What is late or lost there costs time, and neither a byte nor the protection. How much time, the
peer's own TCP says: no answer may stay away for longer than its retransmission timer takes, doubled
for each time that it expired.

Checks R8, L2.
"""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

import pytest

from prl.cli.events import all_events
from prl.client import Node
from prl.demo.payload import Payload
from prl.kernel.tcp_info import INFO_MAX_BYTES, TcpInfo
from prl.lab import Lab, stretch
from prl.lab.netns import Namespace
from tests.figures import figure
from tests.system import support
from tests.system.support import Applications, Peer

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "nfqueue", "netem"),
    pytest.mark.timeout(900),  # of emulated CPUs: there each carrier takes two minutes and more
]

SIZE_BYTES, CHUNK_BYTES = 1 << 20, 30_000
MOST_BYTES = 64 << 20
"""Some ten thousand packets: of so many netem loses one in a thousand, surely."""
LOOK_EVERY = 16
"""Chunks between two looks at what netem has lost."""
SLACK_S = 0.1 * stretch.factor()
"""What programs and kernels need for a chunk in which no timer expires."""
LOSSES = ("loss 0.1%", "loss 1%")
LINK = (*LOSSES, "rate 100mbit", "delay 30ms")
"""Of each direction: a link that is 60 ms there and back is one to another town."""
UNPROTECTED = frozenset(
    {"replication_ended", "shadow_void", "session_ended", "not_protected", "link_down"}
)
"""Events of which none may be while a session is protected."""


@dataclass(frozen=True)
class Netem:
    """One at each end of the link, or of the peer's cable: (namespace, interface)."""

    ends: tuple[tuple[str, str], ...]

    def lost(self) -> int:
        """How many packets they have dropped."""
        return sum(
            int(each["drops"])
            for namespace, name in self.ends
            for each in json.loads(tc(namespace, "-j", "-s", "qdisc", "show", "dev", name))
            if each["kind"] == "netem"
        )


@contextmanager
def impaired(lab: Lab, where: str, how: str) -> Iterator[Netem]:
    topology = lab.topology
    ends = {
        "link": tuple((node.namespace, node.link.name) for node in topology.nodes),
        "lan": (
            (topology.switch, topology.peer.port),
            (topology.peer.namespace, topology.peer.lan.name),
        ),
    }[where]
    for namespace, name in ends:
        tc(namespace, "qdisc", "add", "dev", name, "root", "netem", *how.split())
    try:
        yield Netem(ends)
    finally:
        for namespace, name in ends:
            tc(namespace, "qdisc", "del", "dev", name, "root")


def tc(namespace: str, *words: str) -> str:
    command = Namespace(namespace).command(["tc", *words])
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Timeouts:
    """How often the TCPs of some machines waited for their retransmission timers."""

    def __init__(self, lab: Lab, *machines: str) -> None:
        self._files = [self._open(lab, machine) for machine in machines]

    @staticmethod
    def _open(lab: Lab, machine: str) -> TextIO:
        """It stays the file of its namespace, whoever reads it."""
        path = Path("/proc/thread-self/net/netstat")
        return Namespace(lab.topology.member(machine).namespace).call(path.open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def count(self) -> int:
        return sum(map(self._count, self._files))

    @staticmethod
    def _count(file: TextIO) -> int:
        file.seek(0)
        names, values = file.read().splitlines()[:2]
        return int(dict(zip(names.split(), values.split(), strict=True))["TCPTimeouts"])


@dataclass
class Waits:
    """How long the peer's answers stayed away."""

    longest_s: float = 0.0
    longest_rto_s: float = 0.0
    timeouts: int = 0


def rto_s(peer: Peer) -> float:
    raw = peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_MAX_BYTES)
    return TcpInfo.of(raw).rto_us / 1e6


def say_and_hear(peer: Peer, chunk: bytes, timeouts: Timeouts, waits: Waits) -> None:
    """One chunk there and back; every pause in it is within the timers' limit."""
    rto, before = rto_s(peer), timeouts.count()
    peer.send(chunk)
    longest, heard, last = 0.0, bytearray(), time.monotonic()
    while len(heard) < len(chunk):
        data = peer.receive(len(chunk) - len(heard))
        assert data, "the stream ended early"
        heard += data
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    assert heard == chunk, f"what came back differs, before byte {peer.received}"
    expired = timeouts.count() - before
    rto = max(rto, rto_s(peer))
    limit = rto * 2**expired + SLACK_S
    assert longest < limit, f"silent for {longest:.3f} s: RTO {rto:.3f} s, expired {expired} times"
    waits.timeouts += expired
    if longest > waits.longest_s:
        waits.longest_s, waits.longest_rto_s = longest, rto


class Protection:
    """Of one session, as both nodes tell of it; no program is started to ask them."""

    def __init__(self, lab: Lab, peer: Peer) -> None:
        self._stack = ExitStack()
        self._nodes = {
            node.name: self._stack.enter_context(Node(lab.state.socket(node)))
            for node in lab.topology.nodes
        }
        self._end = f":{peer.port}"
        self._since = {name: all_events(node)[-1]["seq"] for name, node in self._nodes.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def held(self) -> None:
        """It is there, and was all the time."""
        flows = self._nodes["re0"].request({"op": "flow_list"})["flows"]
        (state,) = [each["state"] for each in flows if each["remote"].endswith(self._end)]
        told = [
            f"{name}: {event['event']}: {event['text']}"
            for name, node in self._nodes.items()
            for event in all_events(node)
            if event["seq"] > self._since[name] and event["event"] in UNPROTECTED
        ]
        assert (state, told) == ("active", [])


def converse(lab: Lab, apps: Applications, where: str, how: str) -> tuple[Waits, int, int]:
    """Until something was lost, if there are losses: its waits, its bytes, how much was lost.

    What the other end of the peer's connection sends is lost on the LAN, too: its timer counts.
    """
    payload, waits, lost = Payload(MOST_BYTES), Waits(), 0
    machines = ("peer", "re0") if where == "lan" else ("peer",)
    with (
        impaired(lab, where, how) as netem,
        Timeouts(lab, *machines) as timeouts,
        apps.connect() as peer,
        Protection(lab, peer) as protection,
    ):
        while peer.sent < SIZE_BYTES or (how in LOSSES and not lost):
            for _ in range(LOOK_EVERY):
                chunk = bytes(payload.at(peer.sent, CHUNK_BYTES))
                assert chunk, f"no packet was lost of {MOST_BYTES} bytes"
                say_and_hear(peer, chunk, timeouts, waits)
            lost = netem.lost()
        protection.held()
        peer.sock.shutdown(socket.SHUT_WR)
        assert not peer.receive(), "bytes that nobody should have sent"
        end = apps.expect("end", "re0", peer=peer.port)
        assert (end["bytes"], end["error"]) == (peer.sent, "")
    for node in lab.topology.nodes:
        apps.reads_are_exact(node.name, payload)
    return waits, peer.sent, lost


@pytest.mark.parametrize(
    "mode",
    [
        "native",
        "kernel",
        "mirror",
        pytest.param("generic", marks=pytest.mark.needs("long_packets")),
    ],
)
def test_a_bad_link_or_lan_costs_time_alone(mode: str) -> None:
    with support.pair(f"netem{mode}", mode) as lab:
        apps = Applications(lab, "echo", size=MOST_BYTES)
        for where, how in [*(("link", how) for how in LINK), *(("lan", how) for how in LOSSES)]:
            began = time.monotonic()
            waits, sent, lost = converse(lab, apps, where, how)
            figure(
                f"{mode}, {where}, {how}",
                f"{sent >> 20} MiB in {time.monotonic() - began:.1f} s, {lost} packets lost, "
                f"{waits.timeouts} timeouts, longest silence {waits.longest_s * 1000:.0f} ms "
                f"(RTO {waits.longest_rto_s * 1000:.0f} ms)",
            )
        if mode == "mirror":
            assert support.stats(lab, "re1")["datapath"]["mirror_fed"], "nothing went by the cable"
        loss, payload = LOSSES[-1], Payload(SIZE_BYTES)
        with impaired(lab, "lan", loss), impaired(lab, "link", loss), apps.connect() as peer:
            peer.hold_at(SIZE_BYTES * 2 * 3 // 4)
            peer.converse(payload, CHUNK_BYTES)
            peer.await_bytes(SIZE_BYTES)
            lab.fail("re0", "power")
            peer.finish()
            assert peer.sha256() == payload.sha256()
