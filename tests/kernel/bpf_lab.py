"""A node and a peer in two namespaces, and the frames that tests of the BPF programs exchange."""

import ctypes
import mmap
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fcntl import ioctl
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Self

from prl._core import ffi, lib

from prl.lab import stretch
from tests.internet import checksum

Address = IPv4Address | IPv6Address

OBJECTS = Path(__file__).resolve().parents[2] / "prl" / "bpf"
NODE_MAC = bytes.fromhex("02000000000a")
PEER_MAC = bytes.fromhex("020000000001")
BROADCAST = b"\xff" * 6
SERVICE4 = IPv4Address("192.0.2.100")
SERVICE6 = IPv6Address("2001:db8:0:1::100")
PEER4 = IPv4Address("192.0.2.1")
PEER6 = IPv6Address("2001:db8:0:1::1")
NODE4 = IPv4Address("192.0.2.10")
NODE6 = IPv6Address("2001:db8:0:1::10")
PORT, PEER_PORT = 7000, 40000
EPOCH, TERM = 4711, 7
"""Of the link, and of this node's ownership."""
CLAIM_KEY = bytes(range(101, 117))
PROBE_KEY = bytes(range(1, 17))

ETH_IP, ETH_IP6, ETH_ARP, ETH_VLAN, ETH_QINQ = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8
ETH_SENTINEL = 0x88B5  # IEEE 802 local experimental: nobody else's
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16

PATIENCE_S = 5 * stretch.factor()

_libc = ctypes.CDLL(None, use_errno=True)


def until(condition: Callable[[], object]) -> None:
    """Wait for what the kernel does on its own, with no event to wait for."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the kernel did not do what was expected"
        time.sleep(0)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Move this thread into a network namespace; what it opens there stays there."""
    with (
        Path("/proc/thread-self/ns/net").open() as home,
        Path(f"/run/netns/{namespace}").open() as there,
    ):
        if _libc.setns(there.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        try:
            yield
        finally:
            _libc.setns(home.fileno(), 0x40000000)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def mapped(address: Address) -> bytes:
    """Return the 16 bytes by which the tables know an address."""
    if isinstance(address, IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed


def l4_sum(source: Address, target: Address, protocol: int, data: bytes) -> int:
    """Return what belongs into a zero checksum field, or 0 when the one in ``data`` is right."""
    pseudo = source.packed + target.packed + struct.pack("!II", len(data), protocol)
    return checksum(pseudo + data)


def ethernet(
    payload: bytes,
    ether_type: int,
    *,
    source: bytes = PEER_MAC,
    target: bytes = NODE_MAC,
    tags: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """Return a frame; ``tags`` are (TPID, VLAN id), outermost first."""
    vlan = b"".join(struct.pack("!HH", tpid, vid) for tpid, vid in tags)
    return target + source + vlan + struct.pack("!H", ether_type) + payload


def ipv4(
    payload: bytes,
    source: Address = PEER4,
    target: Address = SERVICE4,
    protocol: int = TCP,
    *,
    options: bytes = b"",
    fragment: int = 0,
) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x40 | words, 0, words * 4 + len(payload), 1, fragment, 64, protocol, 0),
        *(source.packed, target.packed),
    )
    head += options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(
    payload: bytes, source: Address = PEER6, target: Address = SERVICE6, protocol: int = TCP
) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
    return head + source.packed + target.packed + payload


def extension(kind: int, next_header: int, *, words: int = 0) -> bytes:
    """Return an extension header of ``(words + 1) * 8`` bytes (AH counts by 4)."""
    if kind == 51:
        return struct.pack("!BB", next_header, words) + bytes((words + 2) * 4 - 2)
    return struct.pack("!BB", next_header, words) + bytes((words + 1) * 8 - 2)


@dataclass
class Segment:
    """A TCP segment from one end to the other, as it is built or as it was read."""

    seq: int = 1000
    ack: int = 500
    flags: int = ACK
    window: int = 1000
    payload: bytes = b""
    stamps: tuple[int, int] | None = None
    source: Address = PEER4
    target: Address = SERVICE4
    source_port: int = PEER_PORT
    target_port: int = PORT

    def pack(self) -> bytes:
        options = b""
        if self.stamps:
            options = struct.pack("!BBBBII", 1, 1, 8, 10, *self.stamps)
        head = struct.pack(
            "!HHIIBBHHH",
            *(self.source_port, self.target_port, self.seq, self.ack),
            *((5 + len(options) // 4) << 4, self.flags, self.window, 0, 0),
        )
        data = head + options + self.payload
        check = l4_sum(self.source, self.target, TCP, data)
        return data[:16] + struct.pack("!H", check) + data[18:]

    def frame(self, **how: Any) -> bytes:
        if isinstance(self.source, IPv4Address):
            return ethernet(ipv4(self.pack(), self.source, self.target), ETH_IP, **how)
        return ethernet(ipv6(self.pack(), self.source, self.target), ETH_IP6, **how)

    @classmethod
    def read(cls, frame: bytes) -> "Segment":
        """Read an untagged frame; the checksum must be right."""
        if frame[12:14] == b"\x08\x00":
            start = 14 + (frame[14] & 15) * 4
            end = 14 + int.from_bytes(frame[16:18])
            source, target = ip_address(frame[26:30]), ip_address(frame[30:34])
        else:
            start, end = 54, 54 + int.from_bytes(frame[18:20])
            source, target = ip_address(frame[22:38]), ip_address(frame[38:54])
        data = frame[start:end]
        assert l4_sum(source, target, TCP, data) == 0, "wrong checksum"
        ports = struct.unpack_from("!HHIIBBH", data)
        header = (ports[4] >> 4) * 4
        stamps = struct.unpack_from("!II", data, 24) if header >= 32 else None
        return cls(
            *(ports[2], ports[3], ports[5], ports[6], data[header:], stamps, source, target),
            *(ports[0], ports[1]),
        )


def output(seq: int = 0, payload: bytes = b"", **more: Any) -> Segment:
    """Return a segment of the node's, from the service address to the peer."""
    return Segment(
        seq=seq,
        payload=payload,
        source=SERVICE4,
        target=PEER4,
        source_port=PORT,
        target_port=PEER_PORT,
        **more,
    )


def outgoing(segment: Segment) -> bytes:
    return segment.frame(source=NODE_MAC, target=PEER_MAC)


def arp(operation: int, sender: Address, target: Address, *, trailer: bytes = b"") -> bytes:
    """Return an ARP message from the peer's MAC."""
    head = struct.pack("!HHBBH", 1, ETH_IP, 6, 4, operation)
    body = head + PEER_MAC + sender.packed + bytes(6) + target.packed
    return ethernet(body + trailer, ETH_ARP, target=BROADCAST)


def claim_token(token: bytes) -> bytes:
    """A claim's trailer, of a node without CLAIM_MAC."""
    return struct.pack("!BB2s16s4x", 253, 3, b"PR", token)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim as the other node makes it; the defaults are what the bench's kernel expects."""

    address: Address = SERVICE4
    epoch: int = EPOCH
    term: int = 8
    number: int = 1
    service: int = 0
    claimant: int = 1
    key: bytes = CLAIM_KEY

    def trailer(self) -> bytes:
        """What stands behind the ARP message, or as an option of the advertisement."""
        made = ffi.new(
            "struct prl_claimed *",
            [self.epoch, self.term, self.number, self.service, self.claimant],
        )
        ffi.buffer(made.addr)[:] = mapped(self.address)
        key = ffi.new("struct prl_siphash_key *")
        ffi.buffer(key)[:] = self.key
        mac = lib.prl_siphash_claim(key, made)
        return struct.pack("!BB2s4xQQQ", 253, 4, b"PR", self.term, self.number, mac)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the other node asks this kernel (struct prl_probe); the defaults are a good question."""

    epoch: int = EPOCH
    number: int = 1
    confirms: int = 0
    kind: int = lib.PRL_PROBE_ASKS
    path: int = lib.PRL_PROBE_LAN
    asker: int = 1
    flags: int = lib.PRL_PROBE_LINKED
    key: bytes = PROBE_KEY

    def pack(self) -> bytes:
        head = struct.pack(
            *("!IBBBBQQQ", lib.PRL_PROBE_MAGIC, self.kind, self.path, self.asker, self.flags),
            *(self.epoch, self.number, self.confirms),
        )
        body = head + bytes(ffi.sizeof("struct prl_probe") - 8 - len(head))
        return body + probe_mac(body, self.key)


def probe_mac(body: bytes, key: bytes = PROBE_KEY) -> bytes:
    """Of all that is in front of it."""
    made = ffi.new("struct prl_probe *")
    ffi.buffer(made)[: len(body)] = body
    secret = ffi.new("struct prl_siphash_key *")
    ffi.buffer(secret)[:] = key
    return int(lib.prl_siphash_probe(secret, made)).to_bytes(8, "little")


def neighbour(kind: int, target: Address, source: Address, *, options: bytes = b"") -> bytes:
    """Return a neighbour solicitation (135) or advertisement (136) as an IPv6 packet."""
    to = ip_address("ff02::1")
    data = struct.pack("!BBHI", kind, 0, 0, 0) + target.packed + options
    data = data[:2] + struct.pack("!H", l4_sum(source, to, ICMP6, data)) + data[4:]
    return ipv6(data, source, to, ICMP6)


class Packets:
    """An AF_PACKET socket on an interface of the namespace that this thread is in."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((interface, 3))
        self.socket.settimeout(PATIENCE_S)

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def until_sentinel(self) -> list[bytes]:
        """Return the frames received before the sentinel (not those sent here)."""
        frames: list[bytes] = []
        while True:
            frame, address = self.socket.recvfrom(70000)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            if frame[12:14] == struct.pack("!H", ETH_SENTINEL):
                return frames
            if not frame.startswith(b"\x33\x33"):  # multicast listener reports
                frames.append(frame)


class Tap:
    """A TAP device in the namespace that this thread is in."""

    def __init__(self, name: str) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        # TUNSETIFF; IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        ioctl(self.fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x5002))
        ioctl(self.fd, 0x400454D0, 0x1 | 0x2 | 0x4)  # TUNSETOFFLOAD: checksum, TSO4, TSO6
        self.ifindex = socket.if_nametoindex(name)

    def read(self) -> list[bytes]:
        """Return the frames that wait, each with its 10 bytes of virtio-net header in front."""
        frames = []
        while True:
            try:
                frames.append(os.read(self.fd, 70000))
            except BlockingIOError:
                return frames

    def write(self, frame: bytes, header: bytes = bytes(10)) -> None:
        os.write(self.fd, header + frame)


class Xsk:
    """A bare AF_XDP receive socket: enough to see what classify redirected."""

    FRAMES, FRAME = 64, 4096
    SOL_XDP, PGOFF_RX, PGOFF_FILL = 283, 0, 0x100000000

    def __init__(self, interface: str) -> None:
        self.area = mmap.mmap(-1, self.FRAMES * self.FRAME)
        self.socket = socket.socket(44, socket.SOCK_RAW)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.area))
        self._set(4, struct.pack("QQII", address, len(self.area), self.FRAME, 0))  # XDP_UMEM_REG
        for option in (5, 6, 2):  # fill, completion, receive ring
            self._set(option, struct.pack("I", self.FRAMES))
        offsets = struct.unpack("16Q", self.socket.getsockopt(self.SOL_XDP, 1, 128))
        self.rx_at, self.fill_at = offsets[:4], offsets[8:12]
        self.rx = self._map(self.rx_at[2] + self.FRAMES * 16, self.PGOFF_RX)
        self.fill = self._map(self.fill_at[2] + self.FRAMES * 8, self.PGOFF_FILL)
        for i in range(self.FRAMES):
            struct.pack_into("Q", self.fill, self.fill_at[2] + i * 8, i * self.FRAME)
        struct.pack_into("I", self.fill, self.fill_at[0], self.FRAMES)
        where = struct.pack("HHIII", 44, 1 << 1, socket.if_nametoindex(interface), 0, 0)  # copy
        if _libc.bind(self.socket.fileno(), where, len(where)):
            raise OSError(ctypes.get_errno(), "bind AF_XDP")

    def _set(self, option: int, value: bytes) -> None:
        self.socket.setsockopt(self.SOL_XDP, option, value)

    def _map(self, size: int, offset: int) -> mmap.mmap:
        return mmap.mmap(self.socket.fileno(), size, mmap.MAP_SHARED, offset=offset)

    def close(self) -> None:
        self.socket.close()
        self.rx.close()
        self.fill.close()

    def read(self) -> list[tuple[int, int, bytes]]:
        """Return (handle, slot, frame) for each frame received; frames are not given back."""
        if self.rx.closed:
            return []
        (producer,) = struct.unpack_from("I", self.rx, self.rx_at[0])
        (consumer,) = struct.unpack_from("I", self.rx, self.rx_at[1])
        found = []
        for i in range(consumer, producer):
            at, size, _ = struct.unpack_from("QII", self.rx, self.rx_at[2] + i % self.FRAMES * 16)
            handle, slot = struct.unpack("II", self.area[at - 8 : at])
            found.append((handle, slot, self.area[at : at + size]))
        struct.pack_into("I", self.rx, self.rx_at[1], producer)
        return found


SO_RCVMARK = 75  # asm-generic/socket.h
BEHIND_TC = f"""
table netdev behind {{
    chain ingress {{
        type filter hook ingress device "lan0" priority 0;
        ether type {ETH_SENTINEL:#x} accept
        meta mark {lib.PRL_MARK_RELEASE:#x} accept
        meta mark and {lib.PRL_QUEUE_MARKS_MASK:#x} == {lib.PRL_QUEUE_MARKS:#x} fwd to "marked0"
        fwd to "up0"
    }}
}}
"""
"""What tc lets through goes on to one of two TAPs; what prl gives back, to the stack."""


def newborn_key(peer_port: int = PEER_PORT, *, port: int = PORT, lif: int = 0) -> Any:
    """Of a session of SERVICE4, as prl_newborns has it; with one port 0, of an endpoint."""
    key = ffi.new("struct prl_flow_key *", {"lif": lif, "proto": TCP})
    key.local_port, key.remote_port = socket.htons(port), socket.htons(peer_port)
    ffi.buffer(key.local)[:] = mapped(SERVICE4)
    if peer_port:
        ffi.buffer(key.remote)[:] = mapped(PEER4)
    return key


@dataclass
class Bench:
    """A node with the programs attached, and its peer."""

    mode: int
    name: str = field(default_factory=lambda: f"h4-{os.getpid()}")
    flows_max: int = 16

    def __enter__(self) -> Self:
        self.node_ns, self.peer_ns = f"{self.name}n", f"{self.name}p"
        self.kernel = ffi.NULL
        self.affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(self.affinity)})  # frames and sentinels stay in order
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _build(self) -> None:
        for namespace in (self.node_ns, self.peer_ns):
            ip("netns", "add", namespace)
            for protocol in ("default", "all"):
                with inside(namespace):
                    # no link-local addresses: a stack that has none has nothing to say
                    Path(f"/proc/sys/net/ipv6/conf/{protocol}/addr_gen_mode").write_text("1")
        ip(
            *("-n", self.node_ns, "link", "add", "lan0", "address", NODE_MAC.hex(":")),
            *("type", "veth", "peer", "name", "lan0", "address", PEER_MAC.hex(":")),
            *("netns", self.peer_ns),
        )
        for namespace in (self.node_ns, self.peer_ns):
            ip("-n", namespace, "link", "set", "lan0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")
        with inside(self.node_ns):
            self.hold, self.inject = Tap("hold0"), Tap("inject0")
            self.lan_ifindex = socket.if_nametoindex("lan0")
        folder = ffi.new("char[]", str(OBJECTS).encode())
        instance = ffi.new("char[]", self.name.encode())
        self.texts = folder, instance  # cffi frees what nobody holds
        self.config = ffi.new(
            "struct prl_kernel_config *",
            {
                "object_dir": folder,
                "instance": instance,
                "flows_max": self.flows_max,
                "mode": self.mode,
                "lifs": 1,
                "ifindex": [self.lan_ifindex],
                "inject_ifindex": self.inject.ifindex,
                "hold_ifindex": self.hold.ifindex,
                "stale_ns": 200_000_000,
                "hold_ns": 400_000_000,
                "hung_ns": 400_000_000,
            },
        )
        self.start()
        with inside(self.node_ns):
            self.out = Packets("lan0")
            self.xsk = Xsk("lan0")
            assert lib.prl_kernel_xsk_set(self.kernel, 0, 0, self.xsk.socket.fileno()) == 0
        for namespace, tap in ((self.node_ns, "hold0"), (self.node_ns, "inject0")):
            ip("-n", namespace, "link", "set", tap, "up")
        with inside(self.peer_ns):
            self.peer = Packets("lan0")
        self.alive()

    def start(self) -> None:
        """Load and attach, as a prld that starts."""
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        with inside(self.node_ns):
            self.kernel = lib.prl_kernel_open(self.config, error)
            assert self.kernel != ffi.NULL, ffi.string(error)
            assert lib.prl_kernel_attach(self.kernel, error) == 0, ffi.string(error)
        self.node = lib.prl_kernel_node(self.kernel)

    def stop(self, *, keep_silence: bool) -> None:
        """End this prld, in the regular way or leaving silence behind."""
        with inside(self.node_ns):
            lib.prl_kernel_close(self.kernel, keep_silence)
        self.kernel = ffi.NULL

    def __exit__(self, *_: object) -> None:
        if self.kernel != ffi.NULL:
            self.stop(keep_silence=False)
        for name in ("hold", "inject"):
            if tap := getattr(self, name, None):
                os.close(tap.fd)
        for name in ("out", "peer"):
            if packets := getattr(self, name, None):
                packets.socket.close()
        if xsk := getattr(self, "xsk", None):
            xsk.close()
        for namespace in (self.node_ns, self.peer_ns):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
        os.sched_setaffinity(0, self.affinity)

    def alive(self, seconds: float = 3600) -> None:
        """Let the heartbeat be good for so long (negative: long dead)."""
        self.node.heartbeat_ns = self.now() + int(seconds * 1e9)

    def now(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def agree(self) -> None:
        """What both nodes know since HELLO, and a term."""
        self.node.claim_epoch, self.node.claimant, self.node.terms[0] = EPOCH, 1, TERM
        ffi.buffer(self.node.claim_key)[:] = CLAIM_KEY
        self.node.probe_epoch = EPOCH
        ffi.buffer(self.node.probe_key)[:] = PROBE_KEY

    def own(self, address: Address, state: int = lib.PRL_ADDR_OWNER, **more: Any) -> None:
        self.node.fenced = 0
        value = ffi.new("struct prl_addr *", {"state": state, **more})
        assert lib.prl_kernel_addr_set(self.kernel, self._address_key(address), value) == 0

    def address(self, address: Address) -> Any:
        value = ffi.new("struct prl_addr *")
        assert lib.prl_kernel_addr_get(self.kernel, self._address_key(address), value) == 0
        return value

    def _address_key(self, address: Address) -> Any:
        key = ffi.new("struct prl_addr_key *", {"ifindex": self.lan_ifindex})
        ffi.buffer(key.addr)[:] = mapped(address)
        return key

    def flow(
        self,
        slot: int = 1,
        flags: int = lib.PRL_FLOW_ACTIVE,
        *,
        local: Address = SERVICE4,
        remote: Address = PEER4,
        vlans: int = 0,
        proto: int = TCP,
        ports: tuple[int, int] = (PORT, PEER_PORT),
    ) -> Any:
        """Put a flow into the table and return its shared state."""
        key = ffi.new(
            "struct prl_flow_key *",
            {
                "local": list(mapped(local)),
                "remote": list(mapped(remote)),
                "local_port": socket.htons(ports[0]),
                "remote_port": socket.htons(ports[1]),
                "vlans": vlans,
                "proto": proto,
            },
        )
        state = lib.prl_kernel_flow(self.kernel, slot)
        state.flags = flags
        assert lib.prl_kernel_flow_add(self.kernel, key, 0x1000 + slot, slot) == 0
        return state

    def receive(self, frame: bytes) -> tuple[list[bytes], list[tuple[int, int, bytes]]]:
        """Send a frame to the node; return what went up to its stack and what to userspace."""
        self.peer.send(frame)
        self.peer.send(ethernet(bytes(50), ETH_SENTINEL))
        return self.out.until_sentinel(), self.xsk.read()

    def emit(self, frame: bytes) -> tuple[list[bytes], list[bytes]]:
        """Let the node send a frame; return what the peer got and what was held."""
        return self.reaches(frame), [held[10:] for held in self.hold.read()]

    def reaches(self, frame: bytes) -> list[bytes]:
        """Let the node send a frame; return what the peer got. What is held is not read."""
        self.out.send(frame)
        self.out.send(ethernet(bytes(50), ETH_SENTINEL, source=NODE_MAC, target=PEER_MAC))
        return self.peer.until_sentinel()

    def has_no_receiver(self) -> None:
        """Nobody takes what is captured."""
        self.xsk.close()

    def passes(self, frame: bytes) -> bool:
        up, captured = self.receive(frame)
        assert not captured
        # AF_PACKET gets a frame without its outer tag
        assert not up or (len(up) == 1 and frame.endswith(up[0][14:]))
        return bool(up)


@dataclass
class QueueBench(Bench):
    """A bench of the carrier "kernel": its input is marked, and goes to a TAP behind tc."""

    mode: int = lib.PRL_XDP_KERNEL

    def _build(self) -> None:
        super()._build()
        self.node.queue_mark = lib.PRL_QUEUE_MARKS
        with inside(self.node_ns):
            self.up, self.marked = Tap("up0"), Tap("marked0")
            for tap in ("up0", "marked0"):
                ip("link", "set", tap, "up")
            self.marks = Packets("marked0")
            self.marks.socket.setsockopt(socket.SOL_SOCKET, SO_RCVMARK, 1)
            subprocess.run(["nft", BEHIND_TC], check=True)

    def __exit__(self, *_: object) -> None:
        for name in ("up", "marked"):
            if tap := getattr(self, name, None):
                os.close(tap.fd)
        if marks := getattr(self, "marks", None):
            marks.socket.close()
        super().__exit__()

    def receive(self, frame: bytes) -> tuple[list[bytes], list[tuple[int, int, bytes]]]:
        """As on XDP. The handle is the flow's that has the slot, as prld finds it."""
        super().receive(frame)
        captured = []
        for read in self.marked.read():
            slot = self._next_mark() & lib.PRL_QUEUE_SLOT
            captured.append((0x1000 + slot, slot, read[10:]))
        return [read[10:] for read in self.up.read()], captured

    def _next_mark(self) -> int:
        _, more, _, _ = self.marks.socket.recvmsg(1, socket.CMSG_SPACE(4))
        ((_, _, mark),) = more
        return int.from_bytes(mark, "little")

    def has_no_receiver(self) -> None:
        self.node.queue_mark = 0


def put_newborn(bench: Bench, key: Any, newborn: Any) -> None:
    """Let a session wait as the entry says."""
    argv = ["bpftool", "map", "update", "pinned", f"/sys/fs/bpf/prl/{bench.name}/prl_newborns"]
    for name, data in (("key", ffi.buffer(key)), ("value", ffi.buffer(newborn))):
        argv += [name, "hex", *(f"{byte:02x}" for byte in bytes(data))]
    subprocess.run(argv, check=True)
