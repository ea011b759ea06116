"""What unchanged programs' listeners hear: a socket filter and its ring (userspace/io/listen.h)."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prl.bindings.native import ffi, lib, text_of
from prl.bindings.programs import OBJECTS
from prl.endpoint import Side, unmapped
from prl.errors import KernelError

LISTENERS_MAX: int = lib.PRL_LISTENERS_MAX
_HEAD_BYTES: int = ffi.sizeof("struct prl_heard")
_RECORD_BYTES = _HEAD_BYTES + 4096


@dataclass(frozen=True, slots=True)
class Heard:
    """A segment that the listener, or a connection of its, received."""

    local: Side
    remote: Side
    is_new: bool
    """The end of a handshake; ``seq`` is where the peer's stream begins."""
    seq: int
    """TCP sequence number of the first byte."""
    data: bytes


class Listen:
    """The filter, loaded; attach() puts it on listeners.

    Raises:
        KernelError: the kernel refused it.
    """

    def __init__(self, object_dir: Path = OBJECTS) -> None:
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        self._listen: Any = lib.prl_listen_open(str(object_dir).encode(), error)
        if self._listen == ffi.NULL:
            raise KernelError(text_of(error))
        self._record: Any = ffi.new("uint8_t[]", _RECORD_BYTES)

    def close(self) -> None:
        """Free it; listeners that have it still go on, unheard."""
        if self._listen != ffi.NULL:
            lib.prl_listen_close(self._listen)
            self._listen = ffi.NULL

    def fileno(self) -> int:
        """Readable while something was heard."""
        return int(lib.prl_listen_fd(self._listen))

    def attach(self, listener: socket.socket) -> None:
        """Hear of the listener's connections from now on. Raises KernelError."""
        _check(lib.prl_listen_attach(self._listen, listener.fileno()))

    def detach(self, sock: socket.socket) -> None:
        """Take the filter off a listener, or off a connection of its. Raises KernelError."""
        _check(lib.prl_listen_detach(self._listen, sock.fileno()))

    def next(self) -> Heard | None:
        """The oldest that was heard; None when there is nothing."""
        count = lib.prl_listen_next(self._listen, self._record, _RECORD_BYTES)
        if count < _HEAD_BYTES:
            return None
        head = ffi.cast("struct prl_heard *", self._record)
        return Heard(
            local=_side(head.local, head.local_port),
            remote=_side(head.remote, head.remote_port),
            is_new=bool(head.is_new),
            seq=head.seq,
            data=bytes(ffi.buffer(self._record + _HEAD_BYTES, head.bytes)),
        )

    @property
    def lost(self) -> int:
        """Records that nobody took in time."""
        return int(lib.prl_listen_lost(self._listen))


def _side(address: Any, port: int) -> Side:
    return unmapped(bytes(ffi.buffer(address))), socket.ntohs(port)


def _check(code: int) -> None:
    if code < 0:
        raise KernelError(f"the listener's filter: {os.strerror(-code)}")
