"""The invariants of SPEC section 2, checked at the moment at which they could break."""

from typing import TYPE_CHECKING

from tests.sim.kernel import OWNER, PASS, SHADOW, STANDBY
from tests.sim.tcp import Packet, Session, Sock, ViolationError

if TYPE_CHECKING:
    from tests.sim.flows import PrimaryFlow, ShadowFlow
    from tests.sim.prld import Prld
    from tests.sim.world import Node, World

VOIDING_MAX_NS = 450_000_000
"""The lease's end opens whatever VOID does not."""
SEEK_MAX_NS = 1300_000_000
"""An owner that was silent also probes first, perhaps twice."""


class Checker:
    """Sees both nodes and the peer at once, as nobody else does."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def _shadow(self, flow: "PrimaryFlow") -> "ShadowFlow | None":
        """The shadow of exactly this snapshot."""
        other = flow.node.other.prld
        shadow = other.by_handle.get(flow.handle) if other else None
        if shadow is None or shadow.is_primary or shadow.twin is not flow.life:
            return None
        return shadow  # type: ignore[return-value]

    def _usable(self, shadow: "ShadowFlow") -> bool:
        """Whether the shadow could still be taken over."""
        prld, lib = shadow.prld, self.world.core.lib
        if shadow.core.state != lib.PRL_SECONDARY_ACTIVE or prld.node.prld is not prld:
            return False
        if prld.owner.state[shadow.session.service] != STANDBY:
            return False
        if shadow.born_ns <= prld.node.stood_ns:
            return False  # whether it may be is seen when it is: taken_over()
        return int(prld.owner_until()) > prld.node.clock_ns()

    def released(self, flow: "PrimaryFlow", packet: Packet) -> None:
        """I1, I2: an acknowledged packet goes to the primary's L4."""
        life, number = flow.life, len(flow.life.released)
        life.released.append(packet.name)
        accepted = life.accepted
        if number >= len(accepted) or accepted[number] != packet.name:
            shadow = self._shadow(flow)
            if shadow is not None and self._usable(shadow):
                raise ViolationError(
                    f"I1/I2: {flow}: packet {packet.name} is number {number} of the primary's L4, "
                    f"but the shadow's L4 got {accepted[number : number + 1] or 'nothing'} there"
                )

    def flushed(self, flow: "PrimaryFlow") -> None:
        """L4: something passes that the shadow will never have."""
        shadow = self._shadow(flow)
        if shadow is not None and self._usable(shadow) and flow.life.confirmed:
            raise ViolationError(f"L4: {flow}: a packet passes while its shadow may be taken over")
        flow.life.flushed = True

    def unreplicated(self, node: "Node", session: Session) -> None:
        """The kernel lets something pass by itself (L9)."""
        flow = node.prld.flows.get(session.number) if node.prld else None
        flow = flow or node.last_flows.get(session.number)
        if flow is not None and flow.is_primary:
            self.flushed(flow)  # type: ignore[arg-type]

    def emitted(self, node: "Node", packet: Packet, sock: Sock) -> None:
        """I3, I7: a segment reaches the wire."""
        session, other = packet.session, node.other
        service = session.service
        if other.powered and other.kernel.could_speak(service):
            if node.waking and node.kernel.flags(session) == PASS:
                self.world.count("spoke while it woke")  # README.md: what is left out
                return
            raise ViolationError(f"I7: both nodes speak for service {service}")
        if node.kernel.flags(session) == SHADOW:
            raise ViolationError(f"I4: a shadow of session {session.number} speaks")
        flow = node.prld.flows.get(session.number) if node.prld else None
        if flow is None or not flow.is_primary or flow.life.flushed:
            return
        shadow = self._shadow(flow)  # type: ignore[arg-type]
        if shadow is None or not flow.life.confirmed or not self._usable(shadow):
            return
        if sock.rcv_nxt > shadow.sock.rcv_nxt:
            raise ViolationError(
                f"I3: {flow}: the peer is told {sock.rcv_nxt}, the shadow has {shadow.sock.rcv_nxt}"
            )
        if packet.end > packet.seq and packet.end > shadow.sock.snd_nxt:
            raise ViolationError(
                f"I3: {flow}: output up to {packet.end} leaves, the shadow has sent "
                f"{shadow.sock.snd_nxt}"
            )

    def takes(self, prld: "Prld", service: int) -> None:
        """I7: a service that was renounced over the link may be taken by the other at any time."""
        if service in prld.given:
            raise ViolationError(
                f"I7: node {prld.node.index} takes service {service} back that it has renounced"
            )

    def relayed(self, shadow: "ShadowFlow", packet: Packet) -> None:
        """I2, I6: what the old owner passes on comes in order; all of it while the link lasts."""
        life = shadow.twin
        at = life.relayed.index(packet.name)
        if at < life.relayed_here or (at > life.relayed_here and not life.relay_cut):
            raise ViolationError(f"I6: {shadow}: packet {packet.name} was relayed out of order")
        life.relayed_here = at + 1

    def moved(self, prld: "Prld", service: int) -> None:
        """I6: COMMIT of a planned move: nothing is on its way that could be lost."""
        for flow in prld.flows.values():
            active = flow.core.state == self.world.core.lib.PRL_PRIMARY_ACTIVE
            if not flow.is_primary or not active or flow.session.service != service:
                continue
            if flow.queues.in_held.count or flow.queues.out_held.count:
                raise ViolationError(f"I6: {flow}: moved before it was drained")

    def resumes(self, prld: "Prld", service: int) -> None:
        """I7: who takes a service back that it gave away must be the only one who has it."""
        other = prld.node.other
        if other.powered and other.kernel.addresses[service] == OWNER:
            raise ViolationError(f"I7: service {service} is taken back from its new owner")

    def taken_over(self, shadow: "ShadowFlow") -> None:
        """The shadow is the session from now on: nothing may be missing."""
        session, sock, life = shadow.session, shadow.sock, shadow.twin
        if self._could_not_know(shadow):
            self.world.count("stale take-over that nothing told of")
            session.over = "lost"  # docs/failover.md, "A machine that stands still", says so
            return
        if life.flushed:
            raise ViolationError(f"L4: {shadow}: a shadow that missed something speaks")
        if life.released != life.accepted[: len(life.released)]:
            raise ViolationError(f"I1/I2: {shadow}: the primary's L4 had what the shadow's did not")
        if session.snd_una > sock.rcv_nxt:
            raise ViolationError(
                f"I3: {shadow}: the peer was acknowledged {session.snd_una}, the shadow has "
                f"{sock.rcv_nxt}"
            )
        if session.rcv_nxt > sock.snd_nxt:
            raise ViolationError(
                f"I3: {shadow}: the peer has {session.rcv_nxt}, the shadow sent {sock.snd_nxt}"
            )

    def _could_not_know(self, shadow: "ShadowFlow") -> bool:
        """No word has reached a machine whose clock stood, so that its lease seems to last."""
        prld = shadow.prld
        stood = shadow.born_ns <= prld.node.stood_ns
        went_on_alone = shadow.twin.flushed or prld.node.other.started_ns > shadow.born_ns
        return stood and went_on_alone and not prld.was_told_of_time

    def abandoned(self, node: "Node", session: Session) -> None:
        """``node`` becomes the owner by agreement and has nothing of the session."""
        kernel = node.other.kernel
        if (
            node.other.powered
            and session.number in kernel.socks
            and kernel.flags(session) != SHADOW
            and kernel.could_speak(session.service)
        ):
            raise ViolationError(f"I5: session {session.number} lives on the node that loses it")

    def accounts(self, prld: "Prld") -> None:
        """Counters add up; no entry has leaked."""
        waiting = 0
        for flow in prld.flows.values():
            if flow.is_primary:
                waiting += flow.check_counters()  # type: ignore[union-attr]
        if prld.pool.used != waiting:
            raise ViolationError(
                f"node {prld.node.index}: {prld.pool.used} entries are in use, {waiting} wait"
            )

    def end(self) -> None:
        """I5: every session that should live goes on, on exactly one node."""
        world = self.world
        everybody = all(node.powered and node.prld for node in world.nodes)
        for service, first in enumerate(world.first_owner):
            owners = [n for n in world.nodes if n.powered and n.kernel.could_speak(service)]
            if everybody and len(owners) != 1:
                raise ViolationError(
                    f"I5: service {service} of node {first} has {len(owners)} owners in the end"
                )
        for node in world.nodes:
            if node.prld:
                self.accounts(node.prld)
                self._nothing_waits(node.prld, everybody=everybody)
        for session in world.sessions:
            if not session.over:
                self._goes_on(session, everybody=everybody)

    def _nothing_waits(self, prld: "Prld", *, everybody: bool) -> None:
        world = self.world
        if world.policy_stop and not everybody:
            return  # such a primary never opens by itself (L5)
        for flow in prld.flows.values():
            if flow.is_primary and flow.core.state == world.core.lib.PRL_PRIMARY_VOIDING:
                waited_ns = world.now_ns - flow.since_ns  # type: ignore[union-attr]
                allowed_ns = SEEK_MAX_NS if prld.owner.silences else VOIDING_MAX_NS
                if waited_ns > allowed_ns:
                    raise ViolationError(f"I5: {flow} still waits to open")

    def _goes_on(self, session: Session, *, everybody: bool) -> None:
        world = self.world
        node = world.nodes[world.route[session.service]]
        if not node.powered or node.kernel.addresses[session.service] != OWNER:
            if everybody:
                raise ViolationError(f"I5: session {session.number} has no owner")
            return  # nobody may take it without an operator's word (L5)
        if session.number not in node.kernel.socks:
            raise ViolationError(f"I5: session {session.number} has no socket on its owner")
        if session.heard - {node.index}:
            raise ViolationError(f"I5: session {session.number} goes on on both nodes")
        if world.policy_stop and not everybody:
            return  # it waits for the other node (L5)
        silent_ns = world.now_ns - max(session.progress_ns, node.thawed_ns)
        was_silent = node.prld is not None and node.prld.owner.silences
        allowed_ns = SEEK_MAX_NS if was_silent and not everybody else world.stall_max_ns
        if silent_ns > allowed_ns:
            raise ViolationError(
                f"I5: session {session.number} makes no progress since {silent_ns / 1e6:.0f} ms"
            )
