"""L3 elision (R15): a header comes back byte by byte, or it is not left out."""

import errno
import ipaddress
import struct
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prl._core import ffi, lib

from tests.internet import checksum

FIELDS = lib.PRL_ELIDED_FIELDS
ROOM = lib.PRL_UNELIDE_ROOM
TCP, UDP = 6, 17
OURS = {4: "192.0.2.100", 6: "2001:db8:0:1::100"}
PEERS = {4: "192.0.2.10", 6: "2001:db8:0:1::10"}


@dataclass(frozen=True)
class Packet:
    """A packet whose header says what it should, unless a field says otherwise."""

    version: int = 4
    proto: int = TCP
    payload: bytes = b"hello"
    tos: int = 0
    identity: int = 0x1234
    flags: int = 0x4000
    ttl: int = 64
    flow_label: int = 0x12345
    options: bytes = b""
    source: str = ""
    target: str = ""
    wrong_checksum: int | None = None

    @property
    def l4(self) -> bytes:
        if self.proto == TCP:
            head = struct.pack(">HHIIBBHHH", 40000, 179, 1, 2, 5 << 4, 0x10, 500, 0, 0)
        else:
            head = struct.pack(">HHHH", 40000, 179, 8 + len(self.payload), 0)
        return head + self.payload

    def addresses(self) -> bytes:
        source = ipaddress.ip_address(self.source or PEERS[self.version]).packed
        return source + ipaddress.ip_address(self.target or OURS[self.version]).packed

    def bytes(self) -> bytes:
        if self.version == 6:
            first = 6 << 28 | self.tos << 20 | self.flow_label
            kind = 60 if self.options else self.proto  # destination options
            rest = self.options + self.l4
            return struct.pack(">IHBB", first, len(rest), kind, self.ttl) + self.addresses() + rest
        words = 5 + len(self.options) // 4
        length = 4 * words + len(self.l4)
        head = bytearray(
            struct.pack(
                ">BBHHHBBH",
                *(0x40 | words, self.tos, length, self.identity),
                *(self.flags, self.ttl, self.proto, 0),
            )
            + self.addresses()
            + self.options
        )
        right = checksum(bytes(head))
        wanted = right if self.wrong_checksum is None else self.wrong_checksum
        head[10:12] = struct.pack(">H", wanted)
        return bytes(head) + self.l4


def key_of(version: int, proto: int) -> Any:
    prefix = bytes(10) + b"\xff\xff" if version == 4 else b""
    key = ffi.new("struct prl_flow_key *")
    key.local = prefix + ipaddress.ip_address(OURS[version]).packed
    key.remote = prefix + ipaddress.ip_address(PEERS[version]).packed
    key.proto = proto
    return key


def elide(data: bytes, key: Any) -> bytes | None:
    """The element's value; None: it must be sent whole."""
    packet, out = ffi.new("struct prl_packet *"), ffi.new("uint8_t[]", FIELDS)
    assert lib.prl_packet_parse(data, len(data), len(data), False, packet) == 0
    left_out = lib.prl_elide(data, packet, key, out)
    return bytes(out) + data[left_out:] if left_out else None


def rebuild(value: bytes, key: Any) -> bytes | int:
    """The packet, rebuilt in place behind what precedes the value in its message."""
    behind = b"next message"
    room = ffi.new("uint8_t[]", bytes(ROOM) + value + behind)
    header = lib.prl_unelide(room + ROOM, len(value), key)
    whole = bytes(ffi.buffer(room))
    assert whole.endswith(behind + b"\0")
    if header < 0:
        assert whole[ROOM:].startswith(value)
        return int(header)
    return whole[ROOM + FIELDS - header : ROOM + len(value)]


PACKETS = st.builds(
    Packet,
    version=st.sampled_from([4, 6]),
    proto=st.sampled_from([TCP, UDP]),
    payload=st.binary(max_size=200) | st.just(bytes(60_000)),
    tos=st.integers(0, 255),
    identity=st.integers(0, 0xFFFF),
    flags=st.sampled_from([0, 0x4000, 0x8000, 0xC000]),
    ttl=st.integers(0, 255),
    flow_label=st.integers(0, 0xFFFFF),
)


@given(PACKETS)
def test_a_plain_header_is_left_out_and_comes_back(packet: Packet) -> None:
    key, whole = key_of(packet.version, packet.proto), packet.bytes()
    value = elide(whole, key)
    assert value is not None
    assert len(whole) - len(value) == {4: 12, 6: 32}[packet.version]
    assert rebuild(value, key) == whole


@given(PACKETS, st.data())
def test_any_change_of_the_header_comes_back_or_is_sent_whole(
    packet: Packet, data: st.DataObject
) -> None:
    whole = bytearray(packet.bytes())
    header = 20 if packet.version == 4 else 40
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    parsed = ffi.new("struct prl_packet *")
    key, out = key_of(packet.version, packet.proto), ffi.new("uint8_t[]", FIELDS)
    if lib.prl_packet_parse(bytes(whole), len(whole), len(whole), False, parsed):
        return
    whole = whole[: parsed.l3_bytes]  # what is behind is padding of the link
    left_out = lib.prl_elide(bytes(whole), parsed, key, out)
    if left_out:
        assert rebuild(bytes(out) + bytes(whole[left_out:]), key) == bytes(whole)


@pytest.mark.parametrize(
    "packet",
    [
        Packet(options=b"\x94\x04\0\0"),  # router alert
        Packet(version=6, options=bytes([TCP, 0, 1, 4, 0, 0, 0, 0])),
        Packet(source="192.0.2.11"),
        Packet(target="192.0.2.101"),
        Packet(version=6, source="2001:db8:0:1::11"),
        Packet(version=6, target="2001:db8:0:1::101"),
        Packet(wrong_checksum=0),
    ],
    ids=lambda packet: repr(packet)[7:60],
)
def test_what_the_flow_does_not_tell_is_sent_whole(packet: Packet) -> None:
    assert elide(packet.bytes(), key_of(packet.version, packet.proto)) is None


def test_another_protocol_or_family_is_sent_whole() -> None:
    assert elide(Packet(proto=UDP).bytes(), key_of(4, TCP)) is None
    assert elide(Packet(version=6).bytes(), key_of(4, TCP)) is None
    assert elide(Packet().bytes(), key_of(6, TCP)) is None


def test_the_other_zero_of_the_checksum_is_sent_whole() -> None:
    """0xffff verifies where 0 is right (RFC 1624, section 3), but it is not the same byte."""
    found = next(
        packet
        for packet in (replace(Packet(), identity=n) for n in range(0x10000))
        if packet.bytes()[10:12] == b"\0\0"
    )
    key = key_of(4, TCP)
    assert elide(found.bytes(), key) is not None
    assert elide(replace(found, wrong_checksum=0xFFFF).bytes(), key) is None


@given(st.sampled_from([4, 6]), st.binary(max_size=80))
def test_any_value_is_rebuilt_the_one_way_or_refused(version: int, value: bytes) -> None:
    key = key_of(version, TCP)
    whole = rebuild(value, key)
    if isinstance(whole, int):
        assert whole == -errno.EPROTO
        return
    header = 20 if version == 4 else 40
    parsed, out = ffi.new("struct prl_packet *"), ffi.new("uint8_t[]", FIELDS)
    parsed.l4_offset, parsed.l3_bytes = header, len(whole)
    assert lib.prl_elide(whole, parsed, key, out) == header
    unused = slice(6, 8) if version == 4 else slice(5, 8)
    sent = bytearray(value)
    sent[unused] = bytes(len(sent[unused]))
    assert bytes(out) + whole[header:] == bytes(sent)


def test_what_cannot_have_been_elided_is_refused() -> None:
    v4, v6 = key_of(4, TCP), key_of(6, TCP)
    good = elide(Packet().bytes(), v4)
    assert good is not None
    refused = -errno.EPROTO
    assert rebuild(b"", v4) == rebuild(good[:FIELDS], v4) == refused
    assert rebuild(good[:4] + b"\x20" + good[5:], v4) == refused  # more fragments
    assert rebuild(good[:4] + b"\x01" + good[5:], v4) == refused  # a fragment's offset
    assert rebuild(good[:5] + b"\x01" + good[6:], v4) == refused
    assert rebuild(good, v6) == refused  # not version 6
    assert rebuild(good[:FIELDS] + bytes(65_516), v4) == refused
    assert isinstance(rebuild(good[:FIELDS] + bytes(65_515), v4), bytes)
    assert rebuild(b"\x60\0\0\0\x40\0\0\0" + bytes(65_536), v6) == refused
    assert isinstance(rebuild(b"\x60\0\0\0\x40\0\0\0" + bytes(65_535), v6), bytes)
