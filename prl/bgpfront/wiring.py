"""What keeps a daemon's connections to its peers on this host, in any state of the front.

::

    ip rule add to P ipproto tcp dport 179 uidrange U-U lookup TABLE priority TABLE
    ip rule add to P ipproto tcp sport 179 uidrange U-U lookup TABLE priority TABLE
    ip route add local P dev LAN src S table TABLE

For a peer of IPv6 `ip -6`.

By hand, as it is put right from the event loop: prl.kernel.netlink says what pyroute2 would cost.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prl.endpoint import Address
from prl.errors import KernelError
from prl.kernel import netlink as nl

BGP_PORT = 179
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTM_NEWRULE, _RTM_DELRULE = 32, 33
_RTM_GETLINK, _IFLA_LINKINFO, _IFLA_INFO_SLAVE_KIND = 18, 18, 4
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_EXCL = 0x200
_GROUPS = 0x40 | 0x80 | 0x400 | 0x40000  # RTNLGRP_IPV4_ROUTE, …_RULE, RTNLGRP_IPV6_ROUTE, …_RULE
_RTN_LOCAL, _SCOPE_HOST, _PROTOCOL_STATIC = 2, 254, 4
_RTA_DST, _RTA_OIF, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 7, 15
_FRA_DST, _FRA_PRIORITY, _FRA_TABLE = 1, 6, 15
_FRA_UID_RANGE, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 20, 22, 23, 24
_TO_TABLE = 1  # FR_ACT_TO_TBL
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_RULE = struct.Struct("=BBBBBBBBI")  # struct fib_rule_hdr
_RULES_MAX = 4096
"""More leftovers than this are not ours to clear."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What is kept: of one peer.

    Attributes:
        peer: its address.
        service: what this host's connections to it come from.
    """

    peer: Address
    service: Address

    @property
    def family(self) -> int:
        """The address family of both."""
        return socket.AF_INET if self.peer.version == 4 else socket.AF_INET6  # noqa: PLR2004

    @property
    def head(self) -> tuple[int, int]:
        """As a route and a rule begin: the family, and the bits of the whole address."""
        return self.family, self.peer.max_prefixlen


class Wiring:
    """The rules and routes of one front.

    Args:
        wires: one a peer.
        uid: the daemon's user.
        interface: the network that the peers are on.
        table: number and priority that are the front's own.

    Raises:
        KernelError: there is no such interface.
    """

    def __init__(self, wires: Sequence[Wire], *, uid: int, interface: str, table: int) -> None:
        self._wires, self._uid, self._table = tuple(wires), uid, table
        self._interface = interface
        try:
            self._index = socket.if_nametoindex(interface)
        except OSError as error:
            raise KernelError(f"there is no interface {interface}: {error.strerror}") from error
        self._events = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._events.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Readable when somebody has changed rules or routes: repair() then."""
        return self._events.fileno()

    def build(self) -> None:
        """Make the rules and routes, as far as they are not there.

        Raises:
            KernelError: it is refused, or would be of no use: a VRF device looks the route of a
                packet up anew, without its user and its ports (vrf_process_v4_outbound,
                drivers/net/vrf.c), so that the daemon would reach the peer itself.
        """
        if self._is_in_vrf():
            raise KernelError(
                f"{self._interface} is in a VRF, where rules for a user do not hold: the daemon "
                "would reach its peers past the front; take it out of the VRF"
            )
        for wire in self._wires:
            self._ask(_RTM_NEWROUTE, nl.CREATE | _EXCL, self._route(wire), errno.EEXIST)
        wanted = [rule for wire in self._wires for rule in self._rules(wire)]
        for rule in wanted:
            self._ask(_RTM_NEWRULE, nl.CREATE | _EXCL, rule, errno.EEXIST)

    def repair(self) -> None:
        """Put right what others have changed. Raises KernelError."""
        try:
            while self._events.recv(nl.ANSWER_BYTES):
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were lost: all is looked at anyway
                raise KernelError(f"rules and routes cannot be watched: {error}") from error
        self.build()

    def remove(self) -> None:
        """Undo it: the daemon reaches its peers as without a front. Raises KernelError."""
        priority = nl.attribute(_FRA_PRIORITY, struct.pack("=I", self._table))
        for family in sorted({wire.family for wire in self._wires}):
            body = _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + priority
            for _ in range(_RULES_MAX):
                if self._ask(_RTM_DELRULE, 0, body, errno.ENOENT):
                    break
        for wire in self._wires:
            self._ask(_RTM_DELROUTE, 0, self._route(wire), errno.ESRCH)

    def close(self) -> None:
        """Watch no longer; all stays as it is."""
        self._events.close()

    def _is_in_vrf(self) -> bool:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(nl.TIMEOUT_S)
            body = _LINK.pack(socket.AF_UNSPEC, 0, self._index, 0, 0)
            netlink.send(nl.message(_RTM_GETLINK, nl.REQUEST, body))
            _, answer = next(iter(nl.messages(netlink.recv(nl.ANSWER_BYTES))))
        found = dict(nl.attributes(answer, _LINK.size)).get(_IFLA_LINKINFO, b"")
        return dict(nl.attributes(found, 0)).get(_IFLA_INFO_SLAVE_KIND, b"").rstrip(b"\0") == b"vrf"

    def _route(self, wire: Wire) -> bytes:
        head = _ROUTE.pack(*wire.head, 0, 0, 0, _PROTOCOL_STATIC, _SCOPE_HOST, _RTN_LOCAL, 0)
        return (
            head
            + nl.attribute(_RTA_DST, wire.peer.packed)
            + nl.attribute(_RTA_OIF, struct.pack("=I", self._index))
            + nl.attribute(_RTA_PREFSRC, wire.service.packed)
            + nl.attribute(_RTA_TABLE, struct.pack("=I", self._table))
        )

    def _rules(self, wire: Wire) -> Iterator[bytes]:
        head = _RULE.pack(*wire.head, 0, 0, 0, 0, 0, _TO_TABLE, 0)
        for ports in (_FRA_DPORT_RANGE, _FRA_SPORT_RANGE):
            yield (
                head
                + nl.attribute(_FRA_DST, wire.peer.packed)
                + nl.attribute(_FRA_PRIORITY, struct.pack("=I", self._table))
                + nl.attribute(_FRA_TABLE, struct.pack("=I", self._table))
                + nl.attribute(_FRA_UID_RANGE, struct.pack("=II", self._uid, self._uid))
                + nl.attribute(_FRA_IP_PROTO, bytes([socket.IPPROTO_TCP]))
                + nl.attribute(ports, struct.pack("=HH", BGP_PORT, BGP_PORT))
            )

    def _ask(self, kind: int, flags: int, body: bytes, good: int) -> int:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(nl.TIMEOUT_S)
            netlink.send(nl.message(kind, nl.REQUEST | nl.ACK | flags, body))
            code = nl.acknowledged(netlink)
        if code not in {0, good}:
            what = "rule" if kind in {_RTM_NEWRULE, _RTM_DELRULE} else "route"
            raise KernelError(
                f"a {what} of table {self._table} is refused: {os.strerror(code)}; "
                "is the service address on this host?"
            )
        return code
