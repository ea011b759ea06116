"""What of a snapshot moves, as bytes (userspace/tcp/moment.h); copying and restoring need a kernel.

Checks R17.
"""

import random
from typing import Any

import pytest

from prl.bindings import wire
from prl.bindings.native import ffi, lib

FIELDS: int = lib.PRL_MOMENT_FIELDS
MOMENT: dict[str, int] = {
    "rcv_seq": 0x10000005,
    "snd_seq": 0x20000003,
    "unread_bytes": 5,
    "unacked_bytes": 2,
    "tsval": 10,
    "snd_wl1": 0x0FFFFFF7,
    "snd_wnd": 0xFFFF,
    "max_window": 0x10000,
    "rcv_wnd": 0x8000,
    "rcv_wup": 0x10000000,
    "rcv_edge": 0x10008000,
    "mss": 1460,
    "in_bytes": 0xFF,
    "out_bytes": 1 << 40,
}
QUEUES = b"unrdout"


def encode(moment: dict[str, int]) -> bytes:
    out = ffi.new("uint8_t[]", FIELDS)
    lib.prl_moment_encode(ffi.new("struct prl_moment *", moment), out)
    return bytes(ffi.buffer(out))


def decode(value: bytes, before: int = 0) -> tuple[int, Any]:
    moment = ffi.new("struct prl_moment *")
    return lib.prl_moment_decode(ffi.from_buffer(value), len(value), before, moment), moment


def test_what_is_encoded_is_decoded() -> None:
    error, moment = decode(encode(MOMENT) + QUEUES)
    assert error == 0
    assert {name: getattr(moment, name) for name in MOMENT} == MOMENT
    assert wire.decode_moment(encode(MOMENT) + QUEUES, 0) == wire.Moment(0xFF, 1 << 40, 5, 2)


def test_pieces_that_came_before_count() -> None:
    error, moment = decode(encode(MOMENT) + QUEUES[3:], 3)
    assert error == 0
    assert (moment.unread_bytes, moment.unacked_bytes) == (5, 2)
    assert wire.decode_moment(encode(MOMENT), 6) == wire.Moment(0xFF, 1 << 40, 5, 1)
    assert decode(encode(MOMENT), 4)[0] < 0
    assert decode(encode(MOMENT), lib.PRL_MOMENT_QUEUES_MAX + 1)[0] < 0


@pytest.mark.parametrize(
    "value",
    [
        *(encode(MOMENT)[:size] for size in (0, 1, FIELDS - 1)),
        encode(MOMENT) + QUEUES[:4],  # less than is said to be unread
        encode(MOMENT | {"unread_bytes": 0xFFFFFFFF}) + QUEUES,
        encode(MOMENT | {"mss": 0}) + QUEUES,
        encode(MOMENT | {"in_bytes": wire.STREAM_MAX + 1}) + QUEUES,
        encode(MOMENT | {"out_bytes": (1 << 64) - 1}) + QUEUES,
    ],
)
def test_what_cannot_be_is_refused(value: bytes) -> None:
    assert decode(value)[0] < 0
    with pytest.raises(wire.WireError):
        wire.decode_moment(value, 0)


@pytest.mark.parametrize(
    ("counted", "offset", "position"),
    [
        (7, -3, 4),
        (3, -7, 0),
        (3, -wire.STREAM_MAX, 0),
        (wire.STREAM_MAX, wire.STREAM_MAX, wire.STREAM_MAX),
        ((1 << 32) + 1, 1 << 33, 3 * (1 << 32) + 1),
    ],
)
def test_a_position_that_is_told_is_one_that_is_taken(
    counted: int, offset: int, position: int
) -> None:
    """Its offset comes from an application, and a moment that is refused costs the link."""
    assert lib.prl_stream_at(counted, offset) == position
    assert decode(encode(MOMENT | {"in_bytes": position}) + QUEUES)[0] == 0


def test_anything_is_refused_or_says_no_more_than_is_there() -> None:
    chance = random.Random(4)
    for _ in range(2000):
        value = chance.randbytes(chance.randrange(FIELDS * 2))
        error, moment = decode(value)
        if error == 0:
            assert moment.unread_bytes + moment.unacked_bytes == len(value) - FIELDS


USEC_TIMESTAMPS = 64  # TCPI_OPT_USEC_TS


@pytest.mark.parametrize(
    ("tsval", "negotiated", "elapsed_ms", "expected"),
    [
        (1000, 0, 0, 1002),
        (1001, 0, 0, 1004),
        (1000, 0, 50, 1052),
        (0xFFFFFFFE, 0, 0, 0),
        (0xFFFFFFFF, 0, 0, 2),
        (1001, USEC_TIMESTAMPS, 0, 3001),
        (1001, USEC_TIMESTAMPS, 2, 5001),
    ],
)
def test_clock_goes_on_ahead_and_keeps_its_unit(
    tsval: int, negotiated: int, elapsed_ms: int, expected: int
) -> None:
    assert lib.prl_moment_next_tsval(negotiated, tsval, elapsed_ms) == expected
