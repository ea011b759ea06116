"""BGP with stock daemons on our nodes, too: behind fronts, and the peer's session never flaps.

A round is all that happens to a router in its life: a node loses its power, comes back, the daemon
of the other one is killed, for which the first one goes on, and the service is moved again.
"""

import hashlib
import time
from collections.abc import Iterable
from typing import Any

from prl.client import Node
from prl.demo.facts import Measured, Scenario, Stream
from prl.demo.fronted import NODES, RouterPair, Setting
from prl.demo.hairpin import Hairpin, let_forward
from prl.demo.routers import HOLD_TIME_S, View, many_routes
from prl.demo.stage import Stage
from prl.demo.transfer import scenario
from prl.errors import PrlError

LATER = 50
"""Routes that the peer announces just after the first loss of power."""
WATCH_S = HOLD_TIME_S * 1.2
"""A session that nobody keeps alive would be gone by then."""


def play_router(stage: Stage) -> tuple[Scenario, Measured]:
    """The peer's own tool must see no flap, no withdrawn route and no UPDATE said twice."""
    measured = Measured()
    options = stage.options
    theirs = many_routes(options.family, 0, options.routes + LATER)
    setting = Setting(
        daemon=options.daemon,
        peer=options.peer,
        version=options.family,
        ours=many_routes(options.family, 1, options.routes),
        theirs=theirs[: options.routes],
        later=theirs[options.routes :],
        md5=options.md5,
    )
    pair = RouterPair(stage.lab, stage.scratch, setting)
    stage.at_end(pair.end)
    try:
        _play(stage, pair, measured)
    except PrlError as error:
        measured.troubles.append(str(error))
    return scenario(stage, "bgp", f"{options.peer} and {options.daemon}"), measured


def _play(stage: Stage, pair: RouterPair, measured: Measured) -> None:
    setting = pair.setting
    stage.narrate(
        f"{setting.daemon} starts on both nodes behind prl-bgp, {setting.peer} is the peer; "
        f"{len(setting.ours)} routes each way"
    )
    pair.start()
    before = pair.peer.view()
    stage.narrate(f"Established since {before.since}; the standby is ready")
    owner = NODES[0]
    hairpin = _start_flow(stage, pair)
    rounds: list[dict[str, Any]] = []
    for _ in range(stage.options.rounds):
        rounds.append(_round(stage, pair, measured, before, owner, hairpin))
        owner = rounds[-1]["owner"]
        if measured.troubles:
            break
    hairpin.mark("quiet")
    time.sleep(WATCH_S)
    interrupted = hairpin.end()
    after = pair.peer.view()
    _judge(measured, before, after, "at the end")
    measured.sent = _stream(after.announced)
    measured.received = _stream(pair.daemons[owner].forwarded())
    measured.more = {
        "bgp": {
            "daemon": setting.daemon,
            "state": after.state,
            "since": {"before": str(before.since), "after": str(after.since)},
            "flaps": after.flaps - before.flaps,
            "withdrawn": after.withdrawn - before.withdrawn,
            "updates_said_again": after.updates - before.updates,
            "our_routes_unchanged": after.has_same_routes(before),
            "routes": {"ours": len(before.routes), "theirs": len(after.announced)},
            "forwarding_interrupted_ms": interrupted,
            "rounds": rounds,
        }
    }


def _start_flow(stage: Stage, pair: RouterPair) -> Hairpin:
    for node in NODES:
        let_forward(stage.lab, node)
    to = pair.setting.theirs[0].network_address
    via = stage.address
    return Hairpin(stage.lab, to + (to.version != 4), via)  # noqa: PLR2004 - ::0 is the routers'


def _round(
    stage: Stage,
    pair: RouterPair,
    measured: Measured,
    before: View,
    owner: str,
    hairpin: Hairpin,
) -> dict[str, Any]:
    """All of it, from the owner's loss of power on; its "owner" has the session at the end."""
    (other,) = set(NODES) - {owner}
    had = {node: pair.daemons[node].forwarded() for node in NODES}
    if had[owner] != had[other]:
        measured.troubles.append(f"{other}'s kernel had other routes than {owner}'s")
    is_first = stage.failed_at_ns is None
    hairpin.mark("power")
    stage.fail(owner)
    if is_first:
        pair.peer.announce_more()
    theirs = len(pair.setting.theirs) + len(pair.setting.later)
    pair.wait(f"{other} goes on", lambda: pair.goes_on(other, theirs))
    stage.measure_takeover(measured, other)
    if measured.detect_ms is not None and measured.takeover_ms is not None:
        measured.gap_ms = round(measured.detect_ms + measured.takeover_ms, 3)
    measured.primary = _stream(had[owner])
    measured.primary_prefix = had[owner] <= pair.daemons[other].forwarded()
    _judge(measured, before, pair.peer.view(), f"after {owner}'s loss of power")

    began_s = time.monotonic()
    hairpin.mark("return")
    stage.lab.heal(owner)
    let_forward(stage.lab, owner)
    pair.start_node(owner)
    pair.wait(f"{owner} could go on", lambda: pair.is_ready(other))
    pair.wait_forwarding(owner, theirs)
    healed_s = round(time.monotonic() - began_s, 3)
    stage.narrate(f"{owner} is back, and could go on with the session after {healed_s} s")

    hairpin.mark("daemon")
    pair.kill_daemon(other)
    pair.wait(f"{owner} goes on", lambda: pair.goes_on(owner, theirs))
    pair.daemons[other].start()
    pair.wait(f"{other} could go on", lambda: pair.is_ready(owner))
    pair.wait_forwarding(other, theirs)
    stage.narrate(f"{pair.setting.daemon} on {other} was killed: {owner} has gone on; it is back")
    _judge(measured, before, pair.peer.view(), f"after the death of {other}'s daemon")

    hairpin.mark("move")
    with Node(stage.socket(owner)) as prld:
        told = prld.request({"op": "switchover", "service": "", "forced": False})
    pair.wait(f"{other} goes on", lambda: pair.goes_on(other, theirs))
    pair.wait(f"{owner} could go on", lambda: pair.is_ready(other))
    pair.wait_forwarding(owner, theirs)
    stage.narrate(f"moved from {owner} to {other}, silent for {told['silent_ms']} ms")
    _judge(measured, before, pair.peer.view(), "after the move")
    return {
        "owner": other,
        "detect_ms": measured.detect_ms,
        "takeover_ms": measured.takeover_ms,
        "healed_s": healed_s,
        "move_silent_ms": told["silent_ms"],
    }


def _judge(measured: Measured, before: View, now: View, when: str) -> None:
    found = {
        f"the session is {now.state}": now.state != "Established",
        f"Established since {now.since}, before: {before.since}": not now.is_as_old(before),
        "the peer counts a flap": now.flaps != before.flaps,
        "the peer's routes from us are not what they were": not now.has_same_routes(before),
        f"{now.updates - before.updates} UPDATEs were said again": now.updates != before.updates,
    }
    measured.troubles += [f"{when}: {words}" for words, is_so in found.items() if is_so]


def _stream(prefixes: Iterable[str]) -> Stream:
    """Routes as text, one a line, sorted."""
    text = "".join(f"{prefix}\n" for prefix in sorted(prefixes)).encode()
    return Stream(len(text), hashlib.sha256(text).hexdigest())
