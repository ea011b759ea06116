"""How far an application has come, in a file that its sudden death cannot spoil.

Two slots are written in turn, each with a sequence number and a checksum: whatever instruction was
the last one, one slot is whole.
"""

import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_SLOT = struct.Struct("!QQ32s")  # sequence, bytes, SHA-256 of them
_CHECK = struct.Struct("!I")
_SLOT_BYTES = 64
_FILE_BYTES = 2 * _SLOT_BYTES


@dataclass(frozen=True, slots=True)
class Reached:
    """Bytes read or written, and their SHA-256."""

    count: int
    sha256: str


class Progress:
    """The writing end; keeps the file mapped."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_FILE_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FILE_BYTES)
        self._sequence = 0

    def note(self, count: int, digest: bytes) -> None:
        """``count`` bytes have passed, whose SHA-256 is ``digest``."""
        self._sequence += 1
        packed = _SLOT.pack(self._sequence, count, digest)
        at = self._sequence % 2 * _SLOT_BYTES
        whole = packed + _CHECK.pack(zlib.crc32(packed))
        self._map[at : at + len(whole)] = whole


def read(path: Path) -> Reached | None:
    """What was noted last, or None if nothing was."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    newest: tuple[int, int, bytes] | None = None
    for at in range(0, len(data), _SLOT_BYTES):
        packed = data[at : at + _SLOT.size]
        if data[at + _SLOT.size : at + _SLOT.size + _CHECK.size] != _CHECK.pack(zlib.crc32(packed)):
            continue
        slot = _SLOT.unpack(packed)
        if slot[0] and (newest is None or slot[0] > newest[0]):
            newest = slot
    return None if newest is None else Reached(newest[1], newest[2].hex())
