"""The link's sockets: on its interface alone, from its own network alone, and without delays."""

import contextlib
import socket
import struct
from ipaddress import IPv6Address

from prl import config
from prl.kernel import netlink

USER_TIMEOUT_MS = 2000
BUFFER_BYTES = 4 << 20
CONGESTION = b"cubic"
"""RFC 9438. The default of some hosts (bbr) paces what it sends by timers: on a wire of our own
that delays every packet that is held, and costs a third of the throughput."""
TTL = 255
"""What no router has lowered (RFC 5082): with it a packet comes from the network itself."""
_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73  # linux/in.h, linux/in6.h
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_VIA = 1, 4, 5, 18
_ROUTE = struct.Struct("=BBBBBBBBI")


def make(link: config.Link) -> socket.socket:
    """A socket of the link, neither bound to an address nor connected.

    Raises:
        OSError: its interface is away, or the kernel refuses.
    """
    is_ipv6 = isinstance(link.local, IPv6Address)
    sock = socket.socket(
        socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    )
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.interface.encode() + b"\0")
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
        _tune(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def guard(sock: socket.socket, link: config.Link) -> None:
    """Let nothing in that a router has passed on, where the link has none (RFC 5082).

    A connected socket, or one that listens: the kernel itself answers an unwanted SYN with the
    usual TTL. A plain link may be one to an earlier prld, which does not send what is asked for.

    Raises:
        OSError: the link's interface is away.
    """
    if link.plain or not on_one_network(link):
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, TTL)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, TTL)


def on_one_network(link: config.Link) -> bool:
    """Whether the other node is reached without a router, by what the kernel's routes say now."""
    remote = link.remote.packed
    family = socket.AF_INET6 if isinstance(link.remote, IPv6Address) else socket.AF_INET
    body = (
        _ROUTE.pack(family, len(remote) * 8, 0, 0, 0, 0, 0, 0, 0)
        + netlink.attribute(_RTA_DST, remote)
        + netlink.attribute(_RTA_OIF, struct.pack("=I", socket.if_nametoindex(link.interface)))
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as routes:
        routes.settimeout(netlink.TIMEOUT_S)
        routes.send(netlink.message(_RTM_GETROUTE, netlink.REQUEST, body))
        for kind, answer in netlink.messages(routes.recv(netlink.ANSWER_BYTES)):
            if kind == _RTM_NEWROUTE:
                found = {one for one, _ in netlink.attributes(answer, _ROUTE.size)}
                return not found & {_RTA_GATEWAY, _RTA_VIA}
    return False


def _tune(sock: socket.socket) -> None:
    """No delays, room for bursts, and an end when the other side is gone without a word.

    Before it is connected or listens: a connection that was to be paced once is paced for ever.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    with contextlib.suppress(FileNotFoundError):  # a kernel without it: the host's default
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION)
