"""SipHash: 1-3 of the flow tables, which without its key tells no collisions; 2-4 of claims."""

import random
from typing import Any

import pytest
from prl._core import ffi, lib

MASK = (1 << 64) - 1
VECTOR_KEY = bytes(range(16))
VECTOR = 0xA129CA6149BE45E5
"""SipHash-2-4 of bytes(range(15)) with that key: appendix A of the paper."""
BUCKETS = 16384


def rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & MASK


def siphash(key: bytes, data: bytes, rounds: int, final_rounds: int) -> int:
    """As the paper has it, section 2."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573

    def mix(count: int) -> None:
        nonlocal v0, v1, v2, v3
        for _ in range(count):
            v0, v2 = (v0 + v1) & MASK, (v2 + v3) & MASK
            v1, v3 = rotate(v1, 13) ^ v0, rotate(v3, 16) ^ v2
            v0 = rotate(v0, 32)
            v2, v0 = (v2 + v1) & MASK, (v0 + v3) & MASK
            v1, v3 = rotate(v1, 17) ^ v2, rotate(v3, 21) ^ v0
            v2 = rotate(v2, 32)

    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v3 ^= word
        mix(rounds)
        v0 ^= word
    v2 ^= 0xFF
    mix(final_rounds)
    return v0 ^ v1 ^ v2 ^ v3


def key_of(raw: bytes) -> Any:
    made = ffi.new("struct prl_siphash_key *")
    ffi.buffer(made)[:] = raw
    return made


def test_the_reference_is_the_paper_s() -> None:
    assert siphash(VECTOR_KEY, bytes(range(15)), 2, 4) == VECTOR


@pytest.mark.parametrize("size", [0, 1, 4, 7, 8, 9, 40, 63])
def test_it_is_siphash(size: int) -> None:
    chance = random.Random(size)
    for _ in range(20):
        key, data = chance.randbytes(16), chance.randbytes(size)
        assert lib.prl_siphash(key_of(key), data, size) == siphash(key, data, 1, 3)


def test_claims_are_maced_by_siphash_2_4() -> None:
    """As in XDP, which has the same rounds."""
    chance = random.Random(1)
    for _ in range(20):
        key, raw = chance.randbytes(16), chance.randbytes(48)
        claimed = ffi.new("struct prl_claimed *")
        ffi.buffer(claimed)[:] = raw
        assert lib.prl_siphash_claim(key_of(key), claimed) == siphash(key, raw, 2, 4)


def test_each_start_has_a_key_of_its_own() -> None:
    keys = [ffi.new("struct prl_siphash_key *") for _ in range(2)]
    assert [lib.prl_siphash_key(key) for key in keys] == [0, 0]
    assert bytes(ffi.buffer(keys[0])) != bytes(ffi.buffer(keys[1]))


def colliding(key: Any, count: int) -> list[bytes]:
    """Handles that are all in one bucket, found by who knows the key."""
    found = []
    for handle in range(1, 1 << 31):
        raw = handle.to_bytes(4, "little")
        if lib.prl_siphash(key, raw, 4) % BUCKETS == 0:
            found.append(raw)
            if len(found) == count:
                break
    return found


def test_what_collides_with_one_key_does_not_with_another() -> None:
    handles = colliding(key_of(VECTOR_KEY), 100)
    buckets = {lib.prl_siphash(key_of(bytes(16)), raw, 4) % BUCKETS for raw in handles}
    assert len(buckets) > len(handles) * 9 // 10
