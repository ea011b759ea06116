"""The packet memory (userspace/io/umem.c): packets of frames, and how they lie."""

from collections.abc import Iterator
from typing import Any

import pytest

from prl.bindings.native import ffi, lib

FRAMES, FRAME_BYTES = 64, 4096
WHOLE = bytes(range(256)) * 255  # a packet of 64 KB: 16 frames


@pytest.fixture(name="umem")
def _umem() -> Iterator[Any]:
    found = lib.prl_umem_open(FRAMES, FRAME_BYTES, ffi.new("char[]", 256))
    assert found
    yield found
    lib.prl_umem_close(found)


def pieces(umem: Any, packet: int) -> list[bytes]:
    found = ffi.new("struct iovec[]", 24)
    count = lib.prl_umem_pieces(umem, packet, found)
    return [bytes(ffi.buffer(found[n].iov_base, found[n].iov_len)) for n in range(count)]


def test_neighbours_are_one_piece_and_stay_neighbours(umem: Any) -> None:
    """One piece is one to copy from and to send, also when the frames come round again."""
    for _ in range(3):
        packets = [lib.prl_umem_copy(umem, WHOLE, len(WHOLE)) for _ in range(4)]
        assert [pieces(umem, packet) for packet in packets] == [[WHOLE]] * 4
        for packet in packets:
            lib.prl_umem_free_packet(umem, packet)
    assert lib.prl_umem_free_frames(umem) == FRAMES


def test_a_packet_that_lies_apart_has_more_pieces(umem: Any) -> None:
    first, second, third = (
        lib.prl_umem_copy(umem, data, len(data)) for data in (b"a" * 5000, b"b" * 5000, b"c" * 5000)
    )
    lib.prl_umem_free_packet(umem, third)
    lib.prl_umem_free_packet(umem, first)
    whole = lib.prl_umem_copy(umem, WHOLE[:13000], 13000)
    assert pieces(umem, second) == [b"b" * 5000]
    assert len(pieces(umem, whole)) == 2
    assert b"".join(pieces(umem, whole)) == WHOLE[:13000]


def test_what_is_cut_off_is_in_no_piece(umem: Any) -> None:
    packet = lib.prl_umem_copy(umem, WHOLE[:9000], 9000)
    lib.prl_umem_trim(umem, packet, 14, 5000)
    assert b"".join(pieces(umem, packet)) == WHOLE[14:5014]
    lib.prl_umem_free_packet(umem, packet)
    assert lib.prl_umem_free_frames(umem) == FRAMES


def test_without_frames_there_is_no_packet(umem: Any) -> None:
    taken = [lib.prl_umem_copy(umem, WHOLE, len(WHOLE)) for _ in range(FRAMES // 16)]
    assert lib.prl_umem_copy(umem, b"x", 1) == 0xFFFFFFFF
    lib.prl_umem_free_packet(umem, taken[0])
    assert lib.prl_umem_copy(umem, b"x", 1) != 0xFFFFFFFF
