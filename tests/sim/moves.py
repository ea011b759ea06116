"""Services that move by word over the link, as in userspace/dp_switchover.c (SPEC R21)."""

from typing import TYPE_CHECKING, Any

from tests.sim.core import MS
from tests.sim.kernel import LEAVING, OWNER, PASS, RELAY, STANDBY
from tests.sim.link import Message
from tests.sim.tcp import Packet

if TYPE_CHECKING:
    from tests.sim.flows import PrimaryFlow, ShadowFlow
    from tests.sim.prld import Prld

PROBE_NS = 30 * MS
QUIET_NS = 20 * MS


class Moves:
    """All of one prld."""

    def __init__(self, prld: "Prld") -> None:
        self.prld, self.world = prld, prld.world
        self.lib, ffi = prld.lib, prld.ffi
        services = len(prld.world.first_owner)
        self.of = ffi.new("struct prl_move[]", services)
        self._pointers = [ffi.addressof(self.of, number) for number in range(services)]
        config = self.config = ffi.new("struct prl_move_config *")
        config.drain_ns, config.quiet_ns = 200 * MS, 5 * MS
        config.relay_ns, config.probe_ns = 100 * MS, 100 * MS

    @property
    def busy(self) -> bool:
        """Whether there is something to be looked at in every pass."""
        return any(move.state != self.lib.PRL_MOVE_IDLE for move in self._pointers)

    def is_given(self, service: int) -> bool:
        """Given away, and no word of the other node yet."""
        return bool(self.lib.prl_move_is_given(self._pointers[service]))

    # -- requests

    def _why_not(self, service: int, *, forced: bool) -> bool:
        """Why_not_moved(), as yes or no."""
        prld = self.prld
        if not prld.up or prld.owner.link != self.lib.PRL_LINK_UP:
            return True
        return bool(not forced and self._count(service)[1])

    def _count(self, service: int) -> tuple[int, int]:
        lib, active, others = self.lib, 0, 0
        kernel = self.prld.node.kernel
        for session in self.world.sessions:  # here, unlike in prld, every session is known
            if session.service != service or session.over:
                continue
            flow = self.prld.flows.get(session.number)
            if flow is None:
                others += session.number in kernel.socks
            elif flow.is_primary and flow.core.state == lib.PRL_PRIMARY_ACTIVE:
                active += 1
            else:
                others += not flow.is_primary or flow.core.state != lib.PRL_PRIMARY_GONE
        return active, others

    def request(self, service: int, *, forced: bool) -> bool:
        """prl_dp_switchover()."""
        lib, state = self.lib, self.prld.owner.state[service]
        if state not in (OWNER, STANDBY) or (
            state == OWNER and self._why_not(service, forced=forced)
        ):
            return False
        flags = lib.PRL_MOVE_FORCED if forced else 0
        todo = lib.prl_move_request(
            self._pointers[service], self.config, state == OWNER, flags, self.prld.now_ns,
            self.prld.reason,
        )  # fmt: skip
        self._do(service, todo)
        return bool(todo)

    def hand_over(self) -> None:
        """dp_switchover_hand_over()."""
        self.world.count("handed over for want of a LAN")
        for service in range(len(self._pointers)):
            if self.prld.owner.state[service] == OWNER:
                self.request(service, forced=False)

    def give(self, service: int) -> bool:
        """prl_dp_renounce()."""
        todo = self.lib.prl_move_give(self._pointers[service], self.prld.now_ns, self.prld.reason)
        self._do(service, todo)
        return bool(todo)

    def disturbed(self, service: int) -> None:
        """A session is set up that would not be moved."""
        self._do(
            service,
            self.lib.prl_move_fail(self._pointers[service], self.lib.PRL_REASON_UNPROTECTED),
        )

    def resolve(self, service: int, *, taken: bool) -> None:
        """Doubt is over."""
        move = self._pointers[service]
        if not taken and self.is_given(service):
            self.world.checker.resumes(self.prld, service)
        self._do(service, self.lib.prl_move_resolve(move, self.config, taken, self.prld.now_ns))

    # -- messages

    def message(self, message: Message) -> None:
        """SWITCHOVER."""
        lib, prld, service = self.lib, self.prld, message.service
        move, now_ns = self._pointers[service], prld.now_ns
        is_forced = bool(message.bits & lib.PRL_MOVE_FORCED)
        if message.phase == lib.PRL_PHASE_REQUEST:
            todo = 0
            if prld.owner.state[service] == OWNER and not self._why_not(service, forced=is_forced):
                todo = lib.prl_move_request(move, self.config, 1, message.bits, now_ns, prld.reason)
            if not todo:
                self._say(service, lib.PRL_PHASE_REFUSED, message.move)
            self._do(service, todo)
        elif message.phase == lib.PRL_PHASE_PREPARE:
            refused = not self._may_take(service)
            phase = lib.PRL_PHASE_REFUSED if refused else lib.PRL_PHASE_PREPARED
            self._say(service, phase, message.move, flows=self._usable(service))
        elif message.phase == lib.PRL_PHASE_PREPARED:
            active, others = self._count(service)
            if others and not move.flags & lib.PRL_MOVE_FORCED:
                self.disturbed(service)
            else:
                self._do(service, lib.prl_move_prepared(move, message.move, message.flows, active))
        elif message.phase == lib.PRL_PHASE_COMMIT:
            self._take(service, message, forced=is_forced)
        elif message.phase == lib.PRL_PHASE_TAKEN:
            self._do(service, lib.prl_move_taken(move, self.config, message.move, now_ns))
        elif message.phase == lib.PRL_PHASE_REFUSED:
            self._do(service, lib.prl_move_refused(move, message.move, message.reason))
        else:
            self._do(service, lib.prl_move_relay_end(move))

    def _say(self, service: int, phase: int, number: int, *, flows: int = 0, bits: int = 0) -> None:
        self.prld.send(
            self.lib.PRL_MSG_SWITCHOVER, service=service, phase=phase, move=number, flows=flows,
            bits=bits,
        )  # fmt: skip

    def link_down(self) -> None:
        """The connection is given up."""
        for flow in self.prld.flows.values():
            if flow.is_primary:
                flow.life.relay_cut = True  # type: ignore[union-attr]
        for service, move in enumerate(self._pointers):
            self._do(service, self.lib.prl_move_link_down(move, self.prld.now_ns))

    # -- the new owner

    def _shadows(self, service: int) -> "list[ShadowFlow]":
        return [
            flow  # type: ignore[misc]
            for flow in self.prld.flows.values()
            if not flow.is_primary and flow.session.service == service
        ]

    def _usable(self, service: int) -> int:
        active = self.lib.PRL_SECONDARY_ACTIVE
        return sum(
            flow.core.state == active and bool(flow.core.confirmed)
            for flow in self._shadows(service)
        )

    def _may_take(self, service: int) -> bool:
        prld, state = self.prld, self._pointers[service].state
        if state not in (self.lib.PRL_MOVE_IDLE, self.lib.PRL_MOVE_ASKED):
            return False
        if prld.owner.state[service] != STANDBY:
            return False
        if prld.now_ns >= prld.owner_until():
            self.world.count("word too late")
            return False
        return bool(self.lib.prl_owner_hears_lan(prld.owner, prld.now_ns))

    def _take(self, service: int, message: Message, *, forced: bool) -> None:
        prld, lib = self.prld, self.lib
        good = self._may_take(service) and (forced or self._usable(service) >= message.flows)
        if good:
            for flow in self._shadows(service):
                flow.relaying = bool(
                    flow.core.state == lib.PRL_SECONDARY_ACTIVE and flow.core.confirmed
                )
            prld.owner_do(lib.prl_owner_renounced(prld.owner, service, prld.now_ns))
            prld._notice_fencing()
            good = prld.owner.state[service] == OWNER
        if not good:
            for flow in self._shadows(service):
                flow.relaying = False
            self._say(service, lib.PRL_PHASE_REFUSED, message.move)
            return
        move = self._pointers[service]
        self._do(service, lib.prl_move_take(move, self.config, prld.now_ns))
        self._say(service, lib.PRL_PHASE_TAKEN, message.move)

    def relayed(self, message: Message) -> None:
        """RELAY."""
        flow = self.prld.by_handle.get(message.handle)
        if flow is None or flow.is_primary or flow.core.state != self.lib.PRL_SECONDARY_OWNER:
            return
        self.world.checker.relayed(flow, message.data)  # type: ignore[arg-type]
        self._feed(flow, message.data)  # type: ignore[arg-type]
        self._feed_waiting(flow)  # type: ignore[arg-type]

    def direct(self, flow: "ShadowFlow", packet: Packet) -> None:
        """Input that came here itself."""
        flow.waiting.append(packet)
        flow.last_direct_ns = self.prld.now_ns
        self._feed_waiting(flow)

    def _feed_waiting(self, flow: "ShadowFlow") -> None:
        over = self._pointers[flow.session.service].state != self.lib.PRL_MOVE_TAKING
        while flow.waiting and (over or flow.waiting[0].seq <= flow.relay_next):
            self._feed(flow, flow.waiting.pop(0))
        if flow.waiting:
            self.world.count("waits behind what is relayed")

    def _feed(self, flow: "ShadowFlow", packet: Packet) -> None:
        flow.relay_next = max(flow.relay_next, packet.end)
        self.prld.node.kernel.receive(packet)

    def settle(self, flow: "ShadowFlow") -> None:
        """The stack gets it, in a quiet moment."""
        state = self._pointers[flow.session.service].state
        if not flow.relaying or flow.waiting or state == self.lib.PRL_MOVE_TAKING:
            return
        if self.prld.now_ns < flow.last_direct_ns + QUIET_NS:
            return
        flow.relaying = False
        kernel = self.prld.node.kernel.flow(flow.session)
        if kernel.flags == RELAY:
            kernel.flags = PASS

    # -- the old owner

    def _primaries(self, service: int) -> "list[PrimaryFlow]":
        return [
            flow  # type: ignore[misc]
            for flow in list(self.prld.flows.values())
            if flow.is_primary and flow.session.service == service
        ]

    def still_comes(self, flow: "PrimaryFlow") -> None:
        """Input of a flow that has moved."""
        service = flow.session.service
        self._pointers[service].last_input_ns = self.prld.now_ns
        if self.prld.node.kernel.claimed[service]:
            self.world.count("relayed after the claim")
        self._drain(flow)

    def _drain(self, flow: "PrimaryFlow") -> None:
        if self.prld.up and self.lib.prl_primary_wants_drain(flow.core, self.prld.now_ns):
            flow.drain()

    def run_pass(self) -> None:
        """dp_switchover_pass()."""
        lib, prld, kernel = self.lib, self.prld, self.prld.node.kernel
        for service, move in enumerate(self._pointers):
            if move.state == lib.PRL_MOVE_IDLE:
                continue
            if move.state == lib.PRL_MOVE_DRAINING:
                flows = [
                    f for f in self._primaries(service) if f.core.state == lib.PRL_PRIMARY_ACTIVE
                ]
                if len(flows) < move.flows:
                    self.disturbed(service)
                elif all(lib.prl_primary_is_drained(flow.core) for flow in flows):
                    self.world.checker.moved(prld, service)
                    self._do(service, lib.prl_move_drained(move, prld.now_ns))
            after_commit = lib.prl_move_is_given(move) or move.state == lib.PRL_MOVE_RELAYING
            if after_commit and kernel.claimed[service]:
                self._do(service, lib.prl_move_claimed(move, self.config, prld.now_ns))
            open_at_ns = int(lib.prl_owner_open_at_ns(prld.owner))
            self._do(service, lib.prl_move_tick(move, self.config, open_at_ns, prld.now_ns))

    def _do(self, service: int, todo: int) -> None:  # noqa: C901, PLR0912 - a bit, a line
        lib, prld, move = self.lib, self.prld, self._pointers[service]
        if todo & lib.PRL_MOVE_DO_REQUEST:
            self._say(service, lib.PRL_PHASE_REQUEST, 0, bits=move.flags)
        if todo & lib.PRL_MOVE_DO_PREPARE:
            self._say(service, lib.PRL_PHASE_PREPARE, move.number, bits=move.flags)
        if todo & lib.PRL_MOVE_DO_HOLD:
            for flow in self._primaries(service):
                lib.prl_primary_hold_back(flow.core, 1)
        if todo & lib.PRL_MOVE_DO_COMMIT:
            self._commit(service, move)
        if todo & lib.PRL_MOVE_DO_RELEASE:
            for flow in self._primaries(service):
                lib.prl_primary_hold_back(flow.core, 0)
                self._drain(flow)
        if todo & lib.PRL_MOVE_DO_RESUME:
            self._resume(service, move)
        if todo & lib.PRL_MOVE_DO_TAKEN:
            prld.given.discard(service)
            lib.prl_owner_given_is_taken(prld.owner, service)
            for flow in self._primaries(service):
                flow.event(lib.prl_primary_taken)
        if todo & lib.PRL_MOVE_DO_END:
            prld.set_service(service, STANDBY)
            self._say(service, lib.PRL_PHASE_RELAY_END, move.number)
        if todo & lib.PRL_MOVE_DO_FEED:
            for shadow in self._shadows(service):
                self._feed_waiting(shadow)
        if todo & lib.PRL_MOVE_DO_PROBE:
            self.world.at(self.world.now_ns + PROBE_NS, self._probed, service)
        if todo & lib.PRL_MOVE_DO_TELL:
            if move.outcome == lib.PRL_MOVE_UNDONE and prld.owner.state[service] == OWNER:
                self._say(service, lib.PRL_PHASE_REFUSED, move.number)
            said = ("", "moved", "move undone", "move in doubt", "move resumed")
            self.world.count(said[move.outcome])
            self.world.note(f"node {prld.node.index}: service {service} {said[move.outcome]}")

    def _commit(self, service: int, move: Any) -> None:
        """Silent first, then the word."""
        lib, prld = self.lib, self.prld
        prld.node.kernel.claimed[service] = False
        prld.node.kernel.set_address(service, LEAVING)
        lib.prl_owner_give(prld.owner, service)
        prld.given.add(service)
        self._say(service, lib.PRL_PHASE_COMMIT, move.number, flows=move.flows, bits=move.flags)
        for flow in self._primaries(service):
            flow.event(lib.prl_primary_move)
            self._drain(flow)

    def _resume(self, service: int, move: Any) -> None:
        lib, prld = self.lib, self.prld
        self.world.checker.resumes(prld, service)
        is_void = move.outcome == lib.PRL_MOVE_RESUMED
        prld.given.discard(service)
        lib.prl_owner_given_is_taken(prld.owner, service)
        lib.prl_owner_set_state(prld.owner, service, OWNER)
        prld.node.kernel.set_address(service, OWNER)
        for flow in self._primaries(service):
            flow.life.relayed.clear()  # nobody took it there: it comes again
            flow.event(lib.prl_primary_unmove, is_void, prld.now_ns)
            self._drain(flow)

    def _probed(self, service: int) -> None:
        """Nobody but the new owner would answer."""
        prld, other = self.prld, self.prld.node.other
        if prld.node.prld is not prld or not prld.node.runs or prld.node.lan_cut:
            return
        prld.now_ns = prld.node.clock_ns()
        taken = other.powered and other.kernel.addresses[service] == OWNER
        lib, owner = self.lib, prld.owner
        if not taken and (
            prld.now_ns < int(lib.prl_owner_open_at_ns(owner))
            or not lib.prl_owner_hears_lan(owner, prld.now_ns)
        ):
            return
        if self._pointers[service].state == lib.PRL_MOVE_DOUBT:
            self.world.count("moved by a probe" if taken else "resumed after a probe")
        self.resolve(service, taken=taken)
        prld.node.wake()
