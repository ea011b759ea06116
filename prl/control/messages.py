"""The control socket's messages, as prld, prl.client and prlctl share them (docs/control.md)."""

import os
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
HANDLE_MAX: Final = 0xFFFFFFFF
SCHEMA: Final = 1
"""Version of the facts in answers and in ``prlctl -j``."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])


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
