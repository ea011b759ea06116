"""A program of ours on one machine of the lab, and what it tells."""

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prl.errors import PrlError
from prl.lab import Lab, stretch

Event = dict[str, Any]


class DemoError(PrlError):
    """The story could not be told to its end."""


class Deadline:
    """A moment by which things must have happened."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s * stretch.factor()
        self._at = time.monotonic() + self._timeout_s

    def left_s(self, what: str) -> float:
        """Seconds left.

        Raises:
            DemoError: none; the message names ``what`` did not happen.
        """
        left_s = self._at - time.monotonic()
        if left_s <= 0:
            raise DemoError(f"{what}: not within {self._timeout_s:.0f} s")
        return left_s


class Player:
    """Runs a program that tells events as lines of JSON; several may tell into one queue."""

    def __init__(
        self, lab: Lab, node: str, argv: Sequence[str], told: "queue.SimpleQueue[Event]"
    ) -> None:
        self.node = node
        self._process = lab.exec(node, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._told = told
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until it has ended, and all that it said was put into the queue."""
        self._thread.join()

    def kill(self) -> None:
        """Let it die; the rest of its node lives on."""
        self._process.kill()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # cut off by the program's death
                self._told.put({**event, "node": self.node})
        self._told.put({"event": "exit", "status": self._process.wait(), "node": self.node})


class Cast:
    """The same program on both nodes, and what has been heard of them so far."""

    def __init__(self, lab: Lab, argv: Sequence[str], own: Mapping[str, Sequence[str]]) -> None:
        """Start ``argv`` and, on each node, the further arguments ``own``."""
        self._told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.heard: list[Event] = []
        self._lab, self._argv, self._own = lab, argv, own
        self._players = {node: self._play(node) for node in own}

    def _play(self, node: str) -> Player:
        return Player(self._lab, node, [*self._argv, *self._own[node]], self._told)

    def start_again(self, node: str) -> None:
        """Start the program of a node anew, after it died; what it said before is forgotten."""
        self._players[node].join()
        with contextlib.suppress(queue.Empty):
            while True:
                self.heard.append(self._told.get_nowait())
        self.forget(node)
        self._players[node] = self._play(node)

    def forget(self, node: str) -> None:
        """What a node has said until now is not waited for any more."""
        self.heard = [event for event in self.heard if event["node"] != node]

    def kill(self, node: str) -> None:
        """Let the program die on ``node`` alone."""
        self._players[node].kill()

    def first(self, event: str, node: str | None = None) -> Event | None:
        """The first such event that was heard."""
        for heard in self.heard:
            if heard["event"] == event and node in {None, heard["node"]}:
                return heard
        return None

    def expect(
        self, events: Collection[str], node: str | None, deadline: Deadline, **facts: Any
    ) -> Event:
        """Wait for one of ``events`` of ``node`` (None: of either) with such facts.

        Raises:
            DemoError: the deadline passed, or all programs ended.
        """
        seen = 0
        while True:
            while seen < len(self.heard):
                heard = self.heard[seen]
                seen += 1
                fits = heard["event"] in events and node in {None, heard["node"]}
                if fits and facts.items() <= heard.items():
                    return heard
            what = f"{' or '.join(events)} of {node or 'either node'}"
            ends = [heard["node"] for heard in self.heard if heard["event"] == "exit"]
            if node in ends or len(ends) == len(self._players):
                raise DemoError(f"{what}: the application ended before, {self._last_word(node)}")
            try:
                self.heard.append(self._told.get(timeout=deadline.left_s(what)))
            except queue.Empty:
                deadline.left_s(what)

    def collect(
        self,
        event: str,
        node: str,
        count: int,
        deadline: Deadline,
        *,
        fails: str,
        since_ns: int = 0,
    ) -> list[Event]:
        """Wait for ``count`` such events of ``node``.

        Raises:
            DemoError: the deadline passed, or there was an end, or a ``fails`` whose ``at_ns`` is
                not before ``since_ns``.
        """
        found: list[Event] = []
        seen = 0
        while len(found) < count:
            what = f"{event} of {node} ({len(found)} of {count})"
            if seen == len(self.heard):
                with contextlib.suppress(queue.Empty):
                    self.heard.append(self._told.get(timeout=deadline.left_s(what)))
                continue
            heard = self.heard[seen]
            seen += 1
            failed = heard["event"] == fails and heard.get("at_ns", since_ns) >= since_ns
            if heard["node"] == node and (failed or heard["event"] == "exit"):
                raise DemoError(f"{what}: {json.dumps(heard)}")
            if heard["node"] == node and heard["event"] == event:
                found.append(heard)
        return found

    def _last_word(self, node: str | None) -> str:
        for heard in reversed(self.heard):
            if heard["event"] != "exit" and node in {None, heard["node"]}:
                return f"its last word being {json.dumps(heard)}"
        return "without a word"
