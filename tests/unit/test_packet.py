"""Packets as bytes: what userspace/tcp/packet.c reads, judges, makes; sums are done here by hand.

Checks L7, R12a, R29.
"""

import itertools
import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prl._core import ffi, lib

from prl.bindings.packet import internet_checksum
from tests.internet import checksum as checksum_of

PEER4, HOST4 = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.100")
PEER6, HOST6 = IPv6Address("2001:db8:0:1::1"), IPv6Address("2001:db8:0:1::100")
TCP, UDP = 6, 17
STAMPS = b"\x01\x01\x08\x0a" + struct.pack("!II", 1000, 2000)


def ones_sum(data: bytes) -> int:
    """RFC 1071, as slowly as it is written there."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(source, target, proto: int, l4_bytes: int) -> bytes:
    return source.packed + target.packed + struct.pack("!II", l4_bytes, proto)


def segment(source, target, payload: bytes, *, options: bytes = b"", flags: int = 0x10) -> bytes:
    """TCP header and payload with a full checksum."""
    words = (20 + len(options)) // 4
    head = struct.pack("!HHIIBBHHH", 40000, 179, 7, 9, words << 4, flags, 501, 0, 0) + options
    total = ones_sum(pseudo(source, target, TCP, len(head) + len(payload)) + head + payload)
    return head[:16] + struct.pack("!H", 0xFFFF ^ total) + head[18:] + payload


def packet(
    source, target, l4: bytes, proto: int = TCP, *, first: int = 0, extensions: bytes = b""
) -> bytes:
    """An IP packet; of IPv6 with these extension headers, ``first`` the protocol of the first."""
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), 1, 0x4000, 64, proto, 0)
        head += source.packed + target.packed
        return head[:10] + struct.pack("!H", 0xFFFF ^ ones_sum(head)) + head[12:] + l4
    head = struct.pack("!IHBB", 6 << 28, len(extensions) + len(l4), first or proto, 64)
    return head + source.packed + target.packed + extensions + l4


def parse(data: bytes, *, ethernet: bool = False, total: int | None = None) -> tuple[int, Any]:
    parsed = ffi.new("struct prl_packet *")
    size = len(data) if total is None else total
    return lib.prl_packet_parse(data, len(data), size, ethernet, parsed), parsed


def checksum(data: bytes, parsed, cuts: list[int] | None = None) -> int:
    """The verdict on the packet, cut into pieces at these places."""
    places = [0, *(cuts or []), len(data)]
    kept = [ffi.from_buffer(data[a:b]) for a, b in itertools.pairwise(places)]
    pieces = ffi.new("struct iovec[]", len(kept))
    for n, piece in enumerate(kept):
        pieces[n].iov_base, pieces[n].iov_len = piece, len(piece)
    return lib.prl_packet_checksum(pieces, len(kept), parsed)


@pytest.mark.parametrize(("source", "target"), [(PEER4, HOST4), (PEER6, HOST6)])
def test_a_segment_is_read(source, target) -> None:
    data = packet(source, target, segment(source, target, b"hello", options=STAMPS))
    error, parsed = parse(data)
    assert error == 0
    assert (parsed.seq, parsed.ack, parsed.window, parsed.tcp_flags) == (7, 9, 501, 0x10)
    assert (parsed.has_timestamps, parsed.tsval, parsed.tsecr) == (True, 1000, 2000)
    assert (parsed.payload_bytes, parsed.l3_bytes) == (5, len(data))
    key = ffi.new("struct prl_flow_key *")
    lib.prl_packet_key(data, parsed, True, 3, key)
    mapped = target.packed if target.version == 6 else b"\0" * 10 + b"\xff\xff" + target.packed
    assert bytes(key.local) == mapped
    assert (key.remote_port, key.local_port) == (
        struct.unpack("=H", struct.pack("!H", 40000))[0],
        struct.unpack("=H", struct.pack("!H", 179))[0],
    )
    assert (key.lif, key.proto) == (3, TCP)


def test_link_padding_and_vlan_tags_are_left_out() -> None:
    inner = packet(PEER4, HOST4, segment(PEER4, HOST4, b""))
    tags = b"\x88\xa8\x00\x05\x81\x00\x00\x07"
    frame = b"\x02" * 12 + tags + b"\x08\x00" + inner + b"\0" * 6
    error, parsed = parse(frame, ethernet=True)
    assert error == 0
    assert parsed.vlans == 5 << 12 | 7
    assert (parsed.l2_bytes, parsed.l3_bytes) == (22, len(inner))


DESTINATION, FRAGMENT, AUTHENTICATION = 60, 44, 51


@pytest.mark.parametrize(
    ("first", "extensions"),
    [
        (DESTINATION, b"\x06\x00\x01\x04\0\0\0\0"),
        (FRAGMENT, b"\x06\x00\x00\x00\0\0\0\x01"),  # an atomic one (RFC 6946)
        (AUTHENTICATION, b"\x06\x04" + bytes(22)),
        (DESTINATION, b"\x2c\x00\x01\x04\0\0\0\0" + b"\x06" + bytes(7)),
    ],
)
def test_ipv6_extension_headers_are_walked(first: int, extensions: bytes) -> None:
    """The same ones as in the kernel: what is a flow's there is TCP here."""
    l4 = segment(PEER6, HOST6, b"x")
    data = packet(PEER6, HOST6, l4, first=first, extensions=extensions)
    error, parsed = parse(data)
    assert (error, parsed.proto, parsed.payload_bytes) == (0, TCP, 1)
    assert parsed.l4_offset == 40 + len(extensions)


@pytest.mark.parametrize(
    ("first", "extensions"),
    [
        (FRAGMENT, b"\x06\x00\x00\x01\0\0\0\x01"),  # more follow
        (FRAGMENT, b"\x06\x00\x00\x08\0\0\0\x01"),  # not the first
        (DESTINATION, b"\x06\xff\x01\x04\0\0\0\0"),  # longer than the packet
        (DESTINATION, b"\x3c\x00\x01\x04\0\0\0\0" * 6 + b"\x06\x00\x01\x04\0\0\0\0"),  # too many
    ],
)
def test_other_extension_headers_are_refused(first: int, extensions: bytes) -> None:
    l4 = segment(PEER6, HOST6, b"x")
    assert parse(packet(PEER6, HOST6, l4, first=first, extensions=extensions))[0] < 0


def flow_key(data: bytes) -> tuple[int, Any]:
    """The flow that an incoming packet belongs to. Its bytes end where the packet does."""
    error, parsed = parse(data)
    assert error == 0
    key = ffi.new("struct prl_flow_key *")
    return lib.prl_packet_flow_key(ffi.from_buffer(data), parsed, 3, key), key


def ends(key) -> tuple[Any, ...]:
    local, remote = (bytes(part) for part in (key.local, key.remote))
    ports = (key.local_port, key.remote_port)
    return local, remote, *(int.from_bytes(port.to_bytes(2, "little"), "big") for port in ports)


ICMP, ICMP6 = 1, 58
TOO_BIG = {4: b"\x03\x04", 6: b"\x02\x00"}
ECHO = {4: b"\x08\x00", 6: b"\x80\x00"}


def icmp(source, target, kind: dict[int, bytes], quoted: bytes) -> bytes:
    message = kind[source.version] + bytes(6) + quoted
    return packet(source, target, message, ICMP if source.version == 4 else ICMP6)


PAIRS = [(PEER4, HOST4), (PEER6, HOST6)]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_an_icmp_error_belongs_to_the_flow_that_it_quotes(source, target) -> None:
    """Also one that a router sent, and that quotes no more than the ports."""
    incoming = flow_key(packet(source, target, segment(source, target, b"x")))[1]
    quoted = packet(target, source, struct.pack("!HH", 179, 40000) + bytes(16))
    for router in (source, ip_address(int(source) + 7)):
        for bytes_quoted in (len(quoted), len(quoted) - 16):
            error, key = flow_key(icmp(router, target, TOO_BIG, quoted[:bytes_quoted]))
            assert error == 0
            assert ends(key) == ends(incoming)
            assert (key.proto, key.lif) == (TCP, 3)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_an_icmp_message_that_quotes_nothing_of_ours_belongs_to_no_flow(source, target) -> None:
    quoted = packet(target, source, struct.pack("!HH", 179, 40000) + bytes(16))
    other = ip_address(int(target) + 1)
    assert flow_key(icmp(source, target, ECHO, quoted))[0] < 0
    assert flow_key(icmp(source, other, TOO_BIG, quoted))[0] < 0
    ends_at = 20 if source.version == 4 else 40
    for size in (0, 1, ends_at - 1, ends_at, ends_at + 3):
        assert flow_key(icmp(source, target, TOO_BIG, quoted[:size]))[0] < 0
    assert flow_key(packet(source, target, b"", 99))[0] < 0
    assert flow_key(packet(source, target, b"", ICMP if source.version == 4 else ICMP6))[0] < 0


@pytest.mark.parametrize(
    ("offset_more", "known"), [(0x0000, True), (0x0001, True), (0x0051, False)]
)
def test_an_icmp6_error_may_quote_the_first_piece_of_a_datagram(
    offset_more: int, known: bool
) -> None:
    header = struct.pack("!BBHI", UDP, 0, offset_more, 7)
    ports = struct.pack("!HHHH", 179, 40000, 2000, 0)
    quoted = packet(HOST6, PEER6, ports, first=FRAGMENT, extensions=header)
    error, key = flow_key(icmp(PEER6, HOST6, TOO_BIG, quoted))
    assert (error == 0) == known
    if known:
        assert ends(key) == (HOST6.packed, PEER6.packed, 179, 40000)
        assert key.proto == UDP


@pytest.mark.parametrize(("source", "target"), [(PEER4, HOST4), (PEER6, HOST6)])
def test_every_truncation_is_refused(source, target) -> None:
    data = packet(source, target, segment(source, target, b"", options=STAMPS))
    for size in range(len(data)):
        assert parse(data[:size])[0] < 0


def test_fragments_are_refused() -> None:
    data = bytearray(packet(PEER4, HOST4, segment(PEER4, HOST4, b"")))
    data[6] = 0x20
    assert parse(bytes(data))[0] < 0


def test_random_bytes_never_lie_about_lengths() -> None:
    chance = random.Random(1)
    for _ in range(20_000):
        data = bytearray(chance.randbytes(chance.randrange(1, 120)))
        data[0] = chance.choice([0x45, 0x46, 0x60, data[0]])
        error, parsed = parse(bytes(data))
        if error == 0:
            assert parsed.l3_bytes <= len(data)
            assert parsed.data_offset + parsed.payload_bytes == parsed.l3_bytes


@pytest.mark.parametrize(("source", "target"), [(PEER4, HOST4), (PEER6, HOST6)])
@pytest.mark.parametrize("cuts", [[], [61, 62, 99], [64, 101, 250]])
def test_checksums_over_odd_pieces(source, target, cuts) -> None:
    payload = random.Random(2).randbytes(301)
    data = packet(source, target, segment(source, target, payload))
    _, parsed = parse(data)
    assert checksum(data, parsed, cuts) == lib.PRL_CHECKSUM_FULL
    broken = bytearray(data)
    broken[-1] ^= 1
    assert checksum(bytes(broken), parsed, cuts) == lib.PRL_CHECKSUM_BAD


@pytest.mark.parametrize(("source", "target"), [(PEER4, HOST4), (PEER6, HOST6)])
def test_partial_checksums_are_told_apart_and_made(source, target) -> None:
    data = bytearray(packet(source, target, segment(source, target, b"abc")))
    _, parsed = parse(bytes(data))
    lib.prl_packet_set_partial(ffi.from_buffer(data), parsed)
    at = parsed.l4_offset + 16
    l4_bytes = len(data) - parsed.l4_offset
    assert struct.unpack_from("!H", data, at)[0] == ones_sum(pseudo(source, target, TCP, l4_bytes))
    assert checksum(bytes(data), parsed) == lib.PRL_CHECKSUM_PARTIAL


@pytest.mark.parametrize(("peer", "host"), [(PEER4, HOST4), (PEER6, HOST6)])
@pytest.mark.parametrize("stamps", [True, False])
def test_a_crafted_segment_is_a_right_one(peer, host, stamps) -> None:
    _, parsed = parse(original := packet(peer, host, segment(peer, host, b"")))
    key = ffi.new("struct prl_flow_key *")
    lib.prl_packet_key(original, parsed, True, 0, key)
    craft = ffi.new("struct prl_craft *", {"key": key, "from_peer": True, "seq": 1, "ack": 2})
    craft.tcp_flags, craft.window, craft.has_timestamps = 0x10, 99, stamps
    craft.tsval, craft.tsecr = 5, 6
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    data = bytes(ffi.buffer(out, lib.prl_packet_craft(craft, out)))
    error, made = parse(data)
    assert error == 0
    assert (made.seq, made.ack, made.window, made.payload_bytes) == (1, 2, 99, 0)
    assert bool(made.has_timestamps) is stamps
    assert checksum(data, made) == lib.PRL_CHECKSUM_FULL
    if peer.version == 4:
        assert ones_sum(data[:20]) == 0xFFFF
    again = ffi.new("struct prl_flow_key *")
    lib.prl_packet_key(data, made, True, 0, again)
    assert ffi.buffer(again)[:] == ffi.buffer(key)[:]


@pytest.mark.parametrize("skew", range(0, 40, 3))
def test_a_long_payload_is_read_once_for_hash_and_checksum(skew: int) -> None:
    """Wherever it lies in memory: the sum is part of what the nodes compare (R12a)."""
    payload = random.Random(skew).randbytes(5003)
    data = packet(PEER4, HOST4, segment(PEER4, HOST4, payload))
    room = ffi.new("uint8_t[]", len(data) + 64)
    aligned = -int(ffi.cast("uintptr_t", room)) % 32
    ffi.memmove(room + aligned + skew, data, len(data))
    piece = ffi.new("struct iovec *", (room + aligned + skew, len(data)))
    _, parsed = parse(data)
    found = lib.prl_packet_payload_sum(piece, 1, parsed)
    words = struct.unpack("<626Q", payload + bytes(5))
    assert found % (2**64 - 1) == sum(words) % (2**64 - 1)
    assert lib.prl_packet_checksum_by(room + aligned + skew, parsed, found) == lib.PRL_CHECKSUM_FULL
    assert lib.prl_packet_checksum_by(data, parsed, found ^ 1) == lib.PRL_CHECKSUM_BAD


def test_the_checksum_of_a_crafted_segment_has_every_carry() -> None:
    _, parsed = parse(original := packet(PEER4, HOST4, segment(PEER4, HOST4, b"")))
    key = ffi.new("struct prl_flow_key *")
    lib.prl_packet_key(original, parsed, True, 0, key)
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    craft = ffi.new("struct prl_craft *", {"key": key, "from_peer": True, "tcp_flags": 0x10})
    rng = random.Random(7)
    for _ in range(500):
        craft.seq, craft.ack = rng.randrange(1 << 32), rng.randrange(1 << 32)
        craft.window = rng.randrange(1 << 16)
        data = bytes(ffi.buffer(out, lib.prl_packet_craft(craft, out)))
        assert checksum(data, parse(data)[1]) == lib.PRL_CHECKSUM_FULL


def test_claims_carry_address_and_trailer() -> None:
    token, mac = bytes(range(16)), b"\x02\0\0\0\0\x0a"
    trailer = ffi.new("struct prl_trailer *")
    lib.prl_packet_trailer_token(token, trailer)
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    mapped = b"\0" * 10 + b"\xff\xff" + HOST4.packed
    for reply in (False, True):
        arp = bytes(ffi.buffer(out, lib.prl_packet_claim_arp(mapped, mac, reply, trailer, out)))
        assert arp[12:14] == b"\x08\x06"
        assert arp[20:22] == (b"\0\x02" if reply else b"\0\x01")
        assert (arp[22:28], ip_address(arp[28:32]), ip_address(arp[38:42])) == (mac, HOST4, HOST4)
        assert token in arp[42:]
    claimed = ffi.new("struct prl_claimed *", {"term": 7, "number": 8})
    lib.prl_packet_trailer(claimed, 9, trailer)
    size = lib.prl_packet_claim_na(HOST6.packed, mac, trailer, out)
    advert = bytes(ffi.buffer(out, size))
    assert advert[12:14] == b"\x86\xdd"
    assert IPv6Address(advert[22:38]) == HOST6
    icmp = advert[54:]
    assert icmp[0] == 136
    assert ones_sum(pseudo(HOST6, IPv6Address("ff02::1"), 58, len(icmp)) + icmp) == 0xFFFF
    assert icmp[32:] == struct.pack("!BB2s4xQQQ", 253, 4, b"PR", 7, 8, 9)


def test_who_knows_no_neighbour_asks_all_nodes() -> None:
    mac = bytes.fromhex("020000000007")
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    echo = bytes(ffi.buffer(out, lib.prl_packet_ask_all(HOST6.packed, mac, out)))
    assert echo[:14] == bytes.fromhex("333300000001") + mac + b"\x86\xdd"
    assert (IPv6Address(echo[22:38]), IPv6Address(echo[38:54])) == (HOST6, IPv6Address("ff02::1"))
    assert (echo[54], echo[18:20], len(echo)) == (128, b"\0\x08", 62)
    assert ones_sum(pseudo(HOST6, IPv6Address("ff02::1"), 58, 8) + echo[54:]) == 0xFFFF


def test_what_is_made_has_a_right_checksum_whatever_the_numbers() -> None:
    """Sums of 64-bit words carry: one lost carry made one claim in forty void (L7)."""
    chance = random.Random(7)
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    key = ffi.new("struct prl_flow_key *", {"proto": TCP})
    trailer = ffi.new("struct prl_trailer *")
    for _ in range(2000):
        local, peer = IPv6Address(chance.randbytes(16)), IPv6Address(chance.randbytes(16))
        lib.prl_packet_trailer_token(chance.randbytes(16), trailer)
        size = lib.prl_packet_claim_na(local.packed, chance.randbytes(6), trailer, out)
        icmp = bytes(ffi.buffer(out, size))[54:]
        assert ones_sum(pseudo(local, IPv6Address("ff02::1"), 58, len(icmp)) + icmp) == 0xFFFF
        key.local, key.remote = local.packed, peer.packed
        craft = ffi.new(
            "struct prl_craft *",
            {
                "key": key,
                "seq": chance.getrandbits(32),
                "ack": chance.getrandbits(32),
                "window": chance.getrandbits(16),
                "tcp_flags": lib.PRL_TCP_ACK,
                "has_timestamps": True,
                "tsval": chance.getrandbits(32),
                "tsecr": chance.getrandbits(32),
            },
        )
        tcp = bytes(ffi.buffer(out, lib.prl_packet_craft(craft, out)))[40:]
        assert ones_sum(pseudo(local, peer, TCP, len(tcp)) + tcp) == 0xFFFF


@given(st.binary(max_size=90))
def test_the_internet_checksum_is_what_rfc_1071_says(data: bytes) -> None:
    assert internet_checksum(data) == checksum_of(data)
