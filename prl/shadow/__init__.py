"""Shadows: cloning a live connection from one node to the other (SPEC R17, R18).

The primary calls take() and sends encode()'s blob; the secondary, whose output is already silent,
calls restore() on what decode() makes of it, then adopt() at take-over or discard() for no more.
UDP sockets have take_udp() and restore_udp().
"""

from prl.shadow.capture import Fixed, SnapshotMovedError, at_rest, fixed_of, outline, take
from prl.shadow.restore import (
    OPTIONS_KINDS,
    abandon,
    adopt,
    discard,
    give,
    ready,
    restore,
)
from prl.shadow.snapshot import (
    SNAPSHOT_LIMIT_BYTES,
    ApplicationOptions,
    Endpoint,
    SnapshotError,
    TcpSnapshot,
    decode,
    encode,
)
from prl.shadow.udp import (
    UDP_BUFFER_BYTES,
    UdpSnapshot,
    UnreadError,
    decode_udp,
    encode_udp,
    enlarge,
    restore_udp,
    take_udp,
)

__all__ = [
    "OPTIONS_KINDS",
    "SNAPSHOT_LIMIT_BYTES",
    "UDP_BUFFER_BYTES",
    "ApplicationOptions",
    "Endpoint",
    "Fixed",
    "SnapshotError",
    "SnapshotMovedError",
    "TcpSnapshot",
    "UdpSnapshot",
    "UnreadError",
    "abandon",
    "adopt",
    "at_rest",
    "decode",
    "decode_udp",
    "discard",
    "encode",
    "encode_udp",
    "enlarge",
    "fixed_of",
    "give",
    "outline",
    "ready",
    "restore",
    "restore_udp",
    "take",
    "take_udp",
]
