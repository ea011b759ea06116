"""A long, reproducible stream of bytes, of which any part can be made without what precedes it."""

import hashlib
import struct

BLOCK_BYTES = 1 << 20
_STAMP_EVERY_BYTES = 4096  # so that a shift, a gap or a repetition never goes unnoticed
_STAMP = struct.Struct("!Q")


class Payload:
    """``size_bytes`` of bytes that look random; the same for everyone."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        digests = (hashlib.sha256(_STAMP.pack(i)).digest() for i in range(BLOCK_BYTES // 32))
        self._base = b"".join(digests)
        self._block = bytearray(self._base)
        self._number = -1

    def at(self, offset: int, limit_bytes: int = BLOCK_BYTES) -> memoryview:
        """Bytes from ``offset`` on, at least one unless the end is reached.

        The view is good until the next call.
        """
        number, start = divmod(offset, BLOCK_BYTES)
        if number != self._number:
            self._fill(number)
        end = min(BLOCK_BYTES, start + limit_bytes, self.size_bytes - number * BLOCK_BYTES)
        return memoryview(self._block)[start : max(start, end)]

    def sha256(self, size_bytes: int | None = None) -> str:
        """The SHA-256 of the first ``size_bytes``, or of all."""
        end = self.size_bytes if size_bytes is None else min(size_bytes, self.size_bytes)
        digest = hashlib.sha256()
        offset = 0
        while offset < end:
            part = self.at(offset, end - offset)
            digest.update(part)
            offset += len(part)
        return digest.hexdigest()

    def _fill(self, number: int) -> None:
        self._block[:] = self._base
        first = number * (BLOCK_BYTES // _STAMP_EVERY_BYTES)
        for page, at in enumerate(range(0, BLOCK_BYTES, _STAMP_EVERY_BYTES)):
            _STAMP.pack_into(self._block, at, first + page)
        self._number = number
