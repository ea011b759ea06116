"""Sessions of a silent owner of which nobody may ever know whether they went on elsewhere.

    protected ── silent ─▶ doubtful ─┬─ the link answers: nobody has taken over
                                     ├─ this node speaks, and the peer's stream goes on here
                                     ├─ the other node owns them: they are its (L8)
                                     ├─ it knows that it never did: they go on here
                                     └─ its host has begun anew: they are ended

In the last case it may have taken over, have talked to the peers, and have lost its power. Who has
been heard since has acknowledged what this node never said, and would wait for it for ever: its
stream has a hole here, so that nothing more of it is received.
"""

import contextlib
from collections.abc import Callable, Collection, Sequence

from prl.bindings.datapath import Datapath, DatapathError, Tuple
from prl.daemon.session.protect import Primaries
from prl.shadow.sockopt import CallError, tcp_info

_SHADOWED = frozenset({"active", "voiding", "alone"})
"""States of a session of which the other node may have a good shadow."""


class Doubtful:
    """Those of this node, by handle: no more than it has sessions.

    ``lose`` notes that a peer is to be told, by ends and service; ``tell`` does it, for a service;
    ``is_silent`` says whether that must wait: it is done then when this node speaks.
    """

    def __init__(
        self,
        datapath: Datapath,
        primaries: Primaries,
        services: int,
        *,
        lose: Callable[[Tuple, int], object],
        tell: Callable[[int], object],
        is_silent: Callable[[int], bool],
    ) -> None:
        self._dp, self._primaries, self._lose, self._tell = datapath, primaries, lose, tell
        self._services, self._is_silent = services, is_silent
        self._terms: list[int] = []
        """Of each service, when the doubts began."""
        self._heard: list[int] = []
        """The other node's lowest since then: HELLO may have come to nothing here and have raised
        it over there."""
        self._received: dict[int, int | None] = {}
        """Bytes of the peer's that each had when this node spoke again; None: it has not, yet."""

    def note(self) -> None:
        """This node fell silent, so that the other one takes over if it can."""
        idle = [handle for handle, _, _ in self._dp.notes(shadow=False)]  # protected, never UDP
        in_hand = [
            session.handle
            for session in self._primaries.in_hand()
            if session.state in _SHADOWED and not session.ends.is_udp
        ]
        if not self._received:
            self._terms = [self._dp.term(service) for service in range(self._services)]
            self._heard = self._terms.copy()
        self._received = dict.fromkeys([*self._received, *idle, *in_hand])

    def speaks(self, *, is_linked: bool) -> None:
        """The silence is over; ``is_linked``: while the other node is there."""
        if is_linked:  # whoever takes over leaves the link
            self._received.clear()
        for handle in self._received:
            self._received[handle] = self._bytes_received(handle)

    def hear(self, terms: Sequence[int]) -> None:
        """The other node says HELLO, with these terms of all services.

        Terms are agreed upon in each HELLO, and outlive prld: one that is lower than it was means
        that its host has begun anew.
        """
        self._heard = [min(pair) for pair in zip(self._heard, terms, strict=False)]

    def settle(self, services: Collection[int]) -> None:
        """The other node is there again, by what was heard last, and does not own these."""
        received, self._received = self._received, {}
        if not received:
            return
        forgotten = [one for one in services if self._heard[one] < self._terms[one]]
        for handle, before in received.items():
            session = self._primaries.find(handle)
            if session is None or not session.is_live or session.service not in forgotten:
                continue
            if before is not None and self._bytes_received(handle) != before:
                continue
            self._primaries.abort(
                session,
                "this node was silent, and the other one, which may have served it meanwhile, has "
                "begun anew",
            )
            self._lose(session.ends, session.service)
        for service in forgotten:
            if not self._is_silent(service):
                self._tell(service)

    def _bytes_received(self, handle: int) -> int | None:
        with (
            contextlib.suppress(DatapathError, CallError, OSError),
            self._dp.flow_socket(handle) as sock,
        ):
            return tcp_info(sock).bytes_received
        return None
