"""Shadows: cloning a live TCP connection from one node to the other (SPEC R17, R18).

The primary calls take() and sends encode()'s blob; the secondary, whose output is already silent,
calls restore() on what decode() makes of it, then adopt() at take-over or discard() for no more.
"""

from prl.shadow.capture import SnapshotMovedError, take
from prl.shadow.restore import adopt, discard, restore
from prl.shadow.snapshot import (
    SNAPSHOT_LIMIT_BYTES,
    Endpoint,
    SnapshotError,
    TcpSnapshot,
    decode,
    encode,
)

__all__ = [
    "SNAPSHOT_LIMIT_BYTES",
    "Endpoint",
    "SnapshotError",
    "SnapshotMovedError",
    "TcpSnapshot",
    "adopt",
    "decode",
    "discard",
    "encode",
    "restore",
    "take",
]
