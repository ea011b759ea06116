"""What the speaker sends, laid out so that either node can go on at any byte of it.

::

    0                                    end of plan
    | OPEN KEEPALIVE UPDATE ... End-of-RIB | KEEPALIVE | KEEPALIVE | KEEPALIVE ...
      planned: depends on the input alone    when, depends on timers; what, does not

Both nodes plan the same bytes, as they see the same input. After the plan only KEEPALIVEs follow,
all alike: whatever their number, the place inside the last one tells what is missing of it.
"""

from prl.bgp.messages import KEEPALIVE


class Output:
    """The output stream of one session; silent until ``go_on_at``."""

    def __init__(self) -> None:
        self._plan = bytearray()
        self._is_complete = False
        self._next: int | None = None  # the stream's byte to be sent next, up to the plan's end
        self._after_plan = bytearray()

    @property
    def is_silent(self) -> bool:
        """Whether the other node is the one that speaks."""
        return self._next is None

    @property
    def plan_bytes(self) -> int:
        """How long the plan is so far."""
        return len(self._plan)

    @property
    def planned(self) -> bytes:
        """The plan so far, from the stream's first byte on."""
        return bytes(self._plan)

    @property
    def is_complete(self) -> bool:
        """Whether the plan ends there."""
        return self._is_complete

    def remember(self, plan: bytes, *, is_complete: bool) -> None:
        """Take over the plan of another one that has read the same."""
        self._plan[:] = plan
        self._is_complete = is_complete

    def plan(self, data: bytes) -> None:
        """Add the stream's next bytes, which depend on the input alone."""
        assert not self._is_complete
        self._plan += data

    def complete(self) -> None:
        """The plan ends here."""
        self._is_complete = True

    def keepalive(self) -> None:
        """A timer asks for a KEEPALIVE; before the plan is complete there is none to send."""
        if self._is_complete and not self.is_silent:
            self._after_plan += KEEPALIVE

    def farewell(self, notification: bytes) -> None:
        """The last message of the session."""
        self._is_complete = True
        if not self.is_silent:
            self._after_plan += notification

    def go_on_at(self, offset: int) -> None:
        """Speak, from byte ``offset`` of the stream on: 0, or what the other node has committed."""
        self._next = offset

    def take(self) -> bytes:
        """What is to be sent now; empty while silent."""
        if self._next is None:
            return b""
        due = bytes(self._plan[self._next :])
        if self._next <= len(self._plan):
            self._next = len(self._plan)
        elif not self._is_complete:
            return b""  # the other node was ahead of us: our input has yet to catch up
        else:
            begun = (self._next - len(self._plan)) % len(KEEPALIVE)
            due = KEEPALIVE[begun:] if begun else b""
            self._next = len(self._plan)
        if self._is_complete:
            due += self._after_plan
            self._after_plan.clear()
        return due
