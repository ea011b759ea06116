"""The seeds of the corpora: ``python -m tests.fuzz.seeds`` writes them into ``tests/fuzz/corpus``.

They come from the golden vectors, and from packets as the other tests make them; each harness has
its own few bytes in front (see there). What a run has found, and was mended, lies beside them under
a name of its own, not ``seed-…``.
"""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator

from prl.bindings import bgp_rib
from tests import bgp_updates
from tests.fuzz.targets import CORPUS
from tests.kernel.bpf_lab import (
    ETH_IP,
    ETH_IP6,
    ETH_QINQ,
    ETH_VLAN,
    ICMP,
    PEER4,
    PEER6,
    SERVICE4,
    SERVICE6,
    TCP,
    UDP,
    Segment,
    ethernet,
    extension,
    ipv4,
    ipv6,
)
from tests.unit.test_c_client import GOOD
from tests.unit.test_wire import HEADER, MESSAGES, VECTORS

SIGNED = b"\x01\x01\x13\x12" + bytes(16)
STAMPED = Segment(payload=b"x" * 40, stamps=(1, 2))
DATAGRAM = struct.pack("!HHHH", 40000, 7000, 12, 0) + b"data"
PACKETS: dict[str, bytes] = {
    "tcp": ipv4(STAMPED.pack()),
    "tcp6": ipv6(Segment(payload=b"y" * 9, source=PEER6, target=SERVICE6).pack()),
    "options": ipv4(Segment().pack(), options=b"\x01" * 8),
    "extensions": ipv6(
        extension(0, 60) + extension(60, 51) + extension(51, TCP, words=1) + Segment().pack(),
        protocol=0,
    ),
    "atomic": ipv6(struct.pack("!BBHI", TCP, 0, 0, 7) + Segment().pack(), protocol=44),
    "udp": ipv4(DATAGRAM, protocol=UDP),
    "icmp": ipv4(
        struct.pack("!BBHI", 3, 4, 0, 1400) + ipv4(DATAGRAM, SERVICE4, PEER4, UDP)[:28],
        protocol=ICMP,
    ),
}


def _signed() -> bytes:
    """A segment with room for a signature in front of its timestamps."""
    whole = STAMPED.pack()
    header = bytearray(whole[:20] + SIGNED + whole[20:32])
    header[12] = len(header) // 4 << 4
    return ipv4(bytes(header) + whole[32:])


def _wire() -> Iterator[tuple[str, bytes]]:
    wanted = ("HELLO", "REPLICATE", "OUTPUT", "SETUP", "COMPARE", "SWITCHOVER", "ERROR")
    first = {vector.message: vector for vector in reversed(VECTORS)}
    return ((name, first[name].data) for name in wanted)


def _hello() -> Iterator[tuple[str, bytes]]:
    for vector in VECTORS:
        if vector.message != "HELLO":
            continue
        made = bytes(vector.fields[f] for f in ("version_min", "version_max", "node_index"))
        at = HEADER + MESSAGES["HELLO"].fixed_bytes
        while at < len(vector.data):
            kind, _, size = struct.unpack_from(">HHI", vector.data, at)
            value = vector.data[at + 8 : at + 8 + size]
            made += struct.pack(">BBH", kind & 0x7F, kind >> 15, size) + value
            at += 8 + size + -size % 4
        yield vector.name, made


def _setup() -> Iterator[tuple[str, bytes]]:
    for vector in VECTORS:
        if vector.message == "SETUP":
            tlvs = vector.data[HEADER + MESSAGES["SETUP"].fixed_bytes :]
            yield vector.name, struct.pack(">IIB", 3, 7, vector.fields["flags"]) + tlvs


def _link() -> Iterator[tuple[str, bytes]]:
    stream = b"".join(data for _, data in _wire())
    yield "stream", b"\0\4\1\7\xff\x20" + stream
    yield "stream cut off", b"\0\0" + stream[:-5]
    step = {"put": 0, "refer": 1, "settle": 3, "flush": 4, "arrive": 5}
    one = bytes([step["put"], 0]) + struct.pack(">HH", 700, 20)
    other = bytes([step["refer"], 2]) + struct.pack(">HH", 2900, 1000)
    flush = bytes([step["flush"], 0xA0, 5, step["settle"], step["arrive"], 0xFF])
    yield "exchange", b"\1" + (one + other + other + flush) * 6


def _packet() -> Iterator[tuple[str, bytes]]:
    for name, data in PACKETS.items():
        yield name, b"\4" + struct.pack(">I", 17) + data
    yield "every cut", b"\0" + struct.pack(">I", 17) + PACKETS["extensions"]
    tagged = ethernet(PACKETS["tcp"], ETH_IP, tags=((ETH_QINQ, 7), (ETH_VLAN, 5)))
    yield "tagged", b"\1" + bytes(4) + tagged
    yield "frame", b"\1" + bytes(4) + ethernet(PACKETS["extensions"], ETH_IP6)
    yield "made", b"\2" + bytes(range(1, 80))


STEPS = {"run": 0, "turn": 2, "carry": 3, "time": 4, "peer": 5, "stranger": 7, "application": 8,
         "forge": 10, "raw": 12, "lan": 13, "control": 14, "protect": 15, "read": 16, "join": 17,
         "silence": 18, "life": 19}  # fmt: skip
"""one_step() of datapath.c."""
LIVES = {
    "calm": "run run turn carry peer peer application application read lan",
    "busy": "run carry time peer peer peer application application read protect lan",
    "liar": "run run peer application forge forge forge stranger raw join protect",
    "moves": "run run run peer application control control lan protect read time",
    "deaths": "run run time peer application life join protect silence lan control",
    "all": " ".join(STEPS),
}


def _datapath() -> Iterator[tuple[str, bytes]]:
    for name, words in LIVES.items():
        steps = [STEPS[word] for word in words.split()]
        for number in range(3):
            chance = hashlib.shake_128(f"{name} {number}".encode()).digest(900)
            data = bytearray(chance)
            for at in range(0, len(data) - 1, 4):  # who and what, and two bytes for that
                data[at + 1] = steps[data[at + 1] % len(steps)]
            yield f"{name} {number}", bytes(data)
    yield "forged", _forged()
    yield "of another session", _forged(at=21, value=0x41)
    yield "of a port of the host's", _forged(at=23, value=22)


def _forged(at: int | None = None, value: int = 0) -> bytes:
    """The next packet for the shadow on node 1, one byte of it changed; then it is looked at."""
    likely = b"\xff"
    message = b"".join(
        (
            *(b"\0", b"\0", likely * 3, likely * 3),  # session 0, REPLICATE, numbers as they are
            *(b"\0", likely, b"\0\0", likely * 2, b"\0\0"),
            *(likely, b"\x14"),  # a packet of 100 bytes
            *((b"\0",) if at is None else (b"\1", bytes((at, value)))),
            likely,
        )
    )
    return (
        bytes((0, STEPS["run"])) + bytes((1, STEPS["forge"])) + message + bytes((1, STEPS["run"]))
    )


def _elide() -> Iterator[tuple[str, bytes]]:
    for name in ("tcp", "tcp6", "udp", "options"):
        yield name, b"\0" + PACKETS[name]
    for vector in VECTORS:
        for kind, value in vector.elements:
            if kind == "ELIDED":
                yield vector.name, b"\5" + bytes(32) + value


def _tap() -> Iterator[tuple[str, bytes]]:
    for name in ("tcp", "tcp6", "udp", "extensions"):
        yield name, struct.pack(">H3sHBH", 3, b"\0\x70\x05", 16, 1, 9) + PACKETS[name]


def _gro() -> Iterator[tuple[str, bytes]]:
    segment = struct.pack(">BBHB", 0, 0, 1448, 0)  # made()'s words, before payload, cut and flush
    run = (segment[:4] + b"payload of a run" + b"\x20\xff") * 5
    yield "run", run + struct.pack(">BBH", 0x20, 0, 9) + b"the end!" + b"\0\0"
    yield "two families", run.replace(b"\0\0\x05\xa8", b"\3\0\x05\xa8", 2) + run


def _md5sig() -> Iterator[tuple[str, bytes]]:
    yield "signed", b"\x06secret" + b"\0\7" + _signed()
    yield "not signed", b"\x06secret" + b"\0\7" + PACKETS["tcp6"]


def _moment() -> Iterator[tuple[str, bytes]]:
    (moment,) = (
        value for v in VECTORS if v.message == "SETUP" for k, value in v.elements if k == "MOMENT"
    )
    yield "restore", b"\0" + struct.pack(">H", 40) + bytes(40) + moment
    yield "copy", b"\1" + struct.pack(">H", 700) + bytes(700)
    yield "keep ahead", b"\2" + struct.pack(">H", 400) + b"\1" * 400


def _json() -> Iterator[tuple[str, bytes]]:
    for n, message in enumerate(GOOD):
        yield f"message {n}", json.dumps(message, ensure_ascii=n % 2 == 0).encode()
    yield "base64", b"aGVsbG8="


def _client() -> Iterator[tuple[str, bytes]]:
    for n, message in enumerate(GOOD):
        fds = b"\1" if message.get("event") == "shadow" else b"\0"
        yield f"message {n}", fds + json.dumps(message).encode()
    shadow = {key: value for key, value in GOOD[7].items() if key != "application"}
    yield "in memory", b"\2" + json.dumps(shadow | {"application_bytes": 16}).encode()


def _bgp() -> Iterator[tuple[str, bytes]]:
    """Steps: UPDATEs into SOURCE (4) and SENT (8), the difference (1), what empties a column."""

    def step(whole: bytes, columns: int = 4) -> bytes:
        return struct.pack("!BH", columns, len(whole) - 19) + whole[19:]

    fields = b"\x40\1\1\0\x40\2\6\2\1\0\0\xfd\xe9\x40\3\4\xc0\0\2\x0a"
    reach = bgp_updates.mp_reach(bgp_rib.Family.IPV6_UNICAST, bytes(16), b"\x20\x20\1\x0d\xb8\0")
    unreach = bgp_updates.mp_unreach(bgp_rib.Family.IPV6_UNICAST, b"\x20\x20\1\x0d\xb8")
    update = bgp_updates.update
    v4 = step(update(attributes=fields, announced=b"\x08\x0a\x18\x0a\1\2\0"))
    yield "ipv4", b"\0" + v4 + b"\1" + step(update(withdrawn=b"\x08\x0a")) + b"\1"
    yield "ipv6", b"\0" + step(update(attributes=reach + fields[:13])) + b"\1"
    yield (
        "ipv6 gone",
        b"\0" + step(update(attributes=reach + fields), 12) + step(update(attributes=unreach)),
    )
    yield "paths", b"\x0f" + step(update(attributes=fields, announced=b"\0\0\0\1\x08\x0a"), 12)
    yield (
        "end of rib",
        b"\0"
        + step(update())
        + step(update(attributes=bgp_updates.mp_unreach(bgp_rib.Family.IPV6_MULTICAST))),
    )
    yield "cut", b"\0" + v4 + step(update(attributes=fields + b"\x40\x08\4", announced=b"\x08\x0a"))
    long = fields + b"\xd0\x08\1\0" + bytes(256)
    many = b"".join(b"\x18" + struct.pack("!HB", 2600, n) for n in range(250))
    yield "long", b"\x10" + step(update(attributes=long, announced=many)) + b"\1"
    yield "emptied", b"\0" + v4 + b"\1\x06\1" + v4 + b"\x0a\1"
    yield "stream", b"\0\3\x13" + bgp_updates.message(4, b"") + b"\3\4\xff\xff\xff\xfe"


SEEDS: dict[str, Callable[[], Iterator[tuple[str, bytes]]]] = {
    "bgp": _bgp,
    "client": _client,
    "datapath": _datapath,
    "elide": _elide,
    "gro": _gro,
    "hello": _hello,
    "json": _json,
    "link": _link,
    "md5sig": _md5sig,
    "moment": _moment,
    "packet": _packet,
    "setup": _setup,
    "tap": _tap,
    "wire": _wire,
}


def seeds(target: str) -> dict[str, bytes]:
    """The seeds of a target, by the names of their files."""
    return {"seed-" + re.sub(r"\W+", "-", name): data for name, data in SEEDS[target]()}


def main() -> None:
    """Write all seeds anew, and leave what is beside them."""
    for target in SEEDS:
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        for name, data in seeds(target).items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
