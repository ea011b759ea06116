"""Time, both nodes, the link, the LAN and the peers of one seed."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.sim.checker import Checker
from tests.sim.core import MS, NEVER, Core
from tests.sim.faults import KINDS, Faults
from tests.sim.kernel import FENCED, LEAVING, OWNER, PASS, SHADOW, Kernel
from tests.sim.link import Codec, Connection
from tests.sim.prld import SUSPECT_MS, Prld
from tests.sim.tcp import BURST_MAX, RTO_NS, SEGMENT_MAX, Packet, Session, Sock

END_NS = 1500 * MS
CALM_NS = END_NS - 200 * MS
"""From here on, who speaks for a session is the node that has it for good."""
DIAL_NS = 40 * MS
CARD_MAX = 500
"""Frames that wait for a machine that is paused."""
HELLO_PATIENCE_NS = 150 * MS
START_WAIT_NS = 300 * MS
EVENTS_MAX = 60_000
"""No seed needs so many; one that does runs in circles."""


class Node:
    """A machine: a kernel, and a prld that may be stopped or dead; its clock goes on."""

    def __init__(self, world: "World", index: int) -> None:
        self.world, self.index = world, index
        self.rate = 1.0
        self.offset_ns = 0
        self.powered = True
        self.lan_cut = False
        self.kernel: Kernel = None  # type: ignore[assignment]
        self.prld: Prld | None = None
        self.last_flows: dict[int, Any] = {}
        self.paused_until_ns = 0
        self.stall: tuple[int, int] | None = None
        self.stall_silent = False
        """The stop waits until the other node has become silent."""
        self.stalled = False
        self.asleep = self.waking = False
        """The whole machine is paused; what waited in its network card is read, at its end."""
        self.started_ns = 0
        """When its prld was started last: true time."""
        self.stood_ns = -1
        """When its clock last stood still: true time; -1 = never."""
        self.woke_ns = self.thawed_ns = 0
        """When it ran again, by its own clock and in truth."""
        self._sleeps_at_ns: int | None = None
        self._waiting: list[Callable[[], object]] = []
        self._rest = 0
        self.pass_at_ns = NEVER

    @property
    def other(self) -> "Node":
        return self.world.nodes[1 - self.index]

    def clock_ns(self) -> int:
        """This node's CLOCK_BOOTTIME."""
        if self._sleeps_at_ns is not None:
            return self._sleeps_at_ns
        return int(self.world.now_ns * self.rate) + self.offset_ns

    @property
    def runs(self) -> bool:
        """Whether prld is there and is not stopped."""
        return (
            self.prld is not None and self.world.now_ns >= self.paused_until_ns and not self.stalled
        )

    def wake(self) -> None:
        """Something for prld has arrived."""
        world = self.world
        self._pass_at(max(world.now_ns + world.wake_ns(), self.paused_until_ns))

    def set_timer(self, at_ns: int) -> None:
        """The loop wants to run at this time of its own clock at the latest."""
        at_true = int((at_ns - self.offset_ns) / self.rate) + 1
        self._pass_at(max(at_true, self.world.now_ns, self.paused_until_ns))

    def _pass_at(self, at_ns: int) -> None:
        if self.stalled or self.pass_at_ns <= at_ns:
            return
        self.pass_at_ns = at_ns
        self.world.at(at_ns, self._pass, at_ns, self.prld)

    def _pass(self, at_ns: int, prld: Prld | None) -> None:
        if prld is not self.prld or prld is None or at_ns != self.pass_at_ns:
            return
        if self.world.now_ns < self.paused_until_ns:
            self.pass_at_ns = NEVER
            self._pass_at(self.paused_until_ns)
            return
        self.pass_at_ns = NEVER
        prld.run_pass()

    def pause(self, for_ns: int) -> None:
        """Stop prld (SIGSTOP) between two passes."""
        self.paused_until_ns = max(self.paused_until_ns, self.world.now_ns + for_ns)

    def sleep(self, for_ns: int, *, clock_stands: bool) -> None:
        """Stop the whole machine, as a hypervisor does; what arrives waits for it."""
        if not self.powered or self.asleep:
            return
        self.asleep = True
        if clock_stands:
            self._sleeps_at_ns, self.stood_ns = self.clock_ns(), self.world.now_ns
        self.pause(for_ns)
        self.world.at(self.world.now_ns + for_ns, self.thaw)

    def thaw(self) -> None:
        """It runs again: first of all the kernel reads what has waited."""
        if not self.asleep:
            return
        self.asleep = False
        if (stood_at_ns := self._sleeps_at_ns) is not None:
            self._sleeps_at_ns = None
            self.offset_ns += stood_at_ns - self.clock_ns()
        self.woke_ns, self.thawed_ns = self.clock_ns(), self.world.now_ns
        waiting, self._waiting = self._waiting, []
        self.waking = True
        for arrive in waiting:
            arrive()
        self.waking = False
        if self.prld is not None and self.prld.connection is not None:
            self.prld.connection.heal()
        self.resume(self.prld)
        self.wake()

    def receive(self, arrive: Callable[[], object]) -> None:
        """Something reaches this machine's network card."""
        if not self.asleep:
            arrive()
        elif len(self._waiting) < CARD_MAX:
            self._waiting.append(arrive)
        else:
            self.world.count("network card full")

    def stalls_before(self, stage: int) -> bool:
        """A planned stop in the middle of a pass: its idea of the time grows old."""
        if self.stall is None or self.stall[0] != stage or self.prld is None:
            return False
        owner = self.prld.owner
        if self.stall_silent and self.prld.now_ns < owner.last_heard_ns + SUSPECT_MS * MS:
            return False
        self.stall_silent = False
        for_ns, self.stall = self.stall[1], None
        self.stalled = True
        self._rest = stage
        self.world.at(self.world.now_ns + for_ns, self.resume, self.prld)
        return True

    def resume(self, prld: Prld | None) -> None:
        """The rest of the pass."""
        if not self.asleep and self.stalled and prld is self.prld and prld is not None:
            self.stalled = False
            prld.run_pass(self._rest)

    def mend_lan(self) -> None:
        """The LAN is back. A new owner's claims are still fast, or prld is silent by now (L6)."""
        self.lan_cut = False
        for node in self.world.nodes:
            if node.powered and node.prld is not None and node.runs:
                node.prld.claim_again()
        for service in range(len(self.world.first_owner)):  # the peers ask who has it
            speakers = [n for n in self.world.nodes if n.powered and n.kernel.could_speak(service)]
            if len(speakers) == 1:
                self.world.route[service] = speakers[0].index

    def claim(self, service: int) -> None:
        """L7: the claim carries the token and fences the other kernel at once."""
        kernel = self.other.kernel
        if not self.kernel.may_speak(service) or self.lan_cut:
            return
        self.world.route[service] = self.index
        if self.other.lan_cut:
            return
        if self.other.powered:
            self.other.receive(partial(self.other.hear_claim, service, kernel))

    def hear_claim(self, service: int, kernel: Kernel) -> None:
        """The other node has taken ``service`` over."""
        if kernel is self.kernel and kernel.addresses[service] in (OWNER, LEAVING):
            kernel.claimed[service] = True
            if kernel.addresses[service] == OWNER:
                kernel.addresses[service] = FENCED
            self.world.count("claim obeyed")
            self.world.note(f"  (by node {self.index})")

    # -- life and death

    def boot(self) -> None:
        """Power on."""
        self.powered = True
        self.kernel = Kernel(self, len(self.world.first_owner))
        self.start_prld()

    def start_prld(self) -> None:
        """A new prld: it knows nothing of what was before."""
        for flow in self.kernel.flows.values():
            flow.flags, flow.limit = PASS, None
        for session in self.world.sessions:  # what was fenced is ended behind the silence (L8)
            if self.kernel.addresses[session.service] == FENCED or (
                self.kernel.addresses[session.service] == LEAVING
                and self.kernel.claimed[session.service]
            ):
                self.kernel.socks.pop(session.number, None)
        self.paused_until_ns, self.stalled, self.stall = 0, False, None
        self.pass_at_ns = NEVER
        self.prld, self.started_ns = Prld(self), self.world.now_ns
        self.wake()
        self.world.at(self.world.now_ns + START_WAIT_NS, self._start_alone, self.prld)

    def _start_alone(self, prld: Prld) -> None:
        if prld is self.prld:
            prld.start_alone()

    def kill_prld(self) -> None:
        """The kernel closes its connection and goes on alone (L9); shadows die with it."""
        prld, self.prld = self.prld, None
        if prld is None:
            return
        self.last_flows = prld.flows
        for flow in prld.flows.values():
            if not flow.is_primary and self.kernel.flags(flow.session) == SHADOW:
                self.kernel.socks.pop(flow.session.number, None)
        if prld.connection is not None:
            prld.connection.close(self.index)

    def power_off(self) -> None:
        """Everything on it is gone, at once and without a word."""
        prld, self.prld = self.prld, None
        if prld is not None and prld.connection is not None:
            prld.connection.vanish(self.index)
        self.powered = self.asleep = False
        self._sleeps_at_ns, self._waiting = None, []


class World:
    """One seed. ``run()`` raises ViolationError when an invariant breaks."""

    def __init__(
        self,
        seed: int,
        core: Core,
        trace: list[str] | None = None,
        faults: tuple[str, ...] = (),
    ) -> None:
        self.seed, self.core, self.trace = seed, core, trace
        self.fault_kinds = faults or KINDS
        chance = self.random = random.Random(seed)
        self.now_ns = 0
        self._events: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = 0
        self.counts: Counter[str] = Counter()
        self.events_run = self.messages = self.passes = 0
        self._name = 0
        self._epoch = 0
        self._handles: dict[int, int] = {}
        self.packets: dict[int, Packet] = {}
        self.codec = Codec(core) if seed % 8 == 3 else None
        self.checker = Checker(self)
        self.first_owner = (0, 1) if chance.random() < 0.6 else (0,)
        self.route = list(self.first_owner)
        self.cut = [False, False]
        self.latency_base_ns = chance.choice([MS // 5, MS // 5, MS, 4 * MS, 12 * MS])
        self.lan_loss = chance.choice([0.0, 0.0, 0.3, 1.0])
        self.lazy_ns = chance.choice([MS // 5, MS, 2 * MS])
        self.jitter_ns = chance.choice([MS // 10, MS // 10, 3 * MS])
        self.ring_max = chance.choice([10_000, 10_000, 10_000, 24])
        self.rx_max = chance.choice([256, 256, 256, 4])
        self.pool_entries = chance.choice([256, 256, 256, 12])
        self.memory_short = chance.choice([0.0, 0.0, 0.05, 0.3])
        self.unsent_chance = chance.choice([0.0, 0.1])
        self.setup_fails = chance.choice([0.0, 0.05, 0.3])
        self.may_fin = chance.random() < 0.15
        self.policy_stop = int(chance.random() < 0.08)
        self.rto_ns, self.burst_max = RTO_NS, BURST_MAX
        self.gap_ns = chance.choice([10, 16, 28]) * MS
        wraps = chance.random() < 0.3
        self.number_base = 0xFFFFFFFF - chance.randint(0, 12) if wraps else 0
        self.limits = self._draw_limits()
        self.sessions: list[Session] = []
        self.nodes = [Node(self, 0), Node(self, 1)]
        for node in self.nodes:
            node.rate = chance.choice([1.0, 0.99, 1.01, chance.uniform(0.99, 1.01)])
            node.offset_ns = chance.randint(1, 10**12)
            node.boot()
        for number in range(chance.choice([1, 2, 3, 5])):
            self._add_session(number, wraps=wraps)
        self.at(DIAL_NS // 4, self._dial)
        self.faults = Faults(self)

    def _draw_limits(self) -> Any:
        chance = self.random
        limits = self.core.ffi.new("struct prl_primary_limits *")
        limits.packets_max = chance.choice([64, 64, 5])
        limits.bytes_max = chance.choice([100_000, 100_000, 6_000])
        limits.answer_ns = chance.choice([50, 150]) * MS
        limits.setup_ns = 100 * MS
        limits.nack_retry = int(chance.random() < 0.5)
        limits.retries_max, limits.retry_ns = chance.choice([3, 10]), 20 * MS
        # Queues of a few packets starve a peer that does not back off as TCP does.
        is_tight = limits.packets_max < 10 or limits.bytes_max < 10_000
        is_tight |= self.pool_entries < 20 or self.rx_max < 10
        self.stall_max_ns = (1000 if is_tight else 400) * MS
        return limits

    # -- chance and time

    def at(self, at_ns: int, function: Callable[..., object], *args: Any) -> None:
        """Call ``function`` at that (true) time."""
        self._order += 1
        heapq.heappush(self._events, (at_ns, self._order, function, args))

    def count(self, what: str) -> None:
        """Something happened that a report should tell."""
        self.counts[what] += 1
        if self.trace is not None:
            self.note(what)

    def note(self, words: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now_ns / MS:10.3f} ms  {words}")

    def name(self) -> int:
        """A new packet's name."""
        self._name += 1
        return self._name

    def latency_ns(self) -> int:
        """Of one message on the link."""
        base_ns = self.latency_base_ns + self.faults.delay_ns
        return int(base_ns * (0.5 + self.random.random()))

    def wake_ns(self) -> int:
        """Between an event and the pass that sees it."""
        return int(self.random.random() * self.lazy_ns)

    def retry_ns(self) -> int:
        """How long the control plane waits before it protects a session again."""
        return int((5 + 60 * self.random.random()) * MS)

    def seek_ns(self) -> int:
        """How long a silent owner waits before it probes (again)."""
        return int((10 + 60 * self.random.random()) * MS)

    def used_handle(self, handle: int) -> None:
        """Handles are never reused within an epoch, but may be in a later one."""
        before = self._handles.get(handle)
        if before is not None:
            assert before != self._epoch, "a handle was reused within an epoch"
            self.count("handle reused in a new epoch")
        self._handles[handle] = self._epoch

    # -- networks

    def lan(self, sender: Node, what: str, epoch: int, sent_ns: int) -> None:
        """A LAN heartbeat or renounce; heartbeats and their like may be lost."""
        receiver = sender.other
        if sender.lan_cut or receiver.lan_cut or self.random.random() < self.lan_loss:
            return
        delay_ns = int(self.random.random() * 4 * MS)

        def arrive() -> None:
            receiver.kernel.hear_lan()
            if receiver.prld is not None:
                receiver.prld.lan_rx.append((what, epoch, sent_ns))
                receiver.wake()

        self.at(self.now_ns + delay_ns, receiver.receive, arrive)

    def _dial(self) -> None:
        """Both control planes look for the link."""
        self.at(self.now_ns + DIAL_NS, self._dial)
        for node in self.nodes:
            prld = node.prld
            if not node.runs or prld is None or prld.connection is None or prld.up:
                continue
            if self.now_ns - prld.connection.born_ns > HELLO_PATIENCE_NS:
                prld.drop_link()
        if any(self.cut):
            return
        prlds = [node.prld for node in self.nodes if node.runs and node.prld]
        if len(prlds) == 2 and all(prld.connection is None for prld in prlds):
            self._epoch += 1
            connection = Connection(self, self._epoch)
            self.count("epoch")
            for prld in reversed(prlds):
                prld.attach(connection)

    def heal_link(self) -> None:
        """Both directions work again."""
        self.cut = [False, False]
        for connection in {node.prld.connection for node in self.nodes if node.prld}:
            if connection is not None:
                connection.heal()

    # -- peers

    def _add_session(self, number: int, *, wraps: bool) -> None:
        chance = self.random
        service = number % len(self.first_owner)
        base = (1 << 40) + (0xFFFFFFFF - chance.randint(0, 9000) if wraps else 1000)
        out = base + chance.randint(-2000, 2000)
        session = Session(number, service, base, base, out, base + 20_000)
        self.sessions.append(session)
        node = self.nodes[self.first_owner[service]]
        node.kernel.socks[number] = Sock(base, base, out, out)
        self.at(int(chance.random() * 30 * MS), self._traffic, session)
        self.at(int(chance.random() * 60 * MS) + 20 * MS, self._protect, session)

    def _protect(self, session: Session) -> None:
        self.at(self.now_ns + 15 * MS, self._protect, session)
        if not session.over:
            for node in self.nodes:
                if node.runs and node.prld is not None:
                    node.prld.protect(session)

    def _traffic(self, session: Session) -> None:
        """What the peer and both applications do now."""
        chance = self.random.random()
        self.at(self.now_ns + int(self.gap_ns * (0.3 + 1.4 * chance)), self._traffic, session)
        if session.over:
            return
        for node in self.nodes:
            if not node.powered or node.asleep:
                continue
            if (sock := node.kernel.socks.get(session.number)) is not None:
                node.kernel.application(session, sock)
                if node.prld and node.prld.flows and not sock.slow:
                    node.set_timer(max(node.prld.next_tick_ns, node.clock_ns()))
        if not session.over:
            self._peer_sends(session)

    def _peer_sends(self, session: Session) -> None:
        chance = self.random
        unacked = session.snd_nxt - session.snd_una
        if unacked and self.now_ns - session.timer_ns > self.rto_ns:
            session.timer_ns = self.now_ns
            end = min(session.snd_nxt, session.snd_una + SEGMENT_MAX * 2)
            self.counts["input sent again"] += 1
            self._to_service(session, session.snd_una, end)
            return
        kind = chance.random()
        room = session.edge - session.snd_nxt
        if kind < 0.03:
            room = SEGMENT_MAX  # a peer that shrugs at windows
        if kind < 0.7 and unacked < self.burst_max and room > 0 and not session.fin_sent:
            if not unacked:
                session.timer_ns = session.progress_ns = self.now_ns
            start = session.snd_nxt
            session.snd_nxt += min(room, 1 + int(chance.random() * SEGMENT_MAX))
            if self.may_fin and chance.random() < 0.01:
                session.fin_sent = True
                session.snd_nxt += 1
                self.count("peer's fin")
            self._to_service(session, start, session.snd_nxt)
        else:  # an acknowledgement, a window probe, a keepalive
            self._to_service(session, session.snd_nxt, session.snd_nxt)

    def _to_service(self, session: Session, seq: int, end: int) -> None:
        fin = session.fin_sent and end == session.snd_nxt and end > seq
        packet = Packet(self.name(), session, seq, end, session.rcv_nxt, fin=fin)
        delay_ns = int(self.random.random() * self.jitter_ns)
        node = self.nodes[self.route[session.service]]  # as the peer knows it when it sends

        def arrive() -> None:
            if node.powered and not node.lan_cut:
                node.kernel.hear_lan()
                node.kernel.frame(packet)

        self.at(self.now_ns + delay_ns, node.receive, arrive)

    def peer_hears(self, node: int, packet: Packet, ack: int, edge: int) -> None:
        """A segment reached the peer."""
        session = packet.session
        if ack > session.snd_una:
            session.snd_una = ack
            session.timer_ns = session.progress_ns = self.now_ns
            if session.fin_sent and ack == session.snd_nxt:
                session.over = session.over or "fin"
        elif session.snd_una == session.snd_nxt:
            session.progress_ns = self.now_ns
        session.edge = max(session.edge, edge)
        if packet.seq <= session.rcv_nxt < packet.end:
            session.rcv_nxt = packet.end
            if packet.fin:
                session.over = session.over or "fin"
        if self.now_ns > CALM_NS:
            session.heard.add(node)

    # -- the run

    def run(self) -> None:
        """To the end. Raises ViolationError."""
        events = self._events
        while events[0][0] <= END_NS:
            self.now_ns, _, function, args = heapq.heappop(events)
            function(*args)
            self.events_run += 1
            if self.events_run > EVENTS_MAX:
                raise AssertionError(f"more than {EVENTS_MAX} events: something runs in circles")
        self.checker.end()
        for node in self.nodes:
            if node.prld is None:
                continue
            for flow in node.prld.flows.values():
                if flow.is_primary:
                    counters = flow.core.counters
                    for name in ("retried", "dropped_full", "dropped_space", "dropped_nack"):
                        self.counts[name] += int(getattr(counters, name))
                    self.counts["packets replicated"] += int(counters.replicated_packets)
                    self.counts["packets opened"] += int(counters.flushed_packets)
