"""The input of a session from its first byte, for a fresh program on a healed node (SPEC R23)."""

from prl.control.input_history import HISTORY_MAX_BYTES

HISTORY_BYTES = HISTORY_MAX_BYTES
"""Default of --history: 1 MiB, less a few bytes."""


class History:
    """Input bytes, kept as long as they are few enough."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data: bytearray | None = bytearray()

    @property
    def data(self) -> bytes | None:
        """All of it; None when it had to be given up."""
        return None if self._data is None else bytes(self._data)

    @property
    def is_whole(self) -> bool:
        """Whether there is data."""
        return self._data is not None

    @property
    def limit_bytes(self) -> int:
        """Most that is kept."""
        return self._limit_bytes

    def add(self, data: bytes) -> None:
        """The next bytes of the input."""
        if self._data is None:
            return
        if len(self._data) + len(data) > self._limit_bytes:
            self._data = None
        else:
            self._data += data
