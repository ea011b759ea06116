"""What this machine can do, by name: ``@pytest.mark.needs("root", "bird")`` skips by these.

In the body of a test or in a fixture ``require("mptcp")`` does. There is no other way to skip.
"""

import functools
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from prl.kernel.features import MULTI_BUFFER, in_btf
from tests import previous_build

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
SBIN_PATH = "/usr/sbin:/sbin:/usr/lib/frr"  # not on every user's PATH
PROBE_TIMEOUT_S = 10


@dataclass(frozen=True)
class Probe:
    """A capability.

    Attributes:
        name: what ``needs`` calls it.
        reason: what to do when it is not there.
        check: says whether it is there.
        lane: the lane of `make test-LANE` that has it where this machine has not: ``kernels``,
            other kernels, or ``vm``; ``clone``, a clone with all of the history; "" where
            `make setup` is to provide it.
    """

    name: str
    reason: str
    check: Callable[[], bool]
    lane: str = ""


class Missing(pytest.skip.Exception):
    """The test is skipped, because what ``probe`` looks for is not there."""

    def __init__(self, probe: Probe) -> None:
        super().__init__(f"needs {probe.name}: {probe.reason}")
        self.probe = probe


PROBES: dict[str, Probe] = {}


def probe(reason: str, lane: str = "") -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Register the decorated function as the probe of its name; it runs at most once."""

    def register(check: Callable[[], bool]) -> Callable[[], bool]:
        name = check.__name__
        PROBES[name] = Probe(name, reason, functools.cache(check), lane)
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


@probe("the kernel has no AF_XDP (CONFIG_XDP_SOCKETS), or we may not use it", lane="kernels")
def af_xdp() -> bool:
    af_xdp_family = 44  # Python names it from 3.14 on
    try:
        socket.socket(af_xdp_family, socket.SOCK_RAW, 0).close()
    except OSError:
        return False
    return True


@probe("the kernel has no NFQUEUE, or no rule of nftables' that leads to it", lane="kernels")
def nfqueue() -> bool:
    from prl.bindings.programs import queue_refusal  # noqa: PLC0415 - what is not built yet

    return not queue_refusal()


@probe("the kernel has no VRF devices (CONFIG_NET_VRF)", lane="kernels")
def vrf() -> bool:
    make = "ip link add probe type vrf table 100"
    return _works("unshare", "--net", "sh", "-c", make)


@probe("the kernel has no VLAN devices (CONFIG_VLAN_8021Q)", lane="kernels")
def vlan() -> bool:
    make = "ip link add below type veth && ip link add link below name probe type vlan id 5"
    return _works("unshare", "--net", "sh", "-c", make)


@probe("the kernel has no bonds (CONFIG_BONDING)", lane="kernels")
def bonding() -> bool:
    return _works("unshare", "--net", "ip", "link", "add", "probe", "type", "bond")


@probe("the kernel has no br_netfilter (CONFIG_BRIDGE_NETFILTER)", lane="kernels")
def br_netfilter() -> bool:
    return Path("/proc/sys/net/bridge").exists() or _works("modprobe", "-n", "br_netfilter")


@probe("the kernel has no netem (CONFIG_NET_SCH_NETEM)", lane="kernels")
def netem() -> bool:
    return _works("unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem")


@probe("AF_XDP takes no packet longer than a frame (Linux 6.6 does)", lane="kernels")
def long_packets() -> bool:
    return in_btf(MULTI_BUFFER)


@probe("the kernel does not let BPF programs be a TCP congestion control", lane="kernels")
def struct_ops() -> bool:
    # The wrapper type is in the kernel's BTF exactly when bpf_tcp_ca.c is built in.
    wrapper = b"\0bpf_struct_ops_tcp_congestion_ops\0"
    try:
        return wrapper in KERNEL_BTF.read_bytes()
    except OSError:
        return False


@probe("the kernel has no MPTCP (CONFIG_MPTCP)", lane="kernels")
def mptcp() -> bool:
    try:
        socket.socket(proto=socket.IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


@probe("the kernel has no SO_PEEK_OFF for TCP (Linux 6.9 has)", lane="kernels")
def peek_off() -> bool:
    so_peek_off = 42  # Python has no name for it
    with socket.socket() as sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, so_peek_off)
        except OSError:
            return False
    return True


@probe("BIRD is not installed: apt-get install bird2")
def bird() -> bool:
    return _installed("bird")


@probe("FRR is not installed: apt-get install frr")
def frr() -> bool:
    return shutil.which("bgpd", path="/usr/lib/frr") is not None  # OpenBGPD has another one


@probe("GoBGP is not installed: apt-get install gobgpd")
def gobgp() -> bool:
    return _installed("gobgpd") and _installed("gobgp")


@probe("OpenBGPD is not installed: apt-get install openbgpd")
def openbgpd() -> bool:
    return _installed("bgpctl")


@probe("keepalived is not installed: apt-get install keepalived")
def keepalived() -> bool:
    return _installed("keepalived")


@probe("etcd is not installed: apt-get install etcd-server")
def etcd() -> bool:
    return _installed("etcd")


@probe("Pacemaker is not installed: make apt-test")
def pacemaker() -> bool:
    return all(map(_installed, ("corosync", "pacemakerd", "crm_resource", "crm", "ocf-tester")))


@probe("no prometheus; apt-get install prometheus")
def prometheus() -> bool:
    return _installed("prometheus") and _installed("promtool")


@probe("spin is not installed: apt-get install spin gcc")
def spin() -> bool:
    return _installed("spin") and _installed("gcc")


@probe("curl is not installed: apt-get install curl")
def curl() -> bool:
    return _installed("curl")


@probe("socat is not installed: apt-get install socat")
def socat() -> bool:
    return _installed("socat")


@probe("redis is not installed: apt-get install redis-server")
def redis() -> bool:
    return _installed("redis-server")


@probe("tshark with Lua is not installed: apt-get install tshark")
def tshark() -> bool:
    return _works("tshark", "-X", f"lua_script:{os.devnull}", "--version")


@probe("bpftool is not installed: apt-get install bpftool")
def bpftool() -> bool:
    return _installed("bpftool")


@probe("iptables is not installed: apt-get install iptables")
def iptables() -> bool:
    return _installed("iptables-save")


@probe("nft is not installed: apt-get install nftables")
def nft() -> bool:
    return _installed("nft")


@probe("nftables has no expression `queue` of its own (CONFIG_NFT_QUEUE)", lane="kernels")
def nft_queue() -> bool:
    chain = "type filter hook input priority 0; queue num 0;"
    return _works("unshare", "--net", "nft", f"table ip probe {{ chain some {{ {chain} }}; }}")


@probe("the carrier mirror keeps no input that it could feed again (docs/mirror.md)")
def kept_input() -> bool:
    from tests.system import support  # noqa: PLC0415 - it takes a lab, and so what is not built yet

    return support.MODE != "mirror"


@probe("QEMU for this machine's kind is not installed: make apt-kernels")
def qemu() -> bool:
    needed = ("qemu-system-x86_64", "busybox", "depmod", "zstd")
    return platform.machine() == "x86_64" and all(map(_installed, needed))


@probe("mmdebstrap is not installed: apt-get install mmdebstrap")
def mmdebstrap() -> bool:
    return _installed("mmdebstrap")


@probe("systemd is not installed: apt-get install systemd")
def systemd_analyze() -> bool:
    return _installed("systemd-analyze")


@probe("Vagrant is not installed: apt-get install vagrant", lane="vm")
def vagrant() -> bool:
    return _installed("vagrant")


@probe("Vagrant's libvirt provider is not installed: apt-get install vagrant-libvirt", lane="vm")
def vagrant_libvirt() -> bool:
    plugins = Path("/usr/share/rubygems-integration").glob("*/gems/vagrant-libvirt-*")
    return vagrant() and any(plugins)


@probe("lintian is not installed: apt-get install lintian")
def lintian() -> bool:
    return _installed("lintian")


@probe("zsh is not installed: apt-get install zsh")
def zsh() -> bool:
    return _installed("zsh")


@probe("fish is not installed: apt-get install fish")
def fish() -> bool:
    return _installed("fish")


@probe("Ruby is not installed: apt-get install ruby")
def ruby() -> bool:
    return _installed("ruby")


@probe("gcc has no address sanitizer: apt-get install gcc libasan8")
def asan() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int main(void) { return 0; }\n")
        return _works("gcc", "-fsanitize=address,undefined", str(source), "-o", f"{folder}/probe")


@probe("clang has no libFuzzer: make apt-fuzz")
def libfuzzer() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int LLVMFuzzerTestOneInput(void) { return 0; }\n")
        return _works("clang", "-fsanitize=fuzzer", str(source), "-o", f"{folder}/probe")


@probe("clang has no thread sanitizer that runs here: make apt-fuzz")
def tsan() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.c"), f"{folder}/probe"
        source.write_text("int main(void) { return 0; }\n")
        built = _works("clang", "-fsanitize=thread", str(source), "-o", program)
        return built and _works("setarch", "-R", program)


@probe("the tree is no git work tree: clone it")
def git() -> bool:
    return _works("git", "-C", str(Path(__file__).parent), "rev-parse", "--is-inside-work-tree")


@probe("the history lacks the last release: clone the tree as a whole", lane="clone")
def released() -> bool:
    _, commit = previous_build.released()
    return _works("git", "-C", str(Path(__file__).parent), "cat-file", "-e", f"{commit}^{{commit}}")


@probe("others than root may not read the tree: put it where nobody may go")
def readable_tree() -> bool:
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    return _works(*nobody, sys.executable, "-c", "import prl")


@probe("bcc or the kernel's headers are missing: make setup")
def bcc() -> bool:
    headers = Path("/lib/modules", platform.release(), "build")
    return importlib.util.find_spec("bcc") is not None and headers.exists()


@probe("this kernel has no tcx (Linux 6.6)", lane="kernels")
def tcx() -> bool:
    return in_btf(b"\0bpf_mprog_bundle\0")


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


def require(*names: str) -> None:
    """Skip the test that is running unless every named probe finds what it looks for.

    Raises:
        Missing: one of them does not; pytest skips the test.
        LookupError: there is no probe of such a name.
    """
    if absent := missing(names):
        raise Missing(absent)
