"""prld's pinned flow tables from outside: their size, and strangers' flows that fill them."""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import addressof, create_string_buffer
from pathlib import Path

from prl.bench.bpfcall import bpf
from prl.bindings.native import ffi, lib

PIN_DIRECTORY = Path("/sys/fs/bpf/prl")
FLOWS, SIEVE = "prl_flows", "prl_sieve"
TABLES = (FLOWS, "prl_flow_state", "prl_gates")
"""What has an entry for each session (bpf/maps.h)."""
# linux/bpf.h
_BPF_OBJ_GET, _BPF_MAP_UPDATE_BATCH = 7, 26
_KEY = struct.Struct("=16s16sHHIHBx")  # struct prl_flow_key
_VALUE = struct.Struct("=II")  # struct prl_flow_ref
_NO_SLOT = 0xFFFFFFFF
_BATCH = 4096
_NO_PREALLOC = 1  # BPF_F_NO_PREALLOC


def fill(instance: str, count: int) -> None:
    """Enter ``count`` flows of addresses that nobody has (RFC 5737's 203.0.113.0/24).

    Raises:
        BenchError: the table cannot be opened, or has no room for so many.
    """
    _count(instance, count)
    with _opened(instance, FLOWS) as descriptor:
        for first in range(0, count, _BATCH):
            numbers = range(first, min(first + _BATCH, count))
            keys = create_string_buffer(b"".join(map(_key, numbers)))
            values = create_string_buffer(_VALUE.pack(0, _NO_SLOT) * len(numbers))
            attributes = struct.pack(
                "=QQQQIIQQ",
                *(0, 0, addressof(keys), addressof(values)),
                *(len(numbers), descriptor, 0, 0),
            )
            bpf(_BPF_MAP_UPDATE_BATCH, attributes, f"flow {first} of {count}")


def grown_bytes(instance: str) -> int:
    """What those tables take now that grow with their entries. Raises BenchError."""
    return sum(taken for taken, entries in _sizes(instance) if not entries)


def slot_bytes(instance: str) -> float:
    """What the others have taken from the start for each session that there may be."""
    return sum(taken / entries for taken, entries in _sizes(instance) if entries)


def _sizes(instance: str) -> Iterator[tuple[int, int]]:
    """Bytes of each table, and its entries if all are there from the start, else 0."""
    for name in TABLES:
        with _opened(instance, name) as descriptor:
            lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        grows = int(facts["map_flags"], 16) & _NO_PREALLOC
        yield int(facts["memlock"]), 0 if grows else int(facts["max_entries"])


def _count(instance: str, count: int) -> None:
    """Note the flows in the sieve (struct prl_sieve), as prld does for those that it enters."""
    with (
        _opened(instance, SIEVE) as descriptor,
        mmap.mmap(descriptor, lib.PRL_SIEVE_CELLS) as sieve,
    ):
        for number in range(count):
            key = ffi.from_buffer("struct prl_flow_key *", _key(number))
            cell = lib.prl_kernel_sieve_cell(key)
            sieve[cell] = min(sieve[cell] + 1, 255)


def _key(number: int) -> bytes:
    nobody = bytes(10) + b"\xff\xff" + bytes((203, 0, 113, number >> 16 & 0xFF))
    return _KEY.pack(nobody, nobody, number & 0xFFFF, 1, 0, 0, 6)


@contextmanager
def _opened(instance: str, name: str) -> Iterator[int]:
    path = create_string_buffer(os.fsencode(PIN_DIRECTORY / instance / name))
    descriptor = bpf(_BPF_OBJ_GET, struct.pack("=QII", addressof(path), 0, 0), name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
