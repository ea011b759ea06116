"""TCP signatures (RFC 2385): MD5 against Python's, what is signed against the RFC (R19)."""

import hashlib
import itertools
import random
import struct
from typing import Any

import pytest
from prl._core import ffi, lib

from tests.unit.test_packet import HOST4, HOST6, PEER4, PEER6, packet, parse, segment

SECRET = b"a key of RFC 2385"
STAMPS = b"\x01\x01\x08\x0a" + struct.pack("!II", 1000, 2000)
OPTION = b"\x01\x01\x13\x12" + bytes(16)


def key(secret: bytes = SECRET) -> Any:
    made = ffi.new("struct prl_md5_key *")
    made.bytes = len(secret)
    ffi.buffer(made.key)[: len(secret)] = secret
    return made


def expected(source: Any, target: Any, l4: bytes, header_bytes: int) -> bytes:
    """RFC 2385, 2.0: pseudo-header, header without options and checksum, data, key."""
    if source.version == 4:
        pseudo = source.packed + target.packed + struct.pack("!BBH", 0, 6, len(l4))
    else:
        pseudo = source.packed + target.packed + struct.pack("!II", len(l4), 6)
    header = l4[:16] + b"\0\0" + l4[18:20]
    return hashlib.md5(pseudo + header + l4[header_bytes:] + SECRET).digest()  # noqa: S324 - as the RFC has it


def test_md5_is_md5_however_it_is_cut() -> None:
    rng = random.Random(2385)
    for size in (*range(130), 1460):
        data = rng.randbytes(size)
        cuts = [0, *sorted(rng.randrange(size + 1) for _ in range(3)), size]
        kept = [ffi.from_buffer(data[a:b]) for a, b in itertools.pairwise(cuts)]
        pieces = ffi.new("struct prl_md5_piece[]", len(kept))
        for n, piece in enumerate(kept):
            pieces[n].data, pieces[n].bytes = piece, len(piece)
        digest = ffi.new("uint8_t[16]")
        lib.prl_md5(pieces, len(kept), digest)
        assert bytes(digest) == hashlib.md5(data).digest()  # noqa: S324


@pytest.mark.parametrize(("source", "target"), [(HOST4, PEER4), (HOST6, PEER6)])
@pytest.mark.parametrize("options", [OPTION, OPTION + STAMPS, STAMPS + OPTION])
def test_a_segment_is_signed_as_the_rfc_says(source: Any, target: Any, options: bytes) -> None:
    l4 = segment(source, target, b"payload", options=options)
    data = bytearray(packet(source, target, l4))
    _, parsed = parse(bytes(data))
    assert parsed.md5_offset == parsed.l4_offset + 20 + options.index(OPTION) + 4
    assert bool(parsed.has_timestamps) == (STAMPS in options)
    buffer = ffi.from_buffer(data)
    assert not lib.prl_md5sig_check(buffer, parsed, key())
    lib.prl_packet_set_ack(buffer, parsed, 77, 88)
    if parsed.stamps_offset:
        lib.prl_packet_set_stamps(buffer, parsed, 5, 6)
    assert lib.prl_md5sig_sign(buffer, parsed, key())
    assert lib.prl_md5sig_check(buffer, parsed, key())
    assert not lib.prl_md5sig_check(buffer, parsed, key(b"another"))
    l4 = bytes(data[parsed.l4_offset :])
    at = parsed.md5_offset
    assert data[at : at + 16] == expected(source, target, l4, 20 + len(options))
    _, again = parse(bytes(data))
    assert (again.ack, again.window) == (77, 88)
    assert not again.stamps_offset or (again.tsval, again.tsecr) == (5, 6)


def test_without_the_option_nothing_is_signed() -> None:
    data = bytearray(packet(PEER4, HOST4, segment(PEER4, HOST4, b"payload", options=STAMPS)))
    before = bytes(data)
    _, parsed = parse(before)
    assert not lib.prl_md5sig_sign(ffi.from_buffer(data), parsed, key())
    assert not lib.prl_md5sig_check(before, parsed, key())
    assert data == before


@pytest.mark.parametrize(("peer", "host"), [(PEER4, HOST4), (PEER6, HOST6)])
@pytest.mark.parametrize("stamps", [True, False])
def test_a_crafted_segment_is_signed(peer: Any, host: Any, stamps: bool) -> None:
    _, parsed = parse(original := packet(peer, host, segment(peer, host, b"")))
    flow, secret = ffi.new("struct prl_flow_key *"), key()
    lib.prl_packet_key(original, parsed, True, 0, flow)
    craft = ffi.new("struct prl_craft *", {"key": flow, "from_peer": True, "md5": secret})
    craft.tcp_flags, craft.has_timestamps, craft.tsval, craft.tsecr = 0x10, stamps, 5, 6
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    data = bytes(ffi.buffer(out, lib.prl_packet_craft(craft, out)))
    error, made = parse(data)
    assert (error, made.payload_bytes, bool(made.has_timestamps)) == (0, 0, stamps)
    assert lib.prl_md5sig_check(data, made, secret)
    pieces = ffi.new("struct iovec[1]")
    buffer = ffi.from_buffer(data)
    pieces[0].iov_base, pieces[0].iov_len = buffer, len(data)
    assert lib.prl_packet_checksum(pieces, 1, made) == lib.PRL_CHECKSUM_FULL
