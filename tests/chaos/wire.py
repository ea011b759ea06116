"""The switch's view: what was said for the service addresses, by which node, and when."""

import itertools
import socket
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.lab.topology import Service
from tests.system import support

SNAP_BYTES = 128
_GLOBAL = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_SLL2 = struct.Struct("!HHIHBB8s")
_OUTGOING = 4  # PACKET_OUTGOING
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_ICMPV6, _ADVERTISEMENT = 58, 136


@dataclass(frozen=True, slots=True)
class Said:
    """One frame for a service address: seconds on the wall clock, and the node that sent it."""

    at_s: float
    node: str


def captured(lab: Lab, path: Path) -> AbstractContextManager[None]:
    """Capture on all ports of the switch: on one alone it would end with the port's going down."""
    options = ("-y", "LINUX_SLL2", "-s", str(SNAP_BYTES), "-B", "16384")
    return support.capture(lab, "any", path, "inbound", options)


def ports(lab: Lab) -> dict[int, str]:
    """The nodes by the numbers of their switch ports."""
    switch = Namespace(lab.topology.switch)
    numbers = {node.name: partial(socket.if_nametoindex, node.port) for node in lab.topology.nodes}
    return {switch.call(number): name for name, number in numbers.items()}


def read(path: Path, by_port: dict[int, str], service: Service) -> list[Said]:
    """What a capture has of the service."""
    data = path.read_bytes()
    found, at = [], _GLOBAL.size
    while at + _RECORD.size <= len(data):
        seconds, micros, size, _ = _RECORD.unpack_from(data, at)
        frame = data[at + _RECORD.size : at + _RECORD.size + size]
        at += _RECORD.size + size
        if at > len(data) or len(frame) < _SLL2.size:
            continue  # the last one may be cut off
        protocol, _, port, _, kind, _, _ = _SLL2.unpack_from(frame)
        node = by_port.get(port)
        if node and kind != _OUTGOING and _is_of(service, protocol, frame[_SLL2.size :]):
            found.append(Said(seconds + micros / 1e6, node))
    return sorted(found, key=lambda said: said.at_s)


def _is_of(service: Service, protocol: int, packet: bytes) -> bool:
    if protocol == _IPV4:
        return packet[12:16] == service.ipv4.packed
    if protocol == _ARP:
        return packet[14:18] == service.ipv4.packed
    if protocol != _IPV6:
        return False
    advertised = packet[6:7] == bytes([_ICMPV6]) and packet[40:41] == bytes([_ADVERTISEMENT])
    return packet[8:24] == service.ipv6.packed or (
        advertised and packet[48:64] == service.ipv6.packed
    )


def runs(said: Sequence[Said]) -> list[tuple[str, float, float]]:
    """Who spoke one after the other: the node, from when, until when."""
    found = []
    for node, each in itertools.groupby(said, lambda one: one.node):
        times = [one.at_s for one in each]
        found.append((node, times[0], times[-1]))
    return found


def two_speakers(said: Sequence[Said], changes: int) -> str:
    """Why two nodes must have spoken at once, or nothing.

    ``changes``: how often the service has changed hands. Whoever speaks in turn without that
    speaks beside the owner.
    """
    turns = runs(said)
    if len(turns) - 1 <= changes:
        return ""
    shown = ", ".join(f"{node} {began:.6f} to {ended:.6f}" for node, began, ended in turns)
    return f"{len(turns)} turns, though the service changed hands {changes} times: {shown}"
