"""Time, both nodes, the link, the LAN and the peers of one seed."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.sim.arbiter import ANSWER_MS, NAMES, Store
from tests.sim.checker import Checker
from tests.sim.core import MS, Core
from tests.sim.faults import ARBITER_KINDS, KINDS, Faults
from tests.sim.link import Connection
from tests.sim.node import DEAD_MS, HOLD_MS, SUSPECT_MS, Node
from tests.sim.stranger import Stranger
from tests.sim.tcp import BUFFER_BYTES, BURST_MAX, RTO_NS, SEGMENT_MAX, Session

END_NS = 1500 * MS
PATIENT_END_NS = 3000 * MS
CALM_NS = END_NS - 200 * MS
LONG_NS = 600 * MS
"""So much later is all put right in some seeds: a node has time to boot, to ask and to begin."""
"""From here on, who speaks for a session is the node that has it for good."""
DIAL_NS = 40 * MS
HELLO_PATIENCE_NS = 150 * MS
LEASE_MS, LATE_MS, TAKEOVER_MS = 20, 60, 300
PROBE_MS, HUNG_MS = 10, 400
EVENTS_MAX = 120_000
"""No seed needs so many; one that does runs in circles."""
LINK_QUEUE_BYTES = 560 << 10
"""A transmit queue that the actions of one packet just fit into, of the largest that there are."""
OF_AN_EARLIER_RELEASE = 10
"""One seed of so many has nodes without CLAIM_MAC."""
WITHOUT_ANSWERS = 5
"""One seed of so many has nodes without KERNEL_ANSWERS."""
WITHOUT_RESYNC = 7
"""One seed of so many has nodes without RESYNC."""
CHANCE = 1 << 32
COUNTERS = (
    "relayed_packets", "kept_packets", "mirror_fed", "mirror_lost", "mirror_dropped",
    "mirror_unnamed", "refed_packets", "compared", "defences", "rx_no_hold",
    "takeover_shares",
)  # fmt: skip


class World:
    """One seed. ``run()`` raises ViolationError when an invariant breaks."""

    takeover_ns = TAKEOVER_MS * MS
    neighbours_are_near = False
    """Who is asked on the LAN answers while the question is being sent, as on veth."""
    rto_ns, burst_max, link_queue_max = RTO_NS, BURST_MAX, LINK_QUEUE_BYTES
    mss = 1400
    """Of the peers, as flows have it."""

    def __init__(
        self,
        seed: int,
        core: Core,
        trace: list[str] | None = None,
        faults: tuple[str, ...] = (),
        *,
        patient: bool = False,
        arbitrated: bool | None = None,
    ) -> None:
        self.seed, self.core, self.trace = seed, core, trace
        self.patient = patient
        """It goes on until all that can be protected must be protected."""
        self.fault_kinds = faults or KINDS
        chance = self.random = random.Random(seed)
        self.now_ns = 0
        self._events: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = 0
        self.counts: Counter[str] = Counter()
        self.events_run = self.passes = 0
        self.failure: BaseException | None = None
        """What was raised in a call from C; it goes on once C has returned."""
        self._epoch = 0
        self._handles: dict[tuple[int, int], int] = {}
        self.objects: list[Any] = []
        """What HELLO and SETUP carry, by number."""
        self.checker = Checker(self)
        self.first_owner = (0, 1) if chance.random() < 0.6 else (0,)
        self.route = list(self.first_owner)
        self.cut = [False, False]
        self.latency_base_ns = chance.choice([MS // 5, MS // 5, MS, 4 * MS, 12 * MS])
        self.lan_loss = chance.choice([0.0, 0.0, 0.3, 1.0])
        self.lazy_ns = chance.choice([MS // 5, MS, 2 * MS])
        self.jitter_ns = chance.choice([MS // 10, MS // 10, 3 * MS])
        self.two_steps = chance.choice([0.0, 0.5, 1.0])
        """The share of set-ups that are in two steps (R17)."""
        self.control_ns = chance.choice([MS // 5, MS, 5 * MS])
        self.socket_bytes = chance.choice([1 << 20, 1 << 20, 3000])
        self.cut_chance = chance.choice([0.0, 0.3])
        self.rx_max = chance.choice([256, 256, 256, 4])
        self.pool_entries = chance.choice([0, 0, 0, 12])
        self.drop_chance = int(chance.choice([0.0, 0.0, 0.0, 0.01]) * CHANCE)
        self.short_chance = int(chance.choice([0.0, 0.0, 0.05, 0.3]) * CHANCE)
        self.keep_back_chance = int(chance.choice([0.0, 0.1, 0.3]) * CHANCE)
        self.setup_fails = chance.choice([0.0, 0.05, 0.3])
        self.may_fin = chance.random() < 0.15
        self._draw_arbiter(arbitrated=arbitrated)
        self.gap_ns = chance.choice([10, 16, 28]) * MS
        wraps = chance.random() < 0.3
        self.number_base = 0xFFFFFFFF - chance.randint(0, 12) if wraps else 0
        self.limits = self._draw_limits()
        self.sessions: list[Session] = []
        self.nodes = [Node(self, 0), Node(self, 1)]
        for number in range(chance.choice([1, 2, 3, 5])):
            self._add_session(number, wraps=wraps)
        for node in self.nodes:
            node.rate = chance.choice([1.0, 0.99, 1.01, chance.uniform(0.99, 1.01)])
            node.offset_ns = chance.randint(1, 10**12)
            node.boot()
        self._accept()
        self.at(DIAL_NS // 4, self._dial)
        self.faults, self.stranger = Faults(self), Stranger(self)

    def _accept(self) -> None:
        """The sessions have sockets."""
        for session in self.sessions:
            self.nodes[self.first_owner[session.service]].restore_sock(
                session,
                {"rcv_nxt": session.snd_nxt, "read": session.snd_nxt,
                 "snd_una": session.rcv_nxt, "snd_nxt": session.rcv_nxt},
            )  # fmt: skip
        if wait_ms := random.Random(f"birth {self.seed}").choice([0, 0, 60, 300]):
            self.bear(wait_ms * MS)

    def bear(self, wait_ns: int) -> None:
        """The handshakes are just over, and the sessions wait for so long to be protected (R31)."""
        for session in self.sessions:
            session.waits_on = self.first_owner[session.service]
            session.edge = session.snd_nxt  # it was told so by the SYN-ACK
            node = self.nodes[session.waits_on]
            session.waits_until_ns = node.clock_ns() + wait_ns
            node.host.newborn_until_ns[session.number] = session.waits_until_ns

    def _draw_arbiter(self, *, arbitrated: bool | None) -> None:
        chance = random.Random(f"arbiter {self.seed}")  # pairs without one are as they were
        self.arbitrated = chance.random() < 0.3 if arbitrated is None else arbitrated
        """The pair has an arbiter (L12)."""
        self.long_ns = LONG_NS if random.Random(f"long {self.seed}").random() < 0.15 else 0
        self.leases = int(self.arbitrated and arbitrated is None and chance.random() < 0.2)
        """While it is not reached, the lease decides."""
        stops = self.random.random() < 0.08
        self.policy_stop = int(stops and not self.arbitrated)
        self.store = Store(self, chance)
        self.parted = False
        """The LAN is in two pieces: a node, neighbours and peers in each."""
        self.peer_side = chance.randint(0, 1)
        """Where the peers of the sessions are then."""
        chance = random.Random(f"witness {self.seed}")  # pairs without one are as they were
        self.witness_side = chance.randint(0, 1)
        """Where the witness is then, if there is one (F19)."""
        likely = 0.6 if "parted" in self.fault_kinds else 0.15  # if it was asked for, by a mutant
        self.witnessed = not self.arbitrated and chance.random() < likely
        if self.witnessed and self.fault_kinds == KINDS:
            self.fault_kinds = (*KINDS, *("parted" for _ in range(4)))
        if self.arbitrated and self.fault_kinds == KINDS:
            self.fault_kinds = KINDS + ARBITER_KINDS

    def _draw_limits(self) -> dict[str, int]:
        chance = self.random
        limits = {
            "packets_max": chance.choice([64, 64, 5]),
            "bytes_max": chance.choice([100_000, 100_000, 6_000]),
            "answer_ns": chance.choice([50, 150]) * MS,
            "setup_ns": 100 * MS,
            "nack_retry": int(chance.random() < 0.5),
            "retries_max": chance.choice([3, 10]),
            "retry_ns": 20 * MS,
        }
        # Queues of a few packets starve a peer that does not back off as TCP does.
        is_tight = limits["packets_max"] < 10 or limits["bytes_max"] < 10_000
        is_tight |= bool(self.pool_entries) or self.rx_max < 10
        # A packet whose frame is lost comes again with the peer's timer: several in a row do.
        self.limits = limits
        is_tight |= self.mirrors and self.cable_loss > 0.1
        self.stall_max_ns = (1000 if is_tight else 400) * MS + 5 * self.takeover_cost_ns
        return limits

    @property
    def keeps_input(self) -> list[bool]:
        """Whose carrier is "kernel": its input waits there, and prld has a copy."""
        chance = random.Random(f"carrier {self.seed}")
        return [chance.random() < 0.5 or self.mirrors for _ in range(2)]

    @property
    def mirrors(self) -> bool:
        """Whether the carrier of both is "mirror"."""
        chance = random.Random(f"mirror {self.seed}")
        return not self.limits["nack_retry"] and chance.random() < 0.5

    @property
    def cable_loss(self) -> float:
        """Of frames on the cable."""
        return random.Random(f"cable {self.seed}").choice([0.0, 0.0, 0.02, 0.3])

    @property
    def full_chance(self) -> int:
        """That the cable does not take a clone."""
        chance = random.Random(f"full {self.seed}")
        return chance.choice([0, 0, CHANCE // 20])

    @property
    def unheard_chance(self) -> int:
        """That TCP does not tell of the end of a socket."""
        return (0, 0, CHANCE // 3, CHANCE - 1)[self.seed % 4]

    @property
    def takeover_cost_ns(self) -> int:
        """What a datapath needs for one session that it takes over; some pass takes no more."""
        return random.Random(f"takeover {self.seed}").choice([0, 0, 0, 2 * MS, 30 * MS])

    @property
    def with_macs(self) -> bool:
        """Whether the nodes MAC their claims; without, anybody may say them again."""
        return self.seed % OF_AN_EARLIER_RELEASE != 0

    @property
    def kernels_answer(self) -> bool:
        """Whether the nodes probe each other's kernels (L3a)."""
        return self.seed % WITHOUT_ANSWERS != 0

    @property
    def resyncs(self) -> bool:
        """Whether sessions may go on without a new snapshot after a flap of the link (L10)."""
        return self.seed % WITHOUT_RESYNC != 0

    @property
    def capabilities(self) -> int:
        """What both nodes agree on in HELLO."""
        lib = self.core.lib
        found: int = lib.PRL_CAP_CLAIM_MAC if self.with_macs else 0
        found |= (
            lib.PRL_CAP_OUTPUT | lib.PRL_CAP_COMPARE | lib.PRL_CAP_L3_ELISION
            | lib.PRL_CAP_SWITCHOVER | lib.PRL_CAP_PREPARE | lib.PRL_CAP_LONG_MOMENT
        )  # fmt: skip
        found |= lib.PRL_CAP_KERNEL_ANSWERS if self.kernels_answer else 0
        found |= lib.PRL_CAP_RESYNC if self.resyncs else 0
        found |= lib.PRL_CAP_MIRROR if self.mirrors else 0
        return found | (lib.PRL_CAP_NACK_RETRY if self.limits["nack_retry"] else 0)

    def configuration(self, index: int) -> Any:
        """Of a node's datapath."""
        ffi, lib = self.core.ffi, self.core.lib
        config = ffi.new("struct prl_dp_config *")
        config.node_index, config.flows_max = index, lib.SIM_FLOWS_MAX
        config.poll_mode = lib.PRL_POLL_BLOCKING
        owner = config.owner
        owner.lease_ns, owner.suspect_ns, owner.late_ns = (
            LEASE_MS * MS, SUSPECT_MS * MS, LATE_MS * MS,
        )  # fmt: skip
        owner.takeover_ns, owner.hold_ns = TAKEOVER_MS * MS, HOLD_MS * MS
        owner.probe_ns, owner.dead_ns, owner.hung_ns = PROBE_MS * MS, DEAD_MS * MS, HUNG_MS * MS
        owner.services = len(self.first_owner)
        owner.policy_stop = self.policy_stop
        if self.arbitrated:
            owner.arbiter.answer_ns, owner.arbiter.leases = ANSWER_MS * MS, self.leases
        for name, value in self.limits.items():
            setattr(config.limits, name, value)
        move = config.move
        move.drain_ns, move.quiet_ns = 200 * MS, 5 * MS
        move.relay_ns, move.probe_ns = 100 * MS, 100 * MS
        config.lifs, config.addresses = 1, len(self.first_owner)
        config.lif[0].ifindex, config.lif[0].queues = 1, 1
        config.lif[0].mac = b"\2\2\2\2\2\2"
        mapped = bytes(10) + b"\xff\xff\xc0\0\2"
        ffi.buffer(config.own_addr[0])[:] = mapped + bytes([10 + index])
        if self.witnessed:
            config.witnesses = 1
            ffi.buffer(config.witness[0])[:] = mapped + bytes([1])
        for service in range(len(self.first_owner)):
            config.address[service].service = service
            ffi.buffer(config.address[service].addr)[:] = mapped + bytes([100 + service])
        return config

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

    def used_handle(self, handle: int, generation: int) -> None:
        """A snapshot's name is never used twice in an epoch, but may be in a later one."""
        before = self._handles.get((handle, generation))
        if before is not None:
            assert before != self._epoch, "a handle was reused within an epoch"
            self.count("handle reused in a new epoch")
        self._handles[handle, generation] = self._epoch

    # -- networks

    def datagram(self, sender: Node, path: int, data: bytes) -> None:
        """A heartbeat, a renounce or a probe; on the LAN they may be lost, and overtaken."""
        receiver = sender.other
        by_lan = path == self.core.lib.PRL_PROBE_LAN
        is_lost = not receiver.hears_lan or self.parted or self.random.random() < self.lan_loss
        if by_lan and is_lost:
            return
        if not by_lan and self.cut[sender.index]:
            return

        def arrive() -> None:
            if not by_lan or receiver.hears_lan:
                self._take_datagram(receiver, path, data)

        delay_ns = int(self.random.random() * 4 * MS) if by_lan else self.latency_ns()
        self.at(self.now_ns + delay_ns, receiver.receive, arrive)

    def _take_datagram(self, receiver: Node, path: int, data: bytes) -> None:
        """Its kernel answers a question by itself, whatever its prld does."""
        ffi, lib = self.core.ffi, self.core.lib
        taken = ffi.new("uint8_t[]", data)
        count = ffi.new("uint32_t *", len(data))
        if not lib.sim_answer(receiver.host, path, taken, count):
            lib.sim_datagram_arrives(receiver.host, path, data, len(data))
        elif count[0]:
            self.counts["questions answered"] += 1
            if path != lib.PRL_PROBE_LAN or receiver.is_on_wire:
                self.datagram(receiver, path, bytes(ffi.buffer(taken, count[0])))
        else:
            self.counts["questions refused"] += 1

    def mirror(self, sender: Node, session: Session, number: int, *segment: int) -> None:
        """A clone leaves by the cable: usually it is there before the message that names it."""
        receiver, chance = sender.other, self.random
        if self.cut[sender.index] or chance.random() < self.cable_loss:
            return
        self.counts["frames mirrored"] += 1
        late = chance.random() < 0.1  # another CPU has it
        delay_ns = int(self.latency_ns() * (2 if late else 0.5))

        def arrive() -> None:
            if receiver.powered:
                receiver.lib.sim_cable(receiver.host, session.number, *segment, number)

        self.at(self.now_ns + delay_ns, receiver.receive, arrive)

    def claim(self, sender: Node, service: int, trailer: bytes) -> None:
        """L7: the claim fences the other kernel at once."""
        if any(trailer) or service not in sender.claims:
            sender.claims[service] = (self.now_ns, trailer)
        if not sender.is_on_wire:
            return
        if not self.parted or sender.index == self.peer_side:
            self.route[service] = sender.index
        other = sender.other
        if other.hears_lan and not self.parted:
            other.unheard.pop((service, other.owned(service)), None)
            other.receive(lambda: other.hear_claim(service, trailer))
        elif other.powered and other.host.lan_deaf:
            other.miss_claim(service)
        if any(trailer) and self.with_macs:
            self.stranger.hears(sender, service, trailer)

    def is_heard_on_lan(self, node: Node) -> bool:
        """Whether somebody there answers what it asks now; there are neighbours everywhere."""
        cut_off = self.witnessed and self.parted and node.index != self.witness_side
        return node.has_lan and not cut_off

    def ask(self, sender: Node) -> None:
        """Somebody on the LAN answers, if it is there: as a switch away, or, as on veth, while the
        question is being sent."""

        def answered() -> None:
            if sender.hears_lan and self.is_heard_on_lan(sender):
                sender.lib.sim_answered(sender.host)

        if self.neighbours_are_near:
            answered()
        else:
            self.at(self.now_ns + MS // 2, sender.receive, answered)

    def _dial(self) -> None:
        """Both control planes look for the link."""
        self.at(self.now_ns + DIAL_NS, self._dial)
        ready = [node for node in self.nodes if node.runs and not node.asleep]
        for node in ready:
            connection = node.connection
            if connection is None or node.control is None or node.control.epoch == connection.epoch:
                continue
            if self.now_ns - connection.born_ns > HELLO_PATIENCE_NS:
                node.call(node.lib.prl_dp_link_drop, b"HELLO did not come")
        if any(self.cut) or len(ready) < 2 or any(node.connection for node in ready):
            return
        self._epoch += 1
        connection = Connection(self, self._epoch)
        self.count("epoch")
        for node in reversed(ready):
            assert node.control is not None
            node.control.attach(connection)

    def join(self) -> None:
        """The LAN is one again."""
        if self.parted:
            self.parted = False
            for node in self.nodes:
                node.mend_lan()

    def heal_link(self) -> None:
        """Both directions work again."""
        self.cut = [False, False]
        for connection in dict.fromkeys(node.connection for node in self.nodes):
            if connection is not None:
                connection.heal()

    # -- peers

    def _add_session(self, number: int, *, wraps: bool) -> None:
        chance = self.random
        service = number % len(self.first_owner)
        base = (1 << 40) + (0xFFFFFFFF - chance.randint(0, 9000) if wraps else 1000)
        out = base + chance.randint(-2000, 2000)
        self.sessions.append(Session(number, service, base, base, out, base + BUFFER_BYTES))
        session = self.sessions[-1]
        self.at(int(chance.random() * 30 * MS), self._traffic, session)
        self.at(int(chance.random() * 60 * MS) + 20 * MS, self._protect, session)

    def _protect(self, session: Session) -> None:
        self.at(self.now_ns + 15 * MS, self._protect, session)
        if not session.over:
            for node in self.nodes:
                if node.runs and not node.asleep and node.control is not None:
                    node.control.protect(session)

    def _traffic(self, session: Session) -> None:
        """What the peer and both applications do now."""
        chance = self.random.random()
        self.at(self.now_ns + int(self.gap_ns * (0.3 + 1.4 * chance)), self._traffic, session)
        for node in self.nodes:
            if node.powered and not node.asleep and not session.over:
                node.application(session)
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
        if session.quiet_until_ns > self.now_ns:
            return
        kind = chance.random()
        room = session.edge - session.snd_nxt
        if room > 0:
            session.shut_ns = -1
        elif session.shut_ns < 0:
            session.shut_ns = self.now_ns
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
        ack = session.rcv_wup = session.rcv_nxt
        delay_ns = int(self.random.random() * self.jitter_ns)
        node = self.nodes[self.route[session.service]]  # as the peer knows it when it sends

        def arrive() -> None:
            if node.hears_lan and not (self.parted and node.index != self.peer_side):
                node.lib.sim_frame(
                    node.host, session.number, seq, end - seq - fin, ack,
                    node.lib.SIM_FIN if fin else 0,
                )  # fmt: skip

        self.at(self.now_ns + delay_ns, node.receive, arrive)

    def peer_hears(
        self, node: Node, session: Session, seq: int, count: int, flags: int, ack: int, edge: int
    ) -> None:
        """A segment reached the peer."""
        fin = bool(flags & node.lib.SIM_FIN)
        end = seq + count + fin
        self.checker.emitted(node, session, end, end > seq, ack)
        if self.parted and node.index != self.peer_side:
            return
        if flags & node.lib.SIM_RST:
            session.over = session.over or "rst"
            return
        if end < session.rcv_wup:  # old, and so is what it says (tcp_input.c, tcp_sequence)
            return
        if ack > session.snd_una:
            session.snd_una = ack
            session.timer_ns = session.progress_ns = self.now_ns
            if session.fin_sent and ack == session.snd_nxt:
                session.over = session.over or "fin"
        elif session.snd_una == session.snd_nxt:
            session.progress_ns = self.now_ns
        session.edge = max(session.edge, edge)
        if seq <= session.rcv_nxt < end:
            session.rcv_nxt, session.out_ns = end, self.now_ns
            if fin:
                session.over = session.over or "fin"
        if self.now_ns > CALM_NS + self.long_ns:
            session.heard.add(node.index)

    def is_alone(self, node: Node) -> bool:
        """Whether the arbiter keeps the other node from going on, whatever that still has."""
        holder = self.store.record.holder
        return self.arbitrated and not self.leases and holder == NAMES[node.index]

    def waits_for_word(self, node: Node) -> bool:
        """Whether an owner without the other node may be silent for as long as that is away."""
        return bool(self.policy_stop) or (self.arbitrated and not self.is_alone(node))

    # -- the run

    def run(self) -> None:
        """To the end. Raises ViolationError."""
        watch(self)
        try:
            end_ns = (PATIENT_END_NS if self.patient else END_NS) + self.long_ns
            while self._events[0][0] <= end_ns:
                self.step()
            self.checker.end()
            self._sum_up()
        finally:
            self.close()

    def step(self) -> None:
        """The next event."""
        self.now_ns, _, function, args = heapq.heappop(self._events)
        for node in self.nodes:
            node.tick()
        function(*args)
        if self.failure is not None:
            raise self.failure
        self.events_run += 1
        if self.events_run > EVENTS_MAX:
            raise AssertionError(f"more than {EVENTS_MAX} events: something runs in circles")

    def close(self) -> None:
        """Free both machines."""
        for node in self.nodes:
            node.power_off()

    def _sum_up(self) -> None:
        for node in self.nodes:
            if not node.powered:
                continue
            for name in (
                "captured",
                "held",
                "stale",
                "silent",
                "shadow",
                "injected",
                "newborn",
            ):
                self.counts[f"dropped: {name}"] += int(getattr(node.host, f"dropped_{name}"))
            self.counts["bypassed"] += int(node.host.bypasses)
            self.counts["first emission too late"] += int(node.host.late_first)
            if node.control is None:
                continue
            status = node.ffi.new("struct prl_dp_status *")
            node.lib.prl_dp_status(node.dp, status)
            for name in COUNTERS:
                self.counts[name] += int(getattr(status.counters, name))
            owner = node.lib.sim_owner(node.host)
            self.counts["handed over for want of a LAN"] += int(owner.hand_overs)
            self._sum_up_flows(node)

    def _sum_up_flows(self, node: Node) -> None:
        info = node.ffi.new("struct prl_flow_info *")
        for session in self.sessions:
            flow = node.flow(session)
            if not flow.used or flow.secondary:
                continue
            node.lib.prl_dp_flow_info(node.dp, flow.handle, info)
            for name in ("retried", "dropped_full", "dropped_space", "dropped_nack"):
                self.counts[name] += int(getattr(info.primary.counters, name))


def watch(world: World) -> None:
    """From now on the machines' calls are of this world."""
    ffi = world.core.ffi

    def failed(kind: object, failure: BaseException, trace: object) -> None:
        del kind, trace
        world.failure = world.failure or failure

    @ffi.def_extern(onerror=failed)
    def sim_wire(
        node: int, session: int, seq: int, count: int, flags: int, ack: int, edge: int
    ) -> None:
        found = world.sessions[session]
        world.peer_hears(world.nodes[node], found, seq, count, flags, ack, edge)

    @ffi.def_extern(onerror=failed)
    def sim_stack(
        node: int, session: int, seq: int, count: int, flags: int, ack: int, way: int
    ) -> None:
        found = world.sessions[session]
        world.checker.stack(world.nodes[node], found, (seq, count, flags, ack), way)

    @ffi.def_extern(onerror=failed)
    def sim_claims(node: int, service: int, trailer: Any) -> None:
        carried = bytes(ffi.buffer(trailer, ffi.sizeof("struct prl_claim")))
        world.claim(world.nodes[node], service, carried)

    @ffi.def_extern(onerror=failed)
    def sim_asks(node: int) -> None:
        world.ask(world.nodes[node])

    @ffi.def_extern(onerror=failed)
    def sim_mirror(
        node: int, session: int, seq: int, count: int, ack: int, flags: int, number: int
    ) -> None:
        found = world.sessions[session]
        world.mirror(world.nodes[node], found, number, seq, count, ack, flags)

    @ffi.def_extern(onerror=failed)
    def sim_datagram(node: int, path: int, data: Any, count: int) -> None:
        world.datagram(world.nodes[node], path, bytes(ffi.buffer(data, count)))
