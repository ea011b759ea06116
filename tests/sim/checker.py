"""The invariants of the specification, checked at the moment at which they could break."""

from typing import TYPE_CHECKING, Any

from tests.sim.core import MS
from tests.sim.node import LEASE_NS, OWNER, STANDBY, SUSPECT_MS
from tests.sim.tcp import Life, Session, ViolationError

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.world import World

VOIDING_MAX_NS = 450_000_000
"""The lease's end opens whatever VOID does not."""
SEEK_MAX_NS = 1300_000_000
"""An owner that was silent also probes first, perhaps twice."""
PROTECTED_WITHIN_NS = 1000_000_000
"""After the last fault, and while nothing happens to its flow."""
AUDIT_EVERY = 8
"""Passes between two audits of a node's memory; one more comes at the end."""


class Checker:
    """Sees both nodes and the peer at once, as nobody else does."""

    def __init__(self, world: "World") -> None:
        self.world, self.lib, self.ffi = world, world.core.lib, world.core.ffi
        self._lives: dict[tuple[int, int], Life] = {}
        self._sessions: tuple[dict[int, Session], dict[int, Session]] = ({}, {})
        self._states: dict[tuple[int, int], tuple[bool, int]] = {}
        self._since: dict[tuple[int, int], int] = {}
        self._moves: dict[tuple[int, int], int] = {}
        self._flow = self.ffi.new("struct sim_flow *")

    # -- who is who

    def born(self, spec: Any, session: Session) -> Life:
        """A snapshot is taken."""
        handle, generation = int(spec.handle), int(spec.generation)
        life = Life(session, born_ns=self.world.now_ns)
        self._lives[handle, generation] = life
        for sessions in self._sessions:
            sessions[handle] = session
        self.world.used_handle(handle, generation)
        return life

    def copied(self, spec: Any) -> None:
        """The second step of a set-up: whatever has passed since the first one is in the copy."""
        self._lives[int(spec.handle), int(spec.generation)].flushed = False

    def adopted(self, node: "Node", handle: int, own: int) -> None:
        """A session that was taken over has a handle of this node's."""
        self._sessions[node.index][own] = self._sessions[node.index][handle]

    def life(self, handle: int, generation: int) -> Life | None:
        """What is known of a snapshot."""
        return self._lives.get((handle, generation))

    def session_of(self, node: "Node", handle: int) -> Session | None:
        """Whose handle it is."""
        return self._sessions[node.index].get(handle)

    def _life_here(self, node: "Node", session: Session) -> Life | None:
        """Of the flow that the kernel has, whether its prld lives or not."""
        slot = node.host.slot_of[session.number]
        if slot < 0:
            return None
        flow = node.host.flow[slot]
        return self._lives.get((int(flow.handle), int(flow.generation)))

    def _view(self, node: "Node", session: Session) -> Any:
        self.lib.sim_flow(node.host, session.number, self._flow)
        return self._flow

    def _usable(self, node: "Node", life: Life) -> Any:
        """The shadow's socket of exactly this snapshot on ``node``, if it could be taken over."""
        session = life.session
        if not node.powered or node.control is None or node.address(session.service) != STANDBY:
            return None
        if self._life_here(node, session) is not life:
            return None
        view = self._view(node, session)
        if not view.used or not view.secondary or view.state != self.lib.PRL_SECONDARY_ACTIVE:
            return None
        if life.born_ns <= node.stood_ns:
            return None  # whether it may be is seen when it is: taken_over()
        if self.world.is_alone(node.other):
            return None
        until_ns = self.lib.prl_owner_takeover_until_ns(self.lib.sim_owner(node.host))
        return node.sock(session) if until_ns > node.clock_ns() else None

    def _has(self, node: "Node", life: Life) -> int:
        """Up to where a shadow has input: what its kernel dropped is kept, and fed again (R8)."""
        session = life.session
        if life.untidy:
            return int(self.lib.sim_reach(node.host, session.number))
        return int(node.sock(session).rcv_nxt)

    # -- what a kernel sees

    def stack(
        self, node: "Node", session: Session, segment: tuple[int, int, int, int], way: int
    ) -> None:
        """A segment comes to a socket: I1, I2, L4."""
        lib = self.lib
        if way == lib.SIM_PASSED:
            self._passed(node, session, segment)
            return
        life = self._life_here(node, session)
        if life is None:
            return
        if way in {lib.SIM_LOST, lib.SIM_UNSEEN}:
            life.untidy |= way == lib.SIM_LOST
            life.disordered = True
            self.world.count("dropped by the kernel")
            return
        if way == lib.SIM_UNREPLICATED:
            if not node.is_shadow(session) and not self._view(node, session).secondary:
                self._flushed(node, life)  # else it is the new owner's, which needs no shadow
            return
        view = self._view(node, session)
        if not view.used:
            return
        if view.secondary:
            if view.state == lib.PRL_SECONDARY_ACTIVE:
                life.accepted.append(segment)
        elif view.state == lib.PRL_PRIMARY_OPEN:
            self._flushed(node, life)
        else:
            self._released(node, life, segment)

    def _passed(self, node: "Node", session: Session, segment: tuple[int, int, int, int]) -> None:
        """R31: what no standby has comes in only once it is known that none will."""
        _, count, flags, _ = segment
        if session.waits_on != node.index or not (count or flags & self.lib.SIM_FIN):
            return
        waits = node.host.clock_ns < session.waits_until_ns and not node.host.node.bypassed
        if waits and self.lib.sim_works(node.host):
            raise ViolationError(f"R31: session {session.number}: input before it is protected")
        session.waits_on = -1
        self.world.count("born unprotected")

    def _released(self, node: "Node", life: Life, segment: tuple[int, int, int, int]) -> None:
        number = len(life.released)
        life.released.append(segment)
        accepted = life.accepted
        if number < len(accepted) and accepted[number] == segment:
            return
        if life.disordered or node.other.stalled or self._usable(node.other, life) is None:
            return
        raise ViolationError(
            f"I1/I2: session {life.session.number}: {segment} is number {number} of the primary's "
            f"L4, the shadow's got {accepted[number : number + 1] or 'nothing'} there"
        )

    def _flushed(self, node: "Node", life: Life) -> None:
        """L4: something passes that the shadow will never have."""
        if life.confirmed and self._usable(node.other, life) is not None:
            raise ViolationError(
                f"L4: session {life.session.number}: a packet passes while its shadow may be taken "
                "over"
            )
        life.flushed = True

    def emitted(self, node: "Node", session: Session, end: int, has_data: bool, ack: int) -> None:
        """I3, I7: a segment reaches the wire."""
        other = node.other
        if other.could_speak(session.service):
            if node.waking and node.is_unheld(session):
                self.world.count("spoke while it woke")  # README.md: what is left out
                return
            if any(each.is_replaced_unheard(session.service) for each in (node, other)):
                self.world.count("spoke although it was replaced, and deaf")  # README.md as well
                return
            if what := self._excuse(node, session) or self._excuse(other, session):
                self.world.count(what)  # README.md as well
                return
            raise ViolationError(f"I7: both nodes speak for service {session.service}")
        if node.is_shadow(session):
            raise ViolationError(f"I4: a shadow of session {session.number} speaks")
        life = self._life_here(node, session)
        if life is None or life.flushed or not life.confirmed or other.stalled:
            return
        sock = self._usable(other, life)
        if sock is None:
            return
        has = self._has(other, life)
        if ack > has:
            raise ViolationError(
                f"I3: session {session.number}: the peer is told {ack}, the shadow has {has}"
            )
        if has_data and end > sock.snd_nxt:
            raise ViolationError(
                f"I3: session {session.number}: output up to {end} leaves, the shadow has sent "
                f"{sock.snd_nxt}"
            )

    # -- what a datapath has done

    def look(self, node: "Node") -> None:
        """After each pass, each call, and wherever a pass was stopped."""
        if not node.powered or node.control is None:
            return
        states = self.lib.sim_states(node.host)
        if states != node.control.states:
            node.control.states = states
            for session in self.world.sessions:
                self._look_at_flow(node, session)
            for service in range(len(self.world.first_owner)):
                self._look_at_move(node, service)
        if self.world.passes % AUDIT_EVERY == 0 and not node.stalled:
            self.audit(node)

    def _look_at_flow(self, node: "Node", session: Session) -> None:
        world, lib = self.world, self.lib
        view = self._view(node, session)
        state = (bool(view.secondary), int(view.state)) if view.used else (False, -1)
        place = (node.index, session.number)
        if self._states.get(place) == state:
            return
        self._states[place] = state
        self._since[place] = world.now_ns
        if world.trace is not None:
            world.note(f"node {node.index} session {session.number}: {state} {view.reason}")
        if state == (False, lib.PRL_PRIMARY_SETUP) and session.waits_on == node.index:
            session.waits_on = -1
            world.count("born into a set-up")
        if state == (False, lib.PRL_PRIMARY_ACTIVE):
            world.count("protected")
            life = self._life_here(node, session)
            if life is not None:
                self._protected(session, life)
        elif state == (False, lib.PRL_PRIMARY_VOIDING):
            world.count("void sent")
        elif state == (False, lib.PRL_PRIMARY_ALONE):
            world.count("alone")
        elif state == (True, lib.PRL_SECONDARY_SUSPENDED):
            world.count("shadows suspended")
        elif state == (True, lib.PRL_SECONDARY_VOID):
            world.count("shadows voided")

    def _protected(self, session: Session, life: Life) -> None:
        """For the first time, or again without a new snapshot (L10): then nothing is missing."""
        if life.confirmed:
            self.world.count("resumed")
            if life.flushed:
                raise ViolationError(
                    f"L10: session {session.number} goes on with a shadow that missed something"
                )
        life.confirmed = True

    def _look_at_move(self, node: "Node", service: int) -> None:
        """I6: COMMIT of a planned move: nothing is on its way that could be lost."""
        lib, place = self.lib, (node.index, service)
        state = int(lib.sim_move(node.host, service).state)
        before = self._moves.get(place, 0)
        self._moves[place] = state
        if state != lib.PRL_MOVE_SILENT or before == state:
            return
        assert node.control is not None
        node.control.given.add(service)
        if before not in (lib.PRL_MOVE_ASKING, lib.PRL_MOVE_DRAINING):
            return
        for session in self.world.sessions:
            view = self._view(node, session)
            moved = view.used and not view.secondary and view.state == lib.PRL_PRIMARY_MOVED
            if session.service == service and moved and (view.in_held or view.out_held):
                raise ViolationError(f"I6: session {session.number}: moved before it was drained")

    def takes(self, node: "Node", service: int) -> None:
        """I7: a service that was given over the link may be taken by the other at any time."""
        assert node.control is not None
        if service in node.control.given:
            raise ViolationError(
                f"I7: node {node.index} takes service {service} back that it has given away"
            )

    def obeyed_replay(self, node: "Node", service: int, owned: int) -> None:
        """A stranger said a claim (again); ``owned``: how often it was the node's by then (L7)."""
        if owned != node.owned(service):
            raise ViolationError(f"L7: node {node.index} obeys an old claim of service {service}")

    def resumes(self, node: "Node", service: int) -> None:
        """I7: who takes a service back that it gave away must be the only one who has it."""
        if node.other.address(service) == OWNER:
            raise ViolationError(f"I7: service {service} is taken back from its new owner")

    def decided(self, node: "Node", session: Session) -> None:
        """It is taken over by what its node knows now, not by what it learns until its turn."""
        life = self._life_here(node, session)
        if life is not None:
            life.is_stale = self._could_not_know(node, life)

    def taken_over(self, node: "Node", handle: int, generation: int) -> None:
        """The shadow is the session from now on: nothing may be missing."""
        life = self._lives[handle, generation]
        session, sock = life.session, node.sock(life.session)
        self.world.count("session taken over")
        if life.is_stale or self._could_not_know(node, life):
            self.world.count("stale take-over that nothing told of")
            session.over = "lost"  # docs/failover.md, "A machine that stands still", says so
            node.end_sock(session)
            return
        if node.is_too_late(session.service):
            self.world.count("taken over too late, and silent")
            return
        what = f"session {session.number} (node {node.index})"
        if life.flushed:
            raise ViolationError(f"L4: {what}: a shadow that missed something speaks")
        in_order = life.released == life.accepted[: len(life.released)]
        if not (in_order or life.disordered):
            raise ViolationError(f"I1/I2: {what}: the primary's L4 had what the shadow's did not")
        has = self._has(node, life)
        if session.snd_una > has:
            raise ViolationError(
                f"I3: {what}: the peer was acknowledged {session.snd_una}, the shadow has {has}"
            )
        if session.rcv_nxt > sock.snd_nxt:
            raise ViolationError(
                f"I3: {what}: the peer has {session.rcv_nxt}, the shadow sent {sock.snd_nxt}"
            )

    def _excuse(self, node: "Node", session: Session) -> str:
        """What a machine whose clock stood cannot know."""
        if self._has_old_word(node):
            return "spoke in the time that its clock had left"
        if self._is_stale(node, session):
            return "stale take-over that nothing told of"
        if self._parted_meanwhile(node, session):
            return "the LAN parted between a witness's answer and the claim"
        return ""

    def _parted_meanwhile(self, node: "Node", session: Session) -> bool:
        """Witnesses are asked once a lease interval; what is left is said in docs/failover.md."""
        owner = self.lib.sim_owner(node.host)
        if not (self.world.witnessed and self.world.parted and owner):
            return False
        took = bool(owner.taken_mask >> session.service & 1)
        heard_ns, taken_ns = int(owner.last_frame_ns), int(owner.taken_ns)
        is_between = heard_ns <= node.parted_at_ns <= taken_ns <= heard_ns + LEASE_NS
        is_answered = node.clock_ns() <= taken_ns + 2 * SUSPECT_MS * MS
        return took and is_between and is_answered

    def _has_old_word(self, node: "Node") -> bool:
        """By its own clock, which stood, the other node would not suspect it yet (L12).

        Its kernel ends that at the time that was set before the clock stood: suspect_ms at most.
        """
        by_ns = int(node.host.node.speak_by_ns)
        is_of_before = 0 < by_ns <= node.stood_at_ns + SUSPECT_MS * MS
        return node.stood_ns >= 0 and is_of_before and node.clock_ns() <= by_ns

    def _is_stale(self, node: "Node", session: Session) -> bool:
        """Its take-over may have got no farther than the claim, for it was stopped in that pass."""
        life = self._life_here(node, session)
        if life is None or node.control is None or not self._view(node, session).secondary:
            return False
        return life.is_stale or self._could_not_know(node, life)

    def _could_not_know(self, node: "Node", life: Life) -> bool:
        """No word has reached a machine whose clock stood, so that its lease seems to last."""
        stood = life.born_ns <= node.stood_ns
        went_on_alone = life.flushed or node.other.started_ns > life.born_ns
        return stood and went_on_alone and not node.was_told_of_time()

    def abandoned(self, node: "Node", session: Session) -> None:
        """``node`` becomes the owner by agreement and has nothing of the session."""
        other = node.other
        if (
            other.powered
            and other.sock(session) is not None
            and not other.is_shadow(session)
            and other.could_speak(session.service)
        ):
            raise ViolationError(f"I5: session {session.number} lives on the node that loses it")

    def audit(self, node: "Node") -> None:
        """No frame, entry or buffer has leaked."""
        words = self.ffi.string(self.lib.sim_audit(node.host)).decode()
        if words:
            raise ViolationError(f"node {node.index}: {words}")

    # -- the end

    def end(self) -> None:
        """I5: every session that should live goes on, on exactly one node."""
        world = self.world
        everybody = all(node.powered and node.control for node in world.nodes)
        for service, first in enumerate(world.first_owner):
            owners = [n for n in world.nodes if n.could_speak(service)]
            if everybody and len(owners) != 1:
                raise ViolationError(
                    f"I5: service {service} of node {first} has {len(owners)} owners in the end"
                )
        for node in world.nodes:
            if node.powered and node.control:
                self.audit(node)
                self._nothing_waits(node, everybody=everybody)
        for session in world.sessions:
            if not session.over:
                self._goes_on(session, everybody=everybody)
        if world.patient and everybody:
            self._is_protected()

    def _is_protected(self) -> None:
        """Long after the last fault: the link is up, and every session that can be is protected."""
        world, lib = self.world, self.lib
        if not all(node.control and node.control.is_up() for node in world.nodes):
            raise ViolationError("I5: the link does not come up")
        for session in world.sessions:
            node = world.nodes[world.route[session.service]]
            sock = node.sock(session)
            if session.over or session.fin_sent or sock.fin or sock.peer_fin:
                continue
            since_ns = self._since.get((node.index, session.number), 0)
            view = self._view(node, session)
            active = view.used and not view.secondary and view.state == lib.PRL_PRIMARY_ACTIVE
            if not active and world.now_ns - since_ns > PROTECTED_WITHIN_NS:
                raise ViolationError(
                    f"I5: session {session.number} is not protected since "
                    f"{(world.now_ns - since_ns) / 1e6:.0f} ms"
                )

    def _was_silent(self, node: "Node") -> bool:
        return node.control is not None and bool(self.lib.sim_owner(node.host).silences)

    def _nothing_waits(self, node: "Node", *, everybody: bool) -> None:
        world = self.world
        if world.waits_for_word(node) and not everybody:
            return  # such a primary never opens by itself (L5, L12)
        for session in world.sessions:
            view = self._view(node, session)
            if view.used and not view.secondary and view.state == self.lib.PRL_PRIMARY_VOIDING:
                waited_ns = world.now_ns - self._since[node.index, session.number]
                allowed_ns = SEEK_MAX_NS if self._was_silent(node) else VOIDING_MAX_NS
                if waited_ns > allowed_ns:
                    raise ViolationError(f"I5: session {session.number} still waits to open")

    def _goes_on(self, session: Session, *, everybody: bool) -> None:
        world = self.world
        node = world.nodes[world.route[session.service]]
        if not node.powered or node.address(session.service) != OWNER:
            if everybody:
                raise ViolationError(f"I5: session {session.number} has no owner")
            return  # nobody may take it without an operator's word (L5)
        if node.sock(session) is None:
            raise ViolationError(f"I5: session {session.number} has no socket on its owner")
        if session.heard - {node.index}:
            raise ViolationError(f"I5: session {session.number} goes on on both nodes")
        if world.waits_for_word(node) and not everybody:
            return  # it waits for the other node, or the operator (L5, L12)
        self._moves_on(node, session, everybody=everybody)

    def _moves_on(self, node: "Node", session: Session, *, everybody: bool) -> None:
        """Input, output and the window of a session."""
        world = self.world
        allowed_ns, runs_ns = world.stall_max_ns, node.thawed_ns
        if self._was_silent(node) and not everybody:
            allowed_ns, runs_ns = SEEK_MAX_NS, max(runs_ns, node.paused_until_ns)
        waits = {"no progress of input": session.progress_ns}
        if session.shut_ns >= 0:
            waits["a shut window"] = session.shut_ns
        if node.sock(session).snd_nxt > session.rcv_nxt:
            waits["no progress of output"] = session.out_ns
        for what, since_ns in waits.items():
            waited_ns = world.now_ns - max(since_ns, runs_ns)
            if waited_ns > allowed_ns:
                raise ViolationError(
                    f"I5: session {session.number}: {what} since {waited_ns / 1e6:.0f} ms"
                )
