"""Every state that a session can be in, through a failover; docs/tcp.md has the table.

Checks R10, R17, R18, R19, R32.
"""

import ctypes
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from prl.bindings.native import lib
from prl.client import NotProtectedError, ShadowVoid
from prl.endpoint import show_endpoint
from prl.errors import ReplicationError, UsageError
from prl.kernel.descriptors import Filter, filter_of
from prl.kernel.tcp_info import TcpState
from prl.lab import blackhole
from prl.shadow.md5 import set_key
from prl.shadow.sockopt import (
    Ip,
    Negotiated,
    Option,
    Queue,
    So,
    Tcp,
    get_bytes,
    get_int,
    get_name,
    queue_bytes,
    set_bytes,
    set_int,
    tcp_info,
)
from tests.system import support
from tests.system.support import eventually
from tests.system.tcp_pair import (
    ABORT,
    Pair,
    abort,
    await_state,
    carry,
    exchange,
    receive,
    rng,
    state_of,
    traffic,
)

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]
FAMILIES = pytest.mark.parametrize("family", support.FAMILIES)
SOME_BYTES = 200_000
SMALL_BUFFER_BYTES = 8192
SECRET = b"the-key-of-RFC-2385"
UNREAD = b"waits to be read\n"
MUCH_UNREAD = 5 * lib.PRL_MOMENT_PIECE + 4321
SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_ATTACH_BPF = 26, 27, 50  # asm-generic/socket.h
TRACED = """
import ctypes, time
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0  # PTRACE_TRACEME
print("traced", flush=True)
time.sleep(600)
"""
RECEIVES = """
import ctypes, socket, sys, time
sock = socket.socket(fileno=int(sys.argv[1]))
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0  # PTRACE_TRACEME
sock.send(b"t")
received = socket.recv_fds(sock, 1, 1)
sock.send(b"r")
time.sleep(600)
"""
OPTIONS: tuple[tuple[Option, int], ...] = (
    (Tcp.NODELAY, 1),
    (So.KEEPALIVE, 1),
    (Tcp.KEEPIDLE, 30),
    (Tcp.KEEPINTVL, 7),
    (Tcp.KEEPCNT, 3),
    (Tcp.USER_TIMEOUT, 12_345),
    (Tcp.NOTSENT_LOWAT, 16_384),
    (Tcp.LINGER2, 9),
    (So.RCVLOWAT, 2),
    (So.MARK, 0x51),
    (Ip.TOS, 0xC0),
    (So.PRIORITY, 5),  # TOS sets it too
    (Ip.TTL, 3),
    (Ip.MTU_DISCOVER, 1),
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Pair]:
    with support.pair(f"tcp{os.getpid() % 10000}") as lab, Pair(lab) as made:
        yield made


@pytest.fixture
def pair(shared: Pair) -> Iterator[Pair]:
    yield shared
    shared.close_sockets()


# -- what the handshake agreed upon


HANDSHAKES = {
    "all": {},
    "no-timestamps": {"tcp_timestamps": 0},
    "no-sack": {"tcp_sack": 0},
    "no-scaling": {"tcp_window_scaling": 0},
    "bare": {"tcp_timestamps": 0, "tcp_sack": 0, "tcp_window_scaling": 0},
}


@FAMILIES
@pytest.mark.parametrize("handshake", HANDSHAKES)
def test_options_of_the_handshake(pair: Pair, family: int, handshake: str) -> None:
    missing = HANDSHAKES[handshake]
    with pair.peer_sysctls(missing):
        live = pair.session(family)
    for sock in (live.app, live.standby):
        options = Negotiated(tcp_info(sock).options)
        assert (Negotiated.TIMESTAMPS in options) == ("tcp_timestamps" not in missing)
        assert (Negotiated.SACK in options) == ("tcp_sack" not in missing)
        assert (Negotiated.WINDOW_SCALE in options) == ("tcp_window_scaling" not in missing)
    traffic(live, SOME_BYTES)


def buffer_for(scale: int) -> int:
    """SO_RCVBUF from which the kernel derives this window scale: it doubles, and half is space."""
    return min((1 << 15 + scale) + (1 << 14 + scale), (1 << 30) - 1)


@FAMILIES
@pytest.mark.parametrize("scale", range(15))
def test_window_scale(pair: Pair, family: int, scale: int) -> None:
    """Ours goes up, the peer's down."""

    def ours(sock: socket.socket) -> None:
        set_int(sock, So.RCVBUFFORCE, buffer_for(scale))

    def theirs(sock: socket.socket) -> None:
        set_int(sock, So.RCVBUFFORCE, buffer_for(14 - scale))

    live = pair.session(family, listener=ours, peer=theirs)
    for sock in (live.app, live.standby):
        assert (tcp_info(sock).rcv_wscale, tcp_info(sock).snd_wscale) == (scale, 14 - scale)
    traffic(live, SOME_BYTES // 10)


# -- ends of a direction, before and after the protection


@FAMILIES
@pytest.mark.parametrize("key", [b"", b"secret"], ids=["", "signed"])
def test_a_session_that_the_node_has_opened_itself(pair: Pair, family: int, key: bytes) -> None:
    """The standby's application waits for it by the peer's end, whatever the local port."""
    live = pair.protect(*pair.open(family, key=key), opened=True)
    traffic(live, SOME_BYTES)


@FAMILIES
def test_the_peer_had_ended_its_direction_before(pair: Pair, family: int) -> None:
    peer, app = pair.connect(family)
    peer.sendall(b"the last word")
    peer.shutdown(socket.SHUT_WR)
    await_state(app, TcpState.CLOSE_WAIT)
    assert receive(app, 4) == b"the "
    live = pair.protect(peer, app)
    live.are("FIN_WAIT2", "CLOSE_WAIT", "CLOSE_WAIT")
    assert receive(live.standby, 9) == b"last word"
    assert live.standby.recv(1) == b""
    said = rng.randbytes(SOME_BYTES)
    live.app.sendall(said)
    assert receive(peer, SOME_BYTES) == said
    live.fail_over()
    live.went_on("FIN_WAIT2", "CLOSE_WAIT")
    live.standby.sendall(said)
    assert receive(peer, SOME_BYTES) == said
    live.standby.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b""


@FAMILIES
def test_the_application_had_ended_its_direction_before(pair: Pair, family: int) -> None:
    peer, app = pair.connect(family)
    app.sendall(b"my last word")
    app.shutdown(socket.SHUT_WR)
    await_state(app, TcpState.FIN_WAIT2)
    live = pair.protect(peer, app)
    live.are("CLOSE_WAIT", "FIN_WAIT2", "FIN_WAIT2")
    live.peer.sendall(b"still heard")
    assert receive(app, 11) == b"still heard"
    live.fail_over()
    live.went_on("CLOSE_WAIT", "FIN_WAIT2")
    live.peer.sendall(b", still")
    assert receive(live.standby, 18) == b"still heard, still"
    assert receive(peer, 12) == b"my last word"
    assert peer.recv(1) == b""
    peer.close()
    assert live.standby.recv(1) == b""


@FAMILIES
def test_an_end_that_the_peer_has_not_acknowledged(pair: Pair, family: int) -> None:
    peer, app = pair.connect(family)
    with pair.peer_hears_nothing():
        app.sendall(b"my last word")
        app.shutdown(socket.SHUT_WR)
        live = pair.protect(peer, app)
        live.are("ESTABLISHED", "FIN_WAIT1", "FIN_WAIT1")
        live.fail_over()
        live.went_on("ESTABLISHED", "FIN_WAIT1")
    assert receive(peer, 12) == b"my last word"
    assert peer.recv(1) == b""
    live.went_on("CLOSE_WAIT", "FIN_WAIT2")
    peer.sendall(b"I hear")
    assert receive(live.standby, 6) == b"I hear"


@FAMILIES
def test_the_peer_ends_its_direction_while_shadowed(pair: Pair, family: int) -> None:
    live = pair.session(family)
    live.peer.sendall(b"the last word")
    live.peer.shutdown(socket.SHUT_WR)
    live.are("FIN_WAIT2", "CLOSE_WAIT", "CLOSE_WAIT")
    live.fail_over()
    live.went_on("FIN_WAIT2", "CLOSE_WAIT")
    assert receive(live.standby, 13) == b"the last word"
    assert live.standby.recv(1) == b""
    said = rng.randbytes(SOME_BYTES)
    live.standby.sendall(said)
    assert receive(live.peer, SOME_BYTES) == said
    live.standby.shutdown(socket.SHUT_WR)
    assert live.peer.recv(1) == b""


@FAMILIES
def test_the_application_ends_its_direction_while_shadowed(pair: Pair, family: int) -> None:
    live = pair.session(family)
    live.app.sendall(b"my last word")
    live.app.shutdown(socket.SHUT_WR)
    live.are("CLOSE_WAIT", "FIN_WAIT2", "FIN_WAIT2")
    assert receive(live.peer, 12) == b"my last word"
    live.fail_over()
    live.went_on("CLOSE_WAIT", "FIN_WAIT2")
    assert live.peer.recv(1) == b""
    said = rng.randbytes(SOME_BYTES)
    live.peer.sendall(said)
    assert receive(live.standby, SOME_BYTES) == said


@pytest.mark.parametrize("does", ["writes", "ends its direction"])
def test_a_program_that_speaks_into_its_shadow_by_the_descriptor_loses_it(
    pair: Pair, does: str
) -> None:
    """The library refuses that; whoever has the descriptor can do it (R18, F38)."""
    live = pair.session(4)
    if does == "writes":
        os.write(live.standby.fileno(), b"mine")
    else:
        socket.socket.shutdown(live.standby, socket.SHUT_WR)
    with pytest.raises(ShadowVoid, match="wrote into its shadow"):
        live.shadow.wait_taken_over(support.PATIENCE_S)
    live.session.wait_state("open", timeout=support.PATIENCE_S)
    assert "wrote into its shadow" in support.told(pair.lab, pair.other, "shadow_void")[-1]
    exchange(live.peer, live.app, SOME_BYTES)
    host, port = live.app.getsockname()
    pair.node(pair.other).offer(show_endpoint(ip_address(host), port))
    live.shadow = pair.next_shadow()
    live.session.wait_state("active", timeout=support.PATIENCE_S)
    live.fail_over()
    exchange(live.peer, live.standby, SOME_BYTES)


@FAMILIES
def test_both_end_at_once(pair: Pair, family: int) -> None:
    """The two FINs cross: simultaneous close (RFC 9293, 3.6.1)."""
    live = pair.session(family)
    with pair.peer_hears_nothing():
        live.app.sendall(b"my last word")
        live.app.shutdown(socket.SHUT_WR)
        live.are("ESTABLISHED", "FIN_WAIT1", "FIN_WAIT1")
        live.peer.shutdown(socket.SHUT_WR)
        live.are("FIN_WAIT1", "CLOSING", "CLOSING")
        live.fail_over()
        live.went_on("FIN_WAIT1", "CLOSING")
    assert receive(live.peer, 12) == b"my last word"
    assert live.peer.recv(1) == b""
    live.went_on("CLOSE", "CLOSE")  # what TCP_INFO says of a socket whose TIME_WAIT is another's


@FAMILIES
def test_a_close_ends_it_on_both_nodes(pair: Pair, family: int) -> None:
    live = pair.session(family)
    live.app.close()  # prld has a duplicate: nothing is sent yet
    live.peer.sendall(b"a")
    assert receive(live.standby, 1) == b"a"
    assert live.shadow_state() == "ESTABLISHED"
    live.session.close()
    assert live.peer.recv(1) == b""
    live.peer.close()
    live.session.wait_state("ended", timeout=support.PATIENCE_S)
    with pytest.raises(ShadowVoid, match="ended"):
        live.shadow.wait_taken_over(support.PATIENCE_S)


# -- resets


@FAMILIES
def test_a_reset_by_the_peer_is_the_end(pair: Pair, family: int) -> None:
    live = pair.session(family)
    live.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    live.peer.close()
    live.session.wait_state("ended", timeout=support.PATIENCE_S)
    with pytest.raises(ShadowVoid, match="ended"):
        live.shadow.wait_taken_over(support.PATIENCE_S)
    assert (state_of(live.app), state_of(live.standby)) == (TcpState.CLOSE, TcpState.CLOSE)


@FAMILIES
def test_a_reset_by_the_application_is_the_end(pair: Pair, family: int) -> None:
    live = pair.session(family)
    live.app.sendall(b"never mind")
    abort(live.app)
    with pytest.raises(ConnectionResetError):
        receive(live.peer, 100)
    live.session.wait_state("ended", timeout=support.PATIENCE_S)
    with pytest.raises(ShadowVoid, match="ended"):
        live.shadow.wait_taken_over(support.PATIENCE_S)


# -- urgent data


@FAMILIES
@pytest.mark.parametrize("inline", [0, 1])
def test_urgent_data_of_the_peer(pair: Pair, family: int, inline: int) -> None:
    live = pair.session(family, listener=lambda sock: set_int(sock, So.OOBINLINE, inline))
    for words, mark in ((b"before", b"!"), (b"after", b"?")):
        live.peer.sendall(words)
        live.peer.send(mark, socket.MSG_OOB)
        live.peer.sendall(b".")
        if inline:
            assert receive(live.standby, len(words) + 2) == words + mark + b"."
        else:
            assert receive(live.standby, len(words)) == words
            assert live.standby.recv(1, socket.MSG_OOB) == mark
            assert receive(live.standby, 1) == b"."
        if words == b"before":
            live.fail_over()


@FAMILIES
def test_urgent_data_of_the_application(pair: Pair, family: int) -> None:
    """Nothing of it reaches the peer before the failover: the shadow says again what is urgent."""
    live = pair.session(family)
    with pair.peer_hears_nothing():
        live.app.sendall(b"plain")
        live.app.send(b"data!", socket.MSG_OOB)
        live.app.sendall(b"plain")
        eventually("the shadow has it", lambda: queue_bytes(live.standby, Queue.UNACKED) == 15)
        live.fail_over()
    assert receive(live.peer, 9) == b"plaindata"
    assert live.peer.recv(1, socket.MSG_OOB) == b"!"
    assert receive(live.peer, 5) == b"plain"


# -- closed windows


@FAMILIES
def test_the_peer_has_closed_its_window(pair: Pair, family: int) -> None:
    live = pair.session(family, peer=lambda sock: set_int(sock, So.RCVBUF, SMALL_BUFFER_BYTES))
    said = rng.randbytes(SOME_BYTES)
    live.app.setblocking(False)
    count = live.app.send(said)
    eventually("the window is closed", lambda: tcp_info(live.app).snd_wnd == 0)
    eventually("the shadow's too", lambda: tcp_info(live.standby).snd_wnd == 0)
    handle = live.session.handle
    live.fail_over()
    taken = live.shadow.wait_taken_over(0)
    assert 0 < taken.out_bytes < count, handle
    rest = threading.Thread(target=live.standby.sendall, args=(said[taken.out_bytes :],))
    rest.start()
    assert receive(live.peer, SOME_BYTES) == said
    rest.join()


@FAMILIES
def test_our_window_is_closed(pair: Pair, family: int) -> None:
    live = pair.session(family, listener=lambda sock: set_int(sock, So.RCVBUF, SMALL_BUFFER_BYTES))
    sent = rng.randbytes(SOME_BYTES)
    live.peer.setblocking(False)
    count = live.peer.send(sent)
    eventually("the window is closed", lambda: tcp_info(live.peer).snd_wnd == 0)
    live.peer.settimeout(support.PATIENCE_S)
    live.fail_over()
    rest = threading.Thread(target=live.peer.sendall, args=(sent[count:],))
    rest.start()
    assert receive(live.standby, SOME_BYTES) == sent
    rest.join()


# -- signed sessions (RFC 2385)


@FAMILIES
@pytest.mark.parametrize("stamps", [0, 1])
def test_a_signed_session(pair: Pair, family: int, stamps: int) -> None:
    if stamps:
        live = pair.protect(*pair.forge(family, 1000, 2000, key=SECRET, stamps=True))
    else:
        live = pair.session(family, key=SECRET)
    for node, sock in ((pair.owner, live.app), (pair.other, live.standby)):
        assert pair.key_of(node, sock) == SECRET
        options = Negotiated(tcp_info(sock).options)
        assert (Negotiated.TIMESTAMPS in options) == bool(stamps)
    traffic(live, 4 * SOME_BYTES)


@FAMILIES
def test_a_signed_session_whose_window_closes_and_opens(pair: Pair, family: int) -> None:
    """The standby takes less: what the primary says of its window is lowered, and signed again."""
    live = pair.session(family, key=SECRET)
    size = 60 * SOME_BYTES  # more than the shadow's buffer takes
    with ThreadPoolExecutor(1) as executor:
        carrying = executor.submit(carry, live.peer, live.app, size)
        eventually("it is closed", lambda: pair.stats(pair.owner)["signed_again"] > 0)
        sent = receive(live.standby, size)
        assert carrying.result() == sent
    stats = pair.stats(pair.owner)
    assert stats["foreign_signatures"] == 0
    assert stats["signed_again"] > 0
    live.fail_over()
    exchange(live.peer, live.standby, SOME_BYTES)


@FAMILIES
def test_half_closed_and_signed(pair: Pair, family: int) -> None:
    peer, app = pair.connect(family, key=SECRET)
    peer.shutdown(socket.SHUT_WR)
    await_state(app, TcpState.CLOSE_WAIT)
    live = pair.protect(peer, app)
    live.are("FIN_WAIT2", "CLOSE_WAIT", "CLOSE_WAIT")
    live.fail_over()
    live.went_on("FIN_WAIT2", "CLOSE_WAIT")
    live.standby.sendall(b"an answer")
    assert receive(peer, 9) == b"an answer"


@FAMILIES
def test_no_key_is_ever_told(pair: Pair, family: int) -> None:
    live = pair.session(family, key=SECRET)
    for node in ("re0", "re1"):
        said = pair.everything_said(node, live)
        assert SECRET.decode() not in said
    live.fail_over()


@FAMILIES
def test_a_changed_key_brings_a_new_snapshot(pair: Pair, family: int) -> None:
    live = pair.session(family, key=SECRET)
    carry(live.app, live.peer, SOME_BYTES)
    for sock, other in ((live.app, live.peer), (live.peer, live.app)):
        set_key(sock, other.getsockname()[0], b"the next key")
    live.app.sendall(b"signed with it")
    assert receive(live.peer, 14) == b"signed with it"
    assert pair.stats(pair.owner)["foreign_signatures"] > 0
    live.shadow = pair.next_shadow()
    live.session.wait_state("active", timeout=support.PATIENCE_S)
    assert pair.key_of(pair.other, live.standby) == b"the next key"
    live.fail_over()
    exchange(live.peer, live.standby, SOME_BYTES)


# -- sequence numbers, options of IP


@FAMILIES
@pytest.mark.parametrize("edge", [0, 1 << 31])
def test_sequence_numbers_wrap(pair: Pair, family: int, edge: int) -> None:
    """Both streams pass the wrap, or the sign's turn, before the failover and after it."""
    start = (edge - SOME_BYTES // 2) % (1 << 32)
    live = pair.protect(*pair.forge(family, start, start + 1000))
    traffic(live, SOME_BYTES)
    live.close()
    start = (edge - SOME_BYTES - SOME_BYTES // 2) % (1 << 32)
    live = pair.protect(*pair.forge(family, start, start + 1000))
    traffic(live, SOME_BYTES)


@FAMILIES
def test_packets_with_options_of_ip(pair: Pair, family: int) -> None:
    def options(sock: socket.socket) -> None:
        if family == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x94\x04\0\0")  # router alert
        else:
            padding = b"\0\0\x01\x04\0\0\0\0"  # PadN
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, padding)

    live = pair.session(family, peer=options)
    elided = pair.link(pair.owner)["elided_packets"]
    live.peer.sendall(b"with options")
    assert receive(live.app, 12) == receive(live.standby, 12) == b"with options"
    assert pair.link(pair.owner)["elided_packets"] == elided
    traffic(live, SOME_BYTES)


# -- options of the socket


def test_options_of_the_socket_are_carried_over(pair: Pair) -> None:
    peer, app = pair.connect(4)
    linger = struct.pack("=ii", 1, 7)
    for option, value in OPTIONS:
        set_int(app, option, value)
    app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    set_bytes(app, Tcp.CONGESTION, b"reno")
    live = pair.protect(peer, app)
    traffic(live, SOME_BYTES)
    found = [(option, get_int(live.standby, option)) for option, _ in OPTIONS]
    assert found == list(OPTIONS)
    assert get_bytes(live.standby, So.LINGER, 8) == linger
    assert get_name(live.standby, Tcp.CONGESTION) == "reno"


@FAMILIES
def test_buffers_grow_by_themselves_again(pair: Pair, family: int) -> None:
    live = pair.session(family)
    live.fail_over()
    assert get_int(live.standby, So.BUF_LOCK) == 0
    exchange(live.peer, live.standby, 8 * SOME_BYTES)


# -- what is refused


def test_what_cannot_be_protected_is_refused_with_what_to_do(pair: Pair) -> None:
    peer, app = pair.connect(4)
    with pair.peer_hears_nothing():
        peer.shutdown(socket.SHUT_WR)
        await_state(app, TcpState.CLOSE_WAIT)
        app.shutdown(socket.SHUT_WR)
        with pytest.raises(NotProtectedError, match="LAST_ACK; both directions have been ended"):
            pair.protect(peer, app, patient=False)


@FAMILIES
@pytest.mark.needs("mptcp")
def test_multipath_is_refused_with_what_to_do(pair: Pair, family: int) -> None:
    peer, app = pair.connect(family, protocol=socket.IPPROTO_MPTCP)
    with pytest.raises(UsageError, match="MPTCP socket cannot be cloned; make the listener plain"):
        pair.protect(peer, app)
    peer.sendall(b"goes on")
    assert receive(app, 7) == b"goes on"


def test_another_holder_of_the_socket_that_cannot_be_stopped_is_named(pair: Pair) -> None:
    """It could meet the socket in repair mode; once it is gone, the session is protected."""
    peer, app = pair.connect(4)
    leave_unread(peer, app)
    with subprocess.Popen(
        [sys.executable, "-c", TRACED], stdout=subprocess.PIPE, pass_fds=[app.fileno()]
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"traced\n"
        with pytest.raises(NotProtectedError, match=rf"process {other.pid} \(python") as refused:
            pair.protect(peer, app, patient=False)
        assert receive(app, len(UNREAD)) == UNREAD
        leave_unread(peer, app)
        other.kill()
    assert refused.value.session is not None
    refused.value.session.wait_state("active", timeout=support.PATIENCE_S)
    pair.next_shadow()


def test_a_session_at_rest_needs_nobody_to_stand_still(pair: Pair) -> None:
    """Its socket is never in repair mode: whoever has it, too, may do what it likes."""
    peer, app = pair.connect(4)
    with subprocess.Popen(
        [sys.executable, "-c", TRACED], stdout=subprocess.PIPE, pass_fds=[app.fileno()]
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"traced\n"
        before = copied_at_rest(pair)
        live = pair.protect(peer, app)
        assert copied_at_rest(pair) > before
        assert carry(peer, app, SOME_BYTES) == receive(live.standby, SOME_BYTES)
        other.kill()
    traffic(live, SOME_BYTES)


@FAMILIES
def test_a_session_with_much_unread_is_copied_by_the_datapath(pair: Pair, family: int) -> None:
    """Its queue takes several messages; behind it the session goes on, also after a failure."""
    peer, app = pair.connect(family, listener=give_room)
    unread = rng.randbytes(MUCH_UNREAD)
    peer.sendall(unread)
    eventually("it has come", lambda: queue_bytes(app, Queue.UNREAD) == len(unread))
    before = pair.stats(pair.other)["moments_restored"]
    live = pair.protect(peer, app)
    assert pair.stats(pair.other)["moments_restored"] > before
    assert receive(app, len(unread)) == unread == receive(live.standby, len(unread))
    traffic(live, SOME_BYTES)


def give_room(listening: socket.socket) -> None:
    """For unread bytes, each of which takes up to twice its size."""
    set_int(listening, So.RCVBUFFORCE, 2 * MUCH_UNREAD)


def test_another_who_comes_by_the_socket_after_a_look_is_found(pair: Pair) -> None:
    """What a look has found is used for the sessions that come next; it is not believed blindly."""
    first, (peer, app) = pair.connect(4), pair.connect(4)
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", RECEIVES, str(theirs.fileno())]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as other:
        try:
            assert ours.recv(1) == b"t"  # it is traced
            for session in (first, (peer, app)):
                leave_unread(*session)
            pair.protect(*first)  # a look finds both sockets
            socket.send_fds(ours, [b"x"], [app.fileno()])
            assert ours.recv(1) == b"r"
            with pytest.raises(NotProtectedError, match=rf"process {other.pid} \(py") as refused:
                pair.protect(peer, app, patient=False)
        finally:
            other.kill()
    assert refused.value.session is not None
    refused.value.session.wait_state("active", timeout=support.PATIENCE_S)
    pair.next_shadow()


def copied_at_rest(pair: Pair) -> int:
    return int(pair.node(pair.owner).request({"op": "stats"})["attempts"]["at_rest"])


def leave_unread(peer: socket.socket, app: socket.socket) -> None:
    """Something that the application does not read: the session is not at rest."""
    peer.sendall(UNREAD)
    eventually("it has come", lambda: queue_bytes(app, Queue.UNREAD) == len(UNREAD))


def refused_until_detached(
    pair: Pair, peer: socket.socket, app: socket.socket, kind: Filter, words: str
) -> None:
    """A session whose socket has a filter, which stays in force."""
    with pytest.raises(ReplicationError, match=words):
        pair.protect(peer, app, patient=False)
    assert filter_of(app) == kind
    app.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    pair.protect(peer, app)
    peer.sendall(b"goes on")
    assert receive(app, 7) == b"goes on"


def test_a_socket_filter_of_the_application_is_not_replaced(pair: Pair) -> None:
    peer, app = pair.connect(4)
    # struct sock_fprog of one instruction: all of the packet is let in.
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF), 8)
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(instruction))
    app.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    refused_until_detached(pair, peer, app, Filter.CLASSIC, "socket filter")


@FAMILIES
def test_an_ebpf_filter_of_the_application_is_not_replaced(pair: Pair, family: int) -> None:
    peer, app = pair.connect(family)
    program = blackhole.load_let_in()
    app.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, program)
    os.close(program)
    refused_until_detached(pair, peer, app, Filter.EBPF, "SO_ATTACH_BPF")


@FAMILIES
def test_pending_urgent_data_is_waited_for(pair: Pair, family: int) -> None:
    peer, app = pair.connect(family)
    app.settimeout(None)  # else recv() waits for ordinary data first
    peer.send(b"!", socket.MSG_OOB)
    assert select.select([], [], [app], support.PATIENCE_S)[2]
    with pytest.raises(NotProtectedError, match="urgent data is pending") as refused:
        pair.protect(peer, app, patient=False)
    assert app.recv(1, socket.MSG_OOB) == b"!"
    peer.send(b".")
    assert app.recv(1) == b"."  # beyond the mark
    assert refused.value.session is not None
    refused.value.session.wait_state("active", timeout=support.PATIENCE_S)
    pair.next_shadow()
