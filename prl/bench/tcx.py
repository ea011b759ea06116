"""The programs on either side of an interface, where the kernel has tcx (Linux 6.6): bpf(2)."""

import ctypes
import os
import struct
from typing import Final

from prl.bench.bpfcall import bpf
from prl.bench.errors import BenchError

# linux/bpf.h
_ATTACH, _DETACH, _QUERY, _FD_BY_ID, _INFO_BY_FD = 8, 9, 16, 13, 15
INGRESS: Final = 46
_EGRESS: Final = 47
_BEFORE: Final = 1 << 3
_PROGRAMS_MAX = 64
_INFO_BYTES, _NAME_AT, _NAME_BYTES = 256, 64, 16  # struct bpf_prog_info


def programs(ifindex: int, side: int = _EGRESS) -> list[int] | None:
    """The ids of the programs, first to last; None: this kernel has no tcx."""
    ids = bytearray(4 * _PROGRAMS_MAX)
    address = _address(ids)
    query = bytearray(
        struct.pack("=IIIIQII4Q", ifindex, side, 0, 0, address, _PROGRAMS_MAX, 0, 0, 0, 0, 0)
    )
    try:
        bpf(_QUERY, query, "tcx")
    except BenchError:
        return None
    (count,) = struct.unpack_from("=I", query, 24)
    return list(struct.unpack_from(f"={count}I", ids))


def put_first(ifindex: int, program: int, side: int = _EGRESS) -> None:
    """Attach it in front of all others. Raises BenchError."""
    bpf(_ATTACH, _attach(ifindex, program, _BEFORE, side), "tcx attach")


def take_off(ifindex: int, program: int, side: int = _EGRESS) -> None:
    """Detach it. Raises BenchError."""
    bpf(_DETACH, _attach(ifindex, program, 0, side), "tcx detach")


def name(program_id: int) -> str:
    """A program's name. Raises BenchError when it has gone."""
    program = open_program(program_id)
    try:
        info = bytearray(_INFO_BYTES)
        attributes = struct.pack("=IIQ", program, len(info), _address(info))
        bpf(_INFO_BY_FD, attributes, "information")
    finally:
        os.close(program)
    return info[_NAME_AT : _NAME_AT + _NAME_BYTES].rstrip(b"\0").decode("ascii", "replace")


def open_program(program_id: int) -> int:
    """A descriptor of it. Raises BenchError."""
    return bpf(_FD_BY_ID, struct.pack("=IIIIQ", program_id, 0, 0, 0, 0), f"program {program_id}")


def _attach(ifindex: int, program: int, flags: int, side: int) -> bytes:
    return struct.pack("=IIIIIIQ", ifindex, program, side, flags, 0, 0, 0)


def _address(memory: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
