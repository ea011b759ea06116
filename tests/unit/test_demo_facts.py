"""What the demo concludes from what it measured, and the pieces it measures with."""

import hashlib
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from prl.client.replay_buffer import CutOff, CutOffError
from prl.demo import progress
from prl.demo.facts import Measured, Scenario, Stream, differences, facts, verdict
from prl.demo.gobgp import parse_gobgp, table_dump
from prl.demo.openbgpd import parse_openbgpd
from prl.demo.pauses import Pauses, longest_ms
from prl.demo.payload import BLOCK_BYTES, Payload
from prl.demo.progress import Progress
from prl.demo.roles import Echo, Sink, Source
from prl.demo.routers import Place, make_routes, parse_bird, parse_frr
from prl.demo.transfer import look_whether_too_early

SCENARIO = Scenario("upload", "socat", 4, "native")


def good() -> Measured:
    return Measured(
        sent=Stream(100, "aa"),
        received=Stream(100, "aa"),
        primary=Stream(40, "bb"),
        primary_prefix=True,
        gap_ms=210.5,
        detect_ms=120.0,
        takeover_ms=0.4,
    )


def test_the_facts_have_the_fields_of_the_specification() -> None:
    assert facts(SCENARIO, good()) == {
        "schema": 1,
        "scenario": "upload",
        "peer": "socat",
        "family": 4,
        "mode": "native",
        "survived": True,
        "inconclusive": False,
        "bytes": {"sent": 100, "received": 100, "primary": 40},
        "sha256": {"sent": "aa", "received": "aa"},
        "primary_prefix": True,
        "gap_ms": 210.5,
        "detect_ms": 120.0,
        "takeover_ms": 0.4,
        "why": None,
    }


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sent": Stream()}, "nothing was sent"),
        ({"received": Stream()}, "nothing was received"),
        ({"received": Stream(99, "aa")}, "100 bytes were sent and 99 received"),
        ({"received": Stream(100, "cc")}, "not the same"),
        ({"primary": Stream()}, "left no word"),
        ({"primary_prefix": False}, "no part of it"),
        ({"gap_ms": None}, "no byte passed after the failure"),
        ({"too_early": True, "received": Stream(99, "aa")}, "100 bytes were sent and 99 received"),
        ({"troubles": ["the peer's socat failed"]}, "the peer's socat failed"),
    ],
)
def test_anything_that_is_not_exact_is_a_loss_and_named(
    change: dict[str, object], why: str
) -> None:
    measured = good()
    for name, value in change.items():
        setattr(measured, name, value)
    shown = facts(SCENARIO, measured)
    assert (shown["survived"], shown["inconclusive"]) == (False, False)
    assert why in shown["why"]
    assert verdict(shown).startswith("LOST: upload with socat over IPv4 (native): ")


@pytest.mark.parametrize(("gap_ms", "had_all"), [(None, False), (3.0, True)])
def test_what_was_over_before_the_failure_shows_nothing(
    gap_ms: float | None, *, had_all: bool
) -> None:
    measured = good()
    measured.gap_ms = gap_ms
    measured.too_early = had_all
    look_whether_too_early(measured, Payload(100))
    shown = facts(SCENARIO, measured)
    assert (shown["survived"], shown["inconclusive"]) == (False, True)
    line = verdict(shown)
    assert line.startswith("INCONCLUSIVE: upload with socat over IPv4 (native): it was over before")
    assert "--size" in line


def test_a_transfer_that_never_ended_was_not_over() -> None:
    measured = good()
    measured.gap_ms = None
    measured.received = Stream(99, "aa")
    look_whether_too_early(measured, Payload(100))
    assert verdict(facts(SCENARIO, measured)).startswith("LOST: ")


def test_the_verdict_names_what_was_measured() -> None:
    assert not differences(good())
    line = verdict(facts(SCENARIO, good()))
    assert line.startswith("SURVIVED upload with socat over IPv4 (native): 100 bytes exact")
    assert "longest pause 210.5 ms" in line


def test_the_payload_is_the_same_from_any_offset() -> None:
    size = 2 * BLOCK_BYTES + 77
    payload = Payload(size)
    whole = b"".join(bytes(payload.at(offset)) for offset in range(0, size, BLOCK_BYTES))
    assert len(whole) == size
    for offset in (0, 1, 4095, BLOCK_BYTES - 1, BLOCK_BYTES, size - 1):
        part = bytes(Payload(size).at(offset, 100))
        assert part == whole[offset : offset + len(part)]
        assert part
    assert not payload.at(size)
    assert payload.sha256() == hashlib.sha256(whole).hexdigest()
    assert payload.sha256(5000) == hashlib.sha256(whole[:5000]).hexdigest()
    assert whole[:BLOCK_BYTES] != whole[BLOCK_BYTES : 2 * BLOCK_BYTES]


def test_progress_survives_a_death_in_the_middle_of_a_write(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    assert progress.read(path) is None
    writer = Progress(path)
    assert progress.read(path) is None
    for count in range(1, 6):
        writer.note(count, hashlib.sha256(bytes(count)).digest())
        reached = progress.read(path)
        assert reached is not None
        assert (reached.count, reached.sha256) == (count, hashlib.sha256(bytes(count)).hexdigest())
    whole = path.read_bytes()
    for torn in range(64):  # the slot that would be written next, in any state
        damaged = bytearray(whole)
        damaged[torn] ^= 0xFF
        path.write_bytes(damaged)
        reached = progress.read(path)
        assert reached is not None
        assert reached.count == 5


def test_the_longest_pause_after_the_failure_counts() -> None:
    spans = [(0, 9_000_000), (10_000_000, 15_000_000), (16_000_000, 17_000_000)]
    assert longest_ms(spans, after_ns=12_000_000) == 5.0
    assert longest_ms(spans, after_ns=20_000_000) is None
    pauses = Pauses()
    for _ in range(100):
        pauses.note()
    assert len(pauses.spans()) == 32


@pytest.mark.parametrize("acknowledged", [0, 3, 10])
@pytest.mark.parametrize("cut", range(10, 21))
def test_cut_off_output_goes_on_at_the_exact_byte(acknowledged: int, cut: int) -> None:
    stream = bytes(range(30))
    for behind in range(31):
        output = CutOff(1000)
        output.append(stream[:behind])
        output.raise_floor(acknowledged)
        output.go_on_at(cut)
        sent = bytearray()
        output.append(stream[behind:])
        while part := output.peek(4):
            sent += part
            output.consume(len(part))
        assert sent == stream[cut:]


def test_cut_off_output_that_is_gone_cannot_come_back() -> None:
    output = CutOff(1000)
    output.append(b"0123456789")
    output.raise_floor(5)
    with pytest.raises(CutOffError):
        output.go_on_at(4)


def test_cut_off_output_is_bounded() -> None:
    output = CutOff(8)
    output.append(b"0123456789")
    before = output.is_full
    output.raise_floor(9)
    assert (before, output.is_full) == (True, False)
    assert output.pending_bytes == 1


def test_a_source_goes_on_where_the_other_ended_and_hashes_the_whole() -> None:
    payload = Payload(5_000_000)
    source = Source(payload)
    source.go_on_at(1_234_567)
    written = bytearray()
    while not source.is_done():
        part = bytes(source.due())[:70_000]
        written += part
        source.sent(len(part))
    assert len(written) == 5_000_000 - 1_234_567
    count, digest = source.reached()
    assert (count, digest.hex()) == (5_000_000, Payload(5_000_000).sha256())


def test_an_echo_goes_on_after_what_the_peer_has_had() -> None:
    echo = Echo()
    echo.take(memoryview(b"hello world"))
    echo.acknowledged(3)
    echo.go_on_at(6)
    echo.input_ended()
    assert echo.due() == b"world"
    echo.sent(5)
    assert echo.is_done()


def test_a_sink_counts_and_hashes_what_it_reads() -> None:
    sink = Sink()
    sink.take(memoryview(b"ab"))
    sink.take(memoryview(b"c"))
    assert sink.reached() == (3, hashlib.sha256(b"abc").digest())
    sink.input_ended()
    done: bool = sink.is_done()
    assert done


BIRD_SHOWN = """\
BIRD 2.0.12 ready.
Name       Proto      Table      State  Since                       Info
prl        BGP        ---        up     2026-11-22 13:34:58.685241  Established
  BGP state:          Established
    Route change stats:     received   rejected   filtered    ignored   accepted
      Import updates:              3          0          0          0          3
      Import withdraws:            2          0        ---          0          0
"""
BIRD_ROUTES = """\
BIRD 2.0.12 ready.
Table master4:
198.18.240.0/24      unicast [prl 2026-11-22 13:34:00.346303] * (100) [AS65001i]
\tvia 192.0.2.100 on lan0
"""


def test_what_bird_says_is_read() -> None:
    view = parse_bird(BIRD_SHOWN, BIRD_ROUTES, "198.18.0.0/24  blackhole [early_routes]\n")
    assert (view.state, view.flaps, view.withdrawn) == ("Established", 0, 2)
    assert view.since is not None
    assert view.since.isoformat() == "2026-11-22T13:34:58.685241"
    assert list(view.routes) == ["198.18.240.0/24"]
    assert view.announced == ("198.18.0.0/24",)
    later = parse_bird(BIRD_SHOWN, BIRD_ROUTES.replace("13:34:00.3463", "13:34:00.3462"), "")
    anew = parse_bird(BIRD_SHOWN, BIRD_ROUTES.replace("13:34:00", "13:34:09"), "")
    assert view.has_same_routes(later)
    assert not view.has_same_routes(anew)


def test_what_frr_says_is_read() -> None:
    about = {"bgpState": "Established", "bgpTimerUpEstablishedEpoch": 100, "connectionsDropped": 1}
    routes = {"routes": {"198.18.240.0/24": [{"version": 101}]}}
    view = parse_frr(about, routes, {"advertisedRoutes": {"198.18.0.0/24": {}}})
    assert (view.state, view.flaps, view.announced) == ("Established", 1, ("198.18.0.0/24",))
    assert view.is_as_old(parse_frr(about | {"bgpTimerUpEstablishedEpoch": 101}, routes, {}))
    assert not view.is_as_old(parse_frr(about | {"bgpTimerUpEstablishedEpoch": 110}, routes, {}))
    assert not view.is_as_old(parse_frr({}, {}, {}))


def gobgp_says(**received: int) -> dict[str, Any]:
    """As 3.10 does: what is 0 is not said."""
    state = {"session_state": 6, "messages": {"received": received}}
    return {"state": state, "timers": {"state": {"uptime": {"seconds": 100}}}}


def test_what_gobgp_says_is_read() -> None:
    heard = {"198.18.240.0/24": [{"age": 101}]}
    about = gobgp_says(update=3, withdraw_prefix=2)
    view = parse_gobgp(about, heard, {"198.18.0.0/24": []})
    assert (view.state, view.flaps, view.withdrawn, view.updates) == ("Established", 0, 2, 3)
    assert view.announced == ("198.18.0.0/24",)
    assert view.is_as_old(parse_gobgp(gobgp_says(), heard, {}))
    assert view.has_same_routes(parse_gobgp(gobgp_says(), heard, {}))
    anew = parse_gobgp(gobgp_says(), {"198.18.240.0/24": [{"age": 102}]}, {})
    assert not view.has_same_routes(anew)
    down = {"state": {"session_state": 3, "messages": {}, "flops": 1}, "timers": {}}
    assert not view.is_as_old(parse_gobgp(down, {}, {}))
    assert (parse_gobgp(down, {}, {}).state, parse_gobgp(down, {}, {}).flaps) == ("Active", 1)


@pytest.mark.parametrize(
    ("route", "local", "attributes"),
    [
        ("198.18.240.0/24", "192.0.2.1", b"\x40\3\4\xc0\0\2\1"),
        (
            "2001:db8:f000::/48",
            "2001:db8::1",
            # The whole attribute: AFI, SAFI, next hop, a reserved octet, the prefix.
            b"\x80\x0e\x1c\0\2\1\x10\x20\1\x0d\xb8" + bytes(11) + b"\1\0\x30\x20\1\x0d\xb8\xf0\0",
        ),
    ],
)
def test_a_dump_for_gobgp_is_one_of_a_table(route: str, local: str, attributes: bytes) -> None:
    """RFC 6396: a table of one peer, then a record for each route."""
    prefix = ip_network(route)
    place = Place(
        lab=Mock(),
        directory=Path(),
        local=ip_address(local),
        neighbour=ip_address(local),
        before=(),
        after=(),
    )
    dump = table_dump((prefix,), place)
    length = int.from_bytes(dump[8:12], "big")
    assert dump[:8] == b"\0\0\0\0\0\x0d\0\1"
    record = dump[12 + length :]
    assert record[4:8] == b"\0\x0d\0" + (b"\2" if prefix.version == 4 else b"\4")
    assert int.from_bytes(record[8:12], "big") == len(record) - 12
    octets = prefix.network_address.packed[: prefix.prefixlen // 8]
    assert record[16 : 17 + len(octets)] == bytes([prefix.prefixlen]) + octets
    assert record.endswith(b"\x40\1\1\0\x40\2\0" + attributes)


def openbgpd_says(up_s: int, **received: int) -> dict[str, Any]:
    stats = {"message": {"received": {"open": 1}}, "update": {"received": received}}
    return {"state": "Established", "last_updown_sec": up_s, "stats": stats}


def test_what_openbgpd_says_is_read() -> None:
    now = datetime(2026, 11, 29, 7, 0, 0)  # noqa: DTZ001 - in UTC, as views are
    heard, told = ({"rib": [{"prefix": prefix}]} for prefix in ("198.18.240.0/24", "198.18.0.0/24"))
    view = parse_openbgpd(openbgpd_says(60, updates=3, withdraws=2), heard, told, now)
    assert (view.state, view.flaps, view.withdrawn, view.updates) == ("Established", 0, 2, 3)
    assert (list(view.routes), view.announced) == (["198.18.240.0/24"], ("198.18.0.0/24",))
    later = parse_openbgpd(
        openbgpd_says(70, updates=3, withdraws=2), heard, told, now + timedelta(seconds=10)
    )
    assert view.is_as_old(later)
    again = parse_openbgpd(openbgpd_says(2, updates=4, withdraws=2), heard, told, now)
    assert not view.is_as_old(again)


@pytest.mark.parametrize("version", [4, 6])
def test_routes_are_distinct_and_of_the_right_family(version: int) -> None:
    routes = make_routes(version, 0, 256)
    assert len(set(routes)) == 256
    assert {route.version for route in routes} == {version}
