"""Whether a rig is still what it is called: what has lost its hold or its shadow is fast.

Asked after each measurement; what was found once counts for that measurement alone.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prl.bench.rig import NODES, Program, Rig, Way, events, newest
from prl.errors import PrlError

_HOLDS = (Way.NFQUEUE, Way.NFQUEUE_INPUT, Way.NFQUEUE_FED)
_QUEUES = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
_DROPPED, _DROPPED_FOR_USER = 5, 6  # columns, as net/netfilter/nfnetlink_queue.c prints them
_FED_S, _POLL_S = 1.0, 0.02
"""How long what is under way to a shadow may take to be read there."""
_LOST = frozenset({"replication_ended", "shadow_void", "takeover", "mirror_off"})
"""Events behind which a protected session is not what it was."""
_BORN_LOST = frozenset({"born_unprotected", "takeover"})
"""The same for sessions that come and go: their shadows are void when they end."""


class Baseline:
    """What there was of a rig when it was last asked about.

    Raises:
        PrlError: it cannot be asked.
    """

    def __init__(self, rig: Rig) -> None:
        recipe = rig.recipe
        self._rig = rig
        self._is_hold = recipe.way in _HOLDS
        self._is_mirror = recipe.mode == "mirror"
        self._drops = self._count_drops()
        looks: list[Callable[[], list[str]]] = [] if self._drops is None else [self._hold]
        looks += [self._fed] if recipe.way is Way.NFQUEUE_FED else []
        if recipe.way is Way.PRL and recipe.protect:
            looks += [partial(self._protection, node) for node in NODES]
            looks += [self._mirror] if self._is_mirror else []
        self._looks = [*looks, self._told]
        self._newest = {node: newest(rig, node) for node in NODES} if recipe.way is Way.PRL else {}
        self._mirrored = self._count_mirrored()
        self._told()  # of attempts to protect what is protected now

    def lost(self) -> list[str]:
        """Why what was measured since the last call is not to be counted; empty: it is."""
        found = []
        for look in self._looks:
            try:
                found += look()
            except PrlError as error:
                found.append(str(error))
        return found

    def _told(self) -> list[str]:
        """By the servers, between their answers. A shadow whose session is over is void, too."""
        servers: list[Program | None] = [self._rig.server]
        servers += [] if self._rig.recipe.at_once else [self._rig.standby]
        return [
            f"{one['event']}: {one['reason']}"
            for server in servers
            if server is not None
            for one in server.asides()
        ]

    def _hold(self) -> list[str]:
        now = self._count_drops()
        if now is None:
            return ["nobody reads the queue"]
        dropped, self._drops = now - (self._drops or 0), now
        return [f"the queue has dropped {dropped} packets"] if dropped else []

    def _count_drops(self) -> int | None:
        """None: there is no queue, or this kernel does not show any."""
        if not self._is_hold:
            return None
        try:
            lines = self._rig.place("re0").call(_QUEUES.read_text).splitlines()
        except OSError:
            return None
        rows = [line.split() for line in lines]
        return (
            sum(int(row[_DROPPED]) + int(row[_DROPPED_FOR_USER]) for row in rows) if rows else None
        )

    def _fed(self) -> list[str]:
        assert self._rig.standby is not None
        deadline_s = time.monotonic() + _FED_S
        while True:
            ours, theirs = (
                int(server.ask("count", _FED_S)["in_bytes"])
                for server in (self._rig.server, self._rig.standby)
            )
            if ours == theirs:
                return []
            if time.monotonic() > deadline_s:
                return [f"the shadow has {theirs} of {ours} bytes"]
            time.sleep(_POLL_S)

    def _protection(self, node: str) -> list[str]:
        recipe, wanted = self._rig.recipe, self._rig.protected
        losses = _BORN_LOST if recipe.at_once else _LOST
        told = events(self._rig, node, self._newest[node])
        self._newest[node] = told[-1]["seq"] if told else self._newest[node]
        found = [f"{node}: {one['event']}: {one['text']}" for one in told if one["event"] in losses]
        status = self._rig.status(node)
        if (active := status["flows"]["active"]) < wanted:
            found.append(f"{node}: {active} of {wanted} sessions are protected")
        if recipe.mode not in {status["mode"], "auto"}:
            found.append(f"{node}: the carrier is {status['mode']}")
        if self._is_mirror and not status["mirror"]["on"]:
            found.append(f"{node}: mirror is off: {status['mirror']['because']}")
        return found

    def _mirror(self) -> list[str]:
        """Small packets are never mirrored."""
        before, self._mirrored = self._mirrored, self._count_mirrored()
        if self._rig.recipe.role == "sink" and self._mirrored == before:
            return ["nothing was mirrored"]
        return []

    def _count_mirrored(self) -> int:
        return self._rig.stats("re1")["datapath"]["mirror_fed"] if self._is_mirror else 0
