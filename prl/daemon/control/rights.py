"""What the control socket's clients may do (R28): root everything, its group what is configured.

A member of the group is a guest. Where guests may protect, each has its own sockets, programs and
endpoints only, by the rules of the kernel: a port that an ordinary user cannot bind cannot be
offered by one, and what somebody else offers is not taken from him.
"""

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from prl.errors import PrlError, UsageError

SESSIONS_MAX: Final = 256
"""Sessions that one connection of a guest may have protected …"""
APPLICATION_MAX_BYTES: Final = 4 << 20
"""… and application bytes that prld keeps for them."""
OFFERS_MAX: Final = 16
"""Endpoints that one connection of a guest may offer itself for."""
_FIRST_FREE_PORT: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class Right(enum.IntEnum):
    """Each includes those before it."""

    LOOK = 1
    PROTECT = 2
    STEER = 3


RIGHTS: Final[dict[str, Right]] = {
    **dict.fromkeys(
        ("status", "stats", "link_show", "flow_list", "flow_show", "events", "follow"), Right.LOOK
    ),
    **dict.fromkeys(
        (
            *("replicate", "replicate_process", "replicate_listen", "renew", "offer", "close"),
            *("abandon", "abort", "release", "committed", "reject"),
        ),
        Right.PROTECT,
    ),
    **dict.fromkeys(("flow_del", "flow_resync", "takeover", "switchover"), Right.STEER),
}
"""What each operation takes."""


class User(Protocol):
    """Whose a connection is."""

    uid: int
    is_guest: bool


class Kept(Protocol):
    """What of a session counts against a guest."""

    application: bytes


def require(user: User, operation: str, guests_may: Right) -> None:
    """Raises PrlError: the user may not do that."""
    if user.is_guest and RIGHTS[operation] > guests_may:
        raise PrlError(
            f"{operation}: only root may; it takes the right to {RIGHTS[operation].name.lower()}, "
            f"and the socket's group has that to {guests_may.name.lower()} (socket_group_may)"
        )


def require_port(user: User, port: int) -> None:
    """Raises PrlError: the user could not bind that port either."""
    if user.is_guest and port < (first := int(_FIRST_FREE_PORT.read_text())):
        raise PrlError(f"offer: only root may offer ports below {first}, as it alone may bind them")


def require_any_port(user: User) -> None:
    """Raises PrlError: some of them the user could not bind."""
    if user.is_guest:
        raise PrlError("offer: only root may offer itself for whatever local port; name the port")


def require_room(user: User, sessions: Iterable[Kept], more: bytes) -> None:
    """Raises PrlError: the guest's connection has as much as it may have."""
    if not user.is_guest:
        return
    there = list(sessions)
    if len(there) >= SESSIONS_MAX:
        raise PrlError(f"a connection of the socket's group has {SESSIONS_MAX} sessions at most")
    if sum(len(each.application) for each in there) + len(more) > APPLICATION_MAX_BYTES:
        raise PrlError(
            "the sessions of a connection of the socket's group have "
            f"{APPLICATION_MAX_BYTES} application bytes at most"
        )


def require_own(user: User, uids: frozenset[int], whose: str) -> None:
    """Raises UsageError: it runs, or could run, as somebody else than the user."""
    if user.is_guest and uids != {user.uid}:
        raise UsageError(f"{whose} is another user's; only root may have it replicated")
