"""Sessions of a silent owner of which nobody may ever know whether they went on elsewhere.

    protected ── no link, and silent ─▶ doubtful ─┬─ the other node owns them: they are its (L8)
                                                  ├─ it knows that it never did: they go on here
                                                  └─ its host has begun anew: they are ended

In the last case it may have taken over, have talked to the peers, and have lost its power. Who has
been heard since has acknowledged what this node never said, and would wait for it for ever.
"""

from collections.abc import Callable, Sequence

from prl.bindings.datapath import Tuple
from prl.daemon.session.protect import Primaries

_SHADOWED = frozenset({"active", "voiding", "alone"})
"""States of a session of which the other node may have a good shadow."""


class Doubtful:
    """Those of this node, by handle: no more than it has sessions.

    ``lose`` notes that a peer is to be told, by ends and service; ``tell`` does it, for a service;
    ``is_silent`` says whether that must wait: it is done then when this node speaks.
    """

    def __init__(
        self,
        primaries: Primaries,
        *,
        lose: Callable[[Tuple, int], object],
        tell: Callable[[int], object],
        is_silent: Callable[[int], bool],
    ) -> None:
        self._primaries, self._lose, self._tell = primaries, lose, tell
        self._is_silent = is_silent
        self._handles: set[int] = set()

    def note(self) -> None:
        """This node fell silent, so that the other one takes over if it can."""
        self._handles |= {
            session.handle
            for session in self._primaries.in_hand()
            if session.state in _SHADOWED and not session.ends.is_udp
        }

    def settle(self, forgotten: Sequence[int]) -> None:
        """The other node is there again; ``forgotten``: services that it cannot tell of."""
        handles, self._handles = self._handles, set()
        if not forgotten:
            return
        for session in self._primaries.in_hand():
            if session.handle not in handles or session.service not in forgotten:
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
