"""Whether an address is in use, from the answers to several probes (L6)."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from msgspec.structs import replace

from prl.bindings.datapath import LogicalInterface
from prl.config import parse
from prl.daemon.host.network import NextHop
from prl.daemon.ownership import probe
from prl.daemon.ownership.evidence import Evidence, who_answers
from prl.daemon.ownership.probe import ANSWERS, DEAF_ROUNDS_MAX, PROBES, Answers
from prl.endpoint import Address
from prl.errors import KernelError
from tests.unit.test_config import GOOD

MINE, YOURS = IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101")


def rounds(*heard: set[Address]) -> tuple[set[Address], int]:
    """The users, and how many rounds it took; nothing is heard in the rounds behind those."""
    count, taken = Answers([MINE, YOURS]), 0
    while asked := count.begin():
        for address in heard[taken] if taken < len(heard) else ():
            assert address in asked or address in count.users
            count.hear(address)
            count.hear(address)  # twice in a round is once
        taken += 1
        count.hear(None)
    return count.users, taken


def test_nobody_answers() -> None:
    assert rounds() == (set(), PROBES)


@pytest.mark.parametrize("at", range(PROBES))
def test_one_answer_may_be_made_up_and_only_takes_longer(at: int) -> None:
    silent: list[set[Address]] = [set()] * at
    assert rounds(*silent, {MINE}) == (set(), at + 1 + PROBES)


@pytest.mark.parametrize("lost", range(PROBES))
def test_a_real_user_is_found_though_answers_get_lost(lost: int) -> None:
    silent: list[set[Address]] = [set()] * lost
    assert rounds({MINE}, *silent, {MINE})[0] == {MINE}


def test_who_answers_each_probe_is_known_as_soon_as_that_is_certain() -> None:
    both: set[Address] = {MINE, YOURS}
    assert rounds(*[both] * PROBES) == ({MINE, YOURS}, ANSWERS)


def test_a_round_in_which_the_lan_is_not_heard_shows_that_nobody_answers_no_more_than_silence() -> (
    None
):
    count, rounds_heard = Answers([MINE]), [True, False, False, True, True]
    asked = 0
    heard = True
    while count.begin(heard=heard):
        asked += 1
        heard = rounds_heard.pop(0)
    assert (asked, count.users, count.deaf) == (5, set(), 2)


def test_an_answer_counts_in_any_round() -> None:
    count = Answers([MINE])
    for _ in range(ANSWERS):
        assert count.begin(heard=False)
        count.hear(MINE)
    assert not count.begin(heard=False)
    assert count.users == {MINE}


def test_an_address_is_free_only_while_somebody_answers_on_the_lan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At boot the cable may be out: nothing that is asked gets out, and nobody answers (F18)."""
    monkeypatch.setattr(probe, "PROBE_INTERVAL_S", 0.0)

    class Deaf:
        asked, heard_from, why_deaf = 0, 1000, "nobody answers"

        def ask(self) -> None:
            self.asked += 1

        def was_heard(self) -> bool:
            return self.asked > self.heard_from

    def ask(evidence: Any) -> set[Address]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            return asyncio.run(probe._ask(ours, bytes(6), {MINE}, evidence, defends=False))

    deaf, back = Deaf(), Deaf()
    with pytest.raises(KernelError, match="nobody answers"):
        ask(deaf)
    assert deaf.asked == DEAF_ROUNDS_MAX
    back.heard_from = 4
    assert ask(back) == set()
    assert back.asked == back.heard_from + PROBES


def test_what_is_evidence_of_the_lan() -> None:
    """Somebody's answer to what this node has asked; nothing that anybody says to all (F25)."""
    own, other = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
    sender = bytes(6) + MINE.packed + bytes(10)
    reply = own + other + b"\x08\x06\0\1\x08\0\6\4\0\2" + sender
    request = own + other + b"\x08\x06\0\1\x08\0\6\4\0\1" + sender
    assert who_answers(reply, own) == MINE
    for bad in (request, b"\xff" * 6 + reply[6:], own + own + reply[12:]):
        assert who_answers(bad, own) is None
    source, target = (IPv6Address(f"2001:db8::{end}") for end in (1, 2))
    ipv6 = b"\x86\xdd" + bytes(6) + b"\x3a\xff" + source.packed + bytes(16)
    for kind, whose in ((129, source), (136, target), (135, None), (128, None)):
        frame = own + other + ipv6 + bytes([kind]) + bytes(7) + target.packed
        assert who_answers(frame, own) == whose
        for length in range(len(frame)):
            who_answers(frame[:length], own)
    for length in range(len(reply)):
        who_answers(reply[:length], own)


def test_who_knows_nobody_listens_to_machines() -> None:
    """A port that a switch does not forward on yet gets BPDUs, and nobody's packets."""
    lan = LogicalInterface("lan0", 1, b"\2\0\0\0\0\1", 1)
    evidence = Evidence(parse(GOOD), lan, [])
    other = b"\2\0\0\0\0\2"
    request, bpdu = b"\x08\x06\0\1\x08\0\6\4\0\1" + bytes(20), b"\0\x26\x42\x42\3" + bytes(35)
    for frame, counts in (
        (other + request, True),
        (other + bpdu, False),
        (lan.mac + request, False),
    ):
        assert evidence._counts(b"\xff" * 6 + frame) == counts
        assert not evidence._counts((b"\xff" * 6 + frame)[:13])


def test_who_is_asked_for_evidence() -> None:
    """Those that the kernel knows, but the other node, and all nodes where there is IPv6."""
    config = parse(GOOD)
    lan = LogicalInterface("lan0", 1, b"\2\0\0\0\0\1", 1)
    hops = [
        NextHop(IPv4Address("192.0.2.1"), "02:00:00:00:00:09"),
        NextHop(config.lan.peer_address, "02:00:00:00:00:08"),
    ]
    frames = Evidence(config, lan, hops)._frames
    assert frames[0][:6] == b"\2\0\0\0\0\x09"
    assert frames[0][6:14] == lan.mac + b"\x08\x06"
    assert len(frames) == 1 + (config.lan.address6 is not None)


def test_where_there_are_witnesses_nobody_else_is_asked_or_counts() -> None:
    """Two racks that are cut off from each other have neighbours on both sides (F19)."""
    witness, stranger = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
    config = parse(GOOD)
    config = replace(config, lan=replace(config.lan, witnesses=[witness]))
    lan = LogicalInterface("lan0", 1, b"\2\0\0\0\0\1", 1)
    evidence = Evidence(config, lan, [NextHop(stranger, "02:00:00:00:00:09")])
    (question,) = evidence._frames
    assert question[:6] == b"\xff" * 6
    assert question[38:42] == witness.packed
    head = lan.mac + b"\2\0\0\0\0\2\x08\x06\0\1\x08\0\6\4\0\2" + bytes(6)
    for who, counts in ((stranger, False), (witness, True)):
        assert evidence._counts(head + who.packed + bytes(10)) == counts


def test_a_witness_is_asked_by_the_group_of_its_address() -> None:
    """RFC 4861, 7.2.2: its MAC address is not known."""
    config = parse(GOOD)
    own, witness = IPv6Address("2001:db8::10"), IPv6Address("2001:db8::12:3456")
    lan = replace(config.lan, witnesses=[witness], address6=own, peer_address6=witness)
    there = LogicalInterface("lan0", 1, b"\2\0\0\0\0\1", 1)
    (question,) = Evidence(replace(config, lan=lan), there, [])._frames
    assert question[:6] == bytes.fromhex("3333ff123456")
    assert question[38:54] == IPv6Address("ff02::1:ff12:3456").packed
    assert question[62:78] == witness.packed


@pytest.mark.parametrize("address", [MINE, IPv6Address("2001:db8::100")])
def test_who_only_probes_for_what_a_node_defends_does_not_use_it(address: Address) -> None:
    """A silent owner probes until nobody answers, and a defender's kernel answers it."""
    theirs, ours = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
    asks = probe.probe_frame(theirs, address)
    assert probe.user_in(asks, ours) == address  # two that begin know by it
    assert probe.user_in(asks, ours, defends=True) is None
    assert probe.user_in(asks, theirs) is None


def test_who_answers_uses_it_whoever_asks() -> None:
    theirs, ours = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
    asks = bytearray(probe.probe_frame(theirs, MINE))
    asks[20:22], asks[28:32] = b"\0\2", MINE.packed  # a reply, by which the sender has it
    assert probe.user_in(bytes(asks), ours, defends=True) == MINE
