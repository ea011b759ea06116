"""Switchover: a service goes back and forth under load, and the peer notices nothing (SPEC R21)."""

import hashlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prl.client import Node
from prl.demo.facts import Measured, Scenario, Stream
from prl.demo.pauses import Gaps, boottime_ns
from prl.demo.payload import Payload
from prl.demo.player import Cast, Deadline, DemoError
from prl.demo.stage import PORT, Stage
from prl.demo.transfer import SETUP_TIMEOUT_S, await_listening, scenario
from prl.demo.traveller import ENDLESS_BYTES, Pace, rate_bytes_per_s
from prl.endpoint import show_endpoint
from prl.errors import NotSafeError
from prl.lab import stretch
from prl.lab.netns import Namespace

DIRECTIONS = ("upload", "download")
SETTLE_S = 0.3
"""After a move, and before the first: what it causes would have shown by then."""
SAFE_POLL_S = 0.01
_WRITE_BYTES = 1 << 17
_READ_BYTES = 1 << 18
_COUNTERS = {
    "retransmitted": ("Tcp", "RetransSegs"),
    "got_again": ("TcpExt", "TCPDSACKOldSent"),
    "out_of_order": ("TcpExt", "TCPOFOQueue"),
}


@dataclass(frozen=True, slots=True)
class Moves:
    """What the moves of one direction cost, and what as much time without a move did."""

    done: int
    behind: int
    """Segments that came behind a later one."""
    behind_without: int
    again: int
    """Segments that were sent again, or that came twice."""
    again_without: int
    troubles: tuple[str, ...]


@dataclass(slots=True)
class Run:
    """What one direction came to."""

    asked: int = 0
    done: int = 0
    refused: list[str] = field(default_factory=list)
    times: list[tuple[int, int, str]] = field(default_factory=list)
    """When each was asked for, when it was over (CLOCK_BOOTTIME, ns), and the new owner."""
    silent_ms: list[float] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    """What the peer's and the receiving kernel counted in the time of all moves."""
    between: dict[str, int] = field(default_factory=dict)
    """The same, in as much time without a move."""
    pauses_ms: list[float] = field(default_factory=list)
    sent: Stream = field(default_factory=Stream)
    received: Stream = field(default_factory=Stream)
    troubles: list[str] = field(default_factory=list)

    def moves(self) -> Moves:
        """The sums."""
        return Moves(
            self.done,
            _behind(self.counted),
            _behind(self.between),
            _again(self.counted),
            _again(self.between),
            tuple(self.troubles),
        )

    def facts(self) -> dict[str, Any]:
        """As JSON has them."""
        return {
            "moves": {"asked": self.asked, "done": self.done, "refused": self.refused},
            "bytes": {"sent": self.sent.count, "received": self.received.count},
            "exact": self.sent == self.received and not self.troubles,
            "lost": _behind(self.counted),
            "retransmissions": _again(self.counted),
            "without_a_move": self.between,
            "silent_ms": _spread(self.silent_ms),
            "pause_ms": _spread(self.pauses_ms),
        }


def _behind(counted: Mapping[str, int]) -> int:
    return counted.get("out_of_order", 0)


def _again(counted: Mapping[str, int]) -> int:
    return counted.get("retransmitted", 0) + counted.get("got_again", 0)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": round(statistics.median(values), 3), "max": round(max(values), 3)}


def switchover(stage: Stage) -> tuple[Scenario, Measured]:
    """Both directions, one after the other."""
    measured = Measured()
    runs = travel(stage)
    for name, run in runs.items():
        measured.troubles += [f"{name}: {trouble}" for trouble in run.troubles]
        if run.done < stage.options.moves:
            measured.troubles.append(f"{name}: {run.done} of {stage.options.moves} moves were done")
        shown = run.facts()
        for what in ("lost", "retransmissions"):
            if shown[what]:
                _count(stage, measured, f"{name}: {shown[what]} {what} in the time of the moves")
    measured.sent, measured.received = (
        _both([getattr(run, end) for run in runs.values()]) for end in ("sent", "received")
    )
    measured.primary, measured.primary_prefix = measured.received, not measured.troubles
    pauses = [pause for run in runs.values() for pause in run.pauses_ms]
    measured.gap_ms = max(pauses, default=None)
    measured.more = {"directions": {name: run.facts() for name, run in runs.items()}}
    return scenario(stage, "switchover"), measured


def travel(stage: Stage) -> dict[str, Run]:
    """A session of each direction goes back and forth, one after the other."""
    runs: dict[str, Run] = {}
    for port, name in enumerate(DIRECTIONS, PORT):
        run = runs[name] = Run()
        try:
            _play(stage, name, port, run)
        except DemoError as error:
            run.troubles.append(str(error))
    return runs


def _count(stage: Stage, measured: Measured, words: str) -> None:
    """A move costs the peer no retransmission, as long as it is over before the peer probes.

    That is after two round trips (RFC 8985, 7.2), which a CPU that is emulated does not keep to.
    """
    if stretch.factor() == 1:
        measured.troubles.append(words)
    else:
        stage.narrate(f"{words}: not judged, for {stretch.VARIABLE} is {stretch.factor()}")


def _both(streams: list[Stream]) -> Stream:
    """The bytes of both directions; the hash is that of their hashes."""
    if any(stream.count is None for stream in streams):
        return Stream()
    words = "".join(str(stream.sha256) for stream in streams)
    count = sum(stream.count or 0 for stream in streams)
    return Stream(count, hashlib.sha256(words.encode()).hexdigest())


def _play(stage: Stage, name: str, port: int, run: Run) -> None:
    until = stage.scratch / f"{name}.end"
    endpoint = show_endpoint(stage.address, port)
    argv = [sys.executable, "-m", "prl.demo.traveller", "sink" if name == "upload" else "source"]
    argv += ["--listen", endpoint, "--until", str(until)]
    nodes: dict[str, list[str]] = {node.name: [] for node in stage.lab.topology.nodes}
    cast = Cast(stage.lab, argv, nodes)
    await_listening(cast)
    target = f"TCP{stage.options.family}:{endpoint},nodelay"
    peer = ["socat", "-u", *(("-", target) if name == "upload" else (target, "-"))]
    rate = f"{8 * rate_bytes_per_s() / 1e9:g} Gb/s"
    stage.narrate(f"{name} at {rate}: {' '.join(peer)}")
    pipe = subprocess.PIPE
    with stage.lab.exec("peer", peer, stdin=pipe, stdout=pipe) as socat:
        stream = (_Writer if name == "upload" else _Reader)(socat, until)
        try:
            _travel(stage, name, run)
        finally:
            until.touch()
            stream.join()
            socat.wait(SETUP_TIMEOUT_S)
    end = cast.expect({"end"}, None, Deadline(SETUP_TIMEOUT_S))
    _compare(run, name, stream, end)
    gaps = dict.fromkeys(nodes, stream.gaps.spans) if name == "download" else _gaps(cast)
    run.pauses_ms = [_longest_ms(gaps[to], began, ended) for began, ended, to in run.times]


def _gaps(cast: Cast) -> dict[str, list[tuple[int, int]]]:
    """The sinks' own pauses; each reads all the time, be it the owner's or the shadow's socket."""
    found: dict[str, list[tuple[int, int]]] = {"re0": [], "re1": []}
    for heard in cast.heard:
        if "gaps" in heard:
            found[heard["node"]] = [(start, end) for start, end in heard["gaps"]]
    return found


def _longest_ms(spans: Sequence[tuple[int, int]], began_ns: int, ended_ns: int) -> float:
    inside = [end - start for start, end in spans if end > began_ns and start < ended_ns]
    return max(inside, default=0) / 1e6


def _travel(stage: Stage, name: str, run: Run) -> None:
    here = _owner(stage)
    _await_safe(stage, here)
    receiver = "peer" if name == "download" else None
    for number in range(stage.options.moves):
        there = "re1" if here == "re0" else "re0"
        time.sleep(SETTLE_S)
        before = _counters(stage, receiver or there)
        began_ns = boottime_ns()
        time.sleep(SETTLE_S)
        quiet = _counters(stage, receiver or there)
        run.asked += 1
        asked_ns = boottime_ns()
        try:
            with Node(stage.socket(here)) as node:
                told = node.request({"op": "switchover", "service": "", "forced": False})
        except NotSafeError as error:
            run.refused.append(str(error))
            stage.narrate(f"move {number + 1}: {error}")
            _await_safe(stage, here)
            continue
        ended_ns = boottime_ns()
        time.sleep(max(0.0, (asked_ns - began_ns) / 1e9 - (boottime_ns() - asked_ns) / 1e9))
        after = _counters(stage, receiver or there)
        if told["from"] != here:  # nothing that a move caused, but no quiet lab either
            raise DemoError(f"{here} had been taken over from before it was asked to move")
        run.done += 1
        run.times.append((asked_ns, ended_ns + int(SETTLE_S * 1e9), there))
        run.silent_ms.append(told["silent_ms"])
        for counter in _COUNTERS:
            run.counted[counter] = run.counted.get(counter, 0) + after[counter] - quiet[counter]
            run.between[counter] = run.between.get(counter, 0) + quiet[counter] - before[counter]
        stage.narrate(f"move {number + 1}: {here} → {there}, silent for {told['silent_ms']} ms")
        here = there
        _await_safe(stage, here)


def _owner(stage: Stage) -> str:
    for node in ("re0", "re1"):
        if _status(stage, node)["services"][0]["state"] == "owner":
            return node
    raise DemoError("neither node owns the service")


def _status(stage: Stage, node: str) -> dict[str, Any]:
    with Node(stage.socket(node)) as prld:
        return prld.request({"op": "status"})


def _await_safe(stage: Stage, node: str) -> None:
    """Wait until the session is protected again: no event tells somebody else of that."""
    deadline = Deadline(SETUP_TIMEOUT_S)
    while True:
        found = _status(stage, node)
        if found["switchover_safe"] and found["flows"]["active"] and found["flows"]["primary"]:
            return
        deadline.left_s(f"{node}: switchover-safe, but {found['because']}")
        time.sleep(SAFE_POLL_S)


def _counters(stage: Stage, receiver: str) -> dict[str, int]:
    """Retransmissions of the peer's, and what reached ``receiver`` twice or behind a hole."""
    topology = stage.lab.topology
    spaces = {node.name: node.namespace for node in (*topology.nodes, topology.peer)}
    peer = _proc(spaces["peer"])
    there = _proc(spaces[receiver]) if receiver != "peer" else peer
    return {
        name: (peer if name == "retransmitted" else there)[group].get(counter, 0)
        for name, (group, counter) in _COUNTERS.items()
    }


def _proc(namespace: str) -> dict[str, dict[str, int]]:
    """The counters of a namespace's TCP (proc(5): snmp, netstat)."""

    def read() -> str:
        folder = Path("/proc/thread-self/net")
        return (folder / "snmp").read_text() + (folder / "netstat").read_text()

    found: dict[str, dict[str, int]] = {}
    lines = Namespace(namespace).call(read).splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        group, _, words = names.partition(":")
        numbers = map(int, values.partition(":")[2].split())
        found[group] = dict(zip(words.split(), numbers, strict=True))
    return found


class _Stream:
    """The peer's end, in a thread of its own."""

    def __init__(self, socat: "subprocess.Popen[bytes]", until: Path) -> None:
        self._socat, self._until = socat, until
        self.gaps = Gaps()
        self.count = 0
        self.wrong_at: int | None = None
        self._payload = Payload(ENDLESS_BYTES)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        raise NotImplementedError

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(SETUP_TIMEOUT_S)


class _Writer(_Stream):
    def _run(self) -> None:
        pipe, pace = self._socat.stdin, Pace()
        assert pipe is not None
        try:
            while not self._until.exists():
                data = self._payload.at(self.count, _WRITE_BYTES)
                self.count += pipe.write(data)
                pace.wait(len(data))
            pipe.close()
        except BrokenPipeError:
            return


class _Reader(_Stream):
    def _run(self) -> None:
        pipe = self._socat.stdout
        assert pipe is not None
        while data := pipe.read1(_READ_BYTES):  # type: ignore[attr-defined]
            self.gaps.note()
            left = memoryview(data)
            while left:
                part = self._payload.at(self.count, len(left))
                if left[: len(part)] != part and self.wrong_at is None:
                    self.wrong_at = self.count
                self.count += len(part)
                left = left[len(part) :]


def _compare(run: Run, name: str, stream: _Stream, end: dict[str, Any]) -> None:
    """Every byte was compared with the payload where it arrived; here, the numbers of them."""
    written, read = (
        (stream.count, end["bytes"]) if name == "upload" else (end["bytes"], stream.count)
    )
    wrong_at = end["wrong_at"] if name == "upload" else stream.wrong_at
    run.sent = Stream(written, Payload(ENDLESS_BYTES).sha256(written))
    if wrong_at is None and written == read:
        run.received = run.sent
    else:
        run.received = Stream(read, None)
        run.troubles.append(f"wrong from byte {wrong_at} on" if wrong_at else "bytes are missing")
