"""prl itself, the libraries that it loads, and what root may do here."""

import ctypes
import importlib
import importlib.util
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import prl
from prl.doctor.finding import Finding, Verdict, judge, presence

PROGRAMS: Final = ("classify.bpf.o", "egress.bpf.o")
_LIBRARIES = {"libbpf.so.1": "libbpf1", "libxdp.so.1": "libxdp1"}
_STATUS = Path("/proc/self/status")
_CAP_IPC_LOCK = 14


def examine() -> Iterator[Finding]:
    """All of it."""
    yield judge("root", os.geteuid() == 0, f"uid {os.geteuid()}", "run as root")
    for name, package in _LIBRARIES.items():
        good = _loads(name)
        yield judge(name, good, presence(good), paste=f"apt-get install -y {package}")
    yield _core()
    yield _objects()
    yield _locked_memory()
    good = importlib.util.find_spec("bcc") is not None
    yield judge(
        "bcc",
        good,
        presence(good),
        "only the tracing scripts need it",
        paste="apt-get install -y python3-bpfcc",
        otherwise=Verdict.NOTE,
    )
    headers = Path(f"/lib/modules/{platform.release()}/build")
    yield judge(
        "kernel headers",
        headers.exists(),
        str(headers) if headers.exists() else "missing",
        "only the tracing scripts need them: make setup",
        otherwise=Verdict.NOTE,
    )


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _core() -> Finding:
    try:
        importlib.import_module("prl._core")
    except ImportError as error:
        return Finding("C datapath", Verdict.MISSING, str(error), "make setup")
    return Finding("C datapath", Verdict.OK, "present")


def _objects() -> Finding:
    folder = Path(prl.__file__).resolve().parent / "bpf"
    absent = [name for name in PROGRAMS if not (folder / name).exists()]
    found = f"{', '.join(absent)} not in {folder}" if absent else str(folder)
    return judge("BPF programs", not absent, found, "make setup")


def _locked_memory() -> Finding:
    """The frames of AF_XDP are locked memory of the user's (xdp_umem_account_pages)."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = hard == resource.RLIM_INFINITY
    good = unlimited or _has_capability(_CAP_IPC_LOCK)
    return judge(
        "locked memory",
        good,
        "unlimited" if good else f"at most {hard >> 10} KiB, without CAP_IPC_LOCK",
        "give prld CAP_IPC_LOCK, or no limit (LimitMEMLOCK=infinity of its unit)",
        paste="prlimit --pid $$ --memlock=unlimited",
        otherwise=Verdict.WARNING,
    )


def _has_capability(number: int) -> bool:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return False
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> number & 1)
