"""Netlink messages as bytes, for the few questions that are asked from the event loop itself.

pyroute2 refuses to be called while a loop runs; its import takes 125 ms of a processor more, and
its look at 400 sockets eleven times what this takes (34 ms to 3). So it is used in a thread, for
what may take a while or is long (prl.daemon.host.network).
"""

import socket
import struct
from collections.abc import Iterator

REQUEST, ACK, CREATE, DUMP = 0x1, 0x4, 0x400, 0x300
"""Flags of linux/netlink.h."""
ERROR, DONE = 2, 3
"""Types of messages that answer."""
ANSWER_BYTES = 1 << 16
TIMEOUT_S = 2.0
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_NESTED = 0x8000


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One message of that type."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def messages(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and bodies of what one receive call returned."""
    at = 0
    while at + _HEADER.size <= len(raw):
        length, kind, *_ = _HEADER.unpack_from(raw, at)
        if length < _HEADER.size:
            return
        yield kind, raw[at + _HEADER.size : at + length]
        at += _aligned(length)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind)
    return (head + value).ljust(_aligned(len(head) + len(value)), b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """One attribute that is made of others."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(raw: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Types and values of the attributes from ``at`` on."""
    while at + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & ~_NESTED, raw[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)


def error_code(body: bytes) -> int:
    """The errno that an ERROR tells; 0: done."""
    return -int(_CODE.unpack_from(body)[0])


def acknowledged(netlink: socket.socket) -> int:
    """The errno with which the kernel answers a request that asked for an ACK; 0: done."""
    for kind, body in messages(netlink.recv(ANSWER_BYTES)):
        if kind == ERROR:
            return error_code(body)
    return 0


def _aligned(length: int) -> int:
    return (length + 3) & ~3
