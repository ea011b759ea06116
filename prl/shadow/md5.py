"""The key that a connection's segments are signed with (RFC 2385): finding it, and setting it.

No socket option tells a key; sock_diag(7) does, to CAP_NET_ADMIN (net/ipv4/tcp_diag.c). Keys never
get into a message, a representation or a log from here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network

from prl.shadow.sockopt import CallError, So, Sol, get_bytes, get_int_or, set_bytes_at

KEY_MAX_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN"""
_TCP_MD5SIG = 14  # linux/tcp.h

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _NLMSG_ERROR, _REQUEST = 20, 2, 0x1
_INET_DIAG_INFO, _INET_DIAG_MD5SIG = 2, 18
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBxI")
_ANY_STATE = 0xFFFFFFFF
_MESSAGE_BYTES = 72  # struct inet_diag_msg
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_KEY = struct.Struct("=BBH16s80s")  # struct tcp_diag_md5sig
_ANSWER_BYTES = 1 << 16
_TIMEOUT_S = 2.0


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
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(_TIMEOUT_S)
            netlink.send(_question(sock))
            answer = netlink.recv(_ANSWER_BYTES)
    except OSError as error:
        raise KeyUnknownError(f"its MD5 keys cannot be read: sock_diag: {error}") from error
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        code = -int(_ERROR.unpack_from(answer, _HEADER.size)[0])
        hints = {
            errno.ENOENT: "it is not of prld's network namespace, or has ended, or this kernel has "
            "no CONFIG_INET_TCP_DIAG",
            errno.ESTALE: "it has ended",
        }
        why = hints.get(code, os.strerror(code))
        raise KeyUnknownError(f"its MD5 keys cannot be read by sock_diag: {why}")
    at = _HEADER.size + _MESSAGE_BYTES
    while at + _ATTRIBUTE.size <= length:
        attribute_bytes, kind = _ATTRIBUTE.unpack_from(answer, at)
        if attribute_bytes < _ATTRIBUTE.size:
            break
        if kind == _INET_DIAG_MD5SIG:
            value = answer[at + _ATTRIBUTE.size : at + attribute_bytes]
            yield from map(_key, _KEY.iter_unpack(value[: len(value) // _KEY.size * _KEY.size]))
        at += (attribute_bytes + 3) & ~3


def _key(raw: tuple[int, int, int, bytes, bytes]) -> Key:
    family, prefix, count, address, secret = raw
    packed = address[:4] if family == socket.AF_INET else address
    network = ip_network(f"{ip_address(packed)}/{prefix}", strict=False)
    return Key(str(network), secret[:count])


def _question(sock: socket.socket) -> bytes:
    """Ask for this one socket: its cookie tells it from any other of the same addresses."""
    cookie = int.from_bytes(get_bytes(sock, So.COOKIE, 8), "little")
    device = get_int_or(sock, So.BINDTOIFINDEX, 0)
    (local, local_port, *_), (peer, peer_port, *_) = sock.getsockname(), sock.getpeername()
    ends = struct.pack(
        "!HH16s16s",
        *(local_port, peer_port),
        *(ip_address(text.partition("%")[0]).packed for text in (local, peer)),
    )
    identity = ends + struct.pack("=III", device, cookie & _ANY_STATE, cookie >> 32)
    wanted = 1 << (_INET_DIAG_INFO - 1)  # the keys come along with that
    question = _QUESTION.pack(sock.family, socket.IPPROTO_TCP, wanted, _ANY_STATE) + identity
    size = _HEADER.size + len(question)
    return _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0) + question


__all__ = ["KEY_MAX_BYTES", "CallError", "KeyUnknownError", "key_of", "set_key"]
