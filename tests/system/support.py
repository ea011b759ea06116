"""A lab with fault_app.py on both nodes, and a peer made of plain sockets."""

import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from prl.client import Node, NotProtectedError, Session, Shadow
from prl.daemon.events.catalogue import EVENTS
from prl.demo.payload import Payload
from prl.demo.player import Cast, Deadline, Event
from prl.lab import Lab, processes, stretch
from prl.lab.cables import LanCable, LinkCable
from prl.lab.netns import Namespace
from prl.lab.topology import Topology

APP = Path(__file__).with_name("fault_app.py")
PRLCTL = str(Path(sys.executable).with_name("prlctl"))
PORT = 7000
PATIENCE_S = 20.0 * stretch.factor()
"""Far longer than anything here takes, so that a stall is told apart from a slow machine."""
POLL_S = 0.02
LOG_TAIL_LINES = 40
FAMILIES = (4, 6)
LEASE_S = 0.5
_READ_BYTES = 1 << 17
_PAUSE_S = 0.004  # after each chunk: the transfer must still be under way when the fault comes
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds
_FNV_START, _FNV_PRIME, _U32 = 0x811C9DC5, 0x01000193, 0xFFFFFFFF


def prlctl(*argv: str, timeout: float = 60.0, **run: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command; its output is text."""
    return subprocess.run(
        [PRLCTL, *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **run,
    )


def service_address(family: int) -> str:
    service = Lab("f8").topology.service
    return str(service.ipv4 if family == 4 else service.ipv6)


def listen_on(family: int, port: int = PORT) -> str:
    address = service_address(family)
    return f"{address}:{port}" if family == 4 else f"[{address}]:{port}"


def congestion_name(instance: str) -> str:
    """The name of an instance's shadow congestion control (userspace/io/kernel.c): FNV-1a."""
    value = _FNV_START
    for byte in instance.encode():
        value = (value ^ byte) * _FNV_PRIME & _U32
    return f"prl_{value:08x}"


def left_behind(topology: Topology) -> list[str]:
    """All that there still is of a lab."""
    found = [f"namespace {n}" for n in topology.namespaces.values() if Namespace(n).exists()]
    for folder in (Path("/run/prl"), Path("/sys/fs/bpf/prl")):
        found += [str(path) for path in folder.glob(f"{topology.name}*")]
    instances = [topology.instance(node) for node in topology.nodes]
    dumped = subprocess.run(
        ["bpftool", "struct_ops", "dump"], capture_output=True, text=True, check=True
    ).stdout
    found += [f"struct_ops of {i}" for i in instances if congestion_name(i) in dumped]
    for process in Path("/proc").glob("[0-9]*"):  # a longer pattern would look into each of them
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if f"/run/prl/{topology.name}/".encode() in words:
            found.append(f"process {process.name}")
    return found


def log_tails(lab: Lab) -> str:
    """What the prlds of a lab have logged last."""
    tails = []
    for node in lab.topology.nodes:
        with suppress(FileNotFoundError):
            lines = lab.state.log(node).read_text(errors="replace").splitlines()
            tails += [f"-- prld of {node.name}:", *lines[-LOG_TAIL_LINES:]]
    return "\n".join([*tails, ""])


MODE = os.environ.get("PRL_MODE", "native")
"""How the tests take input that do not name a mode: all carriers keep the same rules."""


@contextmanager
def pair(name: str, mode: str = MODE, **options: Any) -> Iterator[Lab]:
    """A lab that is up, its link and lease too, and gone without a trace afterwards."""
    lab = Lab(f"{name}-{os.getpid()}")  # several runs of the tests can go on side by side
    lab.down()
    lab.up(mode, **options)
    try:
        yield lab
    except BaseException:
        sys.stderr.write(log_tails(lab))
        raise
    finally:
        lab.down()
    deadline = time.monotonic() + 2.0  # namespaces and their sockets go in a kernel worker
    while (found := left_behind(lab.topology)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    assert not found


class Peer:
    """One connection of the peer's, made in its namespace; every wait is bounded."""

    def __init__(
        self,
        lab: Lab,
        family: int = 4,
        port: int = PORT,
        to: str = "",
        *,
        machine: str = "peer",
        own_port: int = 0,
    ) -> None:
        place = Namespace(lab.topology.member(machine).namespace)
        target = (to or service_address(family), port)
        own = ("::" if family == 6 else "", own_port)
        self.sock = place.call(lambda: socket.create_connection(target, PATIENCE_S, own))
        self.port: int = self.sock.getsockname()[1]
        self.sent = 0
        self.received = 0
        self.error: BaseException | None = None
        self._hash = hashlib.sha256()
        self._thread: threading.Thread | None = None
        self._hold_at: int | None = None
        self._held = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hold_at(None)
        self.sock.close()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.sent += len(data)

    def receive(self, limit: int = _READ_BYTES) -> bytes:
        data = self.sock.recv(limit)
        self.received += len(data)
        self._hash.update(data)
        return data

    def line(self) -> str:
        found = b""
        while not found.endswith(b"\n"):
            byte = self.receive(1)
            assert byte, f"the stream ended after {found!r}"
            found += byte
        return found.decode().rstrip("\n")

    def ask(self, words: str) -> str:
        self.send(f"say {words}\n".encode())
        return self.line()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    def sha256(self) -> str:
        return self._hash.hexdigest()

    # -- transfers, each in a thread of its own

    def hold_at(self, count: int | None) -> None:
        """A transfer waits when so many bytes were sent and received in all; None: it goes on.

        So it cannot be over before the failure in its middle has come about.
        """
        with self._held:
            self._hold_at = count
            self._held.notify_all()

    def _step(self) -> None:
        """Between two parts of a transfer."""
        with self._held:
            self._held.wait_for(
                lambda: self._hold_at is None or self.sent + self.received < self._hold_at
            )

    def upload(self, payload: Payload) -> None:
        self._start(lambda: self._upload(payload))

    def download(self) -> None:
        self._start(self._download)

    def converse(self, payload: Payload, chunk_bytes: int) -> None:
        """Send in chunks, each once the last one has come back."""
        self._start(lambda: self._converse(payload, chunk_bytes))

    def _upload(self, payload: Payload) -> None:
        while data := payload.at(self.sent, _READ_BYTES):
            self.send(data)
            time.sleep(_PAUSE_S)
            self._step()
        self.sock.shutdown(socket.SHUT_WR)
        self._expect_end()

    def _download(self) -> None:
        while self.receive():
            time.sleep(_PAUSE_S)
            self._step()

    def _converse(self, payload: Payload, chunk_bytes: int) -> None:
        while chunk := bytes(payload.at(self.sent, chunk_bytes)):
            self.send(chunk)
            while self.received < self.sent:
                assert self.receive(self.sent - self.received), "the stream ended early"
            self._step()
        self.sock.shutdown(socket.SHUT_WR)
        self._expect_end()

    def _expect_end(self) -> None:
        extra = self.receive()
        assert not extra, f"{len(extra)} bytes that nobody should have sent"

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except (OSError, AssertionError) as error:
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the transfer is over, with a proper end: no reset, no stall."""
        assert self._thread is not None
        self.hold_at(None)
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive(), f"stalled: sent {self.sent}, received {self.received}"
        assert self.error is None, f"{self.error!r} (sent {self.sent}, received {self.received})"

    def await_bytes(self, count: int) -> None:
        """Wait until so many bytes have been sent and received in all."""
        deadline = time.monotonic() + PATIENCE_S
        while self.sent + self.received < count:
            assert self.error is None, repr(self.error)
            assert time.monotonic() < deadline, f"only {self.sent + self.received} of {count}"
            time.sleep(POLL_S / 10)


class Applications:
    """fault_app.py on both nodes, or on one."""

    def __init__(
        self,
        lab: Lab,
        kind: str,
        family: int = 4,
        size: int = 0,
        *,
        nodes: Sequence[str] = ("re0", "re1"),
        listen: str = "",
        more: Sequence[str] = (),
    ) -> None:
        self.lab = lab
        where = listen or listen_on(family)
        argv = [sys.executable, str(APP), kind, "--listen", where, "--size", str(size), *more]
        self.cast = Cast(lab, argv, {node: [] for node in nodes})
        for node in nodes:
            self.expect("listening", node)

    def expect(self, event: str, node: str, timeout: float = PATIENCE_S, **facts: Any) -> Event:
        return self.cast.expect({event}, node, Deadline(timeout), **facts)

    def connect(self, family: int = 4) -> Peer:
        """A session that is protected, be it after the link came up."""
        peer = Peer(self.lab, family)
        self.expect("protected", "re0", peer=peer.port)
        self.expect("standby", "re1", peer=peer.port)
        return peer

    def heard(self, event: str, node: str) -> list[Event]:
        """What was heard so far; only what expect() read."""
        return [e for e in self.cast.heard if e["event"] == event and e["node"] == node]

    def reads_are_exact(self, node: str, payload: Payload) -> None:
        """Whatever the application has read is a part of the payload, from where it joined in."""
        for event in self.heard("read", node):
            digest, at, end = hashlib.sha256(), event["began"], event["began"] + event["bytes"]
            while at < end:
                part = payload.at(at, min(end - at, _READ_BYTES))
                digest.update(part)
                at += len(part)
            assert event["sha256"] == digest.hexdigest(), event


def both_stop(lab: Lab) -> None:
    """The owner loses its power while the standby is stopped, for longer than the lease lasts."""
    topology = lab.topology
    with LanCable(topology, topology.re0) as lan, LinkCable(topology.re0) as link:
        processes.freeze(Namespace(topology.re1.namespace))
        for cable in (lan, link):  # at once: nothing of it may reach the standby's backlog
            cable.cut()
        lab.fail("re0", "power")
    over = time.monotonic() + LEASE_S  # nobody can be asked
    eventually("the lease is over", lambda: time.monotonic() > over)
    lab.heal("re1")


def events(lab: Lab, node: str) -> list[dict[str, Any]]:
    """`prlctl -j events` of one node."""
    done = prlctl("--lab", lab.name, "--node", node, "-j", "events")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["events"]
    return found


def told(lab: Lab, node: str, kind: str) -> list[str]:
    """The texts of its events of one kind."""
    assert kind in EVENTS, f"there is no event {kind}: nothing would ever tell of it"
    return [event["text"] for event in events(lab, node) if event["event"] == kind]


def flows(lab: Lab, node: str) -> list[dict[str, Any]]:
    """`prlctl -j flow list` of one node."""
    done = prlctl("--lab", lab.name, "--node", node, "-j", "flow", "list")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["flows"]
    return found


def status(lab: Lab, node: str) -> dict[str, Any]:
    """`prlctl -j status` of one node."""
    done = prlctl("--lab", lab.name, "--node", node, "-j", "status")
    assert done.returncode in {0, 3}, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stats(lab: Lab, node: str) -> dict[str, Any]:
    """`prlctl -j stats` of one node."""
    done = prlctl("--lab", lab.name, "--node", node, "-j", "stats")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def eventually(what: str, check: Callable[[], object], timeout: float = PATIENCE_S) -> None:
    """Ask again and again: for facts of which no event tells."""
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(POLL_S)


def protect(node: Node, sock: socket.socket, data: bytes = b"") -> Session:
    """As Node.replicate(); prld tries again what takes too long on a busy machine."""
    try:
        return node.replicate(sock, data)
    except NotProtectedError as error:
        error.session.wait_state("active", timeout=PATIENCE_S)
        return error.session


def newest_shadow(node: Node) -> Shadow:
    """What the standby was given for a session that is active: not of an attempt before."""
    node.request({"op": "status"})  # all that was said before has been heard then
    shadow = node.next_shadow(PATIENCE_S)
    with suppress(TimeoutError):
        while True:
            shadow = node.next_shadow(0.0)
    return shadow


@contextmanager
def capture(
    lab: Lab, interface: str, pcap: Path, expression: str, options: Sequence[str] = ()
) -> Iterator[None]:
    """tcpdump on the switch."""
    argv = ["tcpdump", "-i", interface, *options, "--immediate-mode", "-U", "-n"]
    argv += ["-w", str(pcap), expression]
    with lab.exec("lan", argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"listening on" not in process.stderr.readline():
            assert process.poll() is None, "tcpdump did not start"
        try:
            yield
        finally:
            process.terminate()
            process.communicate()


def captured(pcap: Path, since_monotonic_ns: int, expression: Sequence[str] = ()) -> list[str]:
    """The frames of a capture that came after that moment."""
    now_ns = time.monotonic_ns()
    began = time.time() - (now_ns - since_monotonic_ns) / 1e9
    argv = ["tcpdump", "-r", str(pcap), "-tt", "-n", *expression]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if float(line.split()[0]) > began]


def raw_socket(interface: str) -> socket.socket:
    """For whole frames out of an interface of this namespace."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((interface, 0))
    return sock


def send_frames(lab: Lab, member: str, frames: Sequence[bytes]) -> None:
    """Whole Ethernet frames, from a machine's LAN interface."""
    machine = lab.topology.member(member)
    place = Namespace(machine.namespace)
    with place.call(lambda: raw_socket(machine.lan.name)) as sock:
        for frame in frames:
            sock.send(frame)


def is_root() -> bool:
    return os.geteuid() == 0
