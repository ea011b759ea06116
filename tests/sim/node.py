"""A machine: its kernel in C, and a prld that may be stopped or dead; its clock goes on."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.sim.control import Control
from tests.sim.core import MS, NEVER
from tests.sim.tcp import BUFFER_BYTES, SEGMENT_MAX, Session, ViolationError

if TYPE_CHECKING:
    from tests.sim.link import Connection
    from tests.sim.world import World

CARD_MAX = 500
"""Frames that wait for a machine that is paused."""
SUSPECT_MS, DEAD_MS, HOLD_MS = 100, 30, 400
LEASE_NS = 20 * MS
NOTICES_NS = 3 * LEASE_NS
"""An owner that may be replaced knows by then that it hears nothing."""
LATE_NS = 2 * LEASE_NS
"""A datapath without a pass for so long may begin to listen anew: its timer counts from the last
time that it rang (late_ns of the product, 60 ms), not from its last pass."""
FAST_CLAIM_NS = 30 * MS
NONE, STANDBY, OWNER, FENCED, LEAVING = range(5)
"""enum prl_addr_state"""
LINK_FD = 1


class Node:
    """One of the pair."""

    def __init__(self, world: "World", index: int) -> None:
        self.world, self.index = world, index
        self.ffi, self.lib = world.core.ffi, world.core.lib
        self.rate = 1.0
        self.offset_ns = 0
        self.powered = False
        self.host: Any = None
        self.control: Control | None = None
        self.connection: Connection | None = None
        self.paused_until_ns = 0
        self.busy_until_ns = 0
        """So long was its last pass at work (F22)."""
        self.stall: tuple[int, int] | None = None
        """A planned stop in a pass: behind so many calls of the datapath's, for so long."""
        self.stall_silent = False
        """The stop waits until the other node has become silent."""
        self.stalled = self.waking = False
        self.link_stuck = False
        """Its socket of the link takes nothing more."""
        self.deaf = False
        """Wake-ups are lost: only the timer brings the loop to run."""
        self.deaf_ns = 0
        """Since when it hears nothing of the LAN, where it does not."""
        self.went_on_ns = 0
        """When its datapath went on last after it had stood: true time."""
        self.unheard: dict[tuple[int, int], int] = {}
        """When the other node first claimed what this one did not hear: of each service, and of
        how often this node had owned it."""
        self.started_ns = 0
        """When its prld was started last: true time."""
        self.stood_ns = -1
        """When its clock last stood still: true time; -1 = never."""
        self.stood_at_ns = 0
        self.parted_at_ns = 0
        """By its own clock: when the LAN last parted."""
        """What it showed then."""
        self.thawed_ns = 0
        self._echoed_ns = self._echo_at_ns = 0
        self._sleeps_at_ns: int | None = None
        self._waiting: list[Callable[[], object]] = []
        self.pass_at_ns = NEVER
        self.requested_ns = -NEVER
        """When it took over last because it was told to."""
        self.slow_ns = 0
        """How much later than usual each pass comes."""
        self.claims: dict[int, tuple[int, bytes]] = {}
        """When each service was claimed last, and with which trailer."""
        self._flow = self.ffi.new("struct sim_flow *")
        self._error = self.ffi.new("char[]", 256)

    @property
    def other(self) -> "Node":
        return self.world.nodes[1 - self.index]

    @property
    def dp(self) -> Any:
        """The datapath, or NULL."""
        return self.host.dp

    @property
    def asleep(self) -> bool:
        """The whole machine is paused; what waits in its network card is read at its end."""
        return bool(self.host is not None and self.host.asleep)

    @property
    def is_on_wire(self) -> bool:
        """Whether what it sends reaches others."""
        return self.powered and not self.host.lan_cut and not self.host.lan_mute

    @property
    def hears_lan(self) -> bool:
        """Whether what others send reaches it."""
        return self.powered and not self.host.lan_cut and not self.host.lan_deaf

    @property
    def has_lan(self) -> bool:
        """Whether both directions of its cable work."""
        return self.hears_lan and self.is_on_wire

    def is_replaced_unheard(self, service: int) -> bool:
        """No claim of its successor's has come, and its prld cannot know: it has not run since, or
        for too short a time to notice that it hears nothing, or was replaced on request."""
        world, replaced_ns = self.world, self.unheard.get((service, self.owned(service)))
        if replaced_ns is None:
            return False
        passed_ns = world.now_ns - self._late_ns()
        wakes_ns = self.slow_ns + world.lazy_ns
        noticed_ns = max(self.deaf_ns, self.went_on_ns) + NOTICES_NS + wakes_ns
        stands = self._late_ns() > LEASE_NS + wakes_ns and passed_ns < replaced_ns
        since_ns = world.now_ns - self.other.requested_ns
        return stands or passed_ns < noticed_ns or since_ns < 2 * SUSPECT_MS * MS

    def miss_claim(self, service: int) -> None:
        """The other node has claimed ``service`` while this one was deaf."""
        self.unheard.setdefault((service, self.owned(service)), self.world.now_ns)

    def _late_ns(self) -> int:
        """How long ago its datapath began its last pass."""
        return self.clock_ns() - int(self.host.node.heartbeat_ns)

    # -- time

    def clock_ns(self) -> int:
        """This node's CLOCK_BOOTTIME."""
        if self._sleeps_at_ns is not None:
            return self._sleeps_at_ns
        return int(self.world.now_ns * self.rate) + self.offset_ns

    def tick(self) -> None:
        """True time has moved on."""
        if self.host is not None:
            self.host.clock_ns = self.clock_ns()

    @property
    def runs(self) -> bool:
        """Whether prld is there and is not stopped."""
        return (
            self.powered
            and self.control is not None
            and self.world.now_ns >= self.paused_until_ns
            and not self.stalled
        )

    def poke(self) -> None:
        """Something may have arrived for prld."""
        if self.control is not None and not self.stalled and self.lib.sim_has_work(self.host):
            self.wake()

    def wake(self) -> None:
        """The loop is to run."""
        if self.deaf:
            self.world.count("wake-up lost")
            return
        world = self.world
        self._pass_at(max(world.now_ns + world.wake_ns() + self.slow_ns, self.paused_until_ns))

    def _set_timer(self) -> None:
        at_ns = int(self.host.timer_ns)
        if at_ns:
            at_true = int((at_ns - self.offset_ns) / self.rate) + 1
            self._pass_at(max(at_true, self.world.now_ns, self.paused_until_ns))

    def _pass_at(self, at_ns: int) -> None:
        at_ns = max(at_ns, self.busy_until_ns)
        if self.stalled or self.pass_at_ns <= at_ns:
            return
        self.pass_at_ns = at_ns
        self.world.at(at_ns, self._pass, at_ns, self.control)

    def _pass(self, at_ns: int, control: Control | None) -> None:
        if control is not self.control or control is None or at_ns != self.pass_at_ns:
            return
        self.pass_at_ns = NEVER
        if self.world.now_ns < max(self.paused_until_ns, self.busy_until_ns):
            self._pass_at(self.paused_until_ns)
            return
        self.world.passes += 1
        self._plan_stall()
        if self._late_ns() > LATE_NS:
            self.went_on_ns = self.world.now_ns
        self._turned(self.lib.sim_turn(self.host))

    def _turned(self, result: int) -> None:
        if result < 0:
            raise ViolationError(f"node {self.index}: the loop ended: {result}")
        if result == self.lib.SIM_STOPPED:
            assert self.stall is not None
            for_ns, self.stall = self.stall[1], None
            self.stalled = True
            self.world.count("stalled in a pass")
            self.world.at(self.world.now_ns + for_ns, self.resume, self.control)
        self.settle()

    def settle(self) -> None:
        """What the datapath's work has come to: bytes for the link, events, a time to wake."""
        host = self.host
        if self.world.failure is not None:
            raise self.world.failure
        self._spend()
        if self.connection is not None:
            if host.link_out_bytes:
                data = bytes(self.ffi.buffer(host.link_out, host.link_out_bytes))
                host.link_out_bytes = 0
                self.connection.send(self.index, data)
            if host.link_closed:
                self.world.count("link lost")
                connection, self.connection = self.connection, None
                connection.close(self.index)
            else:
                host.link_room = self.connection.room(self.index)
        self.world.checker.look(self)
        if self.control is not None:
            self._note_echo()
        if not self.stalled and self.control is not None:
            self.control.collect()
            self._nothing_is_wrong()
            self._set_timer()
            self.poke()

    def _spend(self) -> None:
        """What the pass has taken of its time; the world, and the control plane, go on."""
        if spent_ns := int(self.host.spent_ns):
            self.host.spent_ns = 0
            self.tick()
            self.busy_until_ns = self.world.now_ns + int(spent_ns / self.rate) + 1

    def _nothing_is_wrong(self) -> None:
        wrong = self.host.wrong
        if wrong[0] == b"\0":
            return
        of = self.world.sessions[self.host.wrong_session : self.host.wrong_session + 1]
        if not of or of[0].over != "lost":
            raise ViolationError(f"node {self.index}: {self.ffi.string(wrong).decode()}")
        self.world.count("a lost session's packet")  # checker.taken_over() has judged
        wrong[0] = b"\0"

    def call(self, function: Any, *args: Any) -> int:
        """A call of the control plane's into the datapath."""
        assert not self.stalled, "the control plane would wait for the lock"
        result = int(function(self.host.dp, *args) or 0)
        self.settle()
        return result

    # -- stops

    def pause(self, for_ns: int) -> None:
        """Stop prld (SIGSTOP) between two passes."""
        self.paused_until_ns = max(self.paused_until_ns, self.world.now_ns + for_ns)

    def _plan_stall(self) -> None:
        if self.stall is None or self.host.stall_after:
            return
        owner = self.lib.sim_owner(self.host)
        limit_ns = (DEAD_MS if owner.probes.mutual else SUSPECT_MS) * MS
        if self.stall_silent and self.clock_ns() < owner.last_heard_ns + limit_ns:
            return
        self.stall_silent = False
        self.host.stall_after = self.stall[0]

    def resume(self, control: Control | None) -> None:
        """The rest of the pass."""
        if self.stalled and not self.asleep and control is self.control and control is not None:
            self.stalled = False
            self._turned(self.lib.sim_resume(self.host))
            self.wake()

    def sleep(self, for_ns: int, *, clock_stands: bool) -> None:
        """Stop the whole machine, as a hypervisor does; what arrives waits for it."""
        if not self.powered or self.asleep:
            return
        self.host.asleep = 1
        if clock_stands:
            self._sleeps_at_ns = self.stood_at_ns = self.clock_ns()
            self.stood_ns = self.world.now_ns
        self.pause(for_ns)
        self.world.at(self.world.now_ns + for_ns, self.thaw)

    def thaw(self) -> None:
        """It runs again: first of all the kernel reads what has waited."""
        if not self.asleep:
            return
        self.host.asleep = 0
        if (stood_at_ns := self._sleeps_at_ns) is not None:
            self._sleeps_at_ns = None
            self.offset_ns += stood_at_ns - self.clock_ns()
        self.tick()
        self.host.woke_ns, self.thawed_ns = self.clock_ns(), self.world.now_ns
        waiting, self._waiting = self._waiting, []
        self.waking = True
        for arrive in waiting:
            arrive()
        self.waking = False
        if self.connection is not None:
            self.connection.heal()
        self.resume(self.control)
        if self.control is not None:
            self.wake()

    # -- what arrives

    def receive(self, arrive: Callable[[], object]) -> None:
        """Something reaches this machine's network card."""
        if not self.asleep:
            if self.powered:
                arrive()
                self.poke()
        elif len(self._waiting) < CARD_MAX:
            self._waiting.append(arrive)
        else:
            self.world.count("network card full")

    def link_arrives(self, item: bytes | None) -> None:
        """Bytes of the link's, or its end."""
        if item is None:
            self.host.link_ended = 1
        else:
            self.lib.sim_link_arrives(self.host, item, len(item))
        self.poke()

    def link_drained(self) -> None:
        """The other end has read."""
        if self.connection is not None:
            self.host.link_room = self.connection.room(self.index)
            self.poke()

    def hear_claim(self, service: int, trailer: bytes) -> None:
        """The other node has taken ``service`` over (L7)."""
        judged = self.lib.sim_hear_claim(self.host, service, trailer)
        if any(trailer) and self.control is not None:
            self.control.hear_claim(service)
        if judged == self.lib.SIM_CLAIM_GOOD:
            self.world.count("claim obeyed")
            self.world.note(f"  (by node {self.index})")

    def owned(self, service: int) -> int:
        """How often it has become this node's since it was booted."""
        return 0 if self.host is None else int(self.host.service[service].owned)

    def hear_stranger(self, service: int, trailer: bytes, owned: int) -> None:
        """A claim that was said when this node had owned the service so often; -1: by nobody."""
        judged = self.lib.sim_hear_claim(self.host, service, trailer)
        if judged == self.lib.SIM_CLAIM_REPLAYED:
            self.world.count("replay refused")
        if judged != self.lib.SIM_CLAIM_GOOD:
            return
        self.world.count("replay obeyed, and rightly")
        self.world.checker.obeyed_replay(self, service, owned)

    def mend_lan(self) -> None:
        """The LAN is back. A new owner's claims are still fast, or prld is silent by now (L6)."""
        if not self.powered:
            return
        self.host.lan_cut = self.host.lan_deaf = self.host.lan_mute = 0
        for node in self.world.nodes:
            node.claim_again()
        for service in range(len(self.world.first_owner)):  # the peers ask who has it
            speakers = [n for n in self.world.nodes if n.could_speak(service)]
            if len(speakers) == 1:
                self.world.route[service] = speakers[0].index

    def claim_again(self) -> None:
        """A LAN is back while claims are fast: README.md, what is left out."""
        for service, (at_ns, trailer) in self.claims.items():
            if self.world.now_ns - at_ns <= FAST_CLAIM_NS and self.could_speak(service):
                self.world.claim(self, service, trailer)

    # -- what is there

    def address(self, service: int) -> int:
        """The state of a service's address in the kernel."""
        return int(self.host.service[service].addr.state) if self.powered else NONE

    def could_speak(self, service: int) -> bool:
        """Whether a segment would leave now, and reach the LAN."""
        return self.powered and bool(self.lib.sim_could_speak(self.host, service))

    def could_answer(self, service: int) -> bool:
        """Whether its kernel would answer who asks for the address, be its prld stopped or not."""
        return self.powered and bool(self.lib.sim_could_answer(self.host, service))

    def is_too_late(self, service: int) -> bool:
        """A take-over that was held up: what it emits would be refused, or was (L2)."""
        return bool(self.lib.sim_is_too_late(self.host, service))

    def flow(self, session: Session) -> Any:
        """The datapath's flow of a session; it is valid until the next call."""
        self.lib.sim_flow(self.host, session.number, self._flow)
        return self._flow

    def is_shadow(self, session: Session) -> bool:
        """Whether its kernel keeps the session's socket silent."""
        slot = self.host.slot_of[session.number]
        silent = self.lib.PRL_FLOW_SECONDARY | self.lib.PRL_FLOW_VOID
        return slot >= 0 and bool(self.host.flow[slot].flags & silent)

    def is_unheld(self, session: Session) -> bool:
        """Whether the session's packets pass the kernel by."""
        slot = self.host.slot_of[session.number]
        held = self.lib.PRL_FLOW_SETUP | self.lib.PRL_FLOW_ACTIVE | self.lib.PRL_FLOW_SECONDARY
        return slot < 0 or not self.host.flow[slot].flags & (held | self.lib.PRL_FLOW_VOID)

    def sock(self, session: Session) -> Any:
        """The socket that the session's packets find, or None."""
        if not self.powered:
            return None
        fd = self.host.sock_of[session.number]
        return self.host.sock[fd] if fd >= 0 else None

    def end_sock(self, session: Session) -> None:
        """Nobody can reach it any more (L8)."""
        if self.powered:
            self.lib.sim_bind(self.host, session.number, -1)

    def restore_sock(self, session: Session, copy: dict[str, int], *, bind: bool = True) -> int:
        """A socket as the snapshot says; returns its descriptor."""
        fd = int(self.lib.sim_socket(self.host, session.number))
        assert fd >= 0, "no place for a socket"
        sock = self.host.sock[fd]
        for name, value in copy.items():
            setattr(sock, name, value)
        sock.pushed = sock.snd_nxt
        if bind:
            self.lib.sim_bind(self.host, session.number, fd)
        else:
            sock.lives = 0
        return fd

    def was_told_of_time(self) -> bool:
        """Whether something came that the other node sent after our lease, by its own clock."""
        owner = self.lib.sim_owner(self.host)
        heard_ns = max(int(owner.peer_sent_ns), int(self.lib.sim_lan_counter(self.host)))
        return heard_ns >= self._echo_at_ns + self.world.takeover_ns

    def _note_echo(self) -> None:
        """When the other node sent what the lease rests on, by its clock."""
        owner = self.lib.sim_owner(self.host)
        if owner.echoed_own_ns != self._echoed_ns:
            self._echoed_ns, self._echo_at_ns = int(owner.echoed_own_ns), int(owner.peer_sent_ns)

    # -- the application

    def application(self, session: Session) -> None:  # noqa: C901 - what an application may do
        """Reads and, where the session is, writes and sends again."""
        sock, world, lib, number = self.sock(session), self.world, self.lib, session.number
        if sock is None:
            return
        if not sock.slow and sock.read != sock.rcv_nxt:
            sock.read = sock.rcv_nxt
        if self.is_shadow(session) or self.address(session.service) != OWNER:
            return
        edge = sock.read + BUFFER_BYTES
        if edge - sock.told_edge > SEGMENT_MAX:  # a reader that has caught up says so
            sock.told_edge = edge
            lib.sim_acknowledge(self.host, number)
        chance = world.random.random()
        start, fin = int(sock.snd_nxt), bool(sock.fin)
        unacked = start - sock.snd_una
        if unacked and world.now_ns - sock.progress_ns > world.rto_ns:
            sock.progress_ns = world.now_ns
            again = int(sock.snd_una)
            end = min(start, again + 3 * SEGMENT_MAX)
            has_fin = fin and end == start
            sock.pushed = max(int(sock.pushed), end)
            flags = lib.SIM_FIN if has_fin else 0
            lib.sim_output(self.host, number, again, end - again - has_fin, flags)
            world.count("output sent again")
        elif session.quiet_until_ns > world.now_ns:
            pass
        elif chance < 0.4 and not fin and unacked < world.burst_max:
            if not unacked:
                sock.progress_ns = world.now_ns
            count, flags = 1 + int(world.random.random() * SEGMENT_MAX), 0
            if world.may_fin and chance < 0.004:
                sock.fin, flags = 1, lib.SIM_FIN
                world.count("fin")
            if session.rcv_nxt == start:
                session.out_ns = world.now_ns
            sock.snd_nxt = sock.pushed = start + count + bool(flags)
            lib.sim_output(self.host, number, start, count, flags)
        elif world.may_fin and chance > 0.999:
            world.count("rst")
            lib.sim_output(self.host, number, start, 0, lib.SIM_RST)
        self.poke()

    # -- life and death

    def boot(self) -> None:
        """Power on."""
        world = self.world
        self.powered = True
        self.host = self.lib.sim_boot(self.index, world.random.getrandbits(64))
        host = self.host
        host.frames_max, host.link_queue_bytes = world.rx_max, world.link_queue_max
        host.drop_chance, host.short_chance = world.drop_chance, world.short_chance
        host.keep_back_chance = world.keep_back_chance
        host.takeover_cost_ns = world.takeover_cost_ns
        host.keeps_input = world.keeps_input[self.index]
        host.mirrors = world.mirrors
        host.full_chance = world.full_chance
        host.unheard_chance = world.unheard_chance
        for session in world.sessions:
            host.service_of[session.number] = session.service
        self.tick()
        self.start_prld()

    def start_prld(self) -> None:
        """A new prld: it knows nothing of what was before."""
        world, host = self.world, self.host
        for session in world.sessions:  # what was fenced is ended behind the silence (L8)
            addr = host.service[session.service].addr
            if addr.state == FENCED or (addr.state == LEAVING and addr.fenced_by_ns):
                self.end_sock(session)
        self.paused_until_ns, self.stalled, self.stall = 0, False, None
        self.busy_until_ns = 0
        self.pass_at_ns = NEVER
        self.started_ns = world.now_ns
        self.control = Control(self)
        config = world.configuration(self.index)
        if self.lib.sim_start(host, config, self._error):
            raise ViolationError(f"prld does not start: {self.ffi.string(self._error).decode()}")
        if world.pool_entries:
            self.lib.sim_leave_holds(host, world.pool_entries)
        self.control.begin()
        self.wake()

    def kill_prld(self) -> None:
        """The kernel closes its connection and goes on alone (L9); shadows die with it."""
        if self.control is None:
            return
        self.control = None
        for session in self.world.sessions:
            if self.is_shadow(session):
                self.end_sock(session)
        self.lib.sim_kill(self.host)
        self.stalled = False
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.close(self.index)

    def power_off(self) -> None:
        """Everything on it is gone, at once and without a word."""
        self.control = None
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.vanish(self.index)
        if self.host is not None:
            self.lib.sim_power_off(self.host)
        self.host = None
        self.unheard.clear()
        self.powered = self.stalled = False
        self._sleeps_at_ns, self._waiting = None, []

    def later(self, delay_ns: int, function: Callable[..., object], *args: Any) -> None:
        """Call it later, if this prld lives then."""
        self.world.at(self.world.now_ns + delay_ns, partial(self._if, self.control), function, args)

    def _if(
        self, control: Control | None, function: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        if control is not None and control is self.control:
            function(*args)
