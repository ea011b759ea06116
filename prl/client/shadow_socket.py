"""A shadow as its application has it: only to be read until it is taken over (SPEC R18)."""

import contextlib
import select
import socket
from dataclasses import dataclass
from typing import Any

from prl.endpoint import ANY_PEER
from prl.errors import PrlError


class ShadowVoid(PrlError):  # noqa: N818
    """The shadow is of no use any more; the message says why."""


class ShadowNotOwned(PrlError, PermissionError):  # noqa: N818
    """A shadow can only be read until it is taken over (SPEC R18)."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """The session is this application's from now on."""

    out_bytes: int
    """How much output since the session was first protected the peer has had, or will get from the
    socket itself."""
    monotonic_ns: int
    """When, CLOCK_MONOTONIC."""
    out_hash: int = 0
    """As Committed.out_hash, of all of it."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What the owner's application has said for good: the peer has it, or gets it without it."""

    out_bytes: int
    """How much output, since the session was first protected."""
    out_hash: int
    """CRC-32 (zlib's) of what came since this shadow's snapshot (Shadow.out_bytes); only of a
    session whose application bytes are an input history (prl.control.input_history), else 0."""


class ShadowSocket(socket.socket):
    """Everything that would enter the stream fails until it is owned."""

    owned = False
    ended = False

    def end_udp(self) -> None:
        """Wake who reads datagrams: prld, which ends a void socket otherwise, is gone."""
        if self.type == socket.SOCK_DGRAM and not self.owned:
            self.ended = True
            with contextlib.suppress(OSError):  # ENOTCONN without a peer: it is ended all the same
                super().shutdown(socket.SHUT_RDWR)

    def is_live_udp(self, remote: str) -> bool:
        """Whether it is a UDP socket that can receive, ``remote`` being the shadow's.

        prld takes its peer away from a void one, and shuts it down.
        """
        if self.type != socket.SOCK_DGRAM or self.ended:
            return False
        if remote == ANY_PEER:
            poll = select.poll()
            poll.register(self, 0)  # POLLHUP is always told (datagram_poll, datagram.c)
            return not any(events & select.POLLHUP for _, events in poll.poll(0))
        try:
            self.getpeername()
        except OSError:
            return False
        return True

    def _require_owned(self) -> None:
        if not self.owned:
            raise ShadowNotOwned("this shadow is not taken over: it can only be read")

    def send(self, *args: Any, **kwargs: Any) -> int:
        """As socket.send(). Raises ShadowNotOwned."""
        self._require_owned()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        """As socket.sendall(). Raises ShadowNotOwned."""
        self._require_owned()
        super().sendall(*args, **kwargs)

    def sendto(self, *args: Any, **kwargs: Any) -> int:
        """As socket.sendto(). Raises ShadowNotOwned."""
        self._require_owned()
        return super().sendto(*args, **kwargs)

    def sendmsg(self, *args: Any, **kwargs: Any) -> int:
        """As socket.sendmsg(). Raises ShadowNotOwned."""
        self._require_owned()
        return super().sendmsg(*args, **kwargs)

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        """As socket.sendfile(). Raises ShadowNotOwned."""
        self._require_owned()
        return super().sendfile(*args, **kwargs)

    def shutdown(self, how: int) -> None:
        """As socket.shutdown(). Raises ShadowNotOwned."""
        self._require_owned()
        super().shutdown(how)
