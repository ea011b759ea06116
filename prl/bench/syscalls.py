"""System calls of one process, counted in the kernel by bcc's raw tracepoint.

A count that no other load on the machine disturbs, unlike a time.
"""

from pathlib import Path
from typing import Any, Self

from prl.bench.errors import BenchError

_PROGRAM = """
struct call { u32 thread; u32 number; };
BPF_HASH(counts, struct call, u64);
RAW_TRACEPOINT_PROBE(sys_enter)
{
    struct bpf_pidns_info id = {};

    if (bpf_get_ns_current_pid_tgid(PID_NS_DEVICE, PID_NS_INODE, &id, sizeof(id)) || id.tgid != PID)
        return 0;
    struct call call = { .thread = id.pid, .number = (u32)ctx->args[1] };
    counts.increment(call);
    return 0;
}
"""
_WAITS = "epoll_wait"  # nobody in prld waits as often as the thread of the datapath


def _program(pid: int) -> str:
    """For a process by its number in this PID namespace: a container has one of its own."""
    namespace = Path("/proc/self/ns/pid").stat()
    text = _PROGRAM.replace("PID_NS_DEVICE", str(namespace.st_dev))
    return text.replace("PID_NS_INODE", str(namespace.st_ino)).replace("PID", str(pid))


class SystemCalls:
    """Counts while it is entered.

    Raises:
        BenchError: bcc is not there, or the kernel refuses.
    """

    def __init__(self, pid: int) -> None:
        try:
            from bcc import BPF  # noqa: PLC0415 - Debian's package, which may be missing
            from bcc.syscall import syscalls  # noqa: PLC0415
        except ImportError as error:
            raise BenchError(f"no bcc: {error}; install python3-bpfcc") from error
        self._names: dict[int, bytes] = syscalls
        try:
            self._bpf: Any = BPF(text=_program(pid).encode())
        except Exception as error:  # bcc raises plain Exception
            raise BenchError(f"system calls cannot be counted: {error}") from error

    def __enter__(self) -> Self:
        self._bpf[b"counts"].clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._found = {
            (key.thread, self._names.get(key.number, b"?").decode()): int(value.value)
            for key, value in self._bpf[b"counts"].items()
        }
        self._bpf.cleanup()

    def of_datapath(self) -> dict[str, int]:
        """By name, of the thread that runs the datapath: the one that waits most often."""
        waits = {thread: n for (thread, name), n in self._found.items() if name == _WAITS}
        if not waits:
            return {}
        busiest = max(waits, key=lambda thread: waits[thread])
        return {name: n for (thread, name), n in self._found.items() if thread == busiest}
