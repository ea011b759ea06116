"""One connection's program from its start to its end: the same loop on owner and standby."""

import select
from collections.abc import Callable, Mapping

from prl.serve.command import Command
from prl.serve.inbound import Inbound
from prl.serve.outbound import Outbound
from prl.serve.relay import wait

_NOTHING: Mapping[int, Callable[[], bool]] = {}


def converse(
    command: Command,
    inbound: Inbound,
    outbound: Outbound,
    stoppers: Mapping[int, Callable[[], bool]] = _NOTHING,
) -> int | None:
    """Move input and output until the program has ended and its output has been given on.

    Args:
        command: the program.
        inbound: where its input comes from.
        outbound: where its output goes.
        stoppers: descriptors and what to do when one is readable; True ends the conversation.

    Returns:
        The program's exit status, or None when a stopper ended the conversation.

    Raises:
        OSError: the connection broke.
    """
    watched = dict(stoppers)
    while not outbound.has_ended or command.status() is None:
        interests = [(descriptor, select.POLLIN) for descriptor in watched]
        interests += inbound.interests() + outbound.interests()
        if command.status() is None:
            interests.append((command.pidfd, select.POLLIN))
        events = wait(interests, outbound.timeout_s())
        for descriptor in watched.keys() & events.keys():
            if watched.pop(descriptor)():
                return None
        inbound.step(events)
        outbound.step(events)
    return command.status()
