"""What one more idle session takes in Python (SPEC T7): counted object by object, not measured."""

import gc
import sys
import types
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from prl.bindings.datapath import Tuple
from prl.daemon.events.log import EventLog
from prl.daemon.session import cloning
from prl.daemon.session.cloning import shared_address
from prl.daemon.session.sessions import Session
from prl.daemon.session.shadows import Shadow
from prl.daemon.session.streams import Streams
from prl.shadow import decode, encode
from tests.unit.test_snapshot_codec import SNAPSHOT

# A bound is what was counted when it was recorded, of one that something happens to. An entry of a
# table, some 40 bytes, and the datapath's share (tests/kernel/test_counts.py) come on top. One that
# nothing happens to has none of all that (tests/unit/test_known.py).
SESSION_BYTES_MAX = 330
SHADOW_BYTES_MAX = 280
EVENT_BYTES_MAX = 170


class Application:
    """Shared by all its sessions."""

    def send_event(self, *_: object) -> None:
        """Nothing."""


APPLICATION: Any = Application()


def reachable(*roots: object) -> dict[int, object]:
    found: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in found or isinstance(one, type | types.ModuleType | types.FunctionType):
            continue
        found[id(one)] = one
        waiting += gc.get_referents(one)
    return found


def one_more(first: object, second: object) -> int:
    """Bytes of what ``second`` has and ``first`` has not."""
    shared = reachable(first)
    own = [one for key, one in reachable(second).items() if key not in shared]
    return sum(map(sys.getsizeof, own))  # the collector's header included


def ends(port: int) -> Tuple:
    service = shared_address("192.0.2.100")
    return Tuple(service, 7000, shared_address(IPv4Address("192.0.2.1").packed), port)


def session(port: int) -> Session:
    made = Session(ends(port), 0, APPLICATION, b"", streams=Streams(-port, -2 * port))
    made.mend()
    made.handle, made.generation, made.introduced = port + 1000, 1, True
    made.mended(float(port))
    return made


def shadow(port: int) -> Shadow:
    taken = decode(encode(replace(SNAPSHOT, snd_seq=port)))  # as it arrives
    return Shadow(
        handle=port + 1000,
        generation=1,
        ends=ends(port),
        service=0,
        client=APPLICATION,
        application=b"",
        renew=False,
        out_bytes=port + 100_000,
        hop=None,
        options=cloning.options_of(taken),
        streams=Streams(-port, -2 * port),
    )


def test_an_idle_session() -> None:
    first, second = session(40_000), session(40_001)
    assert second.mending is None
    found = one_more(first, second)
    assert 0 < found <= SESSION_BYTES_MAX


def test_an_idle_shadow() -> None:
    first, second = shadow(40_000), shadow(40_001)
    assert first.options is second.options
    found = one_more(first, second)
    assert 0 < found <= SHADOW_BYTES_MAX


def test_an_event() -> None:
    history = EventLog(lambda _: None)
    sizes = []
    for port in (40_000, 40_001):
        words = f"192.0.2.100:7000 <-> 192.0.2.1:{port}: protected"
        history.info("active", words, handle=port, frozen_us=1000)
        sizes.append(history.size_bytes())
    assert sizes[1] - sizes[0] <= EVENT_BYTES_MAX
    assert [record.facts["handle"] for record in history.after(1, 9)] == [40_001]
    assert history.after(2, 9) == []
