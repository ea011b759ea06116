"""Ten thousand flows over one link that is lost again and again: the cores alone, no sockets."""

import random
from collections import deque
from typing import Any

from tests.sim.core import MASK, MS, Core
from tests.sim.tcp import ViolationError

EDGE_BYTES = 1 << 30
PAYLOAD_BYTES = 100


_WAYS_OUT = {"released_packets", "flushed_packets", "output_released", "output_flushed"}
"""Counters of where a packet may go, with every ``dropped_*``."""


def ways_out(ffi: Any) -> tuple[str, ...]:
    """The counters that say where packets went."""
    fields = ffi.typeof("struct prl_primary_counters").fields
    return tuple(n for n, _ in fields if n in _WAYS_OUT or n.startswith("dropped_"))


class ManyFlows:
    """One pair, ``flows`` flows in random order; the link keeps order, and dies between them."""

    def __init__(self, core: Core, flows: int, seed: int) -> None:
        self.core, self.ffi, self.lib = core, core.ffi, core.lib
        self.random = random.Random(seed)
        self.now_ns = 1000 * MS
        self.count = flows
        ffi = self.ffi
        self.primaries = ffi.new("struct prl_primary[]", flows)
        self.queues = ffi.new("struct prl_queues[]", flows)
        for number in range(flows):
            self.primaries[number].queues = self.queues + number
        self.shadows = ffi.new("struct prl_secondary[]", flows)
        self.pool = ffi.new("struct prl_pool *")
        assert self.lib.prl_pool_init(self.pool, 4 * flows) == 0
        self._end = ffi.gc(self.pool, self.lib.prl_pool_destroy)
        self.out = ffi.new("struct prl_actions *")
        self.words = ffi.new("uint32_t[2]")
        self.reason = ffi.new("uint8_t *")
        limits = self.limits = ffi.new("struct prl_primary_limits *")
        limits.packets_max, limits.bytes_max = 16, 100_000
        limits.answer_ns = limits.setup_ns = 10_000 * MS
        self.link: deque[tuple[str, int, int, int]] = deque()
        self.given = [0] * flows
        self.released: list[list[int]] = [[] for _ in range(flows)]
        self.accepted: list[list[int]] = [[] for _ in range(flows)]
        self.losses = self.opened = 0

    def act(self, number: int) -> None:
        """Do what flow ``number`` asks for."""
        lib, out = self.lib, self.out
        for index in range(out.count):
            action = out.action[index]
            if action.kind == lib.PRL_DO_REPLICATE:
                self.link.append(("data", number, action.hold.seq, action.hold.frame))
            elif action.kind in {lib.PRL_DO_RELEASE_INPUT, lib.PRL_DO_DROP}:
                pointer = self.ffi.addressof(action.chain)
                while (hold := lib.prl_chain_pop(pointer)) != self.ffi.NULL:
                    self.released[number].append(int(hold.frame))
                    lib.prl_pool_put(self.pool, hold)
        out.count = 0

    def protect(self, number: int, generation: int) -> None:
        """Set up and activate; half of the flows are close to the wrap of their numbers."""
        primary, shadow, lib = self.primaries + number, self.shadows + number, self.lib
        lib.prl_primary_open(primary, number + 1, generation, self.now_ns, self.limits, self.out)
        lib.prl_secondary_open(shadow, number + 1, generation, 0, EDGE_BYTES, 1)
        if number % 2:
            primary.in_next, primary.in_acked = MASK, MASK - 1
            shadow.in_next, shadow.in_accepted = MASK, MASK - 1
        self.released[number].clear()
        self.accepted[number].clear()
        self.act(number)
        lib.prl_primary_activate(primary, 0, EDGE_BYTES, EDGE_BYTES, 1, self.now_ns, self.out)
        self.act(number)

    def send(self, number: int) -> None:
        """A packet of the peer's."""
        hold = self.lib.prl_pool_get(self.pool)
        assert hold != self.ffi.NULL
        self.given[number] += 1
        hold.frame, hold.bytes, hold.tcp_end = self.given[number], PAYLOAD_BYTES, PAYLOAD_BYTES
        self.lib.prl_primary_input(
            self.primaries + number, hold, EDGE_BYTES, self.now_ns, self.limits, self.out
        )
        self.act(number)

    def deliver(self, messages: int) -> None:
        """Let the oldest messages arrive; every answer goes back at the end of the batch."""
        lib, due = self.lib, set()
        for _ in range(min(messages, len(self.link))):
            _, number, seq, frame = self.link.popleft()
            verdict = lib.prl_secondary_replicate(
                self.shadows + number, seq, EDGE_BYTES, PAYLOAD_BYTES, PAYLOAD_BYTES,
                PAYLOAD_BYTES, EDGE_BYTES, self.reason,
            )  # fmt: skip
            if verdict != lib.PRL_VERDICT_ACCEPT:
                raise ViolationError(f"flow {number}: message {seq} was not accepted")
            self.accepted[number].append(frame)
            due.add(number)
        for number in sorted(due):
            if lib.prl_secondary_take_ack(
                self.shadows + number, EDGE_BYTES, self.words, self.words + 1
            ):
                lib.prl_primary_ack(
                    self.primaries + number, self.words[0], 0, self.words[1], self.now_ns,
                    self.limits, self.out,
                )  # fmt: skip
                self.act(number)

    def lose_link(self) -> None:
        """Everything on its way is gone; every flow opens once the shadow is void (L4)."""
        lib = self.lib
        self.link.clear()
        self.losses += 1
        for number in range(self.count):
            primary = self.primaries + number
            if primary.state != lib.PRL_PRIMARY_ACTIVE:
                continue
            lib.prl_primary_fail(primary, lib.PRL_REASON_LINK_LOST, 0, self.now_ns, self.out)
            self.act(number)
            taken = self.released[number]
            if taken != self.accepted[number][: len(taken)]:
                raise ViolationError(
                    f"I1/I2: flow {number}: {taken} against {self.accepted[number]}"
                )
            lib.prl_secondary_void(self.shadows + number, lib.PRL_REASON_LINK_LOST)
            lib.prl_primary_void_done(primary, False, self.now_ns, self.out)
            self.act(number)
            if taken != sorted(taken):
                raise ViolationError(f"I2: flow {number} opened out of order: {taken}")
            self.opened += 1

    def audit(self) -> None:
        """I5: everything went up in order; counters add up; nothing has leaked."""
        names = ways_out(self.ffi)
        for number in range(self.count):
            counters = self.primaries[number].counters
            gone = sum(int(getattr(counters, name)) for name in names)
            if gone != self.given[number]:
                raise ViolationError(f"flow {number}: {self.given[number]} given, {gone} gone")
        if self.pool.used:
            raise ViolationError(f"{self.pool.used} hold entries have leaked")

    def run(self, epochs: int) -> None:
        """Protect all, send in between, lose the link in the middle of it; again and again."""
        for epoch in range(1, epochs + 1):
            order = list(range(self.count))
            self.random.shuffle(order)
            stop_at = self.random.randrange(self.count)
            for place, number in enumerate(order):
                self.protect(number, epoch)
                self.send(number)
                self.send(order[self.random.randrange(place + 1)])
                if place % 64 == 63:
                    self.now_ns += MS
                    self.deliver(self.random.randint(1, 200))
                if place == stop_at and epoch < epochs:
                    self.lose_link()  # in the middle: some are not protected yet
            self.lose_link()
        self.audit()
