"""prld's pinned flow table from outside: its size, and strangers' flows that fill it."""

import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, addressof, create_string_buffer, get_errno
from pathlib import Path
from typing import Final

from prl.bench.errors import BenchError

PIN_DIRECTORY = Path("/sys/fs/bpf/prl")
FLOWS = "prl_flows"
_SYSCALL_BPF: Final = {"x86_64": 321, "aarch64": 280}
# linux/bpf.h
_BPF_OBJ_GET, _BPF_MAP_UPDATE_BATCH = 7, 26
_KEY = struct.Struct("=16s16sHHIHBx")  # struct prl_flow_key
_VALUE = struct.Struct("=II")  # struct prl_flow_ref
_NO_SLOT = 0xFFFFFFFF
_BATCH = 4096

_libc = CDLL(None, use_errno=True)


def fill(instance: str, count: int) -> None:
    """Enter ``count`` flows of addresses that nobody has (RFC 5737's 203.0.113.0/24).

    Raises:
        BenchError: the table cannot be opened, or has no room for so many.
    """
    with _opened(instance) as descriptor:
        for first in range(0, count, _BATCH):
            numbers = range(first, min(first + _BATCH, count))
            keys = create_string_buffer(b"".join(map(_key, numbers)))
            values = create_string_buffer(_VALUE.pack(0, _NO_SLOT) * len(numbers))
            attributes = struct.pack(
                "=QQQQIIQQ",
                *(0, 0, addressof(keys), addressof(values)),
                *(len(numbers), descriptor, 0, 0),
            )
            _bpf(_BPF_MAP_UPDATE_BATCH, attributes, f"flow {first} of {count}")


def table_bytes(instance: str) -> int:
    """What the kernel's table takes now. Raises BenchError."""
    with _opened(instance) as descriptor:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(facts["memlock"])


def _key(number: int) -> bytes:
    nobody = bytes(10) + b"\xff\xff" + bytes((203, 0, 113, number >> 16 & 0xFF))
    return _KEY.pack(nobody, nobody, number & 0xFFFF, 1, 0, 0, 6)


@contextmanager
def _opened(instance: str) -> Iterator[int]:
    path = create_string_buffer(os.fsencode(PIN_DIRECTORY / instance / FLOWS))
    descriptor = _bpf(_BPF_OBJ_GET, struct.pack("=QII", addressof(path), 0, 0), FLOWS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _bpf(command: int, attributes: bytes, what: str) -> int:
    number = _SYSCALL_BPF.get(platform.machine())
    if number is None:
        raise BenchError(f"number of bpf(2) not known on {platform.machine()}")
    result: int = _libc.syscall(number, command, attributes, len(attributes))
    if result < 0:
        raise BenchError(f"{what}: {os.strerror(get_errno())}")
    return result
