"""Single situations, without chance."""

from collections.abc import Callable, Iterator

import pytest

from tests.sim.build import product
from tests.sim.core import MS
from tests.sim.node import FENCED, Node
from tests.sim.world import World, watch

SEED = 2
BODIES_BYTES = (60_000, 500, 4)


class Calm(World):
    """A world in which nothing goes wrong by itself."""

    def until(self, what: Callable[[], bool]) -> None:
        """Let it go on; what does not come within a second never does."""
        end_ns = self.now_ns + 1000 * MS
        while not what():
            assert self.now_ns < end_ns
            self.step()


@pytest.fixture
def world() -> Iterator[Calm]:
    calm = Calm(SEED, product(), faults=("slow reader",))
    watch(calm)
    yield calm
    calm.close()


def fill_link(node: Node) -> None:
    """Nothing leaves any more, and no packet finds room."""
    node.host.link_room = 0
    msg, lib = node.ffi.new("struct prl_msg *"), node.lib
    msg.type = lib.PRL_MSG_OFFER
    body = node.ffi.new("uint8_t[]", max(BODIES_BYTES) + 64)
    for count in BODIES_BYTES:
        at = node.ffi.new("size_t *")
        text = bytes(count)
        assert lib.prl_tlv_put(body, len(body), at, lib.PRL_TLV_TEXT, 0, text, count) == 0
        while lib.prl_dp_link_send(node.dp, msg, body, at[0]) == 0:
            assert not node.host.link_out_bytes


def test_input_of_a_moved_session_is_no_primarys(world: Calm) -> None:
    """A void session's state reads as an active primary's where the two share memory."""
    session = world.sessions[0]
    old = world.nodes[world.first_owner[session.service]]
    new = old.other
    world.until(lambda: old.flow(session).state == old.lib.PRL_PRIMARY_ACTIVE)
    assert old.control is not None
    world.until(lambda: bool(old.control and old.control.switchover(session.service, forced=False)))
    world.until(lambda: bool(new.flow(session).relaying))
    new.lib.sim_frame(new.host, session.number, session.snd_nxt, 100, session.rcv_nxt, 0)
    new.lib.prl_dp_service_set(new.dp, session.service, FENCED)
    flow = new.flow(session)
    assert flow.relaying
    assert flow.state == new.lib.PRL_SECONDARY_VOID == new.lib.PRL_PRIMARY_ACTIVE
    fill_link(new)
    status = new.ffi.new("struct prl_dp_status *")
    new.lib.prl_dp_status(new.dp, status)
    full = int(status.counters.link_tx_full)
    new.lib.sim_turn(new.host)
    new.lib.prl_dp_status(new.dp, status)
    assert status.counters.link_tx_full == full


def test_an_owner_that_has_replaced_nobody_silences_nobody(world: Calm) -> None:
    """Its claim may arrive when it has been replaced itself."""
    session = world.sessions[0]
    owner = world.nodes[world.first_owner[session.service]]
    claims: list[tuple[Node, bytes]] = []
    announce = world.claim

    def noted(sender: Node, service: int, token: bytes) -> None:
        claims.append((sender, token))
        announce(sender, service, token)

    world.claim = noted  # type: ignore[method-assign]
    world.until(lambda: owner.flow(session).state == owner.lib.PRL_PRIMARY_ACTIVE)
    assert claims
    assert not any(any(token) for _, token in claims)
    claims.clear()
    assert owner.control is not None
    world.until(
        lambda: bool(owner.control and owner.control.switchover(session.service, forced=False))
    )
    world.until(lambda: bool(owner.other.flow(session).relaying))
    assert any(sender is owner.other and any(token) for sender, token in claims)
