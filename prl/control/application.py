"""An application's opaque bytes on their way through the control socket (docs/control.md).

Few of them are in the message itself; more come as a memfd, the last of its descriptors.
"""

import base64
import binascii
import os
from typing import Any, Final

from prl.control.messages import APPLICATION_MAX_BYTES
from prl.errors import UsageError

INLINE_MAX_BYTES: Final = 32 << 10
"""Up to here in the message; it has room for 64 KiB, and base64 takes a third."""


def pack(data: bytes) -> tuple[dict[str, Any], list[int]]:
    """The members of a message that carry ``data``, and descriptors to send along and close.

    Raises:
        UsageError: it is too much.
    """
    if len(data) > APPLICATION_MAX_BYTES:
        raise UsageError(f"{len(data)} bytes of application data; at most {APPLICATION_MAX_BYTES}")
    if len(data) <= INLINE_MAX_BYTES:
        return {"application": base64.b64encode(data).decode()}, []
    memory = os.memfd_create("prl-application", os.MFD_CLOEXEC)
    try:
        os.truncate(memory, len(data))
        os.pwrite(memory, data, 0)
    except BaseException:
        os.close(memory)
        raise
    return {"application_bytes": len(data)}, [memory]


def unpack(message: dict[str, Any], fds: list[int]) -> bytes:
    """What pack() packed; takes its descriptor off ``fds``, and closes it.

    Raises:
        UsageError: it is too much, or is not there as the message says.
    """
    count = message.get("application_bytes")
    if count is None:
        return _decode(message.get("application", ""))
    if not isinstance(count, int) or not 0 <= count <= APPLICATION_MAX_BYTES:
        raise UsageError(
            f"{count!r:.20} bytes of application data; at most {APPLICATION_MAX_BYTES}"
        )
    if not fds:
        raise UsageError("'application_bytes' without a descriptor that has them")
    memory = fds.pop()
    try:
        data = os.pread(memory, count, 0)
    except OSError as error:
        raise UsageError(f"the application data cannot be read: {error.strerror}") from error
    finally:
        os.close(memory)
    if len(data) != count:
        raise UsageError(f"{count} bytes of application data were announced, {len(data)} are there")
    return data


def _decode(text: object) -> bytes:
    if not isinstance(text, str):
        raise UsageError("'application' must be a string")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"'application' is not base64: {error}") from error
    if len(data) > INLINE_MAX_BYTES:
        raise UsageError(
            f"{len(data)} bytes in 'application', at most {INLINE_MAX_BYTES}: send a memfd, "
            "with 'application_bytes'"
        )
    return data
