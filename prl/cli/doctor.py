"""`prlctl doctor`: what this kernel and machine can do, and how to get what is missing (R24)."""

import ctypes
import errno
import importlib
import importlib.util
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from prl.cli.output import emit, table
from prl.core.features import BTF, in_btf, xdp_mode

KERNEL_MIN = (6, 1)
BPFFS = Path("/sys/fs/bpf")
_AF_XDP = 44
_TCP_REPAIR, _REPAIR_ON, _REPAIR_OFF = 19, 1, -1
_BPF_ID_PATTERN = b"bpf_struct_ops_tcp_congestion_ops"
_PROGRAMS = ("classify.bpf.o", "egress.bpf.o")
_MIRRED = b"\0tcf_mirred\0"  # its structure, net/sched/act_mirred.c
_MODULES = Path("/lib/modules")


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True
    """False: prld runs without it, but something does not work."""


Check = Callable[[], Finding]


@click.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Find out what this host can do. Exit status 1: something needed is missing, 3: of use."""
    findings = [check() for check in CHECKS]
    rows = [["", "WHAT", "FOUND", "TO DO"]]
    rows += [
        ["ok" if f.ok else "missing", f.name, f.found, "" if f.ok else f.remedy] for f in findings
    ]
    healthy = all(finding.ok for finding in findings if finding.needed)
    emit({"healthy": healthy, "checks": [asdict(finding) for finding in findings]}, table(rows))
    if not healthy:
        context.exit(1)
    if not all(finding.ok for finding in findings):
        context.exit(3)


def _kernel() -> Finding:
    release = platform.release()
    numbers = release.split(".")[:2]
    good = all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) >= KERNEL_MIN
    return Finding("kernel", good, release, "run Linux 6.1 or newer")


def _root() -> Finding:
    good = os.geteuid() == 0
    return Finding("root", good, f"uid {os.geteuid()}", "run as root")


def _btf() -> Finding:
    good = BTF.exists()
    return Finding(
        "kernel BTF", good, _presence(good), "use a kernel built with CONFIG_DEBUG_INFO_BTF"
    )


def _bpffs() -> Finding:
    good = os.path.ismount(BPFFS)
    return Finding("bpffs", good, _presence(good), f"mount -t bpf bpf {BPFFS}")


def _af_xdp() -> Finding:
    try:
        socket.socket(_AF_XDP, socket.SOCK_RAW, 0).close()
    except OSError as error:
        return Finding(
            "AF_XDP",
            False,
            error.strerror or str(error),
            "run as root, on a kernel with CONFIG_XDP_SOCKETS",
        )
    return Finding("AF_XDP", True, "present")


def _struct_ops() -> Finding:
    """Shadows need a congestion control of their own (FACTS); its type is in the kernel's BTF."""
    good = in_btf(_BPF_ID_PATTERN)
    return Finding(
        "struct_ops",
        good,
        _presence(good),
        "use a kernel with CONFIG_BPF_JIT and BPF struct_ops, or this node can keep no shadows",
        needed=False,
    )


def _act_mirred() -> Finding:
    """Reinjection by act_mirred spares generic XDP a copy of every packet (bpf/egress.bpf.c)."""
    modules = (_MODULES / platform.release()).glob("kernel/net/sched/act_mirred.ko*")
    good = in_btf(_MIRRED) or any(modules)
    return Finding(
        "act_mirred",
        good,
        _presence(good),
        "use a kernel with CONFIG_NET_ACT_MIRRED, or reinjection costs more CPU",
        needed=False,
    )


def _tcp_repair() -> Finding:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_ON)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_OFF)
        except OSError as error:
            remedy = {
                errno.EPERM: "run as root (CAP_NET_ADMIN)",
            }.get(error.errno or 0, "use a kernel with CONFIG_CHECKPOINT_RESTORE")
            return Finding("TCP_REPAIR", False, error.strerror or str(error), remedy)
    return Finding("TCP_REPAIR", True, "present")


def _tun() -> Finding:
    path = Path("/dev/net/tun")
    good = os.access(path, os.R_OK | os.W_OK)
    return Finding("TAP devices", good, _presence(good), "modprobe tun, and run as root")


def _library(name: str, package: str) -> Check:
    def check() -> Finding:
        try:
            ctypes.CDLL(name)
        except OSError:
            return Finding(name, False, "missing", f"apt-get install {package}")
        return Finding(name, True, "present")

    return check


def _core() -> Finding:
    try:
        importlib.import_module("prl._core")
    except ImportError as error:
        return Finding("C datapath", False, str(error), "make setup")
    return Finding("C datapath", True, "present")


def _objects() -> Finding:
    folder = Path(__file__).resolve().parent.parent / "bpf"
    absent = [name for name in _PROGRAMS if not (folder / name).exists()]
    found = f"{', '.join(absent)} not in {folder}" if absent else str(folder)
    return Finding("BPF programs", not absent, found, "make setup")


def _bcc() -> Finding:
    good = importlib.util.find_spec("bcc") is not None
    return Finding(
        "bcc",
        good,
        _presence(good),
        "apt-get install python3-bpfcc (tracing scripts)",
        needed=False,
    )


def _headers() -> Finding:
    path = Path(f"/lib/modules/{platform.release()}/build")
    good = path.exists()
    return Finding(
        "kernel headers",
        good,
        str(path) if good else "missing",
        "make setup (tracing scripts need them)",
        needed=False,
    )


def _rp_filter() -> Finding:
    return _sysctl(
        "net/ipv4/conf/all/rp_filter", {"0", "1", "2"}, "sysctl -w net.ipv4.conf.all.rp_filter=0"
    )


def _sysctl(name: str, good: set[str], remedy: str) -> Finding:
    try:
        value = Path("/proc/sys", name).read_text().strip()
    except OSError as error:
        return Finding(name.replace("/", "."), False, error.strerror or "", remedy, needed=False)
    return Finding(name.replace("/", "."), value in good, value, remedy, needed=False)


def _interfaces() -> Finding:
    """Native XDP without multi-buffer wants packets that fit into one frame (FACTS)."""
    large = [
        f"{name} {mtu}"
        for _, name in socket.if_nameindex()
        if name != "lo" and not name.startswith("prl") and (mtu := _mtu(name)) > NATIVE_MTU_MAX
    ]
    return Finding(
        "MTU for native XDP",
        not large,
        ", ".join(large) or f"all at most {NATIVE_MTU_MAX}",
        'use mode = "generic" on these interfaces, or lower their MTU',
        needed=False,
    )


def _xdp_mode() -> Finding:
    """What mode = "auto" comes to on each interface that is up."""
    names = [n for _, n in socket.if_nameindex() if n != "lo" and not n.startswith("prl")]
    found = [f"{name}: {xdp_mode([name])[0]}" for name in names]
    return Finding('XDP mode "auto"', True, ", ".join(found) or "no interface")


NATIVE_MTU_MAX = 3498


def _mtu(interface: str) -> int:
    try:
        return int(Path("/sys/class/net", interface, "mtu").read_text())
    except (OSError, ValueError):
        return 0


def _presence(good: bool) -> str:
    return "present" if good else "missing"


CHECKS: tuple[Check, ...] = (
    *(_kernel, _root, _btf, _bpffs, _af_xdp, _struct_ops, _tcp_repair, _tun, _act_mirred),
    _library("libbpf.so.1", "libbpf1"),
    _library("libxdp.so.1", "libxdp1"),
    *(_core, _objects, _rp_filter, _interfaces, _xdp_mode, _bcc, _headers),
)
