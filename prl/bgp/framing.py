"""Whole BGP messages out of a byte stream (RFC 4271 section 4.1)."""

from collections.abc import Iterator

from prl.bgp.messages import HEADER_BYTES, Type, decode_header


class Framing:
    """Collects bytes; never holds more than what was fed at once and one unfinished message."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def unfinished(self) -> bytes:
        """The beginning of the next message."""
        return bytes(self._buffer)

    @unfinished.setter
    def unfinished(self, data: bytes) -> None:
        self._buffer[:] = data

    def feed(self, data: bytes) -> Iterator[tuple[Type, bytes]]:
        """Yield type and body of each message that is whole now.

        Raises:
            BgpError: what comes next is no message.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            kind, length = decode_header(bytes(self._buffer[:HEADER_BYTES]))
            if len(self._buffer) < length:
                return
            body = bytes(self._buffer[HEADER_BYTES:length])
            del self._buffer[:length]
            yield kind, body
