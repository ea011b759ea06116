"""The handshake of the link's TLS (userspace/io/tls.h), as whoever made the connection sees it."""

import errno
import os
import socket
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from prl.bindings.native import ffi, lib
from prl.errors import PrlError

_ROOM_BYTES = 1 << 18
"""What one turn reads: the records that are received at a time."""


class Refusal(IntEnum):
    """enum prl_tls_refusal."""

    NONE = lib.PRL_TLS_REFUSED_NONE
    PLAIN = lib.PRL_TLS_REFUSED_PLAIN
    KEY = lib.PRL_TLS_REFUSED_KEY
    FORGED = lib.PRL_TLS_REFUSED_FORGED
    ENDED = lib.PRL_TLS_REFUSED_ENDED


class TlsError(PrlError):
    """The handshake failed; the connection is closed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(_WORDS[refusal])
        self.refusal = refusal


_WORDS = {
    Refusal.NONE: "TLS cannot be had: OpenSSL refuses, or there is no memory",
    Refusal.PLAIN: "does not speak TLS; give link.plain the same value on both nodes",
    Refusal.KEY: "does not have the pair key, or does not take ours; make the file that link.key "
    "names the same on both nodes",
    Refusal.FORGED: "is not who it was, or somebody is between: what it sent was recorded before, "
    "or changed on its way",
    Refusal.ENDED: "hung up before it had shown the pair key; is link.plain the same on both "
    "nodes?",
}


def key_name(key: bytes) -> str:
    """What a key is called on the wire and in messages."""
    name = ffi.new("uint8_t[]", lib.PRL_TLS_ID_BYTES)
    if lib.prl_tls_key_id(key, name):
        raise TlsError(Refusal.NONE)
    return bytes(ffi.buffer(name)).decode("ascii")


class Channel:
    """A connection that is being, or has been, proven; close() or release() ends its use."""

    def __init__(self, sock: socket.socket, keys: Sequence[bytes], *, server: bool) -> None:
        """Take the connected, non-blocking socket over. Raises TlsError; it is closed then."""
        self._tls = lib.prl_tls_open(sock.fileno(), server, b"".join(keys), len(keys))
        if self._tls == ffi.NULL:
            sock.close()
            raise TlsError(Refusal.NONE)
        self._fd = sock.detach()
        self._names: list[str] = [key_name(key) for key in keys]

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._fd

    @property
    def unsent(self) -> bool:
        """Whether it waits for room in the socket."""
        return bool(lib.prl_tls_unsent(self._tls))

    @property
    def key(self) -> str:
        """Name of the key that both have, once step() has said so."""
        return self._names[int(lib.prl_tls_key(self._tls))]

    def step(self) -> bool:
        """Go on; whether it is done: both sides have shown the key. Raises TlsError."""
        err = lib.prl_tls_handshake(self._tls)
        if err in {0, -errno.EAGAIN}:
            return not err
        raise TlsError(Refusal(lib.prl_tls_refusal(self._tls)))

    def release(self) -> Any:
        """The struct prl_tls, now the caller's."""
        tls, self._tls = self._tls, ffi.NULL
        return tls

    def close(self) -> None:
        """Close the connection, if it is still ours."""
        lib.prl_tls_close(self.release())


class Stream:
    """What a proven connection carries besides the link: bytes, both ways, without waiting."""

    def __init__(self, channel: Channel) -> None:
        """Take the connection over, whose handshake is done."""
        self._link: Any = ffi.new("struct prl_link *")  # for its transport: it has no buffers
        lib.prl_link_attach_tls(self._link, channel.release())
        self._room: Any = ffi.new("uint8_t[]", _ROOM_BYTES)
        self._piece: Any = ffi.new("struct iovec *")

    def fileno(self) -> int:
        """The socket's descriptor."""
        return int(self._link.fd)

    def read(self) -> bytes:
        """What there is, at most so much as one turn takes; b"" is the end.

        Raises:
            BlockingIOError: nothing now; there is more only when the socket is readable.
            OSError: the connection has ended, or something came that is not authentic.
        """
        got = self._link.transport.read(self._link.state, self._room, _ROOM_BYTES)
        return bytes(ffi.buffer(self._room, _counted(got)))

    def write(self, data: bytes | bytearray) -> int:
        """Take the beginning of it, and send what the socket takes; returns how much was taken.

        With nothing to write, what was taken before is sent.

        Raises:
            BlockingIOError: nothing was taken: the socket has no room.
            OSError: the connection has ended.
        """
        with ffi.from_buffer(data) as raw:
            self._piece.iov_base, self._piece.iov_len = raw, len(data)
            pieces = 1 if data else 0
            return _counted(self._link.transport.writev(self._link.state, self._piece, pieces))

    @property
    def unsent(self) -> bool:
        """Whether some of what was taken waits for room in the socket."""
        return bool(self._link.transport.unsent(self._link.state))

    @property
    def unread(self) -> bool:
        """Whether some of what was received waits for read(), though the socket has nothing."""
        return bool(self._link.transport.unread(self._link.state))

    def close(self) -> None:
        """Say the end, if that can be, and close the socket. Idempotent."""
        if self._link.transport != ffi.NULL:
            self._link.transport.close(self._link.state)
            lib.prl_link_release(self._link)


def _counted(done: int) -> int:
    if done < 0:
        raise OSError(-done, os.strerror(-done))  # BlockingIOError, for EAGAIN
    return done
