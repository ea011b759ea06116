"""A shadow on the standby: the same program on the same input, heard only after a take-over."""

import logging
from collections.abc import Sequence
from contextlib import suppress

from prl import tcp
from prl.client import Shadow
from prl.errors import PrlError
from prl.fate import Fate
from prl.serve.command import Command, describe_status
from prl.serve.conversation import converse
from prl.serve.inbound import Inbound
from prl.serve.outbound import HeldOutbound

_WORD_TIMEOUT_S = 1.0

_log = logging.getLogger("prl.serve")


def serve_shadow(shadow: Shadow, argv: Sequence[str], stop: int) -> None:
    """Run the program on what the shadow receives; after a take-over the session is its own.

    Args:
        shadow: a shadow that has not been read yet.
        argv: the program.
        stop: becomes readable when serving stops.
    """
    who = f"session with {shadow.remote}"
    _log.info("%s: standing by", who)
    fate = Fate(shadow)
    try:
        with Command(argv) as command:
            _stand_by(shadow, command, fate, who, stop)
    except (OSError, PrlError) as error:
        # A shadow that is void breaks before prld's word of it comes.
        if fate.wait(_WORD_TIMEOUT_S) and fate.takeover is None:
            _log.info("%s: the shadow is not needed any more: %s", who, fate.reason)
        else:
            _log.warning("%s: %s", who, error)
    finally:
        shadow.close()
        fate.close()


def _stand_by(shadow: Shadow, command: Command, fate: Fate, who: str, stop: int) -> None:
    sock = shadow.sock
    sock.setblocking(False)
    inbound = Inbound(sock.fileno(), command)
    outbound = HeldOutbound(command, sock)

    def decided() -> bool:
        if fate.takeover is None:
            _log.info("%s: the shadow is not needed any more: %s", who, fate.reason)
            return True
        _log.warning("%s: taken over, going on at byte %d", who, fate.takeover.out_bytes)
        outbound.take_over(shadow.sock, fate.takeover.out_bytes)
        with suppress(PrlError):  # the program on the other node could not join in now
            shadow.session.unprotect()
        return False

    status = converse(command, inbound, outbound, {stop: lambda: True, fate.descriptor: decided})
    if status is None:
        return
    tcp.finish(shadow.sock)
    if status:
        _log.error("%s: the program %s: the session ends", who, describe_status(status))
    else:
        _log.info("%s: ended", who)
