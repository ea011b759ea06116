"""One epoch's connection: two streams of bytes, cut at will, with the time that they take."""

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.world import World

EOF = None
"""Stands in a pipe for the end of the connection."""


class Pipe:
    """One direction of one connection."""

    __slots__ = ("in_flight", "items", "last_ns")

    def __init__(self) -> None:
        self.items: deque[tuple[int, bytes | None]] = deque()
        self.last_ns = 0
        self.in_flight = 0


class Connection:
    """One epoch's connection between both nodes; pipes by sender."""

    def __init__(self, world: "World", epoch: int) -> None:
        self.world, self.epoch, self.born_ns = world, epoch, world.now_ns
        self.pipes = (Pipe(), Pipe())
        self.open = [True, True]
        self.hello: list[Any] = [None, None]

    def send(self, sender: int, data: bytes) -> None:
        """What the datapath has written."""
        random = self.world.random
        if len(data) > 1 and random.random() < self.world.cut_chance:
            at = random.randrange(1, len(data))  # TCP knows no messages
            self._put(sender, data[:at])
            data = data[at:]
        self._put(sender, data)

    def room(self, sender: int) -> int:
        """What the sender's socket takes."""
        if self.world.nodes[sender].link_stuck:
            return 0
        return max(0, self.world.socket_bytes - self.pipes[sender].in_flight)

    def _put(self, sender: int, item: bytes | None) -> None:
        world, pipe = self.world, self.pipes[sender]
        pipe.last_ns = max(pipe.last_ns, world.now_ns + world.latency_ns())
        pipe.items.append((pipe.last_ns, item))
        pipe.in_flight += len(item or b"")
        world.at(pipe.last_ns, self.arrive, sender)

    def arrive(self, sender: int) -> None:
        """What is due reaches the other node's kernel; its prld need not run."""
        world, pipe = self.world, self.pipes[sender]
        receiver = world.nodes[1 - sender]
        if world.cut[sender] or receiver.asleep:
            return
        while pipe.items and pipe.items[0][0] <= world.now_ns:
            item = pipe.items.popleft()[1]
            pipe.in_flight -= len(item or b"")
            if self.open[1 - sender] and receiver.connection is self:
                receiver.link_arrives(item)
        sending = world.nodes[sender]
        if sending.connection is self:
            sending.link_drained()

    def heal(self) -> None:
        """A direction works again: what waited arrives a little later."""
        for sender in (0, 1):
            if self.pipes[sender].items:
                self.world.at(self.world.now_ns + 2_000_000, self.arrive, sender)

    def close(self, closer: int) -> None:
        """``closer`` gave it up; the other side learns by FIN (behind the rest) or by RST."""
        if not self.open[closer]:
            return
        self.open[closer] = False
        self.pipes[1 - closer].items.clear()
        if self.world.random.random() < 0.5:
            self.pipes[closer].items.clear()
        if self.open[1 - closer]:
            self._put(closer, EOF)

    def vanish(self, node: int) -> None:
        """``node`` has lost its power: nothing more comes from it, nothing is said."""
        self.open[node] = False
        if self.world.nodes[1 - node].asleep and self.world.random.random() < 0.5:
            self.pipes[node].items.clear()  # nobody is left to send it again
