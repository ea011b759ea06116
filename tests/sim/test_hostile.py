"""What the other node's messages name is looked at, in the datapath as it is shipped (R29)."""

import socket
from collections.abc import Iterator

import pytest

from tests.sim.test_situations import Calm, calm_world, protected

SYN, SSH = 2, 22


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


@pytest.mark.parametrize("is_called_icmp", [True, False])
def test_a_packet_that_is_not_the_flow_s_is_given_to_nobody(
    world: Calm, is_called_icmp: bool
) -> None:
    """It would be for whatever port of this host it names."""
    session = world.sessions[0]
    owner, standby = protected(world)
    lib, ffi = standby.lib, standby.ffi
    world.until(lambda: bool(standby.flow(session).used))
    key = ffi.new(
        "struct prl_flow_key *", standby.host.flow[standby.host.slot_of[session.number]].key
    )
    key.local_port = socket.htons(SSH)
    craft = ffi.new("struct prl_craft *", {"key": key, "from_peer": True, "tcp_flags": SYN})
    packet = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    count = lib.prl_packet_craft(craft, packet)
    msg, at = ffi.new("struct prl_msg *"), ffi.new("size_t *")
    msg.type, msg.handle = lib.PRL_MSG_REPLICATE, standby.flow(session).handle
    msg.packet_flags = lib.PRL_PACKET_ICMP if is_called_icmp else 0
    body = ffi.new("uint8_t[]", 2 * lib.PRL_CRAFT_MAX)
    assert (
        lib.prl_tlv_put(body, 2 * lib.PRL_CRAFT_MAX, at, lib.PRL_TLV_PACKET, 1, packet, count) == 0
    )
    assert lib.prl_dp_link_send(owner.dp, msg, body, at[0]) == 0
    world.until(lambda: standby.flow(session).state == lib.PRL_SECONDARY_VOID)
    assert standby.flow(session).reason == lib.PRL_REASON_MALFORMED
