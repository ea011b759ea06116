"""`serve`: the loop of one conversation ends with its program, whenever that ends."""

import os
import select

import pytest

from prl.serve.command import Command
from prl.serve.conversation import converse
from prl.serve.history import History
from prl.serve.inbound import Inbound
from prl.serve.relay import Interest


class EndsWhileLookedAt(Command):
    """A program that ends just before it is asked what to wait for."""

    def interests(self) -> list[Interest]:
        self.close_stdin()
        select.select([self.pidfd], [], [])
        return super().interests()


class GivenOn:
    """Where all of the output has gone already."""

    has_ended = True

    def __init__(self) -> None:
        self.directions_ended = 0

    def interests(self) -> list[Interest]:
        return []

    def timeout_s(self) -> float | None:
        pytest.fail("the program has ended, and with it all that could be waited for")

    def step(self, events: dict[int, int]) -> None:
        raise NotImplementedError

    def end_direction(self) -> None:
        self.directions_ended += 1


def test_a_program_that_ends_between_two_looks_ends_its_conversation() -> None:
    reader, writer = os.pipe()
    with EndsWhileLookedAt(["sh", "-c", "exec >&- 2>&-; read x; exit 7"]) as command:
        while _complains(command):
            continue
        inbound = Inbound(reader, command, History(1 << 20))
        assert converse(command, inbound, GivenOn(), {}) == 7
    os.close(reader)
    os.close(writer)


def _complains(command: Command) -> bool:
    """Reads its stderr to the end, so that only its own end is left to be waited for."""
    stderr = command._stderr.fileno()
    select.select([stderr], [], [])
    command.step({stderr: select.POLLIN})
    return command._complains
