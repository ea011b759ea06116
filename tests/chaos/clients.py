"""The peer's ends: plain sockets, each in a thread, which compare every byte that comes back.

And a stock router.
"""

import itertools
import random
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from prl.demo.player import DemoError
from prl.demo.routers import OUR_ASN, PEER_ASN, ROUTERS, Place, make_routes
from prl.kernel.tcp_info import INFO_MAX_BYTES, TcpInfo
from prl.lab import Lab
from prl.lab.netns import Namespace

CONNECT_S = 10.0
"""So long a client tries to connect: the service may have nobody for a moment."""
GIVEN_UP_S = 60.0
"""A wait for an answer that is longer is judged a hang without waiting for its end."""
BETWEEN_S = 0.01
DATAGRAM_S = 0.05
"""So long an answer to a datagram is waited for; it may be lost."""
NUMBER = struct.Struct("!Q")
ROUTES, OUR_ROUTES = 20, 3
LOOK_S = 0.2


class Client:
    """What somebody on the peer's machine has with the service.

    Attributes:
        trouble: why it has ended, "" while it goes on.
        is_wrong: other bytes came back.
        rounds: how often all that was sent has come back.
        flaps: how often its session was another one than before, of who opens the next one itself.
    """

    def __init__(self, lab: Lab, name: str, address: tuple[str, int], seed: int) -> None:
        self.name = name
        self.trouble, self.is_wrong = "", False
        self.rounds, self.flaps, self.port = 0, 0, 0
        self._place = Namespace(lab.topology.peer.namespace)
        self._address, self._chance = address, random.Random(seed)
        self._asked_at = time.monotonic()
        self._longest_s = 0.0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def longest_s(self) -> float:
        """The longest wait since it was asked last; one that lasts counts."""
        with self._changed:
            lasting = 0.0 if self.trouble else time.monotonic() - self._asked_at
            longest, self._longest_s = max(self._longest_s, lasting), 0.0
            return longest

    def goes_on(self, timeout_s: float) -> bool:
        """Wait for two more rounds; False: it has ended, or hangs."""
        with self._changed:
            wanted = self.rounds + 2
            self._changed.wait_for(lambda: self.trouble or self.rounds >= wanted, timeout_s)
            return self.rounds >= wanted

    def only_listens(self) -> bool:
        """Whether all that it has sent is acknowledged, so that it sends nothing by itself."""
        return False

    def close(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(GIVEN_UP_S)

    def _run(self) -> None:
        try:
            self._talk()
        except (OSError, EOFError, ValueError) as error:
            with self._changed:
                self.is_wrong = isinstance(error, ValueError)
                self.trouble = str(error) or repr(error)
                self._changed.notify_all()

    def _talk(self) -> None:
        """Until ``_stop`` is set. Raises ValueError: other bytes; else why it has ended."""
        raise NotImplementedError

    def _ask(self) -> None:
        """An answer is waited for from now on."""
        with self._changed:
            self._asked_at = time.monotonic()

    def _answered(self) -> None:
        """It has come."""
        with self._changed:
            self._longest_s = max(self._longest_s, time.monotonic() - self._asked_at)
            self._asked_at = time.monotonic()
            self.rounds += 1
            self._changed.notify_all()


class Stream(Client):
    """One TCP session: what it sends, of random sizes, must come back byte for byte."""

    def __init__(
        self, lab: Lab, name: str, address: tuple[str, int], seed: int, bytes_max: int
    ) -> None:
        self._bytes_max = bytes_max
        self._sock: socket.socket | None = None
        super().__init__(lab, name, address, seed)

    def only_listens(self) -> bool:
        """Whether all that it has sent is acknowledged, so that it sends nothing by itself."""
        if self._sock is None:
            return False
        try:
            raw = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_MAX_BYTES)
        except OSError:  # it has ended just now
            return False
        return TcpInfo.of(raw).unacked_segments == 0

    def close(self) -> None:
        """End it, though it may still wait for an answer."""
        self._stop.set()
        if self._sock is not None:
            with suppress(OSError):  # it has ended
                self._sock.shutdown(socket.SHUT_RDWR)
        super().close()

    def _talk(self) -> None:
        with self._connected() as sock:
            self.port = sock.getsockname()[1]
            self._sock = sock
            while not self._stop.wait(BETWEEN_S):
                said = self._chance.randbytes(self._chance.randint(1, self._bytes_max))
                self._ask()
                sock.sendall(said)
                heard = b""
                while len(heard) < len(said):
                    more = sock.recv(len(said) - len(heard))
                    if not more:
                        raise EOFError("the stream ended")
                    heard += more
                if heard != said:
                    raise ValueError("other bytes came back than were sent")
                self._answered()

    def _connected(self) -> socket.socket:
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                sock = self._place.call(lambda: socket.create_connection(self._address, CONNECT_S))
            except OSError:  # nobody listens yet
                if time.monotonic() > deadline or self._stop.wait(BETWEEN_S):
                    raise
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(GIVEN_UP_S)
                return sock


class Datagrams(Client):
    """A UDP socket: an answer may be lost or come twice, but what comes was sent."""

    def _talk(self) -> None:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        with self._place.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:
            sock.connect(self._address)
            sock.settimeout(DATAGRAM_S)
            self.port = sock.getsockname()[1]
            self._ask()
            for number in itertools.count():
                if self._stop.wait(BETWEEN_S):
                    return
                with suppress(TimeoutError, ConnectionError):  # nobody is bound to it yet
                    sock.send(self._datagram(number))
                    heard = sock.recv(2048)
                    (told,) = NUMBER.unpack_from(heard)
                    if told > number or heard != self._datagram(told):
                        raise ValueError("another datagram came back than was sent")
                    self._answered()

    def _datagram(self, number: int) -> bytes:
        return NUMBER.pack(number) + bytes([number & 0xFF]) * (number * 37 % 1000)


class Router(Client):
    """BIRD: its session must stay as old as it is. What it says is asked for now and then."""

    def __init__(
        self, lab: Lab, name: str, address: tuple[str, int], seed: int, folder: Path
    ) -> None:
        lan = lab.topology.peer.lan
        local = lan.ipv6.ip if ":" in address[0] and lan.ipv6 is not None else lan.ipv4.ip
        service = lab.topology.service
        neighbour = service.ipv6 if local.version == 6 else service.ipv4
        version = local.version
        place = Place(lab, folder, local, neighbour, make_routes(version, 0, ROUTES), ())
        self._bird = ROUTERS["bird"](place)
        self.is_established = False
        super().__init__(lab, name, address, seed)

    @staticmethod
    def speaker(service: str, peer: str) -> list[str]:
        """The command of the program on both nodes."""
        argv = [sys.executable, "-m", "prl.bgp.speaker", "--local", service]
        argv += ["--asn", str(OUR_ASN), "--peer", peer, "--peer-asn", str(PEER_ASN)]
        routes = make_routes(6 if ":" in service else 4, 0xF0, OUR_ROUTES)
        return [*argv, *(word for route in routes for word in ("--announce", str(route)))]

    def longest_s(self) -> float:
        """Its tool tells nothing of single messages."""
        return 0.0

    def _talk(self) -> None:
        try:
            self._bird.start()
        except DemoError as error:
            raise OSError(str(error)) from error
        before = None
        while not self._stop.wait(LOOK_S):
            try:
                now = self._bird.view()
            except DemoError:  # its session ended while it was asked for its routes
                continue
            if self.is_established and before is not None and not now.is_as_old(before):
                self.flaps += 1
            self.is_established = now.state == "Established"
            before = now
            if self.is_established and len(now.routes) == OUR_ROUTES:
                self._answered()
