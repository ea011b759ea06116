"""One flow of a prld: the core's state machine and what the datapath keeps beside it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tests.sim.core import MASK, near
from tests.sim.kernel import ACTIVE, HOLD, PASS
from tests.sim.link import Message
from tests.sim.tcp import Packet, Session, Sock, ViolationError

if TYPE_CHECKING:
    from tests.sim.prld import Prld

PACKET_OVERHEAD = 40
_WAYS_OUT = {"released_packets", "flushed_packets", "output_released", "output_flushed"}
"""Counters of where a packet may go, with every ``dropped_*``."""


def ways_out(ffi: Any) -> tuple[str, ...]:
    """The counters that say where packets went."""
    fields = ffi.typeof("struct prl_primary_counters").fields
    return tuple(n for n, _ in fields if n in _WAYS_OUT or n.startswith("dropped_"))


@dataclass(slots=True, eq=False)
class Life:
    """What the checker knows of one snapshot: both L4s' packets, by name."""

    released: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    flushed: bool = False
    confirmed: bool = False
    relayed: list[int] = field(default_factory=list)
    """Input that the old owner passed on after a move; the new one got a prefix of it."""
    relayed_here: int = 0
    relay_cut: bool = False
    """The link was lost meanwhile, with what was on its way."""


class PrimaryFlow:
    """The primary's side."""

    is_primary = True

    def __init__(self, prld: "Prld", session: Session, handle: int) -> None:
        self.prld, self.node, self.session, self.handle = prld, prld.node, session, handle
        self.core: Any = prld.ffi.new("struct prl_primary *")
        self.queues: Any = prld.ffi.new("struct prl_queues *")
        """Lent to the core while packets wait, and all zero else."""
        self.generation = 0
        self.life = Life()
        self.setup_end = 0
        self.given = 0
        self.activated = False
        self.retry_at_ns = self.since_ns = 0

    def __repr__(self) -> str:
        return f"session {self.session.number} (node {self.node.index}, {self.handle:#x})"

    @property
    def sock(self) -> Sock:
        """The session's socket here."""
        return self.node.kernel.socks[self.session.number]

    # -- events

    def event(self, function: Any, *args: Any) -> None:
        """Give the core an event, do what it asks for."""
        out = self.prld.out
        function(self.core, *args, out)
        self.act()

    def packet(self, packet: Packet, *, output: bool) -> None:
        """A packet of the peer's or a segment of the own application's."""
        prld, lib = self.prld, self.prld.lib
        hold = lib.prl_pool_get(prld.pool)
        if hold == prld.ffi.NULL:
            prld.world.count("no hold entry")
            return
        hold.frame = packet.name
        hold.bytes = packet.end - packet.seq + PACKET_OVERHEAD
        hold.tcp_seq, hold.tcp_end = packet.seq & MASK, packet.end & MASK
        prld.world.packets[packet.name] = packet
        self.given += 1
        self.lend()
        if output:
            hold.bits = lib.PRL_OUTPUT_FIN * packet.fin | lib.PRL_OUTPUT_RST * packet.rst
            self.event(lib.prl_primary_output, hold, prld.now_ns, prld.limits)
        else:
            if packet.fin:  # of input, a FIN counts no payload
                hold.tcp_end = (packet.end - 1) & MASK
            edge = self.sock.edge & MASK
            self.event(lib.prl_primary_input, hold, edge, prld.now_ns, prld.limits)

    def open(self) -> None:
        """Flow and kernel wait; a snapshot goes to the other node."""
        prld, world = self.prld, self.prld.world
        self.generation += 1
        self.life = Life()
        self.activated = False
        self.event(
            prld.lib.prl_primary_open, self.handle, self.generation, prld.now_ns, prld.limits
        )
        if world.number_base:
            core = self.core
            core.in_next = core.out_next = world.number_base
            core.in_acked = core.out_acked = world.number_base - 1
        sock = self.sock
        self.setup_end = sock.snd_nxt
        self.node.kernel.flow(self.session).limit = max(sock.edge, self.session.edge)
        prld.send(
            prld.lib.PRL_MSG_SETUP, self.handle, generation=self.generation,
            bits=prld.lib.PRL_SETUP_LAST, data=(self.session, sock.clone(), self.life),
        )  # fmt: skip

    def activate(self, space: int) -> None:
        """SETUP_DONE said yes."""
        prld, sock = self.prld, self.sock
        self.node.kernel.flow(self.session).limit = near(sock.edge, space)
        self.event(
            prld.lib.prl_primary_activate, self.setup_end & MASK, sock.edge & MASK,
            space & MASK, 1, prld.now_ns,
        )  # fmt: skip
        self.drain()

    def drain(self) -> None:
        """What waited takes the normal path."""
        prld, more = self.prld, True
        for _ in range(1000):
            if not more:
                return
            more = prld.lib.prl_primary_drain(
                self.core, self.sock.edge & MASK, prld.now_ns, prld.limits, prld.out
            )
            if more and not prld.out.count:
                return  # a retry waits
            self.act()
        raise ViolationError(f"{self}: draining has no end")

    def note_space(self) -> None:
        """The other side's edge may have grown: the peer is told."""
        edge = near(self.sock.edge, int(self.core.peer_edge))
        flow = self.node.kernel.flow(self.session)
        if self.core.space_known and (flow.limit is None or edge > flow.limit):
            flow.limit = edge
            self.node.kernel.acknowledge(self.session)

    # -- actions

    def act(self) -> None:
        """What the datapath does with actions."""
        out, does = self.prld.out, self._does
        for index in range(out.count):
            action = out.action[index]
            does[action.kind](self, action)
        out.count = 0
        if self.prld.lib.prl_primary_is_quiet(self.core):
            self.core.queues = self.prld.ffi.NULL

    def lend(self) -> None:
        """What the core needs while a packet waits."""
        if not self.core.queues:
            self.queues[0] = self.prld.ffi.new("struct prl_queues *")[0]
            self.core.queues = self.queues

    def _replicate(self, action: Any) -> None:
        prld, hold = self.prld, action.hold
        prld.send(
            prld.lib.PRL_MSG_REPLICATE, self.handle, seq=hold.seq, space=self.core.own_edge,
            data=prld.world.packets[hold.frame],
        )  # fmt: skip

    def _output(self, action: Any) -> None:
        prld, hold = self.prld, action.hold
        prld.send(
            prld.lib.PRL_MSG_OUTPUT, self.handle, seq=hold.seq, tcp_seq=hold.tcp_seq,
            bits=hold.bits, data=prld.world.packets[hold.frame],
        )  # fmt: skip

    def _release_input(self, action: Any) -> None:
        checker, is_open = self.prld.world.checker, self._is_open()
        for packet in self.prld.taken(action.chain):
            if is_open:
                checker.flushed(self)
            else:
                checker.released(self, packet)
            self.node.kernel.receive(packet)

    def _release_output(self, action: Any) -> None:
        is_open = self._is_open()
        for packet in self.prld.taken(action.chain):
            if is_open:
                self.prld.world.checker.flushed(self)
            self.node.kernel.emit(packet)
            if packet.rst:
                packet.session.over = packet.session.over or "rst"

    def _is_open(self) -> bool:
        return bool(self.core.state == self.prld.lib.PRL_PRIMARY_OPEN)

    def _drop(self, action: Any) -> None:
        self.prld.taken(action.chain)

    def _commit(self, action: Any) -> None:
        flow = self.node.kernel.flow(self.session)
        flow.committed = near(self.sock.snd_nxt, int(action.seq))

    def _send_void(self, action: Any) -> None:
        self.prld.send(
            self.prld.lib.PRL_MSG_VOID, self.handle, generation=self.core.generation,
            reason=action.reason,
        )  # fmt: skip
        self.prld.world.count("void sent")

    def _send_active(self, _action: Any) -> None:
        self.life.confirmed = True
        self.prld.send(
            self.prld.lib.PRL_MSG_SETUP_DONE, self.handle, generation=self.core.generation,
            space=self.core.own_edge,
        )  # fmt: skip

    def _state(self, action: Any) -> None:
        self._set_flags()
        if self.prld.world.trace is not None:
            self.prld.world.note(f"{self} state {self.core.state} reason {action.reason}")

    def _relay(self, action: Any) -> None:
        packet = self.prld.world.packets[action.hold.frame]
        self.life.relayed.append(packet.name)
        self.prld.send(self.prld.lib.PRL_MSG_RELAY, self.handle, data=packet)
        self.prld.world.count("relayed")

    _does: ClassVar = {
        1: _replicate, 2: _output, 3: _release_input, 4: _release_output, 5: _drop, 6: _commit,
        7: _send_void, 8: _state, 9: _send_active, 10: _relay,
    }  # fmt: skip
    """By PRL_DO_*, which every core shares (the enum of core/primary.h)."""

    def _set_flags(self) -> None:
        lib, state = self.prld.lib, self.core.state
        self.since_ns = self.prld.world.now_ns
        flow = self.node.kernel.flow(self.session)
        flow.flags = (
            ACTIVE if state == lib.PRL_PRIMARY_ACTIVE
            else PASS if state in (lib.PRL_PRIMARY_OPEN, lib.PRL_PRIMARY_GONE)
            else HOLD
        )  # fmt: skip
        if flow.flags == PASS:
            flow.limit = None
            self.retry_at_ns = self.prld.world.now_ns + self.prld.world.retry_ns()

    def check_counters(self) -> int:
        """The packets that wait. Raises ViolationError when the counters do not add up."""
        queues = self.queues
        waiting = (
            queues.in_pending.count + queues.in_held.count + queues.relayed.count
            + queues.out_pending.count + queues.out_held.count
        )  # fmt: skip
        counters = self.core.counters
        gone = sum(getattr(counters, name) for name in self.prld.ways_out)
        if self.given != gone + waiting:
            raise ViolationError(f"{self}: {self.given} packets given, {gone} gone, {waiting} wait")
        return int(waiting)


class ShadowFlow:
    """The secondary's side."""

    is_primary = False

    def __init__(
        self, prld: "Prld", message: Message, session: Session, sock: Sock, life: Life
    ) -> None:
        self.prld, self.session, self.sock, self.twin = prld, session, sock, life
        self.handle = message.handle
        self.born_ns = prld.world.now_ns
        self.out_base = sock.snd_nxt
        self.core: Any = prld.ffi.new("struct prl_secondary *")
        lib = prld.lib
        lib.prl_secondary_open(
            self.core, message.handle, message.generation, sock.snd_nxt & MASK,
            sock.edge & MASK, 1,
        )  # fmt: skip
        self.core.nack_retry = prld.limits.nack_retry
        self.relaying = False
        self.waiting: list[Packet] = []
        self.relay_next = 0
        self.in_end = self.last_direct_ns = 0
        base = prld.world.number_base
        if base:
            self.core.in_next = self.core.out_next = base
            self.core.in_accepted = base - 1

    def __repr__(self) -> str:
        return f"shadow of session {self.session.number} ({self.handle:#x})"

    def edge(self) -> int:
        """What the shadow would take now; a kernel short of memory says less than it did."""
        world = self.prld.world
        if world.memory_short and world.random.random() < world.memory_short:
            return self.sock.rcv_nxt
        return self.sock.edge

    def receive(self, message: Message) -> None:
        """REPLICATE or OUTPUT."""
        prld, lib, packet = self.prld, self.prld.lib, message.data
        reason, skip = prld.reason, prld.word
        is_input = message.type == lib.PRL_MSG_REPLICATE
        if is_input:
            payload = packet.end - packet.seq - packet.fin
            verdict = lib.prl_secondary_replicate(
                self.core, message.seq, message.space, (packet.seq + payload) & MASK, payload,
                payload + PACKET_OVERHEAD, self.edge() & MASK, reason,
            )  # fmt: skip
        elif packet.rst:
            payload = 0
            verdict = lib.prl_secondary_reset(self.core, message.seq, reason)
        else:
            payload = packet.end - packet.seq - packet.fin
            verdict = lib.prl_secondary_output(
                self.core, message.seq, message.tcp_seq, payload, skip, reason
            )
        if verdict == lib.PRL_VERDICT_IGNORE:
            return
        if verdict != lib.PRL_VERDICT_ACCEPT:
            self._refuse(message, reason[0])
            return
        prld.dirty.add(self)
        if is_input:
            self.twin.accepted.append(packet.name)
            self.in_end = max(self.in_end, packet.end)
            self.sock.receive(packet)
            return
        if packet.rst:
            self.acknowledge(all_sent=True)
            lib.prl_secondary_void(self.core, lib.PRL_REASON_ENDED)
            return
        appended = payload - skip[0]
        self.sock.snd_nxt += appended
        if packet.fin and self.sock.fin_at is None:
            self.sock.snd_nxt += 1
            self.sock.fin_at = self.sock.snd_nxt
        lib.prl_secondary_output_done(self.core, appended, packet.fin)
        if (self.sock.snd_nxt & MASK) != self.core.out_tcp_next:
            raise ViolationError(f"{self}: the core believes in another end of the output")

    def _refuse(self, message: Message, reason: int) -> None:
        prld, lib = self.prld, self.prld.lib
        prld.world.count(f"refused: {prld.reason_text(reason)}")
        if reason == lib.PRL_REASON_DIVERGED:
            raise ViolationError(f"{self}: a link in order made a difference")
        self.acknowledge()
        is_output = message.type == lib.PRL_MSG_OUTPUT
        prld.send(
            lib.PRL_MSG_OUTPUT_ACK if is_output else lib.PRL_MSG_ACK, self.handle,
            seq=message.seq, reason=reason, space=self.sock.edge & MASK,
            tcp_seq=self.core.out_tcp_next,
        )  # fmt: skip

    def acknowledge(self, *, all_sent: bool = False) -> None:
        """What is owed: one cumulative ACK, and OUTPUT_ACK as far as the shadow has sent."""
        prld, lib = self.prld, self.prld.lib
        first, second = prld.word, prld.other_word
        if lib.prl_secondary_take_ack(self.core, self.sock.edge & MASK, first, second):
            prld.send(lib.PRL_MSG_ACK, self.handle, seq=first[0], space=second[0])
        if not self.core.out_ack_due:
            return
        unsent = 0
        if not all_sent and prld.world.random.random() < prld.world.unsent_chance:
            unsent = min(500, self.sock.snd_nxt - max(self.out_base, self.sock.pushed))
        self.sock.pushed = max(self.sock.pushed, self.sock.snd_nxt - unsent)
        if lib.prl_secondary_take_output_ack(self.core, unsent, first, second):
            if near(self.sock.snd_nxt, second[0]) > self.sock.pushed:
                raise ViolationError(f"I3: {self}: OUTPUT_ACK says more than was sent")
            prld.send(lib.PRL_MSG_OUTPUT_ACK, self.handle, seq=first[0], tcp_seq=second[0])

    def tell_space(self) -> None:
        """FLOWCTL when there is more than was announced."""
        prld = self.prld
        if prld.lib.prl_secondary_space_grew(self.core, self.sock.edge & MASK, prld.word):
            prld.send(prld.lib.PRL_MSG_FLOWCTL, self.handle, space=prld.word[0])
