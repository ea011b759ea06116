"""Sessions that wait, from their handshake on, to be protected (SPEC R31, R32)."""

import fcntl
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from prl.client import Node
from prl.kernel.procfs import is_stopped
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.lab.topology import SECOND
from tests.system import support
from tests.system.serving import Serve, serving
from tests.system.support import Applications, Peer, eventually, flows, prlctl, told
from tests.system.test_instances import PEER_PORT, PLACES

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

LONG_MS, SHORT_MS = 10_000, 300
REQUEST = b"a request in the moment at which the handshake ends\n"
_SIOCOUTQ = 0x5411  # linux/sockios.h


def kernel_counts(lab: Lab, node: str) -> dict[str, int]:
    """What `prlctl stats` has of the programs in the kernel."""
    found: dict[str, int] = support.stats(lab, node)["kernel"]
    return found


def replicated_bytes(lab: Lab) -> int:
    """Of the one session that re0 has, headers and all."""
    (flow,) = flows(lab, "re0")
    done = prlctl("--lab", lab.name, "--node", "re0", "-j", "flow", "show", str(flow["handle"]))
    return int(json.loads(done.stdout)["flow"]["counters"]["replicated_bytes"])


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that the other end has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(sock, _SIOCOUTQ, bytes(4)))[0])


@contextmanager
def born(lab: Lab, family: int = 4) -> Iterator[dict[str, Serve]]:
    """`serve` on both nodes, and the first session is protected."""
    address, _, _ = support.listen_on(family).rpartition(":")
    with serving(lab, ["cat"], address=address, nodes=["re0", "re1"]) as serves:
        with Peer(lab, family) as first:
            eventually("sessions are protected", lambda: is_active(lab, first))
        eventually("it is over", lambda: not flows(lab, "re0"))
        yield serves


def is_active(lab: Lab, peer: Peer, node: str = "re0") -> bool:
    return any(
        flow["remote"].endswith(f":{peer.port}")
        and flow["role"] == "primary"
        and flow["state"] == "active"
        for flow in flows(lab, node)
    )


@contextmanager
def stopped(serve: Serve) -> Iterator[None]:
    """It accepts nothing, and has nothing protected."""
    pid = serve.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually("it is stopped", lambda: is_stopped(pid))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def requested(lab: Lab, family: int = 4) -> Iterator[Peer]:
    with Peer(lab, family) as peer:
        peer.send(REQUEST)
        yield peer


def answer(peer: Peer) -> bytes:
    found = b""
    while len(found) < len(REQUEST) and (more := peer.receive()):
        found += more
    return found


@pytest.mark.parametrize(("mode", "family"), [("native", 4), ("kernel", 6)])
def test_a_request_at_the_handshakes_end_is_replicated_and_outlives_its_host(
    mode: str, family: int
) -> None:
    with support.pair("born", mode, birth_ms=LONG_MS) as lab, born(lab, family):
        before = kernel_counts(lab, "re0")
        with requested(lab, family) as peer:
            assert answer(peer) == REQUEST
            assert is_active(lab, peer)
            assert replicated_bytes(lab) > len(REQUEST)
            counts = kernel_counts(lab, "re0")
            assert counts["births"] == before["births"] + 1
            assert counts["births_dropped"] == counts["births_late"] == 0
            lab.fail("re0", "power")
            peer.send(REQUEST)
            assert answer(peer) == REQUEST


def test_a_newborn_is_set_up_in_one_step_and_nobody_stands_still() -> None:
    with support.pair("bornonce", birth_ms=LONG_MS) as lab, born(lab):
        before = support.stats(lab, "re0")
        with requested(lab) as peer:
            assert answer(peer) == REQUEST
            assert is_active(lab, peer)
            after = support.stats(lab, "re0")
        assert after["attempts"]["at_rest"] == before["attempts"]["at_rest"] + 1
        assert after["datapath"]["moments_sent"] == before["datapath"]["moments_sent"]


def test_of_a_session_that_dies_before_it_is_protected_nothing_was_acknowledged() -> None:
    with (
        support.pair("bornlost", birth_ms=LONG_MS) as lab,
        born(lab) as serves,
        stopped(serves["re0"]),
        requested(lab) as peer,
    ):
        eventually("it waits", lambda: kernel_counts(lab, "re0")["births"] > 1)
        assert unacknowledged(peer.sock) == len(REQUEST)
        lab.fail("re0", "power")
        with pytest.raises(ConnectionResetError):  # by the new owner, which knows nothing of it
            answer(peer)


def test_a_session_whose_protection_is_refused_goes_on_at_once() -> None:
    with support.pair("bornrefused", birth_ms=LONG_MS) as lab, born(lab) as serves:
        serves["re1"].end()
        with requested(lab) as peer:
            assert answer(peer) == REQUEST
            assert told(lab, "re0", "not_protected")
            births = kernel_counts(lab, "re0")["births"]  # or it was known before the connection
            assert kernel_counts(lab, "re0")["births_late"] == 0
        with requested(lab) as peer:  # it is known now that nobody waits there
            assert answer(peer) == REQUEST
            assert kernel_counts(lab, "re0")["births"] == births


def test_a_session_waits_for_so_long_and_no_longer() -> None:
    with (
        support.pair("bornlate", birth_ms=SHORT_MS) as lab,
        born(lab) as serves,
        ExitStack() as meanwhile,
    ):
        with stopped(serves["re0"]):
            peer = meanwhile.enter_context(requested(lab))
            eventually("it is acknowledged", lambda: not unacknowledged(peer.sock))
            eventually("that is told", lambda: told(lab, "re0", "born_unprotected"))
        assert answer(peer) == REQUEST


@pytest.mark.parametrize("node", ["re0", "re1"])
def test_a_session_does_not_wait_for_who_is_dead(node: str) -> None:
    """Without the other node it goes on; without its own, it does or is another's, and reset."""
    with support.pair("borndead", birth_ms=LONG_MS) as lab, born(lab) as serves:
        with stopped(serves["re0"]), requested(lab) as peer:
            eventually("it waits", lambda: kernel_counts(lab, "re0")["births"] > 1)
            assert unacknowledged(peer.sock) == len(REQUEST)
            lab.fail(node, "kill-prld")
            if node == "re0":
                with pytest.raises(ConnectionResetError):
                    answer(peer)
            else:
                eventually("it is acknowledged", lambda: not unacknowledged(peer.sock))
        if node == "re1":
            lab.heal("re1")


def test_a_session_that_is_opened_here_waits_as_well() -> None:
    """And by its peer's end alone: what the node opens to another one does not."""
    with support.pair("bornopened", birth_ms=LONG_MS) as lab, ExitStack() as stack:
        owner, standby = (
            stack.enter_context(Node(lab.state.socket(node))) for node in lab.topology.nodes
        )
        inside = Namespace(lab.topology.re0.namespace)
        peer_inside = Namespace(lab.topology.member("peer").namespace)
        service = str(lab.topology.service.ipv4)

        def opened(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
            def connect() -> socket.socket:
                return socket.create_connection(listener.getsockname(), source_address=(service, 0))

            ours = stack.enter_context(inside.call(connect))
            theirs = stack.enter_context(listener.accept()[0])
            theirs.sendall(REQUEST)
            return ours, theirs

        def listen() -> socket.socket:
            peer_at = str(lab.topology.member("peer").lan.ipv4.ip)
            return socket.create_server((peer_at, 0))

        known, unknown = (stack.enter_context(peer_inside.call(listen)) for _ in range(2))
        host, port = known.getsockname()
        standby.offer(f"{service}>{host}:{port}")
        eventually("it is awaited", lambda: opened(known) and kernel_counts(lab, "re0")["births"])
        before = kernel_counts(lab, "re0")["births"]
        _, other = opened(unknown)
        eventually("the other one does not", lambda: not unacknowledged(other))
        ours, theirs = opened(known)
        eventually("it waits", lambda: kernel_counts(lab, "re0")["births"] == before + 1)
        assert unacknowledged(theirs) == len(REQUEST)
        owner.replicate(ours)
        assert ours.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
        shadow = standby.next_shadow()
        lab.fail("re0", "power")
        shadow.wait_taken_over()
        assert shadow.recv(len(REQUEST)) == REQUEST
        stack.enter_context(shadow.sock).sendall(b"and on")
        assert theirs.recv(100) == b"and on"


def test_each_routing_instance_has_sessions_that_wait() -> None:
    """Of the same four ends; each node owns the services of one instance."""
    with support.pair("bornwhere", second=True, birth_ms=LONG_MS) as lab, ExitStack() as stack:
        apps = {
            instance: Applications(
                lab, "echo", more=["--device", device, "--instance", f"@{instance}"]
            )
            for instance, (_, device, _, _) in PLACES.items()
        }
        assert set(apps) == {"", SECOND}

        def connect(instance: str) -> Peer:
            machine, _, owner, standby = PLACES[instance]
            peer = stack.enter_context(Peer(lab, machine=machine, own_port=PEER_PORT))
            peer.send(REQUEST)
            apps[instance].expect("protected", owner, peer=PEER_PORT)
            apps[instance].expect("standby", standby, peer=PEER_PORT)
            return peer

        for instance in PLACES:  # by then each owner knows what is offered
            connect(instance).sock.close()
        eventually("they are over", lambda: not flows(lab, "re0") and not flows(lab, "re1"))
        before = {node: kernel_counts(lab, node) for node in ("re0", "re1")}
        peers = [connect(instance) for instance in PLACES]
        assert [answer(peer) for peer in peers] == [REQUEST, REQUEST]
        for node, counts in before.items():
            after = kernel_counts(lab, node)
            assert after["births"] == counts["births"] + 1
            assert after["births_late"] == counts["births_late"]


@pytest.mark.parametrize(("birth_ms", "births"), [(None, 1), (0, 0)])
def test_a_session_waits_unless_that_is_switched_off(birth_ms: int | None, births: int) -> None:
    with support.pair("bornnot", birth_ms=birth_ms) as lab, born(lab):
        before = kernel_counts(lab, "re0")["births"]
        with requested(lab) as peer:
            assert answer(peer) == REQUEST
            assert kernel_counts(lab, "re0")["births"] == before + births
