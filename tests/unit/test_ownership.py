"""A service that the other node has claimed, and HELLO before the event that tells so."""

import socket
from collections import Counter
from collections.abc import Collection
from ipaddress import IPv4Address

import pytest

from prl.bindings.facts import Owner
from prl.daemon.host import orphaned_sockets
from prl.endpoint import Address
from tests.unit.test_withdrawal import TWO, Node, play, service

OWNER, STANDBY, NONE, FENCED = Owner.OWNER, Owner.STANDBY, Owner.NONE, Owner.FENCED
WHY = "the other node claimed it"


def test_what_was_taken_over_is_ended_before_hello_counts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was what this node owned the service for, and then the event ended it."""

    async def scene(node: Node) -> None:
        def established_on(addresses: Collection[Address]) -> Counter[tuple[Address, int]]:
            return Counter() if node.ended else Counter((address, 0) for address in addresses)

        monkeypatch.setattr(orphaned_sockets, "established_on", established_on)
        assert [one.sessions for one in node.ownership.describe()] == [0, 0]
        assert node.ended == [0]

    play(scene, FENCED, STANDBY)


def test_hello_looks_at_the_sockets_once_and_not_for_what_this_node_owns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host may have a hundred thousand, and the other node waits for the answer."""
    looks = []

    def established_on(addresses: Collection[Address]) -> Counter[tuple[Address, int]]:
        looks.append(set(addresses))
        return Counter((address, 0) for address in addresses)

    monkeypatch.setattr(orphaned_sockets, "established_on", established_on)

    async def scene(node: Node) -> None:
        looks.clear()
        assert [one.sessions for one in node.ownership.describe()] == [0, len(TWO)]
        assert [one.sessions for one in node.ownership.describe(counted=False)] == [0, 0]
        assert looks == [TWO]

    play(scene, OWNER, NONE)


def test_connections_are_counted_by_their_own_end() -> None:
    here, elsewhere = IPv4Address("127.0.0.7"), IPv4Address("127.0.0.8")
    with socket.create_server((str(here), 0)) as listener:
        with socket.create_connection(listener.getsockname()), listener.accept()[0]:
            assert orphaned_sockets.established_on({here, elsewhere}) == {(here, 0): 1}
        assert not orphaned_sockets.established_on({elsewhere})


def test_a_fencing_that_hello_has_settled_ends_nothing() -> None:
    """Its event comes late: what there is now is this node's."""

    async def scene(node: Node) -> None:
        said = node.ownership.describe(counted=False)
        node.ownership.settle(
            said, (service(0, state=NONE, term=0), service(1, state=OWNER, term=0))
        )
        assert node.dp.states == [OWNER, STANDBY]
        node.ended.clear()
        node.ownership.on_fenced(0, WHY)
        assert node.ended == []
        told = [record.facts["state"] for record in node.log.after(0, 1000)]
        assert told == ["owner"]

    play(scene, FENCED, STANDBY)


def test_a_fencing_ends_what_was_taken_over() -> None:
    async def scene(node: Node) -> None:
        node.ownership.on_fenced(0, WHY)
        assert node.ended == [0]

    play(scene, FENCED, STANDBY)
