"""What this machine can do, by name: ``@pytest.mark.needs("root", "bird")`` skips by these."""

import functools
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
SBIN_PATH = "/usr/sbin:/sbin:/usr/lib/frr"  # not on every user's PATH
PROBE_TIMEOUT_S = 10


@dataclass(frozen=True)
class Probe:
    """A capability: ``check`` says whether it is there, ``reason`` what to do when it is not."""

    name: str
    reason: str
    check: Callable[[], bool]


PROBES: dict[str, Probe] = {}


def probe(reason: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Register the decorated function as the probe of its name; it runs at most once."""

    def register(check: Callable[[], bool]) -> Callable[[], bool]:
        name = check.__name__
        PROBES[name] = Probe(name, reason, functools.cache(check))
        return PROBES[name].check

    return register


def _works(*command: str) -> bool:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _installed(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SBIN_PATH}") is not None


@probe("run the tests as root")
def root() -> bool:
    return os.geteuid() == 0


@probe("this kernel, container or user may not make network namespaces")
def netns() -> bool:
    return _works("unshare", "--net", "true")


@probe("bpf(2) is not permitted, the kernel has no BTF, or bpffs is not mounted on /sys/fs/bpf")
def bpf() -> bool:
    return KERNEL_BTF.exists() and os.path.ismount("/sys/fs/bpf") and _works("bpftool", "prog")


@probe("the kernel has no AF_XDP (CONFIG_XDP_SOCKETS), or we may not use it")
def af_xdp() -> bool:
    af_xdp_family = 44  # Python names it from 3.14 on
    try:
        socket.socket(af_xdp_family, socket.SOCK_RAW, 0).close()
    except OSError:
        return False
    return True


@probe("the kernel has no VRF devices (CONFIG_NET_VRF)")
def vrf() -> bool:
    make = "ip link add probe type vrf table 100"
    return _works("unshare", "--net", "sh", "-c", make)


@probe("the kernel has no VLAN devices (CONFIG_VLAN_8021Q)")
def vlan() -> bool:
    make = "ip link add below type veth && ip link add link below name probe type vlan id 5"
    return _works("unshare", "--net", "sh", "-c", make)


@probe("the kernel does not let BPF programs be a TCP congestion control")
def struct_ops() -> bool:
    # The wrapper type is in the kernel's BTF exactly when bpf_tcp_ca.c is built in.
    wrapper = b"\0bpf_struct_ops_tcp_congestion_ops\0"
    try:
        return wrapper in KERNEL_BTF.read_bytes()
    except OSError:
        return False


@probe("BIRD is not installed: apt-get install bird2")
def bird() -> bool:
    return _installed("bird")


@probe("FRR is not installed: apt-get install frr")
def frr() -> bool:
    return _installed("bgpd")


@probe("keepalived is not installed: apt-get install keepalived")
def keepalived() -> bool:
    return _installed("keepalived")


@probe("spin is not installed: apt-get install spin gcc")
def spin() -> bool:
    return _installed("spin") and _installed("gcc")


@probe("curl is not installed: apt-get install curl")
def curl() -> bool:
    return _installed("curl")


@probe("socat is not installed: apt-get install socat")
def socat() -> bool:
    return _installed("socat")


@probe("redis is not installed: apt-get install socat")
def redis() -> bool:
    return _installed("redis-server")


@probe("tshark with Lua is not installed: apt-get install tshark")
def tshark() -> bool:
    return _works("tshark", "-X", f"lua_script:{os.devnull}", "--version")


@probe("bpftool is not installed: apt-get install bpftool")
def bpftool() -> bool:
    return _installed("bpftool")


@probe("nft is not installed: apt-get install nftables")
def nft() -> bool:
    return _installed("nft")


@probe("Vagrant is not installed: apt-get install vagrant")
def vagrant() -> bool:
    return _installed("vagrant")


@probe("Vagrant's libvirt provider is not installed: apt-get install vagrant-libvirt")
def vagrant_libvirt() -> bool:
    plugins = Path("/usr/share/rubygems-integration").glob("*/gems/vagrant-libvirt-*")
    return vagrant() and any(plugins)


@probe("Ruby is not installed: apt-get install ruby")
def ruby() -> bool:
    return _installed("ruby")


@probe("bcc or the kernel's headers are missing: make setup")
def bcc() -> bool:
    headers = Path("/lib/modules", platform.release(), "build")
    return importlib.util.find_spec("bcc") is not None and headers.exists()


def missing(names: tuple[str, ...]) -> Probe | None:
    """Return the first of the named probes that fails, or None.

    Raises:
        LookupError: there is no probe of such a name.
    """
    for name in names:
        if name not in PROBES:
            raise LookupError(f"no probe named {name!r}; there are: {', '.join(PROBES)}")
        if not PROBES[name].check():
            return PROBES[name]
    return None
