"""How fast this CPU's time stamp counter runs, which an emulated CPU passes on as it is."""

import ctypes
import mmap
import time

MEASURE_S = 0.2
TRIES = 5
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; rax |= rdx << 32; ret


def tsc_khz() -> int:
    """Measured against the monotonic clock.

    A guest that measured it while its CPUs waited for their turn would keep a wrong clock: one that
    ran three times as fast has been seen.
    """
    with mmap.mmap(
        -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ) as code:
        code.write(_RDTSC)
        address = ctypes.addressof(anchor := ctypes.c_char.from_buffer(code))
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
        first_at, first = _both(read)
        time.sleep(MEASURE_S)
        last_at, last = _both(read)
        del anchor, read
    return round((last - first) * 1e6 / (last_at - first_at))


def _both(read: "ctypes._FuncPointer") -> tuple[int, int]:
    """Clock (ns) and counter at one moment: of several tries the one that took least."""
    tries = []
    for _ in range(TRIES):
        before = time.monotonic_ns()
        ticks = read()
        tries.append((time.monotonic_ns() - before, before, ticks))
    took, before, ticks = min(tries)
    return before + took // 2, ticks
