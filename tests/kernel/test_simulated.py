"""The machine of the simulator does with a segment what the programs in the kernel do.

Both play the same situations and the same sequences: what goes up, is captured, is held, leaves,
or is dropped.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from prl._core import ffi, lib

from tests.kernel.bpf_lab import (
    ACK,
    FIN,
    PEER_PORT,
    PORT,
    RST,
    SERVICE4,
    Bench,
    Segment,
    ip,
    newborn_key,
    outgoing,
    output,
    put_newborn,
)
from tests.sim.build import product
from tests.sim.core import MASK
from tests.sim.world import World

SEED = 2
SLOT, BYTES = 1, 10
LONG_AGO_NS = 10**9
NEVER_NS = (1 << 63) - 1
PAYLOAD = bytes(BYTES)

STATES = (
    lib.PRL_ADDR_OWNER, lib.PRL_ADDR_STANDBY, lib.PRL_ADDR_FENCED, lib.PRL_ADDR_LEAVING,
)  # fmt: skip
NO_FLOW = -1
FLAGS = (
    NO_FLOW, 0, lib.PRL_FLOW_OPEN, lib.PRL_FLOW_SETUP, lib.PRL_FLOW_ACTIVE, lib.PRL_FLOW_RELAY,
    lib.PRL_FLOW_RELAY | lib.PRL_FLOW_OPEN, lib.PRL_FLOW_SECONDARY, lib.PRL_FLOW_VOID,
)  # fmt: skip
HEALTH = ("healthy", "stale", "bypassed")
SILENCE = ("", "silent", "claiming", "out of word")


@dataclass(frozen=True, slots=True)
class Situation:
    """What the tables say."""

    state: int = lib.PRL_ADDR_OWNER
    flags: int = lib.PRL_FLOW_ACTIVE
    health: str = "healthy"
    silence: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the stack emits: bytes from ``at`` on, behind what the peer has."""

    at: int = 0
    count: int = 0
    fin: bool = False
    rst: bool = False


class Simulated:
    """The machine of tests/sim."""

    def __init__(self) -> None:
        core = product()
        self.lib, self.ffi = core.lib, core.ffi
        self.world = World(SEED, core)
        self.session = self.world.sessions[0]
        self.node = self.world.nodes[self.world.first_owner[self.session.service]]
        self.host = self.node.host
        self.seen: list[str] = []
        number = self.session.number
        self.host.slot_of[number], self.host.woken = SLOT, 0
        self.start = int(self.node.sock(self.session).snd_nxt)

        @self.ffi.def_extern()
        def sim_wire(*_: int) -> None:
            self.seen.append("leaves")

        @self.ffi.def_extern()
        def sim_stack(*told: int) -> None:
            if told[-1] in {self.lib.SIM_PASSED, self.lib.SIM_UNREPLICATED}:
                self.seen.append("goes up")

    def close(self) -> None:
        self.world.close()

    def be(self, situation: Situation) -> None:
        host, node = self.host, self.host.node
        addr, flow = host.service[self.session.service].addr, host.flow[SLOT]
        addr.state, addr.first_by_ns = situation.state, 0
        host.slot_of[self.session.number] = -1 if situation.flags == NO_FLOW else SLOT
        flow.flags = max(situation.flags, 0)
        flow.generation += 1
        flow.out_committed = self.start & MASK
        node.heartbeat_ns = host.clock_ns
        if situation.health == "stale":
            node.heartbeat_ns -= LONG_AGO_NS
        node.bypassed, node.open_at_ns = situation.health == "bypassed", NEVER_NS
        bit = 1 << self.session.service
        node.fenced = 0
        node.silent = bit if situation.silence == "silent" else 0
        node.claiming = bit if situation.silence == "claiming" else 0
        node.speak_by_ns = int(situation.silence == "out of word")

    def wait(self) -> None:
        """The session waits to be protected."""
        self.host.newborn_until_ns[self.session.number] = NEVER_NS

    def commit(self, to: int) -> None:
        self.host.flow[SLOT].out_committed = self.start + to & MASK

    def room(self, frames: int) -> None:
        """Of the hold TAP."""
        self.host.frames_max = frames

    def read(self) -> int:
        """How many segments the hold TAP has had."""
        return int(self.lib.sim_drain(self.host.held))

    def input(self) -> str:
        self.seen.clear()
        sock = self.node.sock(self.session)
        self.lib.sim_frame(self.host, self.session.number, sock.rcv_nxt, BYTES, sock.snd_una, 0)
        if self.lib.sim_drain(self.host.captured):
            self.seen.append("captured")
        return "goes up" if "goes up" in self.seen else "".join(self.seen)

    def send(self, sent: Sent) -> str:
        """Where it goes, the hold TAP aside."""
        self.seen.clear()
        flags = self.lib.SIM_FIN * sent.fin | self.lib.SIM_RST * sent.rst
        self.lib.sim_output(self.host, self.session.number, self.start + sent.at, sent.count, flags)
        return "leaves" if "leaves" in self.seen else ""


class Real:
    """The programs in the kernel."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.flow = bench.flow(SLOT)
        self.start = 5000

    def be(self, situation: Situation) -> None:
        bench, node, flow = self.bench, self.bench.node, self.flow
        bench.own(SERVICE4, situation.state)
        self.port = PEER_PORT + (situation.flags == NO_FLOW)
        flow.flags = max(situation.flags, 0)
        flow.generation += 1
        flow.out_committed = self.start
        node.heartbeat_ns = bench.now() + LONG_AGO_NS * (-1 if situation.health == "stale" else 10)
        node.bypassed, node.open_at_ns = situation.health == "bypassed", NEVER_NS
        node.silent, node.claiming = situation.silence == "silent", situation.silence == "claiming"
        node.speak_by_ns = situation.silence == "out of word"

    def wait(self) -> None:
        for port in (PEER_PORT, PEER_PORT + 1):
            key = newborn_key(port)
            assert lib.prl_kernel_await(self.bench.kernel, key, NEVER_NS) == 0
            put_newborn(self.bench, key, ffi.new("struct prl_newborn *", {"until_ns": NEVER_NS}))

    def commit(self, to: int) -> None:
        self.flow.out_committed = self.start + to

    def room(self, frames: int) -> None:
        ip("-n", self.bench.node_ns, "link", "set", "hold0", "txqueuelen", str(frames))

    def read(self) -> int:
        return len(self.bench.hold.read())

    def input(self) -> str:
        segment = Segment(source_port=self.port, target_port=PORT, payload=PAYLOAD)
        up, captured = self.bench.receive(segment.frame())
        return "goes up" if up else "captured" if captured else ""

    def send(self, sent: Sent) -> str:
        segment = output(
            self.start + sent.at, bytes(sent.count), flags=ACK | FIN * sent.fin | RST * sent.rst
        )
        segment.target_port = self.port
        return "leaves" if self.bench.reaches(outgoing(segment)) else ""


Machine = Simulated | Real


@pytest.fixture
def machines() -> Iterator[tuple[Simulated, Real]]:
    simulated = Simulated()
    with Bench(lib.PRL_XDP_GENERIC) as bench:
        yield simulated, Real(bench)
    simulated.close()


WORDS = {
    "payload": (BYTES, Sent(BYTES, BYTES)),
    "payload that is committed": (BYTES, Sent(0, BYTES)),
    "an acknowledgement": (0, Sent()),
    "a FIN": (0, Sent(0, 0, fin=True)),
    "a reset": (0, Sent(0, 0, rst=True)),
}


def fates(machine: Machine, situation: Situation) -> dict[str, str]:
    """Of a segment of the peer's, and of what the stack emits."""
    machine.be(situation)
    found = {"input": machine.input()}
    for name, (committed, sent) in WORDS.items():
        machine.be(situation)
        machine.commit(committed)
        machine.read()
        found[name] = machine.send(sent) or ("is held" if machine.read() else "")
    return found


def test_each_situation_has_the_same_fates(machines: tuple[Simulated, Real]) -> None:
    simulated, real = machines
    differ: dict[Situation, Any] = {}
    for values in itertools.product(STATES, FLAGS, HEALTH, SILENCE):
        situation = Situation(*values)
        theirs, ours = fates(simulated, situation), fates(real, situation)
        if theirs != ours:
            differ[situation] = {
                what: (theirs[what], ours[what]) for what in ours if theirs[what] != ours[what]
            }
    assert not differ


def test_input_of_a_session_that_waits_has_the_same_fates(
    machines: tuple[Simulated, Real],
) -> None:
    differ: dict[Situation, Any] = {}
    for machine in machines:
        machine.wait()
    for values in itertools.product(STATES, FLAGS, HEALTH):
        situation, found = Situation(*values), []
        for machine in machines:
            machine.be(situation)
            found.append(machine.input())
        if found[0] != found[1]:
            differ[situation] = found
    assert not differ
    assert machines[1].bench.node.births_dropped > 0


SEQUENCES: dict[str, tuple[Sent | int | None, ...]] = {
    # a segment; up to where output is committed; None: the hold TAP is read
    "a retransmission of what is held": (
        Sent(0, 10), Sent(0, 10), Sent(10, 10), Sent(0, 20), None,
    ),
    "committed output leaves at once": (Sent(0, 10), None, 10, Sent(0, 10), Sent(10, 10), None),
    "what a full TAP refuses, and all behind it, is held later, in order": (
        Sent(0, 10), Sent(10, 10), Sent(20, 10), Sent(30, 10), None,
        Sent(30, 10), Sent(20, 10), Sent(30, 10), None,
    ),
    "a retransmission that reaches beyond what is held": (
        Sent(0, 10), Sent(10, 10), Sent(10, 20), None, Sent(20, 10), None,
    ),
    "a FIN behind a hole": (
        Sent(0, 10), Sent(10, 10), Sent(20, 10), Sent(30, 0, fin=True), None,
        Sent(30, 0, fin=True), Sent(20, 10), Sent(30, 0, fin=True), None,
    ),
    "what is behind output that was never held waits for it": (
        Sent(0, 10), None, Sent(20, 10), None, Sent(10, 20), None, Sent(30, 10), None,
    ),
    "a hole that is committed is none": (
        Sent(0, 10), Sent(20, 10), None, 20, Sent(20, 10), Sent(30, 10), None,
    ),
    "a reset has no place in the stream": (
        Sent(0, 10), Sent(10, 10), Sent(20, 10), Sent(30, 0, rst=True), None,
        Sent(30, 0, rst=True), None,
    ),
}  # fmt: skip


def play(machine: Machine, sequence: tuple[Sent | int | None, ...]) -> list[str | int]:
    """What left, and how much was held, in order."""
    machine.be(Situation())
    machine.read()
    machine.room(2)
    found: list[str | int] = []
    for step in sequence:
        if isinstance(step, Sent):
            found.append(machine.send(step))
        elif step is None:
            found.append(machine.read())
        else:
            machine.commit(step)
    return found


def test_each_sequence_is_held_and_refused_alike(machines: tuple[Simulated, Real]) -> None:
    simulated, real = machines
    for name, sequence in SEQUENCES.items():
        assert play(simulated, sequence) == play(real, sequence), name
