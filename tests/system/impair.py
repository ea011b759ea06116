"""A bad stretch of wire between the lab's switch and the peer.

Run as a program in the switch's namespace it takes the peer's port out of the bridge, puts a TAP in
its place, and carries every frame from one to the other itself. TCP segments with payload meet,
with chances given by a seed, one of the impairments of CHANCES; everything else passes.

    re0, re1 ── br0 ── TAP ══ this program ══ to-peer ── lan0 of the peer

It says "ready" when the wire is there, and its counters, as one JSON object, when its standard
input ends. There are real segments on it: the peer's offloads are turned off (Impaired does that),
and the TAP has none.
"""

import argparse
import fcntl
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from prl.lab import Lab
from prl.lab.topology import BRIDGE
from tests.internet import checksum

CHANCES = {"dropped": 0.01, "duplicated": 0.02, "delayed": 0.03, "overlapped": 0.03}
"""Of one segment; what is delayed arrives behind up to DELAY_FRAMES_MAX later frames."""
DELAY_FRAMES_MAX = 6
DELAY_MAX_S = 0.004
OVERLAP_BYTES_MAX = 400
OFFLOADS = ("tx", "tso", "gso", "gro")
BATCH = 64
FRAME_BYTES = 65536
TAP = "impair0"

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_ETH_BYTES, _IP6_BYTES = 14, 40
_FIN, _SYN, _RST, _PSH = 1, 2, 4, 8


class Segment:
    """A frame that holds a TCP segment with payload, to be cut in pieces."""

    def __init__(self, frame: bytes, l4: int, end: int) -> None:
        self.frame, self.l4 = frame, l4
        self.data = l4 + (frame[l4 + 12] >> 4) * 4
        self.payload = frame[self.data : end]
        (self.seq,) = struct.unpack_from("!I", frame, l4 + 4)
        self.flags = frame[l4 + 13]
        addresses = slice(26, 34) if frame[12:14] == b"\x08\x00" else slice(22, 54)
        self.addresses = frame[addresses]
        self.stream = self.addresses + frame[l4 : l4 + 4]

    @classmethod
    def of(cls, frame: bytes) -> "Segment | None":
        """The segment in a frame, if it has payload and neither SYN nor RST."""
        if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
            l4 = _ETH_BYTES + (frame[14] & 15) * 4
            end = _ETH_BYTES + int.from_bytes(frame[16:18], "big")
        elif frame[12:14] == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP:
            l4 = _ETH_BYTES + _IP6_BYTES
            end = l4 + int.from_bytes(frame[18:20], "big")
        else:
            return None
        found = cls(frame, l4, end)
        return found if found.payload and not found.flags & (_SYN | _RST) else None

    def piece(self, offset: int, payload: bytes, *, last: bool) -> bytes:
        """A segment like this one, with ``payload``, which begins at ``offset`` (may be < 0)."""
        tcp = bytearray(self.frame[self.l4 : self.data])
        struct.pack_into("!I", tcp, 4, (self.seq + offset) & 0xFFFFFFFF)
        if not last:
            tcp[13] &= ~(_FIN | _PSH)
        tcp[16:18] = b"\0\0"
        size = len(tcp) + len(payload)
        pseudo = self.addresses + struct.pack("!II", size, socket.IPPROTO_TCP)
        struct.pack_into("!H", tcp, 16, checksum(pseudo + tcp + payload))
        head = bytearray(self.frame[: self.l4])
        if head[12:14] == b"\x08\x00":
            struct.pack_into("!H", head, 16, self.l4 - _ETH_BYTES + size)
            head[24:26] = b"\0\0"
            struct.pack_into("!H", head, 24, checksum(bytes(head[_ETH_BYTES:])))
        else:
            struct.pack_into("!H", head, 18, size)
        return bytes(head + tcp) + payload


class Direction:
    """What happens to the frames that go one way."""

    def __init__(self, chance: random.Random, *, impaired: bool) -> None:
        self._chance, self._impaired = chance, impaired
        self._delayed: deque[tuple[int, float, bytes]] = deque()
        self._frames = 0
        self._before: dict[bytes, tuple[int, bytes]] = {}
        self.counters: Counter[str] = Counter(dict.fromkeys(CHANCES, 0))

    def carry(self, frame: bytes) -> list[bytes]:
        """The frames that arrive in place of ``frame``, and those whose delay is over."""
        self._frames += 1
        segment = Segment.of(frame) if self._impaired else None
        out = [frame] if segment is None else self._impair(segment)
        return out + self.due()

    def due(self) -> list[bytes]:
        """The delayed frames that have waited long enough."""
        out, now = [], time.monotonic()
        while self._delayed and (self._delayed[0][0] <= self._frames or self._delayed[0][1] <= now):
            out.append(self._delayed.popleft()[2])
        return out

    @property
    def waiting(self) -> bool:
        """Whether frames are delayed."""
        return bool(self._delayed)

    def _impair(self, segment: Segment) -> list[bytes]:
        self.counters["segments"] += 1
        draw = self._chance.random()
        for kind, chance in CHANCES.items():
            if draw < chance:
                self.counters[kind] += 1
                out = self._apply(kind, segment)
                break
            draw -= chance
        else:
            out = [segment.frame]
        self._before[segment.stream] = (segment.seq, segment.payload)
        return out

    def _apply(self, kind: str, segment: Segment) -> list[bytes]:
        if kind == "dropped":
            return []
        if kind == "duplicated":
            return [segment.frame, segment.frame]
        if kind == "delayed":
            until = self._frames + self._chance.randint(1, DELAY_FRAMES_MAX)
            self._delayed.append((until, time.monotonic() + DELAY_MAX_S, segment.frame))
            return []
        return self._overlap(segment)

    def _overlap(self, segment: Segment) -> list[bytes]:
        """Two segments that share bytes; the first begins inside of the previous segment."""
        payload = segment.payload
        cut = self._chance.randint(1, len(payload))
        shared = self._chance.randint(0, min(cut, OVERLAP_BYTES_MAX))
        seq, before = self._before.get(segment.stream, (0, b""))
        old = b""
        if (seq + len(before)) & 0xFFFFFFFF == segment.seq:
            room = min(len(before), len(payload) - cut, OVERLAP_BYTES_MAX)
            old = before[len(before) - room :] if room else b""
        first = segment.piece(-len(old), old + payload[:cut], last=cut == len(payload))
        second = segment.piece(cut - shared, payload[cut - shared :], last=True)
        return [first, second] if cut < len(payload) or shared else [first]


def _open_tap() -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", TAP.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


def _open_port(port: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE: no loss but ours
    sock.bind((port, 0))
    sock.setblocking(False)
    return sock


def _rewire(port: str) -> None:
    """The TAP takes the port's place in the bridge."""
    with IPRoute() as netlink:
        (bridge,), (tap,), (old,) = (
            netlink.link_lookup(ifname=name) for name in (BRIDGE, TAP, port)
        )
        netlink.link("set", index=old, master=0)
        netlink.link("set", index=old, state="up")
        netlink.link("set", index=tap, master=bridge, txqlen=10_000)
        netlink.link("set", index=tap, state="up")


def carry(port: str, seed: int, impaired: set[str]) -> dict[str, Counter[str]]:
    """Be the wire until standard input ends; return the counters of both directions."""
    tap = _open_tap()
    sock = _open_port(port)
    _rewire(port)
    chance = random.Random(seed)
    ways = {
        name: Direction(random.Random(chance.random()), impaired=name in impaired)
        for name in ("from_peer", "to_peer")
    }
    readers = {
        sock.fileno(): (ways["from_peer"], lambda: sock.recv(FRAME_BYTES), tap),
        tap: (ways["to_peer"], lambda: os.read(tap, FRAME_BYTES), sock.fileno()),
    }
    poller = select.poll()
    for fd in (*readers, sys.stdin.fileno()):
        poller.register(fd, select.POLLIN)
    print("ready", flush=True)  # noqa: T201
    while True:
        timeout_ms = 1 if any(way.waiting for way in ways.values()) else None
        for fd, _ in poller.poll(timeout_ms):
            if fd not in readers:
                return {name: way.counters for name, way in ways.items()}
            way, read, target = readers[fd]
            for _ in range(BATCH):
                try:
                    frame = read()
                except BlockingIOError:
                    break
                _write(target, way.carry(frame), way)
        for way, _, target in readers.values():
            _write(target, way.due(), way)


def _write(fd: int, frames: list[bytes], way: Direction) -> None:
    for frame in frames:
        try:
            os.write(fd, frame)
        except OSError:  # the cable is cut, or a queue is full: as on any wire
            way.counters["refused"] += 1


class Impaired:
    """The bad wire of a lab that is up."""

    def __init__(self, lab: Lab, seed: int, ways: tuple[str, ...]) -> None:
        member = lab.topology.peer
        switches = [word for offload in OFFLOADS for word in (offload, "off")]
        lab.run("peer", ["ethtool", "-K", member.lan.name, *switches], check=True)
        self._process = lab.exec(
            "lan",
            [sys.executable, "-m", "tests.system.impair", member.port, str(seed), *ways],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def end(self) -> dict[str, dict[str, int]]:
        """Take the wire away; return what happened on it, by direction."""
        said, _ = self._process.communicate()
        counters: dict[str, dict[str, int]] = json.loads(said)
        return counters

    def kill(self) -> None:
        """Whatever state it is in."""
        self._process.kill()
        self._process.__exit__(None, None, None)


@contextmanager
def impaired(lab: Lab, seed: int, *ways: str) -> Iterator[Impaired]:
    """A bad wire, ``from_peer``, ``to_peer`` or both, for the time of the context."""
    wire = Impaired(lab, seed, ways)
    try:
        yield wire
    finally:
        wire.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description="be a bad wire")
    parser.add_argument("port")
    parser.add_argument("seed", type=int)
    parser.add_argument("ways", nargs="*", choices=["from_peer", "to_peer"])
    given: Any = parser.parse_args()
    print(json.dumps(carry(given.port, given.seed, set(given.ways))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
