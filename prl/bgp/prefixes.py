"""Prefixes as BGP writes them: a length in bits, then as many octets as that needs."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from prl.bgp.errors import BgpError, Code

Prefix = IPv4Network | IPv6Network
_INVALID_NETWORK_FIELD = 10  # RFC 4271 section 6.3
_BITS = {4: 32, 6: 128}


def encode(prefixes: Iterable[Prefix]) -> bytes:
    """The prefixes in the form of RFC 4271 section 4.3."""
    encoded = bytearray()
    for prefix in prefixes:
        encoded.append(prefix.prefixlen)
        encoded += prefix.network_address.packed[: (prefix.prefixlen + 7) // 8]
    return bytes(encoded)


def decode(data: bytes, version: int) -> list[Prefix]:
    """Read prefixes of IP ``version`` to the end of ``data``; host bits are cleared.

    Raises:
        BgpError: a length is impossible or octets are missing.
    """
    found: list[Prefix] = []
    at = 0
    while at < len(data):
        bits = data[at]
        octets = (bits + 7) // 8
        at += 1
        if bits > _BITS[version] or at + octets > len(data):
            raise BgpError(Code.UPDATE, _INVALID_NETWORK_FIELD, f"bad prefix length {bits}")
        address = data[at : at + octets].ljust(_BITS[version] // 8, b"\0")
        network = IPv4Network if version == 4 else IPv6Network  # noqa: PLR2004 - the version of IP
        found.append(network((address, bits), strict=False))
        at += octets
    return found
