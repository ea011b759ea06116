"""What goes wrong in one seed, and when it is put right."""

from typing import TYPE_CHECKING

from tests.sim.core import MS

if TYPE_CHECKING:
    from tests.sim.world import Node, World

FAULTS_FROM_NS, FAULTS_TO_NS = 120 * MS, 800 * MS
KINDS = (
    "delay", "cut", "cut one way", "cut one way", "pause", "pause", "stall in a pass",
    "stall at the decision", "prld killed", "power off", "LAN silent", "slow reader",
    "slow reader", "connection reset", "takeover requested", "renounce", "flow given up",
    "both paused",
)  # fmt: skip


class Faults:
    """The plan of one seed. LAN and link are never cut at once (L6 is the owner's own affair)."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.delay_ns = 0
        self.returning: set[int] = set()
        chance = world.random
        self.lan_only = chance.random() < 0.08
        for _ in range(chance.choice([1, 2, 2, 3, 4, 6])):
            at_ns = chance.randint(FAULTS_FROM_NS, FAULTS_TO_NS - 50 * MS)
            world.at(at_ns, self._strike)
        world.at(FAULTS_TO_NS, self._heal_all)

    def _strike(self) -> None:
        world, chance = self.world, self.world.random
        kind = chance.choice(KINDS)
        node = world.nodes[chance.randint(0, 1)]
        for_ns = int(chance.choice([15, 60, 130, 250, 450, 700]) * MS * (0.7 + chance.random()))
        if self.lan_only:
            kind = "LAN cut"
        world.count(f"fault: {kind}")
        if world.trace is not None:
            world.note(f"  (node {node.index}, {for_ns / MS:.0f} ms)")
        if kind == "LAN cut":
            world.lan_cut = True
            world.at(world.now_ns + for_ns, setattr, world, "lan_cut", False)
        elif kind == "delay":
            self.delay_ns = int(chance.random() * 120 * MS)
            world.at(world.now_ns + for_ns, setattr, self, "delay_ns", 0)
        elif kind in {"cut", "cut one way"}:
            world.cut[node.index] = True
            if kind == "cut":
                world.cut[1 - node.index] = True
            world.at(world.now_ns + for_ns, world.heal_link)
        elif kind == "LAN silent":
            before, world.lan_loss = world.lan_loss, 1.0
            world.at(world.now_ns + for_ns, setattr, world, "lan_loss", before)
        elif kind == "both paused":
            for each in world.nodes:
                each.pause(int(for_ns * (0.8 + 0.4 * chance.random())))
        elif kind == "power off":
            self._power_off(node, for_ns)
        else:
            self._strike_node(kind, node, for_ns)

    def _strike_node(self, kind: str, node: "Node", for_ns: int) -> None:
        world, chance = self.world, self.world.random
        if kind == "pause":
            node.pause(for_ns)
        elif kind == "stall in a pass":
            node.stall = (chance.randint(1, 4), for_ns)
        elif kind == "stall at the decision":
            world.cut, world.lan_loss = [True, True], 1.0
            node.stall, node.stall_silent = (3, for_ns), True
            world.at(world.now_ns + for_ns, world.heal_link)
        elif kind == "prld killed":
            node.kill_prld()
            world.at(world.now_ns + for_ns, self._restart_prld, node)
        elif kind == "slow reader":
            for sock in node.kernel.socks.values():
                sock.slow = True
        elif kind == "connection reset" and node.runs and node.prld:
            node.prld.drop_link()
            node.wake()
        elif kind == "takeover requested" and node.runs and node.prld:
            node.prld.request_takeover(chance.randrange(len(world.first_owner)))
            node.wake()
        elif kind == "renounce" and node.runs and node.prld:
            if node.prld.renounce(chance.randrange(len(world.first_owner))):
                world.count("renounced")
            node.wake()
        elif kind == "flow given up" and node.runs and node.prld:
            node.prld.request_fail(chance.choice(world.sessions))
            node.wake()

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
        if not session.over and not any(
            n.powered and number in n.kernel.socks for n in world.nodes
        ):
            session.over = "lost"
            world.count("session lost with its machine")

    def _restart_prld(self, node: "Node") -> None:
        if node.powered and node.prld is None:
            self.world.count("prld restarted")
            node.start_prld()

    def _heal_all(self) -> None:
        """From now on nothing new goes wrong, and all that can be is put right."""
        world = self.world
        world.lan_cut, self.delay_ns, world.memory_short = False, 0, 0.0
        world.setup_fails, world.lan_loss = 0.0, 0.0
        world.heal_link()
        for node in world.nodes:
            node.stall, node.stall_silent = None, False
            node.resume(node.prld)
            if node.paused_until_ns > world.now_ns:
                node.paused_until_ns = world.now_ns
                node.wake()
            if node.index in self.returning:
                self._power_on(node)
            self._restart_prld(node)
            if node.powered:
                for sock in node.kernel.socks.values():
                    sock.slow = False
