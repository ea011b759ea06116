"""What a speaker shows of itself: a JSON file replaced whole, a record of the input, events."""

import hashlib
import json
import os
import sys
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prl.bgp.session import Session, State

_INPUTS_KEPT = 64


class Journal:
    """Writes ``state_file`` on every change, and the raw input to ``input_file``."""

    def __init__(self, state_file: Path | None, input_file: Path | None) -> None:
        self._state_file = state_file
        self._input = None if input_file is None else input_file.open("wb", buffering=0)
        self._hash = hashlib.sha256()
        self._input_bytes = 0
        self._inputs: deque[tuple[int, int]] = deque(maxlen=_INPUTS_KEPT)
        self.since: str | None = None
        self._sent_bytes = 0
        self.began_at = 0
        """The input's byte at which this speaker joined in."""
        self.role = "idle"
        self.takeover: dict[str, int] | None = None

    def received(self, data: bytes) -> None:
        """Note input as it arrives."""
        self._inputs.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME), len(data)))
        self._hash.update(data)
        self._input_bytes += len(data)
        if self._input is not None:
            self._input.write(data)

    def sent(self, count: int) -> None:
        """Note output that the socket has taken."""
        self._sent_bytes += count

    def write(self, session: Session) -> None:
        """Show the session as it is now, and say so on standard output."""
        if session.state is State.ESTABLISHED and self.since is None:
            self.since = datetime.now(UTC).isoformat()
        facts = self._facts(session)
        if self._state_file is not None:
            fresh = self._state_file.with_suffix(".new")
            fresh.write_text(json.dumps(facts))
            fresh.replace(self._state_file)
        brief = {key: facts[key] for key in ("role", "state")}
        self.event("state", routes=len(session.routes), **brief)

    @staticmethod
    def event(name: str, **facts: Any) -> None:
        """One line of JSON on standard output."""
        line = json.dumps({"event": name, **facts}) + "\n"
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), line.encode())

    def _facts(self, session: Session) -> dict[str, Any]:
        return {
            "role": self.role,
            "state": str(session.state),
            "since": self.since,
            "hold_time_s": session.hold_time_s,
            "peer_asn": session.peer.asn if session.peer else None,
            "peer_id": str(session.peer.router_id) if session.peer else None,
            "received": {
                "began_at": self.began_at,
                "bytes": self._input_bytes,
                "sha256": self._hash.hexdigest(),
                "messages": dict(session.received),
                "last": list(self._inputs),
            },
            "sent": {"bytes": self._sent_bytes},
            "takeover": self.takeover,
            "routes": [
                {"prefix": str(prefix), "next_hop": route.next_hop, "as_path": route.as_path}
                for prefix, route in sorted(
                    session.routes.items(),
                    key=lambda item: (
                        item[0].version,
                        item[0].network_address.packed,
                        item[0].prefixlen,
                    ),
                )
            ],
        }
