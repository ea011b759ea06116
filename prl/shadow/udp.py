"""UDP sockets, with a peer or without: their snapshot, and the shadow made of it (SPEC R17).

A datagram socket has no state but its addresses and options, once its receive queue is empty. Both
sockets get a receive buffer of UDP_BUFFER_BYTES: the datapath refuses, on both sides alike, what
would not find room in one of them, and a socket that drops a datagram all the same ends the
replication. Not part of it: pending errors, and a datagram that is being put together (UDP_CORK).
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

import msgspec

from prl.shadow.capture import endpoint_of, name_of, network_options
from prl.shadow.restore import HINTS, named_call, set_network, sockaddr_of
from prl.shadow.snapshot import (
    SNAPSHOT_VERSION,
    U16,
    Endpoint,
    NetworkOptions,
    OptionInt,
    SnapshotError,
    check_head,
    read_blob,
)
from prl.shadow.sockopt import (
    CallError,
    So,
    Udp,
    get_bytes,
    get_int,
    get_int_or,
    set_int,
)

UDP_BUFFER_BYTES = 8 << 20
"""What SO_RCVBUFFORCE is given on both sides; the kernel doubles it."""
_MEMINFO_BYTES = 64
_MEMINFO_FIRST = struct.Struct("=I")  # SK_MEMINFO_RMEM_ALLOC, include/uapi/linux/sock_diag.h
_HINTS = HINTS | {
    errno.EADDRINUSE: "; the application's other sockets on that port need SO_REUSEADDR, too",
}


class UnreadError(SnapshotError):
    """Datagrams wait to be read by the application; once it has, the snapshot may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpSnapshot:
    """One UDP socket, nothing of which is unread."""

    version: U16 = SNAPSHOT_VERSION
    family: OptionInt
    local: Endpoint
    remote: Endpoint | None
    """None: it is bound and not connected, and has any number of peers."""
    reuse_port: bool
    network: NetworkOptions

    def __str__(self) -> str:
        return f"udp:{self.local} <-> {self.remote or '*'}"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UdpSnapshot)


def take_udp(sock: socket.socket) -> UdpSnapshot:
    """Describe a UDP socket; nothing of it changes.

    Redirect its input first: what arrives behind the snapshot is lost to the shadow. Raises
    UnreadError while datagrams wait in it, SnapshotError when it cannot be cloned.
    """
    try:
        if get_int_or(sock, Udp.ENCAP, 0) or get_int_or(sock, Udp.GRO, 0):
            raise SnapshotError(
                f"{name_of(sock)}: a UDP socket with UDP_ENCAP or UDP_GRO cannot be cloned"
            )
        if unread_bytes(sock):
            raise UnreadError(
                f"{name_of(sock)}: datagrams wait to be read; a UDP socket can only be replicated "
                "with an empty receive queue"
            )
        local = endpoint_of(sock, sock.getsockname())
        return UdpSnapshot(
            family=sock.family,
            local=local,
            remote=_peer_of(sock),
            reuse_port=bool(get_int(sock, So.REUSEPORT)),
            network=network_options(sock, local),
        )
    except CallError as error:
        raise SnapshotError(f"{name_of(sock)}: cannot be cloned: {error}") from error
    except OSError as error:
        raise SnapshotError(f"{name_of(sock)}: its addresses: {error.strerror}") from error


def _peer_of(sock: socket.socket) -> Endpoint | None:
    try:
        return endpoint_of(sock, sock.getpeername())
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return None
        raise


def unread_bytes(sock: socket.socket) -> int:
    """Memory that unread datagrams take, empty ones too; 0 is an empty queue. Raises CallError."""
    (count,) = _MEMINFO_FIRST.unpack_from(get_bytes(sock, So.MEMINFO, _MEMINFO_BYTES))
    return int(count)


def enlarge(sock: socket.socket) -> None:
    """Give the socket a receive buffer of at least UDP_BUFFER_BYTES. Raises CallError."""
    if get_int(sock, So.RCVBUF) < 2 * UDP_BUFFER_BYTES:
        set_int(sock, So.RCVBUFFORCE, UDP_BUFFER_BYTES)


def encode_udp(snapshot: UdpSnapshot) -> bytes:
    """The snapshot as one small blob."""
    return _encoder.encode(snapshot)


def decode_udp(blob: bytes | bytearray | memoryview) -> UdpSnapshot:
    """Read what encode_udp() wrote, on this or another version. Raises SnapshotError."""
    snapshot = read_blob(_decoder, blob)
    ends = [snapshot.local] if snapshot.remote is None else [snapshot.local, snapshot.remote]
    check_head(snapshot, snapshot.family, snapshot.version, ends)
    return snapshot


def restore_udp(snapshot: UdpSnapshot) -> socket.socket:
    """A non-blocking socket with the same ends; call it in its network namespace.

    Raises SnapshotError that names the call that failed, and leaves nothing.
    """
    try:
        sock = socket.socket(
            snapshot.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.IPPROTO_UDP
        )
    except OSError as error:
        raise SnapshotError(f"{snapshot}: no socket for the clone: {error.strerror}") from error
    try:
        set_int(sock, So.REUSEADDR, 1)
        if snapshot.reuse_port:
            set_int(sock, So.REUSEPORT, 1)
        set_network(sock, snapshot.local, snapshot.network)
        enlarge(sock)
        local = sockaddr_of(sock, snapshot.local)
        named_call(lambda: sock.bind(local), f"bind({snapshot.local})")
        if snapshot.remote is not None:
            remote = sockaddr_of(sock, snapshot.remote)
            named_call(lambda: sock.connect(remote), f"connect({snapshot.remote})")
    except CallError as error:
        sock.close()
        raise SnapshotError(
            f"{snapshot}: cannot be restored: {error}{_HINTS.get(error.errno or 0, '')}"
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock
