"""BGP: a stock router whose session with us stays Established though our host dies.

We are a speaker of our own, unless a stock daemon is asked for (prl.demo.router).
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prl.bgp.prefixes import Prefix
from prl.demo.facts import Measured, Scenario, Stream
from prl.demo.peers import PEERS
from prl.demo.player import Cast, Deadline, DemoError
from prl.demo.router import play_router
from prl.demo.routers import (
    HOLD_TIME_S,
    OUR_ASN,
    PEER_ASN,
    Place,
    Router,
    View,
    make_routes,
)
from prl.demo.stage import Stage
from prl.demo.transfer import SETUP_TIMEOUT_S, await_listening, await_protected, scenario

ROUTES_BEFORE = 100
ROUTES_AFTER = 50
# Longer than the hold time: a session that nobody keeps alive would be gone by then.
WATCH_S = HOLD_TIME_S * 1.2
POLL_INTERVAL_S = 0.2
_OUR_ROUTES = 3
NODES = ("re0", "re1")


def bgp(stage: Stage) -> tuple[Scenario, Measured]:
    """The peer's own tool must see no flap, and the other node must know every route."""
    if stage.options.daemon:
        return play_router(stage)
    measured = Measured()
    version = stage.options.family
    peer = stage.lab.topology.peer.lan
    place = Place(
        lab=stage.lab,
        directory=stage.scratch,
        local=peer.ipv4.ip if version == 4 or peer.ipv6 is None else peer.ipv6.ip,  # noqa: PLR2004
        neighbour=stage.address,
        before=make_routes(version, 0, ROUTES_BEFORE),
        after=make_routes(version, ROUTES_BEFORE, ROUTES_AFTER),
        md5=stage.options.md5,
        routed=stage.options.routed,
    )
    router = PEERS[stage.options.peer](place)
    try:
        _play(stage, place, router, measured)
    except DemoError as error:
        last = router.log().strip().splitlines()[-1:] if stage.scratch.exists() else []
        measured.troubles.append("; ".join([str(error), *(f"the peer's log: {x}" for x in last)]))
    return scenario(stage, "bgp", stage.options.peer), measured


def _play(stage: Stage, place: Place, router: Router, measured: Measured) -> None:
    cast = _speakers(stage, place)
    await_listening(cast)
    stage.narrate(f"{stage.options.peer} starts, with {len(place.before)} routes for us")
    router.start()
    await_protected(stage, cast)
    deadline = Deadline(SETUP_TIMEOUT_S)
    for node in NODES:
        cast.expect({"state"}, node, deadline, state="Established", routes=len(place.before))
    before = _await_view(router, lambda view: len(view.routes) == _OUR_ROUTES)
    stage.narrate(f"Established since {before.since}; both nodes know {len(place.before)} routes")
    rounds: list[dict[str, Any]] = []
    for number in range(stage.options.rounds):
        owner, other = NODES[number % 2], NODES[(number + 1) % 2]
        healed_ms = _heal(stage, cast, owner=owner, healed=other) if number else None
        after = _round(stage, cast, place, router, measured, owner=owner, is_first=not number)
        _judge(measured, before, after, place)
        figures = {
            "survivor": other,
            "healed_ms": healed_ms,
            "gap_ms": measured.gap_ms,
            "detect_ms": measured.detect_ms,
            "takeover_ms": measured.takeover_ms,
        }
        rounds.append(_facts(place, before, after, _state(stage, other)) | figures)
        if measured.troubles:
            break
    measured.more = {"bgp": rounds[-1] | ({"rounds": rounds} if stage.options.rounds > 1 else {})}


def _round(
    stage: Stage,
    cast: Cast,
    place: Place,
    router: Router,
    measured: Measured,
    *,
    owner: str,
    is_first: bool,
) -> View:
    """The owner fails; returns what the peer says when the hold time has passed."""
    survivor = NODES[1 - NODES.index(owner)]
    cast.forget(survivor)
    failed_ns = stage.fail(owner)
    primary = _state(stage, owner)
    if is_first:
        router.announce_more()
        stage.narrate(f"the peer announces {len(place.after)} more: nobody has taken over yet")
    expected = len(place.before) + len(place.after)
    speaks = {"routes": expected, "role": "primary"}
    cast.expect({"state"}, survivor, Deadline(SETUP_TIMEOUT_S), **speaks)
    stage.narrate(f"{survivor} knows {expected} routes; now the hold time must pass")
    after = _watch(router, failed_ns)
    _measure(stage, measured, primary, survivor, after)
    stage.measure_takeover(measured, survivor)
    return after


def _heal(stage: Stage, cast: Cast, *, owner: str, healed: str) -> float:
    """The node that failed comes back, and gets a shadow in the middle of the session.

    Returns how long that took from the power on, its prld's and its speaker's start included, in
    milliseconds.
    """
    cast.forget(owner)
    began_s = time.monotonic()
    stage.lab.heal(healed)
    cast.start_again(healed)
    deadline = Deadline(SETUP_TIMEOUT_S)
    cast.expect({"listening"}, healed, deadline)
    cast.expect({"standby"}, healed, deadline)
    cast.expect({"protected"}, owner, deadline)
    healed_ms = round((time.monotonic() - began_s) * 1000, 3)
    stage.narrate(f"{healed} is back, and has a shadow of the session that {owner} serves")
    return healed_ms


def _facts(place: Place, before: View, after: View, now: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": after.state,
        "since": {"before": str(before.since), "after": str(after.since)},
        "flaps": after.flaps - before.flaps,
        "withdrawn": after.withdrawn - before.withdrawn,
        "our_routes_unchanged": after.has_same_routes(before),
        "hold_time_s": now["hold_time_s"],
        "routes": {
            "before": len(place.before),
            "after": len(place.after),
            "learnt": len(now["routes"]),
        },
    }


def _speakers(stage: Stage, place: Place) -> Cast:
    argv = [sys.executable, "-m", "prl.bgp.speaker", "--local", str(place.neighbour)]
    argv += ["--asn", str(OUR_ASN), "--peer", str(place.local), "--peer-asn", str(PEER_ASN)]
    if place.md5:
        key_file = stage.scratch / "md5.key"
        key_file.touch(mode=0o600)
        key_file.write_text(place.md5)
        argv += ["--md5-file", str(key_file)]
    for prefix in _ours(place.version):
        argv += ["--announce", str(prefix)]
    own = {
        node.name: [
            "--state",
            str(stage.scratch / f"{node.name}.json"),
            "--input",
            str(_input(stage, node.name)),
        ]
        for node in stage.lab.topology.nodes
    }
    return Cast(stage.lab, argv, own)


def _ours(version: int) -> tuple[Prefix, ...]:
    return make_routes(version, 0xF0, _OUR_ROUTES)


def _input(stage: Stage, node: str) -> Path:
    return stage.scratch / f"{node}.input"


def _state(stage: Stage, node: str) -> dict[str, Any]:
    path = stage.scratch / f"{node}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DemoError(f"the speaker of {node} left no word of its state: {error}") from error
    return found


def _await_view(router: Router, good: Callable[[View], bool]) -> View:
    """Ask the peer until it says what it should; its tools tell no events."""
    deadline = Deadline(SETUP_TIMEOUT_S)
    while not good(view := router.view()) or view.state != "Established":
        deadline.left_s(f"the peer's session, which is {view.state} with {len(view.routes)} routes")
        time.sleep(POLL_INTERVAL_S)
    return view


def _watch(router: Router, failed_ns: int) -> View:
    """Look at the peer's session until the hold time has passed since the failure."""
    end_s = failed_ns / 1e9 + WATCH_S
    while (view := router.view()).state == "Established":
        left_s = end_s - time.clock_gettime(time.CLOCK_BOOTTIME)
        if left_s <= 0:
            break
        time.sleep(min(POLL_INTERVAL_S, left_s))
    return view


def _judge(measured: Measured, before: View, after: View, place: Place) -> None:
    if after.state != "Established":
        measured.troubles.append(f"the peer's session is {after.state}")
    if not after.is_as_old(before):
        measured.troubles.append(f"Established since {after.since}, before: {before.since}")
    if after.flaps != before.flaps:
        measured.troubles.append("the peer counts a flap")
    if after.withdrawn != before.withdrawn:
        measured.troubles.append("the peer counts a withdrawn route")
    if set(before.routes) != {str(prefix) for prefix in _ours(place.version)}:
        measured.troubles.append("the peer did not have our routes before the failure")
    if not after.has_same_routes(before):
        measured.troubles.append("the peer's routes from us are not what they were")
    if set(after.announced) != {str(prefix) for prefix in (*place.before, *place.after)}:
        measured.troubles.append(f"the peer announces {len(after.announced)} routes")


def _measure(
    stage: Stage, measured: Measured, primary: dict[str, Any], survivor: str, after: View
) -> None:
    """Bytes and hashes are of the routes as text, one a line, sorted: what the session is for."""
    now = _state(stage, survivor)
    measured.sent = _stream(after.announced)
    measured.received = _stream(_prefixes(now))
    measured.primary = _stream(_prefixes(primary))
    measured.primary_prefix = _is_prefix(stage, primary, now, survivor)
    arrivals = [at_ns for at_ns, _ in now["received"]["last"]]
    failed_ns = stage.failed_at_ns
    if failed_ns is not None:
        # A quiet session has pauses of its own: count from the failure to the next input.
        later = [at_ns for at_ns in arrivals if at_ns > failed_ns]
        measured.gap_ms = round((min(later) - failed_ns) / 1e6, 3) if later else None


def _prefixes(state: dict[str, Any]) -> list[str]:
    return [route["prefix"] for route in state["routes"]]


def _stream(prefixes: Iterable[str]) -> Stream:
    text = "".join(f"{prefix}\n" for prefix in sorted(prefixes)).encode()
    return Stream(len(text), hashlib.sha256(text).hexdigest())


def _is_prefix(stage: Stage, dead: dict[str, Any], now: dict[str, Any], survivor: str) -> bool:
    """Whether the dead speaker's input is how the survivor's begins, byte for byte.

    One of them may have joined in later than the other: what both have read must be the same.
    """
    other = NODES[1 - NODES.index(survivor)]
    starts = [part["received"]["began_at"] for part in (dead, now)]
    end = starts[0] + dead["received"]["bytes"]
    inputs = [_input(stage, node).read_bytes() for node in (other, survivor)]
    both = [
        data[max(starts) - start : end - start] for data, start in zip(inputs, starts, strict=True)
    ]
    return both[0] == both[1] and len(both[0]) == end - max(starts)
