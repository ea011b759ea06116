"""TCP sockets that must not go on, whoever holds them: ended through sock_diag(7) (SPEC L8, L9).

A prld that was killed leaves shadows behind that applications still hold; a node that lost a
service has connections on its address. Both are void: they may never speak, and a shadow of the
same session could not be made beside them. The reset that the kernel sends for each is swallowed
by the silence, so this is done while the address is silent. Their holders get ECONNABORTED.
"""

import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from prl.core.datapath import Address
from prl.daemon import netlink as nl
from prl.errors import KernelError

# linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_INET_DIAG_CONG = 4
_ALL_STATES, _LISTEN, _ESTABLISHED = 0xFFFFFFFF, 10, 1
_QUESTION = struct.Struct("=BBBxI")
_ID = struct.Struct("!HH16s16s12s")  # struct inet_diag_sockid; interface and cookie as they are
_FOUND = struct.Struct("=BBxx48s20x")  # struct inet_diag_msg

_SHADOW_CONGESTION = re.compile(r"prl_[0-9a-f]{8}")  # userspace/kernel.c, load_shadow()


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One TCP socket of this network namespace."""

    family: int
    state: int
    local: Address
    congestion: str
    device: int
    """Index of the device that it is bound to, or 0."""
    raw_id: bytes


def end_orphaned_shadows() -> int:
    """End what shadows a former life of prld has left; return how many. Raises KernelError."""
    return _end(lambda found: _SHADOW_CONGESTION.fullmatch(found.congestion) is not None)


def end_all_on(addresses: Iterable[Address], devices: frozenset[int] | None = None) -> int:
    """End the connections of ``addresses``, no listener; return how many. Raises KernelError.

    ``devices``: only of sockets that are bound to one of these (another routing instance has the
    same addresses).
    """
    silent = set(addresses)
    return _end(
        lambda found: (
            found.local in silent
            and found.state != _LISTEN
            and (devices is None or found.device in devices)
        )
    )


def count_on(addresses: Iterable[Address], devices: frozenset[int]) -> int:
    """How many connections of ``addresses`` are established on ``devices``. Raises KernelError."""
    wanted = set(addresses)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(nl.TIMEOUT_S)
            return sum(
                found.local in wanted and found.state == _ESTABLISHED and found.device in devices
                for found in _all(netlink)
            )
    except OSError as error:
        raise KernelError(f"sockets cannot be counted: {error.strerror or error}") from error


def _end(is_meant: Callable[[TcpSocket], bool]) -> int:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(nl.TIMEOUT_S)
            victims = [found for found in _all(netlink) if is_meant(found)]
            return sum(_destroy(netlink, victim) for victim in victims)
    except OSError as error:
        raise KernelError(
            f"sockets of a former life cannot be looked for: {error.strerror or error}; "
            "use a kernel with CONFIG_INET_TCP_DIAG and CONFIG_INET_DIAG_DESTROY"
        ) from error


def _all(netlink: socket.socket) -> Iterator[TcpSocket]:
    for family in (socket.AF_INET, socket.AF_INET6):
        question = _QUESTION.pack(
            family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_CONG - 1), _ALL_STATES
        )
        netlink.send(
            nl.message(_SOCK_DIAG_BY_FAMILY, nl.REQUEST | nl.DUMP, question + bytes(_ID.size))
        )
        done = False
        while not done:
            for kind, body in nl.messages(netlink.recv(nl.ANSWER_BYTES)):
                if kind == _SOCK_DIAG_BY_FAMILY:
                    yield _read(body)
                done |= kind in {nl.DONE, nl.ERROR}


def _destroy(netlink: socket.socket, victim: TcpSocket) -> bool:
    """Whether it is gone now by our doing; one that has ended meanwhile is not."""
    question = _QUESTION.pack(victim.family, socket.IPPROTO_TCP, 0, _ALL_STATES)
    netlink.send(nl.message(_SOCK_DESTROY, nl.REQUEST | nl.ACK, question + victim.raw_id))
    code = nl.acknowledged(netlink)
    if code == errno.EOPNOTSUPP:
        raise OSError(code, os.strerror(code))
    return code == 0


def _read(body: bytes) -> TcpSocket:
    family, state, raw_id = _FOUND.unpack_from(body)
    _, _, source, _, rest = _ID.unpack(raw_id)
    local = ip_address(source if family == socket.AF_INET6 else source[:4])
    congestion = ""
    for kind, value in nl.attributes(body, _FOUND.size):
        if kind == _INET_DIAG_CONG:
            congestion = value.rstrip(b"\0").decode("ascii", "replace")
    plain: Address = getattr(local, "ipv4_mapped", None) or local
    return TcpSocket(
        family, state, plain, congestion, int.from_bytes(rest[:4], sys.byteorder), raw_id
    )
