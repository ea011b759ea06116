"""One prld: the datapath's loop around the cores, and what the control plane decides."""

from collections import deque
from typing import TYPE_CHECKING, Any

from prl.daemon.hello import ServiceState, settle
from tests.sim.core import MASK, MS
from tests.sim.flows import PrimaryFlow, ShadowFlow, ways_out
from tests.sim.kernel import FENCED, NONE, OWNER, PASS, RELAY, SHADOW, STANDBY
from tests.sim.link import EOF, Connection, Message
from tests.sim.moves import Moves
from tests.sim.tcp import Packet, Session

if TYPE_CHECKING:
    from tests.sim.world import Node

LEASE_MS, SUSPECT_MS, LATE_MS, TAKEOVER_MS, HOLD_MS = 20, 100, 60, 300, 400
FLOWS_TICK_NS = 5 * MS
NAMES = ("re0", "re1")
STAGES = 5
CLAIMS = 25
PROBES, PROBE_NS = 3, 100 * MS
ACCOUNTS_EVERY = 4
"""Passes between two audits of the counters; one more comes at the end."""


class Prld:
    """What dies with the process."""

    echoed_ns = echo_at_ns = heard_at_ns = 0
    """What the other node echoed last; when, and when it last spoke, by its clock."""

    def __init__(self, node: "Node") -> None:
        self.node, self.world = node, node.world
        core = node.world.core
        self.ffi, self.lib = core.ffi, core.lib
        self.now_ns = node.clock_ns()
        world, ffi = self.world, self.ffi
        self.pool = ffi.new("struct prl_pool *")
        assert self.lib.prl_pool_init(self.pool, world.pool_entries) == 0
        self._pool_end = ffi.gc(self.pool, self.lib.prl_pool_destroy)
        self.ways_out = ways_out(ffi)
        self.out = ffi.new("struct prl_actions *")
        self.reason = ffi.new("uint8_t *")
        self.word, self.other_word = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        self.lease = ffi.new("struct prl_lease_out *")
        self.limits = world.limits
        config = ffi.new("struct prl_owner_config *")
        config.lease_ns, config.suspect_ns, config.late_ns = (
            LEASE_MS * MS, SUSPECT_MS * MS, LATE_MS * MS,
        )  # fmt: skip
        config.takeover_ns, config.hold_ns = TAKEOVER_MS * MS, HOLD_MS * MS
        config.services = len(world.first_owner)
        config.policy_stop = world.policy_stop
        self.owner = ffi.new("struct prl_owner *")
        self.lib.prl_owner_init(self.owner, config, self.now_ns)
        self.lib.prl_owner_neighbours(self.owner, 1)
        self.terms = [0] * len(world.first_owner)
        self.settled = False
        self.born_ns = world.now_ns
        self.connection: Connection | None = None
        self.up = self.overrun = False
        self.epoch = 0
        self.given: set[int] = set()
        self.epochs_heard = -1
        self.next_handle = 1
        self.flows: dict[int, PrimaryFlow | ShadowFlow] = {}
        self.by_handle: dict[int, PrimaryFlow | ShadowFlow] = {}
        self.dirty: set[ShadowFlow] = set()
        self.rx: deque[Packet] = deque()
        self.tap: deque[Packet] = deque()
        self.link_rx: deque[Message | None] = deque()
        self.lan_rx: deque[tuple[str, int, int]] = deque()
        self.next_tick_ns = 0
        self.moves = Moves(self)
        self._on = {
            self.lib.PRL_MSG_HELLO: self._on_hello,
            self.lib.PRL_MSG_LEASE: self._on_lease,
            self.lib.PRL_MSG_REPLICATE: self._on_data,
            self.lib.PRL_MSG_OUTPUT: self._on_data,
            self.lib.PRL_MSG_ACK: self._on_ack,
            self.lib.PRL_MSG_OUTPUT_ACK: self._on_ack,
            self.lib.PRL_MSG_FLOWCTL: self._on_ack,
            self.lib.PRL_MSG_SETUP: self._on_setup,
            self.lib.PRL_MSG_SETUP_DONE: self._on_setup_done,
            self.lib.PRL_MSG_VOID: self._on_void,
            self.lib.PRL_MSG_VOID_ACK: self._on_void_ack,
            self.lib.PRL_MSG_SWITCHOVER: self.moves.message,
            self.lib.PRL_MSG_RELAY: self.moves.relayed,
        }
        self._owner_does = (
            (self.lib.PRL_OWNER_DO_SILENCE, self._fall_silent),
            (self.lib.PRL_OWNER_DO_SPEAK, self._set_silence),
            (self.lib.PRL_OWNER_DO_EXPIRE, lambda: self.world.count("shadows expired")),
            (self.lib.PRL_OWNER_DO_ASK, self._ask),
            (self.lib.PRL_OWNER_DO_HAND_OVER, self.moves.hand_over),
            (self.lib.PRL_OWNER_DO_LEASE, self._lease),
            (self.lib.PRL_OWNER_DO_FAIL_FLOWS, self._fail_flows),
            (self.lib.PRL_OWNER_DO_VOID_SHADOWS, self._void_shadows),
            (self.lib.PRL_OWNER_DO_RENOUNCE_LAN, self._renounce_over_lan),
            (self.lib.PRL_OWNER_DO_OPEN_FLOWS, self._open_flows),
            (self.lib.PRL_OWNER_DO_TAKEOVER, self._take_over),
            (self.lib.PRL_OWNER_DO_DROP_LINK, self.drop_link),
        )
        node.kernel.heartbeat_ns = self.now_ns
        node.kernel.bypassed = False
        node.kernel.silent_mask, node.kernel.watch = 0, False
        self.proof_awaited = False
        self.claims: dict[int, int] = {}
        """Services that were taken over since the link was last up; how often they were claimed."""
        node.kernel.policy_stop = bool(world.policy_stop)
        for service in range(len(world.first_owner)):
            node.kernel.set_address(service, NONE)  # silent from the first moment (L9)

    def reason_text(self, reason: int) -> str:
        """The reason in words."""
        return bytes(self.ffi.string(self.lib.prl_reason_text(reason))).decode()

    def owner_until(self) -> int:
        """Until when this node may take over."""
        return int(self.lib.prl_owner_takeover_until_ns(self.owner))

    def taken(self, chain: Any) -> list[Packet]:
        """The packets of a chain that the core handed over; its entries are free again."""
        lib, packets, found = self.lib, self.world.packets, []
        pointer = self.ffi.addressof(chain)
        while (hold := lib.prl_chain_pop(pointer)) != self.ffi.NULL:
            found.append(packets.pop(hold.frame))
            lib.prl_pool_put(self.pool, hold)
        return found

    # -- the loop, as pass() in userspace/datapath.c

    def run_pass(self, stage: int = 0) -> None:
        """From ``stage`` to the end; a process may be stopped between any two of them."""
        node = self.node
        if stage == 0:
            self.now_ns = node.clock_ns()
            self.own("woke")
            node.kernel.heartbeat_ns = self.now_ns
            self.world.passes += 1
        for number in range(stage, STAGES):
            if node.stall is not None and node.stalls_before(number):
                return
            if number != 0 or self.rx or self.tap:
                self._stage(number)
            if self.overrun:
                self.drop_link()
        if self.world.passes % ACCOUNTS_EVERY == 0:
            self.world.checker.accounts(self)
        node.set_timer(self.next_ns())

    def _stage(self, number: int) -> None:
        if number == 0:
            self._receive_packets()
        elif number == 1:
            while self.link_rx and self.connection is not None:
                self._message(self.link_rx.popleft())
            self.moves.run_pass()
            if self.dirty:
                self._flush_acks()
        elif number == 2:
            while self.lan_rx:
                self._lan(*self.lan_rx.popleft())
        elif number == 3:
            self._owner_tick()
        else:
            self._flows_tick()

    def _receive_packets(self) -> None:
        for queue, is_output in ((self.rx, False), (self.tap, True)):
            while queue:
                flow = self.flows.get(queue[0].session.number)
                if not isinstance(flow, PrimaryFlow):
                    packet = queue.popleft()
                    if isinstance(flow, ShadowFlow) and flow.relaying and not is_output:
                        self.moves.direct(flow, packet)
                    continue
                if not self._has_room():
                    self.world.count("no room in the link")
                    if is_output:
                        break  # left in the TAP's queue
                    if flow.core.state == self.lib.PRL_PRIMARY_ACTIVE:
                        queue.popleft()
                        continue
                flow.packet(queue.popleft(), output=is_output)
                if flow.core.state == self.lib.PRL_PRIMARY_MOVED:
                    self.moves.still_comes(flow)

    def next_ns(self) -> int:
        """When the loop has something to do by itself."""
        at = int(self.lib.prl_owner_next_ns(self.owner))
        for flow in self.flows.values():
            if flow.is_primary:
                at = min(at, self.lib.prl_primary_deadline(flow.core))
                if flow.queues.in_pending.count:
                    at = min(at, self.next_tick_ns)
            elif flow.sock.slow or flow.sock.edge > flow.sock.edge_told:
                at = min(at, self.next_tick_ns)
        if self.dirty or self.moves.busy:
            at = min(at, self.now_ns + MS)
        return max(at, self.now_ns + MS // 10)

    def _has_room(self) -> bool:
        connection = self.connection
        return connection is None or connection.has_room(self.node.index)

    def _flush_acks(self) -> None:
        active = self.lib.PRL_SECONDARY_ACTIVE
        for flow in sorted(self.dirty, key=lambda flow: flow.handle):
            if flow.core.state == active:
                flow.acknowledge()
            if flow.core.state != active or not flow.core.out_ack_due:
                self.dirty.discard(flow)

    def _flows_tick(self) -> None:
        lib = self.lib
        if self.now_ns < self.next_tick_ns:
            return
        self.next_tick_ns = self.now_ns + FLOWS_TICK_NS
        for flow in list(self.flows.values()):
            if not flow.is_primary:
                flow.tell_space()  # type: ignore[union-attr]
                self.moves.settle(flow)  # type: ignore[arg-type]
                flow.sock.edge_told = flow.sock.edge
                continue
            assert isinstance(flow, PrimaryFlow)
            if lib.prl_primary_deadline(flow.core) <= self.now_ns:
                flow.event(lib.prl_primary_tick, self.up, self.now_ns)
            if lib.prl_primary_wants_drain(flow.core, self.now_ns):
                flow.drain()
        if self.dirty:
            self._flush_acks()

    # -- ownership, as in userspace/dp_owner.c

    def own(self, event: str, *args: int) -> None:
        """Give ownership an event and do what it asks."""
        self.owner_do(getattr(self.lib, f"prl_owner_{event}")(self.owner, *args, self.now_ns))

    def owner_do(self, todo: int) -> None:
        """In the order of dp_owner_do()."""
        if not todo:
            return
        for bit, do in self._owner_does:
            if todo & bit:
                do()

    # -- evidence, L6

    def _watch_lan(self) -> None:
        kernel, lib = self.node.kernel, self.lib
        if self.proof_awaited and not self.owner.proof_by_ns and not self.owner.silence:
            self.proof_awaited = False
            kernel.word_ns = int(self.owner.first_by_ns) + 1
        watch = bool(lib.prl_owner_watches(self.owner))
        if watch and not kernel.watch:
            kernel.lan_first_ns = 0
        kernel.watch = watch
        if watch:
            lib.prl_owner_frame(self.owner, kernel.lan_first_ns)
            lib.prl_owner_frame(self.owner, kernel.lan_seen_ns)

    def _ask(self) -> None:
        """Somebody on the LAN answers, if it is there."""
        node = self.node

        def answered() -> None:
            if node.powered and not node.lan_cut:
                node.kernel.hear_lan()

        if not node.lan_cut:
            self.world.at(self.world.now_ns + MS // 2, node.receive, answered)

    def _fall_silent(self) -> None:
        self.world.count("silent")
        self._set_silence()
        if self.owner.silence != self.lib.PRL_SILENCE_STOP:
            self.world.at(self.world.now_ns + self.world.seek_ns(), self._seek)

    def _set_silence(self) -> None:
        kernel = self.node.kernel
        kernel.silent_mask = int(self.owner.silent_mask)
        if not kernel.silent_mask:
            kernel.word_ns = max(kernel.word_ns, self.node.clock_ns())
            self.world.count("speaks again")
            self.world.note(f"  (node {self.node.index})")
            for service, state in enumerate(kernel.addresses):
                if state == OWNER:
                    self.node.claim(service)
            self._notice_lost()

    def _seek(self) -> None:
        """Probes: sent now, judged when an answer would have come."""
        node, world = self.node, self.world
        if node.prld is not self or not self.owner.silence:
            return
        probed_ns = node.clock_ns()
        answered: list[int] = []
        mine = [s for s in range(len(world.first_owner)) if self.owner.state[s] == OWNER]

        def probe() -> None:
            answered.extend(s for s in mine if self._is_answered(s))

        def judge() -> None:
            if node.prld is not self or not self.owner.silence:
                return
            if node.runs and not node.asleep and not answered:
                self.now_ns = node.clock_ns()
                self._watch_lan()
                self._notice_fencing()
                self.own_unanswered(probed_ns)
                node.wake()
            world.at(world.now_ns + world.seek_ns(), self._seek)

        for number in range(PROBES):
            world.at(world.now_ns + number * PROBE_NS, probe)
        world.at(world.now_ns + PROBES * PROBE_NS, judge)

    def _is_answered(self, service: int) -> bool:
        other = self.node.other
        reachable = not self.node.lan_cut and not other.lan_cut and other.powered
        return reachable and other.kernel.could_speak(service)

    def own_unanswered(self, probed_ns: int) -> None:
        """prl_dp_unanswered()."""
        self.owner_do(self.lib.prl_owner_unanswered(self.owner, probed_ns, self.now_ns))

    def _notice_lost(self) -> None:
        """Sessions that the other node took over and served, and that are gone with it."""
        for session in self.world.sessions:
            sock = self.node.kernel.socks.get(session.number)
            if sock is None or session.over or self.owner.state[session.service] != OWNER:
                continue
            if session.rcv_nxt > sock.snd_nxt or session.snd_una > sock.rcv_nxt:
                session.over = "lost"
                self.world.count("session lost with the node that had taken it over")

    # -- claims, L7

    def _claim(self, service: int) -> None:
        """Every tick for half a second, then every tenth."""
        if self.owner.state[service] == OWNER:
            if self.claims[service] < CLAIMS or self.claims[service] % 10 == 0:
                self.node.claim(service)
            self.claims[service] += 1

    def claim_again(self) -> None:
        """A LAN has come back while claims are fast."""
        for service, claims in self.claims.items():
            if claims < CLAIMS and self.owner.state[service] == OWNER:
                self.node.claim(service)

    def _lease(self) -> None:
        lib, lease = self.lib, self.lease
        if self.up:
            lib.prl_owner_take_lease(self.owner, self.node.clock_ns(), lease)
            self.send(
                lib.PRL_MSG_LEASE,
                sent_ns=lease.sent_ns,
                echo_ns=lease.echo_ns,
                flags=lease.flags,
            )
        self._lan_send("heartbeat")

    def _fail_flows(self) -> None:
        self._every_primary(self.lib.prl_primary_fail, self.lib.PRL_REASON_LINK_LOST, self.up)

    def _void_shadows(self) -> None:
        for flow in self.flows.values():
            if not flow.is_primary:
                self.lib.prl_secondary_void(flow.core, self.lib.PRL_REASON_LINK_LOST)
        self.world.count("shadows voided")

    def _renounce_over_lan(self) -> None:
        self._lan_send("renounced")
        self.world.count("renounced over the LAN")

    def _open_flows(self) -> None:
        self._every_primary(self.lib.prl_primary_void_done)

    def _every_primary(self, function: Any, *args: int) -> None:
        for flow in list(self.flows.values()):
            if flow.is_primary:
                flow.event(function, *args, self.now_ns)  # type: ignore[union-attr]

    def _owner_tick(self) -> None:
        kernel = self.node.kernel
        if self.now_ns < int(self.lib.prl_owner_next_ns(self.owner)):
            return
        self._watch_lan()
        self.lib.prl_owner_good(self.owner, self._good_services())
        todo = self.lib.prl_owner_tick(self.owner, self.now_ns)
        if kernel.bypassed:
            self._every_primary(self.lib.prl_primary_fail, self.lib.PRL_REASON_TIMEOUT, self.up)
            self._every_primary(self.lib.prl_primary_void_done)
            kernel.bypassed = False
        self.owner_do(todo)
        self._watch_lan()
        for service in self.claims:
            self._claim(service)
        kernel.open_at_ns = int(self.lib.prl_owner_open_at_ns(self.owner))
        if todo & self.lib.PRL_OWNER_DO_LEASE:
            self._notice_fencing()

    def _good_services(self) -> int:
        active, mask = self.lib.PRL_SECONDARY_ACTIVE, 0
        if not self.lib.prl_owner_may_take(self.owner, self.now_ns):
            return 0
        for flow in self.flows.values():
            if not flow.is_primary and flow.core.state == active and flow.core.confirmed:
                mask |= 1 << flow.session.service
        return mask

    def _notice_fencing(self) -> None:
        for service, state in enumerate(self.node.kernel.addresses):
            if state == FENCED and self.owner.state[service] == OWNER:
                self.set_service(service, FENCED)
                self.world.count("fenced")

    def set_service(self, service: int, state: int) -> None:
        """prl_dp_service_set()."""
        self.lib.prl_owner_set_state(self.owner, service, state)
        if state == OWNER:
            self.lib.prl_owner_frame(self.owner, self.now_ns)
        self.node.kernel.set_address(service, state)
        if state != OWNER:
            self._fence(service)
            self._end_ghosts(service, all_of_it=state == STANDBY)
            return
        for session in self.world.sessions:
            if session.service == service and not session.over:
                self._own_without_shadow(session)

    def _fence(self, service: int) -> None:
        for flow in list(self.flows.values()):
            if flow.is_primary and flow.session.service == service:
                flow.event(self.lib.prl_primary_fence)  # type: ignore[union-attr]
                self._forget(flow)
                self.node.kernel.socks.pop(flow.session.number, None)  # L8, silently

    def _end_ghosts(self, service: int, *, all_of_it: bool) -> None:
        """It goes on elsewhere: what was taken over here, or all that is left of it (L8)."""
        for session in self.world.sessions:
            if session.service != service or self.node.kernel.flags(session) == SHADOW:
                continue
            flow = self.flows.get(session.number)
            if flow is not None and flow.core.state == self.lib.PRL_SECONDARY_OWNER:
                self._forget(flow)
            elif not all_of_it:
                continue
            self.node.kernel.socks.pop(session.number, None)

    def _forget(self, flow: PrimaryFlow | ShadowFlow) -> None:
        del self.flows[flow.session.number]
        del self.by_handle[flow.handle]
        self.dirty.discard(flow)  # type: ignore[arg-type]

    def _take_over(self) -> None:
        kernel, world = self.node.kernel, self.world
        mask = int(self.owner.take_mask)
        first_by_ns = int(self.owner.first_by_ns)
        if first_by_ns and self.node.clock_ns() >= first_by_ns:
            world.count("too late to take over")
            self.owner_do(self.lib.prl_owner_too_late(self.owner))
            return
        for service in range(len(world.first_owner)):
            if not mask >> service & 1:
                continue
            self.moves.resolve(service, taken=False)  # the operator's word, while it was in doubt
            world.checker.takes(self, service)
            world.count("takeover")
            world.note(f"node {self.node.index} takes service {service}")
            self.terms[service] += 1
            kernel.lan_first_ns, kernel.watch = 0, True
            self.proof_awaited = first_by_ns != 0
            kernel.set_address(service, OWNER, first_by_ns)
            self.node.claim(service)
            self.claims[service] = 1
            for session in world.sessions:
                if session.service != service or session.over:
                    continue
                flow = self.flows.get(session.number)
                self._take_session(session, None if flow is None or flow.is_primary else flow)

    def _take_session(self, session: Session, shadow: Any) -> None:
        kernel, lib, world = self.node.kernel, self.lib, self.world
        if shadow is None or not lib.prl_secondary_takeover(shadow.core):
            if shadow is not None:
                self._forget(shadow)
            kernel.socks.pop(session.number, None)
            session.over = "lost"  # was not protected when its host was taken for dead (L1)
            world.count("session lost unprotected")
            return
        world.checker.taken_over(shadow)
        world.count("session taken over")
        kernel.flow(session).flags = RELAY if shadow.relaying else PASS
        shadow.relay_next = max(shadow.sock.rcv_nxt, shadow.in_end)
        kernel.flow(session).limit = None
        shadow.sock.progress_ns = 0
        session.heard.clear()

    # -- link and LAN

    def send(self, kind: int, handle: int = 0, **fields: Any) -> bool:
        """A message, if the link is up; False when it could not be queued."""
        if self.connection is None or not (self.up or kind == self.lib.PRL_MSG_HELLO):
            return False
        self.world.messages += 1
        if self.overrun or not self.connection.send(
            self.node.index, Message(kind, handle, **fields)
        ):
            # A link that has lost a message is none: nothing may follow. SETUP alone is said again.
            self.overrun |= kind != self.lib.PRL_MSG_SETUP
            return False
        return True

    def _lan_send(self, what: str) -> None:
        if self.epoch:
            self.world.lan(self.node, what, self.epoch, self.node.clock_ns())

    def _lan(self, what: str, epoch: int, sent_ns: int) -> None:
        if epoch != self.epoch:
            return
        if what == "renounced":
            self.own("lan_renounced")
        else:
            self.heard_at_ns = max(self.heard_at_ns, sent_ns)
            self.own("lan_heard", sent_ns)

    @property
    def was_told_of_time(self) -> bool:
        """Whether something came that the other node sent after our lease, by its own clock."""
        return self.heard_at_ns >= self.echo_at_ns + TAKEOVER_MS * MS

    def attach(self, connection: Connection) -> None:
        """A new connection. Node 0 speaks first."""
        self.connection, self.up = connection, False
        self.link_rx.clear()
        if self.node.index == 0:
            self._greet()

    def _greet(self) -> None:
        assert self.connection is not None
        self.owner_do(self.lib.prl_owner_hello(self.owner))
        services = self.describe()
        self.connection.hello[self.node.index] = services
        self.send(self.lib.PRL_MSG_HELLO, data=services)

    def drop_link(self) -> None:
        """dp_link_lost()."""
        connection, was_up = self.connection, self.up
        if connection is None:
            return
        self.connection, self.up, self.overrun = None, False, False
        self.link_rx.clear()
        connection.close(self.node.index)
        self.world.count("link lost")
        if was_up:
            self.moves.link_down()
            self.own("link_down")

    def describe(self) -> tuple[ServiceState, ...]:
        """All services, for HELLO: what a claim fenced in the kernel is owned no more."""
        self._notice_fencing()
        return tuple(
            ServiceState(
                name=str(number), addresses=[], owner=NAMES[first],
                state=int(self.owner.state[number]), term=self.terms[number],
                sessions=self._sessions(number),
                silent=(1 + int(self.owner.unheard)) * (int(self.owner.silent_mask) >> number & 1),
                given=self.moves.is_given(number),
            )
            for number, first in enumerate(self.world.first_owner)
        )  # fmt: skip

    def _sessions(self, service: int) -> int:
        if self.owner.state[service] == STANDBY:
            active = self.lib.PRL_SECONDARY_ACTIVE
            return sum(
                not flow.is_primary
                and flow.session.service == service
                and flow.core.state == active
                for flow in self.flows.values()
            )
        return sum(
            session.service == service
            and session.number in self.node.kernel.socks
            and self.node.kernel.flags(session) != SHADOW
            for session in self.world.sessions
        )

    def _on_hello(self, message: Message) -> None:
        connection = self.connection
        assert connection is not None
        if self.node.index == 1:
            self._greet()
        said, now = connection.hello[self.node.index], self.describe()
        if [(s.state, s.term) for s in said] != [(s.state, s.term) for s in now]:
            self.drop_link()  # a service changed hands during HELLO
            return
        for service, (own, other) in enumerate(zip(said, message.data, strict=True)):
            state, term = settle(own, other, NAMES[self.node.index])
            self.terms[service] = term
            if own.given:
                self.moves.resolve(service, taken=state != OWNER)
            if own.given or state == own.state:
                continue
            if state == OWNER and own.state == STANDBY and self._request(service):
                continue
            self.set_service(service, int(state))
        self.settled = self.up = True
        self.echoed_ns = self.echo_at_ns = self.heard_at_ns = 0
        self.given.clear()
        self.epoch = connection.epoch
        self.own("link_up")

    def _request(self, service: int) -> bool:
        """The user's or HELLO's word: take over, if the lease lasts."""
        self.owner_do(self.lib.prl_owner_request(self.owner, service, 0, self.now_ns, self.reason))
        return bool(self.reason[0] == self.lib.PRL_REFUSED_NOT)

    def request_takeover(self, service: int) -> None:
        """`prlctl takeover`."""
        self.now_ns = self.node.clock_ns()
        if self._request(service):
            self.world.count("takeover on request")

    def start_alone(self) -> None:
        """Nobody was heard: the configured owner takes what nobody answers for."""
        for service, first in enumerate(self.world.first_owner):
            free = self.owner.state[service] == NONE and not self._is_answered(service)
            free = free and not self.node.lan_cut
            if first == self.node.index and not self.settled and free:
                self.terms[service] += 1
                self.set_service(service, OWNER)
                self.world.count("started alone")

    def _own_without_shadow(self, session: Session) -> None:
        kernel = self.node.kernel
        flow = self.flows.get(session.number)
        if session.number in kernel.socks and kernel.flags(session) != SHADOW:
            return  # its own, from before
        self.world.checker.abandoned(self.node, session)
        if isinstance(flow, ShadowFlow):
            self._forget(flow)
        kernel.flow(session).flags = PASS
        kernel.socks.pop(session.number, None)
        session.over = "lost"
        self.world.count("session lost with its host")

    # -- messages, as in dp_primary.c and dp_secondary.c

    def _message(self, message: Message | None) -> None:
        if message is EOF:
            self.drop_link()
            return
        if message.type == self.lib.PRL_MSG_HELLO:
            self._on_hello(message)
            return
        if not self.up:
            return
        if message.type != self.lib.PRL_MSG_LEASE:
            self.own("heard")
        self._on[message.type](message)

    def _on_lease(self, message: Message) -> None:
        self.claims.clear()  # it has read our HELLO
        if message.echo_ns > self.echoed_ns:
            self.echoed_ns, self.echo_at_ns = message.echo_ns, message.sent_ns
        self.heard_at_ns = max(self.heard_at_ns, message.sent_ns)
        self.own("lease", message.sent_ns, message.echo_ns, message.flags)

    def _primary(self, handle: int) -> PrimaryFlow | None:
        flow = self.by_handle.get(handle)
        return flow if isinstance(flow, PrimaryFlow) else None

    def _on_data(self, message: Message) -> None:
        flow = self.by_handle.get(message.handle)
        if isinstance(flow, ShadowFlow):
            flow.receive(message)
            return
        is_output = message.type == self.lib.PRL_MSG_OUTPUT
        self.send(
            self.lib.PRL_MSG_OUTPUT_ACK if is_output else self.lib.PRL_MSG_ACK, message.handle,
            seq=message.seq, reason=self.lib.PRL_REASON_INVALID_HANDLE,
        )  # fmt: skip

    def _on_ack(self, message: Message) -> None:
        flow, lib = self._primary(message.handle), self.lib
        if flow is None:
            return
        if message.type == lib.PRL_MSG_FLOWCTL:
            lib.prl_primary_flowctl(flow.core, message.space)
            flow.note_space()
            return
        if message.reason:
            self.world.count("nack")
        if message.type == lib.PRL_MSG_OUTPUT_ACK:
            flow.event(
                lib.prl_primary_output_ack, message.seq, message.reason, message.tcp_seq,
                self.now_ns, self.limits,
            )  # fmt: skip
            return
        flow.event(
            lib.prl_primary_ack, message.seq, message.reason, message.space, self.now_ns,
            self.limits,
        )  # fmt: skip
        if self.by_handle.get(message.handle) is flow:
            flow.note_space()
            if lib.prl_primary_wants_drain(flow.core, self.now_ns):
                flow.drain()

    def _on_setup(self, message: Message) -> None:
        session, sock, life = message.data
        lib, world = self.lib, self.world
        reason, space = lib.PRL_REASON_OK, 0
        if self.owner.state[session.service] != STANDBY:
            reason = lib.PRL_REASON_NOT_ACTIVE
        elif world.random.random() < world.setup_fails:
            reason = lib.PRL_REASON_RESTORE_FAILED
            world.count("setup refused")
        else:
            for old in (self.by_handle.get(message.handle), self.flows.get(session.number)):
                if old is not None and old.handle in self.by_handle:
                    self._forget(old)
            lib.prl_owner_given_is_taken(self.owner, session.service)
            self.given.discard(session.service)
            flow = ShadowFlow(self, message, session, sock, life)
            self.flows[session.number] = self.by_handle[message.handle] = flow
            self.node.kernel.socks[session.number] = sock
            self.node.kernel.flow(session).flags = SHADOW
            space = sock.edge & MASK
        if world.random.random() < world.setup_fails:
            world.count("setup answer lost")  # the control plane hangs, or dies
            return
        self.send(
            lib.PRL_MSG_SETUP_DONE, message.handle, generation=message.generation, space=space,
            reason=reason,
        )  # fmt: skip

    def _on_setup_done(self, message: Message) -> None:
        flow, lib = self.by_handle.get(message.handle), self.lib
        if isinstance(flow, ShadowFlow):
            lib.prl_secondary_confirm(flow.core, message.generation, message.space)
        elif flow is not None and message.generation == flow.generation:
            if message.reason:
                flow.event(lib.prl_primary_fail, message.reason, self.up, self.now_ns)
            elif flow.core.state == lib.PRL_PRIMARY_SETUP and not self.node.kernel.bypassed:
                self.world.count("protected")
                flow.activate(message.space)

    def _on_void(self, message: Message) -> None:
        flow, lib = self.by_handle.get(message.handle), self.lib
        if isinstance(flow, ShadowFlow):
            if flow.core.state == lib.PRL_SECONDARY_OWNER:
                return  # no word of ours may let the old primary open (I7)
            if flow.core.generation == message.generation:
                lib.prl_secondary_void(flow.core, message.reason)
        self.send(lib.PRL_MSG_VOID_ACK, message.handle, generation=message.generation)

    def _on_void_ack(self, message: Message) -> None:
        flow = self._primary(message.handle)
        if flow is not None and flow.generation == message.generation:
            flow.event(self.lib.prl_primary_void_done, self.now_ns)

    # -- requests

    def protect(self, session: Session) -> None:
        """Take a snapshot and send it, if there is a session, a link and nothing under way."""
        kernel, lib = self.node.kernel, self.lib
        if not self.up or session.number not in kernel.socks:
            return
        sock = kernel.socks[session.number]
        if sock.peer_fin or sock.fin_at is not None:
            return  # only an established connection is cloned
        if self.owner.state[session.service] != OWNER or kernel.addresses[session.service] != OWNER:
            return
        self.moves.disturbed(session.service)
        flow = self.flows.get(session.number)
        if isinstance(flow, PrimaryFlow):
            if flow.core.state != lib.PRL_PRIMARY_OPEN or flow.retry_at_ns > self.world.now_ns:
                return
        else:
            if flow is not None:
                if flow.core.state != lib.PRL_SECONDARY_OWNER or flow.relaying:
                    return
                self._forget(flow)
            handle = self.node.index << 31 | self.next_handle
            self.next_handle += 1
            self.world.used_handle(handle)
            flow = PrimaryFlow(self, session, handle)
            self.flows[session.number] = self.by_handle[handle] = flow
        self.now_ns = self.node.clock_ns()
        flow.open()

    def renounce(self, service: int) -> bool:
        """prl_dp_renounce(), as for an application that died."""
        lib = self.lib
        flows = [f for f in self.flows.values() if f.session.service == service]
        if not (self.up and flows and self.owner.state[service] == OWNER) or not all(
            f.is_primary and f.core.state == lib.PRL_PRIMARY_ACTIVE for f in flows
        ):
            return False
        self.now_ns = self.node.clock_ns()
        return self.moves.give(service)

    def switchover(self, service: int, *, forced: bool) -> bool:
        """prl_dp_switchover()."""
        self.now_ns = self.node.clock_ns()
        return self.moves.request(service, forced=forced)

    def request_fail(self, session: Session) -> None:
        """`prlctl flow del`, or the control plane gives up."""
        flow = self.flows.get(session.number)
        if isinstance(flow, PrimaryFlow):
            self.now_ns = self.node.clock_ns()
            reason = self.lib.PRL_REASON_REQUESTED
            flow.event(self.lib.prl_primary_fail, reason, self.up, self.now_ns)
