"""Files with secrets: nobody but root may have read them, or have written them."""

import os
import stat
from pathlib import Path

from prl.errors import ConfigError

FILE_MAX_BYTES = 4096


def read(path: Path, key: str, remedy: str) -> bytes:
    """What is in the file, as far as FILE_MAX_BYTES.

    Args:
        path: its place.
        key: of the configuration, which names it.
        remedy: what to do when it is not there.

    Raises:
        ConfigError: there is no such file, or others may read or write it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{key} {path}: {error.strerror}; {remedy}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{key} {path}: is no regular file; name one")
        if found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}:
            raise ConfigError(
                f"{key} {path}: others than its owner may read or write it, or it is not "
                f"root's; run: chown root: {path} && chmod 600 {path}, and make a new one if "
                "somebody may have seen it"
            )
        return os.read(fd, FILE_MAX_BYTES)
    finally:
        os.close(fd)
