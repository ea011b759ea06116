"""What the kernel tells of TCP sockets on the loopback device."""

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from prl.endpoint import Side
from prl.errors import UsageError
from prl.kernel import descriptors, sock_diag
from prl.kernel.sock_diag import SockDiag, TcpSocket

SO_COOKIE = 57
Pair = tuple[socket.socket, socket.socket, socket.socket]


@pytest.fixture(params=["127.0.0.1", "::1"], name="pair")
def _pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Listener, client, server."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((request.param, port)) as client:
            server, _ = listener.accept()
            with server:
                yield listener, client, server


def side(name: tuple[str, int]) -> Side:
    return ip_address(name[0]), name[1]


def ends(sock: socket.socket) -> tuple[Side, Side]:
    return side(sock.getsockname()[:2]), side(sock.getpeername()[:2])


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_a_connection_is_found_by_its_ends(pair: Pair) -> None:
    _, client, server = pair
    for sock in (client, server):
        with SockDiag() as diag:
            found = diag.find(sock.family, sock_diag.identity(*ends(sock)))
        assert (found.local, found.remote) == ends(sock)
        assert (found.state, found.inode) == (sock_diag.ESTABLISHED, inode(sock))
        assert found.device == 0


def test_a_cookie_names_one_socket_and_no_other(pair: Pair) -> None:
    _, client, _ = pair
    raw = client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
    with SockDiag() as diag:
        named = sock_diag.identity(*ends(client), cookie=sock_diag.cookie_bytes(raw))
        assert diag.find(client.family, named).inode == inode(client)
        other = sock_diag.identity(*ends(client), cookie=b"\0\0\0\0\0\0\0\1")
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is what matters
            diag.find(client.family, other)
        assert caught.value.errno in {errno.ENOENT, errno.ESTALE}


def test_all_of_a_state_are_listed_with_what_was_asked_for(pair: Pair) -> None:
    listener, client, _ = pair

    def of(states: int) -> dict[int, TcpSocket]:
        with SockDiag() as diag:
            found = diag.sockets(listener.family, states, sock_diag.CONGESTION)
            return {one.inode: one for one in found}

    assert inode(client) not in of(1 << sock_diag.LISTEN)
    connected = of(1 << sock_diag.ESTABLISHED)
    assert inode(listener) not in connected
    name = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")
    assert connected[inode(client)].congestion == name.decode()


def test_the_listener_is_not_taken_for_a_connection_of_its_port(pair: Pair) -> None:
    listener, client, _ = pair
    local, remote = side(listener.getsockname()[:2]), ends(client)[0]
    assert descriptors.inode_of_tuple(local, remote) == inode(pair[2])
    with pytest.raises(UsageError, match="there is no connection"):
        descriptors.inode_of_tuple(local, (remote[0], remote[1] ^ 1))
    (found,) = descriptors.sockets_on(local, sock_diag.LISTEN)
    assert found.inode == inode(listener)
