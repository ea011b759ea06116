"""Segments gathered into large packets: what the stack is given is what the peer sent, in order."""

import random
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

import pytest
from prl._core import ffi, lib

from tests.unit.test_packet import STAMPS, packet, parse, segment

PEER4, HOST4 = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.100")
PEER6, HOST6 = IPv6Address("2001:db8:0:1::1"), IPv6Address("2001:db8:0:1::100")
VNET_BYTES, ETH_BYTES = 10, 14
NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6 = 1, 1, 4
ACK, PSH, FIN = 0x10, 0x08, 0x01


class Written(NamedTuple):
    """One packet as the stack gets it."""

    flags: int
    gso_type: int
    gso_size: int
    seq: int
    payload: bytes
    tcp_flags: int


class Gro:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._write = ffi.callback(
            "int(struct prl_host *, const struct iovec *, int)", self._written
        )
        self.gro = ffi.new("struct prl_gro *")
        lib.prl_gro_init(self.gro, {"write": self._write})
        self.kept: list[Any] = []

    def add(self, data: bytes, *, flow: int = 0, cut: int | None = None) -> None:
        error, parsed = parse(data)
        assert error == 0
        cuts = [data] if cut is None else [data[:cut], data[cut:]]
        parts = [ffi.from_buffer(bytearray(part)) for part in cuts]
        self.kept.append(parts)
        pieces = ffi.new("struct iovec[]", len(parts))
        for n, part in enumerate(parts):
            pieces[n].iov_base, pieces[n].iov_len = part, len(part)
        how = ffi.new("struct prl_reinject *", {"mss": 1448, "checked": True})
        lib.prl_gro_add(self.gro, flow, how, pieces, len(parts), parsed)

    def flush(self) -> list[Written]:
        lib.prl_gro_flush(self.gro)
        frames, self.frames = self.frames, []
        return [self._read(frame) for frame in frames]

    def _written(self, _host: Any, piece: Any, pieces: int) -> int:
        self.frames.append(
            b"".join(bytes(ffi.buffer(piece[n].iov_base, piece[n].iov_len)) for n in range(pieces))
        )
        return 0

    def _read(self, frame: bytes) -> Written:
        flags, gso_type, _, gso_size, start, offset = struct.unpack_from("=BBHHHH", frame)
        l3 = frame[VNET_BYTES + ETH_BYTES :]
        error, parsed = parse(l3)
        assert error == 0
        assert parsed.l3_bytes == len(l3)
        assert (start, offset) == (ETH_BYTES + parsed.l4_offset, 16)
        piece = ffi.new("struct iovec *")
        kept = ffi.from_buffer(l3)
        piece.iov_base, piece.iov_len = kept, len(l3)
        assert lib.prl_packet_checksum(piece, 1, parsed) == lib.PRL_CHECKSUM_PARTIAL
        return Written(
            flags, gso_type, gso_size, parsed.seq, l3[parsed.data_offset :], parsed.tcp_flags
        )


@pytest.fixture
def gro() -> Gro:
    return Gro()


def data(seq: int, payload: bytes, *, flags: int = ACK, six: bool = False) -> bytes:
    peer, host = (PEER6, HOST6) if six else (PEER4, HOST4)
    made = bytearray(segment(peer, host, payload, options=STAMPS, flags=flags))
    struct.pack_into("!I", made, 4, seq)
    return packet(peer, host, bytes(made))


@pytest.mark.parametrize("six", [False, True])
def test_a_run_of_segments_becomes_one_packet(gro: Gro, six: bool) -> None:
    payloads = [bytes([n]) * 1448 for n in range(5)] + [b"tail"]
    for n, payload in enumerate(payloads):
        flags = ACK | PSH if payload == b"tail" else ACK
        gro.add(data(100 + 1448 * n, payload, flags=flags, six=six), cut=700 if n % 2 else None)
    (written,) = gro.flush()
    assert written.payload == b"".join(payloads)
    assert (written.seq, written.gso_size) == (100, 1448)
    assert written.gso_type == (GSO_TCPV6 if six else GSO_TCPV4)
    assert (written.flags, written.tcp_flags) == (NEEDS_CSUM, ACK | PSH)


@pytest.mark.parametrize(
    "second",
    [
        data(102, b"xy"),  # a hole
        data(100, b"xy"),  # a retransmission
        data(101, b"xyz"),  # longer than the first
        data(101, b"", flags=ACK),  # no payload
        data(101, b"x", flags=ACK | FIN),
        data(101, b"x", six=True),
    ],
)
def test_what_does_not_belong_together_stays_apart(gro: Gro, second: bytes) -> None:
    gro.add(data(100, b"a"))
    gro.add(second)
    assert len(gro.flush()) == 2


def test_an_ack_stays_apart_from_the_byte_behind_it(gro: Gro) -> None:
    gro.add(data(100, b""))
    gro.add(data(100, b"a"))
    assert [one.payload for one in gro.flush()] == [b"", b"a"]


@pytest.mark.parametrize("six", [False, True])
def test_segments_with_other_reserved_bits_stay_apart(gro: Gro, six: bool) -> None:
    second = bytearray(data(101, b"b", six=six))
    second[(40 if six else 20) + 12] |= 1  # what ECN has of them (RFC 9768)
    gro.add(data(100, b"a", six=six))
    gro.add(bytes(second))
    assert [one.payload for one in gro.flush()] == [b"a", b"b"]


def test_other_flows_and_what_follows_psh_stay_apart(gro: Gro) -> None:
    gro.add(data(100, b"a"))
    gro.add(data(101, b"b"), flow=1)
    gro.add(data(102, b"c", flags=ACK | PSH), flow=1)
    gro.add(data(103, b"d"), flow=1)
    assert [one.payload for one in gro.flush()] == [b"a", b"bc", b"d"]


def test_what_is_gathered_stays_as_it_was(gro: Gro) -> None:
    packets = [data(100 + n, b"x") for n in range(3)]
    for one in packets:
        gro.add(one)
    assert [one.payload for one in gro.flush()] == [b"xxx"]
    assert [ffi.buffer(parts[0])[:] for parts in gro.kept] == packets


def test_any_stream_comes_out_as_it_went_in(gro: Gro) -> None:
    chance = random.Random(5)
    for _ in range(50):
        seq, sent = 1000, bytearray()
        for _ in range(chance.randrange(1, 100)):
            payload = chance.randbytes(chance.choice([1448, 1448, 1448, 300, 1]))
            flags = ACK | PSH if chance.random() < 0.1 else ACK
            gro.add(data(seq, payload, flags=flags), cut=chance.choice([None, 60, 90]))
            seq, sent = seq + len(payload), sent + payload
        written = gro.flush()
        assert b"".join(one.payload for one in written) == bytes(sent)
        expected = 1000
        for one in written:
            assert one.seq == expected
            assert len(one.payload) <= lib.PRL_GRO_BYTES_MAX
            expected += len(one.payload)
        gro.kept.clear()
    assert gro.gro.failed == 0
