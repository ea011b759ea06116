"""bpf(2), for what no program at hand does."""

import os
import platform
from ctypes import CDLL, c_char, get_errno
from typing import Final

from prl.bench.errors import BenchError

_NUMBER: Final = {"x86_64": 321, "aarch64": 280}

_libc = CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes | bytearray, what: str) -> int:
    """Call it with union bpf_attr; returns what the kernel does.

    What it writes there is found in a bytearray.

    Raises:
        BenchError: it refuses; ``what`` is named.
    """
    number = _NUMBER.get(platform.machine())
    if number is None:
        raise BenchError(f"number of bpf(2) not known on {platform.machine()}")
    given = (
        (c_char * len(attributes)).from_buffer(attributes)
        if isinstance(attributes, bytearray)
        else attributes
    )
    result: int = _libc.syscall(number, command, given, len(attributes))
    if result < 0:
        raise BenchError(f"{what}: {os.strerror(get_errno())}")
    return result
