"""Frames of the LAN, for who asks there and listens for answers."""

import socket
from collections.abc import Iterator
from typing import Final

from prl.errors import KernelError

ETH_P_ALL: Final = 0x0003
ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
ETH_P_IPV6: Final = 0x86DD
ETH_BYTES: Final = 14
ARP_BYTES: Final = 28
ND_BYTES: Final = 64
"""IPv6 and a neighbour solicitation or advertisement, without options."""
_FRAMES_MAX = 64  # read at a time
_FRAME_BYTES = 128


def listen(interface: str) -> socket.socket:
    """All frames that come to an interface from now on. Raises KernelError."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except OSError as error:
        raise KernelError(f"no packet socket for address probes: {error.strerror}") from error
    try:
        # Only frames from now on: the protocol takes effect with bind().
        sock.bind((interface, ETH_P_ALL))
    except OSError as error:
        sock.close()
        raise KernelError(f"{interface}: cannot be probed: {error.strerror}; is it up?") from error
    return sock


def waiting(sock: socket.socket) -> Iterator[bytes]:
    """The heads of those that wait; of very many, the first."""
    for _ in range(_FRAMES_MAX):
        try:
            yield sock.recv(_FRAME_BYTES)
        except OSError:
            return
