"""The compiled extension, or a clear word that it is not there."""

from typing import Any

from prl.errors import KernelError

try:
    from prl._core import ffi as _ffi
    from prl._core import lib as _lib
except ImportError as error:
    raise KernelError(
        f"the C datapath cannot be loaded ({error}); build it with `make setup`"
    ) from error

ffi: Any = _ffi
"""cffi's memory and casts."""
lib: Any = _lib
"""The functions and constants of userspace/*.h."""


def text_of(pointer: Any) -> str:
    """The NUL-terminated C string at ``pointer``; empty for NULL."""
    if pointer == ffi.NULL:
        return ""
    return bytes(ffi.string(pointer)).decode("utf-8", "replace")


def to_dict(struct: Any) -> dict[str, int]:
    """The scalar members of a C struct, by name (counters)."""
    return {
        name: int(getattr(struct, name))
        for name, field in ffi.typeof(struct).fields
        if field.type.kind == "primitive" and not name.startswith("pad")
    }
