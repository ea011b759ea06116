"""What the kernel tells of a TCP connection: TCP_INFO (struct tcp_info, linux/tcp.h)."""

import struct
import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

INFO_MAX_BYTES = 512
"""Longest TCP_INFO that is read; today's kernels fill about 280 bytes."""

# struct tcp_info up to tcpi_rcv_wnd; `x` skips what nobody here reads.
_LAYOUT = struct.Struct("=B4xBBxI12xI16xI4xI12xI32x16xQQII8xII64xIII")
_HIGH_NIBBLE_FIRST = sys.byteorder == "big"


class TcpState(IntEnum):
    """States of a connection (include/net/tcp_states.h)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """What prl needs of TCP_INFO (struct tcp_info). Times are in microseconds."""

    state: int
    options: int
    snd_wscale: int
    rcv_wscale: int
    rto_us: int
    unacked_segments: int
    last_data_sent_ms: int
    """How long ago, to the tick of the kernel's clock; since the handshake if never."""
    last_data_recv_ms: int
    rtt_us: int
    bytes_acked: int
    bytes_received: int
    segs_out: int
    segs_in: int
    data_segs_in: int
    data_segs_out: int
    ooo_segments: int
    """Segments that ever arrived out of order: a counter, it does not tell what is queued now."""
    snd_wnd: int
    rcv_wnd: int
    """Receive window left, in bytes; 0 before Linux 6.2, which does not tell."""

    @classmethod
    def of(cls, raw: bytes) -> Self:
        """What the option's value says; what an older kernel does not tell is 0."""
        state, options, scales, *figures = _LAYOUT.unpack_from(raw.ljust(_LAYOUT.size, b"\0"))
        first, second = scales & 0x0F, scales >> 4
        snd_wscale, rcv_wscale = (second, first) if _HIGH_NIBBLE_FIRST else (first, second)
        return cls(state, options, snd_wscale, rcv_wscale, *figures)
