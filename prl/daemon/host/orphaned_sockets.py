"""TCP sockets that must not go on, whoever holds them: ended through sock_diag(7) (SPEC L8, L9).

A prld that was killed leaves shadows behind that applications still hold; a node that lost a
service has connections on its address. Both are void: they may never speak, and a shadow of the
same session could not be made beside them. The reset that the kernel sends for each is swallowed
by the silence, so this is done while the address is silent. Their holders get ECONNABORTED.
"""

import re
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from prl.endpoint import Address, Side
from prl.errors import KernelError
from prl.kernel.sock_diag import ANY_STATE, CONGESTION, ESTABLISHED, LISTEN, SockDiag, TcpSocket

_SHADOW_CONGESTION = re.compile(r"prl_[0-9a-f]{8}")  # userspace/io/kernel.c, load_shadow()


def end_orphaned_shadows() -> int:
    """End what shadows a former life of prld has left; return how many. Raises KernelError."""
    return len(_end(lambda found: _SHADOW_CONGESTION.fullmatch(found.congestion) is not None))


def end_all_on(
    addresses: Iterable[Address], devices: frozenset[int] | None = None
) -> list[TcpSocket]:
    """End the connections of ``addresses``, no listener; return them. Raises KernelError.

    ``devices``: only of sockets that are bound to one of these (another routing instance has the
    same addresses).
    """
    silent = set(addresses)
    return _end(lambda found: found.local[0] in silent and _is_connection(found, devices))


def end_those(
    sessions: Collection[tuple[Side, Side]], devices: frozenset[int] | None = None
) -> list[TcpSocket]:
    """End the connections with these ends, own and peer's; return them. Raises KernelError."""
    wanted = frozenset(sessions)
    return _end(
        lambda found: (found.local, found.remote) in wanted and _is_connection(found, devices)
    )


def established_on(addresses: Collection[Address]) -> Counter[tuple[Address, int]]:
    """How many connections are established on each of ``addresses``. Raises KernelError.

    By the index of the device, too, that they are bound to, or 0.
    """
    try:
        with SockDiag() as diag:
            return Counter(
                (found.local[0], found.device)
                for found in _all(diag, 1 << ESTABLISHED)
                if found.local[0] in addresses
            )
    except OSError as error:
        raise KernelError(f"sockets cannot be counted: {error.strerror or error}") from error


def _is_connection(found: TcpSocket, devices: frozenset[int] | None) -> bool:
    return found.state != LISTEN and (devices is None or found.device in devices)


def _end(is_meant: Callable[[TcpSocket], bool]) -> list[TcpSocket]:
    try:
        with SockDiag() as diag:
            victims = [found for found in _all(diag) if is_meant(found)]
            return [victim for victim in victims if diag.end(victim)]
    except OSError as error:
        raise KernelError(
            f"sockets of a former life cannot be looked for: {error.strerror or error}; "
            "use a kernel with CONFIG_INET_TCP_DIAG and CONFIG_INET_DIAG_DESTROY"
        ) from error


def _all(diag: SockDiag, states: int = ANY_STATE) -> Iterator[TcpSocket]:
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from diag.sockets(family, states, CONGESTION)
