"""Memory that is never paged out."""

import ctypes

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # asm-generic/mman.h


def lock() -> None:
    """Nothing that this process has touched is paged out: it would look dead while it is read."""
    flags = _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT
    ctypes.CDLL(None).mlockall(flags)  # where it may not, it is as good as before
