"""The snapshot's encoding: exact, bounded, and unimpressed by what a hostile node sends."""

import dataclasses
import random
import socket
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from prl.kernel.tcp_info import TcpState
from prl.shadow import SNAPSHOT_LIMIT_BYTES, Endpoint, SnapshotError, TcpSnapshot, decode, encode
from prl.shadow.snapshot import (
    QUEUES_LIMIT_BYTES,
    ApplicationOptions,
    NetworkOptions,
    RepairWindow,
)

MUTATIONS = 5000

SNAPSHOT = TcpSnapshot(
    family=socket.AF_INET,
    state=TcpState.ESTABLISHED,
    local=Endpoint.of(ip_address("192.0.2.100"), 179),
    remote=Endpoint.of(ip_address("192.0.2.1"), 40000),
    rcv_seq=0xFFFFFFFF,
    snd_seq=0,
    unread=b"unread secret",
    unacked=b"unacknowledged secret",
    mss=1460,
    window_scaling=True,
    snd_wscale=7,
    rcv_wscale=14,
    sack=True,
    timestamps=True,
    tsval=0xFFFFFFFE,
    repair_window=RepairWindow(1, 2, 3, 4, 5),
    md5_key=b"key secret",
    options=ApplicationOptions(
        congestion="cubic",
        nodelay=True,
        keepalive=True,
        keepidle_s=7200,
        keepintvl_s=75,
        keepcnt=9,
        user_timeout_ms=0,
    ),
    network=NetworkOptions(tos=0xC0, ttl=1, min_ttl=255, bound_device="vrf-blue"),
    segs_in=77,
)
IPV6 = dataclasses.replace(
    SNAPSHOT,
    family=socket.AF_INET6,
    local=Endpoint.of(ip_address("fe80::1"), 179, "lan0"),
    remote=Endpoint.of(ip_address("fe80::2"), 40000, "lan0"),
    repair_window=RepairWindow(1, 2, 3, 4, 5, (6, 7)),
)


def fields(**changes: Any) -> bytes:
    """A blob that differs from a good one in some of its members."""
    good: dict[str, Any] = msgspec.msgpack.decode(encode(SNAPSHOT))
    return msgspec.msgpack.encode(good | changes)


@pytest.mark.parametrize("snapshot", [SNAPSHOT, IPV6])
def test_round_trip_is_exact(snapshot: TcpSnapshot) -> None:
    assert decode(encode(snapshot)) == snapshot


def test_names_both_ends() -> None:
    assert str(SNAPSHOT) == "192.0.2.100:179 <-> 192.0.2.1:40000"
    assert str(IPV6) == "[fe80::1%lan0]:179 <-> [fe80::2%lan0]:40000"


def test_payload_never_reaches_a_log() -> None:
    assert "secret" not in repr(SNAPSHOT)


def test_a_newer_nodes_extra_member_is_skipped() -> None:
    assert decode(fields(invented_later=[1, 2, 3])) == SNAPSHOT


def test_an_older_nodes_missing_member_takes_its_default() -> None:
    good: dict[str, Any] = msgspec.msgpack.decode(encode(SNAPSHOT))
    del good["ecn"]
    assert decode(msgspec.msgpack.encode(good)) == SNAPSHOT


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 3}, "version 3"),
        ({"family": socket.AF_INET6}, "do not fit"),
        ({"family": socket.AF_UNIX}, "do not fit"),
        ({"state": TcpState.LAST_ACK}, "has no clone"),
        ({"md5_key": b"x" * 81}, "md5_key"),
        ({"rcv_seq": -1}, "rcv_seq"),
        ({"snd_seq": 1 << 32}, "snd_seq"),
        ({"snd_wscale": 15}, "snd_wscale"),
        ({"mss": 0}, "mss"),
        ({"mss": "1460"}, "mss"),
        ({"unread": "text"}, "unread"),
        ({"local": {"packed": b"\1\2\3", "port": 1}}, "local"),
        ({"local": {"packed": b"\1\2\3\4", "port": 0}}, "port"),
        ({"local": {"packed": b"\1\2\3\4", "port": 1, "scope": "../../etc"}}, "scope"),
        ({"repair_window": {"snd_wl1": 1}}, "repair_window"),
        ({"network": {"tos": 0, "ttl": 1, "bound_device": "a" * 16}}, "bound_device"),
        ({"network": {"tos": 0, "ttl": 1, "bound_device": "eth0\n"}}, "bound_device"),
    ],
)
def test_inconsistent_snapshot_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(SnapshotError, match=why):
        decode(fields(**changes))


@pytest.mark.parametrize("blob", [b"", b"\x80", b"\xc1", b"\x91" * 100_000, encode(SNAPSHOT)[:-1]])
def test_garbage_is_refused(blob: bytes) -> None:
    with pytest.raises(SnapshotError, match="malformed"):
        decode(blob)


def test_mutated_snapshots_are_read_or_refused() -> None:
    rng = random.Random(1)
    good = encode(IPV6)
    for _ in range(MUTATIONS):
        blob = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            blob[rng.randrange(len(blob))] = rng.randrange(256)
        try:
            decode(blob[: rng.choice((len(blob), rng.randrange(len(blob))))])
        except SnapshotError:
            continue


def test_limits_hold_on_both_sides() -> None:
    full = dataclasses.replace(SNAPSHOT, unread=bytes(QUEUES_LIMIT_BYTES), unacked=b"")
    assert decode(encode(full)) == full
    with pytest.raises(SnapshotError, match="exceed"):
        decode(encode(dataclasses.replace(full, unacked=b"x")))
    with pytest.raises(SnapshotError, match="exceeds"):
        encode(dataclasses.replace(full, unacked=bytes(1 << 20)))
    with pytest.raises(SnapshotError, match="exceeds"):
        decode(bytes(SNAPSHOT_LIMIT_BYTES + 1))


def test_the_right_edge_is_said_where_the_window_does_not_say_it() -> None:
    window = RepairWindow(1, 2, 3, 0x20, 0xFFFFFFF0)
    assert window.edge == 0x10
    assert dataclasses.replace(window, extra=(9, 8)).edge == 9


def test_version_0_1_0_reads_it() -> None:
    """It wants a member that nobody uses any more."""
    said: dict[str, Any] = msgspec.msgpack.decode(encode(SNAPSHOT))
    assert said["unsent_bytes"] == 0
    assert decode(fields(unsent_bytes=21)).unacked == SNAPSHOT.unacked
