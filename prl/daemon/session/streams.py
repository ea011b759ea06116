"""Where a session's two streams are, counted from the first byte after it was first handed to prl.

TCP counts in 32 bits that wrap and begin anywhere. TCP_INFO's 64-bit counters count what passed a
socket since it was made or restored; so one offset for each direction says it for a socket's whole
life, over any number of snapshots, and a prld that starts anew can be told it.
"""

import socket
from typing import Final

import msgspec

from prl.bindings.wire import STREAM_MAX, Moment
from prl.kernel.tcp_info import TcpInfo, TcpState
from prl.shadow.snapshot import TcpSnapshot
from prl.shadow.sockopt import Queue, queue_bytes, tcp_info

# The counters count a FIN, the peer's once received, ours once acknowledged; so does the send
# queue's length until then, and the receive queue's never (net/ipv4/tcp.c, tcp_ioctl).
_PEER_ENDED = frozenset({TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.CLOSING})
_OWN_ENDED = frozenset(
    {TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.LAST_ACK, TcpState.CLOSING}
)


LOOKS_MAX: Final = 1000
"""Looks at a socket that works meanwhile, some 5 us each, until two of them are the same."""


def _counted(info: TcpInfo) -> tuple[int, int, int]:
    return info.bytes_received, info.bytes_acked, info.state


class Streams(msgspec.Struct, frozen=True, gc=False):
    """Offsets of one socket's counters; (0, 0) for UDP, whose datagrams are not counted."""

    in_offset: int = 0
    out_offset: int = 0

    @staticmethod
    def at(sock: socket.socket, in_bytes: int = 0, out_bytes: int = 0) -> "Streams":
        """Such that the socket is at these positions now. Raises CallError."""
        if sock.type == socket.SOCK_DGRAM:
            return UNCOUNTED
        info, unread, unacked = tcp_info(sock), 0, 0
        for _ in range(LOOKS_MAX):  # of four calls, between which segments may come
            before, unread = info, queue_bytes(sock, Queue.UNREAD)
            unacked, info = queue_bytes(sock, Queue.UNACKED), tcp_info(sock)
            if _counted(before) == _counted(info):
                break
        read = info.bytes_received - unread - (info.state in _PEER_ENDED)
        written = info.bytes_acked + unacked - (info.state in _OWN_ENDED)
        found = Streams(in_bytes - read, out_bytes - written)
        return UNCOUNTED if found == UNCOUNTED else found

    @staticmethod
    def of_shadow(moment: Moment, bytes_received: int, bytes_acked: int) -> "Streams":
        """Of a socket that had these counters where the moment put it."""
        read, written = bytes_received - moment.unread_bytes, bytes_acked + moment.unacked_bytes
        found = Streams(moment.in_bytes - read, moment.out_bytes - written)
        return UNCOUNTED if found == UNCOUNTED else found

    @staticmethod
    def may_be(in_offset: int, out_offset: int) -> bool:
        """Whether they are offsets of some socket's: as the datapath notes them."""
        return max(abs(in_offset), abs(out_offset)) <= STREAM_MAX

    @staticmethod
    def of_offsets(in_offset: int, out_offset: int) -> "Streams":
        """One object for all that have none."""
        return Streams(in_offset, out_offset) if in_offset or out_offset else UNCOUNTED

    def to_list(self) -> list[int]:
        """As its application keeps it, for a prld that starts anew."""
        return [self.in_offset, self.out_offset]

    def of(self, snapshot: TcpSnapshot) -> tuple[int, int]:
        """Positions of the first unread byte, and of the send queue's end, in a snapshot."""
        read, written = self.in_offset + snapshot.in_bytes, self.out_offset + snapshot.out_bytes
        return min(max(read, 0), STREAM_MAX), min(max(written, 0), STREAM_MAX)


UNCOUNTED: Final = Streams()
"""Of a socket that had neither read nor written when it came to prl, and of UDP."""
