"""What stays when prld stops: addresses, flow flags, sockets; the rules of bpf/ in short."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim.core import MS
from tests.sim.tcp import SEGMENT_MAX, Packet, Session, Sock

if TYPE_CHECKING:
    from tests.sim.world import Node

NONE, STANDBY, OWNER, FENCED, LEAVING = range(5)
PASS, HOLD, ACTIVE, SHADOW, RELAY = range(5)
"""A flow's packets pass, wait in prld (SETUP, VOIDING, MOVED), are replicated; or it is a shadow;
or its input alone goes through prld, for it has just moved here.
"""
STALE_NS = 200 * MS
SETTLE_NS = 300 * MS


@dataclass(slots=True)
class FlowState:
    """struct prl_flow."""

    flags: int = PASS
    committed: int = 0
    limit: int | None = None
    """Right edge that the other side can take, while the advertised window is clamped."""


class Kernel:
    """One node's kernel."""

    def __init__(self, node: "Node", services: int) -> None:
        self.node, self.world = node, node.world
        self.addresses = [NONE] * services
        self.first_by_ns = [0] * services
        self.spoken = [False] * services
        self.claimed = [False] * services
        self.flows: dict[int, FlowState] = {}
        self.socks: dict[int, Sock] = {}
        self.heartbeat_ns = self.open_at_ns = 0
        self.stale_since_ns = 0
        """Since when the machine has run with a datapath that is stale, as far as was seen."""
        self.bypassed = False
        self.policy_stop = False
        self.silent_mask = 0
        self.watch = False
        self.lan_first_ns = self.lan_seen_ns = self.word_ns = 0

    def set_address(self, service: int, state: int, first_by_ns: int = 0) -> None:
        """Write the address table."""
        self.addresses[service] = state
        self.first_by_ns[service], self.spoken[service] = first_by_ns, False
        if state == OWNER and not self.node.lan_cut:
            self.world.route[service] = self.node.index

    def flow(self, session: Session) -> FlowState:
        """The state of a flow, made when it is new."""
        return self.flows.setdefault(session.number, FlowState())

    def flags(self, session: Session) -> int:
        """PASS, HOLD, ACTIVE or SHADOW."""
        flow = self.flows.get(session.number)
        return flow.flags if flow else PASS

    def _works(self) -> bool:
        return self.node.clock_ns() - self.heartbeat_ns <= STALE_NS

    # -- input

    def frame(self, packet: Packet) -> None:
        """XDP: a frame of the peer's."""
        session = packet.session
        state = self.addresses[session.service]
        flags = self.flags(session)
        if state != OWNER and (state != LEAVING or flags == PASS):
            self.world.count("input of a silent node dropped")
            return
        if flags == PASS:
            self.receive(packet)
        elif flags == SHADOW:
            self.world.count("input of a shadow dropped")
        elif self.bypassed:
            self.pass_unreplicated(packet)
        elif not self._works():
            now_ns = self.node.clock_ns()
            if not self._has_settled(now_ns) or self.policy_stop or now_ns < self.open_at_ns:
                self.world.count("dropped while stale")
                return
            self.bypassed = True
            self.world.count("bypassed")
            self.pass_unreplicated(packet)
        elif self.node.prld is not None and len(self.node.prld.rx) < self.world.rx_max:
            self.node.prld.rx.append(packet)
            self.node.wake()
        else:
            self.world.count("receive ring full")

    def _has_settled(self, now_ns: int) -> bool:
        """bpf/settle.h: what waited while the machine was paused has been read since."""
        if self.stale_since_ns < max(self.heartbeat_ns, self.node.woke_ns):
            self.stale_since_ns = now_ns
        return now_ns - self.stale_since_ns >= SETTLE_NS

    def pass_unreplicated(self, packet: Packet) -> None:
        """The kernel opened the flow (L9)."""
        self.world.checker.unreplicated(self.node, packet.session)
        self.receive(packet)

    def receive(self, packet: Packet) -> None:
        """Give a packet to the own L4, which answers."""
        sock = self.socks.get(packet.session.number)
        if sock is None:
            return
        sock.receive(packet)
        if packet.end > packet.seq or packet.fin or self.world.random.random() < 0.1:
            self.acknowledge(packet.session)

    # -- output

    def acknowledge(self, session: Session) -> None:
        """A pure ACK: not delayed (R19)."""
        sock = self.socks.get(session.number)
        if sock is not None:
            self.egress(Packet(self.world.name(), session, sock.snd_nxt, sock.snd_nxt))

    def egress(self, packet: Packet) -> None:
        """Tc: a segment of the own stack's."""
        session = packet.session
        flow = self.flow(session)
        if flow.flags == SHADOW or self.addresses[session.service] != OWNER:
            return
        is_data = packet.end > packet.seq or packet.fin or packet.rst
        if flow.flags == PASS:
            self.emit(packet)
        elif self.bypassed:
            if is_data:
                self.world.checker.unreplicated(self.node, session)
            self.emit(packet)
        elif not self._works():
            self.world.count("output dropped while stale")
        elif not is_data or (
            flow.flags == ACTIVE and packet.end <= flow.committed and not packet.rst
        ):
            self.emit(packet)
        elif self.node.prld is not None and len(self.node.prld.tap) < self.world.rx_max:
            self.node.prld.tap.append(packet)
            self.node.wake()
        else:
            self.world.count("hold device full")

    def hear_lan(self) -> None:
        """A frame of somebody else's on the LAN (L6)."""
        if self.watch:
            self.lan_seen_ns = self.node.clock_ns()
            self.lan_first_ns = self.lan_first_ns or self.lan_seen_ns

    def could_speak(self, service: int) -> bool:
        """Whether a segment would leave now, and reach the LAN."""
        first_by_ns = self.first_by_ns[service]
        in_time = self.node.clock_ns() <= first_by_ns or (
            self.spoken[service] and 0 < self.lan_first_ns <= first_by_ns
        )
        return (
            self.addresses[service] == OWNER
            and not self.node.asleep
            and (self._works() or self.bypassed)
            and not self.silent_mask >> service & 1
            and not self.node.lan_cut
            and (not first_by_ns or self.word_ns > first_by_ns or in_time)
        )

    def may_speak(self, service: int) -> bool:
        """The first word of a new owner comes within the lease (L2), and the LAN is heard (L6)."""
        if self.silent_mask >> service & 1:
            return False
        first_by_ns = self.first_by_ns[service]
        if not first_by_ns or self.word_ns > first_by_ns:
            return True
        if self.node.clock_ns() <= first_by_ns:
            self.spoken[service] = True
            return True
        if not self.spoken[service]:
            self.world.count("first emission came too late")
            self.addresses[service] = FENCED
            return False
        return 0 < self.lan_first_ns <= first_by_ns

    def emit(self, packet: Packet) -> None:
        """The wire, with the newest ack and window."""
        service, node = packet.session.service, self.node
        if self.addresses[service] != OWNER:
            return
        if not self.may_speak(service) or node.lan_cut:
            return
        sock = self.socks[packet.session.number]
        limit = self.flow(packet.session).limit
        edge = sock.edge if limit is None else min(sock.edge, limit)
        self.world.checker.emitted(node, packet, sock)
        self.world.peer_hears(node.index, packet, sock.rcv_nxt, edge)

    # -- the application

    def application(self, session: Session, sock: Sock) -> None:
        """Reads and, where the session is, writes and sends again."""
        if not sock.slow and sock.read != sock.rcv_nxt:
            sock.read = sock.rcv_nxt
        if self.flags(session) == SHADOW or self.addresses[session.service] != OWNER:
            return
        world = self.world
        if sock.edge - sock.edge_told > SEGMENT_MAX:  # a reader that has caught up says so
            sock.edge_told = sock.edge
            self.acknowledge(session)
        chance = world.random.random()
        unacked = sock.snd_nxt - sock.snd_una
        if unacked and world.now_ns - sock.progress_ns > world.rto_ns:
            sock.progress_ns = world.now_ns
            end = min(sock.snd_nxt, sock.snd_una + 3 * SEGMENT_MAX)
            self._segment(session, sock, sock.snd_una, end)
            world.count("output sent again")
        elif chance < 0.4 and sock.fin_at is None and unacked < world.burst_max:
            if not unacked:
                sock.progress_ns = world.now_ns
            start = sock.snd_nxt
            sock.snd_nxt += 1 + int(world.random.random() * SEGMENT_MAX)
            if world.may_fin and chance < 0.004:
                sock.snd_nxt += 1
                sock.fin_at = sock.snd_nxt
                world.count("fin")
            self._segment(session, sock, start, sock.snd_nxt)
        elif world.may_fin and chance > 0.999:
            world.count("rst")
            self._segment(session, sock, sock.snd_nxt, sock.snd_nxt, rst=True)

    def _segment(
        self, session: Session, sock: Sock, seq: int, end: int, *, rst: bool = False
    ) -> None:
        fin = end == sock.fin_at and end > seq
        self.egress(Packet(self.world.name(), session, seq, end, fin=fin, rst=rst))
