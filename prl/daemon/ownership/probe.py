"""Does anybody on the LAN use an address? ARP probes (RFC 5227) and DAD (RFC 4862).

A node that starts without word of the other one asks before it speaks for a service address (L6).
The probes come from this program, not from the kernel's stack: that one is silent for the address.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Hashable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeVar

from prl.bindings.datapath import LogicalInterface
from prl.bindings.packet import internet_checksum
from prl.config import Service
from prl.daemon.events.log import EventLog
from prl.daemon.ownership import frames
from prl.daemon.ownership.evidence import Evidence
from prl.daemon.ownership.frames import ARP_BYTES, ETH_BYTES, ETH_P_ARP, ETH_P_IPV6, ND_BYTES
from prl.endpoint import Address
from prl.errors import KernelError

PROBES = 3
ANSWERS = 2
"""What shows that an address is used: answers to so many probes, or each probe's. One frame may be
made up, and would keep an owner silent; after one the address is probed :data:`PROBES` times more,
so that a real user's answers may get lost."""
DEAF_ROUNDS_MAX = 20
"""Rounds in which the LAN is not heard; then it cannot be asked."""
PROBE_INTERVAL_S = 0.1
"""Shorter than RFC 5227 wants for a whole LAN of strangers: the owner of the address is a prl node
or nobody."""

_BROADCAST = b"\xff" * 6
_NS, _NA = 135, 136
_ND_HOPS = 255  # anything else came through a router (RFC 4861, 7.1)
T = TypeVar("T", bound=Hashable)


async def users(
    interface: LogicalInterface,
    addresses: Iterable[Address],
    evidence: Evidence | None = None,
    *,
    defends: bool = False,
) -> set[Address]:
    """Those of ``addresses`` that somebody else on the LAN answers for.

    With ``evidence`` only what is asked while the LAN is heard counts: that nobody answers says
    nothing of a LAN that no probe has reached. ``defends``: this node uses them, so that who only
    probes for them has an answer, and uses none.

    Raises:
        KernelError: the LAN cannot be asked.
    """
    wanted = set(addresses)
    with (
        contextlib.closing(frames.listen(interface.name)) as sock,
        contextlib.nullcontext() if evidence is None else evidence,
    ):
        return await _ask(sock, interface.mac, wanted, evidence, defends=defends)


async def users_of(
    service: Service,
    interface: LogicalInterface,
    events: EventLog,
    evidence: Evidence,
    *,
    defends: bool = False,
) -> set[Address] | None:
    """The same of a service's addresses; None: it cannot be asked, and the log says why."""
    try:
        return await users(interface, service.addresses, evidence, defends=defends)
    except KernelError as error:
        events.error("probe_failed", f"service {service.name}: {error}")
        return None


async def _ask(
    sock: socket.socket,
    mac: bytes,
    wanted: set[Address],
    evidence: Evidence | None,
    *,
    defends: bool,
) -> set[Address]:
    count = Answers(wanted)
    loop = asyncio.get_running_loop()

    def receive() -> None:
        for frame in frames.waiting(sock):
            count.hear(user_in(frame, mac, defends=defends))

    loop.add_reader(sock, receive)
    try:
        while asked := count.begin(heard=evidence is None or evidence.was_heard()):
            if evidence is not None:
                if count.deaf == DEAF_ROUNDS_MAX:
                    raise KernelError(evidence.why_deaf)
                evidence.ask()
            for address in asked:
                with contextlib.suppress(OSError):  # a full queue or a LAN that went down
                    sock.send(probe_frame(mac, address))
            await asyncio.sleep(PROBE_INTERVAL_S)
    finally:
        loop.remove_reader(sock)
    return count.users


class Answers(Generic[T]):
    """Which of some addresses are used by somebody, as round after round is asked and answered."""

    def __init__(self, wanted: Iterable[T]) -> None:
        self.users: set[T] = set()
        self._left = dict.fromkeys(wanted, PROBES)
        self._asked: set[T] = set()
        self._answered: dict[T, int] = {}
        self._heard: set[T] = set()
        self.deaf = 0
        """Rounds that did not count."""

    def begin(self, *, heard: bool = True) -> set[T]:
        """What is to be asked for in the next round; nothing: all is known.

        ``heard``: whether the LAN was, in the round that is over. If not, that one counts only for
        what was answered.
        """
        if self._asked and not heard:
            self.deaf += 1
            for address in self._asked:
                self._left[address] += 1
        for address in self._heard:
            self._answered[address] = self._answered.get(address, 0) + 1
            if self._answered[address] == ANSWERS:
                self.users.add(address)
                del self._left[address]
            else:
                self._left[address] = PROBES
        self._heard.clear()
        self._left = {address: left - 1 for address, left in self._left.items() if left}
        self._asked = set(self._left)
        return self._asked

    def hear(self, address: T | None) -> None:
        """Somebody shows that he uses it; once a round counts."""
        if address in self._left:
            self._heard.add(address)


def probe_frame(mac: bytes, address: Address) -> bytes:
    """An ARP probe or a DAD neighbour solicitation for ``address``: neither names a sender."""
    if isinstance(address, IPv4Address):
        arp = struct.pack(
            "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, bytes(4), bytes(6), address.packed
        )
        return _BROADCAST + mac + ETH_P_ARP.to_bytes(2) + arp
    target = address.packed
    group = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    body = struct.pack("!BBHI16s", _NS, 0, 0, 0, target)
    source = bytes(16)
    pseudo = source + group + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6)
    body = body[:2] + internet_checksum(pseudo + body).to_bytes(2) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255)
    multicast = b"\x33\x33" + group[12:]
    return multicast + mac + ETH_P_IPV6.to_bytes(2) + header + source + group + body


def user_in(frame: bytes, own_mac: bytes, *, defends: bool = False) -> Address | None:
    """The address that ``frame`` shows to be in use, or probed, by somebody else.

    ``defends``: only in use.
    """
    if len(frame) < ETH_BYTES or frame[6:12] == own_mac:
        return None
    kind, payload = int.from_bytes(frame[12:14]), frame[ETH_BYTES:]
    if kind == ETH_P_ARP and len(payload) >= ARP_BYTES and payload[:6] == b"\0\1\x08\0\6\4":
        sender, target = payload[14:18], payload[24:28]
        if defends and not any(sender):
            return None
        # A probe of another node's for the same address is a conflict, too (RFC 5227, 2.1.1).
        return IPv4Address(sender if any(sender) else target)
    if (
        kind == ETH_P_IPV6
        and len(payload) >= ND_BYTES
        and payload[6] == socket.IPPROTO_ICMPV6
        and payload[7] == _ND_HOPS
    ):
        is_dad = payload[40] == _NS and not any(payload[8:24])
        if payload[40] == _NA or (is_dad and not defends):
            return IPv6Address(payload[48:64])
    return None
