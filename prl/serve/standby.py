"""A shadow on the standby: the same program on the same input, heard only after a take-over."""

import logging
from collections.abc import Callable
from contextlib import suppress

from prl.client import Shadow, tcp
from prl.control import input_history
from prl.errors import PrlError
from prl.serve.command import Command, describe_status
from prl.serve.conversation import converse
from prl.serve.cutoff import OutputDiffersError
from prl.serve.history import History
from prl.serve.inbound import Inbound
from prl.serve.options import Options
from prl.serve.outbound import HeldOutbound
from prl.serve.protection import Protection

_log = logging.getLogger("prl.serve")


def serve_shadow(shadow: Shadow, options: Options, stop: int) -> bool:
    """Run the program on what the session receives; after a take-over the session is its own.

    Args:
        shadow: a shadow that has not been read yet; closed on return.
        options: the program, and limits.
        stop: becomes readable when serving stops.

    Returns:
        False if the program gave other output than the owner's.
    """
    who = f"session with {shadow.remote}"
    try:
        before = input_history.unpack(shadow.application)
        if before is None or len(before) < shadow.in_bytes:
            _refuse(shadow, who, before)
            return True
        # An unchanged program's history may hold what it has not read yet: the shadow has that.
        before = before[: shadow.in_bytes]
        with Command(options.argv, who) as command:
            return _Standby(shadow, command, options, who).run(before, stop)
    except (OSError, PrlError) as error:
        # A shadow that is void breaks before prld's word of it comes.
        _log.warning("%s: %s", who, shadow.void_reason or tcp.why_ended(error))
        return True
    finally:
        shadow.close()


def _refuse(shadow: Shadow, who: str, before: bytes | None) -> None:
    if before is None:
        words = "its application on the other node is no `prlctl serve`"
    else:
        words = (
            f"it is under way already: its program has had {shadow.in_bytes} bytes of input, of "
            f"which {len(before)} are known here, and a program can only begin with the first"
        )
    _log.warning("%s: not taken: %s", who, words)
    shadow.reject("mid_stream", words)


class _Standby:
    """One shadow, its program, and what becomes of both."""

    def __init__(self, shadow: Shadow, command: Command, options: Options, who: str) -> None:
        self._shadow, self._command, self._who = shadow, command, who
        self._history = History(options.history_bytes)
        self._outbound = HeldOutbound(command, shadow.out_bytes, self._committed)
        self._watchers: dict[int, Callable[[], bool]] = {}

    def run(self, before: bytes, stop: int) -> bool:
        """Serve to the end; False if the program is not the owner's equal."""
        shadow, command = self._shadow, self._command
        _log.info("%s: standing by, from byte %d of the input on", self._who, shadow.in_bytes)
        shadow.sock.setblocking(False)
        self._watchers |= {
            stop: lambda: True,
            shadow.descriptor: self._look,
            command.pidfd: self._on_exit,
        }
        inbound = Inbound(shadow.sock.fileno(), command, self._history, before)
        try:
            status = converse(command, inbound, self._outbound, self._watchers)
        except OutputDiffersError as error:
            _log.error("%s: %s", self._who, error)
            if shadow.owned:
                shadow.session.abort(str(error))
            else:
                shadow.reject("output_differs", str(error))
            return False
        self._end(status)
        return True

    def _look(self) -> bool:
        """Prld has said something of the shadow."""
        shadow = self._shadow
        shadow.clear()
        if shadow.takeover is None:
            if shadow.void_reason is None:
                return False
            _log.info("%s: the shadow is not needed any more: %s", self._who, shadow.void_reason)
            return True
        del self._watchers[shadow.descriptor]
        taken = shadow.takeover
        _log.warning("%s: taken over, going on at byte %d", self._who, taken.out_bytes)
        self._outbound.take_over(shadow.sock, taken.out_bytes, taken.out_hash)
        protection = Protection(shadow.session, self._history, self._who)
        self._watchers[protection.descriptor] = protection.step
        return False

    def _committed(self) -> tuple[int, int]:
        """How far the owner's output is, and its hash; nowhere, once this is no shadow."""
        try:
            now = self._shadow.committed()
        except PrlError:
            return 0, 0  # its fate is on the way to us
        return now.out_bytes, now.out_hash

    def _on_exit(self) -> bool:
        """The program has ended; while it only stands by, it must not have failed."""
        del self._watchers[self._command.pidfd]
        status = self._command.status()
        if not status or self._shadow.owned:
            return False
        _log.error("%s: the program %s: not stood by", self._who, describe_status(status))
        return True

    def _end(self, status: int | None) -> None:
        shadow = self._shadow
        if not shadow.owned:
            return
        if status == 0:
            tcp.finish(shadow.sock)
            _log.info("%s: ended", self._who)
            return
        with suppress(PrlError):  # it has ended, or is the other node's
            is_safe = shadow.session.state == "active"
            shadow.session.abandon()
            if status is not None:
                fate = "the other node goes on if it can" if is_safe else "the session ends"
                _log.error("%s: the program %s: %s", self._who, describe_status(status), fate)
