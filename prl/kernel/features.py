"""What this kernel and an interface's driver can do, found out by looking (SPEC R24)."""

import array
import fcntl
import socket
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

Mode = Literal["native", "generic", "kernel", "mirror"]
"""Who captures: XDP in the driver or the stack; or tc ingress, and packets wait in the kernel."""
BTF = Path("/sys/kernel/btf/vmlinux")
_READ_BYTES = 16 << 20
MULTI_BUFFER = b"\0xdp_zc_max_segs\0"  # struct net_device's, since AF_XDP knows packets of frames
_SIOCETHTOOL, _ETHTOOL_GDRVINFO, _DRVINFO_BYTES = 0x8946, 0x3, 196
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
# linux/ethtool.h: a device's features by name, then struct ethtool_gfeatures
_GSSET_INFO, _GSTRINGS, _GFEATURES = 0x37, 0x1B, 0x3A
_SET_OF_FEATURES, _STRING_BYTES, _BLOCK_BITS = 4, 32, 32

WHOLE_PACKETS: Final = frozenset({"veth"})
"""Drivers of whole TSO packets, which native XDP makes the sender cut (docs/performance.md)."""
WHOLE_WITHOUT_XDP: Final = frozenset({"virtio_net"})
"""Drivers of whole packets for whom XDP of either kind switches that off (rx-gro-hw)."""
NO_NATIVE: Final = frozenset(
    {"bridge", "802.1Q VLAN Support", "macvlan", "ipvlan", "bonding", "team"}
)
"""Interfaces on top of others. A bond takes a program and has its ports run it, as whose frames prl
lets them pass; AF_XDP, given them, would drop them (net/xdp/xsk.c, xsk_rcv_check)."""
INSTEAD_OF_NATIVE: Final = 'mode = "auto" takes the carrier "kernel" then, or generic XDP'
FRAME_MTU_MAX: Final = 3818
"""Fits into a frame of PRL_DP_FRAME_BYTES behind XDP_PACKET_HEADROOM, Ethernet and two tags."""


class Offload(NamedTuple):
    """A feature of a device, as `ethtool -k` has it."""

    active: bool
    fixed: bool


@lru_cache(16)  # so many megabytes for each look
def in_btf(name: bytes) -> bool:
    """Whether the kernel's type information has these bytes."""
    try:
        with BTF.open("rb") as file:
            return name in file.read(_READ_BYTES)
    except OSError:
        return False


def ethtool(interface: str, question: "array.array[int]") -> bool:
    """Put an ETHTOOL_G… command, the answer is left in its place; False: the driver has none.

    In the caller's network namespace, unlike /sys, which may show another one's interfaces.
    """
    request = struct.pack("16sP16x", interface.encode(), question.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError:
            return False
    return True


def driver(interface: str) -> str:
    """The name of its driver (struct ethtool_drvinfo); "" if it has none or is not there."""
    drvinfo = array.array("B", struct.pack("I", _ETHTOOL_GDRVINFO).ljust(_DRVINFO_BYTES, b"\0"))
    if not ethtool(interface, drvinfo):
        return ""
    return drvinfo.tobytes()[4:36].partition(b"\0")[0].decode("ascii", "replace")


def offloads(interface: str) -> dict[str, Offload]:
    """The features of an interface by their names; none if it has no driver."""
    count = array.array("I", (_GSSET_INFO, 0, 1 << _SET_OF_FEATURES, 0, 0))
    if not ethtool(interface, count) or not (features := count[4]):
        return {}
    strings = array.array("B", struct.pack("III", _GSTRINGS, _SET_OF_FEATURES, features))
    strings.frombytes(bytes(features * _STRING_BYTES))
    blocks = -(-features // _BLOCK_BITS)
    found = array.array("I", (_GFEATURES, blocks, *[0] * (4 * blocks)))
    if not (ethtool(interface, strings) and ethtool(interface, found)):
        return {}
    names = strings.tobytes()[12:]

    def is_set(number: int, word: int) -> bool:
        block, bit = divmod(number, _BLOCK_BITS)
        return bool(found[2 + 4 * block + word] >> bit & 1)

    available, _, active, never_changed = range(4)
    return {
        names[at * _STRING_BYTES :][:_STRING_BYTES]
        .partition(b"\0")[0]
        .decode("ascii", "replace"): (
            Offload(is_set(at, active), not is_set(at, available) or is_set(at, never_changed))
        )
        for at in range(features)
    }


def mtu(interface: str) -> int:
    """Its MTU; 0 if it is not there. In the caller's network namespace, as ``ethtool``."""
    request = struct.pack("16sI20x", interface.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            (found,) = struct.unpack_from("I", fcntl.ioctl(sock, _SIOCGIFMTU, request), 16)
        except OSError:
            return 0
    return int(found)


def hardware_address(interface: str) -> bytes:
    """Its MAC address; six zeros if it is not there. In the caller's namespace, as ``ethtool``."""
    request = struct.pack("16s24x", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            found: bytes = fcntl.ioctl(sock, _SIOCGIFHWADDR, request)
        except OSError:
            return bytes(6)
    return found[18:24]


def best_mode(interfaces: Sequence[str], no_queue: str) -> tuple[Mode, str]:
    """The mode that suits all of them best, and why; of native XDP the driver decides.

    ``no_queue`` is why packets cannot wait in this kernel, "" if they can. Where native XDP does
    not suit, that is best, and otherwise generic XDP, unless ``no_generic`` says no.
    """
    whole: Mode = "generic" if no_queue else "kernel"
    drivers = {name: driver(name) for name in interfaces}
    if refusal := no_native(interfaces):
        return whole, refusal
    if no_queue and not in_btf(MULTI_BUFFER):
        return "native", "this kernel's AF_XDP takes no packet of several frames (Linux 6.6 does)"
    for name, found in drivers.items():
        if found in WHOLE_PACKETS:
            return whole, f"{name} ({found}) hands over whole TSO packets, native XDP cuts them"
        if found in WHOLE_WITHOUT_XDP and not no_queue:
            return whole, f"{name} ({found}) hands over whole packets, single frames with XDP"
    names = ", ".join(drivers)
    return "native", f"with XDP in it, the driver of {names} hands over single frames"


def no_native(interfaces: Sequence[str]) -> str:
    """Why native XDP cannot capture on one of them, whatever it says; "" if its driver decides."""
    for name in interfaces:
        if (found := driver(name)) in NO_NATIVE:
            return f"{name} ({found}) has no native XDP"
    return ""


def no_generic(interfaces: Sequence[str]) -> str:
    """Why generic XDP would lose packets on one of them, and what to do; "" if it would not.

    Before Linux 6.6 AF_XDP drops every packet that is longer than a frame of its memory
    (net/xdp/xsk.c, xsk_rcv_check). Generic XDP comes behind GRO, so most are.
    """
    if in_btf(MULTI_BUFFER):
        return ""
    for name in interfaces:
        if why := _is_given_long_packets(name):
            return (
                f"generic XDP on {name} would lose packets: {why} "
                "(from Linux 6.6 on AF_XDP takes packets longer than a frame)"
            )
    return ""


def _is_given_long_packets(interface: str) -> str:
    """Why, and what to do; generic XDP itself switches off what the driver gathers, if it can."""
    name = driver(interface)
    if name in WHOLE_PACKETS:
        return f'{name} hands over whole TSO packets; use mode = "kernel" or "native"'
    if name in NO_NATIVE:
        return f'{name} hands over what the interface below has gathered; use mode = "kernel"'
    if (found_bytes := mtu(interface)) > FRAME_MTU_MAX:
        return f"its MTU is {found_bytes}; `ip link set {interface} mtu {FRAME_MTU_MAX}`"
    found = offloads(interface)
    if any(found[each].active for each in ("rx-gro", "rx-lro") if each in found):
        return f"received segments are gathered; `ethtool -K {interface} gro off lro off`"
    if "rx-gro-hw" in found and found["rx-gro-hw"].active and found["rx-gro-hw"].fixed:
        return "its host gathers segments, which cannot be switched off; do so in the host"
    return ""
