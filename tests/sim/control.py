"""The control plane of one prld, as far as the datapath needs one: HELLO, snapshots, probes, ends.

It runs in its own time behind the datapath's events, and can be late.
"""

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from prl.daemon.link.hello import ServiceState, settle
from prl.daemon.ownership.probe import DEAF_ROUNDS_MAX, Answers
from tests.sim.arbiter import Asker
from tests.sim.core import MASK, MS
from tests.sim.tcp import Session, ViolationError

if TYPE_CHECKING:
    from tests.sim.link import Connection
    from tests.sim.node import Node

NAMES = ("re0", "re1")
NONE, STANDBY, OWNER, FENCED = range(4)
PROBES, PROBE_NS = 3, 100 * MS
DOUBT_PROBE_NS = 30 * MS
START_WAIT_NS = 300 * MS
HOLD_NS = 400 * MS
BODY_BYTES = 8192


class Control:
    """What dies with the process, the datapath aside."""

    def __init__(self, node: "Node") -> None:
        self.node, self.world = node, node.world
        self.ffi, self.lib = node.ffi, node.lib
        self.settled = False
        self.epoch = 0
        self.states = -1
        """What the checker has seen: sim_states()."""
        self.given: set[int] = set()
        """Services that were given over the link; the other node may act on that word."""
        self.retry_at_ns: dict[int, int] = {}
        self.busy_ns = 0
        """The control plane does not run for so long: each event waits."""
        self.strangers = 0
        """Sessions of each service that it was not asked for."""
        lib = self.lib
        self._does = {
            lib.PRL_EVENT_PRIMARY: self._on_primary,
            lib.PRL_EVENT_SECONDARY: self._on_secondary,
            lib.PRL_EVENT_FENCED: self._on_fenced,
            lib.PRL_EVENT_SILENT: self._on_silence,
            lib.PRL_EVENT_PROBE: self._on_probe,
            lib.PRL_EVENT_MOVE: self._on_move,
            lib.PRL_EVENT_MOVE_ASKED: self._on_move_asked,
            lib.PRL_EVENT_TAKEN_FLOW: self._on_taken_flow,
            lib.PRL_EVENT_RESTORED: self._on_restored,
            lib.PRL_EVENT_ENDED: self._on_ended,
            lib.PRL_EVENT_HOLE: lambda _: self.world.count("hole"),
            lib.PRL_EVENT_ARBITRATE: self._on_arbitrate,
            lib.PRL_EVENT_MIRROR_OFF: lambda _: self.world.count("mirrored no more"),
            lib.PRL_EVENT_EXPIRED: lambda _: self.world.count("shadows expired"),
            lib.PRL_EVENT_RENOUNCED: lambda _: self.world.count("renounced over the LAN"),
        }
        self.arbiter = Asker(self) if self.world.arbitrated else None
        services = range(len(self.world.first_owner))
        self._inherited = {s for s in services if node.address(s) == OWNER}
        """What a former life's programs heed claims for until it is known whose it is."""
        self._taken: set[int] = set()
        """Of these, what the other node has claimed since."""
        self._ready: dict[tuple[int, int], int] = {}
        """Sockets that wait for their moment, by handle and generation."""
        self._events: deque[tuple[Any, bytes]] = deque()
        self._wakes_at_ns = 0
        self._event = self.ffi.new("struct prl_event *")
        self._body = self.ffi.new("uint8_t[]", BODY_BYTES)
        self._reason = self.ffi.new("uint32_t *")

    @property
    def dp(self) -> Any:
        return self.node.host.dp

    def begin(self) -> None:
        """The datapath is there."""
        neighbour = self.ffi.new("struct prl_dp_neighbour *")
        self.ffi.buffer(neighbour.addr)[:] = bytes(10) + b"\xff\xff\xc0\0\2\1"
        neighbour.mac = b"\2\2\2\2\2\2"
        self.node.call(self.lib.prl_dp_neighbours, neighbour, 1)
        self.node.call(self.lib.prl_dp_policy, self.world.policy_stop)
        self.node.later(START_WAIT_NS, self._start_alone)

    # -- events

    def collect(self) -> None:
        """What the datapath has told; some of it is noted at once, for it happens in the world."""
        told = False
        while self.lib.prl_dp_event(self.dp, self._event, self._body, BODY_BYTES):
            told = True
            event = self._event[0]
            kept = self.ffi.new("struct prl_event *", event)
            self._events.append((kept, bytes(self.ffi.buffer(self._body, event.body_bytes))))
            if event.kind == self.lib.PRL_EVENT_TAKEOVER:
                self._taken_over(int(event.service))
            elif event.kind == self.lib.PRL_EVENT_TAKEN_FLOW:
                self.world.checker.taken_over(self.node, int(event.handle), int(event.generation))
            elif event.kind == self.lib.PRL_EVENT_MOVE:
                self._moved(int(event.service), int(event.state))
        if told:
            self._wake()

    def _wake(self) -> None:
        world = self.world
        at_ns = world.now_ns + int(world.random.random() * world.control_ns) + self.busy_ns
        if self._wakes_at_ns > world.now_ns:
            return
        self._wakes_at_ns = at_ns
        self.node.later(at_ns - world.now_ns, self._handle)

    def hurry(self) -> None:
        """It runs again: what it was late for comes now."""
        self.busy_ns = 0
        if self._wakes_at_ns > self.world.now_ns + self.world.control_ns:
            self._wakes_at_ns = self.world.now_ns
            self.node.later(0, self._handle)

    def _handle(self) -> None:
        node = self.node
        if not node.runs or node.asleep:
            self.node.later(MS, self._handle)
            return
        while self._events and node.control is self and not node.stalled:
            event, body = self._events.popleft()
            self._on_event(event, body)
        self._wakes_at_ns = 0

    def _on_event(self, event: Any, body: bytes) -> None:
        lib, world = self.lib, self.world
        if event.kind == lib.PRL_EVENT_MESSAGE:
            self._on_message(event, body)
        elif event.kind in self._does:
            self._does[event.kind](event)
        elif body:
            world.note(f"node {self.node.index}: {body.decode()}")

    def _on_fenced(self, event: Any) -> None:
        self.world.count("fenced")
        if self._state(int(event.service)) == FENCED:
            self._end_sessions(int(event.service), all_of_it=False)

    def _on_arbitrate(self, event: Any) -> None:
        assert self.arbiter is not None
        self.arbiter.on_event(int(event.value), int(event.state))

    def _on_probe(self, event: Any) -> None:
        self.node.later(DOUBT_PROBE_NS, self._probed, int(event.service))

    def _on_move(self, event: Any) -> None:
        service = int(event.service)
        if event.state == self.lib.PRL_MOVE_DONE and self._state(service) == STANDBY:
            self._end_sessions(service, all_of_it=True)

    def _on_move_asked(self, event: Any) -> None:
        forced = int(event.bits & self.lib.PRL_MOVE_FORCED)
        self.node.call(
            self.lib.prl_dp_switchover_asked, event.service, forced, event.value, self.strangers
        )

    def _on_taken_flow(self, event: Any) -> None:
        own = self.ffi.new("uint32_t *")
        if self.node.call(self.lib.prl_dp_flow_adopt, event.handle, own) == 0:
            self.world.checker.adopted(self.node, int(event.handle), int(own[0]))

    def _on_primary(self, event: Any) -> None:
        lib, world = self.lib, self.world
        session = world.checker.session_of(self.node, int(event.handle))
        if session is None:
            return
        if event.state == lib.PRL_PRIMARY_OPEN:
            self.retry_at_ns[session.number] = world.now_ns + world.retry_ns()
        elif event.state == lib.PRL_PRIMARY_GONE:
            flow = self.node.flow(session)
            if flow.used and flow.handle == event.handle and not self._is_live(flow):
                self.node.call(lib.prl_dp_flow_close, flow.handle)
                self.node.end_sock(session)

    def _on_secondary(self, event: Any) -> None:
        """A void shadow is discarded, silently (L8)."""
        session = self.world.checker.session_of(self.node, int(event.handle))
        if session is None:
            return
        flow = self.node.flow(session)
        void = flow.used and flow.secondary and flow.state == self.lib.PRL_SECONDARY_VOID
        if void and flow.handle == event.handle and flow.generation == event.generation:
            self.node.call(self.lib.prl_dp_flow_close, flow.handle)
            self.node.end_sock(session)

    def _is_live(self, flow: Any) -> bool:
        lib = self.lib
        if flow.secondary:
            live = (lib.PRL_SECONDARY_ACTIVE, lib.PRL_SECONDARY_TAKING, lib.PRL_SECONDARY_OWNER)
            return bool(flow.state in live)
        return bool(flow.state != lib.PRL_PRIMARY_GONE)

    def _on_ended(self, event: Any) -> None:
        handle = int(event.handle)
        session = self.world.checker.session_of(self.node, handle)
        if session is None:
            return
        flow = self.node.flow(session)
        if flow.used and flow.handle == handle and self.node.sock(session) is None:
            self.node.call(self.lib.prl_dp_flow_close, handle)

    # -- roles

    def _state(self, service: int) -> int:
        return self.node.call(self.lib.prl_dp_service_state, service)

    def _term(self, service: int) -> int:
        return int(self.node.host.node.terms[service])

    def _set_service(self, service: int, state: int) -> None:
        self.node.call(self.lib.prl_dp_service_set, service, state)
        if state != OWNER:
            self._end_sessions(service, all_of_it=state == STANDBY)
            return
        for session in self.world.sessions:
            if session.service == service and not session.over:
                self._own_without_shadow(session)

    def _end_sessions(self, service: int, *, all_of_it: bool) -> None:
        """It goes on elsewhere: what was protected or taken over here, or all of it (L8)."""
        node = self.node
        for session in self.world.sessions:
            if session.service != service:
                continue
            flow = node.flow(session)
            if flow.used and flow.secondary and flow.state == self.lib.PRL_SECONDARY_ACTIVE:
                continue
            if flow.used:
                node.call(self.lib.prl_dp_flow_close, flow.handle)
            elif not all_of_it:
                continue
            node.end_sock(session)

    def _own_without_shadow(self, session: Session) -> None:
        node = self.node
        if node.sock(session) is not None and not node.is_shadow(session):
            return  # its own, from before
        self.world.checker.abandoned(node, session)
        self._lose(session)
        self.world.count("session lost with its host")

    def _lose(self, session: Session) -> None:
        node, flow = self.node, self.node.flow(session)
        session.over = "lost"
        if node.stalled:  # in a pass, with the lock
            node.later(MS, self._lose, session)
            return
        if flow.used:
            node.call(self.lib.prl_dp_flow_close, flow.handle)
        node.end_sock(session)

    def _taken_over(self, service: int) -> None:
        """What was not protected when its host was taken for dead is lost (L1)."""
        world = self.world
        world.checker.takes(self.node, service)
        world.count("takeover")
        world.note(f"node {self.node.index} takes service {service}")
        for session in world.sessions:
            if session.service != service or session.over:
                continue
            flow = self.node.flow(session)
            states = (self.lib.PRL_SECONDARY_TAKING, self.lib.PRL_SECONDARY_OWNER)
            taken = flow.used and flow.secondary and flow.state in states
            if flow.used and flow.secondary and flow.state == self.lib.PRL_SECONDARY_ACTIVE:
                raise ViolationError(f"I5: a good shadow of {session.number} is not taken over")
            if taken:
                world.checker.decided(self.node, session)
                session.heard.clear()
                self.node.sock(session).progress_ns = 0
            else:
                session.over = "lost"
                world.count("session lost unprotected")
                self.node.later(MS, self._lose, session)

    def _moved(self, service: int, outcome: int) -> None:
        said = ("", "moved", "move undone", "move in doubt", "move resumed")
        self.world.count(said[outcome])
        self.world.note(f"node {self.node.index}: service {service} {said[outcome]}")
        if outcome == self.lib.PRL_MOVE_RESUMED:
            self.world.checker.resumes(self.node, service)
        if outcome != self.lib.PRL_MOVE_UNSURE:
            self.given.discard(service)

    def _start_alone(self) -> None:
        """Nobody was heard: the configured owner takes what nobody answers for."""
        node = self.node
        if not node.runs or node.asleep:
            node.later(10 * MS, self._start_alone)
            return
        if self.arbiter is None:
            self._take_what_is_free()
        elif node.index in self.world.first_owner and not self.settled:
            self.arbiter.start(lambda: node.later(HOLD_NS, self._begin_alone))

    def _begin_alone(self) -> None:
        """The arbiter has said so, and the other node has had its time to fall silent."""
        if not self.node.runs or self.node.asleep:
            self.node.later(10 * MS, self._begin_alone)
        elif not self.settled:
            assert self.arbiter is not None
            self.arbiter.won()
            self._take_what_is_free()

    def hear_claim(self, service: int) -> None:
        """Of the other node."""
        if service in self._inherited:
            self._taken.add(service)

    def _take_what_is_free(self) -> None:
        mine = [n for n, first in enumerate(self.world.first_owner) if first == self.node.index]
        self._probe_round(Answers(mine))

    def _probe_round(self, count: Answers[int], *, heard: bool = True) -> None:
        """What is sent in it arrives at once, or not at all."""
        node = self.node
        if not node.runs or node.asleep:
            node.later(MS, partial(self._probe_round, count, heard=heard))
        elif self.settled:
            return
        elif not (asked := count.begin(heard=heard)):
            self._take(set(self._mine_unowned()) - count.users)
            if count.users:
                node.later(START_WAIT_NS, self._start_alone)
        elif count.deaf == DEAF_ROUNDS_MAX:
            self.world.count("did not begin: nobody on the LAN answers")
            node.later(START_WAIT_NS, self._start_alone)
        else:
            for service in asked:
                count.hear(service if self._is_answered(service) else None)
            heard = self.world.is_heard_on_lan(node)
            node.later(PROBE_NS, partial(self._probe_round, count, heard=heard))

    def _mine_unowned(self) -> list[int]:
        node = self.node
        return [
            service
            for service, first in enumerate(self.world.first_owner)
            if first == node.index and self._state(service) == NONE and service not in self._taken
        ]

    def _take(self, services: set[int]) -> None:
        for service in sorted(services):
            self.node.host.node.terms[service] += 1
            self._set_service(service, OWNER)
            self.world.count("started alone")

    # -- silence and doubt: L6

    def _on_silence(self, event: Any) -> None:
        world, lib, state = self.world, self.lib, event.state
        if state == lib.PRL_SILENCE_NOT:
            world.count("speaks again")
            self._notice_lost()
            return
        world.count("silent")
        if state not in (lib.PRL_SILENCE_STOP, lib.PRL_SILENCE_ARBITER):
            self.node.later(world.seek_ns(), self._seek)

    def _is_silent(self) -> bool:
        return bool(self.lib.sim_owner(self.node.host).silence)

    def _seek(self) -> None:
        """Probes: sent now, judged when an answer would have come."""
        node, world = self.node, self.world
        if not self._is_silent():
            return
        probed_ns = node.clock_ns()
        answered: list[int] = []
        owner = self.lib.sim_owner(node.host)
        mine = [s for s in range(len(world.first_owner)) if owner.state[s] == OWNER]

        def probe() -> None:
            answered.extend(s for s in mine if self._is_answered(s))

        def judge() -> None:
            if not self._is_silent():
                return
            if node.runs and not node.asleep and not answered:
                node.call(self.lib.prl_dp_unanswered, probed_ns)
            node.later(world.seek_ns(), self._seek)

        for number in range(PROBES):
            node.later(number * PROBE_NS, probe)
        node.later(PROBES * PROBE_NS, judge)

    def _is_answered(self, service: int) -> bool:
        other = self.node.other
        reached = self.node.has_lan and other.hears_lan and not self.world.parted
        return reached and other.could_answer(service)

    def _probed(self, service: int) -> None:
        """Nobody but the new owner would answer."""
        node, other = self.node, self.node.other
        if not node.runs or node.asleep or not self.world.is_heard_on_lan(node):
            return
        taken = other.address(service) == OWNER
        in_doubt = self.lib.sim_move(node.host, service).state == self.lib.PRL_MOVE_DOUBT
        if taken and in_doubt:
            self.given.discard(service)
        if node.call(self.lib.prl_dp_switchover_resolve, service, int(taken), 0) == 0 and in_doubt:
            self.world.count("moved by a probe" if taken else "resumed after a probe")

    def _notice_lost(self) -> None:
        """Sessions that the other node took over and served, and that are gone with it."""
        for session in self.world.sessions:
            sock = self.node.sock(session)
            if sock is None or session.over or self._state(session.service) != OWNER:
                continue
            if session.rcv_nxt > sock.snd_nxt or session.snd_una > sock.rcv_nxt:
                session.over = "lost"
                self.world.count("session lost with the node that had taken it over")

    # -- link

    def attach(self, connection: "Connection") -> bool:
        """A new connection. Node 0 speaks first. False: the last one is not given up yet.

        What an earlier one's HELLO said is of no use to it: prl.daemon.link forgets it as well.
        """
        self._events = deque(each for each in self._events if not self._is_hello(each[0]))
        if self.node.call(self.lib.prl_dp_link_attach, 1) < 0:
            return False
        self.node.connection = connection
        self.node.host.link_room = connection.room(self.node.index)
        if self.node.index == 0:
            self._greet(connection)
        return True

    def send(self, kind: int, handle: int = 0, data: Any = None, **fields: Any) -> bool:
        """A message of the control plane's; ``data`` travels as a number."""
        msg = self.ffi.new("struct prl_msg *")
        msg.type, msg.handle = kind, handle
        for name, value in fields.items():
            setattr(msg, name, value)
        tlvs, at = self.ffi.new("uint8_t[32]"), self.ffi.new("size_t *")
        if data is not None:
            self.world.objects.append(data)
            number = (len(self.world.objects) - 1).to_bytes(8, "big")
            element = self.lib.PRL_TLV_EPOCH
            if kind == self.lib.PRL_MSG_SETUP:
                element = self.lib.PRL_TLV_SNAPSHOT
            assert self.lib.prl_tlv_put(tlvs, 32, at, element, 1, number, 8) == 0
        return self.node.call(self.lib.prl_dp_link_send, msg, tlvs, at[0]) == 0

    def fill_link(self, bodies: tuple[int, ...]) -> None:
        """Messages that mean nothing, until those of each of these sizes find no room."""
        for count in bodies:
            while self.say_nothing(count):
                assert self.node.link_stuck
        self.world.count("link queue filled")

    def say_nothing(self, count: int) -> bool:
        """A message of so many bytes that means nothing; False: it finds no room."""
        msg, at = self.ffi.new("struct prl_msg *"), self.ffi.new("size_t *")
        body = self.ffi.new("uint8_t[]", BODY_BYTES)
        self.world.objects.append(None)
        number = (len(self.world.objects) - 1).to_bytes(8, "big")
        msg.type, element = self.lib.PRL_MSG_OFFER, self.lib.PRL_TLV_EPOCH
        data = number.ljust(count, b"\0")
        assert self.lib.prl_tlv_put(body, BODY_BYTES, at, element, 1, data, len(data)) == 0
        return bool(self.lib.prl_dp_link_send(self.dp, msg, body, at[0]) == 0)

    def _is_hello(self, event: Any) -> bool:
        lib = self.lib
        return bool(event.kind == lib.PRL_EVENT_MESSAGE and event.type == lib.PRL_MSG_HELLO)

    def _greet(self, connection: "Connection") -> None:
        if self.arbiter is not None:
            self.arbiter.on_hello()
        assert self.node.call(self.lib.prl_dp_link_hello) == 0, "HELLO on a link that is up"
        services = self.describe()
        connection.hello[self.node.index] = services
        self.send(self.lib.PRL_MSG_HELLO, data=services, version_min=1, version_max=1)

    def describe(self) -> tuple[ServiceState, ...]:
        """All services, for HELLO: what a claim fenced in the kernel is owned no more."""
        owner = self.lib.sim_owner(self.node.host)
        return tuple(
            ServiceState(
                name=str(number), addresses=[], owner=NAMES[first],
                state=self._state(number), term=self._term(number),
                sessions=self._sessions(number),
                silent=(1 + int(owner.unheard)) * (int(owner.silent_mask) >> number & 1),
                given=bool(self.node.call(self.lib.prl_dp_is_given, number)),
            )
            for number, first in enumerate(self.world.first_owner)
        )  # fmt: skip

    def _sessions(self, service: int) -> int:
        found = 0
        state = self._state(service)
        is_standby = state == STANDBY
        if state == FENCED:  # its event may be behind this HELLO, and they count no more
            self._end_sessions(service, all_of_it=False)
        for session in self.world.sessions:
            if session.service != service:
                continue
            if is_standby:
                flow = self.node.flow(session)
                found += bool(
                    flow.used and flow.secondary and flow.state == self.lib.PRL_SECONDARY_ACTIVE
                )
            else:
                found += self.node.sock(session) is not None and not self.node.is_shadow(session)
        return found

    def _on_hello(self, theirs: tuple[ServiceState, ...]) -> None:
        node, lib, connection = self.node, self.lib, self.node.connection
        if connection is None:
            return
        if node.index == 1:
            self._greet(connection)
        said, now = connection.hello[node.index], self.describe()
        if said is None or [(s.state, s.term) for s in said] != [(s.state, s.term) for s in now]:
            node.call(lib.prl_dp_link_drop, b"a service changed hands during HELLO")
            return
        for service, (own, other) in enumerate(zip(said, theirs, strict=True)):
            state, term = settle(own, other, NAMES[node.index])
            node.host.node.terms[service] = term
            if own.given:
                taken = state != OWNER
                if not taken:
                    self.world.checker.resumes(node, service)
                self.given.discard(service)
                node.call(lib.prl_dp_switchover_resolve, service, int(taken), 1)
            if own.given or state == own.state:
                continue
            if (
                state == OWNER
                and own.state == STANDBY
                and not node.call(lib.prl_dp_takeover, service, 0)
            ):
                continue
            self._set_service(service, int(state))
        self.settled = True
        self.given.clear()
        self._agreed(connection, anew=any(other.state == NONE for other in theirs))

    def _agreed(self, connection: "Connection", *, anew: bool) -> None:
        """The link is up. ``anew``: the other node was started since, and may have been owner."""
        node, lib = self.node, self.lib
        if anew:
            self._notice_lost()
        self.epoch = connection.epoch
        key = bytes([connection.epoch % 256]) * 32
        tokens = [bytes([number + 1, connection.epoch % 256]) * 8 for number in (0, 1)]
        node.call(
            lib.prl_dp_link_up, connection.epoch, self.world.capabilities, key,
            tokens[node.index], tokens[1 - node.index],
        )  # fmt: skip
        if self.world.mirrors:
            node.call(lib.prl_dp_mirror)
        if self.arbiter is not None:
            self.arbiter.on_link_up()

    def is_up(self) -> bool:
        """Whether both HELLOs agree."""
        owner = self.lib.sim_owner(self.node.host)
        return self.node.connection is not None and owner.link != self.lib.PRL_LINK_DOWN

    # -- snapshots

    def _on_message(self, event: Any, body: bytes) -> None:
        lib = self.lib
        data = None
        if len(body) >= lib.PRL_TLV_HEADER + 8 and event.type in (
            lib.PRL_MSG_HELLO, lib.PRL_MSG_SETUP, lib.PRL_MSG_OFFER,
        ):  # fmt: skip
            at = lib.PRL_TLV_HEADER
            data = self.world.objects[int.from_bytes(body[at : at + 8], "big")]
        if event.type == lib.PRL_MSG_HELLO:
            self._on_hello(data)
        elif event.type == lib.PRL_MSG_OFFER and data is not None:
            self._on_offer(*data)
        elif event.type == lib.PRL_MSG_SETUP and event.bits & lib.PRL_SETUP_LAST:
            self._on_setup(event, *data)
        elif event.type == lib.PRL_MSG_SETUP:
            self._on_prepare(event, *data)
        elif event.type == lib.PRL_MSG_SETUP_DONE:
            self._on_setup_done(event)

    def _spec(self, session: Session, fd: int) -> Any:
        spec = self.ffi.new("struct prl_flow_spec *")
        self.lib.sim_key(self.node.host, session.number, self.ffi.addressof(spec, "key"))
        spec.mss, spec.fd = self.world.mss, fd
        return spec

    def protect(self, session: Session) -> None:  # noqa: PLR0911 - a reason not to, a return
        """Take a snapshot and send it, if there is a session, a link and nothing under way."""
        node, lib, world = self.node, self.lib, self.world
        sock = node.sock(session)
        if sock is None or sock.peer_fin or sock.fin or sock.holes:
            return  # only an established connection is cloned
        if not self.is_up() or node.address(session.service) != OWNER:
            return
        flow = node.flow(session)
        handle = 0
        if flow.used and not flow.secondary:
            if flow.state != lib.PRL_PRIMARY_OPEN:
                return
            handle = int(flow.handle)
        elif flow.used and flow.state != lib.PRL_SECONDARY_OWNER:
            return
        if self.retry_at_ns.get(session.number, 0) > world.now_ns:
            return
        spec = self._spec(session, node.host.sock_of[session.number])
        spec.handle = handle
        if world.random.random() < world.two_steps and self._prepare(session, spec, handle):
            return
        if node.call(lib.prl_dp_primary_setup, spec) < 0:
            return
        self._number(session)
        life = world.checker.born(spec, session)
        life.setup_end = int(sock.snd_nxt)
        self.send(
            lib.PRL_MSG_SETUP, int(spec.handle), generation=int(spec.generation),
            bits=lib.PRL_SETUP_LAST, data=(session, self._copy(sock)),
        )  # fmt: skip

    def _prepare(self, session: Session, spec: Any, handle: int) -> bool:
        """The first of two steps (R17): the other node makes a socket ready, nothing waits."""
        node, lib, world = self.node, self.lib, self.world
        if node.call(lib.prl_dp_primary_prepare, spec) < 0:
            spec.handle, spec.generation = handle, 0
            return False
        world.checker.born(spec, session)
        self.retry_at_ns[session.number] = world.now_ns + 50 * MS
        self.send(
            lib.PRL_MSG_SETUP, int(spec.handle), generation=int(spec.generation),
            data=(session, self._copy(node.sock(session))),
        )  # fmt: skip
        return True

    def _on_prepare(self, event: Any, session: Session, copy: dict[str, int]) -> None:
        """The other node's: a socket that is ready for its moment; it says so by OFFER."""
        node, lib = self.node, self.lib
        if self._state(session.service) != STANDBY:
            return
        fd = node.restore_sock(session, copy, bind=False)
        spec = self._spec(session, fd)
        spec.handle, spec.generation = event.handle, event.generation
        ready = self.ffi.new("struct prl_ready *")
        if node.call(lib.prl_dp_secondary_prepare, spec, ready) < 0:
            lib.sim_release(node.host, fd)
            return
        self._ready[int(event.handle), int(event.generation)] = fd
        self.send(lib.PRL_MSG_OFFER, data=(session, int(event.handle), int(event.generation)))
        node.later(100 * MS, self._unprepare, int(event.handle), int(event.generation))

    def _unprepare(self, handle: int, generation: int) -> None:
        """Its moment has not come."""
        node = self.node
        if not node.runs:
            node.later(10 * MS, self._unprepare, handle, generation)
        elif (fd := self._ready.get((handle, generation))) is not None and node.call(
            self.lib.prl_dp_secondary_unprepare, handle, generation
        ) == 0:
            del self._ready[handle, generation]
            self.lib.sim_release(node.host, fd)

    def _on_restored(self, event: Any) -> None:
        node, place = self.node, (int(event.handle), int(event.generation))
        fd = self._ready.pop(place)
        if event.reason:
            self.world.count("moment refused")
            self.lib.sim_release(node.host, fd)
            return
        self.world.count("moment restored")
        life = self.world.checker.life(*place)
        if life is not None:
            self.given.discard(life.session.service)

    def _on_offer(self, session: Session, handle: int, generation: int) -> None:
        """The second step: the session stands still, what moves is sent."""
        node, lib = self.node, self.lib
        flow, sock = node.flow(session), node.sock(session)
        if not flow.used or flow.secondary or sock is None or sock.peer_fin or sock.fin:
            return
        if (flow.handle, flow.generation, flow.state) != (
            handle, generation, lib.PRL_PRIMARY_OPEN,
        ):  # fmt: skip
            return
        spec = self._spec(session, node.host.sock_of[session.number])
        spec.handle, spec.generation = handle, generation
        if node.call(lib.prl_dp_primary_setup, spec) < 0:
            return
        self.world.checker.copied(spec)
        moment = self.ffi.new("struct prl_moment_spec *")
        moment.handle, moment.generation = handle, generation
        counts = self.ffi.new("struct prl_moment_counts *")
        moment.at_rest = 1
        if node.call(lib.prl_dp_primary_moment, moment, counts, self._reason) == 0:
            self.world.count("moment at rest")
            return
        moment.at_rest = 0
        if node.call(lib.prl_dp_primary_moment, moment, counts, self._reason) < 0:
            node.call(lib.prl_dp_primary_fail, handle, lib.PRL_REASON_RESTORE_FAILED)

    def _number(self, session: Session) -> None:
        self.lib.sim_number(self.node.host, session.number, self.world.number_base)

    @staticmethod
    def _copy(sock: Any) -> dict[str, int]:
        return {
            name: int(getattr(sock, name)) for name in ("rcv_nxt", "read", "snd_una", "snd_nxt")
        }

    def _on_setup(self, event: Any, session: Session, copy: dict[str, int]) -> None:
        node, lib, world = self.node, self.lib, self.world
        reason, space = lib.PRL_REASON_OK, 0
        if self._state(session.service) != STANDBY:
            reason = lib.PRL_REASON_NOT_ACTIVE
        elif world.random.random() < world.setup_fails:
            reason = lib.PRL_REASON_RESTORE_FAILED
            world.count("setup refused")
        else:
            fd = node.restore_sock(session, copy)
            spec = self._spec(session, fd)
            spec.handle, spec.generation = event.handle, event.generation
            spec.committed = copy["snd_nxt"] & MASK
            if node.call(lib.prl_dp_secondary_open, spec, self._reason) < 0:
                reason = lib.PRL_REASON_RESTORE_FAILED
                node.end_sock(session)
            else:
                self._number(session)
                self.given.discard(session.service)
                space = int(self._reason[0])
        if world.random.random() < world.setup_fails:
            world.count("setup answer lost")  # the control plane hangs, or dies
            return
        self.send(
            lib.PRL_MSG_SETUP_DONE, int(event.handle), generation=int(event.generation),
            space=space, reason=reason,
        )  # fmt: skip

    def _on_setup_done(self, event: Any) -> None:
        lib, node = self.lib, self.node
        life = self.world.checker.life(int(event.handle), int(event.generation))
        if life is None:
            return
        flow = node.flow(life.session)
        if not flow.used or flow.secondary or flow.handle != event.handle:
            return
        if flow.state != lib.PRL_PRIMARY_SETUP or flow.generation != event.generation:
            return
        if event.reason:
            node.call(lib.prl_dp_primary_fail, event.handle, event.reason)
            return
        node.call(
            lib.prl_dp_primary_activate, event.handle, event.generation,
            life.setup_end & MASK, event.space,
        )  # fmt: skip

    # -- requests

    def request_takeover(self, service: int) -> None:
        """`prlctl takeover`."""
        node, before_ns = self.node, self.node.requested_ns
        node.requested_ns = self.world.now_ns  # it speaks before the call returns
        if node.call(self.lib.prl_dp_takeover, service, 0) == 0:
            self.world.count("takeover on request")
        else:
            node.requested_ns = before_ns

    def renounce(self, service: int) -> bool:
        """prl_dp_renounce(), as of a prld that is stopped."""
        lib, node = self.lib, self.node
        found = 0
        for session in self.world.sessions:
            if session.service != service:
                continue
            flow = node.flow(session)
            if flow.used and (flow.secondary or flow.state != lib.PRL_PRIMARY_ACTIVE):
                return False
            found += flow.used
        return found > 0 and node.call(lib.prl_dp_renounce, service) == 0

    def switchover(self, service: int, *, forced: bool) -> bool:
        """`prlctl switchover`."""
        return self.node.call(self.lib.prl_dp_switchover, service, int(forced)) == 0

    def request_fail(self, session: Session) -> None:
        """`prlctl flow del`, or the control plane gives up."""
        flow = self.node.flow(session)
        if flow.used and not flow.secondary:
            session.waits_on = -1
            self.node.call(self.lib.prl_dp_primary_fail, flow.handle, self.lib.PRL_REASON_REQUESTED)
