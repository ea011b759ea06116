"""The C core as the tests drive it: packets by name, actions as tuples that read well."""

from dataclasses import dataclass, field
from typing import Any

from prl._core import ffi, lib

MS = 1_000_000
"""Nanoseconds in a millisecond."""
EDGE_FAR = 1_000_000

Action = tuple[Any, ...]

_NAMES: dict[int, str] = {
    lib.PRL_DO_REPLICATE: "replicate",
    lib.PRL_DO_OUTPUT: "output",
    lib.PRL_DO_RELEASE_INPUT: "release_input",
    lib.PRL_DO_RELEASE_OUTPUT: "release_output",
    lib.PRL_DO_DROP: "drop",
    lib.PRL_DO_COMMIT: "commit",
    lib.PRL_DO_SEND_VOID: "send_void",
    lib.PRL_DO_STATE: "state",
    lib.PRL_DO_SEND_ACTIVE: "send_active",
    lib.PRL_DO_RELAY: "relay",
}


@dataclass
class Primary:
    """One flow's primary side with its pool; every event returns its actions.

    An action is ``(name, …)``: the number and name of a packet that is sent, the list of names of
    packets that are released or dropped, a sequence number, or ``(state, reason)``.
    """

    packets_max: int = 32
    bytes_max: int = 10_000
    answer_ms: int = 50
    setup_ms: int = 100
    now_ns: int = 1000 * MS
    pool_size: int = 256
    flow: Any = field(default_factory=lambda: ffi.new("struct prl_primary *"))
    queues: Any = field(default_factory=lambda: ffi.new("struct prl_queues *"))

    def __post_init__(self) -> None:
        self.limits = ffi.new("struct prl_primary_limits *")
        self.limits.packets_max = self.packets_max
        self.limits.bytes_max = self.bytes_max
        self.limits.answer_ns = self.answer_ms * MS
        self.limits.setup_ns = self.setup_ms * MS
        self.out = ffi.new("struct prl_actions *")
        pool = ffi.new("struct prl_pool *")
        assert lib.prl_pool_init(pool, self.pool_size) == 0
        self.pool = ffi.gc(pool, lib.prl_pool_destroy)

    def packet(
        self, name: int, tcp_seq: int, payload: int, *, size: int = 100, bits: int = 0
    ) -> Any:
        """An entry of the pool; ``name`` stands for its frame."""
        hold = lib.prl_pool_get(self.pool)
        assert hold != ffi.NULL
        hold.frame = name
        hold.bytes = size
        hold.tcp_seq = tcp_seq & 0xFFFFFFFF
        hold.tcp_end = (tcp_seq + payload) & 0xFFFFFFFF
        hold.bits = bits
        return hold

    def _free(self, chain: Any) -> list[int]:
        names = []
        while (hold := lib.prl_chain_pop(ffi.addressof(chain))) != ffi.NULL:
            names.append(int(hold.frame))
            lib.prl_pool_put(self.pool, hold)
        assert chain.count == 0
        assert chain.bytes == 0
        return names

    def _actions(self) -> list[Action]:
        assert self.out.count <= lib.PRL_ACTIONS_MAX
        found: list[Action] = []
        for index in range(self.out.count):
            action = self.out.action[index]
            name = _NAMES[action.kind]
            if name in {"replicate", "output"}:
                found.append((name, int(action.hold.seq), int(action.hold.frame)))
            elif name == "relay":
                found.append((name, int(action.hold.frame)))
            elif name in {"release_input", "release_output", "drop"}:
                if name == "drop" and action.reason == lib.PRL_REASON_NO_SPACE:
                    name = "refuse"  # dropped, and the peer is told
                found.append((name, self._free(action.chain)))
            elif name == "commit":
                found.append((name, int(action.seq)))
            elif name == "send_void":
                found.append((name, int(action.reason)))
            elif name == "state":
                found.append((name, int(self.flow.state), int(action.reason)))
            else:
                found.append((name,))
        if lib.prl_primary_is_quiet(self.flow):
            self.flow.queues = ffi.NULL
        return found

    def _lend(self) -> None:
        if not self.flow.queues:
            self.queues = self.flow.queues = ffi.new("struct prl_queues *")

    def open(self, generation: int = 1, handle: int = 7) -> list[Action]:
        lib.prl_primary_open(self.flow, handle, generation, self.now_ns, self.limits, self.out)
        return self._actions()

    def input(
        self,
        name: int,
        tcp_seq: int = 0,
        payload: int = 0,
        *,
        size: int = 100,
        edge: int = EDGE_FAR,
    ) -> list[Action]:
        hold = self.packet(name, tcp_seq, payload, size=size)
        edge &= 0xFFFFFFFF
        self._lend()
        lib.prl_primary_input(self.flow, hold, edge, self.now_ns, self.limits, self.out)
        return self._actions()

    def output(
        self, name: int, tcp_seq: int = 0, payload: int = 0, *, size: int = 100, bits: int = 0
    ) -> list[Action]:
        hold = self.packet(name, tcp_seq, payload, size=size, bits=bits)
        self._lend()
        lib.prl_primary_output(self.flow, hold, self.now_ns, self.limits, self.out)
        return self._actions()

    def activate(
        self,
        committed: int = 0,
        *,
        edge: int = EDGE_FAR,
        peer_edge: int = EDGE_FAR,
        known: bool = True,
    ) -> list[Action]:
        lib.prl_primary_activate(
            self.flow, committed, edge, peer_edge, known, self.now_ns, self.out
        )
        return self._actions()

    def drain(self, edge: int = EDGE_FAR) -> tuple[bool, list[Action]]:
        more = lib.prl_primary_drain(self.flow, edge, self.now_ns, self.limits, self.out)
        return bool(more), self._actions()

    def ack(self, seq: int, reason: int = 0, space: int = 0) -> list[Action]:
        lib.prl_primary_ack(self.flow, seq, reason, space, self.now_ns, self.limits, self.out)
        return self._actions()

    def output_ack(self, seq: int, tcp_seq: int, reason: int = 0) -> list[Action]:
        lib.prl_primary_output_ack(
            self.flow, seq, reason, tcp_seq, self.now_ns, self.limits, self.out
        )
        return self._actions()

    def fail(self, reason: int, *, link_up: bool = True) -> list[Action]:
        lib.prl_primary_fail(self.flow, reason, link_up, self.now_ns, self.out)
        return self._actions()

    def void_done(self, *, kept: bool = False) -> list[Action]:
        lib.prl_primary_void_done(self.flow, kept, self.now_ns, self.out)
        return self._actions()

    def resume(
        self, in_next: int, out_next: int, *, space: int = EDGE_FAR, refused: int | None = None
    ) -> tuple[bool, list[Action]]:
        """RESYNC of the secondary's, in an epoch that has begun."""
        position = ffi.new("struct prl_position *")
        position.in_next, position.out_next, position.space = in_next, out_next, space
        position.has_refused, position.refused = refused is not None, refused or 0
        goes_on = lib.prl_primary_resume(self.flow, position, self.now_ns, self.limits, self.out)
        return bool(goes_on), self._actions()

    def link_back(self) -> bool:
        return bool(lib.prl_primary_await(self.flow))

    def give_up(self) -> list[Action]:
        lib.prl_primary_give_up(self.flow, self.now_ns, self.out)
        return self._actions()

    def fence(self) -> list[Action]:
        lib.prl_primary_fence(self.flow, self.out)
        return self._actions()

    def tick(self, after_ms: int = 0, *, link_up: bool = True) -> list[Action]:
        self.now_ns += after_ms * MS
        lib.prl_primary_tick(self.flow, link_up, self.now_ns, self.out)
        return self._actions()

    def waiting(self) -> int:
        """Packets in the flow's four queues."""
        queues = self.queues
        chains = (queues.in_pending, queues.in_held, queues.out_pending, queues.out_held)
        return sum(int(chain.count) for chain in chains)

    def active(self) -> "Primary":
        """The same flow, replicated."""
        self.open()
        self.activate()
        return self
