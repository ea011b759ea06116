"""What goes wrong in one seed, and when it is put right."""

from typing import TYPE_CHECKING

from tests.sim.core import MS

if TYPE_CHECKING:
    from tests.sim.world import Node, World

FAULTS_FROM_NS, FAULTS_TO_NS = 120 * MS, 800 * MS
ALONE_FROM_NS = 480 * MS
"""An owner has opened by then whose standby has not been heard from the beginning."""
QUIET_BEFORE_NS, QUIET_AFTER_NS = 40 * MS, 300 * MS
BULK_BYTES = (7000, 500, 8)
KINDS = (
    "delay", "cut", "cut one way", "cut one way", "pause", "pause", "stall in a pass",
    "stall at the decision", "prld killed", "power off", "LAN silent", "slow reader",
    "slow reader", "connection reset", "takeover requested", "renounce", "flow given up",
    "both paused", "machine paused", "machine paused", "clock stands", "clock stands",
    "owner dies unseen", "both cut", "both cut", "LAN of one cut",
    "switchover", "switchover", "switchover", "slow passes", "wake-ups lost",
    "control plane late", "kernel drops", "LAN of one deaf", "link cut and LAN of one deaf",
    "LAN of one mute", "link cut and LAN of one mute", "link queue full", "flap", "flap",
    "fenced for nothing",
)  # fmt: skip
ARBITER_KINDS = ("parted", "parted", "parted", "arbiter unreached", "arbiter unreached")


class Faults:
    """The plan of one seed."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self._heals = True
        self.delay_ns = 0
        self.returning: set[int] = set()
        chance = world.random
        self.lan_only = chance.random() < 0.08 and world.fault_kinds == KINDS
        for _ in range(chance.choice([1, 2, 2, 3, 4, 6])):
            at_ns = chance.randint(FAULTS_FROM_NS, FAULTS_TO_NS - 50 * MS)
            world.at(at_ns, self._strike)
        world.at(FAULTS_TO_NS + world.long_ns, self._heal_all)

    def _strike(self) -> None:
        world, chance = self.world, self.world.random
        kind = "LAN cut" if self.lan_only else chance.choice(world.fault_kinds)
        node = world.nodes[chance.randint(0, 1)]
        for_ns = int(chance.choice([15, 60, 130, 250, 450, 700]) * MS * (0.7 + chance.random()))
        world.count(f"fault: {kind}")
        world.note(f"  (node {node.index}, {for_ns / MS:.0f} ms)")
        getattr(self, "_" + kind.replace(" ", "_").replace("-", "_").lower())(node, for_ns)

    def _later(self, for_ns: int, thing: object, name: str, value: object) -> None:
        self.world.at(self.world.now_ns + for_ns, setattr, thing, name, value)

    # -- networks

    def _lan_cut(self, _node: "Node", for_ns: int) -> None:
        for node in self.world.nodes:
            self._lan_of_one_cut(node, for_ns)

    def _lan_of_one_cut(self, node: "Node", for_ns: int) -> None:
        if node.asleep:
            return  # README.md: what is left out
        if node.powered:
            node.host.lan_cut = 1
        self.world.at(self.world.now_ns + for_ns, node.mend_lan)

    def _both_cut(self, node: "Node", for_ns: int) -> None:
        """Of one node; either is back first."""
        self._cut(node, int(for_ns * (0.5 + self.world.random.random())))
        self._lan_of_one_cut(node, for_ns)

    def _lan_of_one_deaf(self, node: "Node", for_ns: int) -> None:
        """One direction of its cable."""
        if node.powered and not node.asleep:
            if not node.host.lan_deaf:
                node.host.lan_deaf, node.deaf_ns = 1, self.world.now_ns
            self.world.at(self.world.now_ns + for_ns, node.mend_lan)

    def _link_cut_and_lan_of_one_deaf(self, node: "Node", for_ns: int) -> None:
        self._cut(node, for_ns)
        self._lan_of_one_deaf(node, for_ns)

    def _lan_of_one_mute(self, node: "Node", for_ns: int) -> None:
        """The other direction."""
        if node.powered and not node.asleep:
            node.host.lan_mute = 1
            self.world.at(self.world.now_ns + for_ns, node.mend_lan)

    def _link_cut_and_lan_of_one_mute(self, node: "Node", for_ns: int) -> None:
        self._cut(node, for_ns)
        self._lan_of_one_mute(node, for_ns)

    def _parted(self, node: "Node", for_ns: int) -> None:
        """Two racks: the cables between them are cut, and each has neighbours and peers."""
        if not (self.world.arbitrated or self.world.witnessed) or self.world.leases:
            return  # both would go on (docs/arbiter.md)
        self.world.parted = True
        for each in self.world.nodes:
            each.parted_at_ns = each.clock_ns()
        self._cut(node, for_ns)
        self.world.at(self.world.now_ns + for_ns, self.world.join)

    def _arbiter_unreached(self, node: "Node", for_ns: int) -> None:
        """By one node, or by both."""
        store, world = self.world.store, self.world
        for each in world.nodes if world.random.random() < 0.4 else (node,):
            store.reached[each.index] = False
            world.at(world.now_ns + for_ns, store.reached.__setitem__, each.index, True)

    def _fenced_for_nothing(self, node: "Node", _for_ns: int) -> None:
        """A claim is obeyed that the other node has not made."""
        if node.runs and not node.asleep:
            for service in range(len(self.world.first_owner)):
                if node.address(service) == node.lib.PRL_ADDR_OWNER:
                    node.host.node.fenced |= 1 << service
            node.wake()

    def _lan_silent(self, _node: "Node", for_ns: int) -> None:
        before, self.world.lan_loss = self.world.lan_loss, 1.0
        if self.world.now_ns + for_ns < FAULTS_TO_NS + self.world.long_ns:  # else it is healed then
            self._later(for_ns, self.world, "lan_loss", before)

    def _delay(self, _node: "Node", for_ns: int) -> None:
        self.delay_ns = int(self.world.random.random() * 120 * MS)
        self._later(for_ns, self, "delay_ns", 0)

    def _cut(self, _node: "Node", for_ns: int) -> None:
        self.world.cut = [True, True]
        self.world.at(self.world.now_ns + for_ns, self.world.heal_link)

    def _cut_one_way(self, node: "Node", for_ns: int) -> None:
        self.world.cut[node.index] = True
        self.world.at(self.world.now_ns + for_ns, self.world.heal_link)

    def _connection_reset(self, node: "Node", _for_ns: int) -> None:
        if node.runs:
            node.call(node.lib.prl_dp_link_drop, b"reset")

    def _flap(self, node: "Node", for_ns: int) -> None:
        """The link goes and comes again; most sessions are quiet from before on, for a while."""
        world, chance = self.world, self.world.random
        gone_ns = world.now_ns + QUIET_BEFORE_NS
        for session in world.sessions:
            if chance.random() < 0.8:
                quiet_ns = (0.5 + chance.random()) * (for_ns + QUIET_AFTER_NS)
                session.quiet_until_ns = gone_ns + int(quiet_ns)
        strike = self._cut if chance.random() < 0.5 else self._connection_reset
        world.at(gone_ns, strike, node, for_ns)
        off_ns = gone_ns + int((0.8 + chance.random()) * for_ns)
        if chance.random() < 0.5 and off_ns < FAULTS_TO_NS:  # just when it is back, or soon
            world.at(off_ns, self._power_off, chance.choice(world.nodes), for_ns)

    def _link_queue_full(self, node: "Node", for_ns: int) -> None:
        """Its socket takes nothing more, and what prld has to say leaves little room or none."""
        bodies = self.world.random.choice([BULK_BYTES[:1], BULK_BYTES[:2], BULK_BYTES])
        if self.world.socket_bytes < self.world.link_queue_max:
            return  # it would take seconds until all of that has left
        if node.runs and node.control and node.control.is_up() and not node.asleep:
            node.link_stuck, node.host.link_room = True, 0
            node.control.fill_link(bodies)
            self.world.at(self.world.now_ns + for_ns, self._unstick, node)

    def _unstick(self, node: "Node") -> None:
        node.link_stuck = False
        node.link_drained()

    # -- processes

    def _pause(self, node: "Node", for_ns: int) -> None:
        node.pause(for_ns)

    def _both_paused(self, node: "Node", for_ns: int) -> None:
        for each in (node, node.other):
            each.pause(int(for_ns * (0.8 + 0.4 * self.world.random.random())))

    def _machine_paused(self, node: "Node", for_ns: int) -> None:
        """Kernel and all; the clock goes on."""
        if node.hears_lan:  # README.md: what is left out
            node.sleep(for_ns, clock_stands=False)

    def _clock_stands(self, node: "Node", for_ns: int) -> None:
        """A virtual machine is suspended: nothing in it knows, when it goes on."""
        if node.hears_lan:  # README.md: what is left out
            node.sleep(for_ns, clock_stands=True)

    def _owner_dies_unseen(self, node: "Node", for_ns: int) -> None:
        """It has gone on alone while the other machine was suspended, whose lease did not age."""
        world = self.world
        asleep_ns = ALONE_FROM_NS + int(60 * MS * world.random.random())
        if world.now_ns + asleep_ns < FAULTS_TO_NS and node.hears_lan:
            node.sleep(asleep_ns, clock_stands=True)
            world.at(world.now_ns + asleep_ns - MS, self._power_off, node.other, for_ns)

    def _stall_in_a_pass(self, node: "Node", for_ns: int) -> None:
        node.stall = (self.world.random.randint(1, 40), for_ns)

    def _stall_at_the_decision(self, node: "Node", for_ns: int) -> None:
        self.world.lan_loss = 1.0
        self._cut(node, for_ns)
        node.stall, node.stall_silent = (self.world.random.randint(1, 40), for_ns), True

    def _prld_killed(self, node: "Node", for_ns: int) -> None:
        if not node.hears_lan or node.asleep:
            return  # README.md: what is left out
        node.kill_prld()
        self.world.at(self.world.now_ns + for_ns, self._restart_prld, node)

    def _slow_reader(self, node: "Node", _for_ns: int) -> None:
        if node.powered:
            self._read_slowly(node, 1)

    def _read_slowly(self, node: "Node", slow: int) -> None:
        for session in self.world.sessions:
            if (sock := node.sock(session)) is not None:
                sock.slow = slow

    def _slow_passes(self, node: "Node", for_ns: int) -> None:
        """Each comes late, as on a machine whose CPUs others want."""
        node.slow_ns = int(self.world.random.random() * 30 * MS)
        self._later(for_ns, node, "slow_ns", 0)

    def _wake_ups_lost(self, node: "Node", for_ns: int) -> None:
        """Only the timer brings the loop to run."""
        node.deaf = True
        self._later(for_ns, node, "deaf", False)

    def _control_plane_late(self, node: "Node", for_ns: int) -> None:
        """Its thread is not scheduled; the datapath is."""
        if (control := node.control) is not None:
            control.busy_ns = for_ns
            self._later(for_ns, control, "busy_ns", 0)

    def _kernel_drops(self, node: "Node", for_ns: int) -> None:
        """What is given to the stack does not all reach the socket (R8)."""
        if node.powered:
            node.host.drop_chance = 1 << 30
            self.world.at(self.world.now_ns + for_ns, self._stop_dropping, node)

    def _stop_dropping(self, node: "Node") -> None:
        if node.powered:
            node.host.drop_chance = self.world.drop_chance

    # -- words

    def _takeover_requested(self, node: "Node", _for_ns: int) -> None:
        if node.runs and node.control and not node.asleep:
            node.control.request_takeover(self.world.random.randrange(len(self.world.first_owner)))
            node.wake()

    def _renounce(self, node: "Node", for_ns: int) -> None:
        if node.runs and node.control and not node.asleep:
            service = self.world.random.randrange(len(self.world.first_owner))
            if node.control.renounce(service):
                self.world.count("renounced")
                if self.world.random.random() < 0.4:  # … to somebody who does not hear it now
                    node.other.pause(for_ns)
                    self._lan_silent(node, for_ns)
            node.wake()

    def _switchover(self, node: "Node", for_ns: int) -> None:
        world, chance = self.world, self.world.random
        if node.runs and node.control and not node.asleep:
            service = chance.randrange(len(world.first_owner))
            if node.control.switchover(service, forced=chance.random() < 0.2):
                world.count("switchover asked for")
                if chance.random() < 0.5:  # … and something goes wrong in the middle of it
                    kind = chance.choice(
                        ("pause", "cut", "connection reset", "cut one way", "delay", "power off",
                         "prld killed", "stall in a pass")
                    )  # fmt: skip
                    after_ns = int(chance.random() * 10 * world.latency_base_ns)
                    strike = getattr(self, "_" + kind.replace(" ", "_"))
                    world.at(world.now_ns + after_ns, strike, chance.choice(world.nodes), for_ns)
            node.wake()

    def _flow_given_up(self, node: "Node", _for_ns: int) -> None:
        if node.runs and node.control and not node.asleep:
            node.control.request_fail(self.world.random.choice(self.world.sessions))
            node.wake()

    # -- machines

    def _power_off(self, node: "Node", for_ns: int) -> None:
        world = self.world
        if not node.other.powered:
            return  # with both gone there is nothing left to see
        node.power_off()
        if world.random.random() < 0.6:
            self.returning.add(node.index)
            world.at(world.now_ns + for_ns, self._power_on, node)

    def _power_on(self, node: "Node") -> None:
        if not node.powered:
            self.world.count("restarted")
            node.boot()
            for session in self.world.sessions:
                self._forget_lost(session.number)

    def _forget_lost(self, number: int) -> None:
        """A session whose only socket was on a machine that lost its power is over."""
        world = self.world
        session = world.sessions[number]
        if not session.over and not any(n.sock(session) is not None for n in world.nodes):
            session.over = "lost"
            world.count("session lost with its machine")

    def _restart_prld(self, node: "Node") -> None:
        if node.asleep:
            self.world.at(self.world.now_ns + MS, self._restart_prld, node)
        elif node.powered and node.control is None:
            self.world.count("prld restarted")
            node.start_prld()

    def put_nothing_right(self) -> None:
        """What is broken stays so."""
        self._heals = False

    def _heal_all(self) -> None:
        """From now on nothing new goes wrong, and all that can be is put right."""
        world = self.world
        if not self._heals:
            return
        self.delay_ns = 0
        for session in world.sessions:
            session.quiet_until_ns = 0
        world.join()
        world.store.reached, world.store.loss = [True, True], 0.0
        world.setup_fails, world.lan_loss = 0.0, 0.0
        world.heal_link()
        for node in world.nodes:
            node.mend_lan()
        for node in world.nodes:
            node.thaw()
            node.stall, node.stall_silent = None, False
            self._unstick(node)
            node.slow_ns, node.deaf = 0, False
            node.resume(node.control)
            if node.powered:
                node.host.drop_chance = node.host.short_chance = 0
            if node.control is not None:
                node.control.hurry()
                node.paused_until_ns = min(node.paused_until_ns, world.now_ns)
                node.wake()
            if node.index in self.returning:
                self._power_on(node)
            self._restart_prld(node)
            if node.powered:
                self._read_slowly(node, 0)
