"""The receive space of both sides (R10), and what becomes of every packet (R3 to R6)."""

import json
import os
import re
import signal
import socket
import struct
from ipaddress import ip_address
from typing import Any

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.lab.processes import parent_of, pids_in
from tests.system import support
from tests.system.support import Applications, Peer, eventually, pair
from tests.tcp_info import rwnd_limited_us, segs_in
from tests.unit.test_packet import ones_sum, packet, pseudo

pytestmark = [pytest.mark.system, pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops")]

SIZE_BYTES = 48 << 20
STALL_US = 1_000_000


def application_of(lab: Lab, node: str) -> int:
    """The test's application there: the one process of the node that is not of prld's two."""
    member = lab.topology.node(node)
    prld = lab.state.pid(member)
    found = [
        pid
        for pid in pids_in(Namespace(member.namespace))
        if pid != prld and parent_of(pid) != prld
    ]
    assert len(found) == 1
    return found[0]


def flow_of(lab: Lab, node: str) -> dict[str, Any]:
    (found,) = support.flows(lab, node)
    handle = str(found["handle"])
    done = support.prlctl("--lab", lab.name, "--node", node, "-j", "flow", "show", handle)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)["flow"]
    return shown


@pytest.mark.parametrize("family", [4, 6])
def test_a_standby_that_does_not_read_slows_the_peer_by_its_window(family: int) -> None:
    payload = Payload(SIZE_BYTES)
    with pair("f8space") as lab:
        apps = Applications(lab, "sink", family, SIZE_BYTES)
        with apps.connect(family) as peer:
            stalled = application_of(lab, "re1")
            os.kill(stalled, signal.SIGSTOP)
            peer.upload(payload)
            eventually("the peer waits for space", lambda: rwnd_limited_us(peer.sock) > STALL_US)
            assert peer.sent < SIZE_BYTES
            counters = flow_of(lab, "re0")["counters"]  # slowed by the window, not by loss
            assert (counters["dropped_space"], counters["dropped_nack"]) == (0, 0)
            os.kill(stalled, signal.SIGCONT)
            peer.finish()
        for node in ("re0", "re1"):  # the standby reads to the end of a session that has ended
            read = apps.expect("read", node, peer=peer.port, bytes=SIZE_BYTES)
            assert read["sha256"] == payload.sha256(SIZE_BYTES)


def test_a_peer_that_waits_for_space_is_told_when_nothing_limits_it_any_more() -> None:
    """Its own stack believes that the window was open all the time, and would say nothing."""
    payload = Payload(SIZE_BYTES)
    with pair("f8open") as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        with apps.connect() as peer:
            stalled = application_of(lab, "re1")
            os.kill(stalled, signal.SIGSTOP)
            peer.upload(payload)
            eventually("the peer waits for space", lambda: rwnd_limited_us(peer.sock) > STALL_US)
            handle = str(flow_of(lab, "re0")["handle"])
            before = support.stats(lab, "re0")["datapath"]["crafted_acks"]
            done = support.prlctl("--lab", lab.name, "--node", "re0", "flow", "del", handle)
            assert done.returncode == 0, done.stderr
            apps.expect("state", "re0", peer=peer.port, state="open")
            assert support.stats(lab, "re0")["datapath"]["crafted_acks"] > before
            peer.finish()
            os.kill(stalled, signal.SIGCONT)
        read = apps.expect("end", "re0", peer=peer.port)
        assert (read["bytes"], read["sha256"]) == (SIZE_BYTES, payload.sha256(SIZE_BYTES))


def is_active(lab: Lab) -> bool:
    """Whether both nodes have the one session, protected."""
    found = [flow["state"] for node in ("re0", "re1") for flow in support.flows(lab, node)]
    return found == ["active", "active"]


def times_sent_again(lab: Lab, node: str) -> int:
    """By the one connection of the application there."""
    found = lab.run(node, ["ss", "-tin", "sport", "=", f":{support.PORT}"], capture_output=True)
    told = re.search(rb"retrans:\d+/(\d+)", found.stdout)
    return int(told[1]) if told else 0


def test_a_shadow_outlives_a_peer_that_reads_nothing() -> None:
    """It hears of the peer only when the owner asks, after twice the time with each.

    And it is made while the peer's window is closed: for it all that waits is under way.
    """
    size = SIZE_BYTES * 4
    with pair("f8shut") as lab:
        apps = Applications(lab, "source", 4, size)
        with apps.connect() as peer:
            peer.hold_at(1 << 20)
            peer.download()
            peer.await_bytes(1 << 20)
            eventually("it is protected", lambda: is_active(lab))
            lab.fail("re1", "kill-prld")
            apps.expect("state", "re0", peer=peer.port, state="open")
            lab.heal("re1")
            eventually("it has another one", lambda: is_active(lab))
            eventually("the shadow waits", lambda: times_sent_again(lab, "re1") > 1, 40.0)
            assert is_active(lab)
            lab.fail("re0", "power")
            peer.finish()
            assert peer.received == size
            assert peer.sha256() == Payload(size).sha256(size)


def assert_every_packet_is_accounted_for(flow: dict[str, Any]) -> None:
    """Received = passed + held + dropped by reason (the datapath itself refused none)."""
    counters = flow["counters"]
    went = ("released", "flushed")
    dropped = ("dropped_full", "dropped_space", "dropped_nack", "dropped_fenced")
    gone = sum(counters[f"{name}_packets"] for name in went) + sum(counters[n] for n in dropped)
    assert counters["in_redirected"] == gone + flow["queue"]["packets"]


def test_a_cut_link_costs_nothing_but_the_protection() -> None:
    with pair("f8cut") as lab:
        apps = Applications(lab, "sink", 4, SIZE_BYTES)
        payload = Payload(SIZE_BYTES)
        with apps.connect() as peer:
            peer.hold_at(SIZE_BYTES // 2)
            peer.upload(payload)
            peer.await_bytes(SIZE_BYTES // 8)
            assert_protected(lab)
            lab.fail("re0", "cut-link")
            apps.expect("state", "re0", peer=peer.port, state="open")
            flow = flow_of(lab, "re0")
            # Alone: nothing has passed since, for the peer had come to where it holds.
            assert flow["state"] in {"open", "alone"}
            assert "link" in flow["reason"]  # lost; or down, when it was tried again since
            assert_every_packet_is_accounted_for(flow)
            assert flow["counters"]["replicated_packets"] > 0
            posted = [e for e in support.events(lab, "re0") if e["event"] == "replication_ended"]
            assert [e["facts"]["handle"] for e in posted] == [flow["handle"]]  # one error a flow
            peer.finish()
        ended = apps.expect("end", "re0", peer=peer.port)
        assert (ended["bytes"], ended["sha256"]) == (SIZE_BYTES, payload.sha256(SIZE_BYTES))
        stats = support.stats(lab, "re0")["datapath"]
        refused = (
            "rx_malformed",
            "rx_bad_checksum",
            "rx_no_frame",
            "rx_no_hold",
            "rx_unknown_flow",
        )
        assert [name for name in refused if stats[name]] == []


def assert_protected(lab: Lab) -> None:
    flow = flow_of(lab, "re0")
    assert flow["state"] == "active"
    assert flow["counters"]["gate_refused"] == 0


def probe(peer: Peer, seq: int) -> bytes:
    """A packet of the peer's with one byte of payload."""
    here, there = (ip_address(end[0]) for end in (peer.sock.getsockname(), peer.sock.getpeername()))
    head = struct.pack("!HHIIBBHHH", peer.port, support.PORT, seq, 0, 5 << 4, 0x10, 501, 0, 0)
    total = ones_sum(pseudo(here, there, socket.IPPROTO_TCP, len(head) + 1) + head + b"x")
    return packet(here, there, head[:16] + struct.pack("!H", 0xFFFF ^ total) + head[18:] + b"x")


def test_a_byte_beyond_the_space_is_answered() -> None:
    """As a peer probes a closed window that does not do it as Linux does (RFC 9293, 3.10.7.4)."""
    with pair("f8probe") as lab:
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            assert peer.ask("before") == "before"
            edge = flow_of(lab, "re0")["receive_space"]["own_edge"]
            place = Namespace(lab.topology.member("peer").namespace)
            before = segs_in(peer.sock)
            with place.call(
                lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            ) as raw:
                raw.sendto(probe(peer, edge), (support.service_address(4), 0))
            eventually("it is answered", lambda: segs_in(peer.sock) > before)
            assert flow_of(lab, "re0")["counters"]["dropped_space"] == 1
            assert peer.ask("after") == "after"
