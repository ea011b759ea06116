"""What the demo's applications do with bytes; who owns the session is not their affair."""

import hashlib
from typing import Protocol

from prl.client.replay_buffer import CutOff
from prl.demo.pauses import Pauses
from prl.demo.payload import Payload

ECHO_HELD_MAX_BYTES = 64 << 20
_SEND_BYTES = 256 << 10


class Role(Protocol):
    """An application as a function of its input; output is numbered from its first byte."""

    pauses: Pauses

    def take(self, data: memoryview) -> None:
        """Input has arrived."""

    def input_ended(self) -> None:
        """The peer has ended its direction."""

    def due(self) -> bytes | memoryview:
        """What is to be sent next."""

    def sent(self, count: int) -> None:
        """So much of it was taken by the socket."""

    def acknowledged(self, offset: int) -> None:
        """Output before ``offset`` will not be asked for any more."""

    def go_on_at(self, offset: int) -> None:
        """Speak, from byte ``offset`` of the output on."""

    def is_done(self) -> bool:
        """Whether nothing is left to do."""

    def reached(self) -> tuple[int, bytes]:
        """How many bytes have passed that count, and their SHA-256."""


class _Base:
    def __init__(self) -> None:
        self.pauses = Pauses()
        self._count = 0
        self._hash = hashlib.sha256()
        self._input_has_ended = False

    def take(self, data: memoryview) -> None:
        raise NotImplementedError(f"{type(self).__name__} takes no input: {len(data)} bytes")

    def input_ended(self) -> None:
        self._input_has_ended = True

    def due(self) -> bytes | memoryview:
        return b""

    def sent(self, count: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} sends nothing: {count} bytes")

    def acknowledged(self, offset: int) -> None:
        """Nothing is kept."""

    def go_on_at(self, offset: int) -> None:
        """There is no output."""

    def reached(self) -> tuple[int, bytes]:
        return self._count, self._hash.digest()


class Sink(_Base):
    """Reads to the end; what it has read counts."""

    def take(self, data: memoryview) -> None:
        """See ``Role``."""
        self.pauses.note()
        self._hash.update(data)
        self._count += len(data)

    def is_done(self) -> bool:
        """See ``Role``."""
        return self._input_has_ended


class Source(_Base):
    """Writes the payload; what it has written counts."""

    def __init__(self, payload: Payload) -> None:
        super().__init__()
        self._payload = payload
        self._began_at = 0

    def take(self, data: memoryview) -> None:
        """A peer that only downloads says nothing; if it does, that is of no account."""

    def due(self) -> memoryview:
        """See ``Role``."""
        return self._payload.at(self._count, _SEND_BYTES)

    def sent(self, count: int) -> None:
        """See ``Role``."""
        if not self._began_at:
            self._hash.update(self._payload.at(self._count, count))
        self._count += count

    def go_on_at(self, offset: int) -> None:
        """See ``Role``."""
        self._began_at = self._count = offset

    def is_done(self) -> bool:
        """See ``Role``."""
        return self._count >= self._payload.size_bytes

    def reached(self) -> tuple[int, bytes]:
        """See ``Role``. After a take-over what the other node has written counts too."""
        if self._began_at:  # hashed here only: the session must not wait for it
            return self._count, bytes.fromhex(self._payload.sha256(self._count))
        return super().reached()


class Echo(_Base):
    """Writes what it reads; what it has written counts."""

    def __init__(self) -> None:
        super().__init__()
        self._output = CutOff(ECHO_HELD_MAX_BYTES)

    def take(self, data: memoryview) -> None:
        """See ``Role``."""
        self.pauses.note()
        self._output.append(data)

    def due(self) -> bytes:
        """See ``Role``."""
        return self._output.peek(_SEND_BYTES)

    def sent(self, count: int) -> None:
        """See ``Role``."""
        self._hash.update(self._output.peek(count))
        self._output.consume(count)
        self._count += count

    def acknowledged(self, offset: int) -> None:
        """See ``Role``."""
        self._output.raise_floor(offset)

    def go_on_at(self, offset: int) -> None:
        """See ``Role``."""
        self._output.go_on_at(offset)
        self._count = offset

    def is_done(self) -> bool:
        """See ``Role``."""
        return self._input_has_ended and not self._output.pending_bytes
