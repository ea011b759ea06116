"""Programs of two instructions, loaded without a compiler.

One for tc swallows every frame; one for XDP passes every frame: `prlctl bench` compares with it.
Another one is a socket filter that lets everything in.

Not matchall with an action: neither is in every kernel, while prl needs tc's bpf anyway. STOLEN and
not SHOT: the sender of a frame that is lost on a cable is not told.
"""

import ctypes
import os
import platform
import struct

from prl.lab.errors import LabError

NAME, PASSING = "prl_lab_cut", "passing"
_SYSCALL_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
# linux/bpf.h and linux/pkt_cls.h
_BPF_PROG_LOAD = 5
_BPF_PROG_TYPE_SOCKET_FILTER = 1
_BPF_PROG_TYPE_SCHED_CLS = 3
_BPF_PROG_TYPE_XDP = 6
_BPF_F_XDP_HAS_FRAGS = 1 << 5
_TC_ACT_OK = 0
_TC_ACT_STOLEN = 4
_XDP_PASS = 2
_WHOLE_PACKET = 0x7FFFFFFF
_MOV_TO_R0 = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
_EXIT = 0x95  # BPF_JMP | BPF_EXIT
_INSTRUCTION = "=BBhi"  # code, registers, offset, immediate
_ATTRIBUTES = "=IIQQIIQII16s"  # union bpf_attr up to prog_name

_libc = ctypes.CDLL(None, use_errno=True)


def load() -> int:
    """Load the tc program and return its file descriptor, which the caller closes.

    Raises:
        LabError: the kernel refuses, or the machine is of a kind not known here.
    """
    return _load(_BPF_PROG_TYPE_SCHED_CLS, _TC_ACT_STOLEN, 0)


def load_tc_ok() -> int:
    """Load a tc program that lets every packet leave, past all programs behind it.

    Raises:
        LabError: as load().
    """
    return _load(_BPF_PROG_TYPE_SCHED_CLS, _TC_ACT_OK, 0, PASSING)


def load_xdp_pass() -> int:
    """Load the XDP program and return its file descriptor, which the caller closes.

    Raises:
        LabError: as load().
    """
    return _load(_BPF_PROG_TYPE_XDP, _XDP_PASS, _BPF_F_XDP_HAS_FRAGS)


def load_let_in() -> int:
    """Load a socket filter that lets everything in, as a program's own; a file descriptor.

    Raises:
        LabError: as load().
    """
    return _load(_BPF_PROG_TYPE_SOCKET_FILTER, _WHOLE_PACKET, 0, PASSING)


def _load(kind: int, verdict: int, flags: int, name: str = NAME) -> int:
    number = _SYSCALL_BPF.get(platform.machine())
    if number is None:
        raise LabError(f"cannot load BPF on {platform.machine()}: number of bpf(2) not known")
    program = struct.pack(_INSTRUCTION, _MOV_TO_R0, 0, 0, verdict)
    program += struct.pack(_INSTRUCTION, _EXIT, 0, 0, 0)
    instructions = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    attributes = struct.pack(
        _ATTRIBUTES,
        kind,
        len(program) // struct.calcsize(_INSTRUCTION),
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,  # log_level
        0,  # log_size
        0,  # log_buf
        0,  # kern_version
        flags,
        name.encode(),
    )
    descriptor: int = _libc.syscall(number, _BPF_PROG_LOAD, attributes, len(attributes))
    if descriptor < 0:
        raise LabError(
            f"cannot load a program of two instructions: {os.strerror(ctypes.get_errno())}"
        )
    return descriptor
