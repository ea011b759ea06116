"""Hypothesis looks for a sequence of events that breaks the hold queue, the flow or the codec.

Checks R4, R26.
"""

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prl._core import ffi, lib

from tests.unit.core_support import Action, Primary

MASK = 0xFFFFFFFF
FAR = 1 << 30
FEW = settings(max_examples=60, stateful_step_count=60)


class HoldQueue(RuleBasedStateMachine):
    """Two chains against lists: nothing is lost, order stays, sums agree."""

    def __init__(self) -> None:
        super().__init__()
        pool = ffi.new("struct prl_pool *")
        assert lib.prl_pool_init(pool, 12) == 0
        self.pool = ffi.gc(pool, lib.prl_pool_destroy)
        self.chains = [ffi.new("struct prl_chain *") for _ in range(2)]
        self.models: list[list[tuple[int, int]]] = [[], []]
        self.next = MASK - 5  # the numbers wrap soon

    @rule(size=st.integers(0, 65_575))
    def push(self, size: int) -> None:
        hold = lib.prl_pool_get(self.pool)
        if sum(map(len, self.models)) == 12:
            assert hold == ffi.NULL
            return
        hold.seq, hold.bytes = self.next, size
        lib.prl_chain_push(self.chains[0], hold)
        self.models[0].append((self.next, size))
        self.next = (self.next + 1) & MASK

    @rule(which=st.integers(0, 1))
    def pop(self, which: int) -> None:
        hold = lib.prl_chain_pop(self.chains[which])
        if not self.models[which]:
            assert hold == ffi.NULL
            return
        assert (hold.seq, hold.bytes) == self.models[which].pop(0)
        lib.prl_pool_put(self.pool, hold)

    @rule(back=st.integers(0, 14))
    def split(self, back: int) -> None:
        seq = (self.next - back) & MASK
        lib.prl_chain_split(self.chains[0], seq, self.chains[1])
        model = self.models[0]
        while model and ((seq - model[0][0]) & MASK) < 1 << 31:
            self.models[1].append(model.pop(0))

    @rule()
    def append(self) -> None:
        lib.prl_chain_append(self.chains[1], self.chains[0])
        self.models[1] += self.models[0]
        self.models[0] = []

    @rule(back=st.integers(1, 14))
    def take(self, back: int) -> None:
        seq = (self.next - back) & MASK
        hold = lib.prl_chain_take(self.chains[0], seq)
        found = [entry for entry in self.models[0] if entry[0] == seq]
        assert (hold != ffi.NULL) == bool(found)
        if found:
            assert (hold.seq, hold.bytes) == found[0]
            self.models[0].remove(found[0])
            lib.prl_pool_put(self.pool, hold)

    @invariant()
    def agrees(self) -> None:
        for chain, model in zip(self.chains, self.models, strict=True):
            assert (chain.count, chain.bytes) == (len(model), sum(size for _, size in model))
            found, hold = [], chain.head
            while hold != ffi.NULL:
                found.append((int(hold.seq), int(hold.bytes)))
                hold = hold.next
            assert found == model
            assert (chain.tail == ffi.NULL) == (not model)
        assert self.pool.used == sum(map(len, self.models))


class PrimaryFlow(RuleBasedStateMachine):
    """Packets in, any answer a secondary on an in-order link may give: order stays, none leaks."""

    retry = False

    def __init__(self) -> None:
        super().__init__()
        self.primary = Primary(packets_max=6, bytes_max=5000)
        self.primary.limits.nack_retry = self.retry
        self.primary.limits.retries_max, self.primary.limits.retry_ns = 3, 1000
        self.names = self.generation = 0
        self.sent: deque[tuple[int, int]] = deque()  # number and name, unanswered
        self.accepted: list[int] = []
        self.up: list[int] = []
        self.gone: list[int] = []

    def note(self, actions: list[Action]) -> None:
        for action in actions:
            if action[0] == "replicate":
                self.sent.append((action[1], action[2]))
            elif action[0] == "release_input":
                self.up += action[1]
            elif action[0] in {"drop", "refuse"}:
                self.gone += action[1]
        assert len(actions) <= lib.PRL_ACTIONS_MAX

    @property
    def state(self) -> int:
        return int(self.primary.flow.state)

    @precondition(lambda self: self.state in {lib.PRL_PRIMARY_GONE, lib.PRL_PRIMARY_OPEN})
    @rule(wraps=st.booleans())
    def open(self, wraps: bool) -> None:
        self.generation += 1
        self.note(self.primary.open(self.generation))
        if wraps:
            flow = self.primary.flow
            flow.in_next, flow.in_acked = MASK - 1, MASK - 2
        self.sent.clear()
        self.accepted, self.up = [], []

    @precondition(lambda self: self.state == lib.PRL_PRIMARY_SETUP)
    @rule()
    def activate(self) -> None:
        self.note(self.primary.activate(edge=FAR, peer_edge=FAR))
        more = True
        while more:
            more, actions = self.primary.drain(FAR)
            self.note(actions)

    @precondition(lambda self: self.generation)
    @rule(payload=st.integers(0, 1400))
    def packet(self, payload: int) -> None:
        self.names += 1
        self.note(self.primary.input(self.names, 0, payload, size=payload + 40, edge=FAR))

    @precondition(lambda self: self.state == lib.PRL_PRIMARY_ACTIVE and self.sent)
    @rule(data=st.data())
    def accept(self, data: Any) -> None:
        last = data.draw(st.integers(1, len(self.sent)))
        for _ in range(last):
            number, name = self.sent.popleft()
            self.accepted.append(name)
        self.note(self.primary.ack(number, space=FAR))
        assert self.up == self.accepted, "I1"

    @precondition(lambda self: self.state == lib.PRL_PRIMARY_ACTIVE and self.sent)
    @rule()
    def no_space(self) -> None:
        number, name = self.sent.popleft()
        if self.retry:
            self.sent.clear()  # the secondary ignores what comes behind (go-back-N)
        self.note(self.primary.ack(number, lib.PRL_REASON_NO_SPACE, FAR))
        assert (name in self.gone) != self.retry
        assert self.state != lib.PRL_PRIMARY_ACTIVE or self.up == self.accepted, "I1"

    @precondition(lambda self: self.state == lib.PRL_PRIMARY_ACTIVE)
    @rule(ahead=st.integers(0, 5), reason=st.sampled_from([0, 1]))
    def nonsense(self, ahead: int, reason: int) -> None:
        number = (int(self.primary.flow.in_next) + ahead) & MASK
        assert self.primary.ack(number, reason, FAR) == []

    @rule()
    def time_passes(self) -> None:
        self.note(self.primary.tick(after_ms=7))
        if lib.prl_primary_wants_drain(self.primary.flow, self.primary.now_ns):
            self.note(self.primary.drain(FAR)[1])

    @rule(reason=st.sampled_from([lib.PRL_REASON_LINK_LOST, lib.PRL_REASON_REQUESTED]))
    def fail(self, reason: int) -> None:
        self.note(self.primary.fail(reason))

    @rule()
    def void_done(self) -> None:
        self.note(self.primary.void_done())

    @rule()
    def fence(self) -> None:
        self.note(self.primary.fence())

    @invariant()
    def in_order_and_complete(self) -> None:
        assert self.up == sorted(self.up), "I2"
        counters = self.primary.flow.counters
        names = [n for n, _ in ffi.typeof(counters).fields if n.startswith("dropped_")]
        gone = sum(int(getattr(counters, name)) for name in names)
        gone += int(counters.released_packets) + int(counters.flushed_packets)
        assert self.names == gone + self.primary.waiting()
        assert self.primary.pool.used == self.primary.waiting()


class PrimaryFlowRetry(PrimaryFlow):
    """The same with ``nack = retry`` (R5)."""

    retry = True


class Codec(RuleBasedStateMachine):
    """Messages through a stream that is cut anywhere: what comes out is what went in (R11)."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = bytearray()
        self.expected: deque[tuple[int, ...]] = deque()

    def _put(self, msg: Any, data: bytes) -> None:
        out = ffi.new("uint8_t[256]")
        kept = ffi.from_buffer(data) if data else ffi.NULL
        msg.data, msg.data_bytes = kept, len(data)
        done = lib.prl_wire_encode_prefix(msg, out, 256)
        assert done > 0
        padding = bytes(lib.prl_wire_padding(len(data)))
        self.stream += bytes(ffi.buffer(out, done)) + data + padding

    @rule(
        handle=st.integers(0, MASK), seq=st.integers(0, MASK), space=st.integers(0, MASK),
        data=st.binary(min_size=1, max_size=300), flags=st.integers(0, 0xFFFF),
    )  # fmt: skip
    def replicate(self, handle: int, seq: int, space: int, data: bytes, flags: int) -> None:
        msg = ffi.new("struct prl_msg *")
        msg.type, msg.handle, msg.seq = lib.PRL_MSG_REPLICATE, handle, seq
        msg.space, msg.packet_flags = space, flags
        self._put(msg, data)
        self.expected.append((lib.PRL_MSG_REPLICATE, handle, seq, space, flags, *data))

    @rule(
        handle=st.integers(0, MASK), seq=st.integers(0, MASK), space=st.integers(0, MASK),
        reason=st.integers(0, lib.PRL_REASON_COUNT - 1),
    )  # fmt: skip
    def ack(self, handle: int, seq: int, space: int, reason: int) -> None:
        msg, out = ffi.new("struct prl_msg *"), ffi.new("uint8_t[256]")
        msg.type, msg.handle, msg.seq = lib.PRL_MSG_ACK, handle, seq
        msg.space, msg.reason = space, reason
        done = lib.prl_wire_encode(msg, ffi.NULL, 0, out, 256)
        self.stream += bytes(ffi.buffer(out, done))
        self.expected.append((lib.PRL_MSG_ACK, handle, seq, space, reason))

    @rule(cut=st.integers(0, 400))
    def receive(self, cut: int) -> None:
        have = self.stream[:cut]
        while have:
            length = lib.prl_wire_length(ffi.from_buffer(have), len(have))
            assert length >= 0
            if length == 0 or length > len(have):
                return
            msg, whole = ffi.new("struct prl_msg *"), bytes(have[:length])
            assert lib.prl_wire_decode(ffi.from_buffer(whole), length, msg) == 0
            tail: tuple[int, ...] = (int(msg.reason),)
            if msg.type == lib.PRL_MSG_REPLICATE:
                tail = (int(msg.packet_flags), *bytes(ffi.buffer(msg.data, msg.data_bytes)))
            found = (int(msg.type), int(msg.handle), int(msg.seq), int(msg.space), *tail)
            assert found == self.expected.popleft()
            del have[:length]
            del self.stream[:length]

    def teardown(self) -> None:
        self.receive(len(self.stream))
        assert not self.stream
        assert not self.expected


TestHoldQueue = HoldQueue.TestCase
TestPrimaryFlow = PrimaryFlow.TestCase
TestPrimaryFlowRetry = PrimaryFlowRetry.TestCase
TestCodec = Codec.TestCase
for case in (TestHoldQueue, TestPrimaryFlow, TestPrimaryFlowRetry, TestCodec):
    case.settings = FEW
