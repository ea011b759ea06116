"""The control socket's messages, as prld, prl.client and prlctl share them (docs/control.md)."""

import contextlib
import os
import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

import msgspec

from prl.errors import UsageError

MESSAGE_MAX_BYTES: Final = 64 << 10
APPLICATION_MAX_BYTES: Final = 1 << 20
"""Most opaque data that an application may send along with a socket."""
REQUESTS_MAX: Final = 64
"""Requests of one client that may be under way."""
RUN_DIR: Final = Path("/run/prl")
DEFAULT_SOCKET: Final = RUN_DIR / "prld.sock"
SOCKET_VARIABLE: Final = "PRL_SOCKET"
PORT_MAX: Final = 0xFFFF
ANY_PEER: Final = "*"
"""What is written for the peer of a UDP socket that is not connected."""
SCHEMA: Final = 1
"""Version of the facts in answers and in ``prlctl -j``."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^:\[\]]+)):(?P<port>\d{1,5})")


HANDLE_MAX: Final = 0xFFFFFFFF


class MessageError(UsageError):
    """Something that is no message of the control socket."""


def default_socket() -> Path:
    """The control socket that a program means when it names none."""
    return Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)


def node_socket(lab: str, node: str) -> Path:
    """The control socket of a lab's node."""
    return RUN_DIR / lab / f"{node}.sock"


def encode(message: dict[str, Any]) -> bytes:
    """One message. Raises MessageError when it is too long."""
    raw = _encoder.encode(message)
    if len(raw) > MESSAGE_MAX_BYTES:
        raise MessageError(f"a message of {len(raw)} bytes exceeds {MESSAGE_MAX_BYTES}")
    return raw


def decode(raw: bytes) -> dict[str, Any]:
    """The JSON object in one message. Raises MessageError."""
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"not a JSON object: {error}") from error


def parse_endpoint(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Address and port of ``192.0.2.100:7000`` or ``[2001:db8::100]:7000``. Raises UsageError."""
    match = _ENDPOINT.fullmatch(text)
    address: IPv4Address | IPv6Address | None = None
    if match:
        with contextlib.suppress(ValueError):
            address = IPv6Address(match["v6"]) if match["v6"] else IPv4Address(match["v4"])
    if match is None or address is None or not 0 < int(match["port"]) <= PORT_MAX:
        raise UsageError(
            f"bad endpoint {text!r:.100}: write ADDRESS:PORT, an IPv6 address in brackets"
        )
    return address, int(match["port"])


def show_endpoint(address: IPv4Address | IPv6Address, port: int) -> str:
    """The inverse of parse_endpoint()."""
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"
