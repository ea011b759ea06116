"""The socket options and ioctls of a TCP connection that the standard library does not name.

Thin typed wrappers: each makes one system call and raises CallError, which names that call.
Sources: include/uapi/linux/tcp.h, include/uapi/linux/in.h, include/uapi/linux/sockios.h.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from enum import IntEnum, IntFlag

from prl.kernel.tcp_info import INFO_MAX_BYTES, TcpInfo

INTEGER_MAX = 2**31 - 1


class Sol(IntEnum):
    """Option levels."""

    IP = socket.IPPROTO_IP
    SOCKET = socket.SOL_SOCKET
    TCP = socket.IPPROTO_TCP
    UDP = socket.IPPROTO_UDP
    IPV6 = socket.IPPROTO_IPV6


class Tcp(IntEnum):
    """Options of level Sol.TCP."""

    NODELAY = 1
    MAXSEG = 2
    CORK = 3
    KEEPIDLE = 4
    KEEPINTVL = 5
    KEEPCNT = 6
    LINGER2 = 8
    INFO = 11
    CONGESTION = 13
    USER_TIMEOUT = 18
    REPAIR = 19
    TIMESTAMP = 24
    NOTSENT_LOWAT = 25
    ULP = 31
    AO_INFO = 40
    RTO_MAX_MS = 44


class Udp(IntEnum):
    """Options of level Sol.UDP (include/uapi/linux/udp.h)."""

    ENCAP = 100
    GRO = 104


class So(IntEnum):
    """Options of level Sol.SOCKET."""

    REUSEADDR = 2
    SNDBUF = 7
    RCVBUF = 8
    KEEPALIVE = 9
    OOBINLINE = 10
    PRIORITY = 12
    LINGER = 13
    REUSEPORT = 15
    RCVLOWAT = 18
    BINDTODEVICE = 25
    SNDBUFFORCE = 32
    RCVBUFFORCE = 33
    MARK = 36
    PROTOCOL = 38
    DOMAIN = 39
    PEEK_OFF = 42
    MEMINFO = 55
    COOKIE = 57
    BINDTOIFINDEX = 62
    BUF_LOCK = 72


class Ip(IntEnum):
    """Options of level Sol.IP."""

    TOS = 1
    TTL = 2
    OPTIONS = 4
    MTU_DISCOVER = 10
    MINTTL = 21


class Ipv6(IntEnum):
    """Options of level Sol.IPV6."""

    UNICAST_HOPS = 16
    MTU_DISCOVER = 23
    V6ONLY = 26
    TCLASS = 67
    MINHOPCOUNT = 73


Option = Tcp | Udp | So | Ip | Ipv6
_LEVELS: dict[type[IntEnum], Sol] = {
    Tcp: Sol.TCP,
    Udp: Sol.UDP,
    So: Sol.SOCKET,
    Ip: Sol.IP,
    Ipv6: Sol.IPV6,
}


class Repair(IntEnum):
    """Values of Tcp.REPAIR."""

    OFF_NO_WINDOW_PROBE = -1
    ON = 1


class Queue(IntEnum):
    """The ioctls that tell a queue's length."""

    UNREAD = 0x541B  # SIOCINQ
    UNACKED = 0x5411  # SIOCOUTQ
    UNSENT = 0x894B  # SIOCOUTQNSD


class Negotiated(IntFlag):
    """Bits of tcpi_options: what the two ends agreed upon in the handshake."""

    TIMESTAMPS = 1
    SACK = 2
    WINDOW_SCALE = 4
    ECN = 8
    USEC_TIMESTAMPS = 64  # since Linux 6.7; older kernels never set it


class CallError(OSError):
    """A system call on a socket failed. `call` names it, for example `setsockopt(TCP_MAXSEG)`."""

    def __init__(self, error: OSError, call: str) -> None:
        super().__init__(error.errno, error.strerror)
        self.call = call

    def __str__(self) -> str:
        return f"{self.call} failed: {self.strerror}"


def level_of(option: Option) -> Sol:
    """The level that the option is of."""
    return _LEVELS[type(option)]


def option_name(option: Option) -> str:
    """The option as C spells it, for example `TCP_MAXSEG`."""
    return f"{type(option).__name__.upper()}_{option.name}"


def get_int(sock: socket.socket, option: Option) -> int:
    """Read an option that is an int. Raises CallError."""
    try:
        return sock.getsockopt(_LEVELS[type(option)], option)
    except OSError as error:
        raise CallError(error, f"getsockopt({option_name(option)})") from error


def get_u32(sock: socket.socket, option: Option) -> int:
    """Read an option whose int is really unsigned: a sequence number or a clock."""
    return get_int(sock, option) & 0xFFFFFFFF


def get_int_or(sock: socket.socket, option: Option, default: int) -> int:
    """Read an option that is an int, or give `default` where this kernel does not know it."""
    try:
        return sock.getsockopt(_LEVELS[type(option)], option)
    except OSError:
        return default


def get_bytes(sock: socket.socket, option: Option, space_bytes: int) -> bytes:
    """Read an option that is a structure or a string of at most `space_bytes`. Raises CallError."""
    try:
        return sock.getsockopt(_LEVELS[type(option)], option, space_bytes)
    except OSError as error:
        raise CallError(error, f"getsockopt({option_name(option)})") from error


def set_int(sock: socket.socket, option: Option, value: int) -> None:
    """Set an option that is an int. Raises CallError."""
    try:
        sock.setsockopt(_LEVELS[type(option)], option, value)
    except OSError as error:
        raise CallError(error, f"setsockopt({option_name(option)}, {value})") from error


def set_u32(sock: socket.socket, option: Option, value: int) -> None:
    """Set an option whose int is really unsigned; Python's int argument is signed."""
    set_int(sock, option, value - 2**32 if value > INTEGER_MAX else value)


def set_bytes(sock: socket.socket, option: Option, value: bytes) -> None:
    """Set an option that is a structure or a string. Raises CallError."""
    try:
        sock.setsockopt(_LEVELS[type(option)], option, value)
    except OSError as error:
        raise CallError(error, f"setsockopt({option_name(option)})") from error


def set_bytes_at(sock: socket.socket, level: int, option: int, value: bytes, name: str) -> None:
    """As set_bytes(); the error names the option alone, never the value. Raises CallError."""
    try:
        sock.setsockopt(level, option, value)
    except OSError as error:
        raise CallError(error, f"setsockopt({name})") from error


def get_name(sock: socket.socket, option: Option, space_bytes: int = 16) -> str:
    """Read an option that is a short NUL-terminated name: congestion control, device, ULP."""
    return get_bytes(sock, option, space_bytes).split(b"\0", 1)[0].decode("ascii", "replace")


def queue_bytes(sock: socket.socket, queue: Queue) -> int:
    """Bytes in one of the socket's queues, at this moment. Raises CallError."""
    length = array.array("i", (0,))
    try:
        fcntl.ioctl(sock.fileno(), queue, length)
    except OSError as error:
        raise CallError(error, f"ioctl({queue.name.lower()} bytes)") from error
    return length[0]


_SIOCGIFNAME = 0x8910
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("=16si20x")


def interface_name(sock: socket.socket, index: int) -> str:
    """An interface's name in the socket's namespace, be the caller's another. Raises CallError."""
    try:
        answer = fcntl.ioctl(sock.fileno(), _SIOCGIFNAME, _IFREQ.pack(b"", index))
    except OSError as error:
        raise CallError(error, f"ioctl(SIOCGIFNAME, {index})") from error
    name: bytes = _IFREQ.unpack(answer)[0]
    return name.rstrip(b"\0").decode()


def interface_index(sock: socket.socket, name: str) -> int:
    """An interface's index in the socket's namespace. Raises CallError."""
    try:
        answer = fcntl.ioctl(sock.fileno(), _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
    except OSError as error:
        raise CallError(error, f"ioctl(SIOCGIFINDEX, {name})") from error
    index: int = _IFREQ.unpack(answer)[1]
    return index


def tcp_info(sock: socket.socket) -> TcpInfo:
    """Read TCP_INFO; what an older kernel does not tell is 0. Raises CallError."""
    return TcpInfo.of(get_bytes(sock, Tcp.INFO, INFO_MAX_BYTES))
