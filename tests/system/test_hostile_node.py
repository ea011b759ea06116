"""The other node is not what it should be: what it says costs the link, and nothing else (R29)."""

import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import pytest

from prl import config
from prl.bindings.facts import Message, Owner
from prl.daemon.link import hello
from prl.daemon.link.hello import ServiceState
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.lab.topology import LINK_PORT
from tests.system import support
from tests.system.support import PATIENCE_S, eventually
from tests.unit.test_wire import decode, encode

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

HEADER_BYTES = 16
LEASE_S = 0.02
_labs = itertools.count()


class Impostor:
    """Speaks for node 0, whose prld does not run."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._sending, self._end = threading.Lock(), threading.Event()
        own = config.load(lab.state.config(lab.topology.re0))
        place = Namespace(lab.topology.re0.namespace)
        target = (str(own.link.remote), LINK_PORT)
        source = (str(own.link.local), 0)
        self.sock = place.call(lambda: socket.create_connection(target, PATIENCE_S, source))
        service = own.service[0]
        said = ServiceState(
            name=service.name,
            addresses=[str(address) for address in service.addresses],
            owner=service.owner,
            state=Owner.OWNER,
            term=1,
            policy=own.policy,
        )
        greeting = hello.create(own, (said,))
        members = {"version_min": 1, "version_max": 1, "node_index": 0}
        self.send(encode("HELLO", 0, 0, members, hello.encode(greeting)))
        assert self.hear()[0] == Message.HELLO
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._beating.join(PATIENCE_S)
        self.sock.close()

    def send(self, data: bytes) -> None:
        with self._sending:
            self.sock.sendall(data)

    def _beat(self) -> None:
        """It is alive, as far as the link tells."""
        with suppress(OSError):
            while not self._end.wait(LEASE_S):
                members = {"sent_ns": time.monotonic_ns(), "echo_ns": 0, "flags": 0}
                self.send(encode("LEASE", 0, 0, members))

    def hear(self) -> tuple[int, int]:
        """Type and handle of the next message; (0, 0) when the connection has ended."""
        head = self._receive(HEADER_BYTES)
        if not head:
            return 0, 0
        whole = head + self._receive(int.from_bytes(head[4:8]) - HEADER_BYTES)
        error, message = decode(whole)
        assert error == 0
        return message.type, message.handle

    def _receive(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = b""
            with suppress(ConnectionResetError):
                more = self.sock.recv(count - len(found))
            if not more:
                return b""
            found += more
        return found


@contextmanager
def attacked() -> Iterator[Lab]:
    with support.pair(f"ho{os.getpid()}{next(_labs)}", start_prld=False, plain_link=True) as lab:
        lab._start_prld(lab.topology.re1)
        yield lab


def ask(lab: Lab, *argv: str) -> dict[str, Any]:
    """The answer of node 1's prld."""
    done = support.prlctl("--lab", lab.name, "--node", "re1", "-j", *argv)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


MESSAGES, BATCH = 20_000, 256
"""So many messages that are of no flow; one pass of the datapath takes so many (DP_BATCH)."""


def test_heartbeats_go_between_the_messages_of_a_burst() -> None:
    """However much waits on the link, one pass takes a part of it, and does what is due then."""
    with attacked() as lab, Impostor(lab) as node:
        eventually("the link is up", lambda: support.status(lab, "re1")["link"]["state"] != "down")
        node.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        burst = encode("FLOWCTL", 77, 0, {"space": 0}) * MESSAGES
        pid = lab.state.pid(lab.topology.re1)
        assert pid is not None
        passes = ask(lab, "stats")["datapath"]["wakeups"]
        os.kill(pid, signal.SIGSTOP)  # so that all of it is there when it is read
        try:
            node.send(burst)
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(
            "all is taken", lambda: ask(lab, "link", "show")["received"]["FLOWCTL"] == MESSAGES
        )
        assert ask(lab, "stats")["datapath"]["wakeups"] - passes >= MESSAGES // BATCH
