"""Whether this node is on the LAN: it asks its neighbours there, and somebody answers (SPEC L6).

Whoever answers has heard this node, and is heard. It is the datapath's rule (``evidence()`` in
userspace/node/ownership.c) for a node that has none yet, or owns nothing yet.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Any

from prl.bindings.datapath import LogicalInterface
from prl.bindings.native import ffi, lib
from prl.config import Config
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host, NextHop
from prl.daemon.ownership import frames
from prl.daemon.ownership.frames import (
    ARP_BYTES,
    ETH_BYTES,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    ND_BYTES,
)
from prl.endpoint import Address, mapped
from prl.errors import KernelError

_IPV6_BYTES = 40
_ICMPV6 = bytes([socket.IPPROTO_ICMPV6])
_ARP_REPLY = b"\0\2"
_OF_MACHINES = {kind.to_bytes(2) for kind in (ETH_P_IP, ETH_P_ARP, ETH_P_IPV6)}
"""Types of frames that a switch forwards as soon as it forwards anything."""
_ECHO_REPLY, _NA = 129, 136


async def known(config: Config, host: Host, lans: Instances) -> "Evidence":
    """Evidence from those whom the kernel knows by now."""
    lan = lans.interfaces[0]
    try:
        return Evidence(config, lan, await host.neighbours(lan.ifindex))
    except KernelError:
        return Evidence(config, lan, ())  # all nodes can still be asked


class Evidence:
    """Asks on ``lan``, the interface of [lan]; a context manager, in which it listens.

    ``known`` are the neighbours that the kernel knows. For who has none any machine's IP or ARP
    frame is evidence, of all that is sent from then on: not all nodes answer a question to all, but
    a switch passes none on before it passes on the rest, unlike BPDUs of its own. Where there are
    witnesses, they alone are asked, and count.
    """

    def __init__(self, config: Config, lan: LogicalInterface, known: Iterable[NextHop]) -> None:
        self._lan, self._witnesses = lan, frozenset(config.lan.witnesses)
        self._frames = list(_questions(config, lan, known))
        self._knows_nobody = not self._frames
        if not self._witnesses and config.lan.address6 is not None:
            out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
            count = lib.prl_packet_ask_all(config.lan.address6.packed, lan.mac, out)
            self._frames.append(bytes(ffi.buffer(out, count)))
        self._sock: socket.socket | None = None
        self._heard = False

    @property
    def why_deaf(self) -> str:
        """What to tell if nobody answers."""
        who = "none of lan.witnesses" if self._witnesses else "nobody on the LAN"
        return (
            f"{self._lan.name}: {who} answers this node, which may be cut off while "
            "somebody else has the address; bring the link up, or mend the LAN"
        )

    def __enter__(self) -> None:
        self._sock = frames.listen(self._lan.name)
        asyncio.get_running_loop().add_reader(self._sock, self._receive)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._sock is not None
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def ask(self) -> None:
        """Ask everybody who is known."""
        assert self._sock is not None
        for frame in self._frames:
            with contextlib.suppress(OSError):  # a LAN that is down
                self._sock.send(frame)

    def was_heard(self) -> bool:
        """Whether somebody was heard since this was asked last."""
        heard = self._heard
        self._heard = heard and self._knows_nobody
        return heard

    def _receive(self) -> None:
        assert self._sock is not None
        for frame in frames.waiting(self._sock):
            self._heard |= self._counts(frame)

    def _counts(self, frame: bytes) -> bool:
        if self._knows_nobody:
            return frame[6:12] != self._lan.mac and frame[12:14] in _OF_MACHINES
        who = who_answers(frame, self._lan.mac)
        return who is not None and (not self._witnesses or who in self._witnesses)


def _questions(config: Config, lan: LogicalInterface, known: Iterable[NextHop]) -> Iterable[bytes]:
    own: dict[int, Address | None] = {4: config.lan.address, 6: config.lan.address6}
    others = {config.lan.peer_address, config.lan.peer_address6}
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    asked: list[tuple[Address, Any]] = [(witness, ffi.NULL) for witness in config.lan.witnesses]
    if not asked:
        asked = [
            (hop.address, bytes.fromhex(hop.mac.replace(":", "")))
            for hop in known
            if hop.address not in others and not hop.address.is_link_local
        ]
    for address, mac in asked:
        source = own[address.version]
        if source is not None:
            count = lib.prl_packet_ask(mapped(source), lan.mac, mapped(address), mac, out)
            yield bytes(ffi.buffer(out, count))


def who_answers(frame: bytes, own_mac: bytes) -> Address | None:
    """Whose answer to a question of this node's own ``frame`` is, if it is one."""
    if len(frame) < ETH_BYTES or frame[:6] != own_mac or frame[6:12] == own_mac:
        return None
    kind, payload = int.from_bytes(frame[12:14]), frame[ETH_BYTES:]
    if kind == ETH_P_ARP and len(payload) >= ARP_BYTES and payload[6:8] == _ARP_REPLY:
        return IPv4Address(payload[14:18])
    if kind != ETH_P_IPV6 or payload[6:7] != _ICMPV6 or len(payload) <= _IPV6_BYTES:
        return None
    what = payload[_IPV6_BYTES]
    if what == _NA and len(payload) >= ND_BYTES:
        return IPv6Address(payload[ND_BYTES - 16 : ND_BYTES])
    return IPv6Address(payload[8:24]) if what == _ECHO_REPLY else None
