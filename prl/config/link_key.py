"""The pair key: what both nodes have and nobody else (docs/link-security.md).

A file with one key a line, 64 hexadecimal digits. The first one is what this node shows; any of
them is accepted, so that two stand in it while the key is changed.
"""

import os
import secrets
from pathlib import Path

from prl.config import private
from prl.errors import ConfigError

KEY_BYTES = 32  # PRL_TLS_KEY_BYTES
KEYS_MAX = 2  # PRL_TLS_KEYS_MAX
NAME = "link.key"


def add(path: Path) -> list[bytes]:
    """Make a new key, readable by its owner alone: the only one, or the second one of the file.

    Returns:
        The keys that the file has now.

    Raises:
        ConfigError: the file cannot be used, or has two keys already.
        OSError: it cannot be written.
    """
    keys = load(path) if path.exists() else []
    if len(keys) == KEYS_MAX:
        raise ConfigError(
            f"link.key {path}: has {KEYS_MAX} keys already; when both nodes have them, remove the "
            "first line on both"
        )
    keys.append(secrets.token_bytes(KEY_BYTES))
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.writelines(f"{key.hex()}\n" for key in keys)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return keys


def load(path: Path) -> list[bytes]:
    """The keys in the file, the one that is shown first.

    Raises:
        ConfigError: there is no such file, others may read it, or it has no key.
    """
    remedy = "copy it from the other node, or make one there with `prlctl link new-key`"
    lines = private.read(path, "link.key", remedy).split()
    try:
        keys = [bytes.fromhex(line.decode("ascii")) for line in lines]
    except ValueError:
        keys = []
    if not 1 <= len(keys) <= KEYS_MAX or any(len(key) != KEY_BYTES for key in keys):
        raise ConfigError(
            f"link.key {path}: must have one line of {2 * KEY_BYTES} hexadecimal digits, or two "
            "while the key is changed; copy it from the other node"
        )
    return keys
