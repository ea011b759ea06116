"""One guest: a kernel in QEMU whose root is this machine's, and one command in it."""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.clock import tsc_khz
from tests.kernels.debian import Kernel, KernelError

RC = Path(__file__).with_name("rc.sh")
QEMU = "qemu-system-x86_64"
CPUS = 2
MEMORY_MIB = 4096
"""What the guest may take; its overlay and its /tmp are in it. QEMU takes it as it is used."""
BOOT_TIMEOUT_S = 120.0
"""From QEMU's start to the first command; 6 s are usual, and the machine may be busy."""
OFF_TIMEOUT_S = 30.0
LAST_NICE = 19
"""The nice value of what all others come before."""
TAIL_BYTES = 6000
KERNEL_PARAMETERS = (
    *("console=ttyS0", "quiet", "panic=-1"),  # a panic is the end of QEMU
    "no_timer_check",  # an emulated CPU that is given too little time fails it, and panics
    # What only costs an emulated CPU time: defence against faults of real ones, zeroed memory.
    *("mitigations=off", "init_on_alloc=0"),
)
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command in a guest."""

    status: int  # the command's exit status
    log: str  # what it wrote
    boot_s: float
    run_s: float


def has_kvm() -> bool:
    """Whether virtual machines run on the CPU itself rather than emulated.

    Some machines have a /dev/kvm on a CPU that cannot: the CPU's own word decides.
    """
    flags = Path("/proc/cpuinfo").read_text().split()
    return ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def run(
    kernel: Kernel,
    command: Sequence[str],
    *,
    timeout: float,
    folder: Path,
    results: Path | None = None,
    memory_mib: int = MEMORY_MIB,
    environment: Mapping[str, str] | None = None,
    tell: Callable[[str], object] = len,
    is_late: Callable[[], bool] = bool,
    gives_way: bool = False,
) -> Outcome:
    """Boot ``kernel`` and run ``command`` in ``folder`` of the machine's root, as root.

    The root is read-only, whatever the guest writes is forgotten; only what the command puts into
    $GUEST_RESULTS comes back, in ``results``. What it writes is passed to ``tell`` meanwhile, in
    whole lines. The guest ends with the process that started it. One that ``gives_way`` runs while
    the host's CPUs have nothing else to do.

    Raises:
        KernelError: the guest did not boot, died, was not done after ``timeout`` seconds, or
            ``is_late`` said so; the message has the end of its console and of the command's log.
    """
    with tempfile.TemporaryDirectory(prefix="prl-guest-") as name:
        share = Path(name)
        (share / "results").mkdir()
        shutil.copy2(RC, share / "rc.sh")
        (share / "command").write_text(_script(command, folder, environment or {}))
        started = time.monotonic()
        with (
            (share / "qemu").open("wb") as complaints,
            subprocess.Popen(
                [
                    *(("chrt", "--idle", "0") if gives_way else ()),
                    *_qemu(kernel, share, memory_mib),
                ],
                stdin=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            ) as qemu,
        ):
            try:
                if gives_way:
                    _lower_session(qemu.pid)
                wait = _Wait(qemu, share, _Follower(share / "log", tell), is_late)
                wait.until("booted", BOOT_TIMEOUT_S, "did not boot")
                booted = time.monotonic()
                wait.until("status", timeout, "was not done")
                done = time.monotonic()
                _await_end(qemu)
            finally:
                qemu.kill()
                if results is not None:
                    shutil.copytree(share / "results", results, dirs_exist_ok=True)
        return Outcome(
            int((share / "status").read_text()),
            (share / "log").read_text(errors="replace"),
            booted - started,
            done - booted,
        )


def _lower_session(leader: int) -> None:
    """Make the scheduler's group of a session the last one, where each session has a group."""
    autogroup = Path(f"/proc/{leader}/autogroup")
    if autogroup.exists():
        autogroup.write_text(f"{LAST_NICE}\n")


def _script(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    exports = {"GUEST_RESULTS": "/mnt/results", **environment}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    return "\n".join([*lines, f"cd {shlex.quote(str(folder))} || exit", shlex.join(command), ""])


def _qemu(kernel: Kernel, share: Path, memory_mib: int) -> list[str]:
    if has_kvm():
        accelerator, clock = ["-accel", "kvm", "-cpu", "host"], []
    else:
        # Emulated vectors are slower than none: what looks for AVX is not to find it.
        accelerator = ["-accel", "tcg,thread=multi", "-cpu", "max,-avx,-avx2"]
        clock = ["tsc=reliable", f"tsc_early_khz={tsc_khz()}"]

    def shared(path: Path, tag: str, more: str = "") -> list[str]:
        options = f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}"
        return ["-virtfs", options]

    return [
        *("setpriv", "--pdeathsig", "KILL", QEMU, "-machine", "pc", *accelerator),
        *("-smp", str(CPUS), "-m", str(memory_mib)),
        *("-display", "none", "-no-reboot", "-nodefaults", "-serial", f"file:{share / 'console'}"),
        *("-kernel", str(kernel.vmlinux), "-initrd", str(kernel.initramfs)),
        *shared(Path("/"), "root", ",readonly=on"),
        *shared(kernel.modules, "modules", ",readonly=on"),
        *shared(share, "share"),
        *("-append", " ".join([*KERNEL_PARAMETERS, *clock])),
    ]


@dataclass(frozen=True, slots=True)
class _Wait:
    """For what a guest writes into its share."""

    qemu: subprocess.Popen[bytes]
    share: Path
    log: "_Follower"
    is_late: Callable[[], bool]

    def until(self, sign: str, timeout: float, otherwise: str) -> None:
        """The file ``sign`` has a word in it."""
        deadline = time.monotonic() + timeout
        # 9p has no notifications: what the guest writes can only be looked for.
        while not self._has(sign):
            if self.qemu.poll() is not None and not self._has(sign):
                raise self._error(f"the guest ended with {self.qemu.returncode}")
            if time.monotonic() > deadline or self.is_late():
                raise self._error(f"the guest {otherwise} in time")
            time.sleep(_POLL_S)
            self.log.tell()
        self.log.tell()

    def _has(self, sign: str) -> bool:
        path = self.share / sign
        return path.exists() and path.stat().st_size > 0

    def _error(self, words: str) -> KernelError:
        self.log.tell()
        return KernelError(f"{words}{_tails(self.share)}")


class _Follower:
    """What a growing file has more than before, told in whole lines."""

    def __init__(self, path: Path, tell: Callable[[str], object]) -> None:
        self._path, self._tell, self._at = path, tell, 0

    def tell(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            lines, newline, _ = file.read().rpartition(b"\n")
        self._at += len(lines + newline)
        if lines:
            self._tell((lines + newline).decode(errors="replace"))


def _await_end(qemu: subprocess.Popen[bytes]) -> None:
    try:
        qemu.wait(OFF_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return  # all that was wanted of it is there


def _tails(share: Path) -> str:
    text = ""
    for name in ("log", "console", "qemu"):
        if (path := share / name).exists() and (data := path.read_bytes()[-TAIL_BYTES:]).strip():
            text += f"\n--- the end of its {name} ---\n{data.decode(errors='replace').strip()}"
    return text
