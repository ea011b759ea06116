"""The kernel: what prld cannot do without, and what it does otherwise where it is older (R24)."""

import errno
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prl.doctor.finding import Finding, Verdict, judge, presence
from prl.kernel.features import BTF, MULTI_BUFFER, in_btf

KERNEL_MIN: Final = (6, 1)
BPFFS: Final = Path("/sys/fs/bpf")
_AF_XDP = 44
_TCP_REPAIR, _REPAIR_ON, _REPAIR_OFF = 19, 1, -1
_TCP_RTO_MAX_MS, _RTO_MS = 44, 120_000
_MODULES = Path("/lib/modules")
_FILESYSTEMS = Path("/proc/filesystems")


def examine() -> Iterator[Finding]:
    """All of it."""
    yield _version()
    yield judge(
        "kernel BTF",
        BTF.exists(),
        presence(BTF.exists()),
        "use a kernel built with CONFIG_DEBUG_INFO_BTF",
    )
    mounted = os.path.ismount(BPFFS)
    yield judge("bpffs", mounted, presence(mounted), paste=f"mount -t bpf bpf {BPFFS}")
    yield _af_xdp()
    yield _tcp_repair()
    yield _tun()
    yield _struct_ops()
    yield _cgroup2()
    yield _act_mirred()
    yield from _newer()


def _version() -> Finding:
    release = platform.release()
    numbers = release.split(".")[:2]
    good = all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) >= KERNEL_MIN
    return judge("kernel", good, release, "run Linux 6.1 or newer")


def _af_xdp() -> Finding:
    try:
        socket.socket(_AF_XDP, socket.SOCK_RAW, 0).close()
    except OSError as error:
        words = error.strerror or str(error)
        remedy = "run as root, on a kernel with CONFIG_XDP_SOCKETS"
        return Finding("AF_XDP", Verdict.MISSING, words, remedy)
    return Finding("AF_XDP", Verdict.OK, "present")


def _tcp_repair() -> Finding:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_ON)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_OFF)
        except OSError as error:
            no_right = "run as root (CAP_NET_ADMIN)"
            remedy = "use a kernel with CONFIG_CHECKPOINT_RESTORE"
            return Finding(
                "TCP_REPAIR",
                Verdict.MISSING,
                error.strerror or str(error),
                no_right if error.errno == errno.EPERM else remedy,
            )
    return Finding("TCP_REPAIR", Verdict.OK, "present")


def _tun() -> Finding:
    good = os.access("/dev/net/tun", os.R_OK | os.W_OK)
    return judge(
        "TAP devices",
        good,
        presence(good),
        "load the driver, and run as root",
        paste="modprobe tun",
    )


def _struct_ops() -> Finding:
    """Shadows need a congestion control of their own; its type is in the kernel's BTF."""
    good = in_btf(b"bpf_struct_ops_tcp_congestion_ops")
    return judge(
        "struct_ops",
        good,
        presence(good),
        "use a kernel with CONFIG_BPF_JIT and BPF struct_ops, or this node can keep no shadows",
        otherwise=Verdict.WARNING,
    )


def _cgroup2() -> Finding:
    """TCP tells of sessions through a program at its root, be it mounted or not."""
    good = "nodev\tcgroup2" in _FILESYSTEMS.read_text().splitlines()
    return judge(
        "cgroup v2",
        good,
        presence(good),
        "the ends of sessions are looked for without it; use a kernel with CONFIG_CGROUP_BPF",
        otherwise=Verdict.NOTE,
    )


def _act_mirred() -> Finding:
    """Reinjection by act_mirred spares generic XDP a copy of every packet (bpf/egress.bpf.c)."""
    modules = (_MODULES / platform.release()).glob("kernel/net/sched/act_mirred.ko*")
    good = in_btf(b"\0tcf_mirred\0") or any(modules)
    return judge(
        "act_mirred",
        good,
        presence(good),
        "reinjection costs more CPU without it; use a kernel with CONFIG_NET_ACT_MIRRED",
        otherwise=Verdict.NOTE,
    )


def _newer() -> Iterator[Finding]:
    """What kernels after 6.1 have, and what prl does on one without it."""
    for name, since, good, fallback in (
        (
            "AF_XDP of several frames",
            "6.6",
            in_btf(MULTI_BUFFER),
            "packets larger than a frame need another way in: see the carrier of input below",
        ),
        (
            "TCP_RTO_MAX_MS",
            "6.15",
            _has_rto_max(),
            "a shadow's retransmission timer may be long; the take-over sets it going itself",
        ),
        (
            "struct_ops link",
            "6.4",
            in_btf(b"\0bpf_struct_ops_link\0"),
            "the shadows' congestion control is registered without one",
        ),
        ("tcx", "6.6", in_btf(b"\0tcx_entry\0"), "prl's programs are tc filters (clsact)"),
    ):
        found = presence(good) + ("" if good else f" (Linux {since} has it): {fallback}")
        yield judge(name, good, found, f"nothing; or run Linux {since}", otherwise=Verdict.NOTE)


def _has_rto_max() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _RTO_MS)
        except OSError:
            return False
    return True
