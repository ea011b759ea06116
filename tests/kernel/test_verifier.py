"""How much of what the verifier may do the programs cost: a margin, long before it says no.

A kernel that walks more paths than another one counts more instructions for the same program, so
the margin is looked at on each kernel.
"""

import ctypes
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import prl

pytestmark = pytest.mark.needs("root", "bpf", "struct_ops")

OBJECTS = sorted(Path(prl.__file__).with_name("bpf").glob("*.bpf.o"))
INSTRUCTIONS_KERNEL = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS, include/linux/bpf.h
INSTRUCTIONS_MAX = INSTRUCTIONS_KERNEL // 8
"""A program of ours may make the verifier process so many: what a newer kernel, or the next
feature, may make of it must still fit."""
ENTRIES = 64  # of tables whose size the verifier does not look at
INFO_BYTES = 232  # struct bpf_prog_info of Linux 5.16, the first that has verified_insns …
VERIFIED_OFFSET = 216  # … which is there
SIZED = ("prl_flows", "prl_flow_state", "prl_gates")


def libbpf() -> ctypes.CDLL:
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    pointer = ctypes.c_void_p
    for name, result, arguments in (
        ("bpf_object__open", pointer, [ctypes.c_char_p]),
        ("bpf_object__load", ctypes.c_int, [pointer]),
        ("bpf_object__close", None, [pointer]),
        ("bpf_object__next_map", pointer, [pointer, pointer]),
        ("bpf_map__name", ctypes.c_char_p, [pointer]),
        ("bpf_map__set_pin_path", ctypes.c_int, [pointer, ctypes.c_char_p]),
        ("bpf_map__set_max_entries", ctypes.c_int, [pointer, ctypes.c_uint32]),
        ("bpf_object__next_program", pointer, [pointer, pointer]),
        ("bpf_program__name", ctypes.c_char_p, [pointer]),
        ("bpf_program__fd", ctypes.c_int, [pointer]),
        ("bpf_obj_get_info_by_fd", ctypes.c_int, [ctypes.c_int, pointer, pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@contextmanager
def loaded(library: ctypes.CDLL, path: Path) -> Iterator[ctypes.c_void_p]:
    """The object in the kernel, attached to nothing and without pins."""
    bpf_object = library.bpf_object__open(str(path).encode())
    assert bpf_object, path
    try:
        table = None
        while table := library.bpf_object__next_map(bpf_object, table):
            assert library.bpf_map__set_pin_path(table, None) == 0
            if library.bpf_map__name(table).decode() in SIZED:
                assert library.bpf_map__set_max_entries(table, ENTRIES) == 0
        assert library.bpf_object__load(bpf_object) == 0, f"the kernel refuses {path.name}"
        yield bpf_object
    finally:
        library.bpf_object__close(bpf_object)


def verified(library: ctypes.CDLL, path: Path) -> dict[str, int]:
    """Instructions that the verifier processed, by program."""
    counts = {}
    with loaded(library, path) as bpf_object:
        program = None
        while program := library.bpf_object__next_program(bpf_object, program):
            info = ctypes.create_string_buffer(INFO_BYTES)
            length = ctypes.c_uint32(INFO_BYTES)
            descriptor = library.bpf_program__fd(program)
            done = library.bpf_obj_get_info_by_fd(descriptor, info, ctypes.byref(length))
            assert done == 0, path
            assert length.value >= VERIFIED_OFFSET + 4
            name = library.bpf_program__name(program).decode()
            (counts[name],) = struct.unpack_from("=I", info, VERIFIED_OFFSET)
    return counts


def test_no_program_comes_near_to_what_the_verifier_may_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(OBJECTS) > 1, "the BPF programs are not built"
    library = libbpf()
    counts = {path.name: verified(library, path) for path in OBJECTS}
    lines = [
        f"  {file:18} {name:24} {count:8} {count / INSTRUCTIONS_MAX:6.1%} of what it may\n"
        for file, programs in counts.items()
        for name, count in programs.items()
    ]
    with capsys.disabled():
        sys.stdout.writelines(
            [f"\ninstructions that the verifier processed, Linux {platform.release()}:\n", *lines]
        )
    every = {(file, name): count for file, found in counts.items() for name, count in found.items()}
    assert all(every.values())
    assert max(every.values()) < INSTRUCTIONS_MAX
