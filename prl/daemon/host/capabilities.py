"""What prld must be allowed beyond an ordinary program, by capabilities(7)."""

from pathlib import Path
from typing import Final

from prl.errors import KernelError

NEEDED: Final = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""Their numbers (linux/capability.h). What each is for stands in ``prl/packaging/prld.service``,
which gives prld these and no others, and so does the lab."""
_STATUS: Final = Path("/proc/self/status")


def require() -> None:
    """Raises KernelError that names the missing ones."""
    have = _effective()
    missing = [name for name, bit in NEEDED.items() if not have >> bit & 1]
    if missing:
        raise KernelError(
            f"prld may not do its work, {', '.join(missing)} missing: run it as root, or by "
            "prld.service"
        )


def _effective() -> int:
    status = dict(
        line.partition(":")[::2] for line in _STATUS.read_text("ascii", "replace").splitlines()
    )
    return int(status.get("CapEff", "0"), 16)
