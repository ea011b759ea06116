"""The snapshot of a UDP socket: what comes out is what went in, and nothing else is believed."""

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import msgspec
import pytest

from prl.shadow import (
    Endpoint,
    SnapshotError,
    UdpSnapshot,
    UnreadError,
    decode_udp,
    encode_udp,
    take_udp,
)
from prl.shadow.snapshot import NetworkOptions

V4, V6 = bytes([192, 0, 2, 1]), bytes.fromhex("20010db8000000010000000000000001")
SNAPSHOT = UdpSnapshot(
    family=socket.AF_INET,
    local=Endpoint(V4, 7000),
    remote=Endpoint(V4, 40000),
    reuse_port=True,
    network=NetworkOptions(tos=4, ttl=64, min_ttl=255, bound_device="lan0"),
)


def test_it_comes_back_as_it_was() -> None:
    assert decode_udp(encode_udp(SNAPSHOT)) == SNAPSHOT
    assert str(SNAPSHOT) == "udp:192.0.2.1:7000 <-> 192.0.2.1:40000"


def test_a_socket_without_a_peer_comes_back_as_it_was() -> None:
    snapshot = replace(SNAPSHOT, remote=None)
    assert decode_udp(encode_udp(snapshot)) == snapshot
    assert str(snapshot) == "udp:192.0.2.1:7000 <-> *"


def test_members_of_a_later_version_are_skipped() -> None:
    fields = msgspec.msgpack.decode(encode_udp(SNAPSHOT)) | {"later": [1, 2]}
    assert decode_udp(msgspec.msgpack.encode(fields)) == SNAPSHOT


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SNAPSHOT, version=3),
        replace(SNAPSHOT, family=int(socket.AF_INET6)),
        replace(SNAPSHOT, remote=Endpoint(V6, 1)),
        replace(SNAPSHOT, local=Endpoint(V6, 1), remote=None),
        replace(SNAPSHOT, family=99),
        replace(SNAPSHOT, network=replace(SNAPSHOT.network, bound_device="../lan0")),
        replace(SNAPSHOT, network=replace(SNAPSHOT.network, ttl=-1)),
    ],
)
def test_what_cannot_be_is_refused(wrong: UdpSnapshot) -> None:
    with pytest.raises(SnapshotError):
        decode_udp(encode_udp(wrong))


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x80", b"\x91" * 5000, bytes(17 << 20)])
def test_nonsense_is_refused(blob: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode_udp(blob)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as here,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as there,
    ):
        here.bind(("127.0.0.1", 0))
        there.bind(("127.0.0.1", 0))
        here.connect(there.getsockname())
        there.connect(here.getsockname())
        yield here, there


@pytest.mark.parametrize("datagram", [b"", b"x", bytes(9000)])
def test_only_an_empty_queue_can_be_taken(
    pair: tuple[socket.socket, socket.socket], datagram: bytes
) -> None:
    here, there = pair
    there.send(datagram)
    with pytest.raises(UnreadError, match="empty receive queue"):
        take_udp(here)
    assert here.recv(10000) == datagram
    snapshot = take_udp(here)
    assert (snapshot.local.port, snapshot.remote.port) == (
        here.getsockname()[1],
        there.getsockname()[1],
    )


def test_a_socket_without_a_peer_is_taken() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        snapshot = take_udp(sock)
        assert snapshot.remote is None
        assert snapshot.local.port == sock.getsockname()[1]
