"""The key that a connection's segments are signed with (RFC 2385): finding it, and setting it.

No socket option tells a key; sock_diag(7) does, to CAP_NET_ADMIN (net/ipv4/tcp_diag.c). Keys never
get into a message, a representation or a log from here.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network

from prl.kernel import sock_diag
from prl.shadow.sockopt import CallError, So, Sol, get_bytes, get_int_or, set_bytes_at

KEY_MAX_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN"""
_TCP_MD5SIG = 14  # linux/tcp.h

_KEY = struct.Struct("=BBH16s80s")  # struct tcp_diag_md5sig


class KeyUnknownError(Exception):
    """Whether the connection is signed cannot be found out; the message says why."""


@dataclass(frozen=True, slots=True)
class Key:
    """One of a socket's keys: whose segments it is for."""

    network: str
    secret: bytes = field(repr=False)


def key_of(sock: socket.socket) -> bytes:
    """The key of a connected TCP socket, empty when it is not signed.

    Like the kernel, takes the key with the longest prefix that the peer's address has. The socket
    must be of this thread's network namespace. Raises KeyUnknownError, CallError.
    """
    peer = _plain(sock.getpeername()[0])
    found = [key for key in _keys(sock) if peer in ip_network(key.network)]
    if not found:
        return b""
    longest = max(ip_network(key.network).prefixlen for key in found)
    secrets = {key.secret for key in found if ip_network(key.network).prefixlen == longest}
    if len(secrets) > 1:  # of different VRFs: sock_diag does not tell which
        raise KeyUnknownError(
            f"it has {len(secrets)} MD5 keys for {peer}, of different interfaces; leave it one"
        )
    return secrets.pop()


def set_key(sock: socket.socket, peer: str, secret: bytes) -> None:
    """Sign segments to and from ``peer`` with this key, on a listener or before connect().

    Raises CallError.
    """
    address = ip_address(peer)
    if isinstance(address, IPv6Address):
        name = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, address.packed, 0)
    else:
        name = struct.pack("=HH4s", socket.AF_INET, 0, address.packed)
    # struct tcp_md5sig: sockaddr_storage, flags, prefix length, key length, interface, key
    value = struct.pack("=128sBBHi80s", name, 0, 0, len(secret), 0, secret)
    set_bytes_at(sock, Sol.TCP, _TCP_MD5SIG, value, "TCP_MD5SIG")


def _plain(text: str) -> object:
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _keys(sock: socket.socket) -> Iterator[Key]:
    try:
        with sock_diag.SockDiag() as diag:
            found = diag.find(sock.family, _identity(sock), sock_diag.INFO)
    except CallError:
        raise
    except OSError as error:
        hints = {
            errno.ENOENT: "it is not of prld's network namespace, or has ended, or this kernel has "
            "no CONFIG_INET_TCP_DIAG",
            errno.ESTALE: "it has ended",
        }
        why = hints.get(error.errno or 0, error.strerror or str(error))
        raise KeyUnknownError(f"its MD5 keys cannot be read by sock_diag: {why}") from error
    value = found.attributes.get(sock_diag.MD5_KEYS, b"")
    yield from map(_key, _KEY.iter_unpack(value[: len(value) // _KEY.size * _KEY.size]))


def _key(raw: tuple[int, int, int, bytes, bytes]) -> Key:
    family, prefix, count, address, secret = raw
    packed = address[:4] if family == socket.AF_INET else address
    network = ip_network(f"{ip_address(packed)}/{prefix}", strict=False)
    return Key(str(network), secret[:count])


def _identity(sock: socket.socket) -> bytes:
    """Of this one socket: its cookie tells it from any other of the same addresses."""
    (local, local_port, *_), (peer, peer_port, *_) = sock.getsockname(), sock.getpeername()
    return sock_diag.identity(
        (ip_address(local.partition("%")[0]), local_port),
        (ip_address(peer.partition("%")[0]), peer_port),
        get_int_or(sock, So.BINDTOIFINDEX, 0),
        sock_diag.cookie_bytes(get_bytes(sock, So.COOKIE, 8)),
    )


__all__ = ["KEY_MAX_BYTES", "CallError", "KeyUnknownError", "key_of", "set_key"]
