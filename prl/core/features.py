"""What this kernel and an interface's driver can do, found out by looking (SPEC R24)."""

import array
import fcntl
import socket
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

Mode = Literal["native", "generic"]
BTF = Path("/sys/kernel/btf/vmlinux")
_READ_BYTES = 16 << 20
MULTI_BUFFER = b"\0xdp_zc_max_segs\0"  # struct net_device's, since AF_XDP knows packets of frames
_SIOCETHTOOL, _ETHTOOL_GDRVINFO, _DRVINFO_BYTES = 0x8946, 0x3, 196

WHOLE_PACKETS: Final = frozenset({"veth", "virtio_net"})
"""Drivers of whole TSO packets, which native XDP makes them cut (docs/performance.md)."""
NO_NATIVE: Final = frozenset({"bridge", "802.1Q VLAN Support", "macvlan", "ipvlan"})
"""Interfaces on top of others."""


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


def xdp_mode(interfaces: Sequence[str]) -> tuple[Mode, str]:
    """Where XDP should run on all of them, and why."""
    drivers = {name: driver(name) for name in interfaces}
    for name, found in drivers.items():
        if found in NO_NATIVE:
            return "generic", f"{name} ({found}) has no native XDP"
    if not in_btf(MULTI_BUFFER):
        return "native", "this kernel's AF_XDP takes no packet of several frames (Linux 6.6 does)"
    for name, found in drivers.items():
        if found in WHOLE_PACKETS:
            return "generic", f"{name} ({found}) hands over whole TSO packets, native XDP cuts them"
    return "native", f"the driver of {', '.join(drivers)} receives single frames in any case"
