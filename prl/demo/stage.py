"""The lab of one demo: built, broken once, and removed whatever happens."""

import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from prl.control.messages import MESSAGE_MAX_BYTES, decode, encode
from prl.demo.facts import Measured
from prl.demo.player import Cast, DemoError
from prl.endpoint import show_endpoint
from prl.lab import Lab

PORT = 7000
CONTROL_TIMEOUT_S = 5.0

Narrator = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a demo is asked to show. ``size_bytes`` None: as much as suits the scenario.

    ``both``: IPv4 and IPv6 at once (sessions). ``rounds``: failures, of alternating nodes (bgp).
    ``daemon``: the BGP daemon of our nodes, behind a front; empty: a speaker of our own (bgp).
    ``routes``: each way, with such a daemon.
    """

    size_bytes: int | None = None
    family: int = 4
    mode: str = "native"
    how: str = "power"
    lab_name: str | None = None
    peer: str = "bird"
    count: int = 1000
    both: bool = False
    routed: bool = False
    rounds: int = 1
    md5: str = field(default="", repr=False)
    moves: int = 20
    daemon: str = ""
    routes: int = 1000


class Stage:
    """A lab with a scratch directory of its own, entered as a context."""

    def __init__(self, options: Options, narrate: Narrator) -> None:
        self.options = options
        self.narrate = narrate
        self.lab = Lab(options.lab_name or f"d{secrets.token_hex(3)}")
        service = self.lab.topology.service
        self.address = service.ipv4 if options.family == 4 else service.ipv6  # noqa: PLR2004
        self.failed_at_ns: int | None = None
        self._at_end: list[Callable[[], None]] = []

    def at_end(self, what: Callable[[], None]) -> None:
        """Do this once the lab is down."""
        self._at_end.append(what)

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGTERM, _interrupt_only(os.getpid()))
        self.scratch = Path(tempfile.mkdtemp(prefix="prl-demo-"))
        try:
            where = ", the peer behind a router" if self.options.routed else ""
            self.narrate(f"building lab {self.lab.name} ({self.options.mode} XDP{where})")
            self.lab.up(self.options.mode, routed=self.options.routed)
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        handlers = {
            number: signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self.lab.down()
            for what in self._at_end:
                what()
        finally:
            signal.signal(signal.SIGINT, handlers[signal.SIGINT])
            self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        signal.signal(signal.SIGTERM, self._handler)

    @property
    def endpoint(self) -> str:
        """Where the applications listen, as socat wants it, too."""
        return show_endpoint(self.address, PORT)

    @property
    def endpoints(self) -> list[str]:
        """As ``endpoint``, of every family that is asked for."""
        if not self.options.both:
            return [self.endpoint]
        service = self.lab.topology.service
        return [show_endpoint(address, PORT) for address in (service.ipv4, service.ipv6)]

    @property
    def packed_addresses(self) -> frozenset[bytes]:
        """The service addresses as packets have them."""
        service = self.lab.topology.service
        return frozenset((service.ipv4.packed, service.ipv6.packed))

    @property
    def socat_target(self) -> str:
        """The address of the applications for socat."""
        return f"TCP{self.options.family}:{self.endpoint},nodelay"

    def cast(self, kind: str, *, size_bytes: int = 0, mark_bytes: int = 0) -> Cast:
        """Start the demo's application of ``kind`` on both nodes."""
        argv = [sys.executable, "-m", "prl.demo.apps", kind, "--listen", self.endpoint]
        argv += ["--size", str(size_bytes), "--mark", str(mark_bytes)]
        own = {
            node.name: ["--progress", f"{self.progress(node.name)}"]
            for node in self.lab.topology.nodes
        }
        return Cast(self.lab, argv, own)

    def progress(self, node: str) -> Path:
        """Where the application of ``node`` notes how far it has come."""
        return self.scratch / f"{node}.progress"

    def socket(self, node: str) -> Path:
        """The control socket of the node's prld."""
        return self.lab.state.socket(self.lab.topology.node(node))

    def fail(self, node: str = "re0") -> int:
        """Let a node fail; return the time of it on CLOCK_BOOTTIME, in nanoseconds."""
        self.failed_at_ns = int(self.lab.fail(node, self.options.how) * 1e9)
        self.narrate(f"{node} fails: {self.options.how}")
        return self.failed_at_ns

    def measure_takeover(self, measured: Measured, survivor: str = "re1") -> None:
        """Ask the survivor's prld when it decided to take over and when it spoke first."""
        try:
            found = [one for one in events(self.socket(survivor)) if one["event"] == "takeover"]
        except (OSError, DemoError) as error:
            measured.troubles.append(f"{survivor} does not tell when it took over: {error}")
            return
        if found and self.failed_at_ns is not None:
            decided_ns, speaking_ns = (
                found[-1]["facts"].get(name) for name in ("decided_ns", "speaking_ns")
            )
            if decided_ns:
                measured.detect_ms = round((decided_ns - self.failed_at_ns) / 1e6, 3)
            if decided_ns and speaking_ns:
                measured.takeover_ms = round((speaking_ns - decided_ns) / 1e6, 3)


def _interrupt_only(pid: int) -> Callable[[int, object], None]:
    """A handler by which SIGTERM, too, leaves nothing behind.

    Not for forked children (pyroute2 forks and then ends one with SIGTERM): they must not unwind
    our stack, and take the lab down.
    """

    def handle(number: int, _: object) -> None:
        if os.getpid() != pid:
            os._exit(128 + number)
        raise KeyboardInterrupt

    return handle


def events(path: Path) -> list[dict[str, Any]]:
    """The event log of the prld at ``path``, oldest first.

    Raises:
        OSError: nobody answers.
        DemoError: the answer is a refusal.
    """
    found: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.settimeout(CONTROL_TIMEOUT_S)
        control.connect(str(path))
        while True:
            after = found[-1]["seq"] if found else 0
            control.send(encode({"op": "events", "id": after, "after": after}))
            answer = decode(control.recv(MESSAGE_MAX_BYTES))
            if not answer.get("ok"):
                raise DemoError(str(answer.get("error")))
            if not answer["events"]:
                return found
            found += answer["events"]
