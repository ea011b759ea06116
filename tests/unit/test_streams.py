"""Positions in a session's streams, over sockets and 64 bits."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from prl.daemon.session.streams import Streams
from tests.unit.test_snapshot_codec import SNAPSHOT


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            yield server, client


def positions(streams: Streams, sock: socket.socket) -> tuple[int, int]:
    """As a snapshot of the socket, at rest, would say."""
    now = Streams.at(sock)
    return streams.in_offset - now.in_offset, streams.out_offset - now.out_offset


def receive(sock: socket.socket, count: int) -> None:
    while count:
        count -= len(sock.recv(count))


def test_positions_follow_what_is_read_and_written(pair: Any) -> None:
    server, client = pair
    client.sendall(b"before")
    receive(server, 2)
    streams = Streams.at(server, 1000, 2**40)
    client.sendall(b"12345")
    server.sendall(b"x" * 70_000)
    reader = threading.Thread(target=receive, args=(client, 70_000))
    reader.start()
    receive(server, 4 + 3)
    reader.join()
    assert positions(streams, server) == (1000 + 7, 2**40 + 70_000)
    assert Streams(*streams.to_list()) == streams


def test_a_snapshot_tells_the_same() -> None:
    snapshot = replace(SNAPSHOT, unread=b"abc", unacked=b"de", in_bytes=2**33 - 3, out_bytes=7)
    assert Streams(-3, 10).of(snapshot) == (2**33 - 6, 17)
    assert Streams(-(2**40), 0).of(snapshot)[0] == 0


def test_datagrams_are_not_counted() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert Streams.at(sock, 5, 6) == Streams(0, 0)


def test_a_socket_that_receives_meanwhile_has_not_been_read(pair: Any) -> None:
    server, client = pair

    def send() -> None:
        for _ in range(2000):
            client.send(b"x" * 50)

    sender = threading.Thread(target=send)
    sender.start()
    found = {Streams.at(server).in_offset}
    while sender.is_alive():
        found.add(Streams.at(server).in_offset)
    sender.join()
    assert found == {0}
