"""A session on its way to the other node: what SETUP carries, in pieces (SPEC R17)."""

from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

from prl.bindings.wire import STREAM_MAX
from prl.control.messages import APPLICATION_MAX_BYTES
from prl.errors import PrlError

TRANSFER_MAX_BYTES = 32 << 20
"""Largest set-up, and most bytes of unfinished ones together."""
TRANSFERS_MAX = 64
"""Most set-ups that may be unfinished at a time."""
STALE_NS = 30_000_000_000
"""An unfinished set-up of which no piece has come for so long makes way for others."""

U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Position = Annotated[int, Meta(ge=0, le=STREAM_MAX)]
Scale = Annotated[int, Meta(ge=0, le=14)]


class TransferError(PrlError):
    """A set-up that cannot be read, or is too large."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """All that the other node needs to build a shadow. Unknown members are skipped (R14)."""

    udp: bool = False
    instance: Annotated[str, Meta(max_length=63)] = ""
    """Routing instance; empty: the network of [lan]."""
    snapshot: bytes
    """As prl.shadow.encode() made it, or encode_udp()."""
    mss: Annotated[int, Meta(ge=1, le=0xFFFF)]
    rcv_wscale: Scale
    snd_wscale: Scale
    committed: U32
    timestamps: bool
    next_hop: Annotated[str, Meta(max_length=45)] = ""
    """Address of the next hop towards the peer, empty when it is not known."""
    next_hop_mac: Annotated[str, Meta(max_length=17)] = ""
    application: Annotated[bytes, Meta(max_length=APPLICATION_MAX_BYTES)] = b""
    renew: bool = False
    """The application gives its bytes anew for each snapshot."""
    in_bytes: Position = 0
    """How much of the peer's stream comes before the first byte to be read from the shadow."""
    out_bytes: Position = 0
    """How much output comes before the snapshot's end of the send queue."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Setup)


def encode(setup: Setup) -> bytes:
    """The set-up as one blob. Raises TransferError when it is too large."""
    blob = _encoder.encode(setup)
    if len(blob) > TRANSFER_MAX_BYTES:
        raise TransferError(f"a set-up of {len(blob)} bytes exceeds {TRANSFER_MAX_BYTES}")
    return blob


def decode(blob: bytes | bytearray) -> Setup:
    """What encode() made, on this or another version. Raises TransferError."""
    try:
        return _decoder.decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransferError(f"malformed set-up: {error}") from error


def pieces(blob: bytes, size_bytes: int) -> list[bytes]:
    """``blob`` cut into pieces of at most ``size_bytes``, at least one."""
    return [blob[at : at + size_bytes] for at in range(0, max(len(blob), 1), size_bytes)]


@dataclass(slots=True)
class _Unfinished:
    generation: int
    began_ns: int
    last_ns: int
    data: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A complete set-up."""

    blob: bytes
    began_ns: int
    """When its first piece came, CLOCK_MONOTONIC."""


class Collector:
    """Puts pieces together again; one set-up per handle, the newest generation."""

    def __init__(
        self, *, bytes_max: int = TRANSFER_MAX_BYTES, transfers_max: int = TRANSFERS_MAX
    ) -> None:
        self._bytes_max, self._transfers_max = bytes_max, transfers_max
        self._unfinished: dict[int, _Unfinished] = {}
        self._bytes = 0

    def add(
        self, handle: int, generation: int, piece: bytes, *, last: bool, now_ns: int
    ) -> Arrived | None:
        """Take a piece in; the whole when it was the last one.

        Raises:
            TransferError: a limit is reached; what had come of this set-up is gone.
        """
        found = self._unfinished.get(handle)
        if found is None or found.generation != generation:
            self.drop(handle)
            if len(self._unfinished) >= self._transfers_max:
                self._drop_stale(now_ns)
            if len(self._unfinished) >= self._transfers_max:
                raise TransferError(f"more than {self._transfers_max} unfinished set-ups")
            found = self._unfinished[handle] = _Unfinished(generation, now_ns, now_ns)
        found.last_ns = now_ns
        if self._bytes + len(piece) > self._bytes_max:
            self._drop_stale(now_ns)
        if self._bytes + len(piece) > self._bytes_max:
            self.drop(handle)
            raise TransferError(f"unfinished set-ups exceed {self._bytes_max} bytes")
        found.data += piece
        self._bytes += len(piece)
        if not last:
            return None
        self.drop(handle)
        return Arrived(bytes(found.data), found.began_ns)

    def drop(self, handle: int) -> None:
        """Forget what has come for ``handle``."""
        found = self._unfinished.pop(handle, None)
        if found is not None:
            self._bytes -= len(found.data)

    def drop_ended(self, handle: int, generation: int) -> None:
        """The other node does not go on with this one."""
        found = self._unfinished.get(handle)
        if found is not None and found.generation == generation:
            self.drop(handle)

    def _drop_stale(self, now_ns: int) -> None:
        for handle, found in list(self._unfinished.items()):
            if now_ns - found.last_ns > STALE_NS:
                self.drop(handle)

    def clear(self) -> None:
        """Forget everything: the link is gone."""
        self._unfinished.clear()
        self._bytes = 0
