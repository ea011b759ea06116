"""TCP sockets of this network namespace, asked for by sock_diag(7).

By hand, as it is asked from the event loop: prl.kernel.netlink says what pyroute2 would cost.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Self

from prl.endpoint import Address, Side
from prl.kernel import netlink as nl

ESTABLISHED, LISTEN = 1, 10
"""Of net/tcp_states.h."""
ANY_STATE = 0xFFFFFFFF
"""To be asked for: a bit for each state."""
INFO, CONGESTION, MD5_KEYS = 2, 4, 18
"""Attributes of linux/inet_diag.h; MD5_KEYS come along with INFO, to CAP_NET_ADMIN."""

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h, linux/sock_diag.h
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_QUESTION = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, before its inet_diag_sockid
_ENDS = struct.Struct("!HH16s16s")  # struct inet_diag_sockid: ends, …
_DEVICE = struct.Struct("=I8s")  # … device, cookie
_ID_BYTES = _ENDS.size + _DEVICE.size
_FOUND = struct.Struct(f"=BBxx{_ID_BYTES}s4xI8xI")  # struct inet_diag_msg
_ANY_COOKIE = b"\xff" * 8


@dataclass(frozen=True)
class TcpSocket:
    """What the kernel tells of one."""

    family: int
    state: int
    identity: bytes
    """By which it is asked for, or ended, again."""
    unread_bytes: int
    """Of a connection: what has come, and its program has not read."""
    inode: int
    """0 while nobody has accepted it."""
    attributes: dict[int, bytes] = field(repr=False)

    @cached_property
    def local(self) -> Side:
        """Its own end; IPv4 also of a socket of IPv6."""
        port, _, address, _ = _ENDS.unpack_from(self.identity)
        return _address(self.family, address), port

    @cached_property
    def remote(self) -> Side:
        """The other end, likewise."""
        _, port, _, address = _ENDS.unpack_from(self.identity)
        return _address(self.family, address), port

    @property
    def device(self) -> int:
        """Index of the device that it is bound to, or 0."""
        index: int = _DEVICE.unpack_from(self.identity, _ENDS.size)[0]
        return index

    @property
    def congestion(self) -> str:
        """Its congestion control; empty unless CONGESTION was asked for."""
        return self.attributes.get(CONGESTION, b"").rstrip(b"\0").decode("ascii", "replace")


def identity(local: Side, remote: Side, device: int = 0, cookie: bytes = _ANY_COOKIE) -> bytes:
    """What a connected socket is asked for by; of the kernel's cookie (SO_COOKIE), it alone."""
    ends = (local[0].packed, remote[0].packed)
    return _ENDS.pack(local[1], remote[1], *ends) + _DEVICE.pack(device, cookie)


def cookie_bytes(raw: bytes) -> bytes:
    """A SO_COOKIE as an identity has it: two words, the lower one first."""
    number = int.from_bytes(raw, sys.byteorder)
    return struct.pack("=II", number & 0xFFFFFFFF, number >> 32)


class SockDiag:
    """A socket that the kernel is asked by; every call raises OSError."""

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        self._netlink.settimeout(nl.TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def sockets(
        self, family: int, states: int = ANY_STATE, attribute: int = 0
    ) -> Iterator[TcpSocket]:
        """All in these states (a bit each), with one attribute of each."""
        self._ask(_SOCK_DIAG_BY_FAMILY, nl.DUMP, family, states, attribute, bytes(_ID_BYTES))
        while True:
            for kind, body in nl.messages(self._netlink.recv(nl.ANSWER_BYTES)):
                if kind == nl.DONE:
                    return
                if kind == nl.ERROR:
                    code = nl.error_code(body)
                    if code == errno.ENOENT:  # a kernel that does not know these sockets
                        return
                    raise OSError(code, os.strerror(code))
                yield _read(body)

    def find(self, family: int, wanted: bytes, attribute: int = 0) -> TcpSocket:
        """The one of that identity; a look-up by its ends falls back to the listener."""
        self._ask(_SOCK_DIAG_BY_FAMILY, 0, family, ANY_STATE, attribute, wanted)
        for kind, body in nl.messages(self._netlink.recv(nl.ANSWER_BYTES)):
            if kind == nl.ERROR:
                code = nl.error_code(body)
                raise OSError(code, os.strerror(code))
            return _read(body)
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))

    def end(self, victim: TcpSocket) -> bool:
        """Reset it; False: it has ended meanwhile."""
        self._ask(_SOCK_DESTROY, nl.ACK, victim.family, ANY_STATE, 0, victim.identity)
        code = nl.acknowledged(self._netlink)
        if code == errno.EOPNOTSUPP:
            raise OSError(code, os.strerror(code))
        return code == 0

    def _ask(
        self, kind: int, flags: int, family: int, states: int, attribute: int, wanted: bytes
    ) -> None:
        extension = 1 << (attribute - 1) if attribute else 0
        question = _QUESTION.pack(family, socket.IPPROTO_TCP, extension, states) + wanted
        self._netlink.send(nl.message(kind, nl.REQUEST | flags, question))


def _read(body: bytes) -> TcpSocket:
    family, state, raw, unread_bytes, inode = _FOUND.unpack_from(body)
    return TcpSocket(
        family, state, raw, unread_bytes, inode, dict(nl.attributes(body, _FOUND.size))
    )


def _address(family: int, raw: bytes) -> Address:
    address = ip_address(raw if family == socket.AF_INET6 else raw[:4])
    return getattr(address, "ipv4_mapped", None) or address
