"""What this host's firewall knows of a session that began on the other node (SPEC R23a).

The owner's connection tracking saw the handshake, so that a stateful ruleset lets the session pass
as established. Here nobody saw one: to the ruleset what a shadow is fed would be a new connection
without SYN. So the standby's connection tracking is told of the session, as conntrackd does it:
established, seen in both directions, of whatever sequence numbers come. Taking the packets out of
connection tracking instead would make them "untracked", which no ruleset of "established,related
accept" lets pass, on either node.
"""

import asyncio
import contextlib
import errno
import os
import random
import socket
import struct
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from prl.bindings.datapath import Tuple
from prl.daemon.events.log import EventLog
from prl.endpoint import Address
from prl.kernel import netlink

SYSCTLS: Final = Path("/proc/sys/net/netfilter")
TIMEOUT_S: Final = {socket.IPPROTO_TCP: 432_000, socket.IPPROTO_UDP: 120}
"""The kernel's defaults; what the host has set is in _TIMEOUT_SYSCTL."""
LOOKS: Final = 8
"""Sessions whose entries are looked for in one look: a table is emptied as a whole."""
LEFT_S: Final = 300
"""How long an entry stays of which this node has no shadow any more."""
ENTERED_AT_ONCE: Final = 200
"""Entries made before everything else of prld has its turn: there may be 100,000 to make."""
_TIMEOUT_SYSCTL = {
    socket.IPPROTO_TCP: "nf_conntrack_tcp_timeout_established",
    socket.IPPROTO_UDP: "nf_conntrack_udp_timeout_stream",
}
_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK, linux/netfilter/nfnetlink.h
_NEW, _GET, _GET_STATS = (_SUBSYSTEM | kind for kind in (0, 1, 5))  # IPCTNL_MSG_CT_…
# linux/netfilter/nfnetlink_conntrack.h
_ORIGINAL, _REPLY, _STATUS, _PROTOINFO, _TIMEOUT = 1, 2, 3, 4, 7
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_ENDS = {4: (1, 2), 6: (3, 4)}
_PROTO_NUMBER, _PROTO_SOURCE, _PROTO_TARGET = 1, 2, 3
_PROTOINFO_TCP = 1
_TCP_STATE, _TCP_FLAGS_ORIGINAL, _TCP_FLAGS_REPLY = 1, 4, 5
# linux/netfilter/nf_conntrack_common.h and nf_conntrack_tcp.h
_SEEN_ASSURED_CONFIRMED = 0x2 | 0x4 | 0x8
_TCP_ESTABLISHED = 3
_TCP_LIBERAL = b"\x08\x08"
"""Flag and mask: no sequence number is out of window, for the windows of before are not known."""


class Conntrack:
    """Entries of this network namespace's connection tracking; without any, nothing is done."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._netlink: socket.socket | None = None
        self._complained = False

    def close(self) -> None:
        """The entries stay as long as the sessions do."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def enter(self, ends: Tuple) -> bool:
        """A session is established that began elsewhere, or whose entry says otherwise.

        Whether it could be said, if there was anything to say.
        """
        if ends.is_unconnected or not is_tracking():
            return True  # a datagram of just anybody is judged by itself, on both nodes
        return self._enter(ends, _timeout_s(ends.proto))

    def _enter(self, ends: Tuple, timeout_s: int) -> bool:
        body = _family(ends.local) + _both_ways(ends)
        body += netlink.attribute(_STATUS, struct.pack("!I", _SEEN_ASSURED_CONFIRMED))
        body += _timeout(timeout_s)
        if not ends.is_udp:
            state = netlink.attribute(_TCP_STATE, bytes([_TCP_ESTABLISHED]))
            flags = (_TCP_FLAGS_ORIGINAL, _TCP_FLAGS_REPLY)
            liberal = (netlink.attribute(each, _TCP_LIBERAL) for each in flags)
            body += netlink.nested(_PROTOINFO, netlink.nested(_PROTOINFO_TCP, state, *liberal))
        code = self._ask(_NEW, netlink.CREATE, body)
        if code and not self._complained:
            self._complained = True
            self._log.warning(
                "conntrack",
                f"{ends}: connection tracking cannot be told of it: {os.strerror(code)}; a "
                "stateful firewall here may drop what its shadow is fed (`prlctl doctor`)",
            )
        return not code

    async def keep(
        self, handles: Callable[[], Sequence[int]], ends_of: Callable[[int], Tuple | None]
    ) -> None:
        """Enter all where entries are missing: a firewall was switched on, or the table emptied.

        On the owner, too: there a session whose handshake was forgotten would be a new connection
        without SYN. ``ends_of`` tells the ends of a flow, None of one that has ended meanwhile.
        """
        if not is_tracking():
            return
        wanted = handles()
        some = map(ends_of, random.sample(wanted, min(len(wanted), LOOKS)))
        if all(ends is None or ends.is_unconnected or self._is_entered(ends) for ends in some):
            return
        timeouts_s = {proto: _timeout_s(proto) for proto in TIMEOUT_S}
        for number, handle in enumerate(wanted, 1):
            ends = ends_of(handle)
            if ends is None or ends.is_unconnected:
                continue
            if not self._enter(ends, timeouts_s[ends.proto]):
                return  # a full table: the others fare alike
            if number % ENTERED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _is_entered(self, ends: Tuple) -> bool:
        tracked = _family(ends.local) + _tuple(_ORIGINAL, ends, from_peer=True)
        return self._ask(_GET, 0, tracked) != errno.ENOENT

    def leave(self, ends: Tuple) -> None:
        """This node has nothing of the session any more: its entry may expire.

        Not at once: a session that is lost must let its peer's segment in, to reset it.
        """
        if not ends.is_unconnected and is_tracking():
            tracked = _family(ends.local) + _tuple(_ORIGINAL, ends, from_peer=True)
            self._ask(_NEW, 0, tracked + _timeout(LEFT_S))

    def _ask(self, kind: int, flags: int, body: bytes) -> int:
        try:
            if self._netlink is None:
                self._netlink = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER
                )
                self._netlink.settimeout(netlink.TIMEOUT_S)
            acknowledge = 0 if kind == _GET else netlink.ACK
            self._netlink.send(netlink.message(kind, netlink.REQUEST | acknowledge | flags, body))
            return netlink.acknowledged(self._netlink)
        except OSError as error:
            self.close()
            return error.errno or errno.EIO


def can_be_told() -> bool:
    """Whether the kernel has the interface that enter() needs."""
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asking:
            asking.settimeout(netlink.TIMEOUT_S)
            asking.send(netlink.message(_GET_STATS, netlink.REQUEST | netlink.ACK, body))
            return not netlink.acknowledged(asking)
    except OSError:
        return False


def is_tracking() -> bool:
    """Whether connections are tracked here: then the link's own is one of them."""
    try:
        return int((SYSCTLS / "nf_conntrack_count").read_text()) > 0
    except (OSError, ValueError):
        return False


def _timeout(seconds: int) -> bytes:
    return netlink.attribute(_TIMEOUT, struct.pack("!I", seconds))


def _timeout_s(proto: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((SYSCTLS / _TIMEOUT_SYSCTL[proto]).read_text())
    return TIMEOUT_S[proto]


def _family(local: Address) -> bytes:
    family = socket.AF_INET6 if isinstance(local, IPv6Address) else socket.AF_INET
    return struct.pack("!BBH", family, 0, 0)  # struct nfgenmsg


def _both_ways(ends: Tuple) -> bytes:
    return _tuple(_ORIGINAL, ends, from_peer=True) + _tuple(_REPLY, ends, from_peer=False)


def _tuple(kind: int, ends: Tuple, *, from_peer: bool) -> bytes:
    """The connection as packets in one direction show it; the peer began it."""
    near, far = (ends.local, ends.local_port), (ends.remote, ends.remote_port)
    (source, source_port), (target, target_port) = (far, near) if from_peer else (near, far)
    source_kind, target_kind = _IP_ENDS[source.version]
    return netlink.nested(
        kind,
        netlink.nested(
            _TUPLE_IP,
            netlink.attribute(source_kind, source.packed),
            netlink.attribute(target_kind, target.packed),
        ),
        netlink.nested(
            _TUPLE_PROTO,
            netlink.attribute(_PROTO_NUMBER, bytes([ends.proto])),
            netlink.attribute(_PROTO_SOURCE, struct.pack("!H", source_port)),
            netlink.attribute(_PROTO_TARGET, struct.pack("!H", target_port)),
        ),
    )
