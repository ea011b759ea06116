"""Asking a front how it is."""

import json
import socket
from typing import Any

from prl.errors import NoDaemonError

ANSWER_TIMEOUT_S = 5.0
ANSWER_MAX_BYTES = 1 << 20
_READ_BYTES = 1 << 16


def ask(path: str) -> dict[str, Any]:
    """What the front on that socket says of itself. Raises NoDaemonError."""
    raw = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        try:
            sock.connect(path)
            while len(raw) <= ANSWER_MAX_BYTES and (data := sock.recv(_READ_BYTES)):
                raw += data
            found: dict[str, Any] = json.loads(raw)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
            raise NoDaemonError(
                f"no prl-bgp answers on {path}: {why}; start it, or name its file with --config"
            ) from error
    return found
