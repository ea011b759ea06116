"""The C core of both nodes under seeded faults: I1, I2, I3, I5 and I7 at the level of the core.

Two nodes, one service, one flow that node 0 serves first. The link keeps order and may be cut in
either direction; a connection that one side drops is lost for both, later, and a new epoch follows.
Left out until the owner looks for evidence (L6): link and LAN cut at once.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from prl._core import ffi, lib

from tests.unit.core_support import EDGE_FAR, MS, Action, Primary

SEEDS = 250
FAULTS_END_MS, END_MS = 2000, 3000
TICK_MS = 5  # on average
QUIET_MS = 300  # after a take-over there is not much left to see
RECONNECT_MS = 40
FAULTS = ("cut", "cut one", "heal", "heal", "freeze", "thaw", "thaw", "kill")
BYTES = 10  # of every packet and segment
Message = tuple[Any, ...]


@dataclass
class Pipe:
    """One direction of the link."""

    queue: deque[tuple[int, Message]] = field(default_factory=deque)
    cut: bool = False


class Node:
    """One prld: its ownership, its primary or shadow of the flow, and what its L4 has seen."""

    def __init__(self, index: int, world: "World") -> None:
        self.index, self.world = index, world
        self.alive, self.frozen = True, False
        self.connected = False  # between link_up() and link_down()
        self.fenced = False  # by a claim, in the kernel: holds while frozen too
        self.speaks = index == 0
        config = ffi.new("struct prl_owner_config *")
        config.lease_ns, config.suspect_ns, config.late_ns = 20 * MS, 100 * MS, 60 * MS
        config.takeover_ns, config.hold_ns, config.services = 300 * MS, 400 * MS, 1
        self.owner: Any = ffi.new("struct prl_owner *")
        lib.prl_owner_init(self.owner, config, world.now_ns)
        role = lib.PRL_OWNER_STANDBY if index else lib.PRL_OWNER_OWNER
        lib.prl_owner_set_state(self.owner, 0, role)
        self.primary = Primary(answer_ms=60, packets_max=20, now_ns=world.now_ns)
        self.shadow: Any = ffi.new("struct prl_secondary *")
        self.l4: list[int] = []  # packets that the own TCP got
        self.snd_nxt = self.snapshot_end = 0
        self.flushed = False  # something passed that the shadow of this generation lacks

    @property
    def other(self) -> "Node":
        return self.world.nodes[1 - self.index]

    @property
    def runs(self) -> bool:
        return self.alive and not self.frozen

    def own(self, event: str, *args: int) -> None:
        self.obey(int(getattr(lib, f"prl_owner_{event}")(self.owner, *args, self.world.now_ns)))

    def send(self, *message: Any) -> None:
        if self.connected:
            self.world.send(self.index, message)

    def obey(self, todo: int) -> None:
        """Do what ownership asks, in the order that its header gives."""
        up = int(self.owner.link) != lib.PRL_LINK_DOWN
        if todo & lib.PRL_OWNER_DO_FAIL_FLOWS:
            self.act(self.primary.fail(lib.PRL_REASON_LINK_LOST, link_up=up))
        if todo & lib.PRL_OWNER_DO_VOID_SHADOWS:
            lib.prl_secondary_void(self.shadow, lib.PRL_REASON_LINK_LOST)
        if todo & lib.PRL_OWNER_DO_DROP_LINK:
            self.disconnect()
        if todo & lib.PRL_OWNER_DO_OPEN_FLOWS:
            self.act(self.primary.void_done())
        if todo & lib.PRL_OWNER_DO_RENOUNCE_LAN:
            self.world.lan_send(self.index, ("renounced", self.world.epoch))
        if todo & lib.PRL_OWNER_DO_TAKEOVER:
            self.take_over()
        if todo & lib.PRL_OWNER_DO_LEASE:
            lease = ffi.new("struct prl_lease_out *")
            lib.prl_owner_take_lease(self.owner, self.world.now_ns, lease)
            self.send("lease", int(lease.sent_ns), int(lease.echo_ns), int(lease.flags))
            self.world.lan_send(self.index, ("heartbeat", 0))

    def disconnect(self) -> None:
        if self.connected:
            self.connected = False
            self.world.lose(self.index)
            self.own("link_down")

    def take_over(self) -> None:
        world = self.world
        if world.lan_works():
            self.other.fenced = True  # the claim: XDP obeys even when prld does not run
            self.other.speaks = False
        assert not (self.other.speaks and self.other.runs), "I7: two speakers"
        if lib.prl_secondary_takeover(self.shadow):
            gone = self.other
            assert not gone.flushed, "L4: a shadow that missed something speaks"
            assert gone.l4 == self.l4[: len(gone.l4)], (
                "I1/I2: primary's L4 got what the shadow lacks"
            )
            assert world.peer_got <= int(self.shadow.out_tcp_next), (
                "I3: peer got uncommitted output"
            )
            world.takeovers += 1
            world.end_ms = world.now_ms + QUIET_MS
        self.speaks = True

    def act(self, actions: list[Action]) -> None:
        """What the datapath does."""
        flow = self.primary.flow
        for action in actions:
            kind = action[0]
            if kind == "replicate":
                self.send("replicate", action[1], action[2])
            elif kind == "output":
                self.send("output", action[1], action[2], BYTES)
            elif kind == "release_input":
                self.l4 += action[1]
                if self.world.in_ack:
                    lacks = self.other.l4[: len(self.l4)] != self.l4
                    assert not lacks, "I1/I2: released what the secondary did not accept"
                else:
                    self.flushed = True
            elif kind == "release_output":
                self.emit(max(action[1]) + BYTES)
            elif kind == "send_void":
                self.send("void", int(flow.generation))
            elif kind == "send_active":
                self.send("setup_done", int(flow.generation))

    def emit(self, end: int) -> None:
        """Output goes to the peer."""
        assert self.index or not self.other.speaks, "I7: two speakers"
        if not self.speaks:
            return  # the kernel's silence
        self.world.peer_got = max(self.world.peer_got, end)
        if self.world.in_ack:
            assert self.world.peer_got <= int(self.other.shadow.out_tcp_next), "I3"
        else:
            self.flushed = True

    def protect(self) -> None:
        state = int(self.primary.flow.state)
        idle = state in {lib.PRL_PRIMARY_GONE, lib.PRL_PRIMARY_OPEN}
        if self.connected and self.speaks and not self.fenced and idle:
            self.world.generation += 1
            self.act(self.primary.open(self.world.generation))
            self.flushed, self.snapshot_end = False, self.snd_nxt
            self.send("setup", self.world.generation, list(self.l4), self.snd_nxt)
            if not self.world.lan_only and self.world.random.random() < 0.2:
                self.world.pipes[1].cut = True  # the answer is late or lost

    def receive(self, message: Message) -> None:
        kind, *rest = message
        self.primary.now_ns = self.world.now_ns
        if kind not in {"hello", "lease"}:
            self.own("heard")
        getattr(self, f"on_{kind}")(*rest)

    def on_hello(self, other_took_over: bool) -> None:
        if other_took_over and self.speaks:
            self.fence()
        self.connected = True
        self.own("link_up")

    def on_lease(self, *numbers: int) -> None:
        self.own("lease", *numbers)

    def on_setup(self, generation: int, l4: list[int], out_tcp_next: int) -> None:
        if int(self.shadow.state) != lib.PRL_SECONDARY_OWNER:
            lib.prl_secondary_open(self.shadow, 7, generation, out_tcp_next, EDGE_FAR, 1)
            self.l4 = l4
            self.send("setup_done", generation)

    def on_setup_done(self, generation: int) -> None:
        if self.index:
            lib.prl_secondary_confirm(self.shadow, generation, EDGE_FAR)
        elif generation == int(self.primary.flow.generation):
            self.act(self.primary.activate(self.snapshot_end))

    def on_ack(self, seq: int, reason: int) -> None:
        self.acknowledged(self.primary.ack, seq, reason, EDGE_FAR)

    def on_output_ack(self, seq: int, reason: int, tcp_seq: int) -> None:
        self.acknowledged(self.primary.output_ack, seq, tcp_seq, reason)

    def on_void(self, generation: int) -> None:
        if int(self.shadow.state) != lib.PRL_SECONDARY_OWNER:  # an owner never gives way to this
            lib.prl_secondary_void(self.shadow, lib.PRL_REASON_REQUESTED)
            self.send("void_ack", generation)

    def on_void_ack(self, generation: int) -> None:
        if generation == int(self.primary.flow.generation):
            self.act(self.primary.void_done())

    def on_replicate(self, seq: int, name: int) -> None:
        self.receive_data("replicate", seq, name)

    def on_output(self, seq: int, name: int, size: int) -> None:
        self.receive_data("output", seq, name, size)

    def acknowledged(self, event: Any, *args: int) -> None:
        self.world.in_ack = True
        self.act(event(*args))
        self.world.in_ack = False

    def receive_data(self, kind: str, seq: int, name: int, size: int = BYTES) -> None:
        shadow, reason = self.shadow, ffi.new("uint8_t *")
        first, second = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        if kind == "replicate":
            edge = 0 if self.world.random.random() < 0.03 else EDGE_FAR
            verdict = lib.prl_secondary_replicate(
                shadow, seq, EDGE_FAR, BYTES, BYTES, 100, edge, reason
            )
            if verdict == lib.PRL_VERDICT_ACCEPT:
                self.l4.append(name)
            elif lib.prl_secondary_take_ack(shadow, edge, first, second):
                self.send("ack", first[0], 0)
        else:
            verdict = lib.prl_secondary_output(shadow, seq, name, size, first, reason)
            if verdict == lib.PRL_VERDICT_ACCEPT:
                lib.prl_secondary_output_done(shadow, size - first[0], False)
        if verdict == lib.PRL_VERDICT_ACCEPT:
            return
        assert verdict != lib.PRL_VERDICT_VOID, "an in-order link made a difference"
        if kind == "replicate":
            self.send("ack", seq, reason[0])
        else:
            self.send("output_ack", seq, reason[0], int(shadow.out_tcp_next))

    def flush_acks(self) -> None:
        first, second = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        if lib.prl_secondary_take_ack(self.shadow, EDGE_FAR, first, second):
            self.send("ack", first[0], 0)
        if lib.prl_secondary_take_output_ack(self.shadow, 0, first, second):
            self.send("output_ack", first[0], 0, second[0])

    def fence(self) -> None:
        self.speaks = False
        lib.prl_owner_set_state(self.owner, 0, lib.PRL_OWNER_FENCED)
        self.act(self.primary.fence())

    def step(self) -> None:
        """One turn of the datapath's loop."""
        world, primary = self.world, self.primary
        primary.now_ns = world.now_ns
        if self.fenced and self.speaks is False and int(primary.flow.state):
            self.fence()
        world.deliver(self)
        self.flush_acks()
        if int(primary.flow.state) == lib.PRL_PRIMARY_ACTIVE:
            self.act(primary.drain()[1])
        if world.random.random() < 1 / TICK_MS:
            self.act(primary.tick(link_up=self.connected))
            self.own("tick")
        if self.speaks and not self.index and world.random.random() < 0.3:
            self.traffic()
        assert primary.pool.used == primary.waiting(), "an entry was lost"

    def traffic(self) -> None:
        world = self.world
        is_input = world.random.random() < 0.5
        world.packets += 1
        if int(self.primary.flow.state) == lib.PRL_PRIMARY_GONE:  # not prl's yet: it passes
            self.flushed = True
            if is_input:
                self.l4.append(world.packets)
            else:
                self.snd_nxt += BYTES
                world.peer_got = self.snd_nxt
        elif is_input:
            self.act(self.primary.input(world.packets, 0, BYTES))
        else:
            self.act(self.primary.output(self.snd_nxt, self.snd_nxt, BYTES))
            # A full queue drops the segment; TCP would send it again, this model's program does.
            if self.primary.out.count == 0 or self.primary.out.action[0].kind != lib.PRL_DO_DROP:
                self.snd_nxt += BYTES


class World:
    """Time, the link, the LAN, the faults."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ms, self.epoch, self.generation, self.packets = 1000, 0, 0, 0
        self.end_ms = END_MS
        self.peer_got, self.takeovers, self.in_ack = 0, 0, False
        self.lan_up, self.lan_only = True, self.random.random() < 0.15
        self.delay_ms = self.random.choice([3, 30])
        self.lan_loss = self.random.choice([0.0, 0.6, 1.0])  # of heartbeats; claims are repeated
        self.lan: list[tuple[int, int, Message]] = []
        self.pipes = [Pipe(), Pipe()]  # by sender
        self.losses: dict[int, int] = {}  # node -> when it learns that the connection is gone
        self.connect_at = self.now_ms
        self.nodes: list[Node] = []
        self.nodes += [Node(0, self), Node(1, self)]

    @property
    def now_ns(self) -> int:
        return self.now_ms * MS

    def lan_works(self) -> bool:
        return self.lan_up and all(node.alive for node in self.nodes)

    def send(self, sender: int, message: Message) -> None:
        self.pipes[sender].queue.append(
            (self.now_ms + self.random.randint(0, self.delay_ms), message)
        )

    def lan_send(self, sender: int, message: Message) -> None:
        if self.lan_up and self.random.random() >= self.lan_loss:
            self.lan.append((self.now_ms + self.random.randint(0, 4), 1 - sender, message))

    def lose(self, node: int) -> None:
        """``node`` gave the connection up: what is on its way is gone, the other learns of it."""
        for pipe in self.pipes:
            pipe.queue.clear()
        self.losses[1 - node] = self.now_ms + self.random.randint(0, 20)
        self.connect_at = self.now_ms + RECONNECT_MS

    def deliver(self, node: Node) -> None:
        pipe = self.pipes[1 - node.index]
        if self.losses.get(node.index, END_MS + 1) <= self.now_ms and not pipe.cut:
            del self.losses[node.index]
            node.connected = False
            node.own("link_down")
        while pipe.queue and pipe.queue[0][0] <= self.now_ms and not pipe.cut:
            node.receive(pipe.queue.popleft()[1])
        for entry in [e for e in self.lan if e[1] == node.index and e[0] <= self.now_ms]:
            self.lan.remove(entry)
            if entry[2][0] == "heartbeat":
                node.own("lan_heard")
            elif entry[2][1] == self.epoch:
                node.own("lan_renounced")

    def connect(self) -> None:
        if (
            any(node.connected or not node.runs for node in self.nodes)
            or self.now_ms < self.connect_at
        ):
            return
        if not any(pipe.cut for pipe in self.pipes) and not self.losses:
            self.epoch += 1
            for node in self.nodes:
                self.send(1 - node.index, ("hello", node.other.speaks and bool(node.other.index)))
            self.connect_at = self.now_ms + RECONNECT_MS

    def fault(self) -> None:
        kind = self.random.choice(
            ["cut", "cut one", "heal", "heal", "freeze", "thaw", "thaw", "kill"]
        )
        node = self.random.choice(self.nodes)
        if self.lan_only:
            self.lan_up = not self.lan_up
        elif kind == "cut":
            self.pipes[0].cut = self.pipes[1].cut = True
        elif kind == "cut one":
            self.pipes[node.index].cut = True
        elif kind == "heal":
            self.pipes[0].cut = self.pipes[1].cut = False
        elif kind in {"freeze", "thaw"}:
            node.frozen = kind == "freeze"
        elif self.random.random() < 0.3:
            node.alive = False

    def run(self) -> None:
        while self.now_ms < self.end_ms:
            self.now_ms += 1
            if self.now_ms < FAULTS_END_MS and self.random.random() < 0.006:
                self.fault()
            if self.now_ms == FAULTS_END_MS:
                self.lan_up = True
                for node, pipe in zip(self.nodes, self.pipes, strict=True):
                    node.frozen = pipe.cut = False
            self.connect()
            for node in self.random.sample(self.nodes, 2):
                if node.runs:
                    node.step()
                    if not node.index and self.random.random() < 0.02:
                        node.protect()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_invariants_hold(seed: int) -> None:
    world = World(seed)
    world.run()
    first, second = world.nodes
    speaking = [node for node in world.nodes if node.alive and node.speaks]
    assert len(speaking) <= 1, "I7"
    if first.alive and not first.fenced and first.speaks:
        state = int(first.primary.flow.state)
        assert state != lib.PRL_PRIMARY_VOIDING, "I5: a failed flow did not open"
        if second.alive:
            assert world.generation > 0, "a flow was never protected"


def test_the_seeds_reach_what_they_are_for() -> None:
    worlds = [World(seed) for seed in range(40)]
    for world in worlds:
        world.run()
    assert sum(world.takeovers for world in worlds) >= 5
    counters = [world.nodes[0].primary.flow.counters for world in worlds]
    assert sum(int(c.dropped_nack) for c in counters) > 0
    assert sum(int(c.flushed_packets) for c in counters) > 0
    assert sum(int(c.output_released) for c in counters) > 0
