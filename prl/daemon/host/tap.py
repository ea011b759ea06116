"""The TAP devices through which packets leave and enter the datapath (tun(4), if_tun.h)."""

import errno
import fcntl
import os
import struct

from prl.errors import KernelError

INJECT = "prlinj0"
"""Packets that the datapath writes here appear on the interface they came from."""
HOLD = "prlhold0"
"""Output that is held; written back when it may leave."""

_TUNSETIFF = 0x400454CA
_TUNSETSNDBUF = 0x400454D4
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 1, 2, 4
_INT_MAX = 2**31 - 1


def create(name: str) -> int:
    """Make the TAP ``name``, which lives as long as the descriptor that is returned.

    Raises:
        KernelError: there is no tun driver, no permission, or the device is in use.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(
            f"/dev/net/tun: {error.strerror}; load the tun module and run as root"
        ) from error
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        # Whole GSO packets go through (FACTS: keeps TSO); what we write must never wait.
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6)
        fcntl.ioctl(fd, _TUNSETSNDBUF, struct.pack("i", _INT_MAX))
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            words = "another prld runs in this network namespace; stop that first"
            raise KernelError(f"TAP {name}: {words}") from error
        raise KernelError(f"TAP {name}: {error.strerror}; run as root") from error
    return fd
