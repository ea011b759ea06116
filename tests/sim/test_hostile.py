"""What the other node's messages name is looked at, in the datapath as it is shipped (R29)."""

from collections.abc import Iterator

import pytest

from tests.sim.test_situations import Calm, calm_world


@pytest.fixture
def world() -> Iterator[Calm]:
    with calm_world() as calm:
        yield calm


@pytest.mark.parametrize(("other_half", "generation"), [(False, 1), (True, 0)])
def test_a_set_up_that_names_what_its_sender_cannot_have_ends_the_link(
    world: Calm, other_half: bool, generation: int
) -> None:
    """A shadow under the handle of one of our own primaries would take its place, without VOID."""
    session = world.sessions[0]
    owner = world.nodes[world.first_owner[session.service]]
    lib, ffi = owner.lib, owner.ffi
    world.until(lambda: owner.flow(session).state == lib.PRL_PRIMARY_ACTIVE)
    msg, at = ffi.new("struct prl_msg *"), ffi.new("size_t *")
    msg.type, msg.generation, msg.bits = lib.PRL_MSG_SETUP, generation, lib.PRL_SETUP_LAST
    msg.handle = owner.flow(session).handle ^ (other_half << 31)
    body = ffi.new("uint8_t[]", 64)
    assert lib.prl_tlv_put(body, 64, at, lib.PRL_TLV_SNAPSHOT, 1, b"nothing", 7) == 0
    assert lib.prl_dp_link_send(owner.other.dp, msg, body, at[0]) == 0
    status = ffi.new("struct prl_dp_status *")

    def refused() -> bool:
        lib.prl_dp_status(owner.dp, status)
        return bool(status.counters.link_refused == 1)

    world.until(refused)
