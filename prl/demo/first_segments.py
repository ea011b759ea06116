"""When each session was heard first on a port of the lab's switch."""

import socket
import struct
import time
from contextlib import suppress

from prl.lab.netns import Namespace

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_PACKET_OUTGOING = 4
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_TIMESPEC = struct.Struct("@ll")
_BUFFER_BYTES = 32 << 20
_FRAME_BYTES = 96


class FirstSegments:
    """Records what a machine sends through its switch port, from now on; read() afterwards."""

    def __init__(self, switch: str, port: str, addresses: frozenset[bytes]) -> None:
        self._addresses = addresses
        self._sock = Namespace(switch).call(lambda: _listen(port))

    def read(self) -> dict[tuple[int, int], int]:
        """By EtherType and the peer's port: when its first segment from a service address came.

        Nanoseconds of CLOCK_BOOTTIME. Closes the recording.
        """
        shift_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.time_ns()
        first: dict[tuple[int, int], int] = {}
        with self._sock, suppress(BlockingIOError):
            while True:
                frame, extra, _, sender = self._sock.recvmsg(_FRAME_BYTES, 64)
                if sender[2] == _PACKET_OUTGOING:
                    continue
                port = self._peer_port(frame)
                for _, kind, data in extra:
                    if port is not None and kind == _SO_TIMESTAMPNS:
                        seconds, ns = _TIMESPEC.unpack(data)
                        first.setdefault(
                            (int.from_bytes(frame[12:14]), port),
                            seconds * 1_000_000_000 + ns + shift_ns,
                        )
        return first

    def _peer_port(self, frame: bytes) -> int | None:
        """The port that a TCP segment from a service address goes to."""
        kind, ip = int.from_bytes(frame[12:14]), frame[14:]
        if kind == _ETH_P_IP and ip[9] == socket.IPPROTO_TCP:
            source, tcp = ip[12:16], ip[(ip[0] & 15) * 4 :]
        elif kind == _ETH_P_IPV6 and ip[6] == socket.IPPROTO_TCP:
            source, tcp = ip[8:24], ip[40:]
        else:
            return None
        return int.from_bytes(tcp[2:4]) if source in self._addresses else None


def _listen(port: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.bind((port, _ETH_P_ALL))
    return sock
