"""Where connections to port 179 begin on a host with a BGP front (userspace/io/steer.h)."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prl.bindings.native import ffi, lib, text_of
from prl.bindings.programs import OBJECTS
from prl.endpoint import Address, mapped
from prl.errors import KernelError

PEERS_MAX: int = lib.PRL_STEER_PEERS_MAX
DIAL_PORTS = range(lib.PRL_STEER_DIAL_FIRST, lib.PRL_STEER_DIAL_LAST + 1)
"""From where a front connects to its daemon."""


class Steering:
    """The program, loaded; attach() lets it decide.

    Raises:
        KernelError: the kernel refused it.
    """

    def __init__(self, object_dir: Path = OBJECTS) -> None:
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        self._steer: Any = lib.prl_steer_open(str(object_dir).encode(), error)
        if self._steer == ffi.NULL:
            raise KernelError(text_of(error))

    def add(
        self, peer: Address, service: Address, inner: socket.socket, outer: socket.socket
    ) -> None:
        """Let the connections of a peer begin at two listeners.

        Args:
            peer: its address.
            service: the one that it connects to.
            inner: takes what this host's daemon opens to the peer.
            outer: takes what the peer opens.

        Raises:
            KernelError: it is refused.
        """
        ends = _ends(peer, service)
        _check(lib.prl_steer_add(self._steer, ends, inner.fileno(), outer.fileno()))

    @contextmanager
    def dial(self, peer: Address, service: Address, port: int) -> Iterator[None]:
        """Let what this host opens from the peer's address and that port meet the daemon.

        ``port`` is one of DIAL_PORTS: else a standby's prld refuses it.

        Raises:
            KernelError: it is refused.
        """
        ends = _ends(peer, service)
        _check(lib.prl_steer_dial(self._steer, ends, socket.htons(port)))
        try:
            yield
        finally:
            if self._steer != ffi.NULL:
                _check(lib.prl_steer_dial(self._steer, ends, lib.PRL_STEER_NO_DIAL))

    def attach(self) -> None:
        """Decide from now on, in this thread's network namespace. Raises KernelError."""
        _check(lib.prl_steer_attach(self._steer))

    def close(self) -> None:
        """Connections begin as without it. Idempotent."""
        lib.prl_steer_close(self._steer)
        self._steer = ffi.NULL


def _ends(peer: Address, service: Address) -> Any:
    ends = ffi.new("struct prl_steer_ends *")
    ffi.buffer(ends)[:] = mapped(peer) + mapped(service)
    return ends


def _check(code: int) -> None:
    if code < 0:
        raise KernelError(f"steering connections to the front: {os.strerror(-code)}")
