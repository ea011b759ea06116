"""One connection's program from its start to its end: the same loop on owner and standby."""

import select
from collections.abc import Callable, Mapping

from prl.serve.command import Command
from prl.serve.inbound import Inbound
from prl.serve.outbound import Outbound
from prl.serve.relay import wait

Watchers = Mapping[int, Callable[[], bool]]
"""Descriptors, and what to do when one is readable; True ends the conversation."""


def converse(
    command: Command, inbound: Inbound, outbound: Outbound, watchers: Watchers
) -> int | None:
    """Move input and output until the program has ended and its output has been given on.

    Args:
        command: the program.
        inbound: where its input comes from.
        outbound: where its output goes.
        watchers: asked for anew before each wait, so that it may change.

    Returns:
        The program's exit status, or None when a watcher ended the conversation.

    Raises:
        OSError: the connection broke.
        OutputDiffersError: the program is not the owner's equal.
    """
    has_ended_direction = False
    while True:
        interests = [(descriptor, select.POLLIN) for descriptor in watchers]
        interests += inbound.interests() + outbound.interests() + command.interests()
        # Only now: a program that had ended before its interests were asked for wakes nobody.
        if outbound.has_ended and (status := command.status()) is not None:
            return status
        events = wait(interests, outbound.timeout_s())
        for descriptor in [known for known in watchers if known in events]:
            if watchers[descriptor]():
                return None
        command.step(events)
        inbound.step(events)
        outbound.step(events)
        if outbound.has_ended and not has_ended_direction:
            has_ended_direction = True
            if not command.is_exiting():
                outbound.end_direction()
