"""What packets need that prld makes itself."""

import socket

from prl.bindings.native import ffi, lib


def internet_checksum(data: bytes) -> int:
    """RFC 1071, to be stored in network order."""
    return socket.ntohs(lib.prl_internet_checksum(ffi.from_buffer(data), len(data)))
