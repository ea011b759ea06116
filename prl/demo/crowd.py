"""Sessions: very many at once, of IPv4 and IPv6, talking while their host loses its power."""

import hashlib
import json
import queue
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from prl.demo import progress, records
from prl.demo.facts import BOTH, Measured, Scenario, Stream
from prl.demo.first_segments import FirstSegments
from prl.demo.pauses import longest_ms
from prl.demo.player import Cast, Deadline, DemoError, Event
from prl.demo.stage import Stage, events
from prl.demo.transfer import SETUP_TIMEOUT_S, await_listening

DEFAULT_COUNT = 1000
SESSIONS_PER_S = 1000
"""Records a second, of all sessions together: steady, and no more than a small machine can echo."""
INTERVAL_MIN_S = 0.2
SESSION_TIMEOUT_S = 0.05
"""What each session adds to the deadlines."""
ROUNDS = 2
"""Each session speaks so often before the failure, and after the take-over."""


class Crowd:
    """The peer's program; what it tells is read as it comes."""

    def __init__(self, stage: Stage, interval_s: float) -> None:
        argv = [sys.executable, "-m", "prl.demo.crowd_peer", "--count", str(stage.options.count)]
        argv += ["--interval", str(interval_s), *stage.endpoints]
        self._process = stage.lab.exec(
            "peer", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._told.put(json.loads(line))
        self._told.put({"event": "exit", "status": self._process.wait()})

    def expect(self, event: str, deadline: Deadline) -> list[Event]:
        """All that is told up to the next ``event``. Raises DemoError."""
        told: list[Event] = []
        while not told or told[-1]["event"] != event:
            try:
                told.append(self._told.get(timeout=deadline.left_s(f"{event} of the peer")))
            except queue.Empty:
                continue
            if told[-1]["event"] in {"failed", "exit"} and event != "exit":
                raise DemoError(f"the peer ended before {event}: {json.dumps(told[-1])}")
        return told

    def hang_up(self) -> None:
        """Let all sessions end."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """It has ended, or nothing is to be had from it any more."""
        self._process.kill()
        self._process.wait()


@dataclass(slots=True)
class Times:
    """Milliseconds of each session."""

    protect: list[float] = field(default_factory=list)
    protect_all: float = 0.0
    in_force: list[float] = field(default_factory=list)
    first_segment: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    pause: list[float] = field(default_factory=list)


def sessions(stage: Stage) -> tuple[Scenario, Measured]:
    """Every session must go on, exactly; or end for a stated reason."""
    count = stage.options.count
    interval_s = max(INTERVAL_MIN_S, count / SESSIONS_PER_S)
    patience_s = SETUP_TIMEOUT_S + count * SESSION_TIMEOUT_S
    measured = Measured()
    times = Times()
    cast = _cast(stage)
    await_listening(cast)
    stage.narrate(f"the peer opens {count} sessions, each speaks every {interval_s:g} s")
    crowd = Crowd(stage, interval_s)
    told: list[Event] = []
    try:
        _protect(stage, cast, crowd, times, Deadline(patience_s))
        time.sleep(ROUNDS * interval_s)  # they talk
        recording = FirstSegments(
            stage.lab.topology.switch, stage.lab.topology.re1.port, stage.packed_addresses
        )
        stage.fail()
        deadline = Deadline(patience_s)
        _take_over(stage, cast, times, deadline)
        time.sleep(ROUNDS * interval_s)
        _measure(stage, recording.read(), times, measured)
        crowd.hang_up()
        told = crowd.expect("end", deadline)
    except DemoError as error:
        measured.troubles.append(str(error))
    finally:
        crowd.kill()
    talks = [one for one in told if one["event"] == "session"]
    _judge(stage, talks, times, measured)
    _look_at_primary(stage, talks, measured)
    measured.more = {"sessions": _facts(talks, times, interval_s)}
    family: int | str = BOTH if len(stage.endpoints) > 1 else stage.options.family
    return Scenario("sessions", "asyncio", family, stage.options.mode), measured


def _cast(stage: Stage) -> Cast:
    argv = [sys.executable, "-m", "prl.demo.crowd_app", "--listen", *stage.endpoints]
    own = {
        node.name: ["--progress", str(stage.progress(node.name))]
        for node in stage.lab.topology.nodes
    }
    return Cast(stage.lab, argv, own)


def _protect(stage: Stage, cast: Cast, crowd: Crowd, times: Times, deadline: Deadline) -> None:
    crowd.expect("connected", deadline)
    done = cast.collect("protected", "re0", stage.options.count, deadline, fails="unprotected")
    times.protect = [event["took_ns"] / 1e6 for event in done]
    began_ns = min(event["at_ns"] - event["took_ns"] for event in done)
    times.protect_all = (max(event["at_ns"] for event in done) - began_ns) / 1e6
    crowd.expect("steady", deadline)
    stage.narrate(
        f"{len(done)} sessions on re0 are protected, {times.protect_all:.0f} ms after the first "
        f"was handed over (median of one: {statistics.median(times.protect):.1f} ms)"
    )


def _take_over(stage: Stage, cast: Cast, times: Times, deadline: Deadline) -> None:
    shift_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    # A shadow that is void before the failure was replaced by a newer one.
    failed_ns = (stage.failed_at_ns or 0) - shift_ns
    count = stage.options.count
    done = cast.collect("taken_over", "re1", count, deadline, fails="void", since_ns=failed_ns)
    decided_ns = _decided_ns(stage)
    times.told = [(event["heard_ns"] + shift_ns - decided_ns) / 1e6 for event in done]
    stage.narrate(
        f"re1 goes on with {len(done)} sessions; the last application heard of it "
        f"{max(times.told):.0f} ms after the decision"
    )


def _decided_ns(stage: Stage) -> int:
    found = [one for one in events(stage.socket("re1")) if one["event"] == "takeover"]
    if not found:
        raise DemoError("re1 does not tell when it took over")
    return int(found[-1]["facts"]["decided_ns"])


def _measure(
    stage: Stage, heard: dict[tuple[int, int], int], times: Times, measured: Measured
) -> None:
    stage.measure_takeover(measured)
    decided_ns = _decided_ns(stage)
    for one in events(stage.socket("re1")):
        if one["event"] == "taken_over":
            times.in_force.append((one["facts"]["in_force_ns"] - decided_ns) / 1e6)
    times.first_segment = [(at_ns - decided_ns) / 1e6 for at_ns in heard.values()]


def _judge(stage: Stage, talks: list[Event], times: Times, measured: Measured) -> None:
    """What the peer saw: each session exact to its end."""
    wrong = [f"session {one['session']}: {one['trouble']}" for one in talks if one["trouble"]]
    if wrong:
        measured.troubles.append(f"{len(wrong)} sessions went wrong, the first: {wrong[0]}")
    if len(talks) != stage.options.count:
        measured.troubles.append(f"only {len(talks)} of {stage.options.count} sessions told")
    measured.sent = _total(talks, "sent")
    measured.received = _total(talks, "received")
    failed_ns = stage.failed_at_ns
    if failed_ns is None:
        return
    for one in talks:
        pause_ms = longest_ms(map(tuple, one["waits"]), failed_ns)
        if pause_ms is not None:
            times.pause.append(pause_ms)
    measured.gap_ms = max(times.pause, default=None)


def _total(talks: list[Event], what: str) -> Stream:
    digest = hashlib.sha256("".join(one["sha256"][what] for one in talks).encode())
    return Stream(sum(one[what] for one in talks), digest.hexdigest())


def _look_at_primary(stage: Stage, talks: list[Event], measured: Measured) -> None:
    """What the dead application had echoed of each session must be how the session begins."""
    count, digest, good = 0, hashlib.sha256(), True
    for one in talks:
        reached = progress.read(stage.progress("re0") / one["name"])
        if reached is not None:
            count += reached.count
            digest.update(reached.sha256.encode())
            good &= records.stream_sha256(one["session"], reached.count) == reached.sha256
    if talks:
        measured.primary = Stream(count, digest.hexdigest())
        measured.primary_prefix = good


def _facts(talks: list[Event], times: Times, interval_s: float) -> dict[str, Any]:
    return {
        "count": len(talks),
        "continued": sum(not one["trouble"] for one in talks),
        "interval_s": interval_s,
        "protect_ms": {"all": round(times.protect_all, 3)} | _spread(times.protect),
        "in_force_ms": _spread(times.in_force),
        "first_segment_ms": _spread(times.first_segment),
        "told_ms": _spread(times.told),
        "pause_ms": _spread(times.pause),
    }


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    found = sorted(values)
    return {
        "min": round(found[0], 3),
        "median": round(statistics.median(found), 3),
        "p99": round(found[int(len(found) * 0.99)], 3),
        "max": round(found[-1], 3),
    }
